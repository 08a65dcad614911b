//! Queries of streamers: what consumers see of the answers, and what failures and hostile answers
//! lead to.

use serde_json::{Value, json};

use crate::calls::names;
use crate::faults::limit_files;
use crate::metrics::Metrics;
use crate::stats::signed;
use weir_testkit::fake::{FakeFault, FakeServer, FakeStreamer, unused_address};
use weir_testkit::{PREFIX, TestServer, wait_until};

pub const KEY: &str = "key-of-the-streamer";

/// A server that queries streamers, on this machine too.
pub fn server(more: &[&str]) -> TestServer {
    let mut arguments = vec!["--streamer-queries=true", "--outbound-loopback=true"];
    arguments.extend_from_slice(more);
    TestServer::with(&arguments)
}

pub fn fake() -> FakeServer<FakeStreamer> {
    FakeServer::new(FakeStreamer::new(KEY))
}

/// Saves a streamer that is queried five times per second.
pub fn save(server: &TestServer, host: &str, url: &str) {
    let body = json!({
        "role": "streamer", "cluster_key": KEY, "api_url": url, "fetch_timeout": 200,
    });
    server.put(&format!("/streamers/{host}"), body).expect(200);
}

pub fn save_stream(server: &TestServer, name: &str, ingest: &str) {
    let body = json!({"inputs": [{"url": "udp://239.0.0.1:1234"}], "layout": {"ingest": ingest}});
    server.put(&format!("/streams/{name}"), body).expect(200);
}

pub fn stats(server: &TestServer, path: &str) -> Value {
    server.get(path).expect(200).json()["stats"].take()
}

/// Waits until the stats of an entity fit, and returns them.
#[track_caller]
pub fn until_stats(server: &TestServer, path: &str, fit: impl Fn(&Value) -> bool) -> Value {
    wait_until(path, || stats(server, path), fit)
}

/// Queries with an outcome so far.
pub fn queries(server: &TestServer, outcome: &str) -> u64 {
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    let metrics = Metrics::read(&answer);
    metrics.value("weir_streamer_queries_total", &[("outcome", outcome)]) as u64
}

/// Waits until so many more queries have had an outcome.
#[track_caller]
pub fn until_queries(server: &TestServer, outcome: &str, more: u64) {
    let wanted = queries(server, outcome) + more;
    wait_until(
        outcome,
        || queries(server, outcome),
        |count| *count >= wanted,
    );
}

#[test]
fn answers_are_shown_like_reports() {
    // Goal: what a streamer answers is on the streamer and on its streams, from every page of its
    // list, and a stream that is not in the next list runs there no more. Method: 250 streams on
    // several pages, of which this server knows some, and one that the streamer does not have.
    let server = server(&[]);
    let streamer = fake();
    for i in 0..250 {
        streamer.kind().run(&format!("c{i:03}"), 1000 + i);
    }
    save(&server, "s1", &streamer.url());
    for name in ["c005", "c150", "c249", "d000"] {
        save_stream(&server, name, "s1");
    }
    let own = until_stats(&server, "/streamers/s1", Value::is_object);
    assert_eq!(
        (
            &own["cpu_usage"],
            &own["server_version"],
            &own["total_streams"]
        ),
        (&json!(7), &json!("24.11"), &json!(250))
    );
    let check = &own["healthcheck_status"];
    assert_eq!(check["status"], "ok");
    let expected = json!({
        "config_ok": true, "errors_details": [], "reachable": true, "running": true,
        "time_synchronized": true, "valid_cluster_key": true,
    });
    assert_eq!(check["checks"], expected);
    for (name, bitrate) in [("c005", 1005), ("c150", 1150), ("c249", 1249)] {
        let path = format!("/streams/{name}");
        let stats = until_stats(&server, &path, |stats| stats["bitrate"] == bitrate);
        assert_eq!(
            (
                &stats["status"],
                &stats["online_clients"],
                &stats["running_on"]
            ),
            (&json!("running"), &json!(2), &json!(["s1"]))
        );
        assert_eq!(stats["media_info"]["tracks"][0]["codec"], "h264");
        assert!(stats.get("unknown_to_others").is_none(), "{stats}");
    }
    assert_eq!(stats(&server, "/streams/d000"), Value::Null);
    let filtered = server.get("/streams?stats.status=running").expect(200);
    assert_eq!(names(&filtered.json()), ["c005", "c150", "c249"]);

    streamer.kind().streams.remove("c150");
    streamer.kind().stats["cpu_usage"] = json!(55);
    until_stats(&server, "/streams/c150", Value::is_null);
    until_stats(&server, "/streamers/s1", |stats| stats["cpu_usage"] == 55);
    until_stats(&server, "/streams/c005", |stats| {
        stats["running_on"] == json!(["s1"])
    });
    assert_eq!(streamer.kind().refused, 0);
    assert!(streamer.kind().lists >= 2);
    // One after the other on one connection; on a busy machine some end late, and with them it.
    let connections = streamer.connection_count() as u64;
    let late = queries(&server, "timed_out") + queries(&server, "partial");
    assert!(
        connections <= 1 + late,
        "{connections} connections, {late} late"
    );
}

