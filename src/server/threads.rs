//! The threads of a server, each with a name.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tracing::{error, info, warn};

use super::now_ms;
use crate::api::counting;
use crate::api::sampling;
use crate::api::shared::Shared;
use crate::config::Settings;
use crate::connector::Connector;
use crate::core::Core;
use crate::core::message::CoreMessage;
use crate::exit::{Exit, Failure, cannot};
use crate::feed::Commit;
use crate::fleet::report::{Partition, StreamerStats};
use crate::followers::publications::ReportSettings;
use crate::followers::{old_states, publications};
use crate::http::{ConnectionOptions, Connections, serve};
use crate::layouter::intake::NodeStats;
use crate::layouter::thread::{self as layouter, LayouterContext, LayouterHandle, LayouterMessage};
use crate::limits::Limits;
use crate::outbound::Dialer;
use crate::rt::processors::ThreadPlan;
use crate::rt::{self, Inbox, uptime_ms};

/// Descriptors that are not connections: the store, rings, logs.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Of the other descriptors, the part for connections to streamers.
const STREAMERS_PART: usize = 4;

/// Starts a thread on which the whole server depends: a panic of it ends the process.
pub(super) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Failure> {
    let name = name.into();
    let guarded = move || {
        let _guard = EndsWithPanic;
        work()
    };
    let thread = thread::Builder::new().name(name.clone()).spawn(guarded);
    thread.map_err(cannot(format!("start the thread {name}")))
}

/// Ends the process with a thread that panics. Without the writer nothing changes any more, without
/// a core its requests hang, and either way the process would look alive. A panic of a handler is
/// caught before: it is a 500.
struct EndsWithPanic;

impl Drop for EndsWithPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let thread = thread::current();
            error!(
                thread = thread.name(),
                "a vital thread panicked; the process ends"
            );
            std::process::exit(Exit::Runtime as i32);
        }
    }
}

/// Starts the threads that follow commits, and those that count and sample the cluster.
pub(super) fn start_followers(
    shared: &Arc<Shared>,
    [commits, old, deletions]: [Receiver<Arc<Commit>>; 3],
    seen_until_ms: u64,
) -> Result<(), Failure> {
    spawn("old-states", move || old_states::run(&old))?;
    start_counts(shared)?;
    start_sampling(shared, deletions)?;
    let shared = shared.clone();
    spawn("publications", move || {
        // Loaded after the follower is registered: no commit is missed.
        let state = shared.published.state().load_full();
        let are_queried = || shared.settings.running.config().settings.fleet.queries;
        let reports = ReportSettings {
            fleet: &shared.fleet,
            are_queried: &are_queried,
            seen_until_ms,
        };
        publications::run(state, &commits, reports, &shared.commands, now_ms);
    })
    .map(drop)
}

/// Starts the thread that counts the cluster while callers want its counts.
fn start_counts(shared: &Arc<Shared>) -> Result<(), Failure> {
    let shared = shared.clone();
    spawn("cluster-counts", move || {
        rt::sys::lower_priority(rt::sys::NICENESS_OF_WORKERS);
        counting::run(&shared);
    })
    .map(drop)
}

/// Starts the thread that samples the numbers of the past.
fn start_sampling(shared: &Arc<Shared>, commits: Receiver<Arc<Commit>>) -> Result<(), Failure> {
    let shared = shared.clone();
    spawn("sampling", move || {
        rt::sys::lower_priority(rt::sys::NICENESS_OF_WORKERS);
        sampling::run(&shared, &commits);
    })
    .map(drop)
}

/// The layouter's thread and the way to end it.
pub(super) struct LayouterThread {
    thread: JoinHandle<()>,
    handle: LayouterHandle,
    stop: Arc<AtomicBool>,
}

impl LayouterThread {
    /// Ends the thread. Moves that are planned and not yet written are planned again at the next
    /// start.
    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Release);
        self.handle.send(LayouterMessage::Wake);
        if self.thread.join().is_err() {
            warn!("layouter panicked while stopping");
        }
    }
}

