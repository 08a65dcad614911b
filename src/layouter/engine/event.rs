//! What the engine is told and what it answers.
//!
//! Everything the engine knows came in one of these events, in order; time is told by [`Event::Tick`] alone. Hostnames and stream names cross this
//! border as they are stored; inside there are numbers. Sizes are integers: kilobits per second and bytes.

use std::fmt;
use std::sync::Arc;

use crate::state::name::{Hostname, StreamName};

/// What a node is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum NodeRole {
    /// Takes ingests and DVR backups.
    #[default]
    Streamer,
    /// Takes inference.
    Inference,
    /// Takes nothing from the layouter (identification nodes).
    Other,
}

/// Whether a node may be counted on. Decided by `health`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum NodeState {
    #[default]
    Up,
    /// Nothing is known: it was not heard of yet, or its silence proves nothing. Keeps what it has and takes nothing.
    Unsure,
    /// Back, but not trusted yet: takes streams only when no other node may take them, and nothing is restored to it.
    Probation,
    /// Lost: what is on it moves away, unless no streamer at all is left.
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

/// One streamer as its configuration describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    pub hostname: Hostname,
    pub role: NodeRole,
    pub namespace: Option<Arc<str>>,
    /// As configured, prefixes included (see `label`).
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub channel_limit: u32,
    /// Total bandwidth; the share that may be used is a setting.
    pub bandwidth_kbps: Option<u32>,
    /// Size of its DVR storage; the share that may be used is a setting.
    pub disk_bytes: Option<u64>,
    pub transcoder: bool,
    /// Has DVR storage, so it can keep backups.
    pub dvr: bool,
    /// What runs there is about to be measured: nothing leaves it for bandwidth or disk until then. New slots must fit all the same.
    pub settling: bool,
    /// Taken when the engine first hears of the node; afterwards only [`Event::NodeStates`] counts.
    pub state: NodeState,
}

impl NodeSpec {
    /// A streamer without labels or further limits, up.
    pub fn streamer(hostname: &str, channel_limit: u32) -> Self {
        Self {
            hostname: Hostname::trusted(hostname),
            role: NodeRole::Streamer,
            namespace: None,
            labels: Vec::new(),
            channel_limit,
            bandwidth_kbps: None,
            disk_bytes: None,
            transcoder: false,
            dvr: true,
            settling: false,
            state: NodeState::Up,
        }
    }
}

/// What a stream records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DvrSpec {
    /// How long it is kept, seconds; 0 claims no disk.
    pub expiration_s: u64,
    pub storage_limit_bytes: Option<u64>,
    /// Copies in total, the ingest's own included.
    pub redundancy_factor: u32,
}

/// Where a stream's row says that it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoredLayout {
    pub ingest: Option<Hostname>,
    pub inference: Option<Hostname>,
    pub dvr_backups: Vec<Hostname>,
    pub failover_from: Option<Hostname>,
    /// False: somebody else placed it. Such a layout is kept while it is legal, and left alone by balancing for a while.
    pub by_layouter: bool,
}

/// One stream as its row describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, as the row has it"
)]
pub struct StreamSpec {
    pub name: StreamName,
    /// Of the row; comes back in every [`Change`] as the precondition of writing it.
    pub revision: u64,
    pub disabled: bool,
    pub namespace: Option<Arc<str>>,
    /// As configured, prefixes included (see `label`).
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    pub transcoder: bool,
    /// Claimed or else measured; absent: what was measured before, or else the setting `kbps_default`.
    pub kbps: Option<u32>,
    /// `kbps` was measured. It holds until something else is measured or claimed, whatever rows come in between.
    pub measured: bool,
    pub dvr: Option<DvrSpec>,
    pub inference: bool,
    /// Streams that share an agent, directly or through others, share their ingest.
    pub agents: Vec<Arc<str>>,
    pub layout: StoredLayout,
}

impl StreamSpec {
    /// A stream without demands that is placed nowhere.
    pub fn new(name: &str) -> Self {
        Self {
            name: StreamName::trusted(name),
            revision: 0,
            disabled: false,
            namespace: None,
            labels: Vec::new(),
            transcoder: false,
            kbps: None,
            measured: false,
            dvr: None,
            inference: false,
            agents: Vec::new(),
            layout: StoredLayout::default(),
        }
    }
}

/// Rows of one transaction. Their order says nothing: any order gives the same layout.
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
    /// Most streams to move.
    pub streams_max: u32,
    /// Where they may go and how many each may take, best first. What is not named takes none.
    pub targets: Vec<ShedTarget>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShedTarget {
    pub hostname: Hostname,
    pub streams_max: u32,
}

