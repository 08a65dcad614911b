//! The kinds of media servers, and the names that streams have there.
//!
//! A name of this API may have any printable characters; most media servers take fewer, because a
//! name is also a part of a path. [`MediaServerKind::native`] maps the names of one kind so that
//! two streams never have the same native name, and names that need nothing stay as they are.

use std::fmt::Write as _;

/// The application of streams without one, for servers that have streams in applications.
const APPLICATION: &str = "live";

/// A kind of media server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MediaServerKind {
    #[default]
    Flussonic,
    MediaMtx,
    Go2rtc,
    NodeMediaServer,
    Srs,
}

impl MediaServerKind {
    pub const ALL: [Self; 5] = [
        Self::Flussonic,
        Self::MediaMtx,
        Self::Go2rtc,
        Self::NodeMediaServer,
        Self::Srs,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flussonic => "flussonic",
            Self::MediaMtx => "mediamtx",
            Self::Go2rtc => "go2rtc",
            Self::NodeMediaServer => "node-media-server",
            Self::Srs => "srs",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether copies of archives may be placed on a server of this kind. A bridge can make a
    /// MediaMTX record, and no other streamer reads that archive.
    pub fn records(self) -> bool {
        self == Self::Flussonic
    }

    /// The schemes of the URLs that a server of this kind can pull.
    pub fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Flussonic => &[
                "m4s", "m4ss", "m4f", "m4fs", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "http",
                "https", "hls", "hlss", "tshttp", "tshttps", "udp",
            ],
            Self::MediaMtx => &[
                "rtsp",
                "rtsps",
                "rtmp",
                "rtmps",
                "srt",
                "udp",
                "udp+mpegts",
                "rtp",
                "udp+rtp",
                "http",
                "https",
                "whep",
                "wheps",
            ],
            Self::Go2rtc => &[
                "rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "tcp", "onvif", "dvrip", "whep",
                "wheps",
            ],
            Self::NodeMediaServer => &["rtsp", "rtmp"],
            Self::Srs => &[
                "rtsp",
                "rtsps",
                "rtmp",
                "rtmps",
                "http",
                "https",
                "srt",
                "udp",
                "udp+mpegts",
                "rist",
            ],
        }
    }

    /// Whether a server of this kind can pull a URL.
    pub fn takes(self, url: &str) -> bool {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let takes = |scheme: &str| {
            let mut known = self.schemes().iter();
            known.any(|known| known.eq_ignore_ascii_case(scheme))
        };
        scheme.is_some_and(takes)
    }

    /// The name that a stream has on a server of this kind. It begins with a slash where it is a
    /// path, `/app/name`. Two names never have the same native name.
    pub fn native(self, name: &str) -> String {
        match self {
            Self::Flussonic => name.to_owned(),
            Self::MediaMtx | Self::Go2rtc => native_path(name),
            Self::NodeMediaServer | Self::Srs => native_in_application(name),
        }
    }
}

/// Letters, digits and `_-/.`; no slash at the ends, no part that is empty or made of dots.
fn native_path(name: &str) -> String {
    let is_odd = |part: &str| part.bytes().all(|byte| byte == b'.');
    if name.split('/').any(is_odd) {
        return escape(name, is_plain);
    }
    escape(name, |letter| {
        is_plain(letter) || matches!(letter, '/' | '.')
    })
}

/// `/app/name`, both of letters, digits and `_-`. A name without a slash is in [`APPLICATION`], and
/// so is one that has it as its first part, as a whole.
fn native_in_application(name: &str) -> String {
    match name.split_once('/') {
        Some((first, rest)) if !first.is_empty() && !rest.is_empty() && first != APPLICATION => {
            format!("/{}/{}", escape(first, is_plain), escape(rest, is_plain))
        }
        _ => format!("/{APPLICATION}/{}", escape(name, is_plain)),
    }
}

/// Letters, digits, `_` and `-`.
pub fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-')
}

/// A name made of the characters that pass `allowed`, which has letters, digits and `_`. Another
/// character becomes `_xHEX_` of its UTF-8, and so does a `_` that would begin such a group. It can
/// be read back, so two names never have the same escaped form.
pub fn escape(name: &str, allowed: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, letter) in name.char_indices() {
        let rest = &name[at + letter.len_utf8()..];
        if allowed(letter) && !(letter == '_' && begins_group(rest, &allowed)) {
            out.push(letter);
        } else {
            push_group(&mut out, letter);
        }
    }
    out
}

fn push_group(out: &mut String, letter: char) {
    out.push_str("_x");
    for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
        write!(out, "{byte:02X}").expect("writing to a string cannot fail");
    }
    out.push('_');
}

