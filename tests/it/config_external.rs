//! Configurations of streamers: complete, of one revision, and changed only if the content is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::calls::{etag, names};
use weir_testkit::{Response, TestServer};

fn nodes() -> Value {
    json!([
        {"hostname": "s1", "role": "streamer", "cluster_key": "k1"},
        {
            "hostname": "s2", "role": "streamer", "cluster_key": "k2",
            "private_payload_url": "http://10.0.0.2:8081", "api_url": "http://192.0.2.2",
        },
        {
            "hostname": "s3", "role": "streamer", "cluster_key": "k3",
            "api_url": "https://u:canary@s3.example.com:8443/x",
        },
        {"hostname": "edge", "role": "streamer", "cluster_key": "k4", "is_restreamer": true},
        {"hostname": "i1", "role": "inference", "cluster_key": "k5"},
    ])
}

fn with_nodes(arguments: &[&str]) -> TestServer {
    let server = TestServer::with(arguments);
    server.put("/streamers/batch", nodes()).expect(204);
    server
}

fn streams_of(server: &TestServer, hostname: &str) -> Response {
    server
        .get(&format!("/streamers/{hostname}/streams"))
        .expect(200)
}

/// The status of the same question with a tag.
fn status_with_tag(server: &TestServer, hostname: &str, tag: &str) -> u16 {
    let path = format!("/streamers/{hostname}/streams");
    server
        .call_with("GET", &path, &[("If-None-Match", tag)], b"")
        .status
}

#[test]
fn each_role_receives_its_part_of_a_stream() {
    let server = with_nodes(&["--dynamic-streams-auth-token", "pull.me_1"]);
    let stream = json!({
        "name": "sports/hd 1", "title": "T", "inputs": [{"url": "udp://239.0.0.1:1"}],
        "dvr": {"expiration": 3600, "remotes": ["m4s://archive/x"]},
        "on_play": {"url": "http://auth.example.com"}, "vision": {"alg": "faces"},
        "labels": {"zone": "north"}, "meta": {"a": "b"}, "position": 4,
        "template": "t", "claims": {"bitrate": 5}, "comment": "c", "disabled": false,
        "layout": {"ingest": "s1", "dvr_backups": ["s2", "s3"], "inference": "i1"},
    });
    server.put("/streams/batch", json!([stream])).expect(204);
    let pull = |authority: &str| format!("{authority}/sports/hd%201?token=pull%2Eme%5F1");
    let (s1, s2, s3) = (
        pull("m4s://s1"),
        pull("m4s://10.0.0.2:8081"),
        pull("m4ss://s3.example.com:8443"),
    );
    let on_play = json!({"url": "http://auth.example.com"});
    let table = [
        (
            "s1",
            json!({
                "name": "sports/hd 1", "title": "T", "comment": "c", "static": true,
                "inputs": [{"url": "udp://239.0.0.1:1"}], "on_play": on_play,
                "vision": {"alg": "faces"},
                "dvr": {"expiration": 3600, "remotes": ["m4s://archive/x", s2, s3]},
            }),
        ),
        (
            "s2",
            json!({
                "name": "sports/hd 1", "static": true, "inputs": [{"url": s1}], "on_play": on_play,
                "dvr": {"expiration": 3600, "remotes": ["m4s://archive/x", s1, s3]},
            }),
        ),
        (
            "s3",
            json!({
                "name": "sports/hd 1", "static": true, "inputs": [{"url": s1}], "on_play": on_play,
                "dvr": {"expiration": 3600, "remotes": ["m4s://archive/x", s1, s2]},
            }),
        ),
        (
            "i1",
            json!({"name": "sports/hd 1", "inputs": [{"url": s1}], "vision": {"alg": "faces"}}),
        ),
    ];
    for (hostname, expected) in table {
        let answer = streams_of(&server, hostname);
        assert!(
            !answer.text().contains("canary"),
            "credentials are not handed on"
        );
        assert_eq!(answer.json()["streams"], json!([expected]), "{hostname}");
        assert_eq!(
            answer.header("x-config-server-separate-endpoints"),
            Some("true")
        );
        assert_eq!(answer.header("x-config-server-episodes"), Some("true"));
        assert_eq!(answer.header("x-config-server-dynamic-streams"), None);
    }
    assert_eq!(streams_of(&server, "edge").json()["streams"], json!([]));
}

