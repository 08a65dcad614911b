//! A bulk change on its way: what is wanted, the streams that match, and how far it has got.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use super::stream_doc::StreamDoc;
use crate::access::rights::{Action, Rights};
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::{Object, Value, scan};
use crate::layouter::whatif::consequences::PreviewVisibility;
use crate::limits::{BULK_BATCH_STREAMS_MAX, BULK_RUNNING_MAX, BULK_SAMPLE_MAX};
use crate::query::{Document as _, Query};
use crate::state::command::{AuditedCommand, Command, SelectedChange, SelectedStream};
use crate::state::name::StreamName;
use crate::state::record::StreamRecord;

/// The media type of an answer with a line of progress for each commit.
pub const PROGRESS_TYPE: &str = "application/x-ndjson";

/// A bulk change or its dry run.
pub struct BulkRequest {
    pub query: Arc<Query>,
    pub applies: bool,
    /// What the client takes to match.
    pub(super) expected: Option<ExpectedMatch>,
    /// Without streams.
    pub(super) command: AuditedCommand,
    pub(super) change: SelectedChange,
    /// Permissions of a token.
    pub(super) rights: Option<Arc<Rights>>,
    pub visible: PreviewVisibility,
    /// For a change that is made.
    pub(super) _running: Option<RunningBulk>,
}

/// What the client takes to match. Absent members are not compared.
#[derive(Clone, Copy)]
pub struct ExpectedMatch {
    pub count: Option<u64>,
    pub revision: Option<u64>,
}

impl BulkRequest {
    /// Whether the caller may change a stream that it sees.
    pub fn may_change(&self, name: &str) -> bool {
        let rights = self.rights.as_ref();
        rights.is_none_or(|rights| rights.may(Action::Write, "streams", Some(name)))
    }

    /// Whether it places streams.
    pub fn places(&self) -> bool {
        match &self.change {
            SelectedChange::Patch(patch) => patch.layout.is_some(),
            SelectedChange::Move(_) => true,
            SelectedChange::Delete => false,
        }
    }

    /// The change of these streams.
    pub fn command(&self, items: Vec<SelectedStream>) -> Command {
        let change = self.change.clone();
        Command::ChangeSelected { items, change }
    }

    /// The same with its author.
    pub fn audited(&self, items: Vec<SelectedStream>) -> AuditedCommand {
        AuditedCommand {
            command: self.command(items),
            ..self.command.clone()
        }
    }

    /// Streams whose records a selection holds.
    pub fn held_max(&self) -> usize {
        if self.applies {
            usize::MAX
        } else {
            BULK_BATCH_STREAMS_MAX
        }
    }

    /// Refuses another selection than the client expects.
    pub fn check_expected(&self, found: &MatchingStreams) -> Result<(), ApiError> {
        let Some(expected) = self.expected else {
            return Ok(());
        };
        let is_it = |wanted: Option<u64>, found: u64| wanted.is_none_or(|wanted| wanted == found);
        if is_it(expected.count, found.count) && is_it(expected.revision, found.revision()) {
            return Ok(());
        }
        Err(error::SELECTION_CHANGED
            .error()
            .with("count", found.count)
            .with("revision", found.revision()))
    }
}

/// The streams that a bulk change is made to.
pub struct MatchingStreams {
    pub count: u64,
    /// Streams that match and that the caller may not change.
    read_only: u64,
    digest: u64,
    /// The first names.
    sample: BTreeSet<StreamName>,
    pub records: Vec<StreamRecord>,
    held_max: usize,
}

/// Revisions are integers that every JSON parser reads exactly.
const REVISION_MAX: u64 = (1 << 53) - 1;

impl MatchingStreams {
    /// With the records of at most `held_max` streams.
    pub fn new(held_max: usize) -> Self {
        Self {
            count: 0,
            read_only: 0,
            digest: 0,
            sample: BTreeSet::new(),
            records: Vec::new(),
            held_max,
        }
    }

