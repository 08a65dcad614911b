//! Provisioning: what is written to streamers, when it is written again, and what it shows.

use serde_json::{Value, json};

use crate::connector::{
    CONFIG, FakeFleet, KEY, fake, queries, server, stats, until_queries, until_stats,
};
use crate::faults::limit_files;
use crate::metrics::Metrics;
use weir_testkit::fake::FakeRequest;
use weir_testkit::{PREFIX, TestServer, wait_until};

const SECRET: &str = "token-of-a-viewer";

fn arguments() -> Vec<&'static str> {
    vec![
        "--cluster-node-config-provision-enabled=true",
        "--config-external-reconciliation-interval=100ms",
        "--api-url=http://weir.example.com:9019",
        "--streamer-dead-timeout=600s",
    ]
}

/// Comparisons of configurations with an outcome so far.
fn comparisons(server: &TestServer, outcome: &str) -> u64 {
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    let labels = [("outcome", outcome)];
    Metrics::read(&answer).value("weir_provision_comparisons_total", &labels) as u64
}

/// Saves a streamer with a part of its configuration that belongs to the cluster.
fn save(server: &TestServer, url: &str, key: &str, domain: &str) {
    let body = json!({
        "role": "streamer", "cluster_key": key, "api_url": url, "fetch_timeout": 200,
        "config": {"server_names": [{"domain": domain}]},
    });
    server.put("/streamers/s1", body).expect(200);
}

fn save_backend(server: &TestServer, token: &str) {
    let body = json!({"allow_default": false, "allow_tokens": [token]});
    server.put("/auth_backends/viewers", body).expect(200);
}

fn provisioning(server: &TestServer) -> Value {
    server.get("/streamers/s1").expect(200).json()["provisioning"].take()
}

#[track_caller]
fn until_provisioning(server: &TestServer, fit: impl Fn(&Value) -> bool) -> Value {
    wait_until("provisioning", || provisioning(server), fit)
}

/// Waits until the next write, and returns its body.
#[track_caller]
fn next_write(streamer: &FakeFleet) -> Value {
    let written = wait_until(
        "a write",
        || streamer.take_changes(),
        |changes| !changes.is_empty(),
    );
    let paths: Vec<&str> = written.iter().map(|request| &*request.path).collect();
    assert_eq!(paths, [CONFIG], "one write");
    written[0].json()
}

