//! Bulk changes: streams that match filters are selected by a scan and changed in batches.
//!
//! The scan is made like that of a list. A batch is one command; the next one is sent when the last
//! one is on disk and the client has taken its line. A client that is gone ends the change after
//! the batch under way; an error does, too. A record that changed since it was selected is looked
//! at again, so that no stream is changed that does not match any more.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::info;

use super::message::Reply;
use super::parts::{MatchPass, ScanClient, ScanEnd, StreamSink};
use super::{ANSWER_WAIT_MAX, Admitted, Core, uncached};
use crate::api::call::{Context, LocalState};
use crate::api::matching::{BulkProgress, BulkRequest, MatchingStreams, PROGRESS_TYPE};
use crate::api::stream::may_keep;
use crate::api::stream_doc::{StreamDoc, Streams, reads_all};
use crate::api::strict;
use crate::error::{self, ApiError};
use crate::http::{Answer, ChunkedAnswer, Reserved, Response, Ticket};
use crate::layouter::whatif::worker::WhatIfQuery;
use crate::limits::{BULK_BATCH_STREAMS_MAX, BULK_ROUNDS_MAX};
use crate::query::{Query, ScanPosition, Source as _};
use crate::rt::{self, Inbox};
use crate::scan_pool::SliceSize;
use crate::state::apply::{Stamp, apply};
use crate::state::changes::Done;
use crate::state::command::{Command, SelectedStream};
use crate::state::name::StreamName;
use crate::state::record::StreamRecord;

/// Streams of a batch that are looked at again before other requests run.
const RECHECKED_STREAMS: usize = 256;
/// How often a client is sent a line while a batch is written.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// What a bulk change waits for.
pub(super) enum BulkReply {
    /// The outcome of a command.
    Changed(Result<Done, ApiError>),
    /// The answer of another thread.
    Reply(Reply),
    /// The client is gone, or has its answer.
    Abandoned,
}

/// Replies to one bulk change.
pub(super) type BulkReplies = Inbox<BulkReply>;

/// The streams of a bulk change that are being selected.
struct SelectedStreams {
    found: MatchingStreams,
    request: Arc<BulkRequest>,
}

impl SelectedStreams {
    fn new(request: &Arc<BulkRequest>) -> Self {
        Self {
            found: MatchingStreams::new(request.held_max()),
            request: request.clone(),
        }
    }
}

impl StreamSink for SelectedStreams {
    fn empty(&self) -> Self {
        Self::new(&self.request)
    }

    fn add(&mut self, document: &StreamDoc<'_>) {
        self.found.add(document, &self.request);
    }

    fn merge(&mut self, other: Self) {
        self.found.merge(other.found);
    }

    fn finish(&mut self) {
        self.found.sort();
    }

    fn held_bytes(&self) -> usize {
        self.found.held_bytes()
    }
}

/// A bulk change under way.
struct BulkRun {
    request: Arc<BulkRequest>,
    ticket: Ticket,
    replies: Rc<BulkReplies>,
}

/// An answer that has begun.
type BulkAnswer = ChunkedAnswer<Admitted>;

impl Core {
    pub(super) fn bulk(self: &Rc<Self>, request: Arc<BulkRequest>, ticket: Ticket) -> Answer {
        let replies = self.pending.borrow_mut().begin_bulk(ticket);
        let run = BulkRun {
            request,
            ticket,
            replies,
        };
        rt::spawn(self.clone().run_bulk(run));
        Answer::Wait {
            deadline: Some(ANSWER_WAIT_MAX),
        }
    }

    async fn run_bulk(self: Rc<Self>, run: BulkRun) {
        let answer = self.answer_bulk(&run).await;
        self.pending.borrow_mut().end_bulk(run.ticket);
        if let Some(response) = answer.unwrap_or_else(|error| Some(error.into()))
            && self.connections.is_waiting(run.ticket)
        {
            self.complete(run.ticket, response);
        }
    }

