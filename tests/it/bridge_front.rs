//! What a bridge listens for: players are redirected, and the hook of the media server is answered
//! by Weir's verdict.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::bridges::{Bridge, looking};
use crate::stub::{Stub, StubResponse};
use weir_testkit::Client;
use weir_testkit::fake::{FakeKind, FakeMediaMtx, FakeNodeMediaServer, FakeServer, FakeSrs};

/// A stand-in for Weir that answers everything with a list, and then as the test decides.
fn weir() -> Stub {
    let list = json!({
        "streams": [{"name": "cam 1", "inputs": [{"url": "rtsp://10.0.0.1/a"}]}],
        "estimated_count": 1,
    });
    Stub::new(StubResponse::with(
        200,
        "X-AuthDuration: 0\r\n",
        &list.to_string(),
    ))
}

/// A bridge that listens, and its address.
fn listening<K: FakeKind>(
    kind: &str,
    weir: &Stub,
    fake: &FakeServer<K>,
    more: &[&str],
) -> (Bridge, SocketAddr) {
    let more = [&["--listen", "127.0.0.1:0"], more].concat();
    let mut bridge = Bridge::unstarted(kind, &weir.url(""), fake, "m1", &more);
    bridge.start();
    let address = looking(
        "the bridge listens",
        || {
            let log = bridge.log();
            let lines = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            let mut found = lines.filter_map(|line: Value| line["address"].as_str()?.parse().ok());
            found.next()
        },
        Option::is_some,
    );
    bridge.wait_for_log("add ", 1);
    (bridge, address.expect("waited for"))
}

fn post(address: SocketAddr, body: &Value) -> (u16, String) {
    let body = body.to_string();
    let answer = Client::new(address).request("POST", "/hook", &[], body.as_bytes());
    (answer.status, answer.text())
}

#[test]
fn players_are_redirected_to_known_streams_only() {
    let (weir, fake) = (weir(), FakeServer::new(FakeMediaMtx::default()));
    let more = ["--play-base", "http://play.example:8888"];
    let (bridge, address) = listening("mediamtx", &weir, &fake, &more);
    let get = |path: &str| Client::new(address).request("GET", path, &[], b"");
    let answer = get("/cam%201/index.m3u8?token=x");
    assert_eq!(answer.status, 302);
    assert_eq!(
        answer.header("location"),
        Some("http://play.example:8888/cam_x20_1/index.m3u8?token=x")
    );
    // By the name on the server, as the balancers of Weir write it for a streamer of this kind.
    let answer = get("/cam_x20_1/index.m3u8");
    let location = "http://play.example:8888/cam_x20_1/index.m3u8";
    assert_eq!(answer.header("location"), Some(location));
    for path in [
        "/",
        "/x",
        "/other/index.m3u8",
        "/cam%201/",
        "/cam%201/..",
        "/other_x20_1/index.m3u8",
        "/%ff/a",
        "/cam%201/a%0d",
    ] {
        assert_eq!(get(path).status, 404, "{path}");
    }
    drop(bridge);
}

#[test]
fn hook_is_answered_by_the_verdict_of_weir() {
    let (weir, fake) = (weir(), FakeServer::new(FakeMediaMtx::default()));
    let (bridge, address) = listening("mediamtx", &weir, &fake, &[]);
    let question = |session: &str, protocol: &str| {
        json!({
            "action": "read", "path": "cam_x20_1", "ip": "10.1.1.1", "protocol": protocol,
            "id": session, "query": "token=secret&x=ä",
        })
    };
    assert_eq!(post(address, &question("1", "hls")).0, 200);
    let asked = looking(
        "Weir is queried about the viewer",
        || {
            let call = weir.call();
            call.path.ends_with("/streamers/m1/auth").then_some(call)
        },
        Option::is_some,
    );
    let query = asked.expect("waited for").query;
    let of = |name: &str| query.get(name).map_or("", String::as_str);
    assert_eq!(
        (of("name"), of("ip"), of("proto")),
        ("cam 1", "10.1.1.1", "hls")
    );
    assert_eq!((of("token"), of("qs")), ("secret", "token=secret&x=ä"));
    assert_eq!(of("session_id").len(), 36, "a UUID");
    assert_eq!(of("request_type"), "new_session");

    weir.respond_with(StubResponse::status(403));
    assert_eq!(post(address, &question("2", "hls")).0, 403);
    // Without an answer, what the session got last holds; a new one is denied.
    weir.respond_with(StubResponse::status(500));
    assert_eq!(post(address, &question("1", "hls")).0, 200);
    assert_eq!(post(address, &question("2", "hls")).0, 403);
    assert_eq!(post(address, &question("3", "hls")).0, 403);
    // Players of RTSP send credentials after a 401.
    let mut anonymous = question("4", "rtsp");
    anonymous["query"] = "".into();
    assert_eq!(post(address, &anonymous).0, 401);
    let mut unknown = question("1", "hls");
    unknown["path"] = "other".into();
    assert_eq!(post(address, &unknown).0, 403);
    let publish = json!({"action": "publish", "path": "cam_x20_1", "ip": "10.1.1.1"});
    assert_eq!(post(address, &publish).0, 200, "nothing to decide");
    assert_eq!(post(address, &json!({"action": 1})).0, 400);
    drop(bridge);
}

