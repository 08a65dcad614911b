//! The content of an answer: streams by name, each reduced to a hash of its canonical content, in
//! one pass and without a tree.
//!
//! The hash does not depend on spaces nor on the order of members, so that a full list, a delta and
//! another revision of the server agree about equal items. A text that is not complete JSON of the
//! expected shape is an error, never less.

use crate::seed::{Key, mix};
use std::borrow::Cow;
use xxhash_rust::xxh3::xxh3_64;

/// Deeper than anything a stream is made of.
const DEPTH_MAX: u32 = 64;
/// Operators put `edit=SEQUENCE` into a rendered field, so that the answer that carries an edit can
/// be named exactly.
const EDIT_MARK: &[u8] = b"edit=";

/// One stream of an answer.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    pub name: Cow<'a, str>,
    pub hash: u64,
    pub updated_at: Option<u64>,
    /// The item as sent.
    pub text: &'a [u8],
}

impl Item<'_> {
    pub fn key(&self) -> Key {
        Key::of(&self.name)
    }

    /// The greatest edit that this item carries.
    pub fn edit(&self) -> u64 {
        edit_of(self.text)
    }
}

/// The greatest `edit=N` in `text`, 0 if there is none.
pub fn edit_of(text: &[u8]) -> u64 {
    let mut found = 0;
    for at in memchr::memmem::find_iter(text, EDIT_MARK) {
        let digits = text[at + EDIT_MARK.len()..]
            .iter()
            .take_while(|b| b.is_ascii_digit());
        found = found.max(digits.fold(0u64, |n, b| {
            n.wrapping_mul(10).wrapping_add(u64::from(b - b'0'))
        }));
    }
    found
}

/// The members of an answer besides the streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    pub revision: Option<u64>,
    pub updated_at: Option<u64>,
    /// Names that a delta takes away; absent in a full answer.
    pub removed: Option<Vec<String>>,
    pub next: Option<String>,
    pub has_streams: bool,
}

