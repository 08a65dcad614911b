//! Bodies: the tape and the strict reader agree; accepted text is JSON for serde_json too, is
//! written canonically, and is read back as the same value, also by the scanner.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::testing::json::{Value, parse, readers, scan};
use weir::testing::schema;

fuzz_target!(|data: &[u8]| {
    let strict = readers::strict(data);
    if let Some(value) = readers::tape(data) {
        let expected = strict.as_ref().expect("the tape accepts no more than the strict reader");
        assert_eq!(&value, expected);
        assert_eq!(value.to_text(), expected.to_text());
    }
    assert_eq!(parse(data), strict);
    let value = match strict {
        Ok(value) => value,
        Err(error) => {
            assert!(error.offset <= data.len());
            return;
        }
    };
    serde_json::from_slice::<serde_json::Value>(data).expect("another parser accepts it too");
    let text = value.to_text();
    assert_eq!(parse(text.as_bytes()).expect("written here"), value);
    assert_eq!(
        parse(text.as_bytes()).expect("written here").to_text(),
        text
    );
    match &value {
        Value::Object(object) => {
            let scanned: Vec<(String, Value)> = scan::members(&text)
                .map(|(key, raw)| {
                    (
                        key.to_owned(),
                        parse(raw.as_bytes()).expect("a part of JSON"),
                    )
                })
                .collect();
            assert_eq!(scanned.len(), object.len());
            for ((_, raw), (key, expected)) in scanned.iter().zip(object.iter()) {
                assert_eq!(raw, expected, "{key}");
            }
        }
        Value::Array(items) => {
            let scanned: Vec<Value> = scan::elements(&text)
                .map(|raw| parse(raw.as_bytes()).expect("a part of JSON"))
                .collect();
            assert_eq!(&scanned, items);
        }
        _ => {}
    }
    // Pruning twice changes nothing more, and the effective form of a valid configuration contains
    // the configuration.
    for schema in [schema::stream(), schema::streamer()] {
        let mut pruned = value.clone();
        schema.prune(&mut pruned);
        let mut again = pruned.clone();
        schema.prune(&mut again);
        assert_eq!(again, pruned);
        if !matches!(pruned, Value::Object(_)) || schema.check(&pruned).is_err() {
            continue;
        }
        let effective = schema.effective(&pruned);
        assert!(parse(effective.text.as_bytes()).is_ok());
        let mut stored = Vec::new();
        schema::without_filled(
            &effective.text,
            effective.filled.iter().copied(),
            &mut stored,
        );
        assert_eq!(String::from_utf8(stored).expect("UTF-8"), pruned.to_text());
        let masked = schema.mask(&effective.text);
        assert!(parse(masked.as_bytes()).is_ok());
        assert_eq!(schema.mask(&masked), masked);
    }
});
