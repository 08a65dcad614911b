//! Streams: saving, reading, deleting, placing.

use serde_json::json;

use crate::server::TestServer;

#[test]
fn a_saved_stream_is_read_back_and_survives_a_restart() {
    let mut server = TestServer::new();
    let saved = server
        .put(
            "/streams/a",
            json!({"inputs": [{"url": "udp://239.0.0.1:5000"}]}),
        )
        .expect(200)
        .json();
    assert_eq!(server.get("/streams/a").expect(200).json(), saved);
    server.restart();
    assert_eq!(server.get("/streams/a").expect(200).json(), saved);
    server.kill();
    server.start();
    assert_eq!(server.get("/streams/a").expect(200).json(), saved);
}
