//! Records: bytes from elsewhere are a record or are refused; what is accepted can be read in every way without harm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::json;
use weir::state::State;
use weir::state::node::{RenderSettings, holders, render, render_restream};
use weir::state::record::{NodeMarkRecord, StreamRecord, StreamerRecord};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = StreamRecord::from_bytes(data) {
        let stream = record.to_owned();
        assert_eq!(StreamRecord::new(&stream).to_owned(), stream);
        assert!(record.ingest_history().len() <= 5);
        let _ = format!("{record:?}");
        // A checksum stands before this: the text of a record is always one that was written here.
        let is_canonical = json::parse(stream.config.as_bytes())
            .is_ok_and(|value| value.as_object().is_some() && value.to_text() == stream.config);
        if is_canonical {
            let state = State::new(1, RenderSettings::default());
            for (host, role) in holders(&record) {
                let mut text = Vec::new();
                let is_told = render(&state, &record, role, host, &mut text);
                assert_eq!(is_told, !stream.disabled);
                assert!(!is_told || std::str::from_utf8(&text).is_ok());
            }
            let mut text = Vec::new();
            render_restream(&state, &record, &mut text);
        }
    }
    if let Ok(record) = StreamerRecord::from_bytes(data) {
        let streamer = record.to_owned();
        assert_eq!(StreamerRecord::new(&streamer).to_owned(), streamer);
        assert!(!record.role.as_str().is_empty());
    }
    if let Ok(record) = NodeMarkRecord::from_bytes(data) {
        let mark = record.to_owned();
        assert_eq!(NodeMarkRecord::new(&mark).to_owned(), mark);
    }
});
