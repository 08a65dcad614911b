//! Spans of requests, as a collector gets them.

use std::collections::VecDeque;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;
use serde_json::{Value, json};

use crate::stub::{Stub, StubResponse};
use weir_testkit::{API_KEY, PREFIX, Response, TestServer, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACE_AS_UUID: &str = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Kind `SERVER`.
const SERVER: i32 = 2;

/// A span, and its server by name.
#[derive(Debug)]
struct Received {
    service: String,
    name: String,
    trace: String,
    span: String,
    parent: String,
    attributes: Vec<KeyValue>,
    is_error: bool,
}

impl Received {
    fn attribute(&self, key: &str) -> String {
        text_of(&self.attributes, key)
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|it| it.key == key);
    match found.and_then(|it| it.value.as_ref()) {
        Some(AnyValue {
            value: Some(Any::StringValue(text)),
        }) => text.clone(),
        Some(AnyValue {
            value: Some(Any::IntValue(number)),
        }) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

struct Collector {
    stub: Stub,
    received: VecDeque<Received>,
}

impl Collector {
    fn new() -> Self {
        Self {
            stub: Stub::new(StubResponse::status(200)),
            received: VecDeque::new(),
        }
    }

    /// A server whose spans of all requests go here.
    fn server(&self, arguments: &[&str]) -> TestServer {
        let url = self.stub.url("?service_name=north%201");
        let own = ["--opentelemetry-url", &url, "--trace-one-in", "1"];
        TestServer::with(&[&own, arguments].concat())
    }

    /// The next span. They arrive in the order in which the requests were answered, if one core
    /// answers them.
    fn next(&mut self) -> Received {
        while self.received.is_empty() {
            let call = self.stub.call();
            assert_eq!(call.path, "/v1/traces");
            assert_eq!(call.headers["content-type"], "application/x-protobuf");
            let request = ExportTraceServiceRequest::decode(&*call.body).expect("a request");
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.expect("a resource");
                let service = text_of(&resource.attributes, "service.name");
                let spans = of_resource.scope_spans.into_iter().flat_map(|it| it.spans);
                self.received.extend(spans.map(|span| {
                    assert_eq!(span.kind, SERVER);
                    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
                    Received {
                        service: service.clone(),
                        name: span.name,
                        trace: hex(&span.trace_id),
                        span: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        attributes: span.attributes,
                        is_error: span.status.is_some_and(|status| status.code == 2),
                    }
                }));
            }
        }
        self.received.pop_front().expect("there is one")
    }

    /// Skips spans of other requests.
    fn next_of(&mut self, name: &str) -> Received {
        loop {
            let span = self.next();
            if span.name == name {
                return span;
            }
        }
    }
}

fn with(server: &TestServer, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    let key = format!("Bearer {API_KEY}");
    let mut all = vec![("Authorization", key.as_str())];
    all.extend(fields);
    let body: &[u8] = if method == "PUT" { b"{}" } else { b"" };
    let path = format!("{PREFIX}{path}");
    server.connect().request(method, &path, &all, body)
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// The newest event about an operation.
fn event_of(server: &TestServer, operation: &str) -> Value {
    let path = format!("/events?operation_id={operation}&sort=-event_id&limit=1");
    server.get(&path).expect(200).json()["events"][0].clone()
}

#[test]
fn answered_requests_are_spans() {
    let mut collector = Collector::new();
    let server = collector.server(&["--io-threads", "1"]);
    with(
        &server,
        "PUT",
        "/streams/a%2Fb",
        &[("traceparent", &traceparent("01"))],
    )
    .expect(200);
    let span = collector.next_of("PUT /streams/{name}");
    assert_eq!(span.service, "north 1");
    assert_eq!((span.trace.as_str(), span.parent.as_str()), (TRACE, PARENT));
    assert_ne!(span.span, PARENT);
    assert_eq!(span.attribute("http.request.method"), "PUT");
    assert_eq!(span.attribute("http.route"), "/streams/{name}");
    assert_eq!(span.attribute("http.response.status_code"), "200");
    assert_eq!(span.attribute("client.address"), "127.0.0.1");
    assert!(span.attribute("url.path").ends_with("/streams/a%2Fb"));
    assert!(!span.is_error);
    assert_eq!(event_of(&server, "stream_save")["trace_id"], TRACE_AS_UUID);

    // A save without a context: the event has the id of the span.
    server.put("/streams/c", json!({})).expect(200);
    let span = collector.next_of("PUT /streams/{name}");
    assert_eq!(span.parent, "");
    let trace_id = event_of(&server, "stream_save")["trace_id"].clone();
    let digits = trace_id.as_str().expect("a text").replace('-', "");
    assert_eq!(span.trace, digits);

    // A large batch, which another thread reads.
    let large: Vec<Value> = (0..3000)
        .map(|i| json!({"name": format!("large/{i}"), "title": "x".repeat(200)}))
        .collect();
    server.put("/streams/batch", json!(large)).expect(204);
    let span = collector.next_of("PUT /streams/batch");
    let trace_id = event_of(&server, "streams_batch_update")["trace_id"].clone();
    let digits = trace_id.as_str().expect("a text").replace('-', "");
    assert_eq!(span.trace, digits);

    // The id of the client, if it is one.
    let id = "6217fd62-16da-4206-9da9-0173d7552a14";
    with(&server, "DELETE", "/streams/c", &[("X-Trace-Id", id)]).expect(204);
    let span = collector.next_of("DELETE /streams/{name}");
    assert_eq!(span.trace, id.replace('-', ""));
    with(
        &server,
        "GET",
        "/streams/c",
        &[("X-Trace-Id", "ticket 4711")],
    )
    .expect(404);
    let span = collector.next_of("GET /streams/{name}");
    assert_eq!(span.trace.len(), 32);
    assert_eq!(span.attribute("http.response.status_code"), "404");

    // Refusals, and paths that do not exist.
    server
        .call_as("GET", "/streams", Some("Bearer wrong"))
        .expect(401);
    let span = collector.next_of("GET");
    assert_eq!(span.attribute("http.response.status_code"), "401");
    server.get("/nothing").expect(404);
    let span = collector.next_of("GET");
    assert_eq!(span.attribute("http.response.status_code"), "404");
    assert!(span.attributes.iter().all(|it| it.key != "http.route"));
}

fn wait_until_parked(server: &TestServer) {
    let polls = || {
        let text = server
            .get("/cluster/stats?format=openmetrics")
            .expect(200)
            .text();
        text.lines().any(|line| line == "weir_polls_parked 1")
    };
    wait_until("the poll is parked", polls, |parked| *parked);
}

#[test]
fn waiting_requests_are_spans_when_they_are_answered() {
    let mut collector = Collector::new();
    let server = collector.server(&["--io-threads", "1"]);
    let path = format!("{PREFIX}/streams?updated_at_gt=0&poll_timeout=40");
    let key = format!("Bearer {API_KEY}");
    let mut poll = server.connect();
    let fields = [
        ("Authorization", key.as_str()),
        ("traceparent", &traceparent("01")),
    ];
    poll.send_request("GET", &path, &fields, b"");
    wait_until_parked(&server);
    server.put("/streams/a", json!({})).expect(200);
    poll.response(false).expect(200);
    let span = collector.next_of("GET /streams");
    assert_eq!((span.trace.as_str(), span.parent.as_str()), (TRACE, PARENT));
    assert_eq!(span.attribute("http.response.status_code"), "200");

    // A client that leaves.
    let mut poll = server.connect();
    let later = path.replace("gt=0", "gt=9999999999999");
    poll.send_request("GET", &later, &fields, b"");
    wait_until_parked(&server);
    drop(poll);
    let span = collector.next_of("GET /streams");
    assert_eq!(span.attribute("http.response.status_code"), "499");
}

#[test]
fn callers_decide_about_their_requests() {
    let mut collector = Collector::new();
    let url = collector.stub.url("");
    let arguments = ["--opentelemetry-url", &url, "--trace-one-in", "0"];
    let server = TestServer::with(&arguments);
    with(&server, "PUT", "/streams/a", &[]).expect(200);
    with(
        &server,
        "PUT",
        "/streams/b",
        &[("traceparent", &traceparent("00"))],
    )
    .expect(200);
    with(&server, "PUT", "/streams/c", &[("traceparent", "garbage")]).expect(200);
    with(
        &server,
        "PUT",
        "/streams/d",
        &[("traceparent", &traceparent("01"))],
    )
    .expect(200);
    let span = collector.next();
    assert!(
        span.attribute("url.path").ends_with("/streams/d"),
        "{span:?}"
    );
}

#[test]
fn calls_to_other_servers_belong_to_the_trace() {
    let backend = Stub::new(StubResponse::status(200));
    let protect = |server: &TestServer| {
        let rules = json!({"backends": [{"url": backend.url("/auth")}]});
        server.put("/auth_backends/viewers", rules).expect(200);
        let stream = json!({"on_play": {"url": "auth://viewers"}});
        server.put("/streams/a", stream).expect(200);
    };
    let ask = |server: &TestServer, session: u32, fields: &[(&str, &str)]| {
        let path = format!(
            "/auth?name=a&proto=hls&ip=10.0.0.1&request_type=new_session&request_number=0&session_id={session:08}-16da-4206-9da9-0173d7552a14&stream_clients=1&total_clients=2"
        );
        with(server, "GET", &path, fields).expect(200);
        backend.call()
    };
    let mut collector = Collector::new();
    let server = collector.server(&["--outbound-loopback=true"]);
    protect(&server);
    let call = ask(&server, 1, &[("traceparent", &traceparent("01"))]);
    let span = collector.next_of("GET /auth");
    let expected = format!("00-{TRACE}-{}-01", span.span);
    assert_eq!(call.headers["traceparent"], expected);
    assert_eq!(call.headers["x-trace-id"], TRACE_AS_UUID);
    let call = ask(&server, 2, &[]);
    let span = collector.next_of("GET /auth");
    let expected = format!("00-{}-{}-01", span.trace, span.span);
    assert_eq!(call.headers["traceparent"], expected);

    // Without a collector it is passed on as it came.
    let server = TestServer::with(&["--outbound-loopback=true"]);
    protect(&server);
    let call = ask(&server, 3, &[("traceparent", &traceparent("01"))]);
    assert_eq!(call.headers["traceparent"], traceparent("01"));
    let call = ask(
        &server,
        4,
        &[("traceparent", "garbage"), ("X-Trace-Id", "t1")],
    );
    assert_eq!(call.headers.get("traceparent"), None);
    assert_eq!(call.headers["x-trace-id"], "t1");
}

/// A metric of spans by outcome.
fn spans(server: &TestServer, outcome: &str) -> u64 {
    let line = format!("weir_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let text = server
        .get("/cluster/stats?format=openmetrics")
        .expect(200)
        .text();
    let value = text.lines().find_map(|it| it.strip_prefix(&line));
    value.expect("the metric").parse().expect("a number")
}

#[test]
fn collector_that_takes_nothing_costs_spans_only() {
    let collector = Collector::new();
    collector.stub.respond_with(StubResponse::status(503));
    let server = collector.server(&["--io-threads", "1"]);
    server.put("/streams/a", json!({})).expect(200);
    wait_until(
        "the spans are given up",
        || spans(&server, "failed"),
        |failed| *failed > 0,
    );
    assert!(
        server.log().contains("spans were not taken"),
        "{}",
        server.log()
    );

    collector.stub.respond_with(StubResponse::Hold);
    let mut client = server.connect();
    let key = format!("Bearer {API_KEY}");
    let path = format!("{PREFIX}/streams/a");
    // More than wait in the queue and in two requests to the collector.
    for _ in 0..10_000 {
        client
            .request("GET", &path, &[("Authorization", &key)], b"")
            .expect(200);
    }
    assert!(spans(&server, "dropped") > 0);
    collector.stub.respond_with(StubResponse::status(200));
    wait_until(
        "the rest is taken",
        || spans(&server, "exported"),
        |taken| *taken > 1000,
    );
}

#[test]
fn collector_can_be_changed_while_the_server_runs() {
    let (mut first, mut second) = (Collector::new(), Collector::new());
    let server = TestServer::with_file(&format!("api_key = \"{API_KEY}\"\n"));
    let set = |url: Value| {
        let config = json!({"api_key": API_KEY, "opentelemetry_url": url});
        server.put("/config", config).expect(200)
    };
    let save = |name: &str| {
        let path = format!("/streams/{name}");
        with(
            &server,
            "PUT",
            &path,
            &[("traceparent", &traceparent("01"))],
        )
        .expect(200);
    };
    save("none");
    let shown = set(json!(first.stub.url("")));
    assert_eq!(shown.json()["opentelemetry_url"], first.stub.url(""));
    save("first");
    let span = first.next_of("PUT /streams/{name}");
    assert!(span.attribute("url.path").ends_with("/first"), "{span:?}");
    set(json!(second.stub.url("")));
    save("second");
    let span = second.next_of("PUT /streams/{name}");
    assert!(span.attribute("url.path").ends_with("/second"), "{span:?}");
    set(Value::Null);
    save("none");
    assert_eq!(first.stub.calls(), 0);
    for bad in ["", "ftp://c", "http://u:CANARY@c"] {
        let refused = server.put(
            "/config",
            json!({"api_key": API_KEY, "opentelemetry_url": bad}),
        );
        assert!(!refused.expect(400).text().contains("CANARY"));
    }
}

#[test]
fn last_spans_are_sent_at_the_end() {
    let mut collector = Collector::new();
    let mut server = collector.server(&[]);
    with(
        &server,
        "PUT",
        "/streams/a",
        &[("traceparent", &traceparent("01"))],
    )
    .expect(200);
    assert!(server.terminate().success());
    let span = collector.next_of("PUT /streams/{name}");
    assert_eq!(span.trace, TRACE);
}

#[test]
fn shared_variable_names_the_collector() {
    let mut collector = Collector::new();
    let url = collector.stub.url("/");
    let server = TestServer::with_environment(
        &["--trace-one-in", "1"],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)],
    );
    server.put("/streams/a", json!({})).expect(200);
    assert_eq!(collector.next_of("PUT /streams/{name}").service, "weir");
}
