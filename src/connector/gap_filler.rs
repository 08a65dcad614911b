//! Fills gaps of reports: reads the recordings of streamers that answer again, so that automatic
//! episodes are made of what this server did not see ([`crate::state::report_gap`]).
//!
//! A task beside the queries of its streamer, with a connection of its own. One request at a time,
//! with pauses, and few streamers at the same time: after a restart all of them have a gap. What
//! was read is committed in parts, each after the one before, so that a part that the store refused
//! is read again. What a streamer answers is untrusted: answers and their pages are bounded, and
//! times that make no sense are left out. A stream whose recordings cannot be read several times is
//! passed over, with a line in the log: one episode covers its whole gap, so that nothing is
//! erased.

use std::rc::Rc;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::{info, warn};

use super::history::QuerySettings;
use super::query::{QueryError, StreamerQuery};
use super::{Connector, QueriedStreamer, is_same};
use crate::api::now_ms;
use crate::fleet::recordings::{RecordedPage, ranges_path};
use crate::limits::{QUERY_CURSOR_BYTES_MAX, QUERY_OFFLOADED_BYTES_MIN, RECORDINGS_BYTES_MAX};
use crate::rt::{self, uptime_ms};
use crate::state::command::Command;
use crate::state::episode::close_timeout_ms;
use crate::state::name::{Hostname, StreamName};
use crate::state::record::StreamerRecord;
use crate::state::report_gap::{GapFill, ReportGap, Span, StreamRecordings, grouped, streams_of};
use crate::writer::Envelope;

/// Streamers of one core whose recordings are read at the same time.
const FILLS_MAX: usize = 8;
/// Longest wait for one answer.
const WITHIN_MS: u64 = 10_000;
/// Pause between two requests to one streamer.
const PAUSE: Duration = Duration::from_millis(20);
/// Pages of the recordings of one stream.
const PAGES_MAX: usize = 64;
/// Streams of one part.
const PART_STREAMS_MAX: usize = 64;
/// Episodes of one part, after which no further stream is read for it.
const PART_GROUPS_MAX: usize = 1_024;
/// Attempts to read the recordings of one stream before it is passed over.
const ATTEMPTS_MAX: u32 = 6;
/// Streams in a row that are passed over before all others are.
const PASSED_OVER_MAX: u32 = 3;
/// First and longest pause after a failure: the attempts for a stream take two minutes.
const RETRY_PAUSE_MS: (u64, u64) = (4_000, 60_000);
/// How often a commit is looked for, and how long.
const COMMIT_LOOK: Duration = Duration::from_millis(20);
const COMMIT_LOOKS_MAX: usize = 500;

/// Reading the recordings of one streamer so far.
#[derive(Debug, Default)]
pub(super) struct FillHistory {
    is_running: bool,
    due_ms: u64,
    /// The stream that could not be read, and how often.
    failed: Option<(StreamName, u32)>,
    /// Streams in a row that were passed over.
    passed_over: u32,
}

impl FillHistory {
    /// A stream could not be read. Returns true if it is passed over the next time.
    fn on_failure(&mut self, stream: &StreamName, now_ms: u64) -> bool {
        let before = self.failed.take().filter(|(failed, _)| failed == stream);
        let attempts = before.map_or(0, |(_, attempts)| attempts) + 1;
        let pause_ms = RETRY_PAUSE_MS.0 << attempts.min(16) >> 1;
        self.due_ms = now_ms + pause_ms.min(RETRY_PAUSE_MS.1);
        self.failed = Some((stream.clone(), attempts));
        attempts >= ATTEMPTS_MAX
    }

    fn is_passed_over(&self, stream: &StreamName) -> bool {
        let failed = self.failed.as_ref();
        failed.is_some_and(|(failed, attempts)| failed == stream && *attempts >= ATTEMPTS_MAX)
    }
}

/// Why a part was not read or not committed.
enum FillError {
    Stream {
        stream: StreamName,
        error: QueryError,
        /// Others were read before it.
        is_later: bool,
    },
    /// The store did not take it, or the gap or the streamer is another one.
    Refused,
}

/// One streamer whose recordings are read.
struct FillTask {
    hostname: Hostname,
    /// The entry of the streamer that it was started for.
    entry: u64,
    streamer: StreamerRecord,
    retries: u64,
    gap: ReportGap,
    /// A stream that is not read.
    passed_over: Option<StreamName>,
    /// No further stream is read.
    gives_up: bool,
}

impl FillTask {
    fn passes_over(&self, stream: &StreamName) -> bool {
        self.gives_up || self.passed_over.as_ref() == Some(stream)
    }
}

/// Recordings over the whole gap, in place of those that could not be read.
fn all_of(gap: &ReportGap, stream: StreamName, until_ms: u64) -> StreamRecordings {
    StreamRecordings {
        stream,
        groups: vec![Span {
            from: gap.since_ms,
            to: until_ms.max(gap.since_ms + 1),
        }],
        is_published: false,
    }
}

