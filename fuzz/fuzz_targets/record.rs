//! Records: foreign bytes are a record or are refused, and every accepted record can be read in
//! every way without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::testing::json;
use weir::testing::state::State;
use weir::testing::state::node::{RenderSettings, holders, render, render_restream};
use weir::testing::state::record::{
    EntityRecord, EventChunkRecord, NodeMarkRecord, PauseRecord, StreamRecord, StreamerRecord,
};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = StreamRecord::from_bytes(data) {
        let stream = record.to_owned();
        assert_eq!(StreamRecord::new(&stream).to_owned(), stream);
        assert!(record.ingest_history().len() <= 5);
        let _ = format!("{record:?}");
        // The store checks a checksum first: the text of a stored record was written by the server.
        let is_canonical = json::parse(stream.config.as_bytes())
            .is_ok_and(|value| value.as_object().is_some() && value.to_text() == stream.config);
        if is_canonical {
            let state = State::new(1, RenderSettings::default());
            for (host, role) in holders(&record) {
                let mut text = Vec::new();
                let is_sent = render(&state, &record, role, host, &mut text);
                assert_eq!(is_sent, !stream.disabled);
                assert!(!is_sent || std::str::from_utf8(&text).is_ok());
            }
            let mut text = Vec::new();
            render_restream(&state, &record, "other", &mut text);
        }
    }
    if let Ok(record) = StreamerRecord::from_bytes(data) {
        let streamer = record.to_owned();
        assert_eq!(StreamerRecord::new(&streamer).to_owned(), streamer);
        assert!(!record.role.as_str().is_empty());
    }
    if let Ok(record) = PauseRecord::from_bytes(data) {
        let pause = record.to_owned();
        assert_eq!(PauseRecord::new(&pause).to_owned(), pause);
        let left_ms = record.left_ms(0, true);
        assert!(left_ms.is_none_or(|left_ms| left_ms == pause.length_ms));
        assert!(record.to_value().to_text().starts_with("{\"by\":"));
    }
    if let Ok(record) = EntityRecord::from_bytes(data) {
        let entity = record.to_owned();
        assert_eq!(EntityRecord::new(&entity).to_owned(), entity);
    }
    if let Ok(record) = EventChunkRecord::from_bytes(data) {
        let chunk = record.to_owned();
        assert_eq!(EventChunkRecord::new(&chunk).to_owned(), chunk);
    }
    if let Ok(record) = NodeMarkRecord::from_bytes(data) {
        let mark = record.to_owned();
        assert_eq!(NodeMarkRecord::new(&mark).to_owned(), mark);
    }
});
