//! Large pages of lists are sent in pieces, each rendered when its client has taken the last one.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::calls::{get_request, names};
use crate::memory::metric;
use weir_testkit::{API_KEY, Client, ClientError, Response, Signal, TestServer, wait_until};

const STREAMS: u32 = 2000;
/// More than the buffers of both sockets take.
const PAGE: &str = "/streams?limit=10000";

/// A server whose list is a page of 10 MB.
fn filled(arguments: &[&str]) -> TestServer {
    let server = TestServer::with(&[&["--list-page-bytes", "64MiB"], arguments].concat());
    save_all(&server, "x");
    server
}

fn save_all(server: &TestServer, letter: &str) {
    let comment = letter.repeat(5000);
    let stream = |i: u32| json!({"name": format!("s{i:04}"), "comment": comment, "position": i});
    let streams = (0..STREAMS).map(stream).collect();
    server.put("/streams/batch", streams).expect(204);
}

/// Requests a page and returns when its beginning has arrived, which is not read.
fn begin(server: &TestServer, request: &str) -> Client {
    let mut client = server.connect();
    client.send(request.as_bytes());
    assert!(peek(&client.stream().expect("a socket")) > 0, "no response");
    client
}

/// Waits for bytes, within the time that a client waits for a response.
fn peek(stream: &TcpStream) -> usize {
    stream.peek(&mut [0; 1]).expect("a response")
}

/// A page without what differs between two equal requests.
fn page(response: &Response) -> Value {
    let body = response.decoded().expect("a coding that it names");
    let mut page: Value = serde_json::from_slice(&body).expect("JSON");
    page["timing"] = Value::Null;
    page
}

#[test]
fn page_in_pieces_is_the_whole_page() {
    let server = filled(&[]);
    for query in ["", "&sort=-name", "&sort=-position", "&position_gte=1000"] {
        let path = format!("{PAGE}{query}");
        let mut old = server.connect();
        old.send(get_request(&path, "").replace("/1.1", "/1.0").as_bytes());
        let whole = old.response(false).expect(200);
        assert!(whole.header("Content-Length").is_some());
        let whole = page(&whole);
        assert_eq!(whole["estimated_count"], names(&whole).len());
        let mut client = server.connect();
        for coding in ["identity", "gzip", "zstd"] {
            let fields = format!("Accept-Encoding: {coding}\r\nPrefer: handling=strict\r\n");
            client.send(get_request(&path, &fields).as_bytes());
            let response = client.response(false).expect(200);
            assert_eq!(response.header("Transfer-Encoding"), Some("chunked"));
            assert_eq!(response.header("Cache-Control"), Some("no-store"));
            assert_eq!(
                response.header("Preference-Applied"),
                Some("handling=strict")
            );
            let named = response.header("Content-Encoding").unwrap_or("identity");
            assert_eq!(named, coding);
            assert!(coding == "identity" || response.body.len() < 1_000_000);
            assert_eq!(page(&response), whole, "{query} {coding}");
        }
        // The connection goes on, and a request that was sent ahead is answered in order.
        let ahead = get_request(&path, "") + &get_request("/streams/s0001", "");
        client.send(ahead.as_bytes());
        assert_eq!(page(&client.response(false).expect(200)), whole);
        assert_eq!(client.response(false).expect(200).json()["name"], "s0001");
        client.send(get_request(&path, "").replace("GET", "HEAD").as_bytes());
        let head = client.response(true).expect(200);
        assert!(head.header("Content-Length").is_some(), "nothing to divide");
    }
}

#[test]
fn readers_that_take_nothing_hold_one_piece_each() {
    const READERS: u64 = 12;
    const HELD_MAX: u64 = 1 << 20;
    let server = filled(&["--io-threads", "1", "--connection-buffers", "96MiB"]);
    for fields in ["", "Accept-Encoding: gzip\r\n"] {
        let request = get_request(&format!("{PAGE}&sort=-position"), fields);
        let readers: Vec<Client> = (0..READERS).map(|_| begin(&server, &request)).collect();
        let unsent = metric(&server, "weir_http_unsent_bytes");
        assert!(unsent < READERS * HELD_MAX, "{unsent}");
        if fields.is_empty() {
            assert!(unsent > 0, "the sockets took everything");
        }
        assert_eq!(metric(&server, "weir_http_refused_by_memory_total"), 0);
        server.get("/streams/s0001").expect(200);
        // A reader that goes on gets all of it.
        let response = begin(&server, &request).response(false).expect(200);
        assert_eq!(names(&page(&response)).len(), STREAMS as usize);
        drop(readers);
        let unsent = || metric(&server, "weir_http_unsent_bytes");
        wait_until("the memory of clients that left is free", unsent, |held| {
            *held == 0
        });
    }
}

#[test]
fn page_is_of_one_revision_whatever_is_saved_meanwhile() {
    let server = filled(&[]);
    let mut reader = begin(&server, &get_request(PAGE, ""));
    save_all(&server, "y");
    server.delete("/streams/s1999").expect(204);
    let page = page(&reader.response(false).expect(200));
    assert_eq!(page["estimated_count"], STREAMS);
    for stream in page["streams"].as_array().expect("streams") {
        let comment = stream["comment"].as_str().expect("a comment");
        assert!(comment.starts_with('x'), "{}", stream["name"]);
    }
}

#[test]
fn page_of_a_token_ends_with_its_right_to_it() {
    let server = filled(&[]);
    let permissions = json!([{"scopes": ["*"], "list": true, "read": true}]);
    let token = server.put("/api_tokens/t", json!({"permissions": permissions}));
    let key = token.expect(200).json()["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let request = get_request(PAGE, "").replace(API_KEY, &key);
    let mut reader = begin(&server, &request);
    server.delete("/api_tokens/t").expect(204);
    let ended = reader.try_response(false);
    assert!(
        matches!(ended, Err(ClientError::Truncated(_))),
        "{:?}",
        ended.map(|response| response.body.len())
    );
}

#[test]
fn page_that_has_begun_is_sent_to_the_end_when_the_server_stops() {
    let mut server = filled(&[]);
    let mut reader = begin(&server, &get_request(PAGE, ""));
    server.signal(Signal::TERM);
    let accepts = || TcpStream::connect(server.address()).is_ok();
    wait_until("the server stops", accepts, |accepts| !accepts);
    let response = reader.response(false).expect(200);
    assert_eq!(names(&page(&response)).len(), STREAMS as usize);
    assert!(server.wait().success());
}