#[test]
fn other_kinds_and_those_that_report_are_not_queried() {
    // So long that a report is not old before the test is over.
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let (bridged, reporting, queried) = (fake(), fake(), fake());
    let body = json!({
        "role": "streamer", "cluster_key": KEY, "kind": "mediamtx", "api_url": bridged.url(),
    });
    server.put("/streamers/bridged", body).expect(200);
    let body = json!({"role": "inference", "cluster_key": KEY, "api_url": bridged.url()});
    server.put("/streamers/inference", body).expect(200);
    let body = json!({"role": "streamer", "cluster_key": KEY});
    server.put("/streamers/no-address", body).expect(200);
    save(&server, "reporting", &reporting.url());
    until_stats(&server, "/streamers/reporting", Value::is_object);
    let report = || {
        let mut client = server.connect();
        let fields = [("Authorization", signed(KEY))];
        let fields = fields
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let path = format!("{PREFIX}/streamers/reporting/stats");
        client
            .request("PUT", &path, &fields, br#"{"stats":{"cpu_usage":91}}"#)
            .expect(204);
    };
    report();
    save(&server, "queried", &queried.url());
    until_stats(&server, "/streamers/queried", Value::is_object);
    // One query may have been under way.
    let look = || {
        reporting.take_requests();
        until_queries(&server, "answered", 5);
        reporting.request_count()
    };
    wait_until("the reporting streamer is not queried", look, |count| {
        *count == 0
    });
    assert_eq!(stats(&server, "/streamers/reporting")["cpu_usage"], 91);
    assert_eq!(bridged.request_count(), 0);
    let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
    let queried = Metrics::read(&answer).value("weir_streamers_queried", &[]) as u64;
    assert_eq!(queried, 2);
}

#[test]
fn queries_are_switched_at_run_time_and_are_off_by_default() {
    let server =
        TestServer::with_file("api_key = \"it-admin-key-0123456789\"\noutbound_loopback = true\n");
    let streamer = fake();
    save(&server, "s1", &streamer.url());
    let set = |value: &str| {
        let text = format!(
            "api_key = \"it-admin-key-0123456789\"\noutbound_loopback = true\n\
             streamer_queries = {value}\n"
        );
        std::fs::write(server.file_path(), text).expect("the file can be written");
        server.signal(weir_testkit::Signal::HUP);
    };
    assert_eq!(streamer.request_count(), 0);
    set("true");
    until_stats(&server, "/streamers/s1", Value::is_object);
    set("false");
    let queried = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        Metrics::read(&answer).value("weir_streamers_queried", &[]) as u64
    };
    wait_until("queries end", queried, |count| *count == 0);
}

