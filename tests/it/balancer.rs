//! Load balancers: saving, and the redirects of viewers.

use serde_json::json;

use weir_testkit::TestServer;

#[test]
fn balancer_is_created_changed_listed_and_deleted() {
    let mut server = TestServer::new();
    let created = server
        .put(
            "/load-balancers/europe",
            json!({"servers": [{"name": "s1", "max_bitrate": 1000, "countries": ["RS"]}]}),
        )
        .expect(200)
        .json();
    assert_eq!(created["mode"], "bitrate");
    assert_eq!(created["servers"][0]["countries_default"], false);
    server
        .put("/load-balancers/europe", json!({"mode": "usage"}))
        .expect(200);
    server.restart();
    let read = server.get("/load-balancers/europe").expect(200).json();
    assert_eq!(
        (&read["mode"], &read["servers"][0]["name"]),
        (&json!("usage"), &json!("s1"))
    );
    let list = server.get("/load-balancers").expect(200).json();
    assert_eq!(list["balancers"][0]["name"], "europe");
    for (body, error) in [
        (json!({"mode": "cheapest"}), "unknown_enum_option /mode"),
        (json!({"servers": {}}), "not_array /servers"),
        (
            json!({"servers": [{"max_bitrate": "fast"}]}),
            "not_integer /servers/0/max_bitrate",
        ),
    ] {
        let answer = server.put("/load-balancers/europe", body).expect(400);
        assert_eq!(answer.errors(), [error]);
    }
    server.delete("/load-balancers/europe").expect(204);
    server.get("/load-balancers/europe").expect(404);
}

#[test]
fn viewers_need_no_credentials_and_get_a_reason() {
    let server = TestServer::new();
    server.put("/streams/sports/hd1", json!({})).expect(200);
    let body = json!({"servers": [{"name": "s1"}]});
    server.put("/load-balancers/europe", body).expect(200);
    for method in ["GET", "POST"] {
        for (path, status, error) in [
            (
                "/lb/europe/sports%2Fhd1/index.m3u8",
                503,
                "no_streamer_available",
            ),
            (
                "/lb/nobody/sports%2Fhd1/index.m3u8",
                404,
                "balancer_not_found",
            ),
            ("/lb/europe/nobody/index.m3u8", 404, "stream_not_found"),
            ("/lb/europe/sports%2Fhd1/../x", 404, "not_found"),
            ("/lb/europe/sports%2Fhd1", 404, "not_found"),
            ("/lb/europe/%zz/index.m3u8", 400, "wrong_format path"),
        ] {
            let answer = server.call_as(method, path, None).expect(status);
            assert_eq!(answer.errors(), [error], "{path}");
            assert_eq!(answer.header("retry-after").is_some(), status == 503);
        }
    }
    let allow = server.call("PUT", "/lb/europe/a/b", b"{}").expect(405);
    assert!(
        allow
            .header("allow")
            .is_some_and(|methods| methods.contains("POST"))
    );
}

/// The report of a node.
pub fn report(server: &TestServer, hostname: &str, clients: u64, kbit: u64) {
    let body = json!({"stats": {"total_clients": clients, "output_kbit": kbit}});
    server
        .put(&format!("/streamers/{hostname}/stats"), body)
        .expect(204);
}

/// A database in which 10.77.0.0/16 is in Serbia and 10.78.0.0/16 in Germany.
pub fn countries() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let database = crate::mmdb::database(&[("10.77.0.0/16", "RS"), ("10.78.0.0/16", "DE")]);
    std::fs::write(file.path(), database).expect("a file");
    file
}

