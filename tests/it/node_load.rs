//! `load` of streamers: what is laid out on them, and what the layouter counts for it.

use serde_json::{Value, json};

use crate::cluster::count;
use crate::fleet::{Fleet, fleet_of, save_streamer, save_streams, set};
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

fn load(server: &TestServer, host: &str) -> Value {
    let path = format!("/streamers/{host}");
    server.get(&path).expect(200).json()["load"].take()
}

/// Waits until the load of a streamer is this.
#[track_caller]
fn until_load(server: &TestServer, host: &str, expected: &Value) {
    wait_until(host, || load(server, host), |load| load == expected);
}

/// Ingests are as many as the list of them counts.
#[track_caller]
fn ingests(server: &TestServer, host: &str) -> u64 {
    let listed = count(server, &format!("layout.ingest={host}"));
    assert_eq!(load(server, host)["ingests"], listed, "{host}");
    listed.as_u64().expect("a count")
}

#[test]
fn load_is_what_is_laid_out_and_what_it_takes() {
    let mut server = TestServer::with(&["--layouter-handover", "0"]);
    set(&server, json!({"layouter_enabled": "true"}));
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({"channel_limit": 8}));
    }
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let shown = load(&server, "s1");
    let of_three = |load: &Value| load["channels"] == 3 && load["kbps"].as_u64() > Some(0);
    let first = wait_until("three channels", || load(&server, "s1"), of_three);
    assert_eq!(first["percent"], 37, "{shown}");
    assert_eq!(
        (&first["disk_mb"], &first["backups"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(ingests(&server, "s1") + ingests(&server, "s2"), 6);
    // An archive with a copy.
    let dvr = json!({"expiration": 86_400, "redundancy_factor": 2});
    server.put("/streams/c00", json!({"dvr": dvr})).expect(200);
    let disks = || ["s1", "s2"].map(|host| load(&server, host)["disk_mb"].as_u64());
    wait_until("both have an archive", disks, |disks| {
        disks.iter().all(|disk| *disk > Some(0))
    });
    let copies = ["s1", "s2"].map(|host| load(&server, host)["backups"].as_u64());
    assert!(
        [[Some(0), Some(1)], [Some(1), Some(0)]].contains(&copies),
        "{copies:?}"
    );
    for (query, expected) in [
        ("load.backups=1", 1),
        ("load.ingests=3", 2),
        ("load.percent_gt=100", 0),
        ("load.channels_gte=3&sort=-load.channels", 2),
    ] {
        let list = server
            .get(&format!("/streamers?{query}"))
            .expect(200)
            .json();
        assert_eq!(list["estimated_count"], expected, "{query}");
    }
    // A disabled stream leaves.
    let stream = server
        .get("/streams?layout.ingest=s1&limit=1")
        .expect(200)
        .json();
    let name = stream["streams"][0]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let before = load(&server, "s1")["channels"].as_u64();
    server
        .put(&format!("/streams/{name}"), json!({"disabled": true}))
        .expect(200);
    let channels = || load(&server, "s1")["channels"].as_u64();
    wait_until("a channel is free", channels, |channels| *channels < before);
    assert_eq!(ingests(&server, "s1") + ingests(&server, "s2"), 5);
    // A token sees the load of what it sees.
    let permissions = json!([{"scopes": ["streamers/s1"], "list": true, "read": true}]);
    let token = token(&server, "one", json!({"permissions": permissions}));
    let list = server
        .call_as("GET", "/streamers?select=load", Some(&token))
        .expect(200)
        .json();
    assert_eq!(list["estimated_count"], 1);
    // The layouter is off, and on again after a restart.
    set(&server, json!({"layouter_enabled": "false"}));
    let counts = |host: &str| {
        let mut all = load(&server, host);
        let members = all.as_object_mut().expect("an object");
        members.retain(|name, _| ["backups", "inferences", "ingests"].contains(&&**name));
        all
    };
    until_load(&server, "s1", &counts("s1"));
    assert_eq!(ingests(&server, "s1") + ingests(&server, "s2"), 5);
    drop(fleet);
    server.restart();
    assert_eq!(ingests(&server, "s1") + ingests(&server, "s2"), 5);
}

#[test]
fn stream_that_is_handed_over_counts_on_its_new_node() {
    let server = TestServer::new();
    let mut fleet = Fleet::new();
    for host in ["s1", "s2"] {
        save_streamer(&server, host, json!({}));
    }
    fleet.start_all(&server, &["s1", "s2"]);
    let body = json!({"inputs": [{"url": "udp://239.0.0.1:1234"}], "layout": {"ingest": "s1"}});
    for name in ["a", "b"] {
        server
            .put(&format!("/streams/{name}"), body.clone())
            .expect(200);
    }
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 0);
    let moved = json!({"layout": {"ingest": "s2"}});
    let moved = server.put("/streams/a", moved).expect(200).json();
    assert_eq!(
        moved["layout"]["handover_from"], "s1",
        "the old node keeps it"
    );
    assert_eq!((ingests(&server, "s1"), ingests(&server, "s2")), (1, 1));
    server.delete("/streams/a").expect(204);
    assert_eq!((ingests(&server, "s1"), ingests(&server, "s2")), (1, 0));
    drop(fleet);
}
