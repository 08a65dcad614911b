//! Streamers that answer as no streamer does, and addresses that must not be called.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::connector::{
    KEY, fake, queries, save, save_stream, server, stats, until_queries, until_stats,
};
use crate::memory::resident_bytes;
use weir_testkit::fake::{FakeFault, FakePages, FakeServer, FakeStreamer};
use weir_testkit::{API_KEY, Client, PREFIX, wait_until};

/// What a hostile streamer may cost of memory.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// More of an outcome, while another streamer is answered.
#[track_caller]
fn until_refused(server: &weir_testkit::TestServer, outcome: &str) {
    until_queries(server, outcome, 1);
    until_queries(server, "answered", 2);
}

#[test]
fn hostile_answers_fail_and_others_are_answered() {
    // Goal: no answer keeps this server busy, fills its memory, or is taken for stats. Method: one
    // fault after the other, beside a streamer that answers.
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let good = fake();
    save(&server, "good", &good.url());
    until_queries(&server, "answered", 2);
    for (fault, outcome) in [
        (FakeFault::Status(500), "status"),
        (FakeFault::Status(403), "status"),
        (FakeFault::Redirect, "status"),
        (FakeFault::Garbage, "bad_answer"),
        (FakeFault::Coded, "bad_answer"),
        (FakeFault::Cut, "bad_answer"),
        (FakeFault::Huge, "bad_answer"),
        (FakeFault::Endless, "bad_answer"),
        (FakeFault::Hang, "timed_out"),
        (FakeFault::Drip, "timed_out"),
    ] {
        let hostile = fake();
        hostile.set_fault(Some(fault));
        let before = resident_bytes(&server);
        // A body of 100 MB takes its sender a while.
        let body = json!({
            "role": "streamer", "cluster_key": KEY, "api_url": hostile.url(), "fetch_timeout": 2000,
        });
        server.put("/streamers/bad", body).expect(200);
        until_refused(&server, outcome);
        let growth = resident_bytes(&server).saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "{fault:?}: {growth} bytes");
        assert_eq!(stats(&server, "/streamers/bad"), Value::Null, "{fault:?}");
        let requests = hostile.take_requests();
        let is_first = |path: &str| path == "/streamer/api/v3/config/stats";
        assert!(
            requests.iter().all(|request| is_first(&request.path)),
            "{fault:?}: {requests:?}"
        );
    }
}

#[test]
fn bodies_that_are_no_stats_are_refused() {
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let (good, hostile) = (fake(), fake());
    save(&server, "good", &good.url());
    let mut many = String::from("{");
    for i in 0..100_000 {
        write!(many, "\"k{i}\":{i},").expect("a string takes everything");
    }
    for body in [
        String::new(),
        "[]".to_owned(),
        "\"{}\"".to_owned(),
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        r#"{"cpu_usage":1,"cpu_usage":2}"#.to_owned(),
        r#"{"hostname":"\ud800"}"#.to_owned(),
        r#"{"cpu_usage":1e999}"#.to_owned(),
        r#"{"cpu_usage":1}{}"#.to_owned(),
        many,
    ] {
        hostile.kind().body = Some(body);
        save(&server, "bad", &hostile.url());
        until_refused(&server, "bad_answer");
        assert_eq!(stats(&server, "/streamers/bad"), Value::Null);
        server.delete("/streamers/bad").expect(204);
    }
    // Single values that are wrong are dropped, as those of reports are.
    let body = r#"{"cpu_usage":"much","memory_usage":250,"server_version":"1","nonsense":{}}"#;
    hostile.kind().body = Some(body.to_owned());
    save(&server, "bad", &hostile.url());
    let stats = until_stats(&server, "/streamers/bad", Value::is_object);
    assert_eq!(
        (
            &stats["cpu_usage"],
            &stats["memory_usage"],
            &stats["server_version"]
        ),
        (&Value::Null, &json!(100), &json!("1"))
    );
}