#[test]
fn viewers_and_publishers_go_to_the_least_loaded_node() {
    let file = countries();
    let path = file.path().to_str().expect("a plain path");
    let server = TestServer::with(&["--geoip-database", path]);
    server.put("/streams/sports/hd1", json!({})).expect(200);
    for (n, url) in [
        (1, "http://u:p@10.0.0.1:8080"),
        (2, "http://10.0.0.2/live/"),
    ] {
        let node = json!({"role": "streamer", "cluster_key": "k", "public_payload_url": url});
        server.put(&format!("/streamers/s{n}"), node).expect(200);
    }
    let body = json!({
        "mode": "clients", "servers": [{"name": "s1", "max_bitrate": 1000}, {"name": "s2"}],
    });
    server.put("/load-balancers/europe", body).expect(200);
    let sent = |method: &str, address: &str| {
        let path = format!(
            "{}/lb/europe/sports%2Fhd1/index.m3u8?token=t%20",
            weir_testkit::PREFIX
        );
        let fields = [("X-Real-IP", address)];
        let answer = server.connect().request(method, &path, &fields, b"");
        match answer.header("location") {
            Some(location) => location.to_owned(),
            None => answer.errors()[0].clone(),
        }
    };
    let first = "http://10.0.0.1:8080/sports/hd1/index.m3u8?token=t%20";
    let second = "http://10.0.0.2/live/sports/hd1/index.m3u8?token=t%20";
    report(&server, "s2", 5, 100);
    assert_eq!(sent("GET", "10.77.0.1"), second, "the only one alive");
    report(&server, "s1", 4, 100);
    for method in ["GET", "POST"] {
        assert_eq!(sent(method, "10.77.0.1"), first);
    }
    report(&server, "s1", 4, 1000);
    assert_eq!(sent("GET", "10.77.0.1"), second, "the other is full");
    let by_country = json!({
        "servers": [{"name": "s1", "countries": ["RS"]}, {"name": "s2", "countries_default": true}],
    });
    server.put("/load-balancers/europe", by_country).expect(200);
    assert_eq!(sent("GET", "10.77.0.1"), first);
    assert_eq!(sent("GET", "10.78.0.1"), second);
    server.delete("/streamers/s2").expect(204);
    assert_eq!(sent("GET", "10.78.0.1"), "no_streamer_available");
}

/// A cluster with stream `a` captured by `s1` and kept by `s2`, and stream `b` on no node. The
/// restreamer `s3`, the idle `s4` and the inference node `i1` have fewer viewers.
pub fn cluster(arguments: &[&str]) -> TestServer {
    let server = TestServer::with(arguments);
    for host in ["s1", "s2", "s3", "s4", "i1"] {
        let mut node = json!({"role": "streamer", "cluster_key": "k"});
        if host == "i1" {
            node["role"] = json!("inference");
            node["api_url"] = json!("http://i1.example.com");
        } else {
            node["public_payload_url"] = json!(format!("http://{host}.example.com"));
            node["is_restreamer"] = json!(host == "s3");
        }
        server.put(&format!("/streamers/{host}"), node).expect(200);
    }
    let layout = json!({"ingest": "s1", "dvr_backups": ["s2"]});
    let stream = json!({"layout": layout, "dvr": {"root": "/d"}, "static": true});
    server.put("/streams/a", stream).expect(200);
    server.put("/streams/b", json!({})).expect(200);
    balance(&server, &["s1", "s2", "s3", "s4", "i1"]);
    for (host, clients) in [("s1", 9), ("s2", 5), ("s3", 1), ("s4", 0), ("i1", 0)] {
        report(&server, host, clients, 1);
    }
    server
}

/// Makes the load balancer `main` of these streamers.
fn balance(server: &TestServer, hosts: &[&str]) {
    let servers: Vec<_> = hosts.iter().map(|host| json!({"name": host})).collect();
    let body = json!({"mode": "clients", "servers": servers});
    server.put("/load-balancers/main", body).expect(200);
}

/// Reports one stream of a node.
pub fn report_stream(server: &TestServer, host: &str, name: &str, status: &str) {
    let body = json!({"streams": [{"name": name, "status": status}]});
    server
        .put(&format!("/streamers/{host}/stats"), body)
        .expect(204);
}

/// The streamer that a client is sent to, or the error.
fn place(server: &TestServer, method: &str, stream: &str) -> String {
    let answer = server.call_as(method, &format!("/lb/main/{stream}/index.m3u8"), None);
    match answer.header("location") {
        Some(location) => {
            let host = location.strip_prefix("http://").expect("a URL");
            host.split(".example.com")
                .next()
                .expect("a host")
                .to_owned()
        }
        None => answer.errors().join(" "),
    }
}

