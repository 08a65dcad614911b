//! Long polls: lists that wait for a match, streamers that wait for a change of their own
//! configuration, and what ends a wait.
//!
//! A poll is parked for certain without waiting for time: it is sent behind a probe in one piece,
//! and the answer to the probe is sent after everything that arrived with it was handled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::calls::{etag, get_request, lay_out, names, park, save_node};
use crate::memory::metric;
use weir_testkit::{API_KEY, Client, PREFIX, Response, TestServer, encode_segment, wait_until};

/// Longer than any test: only what is asserted may end the wait.
const LONG: &str = "poll_timeout=50";

fn stream_names(response: &Response) -> Vec<String> {
    names(&response.json())
}

fn stamp(answer: &Response) -> u64 {
    answer.json()["updated_at"].as_u64().expect("a stamp")
}

fn save(server: &TestServer, name: &str, body: Value) -> u64 {
    stamp(&server.put(&format!("/streams/{name}"), body).expect(200))
}

fn if_none_match(tag: &str) -> String {
    format!("If-None-Match: {tag}\r\n")
}

#[test]
fn parked_polls_share_an_answer_only_with_equal_parameters() {
    // One core, so that both polls are parked side by side.
    let server = TestServer::with(&["--io-threads", "1"]);
    save_node(&server, "s1");
    save(&server, "a", json!({}));
    lay_out(&server, &[("a", "s1")]);
    let since = stamp(&server.get("/streams/a").expect(200));
    let path = format!("/streams?updated_at_gt={since}&select=name,layout&{LONG}");
    let mut with = park(&server, &path, "");
    let mut without = park(&server, &format!("{path}&include_ingest_history=false"), "");
    save(&server, "a", json!({"title": "changed"}));
    let history = |poll: &mut Client| {
        let page = poll.response(false).expect(200).json();
        page["streams"][0]["layout"]["ingest_history"].clone()
    };
    assert!(history(&mut with).is_array());
    assert!(history(&mut without).is_null());
}

// ---- reports ------------------------------------------------------------------------------------

#[test]
fn parked_lists_wake_on_stats_reports() {
    let server = TestServer::new();
    save_node(&server, "s1");
    for name in ["a", "b"] {
        save(&server, name, json!({"layout": {"ingest": "s1"}}));
    }
    let report = |streams: Value| {
        let body = json!({"streams": streams});
        server.put("/streamers/s1/stats", body).expect(204);
    };
    report(json!([{"name": "a", "bitrate": 100}]));
    let polls = [
        "stats.status=running",
        "stats.bitrate_gt=5000&name=a,b",
        "layout.ingest=s1&stats.online_clients_gt=7&select=name",
    ];
    let mut parked: Vec<Client> = polls
        .iter()
        .map(|query| park(&server, &format!("/streams?{query}&{LONG}"), ""))
        .collect();
    // Not by reports of other values.
    for bitrate in 1..50 {
        report(json!([{"name": "a", "bitrate": bitrate}]));
    }
    report(json!([{"name": "a", "bitrate": 6000}]));
    assert_eq!(stream_names(&parked[1].response(false).expect(200)), ["a"]);
    report(json!([{"name": "a"}, {"name": "b", "online_clients": 8, "status": "running"}]));
    assert_eq!(stream_names(&parked[0].response(false).expect(200)), ["b"]);
    assert_eq!(stream_names(&parked[2].response(false).expect(200)), ["b"]);
    // A place in an order by stats: nothing is behind it until something falls behind it.
    report(json!([{"name": "a", "bitrate": 5}, {"name": "b", "bitrate": 5}]));
    let page = server
        .get("/streams?sort=-stats.bitrate,name&limit=1")
        .json();
    let cursor = page["next"].as_str().expect("there is more");
    report(json!([{"name": "a", "bitrate": 9}, {"name": "b", "bitrate": 9}]));
    let path = format!("/streams?sort=-stats.bitrate,name&limit=1&cursor={cursor}&{LONG}");
    let mut behind = park(&server, &path, "");
    report(json!([{"name": "a", "bitrate": 9}, {"name": "b", "bitrate": 4}]));
    assert_eq!(stream_names(&behind.response(false).expect(200)), ["b"]);
    // A report that comes while a poll is being parked is not missed either, whichever core
    // receives it.
    for round in 0..15 {
        report(json!([{"name": "a", "bitrate": 0}]));
        let mut poll = server.connect();
        poll.send(get_request(&format!("/streams?stats.bitrate={round}7&{LONG}"), "").as_bytes());
        report(json!([
            {"name": "a", "bitrate": format!("{round}7").parse::<u64>().expect("a number")},
        ]));
        assert_eq!(
            stream_names(&poll.response(false).expect(200)),
            ["a"],
            "{round}"
        );
    }
}

