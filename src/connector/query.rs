//! One query of a streamer: its stats, the pages of its streams, and now and then the storages in
//! its configuration, as one report.
//!
//! What a streamer answers is untrusted: replies, pages, their number and their sum are bounded,
//! of streams that this server does not have a bounded number is kept, a list that repeats a cursor
//! is refused, and a list that could not be read to its end is not used, because a stream that is
//! missing from a report counts as stopped.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::history::retry_pause_ms;
use crate::api::now_seconds;
use crate::api::shared::Shared;
use crate::fleet::peer;
use crate::fleet::queries::QueryOutcome;
use crate::fleet::report::{ReportReader, StreamerReport};
use crate::json::{self, Value, ValueRef, ValueShape};
use crate::limits::{
    QUERY_CURSOR_BYTES_MAX, QUERY_LIST_BYTES_MAX, QUERY_OFFLOADED_BYTES_MIN, QUERY_PAGE_BYTES_MAX,
    QUERY_PAGES_MAX, QUERY_STATS_BYTES_MAX, SHOWN_CONFIG_BYTES_MAX, UNCONFIGURED_PER_STREAMER_MAX,
    UNCONFIGURED_TEXT_BYTES_MAX,
};
use crate::outbound::connection::{
    CallContext, ExchangeError, PeerConnection, get_request, put_request,
};
use crate::outbound::{CallDeadline, OutboundError, TargetUrl};
use crate::rt::{self, Inbox};
use crate::schema::{self, ValidWriter};
use crate::state::record::StreamerRecord;

const CONFIG_PATH: &str = "/streamer/api/v3/config";
const STATS_PATH: &str = "/streamer/api/v3/config/stats";
const STREAMS_PATH: &str = "/streamer/api/v3/streams?select=name,stats&limit=50";

/// Why a query failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryError {
    Call(OutboundError),
    Status(u16),
    /// It is not the JSON that is expected, or it has no end.
    BadAnswer,
}

impl QueryError {
    pub fn outcome(self) -> QueryOutcome {
        match self {
            Self::Call(OutboundError::TimedOut | OutboundError::Cancelled) => {
                QueryOutcome::TimedOut
            }
            Self::Call(OutboundError::Unreachable) => QueryOutcome::Unreachable,
            Self::Call(OutboundError::Forbidden) => QueryOutcome::AddressNotAllowed,
            Self::Call(OutboundError::Busy) => QueryOutcome::Busy,
            Self::Call(OutboundError::BadResponse) | Self::BadAnswer => QueryOutcome::BadAnswer,
            Self::Status(_) => QueryOutcome::Status,
        }
    }

    /// Whether the same request may succeed in a moment.
    fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Call(OutboundError::Unreachable) | Self::Status(500..=599)
        )
    }
}

impl From<OutboundError> for QueryError {
    fn from(error: OutboundError) -> Self {
        Self::Call(error)
    }
}

/// The answers of a streamer.
pub struct QueryAnswer {
    pub report: StreamerReport,
    /// When it answered about itself.
    pub received: Instant,
    pub received_ms: u64,
    /// The requests were signed with its cluster key.
    pub has_key: bool,
    /// Why its streams are not in the report.
    pub streams_error: Option<QueryError>,
}

/// A query that is being sent.
pub struct StreamerQuery<'a> {
    pub context: &'a CallContext,
    pub shared: &'a Arc<Shared>,
    pub streamer: &'a StreamerRecord,
    pub deadline: CallDeadline,
    /// How often each request is repeated.
    pub retries: u64,
    /// A connection of an earlier query; after the query one for the next.
    pub connection: Option<PeerConnection>,
}

/// A request to a streamer, which may be sent twice.
#[derive(Clone, Copy)]
struct PeerCall<'a> {
    path: &'a str,
    /// Of a write.
    body: Option<&'a str>,
    /// Longest answer.
    bytes_max: usize,
}

