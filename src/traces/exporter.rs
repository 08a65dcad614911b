//! Sends spans to a collector, by OTLP in protobuf over HTTP.

use std::fmt;
use std::future::Future;
use std::io::Read as _;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use percent_encoding::percent_decode_str;
use std::sync::atomic::Ordering;
use tracing::warn;
use ureq::Agent;
use ureq::config::Config;

use super::{RequestSpan, SpanCounts};
use crate::authorities;

/// Spans of one request to the collector.
const BATCH_SPANS: usize = 512;
/// How long a span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// The whole of one request to the collector.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the collector's response, which is a few words about what it refused.
const RESPONSE_BYTES_MAX: u64 = 64 * 1024;
/// At most one line of the log in this time is about spans that are not taken.
const WARNED_EVERY: Duration = Duration::from_mins(1);
/// Where collectors expect spans.
const PATH: &str = "/v1/traces";
const SERVICE_NAME: &str = "service_name";

/// Where spans are sent, and the name of this server there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    text: String,
    endpoint: String,
    service_name: String,
}

impl Collector {
    /// Parses `http(s)://HOST[:PORT][/PATH][?service_name=NAME]`. The path ends with
    /// `/v1/traces`, which is added if it does not.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let rest = base
            .strip_prefix("http://")
            .or_else(|| base.strip_prefix("https://"))?;
        let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains('@') || base.contains('#') || !is_plain {
            return None;
        }
        let endpoint = match base.trim_end_matches('/') {
            whole if whole.ends_with(PATH) => whole.to_owned(),
            base => format!("{base}{PATH}"),
        };
        endpoint.parse::<ureq::http::Uri>().ok()?;
        let service_name = match query {
            "" => "weir".to_owned(),
            _ => {
                let (name, value) = query.split_once('=')?;
                let value = percent_decode_str(value).decode_utf8().ok()?;
                let is_name = name == SERVICE_NAME && !value.is_empty() && !value.contains('&');
                is_name.then(|| value.into_owned())?
            }
        };
        Some(Self {
            text: text.to_owned(),
            endpoint,
            service_name,
        })
    }
}

/// As it was given.
impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Sends spans until no more can come.
pub(super) fn run(collector: &Collector, spans: &Receiver<RequestSpan>, counts: &SpanCounts) {
    let exporter = match exporter(collector) {
        Ok(exporter) => exporter,
        Err(error) => {
            warn!(%error, "traces cannot be sent");
            return;
        }
    };
    let scope = InstrumentationScope::builder("weir")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build();
    let mut warned: Option<Instant> = None;
    while let Some(batch) = next_batch(spans) {
        let count = batch.len() as u64;
        let batch = batch.into_iter().map(|span| data(span, &scope)).collect();
        match ready(exporter.export(batch)) {
            Ok(()) => counts.exported.fetch_add(count, Ordering::Relaxed),
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= WARNED_EVERY) {
                    warned = Some(Instant::now());
                    warn!(%error, collector = %collector.endpoint, "spans were not taken");
                }
                counts.failed.fetch_add(count, Ordering::Relaxed)
            }
        };
    }
}

/// Waits for a span, and a little longer for others. `None`: no more can come.
fn next_batch(spans: &Receiver<RequestSpan>) -> Option<Vec<RequestSpan>> {
    let mut batch = vec![spans.recv().ok()?];
    let until = Instant::now() + BATCH_DELAY;
    while batch.len() < BATCH_SPANS {
        match spans.recv_deadline(until) {
            Ok(span) => batch.push(span),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(batch)
}

fn exporter(collector: &Collector) -> Result<SpanExporter, ExporterBuildError> {
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(SEND_TIMEOUT))
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .tls_config(authorities::client_config(&collector.endpoint))
        .build();
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(BlockingClient(config.into()))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(collector.endpoint.as_str())
        .with_timeout(SEND_TIMEOUT)
        .build()?;
    let resource = Resource::builder()
        .with_service_name(collector.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// The client of this thread, which has nothing else to do than to wait.
#[derive(Debug)]
struct BlockingClient(Agent);

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for BlockingClient {
    fn send_bytes<'s, 'a>(&'s self, request: Request<Bytes>) -> Sent<'a>
    where
        's: 'a,
        Self: 'a,
    {
        let send = || -> Result<Response<Bytes>, HttpError> {
            let (parts, body) = self.0.run(request.map(|body| body.to_vec()))?.into_parts();
            let mut bytes = Vec::new();
            body.into_reader()
                .take(RESPONSE_BYTES_MAX)
                .read_to_end(&mut bytes)?;
            Ok(Response::from_parts(parts, bytes.into()))
        };
        Box::pin(std::future::ready(send()))
    }
}

/// The result of a future that never waits.
fn ready(future: impl Future<Output = Result<(), OTelSdkError>>) -> Result<(), OTelSdkError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(OTelSdkError::Timeout(SEND_TIMEOUT)),
    }
}

fn data(span: RequestSpan, scope: &InstrumentationScope) -> SpanData {
    let flags = if span.context.is_sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    let name = span.name();
    let mut attributes = vec![
        KeyValue::new("http.request.method", span.method),
        KeyValue::new("http.response.status_code", i64::from(span.status)),
        KeyValue::new("url.path", String::from(span.path)),
        KeyValue::new("client.address", span.peer.to_string()),
    ];
    if let Some(route) = span.route {
        attributes.push(KeyValue::new("http.route", String::from(route)));
    }
    SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(span.context.trace_id.to_be_bytes()),
            SpanId::from_bytes(span.context.span_id.to_be_bytes()),
            flags,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::from_bytes(span.parent.unwrap_or(0).to_be_bytes()),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: SpanKind::Server,
        name,
        start_time: span.began,
        end_time: span.began + span.took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        // Of a server's span only its own faults are errors.
        status: if span.status >= 500 {
            Status::error("")
        } else {
            Status::Unset
        },
        instrumentation_scope: scope.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_have_a_path_and_a_name() {
        for (text, endpoint, name) in [
            ("http://c:4318", "http://c:4318/v1/traces", "weir"),
            ("http://c:4318/", "http://c:4318/v1/traces", "weir"),
            ("https://c/otlp", "https://c/otlp/v1/traces", "weir"),
            ("http://c/v1/traces", "http://c/v1/traces", "weir"),
            (
                "http://c:14268?service_name=a%20b",
                "http://c:14268/v1/traces",
                "a b",
            ),
        ] {
            let collector = Collector::parse(text).expect("a collector");
            assert_eq!(collector.endpoint, endpoint, "{text}");
            assert_eq!(collector.service_name, name, "{text}");
            assert_eq!(collector.to_string(), text);
        }
        for text in [
            "",
            "c:4318",
            "ftp://c",
            "http://",
            "http://u:p@c",
            "http://c?name=a",
            "http://c?service_name=",
            "http://c?service_name=a&x=y",
            "http://c#x",
            "http://c d",
        ] {
            assert_eq!(Collector::parse(text), None, "{text}");
        }
    }
}