#[test]
fn parked_lists_wake_when_an_agent_connects() {
    let server = TestServer::new();
    server.put("/agents/cam1", json!({"key": "k"})).expect(200);
    save(
        &server,
        "a",
        json!({"inputs": [{"url": "rtsp://c/", "via": "agent://cam1"}]}),
    );
    let path = format!("/streams?stats.agent_status=connected&{LONG}");
    let mut parked = park(&server, &path, "");
    let _agent = crate::agent::Agent::open(&server, "cam1", "k");
    assert_eq!(stream_names(&parked.response(false).expect(200)), ["a"]);
}

// ---- lists --------------------------------------------------------------------------------------

#[test]
fn parked_list_wakes_only_on_a_match() {
    let server = TestServer::new();
    let since = save(&server, "old", json!({}));
    let mut any = park(
        &server,
        &format!("/streams?updated_at_gt={since}&title=Wanted&{LONG}"),
        "",
    );
    let mut named = park(
        &server,
        &format!("/streams?updated_at_gt={since}&name=b,c&{LONG}"),
        "",
    );
    save(&server, "a", json!({"title": "Other"}));
    save(&server, "old", json!({"comment": "changed"}));
    server.delete("/streams/old").expect(204);
    server.put("/streams/d", json!({"inputs": 1})).expect(400);
    let at = save(&server, "b", json!({"title": "Wanted"}));
    for poll in [&mut any, &mut named] {
        let answer = poll.response(false).expect(200);
        assert_eq!(stream_names(&answer), ["b"]);
        assert_eq!(answer.json()["streams"][0]["updated_at"], at);
    }
    // A list with a match is answered at once.
    let answer = server.get(&format!(
        "/streams?updated_at_gt={since}&sort=updated_at&{LONG}"
    ));
    assert_eq!(stream_names(&answer), ["a", "b"]);
}

#[test]
fn parked_list_without_a_match_is_empty_at_its_deadline() {
    let server = TestServer::new();
    let since = save(&server, "a", json!({}));
    let answer = server
        .get(&format!("/streams?updated_at_gt={since}&poll_timeout=1"))
        .expect(200);
    assert_eq!(stream_names(&answer), Vec::<String>::new());
    assert_eq!(answer.json()["next"], Value::Null);
    for wrong in ["-1", "x", "1.5", ""] {
        let answer = server.get(&format!("/streams?poll_timeout={wrong}"));
        assert_eq!(answer.expect(400).errors(), ["not_integer poll_timeout"]);
    }
}