pub(super) fn start_layouter(
    settings: &Settings,
    shared: &Arc<Shared>,
    commits: Receiver<Arc<Commit>>,
    messages: Receiver<LayouterMessage>,
    processor: Option<usize>,
) -> Result<LayouterThread, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (stats, bitrates, running) = (shared.clone(), shared.clone(), shared.clone());
    let listed = shared.clone();
    let context = LayouterContext {
        commits,
        messages,
        reports: shared.fleet.follow(),
        stats_of: Box::new(move |hostname| {
            let stats = stats.fleet.streamer(hostname, Instant::now())?;
            Some(node_stats(&stats))
        }),
        bitrate_of: Box::new(move |stream, hostname| {
            bitrates
                .fleet
                .bitrate_kbit(stream, hostname, Instant::now())
        }),
        runs_on: Box::new(move |stream, hostname, since_ms| {
            let age = Duration::from_millis(uptime_ms().saturating_sub(since_ms));
            running.fleet.runs_on(stream, hostname, age, Instant::now())
        }),
        listed_on: Box::new(move |hostname| listed.fleet.listed(hostname, Instant::now())),
        commands: shared.commands.clone(),
        published: shared.published.clone(),
        nodes: shared.nodes.clone(),
        metrics: shared.layouter.metrics.clone(),
        processor,
        stop: stop.clone(),
    };
    let thread = layouter::start((&settings.layouter).into(), context)
        .map_err(cannot("start the layouter"))?;
    Ok(LayouterThread {
        thread,
        handle: shared.layouter.handle.clone(),
        stop,
    })
}

/// The part of a report that the layouter uses.
fn node_stats(stats: &StreamerStats) -> NodeStats {
    let saturated = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    NodeStats {
        cpu_permille: stats
            .usage
            .cpu_percent
            .map(|percent| saturated(percent.min(100)) * 10),
        streams: stats.online_streams.or(stats.streams).map(saturated),
        transcoder: stats.transcoder,
        disk_bytes: disk_bytes(&stats.partitions),
    }
}

/// Total size of all disks. A disk that is mounted twice counts once.
fn disk_bytes(partitions: &[Partition]) -> Option<u64> {
    let mut devices: Vec<&str> = Vec::new();
    let mut sum: Option<u64> = None;
    for partition in partitions {
        let Some(megabytes) = partition.total_mb else {
            continue;
        };
        if devices.contains(&&*partition.device) {
            continue;
        }
        if !partition.device.is_empty() {
            devices.push(&partition.device);
        }
        let bytes = megabytes.saturating_mul(1 << 20);
        sum = Some(sum.unwrap_or(0).saturating_add(bytes));
    }
    sum
}

/// Keeps this thread, and all threads that it starts without a processor of their own, off the
/// layouter's processor.
pub(super) fn reserve_processor(plan: &ThreadPlan) {
    let Some(layouter) = plan.layouter else {
        info!(io_threads = plan.io.len(), "threads are not pinned");
        return;
    };
    let io: Vec<usize> = plan.io.iter().flatten().copied().collect();
    info!(layouter, ?io, others = ?plan.others, "threads pinned to processors");
    if let Err(error) = rt::sys::pin_thread(&plan.others) {
        warn!(%error, "threads not kept off the layouter's processor");
    }
}

/// The io cores: the addresses they listen on, and the indexes of those that are drained.
pub(super) struct Cores {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) drained: mpsc::Receiver<usize>,
}

