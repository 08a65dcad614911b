//! Execution: answers one query from one revision, slice by slice.
//!
//! A list in key order without filters is read directly. Any other is scanned once for the best
//! positions, which are then sorted and rendered; a page that ends within a stamp is completed by a
//! second scan.

use std::cmp::Ordering;
use std::ops::Bound;
use std::time::Instant;

use super::Query;
use super::model::{Document, ScanPosition, Source};
use super::order::{Position, SortValue};
use super::page::{Page, Timing, reversed_list};
use crate::json::write_string;

/// Answers one query from one revision, slice by slice.
pub struct Execution<Q> {
    query: Q,
    phase: ExecutionPhase,
    scanned: ScanPosition,
    /// Documents that pass the filters.
    matched: u64,
    /// Whether some of them are at or before the position of the cursor.
    has_before: bool,
    /// Whether some of them come after the page.
    has_after: bool,
    best: BestPositions,
    /// Documents beyond the limit that share the stamp of the page's last document.
    group: Vec<Position>,
    first: Option<Position>,
    last: Option<Position>,
    /// The beginning of the body with the rendered documents, and where each of them ends.
    list: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes of the body that were taken before those of `list`.
    taken: usize,
    /// The page ends with the document that reaches this size.
    page_bytes_max: usize,
    timing: Timing,
}

enum ExecutionPhase {
    /// Reads the page itself, in key order.
    ReadInOrder,
    /// Scans every document that may match.
    Scan,
    Sort,
    /// Scans again, for the documents that share the last stamp.
    CompleteGroup,
    /// Renders, from the n-th document of the page.
    Render(usize),
    Finished,
}

/// Keeps the first positions, in the order of the query, of all that are offered.
///
/// A buffer of twice the wanted size is cut in half when full: constant time per position even if
/// each comes before all earlier ones.
struct BestPositions {
    wanted: usize,
    positions: Vec<Position>,
    /// The last of the first `wanted` is at their end; a position after it needs not be offered.
    bounded: bool,
    /// Memory for them, in bytes.
    held_bytes: usize,
}

impl BestPositions {
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

impl<Q: std::ops::Deref<Target = Query>> Execution<Q> {
    pub fn new(query: Q) -> Self {
        let phase = if query.is_selective() || query.sort.len() > 1 {
            ExecutionPhase::Scan
        } else {
            ExecutionPhase::ReadInOrder
        };
        let mut list = Vec::with_capacity(4096);
        list.push(b'{');
        write_string(&mut list, query.kind.collection);
        list.extend_from_slice(b":[");
        let wanted = query.limit.saturating_add(1);
        Execution {
            query,
            phase,
            scanned: ScanPosition::default(),
            matched: 0,
            has_before: false,
            has_after: false,
            best: BestPositions {
                wanted,
                positions: Vec::new(),
                bounded: false,
                held_bytes: 0,
            },
            group: Vec::new(),
            first: None,
            last: None,
            list,
            ends: Vec::new(),
            taken: 0,
            page_bytes_max: usize::MAX,
            timing: Timing::default(),
        }
    }

    /// Ends the page with the document that reaches this many bytes, too; `next` leads on.
    #[must_use]
    pub fn with_page_bytes(mut self, page_bytes_max: usize) -> Self {
        self.page_bytes_max = page_bytes_max;
        self
    }

    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Bytes of the body that are rendered and not taken. 0 if it is not rendered in its order.
    pub fn rendered_bytes(&self) -> usize {
        if self.query.reversed {
            0
        } else {
            self.list.len()
        }
    }

    /// Takes them. The page then has the rest of the body only.
    pub fn take_rendered(&mut self) -> Vec<u8> {
        self.taken += self.list.len();
        std::mem::take(&mut self.list)
    }

    /// Memory for the positions of the page and for what is rendered of it, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.best.held_bytes + self.list.capacity()
    }

    /// The part of it for the positions alone.
    pub fn position_bytes(&self) -> usize {
        self.best.held_bytes
    }