impl StreamerQuery<'_> {
    /// `with_dvrs`: the storages too, if the streamer shows its configuration; and its name is
    /// resolved again.
    pub async fn run(&mut self, with_dvrs: bool) -> Result<QueryAnswer, QueryError> {
        let (body, has_key) = self.get(STATS_PATH, QUERY_STATS_BYTES_MAX).await?;
        let (received, received_ms) = (Instant::now(), rt::uptime_ms());
        let bytes = body.len();
        let read = move || {
            let mut reader = ReportReader::default();
            reader.stats(object(&body)?, received);
            reader.has_stats().then_some(reader)
        };
        let reader = self.read(bytes, read).await?;
        let mut reader = reader.ok_or(QueryError::BadAnswer)?;
        let streams_error = match self.streams().await {
            Ok(streams) => {
                reader.take_streams(streams);
                None
            }
            Err(error) => Some(error),
        };
        if with_dvrs && let Ok(dvrs) = self.dvrs().await {
            reader.take_dvrs(dvrs);
        }
        if with_dvrs && let Some(request) = peer::request(self.streamer, "", now_seconds()) {
            self.context
                .follow_name(&request.target, &self.deadline)
                .await;
        }
        Ok(QueryAnswer {
            report: reader.finish(),
            received,
            received_ms,
            has_key,
            streams_error,
        })
    }

    /// Reads the storages of the streamer, which are a part of its configuration.
    async fn dvrs(&mut self) -> Result<ReportReader, QueryError> {
        let body = self.config().await?;
        let bytes = body.len();
        let read = move || {
            let Value::Object(mut config) = object(&body)? else {
                return None;
            };
            let dvrs = config.remove("dvrs").filter(|dvrs| !dvrs.is_null());
            let mut reader = ReportReader::default();
            // A streamer without any leaves the member out.
            let dvrs = dvrs.unwrap_or_else(|| Value::Array(Vec::new()));
            reader.dvrs(dvrs).ok().map(|()| reader)
        };
        self.read(bytes, read).await?.ok_or(QueryError::BadAnswer)
    }

    /// Reads all pages of the list of streams.
    async fn streams(&mut self) -> Result<ReportReader, QueryError> {
        let mut reader = ReportReader::default();
        let mut cursors: HashSet<Box<str>> = HashSet::new();
        let mut path = STREAMS_PATH.to_owned();
        let mut list_bytes = 0;
        let mut unconfigured = 0;
        for _ in 0..QUERY_PAGES_MAX {
            let (body, _) = self.get(&path, QUERY_PAGE_BYTES_MAX).await?;
            let bytes = body.len();
            list_bytes += bytes;
            if list_bytes > QUERY_LIST_BYTES_MAX {
                break;
            }
            let state = self.shared.published.state().load_full();
            let read = move || {
                let mut page = PageReader {
                    reader,
                    is_configured: &|name| state.stream(name).is_some(),
                    unconfigured,
                };
                let next = page.read(&body).ok()?;
                Some((page.reader, next, page.unconfigured))
            };
            let read = self.read(bytes, read).await?;
            let (extended, next, so_far) = read.ok_or(QueryError::BadAnswer)?;
            let Some(next) = next else {
                return Ok(extended);
            };
            (reader, unconfigured) = (extended, so_far);
            let cursor = utf8_percent_encode(&next, NON_ALPHANUMERIC);
            path = format!("{STREAMS_PATH}&cursor={cursor}");
            if next.len() > QUERY_CURSOR_BYTES_MAX || !cursors.insert(next) {
                break;
            }
        }
        Err(QueryError::BadAnswer)
    }

    /// Reads a body: on this thread, or on another one if it is large.
    pub async fn read<T: Send + 'static>(
        &self,
        bytes: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueryError> {
        if bytes < QUERY_OFFLOADED_BYTES_MIN {
            let read = catch_unwind(AssertUnwindSafe(read));
            return read.map_err(|_| QueryError::BadAnswer);
        }
        let inbox: Arc<Inbox<Option<T>>> = Arc::default();
        let results = inbox.clone();
        let job = move || results.push(catch_unwind(AssertUnwindSafe(read)).ok());
        let offload = &self.shared.workers.offload;
        let taken = offload.run(bytes, job);
        taken.map_err(|_| QueryError::Call(OutboundError::Busy))?;
        let read = self.deadline.receive(&inbox).await;
        read.ok_or(if self.deadline.is_over() {
            QueryError::Call(OutboundError::TimedOut)
        } else {
            QueryError::BadAnswer
        })
    }

    /// The configuration that the streamer shows.
    pub async fn config(&mut self) -> Result<Vec<u8>, QueryError> {
        Ok(self.get(CONFIG_PATH, SHOWN_CONFIG_BYTES_MAX).await?.0)
    }

    /// A page of the recordings of a stream.
    pub async fn recordings(
        &mut self,
        path: &str,
        bytes_max: usize,
    ) -> Result<Vec<u8>, QueryError> {
        Ok(self.get(path, bytes_max).await?.0)
    }

    /// Writes members of the configuration of the streamer.
    pub async fn write_config(&mut self, body: &str) -> Result<(), QueryError> {
        let call = PeerCall {
            path: CONFIG_PATH,
            body: Some(body),
            bytes_max: SHOWN_CONFIG_BYTES_MAX,
        };
        self.call(call).await.map(drop)
    }

    async fn get(&mut self, path: &str, bytes_max: usize) -> Result<(Vec<u8>, bool), QueryError> {
        let body = None;
        let call = PeerCall {
            path,
            body,
            bytes_max,
        };
        self.call(call).await
    }

    /// The body of an answer with success, and whether the request was signed. Sends the request
    /// again while it fails in a way that passes, and there is time.
    async fn call(&mut self, call: PeerCall<'_>) -> Result<(Vec<u8>, bool), QueryError> {
        let mut attempt = 0;
        loop {
            let result = self.call_once(call).await;
            let Err(error) = &result else { return result };
            let random = getrandom::u64().unwrap_or_default();
            let pause_ms = retry_pause_ms(attempt, random);
            let has_time = self.deadline.left_ms(rt::uptime_ms()) > pause_ms;
            if attempt >= self.retries || !has_time || !error.is_passing() {
                return result;
            }
            attempt += 1;
            rt::sleep(std::time::Duration::from_millis(pause_ms)).await;
        }
    }

    async fn call_once(&mut self, call: PeerCall<'_>) -> Result<(Vec<u8>, bool), QueryError> {
        let request = peer::request(self.streamer, call.path, now_seconds());
        // It is of a form or has a host that is never called.
        let request = request.ok_or(OutboundError::Forbidden)?;
        let has_key = request.has_key();
        let bytes = match call.body {
            None => get_request(&request.target, &request.headers),
            Some(body) => put_request(&request.target, &request.headers, body),
        };
        let reply = self
            .exchange(&request.target, &bytes, call.bytes_max)
            .await?;
        match reply {
            (200, body) => Ok((body, has_key)),
            (201 | 204, _) if call.body.is_some() => Ok((Vec::new(), has_key)),
            (status, _) => Err(QueryError::Status(status)),
        }
    }

    /// Sends a request on the kept connection, or on a new one if that is closed.
    async fn exchange(
        &mut self,
        target: &TargetUrl,
        request: &[u8],
        bytes_max: usize,
    ) -> Result<(u16, Vec<u8>), QueryError> {
        let kept = self.connection.take();
        let mut kept = kept.filter(|connection| connection.is_to(self.context, target));
        loop {
            let was_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => PeerConnection::open(self.context, target, &self.deadline).await?,
            };
            let exchanged = connection.exchange(self.context, request, bytes_max, &self.deadline);
            match exchanged.await {
                Ok(reply) => {
                    if reply.keeps_open {
                        self.connection = Some(connection);
                    }
                    return Ok((reply.status, reply.body));
                }
                Err(ExchangeError::Closed) if was_kept => {}
                Err(ExchangeError::Closed) => return Err(OutboundError::Unreachable.into()),
                Err(ExchangeError::Failed(error)) => return Err(error.into()),
            }
        }
    }
}

