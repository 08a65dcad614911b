//! Lines of an agent in any order, between commands of operators: what is answered is lines of JSON, what is kept is bounded, and every command is
//! answered once or given back at the end.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use weir::agents::protocol::{ERRORS_MAX, Fact, PENDING_MAX, Request, Session};

/// Longest answer to one line: an error with its farewell.
const ANSWER_BYTES_MAX: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let mut session = Session::<usize>::default();
    let mut waiting = BTreeSet::new();
    let mut mistakes = 0;
    for (now_ms, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let mut out = Vec::new();
        // What the server says between the lines.
        match line.len() % 4 {
            0 => {
                session.send_to(Some(("http://s1/?streampoint_key=k", "s1")), &mut out);
            }
            1 => {
                session.send_to(None, &mut out);
            }
            _ => {
                let asked = session.ask(Request::Reboot, now_ms, now_ms as u64, u64::MAX, &mut out);
                if asked.is_ok() {
                    waiting.insert(now_ms);
                }
            }
        }
        assert!(waiting.len() <= PENDING_MAX);
        assert!(out.is_empty() || session.is_greeted());
        let told = out.len();
        let heard = session.line(line, now_ms as u64, &mut out);
        assert!(out.len() - told <= ANSWER_BYTES_MAX);
        if !out.is_empty() {
            let text = std::str::from_utf8(&out).expect("lines are text");
            let lines = text.strip_suffix('\n').expect("a line ends");
            for said in lines.split('\n') {
                let said: serde_json::Value = serde_json::from_str(said).expect("a line is JSON");
                mistakes += usize::from(said["command"] == "error");
            }
        }
        if let Some(Fact::Replied { token, .. }) = heard.fact {
            assert!(waiting.remove(&token), "{token} was answered twice");
        }
        if heard.ends.is_some() {
            break;
        }
        assert!(mistakes < usize::from(ERRORS_MAX), "nobody errs for ever");
    }
    let left: BTreeSet<usize> = session.end().map(|(token, _)| token).collect();
    assert_eq!(left, waiting, "who waits is told at the end");
});
