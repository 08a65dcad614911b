//! `Prefer: handling=strict`: unknown names are refused with the nearest known one.

use serde_json::{Value, json};

use crate::calls::save_node;
use crate::described::Document;
use weir_testkit::{Response, TestServer};

const STRICT: (&str, &str) = ("Prefer", "handling=strict");

fn strictly(server: &TestServer, method: &str, path: &str, body: &str) -> Response {
    server.call_with(method, path, &[STRICT], body.as_bytes())
}

/// The error and its suggestion.
fn refusal(answer: Response) -> (String, String) {
    let answer = answer.expect(400);
    assert_eq!(answer.header("preference-applied"), Some("handling=strict"));
    let errors = answer.json();
    let error = &errors["errors"][0];
    let near = error["meta"]["nearest"].as_str().unwrap_or_default();
    let title = error["title"].as_str().expect("a title");
    assert!(near.is_empty() || title.contains(&format!("did you mean `{near}`?")));
    (answer.errors()[0].clone(), near.to_owned())
}

#[test]
fn names_without_visible_characters_are_refused_like_others() {
    let server = TestServer::new();
    for (name, pointer) in [("", "/"), ("\u{1}", "/\u{1}")] {
        let body = json!({name: 1}).to_string();
        let answer = strictly(&server, "PUT", "/streams/a", &body).expect(400);
        assert_eq!(answer.errors(), [format!("unknown_member {pointer}")]);
        let answer = strictly(&server, "GET", "/streams?=1", "").expect(400);
        let errors = answer.json();
        let title = errors["errors"][0]["title"].as_str().expect("a title");
        assert!(title.starts_with("Unknown query parameter `?`"), "{title}");
    }
}

#[test]
fn unknown_names_in_queries_are_refused() {
    let server = TestServer::new();
    save_node(&server, "s1");
    server.put("/streams/a", json!({})).expect(200);
    for (path, error, near) in [
        (
            "/streams?statsstatus=error",
            "unknown_parameter statsstatus",
            "stats.status",
        ),
        (
            "/streams?titel_like=x",
            "unknown_parameter titel_like",
            "title",
        ),
        ("/streams?limits=5", "unknown_parameter limits", "limit"),
        ("/streams?sort=-titel", "unknown_field sort", "title"),
        (
            "/streams?select=name,inputs.ulr",
            "unknown_field select",
            "inputs.url",
        ),
        (
            "/streams?labels=1&label.zone=x",
            "unknown_parameter label.zone",
            "",
        ),
        (
            "/streamers?hostnam=s1",
            "unknown_parameter hostnam",
            "hostname",
        ),
        ("/agents?idd=1", "unknown_parameter idd", "id"),
        ("/episodes?medium=a", "unknown_parameter medium", "media"),
        (
            "/persons?external_idx=a",
            "unknown_parameter external_idx",
            "external_id",
        ),
        ("/api_tokens?nam=a", "unknown_parameter nam", "name"),
        ("/auth_backends?nam=a", "unknown_parameter nam", "name"),
        ("/load-balancers?nam=a", "unknown_parameter nam", "name"),
        ("/events?evnt=a", "unknown_parameter evnt", "event"),
        ("/dvrs?nam=a", "unknown_parameter nam", "name"),
        (
            "/streams/a/layouts?created_a_gt=0",
            "unknown_parameter created_a_gt",
            "",
        ),
        (
            "/streamers/s1/streams?poll_timout=1",
            "unknown_parameter poll_timout",
            "poll_timeout",
        ),
        (
            "/cluster/stats?formt=openmetrics",
            "unknown_parameter formt",
            "format",
        ),
        ("/streams/a?x=1", "unknown_parameter x", ""),
        (
            "/monitoring/liveness?verbos=1",
            "unknown_parameter verbos",
            "",
        ),
    ] {
        let (found, nearest) = refusal(strictly(&server, "GET", path, ""));
        assert_eq!(found, error, "{path}");
        assert!(near.is_empty() || near == nearest, "{path}: {nearest}");
        // Ignored by default.
        server.get(path).expect(200);
    }
    for path in [
        "/streams?name=a&title_is=null&sort=-stats.bitrate&select=labels.a.b&q=a&limit=5",
        "/streams?include_ingest_history=false&labels.required.zone_ne=x&scheme=http",
        "/streamers?role=streamer&labels.a.b=c&channel_limit_gt=5&dvrs.name=x",
        "/streamers/s1/streams?host=s1",
        "/events?event=api_call&stream=a&limit=1",
        "/streams/a",
    ] {
        let answer = strictly(&server, "GET", path, "");
        assert_eq!(answer.header("preference-applied"), Some("handling=strict"));
        assert!(matches!(answer.status, 200), "{path}: {}", answer.text());
    }
}

