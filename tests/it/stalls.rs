//! No request keeps a core from its other requests for long, and what is answered by another
//! thread is answered as on the core.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use weir_testkit::{API_KEY, Client, PREFIX, Response, TestServer, wait_until};

use crate::calls::{get_request, lay_out, names, park, save_node};
use crate::memory::metric;
use crate::restricted::token;

/// More streams than one core renders in one piece.
const STREAMS: usize = 10_000;

fn one_core() -> TestServer {
    TestServer::with(&["--io-threads", "1"])
}

fn name(n: usize) -> String {
    format!("a{n:05}")
}

/// A batch of streams that is read by another thread.
fn large_batch(title: &str) -> Vec<u8> {
    let stream = |n| {
        json!({
            "name": name(n),
            "title": title,
            "inputs": [{"url": format!("udp://239.0.0.1:{}", 1 + n)}],
            "comment": "x".repeat(100),
        })
    };
    let streams: Vec<Value> = (0..STREAMS).map(stream).collect();
    json!(streams).to_string().into_bytes()
}

/// A server with a streamer that has all streams.
fn with_large_node() -> TestServer {
    let server = one_core();
    save_node(&server, "s1");
    server
        .call("PUT", "/streams/batch", &large_batch("one"))
        .expect(204);
    let all: Vec<String> = (0..STREAMS).map(name).collect();
    let places: Vec<(&str, &str)> = all.iter().map(|name| (name.as_str(), "s1")).collect();
    lay_out(&server, &places);
    server
}

fn put_head(path: &str, authorization: &str, length: usize) -> String {
    format!(
        "PUT {PREFIX}{path} HTTP/1.1\r\nHost: t\r\nAuthorization: {authorization}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

fn admin() -> String {
    format!("Bearer {API_KEY}")
}

/// Sends a request up to its last byte, which is sent when the server has the rest.
fn send_slowly(server: &TestServer, client: &mut Client, head: &str, body: &[u8]) {
    client.send(head.as_bytes());
    client.send(&body[..body.len() - 1]);
    let arrived = || metric(server, "weir_http_arriving_bytes");
    wait_until("the body arrives", arrived, |bytes| {
        *bytes >= body.len() as u64
    });
    client.send(&body[body.len() - 1..]);
}

/// Sends a request until others were answered while it was being answered. Returns its response.
fn others_go_on(server: &TestServer, send: impl Fn(&mut Client)) -> Response {
    const OTHERS: usize = 5;
    let mut most = 0;
    for _ in 0..20 {
        let mut slow = server.connect();
        let mut other = server.connect();
        let probe = get_request("/monitoring/liveness", "");
        send(&mut slow);
        let is_done = AtomicBool::new(false);
        let (response, others) = thread::scope(|scope| {
            let response = scope.spawn(|| {
                let response = slow.response(false);
                is_done.store(true, Ordering::Release);
                response
            });
            let mut others = 0;
            while !is_done.load(Ordering::Acquire) {
                other.send(probe.as_bytes());
                other.response(false).expect(200);
                others += 1;
            }
            (response.join().expect("a response"), others)
        });
        if others >= OTHERS {
            return response;
        }
        most = most.max(others);
    }
    panic!("at most {most} other requests were answered meanwhile");
}

#[test]
fn others_are_answered_while_a_large_batch_is_read() {
    let server = one_core();
    let body = large_batch("one");
    let head = put_head("/streams/batch", &admin(), body.len());
    others_go_on(&server, |client| send_slowly(&server, client, &head, &body)).expect(204);
    // Also one that is refused.
    let mut body = body;
    let end = body.len() - 2;
    body[end] = b'x';
    let refused = others_go_on(&server, |client| send_slowly(&server, client, &head, &body));
    let error = &refused.expect(400).json()["errors"][0];
    assert_eq!(error["code"], "invalid_json", "{error}");
    assert!(metric(&server, "weir_offload_jobs_total") >= 2);
    let held = || metric(&server, "weir_offload_bytes");
    wait_until("jobs have ended", held, |bytes| *bytes == 0);
}

#[test]
fn others_are_answered_while_a_large_configuration_is_rendered() {
    let server = with_large_node();
    let (mut title, path) = (0, "/streamers/s1/streams");
    let change_all = |title: u64| {
        server
            .call(
                "PUT",
                "/streams/batch",
                &large_batch(&format!("all {title}")),
            )
            .expect(204);
    };
    for fields in ["", "Accept-Encoding: gzip\r\n"] {
        let whole = others_go_on(&server, |client| {
            // The answer of each generation is kept.
            server
                .put(&format!("/streams/{}", name(7)), json!({"title": rand()}))
                .expect(200);
            client.send(get_request(path, fields).as_bytes());
        });
        assert_eq!(names(&whole.expect(200).json()).len(), STREAMS);
    }
    let list = others_go_on(&server, |client| {
        client.send(get_request(&format!("{path}?sort=-title&limit=10"), "").as_bytes());
    });
    assert_eq!(names(&list.expect(200).json()).len(), 10);
    let all: Vec<String> = (0..STREAMS).map(name).collect();
    let some = &all[..1000];
    let named = format!("/streamers/s1/update-streams?name={}", some.join(","));
    assert_eq!(names(&server.get(&named).expect(200).json()), some);
    for fields in ["", "Accept-Encoding: zstd\r\n"] {
        let since = server.get(path).expect(200).json()["revision"].clone();
        title += 1;
        change_all(title);
        let delta = others_go_on(&server, |client| {
            client.send(get_request(&format!("{path}?changes_since={since}"), fields).as_bytes());
        });
        let delta = delta.expect(200).json();
        assert_eq!(names(&delta), all);
        assert!(delta["streams"].as_array().is_some_and(|streams| {
            streams
                .iter()
                .all(|stream| stream["title"] == format!("all {title}"))
        }));
    }
}

/// A number that differs at each call.
fn rand() -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed).to_string()
}