/// Ends the loop of another thread, also when the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn poll_that_scans_long_parks_while_others_save() {
    let server = TestServer::with(&["--io-threads", "1"]);
    // So many that commits come faster than the list is scanned.
    for batch in 0..2 {
        let streams: Vec<Value> = (0..10_000)
            .map(|at| json!({"name": format!("{batch}-{at}"), "comment": "hay ".repeat(200)}))
            .collect();
        server.put("/streams/batch", json!(streams)).expect(204);
    }
    let mut poll = server.connect();
    let request = get_request(&format!("/streams?q=needle&{LONG}"), "");
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while !ended.load(Ordering::Relaxed) {
                at += 1;
                save(&server, "other", json!({"title": format!("hay {at}")}));
            }
        });
        let _end = EndOnDrop(&ended);
        poll.send(request.as_bytes());
        let parked = || metric(&server, "weir_polls_parked");
        wait_until("the poll is parked", parked, |parked| *parked == 1);
        save(&server, "match", json!({"title": "needle"}));
        let page = poll.response(false).expect(200);
        assert_eq!(stream_names(&page), ["match"]);
    });
}

#[test]
fn equal_parked_queries_get_equal_responses() {
    let server = TestServer::with(&["--io-threads", "2"]);
    let since = save(&server, "a", json!({}));
    let question = format!("/streams?updated_at_gt={since}&select=title&{LONG}");
    let mut polls: Vec<Client> = (0..100).map(|_| park(&server, &question, "")).collect();
    let mut others: Vec<Client> = (0..10)
        .map(|i| {
            park(
                &server,
                &format!("/streams?updated_at_gt={since}&name=other-{i}&{LONG}"),
                "",
            )
        })
        .collect();
    let at = save(&server, "b", json!({"title": "One"}));
    let expected = json!([{"name": "b", "title": "One", "updated_at": at}]);
    for poll in &mut polls {
        let answer = poll.response(false).expect(200);
        assert_eq!(answer.json()["streams"], expected);
    }
    // Different questions: each gets its own stream only, in whatever order they come.
    for (i, poll) in others.iter_mut().enumerate().rev() {
        save(&server, &format!("other-{i}"), json!({}));
        assert_eq!(
            stream_names(&poll.response(false).expect(200)),
            [format!("other-{i}")]
        );
    }
    // A connection that was woken serves on.
    for poll in polls.iter_mut().take(3) {
        poll.send(get_request("/streams?name=b", "").as_bytes());
        assert_eq!(stream_names(&poll.response(false).expect(200)), ["b"]);
    }
}

#[test]
fn parked_polls_keep_their_own_coding_and_selection() {
    let server = TestServer::new();
    let since = save(&server, "a", json!({}));
    let path = format!("/streams?updated_at_gt={since}&{LONG}");
    let mut plain = park(&server, &path, "");
    let mut gzip = park(&server, &path, "Accept-Encoding: gzip\r\n");
    let mut zstd = park(&server, &path, "Accept-Encoding: zstd\r\n");
    save(&server, "b", json!({"comment": "c".repeat(10_000)}));
    let answers = [&mut plain, &mut gzip, &mut zstd].map(|poll| poll.response(false).expect(200));
    let codings = answers
        .each_ref()
        .map(|answer| answer.header("content-encoding"));
    assert_eq!(codings, [None, Some("gzip"), Some("zstd")]);
    assert!(answers.iter().all(|answer| stream_names(answer) == ["b"]));
    assert!(answers[1].body.len() < answers[0].body.len());
}

/// One follower: polls for everything newer than it has, page by page, and checks what every
/// answer must keep.
struct Follower {
    client: Client,
    since: u64,
    copy: BTreeMap<String, (u64, u64)>,
}

impl Follower {
    fn new(server: &TestServer) -> Self {
        Self {
            client: server.connect(),
            since: 0,
            copy: BTreeMap::new(),
        }
    }

    fn query(&mut self, query: &str) -> Value {
        self.client
            .send(get_request(&format!("/streams?{query}"), "").as_bytes());
        self.client.response(false).expect(200).json()
    }