#[test]
fn unknown_members_of_bodies_are_refused() {
    let server = TestServer::with(&["--layouter-enabled", "--episodes-buffer-delay", "0"]);
    save_node(&server, "s1");
    server.put("/streams/b", json!({})).expect(200);
    server.put("/agents/1", json!({})).expect(200);
    let url = "udp://239.0.0.1:1";
    for (method, path, body, at, near) in [
        ("PUT", "/streams/a", json!({"titel": 1}), "/titel", "title"),
        (
            "PUT",
            "/streams/a",
            json!({"inputs": [{"url": url, "priorty": 1}]}),
            "/inputs/0/priorty",
            "priority",
        ),
        (
            "PUT",
            "/streams/a",
            json!({"layout": {"ingst": "s1"}}),
            "/layout/ingst",
            "ingest",
        ),
        (
            "PUT",
            "/streams/batch",
            json!([{"name": "a"}, {"name": "c", "titel": 1}]),
            "/1/titel",
            "title",
        ),
        (
            "POST",
            "/streams/layouts",
            json!({"layouts": [{"name": "b", "ingst": "s1"}]}),
            "/layouts/0/ingst",
            "ingest",
        ),
        (
            "POST",
            "/streams/a/preview_layout_change",
            json!({"label": {}}),
            "/label",
            "labels",
        ),
        (
            "PUT",
            "/streamers/s2",
            json!({"rol": "streamer"}),
            "/rol",
            "role",
        ),
        (
            "PUT",
            "/streamers/batch",
            json!([{"hostname": "s2", "rol": "x"}]),
            "/0/rol",
            "role",
        ),
        ("PUT", "/agents/2", json!({"nam": "x"}), "/nam", ""),
        (
            "POST",
            "/agents/layouts",
            json!({"layouts": [{"id": "1", "ingst": "s1"}]}),
            "/layouts/0/ingst",
            "ingest",
        ),
        (
            "PUT",
            "/api_tokens/t",
            json!({"permission": []}),
            "/permission",
            "permissions",
        ),
        (
            "PUT",
            "/auth_backends/a",
            json!({"allow_ip": []}),
            "/allow_ip",
            "allow_ips",
        ),
        (
            "PUT",
            "/load-balancers/a",
            json!({"mod": "usage"}),
            "/mod",
            "mode",
        ),
        (
            "PUT",
            "/persons/1",
            json!({"external": "x"}),
            "/external",
            "external_id",
        ),
        (
            "PUT",
            "/config",
            json!({"layouter_enable": "true"}),
            "/layouter_enable",
            "layouter_enabled",
        ),
        (
            "POST",
            "/cluster/preview",
            json!({"event": []}),
            "/event",
            "events",
        ),
    ] {
        let (error, nearest) = refusal(strictly(&server, method, path, &body.to_string()));
        assert_eq!(error, format!("unknown_member {at}"), "{path}");
        assert!(near.is_empty() || nearest == near, "{path}: {nearest}");
    }
    for path in [
        "/streams/a",
        "/streamers/s2",
        "/agents/2",
        "/api_tokens/t",
        "/persons/1",
    ] {
        server.get(path).expect(404);
    }
    // All of them, in order, and what is known in some form is no error.
    let body = json!({"aa": 1, "title": "t", "zz": 2}).to_string();
    let answer = strictly(&server, "PUT", "/streams/a", &body).expect(400);
    assert_eq!(
        answer.errors(),
        ["unknown_member /aa", "unknown_member /zz"]
    );
    let body = json!({
        "$reset": true, "labels": {"any.key": "x"}, "meta": {"a": "b"}, "updated_at": 5,
        "inputs": [{"url": url}], "layout": {"created_at": 1, "ingest": "s1"},
    });
    let answer = strictly(&server, "PUT", "/streams/a", &body.to_string()).expect(200);
    assert_eq!(answer.header("preference-applied"), Some("handling=strict"));
    // What was read can be saved, by batches too.
    let mut read = answer.json();
    strictly(&server, "PUT", "/streams/a", &read.to_string()).expect(200);
    read["if_match"] = json!("*");
    strictly(&server, "PUT", "/streams/batch", &json!([read]).to_string()).expect(204);
    let node = server.get("/streamers/s1").expect(200).text();
    strictly(&server, "PUT", "/streamers/s1", &node).expect(200);
}

#[test]
fn preference_is_read_as_a_list_of_preferences() {
    let server = TestServer::new();
    let get = |fields: &[(&str, &str)]| server.call_with("GET", "/streams?nonsense=1", fields, b"");
    for (preference, is_strict) in [
        ("handling=strict", true),
        ("Handling = \"strict\"", true),
        ("respond-async, handling=strict; x=y", true),
        ("handling=lenient", false),
        ("handling=lenient, handling=strict", false),
        ("handling", false),
        ("strict", false),
        ("", false),
    ] {
        let answer = get(&[("Prefer", preference)]);
        assert_eq!(answer.status == 400, is_strict, "{preference}");
        let applied = answer.header("preference-applied").is_some();
        assert_eq!(applied, is_strict, "{preference}");
    }
    get(&[("Prefer", "wait=5"), STRICT]).expect(400);
    let document = Document::new();
    for operation in document.operations() {
        let headers = operation
            .parameters
            .iter()
            .filter(|it| it["in"] == "header");
        let named: Vec<&Value> = headers.map(|it| &it["name"]).collect();
        assert!(named.contains(&&json!("Prefer")), "{}", operation.id);
    }
}