/// The health check of a streamer whose queries fail with 500 after the first answer.
fn check_after_failures(
    threshold: &str,
    until: impl Fn(&Value) -> bool,
) -> (TestServer, FakeFleet) {
    // So long that the stats do not expire before the test is over.
    let arguments = ["--streamer-dead-timeout", "600s"];
    let threshold = ["--streamer-healthcheck-fails-threshold", threshold];
    let server = server(&[arguments, threshold].concat());
    let streamer = fake();
    // So long that a busy machine makes no failures of its own.
    let body = json!({
        "role": "streamer", "cluster_key": KEY, "api_url": streamer.url(), "fetch_timeout": 1500,
    });
    server.put("/streamers/s1", body).expect(200);
    let ok = |stats: &Value| stats["healthcheck_status"]["status"] == "ok";
    until_stats(&server, "/streamers/s1", ok);
    streamer.set_fault(Some(FakeFault::Status(500)));
    until_stats(&server, "/streamers/s1", |stats| {
        until(&stats["healthcheck_status"])
    });
    (server, streamer)
}

pub type FakeFleet = FakeServer<FakeStreamer>;

#[test]
fn failed_queries_are_tolerated_up_to_the_threshold() {
    let unreachable = |check: &Value| check["checks"]["reachable"] == false;
    let (server, _streamer) = check_after_failures("1000", unreachable);
    let check = stats(&server, "/streamers/s1")["healthcheck_status"].take();
    assert_eq!(check["status"], "ok", "{check}");
    let details = json!([{"error": "no valid answer", "rule": "reachable"}]);
    assert_eq!(check["checks"]["errors_details"], details);
    assert_eq!(check["checks"]["running"], true, "as it answered before");
    assert!(!server.log().contains("streamer does not answer queries"));
}

