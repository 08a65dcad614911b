//! Execution: answers one query from one revision, slice by slice.

use std::cmp::Ordering;
use std::ops::Bound;
use std::time::Instant;

use super::Query;
use super::model::{Document, Place, Source};
use super::order::{Position, SortValue};
use super::page::{Page, Timing, flipped};
use crate::json::write_string;

/// Answers one query from one revision, slice by slice.
pub struct Execution<Q> {
    query: Q,
    phase: Phase,
    place: Place,
    /// Documents that pass the filters.
    matched: u64,
    /// Whether some of them are at or before the position.
    behind: bool,
    /// Whether some of them come after the page.
    ahead: bool,
    best: Best,
    /// What has the same stamp as the end of the page, but no place on it.
    group: Vec<Position>,
    first: Option<Position>,
    last: Option<Position>,
    /// The beginning of the body: rendered documents, one after the other, and where each ends.
    list: Vec<u8>,
    ends: Vec<usize>,
    timing: Timing,
}

enum Phase {
    /// Reading the page itself, in key order.
    Ordered,
    /// Looking at everything that may match.
    Look,
    Sort,
    /// Looking once more, for the documents that share the last stamp.
    Group,
    /// Rendering, from the n-th document of the page.
    Render(usize),
    Finished,
}

/// The smallest positions of all that were offered.
///
/// A buffer of twice the wanted size that is cut in half when full: constant time per position even if each is smaller than all before.
struct Best {
    wanted: usize,
    positions: Vec<Position>,
    /// The largest of the first `wanted` is at the end of them; nothing larger needs to be offered.
    bounded: bool,
}

impl Best {
    fn worst(&self) -> Option<&Position> {
        if self.bounded {
            self.positions.get(self.wanted - 1)
        } else {
            None
        }
    }

    fn offer(&mut self, position: Position, query: &Query) {
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
        }
    }
}

impl<Q: std::ops::Deref<Target = Query>> Execution<Q> {
    pub fn new(query: Q) -> Self {
        let phase = if query.selective() || query.sort.len() > 1 {
            Phase::Look
        } else {
            Phase::Ordered
        };
        let mut list = Vec::with_capacity(4096);
        list.push(b'{');
        write_string(&mut list, query.kind.collection);
        list.extend_from_slice(b":[");
        let wanted = query.limit.saturating_add(1);
        Execution {
            query,
            phase,
            place: Place::default(),
            matched: 0,
            behind: false,
            ahead: false,
            best: Best {
                wanted,
                positions: Vec::new(),
                bounded: false,
            },
            group: Vec::new(),
            first: None,
            last: None,
            list,
            ends: Vec::new(),
            timing: Timing::default(),
        }
    }

    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Looks at up to `budget` more documents; the page once all is done, after which this must not be called again.
    pub fn step<S: Source>(&mut self, source: &S, budget: usize) -> Option<Page> {
        // Rendering a document costs about as much as looking at several.
        const RENDER_COST: usize = 4;
        let started = Instant::now();
        match self.phase {
            Phase::Ordered => {
                self.read_page(source, budget / RENDER_COST + 1);
                self.timing.select += started.elapsed();
            }
            Phase::Look => {
                self.look(source, budget);
                self.timing.filter += started.elapsed();
            }
            Phase::Sort => {
                self.sort();
                self.timing.sort += started.elapsed();
            }
            Phase::Group => {
                self.complete_group(source, budget);
                self.timing.limit += started.elapsed();
            }
            Phase::Render(from) => {
                self.render(source, from, budget / RENDER_COST + 1);
                self.timing.select += started.elapsed();
            }
            Phase::Finished => {}
        }
        matches!(self.phase, Phase::Finished).then(|| self.page())
    }