/// Nodes with a media server of each kind, named after it; `flussonic` is of the default kind.
fn with_kinds() -> TestServer {
    let server = TestServer::with(&[
        "--dynamic-streams-auth-token",
        "t.1",
        "--restreaming",
        "all",
    ]);
    for kind in [
        "flussonic",
        "mediamtx",
        "go2rtc",
        "node-media-server",
        "srs",
    ] {
        let mut node = json!({
            "role": "streamer", "cluster_key": "k",
            "private_payload_url": format!("https://u:canary@{kind}.lan:8443/base"),
        });
        if kind != "flussonic" {
            node["kind"] = json!(kind);
        }
        server.put(&format!("/streamers/{kind}"), node).expect(200);
    }
    server
}

/// The inputs of the stream `a b/c` on a node, and the remote archives.
fn sources(server: &TestServer, hostname: &str) -> (Value, Value) {
    let answer = streams_of(server, hostname);
    assert!(!answer.text().contains("canary"), "{}", answer.text());
    let mut stream = answer.json()["streams"][0].take();
    let urls = stream["inputs"].as_array().expect("a list");
    let urls = urls.iter().map(|input| input["url"].clone()).collect();
    (urls, stream["dvr"]["remotes"].take())
}

/// Saves the stream `a b/c`, captured by one node and copied to another.
fn copy_stream(server: &TestServer, ingest: &str, backup: &str) {
    let body = json!({
        "inputs": [{"url": "rtsp://cam/1"}], "dvr": {"expiration": 60},
        "layout": {"ingest": ingest, "dvr_backups": [backup]},
    });
    server.put("/streams/a%20b/c", body).expect(200);
}

#[test]
fn nodes_pull_by_a_protocol_that_both_have() {
    let server = with_kinds();
    let m4s = "m4ss://flussonic.lan:8443/a%20b/c?token=t%2E1";
    for (ingest, backup, url) in [
        (
            "flussonic",
            "mediamtx",
            "rtsp://flussonic.lan/a%20b/c?token=t%2E1",
        ),
        (
            "flussonic",
            "srs",
            "rtsp://flussonic.lan/a%20b/c?token=t%2E1",
        ),
        (
            "mediamtx",
            "flussonic",
            "rtsp://mediamtx.lan:8554/a_x20_b/c",
        ),
        ("go2rtc", "mediamtx", "rtsp://go2rtc.lan:8554/a_x20_b/c"),
        ("srs", "go2rtc", "rtmp://srs.lan:1935/a_x20_b/c"),
        (
            "node-media-server",
            "flussonic",
            "rtmp://node-media-server.lan:1935/a_x20_b/c",
        ),
    ] {
        copy_stream(&server, ingest, backup);
        let (urls, remotes) = sources(&server, backup);
        assert_eq!(urls, json!([url]), "{ingest} {backup}");
        // Servers of one kind read archives, from servers of that kind.
        assert_eq!(remotes, Value::Null, "{ingest} {backup}");
    }
    // The default kind is sent what it has always been sent.
    let other = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/other", other).expect(200);
    copy_stream(&server, "flussonic", "other");
    assert_eq!(sources(&server, "other"), (json!([m4s]), json!([m4s])));
    assert_eq!(
        sources(&server, "flussonic"),
        (
            json!(["rtsp://cam/1"]),
            json!(["m4s://other/a%20b/c?token=t%2E1"])
        )
    );
}

