//! Bodies: what is accepted is JSON for another parser too, is written canonically, and is read again as the same value, by the scanner too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::json::{Value, parse, scan};
use weir::schema;

fuzz_target!(|data: &[u8]| {
    let value = match parse(data) {
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
    // What the schema makes of a patch is stable: pruned once is pruned; what is valid has an effective form that contains it.
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
