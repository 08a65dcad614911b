//! Handovers in progress: when does a node that keeps a stream let go of it?
//!
//! A handover ends when the new node reports that the stream runs there, at a time limit, or when
//! the old node is lost or may not have the stream any more. A new node that restreams may run the
//! stream before it captures it, by pulling it from the old node: its reports count only some time
//! after it was sent the move. The end is a command, which is
//! repeated until it is written: no stream may stay on two nodes. Which streams are handed over is
//! read from their records, so this is rebuilt after a restart, and the time limit begins again.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::BATCH_ITEMS_MAX;
use crate::state::command::HandoverEnd;
use crate::state::name::{Hostname, StreamName};
use crate::state::record::StreamRecord;

/// How long after the move was sent to a new node that may have run the stream already its reports
/// are taken for what it captures itself. A streamer switches to another source at once.
const CAPTURE_MS: u64 = 5000;
/// Pause after the writer refused an end.
const RETRY_MS: u64 = 1000;

/// Why a handover ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandoverCause {
    /// The new node reports that the stream runs there.
    Running,
    /// The time limit.
    Timeout,
    /// The old node is lost.
    NodeLost,
    /// The old node may not have the stream any more.
    Illegal,
}

impl HandoverCause {
    pub const ALL: [Self; 4] = [Self::Running, Self::Timeout, Self::NodeLost, Self::Illegal];

    /// Short name for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Timeout => "timeout",
            Self::NodeLost => "node_lost",
            Self::Illegal => "illegal",
        }
    }
}

/// One handover, as the record of its stream has it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct HandoverId {
    from: Hostname,
    to: Hostname,
    /// Stamp of the move: another move between the same nodes is another handover.
    moved_at: u64,
}

impl HandoverId {
    fn of(record: &StreamRecord) -> Option<Self> {
        let from = Hostname::trusted(record.handover_from()?);
        let (moved_at, to, _) = record.ingest_history().into_iter().next()?;
        let to = Hostname::trusted(to);
        Some(Self { from, to, moved_at })
    }
}

struct Handover {
    id: HandoverId,
    since_ms: u64,
    /// The new node must have been sent this revision before its reports count.
    revision: u64,
    /// The new node reported the stream when the handover began.
    ran_before: bool,
    /// When a report of the new node came after it was sent the move.
    sent_ms: Option<u64>,
    cause: Option<HandoverCause>,
}

impl Handover {
    /// Since when a report of the new node is one about what it captures itself.
    fn counts_from_ms(&self, report: &HandoverReport) -> Option<u64> {
        if self.ran_before || report.restreams {
            let from_ms = self.sent_ms? + CAPTURE_MS;
            return (from_ms <= report.now_ms).then_some(from_ms);
        }
        let is_sent = report.sent == 0 || report.sent >= self.revision;
        is_sent.then_some(self.since_ms)
    }
}

/// The report of a node, apart from its streams.
pub struct HandoverReport<'a> {
    pub hostname: &'a Hostname,
    /// The node was sent changes up to this revision; 0 for one that pages through its list.
    pub sent: u64,
    /// The node may pull any stream from its ingest node.
    pub restreams: bool,
    pub now_ms: u64,
}

/// Ends that were sent to the writer.
struct SentEnds {
    number: u64,
    ends: Vec<(StreamName, HandoverId, HandoverCause)>,
}

/// All handovers in progress.
#[derive(Default)]
pub struct Handovers {
    all: BTreeMap<StreamName, Handover>,
    /// The streams of each old and each new node.
    of_node: BTreeMap<Hostname, BTreeSet<StreamName>>,
    /// Those that have not ended, by their begin.
    by_begin: BTreeSet<(u64, StreamName)>,
    /// Those of which is not known what their new nodes ran when they began.
    begun: BTreeSet<StreamName>,
    /// Those whose end is to be sent.
    ending: BTreeSet<StreamName>,
    /// Those whose end waits for the end of a pause.
    held: BTreeSet<StreamName>,
    /// Stamp of a pause: the ends of earlier handovers wait.
    paused_since: Option<u64>,
    sent: Option<SentEnds>,
    sent_count: u64,
    retry_at_ms: u64,
}

impl Handovers {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// A stream was committed, or deleted (`None`).
    pub fn update(&mut self, name: &StreamName, record: Option<&StreamRecord>, now_ms: u64) {
        let id = record.and_then(HandoverId::of);
        let known = self.all.get(name).map(|handover| &handover.id);
        if known == id.as_ref() {
            return;
        }
        self.remove(name);
        let (Some(id), Some(record)) = (id, record) else {
            return;
        };
        for node in [&id.from, &id.to] {
            let streams = self.of_node.entry(node.clone()).or_default();
            streams.insert(name.clone());
        }
        self.by_begin.insert((now_ms, name.clone()));
        self.begun.insert(name.clone());
        let handover = Handover {
            id,
            since_ms: now_ms,
            revision: record.revision.to_native(),
            ran_before: false,
            sent_ms: None,
            cause: None,
        };
        self.all.insert(name.clone(), handover);
    }

    fn remove(&mut self, name: &StreamName) {
        let Some(old) = self.all.remove(name) else {
            return;
        };
        self.by_begin.remove(&(old.since_ms, name.clone()));
        self.begun.remove(name);
        self.ending.remove(name);
        self.held.remove(name);
        for node in [&old.id.from, &old.id.to] {
            if let Some(streams) = self.of_node.get_mut(node) {
                streams.remove(name);
                if streams.is_empty() {
                    self.of_node.remove(node);
                }
            }
        }
    }