    /// The answer, unless it was sent already or its client is gone.
    async fn answer_bulk(&self, run: &BulkRun) -> Result<Option<Response>, ApiError> {
        let state = self.state();
        let mut reserved = Reserved::default();
        let Some(selection) = self.select(run, &state, &mut reserved).await? else {
            return Ok(None);
        };
        run.request.check_expected(&selection)?;
        if run.request.applies {
            return self.apply_bulk(run, selection).await;
        }
        let moves = self.preview_moves(run, &selection, &state).await?;
        Ok(Some(selection.preview(&moves)))
    }

    /// Scans a state for the streams that match. `None`: the client is gone.
    async fn select(
        &self,
        run: &BulkRun,
        state: &LocalState,
        reserved: &mut Reserved,
    ) -> Result<Option<MatchingStreams>, ApiError> {
        let query = (&run.request.query, run.ticket);
        let none = SelectedStreams::new(&run.request);
        let selection = self.scan_streams(query, state, reserved, none).await?;
        Ok(selection.map(|selection| selection.found))
    }

    /// Adds the streams of a state that match to `sink`. `None`: the client is gone.
    pub(super) async fn scan_streams<T: StreamSink>(
        &self,
        (query, ticket): (&Arc<Query>, Ticket),
        state: &LocalState,
        reserved: &mut Reserved,
        sink: T,
    ) -> Result<Option<T>, ApiError> {
        let client = ScanClient {
            ticket: Some(ticket),
            began: Instant::now(),
        };
        if reads_all(query, state) {
            let scan = MatchPass {
                query: query.clone(),
                empty: sink.empty(),
                state: Arc::clone(state),
                shared: self.shared.clone(),
            };
            match self.scan_in_parts(scan, &client, reserved).await {
                Some(Ok(found)) if self.connections.holds(reserved, found.held_bytes()) => {
                    return Ok(Some(found));
                }
                Some(Ok(_)) => return Err(error::BUFFERS_FULL.error()),
                Some(Err(ScanEnd::ClientGone)) => return Ok(None),
                Some(Err(ScanEnd::Refused(code))) => return Err(code.error()),
                None => {}
            }
        }
        self.scan_in_slices((query, &client), state, reserved, sink)
            .await
    }

    /// The same on this core, in slices.
    async fn scan_in_slices<T: StreamSink>(
        &self,
        (query, client): (&Query, &ScanClient),
        state: &LocalState,
        reserved: &mut Reserved,
        mut sink: T,
    ) -> Result<Option<T>, ApiError> {
        let mut position = ScanPosition::default();
        let mut size = SliceSize::default();
        loop {
            let turn = self.lists.turns.next().await;
            let is_done = size.step(|documents| {
                let fleet = self.shared.fleet.view(Instant::now());
                let around = self.shared.around(state, fleet);
                let streams = Streams::new(state, Some(around)).for_scan(query);
                let add = &mut |document: StreamDoc<'_>| sink.add(&document);
                query.matches_in(&streams, &mut position, documents, add)
            });
            drop(turn);
            match self.look_after(client, sink.held_bytes(), reserved) {
                Ok(()) if is_done => return Ok(Some(sink)),
                Ok(()) => {}
                Err(ScanEnd::ClientGone) => return Ok(None),
                Err(ScanEnd::Refused(code)) => return Err(code.error()),
            }
        }
    }

    /// What the change would move, as JSON; `null` if the layouter is disabled or too many streams
    /// match. The change is tried on the streams that the selection holds.
    async fn preview_moves(
        &self,
        run: &BulkRun,
        selection: &MatchingStreams,
        state: &LocalState,
    ) -> Result<String, ApiError> {
        let records = selection.records.iter();
        let items = records.map(|record| self.selected(run, record)).collect();
        let command = run.request.command(items);
        let config = self.shared.settings.running.config();
        let is_whole = selection.records.len() as u64 == selection.count;
        if is_whole && config.settings.layouter.enabled {
            let query = WhatIfQuery::Moves(Box::new(command), run.request.visible.clone());
            let completion = self.bulk_context(run, state).completion(0);
            let reply = Box::new(move |answer, _| completion.send(Reply::Body(answer)));
            self.shared.layouter.whatif.query(query, reply)?;
        } else {
            self.try_elsewhere(run, state, command)?;
        }
        match run.replies.recv().await {
            BulkReply::Reply(Reply::Body(moves)) => {
                Ok(String::from_utf8_lossy(&moves?).into_owned())
            }
            _ => Err(error::TIMED_OUT.error()),
        }
    }