#[test]
fn lists_without_an_end_do_not_replace_streams() {
    // Goal: a list that was not read to its end is not used: a stream that is missing from a report
    // would count as stopped. Method: streams are shown; then the list goes wrong in each way, with
    // other streams on it.
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let streamer = fake();
    let run = |prefix: &str, bitrate| {
        let mut kind = streamer.kind();
        kind.streams.clear();
        for i in 0..150 {
            kind.run(&format!("{prefix}{i:03}"), bitrate);
        }
    };
    run("a", 5);
    save(&server, "s1", &streamer.url());
    for name in ["a000", "a149", "b000"] {
        save_stream(&server, name, "s1");
    }
    until_stats(&server, "/streams/a149", |stats| stats["bitrate"] == 5);
    // The first count of the cluster has memory of its own.
    queries(&server, "partial");
    let before = resident_bytes(&server);
    for pages in [
        FakePages::Repeated,
        FakePages::Endless,
        FakePages::Broken,
        FakePages::Overlapping,
    ] {
        streamer.kind().pages = pages;
        // One query may still be on its way through the good list.
        until_queries(&server, "partial", 1);
        run("b", 9);
        until_queries(&server, "partial", 2);
        for name in ["a000", "a149"] {
            let stats = stats(&server, &format!("/streams/{name}"));
            assert_eq!(stats["bitrate"], 5, "{name} {pages:?}");
        }
        assert_eq!(stats(&server, "/streams/b000"), Value::Null, "{pages:?}");
        let own = stats(&server, "/streamers/s1");
        assert_eq!(
            own["total_streams"], 150,
            "what it answers about itself is used"
        );
        run("a", 5);
    }
    let growth = resident_bytes(&server).saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    run("b", 9);
    streamer.kind().pages = FakePages::Complete;
    until_stats(&server, "/streams/b000", |stats| stats["bitrate"] == 9);
    until_stats(&server, "/streams/a000", Value::is_null);
}

#[test]
fn list_of_distinct_large_streams_is_bounded() {
    // Goal: a list costs no more than a report may have, however many pages it has, and streams
    // that this server does not have cost nothing. Method: pages without an end of streams of 9 KiB
    // each; first this server has none of them, then the first 50.
    const PAGES_MAX: usize = 40;
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let hostile = fake();
    hostile.kind().pages = FakePages::Large;
    // The first count of the cluster has memory of its own.
    queries(&server, "partial");
    let before = resident_bytes(&server);
    for known in [0, 50] {
        for i in 0..known {
            let body = json!({"inputs": [{"url": "udp://239.0.0.1:1234"}]});
            server.put(&format!("/streams/large-{i}"), body).expect(200);
        }
        // So long that a busy machine reads the list.
        let body = json!({
            "role": "streamer", "cluster_key": KEY, "api_url": hostile.url(), "fetch_timeout": 60000,
        });
        hostile.take_requests();
        server.put("/streamers/s1", body).expect(200);
        until_queries(&server, "partial", 1);
        let requests = hostile.take_requests();
        let pages = requests.iter();
        let pages = pages.filter(|request| request.path.ends_with("/streams"));
        let pages = pages.count();
        assert!((2..=PAGES_MAX).contains(&pages), "{pages} pages");
        let growth = resident_bytes(&server).saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "{known}: {growth} bytes");
        assert_eq!(stats(&server, "/streamers/s1")["cpu_usage"], 7);
        server.delete("/streamers/s1").expect(204);
    }
    assert_eq!(stats(&server, "/streams/large-0"), Value::Null);
}

#[test]
fn forbidden_addresses_are_not_connected_to() {
    let server = weir_testkit::TestServer::with(&["--streamer-queries=true"]);
    let streamer = fake();
    let port = streamer.url();
    let port = port.rsplit(':').next().expect("a port");
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
    ] {
        save(&server, "s1", &format!("http://{host}:{port}"));
        until_queries(&server, "address_not_allowed", 1);
        assert_eq!(stats(&server, "/streamers/s1"), Value::Null, "{host}");
    }
    assert_eq!(streamer.connection_count(), 0);
    let open = crate::connector::server(&[]);
    for url in [
        "http://169.254.169.254/",
        "http://0.0.0.0/",
        &open_url(&open),
    ] {
        save(&open, "s1", url);
        until_queries(&open, "address_not_allowed", 1);
    }
}

/// The server's own address, which it never calls.
fn open_url(server: &weir_testkit::TestServer) -> String {
    format!("http://{}", server.address())
}

