//! `weir bridge`: makes a media server of another make a streamer of the cluster.
//!
//! The bridge runs beside the media server, without store, ring and layouter. It polls the list of
//! its streamer as every streamer does, makes the media server follow it through that server's own
//! API, and reports what the server's counters show.
//!
//! ```text
//!   poll       joins, polls and checks lists (central, desired)       -> shared
//!   worker     plans (plan), calls the server (kinds), measures it    -> shared, file (kept)
//!              (report)
//!   watcher    looks whether the server lives (liveness)              -> shared
//!   reports    sends the newest report
//!   prober     connects to sources
//!   front      redirects players, answers the hook of the server
//! ```
//!
//! When in doubt, streams go on as they are: an answer that is not whole changes nothing, streams
//! that vanish from a list are looked up before they are removed, and the end of the bridge, or of
//! Weir, stops nothing. The death of the media server is reported by silence.

mod caller;
mod central;
mod desired;
mod front;
mod inputs;
pub mod join;
mod kept;
mod kind;
mod kinds;
mod liveness;
pub mod options;
mod plan;
mod poll;
mod prober;
mod report;
mod shared;
mod single;
#[cfg(test)]
mod tests;
mod usage;
mod watcher;
mod worker;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use crate::authorities;
use crate::dist::{ServiceState, notify};
use crate::exit::{Exit, Failure, cannot};

use central::Central;
use front::{FRONT_THREADS, Front};
use kept::{FoundFile, Kept, KeptFile, KeptRef};
use kinds::connect;
use options::{BridgeAction, BridgeOptions, BridgeTask};
use plan::Planner;
use poll::{Credentials, Poller, send_reports};
use shared::BridgeShared;
use watcher::{LifeBook, Watcher};
use worker::{Identity, Worker};

/// Stack of a thread of the bridge. Most of the memory of a bridge would be stacks otherwise.
const STACK_BYTES: usize = 512 << 10;

/// Executes `weir bridge`.
pub fn run(task: BridgeTask) -> Result<Exit, Failure> {
    match task.action {
        BridgeAction::Run => serve(task.servers),
        BridgeAction::Once => single::each(task.servers, single::follow_once),
        BridgeAction::DryRun => single::each(task.servers, single::dry_run),
        BridgeAction::Check => single::each(task.servers, single::check),
    }
}

/// Runs the bridges until a signal.
fn serve(servers: Vec<BridgeOptions>) -> Result<Exit, Failure> {
    // A bridge has little to do and shares its machine: a page of 2 MiB for a few bytes costs more
    // than it saves. Without this it takes a quarter more memory.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(cannot("handle signals"))?;
    let bridges = servers.into_iter().map(start);
    let bridges: Vec<RunningBridge> = bridges.collect::<Result<_, _>>()?;
    if let Err(error) = notify(ServiceState::Ready) {
        warn!(%error, "cannot notify the service manager");
    }
    signals.forever().next();
    // The service manager may be gone.
    let _ = notify(ServiceState::Stopping);
    for bridge in &bridges {
        bridge.shared.stop();
        bridge.central.cut();
    }
    for bridge in bridges {
        // A thread that panicked has logged why.
        let _ = bridge.worker.join();
    }
    Ok(Exit::Done)
}

struct RunningBridge {
    shared: Arc<BridgeShared>,
    central: Arc<Central>,
    /// It writes the file at its end. The other threads end with the process.
    worker: JoinHandle<()>,
    /// Locked as long as the bridge runs.
    _lock: File,
}

/// What a bridge needs before its threads start.
struct Prepared {
    kept: Kept,
    key: String,
    file: KeptFile,
    lock: File,
}

