//! Canonical JSON in less memory, for texts of which millions are kept and few are read.
//!
//! Names of the dictionary become two bytes, longer decimal numbers and UUIDs their binary form,
//! and some words one to three bytes. The bytes that begin them occur in no canonical JSON: control
//! characters are written with escapes, and UTF-8 has none from 0xF8 on. Each stands for the same
//! text wherever it is.

use memchr::{memchr, memmem};
use uuid::Uuid;

use super::key;

/// The first byte of a name is this one plus the high byte of its number.
const NAME: u8 = 0x01;
const NAMES_END: u8 = 0x1B;
/// Sixteen bytes of a UUID follow.
const UUID: u8 = 0x1B;
/// The number of a name follows that is a whole string here.
const WORD: u8 = 0x1C;
const LITERALS: [(u8, &str); 3] = [(0x1D, "true"), (0x1E, "false"), (0x1F, "null")];
/// The first byte of a number is this one plus the count of the bytes that follow, less one.
const NUMBER: u8 = 0xF8;
/// More digits may not fit 64 bits.
const DIGITS_MAX: usize = 19;
const UUID_BYTES: usize = 16;

/// A canonical text of JSON that is kept packed. The same text always has the same form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedText(Box<[u8]>);

impl PackedText {
    /// Packs a text as this module's writers make it: no space, no control character.
    pub fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let (mut at, mut copied) = (0, 0);
        while at < bytes.len() {
            let Some((part, length)) = PackedPart::at(text, at) else {
                at += 1;
                continue;
            };
            // The comma before a name comes back with it.
            let is_listed = matches!(part, PackedPart::Name(_)) && bytes[at - 1] == b',';
            out.extend_from_slice(&bytes[copied..at - usize::from(is_listed)]);
            part.write(&bytes[at..at + length], &mut out);
            at += length;
            copied = at;
        }
        out.extend_from_slice(&bytes[copied..]);
        Self(out.as_slice().into())
    }

    /// Memory of the packed form, bytes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The text.
    pub fn unpack(&self) -> String {
        let packed = &*self.0;
        let mut out = Vec::with_capacity(packed.len() * 3);
        let (mut at, mut copied) = (0, 0);
        while let Some(byte) = packed.get(at) {
            if !matches!(*byte, NAME..=0x1F | NUMBER..) {
                at += 1;
                continue;
            }
            out.extend_from_slice(&packed[copied..at]);
            at += unpack_one(&packed[at..], &mut out).min(packed.len() - at);
            copied = at;
        }
        out.extend_from_slice(&packed[copied..]);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Whether an object in it may have a member of this name. False is certain.
    pub fn may_have(&self, name: &str) -> bool {
        let number = key::names().find(name).filter(|number| is_coded(*number));
        number.is_none_or(|number| memmem::find(&self.0, &code_of(number)).is_some())
    }
}

fn is_coded(number: u16) -> bool {
    number.to_be_bytes()[0] < NAMES_END - NAME
}

fn code_of(number: u16) -> [u8; 2] {
    let [high, low] = number.to_be_bytes();
    [NAME + high, low]
}

/// A part of a text that has a shorter form.
enum PackedPart {
    /// A name with its quotes and its colon.
    Name(u16),
    /// A string that is a name.
    Word(u16),
    Uuid(Uuid),
    /// The code of a literal.
    Literal(u8),
    /// A number, and the length of its binary form.
    Number(u64, usize),
    /// Digits, of which no shorter form is known.
    Digits,
}

impl PackedPart {
    /// The part that begins at an index, and its length.
    fn at(text: &str, at: usize) -> Option<(Self, usize)> {
        let rest = &text.as_bytes()[at..];
        match rest[0] {
            b'"' => {
                let end = 1 + memchr(b'"', &rest[1..])?;
                let string = text.get(at + 1..at + end)?;
                Self::string(string, before(text, at), rest.get(end + 1))
            }
            b't' | b'f' | b'n' => {
                let is_here = |(_, word): &&(u8, &str)| rest.starts_with(word.as_bytes());
                let (code, word) = LITERALS.iter().find(is_here)?;
                Some((Self::Literal(*code), word.len()))
            }
            b'0'..=b'9' => {
                let length = digits(rest);
                let number = shorter(&rest[..length]);
                let part =
                    number.map_or(Self::Digits, |(value, length)| Self::Number(value, length));
                Some((part, length))
            }
            _ => None,
        }
    }

