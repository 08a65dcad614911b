//! Applier: puts what is durable in the log into the tables, behind the commits.
//!
//! One pass after the other: a pass takes the newest value of every key that changed, and puts them
//! in the order of keys, some thousand per transaction. The tables may have records that are newer
//! than the position up to which they are complete, never newer than the row about the log says;
//! records are whole, so replaying the log over them gives the same.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::disk::Disk;
use crate::entry::{Change, Position};
use crate::log::Tables as _;
use crate::overlay::Overlay;
use crate::pace::Pace;
use crate::planted::{Planted, is};
use crate::store::{FILE, Shortage};
use crate::tables::{Opening, RedbTables};
use crate::{Options, StoreError};

/// Pause between passes while little changes, and between attempts on a full disk.
const PAUSE: Duration = Duration::from_secs(1);

/// Niceness of the thread: a tenth of the processor time of another one that wants all of it. While
/// the log is nearly full commits wait, and it has all the time.
const NICENESS: i32 = 10;

/// What commits, scans and the applier share.
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub options: Options,
    /// `None` after a failure, until the store is opened again.
    pub tables: RwLock<Option<RedbTables>>,
    pub overlay: Mutex<Overlay>,
    pub progress: Mutex<Progress>,
    pub changed: Condvar,
    /// How fast the applier writes.
    pub pace: Arc<Pace>,
    /// The last batch of which the tables have everything, for metrics.
    pub applied_lsn: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The tables are complete up to here.
    pub complete: Position,
    /// Why the applier has ended.
    pub failure: Option<StoreError>,
    /// `Some` while the disk is full: the reserve was given up and cannot be kept yet.
    pub shortage: Option<Shortage>,
    /// The last pass found the disk full.
    pub is_blocked: bool,
    /// A pass is to begin now.
    pub is_wanted: bool,
    pub is_stopping: bool,
}

impl Shared {
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn overlay(&self) -> MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put_tables(&self, new: Option<RedbTables>) {
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    pub fn take_tables(&self) -> Option<RedbTables> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.take()
    }

    /// Has the applier begin a pass now.
    pub fn want_pass(&self) {
        let mut progress = self.progress();
        if !progress.is_wanted {
            progress.is_wanted = true;
            self.changed.notify_all();
        }
    }

    /// Puts everything that is ahead of the tables into them.
    pub fn apply(&self) -> Result<(), StoreError> {
        let pass = {
            let mut overlay = self.overlay();
            if overlay.is_empty() {
                return Ok(());
            }
            overlay.begin_pass()
        };
        let changes = pass.changes();
        let mut chunks: Vec<&[Change<'_>]> = changes.chunks(self.options.pass_records).collect();
        let last = chunks.pop().unwrap_or_default();
        let put = || -> Result<bool, StoreError> {
            for chunk in chunks {
                if self.progress().is_stopping {
                    return Ok(false);
                }
                let too_early = is(Planted::CompleteTooEarly).then_some(pass.upto);
                self.put(chunk, pass.upto.lsn, too_early)?;
            }
            self.put(last, pass.upto.lsn, Some(pass.upto))?;
            Ok(true)
        };
        let is_done = put();
        if !matches!(is_done, Ok(true)) {
            self.overlay().undo_pass();
            return is_done.map(drop);
        }
        // First the tables, then the overlay: a scan in between sees the records twice, not never.
        self.overlay().end_pass();
        self.set_complete(pass.upto);
        Ok(())
    }

    /// Puts records into the tables, see [`Tables::put`].
    pub fn put(
        &self,
        changes: &[Change<'_>],
        newest_lsn: u64,
        complete: Option<Position>,
    ) -> Result<u64, StoreError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = tables.as_mut() else {
            return Err(StoreError::Failed {
                path: self.disk.path().join(FILE),
            });
        };
        match open.put(changes, newest_lsn, complete) {
            Ok(freed) => {
                if let Some(shortage) = &mut self.progress().shortage {
                    shortage.apply(freed, changes);
                }
                Ok(freed)
            }
            Err(error) => {
                // What is in the file is unknown until it is opened again.
                *tables = None;
                Err(error)
            }
        }
    }

    /// Everything up to here is in the tables.
    pub fn set_complete(&self, upto: Position) {
        self.progress().complete = upto;
        self.changed.notify_all();
        self.applied_lsn.store(upto.lsn, Ordering::Relaxed);
    }

    /// After a pass found the disk full: opens the tables again, with the space of the reserve.
    fn make_room(&self) -> Result<(), StoreError> {
        self.give_up_reserve();
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        *tables = None;
        let path = self.disk.path().join(FILE);
        let file = self.disk.open(FILE);
        let file = file.map_err(|error| StoreError::io(&path, "open", error))?;
        let opening = Opening {
            cache_bytes: self.options.cache_bytes,
            check_bytes_max: self.options.check_bytes_max,
            check: false,
            pace: self.pace.clone(),
        };
        *tables = Some(RedbTables::open(&path, file, &opening)?.0);
        Ok(())
    }

    pub fn give_up_reserve(&self) {
        let directory = self.disk.path().display();
        tracing::warn!(%directory, "no space left: giving up the reserve, only deleting works");
        self.progress().shortage = Some(Shortage::default());
        if let Err(error) = self.disk.remove(crate::store::RESERVE) {
            tracing::warn!(%directory, %error, "cannot remove the space reserve");
        }
    }

    fn run(&self) {
        while !self.progress().is_stopping {
            let mut is_blocked = false;
            let pass = catch_unwind(AssertUnwindSafe(|| match self.apply() {
                Err(StoreError::Full { .. }) => {
                    is_blocked = true;
                    self.make_room()
                }
                other => other,
            }));
            let result = pass.unwrap_or_else(|_| {
                let path = self.disk.path().join(FILE);
                Err(StoreError::file(&path, "the applier panicked"))
            });
            let mut progress = self.progress();
            progress.is_blocked = is_blocked;
            if is_blocked {
                self.changed.notify_all();
            }
            if let Err(error) = result {
                let directory = self.disk.path().display();
                tracing::error!(%directory, %error, "the log cannot be put into the tables");
                progress.failure = Some(error);
                self.changed.notify_all();
            }
            if progress.failure.is_some() {
                return;
            }
            let waits = |progress: &mut Progress| !progress.is_wanted && !progress.is_stopping;
            let waited = self.changed.wait_timeout_while(progress, PAUSE, waits);
            let (mut progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
            progress.is_wanted = false;
        }
    }
}

/// The thread. It ends when it is dropped.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        shared.pace.limit(0);
        let its = shared.clone();
        let thread = thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || {
                // It shares processors with those who wait for commits.
                let _ = rustix::process::nice(NICENESS);
                its.run();
            })?;
        let thread = Some(thread);
        Ok(Self { shared, thread })
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.shared.pace.release();
        self.shared.progress().is_stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic was logged by the hook, and the tables are opened again.
            let _ = thread.join();
        }
        self.shared.progress().is_stopping = false;
    }
}
