//! Cursors: a position in a list, and its text.
//!
//! The outer form is that of the reference: padded base64 of a url-encoded query string, one pair
//! per sort key in alphabetical order, `PATH_gt=VALUE` (`_lt` where the order goes down), and
//! `$reversed=true` for a page that is read backwards. Here all pairs together are *one* position
//! in the order of the request's `sort`, made unique by the key of the collection, so that nothing
//! is skipped or repeated where documents share a value or have none. Extensions of the form appear
//! only when they are needed:
//! * a value of a class that its field does not suggest is marked: `PATH_gt$text=`, `$number=`,
//!   `$other=`; an absent value has no pair;
//! * `$revision=N` names the revision that all pages of a paged snapshot are read from;
//! * `$query=HASH` if the pairs alone do not identify the query (filters, `q`, more than two sort
//!   keys, an absent value).
//!
//! The hash covers the scope and the pairs. It detects accidents: a cursor used with another query,
//! or damaged on the way. It is not a secret and need not be one: a forged cursor is a position in
//! a list that its bearer may read from any position, and it shows only what this caller may see. A
//! cursor is accepted only if encoding its meaning gives the same text again, so there is exactly
//! one text for each position.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::order::{Position, SortKey, SortValue};
use super::pairs::{encode_component, pairs};

/// Longest cursor that is parsed: five values of which each byte takes three, and base64 on top.
pub const CURSOR_BYTES_MAX: usize = 8 * 1024;

/// The query that a cursor belongs to: a cursor of another scope is refused.
#[derive(Debug, Clone, Copy)]
pub struct CursorScope<'a> {
    /// The last one is the key of the collection.
    pub sort: &'a [SortKey],
    /// Hash of everything that selects and sorts the documents.
    pub fingerprint: u64,
    /// Whether the query has filters or a search.
    pub filtered: bool,
}

/// A parsed cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub position: Position,
    /// The page is read towards the beginning of the list.
    pub reversed: bool,
    pub revision: Option<u64>,
}

impl Cursor {
    pub fn encode(&self, scope: &CursorScope<'_>) -> String {
        STANDARD.encode(self.plain(scope))
    }

    /// `None` for a cursor that is damaged, was not encoded here, or has another scope.
    pub fn decode(text: &str, scope: &CursorScope<'_>) -> Option<Cursor> {
        if text.len() > CURSOR_BYTES_MAX {
            return None;
        }
        // A plus that the client did not percent-encode was decoded as a space.
        let plain = STANDARD.decode(text.replace(' ', "+")).ok()?;
        let plain = std::str::from_utf8(&plain).ok()?;
        let (key_sort, value_sorts) = scope.sort.split_last()?;
        let mut values = vec![SortValue::Absent; value_sorts.len()];
        let mut key = None;
        let mut reversed = false;
        let mut revision = None;
        for pair in pairs(plain) {
            let (name, value) = pair.ok()?;
            let value = value?;
            match &*name {
                "$reversed" => reversed = true,
                "$revision" => revision = Some(value.parse().ok()?),
                // Compared below, with the whole text.
                "$query" => {}
                _ if operator(&name, key_sort).is_some() => {
                    key = Some(value.into_owned().into_boxed_str());
                }
                _ => {
                    let (index, mark) = value_sorts
                        .iter()
                        .enumerate()
                        .find_map(|(i, sort)| Some((i, operator(&name, sort)?)))?;
                    values[index] = parse_value(mark, value, value_sorts[index].numeric)?;
                }
            }
        }
        let cursor = Cursor {
            position: Position {
                values: values.into(),
                key: key?,
            },
            reversed,
            revision,
        };
        (cursor.plain(scope) == plain).then_some(cursor)
    }

