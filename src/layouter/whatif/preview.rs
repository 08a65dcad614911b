//! Previews: commands or events are applied to a snapshot, and the differences listed by stream or
//! by node.
//!
//! Commands take the same path as real ones: `state::apply` checks and merges them,
//! `layouter::intake` reads the records, the engine takes the rows. Moves that are due anyway are
//! made first, and in a second engine that goes on without the commands or events: the differences
//! between both are the consequences. A preview covers one tick of the layouter: everything urgent,
//! and as many optional moves as the budgets of one interval allow.

use std::collections::{BTreeMap, BTreeSet};

use super::assumed::{AssumedEvent, assumed_name, assumed_node, assumed_stream};
use super::pages::PreviewItems;
use super::snapshot::WhatIfSnapshot;
use crate::access::rights::Visibility;
use crate::error::ApiError;
use crate::json::{self, FieldType, Object, Value, write_string};
use crate::layouter::intake::{node_spec, stream_spec};
use crate::layouter::{
    Engine, Event, LayoutChange, NodeState, Rows, SlotCounts, SlotKind, StreamLayout, StreamSpec,
};
use crate::query::{KeyOrder, ListField, ListKind};
use crate::schema;
use crate::state::apply::{Stamp, apply, streamer_not_found};
use crate::state::command::Command;
use crate::state::name::{Hostname, StreamName};

/// Changes of layouts, one per stream, in the order of their names.
pub static LAYOUTS: ListKind = ListKind {
    collection: "changes",
    key: "$position",
    key_order: KeyOrder::Decimal,
    default_sort: "$position",
    stamp: None,
    required: schema_required_of_layouts,
    search: &[],
    field: |path| crate::query::field(schema::layout_change(), path),
    secret: |_| false,
    schema: || Some(schema::layout_change()),
};

/// Changes of loads, one per node and role.
pub static LOADS: ListKind = ListKind {
    collection: "changes",
    key: "$position",
    key_order: KeyOrder::Decimal,
    default_sort: "$position",
    stamp: None,
    required: || schema::load_change().required(),
    search: &[],
    field: |path| match path {
        "before" | "after" | "delta" => Some(ListField::top_level(path, FieldType::Integer)),
        _ => crate::query::field(schema::load_change(), path),
    },
    secret: |_| false,
    schema: || Some(schema::load_change()),
};

fn schema_required_of_layouts() -> &'static [Box<str>] {
    schema::layout_change().required()
}

/// A snapshot to which commands or events were applied.
struct LayoutPreview {
    engine: Engine,
    /// What the engine does without them, at the same time.
    unchanged: Engine,
    /// Streams that move anyway.
    pending: usize,
    changes: Vec<LayoutChange>,
    /// Streams whose rows were touched, or that move.
    touched: BTreeSet<StreamName>,
}