#[test]
fn cluster_key_is_sent_to_its_streamer_only() {
    let server = server(&["--streamer-dead-timeout", "600s"]);
    let first = fake();
    let second = FakeServer::new(FakeStreamer::new("second-key"));
    save(&server, "s1", &first.url());
    until_stats(&server, "/streamers/s1", Value::is_object);
    // A user in the URL replaces the key.
    let url = first.url().replace("http://", "http://user:pass@");
    save(&server, "s1", &url);
    let basic = || {
        let requests = first.take_requests();
        let last = requests
            .last()
            .and_then(|request| request.authorization.clone());
        last.unwrap_or_default()
    };
    wait_until("the user is sent", basic, |value| {
        value == "Basic dXNlcjpwYXNz"
    });
    // Another address with its own key.
    let body = json!({"api_url": second.url(), "cluster_key": "second-key"});
    server.put("/streamers/s1", body).expect(200);
    until_queries(&server, "answered", 3);
    assert_eq!(second.kind().refused, 0, "never signed with the first key");
    // By TLS, or not at all.
    first.take_requests();
    let refused = queries(&server, "unreachable") + queries(&server, "bad_answer");
    let url = first.url().replace("http://", "https://");
    save(&server, "s1", &url);
    let failures = || queries(&server, "unreachable") + queries(&server, "bad_answer");
    wait_until("TLS fails", failures, |count| *count > refused + 1);
    assert!(
        first
            .take_requests()
            .iter()
            .all(|it| it.authorization.is_none())
    );
    let log = server.log();
    for secret in [KEY, "second-key", "user:pass"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Requests of one sample.
const SAMPLE: usize = 150;

/// Median and 90th percentile of the times of a request.
fn latencies(client: &mut Client) -> [Duration; 2] {
    let path = format!("{PREFIX}/streams/a");
    let authorization = format!("Bearer {API_KEY}");
    let fields = [("Authorization", authorization.as_str())];
    let times = (0..SAMPLE).map(|_| {
        let begin = Instant::now();
        client.request("GET", &path, &fields, b"").expect(200);
        begin.elapsed()
    });
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    [times[SAMPLE / 2], times[SAMPLE * 9 / 10]]
}

/// The least of several samples: what the machine does besides is in all of them.
fn least(of: &[[Duration; 2]], at: usize) -> Duration {
    let times = of.iter().map(|sample| sample[at]);
    times.min().expect("there are samples")
}

#[test]
fn hostile_streamers_do_not_delay_other_requests() {
    // Goal: streamers that answer nothing, byte by byte, or without an end do not change the
    // latency of other requests. Method: one thread serves all connections; samples in turns, while
    // such streamers are queried and while there are none. Of each kind the least median and the
    // least 90th percentile are compared, so other load of the machine counts on both sides; an
    // attempt that it spoiled is repeated. A server that waited for one of them would be slower by
    // a factor of a thousand.
    const FACTOR: u32 = 6;
    const ATTEMPTS: usize = 5;
    let server = server(&["--streamer-dead-timeout", "600s", "--io-threads", "1"]);
    let body = json!({"inputs": [{"url": "udp://239.0.0.1:1234"}]});
    server.put("/streams/a", body).expect(200);
    let faults = [FakeFault::Hang, FakeFault::Drip, FakeFault::Endless];
    let hostile = faults.map(|fault| {
        let hostile = fake();
        hostile.set_fault(Some(fault));
        hostile
    });
    let names: Vec<String> = (0..12).map(|number| format!("bad{number}")).collect();
    let mut client = server.connect();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let (mut quiet, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            quiet.push(latencies(&mut client));
            for (number, name) in names.iter().enumerate() {
                save(&server, name, &hostile[number % hostile.len()].url());
            }
            // All are queried by now, some of them without an end.
            until_queries(&server, "timed_out", 4);
            until_queries(&server, "bad_answer", 1);
            beside.push(latencies(&mut client));
            for name in &names {
                server.delete(&format!("/streamers/{name}")).expect(204);
            }
        }
        let pairs = [0, 1].map(|at| (least(&quiet, at), least(&beside, at)));
        if pairs
            .iter()
            .all(|(quiet, beside)| *beside <= *quiet * FACTOR)
        {
            return;
        }
        seen.push(pairs);
    }
    panic!("median and 90th percentile without and beside hostile streamers: {seen:?}");
}