    /// Reads up to `budget` more documents. Returns the page when all is done; it must not be
    /// called again then.
    pub fn step<S: Source>(&mut self, source: &S, budget: usize) -> Option<Page> {
        // Rendering a document costs about as much as filtering several.
        const RENDER_COST: usize = 4;
        let started = Instant::now();
        match self.phase {
            ExecutionPhase::ReadInOrder => {
                self.read_page(source, budget / RENDER_COST + 1);
                self.timing.select += started.elapsed();
            }
            ExecutionPhase::Scan => {
                self.scan(source, budget);
                self.timing.filter += started.elapsed();
            }
            ExecutionPhase::Sort => {
                self.sort();
                self.timing.sort += started.elapsed();
            }
            ExecutionPhase::CompleteGroup => {
                self.complete_group(source, budget);
                self.timing.limit += started.elapsed();
            }
            ExecutionPhase::Render(from) => {
                self.render(source, from, budget / RENDER_COST + 1);
                self.timing.select += started.elapsed();
            }
            ExecutionPhase::Finished => {}
        }
        matches!(self.phase, ExecutionPhase::Finished).then(|| self.page())
    }

    /// Runs all slices at once. For small lists.
    pub fn run<S: Source>(mut self, source: &S) -> Page {
        loop {
            if let Some(page) = self.step(source, usize::MAX) {
                return page;
            }
        }
    }

    fn read_page<S: Source>(&mut self, source: &S, budget: usize) {
        let descending = self.query.key_descending();
        if self.last.is_none() {
            self.matched = source.count();
            if let Some(position) = &self.query.position {
                let before = Bound::Included(&*position.key);
                self.has_before = if descending {
                    source.ascending(before).next().is_some()
                } else {
                    source.descending(before).next().is_some()
                };
            }
        }
        let from = self.last.clone().or_else(|| self.query.position.clone());
        let bound = from
            .as_ref()
            .map_or(Bound::Unbounded, |from| Bound::Excluded(&*from.key));
        if descending {
            self.take(source.descending(bound), budget);
        } else {
            self.take(source.ascending(bound), budget);
        }
    }

    fn take<D: Document>(&mut self, documents: impl Iterator<Item = D>, budget: usize) {
        let mut last: Option<D> = None;
        self.phase = ExecutionPhase::Finished;
        for (taken, document) in documents.enumerate() {
            if self.ends.len() == self.query.limit || self.is_large_enough() {
                self.has_after = true;
                break;
            }
            if taken == budget {
                self.phase = ExecutionPhase::ReadInOrder;
                break;
            }
            if self.ends.is_empty() {
                self.first = Some(self.query.position_of(&document, &SortValue::Absent));
            }
            self.add(&document);
            last = Some(document);
        }
        if let Some(document) = last {
            self.last = Some(self.query.position_of(&document, &SortValue::Absent));
        }
    }

    fn scan<S: Source>(&mut self, source: &S, budget: usize) {
        let query = &*self.query;
        let done = visit(query, source, &mut self.scanned, budget, &mut |document| {
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
        });
        if done {
            self.phase = ExecutionPhase::Sort;
        }
    }

    fn sort(&mut self) {
        let query = &*self.query;
        let page = &mut self.best.positions;
        page.sort_unstable_by(|a, b| query.order_of_positions(a, b));
        self.has_after = page.len() > query.limit;
        self.phase = ExecutionPhase::Render(0);
        if self.has_after {
            let limit = query.limit;
            if self.is_within_group(limit) {
                self.has_after = false;
                self.scanned = ScanPosition::default();
                self.phase = ExecutionPhase::CompleteGroup;
            }
            self.best.positions.truncate(limit);
        }
    }

    fn complete_group<S: Source>(&mut self, source: &S, budget: usize) {
        let query = &*self.query;
        let end = self.best.positions.last().expect("a group has a beginning");
        let done = visit(query, source, &mut self.scanned, budget, &mut |document| {
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
        });
        if done {
            self.group
                .sort_unstable_by(|a, b| query.order_of_positions(a, b));
            self.best.positions.append(&mut self.group);
            self.phase = ExecutionPhase::Render(0);
        }
    }

