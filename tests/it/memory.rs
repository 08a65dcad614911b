//! What clients can take of memory is bounded and counted.

use std::io::{Read as _, Write as _};

use crate::calls::get_request;
use serde_json::json;
use weir_testkit::{API_KEY, Client, PREFIX, TestServer, wait_until};

/// The value of a metric.
pub fn metric(server: &TestServer, name: &str) -> u64 {
    let get = || server.get("/cluster/stats?format=openmetrics");
    let text = wait_until("the metrics", get, |answer| answer.status == 200).text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{name}: {text}"))
}

fn put_head(length: usize) -> String {
    format!(
        "PUT {PREFIX}/streams/a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

#[test]
fn operations_without_credentials_take_small_bodies_only() {
    let server = TestServer::new();
    for path in ["/endpoint/connect", "/lb/stream/index.m3u8"] {
        for (length, is_refused) in [(4096, false), (4097, true)] {
            let mut client = server.connect();
            let head = format!(
                "POST {PREFIX}{path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            client.send(head.as_bytes());
            let status = client.response(false).status;
            assert_eq!(status == 413, is_refused, "{path} {length}: {status}");
        }
    }
    // Preflight requests of browsers, too.
    let mut client = server.connect();
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: h\r\nContent-Length: 4097\r\n\r\n");
    client.response(false).expect(413);
}

#[test]
fn silent_senders_hold_no_more_than_the_budget() {
    let server = TestServer::with(&["--io-threads", "1", "--connection-buffers", "16MiB"]);
    let mut senders: Vec<Client> = Vec::new();
    let piece = vec![b' '; 1_000_000];
    let send_one = || {
        let mut client = server.connect();
        client.send(put_head(piece.len() + 2).as_bytes());
        // The server may have closed the connection already.
        let _ = client.stream().expect("a socket").write_all(&piece);
        senders.push(client);
        metric(&server, "weir_http_refused_by_memory_total")
    };
    wait_until("a sender is refused", send_one, |refused| *refused > 0);
    let held = metric(&server, "weir_http_arriving_bytes");
    assert!((1_000_000..=8 << 20).contains(&held), "{held}");
    assert!(senders.len() >= 8, "{}", senders.len());
    // Small requests go on.
    server.put("/streams/small", json!({})).expect(200);
    drop(senders);
    let arriving = || metric(&server, "weir_http_arriving_bytes");
    wait_until("memory of closed connections is free", arriving, |held| {
        *held == 0
    });
}

#[test]
fn readers_that_take_nothing_hold_no_more_than_the_budget() {
    // Goal: many clients that request large lists and read nothing cannot take memory without
    // bound. Method: requests until one is refused; what is held then is counted. Clients of
    // HTTP/1.0 cannot be sent a page in pieces.
    let server = TestServer::with(&["--io-threads", "1", "--connection-buffers", "16MiB"]);
    let comment = "x".repeat(4000);
    let stream = |i: u32| json!({"name": format!("s{i:04}"), "comment": comment});
    server
        .put("/streams/batch", (0..1500).map(stream).collect())
        .expect(204);
    let before = resident_bytes(&server);
    let request = get_request("/streams?limit=10000", "").replace("/1.1", "/1.0");
    let mut readers: Vec<Client> = Vec::new();
    let refused = || metric(&server, "weir_http_refused_by_memory_total");
    while refused() < 40 {
        assert!(
            readers.len() < 400,
            "{} refused of {}",
            refused(),
            readers.len()
        );
        let mut client = server.connect();
        client.send(request.as_bytes());
        assert!(["200", "503"].contains(&status_of(&mut client).as_str()));
        readers.push(client);
    }
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown}");
    drop(readers);
    let status = || server.get("/streams/s0001").status;
    wait_until("memory of closed connections is free", status, |status| {
        *status == 200
    });
}

#[test]
fn lists_that_are_run_at_once_hold_no_more_than_the_budget() {
    // Goal: lists that were all requested before the first was answered are bounded, too. Method:
    // more of them than fit, of clients that take the first bytes of their answers only.
    let server = TestServer::with(&["--io-threads", "1", "--connection-buffers", "16MiB"]);
    let comment = "x".repeat(4000);
    let stream = |i: u32| json!({"name": format!("s{i:04}"), "comment": comment});
    server
        .put("/streams/batch", (0..500).map(stream).collect())
        .expect(204);
    let before = resident_bytes(&server);
    for (query, version) in [
        ("", "1.0"),
        ("&sort=-name", "1.0"),
        ("&sort=comment", "1.1"),
    ] {
        let path = format!("/streams?limit=10000{query}");
        let request = get_request(&path, "").replace("/1.1", &format!("/{version}"));
        let send = |_| {
            let mut client = server.connect();
            client.send(request.as_bytes());
            client
        };
        let mut readers: Vec<Client> = (0..100).map(send).collect();
        let statuses: Vec<String> = readers.iter_mut().map(status_of).collect();
        let count = |of: &str| statuses.iter().filter(|status| *status == of).count();
        let grown = resident_bytes(&server).saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} {path}");
        assert!(count("200") >= 1, "{statuses:?}");
        assert_eq!(count("200") + count("503"), 100, "{statuses:?}");
        assert!(version == "1.1" || count("503") > 20, "{statuses:?}");
        drop(readers);
        let unsent = || metric(&server, "weir_http_unsent_bytes");
        wait_until("memory is free", unsent, |bytes| *bytes == 0);
    }
}

/// The status of the answer, of which the rest stays unread.
fn status_of(client: &mut Client) -> String {
    let mut line = [0; 12];
    let mut socket = client.stream().expect("a socket");
    socket.read_exact(&mut line).expect("an answer");
    String::from_utf8_lossy(&line[9..]).into_owned()
}

/// Memory that the program uses now.
pub fn resident_bytes(server: &TestServer) -> u64 {
    let path = format!("/proc/{}/status", server.id());
    let status = std::fs::read_to_string(path).expect("it runs");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = rss.and_then(|rss| rss.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number") * 1024
}
