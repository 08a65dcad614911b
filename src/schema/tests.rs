//! What the schema engine promises, on the schemas we serve.

use super::*;
use crate::json::{Value, parse};

fn json(text: &str) -> Value {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// `code pointer` of each violation.
fn wrong(schema: &Schema, text: &str) -> Vec<String> {
    match schema.check(&json(text)) {
        Ok(()) => Vec::new(),
        Err(found) => found
            .iter()
            .map(|it| format!("{} {}", it.code, it.pointer))
            .collect(),
    }
}

#[test]
fn a_usual_stream_is_fine() {
    assert_eq!(
        wrong(
            stream(),
            r#"{"title":"x","inputs":[{"url":"rtsp://admin:pw@10.0.0.1/1"},{"url":"http://h/a.m3u8?x"}],"static":false,"labels":{"zone":"a"}}"#
        ),
        Vec::<String>::new()
    );
}