#[test]
fn viewers_go_where_the_stream_runs() {
    let server = cluster(&[]);
    let viewer = |stream: &str| place(&server, "GET", stream);
    let publisher = |stream: &str| place(&server, "POST", stream);
    assert_eq!(viewer("a"), "s1", "its ingest node, not the least loaded");
    report_stream(&server, "s2", "a", "running");
    assert_eq!(viewer("a"), "s2", "the only one that runs it");
    assert_eq!(publisher("a"), "s1", "a copy takes no publisher");
    report_stream(&server, "s1", "a", "running");
    assert_eq!(viewer("a"), "s2", "of two the less loaded");
    report_stream(&server, "s2", "a", "waiting");
    assert_eq!(viewer("a"), "s1");
    report_stream(&server, "s1", "a", "error");
    assert_eq!(viewer("a"), "s1", "its ingest node again");
    // An inference node has the stream and serves nobody.
    report_stream(&server, "i1", "a", "running");
    assert_eq!(viewer("a"), "s1");
    // A restreamer that has taken it already is one of those that run it.
    report_stream(&server, "s3", "a", "running");
    assert_eq!(viewer("a"), "s3");
    report_stream(&server, "s3", "b", "running");
    assert_eq!(viewer("a"), "s1", "a report without the stream ends that");
    // A stream that runs where it was not placed.
    assert_eq!((viewer("b"), publisher("b")), ("s3".into(), "s4".into()));
}

#[test]
fn restreamers_take_viewers_of_an_absent_ingest_node() {
    let server = cluster(&[]);
    let viewer = || place(&server, "GET", "a");
    balance(&server, &["s2", "s3", "s4", "i1"]);
    assert_eq!(viewer(), "s3");
    assert_eq!(place(&server, "POST", "a"), "no_streamer_available");
    let none = json!({"is_restreamer": false});
    server.put("/streamers/s3", none).expect(200);
    assert_eq!(viewer(), "no_streamer_available");
    report_stream(&server, "s2", "a", "running");
    assert_eq!(viewer(), "s2");
    assert_eq!(place(&server, "GET", "b"), "s4", "all are equal for it");
    for (restreaming, expected) in [("all", "s4"), ("off", "no_streamer_available")] {
        let server = cluster(&["--restreaming", restreaming]);
        balance(&server, &["s3", "s4", "i1"]);
        assert_eq!(place(&server, "GET", "a"), expected);
    }
}

#[test]
fn viewers_leave_a_streamer_that_is_lost() {
    let server = cluster(&["--streamer-dead-timeout", "2s"]);
    report_stream(&server, "s1", "a", "running");
    let look = || {
        for host in ["s2", "s3", "s4"] {
            report(&server, host, 1, 1);
        }
        place(&server, "GET", "a")
    };
    let found = weir_testkit::wait_until("another streamer", look, |host| host != "s1");
    assert_eq!(found, "s3", "the restreamer");
}

#[test]
fn players_go_where_the_kind_of_server_plays() {
    let server = cluster(&[]);
    let stream = json!({"static": true, "layout": {"ingest": "s1"}});
    server.put("/streams/cam%201/x", stream).expect(200);
    let play = |suffix: &str| {
        let path = format!("/lb/main/cam%201%2Fx/{suffix}");
        let answer = server.call_as("GET", &path, None);
        match answer.header("location") {
            Some(location) => location.to_owned(),
            None => answer.errors().join(" "),
        }
    };
    assert_eq!(
        play("index.m3u8?a=1"),
        "http://s1.example.com/cam%201/x/index.m3u8?a=1"
    );
    let save = |body: serde_json::Value| server.put("/streamers/s1", body).expect(200);
    let no_restreamer = json!({"is_restreamer": false});
    server.put("/streamers/s3", no_restreamer).expect(200);
    save(json!({"kind": "mediamtx"}));
    assert_eq!(
        play("index.m3u8"),
        "http://s1.example.com/cam_x20_1/x/index.m3u8"
    );
    save(json!({"kind": "srs"}));
    assert_eq!(play("whep"), "http://s1.example.com/cam_x20_1/x/whep");
    save(json!({"kind": "go2rtc", "play_urls": {
        "index.m3u8": "http://10.0.0.1:1984/api/stream.m3u8?src={native}",
        "whep": "https://10.0.0.1/api/webrtc?src={name}",
        "x/index.mpd": "http://10.0.0.1/dash",
    }}));
    for (suffix, location) in [
        (
            "index.m3u8?t=1",
            "http://10.0.0.1:1984/api/stream.m3u8?src=cam_x20_1/x&t=1",
        ),
        ("whep", "https://10.0.0.1/api/webrtc?src=cam%201/x"),
        (
            "x/index.mpd",
            "http://10.0.0.1/dash/cam_x20_1/x/x/index.mpd",
        ),
        // Of the ingest node alone, and it does not play this.
        ("mpegts", "no_streamer_available"),
    ] {
        assert_eq!(play(suffix), location, "{suffix}");
    }
    // The next streamer that runs the stream may.
    report_stream(&server, "s2", "cam 1/x", "running");
    assert_eq!(play("mpegts"), "http://s2.example.com/cam%201/x/mpegts");
    save(json!({"play_urls": null}));
    assert_eq!(play("whep"), "http://s2.example.com/cam%201/x/whep");
}