impl LayoutPreview {
    /// Makes the moves that are due anyway.
    fn new(snapshot: &WhatIfSnapshot) -> Self {
        let mut engine = snapshot.engine.snapshot();
        let due = engine.apply(Event::Tick {
            now_ms: snapshot.now_ms,
        });
        let pending: BTreeSet<StreamName> = due.into_iter().map(|change| change.stream).collect();
        Self {
            unchanged: engine.snapshot(),
            engine,
            pending: pending.len(),
            changes: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Applies events, then the tick of the next interval.
    fn apply(&mut self, snapshot: &WhatIfSnapshot, mut events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let interval_ms = self.engine.settings().interval_ms;
        let tick = Event::Tick {
            now_ms: snapshot.now_ms + interval_ms,
        };
        let anyway = self.unchanged.apply(tick.clone());
        self.touched.extend(anyway.into_iter().map(|it| it.stream));
        events.push(tick);
        self.changes = self.engine.apply_all(events);
        let moved = self.changes.iter().map(|change| change.stream.clone());
        self.touched.extend(moved);
    }

    /// Streams that are elsewhere because of the events, with their nodes without them and the
    /// layout with them.
    fn moved(&self) -> impl Iterator<Item = (&StreamName, StreamNodes, StreamLayout)> {
        self.touched.iter().filter_map(|name| {
            let before = self.unchanged.layout(name).unwrap_or_default();
            let before = StreamNodes::of(&before);
            let after = self.engine.layout(name).unwrap_or_default();
            (before != StreamNodes::of(&after)).then_some((name, before, after))
        })
    }
}

/// The nodes of a stream's slots.
#[derive(PartialEq, Eq, Default)]
struct StreamNodes {
    ingest: Option<Hostname>,
    inference: Option<Hostname>,
    dvr_backups: BTreeSet<Hostname>,
}

impl StreamNodes {
    fn of(layout: &StreamLayout) -> Self {
        Self {
            ingest: layout.ingest.clone(),
            inference: layout.inference.clone(),
            dvr_backups: layout.dvr_backups.iter().cloned().collect(),
        }
    }

    fn nodes(&self) -> impl Iterator<Item = (&Hostname, SlotKind)> {
        let of = |kind| move |host| (host, kind);
        let ingest = self.ingest.iter().map(of(SlotKind::Ingest));
        let inference = self.inference.iter().map(of(SlotKind::Inference));
        let backups = self.dvr_backups.iter().map(of(SlotKind::DvrBackup));
        ingest.chain(inference).chain(backups)
    }
}

/// Previews commands.
fn preview_commands(
    snapshot: &WhatIfSnapshot,
    commands: Vec<Command>,
) -> Result<LayoutPreview, ApiError> {
    let mut preview = LayoutPreview::new(snapshot);
    let mut next = (*snapshot.state).clone();
    let stamp = Stamp {
        revision: next.revision() + 1,
        ms: next.stamp_ms() + 1,
    };
    let mut rows = Rows::default();
    for command in commands {
        let changes = apply(&next, command, stamp)?;
        next.absorb(&changes);
        for change in &changes.streams {
            preview.touched.insert(change.name.clone());
            match &change.new {
                Some(new) => rows.streams.push(stream_spec(new)),
                None => rows.streams_deleted.push(change.name.clone()),
            }
        }
        for change in &changes.streamers {
            match &change.new {
                Some(new) => rows.nodes.push(node_spec(
                    new,
                    snapshot.node_stats(&change.hostname).as_ref(),
                    NodeState::Up,
                )),
                None => rows.nodes_deleted.push(change.hostname.clone()),
            }
        }
    }
    let is_something = rows != Rows::default();
    let events = is_something.then_some(Event::Commit(rows));
    preview.apply(snapshot, events.into_iter().collect());
    Ok(preview)
}

/// Lists the streams that would be placed differently.
pub fn layouts(
    snapshot: &WhatIfSnapshot,
    commands: Vec<Command>,
    visible: &Visibility,
) -> Result<PreviewItems, ApiError> {
    let preview = preview_commands(snapshot, commands)?;
    // The reason of a stream is that of its ingest's change if there is one, as in a save.
    let mut reasons: BTreeMap<&StreamName, &LayoutChange> = BTreeMap::new();
    for change in &preview.changes {
        let reported = reasons.entry(&change.stream).or_insert(change);
        if change.kind < reported.kind {
            *reported = change;
        }
    }
    let mut hidden = 0;
    let items = preview.moved().filter_map(|(name, _, after)| {
        if !visible.shows(name) {
            hidden += 1;
            return None;
        }
        let change = reasons.get(name);
        let reason = match change {
            Some(change) => change.change_reason(),
            None => Some("relayout_by_api"),
        };
        Some(layout_text(name, &after, reason, change.is_some()))
    });
    let items: Vec<String> = items.collect();
    Ok(PreviewItems::new(items, hidden))
}

/// A layout after the preview, as an item of the list.
fn layout_text(
    name: &StreamName,
    layout: &StreamLayout,
    reason: Option<&str>,
    by_layouter: bool,
) -> String {
    let mut item = Object::default();
    let host = |host: &Hostname| Value::from(host.as_str());
    if let Some(reason) = reason {
        item.insert("change_reason", Value::from(reason));
    }
    if !layout.dvr_backups.is_empty() {
        let hosts = layout.dvr_backups.iter().map(host);
        item.insert("dvr_backups", Value::Array(hosts.collect()));
    }
    for (field, node) in [
        ("failover_from", &layout.failover_from),
        ("inference", &layout.inference),
        ("ingest", &layout.ingest),
    ] {
        if let Some(node) = node {
            item.insert(field, host(node));
        }
    }
    item.insert("name", Value::from(name.as_str()));
    let originator = if by_layouter { "layouter" } else { "other" };
    item.insert("originator", Value::from(originator));
    text(&Value::Object(item))
}

/// Change of the number of streams by node and role.
type Loads = BTreeMap<(Hostname, SlotKind), i64>;

fn deltas(preview: &LayoutPreview) -> Loads {
    let mut deltas = Loads::new();
    for (_, before, after) in preview.moved() {
        for (host, kind) in before.nodes() {
            *deltas.entry((host.clone(), kind)).or_default() -= 1;
        }
        for (host, kind) in StreamNodes::of(&after).nodes() {
            *deltas.entry((host.clone(), kind)).or_default() += 1;
        }
    }
    deltas.retain(|_, delta| *delta != 0);
    deltas
}

fn load_texts(preview: &LayoutPreview, deltas: Loads) -> Vec<String> {
    let texts = deltas.into_iter().map(|((hostname, kind), delta)| {
        let before = preview.unchanged.counts_on(&hostname).of(kind) as i64;
        let mut out = format!(
            "{{\"after\":{},\"before\":{before},\"delta\":{delta},\"hostname\":",
            before + delta
        )
        .into_bytes();
        write_string(&mut out, &hostname);
        out.extend_from_slice(b",\"role\":");
        write_string(&mut out, role_name(kind));
        out.push(b'}');
        json::text_of(out)
    });
    texts.collect()
}

/// The API's name of a slot kind.
pub fn role_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Ingest => "ingest",
        SlotKind::Inference => "inference",
        SlotKind::DvrBackup => "dvr_backup",
    }
}

