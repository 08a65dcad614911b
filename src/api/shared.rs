//! Shared by all io cores: published state, channels to other threads, settings, identity.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::capacity_report::{CapacityReport, CapacityWaiter};
use super::cluster_counts::{ClusterCounts, SharedCounts};
use super::running_backups::{BackupLimits, Backups};
use super::shared_result::{Computed, Renew, SharedResult};
use super::stream_doc::Around;
use crate::access::auth::Auth;
use crate::access::browser_sessions::BrowserSessions;
use crate::access::geo::Countries;
use crate::access::guesses::FailedCredentials;
use crate::access::sessions::Sessions;
use crate::agents::messages::AgentsShared;
use crate::config::journal::Journal;
use crate::config::running::Running;
use crate::core::message::CoreMessage;
use crate::core::stats_watch::StatsWatches;
use crate::feed::nodes::NodeTable;
use crate::feed::paged_snapshots::PagedSnapshots;
use crate::feed::rendered::Rendered;
use crate::fleet::history::Histories;
use crate::fleet::queries::QueryCounts;
use crate::fleet::stats::{FleetStats, View};
use crate::layouter::metrics::LayouterMetrics;
use crate::layouter::thread::LayouterHandle;
use crate::layouter::whatif::worker::WhatIfWorker;
use crate::offload::Offload;
use crate::outbound::Outbound;
use crate::rt::Inbox;
use crate::scan_pool::ScanPool;
use crate::state::State;
use crate::traces::Traces;
use crate::ui::docs::DocPages;
use crate::writer::{Commands, Published};

/// Settings used by handlers.
pub struct ApiSettings {
    pub poll_wait_max: Duration,
    /// Default page size of `/streamers/{hostname}/streams`; 0: the whole list.
    pub streams_limit: usize,
    /// Deadline for all HTTP calls of one authorization.
    pub auth_backend_timeout: Duration,
    /// Deadline of a command to an agent.
    pub agent_command_wait: Duration,
    /// Size at which a page of a list ends.
    pub page_bytes_max: usize,
    /// Silence after which the connection of an agent is closed.
    pub agent_silence_max: Duration,
    pub backup: BackupLimits,
    /// The web interface is served.
    pub has_ui: bool,
}

/// All settings that the cores read.
pub struct SharedSettings {
    pub api: ApiSettings,
    /// Settings that can change at run time.
    pub running: Running,
    pub journal: Journal,
}

/// What identifies this server and this run of it.
pub struct ServerIdentity {
    /// UUIDs of this installation and of this run.
    pub server_id: Box<str>,
    pub run_id: Box<str>,
    pub started_at_seconds: u64,
    /// Hostname of this server.
    pub hostname: Box<str>,
    pub data_dir: PathBuf,
}

/// Credentials of callers, and decisions about viewers.
pub struct AccessControl {
    pub auth: Auth,
    /// Taken for wrong credentials only, and for metrics.
    pub failed_credentials: Mutex<FailedCredentials>,
    pub sessions: Sessions,
    pub browsers: Arc<BrowserSessions>,
    pub countries: Countries,
}

/// The layouter and the worker that answers questions about it.
pub struct LayouterAccess {
    pub handle: LayouterHandle,
    pub metrics: Arc<LayouterMetrics>,
    pub whatif: WhatIfWorker,
    /// Computed by the worker.
    pub capacity: SharedResult<CapacityReport, CapacityWaiter>,
}

/// Threads that work for requests besides the cores, and work that is counted.
pub struct WorkerThreads {
    pub outbound: Outbound,
    pub offload: Offload,
    pub scans: ScanPool,
    pub backups: Arc<Backups>,
    /// Bulk changes that are being applied.
    pub bulk_changes: Arc<AtomicU32>,
    pub traces: Traces,
    pub queries: QueryCounts,
    pub cluster_counts: CountsWorker,
    pub histories: Histories,
}

/// The thread that counts the cluster, and its last counts.
pub struct CountsWorker {
    pub counts: SharedCounts,
    start: Sender<()>,
    /// Receives when a count must begin.
    pub started: Receiver<()>,
}

impl Default for CountsWorker {
    fn default() -> Self {
        let (start, started) = bounded(1);
        Self {
            counts: SharedCounts::default(),
            start,
            started,
        }
    }
}

impl CountsWorker {
    /// The last counts if they are not too old. Others are counted now, for later callers.
    pub fn peek(&self, now: Instant) -> Option<Arc<Computed<ClusterCounts>>> {
        let (known, renew) = self.counts.peek(now);
        self.start(renew);
        known
    }

    /// Starts a count, if the caller must.
    pub fn start(&self, renew: Renew) {
        if renew.0 {
            // Full: it is started already.
            let _ = self.start.try_send(());
        }
    }
}