#[test]
fn verdict_is_used_as_long_as_weir_allows() {
    let (weir, fake) = (weir(), FakeServer::new(FakeMediaMtx::default()));
    let (bridge, address) = listening("mediamtx", &weir, &fake, &["--auth-default", "allow"]);
    let question = |session: &str| json!({"action": "read", "path": "cam_x20_1", "ip": "10.1.1.1", "id": session});
    weir.respond_with(StubResponse::with(403, "X-AuthDuration: 600\r\n", ""));
    assert_eq!(post(address, &question("1")).0, 403);
    weir.respond_with(StubResponse::status(200));
    assert_eq!(post(address, &question("1")).0, 403, "kept for ten minutes");
    assert_eq!(post(address, &question("2")).0, 200);
    weir.respond_with(StubResponse::status(404));
    assert_eq!(post(address, &question("3")).0, 200, "the default");
    drop(bridge);
}

#[test]
fn verdicts_are_in_the_words_of_each_kind() {
    let weir = weir();
    let directory = tempfile::tempdir().expect("a scratch directory");
    let file = directory.path().join("ingest.conf");
    let srs = FakeServer::new(FakeSrs::with_file(&file));
    let more = ["--ingest-file", file.to_str().expect("UTF-8")];
    let (bridge, address) = listening("srs", &weir, &srs, &more);
    let play = json!({
        "action": "on_play", "app": "live", "stream": "cam_x20_1", "ip": "10.1.1.1",
        "param": "?token=a", "client_id": "7",
    });
    assert_eq!(post(address, &play), (200, "0".to_owned()));
    weir.respond_with(StubResponse::status(403));
    let mut other = play.clone();
    other["client_id"] = "8".into();
    assert_eq!(post(address, &other), (403, "1".to_owned()));
    drop(bridge);

    let weir = self::weir();
    let password = directory.path().join("password");
    std::fs::write(&password, FakeNodeMediaServer::PASSWORD).expect("a file");
    let nms = FakeServer::new(FakeNodeMediaServer::default());
    let more = ["--password-file", password.to_str().expect("UTF-8")];
    let (bridge, address) = listening("node-media-server", &weir, &nms, &more);
    let play = json!({
        "action": "postPlay", "app": "live", "name": "cam_x20_1", "id": "x",
        "ip": "::ffff:10.1.1.1:5000", "query": {"token": "a"},
    });
    assert_eq!(post(address, &play).0, 200);
    weir.respond_with(StubResponse::status(403));
    let mut other = play.clone();
    other["id"] = "y".into();
    assert_eq!(post(address, &other).0, 403);
    drop(bridge);
}

#[test]
fn hostile_requests_end_and_others_are_answered() {
    let (weir, fake) = (weir(), FakeServer::new(FakeMediaMtx::default()));
    let (bridge, address) = listening("mediamtx", &weir, &fake, &[]);
    let answer = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).expect("it listens");
        // It may be answered and closed before all is sent.
        let _ = socket.write_all(bytes);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer)
            .chars()
            .take(12)
            .collect::<String>()
    };
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    for (request, expected) in [
        (&b"nonsense\r\n\r\n"[..], "HTTP/1.1 400"),
        (long.as_bytes(), "HTTP/1.1 431"),
        (fields.as_bytes(), "HTTP/1.1 431"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 413",
        ),
        (
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 400",
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 411",
        ),
        (b"DELETE / HTTP/1.1\r\n\r\n", "HTTP/1.1 405"),
    ] {
        assert_eq!(answer(request), expected);
    }
    // More silent clients than threads: each is dropped after a while.
    let silent: Vec<TcpStream> = (0..6)
        .map(|_| TcpStream::connect(address).expect("it listens"))
        .collect();
    let seen = answer(b"GET /cam%201/index.m3u8 HTTP/1.1\r\n\r\n");
    assert_eq!(seen, "HTTP/1.1 302");
    drop((silent, bridge));
}
