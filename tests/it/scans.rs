//! Scans of all streams, which several threads make: their answers while streams are saved and
//! deleted, while polls are parked, and when the server stops.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::calls::{get_request, names};
use crate::faults::limit_files;
use crate::memory::metric;
use crate::restricted::token;
use weir_testkit::{API_KEY, Client, Response, SetOnDrop, TestServer, encode_segment, wait_until};

/// So many that a list with [`filters`] is not finished before a core hands it over.
const STREAMS: usize = 9000;
const ZONES: usize = 4;

fn name(n: usize) -> String {
    format!("{}/c{n:04}", if n.is_multiple_of(3) { "a" } else { "b" })
}

/// Filters that all streams pass, as parameters.
fn filters() -> String {
    (0..50).map(|i| format!("&title_ne=none{i}")).collect()
}

/// In another order than the names.
fn title(n: usize) -> String {
    format!("t{:04}", n * 7919 % STREAMS)
}

fn filled() -> TestServer {
    let server = TestServer::new();
    fill(&server);
    server
}

fn fill(server: &TestServer) {
    let stream = |n: usize| {
        let labels = json!({"zone": format!("z{}", n % ZONES)});
        json!({"name": name(n), "title": title(n), "labels": labels})
    };
    let streams = (0..STREAMS).map(stream).collect();
    server.put("/streams/batch", streams).expect(204);
}

/// Streams of the walks; those of zone 0 are changed meanwhile.
fn in_order(zone: usize, namespace: &str) -> Vec<String> {
    let in_zone = (0..STREAMS).filter(|n| n % ZONES == zone);
    let seen = in_zone.filter(|n| name(*n).starts_with(namespace));
    let mut titled: Vec<(String, String)> = seen.map(|n| (title(n), name(n))).collect();
    titled.sort_unstable();
    titled.into_iter().map(|(_, name)| name).collect()
}

/// Saves and deletes streams of zone 0 until it is stopped.
fn write_until(server: &TestServer, stop: &AtomicBool) {
    for n in (0..STREAMS).step_by(ZONES).cycle() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let path = format!("/streams/{}", encode_segment(&name(n)));
        if n % 8 == 0 {
            server.delete(&path).expect(204);
        }
        let body = json!({"title": format!("t{n:04}"), "labels": {"zone": "z0"}});
        server.put(&path, body).expect(200);
    }
}

/// Walks over a list to its end and back. The names on the way there; the way back must have the
/// same.
fn walk(server: &TestServer, path: &str, authorization: &str) -> Vec<String> {
    let page = |cursor: &str| {
        let path = format!("{path}{cursor}");
        let page = server.call_as("GET", &path, Some(authorization));
        page.expect(200).json()
    };
    let further = |page: &Value, way: &str| {
        let cursor = page[way].as_str()?;
        Some(format!("&cursor={}", encode_segment(cursor)))
    };
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    let mut back = loop {
        let page = page(&cursor);
        pages.push(names(&page));
        match further(&page, "next") {
            Some(next) => cursor = next,
            None => break further(&page, "prev"),
        }
        assert!(pages.len() <= STREAMS, "{path} never ends");
    };
    for expected in pages.iter().rev().skip(1) {
        let page = page(&back.expect("a page before"));
        assert_eq!(names(&page), *expected, "{path}");
        back = further(&page, "prev");
    }
    assert_eq!(back, None, "{path}");
    pages.concat()
}

#[test]
fn walks_see_each_stream_once_while_others_are_written() {
    let server = filled();
    let permissions = json!([{"scopes": ["streams/a/*"], "list": true, "read": true}]);
    let of_a = token(&server, "t", json!({"permissions": permissions}));
    let admin = format!("Bearer {API_KEY}");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stopping = SetOnDrop(&stop);
        scope.spawn(|| write_until(&server, &stop));
        for (authorization, namespace) in [(&admin, ""), (&of_a, "a/")] {
            let path = "/streams?labels.zone=z1&sort=title&select=title&limit=200";
            let seen = walk(&server, &(path.to_owned() + &filters()), authorization);
            assert_eq!(seen, in_order(1, namespace), "{authorization}");
        }
        drop(stopping);
    });
    assert!(metric(&server, "weir_scans_total") >= 20);
}

