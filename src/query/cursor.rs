//! Cursors: a position in the order of a list, and its text.
//!
//! The outer form is the reference's: padded base64 of a url-encoded query string, one pair per sort key in alphabetical order,
//! `PATH_gt=VALUE` (`_lt` where the order goes down), `$reversed=true` for a page that is read backwards. The meaning is
//! ours: all pairs together are *one* place in the order of the request's `sort`, made unique by the key of the collection, so that nothing is
//! skipped or repeated where several documents share a value or have none. What the reference has no words for is added only when needed:
//! * a value of a class that its field does not suggest is marked: `PATH_gt$text=`, `$number=`, `$other=`; an absent value has no pair;
//! * `$revision=N` names the revision that all pages of a walk are read from;
//! * `$query=HASH` when the pairs alone do not tell which question they belong to (filters, `q`, more than two sort keys, an absent value).
//!
//! The hash covers the question and the pairs. It protects from accidents: a cursor used with another question, or damaged on the way. It is no
//! secret and need not be one: a forged cursor names a place in a list that its bearer may read from any place anyway. A cursor is taken only
//! if encoding what it means gives the same text again, so there is exactly one text for each place.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::order::{Position, SortKey, SortValue};
use super::pairs::{encode_component, pairs};

/// Longest cursor looked at: five values of which each byte takes three, and base64 on top.
pub const CURSOR_BYTES_MAX: usize = 8 * 1024;

/// The question a cursor belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The last one is the key of the collection.
    pub sort: &'a [SortKey],
    pub fingerprint: u64,
    /// Whether there are filters or a search.
    pub selective: bool,
}

/// What a cursor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub position: Position,
    /// Read towards the beginning.
    pub reversed: bool,
    pub revision: Option<u64>,
}

impl Cursor {
    pub fn encode(&self, question: &Question<'_>) -> String {
        STANDARD.encode(self.inner(question))
    }

