//! Pairs of a url-encoded query string: decoding and encoding.

use std::borrow::Cow;

use crate::error::printable;

/// The pairs of a query string, decoded. A name without `=` has no value. The error is the name of
/// a pair that is not percent-encoded UTF-8.
pub(crate) fn pairs(
    raw: &str,
) -> impl Iterator<Item = Result<(Cow<'_, str>, Option<Cow<'_, str>>), String>> {
    raw.split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (raw_name, raw_value) = match piece.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (piece, None),
            };
            let name = decode_component(raw_name).ok_or_else(|| printable(raw_name))?;
            let value = raw_value
                .map(|value| decode_component(value).ok_or_else(|| printable(&name)))
                .transpose()?;
            Ok((name, value))
        })
}

/// `None` if a percent sign is not followed by two hexadecimal digits, or if the bytes are not
/// UTF-8.
fn decode_component(raw: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr2(b'%', b'+', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Appends a component: letters, digits, `.`, `_` and `-` unchanged, a space as `+`, all other
/// bytes as upper case `%XX`.
pub(super) fn encode_component(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}
