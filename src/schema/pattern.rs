//! Regular expressions of the schema, matched in linear time, without a regex engine if their form
//! is simple.
//!
//! Two forms make up nearly all of them: `^(a|b)://.*$`, matched by comparing the scheme, and
//! `^[set]+$`, matched by a table. Patterns follow ECMA 262, except that `$` matches only the end
//! of the text, never before a last newline.

use regex_automata::meta::Regex;

pub(super) struct Pattern {
    pub(super) source: Box<str>,
    form: Form,
}

enum Form {
    /// One of these schemes, `://`, anything without a newline.
    Schemes(Box<[Box<str>]>),
    /// One or more bytes of this set of ASCII characters.
    Set(Box<[bool; 128]>),
    Regex(Regex),
}

impl Pattern {
    pub(super) fn compile(source: &str) -> Self {
        let form = if let Some(schemes) = plain_schemes(source) {
            Form::Schemes(schemes)
        } else if let Some(set) = plain_set(source) {
            Form::Set(set)
        } else {
            Form::Regex(
                Regex::new(source)
                    .unwrap_or_else(|error| panic!("pattern {source:?} of the schema: {error}")),
            )
        };
        Self {
            source: source.into(),
            form,
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match &self.form {
            Form::Schemes(schemes) => match text.split_once("://") {
                Some((scheme, rest)) => {
                    schemes.iter().any(|known| **known == *scheme) && !rest.contains('\n')
                }
                None => false,
            },
            Form::Set(set) => {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|byte| set.get(usize::from(byte)) == Some(&true))
            }
            Form::Regex(regex) => regex.is_match(text),
        }
    }
}

/// The schemes of texts that match `source`, one alternative after the other; `None` if its form
/// does not show them.
pub(super) fn schemes(source: &str) -> Option<Vec<Box<str>>> {
    let mut all = Vec::new();
    for alternative in alternatives(source) {
        let head = alternative.strip_prefix('^')?.split_once("://")?.0;
        all.extend(expand(head)?);
    }
    all.sort_unstable();
    all.dedup();
    Some(all.into_iter().map(String::into_boxed_str).collect())
}

/// Whether every text of this scheme without newlines matches.
pub(super) fn takes_all_of(source: &str, scheme: &str) -> bool {
    alternatives(source).iter().any(|alternative| {
        let head = alternative
            .strip_prefix('^')
            .and_then(|rest| rest.strip_suffix("://.*$"));
        head.and_then(expand)
            .is_some_and(|schemes| schemes.iter().any(|known| known == scheme))
    })
}

fn plain_schemes(source: &str) -> Option<Box<[Box<str>]>> {
    if alternatives(source)
        .iter()
        .all(|alternative| alternative.ends_with("://.*$"))
    {
        schemes(source).map(Vec::into_boxed_slice)
    } else {
        None
    }
}

fn plain_set(source: &str) -> Option<Box<[bool; 128]>> {
    let inside = source.strip_prefix("^[")?.strip_suffix("]+$")?;
    if inside.starts_with('^') || inside.contains(['\\', '[', ']', '&']) || !inside.is_ascii() {
        return None;
    }
    let mut set = Box::new([false; 128]);
    let bytes = inside.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let last = if bytes.get(at + 1) == Some(&b'-') && at + 2 < bytes.len() {
            at + 2
        } else {
            at
        };
        (bytes[at]..=bytes[last]).for_each(|byte| set[usize::from(byte)] = true);
        at = last + 1;
    }
    Some(set)
}