    /// Has another thread find out whether a change is possible.
    fn try_elsewhere(
        &self,
        run: &BulkRun,
        state: &LocalState,
        command: Command,
    ) -> Result<(), ApiError> {
        let completion = self.bulk_context(run, state).completion(0);
        let state = std::sync::Arc::clone(state);
        let job = move || {
            let stamp = Stamp {
                revision: state.revision() + 1,
                ms: state.stamp_ms() + 1,
            };
            let tried = apply(&state, command, stamp).map(|_| b"null".to_vec());
            completion.send(Reply::Body(tried));
        };
        let offload = &self.shared.workers.offload;
        offload.run(0, job).map_err(|_| error::BUFFERS_FULL.error())
    }

    fn bulk_context<'a>(&'a self, run: &BulkRun, state: &'a LocalState) -> Context<'a> {
        Context {
            shared: &self.shared,
            state,
            core: self.index,
            ticket: run.ticket,
        }
    }

    fn selected(&self, run: &BulkRun, record: &StreamRecord) -> SelectedStream {
        SelectedStream {
            name: StreamName::trusted(&record.name),
            revision: record.revision.to_native(),
            hands_over: run.request.places() && may_keep(&self.shared, record.ingest()),
        }
    }

    /// Changes the selected streams, batch by batch.
    async fn apply_bulk(
        &self,
        run: &BulkRun,
        selection: MatchingStreams,
    ) -> Result<Option<Response>, ApiError> {
        let is_divided = selection.records.len() > BULK_BATCH_STREAMS_MAX;
        if is_divided && !self.connections.takes_chunks(run.ticket) {
            let title = "A body of unknown length is sent to clients of HTTP/1.1 only";
            return Err(error::HTTP_VERSION.titled(title));
        }
        // From here on the writer checks what the caller may change.
        self.held.borrow_mut().remove(run.ticket);
        let mut progress = BulkProgress {
            count: selection.count,
            ..BulkProgress::default()
        };
        let mut answer: Option<BulkAnswer> = None;
        for batch in selection.records.chunks(BULK_BATCH_STREAMS_MAX) {
            let is_stopping = self.shared.draining.load(Ordering::Acquire);
            let outcome = if answer.is_some() && is_stopping {
                Err(error::SHUTTING_DOWN.error())
            } else {
                self.change_batch(run, batch, &mut progress, &mut answer)
                    .await
            };
            match outcome {
                Err(error) if progress.changed == 0 && answer.is_none() => return Err(error),
                Err(error) => return Ok(self.end_bulk(run, answer, &progress, Some(error))),
                Ok(()) => {}
            }
            if !is_divided || progress.done == progress.count {
                break;
            }
            if answer.is_none() {
                answer = self.begin_progress(run.ticket);
            }
            let Some(answer) = &mut answer else {
                return Ok(None);
            };
            answer.write(format!("{}\n", progress.line()).as_bytes());
            if !answer.taken().await {
                let BulkProgress { count, done, .. } = progress;
                info!(count, done, "bulk change ended: the client is gone");
                self.held.borrow_mut().end(run.ticket);
                return Ok(None);
            }
        }
        Ok(self.end_bulk(run, answer, &progress, None))
    }

