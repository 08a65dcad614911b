//! The life of a server: open the store, load the state, start the threads, wait, drain, close.
//!
//! Threads: one per io core (sockets, requests, waiting polls), the writer (the only one that changes anything), and this one, which waits
//! for signals. Nothing listens before the state is complete, because an answer from half a state would stop streams.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};
use weir_storage::{Log, Opened, Options as StoreOptions, Store, StoreError};

use crate::access::geo::Countries;
use crate::access::sessions::Sessions;
use crate::agents::messages::Agents;
use crate::api::auth::Auth;
use crate::api::layout::desk::Desk;
use crate::api::watch::Watches;
use crate::api::{self, ApiSettings, Core, Shared, uuid};
use crate::config::journal::Journal;
use crate::config::running::Running;
use crate::config::{self, Config, Cors, LogLevel, Restreaming as RestreamingSetting, Settings};
use crate::dist::{self, Notice};
use crate::exit::{Exit, Failure};
use crate::feed::Commit;
use crate::feed::rendered::RenderedCache;
use crate::fleet::stats::FleetStats;
use crate::followers::publications;
use crate::http::{Connections, Cors as CorsPolicy, Options as HttpOptions, serve};
use crate::layouter::intake::NodeStats;
use crate::layouter::thread::{
    self as layouter_thread, LayouterContext, LayouterHandle, LayouterMessage,
};
use crate::limits::Limits;
use crate::outbound::{EgressPolicy, Outbound};
use crate::rt::{self, Inbox};
use crate::state::command::Command;
use crate::state::event::{EventLimits, NewEvent};
use crate::state::node::{RenderSettings, Restreaming};
use crate::state::retention::Retention;
use crate::writer::insert_buffer::BufferSettings;
use crate::writer::{CoreMessage, Envelope, Published, StateMachine, Writer, load, tables};

/// Descriptors kept for everything that is not a connection: the store, rings, logs.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Ends the process with a thread that panics: without the writer nothing can be changed any more, without a core its requests hang, and
/// either would go on looking alive. A panic of a handler does not get here; it is a 500.
struct EndsWithPanic(&'static str);

impl Drop for EndsWithPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            error!(
                thread = self.0,
                "a thread that everything depends on panicked; the process ends"
            );
            std::process::exit(Exit::Runtime as i32);
        }
    }
}

