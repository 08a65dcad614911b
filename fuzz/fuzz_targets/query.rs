//! Query strings over a small collection. Every answer is a page of JSON, and all pages of a list
//! together hold each item once.
#![no_main]

use std::collections::BTreeSet;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weir::testing::api::stream::{KIND, Streams};
use weir::testing::json::parse;
use weir::testing::query::POLL_TIMEOUT;
use weir::testing::query::{Execution, Query};
use weir::testing::state::State;
use weir::testing::state::apply::{Stamp, apply};
use weir::testing::state::command::{Command, StreamPatch};
use weir::testing::state::name::StreamName;
use weir::testing::state::node::RenderSettings;

fn state() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| {
        let mut state = State::new(7, RenderSettings::default());
        let bodies = [
            r#"{"title":"News","labels":{"k":"1"}}"#,
            r#"{"title":"Новости","disabled":true,
                "inputs":[{"url":"udp://239.0.0.1:1234"},{"url":"rtsp://u:p@h/1"}]}"#,
            r#"{"segment_count":4,"static":false}"#,
            r#"{"segment_count":40,"dvr":{"expiration":3600},"position":2}"#,
            "{}",
            r#"{"title":"News","comment":"a \"quoted\" one","labels":{"k":"2","l":"x"}}"#,
        ];
        for (i, name) in ["a", "b", "sports/hd/1", "Первый", "x y", "z+z"]
            .iter()
            .enumerate()
        {
            let name = StreamName::parse(name).expect("a good name");
            let body = parse(bodies[i].as_bytes()).expect("JSON");
            let patch = StreamPatch::from_body(body, &name, "").expect("a good body");
            let stamp = Stamp {
                revision: i as u64 + 1,
                ms: 1_700_000_000_000 + i as u64 / 2,
            };
            let changes =
                apply(&state, Command::SaveStream { name, patch }, stamp).expect("a good stream");
            state.absorb(&changes);
        }
        state
    })
}

fn page(raw: &str) -> Option<Value> {
    let query = Query::parse(raw, &KIND, &[&POLL_TIMEOUT]).ok()?;
    let body = Execution::new(&query)
        .run(&Streams::new(state(), None))
        .into_body("");
    Some(serde_json::from_slice(&body).expect("a page is JSON"))
}

fuzz_target!(|data: &[u8]| {
    let Ok(raw) = std::str::from_utf8(data) else {
        return;
    };
    // A request target with other bytes is refused before its query is parsed.
    if !raw
        .bytes()
        .all(|byte| byte > b' ' && byte < 0x7f && byte != b'#')
        || raw.len() > 4096
    {
        return;
    }
    let Some(first) = page(raw) else {
        return;
    };
    // Read all pages, unless the query itself starts in the middle or leaves the name out.
    if raw.contains("cursor") || raw.contains('%') {
        return;
    }
    let (mut seen, mut next, mut pages) = (BTreeSet::new(), Some(first), 0);
    while let Some(page) = next {
        pages += 1;
        assert!(pages <= 8, "the pages of six streams do not end");
        for item in page
            .get("streams")
            .and_then(Value::as_array)
            .expect("a list")
        {
            let name = item
                .get("name")
                .and_then(Value::as_str)
                .expect("a name is always selected");
            assert!(seen.insert(name.to_owned()), "{name} twice");
        }
        next = page.get("next").and_then(Value::as_str).map(|cursor| {
            let cursor: String = cursor.bytes().map(|byte| format!("%{byte:02X}")).collect();
            self::page(&format!("{raw}&cursor={cursor}")).expect("a cursor of this query")
        });
    }
});