    /// Begins an answer with a line for each batch.
    fn begin_progress(&self, ticket: Ticket) -> Option<BulkAnswer> {
        let mut head = uncached(Response::new(200));
        head.content_type = PROGRESS_TYPE;
        if self.held.borrow().manner(ticket).is_strict {
            head = head.header("Preference-Applied", strict::APPLIED);
        }
        let answer = self.connections.begin_chunks(ticket, head, 0)?;
        self.count_answer(200);
        Some(answer)
    }

    /// Ends a bulk change. Returns its answer unless it has begun.
    fn end_bulk(
        &self,
        run: &BulkRun,
        answer: Option<BulkAnswer>,
        progress: &BulkProgress,
        ended_by: Option<ApiError>,
    ) -> Option<Response> {
        let BulkProgress {
            count,
            done,
            changed,
            skipped,
        } = *progress;
        let error = ended_by.as_ref().map(|error| error.items[0].code);
        info!(count, done, changed, skipped, error, "bulk change ended");
        let line = progress.last_line(ended_by);
        let Some(answer) = answer else {
            return Some(Response::json(200, line.into_bytes()));
        };
        if answer.finish(format!("{line}\n").as_bytes()) {
            self.ended(run.ticket, 200);
        }
        self.held.borrow_mut().end(run.ticket);
        None
    }

    /// Changes the streams of one batch that still match. Those that others change in the same
    /// moment are tried again.
    async fn change_batch(
        &self,
        run: &BulkRun,
        batch: &[StreamRecord],
        progress: &mut BulkProgress,
        answer: &mut Option<BulkAnswer>,
    ) -> Result<(), ApiError> {
        let mut left = batch.to_vec();
        for _ in 0..BULK_ROUNDS_MAX {
            let given = left.len();
            left = self.still_matching(run, &left).await;
            let gone = (given - left.len()) as u64;
            progress.skipped += gone;
            progress.done += gone;
            if left.is_empty() {
                return Ok(());
            }
            let items = left.iter().map(|record| self.selected(run, record));
            let command = run.request.audited(items.collect());
            self.change(run.ticket, command, false)?;
            let done = self.outcome_of_batch(run, progress, answer).await?;
            let Done::Selected { changed, skipped } = done else {
                unreachable!("the outcome of a change of selected streams");
            };
            progress.changed += changed as u64;
            progress.done += (left.len() - skipped.len()) as u64;
            left = skipped.into_iter().map(|i| left[i].clone()).collect();
        }
        progress.skipped += left.len() as u64;
        progress.done += left.len() as u64;
        Ok(())
    }

    /// The newest records of those streams that exist and match.
    async fn still_matching(&self, run: &BulkRun, records: &[StreamRecord]) -> Vec<StreamRecord> {
        let mut matching = Vec::with_capacity(records.len());
        for slice in records.chunks(RECHECKED_STREAMS) {
            let turn = self.lists.turns.next().await;
            let state = self.state();
            let fleet = self.shared.fleet.view(Instant::now());
            let streams = Streams::new(&state, Some(self.shared.around(&state, fleet)));
            let newest = slice.iter().filter_map(|record| {
                let newest = state.stream(&record.name)?;
                let is_same = newest.revision == record.revision;
                let matches = || {
                    run.request
                        .query
                        .matches(&streams.get(&record.name)?)
                        .then_some(())
                };
                (is_same || matches().is_some()).then(|| newest.clone())
            });
            matching.extend(newest);
            drop(turn);
        }
        matching
    }

    /// Waits for the outcome of a batch. A client that has an answer is sent a line now and then.
    async fn outcome_of_batch(
        &self,
        run: &BulkRun,
        progress: &BulkProgress,
        answer: &mut Option<BulkAnswer>,
    ) -> Result<Done, ApiError> {
        let mut received = pin!(run.replies.recv());
        loop {
            match rt::within(LINE_PAUSE, received.as_mut()).await {
                Some(BulkReply::Changed(outcome)) => return outcome,
                Some(_) => return Err(error::TIMED_OUT.error()),
                None => {
                    if let Some(answer) = answer {
                        answer.write(format!("{}\n", progress.line()).as_bytes());
                    }
                }
            }
        }
    }
}