/// Runs until a signal. Returns how the program ends. `set_log_level` is called when the level changes.
pub fn run(
    config: &Config,
    set_log_level: impl Fn(LogLevel) + Send + Sync + 'static,
) -> Result<Exit, Failure> {
    let settings = &config.settings;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    for address in settings
        .http
        .listen
        .iter()
        .filter(|address| address.port() != 0)
    {
        rt::is_free(*address).map_err(|error| {
            Failure::new(
                Exit::Runtime,
                format!("cannot listen on {address}: {error}"),
            )
        })?;
    }
    survive_file_size_limit().map_err(|error| {
        Failure::new(Exit::Runtime, format!("signals cannot be handled: {error}"))
    })?;
    let started = Instant::now();
    let is_new = !settings
        .store
        .data_dir
        .join(weir_storage::FILE_NAME)
        .exists();
    let (store, opened) = open(settings)?;
    let key = config::api_key(settings).map_err(|error| {
        Failure::new(
            Exit::Storage,
            format!("the API key cannot be kept: {error}"),
        )
    })?;
    let render_settings = render_settings(settings);
    let state = load(&store, &opened, render_settings).map_err(storage_failure)?;
    info!(
        streams = state.streams_count(),
        streamers = state.streamers().len(),
        revision = state.revision(),
        clean = opened.clean,
        ms = started.elapsed().as_millis() as u64,
        "state loaded"
    );

    let io_threads = settings
        .http
        .io_threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let inboxes: Vec<Arc<Inbox<CoreMessage>>> =
        (0..io_threads).map(|_| Arc::new(Inbox::new())).collect();
    let published = Arc::new(Published::new(state.clone()));
    let event_limits = EventLimits {
        age_ms_max: settings.store.events_age_max.as_millis() as u64,
        bytes_max: settings.store.events_bytes_max,
    };
    let episodes = settings.episodes;
    let episodes_buffer = Arc::new(BufferSettings::new(
        episodes.buffer_delay,
        episodes.buffer_limit,
    ));
    let retention = Retention {
        episodes_ms: episodes.kept.as_millis() as u64,
        ..Retention::default()
    };
    let (writer, commands, stop) = Writer::new(
        StateMachine::new(state, store).with_events(event_limits, &rt::sys::hostname()),
        published.clone(),
        inboxes.clone(),
    );
    let mut writer = writer
        .with_episodes_buffer(episodes_buffer.clone())
        .with_expiry(retention);
    let publications_commits = writer.follow();
    let (inputs, layouter_inputs) = layouter_thread::channel();
    let countries = match &settings.viewers.geoip_database {
        None => Countries::default(),
        Some(file) => Countries::open(file).map_err(|error| {
            let message = format!("geoip_database: {} is no database: {error}", file.display());
            Failure::new(Exit::Config, message)
        })?,
    };
    let egress_policy = Arc::new(EgressPolicy::new(
        settings.outbound.loopback,
        settings.outbound.denied.clone(),
    ));
    let outbound =
        Outbound::start(settings.outbound.threads, egress_policy.clone()).map_err(|error| {
            Failure::new(
                Exit::Runtime,
                format!("threads for calls cannot be started: {error}"),
            )
        })?;
    let agents = Agents::new()
        .map_err(|error| Failure::new(Exit::Runtime, format!("there is no randomness: {error}")))?;
    let desk = Desk::start(inputs.clone(), inboxes.clone()).map_err(|error| {
        Failure::new(
            Exit::Runtime,
            format!("a thread for questions about layouts cannot be started: {error}"),
        )
    })?;
    let shared = Arc::new(Shared {
        published,
        commands,
        auth: Auth::new(key.key.expose(), login(settings)),
        rendered: Arc::new(RenderedCache::new(settings.feed.cache_bytes)),
        walks: crate::api::config_external::Walks::default(),
        fleet: FleetStats::new(
            Duration::from_millis(settings.layouter.dead_timeout_ms),
            started,
        ),
        layouter: inputs,
        layouter_metrics: Arc::default(),
        desk,
        settings: ApiSettings {
            poll_wait_max: settings.http.poll_wait_max,
            streams_limit: settings.feed.streams_limit,
            auth_backend_timeout: settings.viewers.auth_backend_timeout,
            agent_command_wait: settings.agents.command_timeout,
            agent_silence_max: settings.agents.silence_max,
        },
        running: Running::new(config.clone(), key.key.clone()),
        settings_journal: Journal::new(&settings.store.data_dir),
        data_dir: std::path::absolute(&settings.store.data_dir)
            .unwrap_or_else(|_| settings.store.data_dir.clone()),
        server_id: server_id(opened.store_id),
        run_id: run_id(),
        started_at_seconds: now_ms() / 1000,
        draining: AtomicBool::new(false),
        outbound,
        sessions: Sessions::new(settings.viewers.sessions_bytes),
        countries,
        agents,
        watches: Watches::new(inboxes.len()),
        cores: inboxes.clone(),
        hostname: rt::sys::hostname().into(),
    });

    let (weak, buffer) = (Arc::downgrade(&shared), episodes_buffer.clone());
    shared.running.on_change(move |settings| {
        set_log_level(settings.log.level);
        if let Some(shared) = weak.upgrade() {
            let key = shared.running.api_key();
            shared.auth.rotate(key.expose(), login(settings));
            let dead_after = Duration::from_millis(settings.layouter.dead_timeout_ms);
            shared.fleet.set_dead_after(dead_after);
            buffer.set(
                settings.episodes.buffer_delay,
                settings.episodes.buffer_limit,
            );
            let layouter = Box::new(settings.layouter.clone());
            if !shared.layouter.send(LayouterMessage::Settings(layouter)) {
                warn!("layouter queue full; new settings not applied");
            }
        }
    });

    let commits = writer.follow();
    let publications = shared.clone();
    thread::Builder::new()
        .name("publications".into())
        .spawn(move || {
            let _guard = EndsWithPanic("publications");
            let Shared {
                published,
                fleet,
                commands,
                ..
            } = &*publications;
            // Loaded after it follows: what is committed in between comes as a commit, too.
            let state = published.state().load_full();
            publications::run(state, &publications_commits, fleet, commands, now_ms);
        })
        .map_err(|error| {
            Failure::new(
                Exit::Runtime,
                format!("a thread that watches publications cannot be started: {error}"),
            )
        })?;
    let writer = thread::Builder::new()
        .name("writer".into())
        .spawn(move || {
            let _guard = EndsWithPanic("writer");
            // A commit that waits for its processor is waited for by everybody.
            rt::sys::raise_priority();
            // Without it no change would ever be answered again: better to end and be started anew on what is on disk.
            catch_unwind(AssertUnwindSafe(|| writer.run(now_ms))).unwrap_or_else(|_| {
                error!("the writer panicked; the process ends");
                std::process::exit(Exit::Runtime as i32)
            })
        })
        .map_err(|error| {
            Failure::new(
                Exit::Runtime,
                format!("the writer cannot be started: {error}"),
            )
        })?;

    let layouter = start_layouter(settings, &shared, commits, layouter_inputs)?;

    // Nobody changes settings before it is known what became of the last change.
    let turn = shared.settings_journal.turn();
    let addresses = start_cores(settings, &shared, &inboxes)?;
    egress_policy.set_own_listeners(addresses.bound.clone());
    let note = Command::AppendEvents {
        events: start_events(&opened, is_new),
    };
    let noted = shared.commands.send(Envelope::unanswered(note));
    if let Err(error) = noted {
        warn!(title = %error.items[0].title, "the start is not in the event log");
    }
    let state = shared.published.state().load_full();
    let unlogged = turn.unlogged_at_start(&state, &config.sources.file);
    api::log_settings(&shared, &turn, unlogged);
    drop(turn);
    greet(settings, &addresses.bound, &key);
    if let Err(error) = dist::notify(Notice::Ready) {
        warn!(%error, "the service manager could not be told that the server is ready");
    }

    wait_for_signal().map_err(|error| {
        Failure::new(
            Exit::Runtime,
            format!("signals cannot be waited for: {error}"),
        )
    })?;
    if let Err(error) = dist::notify(Notice::Stopping) {
        warn!(%error, "the service manager could not be told that the server is stopping");
    }
    info!("stopping: polls are answered, what runs is finished");
    layouter.end();
    shared.draining.store(true, Ordering::Release);
    episodes_buffer.end();
    for inbox in &inboxes {
        inbox.push(CoreMessage::Drain);
    }
    let until = Instant::now() + settings.http.drain_timeout;
    for _ in 0..io_threads {
        if addresses
            .drained
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .is_err()
        {
            warn!("some connections did not finish in time and are cut");
            break;
        }
    }
    stop.store(true, Ordering::Release);
    let machine = writer
        .join()
        .map_err(|_| Failure::new(Exit::Runtime, "the writer panicked"))?;
    machine.into_log().close().map_err(storage_failure)?;
    info!("stopped");
    Ok(Exit::Done)
}

