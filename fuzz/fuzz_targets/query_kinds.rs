//! Query strings over episodes, tokens and events; the first byte names the list. Every answer is a
//! page of JSON without a secret, and all pages of a list together hold each item once.
#![no_main]

use std::collections::BTreeSet;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weir::testing::api::DVR_PRESENCE_CHECK;
use weir::testing::api::entity::{EntitySource, list_kind};
use weir::testing::api::event::{self, Events};
use weir::testing::json::parse;
use weir::testing::query::{POLL_TIMEOUT, Parameter};
use weir::testing::query::{Execution, Query};
use weir::testing::state::State;
use weir::testing::state::apply::{Stamp, apply};
use weir::testing::state::command::{Command, EntitySave};
use weir::testing::state::entity::{Key, Kind};
use weir::testing::state::event::{EntityType, NewEvent};
use weir::testing::state::node::RenderSettings;

/// Begins the key of every token.
const SECRET: &str = "canary77";

const BODIES: [(Kind, &str, &str); 7] = [
    (
        Kind::Episode,
        "1",
        r#"{"media":"a","opened_at":1700000000000}"#,
    ),
    (
        Kind::Episode,
        "2",
        r#"{"media":"b","opened_at":1700000000001,"closed_at":1700000001000,
            "episode_type":"door_open","payload":{"x":1}}"#,
    ),
    (
        Kind::Episode,
        "9223372036854775807",
        r#"{"media":"a","opened_at":1700000000002,"episode_type":"face","preview":""}"#,
    ),
    (
        Kind::Episode,
        "30",
        r#"{"media":"a/b","opened_at":1700000000003,"episode_type":"qr_code"}"#,
    ),
    (
        Kind::ApiToken,
        "x",
        r#"{"key":"canary77a","permissions":[{"scopes":["streams/*"],"list":true}]}"#,
    ),
    (
        Kind::ApiToken,
        "y",
        r#"{"key":"canary77b","auth_scopes":["user/15"]}"#,
    ),
    (Kind::ApiToken, "z", r#"{"key":"canary77c"}"#),
];

fn state() -> &'static State {
    static STATE: OnceLock<State> = OnceLock::new();
    STATE.get_or_init(|| {
        let mut state = State::new(7, RenderSettings::default());
        let saves = BODIES.iter().map(|(kind, key, body)| {
            let key = Key::parse(*kind, key).expect("a good key");
            let body = parse(body.as_bytes()).expect("JSON");
            Command::SaveEntity(EntitySave::from_body(*kind, key, body, "").expect("a good body"))
        });
        let notes = ["s1", "s2"].map(|host| Command::AppendEvents {
            events: vec![
                NewEvent::new("layouter_streamer_state")
                    .text("state", "down")
                    .entity(EntityType::Streamer, host),
                NewEvent::new("layouter_brake_off"),
            ],
        });
        for (i, command) in saves.chain(notes).enumerate() {
            let stamp = Stamp {
                revision: i as u64 + 1,
                ms: 1_700_000_000_000 + i as u64 / 2,
            };
            let changes = apply(&state, command, stamp).expect("a good change");
            state.absorb(&changes);
        }
        state
    })
}

/// The collection's name, its key, and a page of it.
fn page(list: u8, raw: &str) -> Option<(&'static str, &'static str, Value)> {
    let own: &[&dyn Parameter] = &[&POLL_TIMEOUT, &DVR_PRESENCE_CHECK];
    let (kind, body) = match list {
        b'e' => {
            let query = Query::parse(raw, &event::KIND, own).ok()?;
            let page = Execution::new(&query).run(&Events::new(state()));
            (&event::KIND, page.into_body(""))
        }
        list => {
            let of = if list == b't' {
                Kind::ApiToken
            } else {
                Kind::Episode
            };
            let query = Query::parse(raw, list_kind(of), own).ok()?;
            let page = Execution::new(&query).run(&EntitySource::new(of, state()));
            (list_kind(of), page.into_body(""))
        }
    };
    let text = std::str::from_utf8(&body).expect("a page is text");
    // The answer repeats the names of the selected fields.
    assert!(
        raw.contains(SECRET) || !text.contains(SECRET),
        "{raw}: {text}"
    );
    let page = serde_json::from_str(text).expect("a page is JSON");
    Some((kind.collection, kind.key, page))
}

fuzz_target!(|data: &[u8]| {
    let Some((list, raw)) = data.split_first() else {
        return;
    };
    // A request target with other bytes is refused before its query is parsed.
    let plain = |byte: &u8| *byte > b' ' && *byte < 0x7f && *byte != b'#';
    if raw.len() > 4096 || !raw.iter().all(plain) {
        return;
    }
    let raw = std::str::from_utf8(raw).expect("it is ASCII");
    let Some((collection, key, first)) = page(*list, raw) else {
        return;
    };
    // Read all pages, unless the query itself starts in the middle.
    if raw.contains("cursor") || raw.contains('%') {
        return;
    }
    let (mut seen, mut next, mut pages) = (BTreeSet::new(), Some(first), 0);
    while let Some(page) = next {
        pages += 1;
        assert!(pages <= 16, "the pages of a few items do not end");
        for item in page[collection].as_array().expect("a list") {
            // The number of an event is missing if only other fields are selected.
            if let Some(key) = item.get(key) {
                assert!(seen.insert(key.to_string()), "{key} twice");
            }
        }
        next = page["next"].as_str().map(|cursor| {
            let cursor: String = cursor.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let (_, _, page) = self::page(*list, &format!("{raw}&cursor={cursor}"))
                .expect("a cursor of this query");
            page
        });
    }
});
