//! Named formats of strings and integers.
//!
//! The reference API names formats without defining most of them. The rules here protect the later
//! users of a value: no URL or name has spaces or line ends, because they are put into requests,
//! logs and configuration files. Formats of integers that only name a unit (`seconds`,
//! `milliseconds`, `microseconds`, `bytes`, `megabytes`, `speed`, `pixels`, `ticks`,
//! `client_count`, `sort_index`, `float`) add no rule to the type.

use std::net::{IpAddr, Ipv4Addr};

use crate::json::Number;

/// A rule for the text of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) name: &'static str,
    /// Completes "Must be ...".
    pub(super) allowed: &'static str,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Url,
    AgentUrl,
    Storage,
    Name,
    Word,
    Host,
    HostWithPort,
    Uuid,
    DateTime,
    Ip,
    Ipv4,
    Iso3166,
    Base64,
    Hex,
}

/// Formats of strings; the last column is the rule.
const TEXTS: &[Format] = &[
    Format {
        name: "agent_id",
        allowed: "an agent id: printable characters without spaces",
        rule: Rule::Word,
    },
    Format {
        name: "agent_url",
        allowed: "an agent or a URL: printable characters without spaces",
        rule: Rule::AgentUrl,
    },
    Format {
        name: "auth_backend_name",
        allowed: "a name: printable characters, no slash at the ends",
        rule: Rule::Name,
    },
    Format {
        name: "base64",
        allowed: "base64 (RFC 4648)",
        rule: Rule::Base64,
    },
    Format {
        name: "date_time",
        allowed: "a date and time such as 2021-01-30T08:30:00Z (RFC 3339)",
        rule: Rule::DateTime,
    },
    Format {
        name: "dvr_name",
        allowed: "a name: printable characters, no slash at the ends",
        rule: Rule::Name,
    },
    Format {
        name: "dvr_url",
        allowed: "a path or a URL without spaces and control characters",
        rule: Rule::Storage,
    },
    Format {
        name: "event_sink_name",
        allowed: "a name: printable characters, no slash at the ends",
        rule: Rule::Name,
    },
    Format {
        name: "hexbinary",
        allowed: "pairs of hexadecimal digits",
        rule: Rule::Hex,
    },
    Format {
        name: "host_with_port",
        allowed: "ADDRESS:PORT",
        rule: Rule::HostWithPort,
    },
    Format {
        name: "input_url",
        allowed: "a URL: a scheme, then :// and an address without spaces and control characters",
        rule: Rule::Url,
    },
    Format {
        name: "ip",
        allowed: "an IPv4 or IPv6 address",
        rule: Rule::Ip,
    },
    Format {
        name: "ipv4",
        allowed: "an IPv4 address",
        rule: Rule::Ipv4,
    },
    Format {
        name: "iso3166",
        allowed: "a country code of two letters (ISO 3166-1 alpha-2)",
        rule: Rule::Iso3166,
    },
    Format {
        name: "media_name",
        allowed: "a name: printable characters, no slash at the ends",
        rule: Rule::Name,
    },
    Format {
        name: "server_name",
        allowed: "a host name: printable characters without spaces and slashes",
        rule: Rule::Host,
    },
    Format {
        name: "url",
        allowed: "a URL: a scheme, then :// and an address without spaces and control characters",
        rule: Rule::Url,
    },
    Format {
        name: "uuid",
        allowed: "a UUID: 32 hexadecimal digits in groups of 8-4-4-4-12",
        rule: Rule::Uuid,
    },
];

/// Ranges of integer formats. Bounds of a field itself take precedence.
const INTEGERS: &[(&str, u64, u64)] = &[
    ("network_port", 0, 65_535),
    ("percent", 0, 100),
    // Signed in other programs.
    ("snowflake_id", 0, i64::MAX as u64),
    ("utc", 1_000_000_000, 10_000_000_000),
    ("utc_ms", 1_000_000_000_000, 10_000_000_000_000),
];

/// The rule of a string format, if it has one.
pub(super) fn text(name: &str) -> Option<Format> {
    TEXTS.iter().find(|format| format.name == name).copied()
}

/// The range of an integer format, if it has one.
pub(super) fn range(name: &str) -> Option<(Number, Number)> {
    let (_, minimum, maximum) = INTEGERS.iter().find(|(known, ..)| *known == name)?;
    Some((Number::Unsigned(*minimum), Number::Unsigned(*maximum)))
}

impl Format {
    /// Whether the text is an address, which may contain a password.
    pub(super) fn is_address(self) -> bool {
        matches!(self.rule, Rule::Url | Rule::AgentUrl | Rule::Storage)
    }

    pub(super) fn accepts(self, text: &str) -> bool {
        match self.rule {
            Rule::Url => is_word(text) && has_scheme(text),
            // `agent://ID`, or the bare id of older configurations. A storage is a path or a URL.
            Rule::AgentUrl | Rule::Word => is_word(text),
            // Paths may contain spaces.
            Rule::Storage => {
                !text.is_empty()
                    && (if text.contains("://") {
                        is_word(text) && has_scheme(text)
                    } else {
                        is_printable(text)
                    })
            }
            Rule::Name => {
                !text.is_empty()
                    && is_printable(text)
                    && !text.starts_with('/')
                    && !text.ends_with('/')
            }
            Rule::Host => is_word(text) && !text.contains(['/', '@', '?', '#']),
            Rule::HostWithPort => text
                .rsplit_once(':')
                .is_some_and(|(host, port)| is_word(host) && port.parse::<u16>().is_ok()),
            Rule::Uuid => is_uuid(text.as_bytes()),
            Rule::DateTime => is_date_time(text),
            Rule::Ip => text.parse::<IpAddr>().is_ok(),
            Rule::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Rule::Iso3166 => text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic()),
            Rule::Base64 => is_base64(text.as_bytes()),
            Rule::Hex => {
                text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            }
        }
    }
}