/// Everything the engine can be told. What names an unknown node or stream is ignored: it was deleted meanwhile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Part of what is stored, at start. Layouts are adopted, nothing is placed before [`Event::Loaded`].
    Load(Rows),
    /// All that is stored was told: what is illegal or missing is placed.
    Loaded,
    /// A transaction was committed. The row wins: a layout that differs from the engine's own is taken over if it is legal.
    Commit(Rows),
    /// Nodes lost or back. Those that go together must come together, so that nothing is moved from one to another.
    NodeStates(Vec<(Hostname, NodeState)>),
    /// A node under CPU pressure takes nothing new.
    NodePressure {
        hostname: Hostname,
        pressed: bool,
    },
    /// Moves streams off a node under CPU pressure.
    Shed(Shed),
    /// A node has the configuration of this revision: moves to it up to there are no longer in flight.
    Confirmed {
        hostname: Hostname,
        revision: u64,
    },
    Settings(Settings),
    /// Time passes: restores, retries, upgrades, balancing.
    Tick {
        now_ms: u64,
    },
}

/// The part of a stream that is placed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SlotKind {
    Ingest = 0,
    Inference = 1,
    DvrBackup = 2,
}

/// Why something moved, for the log and the metrics. The reference's reason, where it has one, is [`Why::change_reason`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Why {
    Namespace,
    NodeMissesLabels,
    StreamMissesLabels,
    NodeDeleted,
    NodeOffline,
    /// No longer the right kind of node: its role or its DVR was taken away.
    Role,
    Transcoding,
    AgentConflict,
    ChannelLimit,
    Bandwidth,
    DvrSize,
    Cpu,
    NotDistributed,
    Redundancy,
    Disabled,
    /// Moved so that another stream has a place at all.
    MakeRoom,
    Preferred,
    Restore,
    Rebalance,
}

impl Why {
    pub const ALL: [Self; 19] = [
        Self::Namespace,
        Self::NodeMissesLabels,
        Self::StreamMissesLabels,
        Self::NodeDeleted,
        Self::NodeOffline,
        Self::Role,
        Self::Transcoding,
        Self::AgentConflict,
        Self::ChannelLimit,
        Self::Bandwidth,
        Self::DvrSize,
        Self::Cpu,
        Self::NotDistributed,
        Self::Redundancy,
        Self::Disabled,
        Self::MakeRoom,
        Self::Preferred,
        Self::Restore,
        Self::Rebalance,
    ];

    /// The reference's code. Absent where it has none: clients validate against its list.
    pub fn change_reason(self) -> Option<&'static str> {
        Some(match self {
            Self::Namespace => "namespace_mismatch",
            Self::NodeMissesLabels => "node_misses_stream_required_labels",
            Self::StreamMissesLabels => "stream_misses_node_required_labels",
            Self::NodeDeleted => "node_deleted",
            Self::NodeOffline => "node_become_offline",
            Self::AgentConflict => "multistream_agent_ingest_conflict",
            Self::ChannelLimit | Self::MakeRoom => "node_channel_limit_exceeded",
            Self::Bandwidth => "streamer_total_bandwidth_exceeded",
            Self::DvrSize => "streamer_dvr_size_exceeded",
            Self::Cpu => "node_cpu_pressure",
            Self::NotDistributed => "not_distributed",
            Self::Redundancy => "dvr_redundancy_adjust",
            Self::Disabled => "stream_disabled",
            Self::Preferred => "preferred_labels_better_match",
            Self::Role | Self::Transcoding | Self::Restore | Self::Rebalance => return None,
        })
    }

    /// Short name for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Role => "node_role_changed",
            Self::Transcoding => "node_not_available_for_transcoding",
            Self::MakeRoom => "make_room",
            Self::Restore => "restore",
            Self::Rebalance => "rebalance",
            other => other
                .change_reason()
                .expect("the others have a public code"),
        }
    }

    /// False for what only improves the layout and can wait behind everything else.
    pub fn urgent(self) -> bool {
        !matches!(self, Self::Preferred | Self::Restore | Self::Rebalance)
    }
}

/// One slot of a stream goes from one node to another; or stays where it is, and only `failover_from` is another. The whole layout of the stream is told by `Engine::layout`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub stream: StreamName,
    pub kind: SlotKind,
    pub from: Option<Hostname>,
    pub to: Option<Hostname>,
    pub why: Why,
    /// Of the stream after this change: where its ingest was before the failover that it has not come back from.
    pub failover_from: Option<Hostname>,
    /// The row's revision this was decided on.
    pub revision: u64,
}

impl Change {
    pub fn change_reason(&self) -> Option<&'static str> {
        self.why.change_reason()
    }
}

/// Where a stream is, complete: what a layout batch writes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StreamLayout {
    pub revision: u64,
    pub ingest: Option<Hostname>,
    pub inference: Option<Hostname>,
    pub dvr_backups: Vec<Hostname>,
    pub failover_from: Option<Hostname>,
}

/// Why a node cannot take a slot: a set, because all reasons are told and not the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Reasons(pub u16);

impl Reasons {
    pub const NONE: Self = Self(0);
    pub const STREAM_MISSES_LABELS: Self = Self(1);
    pub const NODE_MISSES_LABELS: Self = Self(1 << 1);
    pub const CHANNEL_LIMIT: Self = Self(1 << 2);
    pub const DVR_SIZE: Self = Self(1 << 3);
    pub const TRANSCODING: Self = Self(1 << 4);
    pub const OFFLINE: Self = Self(1 << 5);
    pub const BANDWIDTH: Self = Self(1 << 6);
    pub const NAMESPACE: Self = Self(1 << 7);
    pub const CPU: Self = Self(1 << 8);
    pub const ROLE: Self = Self(1 << 9);
    /// Another slot of the same stream is there.
    pub const SIBLING: Self = Self(1 << 10);