#[test]
fn pull_urls_of_a_streamer_are_templates() {
    let server = with_kinds();
    copy_stream(&server, "flussonic", "mediamtx");
    let save = |body: Value| server.put("/streamers/flussonic", body).expect(200);
    for (body, expected) in [
        // The first template that the reader takes.
        (
            json!({"pull_urls": ["m4s://x/{name}", "srt://x:9000?streamid={name}&t={token}", "rtsp://y/{name}"]}),
            json!(["srt://x:9000?streamid=a%20b/c&t=t%2E1"]),
        ),
        (
            json!({"pull_urls": ["rtsp://x:1/{native}/1"]}),
            json!(["rtsp://x:1/a%20b/c/1"]),
        ),
        // One without the name of the stream is a base.
        (
            json!({"pull_urls": ["RTSP://u:p@x:1/y/?z"]}),
            json!(["RTSP://u:p@x:1/y/a%20b/c"]),
        ),
        (json!({"pull_urls": ["m4s://x/{name}"]}), json!([])),
        (
            json!({"pull_urls": [], "private_payload_url": "rtmp://u:canary@x:1935/live/"}),
            json!(["rtmp://x:1935/live/a%20b/c"]),
        ),
        (
            json!({"kind": "srs", "private_payload_url": "rtmp://x:1936"}),
            json!(["rtmp://x:1936/a_x20_b/c"]),
        ),
    ] {
        save(body.clone());
        assert_eq!(sources(&server, "mediamtx").0, expected, "{body}");
    }
    // The archive needs its own protocol.
    let other = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/other", other).expect(200);
    copy_stream(&server, "srs", "other");
    let both = json!({"pull_urls": ["rtsp://x/{name}", "m4s://x/{name}?t={token}"]});
    server.put("/streamers/srs", both).expect(200);
    let archive = "m4s://x/a%20b/c?t=t%2E1";
    assert_eq!(
        sources(&server, "other"),
        (json!(["rtsp://x/a%20b/c"]), json!([archive]))
    );
    let long = format!("rtsp://x/{{name}}/{}", "y".repeat(1000));
    for (body, error) in [
        (
            json!({"pull_urls": ["rtsp://x/{stream}"]}),
            "wrong_format /pull_urls/0",
        ),
        (
            json!({"pull_urls": ["rtsp://x/{name"]}),
            "wrong_format /pull_urls/0",
        ),
        (
            json!({"pull_urls": ["rtsp://x", "x/{name}"]}),
            "wrong_format /pull_urls/1",
        ),
        (json!({"pull_urls": [long]}), "too_long /pull_urls/0"),
        (
            json!({"pull_urls": vec!["rtsp://x"; 17]}),
            "too_many_items /pull_urls",
        ),
        // The token of pulls is not for players.
        (
            json!({"play_urls": {"a/b": "http://x/{token}"}}),
            "wrong_format /play_urls/a~1b",
        ),
        (json!({"kind": "wowza"}), "unknown_enum_option /kind"),
    ] {
        let answer = server.put("/streamers/srs", body.clone()).expect(400);
        assert_eq!(answer.errors(), [error], "{body}");
    }
}

#[test]
fn changed_kinds_and_urls_reach_the_nodes_that_pull() {
    let mut server = with_kinds();
    copy_stream(&server, "mediamtx", "srs");
    let mut tag = etag(&streams_of(&server, "srs"));
    let mut url = json!("rtsp://mediamtx.lan:8554/a_x20_b/c");
    assert_eq!(sources(&server, "srs").0, json!([url]));
    for (host, body, expected) in [
        (
            "mediamtx",
            json!({"pull_urls": ["rtmp://x/{native}"]}),
            "rtmp://x/a_x20_b/c",
        ),
        (
            "mediamtx",
            json!({"private_payload_url": "srt://y:1", "pull_urls": null}),
            "srt://y:1/a_x20_b/c",
        ),
        (
            "mediamtx",
            json!({"kind": "go2rtc", "private_payload_url": null}),
            "rtsp://mediamtx:8554/a_x20_b/c",
        ),
        // It takes more now, but the source serves the same.
        (
            "srs",
            json!({"kind": "flussonic"}),
            "rtsp://mediamtx:8554/a_x20_b/c",
        ),
        (
            "mediamtx",
            json!({"kind": null}),
            "m4s://mediamtx/a%20b/c?token=t%2E1",
        ),
        (
            "srs",
            json!({"kind": "node-media-server"}),
            "rtsp://mediamtx/a%20b/c?token=t%2E1",
        ),
    ] {
        server
            .put(&format!("/streamers/{host}"), body.clone())
            .expect(200);
        let now = etag(&streams_of(&server, "srs"));
        assert_eq!(sources(&server, "srs").0, json!([expected]), "{body}");
        assert_eq!(now != tag, url != expected, "{host} {body}");
        (tag, url) = (now, json!(expected));
    }
    let before = streams_of(&server, "srs").text();
    // Nothing that concerns the reader.
    server
        .put("/streamers/go2rtc", json!({"kind": "srs"}))
        .expect(200);
    server
        .put("/streamers/mediamtx", json!({"labels": {"a": "b"}}))
        .expect(200);
    assert_eq!(status_with_tag(&server, "srs", &tag), 304);
    server.restart();
    assert_eq!(streams_of(&server, "srs").text(), before);
}

