//! Pairs of a url-encoded query string, read and written.

use std::borrow::Cow;

/// Pairs of a url-encoded query string; a name without `=` has no value. The error is the name of the pair that is broken.
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

/// A name as it may stand in an error.
pub(super) fn printable(name: &str) -> String {
    name.chars()
        .filter(|letter| !letter.is_control())
        .take(64)
        .collect()
}

/// `None`: a percent sign without two hexadecimal digits, or bytes that are no UTF-8.
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

/// Letters, digits, `.`, `_` and `-` as they are, a space as `+`, the rest as upper case `%XX`.
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
