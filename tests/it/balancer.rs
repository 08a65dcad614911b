//! Load balancers as things that are saved, and the addresses under which viewers use them.

use serde_json::json;

use crate::server::TestServer;

#[test]
fn a_balancer_is_created_changed_listed_and_deleted() {
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
fn viewers_need_no_credentials_and_learn_why_they_are_not_sent_on() {
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