fn object(body: &[u8]) -> Option<Value> {
    match json::parse(body) {
        Ok(Value::Object(object)) => Some(Value::Object(object)),
        _ => None,
    }
}

/// Reads the pages of a streamer's list of streams, one after the other.
struct PageReader<'r> {
    reader: ReportReader,
    is_configured: &'r dyn Fn(&str) -> bool,
    /// The streams so far that are not configured.
    unconfigured: usize,
}

impl PageReader<'_> {
    /// Adds the streams of a page, and returns the cursor of the next one. After an error nothing
    /// of the list is used.
    fn read(&mut self, body: &[u8]) -> Result<Option<Box<str>>, QueryError> {
        let before = self.unconfigured;
        let next = json::read_in_place(body, |page| {
            let ValueShape::Object(_) = page.shape() else {
                return None;
            };
            let ValueShape::Array(listed) = page.get("streams")?.shape() else {
                return None;
            };
            self.reader.begin_list(listed.len()).ok()?;
            let mut writer = schema::stream_stats().valid_writer();
            for stream in listed {
                self.add(stream, body.len(), &mut writer)?;
            }
            match page.get("next").map(ValueRef::shape) {
                None | Some(ValueShape::Null) => Some(None),
                // An older server ends its list with an empty one.
                Some(ValueShape::String(next)) => Some((!next.is_empty()).then(|| next.into())),
                Some(_) => None,
            }
        });
        let next = next.ok_or(QueryError::BadAnswer)?;
        if self.unconfigured == before {
            self.reader.all_configured();
        } else {
            self.reader.separate_streams(self.is_configured);
        }
        Ok(next)
    }

    /// Adds a stream of a page, unless it is one of too many that are not configured.
    fn add<'a>(
        &mut self,
        stream: ValueRef<'a>,
        page_bytes: usize,
        writer: &mut ValidWriter<'_, 'a>,
    ) -> Option<()> {
        // Without a name it could be any.
        let name = stream.get("name")?;
        let stats = stream.get("stats");
        let stats = match stats.map(ValueRef::shape) {
            Some(ValueShape::Object(_)) => stats?,
            None | Some(ValueShape::Null) => ValueRef::of(&NO_STATS),
            Some(_) => return None,
        };
        if (self.is_configured)(name.as_str()?) {
            self.reader.stream(Some(name), stats, writer);
            return Some(());
        }
        self.unconfigured += 1;
        // One more than are kept, so that it is known that some are not. Of a page that is mostly
        // padding none is.
        let is_padded = page_bytes > QUERY_PAGE_BYTES_MAX / 2;
        if is_padded || self.unconfigured > UNCONFIGURED_PER_STREAMER_MAX + 1 {
            return Some(());
        }
        if page_bytes < QUERY_OFFLOADED_BYTES_MIN {
            self.reader.stream(Some(name), stats, writer);
            return Some(());
        }
        let mut stats = stats.to_value();
        if let Some(stats) = stats.as_object_mut() {
            stats.retain(|_, value| is_short(value));
        }
        let (name, stats) = (Some(name), ValueRef::of(&stats));
        let mut writer = schema::stream_stats().valid_writer();
        self.reader.stream(name, stats, &mut writer);
        Some(())
    }
}