impl Connector {
    /// Reads the recordings of a streamer that answers, if it has a gap and it is time.
    pub(super) fn start_filling(self: &Rc<Self>, hostname: &Hostname, settings: QuerySettings) {
        let state = self.shared.published.state().load_full();
        let (Some(gap), Some(streamer)) = (state.report_gap(hostname), state.streamer(hostname))
        else {
            return;
        };
        let mut streamers = self.streamers.borrow_mut();
        let Some(known) = streamers.get_mut(hostname) else {
            return;
        };
        let fill = &mut known.fill;
        let is_due = !fill.is_running && fill.due_ms <= uptime_ms();
        if !is_due || self.fills.get() >= FILLS_MAX || !self.room.has_room() {
            return;
        }
        fill.is_running = true;
        let failed = fill.failed.as_ref().map(|(failed, _)| failed.clone());
        let task = FillTask {
            hostname: hostname.clone(),
            entry: known.number,
            streamer: streamer.clone(),
            retries: settings.retries,
            gap,
            passed_over: failed.filter(|failed| fill.is_passed_over(failed)),
            gives_up: fill.passed_over >= PASSED_OVER_MAX,
        };
        self.fills.set(self.fills.get() + 1);
        self.room.start(false, false);
        rt::spawn(self.clone().fill(task));
    }

    async fn fill(self: Rc<Self>, task: FillTask) {
        let mut query = StreamerQuery {
            context: &self.context,
            shared: &self.shared,
            streamer: &task.streamer,
            deadline: self.context.deadlines.begin(uptime_ms() + WITHIN_MS),
            retries: task.retries,
            connection: None,
        };
        let result = self.fill_parts(&task, &mut query).await;
        drop(query);
        self.room.end(false);
        self.fills.set(self.fills.get() - 1);
        let mut streamers = self.streamers.borrow_mut();
        let is_this = |it: &&mut QueriedStreamer| it.number == task.entry;
        let Some(known) = streamers.get_mut(&task.hostname).filter(is_this) else {
            return;
        };
        on_end(&task, &mut known.fill, result);
    }