    /// Follows until it has seen `last`, a stream that is written when everything else is.
    fn follow(mut self, limit: usize, last: &str) -> BTreeMap<String, (u64, u64)> {
        while !self.copy.contains_key(last) {
            let gt = self.since;
            let question =
                format!("updated_at_gt={gt}&sort=updated_at&limit={limit}&select=comment&{LONG}");
            let mut page = self.query(&question);
            loop {
                let streams = page["streams"].as_array().expect("streams");
                let mut largest = 0;
                for stream in streams {
                    let at = stream["updated_at"].as_u64().expect("a stamp");
                    let n = stream["comment"]
                        .as_str()
                        .expect("a comment")
                        .parse()
                        .expect("a number");
                    let name = stream["name"].as_str().expect("a name");
                    assert!(at > gt, "forward: {at} is not above {gt}");
                    assert!(at >= largest, "in the order of stamps");
                    largest = at;
                    let seen = self.copy.entry(name.to_owned()).or_default();
                    assert!(
                        *seen <= (at, n),
                        "{name} went back from {seen:?} to {:?}",
                        (at, n)
                    );
                    *seen = (at, n);
                }
                self.since = self.since.max(largest);
                let next = page["next"].as_str().map(str::to_owned);
                let Some(next) = next else { break };
                page = self.query(&format!("{question}&cursor={}", encode_segment(&next)));
            }
        }
        self.copy
    }
}