#[test]
fn players_are_not_sent_to_internal_addresses() {
    for arguments in [&[][..], &["--layouter-enabled"]] {
        let server = TestServer::with(arguments);
        let has_layouter = !arguments.is_empty();
        let stream = json!({"static": true});
        server.put("/streams/a", stream).expect(200);
        let servers = json!({"mode": "clients", "servers": [{"name": "s1"}, {"name": "s2"}]});
        server.put("/load-balancers/main", servers).expect(200);
        let play = || server.call_as("GET", "/lb/main/a/index.m3u8", None);
        let save = |hostname: &str, urls: serde_json::Value| {
            let mut node = json!({"role": "streamer", "cluster_key": "k"});
            for (name, url) in urls.as_object().expect("an object") {
                node[name] = url.clone();
            }
            server
                .put(&format!("/streamers/{hostname}"), node)
                .expect(200);
        };
        save("s1", json!({"api_url": "http://10.0.0.1:8080"}));
        assert_eq!(play().expect(503).errors(), ["no_streamer_available"]);
        report(&server, "s1", 1, 1);
        let look = || server.get("/streams/a").expect(200).json()["layout"].take();
        weir_testkit::wait_until("the stream is placed", look, |layout| {
            !has_layouter || layout["ingest"] == "s1"
        });
        let refused = play().expect(503);
        assert_eq!(refused.errors(), ["no_public_address"]);
        assert!(refused.header("retry-after").is_some());
        assert!(!refused.text().contains("10.0.0.1"));
        // Another streamer takes the players, however many it has.
        let urls = json!({"api_url": "http://203.0.113.2:80", "is_restreamer": true});
        save("s2", urls);
        report(&server, "s2", 500, 1);
        let sent = play().expect(302);
        let location = sent.header("location").map(str::to_owned);
        assert_eq!(
            location.as_deref(),
            Some("http://203.0.113.2:80/a/index.m3u8")
        );
        save("s1", json!({"public_payload_url": "http://10.0.0.1:8080"}));
        let sent = play().expect(302);
        let location = sent.header("location").map(str::to_owned);
        assert_eq!(
            location.as_deref(),
            Some("http://10.0.0.1:8080/a/index.m3u8")
        );
    }
}

#[test]
fn only_trusted_proxies_name_the_client() {
    // Goal: the address of a client is what a trusted proxy names, in every use of it. Method: the
    // event of a change has the address.
    let change = |server: &TestServer, field: &str| {
        let fields = [
            (
                "Authorization",
                &*format!("Bearer {}", weir_testkit::API_KEY),
            ),
            (field, "198.51.100.7"),
        ];
        let path = format!("{}/streams/a", weir_testkit::PREFIX);
        let saved = server.connect().request("PUT", &path, &fields, b"{}");
        saved.expect(200);
        let event = server.get("/events?operation_id=stream_save").json();
        server.delete("/streams/a").expect(204);
        event["events"][0]["ip"]
            .as_str()
            .expect("an address")
            .to_owned()
    };
    for (arguments, client) in [
        (&[][..], "198.51.100.7"),
        (&["--trusted-proxies", "none"], "127.0.0.1"),
        (&["--trusted-proxies", "10.0.0.0/8"], "127.0.0.1"),
        (&["--trusted-proxies", "127.0.0.0/30"], "198.51.100.7"),
    ] {
        for field in ["X-Real-IP", "X-Forwarded-For"] {
            let server = TestServer::with(arguments);
            assert_eq!(change(&server, field), client, "{arguments:?} {field}");
        }
    }
}
