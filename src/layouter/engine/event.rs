//! The engine's interface: events in, changes out.
//!
//! All input of the engine arrives in these events, in order; time passes with
//! [`Event::Tick`] only. Hostnames and stream names cross this interface as they are stored;
//! inside, nodes and slots are numbers. Sizes are integers: kilobits per second and bytes.

use std::sync::Arc;

pub use super::reason::{MoveReason, Reasons};
pub use super::settings::{Balance, EngineSettings};
use crate::state::name::{Hostname, StreamName};

/// Which slots a node may take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum PlacementRole {
    /// Takes ingests and DVR backups.
    #[default]
    Streamer,
    /// Takes inference.
    Inference,
    /// Takes nothing from the layouter (identification nodes).
    Other,
}

/// Whether a node may be relied on. Decided by `health`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum NodeState {
    #[default]
    Up,
    /// Unknown: no sign of life yet, or its silence proves nothing. Keeps its slots and takes no
    /// new ones.
    Unsure,
    /// Back, but not trusted yet: takes streams only if no other node can, and nothing is restored
    /// to it.
    Probation,
    /// Lost: its slots move away, unless no streamer is left.
    Down,
}

impl NodeState {
    /// Short name for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unsure => "unsure",
            Self::Probation => "probation",
            Self::Down => "down",
        }
    }
}

/// One node as its configuration and its measurements describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the row and the reports have them"
)]
pub struct NodeSpec {
    pub hostname: Hostname,
    pub role: PlacementRole,
    pub namespace: Option<Arc<str>>,
    /// As configured, prefixes included (see `label`).
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub channel_limit: u32,
    /// An operator set the limit. Between nodes without one, balance counts slots: shares of an
    /// assumed limit hardly differ.
    pub channel_limit_stated: bool,
    /// Total bandwidth; `bandwidth_permille` of it may be used.
    pub bandwidth_kbps: Option<u32>,
    /// Size of its DVR storage; `disk_permille` of it may be used.
    pub disk_bytes: Option<u64>,
    pub transcoder: bool,
    /// Has DVR storage, so it can keep backups.
    pub dvr: bool,
    /// Its streams have not been measured since the start: none leaves it for bandwidth or disk
    /// until then. New slots must fit all the same.
    pub settling: bool,
    /// In maintenance: keeps its slots and takes no new ones.
    pub cordoned: bool,
    /// Its slots leave; it must be `cordoned`, too.
    pub drain: Option<DrainSpec>,
    /// Used when the node is new to the engine; afterwards only [`Event::NodeStates`] changes it.
    pub state: NodeState,
}

impl NodeSpec {
    /// A streamer in state `Up` with a stated channel limit, without labels or further limits.
    pub fn streamer(hostname: &str, channel_limit: u32) -> Self {
        Self {
            hostname: Hostname::trusted(hostname),
            role: PlacementRole::Streamer,
            namespace: None,
            labels: Vec::new(),
            channel_limit,
            channel_limit_stated: true,
            bandwidth_kbps: None,
            disk_bytes: None,
            transcoder: false,
            dvr: true,
            settling: false,
            cordoned: false,
            drain: None,
            state: NodeState::Up,
        }
    }
}

/// How the slots of a node leave it for maintenance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainSpec {
    /// Streams per minute; 0: no limit.
    pub streams_per_minute: u32,
    /// From then on without a limit, and before that fast enough to be done by then.
    pub deadline_utc_ms: Option<u64>,
    /// What leaves returns after the maintenance.
    pub returns: bool,
    /// The old copy of a backup is kept this long at most, until the new one runs; 0: not at all.
    pub keeps_ms: u64,
}

/// How a stream is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DvrSpec {
    /// How long recordings are kept, seconds; 0 claims no disk.
    pub expiration_s: u64,
    pub storage_limit_bytes: Option<u64>,
    /// Copies in total, the ingest's own recording included.
    pub redundancy_factor: u32,
}

/// The layout in a stream's row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoredLayout {
    pub ingest: Option<Hostname>,
    pub inference: Option<Hostname>,
    pub dvr_backups: Vec<Hostname>,
    pub failover_from: Option<Hostname>,
    /// False: an operator placed it. Such a layout is kept while it is legal, and is exempt from
    /// balancing for a while.
    pub by_layouter: bool,
}