#[test]
fn too_many_failed_queries_make_a_streamer_unhealthy() {
    let is_error = |check: &Value| check["status"] == "error";
    let (server, streamer) = check_after_failures("2", is_error);
    let check = stats(&server, "/streamers/s1")["healthcheck_status"].take();
    assert_eq!(check["checks"]["reachable"], false, "{check}");
    assert!(check["status_changed_at"].as_u64() > Some(1_700_000_000_000));
    // More failures make no further line of the log.
    until_queries(&server, "status", 1);
    streamer.set_fault(None);
    let answers = |stats: &Value| stats["healthcheck_status"]["checks"]["reachable"] == true;
    let stats = until_stats(&server, "/streamers/s1", answers);
    let check = &stats["healthcheck_status"];
    assert_eq!(check["status"], "error", "two failures within an hour");
    let details = json!([{"error": "2 queries failed within an hour", "rule": "reachable"}]);
    assert_eq!(check["checks"]["errors_details"], details);
    let log = server.log();
    for line in [
        "streamer does not answer queries",
        "streamer answers queries again",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(!log.contains(KEY) && !log.contains("Cluster "), "{log}");
}

#[test]
fn refused_cluster_key_is_shown() {
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let streamer = fake();
    save(&server, "s1", &streamer.url());
    until_stats(&server, "/streamers/s1", Value::is_object);
    streamer.kind().key = "another".to_owned();
    let stats = until_stats(&server, "/streamers/s1", |stats| {
        stats["healthcheck_status"]["checks"]["valid_cluster_key"] == false
    });
    let checks = &stats["healthcheck_status"]["checks"];
    assert_eq!(checks["reachable"], false, "{checks}");
    // Another key, and the streamer is queried at once and not after a back-off.
    let body = json!({"cluster_key": "another"});
    server.put("/streamers/s1", body).expect(200);
    until_stats(&server, "/streamers/s1", |stats| {
        stats["healthcheck_status"]["checks"]["valid_cluster_key"] == true
    });
}

#[test]
fn connections_that_the_streamer_closes_are_no_failures() {
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let streamer = fake();
    streamer.set_fault(Some(FakeFault::Closes));
    save(&server, "s1", &streamer.url());
    until_queries(&server, "answered", 5);
    assert_eq!(queries(&server, "unreachable"), 0);
    assert!(streamer.connection_count() >= 10, "two requests each");
}

#[test]
fn report_of_the_streamer_itself_replaces_the_answer() {
    // Goal: an answer and a report are the same thing to those who look. Method: a poll of the list
    // of streamers that waits for a value is woken by an answer, and by a report.
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let streamer = fake();
    save(&server, "s1", &streamer.url());
    until_stats(&server, "/streamers/s1", Value::is_object);
    save_stream(&server, "a", "s1");
    let mut poll = crate::calls::park(&server, "/streams?stats.bitrate=4242&poll_timeout=50", "");
    streamer.kind().run("a", 4242);
    let list = poll.response(false).expect(200).json();
    assert_eq!(names(&list), ["a"]);
    let mut poll = crate::calls::park(&server, "/streams?stats.bitrate=17&poll_timeout=50", "");
    let report = json!({"streams": [{"name": "a", "bitrate": 17}]});
    server.put("/streamers/s1/stats", report).expect(204);
    let list = poll.response(false).expect(200).json();
    assert_eq!(names(&list), ["a"]);
}

#[test]
fn queries_run_and_end_on_epoll_too() {
    let arguments = [
        "--streamer-queries=true",
        "--outbound-loopback=true",
        "--streamer-dead-timeout",
        "600s",
    ];
    let server = TestServer::with_environment(&arguments, &[("WEIR_RUNTIME", "epoll")]);
    let mut streamer = fake();
    for i in 0..120 {
        streamer.kind().run(&format!("c{i:03}"), 1000);
    }
    save(&server, "s1", &streamer.url());
    save_stream(&server, "c119", "s1");
    until_stats(&server, "/streams/c119", |stats| stats["bitrate"] == 1000);
    until_queries(&server, "answered", 2);
    streamer.set_fault(Some(FakeFault::Hang));
    until_queries(&server, "timed_out", 1);
    streamer.set_fault(None);
    streamer.stop_api();
    until_queries(&server, "unreachable", 1);
    streamer.start_api();
    until_queries(&server, "answered", 2);
    assert!(server.log().contains("epoll"), "{}", server.log());
}

pub const LIST: &str = "/streamer/api/v3/streams";
pub const CONFIG: &str = "/streamer/api/v3/config";
const STATS: &str = "/streamer/api/v3/config/stats";

/// Waits until a streamer has been sent a request for this path.
#[track_caller]
pub fn until_request(streamer: &FakeFleet, path: &str) {
    let look = || streamer.take_requests();
    wait_until(path, look, |requests| {
        requests.iter().any(|request| request.path == path)
    });
}

/// Waits until no query runs.
#[track_caller]
fn until_no_query_runs(server: &TestServer) {
    let running = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        Metrics::read(&answer).value("weir_streamer_queries_running", &[]) as u64
    };
    wait_until("no query runs", running, |count| *count == 0);
}

/// Saves a streamer whose queries may take a minute.
fn save_slow(server: &TestServer, host: &str, url: &str) {
    let body = json!({
        "role": "streamer", "cluster_key": KEY, "api_url": url, "fetch_timeout": 60000,
    });
    server.put(&format!("/streamers/{host}"), body).expect(200);
}

#[test]
fn report_during_a_query_outlives_its_result() {
    // Goal: neither the answer to a query nor its failure replaces what the streamer reported
    // after the query had started. Method: an answer is held while a report is sent.
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let streamer = fake();
    streamer.kind().run("a", 5);
    streamer.hold(Some(LIST));
    save_slow(&server, "s1", &streamer.url());
    save_stream(&server, "a", "s1");
    until_request(&streamer, LIST);
    let report = json!({
        "stats": {"cpu_usage": 91}, "streams": [{"name": "a", "bitrate": 17}],
    });
    server
        .put("/streamers/s1/stats", report.clone())
        .expect(204);
    streamer.hold(None);
    until_no_query_runs(&server);
    assert_eq!(stats(&server, "/streamers/s1")["cpu_usage"], 91);
    assert_eq!(stats(&server, "/streams/a")["bitrate"], 17);

    let failing = fake();
    let body = json!({
        "role": "streamer", "cluster_key": KEY, "api_url": failing.url(), "fetch_timeout": 3000,
    });
    server.put("/streamers/s2", body).expect(200);
    until_stats(&server, "/streamers/s2", Value::is_object);
    failing.hold(Some(STATS));
    failing.set_fault(Some(FakeFault::Status(500)));
    failing.take_requests();
    until_request(&failing, STATS);
    server
        .put("/streamers/s2/stats", report.clone())
        .expect(204);
    failing.hold(None);
    until_no_query_runs(&server);
    let check = stats(&server, "/streamers/s2")["healthcheck_status"].take();
    assert_eq!(check["checks"]["reachable"], true, "{check}");
}