    /// Records which new nodes ran their streams already when the handover began. `runs` finds a
    /// stream in the last report of a node.
    pub fn note_begun(&mut self, runs: impl Fn(&str, &Hostname) -> bool) {
        for name in std::mem::take(&mut self.begun) {
            if let Some(handover) = self.all.get_mut(&name) {
                handover.ran_before = runs(&name, &handover.id.to);
            }
        }
    }

    /// A node has reported; `runs` finds a stream in its reports since a time.
    pub fn reported(&mut self, report: &HandoverReport, runs: impl Fn(&str, u64) -> bool) {
        for name in self.of_node.get(report.hostname).into_iter().flatten() {
            if let Some(handover) = self.all.get_mut(name)
                && handover.id.to == *report.hostname
                && report.sent >= handover.revision
            {
                handover.sent_ms.get_or_insert(report.now_ms);
            }
        }
        self.end_of(report.hostname, HandoverCause::Running, |name, handover| {
            handover.id.to == *report.hostname
                && handover
                    .counts_from_ms(report)
                    .is_some_and(|from_ms| runs(name, from_ms))
        });
    }

    /// Ends handovers whose old node is this one.
    pub fn end_from(
        &mut self,
        node: &Hostname,
        cause: HandoverCause,
        ends: impl Fn(&StreamName) -> bool,
    ) {
        self.end_of(node, cause, |name, handover| {
            handover.id.from == *node && ends(name)
        });
    }

    fn end_of(
        &mut self,
        node: &Hostname,
        cause: HandoverCause,
        ends: impl Fn(&StreamName, &Handover) -> bool,
    ) {
        let Some(streams) = self.of_node.get(node) else {
            return;
        };
        let is_over = |name: &&StreamName| {
            let handover = self.all.get(*name);
            handover.is_some_and(|it| it.cause.is_none() && ends(name, it))
        };
        let over: Vec<StreamName> = streams.iter().filter(is_over).cloned().collect();
        for name in over {
            self.end(&name, cause);
        }
    }

    /// Ends handovers at the time limit.
    pub fn expire(&mut self, now_ms: u64, limit_ms: u64) {
        while let Some((since_ms, name)) = self.by_begin.first().cloned()
            && since_ms + limit_ms <= now_ms
        {
            self.end(&name, HandoverCause::Timeout);
        }
    }

    fn end(&mut self, name: &StreamName, cause: HandoverCause) {
        if let Some(handover) = self.all.get_mut(name) {
            handover.cause = Some(cause);
            self.by_begin.remove(&(handover.since_ms, name.clone()));
            self.queue(name.clone());
        }
    }

    /// Queues an end, or holds it during a pause.
    fn queue(&mut self, name: StreamName) {
        let handover = self.all.get(&name);
        let is_held = handover
            .zip(self.paused_since)
            .is_some_and(|(it, since)| it.id.moved_at < since);
        let queue = if is_held {
            &mut self.held
        } else {
            &mut self.ending
        };
        queue.insert(name);
    }

    /// A pause that holds the ends of handovers from before this stamp, or none.
    pub fn set_pause(&mut self, paused_since: Option<u64>) {
        self.paused_since = paused_since;
        let mut waiting = std::mem::take(&mut self.held);
        waiting.append(&mut self.ending);
        for name in waiting {
            self.queue(name);
        }
    }

    /// When ends are due or can be sent.
    pub fn due_ms(&self, limit_ms: u64) -> Option<u64> {
        let expires = self
            .by_begin
            .first()
            .map(|(since_ms, _)| since_ms + limit_ms);
        let sends = (self.sent.is_none() && !self.ending.is_empty()).then_some(self.retry_at_ms);
        expires.into_iter().chain(sends).min()
    }

    /// The next ends to send, and their number. One batch is in flight at a time.
    pub fn next_batch(&mut self, now_ms: u64) -> Option<(u64, Vec<HandoverEnd>)> {
        if self.sent.is_some() || now_ms < self.retry_at_ms {
            return None;
        }
        let mut ends = Vec::new();
        while ends.len() < BATCH_ITEMS_MAX
            && let Some(name) = self.ending.pop_first()
        {
            if let Some(handover) = self.all.get(&name)
                && let Some(cause) = handover.cause
            {
                ends.push((name, handover.id.clone(), cause));
            }
        }
        if ends.is_empty() {
            return None;
        }
        let items = ends.iter().map(|(name, id, _)| HandoverEnd {
            name: name.clone(),
            from: id.from.clone(),
            to: id.to.clone(),
        });
        let items = items.collect();
        let number = self.sent_count;
        self.sent_count += 1;
        self.sent = Some(SentEnds { number, ends });
        Some((number, items))
    }

    /// Handles the writer's reply to a batch. The commit that it made came before. Calls `ended`
    /// for each end that was written; what was not written is sent again.
    pub fn on_reply(
        &mut self,
        number: u64,
        is_written: bool,
        now_ms: u64,
        mut ended: impl FnMut(HandoverCause),
    ) {
        let Some(sent) = self.sent.take_if(|sent| sent.number == number) else {
            return;
        };
        if !is_written {
            self.retry_at_ms = now_ms + RETRY_MS;
        }
        for (name, id, cause) in sent.ends {
            if self
                .all
                .get(&name)
                .is_some_and(|handover| handover.id == id)
            {
                self.queue(name);
            } else if is_written {
                ended(cause);
            }
        }
    }
}
