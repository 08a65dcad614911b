use serde_json::{Value, json};

use super::difference::{holds, lines, merge, patch_between};
use super::kinds;
use super::words;

#[test]
fn patch_makes_the_first_object_equal_to_the_second() {
    let before = json!({"name": "a", "title": "A", "labels": {"x": "1", "y": "2"}, "inputs": [1]});
    let after = json!({"name": "a", "labels": {"x": "1", "z": "3"}, "inputs": [1, 2]});
    let patch = patch_between(&before, &after).expect("a difference");
    assert_eq!(
        patch,
        json!({"title": null, "labels": {"y": null, "z": "3"}, "inputs": [1, 2]})
    );
    assert_eq!(patch_between(&before, &before), None);
    assert_eq!(
        patch_between(&json!({"title": null}), &json!({})),
        None,
        "null and absent are the same"
    );
    assert_eq!(
        lines(&before, &after),
        [
            "inputs: [1] -> [1,2]",
            "labels.y: \"2\" -> -",
            "labels.z: - -> \"3\"",
            "title: \"A\" -> -"
        ]
    );
}

#[test]
fn fields_are_typed_by_the_schema() {
    let stream = kinds::parse("streams").expect("a kind");
    let patch = |path: &str, text: &str| stream.patch(path, Some(text)).expect(path);
    assert_eq!(patch("title", "2024"), json!({"title": "2024"}));
    assert_eq!(patch("disabled", "true"), json!({"disabled": true}));
    assert_eq!(patch("position", "7"), json!({"position": 7}));
    assert_eq!(
        patch("labels.required.zone", "1"),
        json!({"labels": {"required.zone": "1"}})
    );
    assert_eq!(
        patch("inputs", "[{\"url\":\"udp://239.0.0.1:1\"}]"),
        json!({"inputs": [{"url": "udp://239.0.0.1:1"}]})
    );
    assert_eq!(
        stream.patch("labels.a", None).expect("a label"),
        json!({"labels": {"a": null}})
    );
    let unknown = stream.patch("titel", Some("x")).expect_err("no such field");
    assert_eq!(
        unknown.message,
        "a stream has no field \"titel\"; did you mean title?"
    );
    let mut both = patch("labels.a", "1");
    merge(&mut both, patch("labels.b", "2"));
    assert_eq!(both, json!({"labels": {"a": "1", "b": "2"}}));
}

#[test]
fn given_is_what_a_client_may_set() {
    let streamer = kinds::parse("streamer").expect("a kind");
    let stored = json!({
        "hostname": "s1", "role": "streamer", "cluster_key": "***",
        "updated_at": 1_796_003_906_553_u64, "state": {"name": "up"},
        "stats": {"cpu_usage": 10}, "labels": {"site": "a"},
    });
    assert_eq!(
        streamer.given(&stored).expect("an object"),
        json!({"hostname": "s1", "role": "streamer", "cluster_key": "***", "labels": {"site": "a"}})
    );
    assert!(holds(&stored, "***") && !holds(&stored, "nothing like this"));
    let masked = streamer.masked(&json!({"role": "streamer", "cluster_key": "CANARY"}));
    assert!(!holds(&masked, "CANARY"), "{masked}");
}

#[test]
fn texts_are_written_for_people() {
    assert_eq!(words::count(0), "0");
    assert_eq!(words::count(1_234_567), "1,234,567");
    assert_eq!(words::counted(1, "stream"), "1 stream");
    assert_eq!(words::rate(321_600_000.0), "321.6Gbit/s");
    assert_eq!(words::rate(999.0), "999kbit/s");
    assert_eq!(words::time(1_796_003_906_797), "2026-11-30T01:58:26Z");
    assert_eq!(words::time(u64::MAX), "");
    assert_eq!(
        words::printable("a\x1b[2Jb\u{202e}c\n"),
        "a\\u{1b}[2Jb\\u{202e}c\\n"
    );
    let value = json!({"labels": {"required.zone": "x", "required": {"zone": "y"}}, "a": {"b": 1}});
    assert_eq!(words::at(&value, "labels.required.zone"), &json!("x"));
    assert_eq!(words::at(&value, "a.b"), &json!(1));
    assert_eq!(words::at(&value, "a.c"), &Value::Null);
    assert_eq!(words::cell(&json!({"k": ["v", 2]})), "k=v,2");
}
