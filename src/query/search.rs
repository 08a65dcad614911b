//! The search `q`: a text without regard to case, in the fields that a kind searches.

/// What `q` looks for: a lower-case text.
#[derive(Debug)]
pub(super) struct Needle {
    pub lower: Box<str>,
    /// The byte that is probably rarest, where it is, and its upper case. For texts in ASCII.
    rare: (usize, u8, u8),
}

/// Simple lower case: one character for one character.
fn lower(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

impl Needle {
    pub fn new(text: &str) -> Needle {
        // From frequent to rare, roughly, in names and URLs; what is not listed is rarer.
        const FREQUENT: &[u8] = b"eatsrnoimcpdl/10:.-2h3u";
        let lower: Box<str> = text.chars().map(lower).collect::<String>().into();
        let (at, byte) = lower
            .bytes()
            .enumerate()
            .max_by_key(|(_, byte)| {
                FREQUENT
                    .iter()
                    .position(|frequent| frequent == byte)
                    .unwrap_or(FREQUENT.len())
            })
            .unwrap_or((0, 0));
        Needle {
            lower,
            rare: (at, byte, byte.to_ascii_uppercase()),
        }
    }

    pub fn is_in(&self, text: &str) -> bool {
        if text.is_ascii() {
            // A needle with other letters is not found here, as it should be.
            return self.is_in_ascii(text.as_bytes());
        }
        let lower: String = text.chars().map(lower).collect();
        memchr::memmem::find(lower.as_bytes(), self.lower.as_bytes()).is_some()
    }

    fn is_in_ascii(&self, text: &[u8]) -> bool {
        let needle = self.lower.as_bytes();
        let (at, byte, upper) = self.rare;
        if text.len() < needle.len() || needle.is_empty() {
            return needle.is_empty();
        }
        // Every possible start, seen from its rarest byte.
        let places = &text[at..=at + text.len() - needle.len()];
        memchr::memchr2_iter(byte, upper, places)
            .any(|start| text[start..start + needle.len()].eq_ignore_ascii_case(needle))
    }

    /// False only if the needle is in none of the strings and URLs that this text has, canonical JSON or plain.
    pub fn may_be_in(&self, text: &str) -> bool {
        // Escapes hide quotes, backslashes and control characters; credentials may stand where a slash has to be followed by a host;
        // letters outside of ASCII may have lower case inside of it.
        let hidden = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
        !text.is_ascii()
            || self.lower.bytes().any(hidden)
            || self.is_in_ascii(text.as_bytes())
            || (self.lower.contains('/') && text.contains('@'))
    }

    pub fn is_in_url(&self, url: &str) -> bool {
        let Some((before, after)) = around_credentials(url) else {
            return self.is_in(url);
        };
        // Across the gap only what contains the slash before it can match.
        self.is_in(after)
            || self.is_in(before)
            || (self.lower.contains('/') && self.is_in(&format!("{before}{after}")))
    }
}

/// `rtsp://` and `host/path` of `rtsp://user:password@host/path`; `None` if there are no credentials.
fn around_credentials(url: &str) -> Option<(&str, &str)> {
    let start = url.find("://")? + 3;
    let authority = &url[start..];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    let at = authority.rfind('@')?;
    Some((&url[..start], &url[start + at + 1..]))
}