#[test]
fn stream_without_a_common_protocol_has_an_error() {
    let server = with_kinds();
    copy_stream(&server, "flussonic", "srs");
    let code = || {
        let stream = server.get("/streams/a%20b/c").expect(200).json();
        stream["stats"]["error"]["code"].clone()
    };
    let found = |code: &str| {
        let list = server.get(&format!("/streams?stats.error.code={code}&select=name"));
        names(&list.expect(200).json())
    };
    assert_eq!(code(), Value::Null);
    let only_m4s = json!({"pull_urls": ["m4s://x/{name}"]});
    server.put("/streamers/flussonic", only_m4s).expect(200);
    assert_eq!(sources(&server, "srs").0, json!([]));
    assert_eq!(code(), "no_common_protocol");
    assert_eq!(found("no_common_protocol"), ["a b/c"]);
    let stats = server.get("/cluster/stats").expect(200).json();
    assert_eq!(stats["stream_errors"], json!({"no_common_protocol": 1}));
    // It may not restream what it cannot pull.
    copy_stream(&server, "flussonic", "go2rtc");
    let dynamic = server
        .get("/streamers/srs/dynamic-streams?name=a%20b/c")
        .expect(200);
    assert_eq!(dynamic.json()["streams"], json!([]));
    // What the ingest node reports is shown first.
    let report = json!({"streams": [{"name": "a b/c", "error": {"code": "no_picture"}}]});
    server.put("/streamers/flussonic/stats", report).expect(204);
    assert_eq!(code(), "no_picture");
    assert_eq!(found("no_common_protocol"), [""; 0]);
    let report = json!({"streams": [{"name": "a b/c", "status": "running"}]});
    server.put("/streamers/flussonic/stats", report).expect(204);
    assert_eq!(code(), "no_common_protocol");
    server
        .put("/streamers/go2rtc", json!({"kind": "flussonic"}))
        .expect(200);
    assert_eq!(code(), Value::Null);
}

#[test]
fn the_archive_of_former_ingest_nodes_stays_reachable() {
    let server = with_nodes(&[]);
    server
        .put("/streams/a", json!({"dvr": {"expiration": 60}}))
        .expect(200);
    for host in ["s2", "s3", "s1"] {
        server
            .put("/streams/a", json!({"layout": {"ingest": host}}))
            .expect(200);
    }
    let current = streams_of(&server, "s1").json();
    assert_eq!(
        current["streams"][0]["dvr"]["remotes"],
        json!(["m4ss://s3.example.com:8443/a", "m4s://10.0.0.2:8081/a"])
    );
    for former in ["s2", "s3"] {
        assert_eq!(
            names(&streams_of(&server, former).json()),
            [""; 0],
            "{former} holds it no more"
        );
    }
    // No archive, no sources of one.
    server.put("/streams/a", json!({"dvr": null})).expect(200);
    assert_eq!(
        streams_of(&server, "s1").json()["streams"][0].get("dvr"),
        None
    );
}

#[test]
fn disabled_and_deleted_streams_are_left_out() {
    let server = with_nodes(&[]);
    for name in ["a", "b", "c"] {
        server
            .put(
                &format!("/streams/{name}"),
                json!({"layout": {"ingest": "s1", "dvr_backups": ["s2"]}}),
            )
            .expect(200);
    }
    assert_eq!(names(&streams_of(&server, "s1").json()), ["a", "b", "c"]);
    server
        .put("/streams/b", json!({"disabled": true}))
        .expect(200);
    server.delete("/streams/c").expect(204);
    for hostname in ["s1", "s2"] {
        let answer = streams_of(&server, hostname).json();
        assert_eq!(names(&answer), ["a"]);
        assert_eq!(answer["estimated_count"], 1);
    }
    for path in [
        "update-streams?name=a,b,c",
        "streams?name=a,b,c",
        "dynamic-streams?name=b",
    ] {
        let answer = server
            .get(&format!("/streamers/edge/{path}"))
            .expect(200)
            .json();
        assert!(
            names(&answer).iter().all(|name| name == "a"),
            "{path}: {answer}"
        );
    }
    server
        .put("/streams/b", json!({"disabled": false}))
        .expect(200);
    assert_eq!(names(&streams_of(&server, "s1").json()), ["a", "b"]);
}

#[test]
fn unknown_streamer_gets_404_instead_of_an_empty_list() {
    let server = with_nodes(&[]);
    server
        .put("/streams/a", json!({"layout": {"ingest": "s1"}}))
        .expect(200);
    for path in [
        "streams",
        "streams?limit=1",
        "streams?changes_since=1",
        "streams?name=a",
        "update-streams?name=a",
        "dynamic-streams?name=a",
        "episodes?media=a",
    ] {
        let answer = server.get(&format!("/streamers/nobody/{path}")).expect(404);
        assert_eq!(answer.errors(), ["streamer_not_found"], "{path}");
    }
    server.delete("/streamers/s1").expect(204);
    server.get("/streamers/s1/streams").expect(404);
    server
        .put(
            "/streamers/s1",
            json!({"role": "streamer", "cluster_key": "k"}),
        )
        .expect(200);
    assert_eq!(names(&streams_of(&server, "s1").json()), ["a"]);
}