/// Not empty, no spaces, no control characters.
fn is_word(text: &str) -> bool {
    let graphic = text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    // There are spaces and control characters beyond ASCII.
    graphic
        && !text.is_empty()
        && (text.is_ascii()
            || !text
                .chars()
                .any(|letter| letter.is_whitespace() || letter.is_control()))
}

fn is_printable(text: &str) -> bool {
    let printable = text.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
    printable && (text.is_ascii() || !text.chars().any(char::is_control))
}

/// RFC 3986, 3.1, followed by `://`.
fn has_scheme(text: &str) -> bool {
    let scheme = text
        .bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        .count();
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.as_bytes()[scheme..].starts_with(b"://")
}

fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                *byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

fn is_date_time(text: &str) -> bool {
    let shape = |text: &str, shape: &[u8]| {
        text.len() >= shape.len()
            && text.bytes().zip(shape).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                wanted => byte.eq_ignore_ascii_case(wanted),
            })
    };
    if !text.is_ascii() || !shape(text, b"0000-00-00T00:00:00") {
        return false;
    }
    let within = |at: usize, least: u8, most: u8| {
        text[at..at + 2]
            .parse::<u8>()
            .is_ok_and(|value| (least..=most).contains(&value))
    };
    // 60 is a leap second.
    if !(within(5, 1, 12)
        && within(8, 1, 31)
        && within(11, 0, 23)
        && within(14, 0, 59)
        && within(17, 0, 60))
    {
        return false;
    }
    let rest = &text[19..];
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return false;
            }
            &fraction[digits..]
        }
        None => rest,
    };
    rest.eq_ignore_ascii_case("z")
        || (rest.len() == 6 && (shape(rest, b"+00:00") || shape(rest, b"-00:00")))
}

/// Either alphabet; padding may be absent.
fn is_base64(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let letters = &text[..text.len() - padding];
    letters
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
        && letters.len() % 4 != 1
        && (padding == 0 || (padding <= 2 && text.len().is_multiple_of(4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_and_refuse() {
        let table: &[(&str, &[&str], &[&str])] = &[
            (
                "input_url",
                &[
                    "copy://a",
                    "publish://",
                    "mosaic2://",
                    "rtsp-udp://h/x",
                    "udp://239.0.0.1:1234",
                    "http://h/\u{e9}",
                    "srt://h:1?streamid=#!::r=a",
                ],
                &[
                    "",
                    "a",
                    "://x",
                    "1a://x",
                    "http:/x",
                    "http://a b",
                    "http://a\r\nb",
                    "http://a\0",
                    "http://a\u{7f}",
                    "http://a\u{a0}b",
                    "http://a\u{85}",
                ],
            ),
            (
                "url",
                &["http://streamer.local:8080", "https://[::1]/x"],
                &["streamer.local", "http//x", "\thttp://x"],
            ),
            (
                "agent_url",
                &["agent://1234", "1234"],
                &["", "agent://1 2", "a\n"],
            ),
            (
                "dvr_url",
                &[
                    "/storage",
                    "storage/my disk",
                    "s3://key:secret@host/bucket",
                    "@local",
                ],
                &["", "s3://a b", "a\nb", "1://x"],
            ),
            (
                "media_name",
                &["a", "sports/hd", "My stream", "канал"],
                &["", "/a", "a/", "a\nb", "a\u{7f}"],
            ),
            (
                "server_name",
                &["streamer1", "peer.example.com", "10.0.0.1:8080", "[::1]"],
                &["", "a b", "a/b", "u@h"],
            ),
            (
                "host_with_port",
                &["127.0.0.1:80", "[::1]:443", "h:0"],
                &["h", "h:", "h:65536", ":80", "h:+1 "],
            ),
            (
                "uuid",
                &["61893b15-75b2-4fcb-b4cf-ae1dd0858ea2"],
                &[
                    "",
                    "61893b1575b24fcbb4cfae1dd0858ea2",
                    "61893b15-75b2-4fcb-b4cf-ae1dd0858eag",
                ],
            ),
            (
                "date_time",
                &[
                    "2021-01-30T08:30:00.432567Z",
                    "2021-01-30t08:30:00z",
                    "2021-01-30T08:30:60+03:00",
                ],
                &[
                    "",
                    "2021-01-30",
                    "2021-13-30T08:30:00Z",
                    "2021-01-30T08:30:00",
                    "2021-01-30T08:30:00.Z",
                    "2021-01-30T08:30:00+3:00",
                ],
            ),
            ("ip", &["1.2.3.4", "::1"], &["1.2.3", "1.2.3.4/8", ""]),
            ("ipv4", &["1.2.3.4"], &["::1", "1.2.3.256"]),
            ("iso3166", &["US", "de"], &["USA", "U", "1A"]),
            (
                "base64",
                &["", "AA==", "AAA=", "AAAA", "AA", "-_+/"],
                &["A", "A===", "AAAA=", "A A=", "AA=A"],
            ),
            ("hexbinary", &["", "52010D", "ff"], &["f", "0x", "gg"]),
        ];
        for (name, good, bad) in table {
            let format = text(name).expect("a known format");
            good.iter()
                .for_each(|text| assert!(format.accepts(text), "{name} refuses {text:?}"));
            bad.iter()
                .for_each(|text| assert!(!format.accepts(text), "{name} accepts {text:?}"));
        }
    }
}