#[test]
fn scans_find_what_pages_in_the_order_of_names_have() {
    let server = filled();
    let page = |query: &str| {
        let page = server.get(&format!("/streams?limit=10000&{query}{}", filters()));
        page.expect(200).json()
    };
    let all: BTreeSet<String> = names(&page("sort=name")).into_iter().collect();
    assert_eq!(all.len(), STREAMS);
    let before = metric(&server, "weir_scans_total");
    for (query, count) in [
        ("title_ne=none", STREAMS),
        ("sort=-title", STREAMS),
        ("q=B%2FC", STREAMS - STREAMS.div_ceil(3)),
        ("labels.zone=z2&placed=false", STREAMS / ZONES),
        (
            "sort=-stats.bitrate&name_gte=b",
            STREAMS - STREAMS.div_ceil(3),
        ),
        ("stats.status=running", 0),
    ] {
        let page = page(query);
        let found = names(&page);
        assert_eq!(page["estimated_count"], count, "{query}");
        assert_eq!(found.len(), count, "{query}");
        let found: BTreeSet<String> = found.into_iter().collect();
        assert!(found.len() == count && found.is_subset(&all), "{query}");
    }
    // A page for a client that continues from its last stamp, which all streams share.
    let page = server.get("/streams?updated_at_gt=0&sort=updated_at&limit=50");
    let page = page.expect(200).json();
    assert_eq!(names(&page).len(), STREAMS);
    assert_eq!(page["next"], Value::Null);
    let facets = server.get("/facets?of=streams&fields=labels.zone&q=b%2Fc");
    let facets = facets.expect(200).json();
    let values = facets["facets"][0]["values"].as_array().expect("values");
    let counts = values.iter().filter_map(|value| value["count"].as_u64());
    assert_eq!(counts.sum::<u64>(), (STREAMS - STREAMS.div_ceil(3)) as u64);
    let body = json!({"patch": {"comment": "x"}});
    let dry = server.post("/streams/batch_by_filter?labels.zone=z3", body);
    let dry = dry.expect(200).json();
    assert_eq!(dry["count"], STREAMS / ZONES);
    let sample = dry["sample"].as_array().expect("a sample").iter();
    let first: Vec<&str> = sample.filter_map(Value::as_str).collect();
    let of_zone = (0..STREAMS).filter(|n| n % ZONES == 3).map(name);
    let of_zone: BTreeSet<String> = of_zone.collect();
    assert!(of_zone.iter().take(first.len()).eq(first.iter()), "{dry}");
    let scans = metric(&server, "weir_scans_total") - before;
    assert!(scans >= 6, "{scans} scans");
}

#[test]
fn poll_whose_list_is_scanned_misses_no_save() {
    let server = filled();
    for n in 0..12 {
        let path = format!("/streams?comment=new{n}&poll_timeout=60{}", filters());
        let mut client = server.connect();
        client.send(get_request(&path, "").as_bytes());
        // While its list is scanned, or when it is parked, or before.
        let saved = format!("/streams/new{n}");
        let body = json!({"comment": format!("new{n}")});
        server.put(&saved, body).expect(200);
        let page = client.response(false).expect(200).json();
        assert_eq!(names(&page), [format!("new{n}")]);
    }
}

/// The most expensive list.
fn expensive() -> String {
    let path = format!("/streams?sort=-title&limit=10{}", filters());
    get_request(&path, "")
}

fn scanning(server: &TestServer, scans: usize) -> Vec<Client> {
    let request = expensive();
    let begin = |_| {
        let mut client = server.connect();
        client.send(request.as_bytes());
        client
    };
    (0..scans).map(begin).collect()
}

#[test]
fn scan_ends_when_its_client_is_gone() {
    let server = filled();
    let before = metric(&server, "weir_scans_total");
    let clients = scanning(&server, 4);
    let started = || metric(&server, "weir_scans_total") - before;
    wait_until("the scans begin", started, |scans| *scans >= 4);
    drop(clients);
    let running = || metric(&server, "weir_scans_running");
    wait_until("no scan runs", running, |scans| *scans == 0);
    let page = server.get("/streams?title=t0001&limit=10");
    assert_eq!(page.expect(200).json()["estimated_count"], 1);
}

#[test]
fn more_scans_than_fit_in_line_are_answered_with_a_full_disk() {
    // Goal: cores make the scans for which the threads have no room, scans write nothing, and what
    // a slow machine does not finish in time is refused, not shortened. Method: half as many scans
    // more than the line takes, at the same moment; then one alone.
    let server = TestServer::with(&["--layouter-enabled"]);
    fill(&server);
    limit_files(server.id(), Some(0));
    server.put("/streams/more", json!({})).expect(503);
    let last: Vec<String> = (STREAMS - 10..STREAMS)
        .rev()
        .map(|n| format!("t{n:04}"))
        .collect();
    let is_whole = |answer: &Response| {
        let page = answer.json();
        let items = page["streams"].as_array().expect("a list").iter();
        let titles: Vec<&str> = items.filter_map(|it| it["title"].as_str()).collect();
        page["estimated_count"] == STREAMS && titles == last
    };
    for mut client in scanning(&server, 96) {
        let answer = client.response(false);
        if answer.status == 503 {
            assert_eq!(answer.errors(), ["too_expensive"]);
        } else {
            assert!(is_whole(&answer.expect(200)));
        }
    }
    wait_until(
        "no scan runs",
        || metric(&server, "weir_scans_running"),
        |scans| *scans == 0,
    );
    let [mut alone] = scanning(&server, 1).try_into().ok().expect("one client");
    assert!(is_whole(&alone.response(false).expect(200)));
    limit_files(server.id(), None);
}

#[test]
fn server_that_stops_answers_its_scans_whole() {
    let mut server = filled();
    let mut poll = server.connect();
    let path = format!("/streams?comment=none&poll_timeout=60{}", filters());
    poll.send(get_request(&path, "").as_bytes());
    let scans = || ["total", "running"].map(|it| metric(&server, &format!("weir_scans_{it}")));
    wait_until("the poll is parked", scans, |scans| *scans == [1, 0]);
    let clients = scanning(&server, 3);
    wait_until("the scans begin", scans, |[total, _]| *total >= 4);
    let status = server.terminate();
    assert!(status.success(), "{status}");
    for mut client in clients {
        let page = client.response(false).expect(200).json();
        assert_eq!(page["estimated_count"], STREAMS);
        assert_eq!(names(&page).len(), 10);
    }
    let page = poll.response(false).expect(200).json();
    assert_eq!(names(&page), Vec::<String>::new());
}