/// One stream as its row describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the row has them"
)]
pub struct StreamSpec {
    pub name: StreamName,
    /// Revision of the row; returned in every [`LayoutChange`] as the precondition of writing it.
    pub revision: u64,
    pub disabled: bool,
    /// It is held: like a disabled stream it has no slots.
    pub quarantined: bool,
    pub namespace: Option<Arc<str>>,
    /// As configured, prefixes included (see `label`).
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub transcoder: bool,
    /// Claimed or else measured. Absent: the last measurement, or else the setting `kbps_default`.
    pub kbps: Option<u32>,
    /// `kbps` was measured. It stays valid until the next measurement or claim, whatever rows come
    /// in between.
    pub measured: bool,
    pub dvr: Option<DvrSpec>,
    pub inference: bool,
    /// Streams that share an agent, directly or through other streams, share their ingest node.
    pub agents: Vec<Arc<str>>,
    pub layout: StoredLayout,
    /// The node that still runs the stream after a planned move, until the new one does.
    pub handover_from: Option<Hostname>,
    /// Its ingest stays where it is, unless it has to move.
    pub pinned: bool,
}

impl StreamSpec {
    /// Why the stream has no slots.
    pub fn off_reason(&self) -> Option<MoveReason> {
        if self.disabled {
            Some(MoveReason::Disabled)
        } else {
            self.quarantined.then_some(MoveReason::Quarantined)
        }
    }

    /// A stream without demands and without a layout.
    pub fn new(name: &str) -> Self {
        Self {
            name: StreamName::trusted(name),
            revision: 0,
            disabled: false,
            quarantined: false,
            namespace: None,
            labels: Vec::new(),
            transcoder: false,
            kbps: None,
            measured: false,
            dvr: None,
            inference: false,
            agents: Vec::new(),
            layout: StoredLayout::default(),
            handover_from: None,
            pinned: false,
        }
    }
}

/// Rows of one transaction. Any order of them gives the same layout.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    pub nodes: Vec<NodeSpec>,
    pub nodes_deleted: Vec<Hostname>,
    pub streams: Vec<StreamSpec>,
    pub streams_deleted: Vec<StreamName>,
}

/// Streams to be taken off a node whose CPU is under pressure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shed {
    pub hostname: Hostname,
    /// Upper bound of streams to move.
    pub streams_max: u32,
    /// Nodes that may take these streams, with the number for each, best first.
    pub targets: Vec<ShedTarget>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShedTarget {
    pub hostname: Hostname,
    pub streams_max: u32,
}

/// Everything the engine accepts. Events for unknown nodes or streams are ignored: these were
/// deleted meanwhile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Part of the stored rows, at start. Layouts are adopted; nothing is placed before
    /// [`Event::Loaded`].
    Load(Rows),
    /// All stored rows were loaded: slots without a legal node are placed.
    Loaded,
    /// A transaction was committed. The row wins: a layout that differs from the engine's is
    /// adopted if it is legal.
    Commit(Rows),
    /// Nodes lost or back. Nodes lost together must be in one event, so that nothing moves from one
    /// to another.
    NodeStates(Vec<(Hostname, NodeState)>),
    /// A node came under CPU pressure or left it. Under pressure it takes no new slots.
    NodePressure {
        hostname: Hostname,
        pressed: bool,
    },
    /// Moves streams off a node under CPU pressure.
    Shed(Shed),
    /// A node has received its configuration of this revision: earlier moves to it are no longer in
    /// flight.
    Confirmed {
        hostname: Hostname,
        revision: u64,
    },
    Settings(EngineSettings),
    /// Time passes for the nodes that are drained.
    Drain {
        now_ms: u64,
        utc_ms: u64,
    },
    /// A node reported backups to run for which old copies are kept; see
    /// [`super::Engine::building_on`].
    CopiesRun {
        hostname: Hostname,
        streams: Vec<StreamName>,
    },
    /// Whether many first placements wait, because more nodes are expected soon.
    HoldPlacement(bool),
    /// Time passes: restores, retries, upgrades, balancing.
    Tick {
        now_ms: u64,
    },
}

/// The kind of a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SlotKind {
    Ingest = 0,
    Inference = 1,
    DvrBackup = 2,
}

/// One slot of a stream moves, or keeps its node and only `failover_from` changes. `Engine::layout`
/// has the stream's complete layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutChange {
    pub stream: StreamName,
    pub kind: SlotKind,
    pub from: Option<Hostname>,
    pub to: Option<Hostname>,
    pub reason: MoveReason,
    /// After this change: the ingest node before a fail-over without a fail-back yet.
    pub failover_from: Option<Hostname>,
    /// The revision of the row on which this was decided.
    pub revision: u64,
}

impl LayoutChange {
    pub fn change_reason(&self) -> Option<&'static str> {
        self.reason.change_reason()
    }
}

/// The complete layout of a stream, as a batch writes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StreamLayout {
    pub revision: u64,
    pub ingest: Option<Hostname>,
    pub inference: Option<Hostname>,
    pub dvr_backups: Vec<Hostname>,
    pub failover_from: Option<Hostname>,
}
