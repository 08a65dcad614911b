//! Settings of the engine and their defaults.

use std::sync::Arc;

/// How the load of a node is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// The largest of the loads of channels, bandwidth and disk.
    #[default]
    Dominant,
    /// The load of channels only.
    Channels,
}

/// Settings of the engine. They can change at run time, with [`Event::Settings`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent switches that an operator sets"
)]
pub struct EngineSettings {
    pub balance: Balance,
    /// Usable share of `bandwidth_kbps`, permille.
    pub bandwidth_permille: u32,
    /// Usable share of `disk_bytes`, permille.
    pub disk_permille: u32,
    /// Assumed for streams without a claim and without a measurement.
    pub kbps_default: u32,
    pub backups_count_as_channels: bool,
    /// Nodes with equal values of this label fail together; backups prefer other values than those
    /// of their stream's other slots.
    pub failure_domain_key: Option<Arc<str>>,
    /// A lost ingest moves to the node of its backup, which has the archive.
    pub failover_to_backup: bool,
    pub failback: bool,
    pub rebalance: bool,
    /// False while moves that only improve the layout are paused: fail-backs, wishes and balance.
    pub improves: bool,
    /// Pause between ticks; the budgets are per interval.
    pub interval_ms: u64,
    pub thresholds: Thresholds,
    pub budgets: MoveBudgets,
}

/// When optional moves are worth it, and how far making room goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// Balancing of a node starts at this gap to the least loaded node that one of its streams may
    /// go to, permille of load.
    pub gap_start_permille: u32,
    /// Balancing stops at this gap.
    pub gap_stop_permille: u32,
    /// Smaller gaps in channels are never worth a move.
    pub gap_channels_min: u32,
    /// Between nodes without a stated channel limit: balancing starts at this gap in channels,
    /// permille of the mean of both nodes.
    pub gap_counts_start_permille: u32,
    /// Balancing stops at this gap.
    pub gap_counts_stop_permille: u32,
    /// Nodes with more load get no streams only because of preferred labels, permille.
    pub upgrade_load_max_permille: u32,
    /// Preferred nodes are filled up to this load while others have room, permille; 1000:
    /// completely.
    pub prefer_load_max_permille: u32,
    /// Longest chain of moves that makes room for one stream; 0: none.
    pub chain_depth_max: u32,
    /// Searches for a chain per slot, and per tick.
    pub chain_tries_max: u32,
}

/// Upper bounds of moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveBudgets {
    pub make_room_moves_max: u32,
    pub restore_moves_max: u32,
    pub restore_moves_per_node_max: u32,
    /// Share of all streams per interval, in parts per 10,000, but at least `optional_moves_min`.
    pub preferred_moves_per_myriad: u32,
    pub rebalance_moves_per_myriad: u32,
    pub optional_moves_min: u32,
    pub rebalance_moves_per_node_max: u32,
    /// A stream that was moved for a wish or for balance, or restored, is exempt from further such
    /// moves this long; one that an operator placed, from those for balance.
    pub exempt_ms: u64,
    /// Share of all streams that moves for wishes and for balance may interrupt per hour, permille,
    /// but at least `improving_moves_min`.
    pub improving_permille_per_hour: u32,
    pub improving_moves_min: u32,
    /// No optional moves while more than this share of the streams is in flight, permille.
    pub in_flight_permille_max: u32,
    /// A move that was not confirmed after this time no longer counts as in flight.
    pub in_flight_ms_max: u64,
}

impl Default for EngineSettings {
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
            improves: true,
            interval_ms: 30_000,
            thresholds: Thresholds::default(),
            budgets: MoveBudgets::default(),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            gap_start_permille: 100,
            gap_stop_permille: 50,
            gap_channels_min: 2,
            gap_counts_start_permille: 250,
            gap_counts_stop_permille: 125,
            upgrade_load_max_permille: 970,
            prefer_load_max_permille: 1000,
            chain_depth_max: 8,
            chain_tries_max: 64,
        }
    }
}

impl Default for MoveBudgets {
    fn default() -> Self {
        Self {
            make_room_moves_max: 500,
            restore_moves_max: 500,
            restore_moves_per_node_max: 100,
            preferred_moves_per_myriad: 50,
            rebalance_moves_per_myriad: 50,
            optional_moves_min: 10,
            rebalance_moves_per_node_max: 50,
            exempt_ms: 600_000,
            improving_permille_per_hour: 200,
            improving_moves_min: 100,
            in_flight_permille_max: 50,
            in_flight_ms_max: 60_000,
        }
    }
}