#[test]
fn restreaming_is_a_setting() {
    // Mode, and whether the marked and the unmarked streamer receive a stream they do not hold.
    for (mode, marked, unmarked) in [
        ("off", false, false),
        ("marked", true, false),
        ("all", true, true),
    ] {
        let server = with_nodes(&["--restreaming", mode]);
        let streams = json!([
            {
                "name": "a", "inputs": [{"url": "udp://239.0.0.1:1"}],
                "on_play": {"url": "http://auth"}, "layout": {"ingest": "s2"},
            },
            {"name": "placed nowhere", "inputs": [{"url": "udp://239.0.0.1:2"}]},
            {"name": "other", "namespace": "elsewhere"},
        ]);
        server.put("/streams/batch", streams).expect(204);
        let dynamic = json!({
            "name": "a", "static": false, "inputs": [{"url": "m4s://10.0.0.2:8081/a"}],
            "on_play": {"url": "http://auth"},
        });
        for (hostname, may) in [("edge", marked), ("s1", unmarked)] {
            for path in ["dynamic-streams", "update-streams", "streams"] {
                let answer = server
                    .get(&format!(
                        "/streamers/{hostname}/{path}?name=a,placed%20nowhere,other,nobody"
                    ))
                    .expect(200);
                let expected = if may { json!([dynamic]) } else { json!([]) };
                assert_eq!(
                    answer.json()["streams"],
                    expected,
                    "{mode} {hostname} {path}"
                );
                let header = if mode == "off" { Some("false") } else { None };
                assert_eq!(answer.header("x-config-server-dynamic-streams"), header);
            }
        }
        // The node that holds it receives its own rendering in every mode.
        let own = streams_of(&server, "s2").json()["streams"].clone();
        assert_eq!(own[0]["inputs"][0]["url"], "udp://239.0.0.1:1");
        for path in [
            "update-streams?name=a",
            "dynamic-streams?name=nobody,a",
            "streams?name=a",
        ] {
            let answer = server
                .get(&format!("/streamers/s2/{path}"))
                .expect(200)
                .json();
            assert_eq!(answer["streams"], own, "{mode} {path}");
        }
    }
}

#[test]
fn names_parameter_takes_a_comma_separated_list() {
    let server = with_nodes(&[]);
    for name in ["a", "b", "sports/1"] {
        server
            .put(
                &format!("/streams/{name}"),
                json!({"layout": {"ingest": "s1"}}),
            )
            .expect(200);
    }
    let table = [
        ("name=b,a", "a b"),
        ("name=b%2Ca", "a b"),
        ("name=a,a,,a", "a"),
        ("name=sports%2F1", "sports/1"),
        ("name=sports/1&select=name", "sports/1"),
        ("name=nobody", ""),
    ];
    for (query, expected) in table {
        let answer = server
            .get(&format!("/streamers/s1/update-streams?{query}"))
            .expect(200)
            .json();
        assert_eq!(names(&answer).join(" "), expected, "{query}");
    }
    for query in ["", "name=", "name=,"] {
        for path in ["update-streams", "dynamic-streams"] {
            let answer = server
                .get(&format!("/streamers/s1/{path}?{query}"))
                .expect(400);
            assert_eq!(answer.errors(), ["missing_required name"], "{path} {query}");
        }
    }
}

#[test]
fn etag_is_per_coding_and_yields_304() {
    let mut server = with_nodes(&[]);
    let many: Value = (0..50)
        .map(|i| {
            json!({
                "name": format!("s{i}"), "inputs": [{"url": "udp://239.0.0.1:1"}],
                "layout": {"ingest": "s1"},
            })
        })
        .collect();
    server.put("/streams/batch", many).expect(204);
    let ask = |server: &TestServer, fields: &[(&str, &str)]| {
        server.call_with("GET", "/streamers/s1/streams", fields, b"")
    };
    let plain = ask(&server, &[]).expect(200);
    let mut tags = vec![etag(&plain)];
    assert!(tags[0].starts_with('"'), "a strong tag");
    assert_eq!(plain.header("content-encoding"), None);
    for coding in ["gzip", "zstd"] {
        let packed = ask(&server, &[("Accept-Encoding", coding)]).expect(200);
        assert_eq!(packed.header("content-encoding"), Some(coding));
        assert!(
            packed
                .header("vary")
                .is_some_and(|vary| vary.to_lowercase().contains("accept-encoding")),
            "{packed:?}"
        );
        assert!(packed.body.len() < plain.body.len() / 4, "{coding}");
        assert_eq!(*packed.decoded().expect("a body"), plain.body, "{coding}");
        tags.push(etag(&packed));
    }
    let different: BTreeSet<&String> = tags.iter().collect();
    assert_eq!(
        different.len(),
        3,
        "a strong tag is of one coding: {tags:?}"
    );
    let check = |server: &TestServer, status: u16| {
        for tag in &tags {
            for coding in ["identity", "gzip", "zstd"] {
                for sent in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
                    let answer = ask(
                        server,
                        &[("If-None-Match", &sent), ("Accept-Encoding", coding)],
                    );
                    assert_eq!(answer.status, status, "{sent} {coding}");
                    assert!(answer.header("etag").is_some());
                    assert_eq!(
                        answer.header("x-config-server-separate-endpoints"),
                        Some("true")
                    );
                }
            }
        }
    };
    check(&server, 304);
    assert_eq!(status_with_tag(&server, "s1", "\"another\""), 200);
    assert_eq!(
        status_with_tag(&server, "s2", &tags[0]),
        200,
        "a tag is of one streamer"
    );
    server.restart();
    check(&server, 304);
    assert_eq!(ask(&server, &[]).body, plain.body);
    server.kill();
    server.start();
    check(&server, 304);
    server
        .put("/streams/s7", json!({"title": "new"}))
        .expect(200);
    check(&server, 200);
}