#[test]
fn followers_miss_nothing_and_never_go_back() {
    // Goal: complete, forward, no group of equal stamps split for good. Method: writers on two
    // cores save single streams and batches (whose streams share a stamp) under followers with
    // pages smaller than a batch; each follower's copy must end as the store.
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 120;
    let server = TestServer::with(&["--io-threads", "2"]);
    let server = &server;
    let copies: Vec<BTreeMap<String, (u64, u64)>> = thread::scope(|scope| {
        let followers: Vec<_> = [1, 3, 7, 100, 1000]
            .into_iter()
            .map(|limit| {
                let follower = Follower::new(server);
                scope.spawn(move || follower.follow(limit, "zz-last"))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut client = server.connect();
                    let auth = format!("Bearer {API_KEY}");
                    let fields = [("Authorization", auth.as_str())];
                    for n in 1..=ROUNDS {
                        let answer =
                            if n % 4 == 0 {
                                let batch: Vec<Value> = (0..10)
                                .map(|i| json!({
                                    "name": format!("w{writer}/{i}"), "comment": n.to_string(),
                                }))
                                .collect();
                                client.request(
                                    "PUT",
                                    &format!("{PREFIX}/streams/batch"),
                                    &fields,
                                    json!(batch).to_string().as_bytes(),
                                )
                            } else {
                                let body = json!({"comment": n.to_string()}).to_string();
                                let path = format!("{PREFIX}/streams/w{writer}/{}", n % 7);
                                client.request("PUT", &path, &fields, body.as_bytes())
                            };
                        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("the writer wrote");
        }
        save(server, "zz-last", json!({"comment": "0"}));
        followers
            .into_iter()
            .map(|follower| follower.join().expect("the follower is content"))
            .collect()
    });
    let stored = server
        .get("/streams?limit=10000&select=comment")
        .expect(200)
        .json();
    let stored: BTreeMap<String, (u64, u64)> = stored["streams"]
        .as_array()
        .expect("streams")
        .iter()
        .map(|stream| {
            let n = stream["comment"]
                .as_str()
                .expect("comment")
                .parse()
                .expect("number");
            let at = stream["updated_at"].as_u64().expect("stamp");
            (stream["name"].as_str().expect("name").to_owned(), (at, n))
        })
        .collect();
    assert_eq!(stored.len() as u64, WRITERS * 10 + 1);
    for copy in copies {
        assert_eq!(copy, stored);
    }
}

// ---- configurations of streamers ----------------------------------------------------------------

#[test]
fn streamer_wakes_only_when_its_configuration_changes() {
    let server = TestServer::with(&["--io-threads", "2"]);
    for host in ["s1", "s2"] {
        save_node(&server, host);
    }
    save(&server, "a", json!({"title": "One"}));
    save(&server, "b", json!({}));
    lay_out(&server, &[("a", "s1")]);
    lay_out(&server, &[("b", "s2")]);
    let first = server.get("/streamers/s1/streams").expect(200);
    assert_eq!(stream_names(&first), ["a"]);
    let tag = etag(&first);
    let mut poll = park(
        &server,
        &format!("/streamers/s1/streams?{LONG}"),
        &if_none_match(&tag),
    );
    // Nothing of this concerns s1: another node's stream, and fields that no node receives.
    save(&server, "b", json!({"title": "Two"}));
    save(&server, "a", json!({"labels": {"k": "v"}}));
    save(&server, "c", json!({}));
    lay_out(&server, &[("c", "s2")]);
    let same = server.get("/streamers/s1/streams").expect(200);
    assert_eq!(same.etag(), Some(tag.as_str()), "the tag of s1 stands");
    save(&server, "a", json!({"title": "Three"}));
    let answer = poll.response(false).expect(200);
    assert_eq!(stream_names(&answer), ["a"]);
    assert_eq!(answer.json()["streams"][0]["title"], "Three");
    assert_ne!(etag(&answer), tag);
    assert_eq!(etag(&answer), etag(&server.get("/streamers/s1/streams")));

    // Taking a stream away is a change, and so is giving it back.
    let mut poll = park(
        &server,
        &format!("/streamers/s1/streams?{LONG}"),
        &if_none_match(&etag(&answer)),
    );
    lay_out(&server, &[("a", "s2")]);
    assert_eq!(
        stream_names(&poll.response(false).expect(200)),
        Vec::<String>::new()
    );
}

#[test]
fn streamer_without_changes_gets_304_at_its_deadline() {
    let server = TestServer::new();
    save_node(&server, "s1");
    save(&server, "a", json!({}));
    lay_out(&server, &[("a", "s1")]);
    let first = server.get("/streamers/s1/streams").expect(200);
    let tag = etag(&first);
    let answer = server
        .call_with(
            "GET",
            "/streamers/s1/streams?poll_timeout=1",
            &[("If-None-Match", &tag)],
            b"",
        )
        .expect(304);
    assert_eq!(etag(&answer), tag);
    // Without an ETag, or with an old one, the poll is answered at once.
    for fields in [&[][..], &[("If-None-Match", "\"old\"")]] {
        let path = format!("/streamers/s1/streams?{LONG}");
        server.call_with("GET", &path, fields, b"").expect(200);
    }
    // A wait makes no sense for a part of the list.
    let answer = server.get("/streamers/s1/streams?limit=1&poll_timeout=1");
    assert_eq!(answer.expect(400).errors(), ["not_combinable poll_timeout"]);
}

#[test]
fn shorter_dead_timeout_ends_polls_that_would_wait_longer() {
    // Goal: a streamer is not lost because it was allowed to wait before. Method: polls for the
    // whole list and for changes that may wait for 200 s, which is longer than any test; the
    // configuration does not change.
    let server = TestServer::with(&["--poll-wait-max", "10m"]);
    let set = |ms: u64| {
        let settings = json!({"api_key": API_KEY, "streamer_dead_timeout": ms});
        server.put("/config", settings).expect(200);
    };
    set(600_000);
    save_node(&server, "s1");
    let whole = server.get("/streamers/s1/streams").expect(200);
    let revision = &whole.json()["revision"];
    let path = "/streamers/s1/streams?poll_timeout=600";
    let mut list = park(&server, path, &if_none_match(&etag(&whole)));
    let mut delta = park(&server, &format!("{path}&changes_since={revision}"), "");
    // A list that is no configuration of a streamer goes on waiting.
    let mut streams = park(&server, "/streams?poll_timeout=600", "");
    set(300_000);
    assert_eq!(etag(&list.response(false).expect(304)), etag(&whole));
    let body = delta.response(false).expect(200).json();
    assert_eq!(
        (&body["revision"], &body["streams"]),
        (revision, &json!([]))
    );
    save(&server, "a", json!({}));
    assert_eq!(stream_names(&streams.response(false).expect(200)), ["a"]);
}

#[test]
fn parked_delta_lists_changed_and_removed_streams() {
    let server = TestServer::new();
    save_node(&server, "s1");
    for name in ["a", "b", "c"] {
        save(&server, name, json!({}));
        lay_out(&server, &[(name, "s1")]);
    }
    let whole = server.get("/streamers/s1/streams").expect(200);
    let mut revision = whole.json()["revision"].as_u64().expect("a revision");
    let delta = |revision: u64| {
        park(
            &server,
            &format!("/streamers/s1/streams?changes_since={revision}&{LONG}"),
            "",
        )
    };
    let mut poll = delta(revision);
    save(&server, "elsewhere", json!({}));
    save(&server, "b", json!({"title": "New"}));
    let answer = poll.response(false).expect(200);
    assert_eq!(stream_names(&answer), ["b"]);
    assert_eq!(answer.json()["removed"], json!([]));
    assert_eq!(etag(&answer), etag(&server.get("/streamers/s1/streams")));
    let next = answer.json()["revision"].as_u64().expect("a revision");
    assert!(next > revision);

    let mut poll = delta(next);
    server.delete("/streams/a").expect(204);
    let answer = poll.response(false).expect(200);
    assert_eq!(answer.json()["removed"], json!(["a"]));
    assert_eq!(stream_names(&answer), Vec::<String>::new());
    revision = answer.json()["revision"].as_u64().expect("a revision");

    let path = format!("/streamers/s1/streams?changes_since={revision}&poll_timeout=1");
    let answer = server.get(&path).expect(200);
    let body = answer.json();
    assert_eq!(
        (&body["removed"], &body["streams"], &body["revision"]),
        (&json!([]), &json!([]), &json!(revision))
    );
    assert_eq!(etag(&answer), etag(&server.get("/streamers/s1/streams")));
    let answer = server.get("/streamers/s1/streams?changes_since=99999999");
    assert_eq!(answer.expect(410).errors(), ["revision_gone changes_since"]);
}

#[test]
fn streamer_deleted_while_parked_gets_404() {
    let server = TestServer::new();
    save_node(&server, "s1");
    let tag = etag(&server.get("/streamers/s1/streams").expect(200));
    let mut whole = park(
        &server,
        &format!("/streamers/s1/streams?{LONG}"),
        &if_none_match(&tag),
    );
    let revision = server.get("/streamers/s1/streams").json()["revision"].clone();
    let mut delta = park(
        &server,
        &format!("/streamers/s1/streams?changes_since={revision}&{LONG}"),
        "",
    );
    server.delete("/streamers/s1").expect(204);
    for poll in [&mut whole, &mut delta] {
        assert_eq!(
            poll.response(false).expect(404).errors(),
            ["streamer_not_found"]
        );
    }
    // Created again, it is another streamer: its first poll is answered in full.
    save_node(&server, "s1");
    let fresh = server.call_with(
        "GET",
        "/streamers/s1/streams",
        &[("If-None-Match", &tag)],
        b"",
    );
    assert_ne!(etag(&fresh.expect(200)), tag);
}

#[test]
fn each_parked_streamer_gets_its_own_list() {
    // Goal: no node gets another node's answer. Method: 40 nodes wait on two cores, some twice; one
    // batch changes all but every fifth.
    let server = TestServer::with(&["--io-threads", "2"]);
    let hosts: Vec<String> = (0..40).map(|i| format!("node-{i}")).collect();
    let streamers: Vec<Value> = hosts
        .iter()
        .map(|host| {
            json!({
                "hostname": host, "role": "streamer", "cluster_key": "k",
                "api_url": format!("http://{host}"),
            })
        })
        .collect();
    server.put("/streamers/batch", json!(streamers)).expect(204);
    let streams: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"name": format!("on-{host}")}))
        .collect();
    server.put("/streams/batch", json!(streams)).expect(204);
    let layouts: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"name": format!("on-{host}"), "ingest": host}))
        .collect();
    server
        .post("/streams/layouts", json!({"layouts": layouts}))
        .expect(204);
    let mut polls: Vec<(String, Client)> = hosts
        .iter()
        .chain(hosts.iter().take(10))
        .map(|host| {
            let tag = etag(&server.get(&format!("/streamers/{host}/streams")));
            let path = format!("/streamers/{host}/streams?{LONG}");
            (host.clone(), park(&server, &path, &if_none_match(&tag)))
        })
        .collect();
    let quiet: BTreeSet<&String> = hosts.iter().step_by(5).collect();
    let edits: Vec<Value> = hosts
        .iter()
        .filter(|host| !quiet.contains(host))
        .map(|host| json!({"name": format!("on-{host}"), "title": "New"}))
        .collect();
    server.put("/streams/batch", json!(edits)).expect(204);
    for (host, poll) in &mut polls {
        if quiet.contains(host) {
            save(
                &server,
                &format!("on-{host}"),
                json!({"title": host.clone()}),
            );
        }
        let answer = poll.response(false).expect(200);
        assert_eq!(stream_names(&answer), [format!("on-{host}")]);
        assert!(answer.json()["streams"][0]["title"].is_string());
    }
}