    const NAMES: [(Self, &'static str, bool); 11] = [
        (
            Self::STREAM_MISSES_LABELS,
            "stream_misses_node_required_labels",
            true,
        ),
        (
            Self::NODE_MISSES_LABELS,
            "node_misses_stream_required_labels",
            true,
        ),
        (Self::CHANNEL_LIMIT, "node_channel_limit_exceeded", true),
        (Self::DVR_SIZE, "streamer_dvr_size_exceeded", true),
        (
            Self::TRANSCODING,
            "node_not_available_for_transcoding",
            true,
        ),
        (Self::OFFLINE, "node_offline", true),
        (Self::BANDWIDTH, "streamer_total_bandwidth_exceeded", true),
        (Self::NAMESPACE, "namespace_mismatch", true),
        (Self::CPU, "node_cpu_pressure", false),
        (Self::ROLE, "node_role", false),
        (Self::SIBLING, "same_stream_there", false),
    ];

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// All codes, the engine's own included.
    pub fn codes(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(reason, ..)| self.has(*reason))
            .map(|(_, code, _)| code)
    }

    /// Only the codes that the reference's `node_layout_decisions` may hold.
    pub fn public_codes(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(reason, _, public)| *public && self.has(*reason))
            .map(|(_, code, _)| code)
    }
}

impl std::ops::BitOr for Reasons {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Reasons {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.codes()).finish()
    }
}

/// How full a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// The fullest of channels, bandwidth and disk.
    #[default]
    Dominant,
    /// Channels only, as the reference documents it.
    Channels,
}

/// The knobs. They take effect with [`Event::Settings`], while running.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own that an operator sets"
)]
pub struct Settings {
    pub balance: Balance,
    /// Share of `bandwidth_kbps` that may be used, permille.
    pub bandwidth_permille: u32,
    /// Share of `disk_bytes` that may be used, permille.
    pub disk_permille: u32,
    /// Assumed of streams that claim nothing and were not measured.
    pub kbps_default: u32,
    pub backups_count_as_channels: bool,
    /// Label key whose value names what fails together; backups prefer another value than their stream's other copies.
    pub failure_domain_key: Option<Arc<str>>,
    /// A lost ingest goes to where its backup is, so that the archive continues.
    pub failover_to_backup: bool,
    pub failback: bool,
    pub rebalance: bool,
    /// Balancing of a node begins at this distance to the coolest node that one of its streams may go to, permille of load.
    pub gap_start_permille: u32,
    /// And ends at this one.
    pub gap_stop_permille: u32,
    /// A difference of fewer channels is never worth a move.
    pub gap_channels_min: u32,
    /// Nodes fuller than this are not given streams for their labels alone, permille.
    pub upgrade_load_max_permille: u32,
    /// Preferred nodes are filled up to here while others have room, permille; 1000: to the brim.
    pub prefer_load_max_permille: u32,
    /// Longest chain of moves that makes room for one stream; 0: none.
    pub chain_depth_max: u32,
    pub chain_tries_max: u32,
    /// The pause between ticks that budgets are meant for.
    pub interval_ms: u64,
    pub make_room_moves_max: u32,
    pub restore_moves_max: u32,
    pub restore_moves_per_node_max: u32,
    /// Of all streams, per interval, parts per 10,000; never fewer than `optional_moves_min`.
    pub preferred_moves_per_myriad: u32,
    pub rebalance_moves_per_myriad: u32,
    pub optional_moves_min: u32,
    pub rebalance_moves_per_node_max: u32,
    /// A stream moved for balance, or placed by hand, is left alone by balancing for so long.
    pub rebalance_exempt_ms: u64,
    /// No optional moves while more than this share of the streams is in flight, permille.
    pub in_flight_permille_max: u32,
    /// A move that its node has not confirmed after so long is no longer counted as in flight.
    pub in_flight_ms_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            balance: Balance::Dominant,
            bandwidth_permille: 900,
            disk_permille: 900,
            kbps_default: 2000,
            backups_count_as_channels: true,
            failure_domain_key: None,
            failover_to_backup: false,
            failback: true,
            rebalance: true,
            gap_start_permille: 100,
            gap_stop_permille: 50,
            gap_channels_min: 2,
            upgrade_load_max_permille: 970,
            prefer_load_max_permille: 1000,
            chain_depth_max: 3,
            chain_tries_max: 64,
            interval_ms: 30_000,
            make_room_moves_max: 500,
            restore_moves_max: 500,
            restore_moves_per_node_max: 100,
            preferred_moves_per_myriad: 50,
            rebalance_moves_per_myriad: 50,
            optional_moves_min: 10,
            rebalance_moves_per_node_max: 50,
            rebalance_exempt_ms: 600_000,
            in_flight_permille_max: 50,
            in_flight_ms_max: 60_000,
        }
    }
}