#[test]
fn answer_of_a_streamer_that_is_gone_is_not_stored() {
    // Goal: a streamer that is deleted, or moved to another address, while it answers has no stats
    // of that answer. Method: the answer is held meanwhile.
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let streamer = fake();
    streamer.kind().run("a", 5);
    let without_address = json!({"role": "streamer", "cluster_key": KEY, "api_url": null});
    server
        .put("/streamers/s1", without_address.clone())
        .expect(200);
    save_stream(&server, "a", "s1");
    for is_deleted in [true, false] {
        streamer.hold(Some(LIST));
        save_slow(&server, "s1", &streamer.url());
        until_request(&streamer, LIST);
        if is_deleted {
            server.delete("/streamers/s1").expect(204);
        } else {
            server
                .put("/streamers/s1", without_address.clone())
                .expect(200);
        }
        streamer.hold(None);
        until_no_query_runs(&server);
        server
            .put("/streamers/s1", without_address.clone())
            .expect(200);
        assert_eq!(stats(&server, "/streamers/s1"), Value::Null, "{is_deleted}");
        assert_eq!(stats(&server, "/streams/a"), Value::Null, "{is_deleted}");
    }
    save(&server, "s1", &streamer.url());
    until_stats(&server, "/streams/a", |stats| stats["bitrate"] == 5);
}

#[test]
fn changes_that_no_request_depends_on_restart_nothing() {
    // Goal: a label or a cordon of a streamer neither discards the answer that is on its way nor
    // sends another query, and a shorter `fetch_timeout` applies at once. Method: the streamer is
    // saved while its first answer is held; the next query would be a minute later.
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let streamer = fake();
    streamer.hold(Some(LIST));
    save_slow(&server, "s1", &streamer.url());
    until_request(&streamer, LIST);
    let body = json!({"labels": {"zone": "north"}, "cluster_ingest": {"maintenance": true}});
    server.put("/streamers/s1", body).expect(200);
    until_follows(&server);
    streamer.hold(None);
    until_stats(&server, "/streamers/s1", Value::is_object);
    let mut again = streamer.take_requests();
    again.retain(|it| it.path != CONFIG);
    assert!(again.is_empty(), "{again:?}");
    assert_eq!(queries(&server, "answered"), 1);
    let body = json!({"fetch_timeout": 300});
    server.put("/streamers/s1", body).expect(200);
    until_queries(&server, "answered", 2);
}

/// Waits until the connector has seen all changes of streamers so far: it counts one that is new.
#[track_caller]
fn until_follows(server: &TestServer) {
    let queried = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        Metrics::read(&answer).value("weir_streamers_queried", &[]) as u64
    };
    let before = queried();
    let body = json!({
        "role": "streamer", "cluster_key": KEY, "fetch_timeout": 60000,
        "api_url": format!("http://{}", unused_address()),
    });
    server.put("/streamers/followed", body).expect(200);
    wait_until("the next streamer is queried", queried, |count| {
        *count == before + 1
    });
}