    /// What is between two quotes, with the bytes around them. It may also be what is between two
    /// strings, which begins with a comma, a colon or a bracket and so is none of these.
    fn string(string: &str, before: Option<u8>, after: Option<&u8>) -> Option<(Self, usize)> {
        let quoted = string.len() + 2;
        if let Some(number) = key::names().find(string).filter(|it| is_coded(*it)) {
            if after != Some(&b':') {
                return Some((Self::Word(number), quoted));
            }
            let is_member = matches!(before, Some(b'{' | b','));
            return is_member.then_some((Self::Name(number), quoted + 1));
        }
        let is_canonical = |uuid: &Uuid| {
            let mut buffer = Uuid::encode_buffer();
            &*uuid.hyphenated().encode_lower(&mut buffer) == string
        };
        let uuid = Uuid::try_parse(string).ok().filter(is_canonical)?;
        Some((Self::Uuid(uuid), quoted))
    }

    /// Writes the shorter form of a part with this text.
    fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Name(number) => out.extend_from_slice(&code_of(*number)),
            Self::Word(number) => {
                out.push(WORD);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Uuid(uuid) => {
                out.push(UUID);
                out.extend_from_slice(uuid.as_bytes());
            }
            Self::Literal(code) => out.push(*code),
            Self::Number(value, length) => {
                out.push(NUMBER + (length - 1) as u8);
                out.extend_from_slice(&value.to_le_bytes()[..*length]);
            }
            Self::Digits => out.extend_from_slice(text),
        }
    }
}

fn before(text: &str, at: usize) -> Option<u8> {
    text.as_bytes().get(at.checked_sub(1)?).copied()
}

/// Writes what the code at the begin of packed bytes stands for. Returns the length of the code.
/// Bytes that are missing count as zero.
fn unpack_one(packed: &[u8], out: &mut Vec<u8>) -> usize {
    let byte = |at: usize| packed.get(at).copied().unwrap_or_default();
    match packed[0] {
        UUID => {
            let uuid = Uuid::from_bytes(std::array::from_fn(|at| byte(1 + at)));
            let mut buffer = Uuid::encode_buffer();
            let text = uuid.hyphenated().encode_lower(&mut buffer);
            write_quoted(text, out);
            1 + UUID_BYTES
        }
        WORD => {
            write_quoted(name_of(byte(1), byte(2)), out);
            3
        }
        first @ NUMBER.. => {
            let length = usize::from(first - NUMBER) + 1;
            let value = (0..length)
                .rev()
                .fold(0, |value: u64, at| (value << 8) | u64::from(byte(1 + at)));
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            1 + length
        }
        high => {
            let literal = LITERALS.iter().find(|(code, _)| *code == high);
            if let Some((_, word)) = literal {
                out.extend_from_slice(word.as_bytes());
                return 1;
            }
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            write_quoted(name_of(high - NAME, byte(1)), out);
            out.push(b':');
            2
        }
    }
}

fn name_of(high: u8, low: u8) -> &'static str {
    key::names().text(u16::from_be_bytes([high, low]))
}

/// Writes a text that needs no escapes as a string.
fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// How many digits a text begins with.
fn digits(bytes: &[u8]) -> usize {
    let others = bytes.iter().position(|byte| !byte.is_ascii_digit());
    others.unwrap_or(bytes.len())
}