/// `weir backup`: the whole store into one file, while no server runs on it.
pub fn backup(config: &Config, file: &std::path::Path) -> Result<Exit, Failure> {
    let (store, opened) = open(&config.settings)?;
    let mut records = Vec::new();
    for table in tables() {
        store
            .load(table, None, &mut |key, value| {
                records.push((table, Box::from(key), Arc::from(value)));
            })
            .map_err(storage_failure)?;
    }
    let saved = weir_storage::backup(
        file,
        opened.store_id,
        opened.lsn,
        opened.stamp_ms,
        false,
        records,
    )
    .map_err(storage_failure)?;
    store.close().map_err(storage_failure)?;
    println!(
        "{} records at revision {} in {} bytes",
        saved.records, saved.lsn, saved.bytes
    );
    Ok(Exit::Done)
}

/// `weir restore`: a data directory from a backup. Stamps continue above any that may have been handed out since it was made.
pub fn restore(config: &Config, file: &std::path::Path, overwrite: bool) -> Result<Exit, Failure> {
    let directory = &config.settings.store.data_dir;
    let margin_ms = 60_000;
    let restored = weir_storage::restore(file, directory, overwrite, now_ms() + margin_ms)
        .map_err(storage_failure)?;
    println!(
        "{} records at revision {} in {}",
        restored.records,
        restored.opened.lsn,
        directory.display()
    );
    Ok(Exit::Done)
}

fn login(settings: &Settings) -> Option<(&str, &str)> {
    let login = settings.auth.edit_auth.as_ref()?;
    Some((login.name.as_str(), login.password.expose()))
}

/// Names the installation: made of the number that its store was given when it was created, and lost with it.
fn server_id(store_id: u64) -> Box<str> {
    uuid(xxhash_rust::xxh3::xxh3_128(&store_id.to_le_bytes()))
}

