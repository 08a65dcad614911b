//! Persons: saving with fingerprints and photos, soft deletion.

use serde_json::{Value, json};

use weir_testkit::{Response, TestServer, encode_segment};

const SNOWFLAKE: u64 = 6_864_516_853_760_000_001;

fn ids(answer: &Response) -> Vec<u64> {
    let body = answer.json();
    let list = body["persons"].as_array().expect("a list of persons");
    list.iter()
        .map(|person| person["person_id"].as_u64().expect("a number"))
        .collect()
}

fn stamp(answer: &Response) -> u64 {
    answer.json()["updated_at"].as_u64().expect("a stamp")
}

#[test]
fn a_person_reads_back_as_saved() {
    let server = TestServer::new();
    let mut body = json!({
        "originator": "identification_service",
        "external_id": "dedcc8e8",
        "fingerprints": [{"data": "AAEC", "version": "v1"}, {"data": "AwQF", "version": "v2"}],
        "photos": [{"data": "/9j/4AAQSkY=", "mime_type": "image/jpeg"}],
    });
    let path = format!("/persons/{SNOWFLAKE}");
    let at = stamp(&server.put(&path, body.clone()).expect(200));
    body["person_id"] = json!(SNOWFLAKE);
    body["updated_at"] = json!(at);
    let read = server.get(&path).expect(200).json();
    for (name, value) in body.as_object().expect("an object") {
        if name != "photos" {
            assert_eq!(read[name], *value, "{name}");
        }
    }
    assert_eq!(read["photos"][0]["data"], "/9j/4AAQSkY=");
    assert_eq!(
        server.put(&path, body).expect(200).json(),
        read,
        "saving what is saved changes nothing"
    );
    // One patch changes one thing.
    let changed = server.put(&path, json!({"external_id": null})).expect(200);
    assert!(stamp(&changed) > at);
    assert_eq!(changed.json()["external_id"], Value::Null);
    assert_eq!(changed.json()["fingerprints"], read["fingerprints"]);
    for (body, error) in [
        (json!({}), "missing_required /originator"),
        (
            json!({"originator": "me"}),
            "unknown_enum_option /originator",
        ),
        (
            json!({"originator": "api", "fingerprints": [{"data": "AAEC"}]}),
            "missing_required /fingerprints/0/version",
        ),
    ] {
        let answer = server.put("/persons/2", body).expect(400);
        assert_eq!(answer.errors(), [error]);
    }
    assert_eq!(
        server.get("/persons/3").expect(404).errors(),
        ["person_not_found"]
    );
    assert_eq!(
        server.delete("/persons/3").expect(404).errors(),
        ["person_not_found"]
    );
}

#[test]
fn deleted_person_is_a_tombstone_until_saved_again() {
    let server = TestServer::new();
    let mut since = 0;
    for id in 1..=3 {
        let saved = server.put(&format!("/persons/{id}"), json!({"originator": "api"}));
        since = stamp(&saved.expect(200));
    }
    server.delete("/persons/2").expect(204);
    let seen = server
        .get(&format!("/persons?updated_at_gt={since}"))
        .expect(200);
    assert_eq!(ids(&seen), [2]);
    let deleted = server.get("/persons/2").expect(200).json();
    assert_eq!(
        deleted["deleted_at"], deleted["updated_at"],
        "the stamp of the deletion"
    );
    assert_eq!(ids(&server.get("/persons?deleted_at_is=null")), [1, 3]);
    assert_eq!(ids(&server.get("/persons?deleted_at_is_not=null")), [2]);
    // Deleted once, however often it is requested.
    server.delete("/persons/2").expect(204);
    assert_eq!(server.get("/persons/2").expect(200).json(), deleted);
    let back = server
        .put("/persons/2", json!({"external_id": "x"}))
        .expect(200);
    assert_eq!(back.json().get("deleted_at"), None, "{}", back.text());
    assert_eq!(ids(&server.get("/persons?deleted_at_is=null")), [1, 3, 2]);
    // A copy from elsewhere may come deleted.
    let moment = 1_727_274_724_000_u64;
    let copy = json!({"originator": "api", "deleted_at": moment});
    let copied = server.put("/persons/4", copy).expect(200);
    assert_eq!(copied.json()["deleted_at"], moment);
}

#[test]
fn persons_are_listed_like_other_entities() {
    let server = TestServer::new();
    for (id, external) in [(30, "c"), (9, "a"), (100, "b")] {
        let body = json!({"originator": "api", "external_id": external});
        server.put(&format!("/persons/{id}"), body).expect(200);
    }
    let list = |query: &str| server.get(&format!("/persons?{query}")).expect(200);
    assert_eq!(ids(&list("")), [30, 9, 100], "by their stamps");
    assert_eq!(ids(&list("sort=person_id")), [9, 30, 100], "as numbers");
    assert_eq!(ids(&list("sort=-external_id&limit=2")), [30, 100]);
    assert_eq!(ids(&list("external_id=a,b&sort=person_id")), [9, 100]);
    let page = list("sort=person_id&limit=1&select=external_id").json();
    let stamp = &page["persons"][0]["updated_at"];
    assert!(stamp.is_u64());
    assert_eq!(
        page["persons"],
        json!([{"external_id": "a", "originator": "api", "person_id": 9, "updated_at": stamp}])
    );
    assert_eq!(page["estimated_count"], 3);
    let next = page["next"].as_str().expect("a cursor");
    let next = encode_segment(next);
    let second = list(&format!("sort=person_id&limit=1&cursor={next}"));
    assert_eq!(ids(&second), [30]);
}
