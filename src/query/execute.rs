//! Execution: answers one query from one revision, slice by slice.
//!
//! A list in key order without filters is read directly. Any other is scanned once for the best
//! positions, which are then sorted and rendered; a page that ends within a stamp is completed by a
//! second scan.

use std::ops::Bound;
use std::time::{Duration, Instant};

use super::Query;
use super::model::{Document, ScanPosition, Source};
use super::order::{Position, SortValue};
use super::page::{Page, Timing, reversed_list};
use super::pass::{Findings, Pass};
use crate::json::write_string;

/// Answers one query from one revision, slice by slice.
pub struct Execution<Q> {
    query: Q,
    phase: ExecutionPhase,
    scanned: ScanPosition,
    /// Of this pass.
    found: Findings,
    /// Whether documents that match come after the page.
    has_after: bool,
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
        let found = Findings::new(&query);
        Execution {
            query,
            phase,
            scanned: ScanPosition::default(),
            found,
            has_after: false,
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
        self.found.held_bytes() + self.list.capacity()
    }

    /// The part of it for the positions alone.
    pub fn position_bytes(&self) -> usize {
        self.found.held_bytes()
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
            self.found.matched = source.count();
            if let Some(position) = &self.query.position {
                let before = Bound::Included(&*position.key);
                self.found.has_before = if descending {
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
        let Self { query, scanned, .. } = self;
        if self.found.select(query, source, scanned, budget) {
            self.phase = ExecutionPhase::Sort;
        }
    }

    fn sort(&mut self) {
        let query = &*self.query;
        let page = &mut self.found.best.positions;
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
            self.found.best.positions.truncate(limit);
        }
    }

    fn complete_group<S: Source>(&mut self, source: &S, budget: usize) {
        let Self { query, scanned, .. } = self;
        let end = self.found.best.positions.last();
        let end = end.expect("a group has a beginning").clone();
        let query = (&**query, &end);
        if self.found.complete_group(query, source, scanned, budget) {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        let query = &*self.query;
        let Findings {
            best,
            group,
            has_after,
            ..
        } = &mut self.found;
        group.sort_unstable_by(|a, b| query.order_of_positions(a, b));
        best.positions.append(group);
        self.has_after = *has_after;
        self.phase = ExecutionPhase::Render(0);
    }

    /// The pass over all documents that is next, begun again, for several threads; `None` if none
    /// is next. Its findings are passed to [`Execution::absorb`].
    pub fn next_pass(&mut self) -> Option<Pass<Q>>
    where
        Q: Clone,
    {
        let group_end = match self.phase {
            ExecutionPhase::Scan => {
                self.found = Findings::new(&self.query);
                None
            }
            ExecutionPhase::CompleteGroup => {
                self.found.group.clear();
                self.found.has_after = false;
                self.found.best.positions.last().cloned()
            }
            _ => return None,
        };
        self.scanned = ScanPosition::default();
        Some(Pass {
            query: self.query.clone(),
            group_end,
        })
    }

    /// Adds the findings of a pass that was made elsewhere, in `took`.
    pub fn absorb(&mut self, found: Findings, took: Duration) {
        match self.phase {
            ExecutionPhase::Scan => {
                self.found = found;
                self.timing.filter += took;
                self.phase = ExecutionPhase::Sort;
            }
            ExecutionPhase::CompleteGroup => {
                self.found.merge(found, &self.query);
                self.timing.limit += took;
                self.end_group();
            }
            _ => unreachable!("a pass was next"),
        }
    }

    fn render<S: Source>(&mut self, source: &S, from: usize, budget: usize) {
        let to = self
            .found
            .best
            .positions
            .len()
            .min(from.saturating_add(budget));
        for i in from..to {
            if self.is_large_enough() && !self.is_within_group(i) {
                self.found.best.positions.truncate(i);
                self.has_after = true;
                break;
            }
            // It exists, because all slices read one revision.
            if let Some(document) = source.get(&self.found.best.positions[i].key) {
                self.add(&document);
            }
        }
        if to < self.found.best.positions.len() {
            self.phase = ExecutionPhase::Render(to);
            return;
        }
        let mut positions = std::mem::take(&mut self.found.best.positions);
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
        let stamp = |at: usize| self.found.best.positions[at].values.first();
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
        let (mut has_before, mut has_after) = (self.found.has_before, self.has_after);
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
            estimated_count: self.found.matched,
            items: self.ends.len(),
            next,
            prev,
            timing: self.timing,
            body,
        }
    }
}