/// The value of decimal digits and the length of its binary form, if that is shorter and has all
/// that the digits have.
fn shorter(digits: &[u8]) -> Option<(u64, usize)> {
    if digits.first() == Some(&b'0') || digits.len() > DIGITS_MAX {
        return None;
    }
    let add = |value: u64, digit: &u8| value * 10 + u64::from(digit - b'0');
    let value = digits.iter().fold(0, add);
    let length = (u64::BITS - value.leading_zeros()).div_ceil(8) as usize;
    (length + 1 < digits.len()).then_some((value, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json;

    fn canonical(text: &str) -> String {
        json::parse(text.as_bytes()).expect("JSON").to_text()
    }

    fn assert_same(text: &str) {
        let packed = PackedText::new(text);
        assert_eq!(packed.unpack(), text);
        assert!(packed.bytes() <= text.len(), "{text}");
    }

    #[test]
    fn stats_take_less_memory() {
        let text = canonical(
            r#"{"bytes_in":623456789,"dvr_enabled":true,"id":"61496e8c-87c5-4e90-a05c-d8f3dbb5ff2d",
            "input_bitrate":2523,"lifetime":64500000000,"media_info":{"tracks":[
            {"bitrate":2323,"codec":"h264","content":"video","fps":25.0,"height":1080,"width":1920},
            {"bitrate":128,"channels":2,"codec":"aac","content":"audio","sample_rate":48000}]},
            "opened_at":1700000000000,"output_bandwidth":7923,"running":true}"#,
        );
        assert_same(&text);
        let packed = PackedText::new(&text);
        assert!(
            packed.bytes() * 10 < text.len() * 6,
            "{} bytes",
            packed.bytes()
        );
    }

    #[test]
    fn what_only_looks_like_a_name_or_a_number_stays() {
        for text in [
            "",
            "{}",
            r#"{"title":"a,","name":1}"#,
            r#"{"a":"name","b":"name:","c":":name","d":"true","e":[true,false,null,"null"]}"#,
            r#"{"id":"61496e8c-87c5-4e90-a05c-d8f3dbb5ff2d"}"#,
            r#"{"id":"61496E8C-87C5-4E90-A05C-D8F3DBB5FF2D"}"#,
            r#"{"x":"{61496e8c-87c5-4e90-a05c-d8f3dbb5ff2d}"}"#,
            r#"["61496e8c87c54e90a05cd8f3dbb5ff2d","6149-6e8c-87c5-4e90-a05c-d8f3dbb5ff2d"]"#,
            r#"{"title":"{","name":","}"#,
            r#"{"title":"x\",\"name\":1"}"#,
            r#"["name","title"]"#,
            r#"{"name":"name","tags":["a,",",","title"]}"#,
            r#"{"x":"00001234567","y":0.0001234567,"z":-12345678,"e":1e100}"#,
            r#"{"x":18446744073709551615,"y":9999999999999999999,"z":99999999999999999999999}"#,
            r#"{"x":"\u0001\u001f","y":"öß\n"}"#,
            r#"{"name":{"name":{"name":[{"name":1000},{"title":256}]}}}"#,
            r#"{"n":[1000,65535,65536,16777215,16777216,4294967295,4294967296]}"#,
        ] {
            assert_same(text);
        }
    }

    #[test]
    fn members_are_found_without_unpacking() {
        let packed = PackedText::new(r#"{"id":"streaming_endpoint","title":"x"}"#);
        assert!(packed.may_have("title") && packed.may_have("of no dictionary"));
        assert!(!packed.may_have("streaming_endpoint"));
        let packed = PackedText::new(r#"{"streaming_endpoint":"http://a"}"#);
        assert!(packed.may_have("streaming_endpoint"));
    }

    const NAMES: [&str; 5] = ["name", "title", "bitrate", "stats", "x"];

    /// JSON with the names, numbers and characters that matter here.
    fn documents() -> impl Strategy<Value = String> {
        let text = || {
            let known = proptest::sample::select(&NAMES[..]).prop_map(str::to_owned);
            prop_oneof![known, r#"[a,:{}\[\]"\\0-9é\x01-]{0,12}"#]
        };
        let number = prop_oneof![any::<u64>(), 0_u64..70_000].prop_map(|it| it.to_string());
        let float = any::<f64>().prop_filter("finite", |it| it.is_finite());
        let float = float.prop_map(|it| serde_json::json!(it).to_string());
        let string = text().prop_map(|it| serde_json::json!(it).to_string());
        let leaf = prop_oneof![number, float, string, Just("null".to_owned())];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let array = proptest::collection::vec(inner.clone(), 0..6);
            let object = proptest::collection::btree_map(text(), inner, 0..6);
            prop_oneof![
                array.prop_map(|items| format!("[{}]", items.join(","))),
                object.prop_map(|members| {
                    let members = members.iter();
                    let members = members.map(|(k, v)| format!("{}:{v}", serde_json::json!(k)));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn unpacked_texts_are_what_was_packed(document in documents()) {
            assert_same(&canonical(&document));
        }

        #[test]
        fn any_bytes_are_unpacked_without_a_panic(bytes in any::<Vec<u8>>()) {
            PackedText(bytes.into()).unpack();
        }
    }
}