/// Lists the nodes whose number of streams would change.
pub fn loads(
    snapshot: &WhatIfSnapshot,
    commands: Vec<Command>,
    visible: &Visibility,
) -> Result<PreviewItems, ApiError> {
    let preview = preview_commands(snapshot, commands)?;
    let mut deltas = deltas(&preview);
    let all = deltas.len();
    deltas.retain(|(hostname, _), _| visible.shows(hostname));
    let hidden = (all - deltas.len()) as u64;
    Ok(PreviewItems::new(load_texts(&preview, deltas), hidden))
}

/// The consequences of assumed events.
pub fn cluster(snapshot: &WhatIfSnapshot, assumed: Vec<AssumedEvent>) -> Result<Vec<u8>, ApiError> {
    let mut preview = LayoutPreview::new(snapshot);
    let mut events: Vec<Event> = Vec::new();
    let (mut lost, mut lost_at) = (Vec::new(), None);
    let mut added = 0;
    for event in assumed {
        match event {
            AssumedEvent::StreamerLost { hostname, pointer } => {
                if snapshot.state.streamer(&hostname).is_none() {
                    let at = format!("{pointer}/hostname");
                    return Err(streamer_not_found()
                        .at_pointer(at)
                        .with("hostname", &hostname));
                }
                lost.push((hostname, NodeState::Down));
                // All losses of a question are one event, the first of them, so that nothing moves
                // from one lost node to another.
                lost_at.get_or_insert(events.len());
            }
            AssumedEvent::StreamerSaved { hostname, config } => {
                let spec = assumed_node(snapshot, hostname, &config);
                events.push(Event::Commit(Rows {
                    nodes: vec![spec],
                    ..Rows::default()
                }));
            }
            AssumedEvent::StreamsAdded {
                count,
                patch,
                pointer,
            } => {
                let spec = assumed_stream(&snapshot.state, patch, &pointer)?;
                let streams = (added..added + count).map(|number| StreamSpec {
                    name: assumed_name(number),
                    ..spec.clone()
                });
                events.push(Event::Commit(Rows {
                    streams: streams.collect(),
                    ..Rows::default()
                }));
                added += count;
            }
        }
    }
    if let Some(at) = lost_at {
        events.insert(at, Event::NodeStates(lost));
    }
    preview.apply(snapshot, events);
    Ok(cluster_text(snapshot, &preview, added))
}

fn cluster_text(snapshot: &WhatIfSnapshot, preview: &LayoutPreview, added: u64) -> Vec<u8> {
    let moves = preview
        .moved()
        .filter(|(name, before, _)| {
            snapshot.state.stream(name).is_some() && *before != StreamNodes::default()
        })
        .count();
    let (before, after) = (preview.unchanged.unplaced(), preview.engine.unplaced());
    let deltas = deltas(preview);
    let summary = summary(moves, deltas.len(), added, before, after);
    let mut out = b"{\"changes\":[".to_vec();
    out.extend_from_slice(load_texts(preview, deltas).join(",").as_bytes());
    let pending = preview.pending;
    let numbers = format!("],\"moves\":{moves},\"moves_pending\":{pending},\"summary\":");
    out.extend_from_slice(numbers.as_bytes());
    write_string(&mut out, &summary);
    let numbers = format!(
        ",\"unplaced\":{},\"unplaced_before\":{},\"unplaced_copies\":{}}}",
        after.streams, before.streams, after.copies
    );
    out.extend_from_slice(numbers.as_bytes());
    out
}

fn summary(
    moves: usize,
    nodes: usize,
    added: u64,
    before: SlotCounts,
    after: SlotCounts,
) -> String {
    let count = |count: u64, noun: &str, nouns: &str| {
        let noun = if count == 1 { noun } else { nouns };
        format!("{count} {noun}")
    };
    let streams = |number: u64| count(number, "stream", "streams");
    let mut text = format!("{} would move", streams(moves as u64));
    if added > 0 {
        text.push_str(&format!(", {} would be added", streams(added)));
    }
    text.push_str(&format!("; {nodes} loads would change. "));
    if after == SlotCounts::default() {
        text.push_str("Every stream and copy would have a running node.");
        return text;
    }
    text.push_str(&format!(
        "{} would be without a running node, {} of them already now.",
        streams(after.streams),
        before.streams.min(after.streams)
    ));
    for (number, noun, nouns) in [
        (after.copies, "DVR backup", "DVR backups"),
        (after.inferences, "analytics task", "analytics tasks"),
    ] {
        if number > 0 {
            text.push_str(&format!(
                " Also without one: {}.",
                count(number, noun, nouns)
            ));
        }
    }
    text
}

fn text(value: &Value) -> String {
    let mut out = Vec::new();
    value.write(&mut out);
    json::text_of(out)
}