/// Whether a `_` before `rest` would be read as the begin of a group: `x`, digits, and a `_`, which
/// is also what the next escaped character begins with. A long run of digits is none: the longest
/// character has four bytes.
fn begins_group(rest: &str, allowed: impl Fn(char) -> bool) -> bool {
    let Some(digits) = rest.strip_prefix('x') else {
        return false;
    };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    let count = digits
        .bytes()
        .take(9)
        .take_while(|byte| is_digit(*byte))
        .count();
    let end = digits[count..].chars().next();
    (1..=8).contains(&count) && end.is_some_and(|letter| letter == '_' || !allowed(letter))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// The name that [`escape`] was given.
    fn unescape(text: &str) -> String {
        let mut out: Vec<u8> = Vec::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let group = rest.strip_prefix("_x").and_then(|tail| {
                let (digits, after) = tail.split_once('_')?;
                let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
                let is_group =
                    matches!(digits.len(), 2 | 4 | 6 | 8) && digits.bytes().all(is_digit);
                is_group.then_some((digits, after))
            });
            if let Some((digits, after)) = group {
                for at in (0..digits.len()).step_by(2) {
                    let byte = u8::from_str_radix(&digits[at..at + 2], 16);
                    out.push(byte.expect("two digits"));
                }
                rest = after;
            } else {
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[letter.len_utf8()..];
            }
        }
        String::from_utf8(out).expect("groups hold whole characters")
    }

    /// Names near each other: of few characters, most of them those that groups are made of.
    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            "[_x25F/. a]{1,12}",
            "(live|a|_x2F_|_x|/|\\.|ж){1,6}",
            "\\PC{1,12}",
        ]
    }

    proptest! {
        #![proptest_config(crate::proptests::config())]

        #[test]
        fn escaped_names_read_back(name in names()) {
            let escaped = escape(&name, is_plain);
            prop_assert!(escaped.chars().all(is_plain), "{escaped}");
            prop_assert_eq!(unescape(&escaped), name);
        }

        #[test]
        fn two_streams_never_have_one_native_name(names in prop::collection::vec(names(), 2..64)) {
            for kind in MediaServerKind::ALL {
                let mut natives: HashMap<String, &str> = HashMap::new();
                for name in &names {
                    let native = kind.native(name);
                    let other = natives.insert(native, name).unwrap_or(name);
                    prop_assert_eq!(other, name.as_str());
                }
            }
        }

        #[test]
        fn native_names_have_only_characters_of_their_kind(name in names()) {
            for kind in [MediaServerKind::MediaMtx, MediaServerKind::Go2rtc] {
                let native = kind.native(&name);
                let allowed = |letter| is_plain(letter) || matches!(letter, '/' | '.');
                prop_assert!(native.chars().all(allowed), "{native}");
                let is_part = |part: &str| !matches!(part, "" | "." | "..");
                prop_assert!(native.split('/').all(is_part), "{native}");
            }
            for kind in [MediaServerKind::NodeMediaServer, MediaServerKind::Srs] {
                let native = kind.native(&name);
                let parts: Vec<&str> = native.split('/').collect();
                prop_assert_eq!(parts.len(), 3);
                prop_assert!(parts[0].is_empty() && parts[1..].iter().all(|part| {
                    !part.is_empty() && part.chars().all(is_plain)
                }), "{}", native);
            }
        }
    }

    #[test]
    fn names_that_need_nothing_stay() {
        for (kind, name, native) in [
            (MediaServerKind::Flussonic, "a b/ж", "a b/ж"),
            (MediaServerKind::MediaMtx, "cam_01", "cam_01"),
            (MediaServerKind::MediaMtx, "harbour/cam.1", "harbour/cam.1"),
            (MediaServerKind::MediaMtx, "a b", "a_x20_b"),
            (MediaServerKind::MediaMtx, "a//b", "a_x2F__x2F_b"),
            (
                MediaServerKind::MediaMtx,
                "a/../b",
                "a_x2F__x2E__x2E__x2F_b",
            ),
            (MediaServerKind::MediaMtx, "_x20_", "_x5F_x20_"),
            (MediaServerKind::MediaMtx, "_xylophone_", "_xylophone_"),
            (MediaServerKind::Go2rtc, "exec:x", "exec_x3A_x"),
            (MediaServerKind::Srs, "cam1", "/live/cam1"),
            (MediaServerKind::Srs, "harbour/cam1", "/harbour/cam1"),
            (MediaServerKind::Srs, "live/cam1", "/live/live_x2F_cam1"),
            (MediaServerKind::NodeMediaServer, "a/b/c", "/a/b_x2F_c"),
            (MediaServerKind::NodeMediaServer, "ü", "/live/_xC3BC_"),
        ] {
            assert_eq!(kind.native(name), native, "{kind:?}");
        }
    }

    #[test]
    fn kinds_have_names_and_schemes() {
        for kind in MediaServerKind::ALL {
            assert_eq!(MediaServerKind::parse(kind.as_str()), Some(kind));
            let m4s = kind == MediaServerKind::Flussonic;
            assert_eq!(kind.takes("m4s://h/a"), m4s);
            assert!(kind.takes("RTSP://h/a") && !kind.takes("exec://h") && !kind.takes("rtsp:a"));
        }
        assert_eq!(MediaServerKind::parse("Flussonic"), None);
    }
}
