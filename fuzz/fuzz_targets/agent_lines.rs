//! Lines of an agent in any order, between commands of operators: every answer is a line of JSON,
//! the state is bounded, and every command is answered once or returned at the end.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use weir::agents::protocol::{ERRORS_MAX, Fact, PENDING_MAX, Request, Session};

/// Longest answer to one line: an error and the message that ends the session.
const ANSWER_BYTES_MAX: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let mut session = Session::<usize>::default();
    let mut waiting = BTreeSet::new();
    let mut mistakes = 0;
    for (now_ms, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let mut out = Vec::new();
        // Messages of the server between the lines.
        match line.len() % 4 {
            0 => {
                session.send_to(Some(("http://s1/?streampoint_key=k", "s1")), &mut out);
            }
            1 => {
                session.send_to(None, &mut out);
            }
            _ => {
                let sent = session.ask(Request::Reboot, now_ms, now_ms as u64, u64::MAX, &mut out);
                if sent.is_ok() {
                    waiting.insert(now_ms);
                }
            }
        }
        assert!(waiting.len() <= PENDING_MAX);
        assert!(out.is_empty() || session.is_greeted());
        let before = out.len();
        let received = session.line(line, now_ms as u64, &mut out);
        assert!(out.len() - before <= ANSWER_BYTES_MAX);
        if !out.is_empty() {
            let text = std::str::from_utf8(&out).expect("lines are text");
            let lines = text.strip_suffix('\n').expect("a line ends");
            for message in lines.split('\n') {
                let message: serde_json::Value =
                    serde_json::from_str(message).expect("a line is JSON");
                mistakes += usize::from(message["command"] == "error");
            }
        }
        if let Some(Fact::Replied { token, .. }) = received.fact {
            assert!(waiting.remove(&token), "{token} was answered twice");
        }
        if received.ends.is_some() {
            break;
        }
        assert!(
            mistakes < usize::from(ERRORS_MAX),
            "the errors of an agent are bounded"
        );
    }
    let left: BTreeSet<usize> = session.end().map(|(token, _)| token).collect();
    assert_eq!(
        left, waiting,
        "every waiting command is returned at the end"
    );
});