/// Names this run. Without randomness the time does.
fn run_id() -> Box<str> {
    let mut bits = [0; 16];
    match getrandom::fill(&mut bits) {
        Ok(()) => uuid(u128::from_le_bytes(bits)),
        Err(_) => uuid(xxhash_rust::xxh3::xxh3_128(&now_ms().to_le_bytes())),
    }
}

/// What the event log tells of a start.
fn start_events(opened: &Opened, is_new: bool) -> Vec<NewEvent> {
    let version = env!("CARGO_PKG_VERSION");
    let previous = match (is_new, opened.clean) {
        (true, _) => "none",
        (false, true) => "shutdown",
        (false, false) => "killed",
    };
    vec![
        NewEvent::new("server_starting")
            .text("full_version", version)
            .text("version", version),
        NewEvent::new("server_started")
            .text("instance_id", &server_id(opened.store_id))
            .text("previous_state", previous)
            .number("revision", opened.lsn)
            .text("version", version),
    ]
}

fn open(settings: &Settings) -> Result<(Store, Opened), Failure> {
    let options = StoreOptions {
        cache_bytes: settings.store.cache_bytes,
        ..StoreOptions::default()
    };
    Store::open(&settings.store.data_dir, &options).map_err(storage_failure)
}

fn storage_failure(error: StoreError) -> Failure {
    let exit = if matches!(error, StoreError::Locked { .. }) {
        Exit::Locked
    } else {
        Exit::Storage
    };
    Failure::new(exit, error.to_string())
}

fn render_settings(settings: &Settings) -> RenderSettings {
    RenderSettings {
        pull_token: settings
            .feed
            .pull_token
            .as_ref()
            .map(|token| token.expose().to_owned()),
        restreaming: match settings.feed.restreaming {
            RestreamingSetting::Off => Restreaming::Off,
            RestreamingSetting::Marked => Restreaming::Flagged,
            RestreamingSetting::All => Restreaming::All,
        },
    }
}

/// The layouter's thread, and how it is told to end.
struct LayouterThread {
    thread: thread::JoinHandle<()>,
    handle: LayouterHandle,
    stop: Arc<AtomicBool>,
}

impl LayouterThread {
    /// Ends it: what it has planned and not written yet is planned again at the next start.
    fn end(self) {
        self.stop.store(true, Ordering::Release);
        self.handle.send(LayouterMessage::Wake);
        if self.thread.join().is_err() {
            warn!("layouter panicked while stopping");
        }
    }
}

fn start_layouter(
    settings: &Settings,
    shared: &Arc<Shared>,
    commits: Receiver<Arc<Commit>>,
    messages: Receiver<LayouterMessage>,
) -> Result<LayouterThread, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (fleet, bitrates) = (shared.clone(), shared.clone());
    let context = LayouterContext {
        commits,
        messages,
        reports: shared.fleet.follow(),
        stats_of: Box::new(move |hostname| {
            let stats = fleet.fleet.streamer(hostname, Instant::now())?;
            Some(NodeStats::from(&*stats))
        }),
        bitrate_of: Box::new(move |stream, hostname| {
            bitrates
                .fleet
                .bitrate_kbit(stream, hostname, Instant::now())
        }),
        commands: shared.commands.clone(),
        published: shared.published.clone(),
        metrics: shared.layouter_metrics.clone(),
        stop: stop.clone(),
    };
    let thread = layouter_thread::start(settings.layouter.clone(), context).map_err(|error| {
        Failure::new(
            Exit::Runtime,
            format!("the layouter cannot be started: {error}"),
        )
    })?;
    Ok(LayouterThread {
        thread,
        handle: shared.layouter.clone(),
        stop,
    })
}

/// What the cores told when they started, and where they will tell that they are done.
struct Started {
    bound: Vec<SocketAddr>,
    drained: mpsc::Receiver<usize>,
}