/// Starts the io cores, each on its processor if it has one.
pub(super) fn start_cores(
    settings: &Settings,
    shared: &Arc<Shared>,
    dialer: &Arc<Dialer>,
    processors: &[Option<usize>],
) -> Result<Cores, Failure> {
    let descriptors = rt::sys::raise_descriptor_limit().saturating_sub(DESCRIPTORS_RESERVED);
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let to_streamers = descriptors / STREAMERS_PART;
    // Reserved while nothing is queried, too: the setting takes effect at once.
    let possible = (descriptors - to_streamers).max(1);
    let connections_max = settings.http.connections_max.min(possible);
    let poll_wait_ms_max =
        u32::try_from(settings.http.poll_wait_max.as_millis()).unwrap_or(u32::MAX);
    let limits = Limits {
        connections_max: connections_max.div_ceil(shared.cores.len()),
        idle_ms: settings.http.connection_idle_timeout.as_millis() as u32,
        drain_delay_ms: settings.http.drain_delay.as_millis() as u32,
        buffers_bytes_max: settings.http.connection_buffers,
        wait_ms_max: Limits::DEFAULT.wait_ms_max.max(poll_wait_ms_max),
        ..Limits::DEFAULT
    };
    let options = ConnectionOptions {
        limits,
        cors: settings.http.cors.clone(),
        trusted_proxies: settings.http.trusted_proxies.clone(),
    };
    let (drained_sender, drained) = mpsc::channel();
    // The first core replaces port 0 by a free port; the others listen on the same.
    let mut addresses = settings.http.listen.clone();
    for (index, inbox) in shared.cores.iter().enumerate() {
        let (ready_sender, ready) = mpsc::channel();
        let core = CoreThread {
            index,
            shared: shared.clone(),
            dialer: dialer.clone(),
            to_streamers: to_streamers / shared.cores.len(),
            inbox: inbox.clone(),
            addresses,
            options: options.clone(),
            ready: ready_sender,
            drained: drained_sender.clone(),
        };
        let runtime = rt::Options {
            processor: processors[index],
            ..rt::Options::default()
        };
        spawn(format!("io-{index}"), move || {
            let ready = core.ready.clone();
            if let Err(error) = rt::run(&runtime, core.run()) {
                // After the start the receiver is gone.
                let _ = ready.send(Err(error));
            }
        })?;
        addresses = ready
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
            .map_err(cannot(format!("start io core {index}")))?;
    }
    Ok(Cores { addresses, drained })
}

/// The arguments of the thread of an io core.
struct CoreThread {
    index: usize,
    shared: Arc<Shared>,
    dialer: Arc<Dialer>,
    /// Most connections to streamers.
    to_streamers: usize,
    inbox: Arc<Inbox<CoreMessage>>,
    addresses: Vec<SocketAddr>,
    options: ConnectionOptions,
    /// Receives the addresses that the core listens on.
    ready: mpsc::Sender<io::Result<Vec<SocketAddr>>>,
    /// Receives the index of the core when it is drained.
    drained: mpsc::Sender<usize>,
}

impl CoreThread {
    /// One io core, from its first listener to the end of the process.
    async fn run(self) {
        let connections = Connections::new(self.options);
        let shared = self.shared.clone();
        let connector = Connector::new(self.index, shared, self.dialer, self.to_streamers);
        let core: Rc<Core> = Core::new(self.index, self.shared, connections.clone());
        let listeners: io::Result<Vec<_>> = self
            .addresses
            .iter()
            .map(|address| rt::listen(*address))
            .collect();
        let listeners = match listeners {
            Ok(listeners) => listeners,
            Err(error) => {
                let _ = self.ready.send(Err(error));
                return;
            }
        };
        let bound = listeners.iter().map(rt::Listener::local_addr).collect();
        for listener in listeners {
            rt::spawn(serve(listener, core.clone(), connections.clone()));
        }
        rt::spawn(core.dispatch(self.inbox));
        rt::spawn(connector.run());
        if self.ready.send(Ok(bound)).is_err() {
            return;
        }
        connections.drained().await;
        let _ = self.drained.send(self.index);
        // The process ends this thread: a runtime must not be dropped while the kernel works for
        // it.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::report::StreamerReport;
    use crate::fleet::stats::FleetStats;
    use crate::json;
    use crate::state::name::Hostname;

    fn reported(stats: &str) -> NodeStats {
        let now = Instant::now();
        let fleet = FleetStats::new(Duration::from_mins(1), now);
        let body = json::parse(format!(r#"{{"stats":{stats}}}"#).as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(body, now).expect("a report");
        fleet.report(&Hostname::trusted("s1"), report, now, || true);
        node_stats(&fleet.streamer("s1", now).expect("it reported"))
    }

    #[test]
    fn node_stats_sum_each_disk_once() {
        let stats = reported(concat!(
            r#"{"cpu_usage":42,"online_streams":3,"total_streams":9,"transcoder":false,"#,
            r#""partitions":[{"device":"sda1","total_mb":100},{"device":"sda1","total_mb":100},"#,
            r#"{"device":"sdb1","total_mb":50},{"device":"sdc"}]}"#,
        ));
        let expected = NodeStats {
            cpu_permille: Some(420),
            streams: Some(3),
            transcoder: Some(false),
            disk_bytes: Some(150 << 20),
        };
        assert_eq!(stats, expected);
        let nothing = reported(r#"{"partitions":null}"#);
        assert_eq!(nothing, NodeStats::default());
    }
}