    fn plain(&self, scope: &CursorScope<'_>) -> String {
        // The third member is the class that needs no mark. The key is always a text, whatever the
        // type of its field.
        let mut pairs: Vec<(&SortKey, &SortValue<'_>, u8)> = scope
            .sort
            .iter()
            .zip(&self.position.values)
            .filter(|(_, value)| **value != SortValue::Absent)
            .map(|(sort, value)| (sort, value, if sort.numeric { 1 } else { 2 }))
            .collect();
        let key = SortValue::Text(Cow::Borrowed(&*self.position.key));
        if let Some(sort) = scope.sort.last() {
            pairs.push((sort, &key, 2));
        }
        pairs.sort_by(|a, b| a.0.path.as_str().cmp(b.0.path.as_str()));
        let complete = pairs.len() == scope.sort.len();

        let mut out = String::with_capacity(64);
        for (i, (sort, value, unmarked)) in pairs.into_iter().enumerate() {
            if i > 0 {
                out.push('&');
            }
            encode_component(sort.path.as_str(), &mut out);
            out.push_str(if sort.descending ^ self.reversed {
                "_lt"
            } else {
                "_gt"
            });
            if value.class() != unmarked {
                out.push_str(match value {
                    SortValue::Number(_) => "%24number",
                    SortValue::Text(_) => "%24text",
                    _ => "%24other",
                });
            }
            out.push('=');
            match value {
                SortValue::Number(number) => {
                    let mut text = Vec::new();
                    number.write(&mut text);
                    encode_component(&String::from_utf8_lossy(&text), &mut out);
                }
                SortValue::Text(text) => encode_component(text, &mut out),
                SortValue::Bool(false) => out.push_str("false"),
                SortValue::Bool(true) => out.push_str("true"),
                SortValue::Structure | SortValue::Absent => out.push_str("structure"),
            }
        }
        if let Some(revision) = self.revision {
            out.push_str("&%24revision=");
            out.push_str(itoa::Buffer::new().format(revision));
        }
        if self.reversed {
            out.push_str("&%24reversed=true");
        }
        if scope.filtered || scope.sort.len() > 2 || !complete {
            let hash = xxh3_64_with_seed(out.as_bytes(), scope.fingerprint);
            write!(out, "&%24query={hash:016x}").expect("a String takes everything");
        }
        out
    }
}

/// The mark of the value, if `name` is a condition on this sort key.
fn operator<'a>(name: &'a str, sort: &SortKey) -> Option<&'a str> {
    let operator = name.strip_prefix(sort.path.as_str())?;
    operator
        .strip_prefix("_gt")
        .or_else(|| operator.strip_prefix("_lt"))
        .filter(|mark| mark.is_empty() || mark.starts_with('$'))
}