// ---- what ends a wait ---------------------------------------------------------------------------

/// Open sockets and files of the server.
fn descriptors(server: &TestServer) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.id()))
        .expect("the process is there")
        .count()
}

#[test]
fn disconnected_clients_are_unparked() {
    let server = TestServer::new();
    save_node(&server, "s1");
    let since = save(&server, "a", json!({}));
    let tag = etag(&server.get("/streamers/s1/streams"));
    let mut probe = server.connect();
    let look = |probe: &mut Client| {
        probe.send(get_request("/monitoring/liveness", "").as_bytes());
        probe.response(false).expect(200);
        descriptors(&server)
    };
    let mut polls = Vec::new();
    for _ in 0..20 {
        let path = format!("/streamers/s1/streams?{LONG}");
        polls.push(park(&server, &path, &if_none_match(&tag)));
        let path = format!("/streams?updated_at_gt={since}&{LONG}");
        polls.push(park(&server, &path, ""));
    }
    let parked = look(&mut probe);
    assert!(parked > polls.len());
    // One ends its sending side only: its poll is ended, too.
    polls[0].shut_down_write();
    let half_closed = polls.swap_remove(0);
    let gone = polls.len() + 1;
    drop(polls);
    let look = || look(&mut probe);
    wait_until("clients that left are forgotten", look, |open| {
        *open <= parked - gone
    });
    drop(half_closed);
    // A commit for polls that are gone does no harm.
    save(&server, "a", json!({"title": "New"}));
    lay_out(&server, &[("a", "s1")]);
    assert_eq!(stream_names(&server.get("/streamers/s1/streams")), ["a"]);
}

