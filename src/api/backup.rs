//! Backups of the running server: all records of one state, sent as they are read.
//!
//! The state is the one of the request, so a backup has everything that was acknowledged before it
//! was requested. It holds that state, for a limited time, and few are sent at once.

use std::sync::Arc;

use weir_storage::ArchiveWriter;

use super::call::{Call, Outcome, PacedBody, PieceSource};
use super::running_backups::RunningBackup;
use crate::error::ApiError;
use crate::http::Response;
use crate::state::State;
use crate::writer::SnapshotRecords;

/// Bytes of a piece: some tenths of a millisecond.
const PIECE_BYTES: usize = 64 * 1024;
pub const CONTENT_TYPE: &str = "application/octet-stream";

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let running = RunningBackup::begin(&call.shared.workers.backups)?;
    let state: &Arc<State> = call.state;
    let mut head = Response::new(200).header(
        "Content-Disposition",
        format!("attachment; filename=\"weir-{}.backup\"", state.revision()),
    );
    head.content_type = CONTENT_TYPE;
    let limits = call.shared.settings.api.backup;
    Ok(Outcome::Body(Box::new(PacedBody {
        what: "backup",
        head,
        bytes_per_second: limits.bytes_per_second,
        time_max: limits.time_max,
        source: Box::new(BackupSource::new(state.clone(), running)),
    })))
}

/// Makes the file of a backup piece by piece.
struct BackupSource {
    records: SnapshotRecords,
    writer: Option<ArchiveWriter>,
    /// The header of the file, until it is sent.
    header: Vec<u8>,
    /// The record that is being sent, and how much of it was.
    record: Option<(Arc<[u8]>, usize)>,
    running: RunningBackup,
}

impl BackupSource {
    fn new(state: Arc<State>, running: RunningBackup) -> Self {
        let mut header = Vec::new();
        let (id, revision, stamp_ms) = (state.store_id(), state.revision(), state.stamp_ms());
        let writer = ArchiveWriter::begin(id, revision, stamp_ms, &mut header);
        Self {
            records: SnapshotRecords::new(state),
            writer: Some(writer),
            header,
            record: None,
            running,
        }
    }
}

impl PieceSource for BackupSource {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        out.append(&mut self.header);
        let Some(writer) = &mut self.writer else {
            return false;
        };
        while out.len() < PIECE_BYTES {
            if let Some((value, sent)) = &mut self.record {
                let rest = &value[*sent..];
                let part = &rest[..rest.len().min(PIECE_BYTES - out.len())];
                writer.value(part, out);
                *sent += part.len();
                if *sent == value.len() {
                    self.record = None;
                }
                continue;
            }
            let Some((table, key, value)) = self.records.next() else {
                self.writer.take().expect("it has not ended").end(out);
                return false;
            };
            writer.record(table, &key, value.len(), out);
            self.record = Some((value, 0));
        }
        true
    }

    fn on_sent(&self) {
        self.running.note_completed();
    }
}