fn parse_value(mark: &str, value: Cow<'_, str>, numeric: bool) -> Option<SortValue<'static>> {
    match (mark, numeric) {
        ("$number", false) | ("", true) => crate::json::scan::number(&value).map(SortValue::Number),
        ("$text", true) | ("", false) => Some(SortValue::text(Cow::Owned(value.into_owned()))),
        ("$other", _) => match &*value {
            "false" => Some(SortValue::Bool(false)),
            "true" => Some(SortValue::Bool(true)),
            "structure" => Some(SortValue::Structure),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::FieldPath;
    use super::super::order::SORT_TEXT_BYTES_MAX;
    use super::*;
    use crate::json::Number;

    fn sort(text: &str) -> Vec<SortKey> {
        text.split(',')
            .map(|piece| {
                let path = piece.trim_start_matches('-');
                SortKey {
                    path: FieldPath::new(path),
                    descending: piece.starts_with('-'),
                    numeric: matches!(path, "stats.bitrate" | "updated_at" | "n"),
                }
            })
            .collect()
    }

    fn scope(sort: &[SortKey], filtered: bool) -> CursorScope<'_> {
        CursorScope {
            sort,
            fingerprint: xxhash_rust::xxh3::xxh3_64(format!("{sort:?}").as_bytes()),
            filtered,
        }
    }

    fn cursor(values: &[SortValue<'static>], key: &str, reversed: bool) -> Cursor {
        Cursor {
            position: Position {
                values: values.into(),
                key: key.into(),
            },
            reversed,
            revision: None,
        }
    }

    fn number(value: u64) -> SortValue<'static> {
        SortValue::Number(Number::Unsigned(value))
    }

    fn text(value: &str) -> SortValue<'static> {
        SortValue::Text(Cow::Owned(value.to_owned()))
    }

    /// Order, value of the first sort key, key, direction; text without and with base64.
    type Form<'a> = (&'a str, Option<u64>, &'a str, bool, &'a str, &'a str);

    #[rustfmt::skip]
    const FORMS: [Form<'_>; 9] = [
        ("$position", None, "0", false,
         "%24position_gt=0", "JTI0cG9zaXRpb25fZ3Q9MA=="),
        ("$position", None, "1", false,
         "%24position_gt=1", "JTI0cG9zaXRpb25fZ3Q9MQ=="),
        ("$position", None, "1", true,
         "%24position_lt=1&%24reversed=true", "JTI0cG9zaXRpb25fbHQ9MSYlMjRyZXZlcnNlZD10cnVl"),
        ("name", None, "c/03", false,
         "name_gt=c%2F03", "bmFtZV9ndD1jJTJGMDM="),
        ("name", None, "c/04", true,
         "name_lt=c%2F04&%24reversed=true", "bmFtZV9sdD1jJTJGMDQmJTI0cmV2ZXJzZWQ9dHJ1ZQ=="),
        ("name", None, "cam 1", false,
         "name_gt=cam+1", "bmFtZV9ndD1jYW0rMQ=="),
        ("-stats.bitrate,name", Some(2543), "cam9", false,
         "name_gt=cam9&stats.bitrate_lt=2543", "bmFtZV9ndD1jYW05JnN0YXRzLmJpdHJhdGVfbHQ9MjU0Mw=="),
        ("-id", None, "1234567", false,
         "id_lt=1234567", "aWRfbHQ9MTIzNDU2Nw=="),
        ("updated_at", None, "1637094994000", false,
         "updated_at_gt=1637094994000", "dXBkYXRlZF9hdF9ndD0xNjM3MDk0OTk0MDAw"),
    ];

    #[test]
    fn cursors_have_the_form_of_the_reference() {
        for (order, value, key, reversed, inner, outer) in FORMS {
            let values: Vec<_> = value.map(number).into_iter().collect();
            let sort = sort(order);
            let scope = scope(&sort, false);
            let cursor = cursor(&values, key, reversed);
            assert_eq!(cursor.plain(&scope), inner);
            assert_eq!(cursor.encode(&scope), outer);
            assert_eq!(Cursor::decode(outer, &scope), Some(cursor));
        }
    }

    /// Every combination of value classes, directions and scopes.
    fn samples(mut each: impl FnMut(&CursorScope<'_>, Cursor)) {
        let values = [
            SortValue::Absent,
            number(0),
            number(u64::MAX),
            SortValue::Number(Number::Negative(i64::MIN)),
            SortValue::Number(Number::Float(1e300)),
            SortValue::Number(Number::Float(-2.5e-7)),
            text(""),
            text("2543"),
            text("true"),
            text("a&b=c%+ \u{0}é😀"),
            text(&"é".repeat(SORT_TEXT_BYTES_MAX / 2)),
            SortValue::Bool(false),
            SortValue::Bool(true),
            SortValue::Structure,
        ];
        for order in ["n,name", "-n,-name", "s,name", "n,s,name", "s,-n,-name"] {
            let sort = sort(order);
            for filtered in [false, true] {
                for (i, first) in values.iter().enumerate() {
                    let second = &values[(i * 5 + 3) % values.len()];
                    let used = [first.clone(), second.clone()];
                    for reversed in [false, true] {
                        let mut cursor = cursor(&used[..sort.len() - 1], "a/b c", reversed);
                        cursor.revision = (i % 3 == 0).then_some(i as u64);
                        each(&scope(&sort, filtered), cursor);
                    }
                }
            }
        }
    }

    #[test]
    fn decoding_an_encoded_cursor_gives_the_same_position() {
        samples(|scope, cursor| {
            let text = cursor.encode(scope);
            assert!(text.len() <= CURSOR_BYTES_MAX);
            assert_eq!(
                Cursor::decode(&text, scope).as_ref(),
                Some(&cursor),
                "{text}"
            );
        });
    }

    #[test]
    fn damaged_cursor_is_refused_or_is_another_valid_position() {
        samples(|scope, cursor| {
            let text = cursor.encode(scope);
            let hashed = cursor.plain(scope).contains("%24query=");
            for bit in 0..text.len() * 8 {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let Ok(damaged) = String::from_utf8(bytes) else {
                    continue;
                };
                if let Some(other) = Cursor::decode(&damaged, scope) {
                    assert!(!hashed, "{damaged} was accepted for {text}");
                    assert_eq!(other.encode(scope), damaged);
                    assert_ne!(other, cursor);
                }
            }
        });
    }

    #[test]
    fn cursor_of_another_scope_is_refused() {
        let by_name = sort("name");
        let by_number = sort("n,name");
        let by_number_down = sort("-n,name");
        let position = cursor(&[], "a", false);
        let plain = position.encode(&scope(&by_name, false));
        assert!(Cursor::decode(&plain, &scope(&by_name, true)).is_none());
        assert!(Cursor::decode(&plain, &scope(&by_number, false)).is_none());
        assert!(Cursor::decode(&plain, &scope(&sort("-name"), false)).is_none());
        let absent = cursor(&[SortValue::Absent], "a", false).encode(&scope(&by_number, false));
        assert!(Cursor::decode(&absent, &scope(&by_name, false)).is_none());
        assert!(Cursor::decode(&absent, &scope(&by_number_down, false)).is_none());
        let filtered = position.encode(&scope(&by_name, true));
        let other = CursorScope {
            fingerprint: 8,
            ..scope(&by_name, true)
        };
        assert!(Cursor::decode(&filtered, &other).is_none());
        assert!(Cursor::decode(&filtered, &scope(&by_name, false)).is_none());
    }

    #[test]
    fn malformed_cursors_are_refused() {
        let sort = sort("n,name");
        let scope = scope(&sort, false);
        let long = "A".repeat(CURSOR_BYTES_MAX + 4);
        for inner in [
            "",
            "&",
            "=",
            "name_gt",
            "name_gt=a",
            "n_gt=1",
            "n_gt=1&name_gt=a",
            "name_gt=a&n_gt=x",
            "n_gt=1&name_gt=a&name_gt=b",
            "name_gt=a&n_gt=1e999",
            "name_gt=a&n_gt=%",
            "name_gt=a&n_gt=%ff",
            "name_gt=%00%ff&n_gt=1",
            "name_gt=a&n_gt=1&%24reversed=true",
            "name_lt=a&n_lt=1",
            "name_gt=a&n_gt%24text%24text=1",
            "name_gt=a&n_gt%24other=maybe",
            "name_gt=a&n_gt%24query=1",
            "name_gt=a&n_gt=1&%24query=0000000000000000",
            "name_gt=a&n_gt=1&%24revision=-1",
            "name_gt=a&n_gt=1&%24revision=99999999999999999999",
            "name_gt=a&n_gt=01",
            "$position_gt=0",
        ] {
            let text = STANDARD.encode(inner);
            if let Some(cursor) = Cursor::decode(&text, &scope) {
                assert_eq!(cursor.plain(&scope), inner);
                assert_eq!(inner, "n_gt=1&name_gt=a", "the only valid one");
            } else {
                assert_ne!(inner, "n_gt=1&name_gt=a");
            }
        }
        for text in [
            "A",
            "AAA",
            "====",
            "bmFtZV9ndD1jJTJGMDM",
            "bmFtZV9ndD1jJTJGMDN=",
            "\u{e9}",
            &long,
        ] {
            assert!(Cursor::decode(text, &scope).is_none());
        }
    }

    #[test]
    fn long_sort_texts_are_cut_at_a_character_boundary() {
        let long = format!("a{}", "é".repeat(SORT_TEXT_BYTES_MAX));
        let SortValue::Text(cut) = SortValue::text(Cow::Borrowed(&long)) else {
            panic!("a text stays a text");
        };
        assert_eq!(cut.len(), SORT_TEXT_BYTES_MAX - 1);
        assert!(long.starts_with(&*cut));
    }
}
