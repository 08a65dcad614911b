//! Agents against the real program: the resource, the handshake, control connections, commands from
//! any core.
//!
//! The agent here is written from the documentation of the protocol, with its own SHA-512 of
//! everything. Commands are sent over HTTP from another thread, because they wait for the reply of
//! the agent.

use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use weir_testkit::{Client, PREFIX, Response, STREAMER_PREFIX, TestServer, wait_until};

const KEY: &str = "agent-key-1";

fn hash(text: &str) -> String {
    Sha512::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Challenge {
    nonce: String,
    salt: String,
    server_proof: String,
}

impl Challenge {
    fn of(answer: &Response) -> Self {
        let field = |name| answer.header(name).expect("a challenge").to_owned();
        Self {
            nonce: field("x-nonce"),
            salt: field("x-salt"),
            server_proof: field("x-agentauth"),
        }
    }

    fn proof(&self, key: &str) -> String {
        let inner = hash(&format!("{}:{key}", self.salt));
        format!("Peeklio {}", hash(&format!("{}:{inner}", self.nonce)))
    }
}

const UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "weir-agent/1")];

/// One request of the handshake.
fn post(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Response {
    client.request("POST", path, fields, b"")
}

fn challenge(client: &mut Client, id: &str) -> Challenge {
    let answer = post(client, "/endpoint/connect", &[("X-Peeklio-Id", id)]);
    Challenge::of(&answer.expect(401))
}

/// The second step with whatever proof; further fields make it an upgrade.
fn prove(
    client: &mut Client,
    id: &str,
    nonce: &str,
    proof: &str,
    more: &[(&str, &str)],
) -> Response {
    let mut fields = vec![
        ("X-Peeklio-Id", id),
        ("X-Nonce", nonce),
        ("Authorization", proof),
    ];
    fields.extend_from_slice(more);
    post(client, "/endpoint/connect", &fields)
}

/// A connected agent.
pub struct Agent {
    client: Client,
    /// Of the answer that made it one.
    url: Option<String>,
    /// The first line of the server.
    hello: Value,
}

impl Agent {
    /// Up to the server's hello.
    pub fn open(server: &TestServer, id: &str, key: &str) -> Self {
        let mut client = server.connect();
        let challenge = challenge(&mut client, id);
        let proof = challenge.proof(key);
        let answer = prove(&mut client, id, &challenge.nonce, &proof, &UPGRADE).expect(101);
        assert_eq!(answer.header("upgrade"), Some("weir-agent/1"));
        let mut agent = Self {
            client,
            url: answer.header("x-streampoint-url").map(str::to_owned),
            hello: Value::Null,
        };
        agent.hello = agent.expect_line("hello");
        agent
    }

    fn connect(server: &TestServer, id: &str) -> Self {
        let mut agent = Self::open(server, id, KEY);
        agent.send_line(json!({"command":"hello","version":"v1"}));
        agent.settle();
        agent
    }

    #[allow(clippy::needless_pass_by_value)] // as in `TestServer::put`
    fn send_line(&mut self, line: Value) {
        self.client.send(format!("{line}\n").as_bytes());
    }

    fn line(&mut self) -> Value {
        let line = self.client.line().expect("the connection is open");
        serde_json::from_str(&line).expect("a line is JSON")
    }

    /// The next line, which must be this command.
    #[track_caller]
    fn expect_line(&mut self, command: &str) -> Value {
        let line = self.line();
        assert_eq!(line["command"], command, "{line}");
        line
    }

    /// Returns when the server has handled every line sent before.
    fn settle(&mut self) {
        self.send_line(json!({"command":"ping","id":77}));
        let pong = self.expect_line("pong");
        assert_eq!(pong["reply_to"], 77);
    }

    /// The server closes the connection with this reason.
    #[track_caller]
    fn is_ended(&mut self, reason: &str) {
        let last = self.expect_line("disconnect");
        assert_eq!(last["reason"], reason);
        assert_eq!(self.client.line(), None);
    }
}

/// A server with an agent that may connect.
fn server_with_agent() -> TestServer {
    let server = TestServer::new();
    server.put("/agents/cam1", json!({"key":KEY})).expect(200);
    server
}

fn streamer(server: &TestServer, hostname: &str, key: Option<&str>) {
    let config = key.map_or(json!({}), |key| json!({"rproxy":{"streampoint_key":key}}));
    let body = json!({
        "role":"streamer","cluster_key":"ck","config":config,
        "public_payload_url":format!("http://user:pw@{hostname}.example.com:8080/x"),
    });
    server
        .put(&format!("/streamers/{hostname}"), body)
        .expect(200);
}

/// A command on its way, in a thread of its own.
fn command(server: &TestServer, method: &'static str, path: &str) -> JoinHandle<Response> {
    let bearer = format!("Bearer {}", weir_testkit::API_KEY);
    command_with(server, method, path, vec![("Authorization", bearer)])
}

/// A command with these header fields only, in a thread of its own.
fn command_with(
    server: &TestServer,
    method: &'static str,
    path: &str,
    fields: Vec<(&'static str, String)>,
) -> JoinHandle<Response> {
    let address = server.address();
    let path = format!("{PREFIX}{path}");
    thread::spawn(move || {
        let fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
        let fields: Vec<_> = fields.collect();
        Client::new(address).request(method, &path, &fields, b"")
    })
}

fn answer(command: JoinHandle<Response>) -> Response {
    command.join().expect("the client does not panic")
}

fn stats(server: &TestServer, id: &str) -> Value {
    server.get(&format!("/agents/{id}")).expect(200).json()["stats"].clone()
}

/// Reads a path until the answer is as expected.
#[track_caller]
fn until(server: &TestServer, path: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let look = || server.get(path).expect(200).json();
    wait_until(path, look, reached)
}

// ---- the resource -------------------------------------------------------------------------------

#[test]
fn an_agent_is_saved_read_listed_and_deleted() {
    let server = TestServer::new();
    server.get("/agents/cam1").expect(404);
    let saved = server
        .put(
            "/agents/cam1",
            json!({"key":"k1","stats":{"version":"x"},"unknown":1}),
        )
        .expect(200)
        .json();
    assert_eq!(
        (&saved["id"], &saved["key"]),
        (&json!("cam1"), &json!("k1"))
    );
    assert_eq!(saved["stats"], Value::Null, "read-only fields are dropped");
    assert!(saved.get("unknown").is_none() && saved.get("layout").is_none());
    let read = server.get("/agents/cam1").expect(200).json();
    assert_eq!(read, saved);
    let listed = server.get("/agents").expect(200).json();
    assert_eq!(listed["agents"][0]["id"], "cam1");
    assert_eq!(listed["agents"][0]["key"], "***", "lists mask the key");
    let again = server.put("/agents/cam1", json!({"key":"***"})).expect(200);
    assert_eq!(again.json()["key"], "k1", "a mask keeps what is stored");
    let other = server.put("/agents/cam1", json!({"id":"cam2"}));
    assert_eq!(other.expect(400).errors(), ["key_mismatch /id"]);
    let wrong = server.put("/agents/cam1", json!({"key":5}));
    assert_eq!(wrong.expect(400).errors(), ["not_string /key"]);
    server.delete("/agents/cam1").expect(204);
    server.delete("/agents/cam1").expect(404);
    server.get("/agents/cam1").expect(404);
}

#[test]
fn agents_are_listed_by_descending_id_and_found_by_their_stats() {
    let server = TestServer::new();
    for id in ["a1", "a2", "a3"] {
        server
            .put(&format!("/agents/{id}"), json!({"key":KEY}))
            .expect(200);
    }
    let mut agent = Agent::connect(&server, "a2");
    agent.send_line(json!({
        "command":"description", "version":"v9-special", "agent_type":"router",
        "local_ip":"10.1.2.3", "mac_address":"AA-BB",
    }));
    agent.settle();
    let ids = |query: &str| -> Vec<String> {
        let page = server.get(&format!("/agents{query}")).expect(200).json();
        let agents = page["agents"].as_array().expect("a list").clone();
        agents
            .iter()
            .map(|agent| agent["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    assert_eq!(ids(""), ["a3", "a2", "a1"]);
    assert_eq!(ids("?sort=id&limit=2"), ["a1", "a2"]);
    for found in ["V9-spec", "10.1.2", "aa-bb", "A2", "127.0.0.1"] {
        assert_eq!(ids(&format!("?q={found}")), ["a2"], "{found}");
    }
    assert_eq!(ids("?q=nothing"), Vec::<String>::new());
    assert_eq!(ids("?stats.agent_type=router"), ["a2"]);
    assert_eq!(ids("?stats.endpoint_connection.alive=true"), ["a2"]);
    assert_eq!(ids("?stats_is=null"), ["a3", "a1"]);
    let secret = server.get("/agents?key=agent-key-1").expect(400);
    assert_eq!(secret.errors(), ["secret_field key"]);
}

#[test]
fn deleting_an_agent_affects_the_streams_that_use_it() {
    let server = TestServer::new();
    streamer(&server, "s1", Some("sk"));
    for id in ["a1", "a2"] {
        server
            .put(&format!("/agents/{id}"), json!({"key":KEY}))
            .expect(200);
    }
    let via =
        |id: &str| json!({"inputs":[{"url":"rtsp://10.0.0.1/","via":format!("agent://{id}")}]});
    server.put("/streams/one", via("a1")).expect(200);
    server.put("/streams/two", via("a1")).expect(200);
    server.put("/streams/other", json!({})).expect(200);
    let unused = || {
        server
            .get("/agents?stream_is=null&select=id")
            .expect(200)
            .json()["agents"]
            .clone()
    };
    assert_eq!(unused(), json!([{"id":"a2"}]));
    let users = server
        .get("/agents?stream=two&select=id")
        .expect(200)
        .json();
    assert_eq!(users["agents"], json!([{"id":"a1"}]));
    // A stream's layout is its agent's; an agent's own does not count then.
    server
        .put("/streams/one", json!({"layout":{"ingest":"s1"}}))
        .expect(200);
    server
        .put("/agents/a1", json!({"layout":{"ingest":"nowhere"}}))
        .expect(200);
    let placed = server.get("/agents/a1").expect(200).json();
    assert_eq!(placed["layout"]["ingest"], "s1");
    assert_eq!(placed["layout"]["originator"], "other");
    // A stream that changes its agent is counted with the new one.
    server.put("/streams/two", via("a2")).expect(200);
    assert_eq!(unused(), json!([]));
    server.put("/streams/two", via("a1")).expect(200);
    assert_eq!(unused(), json!([{"id":"a2"}]));
    let since = server.get("/streams/other").expect(200).json()["updated_at"].clone();
    server.delete("/agents/a1").expect(204);
    let left = server.get("/streams?select=name").expect(200).json();
    assert_eq!(left["streams"].as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(left["streams"][0]["updated_at"], since);
    let shown = server.get("/streamers/s1/streams").expect(200).json();
    assert_eq!(shown["streams"], json!([]));
}

#[test]
fn agent_index_survives_a_restart() {
    let mut server = TestServer::new();
    server.put("/agents/a1", json!({"key":KEY})).expect(200);
    server
        .put(
            "/streams/one",
            json!({"inputs":[{"url":"rtsp://c/","via":"agent://a1"}]}),
        )
        .expect(200);
    server.restart();
    let unused = server.get("/agents?stream_is=null").expect(200).json();
    assert_eq!(unused["agents"], json!([]));
    server.delete("/agents/a1").expect(204);
    server.get("/streams/one").expect(404);
}

#[test]
fn agent_layouts_are_saved_all_or_none() {
    let server = TestServer::new();
    streamer(&server, "s1", None);
    for id in ["a1", "a2"] {
        server
            .put(&format!("/agents/{id}"), json!({"key":KEY}))
            .expect(200);
    }
    server
        .put(
            "/streams/one",
            json!({"inputs":[{"url":"rtsp://c/","via":"agent://a1"}]}),
        )
        .expect(200);
    let layouts = |items: Value| server.post("/agents/layouts", json!({"layouts":items}));
    let layout = |id: &str| {
        let agent = server.get(&format!("/agents/{id}")).expect(200).json();
        agent["layout"]["ingest"].clone()
    };
    layouts(json!([{"id":"a1","ingest":"s1"},{"id":"a2","ingest":"s1","originator":"layouter"}]))
        .expect(204);
    assert_eq!((layout("a1"), layout("a2")), (Value::Null, json!("s1")));
    let read = server.get("/agents/a2").expect(200).json();
    assert_eq!(read["layout"]["originator"], "layouter");
    assert!(read["layout"]["created_at"].as_u64() > Some(1_000_000_000_000));
    for (items, error) in [
        (
            json!([{"id":"a2","ingest":null},{"id":"a9","ingest":"s1"}]),
            "agent_not_found /layouts/1/id",
        ),
        (
            json!([{"id":"a2","ingest":"s9"}]),
            "streamer_not_found /layouts/0/ingest",
        ),
        (
            json!([{"id":"a2"},{"id":"a2"}]),
            "duplicate_item /layouts/1/id",
        ),
        (json!([{"ingest":"s1"}]), "missing_required /layouts/0/id"),
        (json!([5]), "not_object /layouts/0"),
        (json!({}), "not_array /layouts"),
    ] {
        assert_eq!(layouts(items).expect(400).errors(), [error]);
    }
    assert_eq!(layout("a2"), json!("s1"), "nothing was changed");
    layouts(json!([{"id":"a2","ingest":null}])).expect(204);
    assert_eq!(layout("a2"), Value::Null);
    server
        .put("/agents/a2", json!({"layout":{"ingest":"s1"}}))
        .expect(200);
    assert_eq!(layout("a2"), json!("s1"));
    let bad = server.put("/agents/a2", json!({"layout":{"ingest":"s9"}}));
    assert_eq!(
        bad.expect(400).errors(),
        ["streamer_not_found /layout/ingest"]
    );
}

// ---- the handshake ------------------------------------------------------------------------------

#[test]
fn handshake_follows_its_documentation_on_every_path() {
    let server = server_with_agent();
    for prefix in ["", PREFIX, STREAMER_PREFIX] {
        let path = format!("{prefix}/endpoint/connect");
        let mut client = server.connect();
        let answer = post(&mut client, &path, &[]);
        assert_eq!(answer.expect(403).errors(), ["agent_unknown"]);
        let answer = post(&mut client, &path, &[("X-Peeklio-Id", "nobody")]);
        assert_eq!(answer.expect(403).errors(), ["agent_unknown"]);
        let id = ("X-Peeklio-Id", "cam1");
        let issued = post(&mut client, &path, &[id]).expect(401);
        assert_eq!(issued.header("www-authenticate"), Some("Peeklio"));
        let challenge = Challenge::of(&issued);
        let salted = hash(&format!("{}:{KEY}", challenge.salt));
        assert_eq!(
            challenge.server_proof,
            hash(&format!("{salted}:{}", challenge.nonce)),
            "the server knows the key"
        );
        let answer = post(
            &mut client,
            &path,
            &[
                id,
                ("X-Nonce", &challenge.nonce),
                ("Authorization", &challenge.proof(KEY)),
            ],
        );
        let answer = answer.expect(200);
        assert_eq!(answer.text(), "authorized");
        assert_eq!(answer.header("x-force-reset"), None);
        assert_eq!(answer.header("x-streampoint-url"), None, "it has no layout");
    }
    // The agent's own nonce makes the server's proof fresh.
    let mut client = server.connect();
    let fields = [("X-Peeklio-Id", "cam1"), ("X-Nonce", "of the agent")];
    let challenge = Challenge::of(&post(&mut client, "/endpoint/connect", &fields).expect(401));
    let salted = hash(&format!("{}:{KEY}", challenge.salt));
    let expected = hash(&format!("{salted}:{}:of the agent", challenge.nonce));
    assert_eq!(challenge.server_proof, expected);
    server.get("/endpoint/connect").expect(405);
    // Other credentials open nothing here, and an agent's proof nothing elsewhere.
    let bearer = format!("Bearer {}", weir_testkit::API_KEY);
    let fields = [
        ("X-Peeklio-Id", "cam1"),
        ("X-Nonce", "n"),
        ("Authorization", &bearer),
    ];
    post(&mut server.connect(), "/endpoint/connect", &fields).expect(401);
    server
        .call_as("GET", "/agents", Some(&challenge.proof(KEY)))
        .expect(401);
}

#[test]
fn wrong_proofs_and_used_nonces_are_refused() {
    let mut server = server_with_agent();
    server.put("/agents/cam2", json!({"key":KEY})).expect(200);
    server.put("/agents/nokey", json!({})).expect(200);
    let mut client = server.connect();
    let refused = post(
        &mut client,
        "/endpoint/connect",
        &[("X-Peeklio-Id", "nokey")],
    );
    assert_eq!(refused.expect(403).errors(), ["authentication_failed"]);
    let first = challenge(&mut client, "cam1");
    for wrong in [
        first.proof("other key"),
        "Peeklio 00".to_owned(),
        format!("Peeklio {}", first.server_proof),
    ] {
        let answer = prove(&mut client, "cam1", &first.nonce, &wrong, &UPGRADE);
        assert_eq!(
            answer.expect(403).errors(),
            ["authentication_failed"],
            "{wrong}"
        );
    }
    // A nonce of another agent, and malformed nonces, lead to a new challenge.
    let answer = prove(
        &mut client,
        "cam2",
        &first.nonce,
        &first.proof(KEY),
        &UPGRADE,
    );
    Challenge::of(&answer.expect(401));
    for nonce in ["", "zz", &"0".repeat(64), &first.nonce.to_uppercase()[..60]] {
        let answer = prove(&mut client, "cam1", nonce, &first.proof(KEY), &UPGRADE);
        Challenge::of(&answer.expect(401));
    }
    let accepted = prove(&mut client, "cam1", &first.nonce, &first.proof(KEY), &[]);
    accepted.expect(200);
    let replayed = prove(
        &mut client,
        "cam1",
        &first.nonce,
        &first.proof(KEY),
        &UPGRADE,
    );
    Challenge::of(&replayed.expect(401));
    // A proof recorded before a restart is invalid after it.
    let old = challenge(&mut client, "cam1");
    server.restart();
    let answer = prove(
        &mut server.connect(),
        "cam1",
        &old.nonce,
        &old.proof(KEY),
        &UPGRADE,
    );
    Challenge::of(&answer.expect(401));
    drop(Agent::connect(&server, "cam1"));
}

#[test]
fn deleted_agent_is_disconnected_even_after_a_restart() {
    let mut server = server_with_agent();
    let mut agent = Agent::connect(&server, "cam1");
    server.delete("/agents/cam1").expect(204);
    agent.is_ended("agent_deleted");
    for _ in 0..2 {
        let mut client = server.connect();
        let issued = challenge(&mut client, "cam1");
        let wrong = prove(
            &mut client,
            "cam1",
            &issued.nonce,
            &issued.proof("x"),
            &UPGRADE,
        );
        wrong.expect(403);
        let shown = prove(
            &mut client,
            "cam1",
            &issued.nonce,
            &issued.proof(KEY),
            &UPGRADE,
        );
        let shown = shown.expect(200);
        assert_eq!(shown.header("x-force-reset"), Some("true"));
        server.restart();
    }
    server.get("/agents/cam1").expect(404);
    assert_eq!(
        server.get("/agents").expect(200).json()["agents"],
        json!([])
    );
    // Saved again it is an agent like any other.
    server.put("/agents/cam1", json!({"key":"k2"})).expect(200);
    drop(Agent::open(&server, "cam1", "k2"));
    assert_eq!(
        stats(&server, "cam1")["version"],
        Value::Null,
        "of its former life"
    );
}

// ---- control connections ------------------------------------------------------------------------

#[test]
fn agent_stats_remain_after_it_disconnects() {
    let server = server_with_agent();
    let mut agent = Agent::open(&server, "cam1", KEY);
    assert_eq!(agent.hello["protocol"], "weir-agent/1");
    assert_eq!(agent.hello["ping_timeout_ms"], 60_000);
    assert_eq!(agent.hello["ping_interval_ms"], 20_000);
    agent.send_line(json!({"command":"hello","version":"v1","mac_address":"F0-23"}));
    agent.send_line(
        json!({"command":"description","version":"v2","agent_type":"router","local_ip":"10.0.0.7"}),
    );
    agent
        .send_line(json!({"command":"ping","connections_requested":9,"connections_established":7}));
    agent.expect_line("pong");
    let shown = stats(&server, "cam1");
    assert_eq!(shown["version"], "v2");
    assert_eq!(shown["agent_type"], "router");
    assert_eq!(
        (&shown["local_ip"], &shown["mac_address"]),
        (&json!("10.0.0.7"), &json!("F0-23"))
    );
    assert_eq!(shown["peer_ip"], "127.0.0.1");
    assert_eq!(
        (
            &shown["connections_requested"],
            &shown["connections_established"]
        ),
        (&json!(9), &json!(7))
    );
    let connection = &shown["endpoint_connection"];
    assert_eq!(connection["alive"], true);
    assert!(
        connection["bytes_from_server"].as_u64() > Some(100),
        "{shown}"
    );
    assert!(
        connection["bytes_to_server"].as_u64() > Some(100),
        "{shown}"
    );
    assert!(connection["opened_at"].as_u64() > Some(1_000_000_000_000));
    agent.send_line(json!({"command":"disconnect"}));
    assert_eq!(agent.client.line(), None);
    let left = until(&server, "/agents/cam1", |agent| {
        agent["stats"]["endpoint_connection"]["alive"] == false
    });
    assert_eq!(left["stats"]["version"], "v2", "the last stats remain");
    let validator = |value: &Value| value["endpoint_connection"]["status_changed_at"].as_u64();
    assert!(validator(&left["stats"]) >= validator(&shown));
}

#[test]
fn malformed_lines_end_at_most_their_own_connection() {
    let server = server_with_agent();
    for first in [
        "\u{fffd}",
        "[]",
        "{}",
        r#"{"command":"logs"}"#,
        r#"{"command":"hello","version":[]}"#,
    ] {
        let mut agent = Agent::open(&server, "cam1", KEY);
        agent.client.send(format!("{first}\n").as_bytes());
        agent.expect_line("error");
        agent.is_ended("hello_expected");
    }
    server.put("/agents/cam2", json!({"key":KEY})).expect(200);
    let mut other = Agent::connect(&server, "cam2");
    let mut agent = Agent::connect(&server, "cam1");
    for (line, code) in [
        (&b"\xff\xfe"[..], "bad_json"),
        (b"{\"command\":\"ping\",\"command\":\"ping\"}", "bad_json"),
        (b"null", "not_object"),
        (b"{\"command\":7}", "no_command"),
        (b"{\"command\":\"hello\"}", "hello_twice"),
        (b"{\"command\":\"make_coffee\",\"id\":5}", "unknown_command"),
        (
            b"{\"command\":\"description\",\"local_ip\":\"300.0.0.1\"}",
            "bad_local_ip",
        ),
        (
            b"{\"command\":\"ping\",\"bytes_to_server\":-1}",
            "bad_count",
        ),
    ] {
        agent.client.send(&[line, b"\n"].concat());
        let error = agent.expect_line("error");
        assert_eq!(error["code"], code);
    }
    agent.settle();
    for _ in 0..20 {
        agent.client.send(b"{\n");
    }
    for _ in 8..16 {
        agent.expect_line("error");
    }
    agent.is_ended("too_many_errors");
    let mut agent = Agent::connect(&server, "cam1");
    agent.client.send(&vec![b'x'; 70_000]);
    agent.is_ended("line_too_long");
    // A head and lines in one piece.
    let mut client = server.connect();
    let issued = challenge(&mut client, "cam1");
    let head = format!(
        "POST /endpoint/connect HTTP/1.1\r\nHost: a\r\nX-Peeklio-Id: cam1\r\nX-Nonce: {}\r\n\
         Authorization: {}\r\nConnection: upgrade\r\nUpgrade: weir-agent/1\r\nContent-Length: 2\r\n\r\nxx{{\"command\":\"hello\"}}\n{{\"command\":\"ping\"}}\n",
        issued.nonce,
        issued.proof(KEY)
    );
    client.send(head.as_bytes());
    assert_eq!(client.response(false).status, 101);
    for command in ["hello", "pong"] {
        let line = client.line().expect("a line");
        assert!(line.contains(command), "{line}");
    }
    other.settle();
}

#[test]
fn silent_agent_is_disconnected() {
    let server = TestServer::with(&["--agent-silence", "300ms"]);
    server.put("/agents/cam1", json!({"key":KEY})).expect(200);
    let mut agent = Agent::connect(&server, "cam1");
    assert_eq!(agent.hello["ping_interval_ms"], 100);
    agent.client.send(b"{\"command\":");
    agent.is_ended("ping_timeout");
    until(&server, "/agents/cam1", |agent| {
        agent["stats"]["endpoint_connection"]["alive"] == false
    });
    let refused = server.post("/agents/cam1/reboot", json!({}));
    assert_eq!(refused.expect(409).errors(), ["agent_offline"]);
}

#[test]
fn new_connection_replaces_the_older_one() {
    let server = TestServer::with(&["--io-threads", "3"]);
    server.put("/agents/cam1", json!({"key":KEY})).expect(200);
    let mut older = Agent::connect(&server, "cam1");
    for _ in 0..8 {
        let mut newer = Agent::connect(&server, "cam1");
        older.is_ended("replaced");
        let issued = command(&server, "POST", "/agents/cam1/reboot");
        let id = newer.expect_line("reboot")["id"].clone();
        newer.send_line(json!({"command":"reboot","reply_to":id}));
        answer(issued).expect(204);
        older = newer;
    }
    assert_eq!(stats(&server, "cam1")["endpoint_connection"]["alive"], true);
}

#[test]
fn changed_agent_key_ends_its_connection() {
    let server = server_with_agent();
    let mut agent = Agent::connect(&server, "cam1");
    server
        .put("/agents/cam1", json!({"layout":null}))
        .expect(200);
    agent.settle();
    server.put("/agents/cam1", json!({"key":"new"})).expect(200);
    agent.is_ended("key_changed");
    let mut client = server.connect();
    let issued = challenge(&mut client, "cam1");
    prove(
        &mut client,
        "cam1",
        &issued.nonce,
        &issued.proof(KEY),
        &UPGRADE,
    )
    .expect(403);
    drop(Agent::open(&server, "cam1", "new"));
}

#[test]
fn agents_follow_their_layout() {
    let server = server_with_agent();
    streamer(&server, "s1", Some("k/1"));
    streamer(&server, "s2", Some("k2"));
    server
        .put("/agents/cam1", json!({"layout":{"ingest":"s1"}}))
        .expect(200);
    let mut agent = Agent::open(&server, "cam1", KEY);
    let first = "http://s1.example.com:8080/?streampoint_key=k%2F1";
    assert_eq!(
        agent.url.as_deref(),
        Some(first),
        "no credentials, an escaped key"
    );
    agent.send_line(json!({"command":"hello"}));
    let sent = agent.expect_line("streampoint_connect");
    assert_eq!(
        (&sent["url"], &sent["hostname"]),
        (&json!(first), &json!("s1"))
    );
    let connection = || stats(&server, "cam1")["streampoint_connection"].clone();
    assert_eq!(
        (&connection()["hostname"], &connection()["alive"]),
        (&json!("s1"), &json!(false))
    );
    agent.send_line(json!({"command":"streampoint_connected","reply_to":sent["id"]}));
    agent.send_line(json!({"command":"ping","bytes_to_server":5000,"connections_current":2}));
    agent.expect_line("pong");
    assert_eq!(connection()["alive"], true);
    assert_eq!(connection()["bytes_to_server"], 5000);
    assert_eq!(connection()["connections_current"], 2);
    // A stream takes the agent along.
    let via = json!({"inputs":[{"url":"rtsp://c/","via":"agent://cam1"}],"layout":{"ingest":"s2"}});
    server.put("/streams/one", via).expect(200);
    agent.expect_line("streampoint_disconnect");
    let sent = agent.expect_line("streampoint_connect");
    assert_eq!(sent["hostname"], "s2");
    assert_eq!(connection()["alive"], false, "it has not arrived yet");
    agent.send_line(json!({"command":"streampoint_connected","reply_to":sent["id"]}));
    // Moving the stream moves the agent; changes that do not concern it send it nothing.
    server.put("/streams/one", json!({"title":"t"})).expect(200);
    let moved = json!({"layouts":[{"name":"one","ingest":"s1"}]});
    server.post("/streams/layouts", moved).expect(204);
    agent.expect_line("streampoint_disconnect");
    assert_eq!(agent.expect_line("streampoint_connect")["url"], first);
    // The streamer moves: so does its address.
    server
        .put(
            "/streamers/s1",
            json!({"public_payload_url":"https://new.example.com"}),
        )
        .expect(200);
    agent.expect_line("streampoint_disconnect");
    let sent = agent.expect_line("streampoint_connect");
    assert_eq!(
        sent["url"],
        "https://new.example.com/?streampoint_key=k%2F1"
    );
    agent.send_line(json!({"command":"streampoint_connected","reply_to":sent["id"]}));
    // It takes no agents any more, then it does again.
    server
        .put("/streamers/s1", json!({"config":{"rproxy":null}}))
        .expect(200);
    agent.expect_line("streampoint_disconnect");
    assert_eq!(connection()["alive"], false);
    server
        .put(
            "/streamers/s1",
            json!({"config":{"rproxy":{"streampoint_key":"k3"}}}),
        )
        .expect(200);
    assert_eq!(
        agent.expect_line("streampoint_connect")["url"],
        "https://new.example.com/?streampoint_key=k3"
    );
    // Without the stream its own layout counts again, which is the same streamer.
    server.delete("/streams/one").expect(204);
    agent.settle();
    server
        .post(
            "/agents/layouts",
            json!({"layouts":[{"id":"cam1","ingest":null}]}),
        )
        .expect(204);
    agent.expect_line("streampoint_disconnect");
    agent.settle();
}

#[test]
fn stream_stats_show_its_agent() {
    let server = server_with_agent();
    server.put("/agents/cam2", json!({"key":KEY})).expect(200);
    streamer(&server, "s1", Some("k1"));
    streamer(&server, "s2", None);
    let via = |agents: &[&str]| {
        let input = |agent: &&str| json!({"url":"rtsp://c/","via":format!("agent://{agent}")});
        agents.iter().map(input).collect::<Vec<_>>()
    };
    for (name, agents, host) in [
        ("both", &["cam1", "cam2"][..], Some("s1")),
        ("closed", &["cam1"], Some("s2")),
        ("direct", &[], Some("s1")),
        ("nowhere", &["cam3"], None),
    ] {
        let mut body = json!({"inputs":via(agents)});
        if let Some(host) = host {
            body["layout"] = json!({"ingest":host});
        }
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let shown = |name: &str| {
        let stream = server.get(&format!("/streams/{name}")).expect(200).json();
        let listed = server.get(&format!("/streams?name={name}")).expect(200);
        assert_eq!(
            listed.json()["streams"][0].get("stats"),
            stream.get("stats"),
            "lists show the same"
        );
        let stats = &stream["stats"];
        (
            stats["agent_status"].clone(),
            stats["current_agent_id"].clone(),
        )
    };
    let is = |status: &str, agent: &str| (json!(status), json!(agent));
    assert_eq!(shown("both"), is("not_connected", "cam1"));
    assert_eq!(shown("closed"), is("rproxy_not_configured", "cam1"));
    assert_eq!(shown("nowhere"), is("not_connected", "cam3"));
    assert_eq!(shown("direct"), (Value::Null, Value::Null));
    // With several agents, the connected one is shown, unless the node names the agent.
    let second = Agent::open(&server, "cam2", KEY);
    assert_eq!(shown("both"), is("connected", "cam2"));
    let first = Agent::open(&server, "cam1", KEY);
    assert_eq!(shown("both"), is("connected", "cam1"));
    let report = |agent: &str| {
        let streams = json!([
            {
                "name":"both", "status":"running", "current_agent_id":agent,
                "agent_status":"not_connected",
            },
            {
                "name":"direct", "status":"running", "current_agent_id":agent,
                "agent_status":"connected",
            },
        ]);
        server
            .put("/streamers/s1/stats", json!({"streams":streams}))
            .expect(204);
    };
    report("cam2");
    assert_eq!(shown("both"), is("connected", "cam2"));
    assert_eq!(shown("direct"), (Value::Null, Value::Null), "it has none");
    let stream = server.get("/streams/both").json();
    assert_eq!(
        stream["stats"]["status"], "running",
        "beside what it reports"
    );
    report("stranger");
    assert_eq!(shown("both"), is("connected", "cam1"));
    // Filters and orders see what is shown.
    for (query, expected) in [
        ("stats.agent_status=connected", &["both"][..]),
        ("stats.agent_status=not_connected", &["nowhere"]),
        ("stats.agent_status=rproxy_not_configured", &["closed"]),
        ("stats.agent_status_is=null", &["direct"]),
        ("stats.current_agent_id=cam1", &["both", "closed"]),
        (
            "sort=-stats.agent_status",
            &["closed", "nowhere", "both", "direct"],
        ),
        (
            "sort=stats.current_agent_id,name",
            &["direct", "both", "closed", "nowhere"],
        ),
    ] {
        let list = server
            .get(&format!("/streams?select=name&{query}"))
            .expect(200)
            .json();
        let found = list["streams"].as_array().expect("streams").iter();
        let found: Vec<_> = found.map(|stream| &stream["name"]).collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>(), "{query}");
    }
    drop((first, second));
    until(&server, "/streams/both", |stream| {
        stream["stats"]["agent_status"] == "not_connected"
    });
}

// ---- commands -----------------------------------------------------------------------------------

#[test]
fn agent_commands_work_across_cores() {
    let server = TestServer::with(&["--io-threads", "3"]);
    let mut agents: Vec<Agent> = (0..6)
        .map(|i| {
            server
                .put(&format!("/agents/cam{i}"), json!({"key":KEY}))
                .expect(200);
            Agent::connect(&server, &format!("cam{i}"))
        })
        .collect();
    for round in 0..4 {
        let issued: Vec<_> = (0..agents.len())
            .map(|i| command(&server, "GET", &format!("/agents/cam{i}/logs")))
            .collect();
        for (i, agent) in agents.iter_mut().enumerate() {
            let id = agent.expect_line("logs")["id"].clone();
            let logs = json!({
                "a":format!("{i}-{round}"), "b":"x", "status":"ok", "buffer_size":i,
                "agent_id":"liar", "evil":1, "meminfo":7,
            });
            agent.send_line(json!({"command":"logs","reply_to":id,"logs":logs}));
        }
        for (i, issued) in issued.into_iter().enumerate() {
            let logs = answer(issued).expect(200).json();
            let expected = json!({
                "a":format!("{i}-{round}"), "b":"x", "status":"ok", "buffer_size":i,
                "agent_id":format!("cam{i}"),
            });
            assert_eq!(logs, expected);
        }
    }
    for name in ["reboot", "reset"] {
        let issued = command(&server, "POST", &format!("/agents/cam3/{name}"));
        let id = agents[3].expect_line(name)["id"].clone();
        agents[3].send_line(json!({"command":name,"reply_to":id}));
        assert_eq!(answer(issued).expect(204).body, b"");
    }
    let issued = command(&server, "POST", "/agents/cam4/reset");
    let id = agents[4].expect_line("reset")["id"].clone();
    agents[4].send_line(json!({"command":"error","reply_to":id,"reason":"not now"}));
    let refused = answer(issued).expect(502);
    assert_eq!(refused.errors(), ["agent_refused"]);
    assert_eq!(refused.json()["errors"][0]["meta"]["reason"], "not now");
    let issued = command(&server, "POST", "/agents/cam5/disconnect");
    agents[5].is_ended("requested");
    answer(issued).expect(204);
}

#[test]
fn commands_to_disconnected_agents_fail_at_once() {
    let server = server_with_agent();
    for (method, path) in [
        ("POST", "/agents/cam1/reboot"),
        ("POST", "/agents/cam1/reset"),
        ("POST", "/agents/cam1/disconnect"),
        ("GET", "/agents/cam1/logs"),
    ] {
        let refused = server.call(method, path, b"");
        assert_eq!(refused.expect(409).errors(), ["agent_offline"], "{path}");
        let refused = server.call(method, &path.replace("cam1", "nobody"), b"");
        assert_eq!(refused.expect(404).errors(), ["agent_not_found"], "{path}");
        server.call_as(method, path, None).expect(401);
    }
    server.get("/agents/cam1/reboot").expect(405);
    // Connected but not ready: it has not sent hello.
    let _agent = Agent::open(&server, "cam1", KEY);
    let refused = server.post("/agents/cam1/reboot", json!({}));
    assert_eq!(refused.expect(503).errors(), ["agent_busy"]);
}

#[test]
fn commands_end_when_their_agent_leaves_or_stays_silent() {
    let server = TestServer::with(&["--agent-command-timeout", "200ms"]);
    server.put("/agents/cam1", json!({"key":KEY})).expect(200);
    let mut agent = Agent::connect(&server, "cam1");
    let late = server.get("/agents/cam1/logs").expect(504);
    assert_eq!(late.errors(), ["agent_timeout"]);
    let id = agent.expect_line("logs")["id"].clone();
    agent.send_line(json!({"command":"logs","reply_to":id,"logs":{"a":"late"}}));
    agent.settle();
    // A late reply is dropped: the next command gets its own reply.
    for _ in 0..30 {
        assert_eq!(
            server.get("/agents/cam1/logs").status,
            504,
            "those that are late make room"
        );
        agent.expect_line("logs");
    }
    let server = TestServer::new();
    server.put("/agents/cam1", json!({"key":KEY})).expect(200);
    let mut agent = Agent::connect(&server, "cam1");
    let issued = command(&server, "POST", "/agents/cam1/reboot");
    agent.expect_line("reboot");
    drop(agent);
    let failed = answer(issued).expect(502);
    assert_eq!(failed.errors(), ["agent_connection_closed"]);
    // Too many at once.
    let mut agent = Agent::connect(&server, "cam1");
    let waiting: Vec<_> = (0..16)
        .map(|_| command(&server, "GET", "/agents/cam1/logs"))
        .collect();
    let ids: Vec<Value> = waiting
        .iter()
        .map(|_| agent.expect_line("logs")["id"].clone())
        .collect();
    let refused = server.get("/agents/cam1/logs").expect(503);
    assert_eq!(refused.errors(), ["agent_busy"]);
    assert!(refused.header("retry-after").is_some());
    for id in ids.into_iter().rev() {
        agent.send_line(json!({"command":"logs","reply_to":id,"logs":{"status":"ok"}}));
    }
    for issued in waiting {
        answer(issued).expect(200);
    }
}

#[test]
fn stop_disconnects_agents_and_they_return_after_a_restart() {
    let mut server = server_with_agent();
    let mut agent = Agent::connect(&server, "cam1");
    let issued = command(&server, "POST", "/agents/cam1/reboot");
    agent.expect_line("reboot");
    server.signal(weir_testkit::Signal::TERM);
    agent.is_ended("server_stopping");
    assert_eq!(
        answer(issued).expect(502).errors(),
        ["agent_connection_closed"]
    );
    assert!(server.wait().success(), "nothing is left behind");
    server.start();
    assert_eq!(
        stats(&server, "cam1"),
        Value::Null,
        "nothing is known of it yet"
    );
    let mut agent = Agent::connect(&server, "cam1");
    assert_eq!(stats(&server, "cam1")["endpoint_connection"]["alive"], true);
    server.kill();
    assert_eq!(agent.client.line(), None);
    server.start();
    drop(Agent::connect(&server, "cam1"));
}

#[test]
fn agent_activity_is_in_the_event_log() {
    let server = server_with_agent();
    let mut client = server.connect();
    let issued = challenge(&mut client, "cam1");
    prove(
        &mut client,
        "cam1",
        &issued.nonce,
        &issued.proof("bad"),
        &UPGRADE,
    )
    .expect(403);
    let mut agent = Agent::connect(&server, "cam1");
    let issued = command(&server, "POST", "/agents/cam1/reboot");
    let id = agent.expect_line("reboot")["id"].clone();
    agent.send_line(json!({"command":"reboot","reply_to":id}));
    answer(issued).expect(204);
    // The event names the caller and the trace id that links it to other events.
    let token =
        json!({"key":"token-key-0123456789","permissions":[{"scopes":["*"],"execute":true}]});
    server.put("/api_tokens/robot", token).expect(200);
    let trace_id = "05cec7ee-fbd0-11ed-be56-0242ac120002";
    let fields = vec![
        ("Authorization", "Bearer token-key-0123456789".to_owned()),
        ("X-Trace-Id", trace_id.to_owned()),
    ];
    let issued = command_with(&server, "POST", "/agents/cam1/reset", fields);
    let id = agent.expect_line("reset")["id"].clone();
    agent.send_line(json!({"command":"reset","reply_to":id}));
    answer(issued).expect(204);
    drop(agent);
    let events = until(&server, "/events?entity_type=agent&sort=event_id", |page| {
        let events = page["events"].as_array().expect("a list");
        events
            .iter()
            .any(|event| event["event"] == "agent_disconnected")
    });
    let names: Vec<&str> = events["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| {
            assert_eq!(event["entity_id"], "cam1");
            event["event"].as_str().expect("a name")
        })
        .collect();
    let expected = [
        "api_call",
        "agent_connect_failed",
        "agent_connected",
        "agent_command_handling",
        "agent_command_handling",
        "agent_disconnected",
    ];
    assert_eq!(names, expected);
    let (first, second) = (&events["events"][3], &events["events"][4]);
    assert_eq!(
        (&first["command"], &first["user"]),
        (&json!("reboot"), &json!("api_key"))
    );
    assert_eq!(
        first["trace_id"].as_str().map(str::len),
        Some(36),
        "{first}"
    );
    assert_eq!(
        (&second["command"], &second["user"], &second["trace_id"]),
        (&json!("reset"), &json!("api_token:robot"), &json!(trace_id))
    );
    assert!(!events.to_string().contains(KEY), "no secret is logged");
}