    /// All at once, for small lists.
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
                self.behind = if descending {
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
        self.phase = Phase::Finished;
        for (taken, document) in documents.enumerate() {
            if self.ends.len() == self.query.limit {
                self.ahead = true;
                break;
            }
            if taken == budget {
                self.phase = Phase::Ordered;
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

    fn look<S: Source>(&mut self, source: &S, budget: usize) {
        let query = &*self.query;
        let done = visit(query, source, &mut self.place, budget, &mut |document| {
            if !query.passes(&document) {
                return;
            }
            self.matched += 1;
            let first = query.first_value(&document);
            if let Some(position) = &query.position
                && query.order(&document, &first, position) != Ordering::Greater
            {
                self.behind = true;
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
            self.phase = Phase::Sort;
        }
    }

    fn sort(&mut self) {
        let query = &*self.query;
        let page = &mut self.best.positions;
        page.sort_unstable_by(|a, b| query.order_of_positions(a, b));
        self.ahead = page.len() > query.limit;
        self.phase = Phase::Render(0);
        if self.ahead {
            let by_stamp = Some(query.sort[0].path.as_str()) == query.kind.stamp;
            let stamps = (
                page[query.limit - 1].values.first(),
                page[query.limit].values.first(),
            );
            if by_stamp && stamps.0 == stamps.1 && matches!(stamps.0, Some(SortValue::Number(_))) {
                self.ahead = false;
                self.place = Place::default();
                self.phase = Phase::Group;
            }
            page.truncate(query.limit);
        }
    }

    fn complete_group<S: Source>(&mut self, source: &S, budget: usize) {
        let query = &*self.query;
        let end = self.best.positions.last().expect("a group has a beginning");
        let done = visit(query, source, &mut self.place, budget, &mut |document| {
            let first = query.first_value(&document);
            if query.order(&document, &first, end) != Ordering::Greater || !query.passes(&document)
            {
                return;
            }
            if end.values[0] == first {
                self.group.push(query.position_of(&document, &first));
            } else {
                self.ahead = true;
            }
        });
        if done {
            self.group
                .sort_unstable_by(|a, b| query.order_of_positions(a, b));
            self.best.positions.append(&mut self.group);
            self.phase = Phase::Render(0);
        }
    }

    fn render<S: Source>(&mut self, source: &S, from: usize, budget: usize) {
        let to = self.best.positions.len().min(from.saturating_add(budget));
        for i in from..to {
            // It is there, since all slices read one revision.
            if let Some(document) = source.get(&self.best.positions[i].key) {
                self.add(&document);
            }
        }
        if to < self.best.positions.len() {
            self.phase = Phase::Render(to);
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
        self.phase = Phase::Finished;
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
        let (mut more_behind, mut more_ahead) = (self.behind, self.ahead);
        if query.reversed {
            // Read backwards, shown forwards.
            body = flipped(&body, &self.ends, query.kind.collection.len() + 5);
            std::mem::swap(&mut first, &mut last);
            std::mem::swap(&mut more_behind, &mut more_ahead);
        }
        body.push(b']');
        let cursor = |position: Option<Position>, more: bool, reversed: bool| {
            position
                .filter(|_| more)
                .map(|position| query.cursor_at(position, reversed))
        };
        let next = cursor(last, more_ahead, false);
        let prev = cursor(first, more_behind, true);
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

/// Enough to keep all of a core's outstanding loads busy, few enough to be still in its nearest cache when their turn comes.
const TOUCHED_AT_ONCE: usize = 16;

/// Shows documents that may match; true when all were shown.
fn visit<'a, S: Source>(
    query: &Query,
    source: &'a S,
    place: &mut Place,
    budget: usize,
    each: &mut dyn FnMut(S::Doc<'a>),
) -> bool {
    let Some(keys) = query.keys() else {
        let mut waiting = Vec::with_capacity(TOUCHED_AT_ONCE);
        let mut pass = |waiting: &mut Vec<S::Doc<'a>>| {
            let touched = waiting
                .iter()
                .fold(0, |sum, document: &S::Doc<'a>| sum ^ document.touch());
            std::hint::black_box(touched);
            waiting.drain(..).for_each(&mut *each);
        };
        let done = source.scan(&query.hints(), place, budget, &mut |document| {
            waiting.push(document);
            if waiting.len() == TOUCHED_AT_ONCE {
                pass(&mut waiting);
            }
        });
        pass(&mut waiting);
        return done;
    };
    let to = keys.len().min(place.part.saturating_add(budget.max(1)));
    for key in &keys[place.part..to] {
        if let Some(document) = source.get(key) {
            each(document);
        }
    }
    place.part = to;
    to == keys.len()
}
