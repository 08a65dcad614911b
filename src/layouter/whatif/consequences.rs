//! Consequences of commands or events that are applied to a snapshot.
//!
//! The snapshot first makes the moves that are due anyway; a second engine goes on without the
//! commands or events. The differences between both are caused by them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::snapshot::WhatIfSnapshot;
use crate::access::rights::Visibility;
use crate::json::{Object, Value, text_of};
use crate::layouter::{
    Engine, Event, LayoutChange, PlacementRole, SlotCounts, SlotKind, StoredLayout, StreamLayout,
};
use crate::state::name::{Hostname, StreamName};

/// Streams without a place that a preview names.
const SAMPLE_MAX: usize = 10;
/// Streams that move that a preview names.
const MOVES_SAMPLE_MAX: usize = 20;

/// The names that a preview may show its caller.
#[derive(Clone, Debug)]
pub struct PreviewVisibility {
    pub streams: Visibility,
    pub streamers: Visibility,
}

/// A snapshot to which commands or events were applied.
pub struct LayoutPreview<'s> {
    snapshot: &'s WhatIfSnapshot,
    pub engine: Engine,
    /// What the engine does without them, at the same time.
    pub unchanged: Engine,
    pub changes: Vec<LayoutChange>,
    /// Streams that may move anyway.
    due: BTreeSet<StreamName>,
    /// Streams whose rows were touched, or that move.
    pub touched: BTreeSet<StreamName>,
    /// Streams whose nodes differ with and without the commands or events.
    pub differing: Vec<Differing>,
}

/// The nodes of a stream's slots.
#[derive(PartialEq, Eq, Default)]
pub struct StreamNodes {
    ingest: Option<Hostname>,
    inference: Option<Hostname>,
    dvr_backups: BTreeSet<Hostname>,
}

/// A stream whose nodes differ with and without the commands or events.
pub struct Differing {
    pub name: StreamName,
    /// Its stored nodes.
    pub now: StreamNodes,
    /// Its nodes without the commands or events.
    pub anyway: StreamNodes,
    pub after: StreamLayout,
}

impl<'s> LayoutPreview<'s> {
    /// Makes the moves that are due anyway, those of the next tick included.
    pub fn new(snapshot: &'s WhatIfSnapshot) -> Self {
        let mut engine = snapshot.engine.snapshot();
        let tick = |now_ms| vec![Event::Tick { now_ms }];
        let mut due = engine.apply_all(tick(snapshot.now_ms));
        let mut unchanged = engine.snapshot();
        due.append(&mut unchanged.apply_all(tick(next_tick_ms(snapshot, &engine))));
        let planned = snapshot.planned().cloned();
        Self {
            snapshot,
            engine,
            unchanged,
            changes: Vec::new(),
            due: due
                .into_iter()
                .map(|change| change.stream)
                .chain(planned)
                .collect(),
            touched: BTreeSet::new(),
            differing: Vec::new(),
        }
    }

    /// Applies events, then the next tick.
    pub fn apply(&mut self, mut events: Vec<Event>) {
        if events.is_empty() {
            self.engine = self.unchanged.snapshot();
            return;
        }
        let now_ms = next_tick_ms(self.snapshot, &self.engine);
        events.push(Event::Tick { now_ms });
        self.changes = self.engine.apply_all(events);
        let moved = self.changes.iter().map(|change| change.stream.clone());
        self.touched.extend(moved.chain(self.due.iter().cloned()));
        let differing = self.touched.iter().filter_map(|name| {
            let anyway = StreamNodes::of(&self.unchanged.layout(name).unwrap_or_default());
            let after = self.engine.layout(name).unwrap_or_default();
            (anyway != StreamNodes::of(&after)).then(|| Differing {
                name: name.clone(),
                now: self.nodes_now(name),
                anyway,
                after,
            })
        });
        self.differing = differing.collect();
    }

    /// The time of the snapshot, in milliseconds of the uptime.
    pub fn now_ms(&self) -> u64 {
        self.snapshot.now_ms
    }

    fn nodes_now(&self, stream: &str) -> StreamNodes {
        let stored = self.snapshot.stored(stream);
        stored.map_or_else(StreamNodes::default, StreamNodes::stored)
    }

    /// Streams that get other nodes than they have because of the commands or events.
    pub fn moved(&self) -> impl Iterator<Item = &Differing> {
        self.differing
            .iter()
            .filter(|stream| stream.now != StreamNodes::of(&stream.after))
    }

    /// Placed streams that get other nodes, or none, because of the commands or events.
    pub fn moves_caused(&self) -> usize {
        let was_placed = |moved: &&Differing| moved.now != StreamNodes::default();
        self.moved().filter(was_placed).count()
    }

