//! Reasons: why a slot moved, and why a node cannot take a slot.
//!
//! The codes are part of the API; [`MoveReason::change_reason`] and [`Reasons::public_codes`]
//! return only codes that its closed lists have.

use std::fmt;

/// Why a slot moved, for the log and the metrics, most important first.
/// [`MoveReason::change_reason`] is the public code, where there is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum MoveReason {
    Namespace,
    NodeMissesLabels,
    StreamMissesLabels,
    NodeDeleted,
    NodeOffline,
    /// The node's role changed, or its DVR storage was removed.
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
    /// The stream ended one node after the other.
    Quarantined,
    /// Displaced so that a slot without a node gets one.
    MakeRoom,
    Preferred,
    /// Its node is emptied for maintenance.
    Drain,
    Restore,
    Rebalance,
}

impl MoveReason {
    pub const ALL: [Self; 21] = [
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
        Self::Quarantined,
        Self::MakeRoom,
        Self::Preferred,
        Self::Drain,
        Self::Restore,
        Self::Rebalance,
    ];

    /// The public code. Absent where the API's closed list has none: clients validate against that
    /// list.
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
            Self::Role
            | Self::Transcoding
            | Self::Quarantined
            | Self::Drain
            | Self::Restore
            | Self::Rebalance => return None,
        })
    }

    /// Short name for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Role => "node_role_changed",
            Self::Transcoding => "node_not_available_for_transcoding",
            Self::MakeRoom => "make_room",
            Self::Quarantined => "quarantined",
            Self::Drain => "drain",
            Self::Restore => "restore",
            Self::Rebalance => "rebalance",
            other => other
                .change_reason()
                .expect("the others have a public code"),
        }
    }

    /// False for moves that only improve the layout: they are written after all others.
    pub fn urgent(self) -> bool {
        !matches!(
            self,
            Self::Preferred | Self::Drain | Self::Restore | Self::Rebalance
        )
    }

    /// True for moves for wishes, back to a node that returned, and for balance, which may be
    /// paused. A drain is the wish of an operator.
    pub fn improves(self) -> bool {
        matches!(self, Self::Preferred | Self::Restore | Self::Rebalance)
    }
}

/// Counts by [`MoveReason`], in the order of [`MoveReason::ALL`].
pub type DecisionCounts = [u64; MoveReason::ALL.len()];

/// Why a node cannot take a slot: a set, because all reasons are reported.
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
    /// The node has another slot of the same stream.
    pub const SIBLING: Self = Self(1 << 10);
    /// The node is in maintenance.
    pub const CORDONED: Self = Self(1 << 11);

    const NAMES: [(Self, &'static str, bool); 12] = [
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
        (Self::CPU, "node_cpu_pressure", true),
        (Self::ROLE, "node_role", true),
        (Self::SIBLING, "holds_another_copy", true),
        (Self::CORDONED, "node_cordoned", true),
    ];

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn has_all(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// All codes, internal ones included.
    pub fn codes(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(reason, ..)| self.has(*reason))
            .map(|(_, code, _)| code)
    }

    /// Only the codes that `node_layout_decisions` of the API may hold.
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
