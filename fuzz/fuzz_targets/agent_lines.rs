//! Lines of an agent in any order, between requests of operators. The output is lines of JSON,
//! memory is bounded, and each request is answered once or returned at the end.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use weir::testing::agents::{AgentEvent, AgentRequest, AgentSession, ERRORS_MAX, PENDING_MAX};

/// Longest answer to one line: an error and a disconnect.
const ANSWER_BYTES_MAX: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let mut session = AgentSession::<usize>::default();
    let mut waiting = BTreeSet::new();
    let mut errors = 0;
    for (now_ms, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let mut out = Vec::new();
        // What the server sends between the lines.
        match line.len() % 4 {
            0 => {
                session.send_to(Some(("http://s1/?streampoint_key=k", "s1")), &mut out);
            }
            1 => {
                session.send_to(None, &mut out);
            }
            _ => {
                let now = now_ms as u64;
                let sent = session.request(AgentRequest::Reboot, now_ms, now, u64::MAX, &mut out);
                if sent.is_ok() {
                    waiting.insert(now_ms);
                }
            }
        }
        assert!(waiting.len() <= PENDING_MAX);
        assert!(out.is_empty() || session.is_greeted());
        let before = out.len();
        let result = session.on_line(line, now_ms as u64, &mut out);
        assert!(out.len() - before <= ANSWER_BYTES_MAX);
        if !out.is_empty() {
            let text = std::str::from_utf8(&out).expect("lines are text");
            let lines = text.strip_suffix('\n').expect("a line ends");
            for line in lines.split('\n') {
                let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
                errors += usize::from(line["command"] == "error");
            }
        }
        if let Some(AgentEvent::Replied { token, .. }) = result.event {
            assert!(waiting.remove(&token), "{token} was answered twice");
        }
        if result.close.is_some() {
            break;
        }
        assert!(errors < usize::from(ERRORS_MAX), "the connection ends");
    }
    let left: BTreeSet<usize> = session.end().collect();
    assert_eq!(left, waiting, "pending requests are returned at the end");
});