/// Shared by all io cores.
pub struct Shared {
    pub published: Arc<Published>,
    pub commands: Commands,
    pub access: AccessControl,
    /// Activity and rendered configurations of nodes.
    pub nodes: Arc<NodeTable>,
    pub paged_snapshots: PagedSnapshots,
    /// The last reports of streamers.
    pub fleet: FleetStats,
    pub layouter: LayouterAccess,
    pub settings: SharedSettings,
    pub identity: ServerIdentity,
    pub draining: AtomicBool,
    pub workers: WorkerThreads,
    pub agents: AgentsShared,
    /// The cores with lists that wait for reports.
    pub watches: StatsWatches,
    /// The inbox of each core.
    pub cores: Vec<Arc<Inbox<CoreMessage>>>,
    pub documentation: Documentation,
}

/// Documents of this server about itself.
pub struct Documentation {
    /// The body of `GET /openapi.json`.
    pub openapi: Rendered,
    /// The pages below `/ui/docs/`. Set once at the start, because they name all metrics.
    pub pages: OnceLock<DocPages>,
}

impl Shared {
    /// Counts wrong credentials of a client. True if they are one too many.
    pub fn count_failure(&self, client: IpAddr) -> bool {
        let failed = self.access.failed_credentials.lock();
        let mut failed = failed.unwrap_or_else(PoisonError::into_inner);
        failed.add(client, Instant::now())
    }

    /// Wakes the lists that wait for a change of streamer or agent statistics.
    pub fn reported(&self) {
        self.watches.reported(&self.cores);
    }

    pub fn around<'a>(&'a self, state: &'a State, fleet: View<'a>) -> Around<'a> {
        Around {
            state,
            fleet,
            presences: &self.agents.presence,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;
    use crate::api::call::uuid;
    use crate::outbound::EgressPolicy;
    use crate::state::node::RenderSettings;
    use crate::writer::{StateMachine, Writer};

    /// A server whose writer never runs.
    pub(crate) fn shared() -> Arc<Shared> {
        let state = Arc::new(State::new(1, RenderSettings::default()));
        let published = Arc::new(Published::new(state.clone()));
        let directory = tempfile::tempdir().expect("a directory");
        let options = weir_storage::Options::default();
        let (store, _) = weir_storage::Store::open(directory.path(), &options).expect("a store");
        let (_, commands, _) =
            Writer::new(StateMachine::new(state, store), published.clone(), vec![]);
        Arc::new(Shared {
            published,
            commands,
            access: AccessControl {
                auth: Auth::new("k", None),
                failed_credentials: Mutex::default(),
                sessions: Sessions::new(1 << 20),
                browsers: Arc::default(),
                countries: Countries::default(),
            },
            nodes: Arc::new(NodeTable::new(1 << 20)),
            paged_snapshots: PagedSnapshots::default(),
            fleet: FleetStats::new(Duration::from_mins(1), Instant::now()),
            layouter: LayouterAccess {
                handle: crate::layouter::thread::channel().0,
                metrics: Arc::default(),
                whatif: WhatIfWorker::closed(),
                capacity: SharedResult::default(),
            },
            settings: settings(directory.path()),
            identity: ServerIdentity {
                server_id: uuid(1),
                run_id: uuid(2),
                started_at_seconds: 0,
                hostname: Box::from("here"),
                data_dir: PathBuf::new(),
            },
            draining: AtomicBool::new(false),
            workers: WorkerThreads {
                outbound: Outbound::start(2, Arc::new(EgressPolicy::default())).expect("threads"),
                offload: Offload::start(1).expect("a thread"),
                scans: ScanPool::start(1).expect("threads"),
                backups: Arc::default(),
                bulk_changes: Arc::default(),
                traces: Traces::default(),
                queries: QueryCounts::default(),
                cluster_counts: CountsWorker::default(),
                histories: Histories::new(Instant::now(), super::super::now_ms()),
            },
            agents: AgentsShared::new().expect("there is randomness"),
            watches: StatsWatches::new(1),
            cores: Vec::new(),
            documentation: Documentation {
                openapi: Rendered::new(b"{}"),
                pages: OnceLock::new(),
            },
        })
    }

    fn settings(data_dir: &Path) -> SharedSettings {
        let config = crate::config::read(Some("/dev/null".as_ref()), &[], &Vec::new());
        let config = config.expect("defaults are good");
        SharedSettings {
            api: ApiSettings {
                poll_wait_max: Duration::from_secs(1),
                streams_limit: 0,
                page_bytes_max: 1 << 20,
                auth_backend_timeout: Duration::from_secs(1),
                agent_command_wait: Duration::from_secs(1),
                agent_silence_max: Duration::from_mins(1),
                backup: BackupLimits {
                    bytes_per_second: 1 << 20,
                    time_max: Duration::from_mins(1),
                },
                has_ui: true,
            },
            running: Running::new(config, crate::config::Secret::new("k")),
            journal: Journal::new(data_dir),
        }
    }
}