    /// `None`: damaged, not ours, or of another question.
    pub fn decode(text: &str, question: &Question<'_>) -> Option<Cursor> {
        if text.len() > CURSOR_BYTES_MAX {
            return None;
        }
        // A client that did not percent-encode a plus sent what now reads as a space.
        let inner = STANDARD.decode(text.replace(' ', "+")).ok()?;
        let inner = std::str::from_utf8(&inner).ok()?;
        let (key_sort, value_sorts) = question.sort.split_last()?;
        let mut values = vec![SortValue::Absent; value_sorts.len()];
        let mut key = None;
        let mut reversed = false;
        let mut revision = None;
        for pair in pairs(inner) {
            let (name, value) = pair.ok()?;
            let value = value?;
            match &*name {
                "$reversed" => reversed = true,
                "$revision" => revision = Some(value.parse().ok()?),
                // Compared below, with everything else.
                "$query" => {}
                _ if operator(&name, key_sort).is_some() => {
                    key = Some(value.into_owned().into_boxed_str());
                }
                _ => {
                    let (place, mark) = value_sorts
                        .iter()
                        .enumerate()
                        .find_map(|(i, sort)| Some((i, operator(&name, sort)?)))?;
                    values[place] = parse_value(mark, value, value_sorts[place].numeric)?;
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
        (cursor.inner(question) == inner).then_some(cursor)
    }

    fn inner(&self, question: &Question<'_>) -> String {
        // The last: the class whose values need no mark. The key is always a text, whatever its field's type.
        let mut pairs: Vec<(&SortKey, &SortValue<'_>, u8)> = question
            .sort
            .iter()
            .zip(&self.position.values)
            .filter(|(_, value)| **value != SortValue::Absent)
            .map(|(sort, value)| (sort, value, if sort.numeric { 1 } else { 2 }))
            .collect();
        let key = SortValue::Text(Cow::Borrowed(&*self.position.key));
        if let Some(sort) = question.sort.last() {
            pairs.push((sort, &key, 2));
        }
        pairs.sort_by(|a, b| a.0.path.as_str().cmp(b.0.path.as_str()));
        let complete = pairs.len() == question.sort.len();

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
        if question.selective || question.sort.len() > 2 || !complete {
            let hash = xxh3_64_with_seed(out.as_bytes(), question.fingerprint);
            write!(out, "&%24query={hash:016x}").expect("a String takes everything");
        }
        out
    }
}

/// If `name` is a condition on this sort key: how its value is marked.
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
    use super::super::Path;
    use super::super::order::SORT_TEXT_BYTES_MAX;
    use super::*;
    use crate::json::Number;

    fn sort(text: &str) -> Vec<SortKey> {
        text.split(',')
            .map(|piece| {
                let path = piece.trim_start_matches('-');
                SortKey {
                    path: Path::new(path),
                    descending: piece.starts_with('-'),
                    numeric: matches!(path, "stats.bitrate" | "updated_at" | "n"),
                }
            })
            .collect()
    }

    fn question(sort: &[SortKey], selective: bool) -> Question<'_> {
        Question {
            sort,
            fingerprint: xxhash_rust::xxh3::xxh3_64(format!("{sort:?}").as_bytes()),
            selective,
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

    #[test]
    fn the_outer_form_is_that_of_the_reference() {
        let bitrate = number(2543);
        type Case<'a> = (
            &'a str,
            &'a [SortValue<'static>],
            &'a str,
            bool,
            &'a str,
            &'a str,
        );
        let cases: [Case<'_>; 9] = [
            (
                "$position",
                &[],
                "0",
                false,
                "%24position_gt=0",
                "JTI0cG9zaXRpb25fZ3Q9MA==",
            ),
            (
                "$position",
                &[],
                "1",
                false,
                "%24position_gt=1",
                "JTI0cG9zaXRpb25fZ3Q9MQ==",
            ),
            (
                "$position",
                &[],
                "1",
                true,
                "%24position_lt=1&%24reversed=true",
                "JTI0cG9zaXRpb25fbHQ9MSYlMjRyZXZlcnNlZD10cnVl",
            ),
            (
                "name",
                &[],
                "c/03",
                false,
                "name_gt=c%2F03",
                "bmFtZV9ndD1jJTJGMDM=",
            ),
            (
                "name",
                &[],
                "c/04",
                true,
                "name_lt=c%2F04&%24reversed=true",
                "bmFtZV9sdD1jJTJGMDQmJTI0cmV2ZXJzZWQ9dHJ1ZQ==",
            ),
            (
                "name",
                &[],
                "cam 1",
                false,
                "name_gt=cam+1",
                "bmFtZV9ndD1jYW0rMQ==",
            ),
            (
                "-stats.bitrate,name",
                &[bitrate],
                "cam9",
                false,
                "name_gt=cam9&stats.bitrate_lt=2543",
                "bmFtZV9ndD1jYW05JnN0YXRzLmJpdHJhdGVfbHQ9MjU0Mw==",
            ),
            (
                "-id",
                &[],
                "1234567",
                false,
                "id_lt=1234567",
                "aWRfbHQ9MTIzNDU2Nw==",
            ),
            (
                "updated_at",
                &[],
                "1637094994000",
                false,
                "updated_at_gt=1637094994000",
                "dXBkYXRlZF9hdF9ndD0xNjM3MDk0OTk0MDAw",
            ),
        ];
        for (order, values, key, reversed, inner, outer) in cases {
            let sort = sort(order);
            let question = question(&sort, false);
            let cursor = cursor(values, key, reversed);
            assert_eq!(cursor.inner(&question), inner);
            assert_eq!(cursor.encode(&question), outer);
            assert_eq!(Cursor::decode(outer, &question), Some(cursor));
        }
    }

    /// Every combination of classes of values, directions and questions.
    fn samples(mut each: impl FnMut(&Question<'_>, Cursor)) {
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
            for selective in [false, true] {
                for (i, first) in values.iter().enumerate() {
                    let second = &values[(i * 5 + 3) % values.len()];
                    let used = [first.clone(), second.clone()];
                    for reversed in [false, true] {
                        let mut cursor = cursor(&used[..sort.len() - 1], "a/b c", reversed);
                        cursor.revision = (i % 3 == 0).then_some(i as u64);
                        each(&question(&sort, selective), cursor);
                    }
                }
            }
        }
    }

    #[test]
    fn every_place_survives_its_text() {
        samples(|question, cursor| {
            let text = cursor.encode(question);
            assert!(text.len() <= CURSOR_BYTES_MAX);
            assert_eq!(
                Cursor::decode(&text, question).as_ref(),
                Some(&cursor),
                "{text}"
            );
        });
    }

    #[test]
    fn a_flipped_bit_is_noticed_or_names_another_place_of_the_same_order() {
        samples(|question, cursor| {
            let text = cursor.encode(question);
            let hashed = cursor.inner(question).contains("%24query=");
            for bit in 0..text.len() * 8 {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let Ok(damaged) = String::from_utf8(bytes) else {
                    continue;
                };
                if let Some(other) = Cursor::decode(&damaged, question) {
                    assert!(!hashed, "{damaged} was taken for {text}");
                    assert_eq!(other.encode(question), damaged);
                    assert_ne!(other, cursor);
                }
            }
        });
    }

    #[test]
    fn a_cursor_of_another_question_is_refused() {
        let by_name = sort("name");
        let by_number = sort("n,name");
        let by_number_down = sort("-n,name");
        let position = cursor(&[], "a", false);
        let plain = position.encode(&question(&by_name, false));
        assert!(Cursor::decode(&plain, &question(&by_name, true)).is_none());
        assert!(Cursor::decode(&plain, &question(&by_number, false)).is_none());
        assert!(Cursor::decode(&plain, &question(&sort("-name"), false)).is_none());
        let absent = cursor(&[SortValue::Absent], "a", false).encode(&question(&by_number, false));
        assert!(Cursor::decode(&absent, &question(&by_name, false)).is_none());
        assert!(Cursor::decode(&absent, &question(&by_number_down, false)).is_none());
        let filtered = position.encode(&question(&by_name, true));
        let other = Question {
            fingerprint: 8,
            ..question(&by_name, true)
        };
        assert!(Cursor::decode(&filtered, &other).is_none());
        assert!(Cursor::decode(&filtered, &question(&by_name, false)).is_none());
    }

    #[test]
    fn hostile_cursors_are_refused() {
        let sort = sort("n,name");
        let question = question(&sort, false);
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
            if let Some(cursor) = Cursor::decode(&text, &question) {
                assert_eq!(cursor.inner(&question), inner);
                assert_eq!(inner, "n_gt=1&name_gt=a", "this one is in order");
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
            assert!(Cursor::decode(text, &question).is_none());
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = format!("a{}", "é".repeat(SORT_TEXT_BYTES_MAX));
        let SortValue::Text(cut) = SortValue::text(Cow::Borrowed(&long)) else {
            panic!("a text stays a text");
        };
        assert_eq!(cut.len(), SORT_TEXT_BYTES_MAX - 1);
        assert!(long.starts_with(&*cut));
    }
}