#[test]
fn generation_changes_only_with_the_sent_configuration() {
    let mut server = with_nodes(&[]);
    let streams = json!([
        {
            "name": "a", "dvr": {"expiration": 60}, "vision": {"alg": "faces"},
            "layout": {"ingest": "s1", "dvr_backups": ["s2"], "inference": "i1"},
        },
        {"name": "elsewhere", "layout": {"ingest": "s3"}},
        {"name": "nowhere"},
    ]);
    server.put("/streams/batch", streams).expect(204);
    let hosts = ["s1", "s2", "s3", "i1", "edge"];
    let tags = |server: &TestServer| -> BTreeMap<&str, String> {
        hosts
            .iter()
            .map(|host| (*host, etag(&streams_of(server, host))))
            .collect()
    };
    // A request, and the nodes whose configuration it changes.
    let steps: [(&str, &str, Value, &[&str]); 19] = [
        ("PUT", "/streams/nowhere", json!({"title": "t"}), &[]),
        ("PUT", "/streams/elsewhere", json!({"title": "t"}), &["s3"]),
        ("PUT", "/streams/a", json!({"labels": {"a": "b"}}), &[]),
        ("PUT", "/streams/a", json!({"position": 5}), &[]),
        (
            "PUT",
            "/streams/a",
            json!({"template": "t", "meta": {"a": "b"}}),
            &[],
        ),
        (
            "PUT",
            "/streams/a",
            json!({"layout": {"change_reason": "not_distributed"}}),
            &[],
        ),
        ("PUT", "/streams/a", json!({"title": "t"}), &["s1"]),
        ("PUT", "/streams/a", json!({"title": "t"}), &[]),
        (
            "PUT",
            "/streams/a",
            json!({"dvr": {"expiration": 61}}),
            &["s1", "s2"],
        ),
        (
            "PUT",
            "/streams/a",
            json!({"vision": {"alg": "plates"}}),
            &["s1", "i1"],
        ),
        (
            "PUT",
            "/streamers/s1",
            json!({"channel_limit": 5, "labels": {"a": "b"}}),
            &[],
        ),
        ("PUT", "/streamers/s1", json!({"cluster_key": "new"}), &[]),
        (
            "PUT",
            "/streamers/s1",
            json!({"private_payload_url": "http://10.0.0.9:1"}),
            &["s2", "i1"],
        ),
        (
            "PUT",
            "/streamers/edge",
            json!({"private_payload_url": "http://10.0.0.8:1"}),
            &[],
        ),
        (
            "PUT",
            "/streams/a",
            json!({"layout": {"inference": null}}),
            &["i1"],
        ),
        (
            "PUT",
            "/streams/a",
            json!({"layout": {"dvr_backups": ["s3"]}}),
            &["s1", "s2", "s3"],
        ),
        (
            "PUT",
            "/streams/a",
            json!({"disabled": true}),
            &["s1", "s3"],
        ),
        ("PUT", "/streams/a", json!({"title": "while disabled"}), &[]),
        ("DELETE", "/streams/a", Value::Null, &[]),
    ];
    let mut before = tags(&server);
    for (method, path, body, expected) in steps {
        let bytes = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = server.call(method, path, bytes.as_bytes());
        assert!(
            answer.status < 300,
            "{method} {path} {body}: {}",
            answer.text()
        );
        let after = tags(&server);
        let moved: Vec<&str> = hosts
            .into_iter()
            .filter(|host| before[host] != after[host])
            .collect();
        let expected = hosts
            .into_iter()
            .filter(|host| expected.contains(host))
            .collect::<Vec<_>>();
        assert_eq!(moved, expected, "{method} {path} {body}");
        before = after;
    }
    // Generations survive a restart, also of nodes that only lost streams.
    server.restart();
    assert_eq!(tags(&server), before);
}