#[test]
fn streamer_that_reports_itself_is_not_counted_as_silent() {
    let server = server(&[
        "--streamer-dead-timeout",
        "600s",
        "--streamer-healthcheck-fails-threshold",
        "2",
    ]);
    save(&server, "s1", &format!("http://{}", unused_address()));
    let silent = || {
        let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
        Metrics::read(&answer).value("weir_streamers_silent", &[]) as u64
    };
    wait_until("it is silent", silent, |count| *count == 1);
    let report = json!({"stats": {"cpu_usage": 9}});
    server.put("/streamers/s1/stats", report).expect(204);
    // It is due at once, and not after its back-off.
    let body = json!({"labels": {"zone": "north"}});
    server.put("/streamers/s1", body).expect(200);
    wait_until("it is not silent", silent, |count| *count == 0);
}

#[test]
fn unavailable_page_is_requested_again() {
    // Goal: each request of a query is repeated, not only the first. Method: two requests for the
    // list are answered with 503, and the next query would be a minute later.
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let streamer = fake();
    streamer.kind().run("a", 5);
    streamer.kind().unavailable = 2;
    save_slow(&server, "s1", &streamer.url());
    save_stream(&server, "a", "s1");
    until_stats(&server, "/streamers/s1", Value::is_object);
    assert_eq!(queries(&server, "answered"), 1);
    let requests = streamer.take_requests();
    let paths: Vec<&str> = requests.iter().map(|request| &*request.path).collect();
    assert_eq!(paths, [STATS, LIST, LIST, LIST, CONFIG]);
}

#[test]
fn poll_is_woken_by_an_answer_while_the_disk_is_full() {
    // Goal: answers are kept in memory, so a poll of streams that waits for one is answered though
    // nothing can be written. Method: the disk is full from before the answer on.
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let streamer = fake();
    save(&server, "s1", &streamer.url());
    save_stream(&server, "a", "s1");
    until_stats(&server, "/streamers/s1", Value::is_object);
    limit_files(server.id(), Some(0));
    let refused = json!({"comment": "refused"});
    server.put("/streams/a", refused.clone()).expect(503);
    let mut poll = crate::calls::park(&server, "/streams?stats.bitrate=4242&poll_timeout=50", "");
    streamer.kind().run("a", 4242);
    let list = poll.response(false).expect(200).json();
    assert_eq!(names(&list), ["a"]);
    server.put("/streams/a", refused.clone()).expect(503);
    limit_files(server.id(), None);
    let saved = || server.put("/streams/a", refused.clone()).status;
    wait_until("space", saved, |status| *status == 200);
    until_queries(&server, "answered", 1);
}

#[test]
fn storages_are_read_from_the_configuration() {
    // Goal: the storages of a queried streamer are known, also after it was installed anew, and a
    // configuration that is none takes nothing else away.
    let server = server(&[]);
    let mut streamer = fake();
    let storages = json!([
        {"name": "main", "root": "/storage", "unknown": 1},
        {"name": "cloud", "root": "s3://user:canary@host/bucket"},
    ]);
    streamer.kind().config["dvrs"] = storages;
    streamer.kind().run("a", 100);
    save(&server, "s1", &streamer.url());
    save_stream(&server, "a", "s1");
    let names = || {
        let list = server.get("/dvrs").expect(200).json();
        crate::calls::keys(&list, "dvrs", "name")
    };
    let found = wait_until("storages", names, |names| !names.is_empty());
    assert_eq!(found, ["cloud", "main"]);
    let shown = server.get("/streamers/s1").expect(200).json();
    assert_eq!(
        shown["dvrs"][0],
        json!({"name": "main", "root": "/storage"})
    );
    let list = server.get("/streamers").expect(200);
    assert!(!list.text().contains("canary"), "{}", list.text());

    // Known until the streamer is asked again: after it did not answer.
    streamer.stop_api();
    until_queries(&server, "unreachable", 1);
    streamer.kind().config = json!("no configuration");
    streamer.start_api();
    until_queries(&server, "answered", 2);
    assert_eq!(names(), ["cloud", "main"]);
    assert_eq!(stats(&server, "/streams/a")["status"], "running");
    streamer.stop_api();
    until_queries(&server, "unreachable", 1);
    streamer.kind().config = json!({"loglevel": "debug"});
    streamer.start_api();
    wait_until("no storages", names, Vec::is_empty);
}