fn start_cores(
    settings: &Settings,
    shared: &Arc<Shared>,
    inboxes: &[Arc<Inbox<CoreMessage>>],
) -> Result<Started, Failure> {
    let descriptors = rt::sys::raise_descriptor_limit();
    let possible = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED))
        .unwrap_or(usize::MAX)
        .max(1);
    let connections_max = settings
        .http
        .connections_max
        .min(possible)
        .div_ceil(inboxes.len());
    let poll_wait_ms_max =
        u32::try_from(settings.http.poll_wait_max.as_millis()).unwrap_or(u32::MAX);
    let cors = match &settings.http.cors {
        Cors::Off => CorsPolicy::Off,
        Cors::Any => CorsPolicy::Any,
        Cors::Origins(origins) => CorsPolicy::Origins(origins.clone()),
    };
    let (drained_sender, drained) = mpsc::channel();
    let mut bound = settings.http.listen.clone();
    for (index, inbox) in inboxes.iter().enumerate() {
        let (ready_sender, ready) = mpsc::channel();
        let options = HttpOptions {
            limits: Limits {
                connections_max,
                wait_ms_max: Limits::DEFAULT.wait_ms_max.max(poll_wait_ms_max),
                ..Limits::DEFAULT
            },
            cors: cors.clone(),
        };
        let (shared, inbox, addresses, drained) = (
            shared.clone(),
            inbox.clone(),
            bound.clone(),
            drained_sender.clone(),
        );
        thread::Builder::new()
            .name(format!("io-{index}"))
            .spawn(move || {
                let _guard = EndsWithPanic("io");
                let failed = ready_sender.clone();
                let life = core_life(
                    index,
                    shared,
                    inbox,
                    addresses,
                    options,
                    ready_sender,
                    drained,
                );
                if let Err(error) = rt::run(&rt::Options::default(), life) {
                    // Whoever started this core waits for the answer; if nobody does any more there is nothing to tell.
                    let _ = failed.send(Err(error));
                }
            })
            .map_err(|error| {
                Failure::new(
                    Exit::Runtime,
                    format!("an io thread cannot be started: {error}"),
                )
            })?;
        bound = ready
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread ended")))
            .map_err(|error| {
                Failure::new(
                    Exit::Runtime,
                    format!("io core {index} cannot start: {error}"),
                )
            })?;
    }
    Ok(Started { bound, drained })
}

type Ready = mpsc::Sender<std::io::Result<Vec<SocketAddr>>>;

/// One io core, from its first listener to the end of the process.
async fn core_life(
    index: usize,
    shared: Arc<Shared>,
    inbox: Arc<Inbox<CoreMessage>>,
    addresses: Vec<SocketAddr>,
    options: HttpOptions,
    ready: Ready,
    drained: mpsc::Sender<usize>,
) {
    let connections = Connections::new(options);
    let core: Rc<Core> = Core::new(index, shared, connections.clone());
    let listeners: std::io::Result<Vec<_>> = addresses
        .iter()
        .map(|address| rt::listen(*address))
        .collect();
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let bound = listeners.iter().map(rt::Listener::local_addr).collect();
    for listener in listeners {
        let (core, connections) = (core.clone(), connections.clone());
        rt::spawn(serve(listener, core, connections));
    }
    rt::spawn(core.dispatch(inbox));
    if ready.send(Ok(bound)).is_err() {
        return;
    }
    connections.drained().await;
    let _ = drained.send(index);
    // The process ends this thread: a runtime must not be dropped while the kernel still works for it.
    std::future::pending::<()>().await;
}

/// Tells on stdout where the server is and how to talk to it.
fn greet(settings: &Settings, bound: &[SocketAddr], key: &config::ApiKey) {
    let mut out = std::io::stdout().lock();
    let mut text = String::new();
    for address in bound {
        let _infallible = writeln!(text, "listening on http://{address}");
    }
    let shown = if key.newly_generated {
        let _infallible = writeln!(
            text,
            "API key, shown this once, kept in {}: {}",
            settings.store.data_dir.join("api_key").display(),
            key.key.expose()
        );
        key.key.expose().to_owned()
    } else if settings.auth.api_key.is_some() {
        "$CENTRAL_API_KEY".to_owned()
    } else {
        format!(
            "$(cat {})",
            settings.store.data_dir.join("api_key").display()
        )
    };
    if let Some(address) = bound.first() {
        let base = settings
            .http
            .api_url
            .clone()
            .unwrap_or_else(|| format!("http://{}", reachable(*address)));
        let _infallible = writeln!(
            text,
            "try: curl -H \"Authorization: Bearer {shown}\" {base}/central/api/v3/streams"
        );
    }
    // Nobody may be reading; the server runs all the same.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// Returns at the first TERM or INT. A second one ends the process at once.
fn wait_for_signal() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    signals.forever().next();
    thread::spawn(move || {
        signals.forever().next();
        warn!("a second signal: stopping at once");
        std::process::exit(1);
    });
    Ok(())
}

/// A limit on the size of files is an error of a write, which the writer knows how to live with, and not the end of the process.
fn survive_file_size_limit() -> std::io::Result<()> {
    signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