/// Reads an answer with a `streams` array and calls `each` for every item, in the order sent.
pub fn read<'a>(body: &'a [u8], each: &mut dyn FnMut(Item<'a>)) -> Result<Envelope, &'static str> {
    let mut scan = Scan { bytes: body, at: 0 };
    let mut envelope = Envelope::default();
    scan.spaces();
    scan.object_open()?;
    while let Some(member) = scan.member()? {
        match member {
            b"streams" => {
                if envelope.has_streams {
                    return Err("two streams members");
                }
                envelope.has_streams = true;
                scan.array_open()?;
                while scan.element()? {
                    each(scan.item()?);
                }
            }
            b"removed" => {
                let mut removed = Vec::new();
                scan.array_open()?;
                while scan.element()? {
                    let raw = scan.string()?;
                    removed.push(unescape(raw)?.into_owned());
                }
                envelope.removed = Some(removed);
            }
            b"next" => {
                let (from, _) = (scan.at, scan.value(0)?);
                envelope.next = scan.text(from).map(Cow::into_owned);
            }
            b"revision" => envelope.revision = scan.integer()?,
            b"updated_at" => envelope.updated_at = scan.integer()?,
            _ => {
                scan.value(0)?;
            }
        }
    }
    scan.spaces();
    if scan.at != body.len() {
        return Err("something after the end of the answer");
    }
    if envelope.has_streams {
        Ok(envelope)
    } else {
        Err("no streams member")
    }
}

/// Name and raw value.
pub type Member<'a> = (&'a [u8], &'a [u8]);

/// The top-level members of one object: each name with the raw text of its value.
pub fn members(body: &[u8]) -> Result<Vec<Member<'_>>, &'static str> {
    let mut scan = Scan { bytes: body, at: 0 };
    let mut found = Vec::new();
    scan.spaces();
    scan.object_open()?;
    while let Some(name) = scan.member()? {
        let from = scan.at;
        scan.value(0)?;
        found.push((name, &body[from..scan.at]));
    }
    Ok(found)
}

/// A top-level integer member of one object.
pub fn integer_member(body: &[u8], name: &str) -> Option<u64> {
    let members = members(body).ok()?;
    let (_, raw) = members
        .iter()
        .find(|(member, _)| *member == name.as_bytes())?;
    std::str::from_utf8(raw).ok()?.parse().ok()
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn spaces(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, &'static str> {
        self.bytes
            .get(self.at)
            .copied()
            .ok_or("the answer ends early")
    }

    fn expect(&mut self, byte: u8) -> Result<(), &'static str> {
        if self.peek()? != byte {
            return Err("not the JSON expected here");
        }
        self.at += 1;
        Ok(())
    }

    fn object_open(&mut self) -> Result<(), &'static str> {
        self.expect(b'{')
    }

    fn array_open(&mut self) -> Result<(), &'static str> {
        self.expect(b'[')
    }

    /// The name of the next member, with the position at its value; none at the end of the object.
    fn member(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        if !self.next_of(b'{', b'}')? {
            return Ok(None);
        }
        let name = self.string()?;
        self.spaces();
        self.expect(b':')?;
        self.spaces();
        Ok(Some(name))
    }

    /// Moves to the next element; false at the end of the array.
    fn element(&mut self) -> Result<bool, &'static str> {
        self.next_of(b'[', b']')
    }

    fn next_of(&mut self, open: u8, close: u8) -> Result<bool, &'static str> {
        let first = self.at > 0 && self.bytes[self.at - 1] == open;
        self.spaces();
        let byte = self.peek()?;
        if byte == close {
            self.at += 1;
            return Ok(false);
        }
        // Behind the opening bracket there is no comma; spaces in between make the text behind a
        // nested value look the same, hence the test before skipping them.
        if !first {
            self.expect(b',')?;
            self.spaces();
        }
        Ok(true)
    }

    /// The raw text of a string, quotes excluded.
    fn string(&mut self) -> Result<&'a [u8], &'static str> {
        self.expect(b'"')?;
        let from = self.at;
        loop {
            let rest = &self.bytes[self.at..];
            let at = memchr::memchr2(b'"', b'\\', rest).ok_or("the answer ends early")?;
            self.at += at;
            if self.bytes[self.at] == b'"' {
                let text = &self.bytes[from..self.at];
                self.at += 1;
                return Ok(text);
            }
            self.at += 2;
            if self.at > self.bytes.len() {
                return Err("the answer ends early");
            }
        }
    }

    fn scalar(&mut self) -> Result<&'a [u8], &'static str> {
        let from = self.at;
        while matches!(
            self.bytes.get(self.at),
            Some(b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.')
        ) {
            self.at += 1;
        }
        if from == self.at {
            Err("not JSON")
        } else {
            Ok(&self.bytes[from..self.at])
        }
    }

    fn integer(&mut self) -> Result<Option<u64>, &'static str> {
        let raw = self.scalar()?;
        if raw == b"null" {
            return Ok(None);
        }
        let text = std::str::from_utf8(raw).map_err(|_| "not a number")?;
        text.parse().map(Some).map_err(|_| "not a number")
    }

    /// The string that begins at `from` and ends here, if it is one.
    fn text(&self, from: usize) -> Option<Cow<'a, str>> {
        let raw = &self.bytes[from..self.at];
        if raw.first() != Some(&b'"') || raw.len() < 2 {
            return None;
        }
        unescape(&raw[1..raw.len() - 1]).ok()
    }

    /// The hash of any value.
    fn value(&mut self, depth: u32) -> Result<u64, &'static str> {
        if depth > DEPTH_MAX {
            return Err("nested too deeply");
        }
        match self.peek()? {
            b'{' => {
                self.at += 1;
                let mut hash = 1u64;
                while let Some(name) = self.member()? {
                    hash = hash
                        .wrapping_add(mix(xxh3_64(name) ^ self.value(depth + 1)?.rotate_left(23)));
                }
                Ok(mix(hash))
            }
            b'[' => {
                self.at += 1;
                let mut hash = 2u64;
                while self.element()? {
                    hash = mix(hash.rotate_left(7) ^ self.value(depth + 1)?);
                }
                Ok(hash)
            }
            b'"' => Ok(xxh3_64(self.string()?).wrapping_add(3)),
            _ => Ok(xxh3_64(self.scalar()?).wrapping_add(4)),
        }
    }

    fn item(&mut self) -> Result<Item<'a>, &'static str> {
        let start = self.at;
        let (mut name, mut updated_at, mut hash) = (None, None, 1u64);
        self.object_open()?;
        while let Some(member) = self.member()? {
            let from = self.at;
            let value = self.value(1)?;
            match member {
                b"name" => name = self.text(from),
                b"updated_at" => {
                    updated_at = std::str::from_utf8(&self.bytes[from..self.at])
                        .ok()
                        .and_then(|t| t.parse().ok());
                }
                _ => (),
            }
            hash = hash.wrapping_add(mix(xxh3_64(member) ^ value.rotate_left(23)));
        }
        let name = name.ok_or("a stream without a name")?;
        Ok(Item {
            name,
            hash: mix(hash),
            updated_at,
            text: &self.bytes[start..self.at],
        })
    }
}

