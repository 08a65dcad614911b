//! Answers of Weir: whole or none, and streams that vanish.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::caller::CallAnswer;
use super::super::desired::{Wanted, merged, questions, read_kept, read_list};

fn answer(status: u16, body: &[u8]) -> CallAnswer {
    CallAnswer::of(status, body)
}

fn list(body: &Value) -> Result<Wanted, String> {
    let answer = answer(200, body.to_string().as_bytes());
    read_list(answer).map_err(|fault| fault.to_string())
}

fn wanted(names: &[&str]) -> Wanted {
    let streams: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let count = streams.len();
    list(&json!({"streams": streams, "estimated_count": count, "next": null})).expect("whole")
}

#[test]
fn recordings_of_lists_are_read_in_any_form() {
    let dvr = |value: Value| {
        let stream = json!({"name": "a", "dvr": value});
        let list = list(&json!({"streams": [stream], "estimated_count": 1}));
        let dvr = list.expect("whole")["a"].dvr.clone();
        dvr.map(|dvr| (dvr.root.map(String::from), dvr.expiration, dvr.needs_more))
    };
    let root = || Some("/r".to_owned());
    assert_eq!(dvr(Value::Null), None);
    assert_eq!(dvr(json!({})), Some((None, None, false)));
    let given = json!({"root": "/r", "expiration": 60, "remotes": ["m4s://h/a"]});
    assert_eq!(dvr(given), Some((root(), Some(60), false)));
    assert_eq!(dvr(json!({"expiration": 0})), Some((None, None, false)));
    for more in ["schedule", "storage_limit", "disk_usage_limit"] {
        let mut given = json!({"root": "/r"});
        given[more] = json!([1]);
        assert_eq!(dvr(given), Some((root(), None, true)), "{more}");
    }
    // A form that is not known is no reason to refuse the list, and none to record.
    for odd in [
        json!(true),
        json!("x"),
        json!({"root": 5}),
        json!({"expiration": -1}),
    ] {
        assert_eq!(dvr(odd.clone()), Some((None, None, true)), "{odd}");
    }
}

#[test]
fn only_whole_lists_count() {
    let stream = json!({
        "name": "a", "title": "T", "inputs": [
            {"url": "rtsp://h/a", "source_timeout": 20, "priority": 1},
            {"url": "rtsp://h/b", "source_timeout": false},
            {"url": "rtsp://h/c"},
            {"comment": "no URL"},
        ],
    });
    let good = list(&json!({"streams": [stream], "estimated_count": 1, "timing": {}}));
    let good = good.expect("whole");
    let inputs = &good["a"].inputs;
    let timeouts: Vec<_> = inputs.iter().map(|input| input.source_timeout).collect();
    assert_eq!(timeouts, [Some(20), Some(0), None]);
    assert_eq!(inputs[1].timeout(), None, "false waits for ever");
    for bad in [
        json!({"streams": [{"name": "a"}], "estimated_count": 2}),
        json!({"streams": [{"name": "a"}]}),
        json!({"streams": [{"name": "a"}], "estimated_count": 1, "next": "cursor"}),
        json!({"streams": [{"name": "a"}, {"name": "a"}], "estimated_count": 2}),
        json!({"streams": [{"name": ""}], "estimated_count": 1}),
        json!({"streams": [{"title": "a"}], "estimated_count": 1}),
        json!({"streams": null, "estimated_count": 0}),
        json!({"estimated_count": 0}),
        json!([]),
        json!("streams"),
    ] {
        assert!(list(&bad).is_err(), "{bad}");
    }
    let empty = json!({"streams": [], "estimated_count": 0}).to_string();
    for status in [204, 206, 302, 304, 401, 403, 404, 410, 500, 503] {
        assert!(
            read_list(answer(status, empty.as_bytes())).is_err(),
            "{status}"
        );
    }
    let half = &empty.as_bytes()[..empty.len() - 1];
    assert!(read_list(answer(200, half)).is_err());
    assert!(read_list(answer(200, b"")).is_err());
}

#[test]
fn vanished_streams_go_only_when_confirmed() {
    let known = wanted(&["a", "b", "c", "d"]);
    let fresh = wanted(&["a", "e"]);
    assert_eq!(
        questions(&known, &fresh),
        [["b".into(), "c".into(), "d".into()]]
    );
    // Weir confirms b, shows c as a restream on demand, and gave no answer about d.
    let body = json!({"streams": [
        {"name": "b", "static": true}, {"name": "c", "static": false}, {"name": "x"},
    ]});
    let kept = read_kept(answer(200, body.to_string().as_bytes())).expect("whole");
    let unclear = BTreeSet::from(["d".into()]);
    let names: Vec<Box<str>> = merged(&known, fresh, kept, &unclear).into_keys().collect();
    assert_eq!(names, ["a", "b", "d", "e"].map(Box::from));
    assert!(read_kept(answer(404, b"{\"streams\":[]}")).is_err());
}

#[test]
fn questions_about_many_streams_stay_short() {
    let names: Vec<String> = (0..2000)
        .map(|n| format!("{n}{}", "ä".repeat(60)))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let known = wanted(&names);
    let groups = questions(&known, &Wanted::new());
    assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 2000);
    for group in groups {
        let escaped: usize = group
            .iter()
            .map(|name| crate::client::escape(name).len() + 1)
            .sum();
        assert!(
            escaped < 12 << 10,
            "the target of a request is 16 KiB: {escaped}"
        );
    }
}