#[test]
fn requests_behind_a_parked_poll_are_answered_after_it() {
    let server = TestServer::new();
    let since = save(&server, "a", json!({}));
    let mut poll = park(
        &server,
        &format!("/streams?updated_at_gt={since}&{LONG}"),
        "",
    );
    let body = br#"{"title":"Behind"}"#;
    let put = format!(
        "PUT {PREFIX}/streams/c HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    // In three pieces, so that a part of a request is there while the poll waits.
    let behind = [
        put.as_bytes(),
        body,
        get_request("/streams/c", "").as_bytes(),
    ]
    .concat();
    for piece in behind.chunks(behind.len() / 3 + 1) {
        poll.send(piece);
    }
    server.get("/streams/c").expect(404);
    save(&server, "b", json!({}));
    assert_eq!(stream_names(&poll.response(false).expect(200)), ["b"]);
    assert_eq!(poll.response(false).expect(200).json()["title"], "Behind");
    assert_eq!(poll.response(false).expect(200).json()["title"], "Behind");
}

#[test]
fn stop_answers_parked_polls_and_completes_requests() {
    let mut server = TestServer::with(&["--io-threads", "2"]);
    save_node(&server, "s1");
    let since = save(&server, "a", json!({}));
    lay_out(&server, &[("a", "s1")]);
    let whole = server.get("/streamers/s1/streams");
    let (tag, revision) = (etag(&whole), whole.json()["revision"].clone());
    let mut lists: Vec<Client> = (0..20)
        .map(|_| {
            let since = since + 1_000_000_000;
            park(
                &server,
                &format!("/streams?updated_at_gt={since}&{LONG}"),
                "",
            )
        })
        .collect();
    let path = format!("/streamers/s1/streams?{LONG}");
    let mut configs: Vec<Client> = (0..20)
        .map(|_| park(&server, &path, &if_none_match(&tag)))
        .collect();
    let mut delta = park(
        &server,
        &format!("/streamers/s1/streams?changes_since={revision}&{LONG}"),
        "",
    );
    // A save of which half has arrived.
    let body = json!({"title": "Half"}).to_string();
    let mut half = server.connect();
    half.send(get_request("/monitoring/liveness", "").as_bytes());
    half.response(false).expect(200);
    let put = format!(
        "PUT {PREFIX}/streams/half HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    half.send(put.as_bytes());
    half.response(false).expect(100);
    half.send(&body.as_bytes()[..5]);
    let mut idle = server.connect();
    idle.send(get_request("/monitoring/liveness", "").as_bytes());
    idle.response(false).expect(200);

    server.signal(weir_testkit::Signal::TERM);
    for poll in &mut configs {
        assert_eq!(etag(&poll.response(false).expect(304)), tag);
        assert!(poll.is_ended());
    }
    for poll in &mut lists {
        let answer = poll.response(false).expect(200);
        assert_eq!(stream_names(&answer), Vec::<String>::new());
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(poll.is_ended());
    }
    assert_eq!(
        delta.response(false).expect(200).json()["revision"],
        revision
    );
    assert!(idle.is_ended());
    half.send(&body.as_bytes()[5..]);
    let answer = half.response(false).expect(200);
    assert_eq!(answer.json()["title"], "Half");
    assert!(half.is_ended());
    let status = server.wait();
    assert!(status.success(), "{status}");
    server.start();
    assert_eq!(
        server.get("/streams/half").expect(200).json()["title"],
        "Half"
    );
    let again = server.call_with(
        "GET",
        "/streamers/s1/streams",
        &[("If-None-Match", &tag)],
        b"",
    );
    again.expect(304);
}

#[test]
fn polls_and_writes_over_restarts_lose_no_update() {
    // Goal: the property holds for followers that connect again. Method: one follower that polls
    // again from its last stamp after each kill.
    let mut server = TestServer::new();
    let mut since = 0;
    let mut copy: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..5u64 {
        for i in 0..5 {
            let at = save(
                &server,
                &format!("s{i}"),
                json!({"comment": round.to_string()}),
            );
            assert!(at > since, "a stamp after a restart is above all before");
        }
        if round % 2 == 0 {
            server.kill();
            server.start();
        }
        let answer = server.get(&format!(
            "/streams?updated_at_gt={since}&sort=updated_at&select=comment&{LONG}"
        ));
        for stream in answer.expect(200).json()["streams"]
            .as_array()
            .expect("streams")
        {
            since = since.max(stream["updated_at"].as_u64().expect("stamp"));
            let n = stream["comment"]
                .as_str()
                .expect("comment")
                .parse()
                .expect("number");
            copy.insert(stream["name"].as_str().expect("name").to_owned(), n);
        }
        assert!(
            copy.len() == 5 && copy.values().all(|n| *n == round),
            "{copy:?}"
        );
    }
}