    /// Some of the streams that get another ingest node, or none, because of the commands or
    /// events: those on nodes that are `left` come first. Names that the caller may not see are
    /// left out.
    pub fn moves_sample(&self, left: &[Hostname], visible: &PreviewVisibility) -> Vec<Value> {
        let moves = || {
            let moved = self.moved().filter_map(|moved| {
                let from = moved.now.ingest.as_ref()?;
                let leaves = moved.after.ingest.as_ref() != Some(from);
                (leaves && visible.streams.shows(&moved.name)).then_some((moved, from))
            });
            moved.map(|(moved, from)| (left.contains(from), moved, from))
        };
        let leaving = moves().filter(|(is_left, ..)| *is_left);
        let others = moves().filter(|(is_left, ..)| !*is_left);
        let sample = leaving.chain(others).take(MOVES_SAMPLE_MAX);
        let item = |(_, moved, from): (bool, &Differing, &Hostname)| {
            let mut item = Object::default();
            let nodes = [("from", Some(from)), ("to", moved.after.ingest.as_ref())];
            for (member, node) in nodes {
                if let Some(node) = node.filter(|node| visible.streamers.shows(node)) {
                    item.insert(member, Value::from(node.as_str()));
                }
            }
            item.insert("name", Value::from(moved.name.as_str()));
            Value::Object(item)
        };
        sample.map(item).collect()
    }

    /// Placed streams that get other nodes, or none, without the commands or events.
    pub fn moves_pending(&self) -> usize {
        let moves = |name: &&StreamName| {
            let now = self.nodes_now(name);
            let anyway = || self.unchanged.layout(name).unwrap_or_default();
            now != StreamNodes::default() && now != StreamNodes::of(&anyway())
        };
        self.due.iter().filter(moves).count()
    }

    /// What has no node that runs without the commands or events, and with them.
    pub fn unplaced(&self) -> (SlotCounts, SlotCounts) {
        (self.unchanged.unplaced(), self.engine.unplaced())
    }

    /// The members that all previews have, without braces. `hidden`: the changes that are left out.
    pub fn members(&self, visible: &PreviewVisibility, hidden: usize) -> String {
        let mut out = match hidden {
            0 => String::new(),
            hidden => format!("\"hidden\":{hidden},"),
        };
        let (before, after) = self.unplaced();
        let mut sample = Vec::new();
        Value::Array(self.unplaced_sample(visible)).write(&mut sample);
        let _ = write!(
            out,
            "\"moves_caused\":{},\"moves_pending\":{},\"revision\":{},\"unplaced\":{},\
             \"unplaced_before\":{},\"unplaced_copies\":{},\"unplaced_sample\":{}",
            self.moves_caused(),
            self.moves_pending(),
            self.snapshot.state.revision(),
            after.streams,
            before.streams,
            after.copies,
            text_of(sample),
        );
        out
    }

    /// Some of the streams without a node that runs: those that have one otherwise come first,
    /// streams that do not exist follow.
    fn unplaced_sample(&self, visible: &PreviewVisibility) -> Vec<Value> {
        let mut sample: BTreeSet<(u8, StreamName)> = BTreeSet::new();
        self.engine.each_unplaced(|name| {
            let rank = if self.snapshot.state.stream(name).is_none() {
                1
            } else if self.unchanged.is_on_air(name) {
                0
            } else {
                2
            };
            let is_full = sample.len() >= SAMPLE_MAX;
            let last = sample.last().filter(|_| is_full);
            let is_late = last.is_some_and(|(of, last)| (*of, last) < (rank, name));
            if is_late || rank != 1 && !visible.streams.shows(name) {
                return;
            }
            sample.insert((rank, name.clone()));
            if is_full {
                sample.pop_last();
            }
        });
        let item = |(rank, name): (u8, StreamName)| {
            let mut item = Object::default();
            // Only the preview knows the names of streams that do not exist.
            let is_new = rank == 1 && name.starts_with('\u{1}');
            if !is_new {
                item.insert("name", Value::from(name.as_str()));
            }
            let reasons = reasons_against(&self.engine, &name).into_iter();
            item.insert("reasons", Value::Array(reasons.map(Value::from).collect()));
            Value::Object(item)
        };
        let mut items: Vec<Value> = sample.into_iter().map(item).collect();
        items.dedup();
        items
    }
}

fn next_tick_ms(snapshot: &WhatIfSnapshot, engine: &Engine) -> u64 {
    snapshot.now_ms + engine.settings().interval_ms
}

/// The public reasons of the nodes against the ingest of a stream, that of most nodes first.
fn reasons_against(engine: &Engine, name: &StreamName) -> Vec<&'static str> {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let decisions = engine.explain(name, SlotKind::Ingest).unwrap_or_default();
    let decisions = decisions
        .iter()
        .filter(|decision| decision.here || decision.role == PlacementRole::Streamer);
    for code in decisions.flat_map(|decision| decision.reasons.public_codes()) {
        *counts.entry(code).or_default() += 1;
    }
    let mut codes: Vec<&'static str> = counts.keys().copied().collect();
    codes.sort_by_key(|code| std::cmp::Reverse(counts[code]));
    codes
}

impl StreamNodes {
    pub fn of(layout: &StreamLayout) -> Self {
        Self {
            ingest: layout.ingest.clone(),
            inference: layout.inference.clone(),
            dvr_backups: layout.dvr_backups.iter().cloned().collect(),
        }
    }

    fn stored(layout: StoredLayout) -> Self {
        Self {
            ingest: layout.ingest,
            inference: layout.inference,
            dvr_backups: layout.dvr_backups.into_iter().collect(),
        }
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&Hostname, SlotKind)> {
        let of = |kind| move |host| (host, kind);
        let ingest = self.ingest.iter().map(of(SlotKind::Ingest));
        let inference = self.inference.iter().map(of(SlotKind::Inference));
        let backups = self.dvr_backups.iter().map(of(SlotKind::DvrBackup));
        ingest.chain(inference).chain(backups)
    }
}
