//! One client can neither guess credentials fast nor take all connections.

use std::net::{IpAddr, Ipv4Addr};

use crate::auth::cluster;
use serde_json::json;
use weir_testkit::{API_KEY, Client, PREFIX, TestServer, sys};

/// Most requests before a limit must have been reached.
const REQUESTS_MAX: usize = 500;

/// Repeats a request with wrong credentials until it is delayed. Returns the number of those that
/// were answered at once.
fn fail_until_delayed(server: &TestServer, path: &str, authorization: &str, status: u16) -> usize {
    let mut client = server.connect();
    let fields = [("Authorization", authorization)];
    let path = format!("{PREFIX}{path}");
    for at in 0..REQUESTS_MAX {
        let answer = client.request("GET", &path, &fields, b"");
        if answer.status == 429 {
            assert_eq!(answer.errors(), ["too_many_failures"]);
            assert_eq!(answer.retry_after(), Some(1));
            return at;
        }
        answer.expect(status);
    }
    panic!("{REQUESTS_MAX} wrong credentials, none was delayed");
}

#[test]
fn wrong_credentials_are_answered_later_after_some() {
    let server = TestServer::new();
    let node = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/h", node).expect(200);
    for (path, authorization, status) in [
        ("/streams", "Bearer wrong".to_owned(), 401),
        ("/nothing", "Basic YWRtaW46d3Jvbmc=".to_owned(), 401),
        ("/streamers/h/streams", cluster("wrong", 0), 403),
        (
            "/streamers/h/auth?name=a&ip=10.0.0.1",
            cluster("wrong", 0),
            403,
        ),
    ] {
        // Each address has its own count: a proxy on this machine names the client.
        let at_once = fail_until_delayed(&server, path, &authorization, status);
        assert!(at_once >= 1, "{path}");
    }
    // Right credentials are accepted meanwhile, on the connection of the guesses as well.
    let bearer = format!("Bearer {API_KEY}");
    let target = format!("{PREFIX}/streams");
    let mut client = server.connect();
    for _ in 0..30 {
        let right = [("Authorization", &*bearer)];
        client.request("GET", &target, &right, b"").expect(200);
    }
    // No credentials at all are no guess.
    for _ in 0..30 {
        server.call_as("GET", "/streams", None).expect(401);
    }
    let metrics = server.get("/cluster/stats?format=openmetrics").text();
    let delayed = metrics
        .lines()
        .find_map(|line| line.strip_prefix("weir_auth_failures_delayed_total "));
    let delayed: u64 = delayed.expect("the metric").parse().expect("a number");
    assert!(delayed >= 4, "{delayed}");
}

#[test]
fn a_delayed_refusal_does_not_depend_on_the_body() {
    // Goal: a wrong key is not told from a right one earlier by sending a body. Method: bodies that
    // are complete, late and too large get the same response.
    let server = TestServer::new();
    for length in [2, 1 << 30] {
        let mut seen = false;
        for _ in 0..REQUESTS_MAX {
            let mut client = server.connect();
            let head = format!(
                "PUT {PREFIX}/streams/a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer wrong\r\n\
                 Content-Length: {length}\r\n\r\n{{}}"
            );
            client.send(head.as_bytes());
            let answer = client.response(false);
            if answer.status == 429 {
                seen = true;
                assert_eq!(answer.errors(), ["too_many_failures"]);
                break;
            }
            answer.expect(401);
        }
        assert!(seen, "none was delayed");
    }
    server.get("/streams/a").expect(404);
}

#[test]
fn one_address_gets_half_of_the_connections() {
    let server = TestServer::with(&[
        "--connections-max",
        "64",
        "--io-threads",
        "1",
        "--trusted-proxies",
        "none",
    ]);
    let bearer = format!("Bearer {API_KEY}");
    let streams = format!("{PREFIX}/streams");
    let connect = |last: u8| {
        let source = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
        let stream = sys::connect_blocking(server.address(), source).expect("a connection");
        Client::over(stream).expect("a client")
    };
    let mut kept = Vec::new();
    let mut open = |last: u8, count: usize| {
        for _ in 0..count {
            let mut client = connect(last);
            let right = [("Authorization", &*bearer)];
            client.request("GET", &streams, &right, b"").expect(200);
            kept.push(client);
        }
    };
    open(2, 32);
    let refused = connect(2).response(false).expect(503);
    assert_eq!(refused.errors(), ["too_many_connections_of_address"]);
    assert_eq!(refused.retry_after(), Some(1));
    // The rest, without what is reserved.
    open(3, 30);
    let right = [("Authorization", &*bearer)];
    let mut late = connect(4);
    let refused = late.request("GET", &streams, &right, b"").expect(503);
    assert_eq!(refused.errors(), ["too_many_connections"]);
    for _ in 0..100 {
        let mut probe = connect(4);
        let path = format!("{PREFIX}/monitoring/readiness");
        let answer = probe.request("GET", &path, &[], b"").expect(200);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(probe.is_ended());
    }
    let metrics = kept[0].request(
        "GET",
        &format!("{PREFIX}/cluster/stats?format=openmetrics"),
        &right,
        b"",
    );
    let metrics = metrics.expect(200).text();
    let line = "weir_http_connections_shed_by_address_total 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}