#[test]
fn parked_polls_of_a_large_node_get_whole_answers() {
    // Goal: what is rendered by another thread after a commit is complete and newest, for each way
    // to poll, and equal to what a request gets that was not parked.
    let server = with_large_node();
    let path = "/streamers/s1/streams";
    let whole = server.get(path).expect(200);
    let (tag, since) = (whole.etag().expect("a tag"), &whole.json()["revision"]);
    let known = format!("If-None-Match: {tag}\r\n");
    let mut polls = vec![
        park(&server, &format!("{path}?poll_timeout=60"), &known),
        park(&server, &format!("{path}?poll_timeout=60"), &known),
    ];
    let compressed = format!("{known}Accept-Encoding: gzip\r\n");
    polls.push(park(
        &server,
        &format!("{path}?poll_timeout=60"),
        &compressed,
    ));
    let delta = format!("{path}?poll_timeout=60&changes_since={since}");
    let mut delta = park(&server, &delta, "");
    server
        .call("PUT", "/streams/batch", &large_batch("two"))
        .expect(204);
    for poll in &mut polls {
        let answer = poll.response(false).expect(200).json();
        let newest = server.get(path).expect(200).json();
        assert_eq!(answer, newest);
        assert_eq!(answer["streams"][STREAMS - 1]["title"], "two");
    }
    let delta = delta.response(false).expect(200).json();
    assert_eq!(names(&delta).len(), STREAMS);
    assert_eq!(delta["removed"], json!([]));
}