    pub fn add(&mut self, document: &StreamDoc<'_>, request: &BulkRequest) {
        // Keyed: a digest of secrets that can be computed elsewhere would help to guess them.
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let (name, record) = (document.key(), document.record());
        if !request.may_change(name) {
            self.read_only += 1;
            return;
        }
        self.count += 1;
        let digest = HASHER.hash_one((name, record.config.as_str()));
        self.digest = self.digest.wrapping_add(digest);
        if self.records.len() < self.held_max {
            self.records.push(record.clone());
        }
        let is_full = self.sample.len() >= BULK_SAMPLE_MAX;
        if is_full && self.sample.last().is_some_and(|last| **last < *name) {
            return;
        }
        self.sample.insert(StreamName::trusted(name));
        if is_full {
            self.sample.pop_last();
        }
    }

    /// Sorts the records by name. Those of one part of a scan are in this order already, which the
    /// sort makes use of.
    pub fn sort(&mut self) {
        self.records
            .sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    }

    /// Adds the streams that another thread has found.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.read_only += other.read_only;
        self.digest = self.digest.wrapping_add(other.digest);
        let room = self.held_max.saturating_sub(self.records.len());
        self.records.extend(other.records.into_iter().take(room));
        self.sample.extend(other.sample);
        while self.sample.len() > BULK_SAMPLE_MAX {
            self.sample.pop_last();
        }
    }

    /// Equal for equal streams with equal stored configurations, while the server runs.
    fn revision(&self) -> u64 {
        self.digest & REVISION_MAX
    }

    /// Memory that it holds.
    pub fn held_bytes(&self) -> usize {
        self.records.capacity() * size_of::<StreamRecord>()
    }

    /// The answer to a dry run. `moves`: JSON.
    pub fn preview(&self, moves: &str) -> Response {
        let mut body = Object::default();
        body.insert("count", Value::from(self.count));
        if self.read_only > 0 {
            body.insert("read_only", Value::from(self.read_only));
        }
        body.insert("revision", Value::from(self.revision()));
        let sample = self.sample.iter().map(|name| Value::from(name.as_str()));
        body.insert("sample", Value::Array(sample.collect()));
        let mut rest = Vec::new();
        Value::Object(body).write(&mut rest);
        let mut out = format!("{{\"moves\":{moves},").into_bytes();
        out.extend_from_slice(&rest[1..]);
        Response::json(200, out)
    }
}

/// How far a bulk change has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkProgress {
    /// Streams that were selected.
    pub count: u64,
    /// Streams of commits that are on disk.
    pub done: u64,
    /// Those of them that are different now.
    pub changed: u64,
    /// Those that were not looked at any more: they are gone or do not match any longer.
    pub skipped: u64,
}

impl BulkProgress {
    /// One line, without its end.
    pub fn line(&self) -> String {
        format!("{{{}}}", self.members())
    }

    /// The last line. With an error nothing after `done` was changed, unless its code is one of an
    /// unknown outcome.
    pub fn last_line(&self, ended_by: Option<ApiError>) -> String {
        let (ended, errors) = match ended_by {
            None => ("complete", String::new()),
            Some(error) => {
                let response = Response::from(error);
                let text = String::from_utf8_lossy(response.body.bytes()).into_owned();
                let errors = scan::member(&text, "errors").unwrap_or("[]");
                ("error", format!(",\"errors\":{errors}"))
            }
        };
        format!("{{{},\"ended\":\"{ended}\"{errors}}}", self.members())
    }

    fn members(&self) -> String {
        let Self {
            count,
            done,
            changed,
            skipped,
        } = self;
        format!("\"changed\":{changed},\"count\":{count},\"done\":{done},\"skipped\":{skipped}")
    }
}

/// One of the bulk changes that are being applied, until it is dropped.
pub struct RunningBulk(Arc<AtomicU32>);

impl RunningBulk {
    pub fn begin(running: &Arc<AtomicU32>) -> Result<Self, ApiError> {
        let one_more = |running| (running < BULK_RUNNING_MAX).then_some(running + 1);
        match running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Self(running.clone())),
            Err(_) => Err(error::TOO_MANY_BULK_CHANGES.error()),
        }
    }
}

impl Drop for RunningBulk {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
