//! How the pools of classes are made and kept up to date.

use std::sync::Arc;

use super::class::{Classes, NONE, SHARED_SCORE, SlotDemand, StreamClass, static_reasons};
use super::pool::{EligibleNodes, NodePool, PoolTier, add_to_runs, without};

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
                self.offers.promoted.insert(class);
            }
            entry.pool = Some(Arc::new(pool));
            entry.pool_until = until;
        }
        let pool = self.classes.get(class).pool.as_ref();
        pool.expect("it was just computed")
    }

    /// Brings the pools of all classes up to date, so that `promoted` is complete.
    pub fn look_at_new_offers(&mut self) {
        if !std::mem::take(&mut self.offers.are_new) {
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
            id = match self.eligible.ids.get(&key) {
                Some(id) => *id,
                None => {
                    let id = self.eligible.all.len() as u32;
                    self.eligible.all.push(EligibleNodes {
                        demand: Arc::new(key.clone()),
                        ..EligibleNodes::default()
                    });
                    self.eligible.ids.insert(key, id);
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
        } = self.eligible.all.get(id);
        let (demand, from) = (demand.clone(), *from);
        if from == until {
            return;
        }
        let rarest = demand.requires.iter().map(|label| self.carriers(*label));
        let rarest = rarest.min_by_key(|carriers| carriers.len());
        let all = || {
            self.node_table
                .by_place
                .get(&(demand.role, demand.namespace))
        };
        let numbers = rarest.or_else(|| all().map(Vec::as_slice)).unwrap_or(&[]);
        let numbers = &numbers[numbers.partition_point(|number| *number < from)..];
        let compared = numbers.len() as u64;
        let fits = |number: &&u32| {
            let class = &self.node_classes[**number as usize];
            static_reasons(&demand, class).is_empty()
        };
        let found: Vec<u32> = numbers.iter().filter(fits).copied().collect();
        self.compared += compared;
        let entry = self.eligible.all.get_mut(id);
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
        let runs = &self.eligible.all.get(eligible).runs;
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