static NO_STATS: Value = Value::Object(json::Object::new());

/// Whether a member is worth to be kept of a long page, for a stream that is not configured.
fn is_short(value: &Value) -> bool {
    match value {
        Value::Object(_) | Value::Array(_) => false,
        Value::String(text) => text.len() <= UNCONFIGURED_TEXT_BYTES_MAX / 4,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The streams of a page and what follows it; the count of those that are not configured.
    fn read(
        body: &str,
        is_configured: impl Fn(&str) -> bool,
        unconfigured: usize,
    ) -> Result<(String, Option<Box<str>>, usize), QueryError> {
        let mut page = PageReader {
            reader: ReportReader::default(),
            is_configured: &is_configured,
            unconfigured,
        };
        let next = page.read(body.as_bytes())?;
        let count = page.unconfigured;
        Ok((page.reader.finish().streams_text(), next, count))
    }

    #[test]
    fn page_is_read_completely_or_not_at_all() {
        let page = r#"{"streams":[{"name":"a","stats":{"ts_delay":5,"name":"x"},"x":1},{"name":"d"},
            {"name":"b","stats":null}],"next":"c","estimated_count":9}"#;
        let (streams, next, unconfigured) = read(page, |name| name != "d", 0).expect("a page");
        assert_eq!(streams, r#"a {"ts_delay":5}, b {}; d {}"#);
        assert_eq!(unconfigured, 1);
        assert_eq!(next.as_deref(), Some("c"));
        for end in [
            r#"{"streams":[]}"#,
            r#"{"streams":[],"next":null}"#,
            r#"{"streams":[],"next":""}"#,
        ] {
            let (_, next, _) = read(end, |_| true, 0).expect(end);
            assert_eq!(next, None, "{end}");
        }
        for bad in [
            "[]",
            "{}",
            r#"{"streams":{}}"#,
            r#"{"streams":[5]}"#,
            r#"{"streams":[{}]}"#,
            r#"{"streams":[{"name":5}]}"#,
            r#"{"streams":[{"name":"a","stats":[]}]}"#,
            r#"{"streams":[{"name":"a","name":"b"}]}"#,
            r#"{"streams":[],"next":5}"#,
            r#"{"streams":[]"#,
        ] {
            let page = read(bad, |_| false, 0);
            assert_eq!(page.err(), Some(QueryError::BadAnswer), "{bad}");
        }
    }

    #[test]
    fn streams_that_are_not_configured_are_bounded() {
        let parse = |body: &str, unconfigured: usize| {
            let page = read(body, |name| name == "own", unconfigured);
            page.expect("a page").0
        };
        let padding = " ".repeat(QUERY_OFFLOADED_BYTES_MIN);
        let stats = r#"{"ts_delay":5,"media_info":{"tracks":[]}}"#;
        let item = |name: &str| format!(r#"{{"name":"{name}","stats":{stats}}}"#);
        let items = [item("own"), item("x")].join(",");
        let long = format!(r#"{{"streams":[{items}]{padding}}}"#);
        let own = r#"own {"media_info":{"tracks":[]},"ts_delay":5}; "#;
        assert_eq!(parse(&long, 0), format!(r#"{own}x {{"ts_delay":5}}"#));
        let padding = " ".repeat(QUERY_PAGE_BYTES_MAX / 2);
        let padded = format!(r#"{{"streams":[{items}]{padding}}}"#);
        assert_eq!(parse(&padded, 0), own);
        let two = r#"{"streams":[{"name":"x"},{"name":"y"},{"name":"own"}]}"#;
        let kept = "own {}; x {}";
        assert_eq!(parse(two, UNCONFIGURED_PER_STREAMER_MAX), kept);
    }
}
