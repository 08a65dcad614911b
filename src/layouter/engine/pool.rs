//! Pools: the node classes that slots of a stream class may be placed on, best score first.
//!
//! Stream classes that differ only in what they prefer may go to the same nodes. These are found
//! once, as [`EligibleNodes`]; a pool is a copy of them, from which the node classes with a label
//! that the stream class mentions are taken and put into better tiers. So a pool costs what those
//! few node classes cost, however many classes there are.

use std::sync::Arc;

use super::cow::{CowMap, CowVec};
use super::demand::SlotDemand;
use super::tree::Need;

/// Node classes of equal score, as runs `[low, high)` of their numbers.
#[derive(Clone, Debug)]
pub struct PoolTier {
    pub score: u16,
    pub runs: Vec<(u32, u32)>,
}

/// The node classes that a stream class may be placed on, best score first.
#[derive(Clone, Debug, Default)]
pub struct NodePool {
    pub tiers: Vec<PoolTier>,
}

impl NodePool {
    pub fn best_score(&self) -> u16 {
        self.tiers.first().map_or(0, |tier| tier.score)
    }

    /// Adds a node class. Numbers must come in ascending order within a score.
    pub fn add(&mut self, score: u16, number: u32) {
        match self.tiers.binary_search_by(|tier| score.cmp(&tier.score)) {
            Ok(i) => add_to_runs(&mut self.tiers[i].runs, number),
            Err(i) => {
                let runs = vec![(number, number + 1)];
                self.tiers.insert(i, PoolTier { score, runs });
            }
        }
    }
}

pub(super) fn add_to_runs(runs: &mut Vec<(u32, u32)>, number: u32) {
    match runs.last_mut() {
        Some(last) if last.1 == number => last.1 = number + 1,
        _ => runs.push((number, number + 1)),
    }
}

/// The parts of ascending `runs` without the ascending `numbers`.
pub(super) fn without(runs: &[(u32, u32)], numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut rest = Vec::with_capacity(runs.len());
    let mut numbers = numbers.peekable();
    for (low, high) in runs {
        let mut from = *low;
        while let Some(number) = numbers.next_if(|number| number < high) {
            if number < from {
                continue;
            }
            if from < number {
                rest.push((from, number));
            }
            from = number + 1;
        }
        if from < *high {
            rest.push((from, *high));
        }
    }
    rest
}

/// The node classes that all demands with equal requirements may go to, whatever they prefer.
#[derive(Clone, Default)]
pub struct EligibleNodes {
    /// Without preferences, and without labels that no node requires.
    pub demand: Arc<SlotDemand>,
    pub runs: Vec<(u32, u32)>,
    /// Node classes from this number on were not compared yet.
    pub until: u32,
    /// Gain epoch and need of the last search for a chain of moves that failed.
    pub hopeless: Option<(u64, Need)>,
}

/// All [`EligibleNodes`] by number.
#[derive(Clone)]
pub struct EligibleTable {
    pub ids: CowMap<SlotDemand, u32, 256>,
    pub all: CowVec<EligibleNodes, 64>,
}

impl EligibleTable {
    pub fn new() -> Self {
        Self {
            ids: CowMap::new(),
            all: CowVec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_cut_out_of_runs() {
        let cut = |numbers: &[u32]| without(&[(2, 6), (8, 9), (12, 14)], numbers.iter().copied());
        assert_eq!(cut(&[]), [(2, 6), (8, 9), (12, 14)]);
        assert_eq!(cut(&[0, 2, 5, 7, 8, 13, 20]), [(3, 5), (12, 13)]);
        assert_eq!(cut(&[3, 4, 12, 13]), [(2, 3), (5, 6), (8, 9)]);
    }
}