#[test]
fn delta_applied_to_a_copy_gives_the_full_list() {
    // A stream that moves away is removed at once.
    let mut server = with_nodes(&["--layouter-handover", "0"]);
    for name in ["a", "b", "c", "d"] {
        server
            .put(
                &format!("/streams/{name}"),
                json!({"layout": {"ingest": "s1"}}),
            )
            .expect(200);
    }
    let whole = streams_of(&server, "s1").json();
    let mut copy: BTreeMap<String, Value> = names(&whole)
        .into_iter()
        .zip(whole["streams"].as_array().expect("a list").iter().cloned())
        .collect();
    let mut revision = whole["revision"].as_u64().expect("a revision");
    let delta = |server: &TestServer, revision: u64| {
        server
            .get(&format!("/streamers/s1/streams?changes_since={revision}"))
            .expect(200)
            .json()
    };
    let nothing = delta(&server, revision);
    assert_eq!(
        (
            &nothing["streams"],
            &nothing["removed"],
            &nothing["revision"]
        ),
        (&json!([]), &json!([]), &json!(revision))
    );

    let put = |name: &str, body: Value| ("PUT", format!("/streams/{name}"), body.to_string());
    let delete = |name: &str| ("DELETE", format!("/streams/{name}"), String::new());
    let here = json!({"layout": {"ingest": "s1"}});
    let batch = json!([{"name": "e", "layout": {"ingest": "s1"}}, {"name": "a", "title": "u"}]);
    // Requests, and the changed and the removed streams of the delta.
    let steps: [(Vec<_>, &[&str], &[&str]); 7] = [
        (vec![put("a", json!({"title": "t"}))], &["a"], &[]),
        (vec![put("a", json!({"labels": {"a": "b"}}))], &[], &[]),
        (vec![delete("b")], &[], &["b"]),
        (vec![put("c", json!({"disabled": true}))], &[], &["c"]),
        (
            vec![
                put("c", json!({"disabled": false})),
                put("d", json!({"layout": {"ingest": "s2"}})),
            ],
            &["c"],
            &["d"],
        ),
        (
            vec![put("b", here.clone()), delete("b"), put("b", here)],
            &["b"],
            &[],
        ),
        (vec![put("batch", batch)], &["a", "e"], &[]),
    ];
    for (i, (calls, changed, removed)) in steps.into_iter().enumerate() {
        for (method, path, body) in calls {
            let answer = server.call(method, &path, body.as_bytes());
            assert!(answer.status < 300, "step {i}: {}", answer.text());
        }
        let answer = delta(&server, revision);
        assert_eq!(names(&answer), changed, "step {i}");
        assert_eq!(answer["removed"], json!(removed), "step {i}");
        for stream in answer["streams"].as_array().expect("a list") {
            copy.insert(
                stream["name"].as_str().expect("a name").to_owned(),
                stream.clone(),
            );
        }
        for name in answer["removed"].as_array().expect("a list") {
            copy.remove(name.as_str().expect("a name"));
        }
        revision = answer["revision"].as_u64().expect("a revision");
        let whole = streams_of(&server, "s1").json();
        assert_eq!(
            copy.values().collect::<Vec<_>>(),
            whole["streams"]
                .as_array()
                .expect("a list")
                .iter()
                .collect::<Vec<_>>(),
            "step {i}"
        );
        assert_eq!(whole["revision"], revision);
    }
    // After a restart a delta is complete or refused.
    server.restart();
    let after = server.get(&format!("/streamers/s1/streams?changes_since={revision}"));
    assert!(matches!(after.status, 200 | 410), "{after:?}");
    if after.status == 200 {
        assert_eq!(
            (&after.json()["streams"], &after.json()["removed"]),
            (&json!([]), &json!([]))
        );
    }
}