#[test]
fn large_bodies_mean_the_same_as_small_ones() {
    let server = one_core();
    let body = large_batch("one");
    // A request behind it on the same connection is answered after it.
    let mut client = server.connect();
    client.send(put_head("/streams/batch", &admin(), body.len()).as_bytes());
    client.send(&body);
    client.send(get_request(&format!("/streams/{}", name(STREAMS - 1)), "").as_bytes());
    client.response(false).expect(204);
    client.response(false).expect(200);
    // In chunks.
    let body = large_batch("two");
    let head = format!(
        "PUT {PREFIX}/streams/batch HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    client.send(head.as_bytes());
    for chunk in body.chunks(50_000) {
        client.send(format!("{:x}\r\n", chunk.len()).as_bytes());
        client.send(chunk);
        client.send(b"\r\n");
    }
    client.send(b"0\r\n\r\n");
    client.send(get_request(&format!("/streams/{}", name(STREAMS - 1)), "").as_bytes());
    client.response(false).expect(204);
    assert_eq!(client.response(false).expect(200).json()["title"], "two");
    // A body whose item is refused names it.
    let mut streams: Value = serde_json::from_slice(&body).expect("JSON");
    streams[STREAMS - 1]["title"] = json!(1);
    let refused = server.put("/streams/batch", streams).expect(400).json();
    let pointer = refused["errors"][0]["source"]["pointer"].clone();
    assert_eq!(pointer, format!("/{}/title", STREAMS - 1));
    assert!(metric(&server, "weir_offload_jobs_total") >= 3);
}

#[test]
fn large_batches_of_a_token_end_with_its_right() {
    // Goal: a batch that another thread reads is saved as a whole or not at all, and not after its
    // token was deleted. Method: many batches wait for the thread when the token is deleted.
    let server = one_core();
    let key = token(
        &server,
        "t",
        json!({"permissions": [{"scopes": ["streams", "streams/*"], "write": true}]}),
    );
    let body = large_batch("one");
    let head = put_head("/streams/batch", &key, body.len());
    let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(head.as_bytes());
        client.send(&body);
    }
    let received = || metric(&server, "weir_http_received_bytes_total");
    wait_until("a batch arrives", received, |bytes| {
        *bytes > body.len() as u64
    });
    server.delete("/api_tokens/t").expect(204);
    let saved = server.get("/streams?limit=1").expect(200).json()["estimated_count"].clone();
    let answers: Vec<u16> = clients
        .iter_mut()
        .map(|client| client.response(false).status)
        .collect();
    assert!(
        answers.iter().all(|it| [204, 401].contains(it)),
        "{answers:?}"
    );
    assert_eq!(saved == 0, !answers.contains(&204), "{saved} {answers:?}");
    let later = server.get("/streams?limit=1").expect(200).json()["estimated_count"].clone();
    assert_eq!(later, saved);
}

#[test]
fn stalls_are_counted_for_every_core() {
    let server = TestServer::with(&["--io-threads", "2"]);
    let text = server
        .get("/cluster/stats?format=openmetrics")
        .expect(200)
        .text();
    for core in ["0", "1"] {
        let count = format!("weir_core_stall_seconds_count{{core=\"{core}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&count));
        let count: u64 = count.expect("a histogram").parse().expect("a count");
        assert!(count > 0, "{core}");
        assert!(text.contains(&format!("weir_core_stall_max_seconds{{core=\"{core}\"}}")));
    }
}

/// The timer of the server's end of a connection, as the kernel lists it: `02` are keepalives.
fn timer(server: SocketAddr, client: SocketAddr) -> Option<String> {
    let all = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists its sockets");
    let ends = format!(":{:04X} ", server.port());
    let peer = format!(":{:04X} ", client.port());
    let row = all.lines().find(|row| {
        let mut columns = row
            .split_inclusive(' ')
            .filter(|column| column.trim() != "");
        let (local, remote) = (columns.nth(1), columns.next());
        local.is_some_and(|it| it.ends_with(&ends)) && remote.is_some_and(|it| it.ends_with(&peer))
    })?;
    let timer = row.split_whitespace().nth(5)?;
    timer.split_once(':').map(|(kind, _)| kind.to_owned())
}

#[test]
fn machines_that_vanish_are_noticed_by_keepalives() {
    let server = one_core();
    let stream = TcpStream::connect(server.address()).expect("it listens");
    let client = stream.local_addr().expect("it is connected");
    let look = || timer(server.address(), client);
    wait_until("the connection is probed", look, |timer| {
        timer.as_deref() == Some("02")
    });
}
