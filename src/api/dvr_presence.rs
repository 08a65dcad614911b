//! Whether episodes are in the archive: asked of the streamers, while a finished answer waits.
//!
//! `dvr_presence_check` makes an answer about episodes wait until the ingest nodes of their streams have told which times they have recorded, or
//! have not told in time. One call per stream and a bounded number of them per answer; what is not known stays absent, never a guess. What a
//! streamer answers is hostile input: bounded, read strictly, and used for nothing but these two members.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::call::{Context, Pending, Step};
use super::shared::ApiSettings;
use crate::core::message::Reply;
use crate::fleet::peer;
use crate::http::Response;
use crate::json::{self, Value};
use crate::outbound::{CallResult, CancelToken, OutboundCall};
use crate::query::params::Flag;
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::record::ArchivedFacts;

pub const DVR_PRESENCE_CHECK: Flag = Flag::new(
    "dvr_presence_check",
    false,
    "Also asks the streamers whether the archive has a recording of the time; the result is in \
     `has_dvr` and `recording_status`. Takes longer.",
)
.example("true");
/// How long streamers may take, all of them together.
pub const WAIT: Duration = Duration::from_secs(3);
/// Streams asked about for one answer; the episodes of others stay without.
const CALLS_MAX: usize = 32;
/// Longest answer of a streamer: some 40,000 times.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// A gap this short between two recorded times is none: recordings are cut into segments.
const GAP_MS_MAX: u64 = 1_000;

/// A time of an episode, in UTC ms, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u64,
    to: u64,
}

/// What a streamer has recorded of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    /// In their order, none touching the next.
    spans: Vec<Span>,
    /// False: there is more that was not told.
    is_complete: bool,
}

/// How much of an episode is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coverage {
    Full,
    Part,
    None,
    /// Recorded, but how much is not known.
    Some,
}

impl Coverage {
    fn has_dvr(self) -> bool {
        self != Self::None
    }

    fn status(self) -> Option<&'static str> {
        match self {
            Self::Full => Some("fully_recorded"),
            Self::Part => Some("partially_recorded"),
            Self::None => Some("not_recorded"),
            Self::Some => None,
        }
    }
}

impl Recorded {
    /// `{"ranges":[{"opened_at","closed_at"}]}` in milliseconds, or with the older `from` and `duration` in seconds.
    fn read(body: &[u8]) -> Option<Self> {
        let body = json::parse(body).ok()?;
        let mut spans = Vec::new();
        for range in body.get("ranges")?.as_array()? {
            let number = |name| range.get(name).and_then(Value::as_u64);
            let span = if let Some(from) = number("opened_at") {
                // The recording goes on.
                let to = number("closed_at").unwrap_or(u64::MAX);
                Span { from, to }
            } else {
                let from = number("from")?.checked_mul(1000)?;
                let length = number("duration")?.checked_mul(1000)?;
                let to = from.checked_add(length)?;
                Span { from, to }
            };
            spans.push(span);
        }
        let is_complete = body.get("next").is_none_or(Value::is_null);
        Some(Self {
            spans: joined(spans),
            is_complete,
        })
    }

    fn coverage(&self, episode: Span) -> Option<Coverage> {
        let touching = |span: &&Span| span.from <= episode.to && span.to >= episode.from;
        let covers = |span: &Span| {
            span.from <= episode.from.saturating_add(GAP_MS_MAX)
                && span.to.saturating_add(GAP_MS_MAX) >= episode.to
        };
        let mut spans = self.spans.iter().filter(touching);
        Some(match (spans.next(), self.is_complete) {
            (Some(span), _) if covers(span) => Coverage::Full,
            (Some(_), true) => Coverage::Part,
            (Some(_), false) => Coverage::Some,
            (None, true) => Coverage::None,
            (None, false) => return None,
        })
    }
}

fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| span.from);
    let mut joined: Vec<Span> = Vec::new();
    for span in spans.into_iter().filter(|span| span.from <= span.to) {
        match joined.last_mut() {
            Some(last) if span.from <= last.to.saturating_add(GAP_MS_MAX) => {
                last.to = last.to.max(span.to);
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// An answer that waits for streamers. Dropped, it tells its calls that nobody waits.
pub struct DvrPresence {
    body: Value,
    /// By id: the stream's place among those asked about, and the time.
    episodes: HashMap<u64, (usize, Span)>,
    recorded: Vec<Option<Recorded>>,
    pending: usize,
    /// Not yet started.
    calls: Vec<(usize, OutboundCall)>,
    cancel: CancelToken,
}

impl Drop for DvrPresence {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl DvrPresence {
    /// What has to be asked for the episodes of an answer, a list or a single one; by stream's place. Nothing if nobody can be asked.
    fn of(body: &[u8], state: &State, now_seconds: u64, deadline: Instant) -> Option<Self> {
        let body = json::parse(body).expect("an answer is JSON that was written here");
        let mut episodes = HashMap::new();
        let mut places: HashMap<&str, Option<usize>> = HashMap::new();
        let mut calls = Vec::new();
        for episode in list(&body) {
            let Some(id) = episode.get("episode_id").and_then(Value::as_u64) else {
                continue;
            };
            let Some(record) = state.entities(Kind::Episode).get(&Key::Number(id)) else {
                continue;
            };
            let ArchivedFacts::Episode {
                media,
                opened_at,
                closed_at,
                ..
            } = &record.facts
            else {
                continue;
            };
            let place = *places.entry(media.as_str()).or_insert_with(|| {
                let place = calls.len();
                let call = (place < CALLS_MAX)
                    .then(|| call(state, media, now_seconds, deadline))
                    .flatten()?;
                calls.push((place, call));
                Some(place)
            });
            let Some(place) = place else { continue };
            let until = closed_at.as_ref().unwrap_or(&record.updated_at);
            let span = Span {
                from: opened_at.to_native(),
                to: until.to_native().max(opened_at.to_native()),
            };
            episodes.insert(id, (place, span));
        }
        let asking = Self {
            body,
            episodes,
            recorded: calls.iter().map(|_| None).collect(),
            pending: calls.len(),
            calls,
            cancel: CancelToken::default(),
        };
        (asking.pending > 0).then_some(asking)
    }

    /// Takes what a streamer said. True when nobody else is waited for.
    fn receive(&mut self, place: usize, outcome: CallResult) -> bool {
        self.pending = self.pending.saturating_sub(1);
        let answer = outcome.ok().filter(|answer| answer.status == 200);
        if let Some(recorded) = self.recorded.get_mut(place) {
            *recorded = answer.and_then(|answer| Recorded::read(&answer.body));
        }
        self.pending == 0
    }

    /// The answer with what was heard so far.
    fn conclude(&mut self) -> Response {
        let mut body = std::mem::take(&mut self.body);
        for episode in list_mut(&mut body) {
            let id = episode.get("episode_id").and_then(Value::as_u64);
            let Some((place, span)) = id.and_then(|id| self.episodes.get(&id)) else {
                continue;
            };
            let recorded = self.recorded[*place].as_ref();
            let Some(coverage) = recorded.and_then(|recorded| recorded.coverage(*span)) else {
                continue;
            };
            if let Value::Object(episode) = episode {
                episode.insert("has_dvr", Value::Bool(coverage.has_dvr()));
                if let Some(status) = coverage.status() {
                    episode.insert("recording_status", Value::from(status));
                }
            }
        }
        let mut text = Vec::new();
        body.write(&mut text);
        Response::json(200, text)
    }
}

impl Pending for DvrPresence {
    fn wait(&self, _: &ApiSettings) -> Duration {
        // The calls end by themselves; this is for when the threads that make them do not.
        WAIT + Duration::from_secs(1)
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        for (part, call) in std::mem::take(&mut self.calls) {
            context.call(part, call, &self.cancel);
        }
        Step::Wait
    }

    fn on_reply(&mut self, part: usize, reply: Reply, _: &Context<'_>) -> Step {
        if let Reply::Call(result) = reply
            && self.receive(part, result)
        {
            return Step::Done(self.conclude());
        }
        Step::Wait
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        self.conclude()
    }
}

/// Adds to a page of episodes what their streamers have recorded of them.
pub fn complete(page: Response, state: &State) -> Result<Response, Box<dyn Pending>> {
    let deadline = Instant::now() + WAIT;
    match DvrPresence::of(page.body.bytes(), state, super::now_seconds(), deadline) {
        None => Ok(page),
        Some(presence) => Err(Box::new(presence)),
    }
}

fn list(body: &Value) -> &[Value] {
    match body.get("episodes").and_then(Value::as_array) {
        Some(list) => list,
        None => std::slice::from_ref(body),
    }
}

fn list_mut(body: &mut Value) -> &mut [Value] {
    if body
        .get("episodes")
        .is_some_and(|list| list.as_array().is_some())
    {
        match body.get_mut("episodes") {
            Some(Value::Array(list)) => list,
            _ => &mut [],
        }
    } else {
        std::slice::from_mut(body)
    }
}

/// The call to the node that captures a stream; nothing if there is none that can be called.
fn call(state: &State, media: &str, now_seconds: u64, deadline: Instant) -> Option<OutboundCall> {
    let streamer = state.streamer(state.stream(media)?.ingest()?)?;
    let name = utf8_percent_encode(media, NON_ALPHANUMERIC);
    let path = format!("/streamer/api/v3/streams/{name}/dvr/ranges");
    peer::get(streamer, &path, now_seconds, deadline, ANSWER_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(body: &str) -> Recorded {
        Recorded::read(body.as_bytes()).expect("can be read")
    }

    fn coverage(of: &Recorded, from: u64, to: u64) -> Option<Coverage> {
        of.coverage(Span { from, to })
    }

    #[test]
    fn an_episode_is_recorded_fully_in_part_or_not() {
        let of = recorded(
            r#"{"ranges":[{"opened_at":50000,"closed_at":60000},{"opened_at":10000,"closed_at":20000},{"opened_at":20500,"closed_at":30000}]}"#,
        );
        assert_eq!(coverage(&of, 11_000, 29_000), Some(Coverage::Full));
        assert_eq!(
            coverage(&of, 9_500, 30_500),
            Some(Coverage::Full),
            "segments"
        );
        assert_eq!(coverage(&of, 25_000, 55_000), Some(Coverage::Part));
        assert_eq!(coverage(&of, 35_000, 45_000), Some(Coverage::None));
        assert_eq!(
            coverage(&of, 15_000, 15_000),
            Some(Coverage::Full),
            "a moment"
        );
        let going_on = recorded(r#"{"ranges":[{"opened_at":10000}],"next":null}"#);
        assert_eq!(coverage(&going_on, 11_000, 99_000), Some(Coverage::Full));
        let older = recorded(r#"{"ranges":[{"from":10,"duration":5}]}"#);
        assert_eq!(coverage(&older, 11_000, 12_000), Some(Coverage::Full));
    }

    #[test]
    fn a_list_that_was_cut_says_nothing_of_what_it_lacks() {
        let of = recorded(r#"{"ranges":[{"opened_at":10000,"closed_at":20000}],"next":"x"}"#);
        assert_eq!(coverage(&of, 11_000, 12_000), Some(Coverage::Full));
        assert_eq!(coverage(&of, 11_000, 90_000), Some(Coverage::Some));
        assert_eq!(coverage(&of, 50_000, 90_000), None);
    }

    #[test]
    fn what_is_no_list_of_times_is_nothing() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"ranges":{}}"#,
            r#"{"ranges":[{}]}"#,
            r#"{"ranges":[{"from":18446744073709551615,"duration":1}]}"#,
            r#"{"ranges":[{"from":1}]}"#,
        ] {
            assert_eq!(Recorded::read(bad.as_bytes()), None, "{bad}");
        }
        // A time that ends before it begins covers nothing.
        let of = recorded(r#"{"ranges":[{"opened_at":20000,"closed_at":10000}]}"#);
        assert_eq!(coverage(&of, 15_000, 15_000), Some(Coverage::None));
    }
}