#[test]
fn delta_with_gaps_is_refused() {
    let server = with_nodes(&[]);
    server
        .put(
            "/streams/a",
            json!({"dvr": {"expiration": 60}, "layout": {"ingest": "s2", "dvr_backups": ["s1"]}}),
        )
        .expect(200);
    let revision = streams_of(&server, "s1").json()["revision"]
        .as_u64()
        .expect("a revision");
    let ask = |since: &str| server.get(&format!("/streamers/s1/streams?changes_since={since}"));
    for since in ["0", "1000000", "9223372036854775807"] {
        assert_eq!(
            ask(since).expect(410).errors(),
            ["revision_gone changes_since"],
            "{since}"
        );
    }
    for since in ["", "x", "-1", "1.5", "18446744073709551616"] {
        assert_eq!(
            ask(since).expect(400).errors(),
            ["not_integer changes_since"],
            "{since}"
        );
    }
    // An address that changed shows in answers without any stream having changed.
    server
        .put(
            "/streamers/s2",
            json!({"private_payload_url": "http://10.0.0.77"}),
        )
        .expect(200);
    ask(&revision.to_string()).expect(410);
    let now = streams_of(&server, "s1").json();
    assert_eq!(now["streams"][0]["inputs"][0]["url"], "m4s://10.0.0.77/a");
    ask(&now["revision"].to_string()).expect(200);
    // More removals than are remembered.
    let many = |disabled: bool| -> Value {
        (0..1100)
            .map(|i| {
                json!({
                    "name": format!("m{i}"), "disabled": disabled, "layout": {"ingest": "s1"},
                })
            })
            .collect()
    };
    server.put("/streams/batch", many(false)).expect(204);
    let full = streams_of(&server, "s1").json()["revision"].to_string();
    server.put("/streams/batch", many(true)).expect(204);
    ask(&full).expect(410);
    let name = server
        .get("/streamers/s1/streams?changes_since=1&select=name")
        .expect(400);
    assert_eq!(name.errors(), ["not_combinable changes_since"]);
}

#[test]
fn pages_of_a_snapshot_come_from_one_revision() {
    let server = with_nodes(&[]);
    let many: Value = (0..20)
        .map(|i| json!({"name": format!("s{i:02}"), "title": "old", "layout": {"ingest": "s1"}}))
        .collect();
    server.put("/streams/batch", many).expect(204);
    let whole = streams_of(&server, "s1").json();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    let mut turn = 0;
    loop {
        let page = server
            .get(&format!("/streamers/s1/streams?limit=3&cursor={cursor}"))
            .expect(200)
            .json();
        assert_eq!(page["revision"], whole["revision"]);
        assert_eq!(page["updated_at"], whole["updated_at"]);
        seen.extend(page["streams"].as_array().expect("a list").clone());
        // Everything changes under the walk: behind it, ahead of it, more and fewer.
        server
            .put("/streams/s19", json!({"title": format!("new {turn}")}))
            .expect(200);
        server
            .put(
                &format!("/streams/s1{turn}x"),
                json!({"layout": {"ingest": "s1"}}),
            )
            .expect(200);
        server
            .put(
                &format!("/streams/s{:02}", 18 - turn),
                json!({"layout": {"ingest": "s2"}}),
            )
            .expect(200);
        turn += 1;
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(json!(seen), whole["streams"]);
    assert_ne!(
        streams_of(&server, "s1").json()["streams"],
        whole["streams"]
    );
}

#[test]
fn expired_page_snapshot_is_410() {
    let mut server = with_nodes(&[]);
    for name in ["a", "b", "c"] {
        server
            .put(
                &format!("/streams/{name}"),
                json!({"layout": {"ingest": "s1"}}),
            )
            .expect(200);
    }
    let page = server
        .get("/streamers/s1/streams?limit=1")
        .expect(200)
        .json();
    let next = page["next"].as_str().expect("there is more").to_owned();
    server.restart();
    server.put("/streams/b", json!({"title": "t"})).expect(200);
    let answer = server
        .get(&format!("/streamers/s1/streams?limit=1&cursor={next}"))
        .expect(410);
    assert_eq!(answer.errors(), ["walk_expired cursor"]);
}

#[test]
fn default_page_size_for_streamers_is_a_setting() {
    let server = with_nodes(&["--streamer-streams-limit", "2"]);
    for name in ["a", "b", "c"] {
        server
            .put(
                &format!("/streams/{name}"),
                json!({"layout": {"ingest": "s1"}}),
            )
            .expect(200);
    }
    let page = streams_of(&server, "s1").json();
    assert_eq!(names(&page), ["a", "b"]);
    let next = page["next"].as_str().expect("there is more");
    let rest = server
        .get(&format!("/streamers/s1/streams?cursor={next}"))
        .expect(200)
        .json();
    assert_eq!(names(&rest), ["c"]);
    assert_eq!(rest["next"], Value::Null);
}