/// Splits at the bars outside groups and sets.
fn alternatives(source: &str) -> Vec<&str> {
    let (mut found, mut start, mut depth, mut escaped) = (Vec::new(), 0, 0_i32, false);
    for (at, byte) in source.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'|' if depth == 0 => {
                found.push(&source[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&source[start..]);
    found
}

/// All texts that match an expression of letters, digits, `-`, `(a|b)`, `[ab]` and `?`; in `(a|b)`
/// also of `\+`.
fn expand(head: &str) -> Option<Vec<String>> {
    let mut texts = vec![String::new()];
    let mut rest = head;
    while let Some(first) = rest.chars().next() {
        let (choices, used): (Vec<String>, usize) = match first {
            '(' | '[' => {
                let end = rest.find(if first == '(' { ')' } else { ']' })?;
                let inside = &rest[1..end];
                let plain = |text: &str| {
                    let is_plain =
                        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+');
                    !text.is_empty() && text.bytes().all(is_plain)
                };
                if inside.replace("\\+", "").contains('+') {
                    return None;
                }
                let choices: Vec<String> = if first == '(' {
                    inside
                        .split('|')
                        .map(|text| text.replace("\\+", "+"))
                        .collect()
                } else {
                    inside
                        .chars()
                        .filter(|letter| *letter != '-')
                        .map(String::from)
                        .collect()
                };
                let simple = choices.iter().all(|choice| plain(choice))
                    && (first == '(' || !inside.contains('-'));
                (simple.then_some(choices)?, end + 1)
            }
            letter if letter.is_ascii_alphanumeric() || letter == '-' => {
                (vec![letter.to_string()], 1)
            }
            _ => return None,
        };
        rest = &rest[used..];
        let optional = rest.starts_with('?');
        rest = rest.strip_prefix('?').unwrap_or(rest);
        let mut longer: Vec<String> = texts
            .iter()
            .flat_map(|text| choices.iter().map(move |choice| format!("{text}{choice}")))
            .collect();
        if optional {
            longer.append(&mut texts);
        }
        texts = longer;
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_forms_match_like_the_regex() {
        let sources = [
            "^fake://.*$",
            "^(hls|hlss|hls2)://.*$",
            "^rtmps?://.*$",
            "^udp[12]?://.*$",
            "^st2110?://.*$",
            "^(udp\\+mpegts|udp)://.*$",
            "^[a-zA-Z0-9_.-]+$",
            "^(a|b)://.*$|^c-d://.*$",
        ];
        let texts = [
            "",
            "fake://",
            "fake://x",
            "fake:/x",
            "hls://a\nb",
            "hls2://x",
            "hls3://x",
            "rtmp://x",
            "rtmps://x",
            "rtmpss://x",
            "udp://",
            "udp1://a",
            "udp+mpegts://a",
            "udpmpegts://a",
            "udp3://a",
            "st211://",
            "st2110://",
            "a_b.c-d9",
            "a b",
            "é",
            "a",
            "c-d://x",
            "c://x",
            "xa://y",
            "a://b://c",
            " fake://x",
            "A://x",
            "ab/",
        ];
        for source in sources {
            let pattern = Pattern::compile(source);
            assert!(
                !matches!(pattern.form, Form::Regex(_)),
                "{source} is simple"
            );
            let regex = Regex::new(source).expect("valid");
            for text in texts {
                assert_eq!(
                    pattern.matches(text),
                    regex.is_match(text),
                    "{source} {text:?}"
                );
            }
        }
    }

    #[test]
    fn other_patterns_use_the_regex() {
        for source in [
            "^udp://[0-9]+$",
            "^(udp+mpegts|udp)://.*$",
            "^.+\\.png$",
            "^[^a]+$",
            "^[a\\]]+$",
            "^[a-z]{2,3}",
            "^(a|b://.*$",
        ] {
            assert!(
                plain_schemes(source).is_none() && plain_set(source).is_none(),
                "{source}"
            );
        }
    }

    #[test]
    fn schemes_are_derived_from_a_pattern() {
        let list = |source| schemes(source).map(|all| all.join(" "));
        assert_eq!(
            list("^srt[12]?://[^:]+:[0-9]+.*$").as_deref(),
            Some("srt srt1 srt2")
        );
        assert_eq!(
            list("^(hls|hlss)://.*$|^(http|https)://.*\\.m3u8((#|\\?).*)?$").as_deref(),
            Some("hls hlss http https")
        );
        assert_eq!(list("^.*://x$"), None);
        assert_eq!(list("rtsp://x"), None);
    }
}
