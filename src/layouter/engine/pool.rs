//! Pools: the node classes that slots of a stream class may be placed on, best score first.
//!
//! Stream classes that differ only in what they prefer may go to the same nodes. These are found
//! once, as [`EligibleNodes`]; a pool is a copy of them, from which the node classes with a label
//! that the stream class mentions are taken and put into better tiers. So a pool costs what those
//! few node classes cost, however many classes there are.

use std::sync::Arc;

use super::class::{Classes, NONE, SHARED_SCORE, SlotDemand, StreamClass, static_reasons};
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

fn add_to_runs(runs: &mut Vec<(u32, u32)>, number: u32) {
    match runs.last_mut() {
        Some(last) if last.1 == number => last.1 = number + 1,
        _ => runs.push((number, number + 1)),
    }
}

/// The parts of ascending `runs` without the ascending `numbers`.
fn without(runs: &[(u32, u32)], numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
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
    demand: Arc<SlotDemand>,
    runs: Vec<(u32, u32)>,
    /// Node classes from this number on were not compared yet.
    until: u32,
    /// Gain epoch and need of the last search for a chain of moves that failed.
    pub hopeless: Option<(u64, Need)>,
}

impl Classes {
    /// The pool of a class, with all node classes there are. If a new one is the best, the class is
    /// noted as promoted.
    pub fn pool(&mut self, class: u32) -> &Arc<NodePool> {
        let until = self.node_classes.len() as u32;
        let entry = self.classes.get(class);
        if entry.pool.is_none() || entry.pool_until != until || entry.eligible == NONE {
            let eligible = self.eligible_of(class);
            let demand = self.classes.get(class).demand.clone();
            let pool = self.make_pool(&demand, eligible);
            let entry = self.classes.get_mut(class);
            let before = entry.pool.as_ref().map(|pool| pool.best_score());
            if before.is_some_and(|before| pool.best_score() > before) {
                self.promoted.insert(class);
            }
            entry.pool = Some(Arc::new(pool));
            entry.pool_until = until;
        }
        let pool = self.classes.get(class).pool.as_ref();
        pool.expect("it was just computed")
    }

    /// Brings the pools of all classes up to date, so that `promoted` is complete.
    pub fn look_at_new_offers(&mut self) {
        if !std::mem::take(&mut self.has_new_offers) {
            return;
        }
        for class in 0..self.classes.len() as u32 {
            let StreamClass { pool, demands, .. } = self.classes.get(class);
            if pool.is_some() && *demands > 0 {
                self.pool(class);
            }
        }
    }

    /// The number of the [`EligibleNodes`] of a class, which are brought up to date.
    pub fn eligible_of(&mut self, class: u32) -> u32 {
        let StreamClass {
            eligible, demand, ..
        } = self.classes.get(class);
        let mut id = *eligible;
        if id == NONE {
            let required = |label: &&u32| self.is_required(**label);
            let key = SlotDemand {
                labels: demand.labels.iter().filter(required).copied().collect(),
                requires: demand.requires.clone(),
                prefers: Vec::new(),
                ..**demand
            };
            id = match self.eligible_ids.get(&key) {
                Some(id) => *id,
                None => {
                    let id = self.eligible.len() as u32;
                    self.eligible.push(EligibleNodes {
                        demand: Arc::new(key.clone()),
                        ..EligibleNodes::default()
                    });
                    self.eligible_ids.insert(key, id);
                    id
                }
            };
            self.classes.get_mut(class).eligible = id;
        }
        self.update_eligible(id);
        id
    }

    /// Compares the node classes that are new: those with the rarest required label, or all of the
    /// role and namespace.
    fn update_eligible(&mut self, id: u32) {
        let until = self.node_classes.len() as u32;
        let EligibleNodes {
            demand,
            until: from,
            ..
        } = self.eligible.get(id);
        let (demand, from) = (demand.clone(), *from);
        if from == until {
            return;
        }
        let rarest = demand.requires.iter().map(|label| self.carriers(*label));
        let rarest = rarest.min_by_key(|carriers| carriers.len());
        let all = || self.by_place.get(&(demand.role, demand.namespace));
        let numbers = rarest.or_else(|| all().map(Vec::as_slice)).unwrap_or(&[]);
        let numbers = &numbers[numbers.partition_point(|number| *number < from)..];
        let compared = numbers.len() as u64;
        let fits = |number: &&u32| {
            let class = &self.node_classes[**number as usize];
            static_reasons(&demand, class).is_empty()
        };
        let found: Vec<u32> = numbers.iter().filter(fits).copied().collect();
        self.compared += compared;
        let entry = self.eligible.get_mut(id);
        for number in found {
            add_to_runs(&mut entry.runs, number);
        }
        entry.until = until;
    }

    fn make_pool(&mut self, demand: &SlotDemand, eligible: u32) -> NodePool {
        let mut parts: Vec<(u32, u16)> = Vec::new();
        for (label, weight) in &demand.prefers {
            parts.extend(
                self.carriers(*label)
                    .iter()
                    .map(|number| (*number, *weight)),
            );
        }
        for label in &demand.labels {
            let carriers = self.carriers(*label).iter();
            parts.extend(carriers.map(|number| (*number, SHARED_SCORE)));
        }
        parts.sort_unstable();
        let runs = &self.eligible.get(eligible).runs;
        self.compared += (parts.len() + runs.len()) as u64;
        let mut scored: Vec<(u32, u16)> = Vec::new();
        for (number, part) in parts {
            match scored.last_mut() {
                Some(last) if last.0 == number => last.1 = last.1.saturating_add(part),
                _ => scored.push((number, part)),
            }
        }
        let is_eligible = |number: u32| {
            let next = runs.partition_point(|(low, _)| *low <= number);
            next > 0 && number < runs[next - 1].1
        };
        let mut pool = NodePool::default();
        for (number, score) in &scored {
            if is_eligible(*number) {
                pool.add(*score, *number);
            }
        }
        let runs = without(runs, scored.iter().map(|(number, _)| *number));
        if !runs.is_empty() {
            pool.tiers.push(PoolTier { score: 0, runs });
        }
        pool
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
