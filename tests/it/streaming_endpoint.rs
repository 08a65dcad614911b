//! `streaming_endpoint`: the address below which players find a stream.

use serde_json::{Value, json};

use crate::balancer::{cluster, countries, report, report_stream};
use crate::restricted::token;
use weir_testkit::TestServer;

/// The endpoint of a stream in the list of streams, with more parameters.
fn listed(server: &TestServer, name: &str, parameters: &str) -> Value {
    let path = format!("/streams?name={name}{parameters}");
    let page = server.get(&path).expect(200).json();
    page["streams"][0]["stats"]["streaming_endpoint"].clone()
}

/// The host whose endpoint a stream has.
fn host(server: &TestServer, name: &str) -> String {
    match listed(server, name, "") {
        Value::String(url) => {
            let host = url.strip_prefix("http://").expect("a URL");
            host.strip_suffix(".example.com")
                .expect("a host")
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn balance(server: &TestServer, name: &str, servers: Value) {
    let path = format!("/load-balancers/{name}");
    server.put(&path, json!({"servers": servers})).expect(200);
}

#[test]
fn endpoint_is_where_the_stream_is() {
    let server = cluster(&[]);
    assert_eq!(host(&server, "a"), "s1", "its ingest node");
    assert_eq!(host(&server, "b"), "null", "it is nowhere");
    report_stream(&server, "s2", "a", "running");
    assert_eq!(host(&server, "a"), "s2", "it runs there");
    for (s1, s2, best) in [(7, 8, "s1"), (8, 7, "s2")] {
        report(&server, "s1", 0, s1);
        report(&server, "s2", 0, s2);
        report_stream(&server, "s1", "a", "running");
        assert_eq!(host(&server, "a"), best, "the one that sends less");
    }
    report_stream(&server, "i1", "b", "running");
    assert_eq!(
        host(&server, "b"),
        "null",
        "inference nodes serve no viewers"
    );
    report_stream(&server, "s4", "b", "running");
    assert_eq!(host(&server, "b"), "s4", "it runs where it was not placed");
    server
        .put("/streams/c", json!({"namespace": "x"}))
        .expect(200);
    report_stream(&server, "s4", "c", "running");
    assert_eq!(host(&server, "c"), "null", "of another namespace");
}

#[test]
fn endpoint_of_an_internal_ingest_node_is_a_restreamer() {
    let server = cluster(&[]);
    for hidden in ["s1", "s2"] {
        let internal = json!({"public_payload_url": null, "api_url": "http://u:p@10.0.0.1"});
        server
            .put(&format!("/streamers/{hidden}"), internal)
            .expect(200);
    }
    report_stream(&server, "s1", "a", "running");
    assert_eq!(host(&server, "a"), "s3");
    server
        .put("/streams/a", json!({"disabled": true}))
        .expect(200);
    assert_eq!(
        host(&server, "a"),
        "null",
        "nothing restreams a disabled stream"
    );
    server
        .put("/streams/a", json!({"disabled": false}))
        .expect(200);
    server
        .put("/streamers/s3", json!({"is_restreamer": false}))
        .expect(200);
    assert_eq!(host(&server, "a"), "null", "no internal address is given");
    // A node may report a base URL itself; internal ones and credentials are left out.
    for (reported, shown) in [
        ("http://10.0.0.1:80", Value::Null),
        ("rtmp://edge.example.com", Value::Null),
        (
            "https://u:p@edge.example.com/x?token=t",
            json!("https://edge.example.com/x"),
        ),
    ] {
        let stream = json!({"name": "a", "status": "running", "streaming_endpoint": reported});
        let body = json!({"streams": [stream]});
        server.put("/streamers/s1/stats", body).expect(204);
        assert_eq!(listed(&server, "a", ""), shown, "{reported}");
    }
    let public = json!({"public_payload_url": "http://s1.example.com"});
    server.put("/streamers/s1", public).expect(200);
    assert_eq!(host(&server, "a"), "s1", "what is configured wins");
}

#[test]
fn endpoint_has_the_preferred_scheme() {
    let server = cluster(&[]);
    let secure = json!({"public_payload_url": "https://s2.example.com"});
    server.put("/streamers/s2", secure).expect(200);
    report(&server, "s2", 0, 500);
    report_stream(&server, "s1", "a", "running");
    report_stream(&server, "s2", "a", "running");
    let [http, https] = ["http://s1.example.com", "https://s2.example.com"];
    for (parameters, expected) in [("", http), ("&scheme=http", http), ("&scheme=https", https)] {
        assert_eq!(listed(&server, "a", parameters), expected, "{parameters}");
    }
    report_stream(&server, "s1", "a", "waiting");
    assert_eq!(listed(&server, "a", "&scheme=http"), https, "the only one");
    // A media server may play over both.
    let both = json!({"kind": "mediamtx", "play_urls": {
        "index.m3u8": "https://m.example.com:8888/{native}/index.m3u8",
        "whep": "http://m.example.com:8889", "rtsp": "rtsp://m.example.com/{name}/rtsp",
    }});
    server.put("/streamers/s2", both).expect(200);
    for (scheme, expected) in [
        ("https", "https://m.example.com:8888"),
        ("http", "http://m.example.com:8889"),
    ] {
        let parameters = format!("&select=stats.streaming_endpoint&scheme={scheme}");
        assert_eq!(listed(&server, "a", &parameters), expected);
    }
    let by_query = json!({"kind": "go2rtc", "play_urls": {
        "index.m3u8": "http://g.example.com/api/stream.m3u8?src={native}",
    }});
    let none = json!({"play_urls": null});
    server.put("/streamers/s2", none).expect(200);
    server.put("/streamers/s2", by_query).expect(200);
    assert_eq!(
        host(&server, "a"),
        "s1",
        "no base URL plays the stream there"
    );
}

#[test]
fn endpoint_follows_the_country_of_the_viewer() {
    let file = countries();
    let path = file.path().to_str().expect("a plain path");
    let server = cluster(&["--geoip-database", path]);
    for host in ["s1", "s2", "s4"] {
        report_stream(&server, host, "a", "running");
    }
    report(&server, "s4", 0, 900);
    let rs = json!([{"name": "s1", "countries": ["RS"]}, {"name": "s2", "countries": ["DE"]}]);
    balance(&server, "main", rs);
    let of = |address: &str| listed(&server, "a", &format!("&client_ip={address}"));
    assert_eq!(of("10.77.0.1"), "http://s1.example.com");
    assert_eq!(of("10.78.0.1"), "http://s2.example.com");
    assert_eq!(of("::ffff:10.78.0.1"), "http://s2.example.com");
    assert_eq!(
        of("192.0.2.1"),
        "http://s4.example.com",
        "it is in no balancer"
    );
    balance(
        &server,
        "other",
        json!([{"name": "s2", "countries_default": true}]),
    );
    assert_eq!(of("192.0.2.1"), "http://s2.example.com", "one accepts it");
    for bad in ["", "x", "10.0.0.1,10.0.0.2", "10.0.0.0/8", "%5B%3A%3A1"] {
        let answer = server.get(&format!("/streams?client_ip={bad}")).expect(400);
        assert_eq!(answer.errors(), ["wrong_format client_ip"], "{bad}");
    }
    let answer = server.get("/streams?scheme=HTTPS").expect(400);
    assert_eq!(answer.errors(), ["unknown_enum_option scheme"]);
}

#[test]
fn endpoint_of_a_lost_streamer_is_not_given() {
    let server = cluster(&["--streamer-dead-timeout", "2s"]);
    report_stream(&server, "s1", "a", "running");
    let look = || {
        report(&server, "s3", 1, 1);
        host(&server, "a")
    };
    let found = weir_testkit::wait_until("another streamer", look, |host| host != "s1");
    assert_eq!(found, "s3", "the restreamer");
}

#[test]
fn endpoint_that_moves_refuses_no_change() {
    let server = cluster(&[]);
    let read = server.get("/streams/a").expect(200);
    let tag = read.header("etag").expect("a tag").to_owned();
    assert_eq!(
        read.json()["stats"],
        json!({"streaming_endpoint": "http://s1.example.com"})
    );
    let unchanged = server.call_with("GET", "/streams/a", &[("If-None-Match", &tag)], b"");
    assert_eq!(unchanged.status, 304);
    report_stream(&server, "s2", "a", "running");
    let moved = server.call_with("GET", "/streams/a", &[("If-None-Match", &tag)], b"");
    assert_eq!(moved.status, 200, "the body is another one");
    let json = moved.json();
    assert_eq!(json["stats"]["streaming_endpoint"], "http://s2.example.com");
    let body = br#"{"title":"t"}"#;
    let saved = server.call_with("PUT", "/streams/a", &[("If-Match", &tag)], body);
    assert_eq!(saved.status, 200, "the stream is unchanged");
}

#[test]
fn tokens_see_endpoints_of_their_streams_only() {
    let server = cluster(&[]);
    let rights = json!({"permissions": [{"scopes": ["streams/a"], "list": true}]});
    let token = token(&server, "viewer", rights);
    report_stream(&server, "s4", "b", "running");
    let page = server
        .call_as("GET", "/streams?select=stats", Some(&token))
        .expect(200);
    let streams = page.json()["streams"].clone();
    assert_eq!(
        streams,
        json!([{"name": "a", "stats": {"streaming_endpoint": "http://s1.example.com"},
            "updated_at": streams[0]["updated_at"]}])
    );
}
