//! `GET /layouter`: what waits, what was decided, and what an off layouter answers.

use serde_json::{Value, json};

use crate::fleet::{fleet_of, save_streams, server, set};
use crate::restricted::token;
use weir_testkit::{TestServer, wait_until};

fn status(server: &TestServer) -> Value {
    server.get("/layouter").expect(200).json()
}

/// Waits until the state of the layouter is as wanted.
fn until(server: &TestServer, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, || status(server), reached)
}

#[test]
fn layouter_status_counts_places_decisions_and_budgets() {
    let server = server(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.has("s1") == 3 && fleet.has("s2") == 3);
    let status = until(&server, "a run after the placement", |status| {
        status["last_run"]["at"].is_u64() && status["waiting"]["urgent"] == 0
    });
    assert_eq!(status["enabled"], true);
    assert_eq!(
        status["moves_1h"]["by_reason"],
        json!({"not_distributed": 6})
    );
    let waiting = json!({"by_reason": {}, "improving": 0, "unplaced": 0, "urgent": 0});
    assert_eq!(status["waiting"], waiting);
    assert_eq!(status["brake"], json!({"on": false}));
    assert!(status["last_run"]["moves"].is_u64(), "{status}");
    let next = status["next_run_at"].as_u64();
    assert!(next > status["last_run"]["at"].as_u64(), "{status}");
    let budgets = status["budgets"].as_object().expect("budgets");
    for (name, budget) in budgets {
        let (left, limit) = (budget["left"].as_u64(), budget["limit"].as_u64());
        assert!(left.is_some() && left <= limit, "{name}: {status}");
    }
    assert_eq!(budgets.len(), 5, "{status}");
    // A stream that no node can take.
    let body = json!({"static": true, "labels": {"required.zone": "nowhere"}});
    server.put("/streams/lost", body).expect(200);
    until(&server, "a place that is missing", |status| {
        status["waiting"]["unplaced"] == 1
    });
    server.delete("/streams/lost").expect(204);
    until(&server, "no missing place", |status| {
        status["waiting"]["unplaced"] == 0
    });
}

#[test]
fn layouter_that_is_off_has_no_budgets_and_nothing_waits() {
    let server = TestServer::new();
    server
        .put("/streams/c00", json!({"static": true}))
        .expect(200);
    let off = status(&server);
    assert_eq!(off["enabled"], false, "{off}");
    for member in ["budgets", "last_run", "next_run_at"] {
        assert_eq!(off[member], Value::Null, "{off}");
    }
    let waiting = json!({"by_reason": {}, "improving": 0, "unplaced": 0, "urgent": 0});
    assert_eq!(off["waiting"], waiting);
    assert_eq!(off["moves_1h"], json!({"by_reason": {}}));
    set(&server, json!({"layouter_enabled": "true"}));
    let mut fleet = fleet_of(&server, &["s1"]);
    save_streams(&server, 0..2);
    fleet.until(|fleet| fleet.has("s1") == 2);
    set(&server, json!({"layouter_enabled": "false"}));
    let off = until(&server, "the layouter is off", |status| {
        status["enabled"] == false
    });
    assert_eq!(off["budgets"], Value::Null, "{off}");
    // What it decided before stays counted.
    let decided = json!({"by_reason": {"not_distributed": 2}});
    assert_eq!(off["moves_1h"], decided, "{off}");
}

#[test]
fn layouter_status_needs_the_right_to_read_it() {
    let server = server(&[]);
    let streams = json!({"permissions": [{"list": true, "read": true, "scopes": ["streams/*"]}]});
    let streams = token(&server, "streams", streams);
    let refused = server.call_as("GET", "/layouter", Some(&streams));
    let refused = refused.expect(403).json();
    assert_eq!(refused["errors"][0]["meta"]["needs"], "read", "{refused}");
    let layouter = json!({"permissions": [{"read": true, "scopes": ["layouter"]}]});
    let layouter = token(&server, "layouter", layouter);
    let allowed = server.call_as("GET", "/layouter", Some(&layouter));
    assert_eq!(allowed.expect(200).json()["enabled"], true);
    server.call_as("GET", "/layouter", None).expect(401);
}