/// Locks and reads the file; makes the key of a bridge that joins.
fn prepare(options: &BridgeOptions) -> Result<Prepared, Failure> {
    if options.central.starts_with("https:") || options.server.api.starts_with("https:") {
        authorities::check().map_err(|what| Failure::new(Exit::Config, what))?;
    }
    let file = KeptFile::new(&options.state_dir, &options.hostname);
    let failed = |error: io::Error| {
        let text = format!("{}: {error}", file.path().display());
        Failure::new(Exit::Storage, text)
    };
    std::fs::create_dir_all(&options.state_dir).map_err(failed)?;
    let lock = File::create(file.path().with_extension("lock")).map_err(failed)?;
    if lock.try_lock().is_err() {
        let text = format!("{}: another bridge uses it", file.path().display());
        return Err(Failure::new(Exit::Locked, text));
    }
    let mut kept = match file.read() {
        FoundFile::Nothing => Kept::default(),
        FoundFile::Kept(kept) => kept,
        FoundFile::Unreadable(why) => {
            let path = file.path().display().to_string();
            warn!(path, "the state of the bridge is unreadable: {why}");
            Kept::default()
        }
    };
    let key = match (&options.keys.cluster_key, &kept.key) {
        (Some(key), _) => key.expose().to_owned(),
        (None, Some(key)) => key.clone(),
        (None, None) => make_key().map_err(failed)?,
    };
    if options.keys.cluster_key.is_none() && kept.key.as_ref() != Some(&key) {
        // Before it is sent: a key that Weir knows must not be lost.
        kept.key = Some(key.clone());
        kept.has_joined = false;
        let written = KeptRef {
            key: kept.key.as_deref(),
            has_joined: false,
            wanted: kept.wanted.as_ref(),
            owned: &kept.owned,
        };
        file.write(&written).map_err(failed)?;
    }
    Ok(Prepared {
        kept,
        key,
        file,
        lock,
    })
}

/// 32 random bytes in hexadecimal digits.
fn make_key() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn start(options: BridgeOptions) -> Result<RunningBridge, Failure> {
    let Prepared {
        kept,
        key,
        file,
        lock,
    } = prepare(&options)?;
    info!(
        hostname = &*options.hostname,
        streams = kept.wanted.as_ref().map(BTreeMap::len),
        owned = kept.owned.len(),
        "bridge starts"
    );
    let wanted = kept.wanted.map(Arc::new);
    let shared = Arc::new(BridgeShared::new(wanted, kept.has_joined));
    let central = Arc::new(Central::new(&options.central, &options.hostname));
    let mut handle = connect(&options.server);
    let rules = handle.rules.clone();
    let book = Arc::new(LifeBook {
        shared: shared.clone(),
        central: central.clone(),
        hostname: options.hostname.clone(),
    });
    let watcher = Watcher {
        book: book.clone(),
        media: handle.media.clone(),
        api: handle.api_look.take(),
    };
    start_front(&options, &shared, &central, &rules, &key)?;
    let planner = Planner::new(options.plan, rules, kept.owned, Instant::now());
    let joins = options.keys.join_token.is_some();
    let identity = Identity {
        hostname: options.hostname.clone(),
        made_key: joins.then(|| key.clone()),
        has_joined: kept.has_joined,
        hook_port: options.front.listen.map(|address| address.port()),
    };
    let worker = Worker::new(handle, book, file, identity, planner);
    let credentials = Credentials {
        key: key.clone(),
        join_token: options
            .keys
            .join_token
            .map(|token| token.expose().to_owned()),
        fields: options.fields,
        rejoin: options.keys.rejoin,
    };
    let hostname = options.hostname;
    let poller = Poller::new(
        shared.clone(),
        central.clone(),
        hostname.clone(),
        credentials,
    );
    let (reported, probed) = (shared.clone(), shared.clone());
    let weir = central.clone();
    let worker = spawn("worker", move || worker.run())?;
    spawn("watcher", move || watcher.run())?;
    spawn("poll", move || poller.run())?;
    spawn("reports", move || {
        send_reports(&reported, &weir, &hostname, &key);
    })?;
    spawn("prober", move || prober::run(&probed))?;
    Ok(RunningBridge {
        shared,
        central,
        worker,
        _lock: lock,
    })
}

/// Starts the threads that answer players and the hook, if an address is given.
fn start_front(
    options: &BridgeOptions,
    shared: &Arc<BridgeShared>,
    central: &Arc<Central>,
    rules: &Arc<dyn kind::ServerRules>,
    key: &str,
) -> Result<(), Failure> {
    let Some(address) = options.front.listen else {
        return Ok(());
    };
    let listener = front::bind(address).map_err(cannot(format!("listen on {address}")))?;
    let front = Arc::new((
        Front {
            shared: shared.clone(),
            central: central.clone(),
            rules: rules.clone(),
            key: key.to_owned(),
            hostname: options.hostname.clone(),
            allows_by_default: options.front.allows_by_default,
            verdicts: Mutex::default(),
            names: Mutex::default(),
        },
        listener,
    ));
    for _ in 0..FRONT_THREADS {
        let front = front.clone();
        // They end with the process.
        spawn("front", move || front.0.run(&front.1))?;
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(cannot("start a thread"))
}
