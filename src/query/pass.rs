//! A pass over all documents: what it looks for, and what it has found.
//!
//! A pass may be made in parts, by several threads, each with findings of its own. Merged they
//! equal those of one thread that reads all documents.

use std::cmp::Ordering;

use super::Query;
use super::model::{ScanPosition, Source};
use super::order::Position;
use super::visit::visit;

/// One pass over all documents of an execution. Its parts may be read by several threads.
pub struct Pass<Q> {
    pub(super) query: Q,
    /// Absent in the first pass, which finds the best positions. The second one finds the documents
    /// after this position that share its first value.
    pub(super) group_end: Option<Position>,
}

/// What a pass has found in the documents that were read.
pub struct Findings {
    /// Documents that pass the filters.
    pub(super) matched: u64,
    /// Whether some of them are at or before the position of the cursor.
    pub(super) has_before: bool,
    /// Whether some come after the group.
    pub(super) has_after: bool,
    pub(super) best: BestPositions,
    /// Documents that share the first value of the last position of a page.
    pub(super) group: Vec<Position>,
}

/// Keeps the first positions, in the order of the query, of all that are offered.
///
/// A buffer of twice the wanted size is cut in half when full: constant time per position even if
/// each comes before all earlier ones.
pub(super) struct BestPositions {
    wanted: usize,
    pub positions: Vec<Position>,
    /// The last of the first `wanted` is at their end; a position after it needs not be offered.
    bounded: bool,
    /// Memory for them, in bytes.
    pub held_bytes: usize,
}

impl BestPositions {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            positions: Vec::new(),
            bounded: false,
            held_bytes: 0,
        }
    }

    fn worst(&self) -> Option<&Position> {
        if self.bounded {
            self.positions.get(self.wanted - 1)
        } else {
            None
        }
    }

    fn offer(&mut self, position: Position, query: &Query) {
        self.held_bytes += bytes_of(&position);
        self.positions.push(position);
        if self.positions.len() >= self.wanted.saturating_mul(2).max(64) {
            self.cut(query);
        }
    }

    fn cut(&mut self, query: &Query) {
        if self.positions.len() > self.wanted {
            self.positions
                .select_nth_unstable_by(self.wanted - 1, |a, b| query.order_of_positions(a, b));
            self.positions.truncate(self.wanted);
            self.bounded = true;
            self.held_bytes = self.positions.iter().map(bytes_of).sum();
        }
    }
}

fn bytes_of(position: &Position) -> usize {
    size_of::<Position>() + position.held_bytes()
}

impl Findings {
    /// Of a pass that has read nothing.
    pub fn new(query: &Query) -> Self {
        Self {
            matched: 0,
            has_before: false,
            has_after: false,
            best: BestPositions::new(query.limit.saturating_add(1)),
            group: Vec::new(),
        }
    }

    /// Memory for positions, in bytes.
    pub fn held_bytes(&self) -> usize {
        let group = self.group.capacity() * size_of::<Position>();
        self.best.held_bytes + group
    }

    /// Adds what was found in other documents.
    pub fn merge(&mut self, other: Self, query: &Query) {
        self.matched += other.matched;
        self.has_before |= other.has_before;
        self.has_after |= other.has_after;
        for position in other.best.positions {
            self.best.offer(position, query);
        }
        self.group.extend(other.group);
    }

    /// Reads up to `budget` more documents for the best positions; returns true at the end.
    pub(super) fn select<S: Source>(
        &mut self,
        query: &Query,
        source: &S,
        scanned: &mut ScanPosition,
        budget: usize,
    ) -> bool {
        visit(query, source, scanned, budget, &mut |document| {
            if !query.passes(&document) {
                return;
            }
            self.matched += 1;
            let first = query.first_value(&document);
            if let Some(position) = &query.position
                && query.order(&document, &first, position) != Ordering::Greater
            {
                self.has_before = true;
                return;
            }
            if let Some(worst) = self.best.worst()
                && query.order(&document, &first, worst) != Ordering::Less
            {
                return;
            }
            let position = query.position_of(&document, &first);
            self.best.offer(position, query);
        })
    }

    /// Reads up to `budget` more documents for those after `end` with its first value; returns true
    /// at the end.
    pub(super) fn complete_group<S: Source>(
        &mut self,
        (query, end): (&Query, &Position),
        source: &S,
        scanned: &mut ScanPosition,
        budget: usize,
    ) -> bool {
        visit(query, source, scanned, budget, &mut |document| {
            let first = query.first_value(&document);
            if query.order(&document, &first, end) != Ordering::Greater || !query.passes(&document)
            {
                return;
            }
            if end.values[0] == first {
                self.group.push(query.position_of(&document, &first));
            } else {
                self.has_after = true;
            }
        })
    }
}

impl<Q: std::ops::Deref<Target = Query>> Pass<Q> {
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Findings for a thread that reads some of the parts.
    pub fn findings(&self) -> Findings {
        Findings::new(&self.query)
    }

    /// Reads up to `budget` more documents; returns true at the end of the part at `position`, or
    /// of all documents. All parts must read the same revision.
    pub fn step<S: Source>(
        &self,
        found: &mut Findings,
        source: &S,
        position: &mut ScanPosition,
        budget: usize,
    ) -> bool {
        match &self.group_end {
            None => found.select(&self.query, source, position, budget),
            Some(end) => {
                let query = (&*self.query, end);
                found.complete_group(query, source, position, budget)
            }
        }
    }
}
