//! The search `q`: a text, in upper or lower case, in the fields that a kind searches.

use super::model::{Document, FieldPath, ListKind, any_leaf};
use crate::json::scan::Scalar;

/// A search text and the fields it is looked for in.
#[derive(Debug)]
pub(super) struct Search {
    pub needle: Needle,
    /// With each path whether it holds URLs.
    fields: Vec<(FieldPath, bool)>,
}

/// The search text, in lower case.
#[derive(Debug)]
pub(super) struct Needle {
    pub lower: Box<str>,
    /// Position, value and upper case of the byte that is probably rarest. For texts in ASCII.
    rare: (usize, u8, u8),
}

impl Search {
    pub fn new(text: &str, kind: &ListKind) -> Self {
        let fields = kind.search.iter();
        Self {
            needle: Needle::new(text),
            fields: fields
                .map(|field| (FieldPath::new(field.path), field.url))
                .collect(),
        }
    }

    pub fn paths(&self) -> impl Iterator<Item = &FieldPath> {
        self.fields.iter().map(|(path, _)| path)
    }

    pub fn matches<D: Document>(&self, document: &D) -> bool {
        let needle = &self.needle;
        if let Some(texts) = document.search_texts()
            && !texts.iter().any(|text| needle.may_be_in(text))
        {
            return false;
        }
        self.fields.iter().any(|(path, url)| {
            any_leaf(document, path, true, &mut |leaf| match leaf {
                Scalar::Text(text) if *url => needle.is_in_url(&text),
                Scalar::Text(text) => needle.is_in(&text),
                _ => false,
            })
        })
    }
}

/// Simple lower case: one character for one character.
fn to_lower(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

impl Needle {
    fn new(text: &str) -> Self {
        // From frequent to rare, roughly, in names and URLs; bytes that are not listed are rarer.
        const FREQUENT: &[u8] = b"eatsrnoimcpdl/10:.-2h3u";
        let lower: Box<str> = text.chars().map(to_lower).collect::<String>().into();
        let rarity = |byte: u8| FREQUENT.iter().position(|frequent| *frequent == byte);
        let (at, byte) = lower
            .bytes()
            .enumerate()
            .max_by_key(|(_, byte)| rarity(*byte).unwrap_or(FREQUENT.len()))
            .unwrap_or((0, 0));
        Self {
            lower,
            rare: (at, byte, byte.to_ascii_uppercase()),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        if text.is_ascii() {
            // A needle with letters outside of ASCII is rightly not found here.
            return self.is_in_ascii(text.as_bytes());
        }
        let lower: String = text.chars().map(to_lower).collect();
        memchr::memmem::find(lower.as_bytes(), self.lower.as_bytes()).is_some()
    }

    fn is_in_ascii(&self, text: &[u8]) -> bool {
        let needle = self.lower.as_bytes();
        let (at, byte, upper) = self.rare;
        if text.len() < needle.len() || needle.is_empty() {
            return needle.is_empty();
        }
        // Every possible start, seen from its rarest byte.
        let candidates = &text[at..=at + text.len() - needle.len()];
        memchr::memchr2_iter(byte, upper, candidates)
            .any(|start| text[start..start + needle.len()].eq_ignore_ascii_case(needle))
    }

    /// False only if the needle is in none of the strings and URLs of this text, which is canonical
    /// JSON or plain.
    fn may_be_in(&self, text: &str) -> bool {
        // Escapes hide quotes, backslashes and control characters. Asterisks may stand for a secret
        // that the text has. Credentials may stand where the needle has a slash followed by a host.
        // Letters outside of ASCII may have a lower case inside of it.
        let hidden = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\' | b'*');
        !text.is_ascii()
            || self.lower.bytes().any(hidden)
            || self.is_in_ascii(text.as_bytes())
            || (self.lower.contains('/') && text.contains('@'))
    }

    /// Leaves user and password out.
    fn is_in_url(&self, url: &str) -> bool {
        let Some((before, after)) = around_credentials(url) else {
            return self.is_in(url);
        };
        // Across the gap only a needle with the slash before it can match.
        self.is_in(after)
            || self.is_in(before)
            || (self.lower.contains('/') && self.is_in(&format!("{before}{after}")))
    }
}

/// `rtsp://` and `host/path` of `rtsp://user:password@host/path`; `None` for a URL without
/// credentials.
fn around_credentials(url: &str) -> Option<(&str, &str)> {
    let start = url.find("://")? + 3;
    let authority = &url[start..];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    let at = authority.rfind('@')?;
    Some((&url[..start], &url[start + at + 1..]))
}