    /// Reads and commits one part after the other.
    async fn fill_parts(
        &self,
        task: &FillTask,
        query: &mut StreamerQuery<'_>,
    ) -> Result<(), FillError> {
        let streams = self.streams_to_read(task, query).await?;
        let mut streams = streams.into_iter().peekable();
        let mut gap = task.gap.clone();
        let mut is_later = false;
        loop {
            let mut part = Vec::new();
            let (mut groups, mut last, mut failed) = (0, None, None);
            while groups < PART_GROUPS_MAX
                && part.len() < PART_STREAMS_MAX
                && let Some(stream) = streams.next()
            {
                let is_passed_over = task.passes_over(&stream);
                let read = if is_passed_over {
                    Ok(all_of(&gap, stream.clone(), now_ms()))
                } else {
                    self.recordings(query, &stream, &gap).await
                };
                match read {
                    Ok(recordings) => {
                        is_later |= !is_passed_over;
                        groups += recordings.groups.len();
                        part.push(recordings);
                    }
                    Err(error) => {
                        failed = Some((stream, error));
                        break;
                    }
                }
                last = Some(stream);
            }
            let is_end = failed.is_none() && streams.peek().is_none();
            let until = last.filter(|_| !is_end);
            let until = until.map(|stream| Box::from(stream.as_str()));
            // Without one, the stream that failed is the first.
            if is_end || until.is_some() {
                gap = self.commit_part(task, gap, part, until).await?;
            }
            if let Some((stream, error)) = failed {
                return Err(FillError::Stream {
                    stream,
                    error,
                    is_later,
                });
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// The streams are found on another thread: many may have changed since the begin of the gap.
    async fn streams_to_read(
        &self,
        task: &FillTask,
        query: &StreamerQuery<'_>,
    ) -> Result<Vec<StreamName>, FillError> {
        let state = self.shared.published.state().load_full();
        let (hostname, gap) = (task.hostname.clone(), task.gap.clone());
        let find = move || streams_of(&state, &hostname, &gap);
        let found = query.read(QUERY_OFFLOADED_BYTES_MIN, find).await;
        found.map_err(|_| FillError::Refused)
    }

    /// All pages of the recordings of one stream.
    async fn recordings(
        &self,
        query: &mut StreamerQuery<'_>,
        stream: &StreamName,
        gap: &ReportGap,
    ) -> Result<StreamRecordings, QueryError> {
        let state = self.shared.published.state().load_full();
        let record = state.stream(stream);
        let timeout_ms = record.map_or(0, |record| close_timeout_ms(record));
        let groups_max = gap.groups_max();
        let first = ranges_path(stream);
        let mut path = first.clone();
        let mut groups: Vec<Span> = Vec::new();
        for _ in 0..PAGES_MAX {
            rt::sleep(PAUSE).await;
            query.deadline = self.context.deadlines.begin(uptime_ms() + WITHIN_MS);
            let body = match query.recordings(&path, RECORDINGS_BYTES_MAX).await {
                Ok(body) => body,
                // It has no recordings of this stream, or lists none.
                Err(QueryError::Status(400 | 404 | 405 | 410 | 501)) => break,
                Err(error) => return Err(error),
            };
            let (bytes, since_ms, until_ms) = (body.len(), gap.since_ms, now_ms());
            let read = move || {
                let page = RecordedPage::parse(&body, until_ms)?;
                let own = page.spans.into_iter();
                groups.extend(own.filter(|span| span.to > since_ms));
                Some((grouped(groups, timeout_ms, groups_max), page.next))
            };
            let read = query.read(bytes, read).await?;
            let (joined, next) = read.ok_or(QueryError::BadAnswer)?;
            groups = joined;
            let Some(next) = next.filter(|next| next.len() <= QUERY_CURSOR_BYTES_MAX) else {
                break;
            };
            let cursor = utf8_percent_encode(&next, NON_ALPHANUMERIC);
            path = format!("{first}?cursor={cursor}");
        }
        let ingest = record.and_then(|record| record.ingest());
        let view = self.shared.fleet.view(Instant::now());
        let is_published = view.stream(stream, ingest, |facts| {
            facts.opened_at_ms().is_some() && facts.alive() != Some(false)
        });
        Ok(StreamRecordings {
            stream: stream.clone(),
            groups,
            is_published: is_published == Some(true),
        })
    }

    /// Commits what was read, and waits until that is in the state. Returns the rest of the gap.
    async fn commit_part(
        &self,
        task: &FillTask,
        gap: ReportGap,
        recordings: Vec<StreamRecordings>,
        until: Option<Box<str>>,
    ) -> Result<ReportGap, FillError> {
        let hostname = &task.hostname;
        let state = self.shared.published.state().load_full();
        let current = state.streamer(hostname);
        if !current.is_some_and(|current| is_same(&task.streamer, current)) {
            return Err(FillError::Refused);
        }
        let command = Command::FillReportGap(GapFill {
            hostname: hostname.clone(),
            since_ms: gap.since_ms,
            after: gap.filled.clone(),
            recordings,
            until: until.clone(),
        });
        let sent = self.shared.commands.send(Envelope::unanswered(command));
        sent.map_err(|_| FillError::Refused)?;
        for _ in 0..COMMIT_LOOKS_MAX {
            rt::sleep(COMMIT_LOOK).await;
            let state = self.shared.published.state().load_full();
            match state.report_gap(hostname) {
                None if until.is_none() => return Ok(gap),
                Some(now) if now.since_ms == gap.since_ms && now.filled == gap.filled => {}
                Some(now) if now.since_ms == gap.since_ms && now.filled == until => return Ok(now),
                _ => return Err(FillError::Refused),
            }
        }
        Err(FillError::Refused)
    }
}

/// Logs the end, and decides when it goes on after a failure.
fn on_end(task: &FillTask, fill: &mut FillHistory, result: Result<(), FillError>) {
    fill.is_running = false;
    let hostname = &task.hostname;
    match result {
        Ok(()) if task.gives_up => {
            *fill = FillHistory::default();
            warn!(%hostname, "recordings not read; episodes cover all of an unseen time");
        }
        Ok(()) => {
            *fill = FillHistory::default();
            let since_ms = task.gap.since_ms;
            info!(%hostname, since_ms, "episodes of an unseen time are complete");
        }
        Err(FillError::Refused) => fill.due_ms = uptime_ms() + RETRY_PAUSE_MS.0,
        Err(FillError::Stream {
            stream,
            error,
            is_later,
        }) => {
            if is_later {
                fill.passed_over = 0;
            }
            if fill.on_failure(&stream, uptime_ms()) {
                fill.passed_over += 1;
                let reason = error.outcome().as_str();
                warn!(%hostname, %stream, reason, "recordings of a stream not read");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::report_gap::{FillStep, plan};

    #[test]
    fn stream_is_passed_over_after_attempts_with_growing_pauses() {
        let mut fill = FillHistory::default();
        let (first, second) = (StreamName::trusted("a"), StreamName::trusted("b"));
        let mut pauses = Vec::new();
        for attempt in 1..=ATTEMPTS_MAX {
            assert!(!fill.is_passed_over(&first), "{attempt}");
            assert_eq!(fill.on_failure(&first, 1_000), attempt == ATTEMPTS_MAX);
            pauses.push(fill.due_ms - 1_000);
        }
        assert_eq!(pauses, [4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert!(fill.is_passed_over(&first) && !fill.is_passed_over(&second));
        assert!(!fill.on_failure(&second, 1_000));
        assert!(!fill.is_passed_over(&first));
    }

    #[test]
    fn unread_recordings_are_covered_by_an_episode() {
        let gap = ReportGap {
            since_ms: 5_000,
            next_since_ms: None,
            filled: None,
            made: 0,
        };
        let planned = |until_ms| {
            let unread = all_of(&gap, StreamName::trusted("a"), until_ms);
            plan(&[], &unread.groups, gap.since_ms, 1_000)
        };
        let episode = |from, to| [FillStep::Make(Span { from, to })];
        assert_eq!(planned(9_000), episode(5_000, 9_000));
        assert_eq!(
            planned(1_000),
            episode(5_000, 5_001),
            "a clock that was set"
        );
    }
}
