//! Typed calls of the API that several files of tests make, and what they read from responses.

use serde_json::{Value, json};

use crate::auth::cluster;
use weir_testkit::{API_KEY, Client, PREFIX, Response, TestServer};

/// Names of the streams of a list, in its order.
#[track_caller]
pub fn names(list: &Value) -> Vec<String> {
    keys(list, "streams", "name")
}

/// One text member of each item of a list, in its order.
#[track_caller]
pub fn keys(list: &Value, member: &str, key: &str) -> Vec<String> {
    let items = list[member].as_array();
    let items = items.unwrap_or_else(|| panic!("no {member}: {list}"));
    let key = |item: &Value| item[key].as_str().expect("a text").to_owned();
    items.iter().map(key).collect()
}

/// The body of a request; `null` is none.
pub fn body_text(body: &Value) -> String {
    if body.is_null() {
        return String::new();
    }
    body.to_string()
}

#[track_caller]
pub fn etag(response: &Response) -> String {
    response.etag().expect("an ETag").to_owned()
}

/// Saves a streamer of this name.
pub fn save_node(server: &TestServer, host: &str) {
    let url = format!("http://{host}");
    let body = json!({"role": "streamer", "cluster_key": "key", "api_url": url});
    server.put(&format!("/streamers/{host}"), body).expect(200);
}

/// Sets the ingest of streams: pairs of stream and streamer.
pub fn lay_out(server: &TestServer, places: &[(&str, &str)]) {
    let layout = |(name, host): &(&str, &str)| json!({"name": name, "ingest": host, "force": true});
    let layouts: Vec<Value> = places.iter().map(layout).collect();
    let body = json!({"layouts": layouts});
    server.post("/streams/layouts", body).expect(204);
}

/// A GET request as an administrator. `fields` are further header lines, each with its CRLF.
pub fn get_request(path: &str, fields: &str) -> String {
    format!(
        "GET {PREFIX}{path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n{fields}\r\n"
    )
}

/// Sends a poll and returns when it is parked (or was answered).
pub fn park(server: &TestServer, path: &str, fields: &str) -> Client {
    park_request(server, &get_request(path, fields))
}

/// Sends a request behind a probe and returns when the probe is answered: both were parsed then.
pub fn park_request(server: &TestServer, request: &str) -> Client {
    let mut client = server.connect();
    let both = get_request("/monitoring/liveness", "") + request;
    client.send(both.as_bytes());
    client.response(false).expect(200);
    client
}

/// Saves episodes from several clients until some of them were committed together: from then on a
/// single save waits for others too.
pub fn save_episodes_together(server: &TestServer) {
    let body = json!({"media": "prime", "opened_at": 1_700_000_000_000_u64}).to_string();
    let request = |id: u64| {
        format!(
            "PUT {PREFIX}/episodes/{id} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let ids = 9_000_000..9_000_008;
    for _ in 0..100 {
        let mut clients: Vec<Client> = ids.clone().map(|_| server.connect()).collect();
        for (client, id) in clients.iter_mut().zip(ids.clone()) {
            client.send(request(id).as_bytes());
        }
        let mut stamps: Vec<u64> = clients
            .iter_mut()
            .map(|client| client.response(false).expect(200).json()["updated_at"].clone())
            .map(|stamp| stamp.as_u64().expect("a stamp"))
            .collect();
        stamps.sort_unstable();
        let newest = stamps.len() - 2;
        if stamps[newest] == stamps[newest + 1] {
            for id in ids {
                server.delete(&format!("/episodes/{id}")).expect(204);
            }
            return;
        }
    }
    panic!("of 100 times eight saves no two were committed together");
}

/// A streamer with the cluster key `key` polls its configuration with that key, which is a sign of
/// life.
pub fn poll_as_streamer(server: &TestServer, host: &str) {
    let path = format!("/streamers/{host}/streams");
    let signature = cluster("key", 0);
    server.call_as("GET", &path, Some(&signature)).expect(200);
}
