//! What is compared. A group is a set of items that share their servers; each file is one group.

mod answers;
mod cluster;
mod durable;
mod get;
mod parked;
mod streamers;

use crate::figures::{Row, Spread, rate};
use crate::load::Sample;
use crate::{Bench, Failure};

/// Measures the selected items and appends their rows.
type Run = fn(&Bench, &[&'static str], &mut Vec<Row>) -> Result<(), Failure>;

pub struct Group {
    pub items: &'static [&'static str],
    /// Makes sense with a peer in the place of Weir.
    pub self_test: bool,
    pub run: Run,
}

pub const GROUPS: &[Group] = &[
    Group {
        items: &["P1", "P2", "P3", "P4"],
        self_test: true,
        run: get::run,
    },
    Group {
        items: &["P5", "P6", "P8"],
        self_test: true,
        run: parked::run,
    },
    Group {
        items: &["P7"],
        self_test: false,
        run: streamers::run,
    },
    Group {
        items: &["P9", "P9b", "P10"],
        self_test: true,
        run: durable::run,
    },
    Group {
        items: &["P11", "P12", "P13"],
        self_test: false,
        run: answers::run,
    },
    Group {
        items: &["P14", "P15", "P16"],
        self_test: false,
        run: cluster::run,
    },
];

/// Candidate / peer of each pair.
fn ratios<T>(pairs: &[(T, T)], of: impl Fn(&T) -> f64) -> Vec<f64> {
    pairs
        .iter()
        .map(|(candidate, peer)| of(candidate) / of(peer))
        .collect()
}

/// Medians of both sides, for the notes.
fn medians<T>(pairs: &[(T, T)], of: impl Fn(&T) -> f64) -> (f64, f64) {
    (
        Spread::of(pairs.iter().map(|pair| of(&pair.0))).median,
        Spread::of(pairs.iter().map(|pair| of(&pair.1))).median,
    )
}

/// The kernel's part of the candidate's busy time, pair by pair.
fn kernel_shares(pairs: &[(Sample, Sample)]) -> Vec<f64> {
    pairs
        .iter()
        .map(|(candidate, _)| candidate.busy.kernel_share())
        .collect()
}

/// Absolute figures of a closed-loop comparison in one line.
fn rates_note(pairs: &[(Sample, Sample)], names: (&str, &str)) -> String {
    let busy = medians(pairs, Sample::per_busy_second);
    let wall = medians(pairs, Sample::per_second);
    let share = medians(pairs, |sample| sample.busy.server / sample.wall);
    let generator = medians(pairs, Sample::generator_share);
    let kernel = medians(pairs, |sample| sample.busy.kernel_share());
    format!(
        "{}: {} per busy s, {}/s, core {:.0} % busy ({:.0} % of it kernel), generator \
         {:.0} %; {}: {} per busy s, {}/s, core {:.0} % ({:.0} % kernel), generator {:.0} %",
        names.0,
        rate(busy.0),
        rate(wall.0),
        share.0 * 100.0,
        kernel.0 * 100.0,
        generator.0 * 100.0,
        names.1,
        rate(busy.1),
        rate(wall.1),
        share.1 * 100.0,
        kernel.1 * 100.0,
        generator.1 * 100.0,
    )
}