    fn render<S: Source>(&mut self, source: &S, from: usize, budget: usize) {
        let to = self.best.positions.len().min(from.saturating_add(budget));
        for i in from..to {
            if self.is_large_enough() && !self.is_within_group(i) {
                self.best.positions.truncate(i);
                self.has_after = true;
                break;
            }
            // It exists, because all slices read one revision.
            if let Some(document) = source.get(&self.best.positions[i].key) {
                self.add(&document);
            }
        }
        if to < self.best.positions.len() {
            self.phase = ExecutionPhase::Render(to);
            return;
        }
        let mut positions = std::mem::take(&mut self.best.positions);
        if positions.len() > 1 {
            self.last = positions.pop();
            self.first = Some(positions.swap_remove(0));
        } else {
            self.first = positions.pop();
            self.last.clone_from(&self.first);
        }
        self.phase = ExecutionPhase::Finished;
    }

    fn is_large_enough(&self) -> bool {
        !self.ends.is_empty() && self.taken + self.list.len() >= self.page_bytes_max
    }

    /// Whether a client that continues by the last stamp would miss the n-th document of the page
    /// if the page ended before it.
    fn is_within_group(&self, at: usize) -> bool {
        let stamp = |at: usize| self.best.positions[at].values.first();
        self.query.continues_by_stamp()
            && stamp(at - 1) == stamp(at)
            && matches!(stamp(at), Some(SortValue::Number(_)))
    }

    fn add<D: Document>(&mut self, document: &D) {
        if !self.ends.is_empty() {
            self.list.push(b',');
        }
        self.query.render(document, &mut self.list);
        self.ends.push(self.list.len());
    }

    fn page(&mut self) -> Page {
        let started = Instant::now();
        let query = &*self.query;
        let mut body = std::mem::take(&mut self.list);
        let (mut first, mut last) = (self.first.take(), self.last.take());
        let (mut has_before, mut has_after) = (self.has_before, self.has_after);
        if query.reversed {
            // A page that is read backwards is shown forwards.
            body = reversed_list(&body, &self.ends, query.kind.collection.len() + 5);
            std::mem::swap(&mut first, &mut last);
            std::mem::swap(&mut has_before, &mut has_after);
        }
        body.push(b']');
        let cursor = |position: Option<Position>, more: bool, reversed: bool| {
            position
                .filter(|_| more)
                .map(|position| query.cursor_at(position, reversed))
        };
        let next = cursor(last, has_after, false);
        let prev = cursor(first, has_before, true);
        self.timing.limit += started.elapsed();
        Page {
            estimated_count: self.matched,
            items: self.ends.len(),
            next,
            prev,
            timing: self.timing,
            body,
        }
    }
}

/// Enough to keep all outstanding loads of a core busy, few enough to be still in its nearest cache
/// when they are filtered.
const PREFETCHED_DOCUMENTS: usize = 16;

/// Passes up to `budget` documents that may match to `each`; returns true at the end.
pub(super) fn visit<'a, S: Source>(
    query: &Query,
    source: &'a S,
    position: &mut ScanPosition,
    budget: usize,
    each: &mut dyn FnMut(S::Doc<'a>),
) -> bool {
    let Some(keys) = query.keys() else {
        let mut waiting = Vec::with_capacity(PREFETCHED_DOCUMENTS);
        let mut flush = |waiting: &mut Vec<S::Doc<'a>>| {
            let loaded = waiting
                .iter()
                .fold(0, |sum, document: &S::Doc<'a>| sum ^ document.prefetch());
            std::hint::black_box(loaded);
            waiting.drain(..).for_each(&mut *each);
        };
        let done = source.scan(&query.hints(), position, budget, &mut |document| {
            waiting.push(document);
            if waiting.len() == PREFETCHED_DOCUMENTS {
                flush(&mut waiting);
            }
        });
        flush(&mut waiting);
        return done;
    };
    let to = keys.len().min(position.part.saturating_add(budget.max(1)));
    for key in &keys[position.part..to] {
        if let Some(document) = source.get(key) {
            each(document);
        }
    }
    position.part = to;
    to == keys.len()
}