/// Waits for more comparisons, and expects that nothing is written.
#[track_caller]
fn no_write(server: &TestServer, streamer: &FakeFleet) {
    until_queries(server, "answered", 3);
    let compared = |requests: &Vec<FakeRequest>| requests.iter().any(|it| it.path == CONFIG);
    let requests = wait_until("a comparison", || streamer.take_requests(), compared);
    let changes: Vec<_> = requests.iter().filter(|it| it.is_change()).collect();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn configuration_is_written_once_and_after_changes() {
    // Goal: the part of the cluster reaches the streamer, once per change, and nothing else of its
    // configuration is named. Method: each part is changed, and a label, which is none.
    let server = server(&arguments());
    let streamer = fake();
    save_backend(&server, SECRET);
    save(&server, &streamer.url(), KEY, "a.example.com");
    let written = next_write(&streamer);
    let backend =
        |token: &str| json!([{"allow_default": false, "allow_tokens": [token], "name": "viewers"}]);
    let external = "http://weir.example.com:9019/central/api/v3/streamers/s1";
    let expected = |domain: &str, token: &str| {
        json!({
            "auth_backends": backend(token), "config_external": external,
            "server_names": [{"domain": domain}],
        })
    };
    assert_eq!(written, expected("a.example.com", SECRET));
    let shown = until_provisioning(&server, |shown| shown["status"] == "ok");
    assert!(shown["written_at"].as_u64() > Some(1_700_000_000_000));
    assert_eq!(
        (&shown["error"], &shown["drifted_at"]),
        (&Value::Null, &Value::Null)
    );
    let kept = streamer.kind().config.clone();
    assert_eq!(
        (&kept["loglevel"], &kept["streams"][0]["name"]),
        (&json!("debug"), &json!("own"))
    );
    no_write(&server, &streamer);
    let body = json!({"labels": {"zone": "north"}});
    server.put("/streamers/s1", body).expect(200);
    no_write(&server, &streamer);
    assert_eq!(comparisons(&server, "written"), 1);
    assert!(
        comparisons(&server, "unchanged") > 0,
        "it was compared since"
    );
    save(&server, &streamer.url(), KEY, "b.example.com");
    assert_eq!(next_write(&streamer), expected("b.example.com", SECRET));
    save_backend(&server, "another");
    assert_eq!(next_write(&streamer), expected("b.example.com", "another"));
    no_write(&server, &streamer);
    assert_eq!(streamer.kind().refused, 0);
    let log = server.log();
    for secret in [KEY, SECRET, "another"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn drifted_and_restarted_streamers_are_written_again() {
    let server = server(&arguments());
    let mut streamer = fake();
    // It is added before it can be reached.
    streamer.stop_api();
    save(&server, &streamer.url(), KEY, "a.example.com");
    until_queries(&server, "unreachable", 1);
    assert_eq!(provisioning(&server), Value::Null);
    streamer.start_api();
    let first = next_write(&streamer);
    until_provisioning(&server, |shown| shown["status"] == "ok");
    no_write(&server, &streamer);
    // What belongs to the streamer is its own.
    streamer.kind().config["loglevel"] = json!("error");
    no_write(&server, &streamer);
    streamer.kind().config["server_names"] = json!([]);
    assert_eq!(next_write(&streamer), first);
    let drifted = until_provisioning(&server, |shown| shown["drifted_at"].is_u64());
    assert_eq!(drifted["status"], "ok");
    assert_eq!(
        ["written", "drifted"].map(|outcome| comparisons(&server, outcome)),
        [1, 1]
    );
    assert_eq!(
        streamer.kind().config["server_names"],
        first["server_names"]
    );
    assert_eq!(streamer.kind().config["loglevel"], "error");
    streamer.stop_api();
    streamer.start();
    assert_eq!(next_write(&streamer), first);
    let again = |shown: &Value| shown["drifted_at"].as_u64() > drifted["drifted_at"].as_u64();
    until_provisioning(&server, again);
}

#[test]
fn failed_writes_are_shown_and_repeated() {
    // Goal: a streamer that refuses its configuration, or shows none, is healthy as before, shows
    // why it is not provisioned, and is provisioned later. Method: one failure after the other.
    let server = server(&arguments());
    let streamer = fake();
    streamer.kind().refuses_config = Some(403);
    save(&server, &streamer.url(), KEY, "a.example.com");
    let shown = until_provisioning(&server, |shown| shown["status"] == "failed");
    assert_eq!(
        (&shown["error"], &shown["written_at"]),
        (&json!("status"), &Value::Null)
    );
    let check = stats(&server, "/streamers/s1")["healthcheck_status"].take();
    assert_eq!(check["status"], "ok");
    assert!(comparisons(&server, "failed") > 0, "it is counted");
    assert_eq!(comparisons(&server, "written"), 0);
    streamer.kind().refuses_config = None;
    let shown = until_provisioning(&server, |shown| shown["status"] == "ok");
    assert!(shown["written_at"].is_u64(), "{shown}");
    streamer.take_changes();
    for config in [json!([]), json!("none")] {
        streamer.kind().config = config;
        until_provisioning(&server, |shown| shown["error"] == "bad_answer");
        assert!(streamer.take_changes().is_empty());
        streamer.kind().config = json!({});
        next_write(&streamer);
        until_provisioning(&server, |shown| shown["status"] == "ok");
    }
    assert_eq!(
        queries(&server, "status") + queries(&server, "bad_answer"),
        0
    );
}

#[test]
fn streamer_that_changes_its_configuration_is_written_rarely() {
    let server = server(&arguments());
    let streamer = fake();
    streamer.kind().changes_config = true;
    save(&server, &streamer.url(), KEY, "a.example.com");
    until_provisioning(&server, |shown| shown["drifted_at"].is_u64());
    until_queries(&server, "answered", 30);
    let writes = streamer.take_changes().len();
    assert!((2..12).contains(&writes), "{writes} writes in 30 queries");
}

#[test]
fn provisioning_is_off_by_default_and_switched_at_run_time() {
    let settings = |more: &str| {
        format!(
            "api_key = \"it-admin-key-0123456789\"\noutbound_loopback = true\n\
             streamer_queries = true\nconfig_external_reconciliation_interval = \"100ms\"\n{more}"
        )
    };
    let server = TestServer::with_file(&settings(""));
    let streamer = fake();
    save(&server, &streamer.url(), KEY, "a.example.com");
    let set = |value: &str| {
        let text = settings(&format!(
            "cluster_node_config_provision_enabled = {value}\n"
        ));
        std::fs::write(server.file_path(), text).expect("the file can be written");
        server.signal(weir_testkit::Signal::HUP);
    };
    until_queries(&server, "answered", 3);
    let requests = streamer.take_requests();
    assert!(requests.iter().all(|it| it.method == "GET"), "{requests:?}");
    assert_eq!(provisioning(&server), Value::Null);
    set("true");
    // Without an address of this server no address is written.
    let expected = json!({"server_names": [{"domain": "a.example.com"}]});
    assert_eq!(next_write(&streamer), expected);
    until_provisioning(&server, |shown| shown["status"] == "ok");
    set("false");
    until_provisioning(&server, Value::is_null);
    streamer.kind().config["server_names"] = json!([]);
    until_queries(&server, "answered", 5);
    assert!(streamer.take_changes().is_empty());
}

#[test]
fn nothing_of_provisioning_is_stored() {
    // Goal: nothing of provisioning is stored. Method: the disk is full when a streamer drifts;
    // then its key is replaced, and then this server is started again.
    let mut server = server(&arguments());
    let streamer = fake();
    save(&server, &streamer.url(), KEY, "a.example.com");
    let first = next_write(&streamer);
    until_provisioning(&server, |shown| shown["status"] == "ok");
    limit_files(server.id(), Some(0));
    streamer.kind().config["server_names"] = json!([]);
    assert_eq!(next_write(&streamer), first);
    limit_files(server.id(), None);
    streamer.kind().key = "replaced".to_owned();
    until_stats(&server, "/streamers/s1", |stats| {
        stats["healthcheck_status"]["checks"]["valid_cluster_key"] == false
    });
    let saved = || {
        let body = json!({"cluster_key": "replaced"});
        server.put("/streamers/s1", body).status
    };
    wait_until("space", saved, |status| *status == 200);
    assert_eq!(next_write(&streamer), first);
    until_provisioning(&server, |shown| shown["status"] == "ok");
    no_write(&server, &streamer);
    server.restart();
    assert_eq!(next_write(&streamer), first);
    until_provisioning(&server, |shown| shown["status"] == "ok");
    no_write(&server, &streamer);
}

#[test]
fn token_needs_execute_on_the_backends_that_a_streamer_receives() {
    let token = |server: &TestServer, execute: &[&str]| {
        let mut permissions = vec![json!({"scopes": ["streamers/*"], "read": true, "write": true})];
        // All scopes of one permission have to match.
        let execute = execute
            .iter()
            .map(|scope| json!({"scopes": [scope], "execute": true}));
        permissions.extend(execute);
        let body = json!({"key": "key-of-a-token", "permissions": permissions});
        server.put("/api_tokens/t", body).expect(200);
    };
    let save = |server: &TestServer, body: &Value| {
        let path = format!("{PREFIX}/streamers/s9");
        let fields = [("Authorization", "Bearer key-of-a-token")];
        let body = body.to_string();
        let mut client = server.connect();
        client.request("PUT", &path, &fields, body.as_bytes())
    };
    let mut streamer = json!({
        "role": "streamer", "cluster_key": "k", "api_url": "http://127.0.0.1:9", "kind": "flussonic",
    });
    for is_provisioned in [true, false] {
        let mut arguments = arguments();
        if !is_provisioned {
            arguments[0] = "--cluster-node-config-provision-enabled=false";
        }
        let server = server(&arguments);
        token(&server, &["streamers/*"]);
        // There is nothing to receive yet.
        save(&server, &streamer).expect(200);
        save_backend(&server, SECRET);
        streamer["api_url"] = json!("http://127.0.0.1:10");
        let answer = save(&server, &streamer);
        assert_eq!(answer.status, if is_provisioned { 403 } else { 200 });
        save(&server, &json!({"labels": {"a": "b"}})).expect(200);
        // Servers of other kinds receive nothing, until they are no such servers any more.
        server.delete("/streamers/s9").expect(204);
        streamer["kind"] = json!("mediamtx");
        save(&server, &streamer).expect(200);
        let answer = save(&server, &json!({"kind": "flussonic"}));
        assert_eq!(answer.status, if is_provisioned { 403 } else { 200 });
        streamer["kind"] = json!("flussonic");
        token(&server, &["streamers/*", "auth_backends/*"]);
        save(&server, &streamer).expect(200);
    }
}