fn unescape(raw: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    if memchr::memchr(b'\\', raw).is_none() {
        return std::str::from_utf8(raw)
            .map(Cow::Borrowed)
            .map_err(|_| "not UTF-8");
    }
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    serde_json::from_slice::<String>(&quoted)
        .map(Cow::Owned)
        .map_err(|_| "a string that is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Vec<(String, u64, Option<u64>, u64)>;

    fn items(body: &str) -> (Envelope, Found) {
        let mut found = Vec::new();
        let envelope = read(body.as_bytes(), &mut |item| {
            found.push((
                item.name.to_string(),
                item.hash,
                item.updated_at,
                item.edit(),
            ));
        });
        (envelope.unwrap(), found)
    }

    #[test]
    fn hash_ignores_spaces_and_member_order_only() {
        let one = items(
            r#"{"streams":[{"inputs":[{"url":"a"},{"url":"b"}],"name":"x","n":1.5,"t":true}]}"#,
        )
        .1[0]
            .1;
        for same in [
            r#"{ "streams" : [ { "name" : "x", "t":true , "n":1.5,"inputs":[ { "url":"a" } , {"url":"b"}] } ] }"#,
            r#"{"timing":{"load":[1,{"a":"]}"}]},"streams":[{"t":true,"name":"x","inputs":[{"url":"a"},{"url":"b"}],"n":1.5}],"next":null}"#,
        ] {
            assert_eq!(items(same).1[0].1, one, "{same}");
        }
        for other in [
            r#"{"streams":[{"inputs":[{"url":"b"},{"url":"a"}],"name":"x","n":1.5,"t":true}]}"#,
            r#"{"streams":[{"inputs":[{"url":"a"},{"url":"b"}],"name":"x","n":1.6,"t":true}]}"#,
            r#"{"streams":[{"inputs":[{"url":"a"},{"url":"b"}],"name":"x","n":1.5,"t":"true"}]}"#,
            r#"{"streams":[{"inputs":[{"url":"a"},{"url":"b"}],"name":"x","n":1.5}]}"#,
            r#"{"streams":[{"inputs":[{"url":"a","b":{}},{"url":"b"}],"name":"x","n":1.5,"t":true}]}"#,
        ] {
            assert_ne!(items(other).1[0].1, one, "{other}");
        }
    }

    #[test]
    fn the_envelope_names_escapes_and_edits_are_read() {
        let (envelope, found) = items(
            r#"{"estimated_count":2,"next":"bmFtZQ==","removed":["a\/b","\u00e9"],"revision":18446744073709551615,
                "streams":[{"name":"q\"\\","title":"t edit=41","updated_at":17},{"name":"b","inputs":[{"url":"u?edit=7&edit=9"}]}],"updated_at":1637094994000}"#,
        );
        assert_eq!(envelope.revision, Some(u64::MAX));
        assert_eq!(envelope.updated_at, Some(1_637_094_994_000));
        assert_eq!(envelope.removed.unwrap(), ["a/b", "\u{e9}"]);
        assert_eq!(envelope.next.as_deref(), Some("bmFtZQ=="));
        assert_eq!(
            (found[0].0.as_str(), found[0].2, found[0].3),
            ("q\"\\", Some(17), 41)
        );
        assert_eq!(
            (found[1].0.as_str(), found[1].2, found[1].3),
            ("b", None, 9)
        );
        assert_eq!(
            integer_member(br#"{"a":{"updated_at":1},"updated_at":23}"#, "updated_at"),
            Some(23)
        );
    }

    #[test]
    fn every_cut_of_an_answer_is_an_error() {
        let whole = r#"{"revision":12,"streams":[{"name":"a","x":[1,2,{"y":"z\""}]},{"name":"b"}],"updated_at":3}"#;
        items(whole);
        for end in 0..whole.len() {
            assert!(
                read(&whole.as_bytes()[..end], &mut |_| ()).is_err(),
                "cut at {end}"
            );
        }
        for bad in [
            "[]",
            "{}",
            r#"{"streams":[{}]}"#,
            r#"{"streams":[{"name":1}]}"#,
            r#"{"streams":[{"name":"a"} {"name":"b"}]}"#,
            r#"{"streams":[]}}"#,
            r#"{"streams":[],"streams":[]}"#,
            r#"{"streams":null}"#,
        ] {
            assert!(read(bad.as_bytes(), &mut |_| ()).is_err(), "{bad}");
        }
    }
}
