//! Cursors: any text is a position or is refused. Decoding an encoded position gives the same one,
//! and with another scope it is refused.
//!
//! The first byte chooses the order, the rest is the text; or, as the plain form within base64.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::testing::query::{Cursor, CursorScope};
use weir::testing::query::{FieldPath, SortKey};

fn key(path: &str, numeric: bool, descending: bool) -> SortKey {
    SortKey {
        path: FieldPath::new(path),
        descending,
        numeric,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&order, text)) = data.split_first() else {
        return;
    };
    let sort = match order % 3 {
        0 => vec![key("name", false, false)],
        1 => vec![key("updated_at", true, true), key("name", false, false)],
        _ => vec![
            key("title", false, false),
            key("segment_count", true, false),
            key("name", false, true),
        ],
    };
    let scope = CursorScope {
        sort: &sort,
        fingerprint: u64::from(order / 3),
        filtered: order & 64 != 0,
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let encoded = base64(text.as_bytes());
    for text in [text, &encoded] {
        let Some(cursor) = Cursor::decode(text, &scope) else {
            continue;
        };
        let again = cursor.encode(&scope);
        assert_eq!(Cursor::decode(&again, &scope), Some(cursor));
        if scope.filtered {
            let other = CursorScope {
                fingerprint: scope.fingerprint + 1,
                ..scope
            };
            assert_eq!(Cursor::decode(&again, &other), None);
        }
    }
});

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for i in 0..4 {
            text.push(if i <= three.len() {
                char::from(LETTERS[(bits >> (18 - 6 * i)) as usize & 63])
            } else {
                '='
            });
        }
    }
    text
}
