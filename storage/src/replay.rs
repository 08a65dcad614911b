//! Replay: the newest value of every key in a log, found on all processors.
//!
//! The log is read and checked in order by one thread. Others find the changes in it, each for its
//! share of the keys, so that all changes of a key are seen by the same one, in their order. A short
//! log is replayed by the caller alone.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use xxhash_rust::xxh3::xxh3_64;

use crate::entry::{Entry, changes};
use crate::overlay::Records;

/// Bytes of entries that are handed over together.
const PORTION_BYTES: usize = 1 << 20;
/// Portions that wait for a thread.
const WAITING_MAX: usize = 4;
/// Each thread reads all keys: more of them would wait for memory.
const THREADS_MAX: usize = 16;

/// Entries that are replayed together.
#[derive(Default)]
struct Portion {
    bytes: Vec<u8>,
    entries: Vec<PortionEntry>,
}

struct PortionEntry {
    lsn: u64,
    body: Range<usize>,
    operations: u32,
}

/// A replay under way.
pub(crate) struct Replay<'scope, 'env> {
    scope: &'scope thread::Scope<'scope, 'env>,
    portion: Portion,
    threads: Vec<ReplayThread<'scope>>,
}

struct ReplayThread<'scope> {
    portions: SyncSender<Arc<Portion>>,
    handle: ScopedJoinHandle<'scope, Result<Records, String>>,
}

impl<'scope> Replay<'scope, '_> {
    pub fn new<'env>(scope: &'scope thread::Scope<'scope, 'env>) -> Replay<'scope, 'env> {
        Replay {
            scope,
            portion: Portion::default(),
            threads: Vec::new(),
        }
    }

    /// The next entry.
    pub fn add(&mut self, entry: &Entry<'_>) {
        let start = self.portion.bytes.len();
        self.portion.bytes.extend_from_slice(entry.body());
        self.portion.entries.push(PortionEntry {
            lsn: entry.position.lsn,
            body: start..self.portion.bytes.len(),
            operations: entry.operations(),
        });
        if self.portion.bytes.len() >= PORTION_BYTES {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if self.threads.is_empty() {
            let count = thread::available_parallelism().map_or(1, usize::from);
            let count = count.min(THREADS_MAX);
            let scope = self.scope;
            let start = |share| {
                let (portions, arriving) = sync_channel(WAITING_MAX);
                let handle = scope.spawn(move || run(&arriving, share, count));
                ReplayThread { portions, handle }
            };
            self.threads = (0..count).map(start).collect();
        }
        let portion = Arc::new(std::mem::take(&mut self.portion));
        for thread in &self.threads {
            // One that has ended has found an error, which `finish` returns.
            let _ = thread.portions.send(portion.clone());
        }
    }

    /// The newest values. Fails on a change that cannot be read.
    pub fn finish(mut self) -> Result<Records, String> {
        if self.threads.is_empty() {
            let mut records = Records::new();
            self.portion.replay(0, 1, &mut records)?;
            return Ok(records);
        }
        self.hand_over();
        let mut all = Records::new();
        for ReplayThread { portions, handle } in self.threads {
            drop(portions);
            let found = handle
                .join()
                .map_err(|_| "the replay panicked".to_owned())??;
            for (table, records) in found {
                all.entry(table).or_default().extend(records);
            }
        }
        Ok(all)
    }
}

fn run(portions: &Receiver<Arc<Portion>>, share: usize, shares: usize) -> Result<Records, String> {
    let mut records = Records::new();
    for portion in portions {
        portion.replay(share, shares, &mut records)?;
    }
    Ok(records)
}

impl Portion {
    /// Adds the changes of one share of the keys.
    fn replay(&self, share: usize, shares: usize, records: &mut Records) -> Result<(), String> {
        for entry in &self.entries {
            for change in changes(&self.bytes[entry.body.clone()], entry.operations) {
                let lsn = entry.lsn;
                let change = change.ok_or_else(|| format!("entry {lsn} cannot be read"))?;
                if shares > 1 && xxh3_64(change.key) % shares as u64 != share as u64 {
                    continue;
                }
                if !records.contains_key(change.table) {
                    records.insert(change.table.into(), HashMap::new());
                }
                let of_table = records.get_mut(change.table).expect("it was added");
                let value = change.value.map(Arc::from);
                match of_table.get_mut(change.key) {
                    Some(known) => *known = value,
                    None => {
                        of_table.insert(change.key.into(), value);
                    }
                }
            }
        }
        Ok(())
    }
}
