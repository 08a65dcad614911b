//! Authorization backends: saving and reading.

use serde_json::json;

use weir_testkit::TestServer;

#[test]
fn auth_backend_is_created_changed_listed_and_deleted() {
    let mut server = TestServer::new();
    server.get("/auth_backends/viewers").expect(404);
    let created = server
        .put(
            "/auth_backends/viewers",
            json!({"allow_tokens": ["t1"], "deny_ips": ["10.0.0.0/8"], "unknown": 1}),
        )
        .expect(200)
        .json();
    assert_eq!(
        created,
        json!({
            "name": "viewers", "allow_tokens": ["t1"], "deny_ips": ["10.0.0.0/8"],
            "allow_default": false,
        })
    );
    // Absent members keep their values, null removes.
    let changed = server
        .put(
            "/auth_backends/viewers",
            json!({
                "allow_default": true, "deny_ips": null,
                "backends": [{"url": "http://10.0.0.1/auth"}],
            }),
        )
        .expect(200)
        .json();
    assert_eq!(
        changed,
        json!({
            "name": "viewers", "allow_tokens": ["t1"], "allow_default": true,
            "backends": [{"url": "http://10.0.0.1/auth"}],
        })
    );
    server.restart();
    let read = server.get("/auth_backends/viewers").expect(200).json();
    assert_eq!(read, changed);
    server.put("/auth_backends/b", json!({})).expect(200);
    let list = server.get("/auth_backends").expect(200).json();
    assert_eq!(list["estimated_count"], 2);
    assert_eq!(list["auth_backends"][0]["name"], "b");
    assert_eq!(list["auth_backends"][1]["allow_tokens"], json!(["***"]));
    server.delete("/auth_backends/viewers").expect(204);
    server.get("/auth_backends/viewers").expect(404);
    server.delete("/auth_backends/viewers").expect(404);
}

#[test]
fn rules_without_effect_are_refused() {
    let server = TestServer::new();
    for (body, error) in [
        (
            json!({"allow_ips": ["10.0.0.1", "10.0.0.0/99"]}),
            "wrong_format /allow_ips/1",
        ),
        (
            json!({"deny_ips": ["example.com"]}),
            "wrong_format /deny_ips/0",
        ),
        (
            json!({"deny_countries": ["Serbia"]}),
            "wrong_format /deny_countries/0",
        ),
        (json!({"deny_tokens": [""]}), "too_short /deny_tokens/0"),
        (json!({"allow_uas": [""]}), "too_short /allow_uas/0"),
        (
            json!({"backends": [{"url": "ftp://10.0.0.1/"}]}),
            "wrong_format /backends/0/url",
        ),
        (
            json!({"backends": [{"url": "http://169.254.169.254/latest/meta-data/"}]}),
            "wrong_format /backends/0/url",
        ),
        (
            json!({"backends": [{"url": "http://a/\r\nX-Injected: 1"}]}),
            "wrong_format /backends/0/url",
        ),
        (json!({"allow_tokens": "t"}), "not_array /allow_tokens"),
        (
            json!({"allow_default": "yes"}),
            "not_boolean /allow_default",
        ),
        (json!({"name": "other"}), "key_mismatch /name"),
    ] {
        let answer = server.put("/auth_backends/a", body.clone()).expect(400);
        assert_eq!(answer.errors(), [error], "{body}");
    }
    server.get("/auth_backends/a").expect(404);
    // A refused change leaves what was there.
    server
        .put("/auth_backends/a", json!({"allow_ips": ["10.0.0.1"]}))
        .expect(200);
    server
        .put("/auth_backends/a", json!({"allow_ips": ["10.0.0.1", "x"]}))
        .expect(400);
    let kept = server.get("/auth_backends/a").expect(200).json();
    assert_eq!(kept["allow_ips"], json!(["10.0.0.1"]));
}

#[test]
fn viewer_tokens_show_only_on_their_backend() {
    let server = TestServer::new();
    let body = json!({
        "allow_tokens": ["canary-a"], "deny_tokens": ["canary-b"],
        "backends": [{"url": "http://u:canary-c@10.0.0.1/"}],
    });
    let shown = server.put("/auth_backends/a", body).expect(200).text();
    assert!(shown.contains("canary-a") && shown.contains("canary-b"));
    for path in [
        "/auth_backends",
        "/auth_backends?select=allow_tokens,backends",
        "/auth_backends?allow_tokens=canary-a",
        "/auth_backends?q=canary",
        "/auth_backends?sort=allow_tokens",
        "/events",
    ] {
        let text = server.get(path).text();
        assert!(!text.contains("canary-"), "{path}: {text}");
    }
    // A mask that is sent back keeps the stored value.
    server
        .put(
            "/auth_backends/a",
            json!({"allow_tokens": ["***"], "deny_uas": ["x"]}),
        )
        .expect(200);
    let kept = server.get("/auth_backends/a").expect(200).json();
    assert_eq!(kept["allow_tokens"], json!(["canary-a"]));
}
