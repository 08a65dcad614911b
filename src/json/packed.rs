//! Canonical JSON in less memory, for texts of which millions are kept and few are read.
//!
//! Names of the dictionary become two bytes, and longer decimal numbers their binary form. The
//! bytes that begin them occur in no canonical JSON: control characters are written with escapes,
//! and UTF-8 has none from 0xF8 on.

use memchr::{memchr, memmem};

use super::key;

/// The first byte of a name is this one plus the high byte of its number.
const NAME: u8 = 1;
const NAMES_END: u8 = 0x20;
/// The first byte of a number is this one plus the count of the bytes that follow, less one.
const NUMBER: u8 = 0xF8;
/// More digits may not fit 64 bits.
const DIGITS_MAX: usize = 19;

/// A canonical text of JSON that is kept packed. The same text always has the same form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedText(Box<[u8]>);

impl PackedText {
    /// Packs a text as this module's writers make it: no space, no control character.
    pub fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let (mut at, mut copied) = (0, 0);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => match known_name(text, at) {
                    Some((number, end)) => {
                        // The comma before it comes back with the name.
                        let before = at - usize::from(bytes[at - 1] == b',');
                        out.extend_from_slice(&bytes[copied..before]);
                        out.extend_from_slice(&code_of(number));
                        (at, copied) = (end, end);
                    }
                    None => at += 1,
                },
                b'0'..=b'9' => {
                    let end = at + digits(&bytes[at..]);
                    if let Some((value, length)) = shorter(&bytes[at..end]) {
                        out.extend_from_slice(&bytes[copied..at]);
                        out.push(NUMBER + (length - 1) as u8);
                        out.extend_from_slice(&value.to_le_bytes()[..length]);
                        copied = end;
                    }
                    at = end;
                }
                _ => at += 1,
            }
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
        let names = key::names();
        let packed = &*self.0;
        let mut out = Vec::with_capacity(packed.len() * 3);
        let (mut at, mut copied) = (0, 0);
        while let Some(byte) = packed.get(at) {
            match *byte {
                high @ NAME..NAMES_END => {
                    out.extend_from_slice(&packed[copied..at]);
                    if out.last() != Some(&b'{') {
                        out.push(b',');
                    }
                    let low = packed.get(at + 1).copied().unwrap_or_default();
                    out.push(b'"');
                    let name = names.text(u16::from_be_bytes([high - NAME, low]));
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(b"\":");
                    at += 2;
                    copied = at;
                }
                first @ NUMBER.. => {
                    out.extend_from_slice(&packed[copied..at]);
                    let length = usize::from(first - NUMBER) + 1;
                    let end = (at + 1 + length).min(packed.len());
                    let mut value = [0; 8];
                    value[..end - at - 1].copy_from_slice(&packed[at + 1..end]);
                    let value = u64::from_le_bytes(value);
                    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
                    at = end;
                    copied = end;
                }
                _ => at += 1,
            }
        }
        out.extend_from_slice(&packed[copied.min(packed.len())..]);
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

/// The number of the name that begins with the quote at an index, and the index behind its colon.
fn known_name(text: &str, quote: usize) -> Option<(u16, usize)> {
    let bytes = text.as_bytes();
    // The quote at the end of a string like "a," is none: no name begins with what follows it.
    if !matches!(bytes.get(quote.checked_sub(1)?), Some(b'{' | b',')) {
        return None;
    }
    let begin = quote + 1;
    let end = begin + memchr(b'"', &bytes[begin..])?;
    if bytes.get(end + 1) != Some(&b':') {
        return None;
    }
    let number = key::names().find(text.get(begin..end)?)?;
    is_coded(number).then_some((number, end + 2))
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
