//! Previews: commands or events are applied to a snapshot, and the differences listed by stream or
//! by node.
//!
//! Commands take the same path as real ones: `state::apply` checks and merges them,
//! `layouter::intake` reads the records, the engine takes the rows. A preview covers one tick of
//! the layouter: everything urgent, and as many optional moves as the budgets of one interval
//! allow.

use std::collections::BTreeMap;

use super::assumed::{AssumedEvent, assumed_name, assumed_node, assumed_stream};
use super::consequences::{Differing, LayoutPreview, PreviewVisibility, StreamNodes};
use super::pages::PreviewItems;
use super::snapshot::WhatIfSnapshot;
use crate::error::ApiError;
use crate::json::{self, FieldType, Object, Value, write_string};
use crate::layouter::intake::{node_spec, stream_spec};
use crate::layouter::{
    DrainSpec, Event, LayoutChange, MOVES_PER_EVENT_MAX, NodeSpec, NodeState, Rows, SlotCounts,
    SlotKind, StreamLayout, StreamSpec,
};
use crate::query::{KeyOrder, ListField, ListKind};
use crate::schema;
use crate::state::apply::{Stamp, apply, streamer_not_found};
use crate::state::command::{Command, MaintenanceRequest};
use crate::state::name::{Hostname, StreamName};

/// Steps of an assumed drain beyond those that move as much as they can.
const DRAIN_STEPS_MORE: usize = 8;

/// Streams that stay on drained nodes that a preview names.
const NO_PLACE_SAMPLE_MAX: usize = 10;

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
        "after" | "before" | "capacity" | "delta" => {
            Some(ListField::top_level(path, FieldType::Integer))
        }
        _ => crate::query::field(schema::load_change(), path),
    },
    secret: |_| false,
    schema: || Some(schema::load_change()),
};

fn schema_required_of_layouts() -> &'static [Box<str>] {
    schema::layout_change().required()
}

/// Previews commands.
pub(super) fn preview_commands(
    snapshot: &WhatIfSnapshot,
    commands: Vec<Command>,
) -> Result<LayoutPreview<'_>, ApiError> {
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
    preview.apply(events.into_iter().collect());
    Ok(preview)
}

/// Lists the streams that would be placed differently.
pub fn layouts(
    snapshot: &WhatIfSnapshot,
    commands: Vec<Command>,
    visible: &PreviewVisibility,
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
    let items = preview.moved().filter_map(|Differing { name, after, .. }| {
        if !visible.streams.shows(name) {
            hidden += 1;
            return None;
        }
        let change = reasons.get(name);
        let reason = match change {
            Some(change) => change.change_reason(),
            None => Some("relayout_by_api"),
        };
        Some(layout_text(name, after, reason, change.is_some()))
    });
    let items: Vec<String> = items.collect();
    Ok(PreviewItems::new(items, preview.members(visible, hidden)))
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

fn deltas(preview: &LayoutPreview<'_>) -> Loads {
    let mut deltas = Loads::new();
    for Differing { anyway, after, .. } in &preview.differing {
        for (host, kind) in anyway.nodes() {
            *deltas.entry((host.clone(), kind)).or_default() -= 1;
        }
        for (host, kind) in StreamNodes::of(after).nodes() {
            *deltas.entry((host.clone(), kind)).or_default() += 1;
        }
    }
    deltas.retain(|_, delta| *delta != 0);
    deltas
}

/// The changed loads that a caller may see, and the number of the others.
fn load_texts(preview: &LayoutPreview<'_>, visible: &PreviewVisibility) -> (Vec<String>, usize) {
    let mut deltas = deltas(preview);
    let all = deltas.len();
    deltas.retain(|(hostname, _), _| visible.streamers.shows(hostname));
    let hidden = all - deltas.len();
    let texts = deltas.into_iter().map(|((hostname, kind), delta)| {
        let before = preview.unchanged.counts_on(&hostname).of(kind) as i64;
        let capacity = preview.engine.channel_limit(&hostname).unwrap_or(0);
        let mut out = format!(
            "{{\"after\":{},\"before\":{before},\"capacity\":{capacity},\"delta\":{delta},\
             \"hostname\":",
            before + delta
        )
        .into_bytes();
        write_string(&mut out, &hostname);
        out.extend_from_slice(b",\"role\":");
        write_string(&mut out, role_name(kind));
        out.push(b'}');
        json::text_of(out)
    });
    (texts.collect(), hidden)
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
    visible: &PreviewVisibility,
) -> Result<PreviewItems, ApiError> {
    let preview = preview_commands(snapshot, commands)?;
    let (items, hidden) = load_texts(&preview, visible);
    Ok(PreviewItems::new(items, preview.members(visible, hidden)))
}

/// The numbers of a preview, without a list.
pub fn moves(
    snapshot: &WhatIfSnapshot,
    command: Command,
    visible: &PreviewVisibility,
) -> Result<Vec<u8>, ApiError> {
    let preview = preview_commands(snapshot, vec![command])?;
    Ok(format!("{{{}}}", preview.members(visible, 0)).into_bytes())
}

/// The consequences of assumed events.
pub fn cluster(
    snapshot: &WhatIfSnapshot,
    assumed: Vec<AssumedEvent>,
    visible: &PreviewVisibility,
) -> Result<Vec<u8>, ApiError> {
    let mut preview = LayoutPreview::new(snapshot);
    let mut events: Vec<Event> = Vec::new();
    let (mut lost, mut lost_at) = (Vec::new(), None);
    let (mut drained, mut draining) = (Vec::new(), Vec::new());
    let mut added = 0;
    for event in assumed {
        match event {
            AssumedEvent::StreamerDrained { hostname, pointer } => {
                registered(snapshot, &hostname, &pointer)?;
                let wanted = MaintenanceRequest::Drain {
                    reason: String::new(),
                    pace: 0,
                    within: None,
                    returns: true,
                };
                draining.extend(in_maintenance(snapshot, &hostname, wanted)?);
                drained.push(hostname);
            }
            AssumedEvent::StreamerLost { hostname, pointer } => {
                registered(snapshot, &hostname, &pointer)?;
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
    if !draining.is_empty() {
        events.push(Event::Commit(Rows {
            nodes: draining,
            ..Rows::default()
        }));
        events.extend(drain_steps(&preview, &drained));
    }
    preview.apply(events);
    let assumed = Assumed { added, drained };
    Ok(cluster_text(&preview, &assumed, visible))
}

/// Fails if a node of an assumed event is not registered.
fn registered(
    snapshot: &WhatIfSnapshot,
    hostname: &Hostname,
    pointer: &str,
) -> Result<(), ApiError> {
    if snapshot.state.streamer(hostname).is_some() {
        return Ok(());
    }
    Err(streamer_not_found()
        .at_pointer(format!("{pointer}/hostname"))
        .with("hostname", hostname))
}

/// The spec of a node in this maintenance. A drain has no pace.
fn in_maintenance(
    snapshot: &WhatIfSnapshot,
    hostname: &Hostname,
    wanted: MaintenanceRequest,
) -> Result<Option<NodeSpec>, ApiError> {
    let next = &snapshot.state;
    let stamp = Stamp {
        revision: next.revision() + 1,
        ms: next.stamp_ms() + 1,
    };
    let command = Command::SetMaintenance {
        hostname: hostname.clone(),
        wanted,
    };
    let changes = apply(next, command, stamp)?;
    let record = changes
        .streamers
        .first()
        .and_then(|change| change.new.as_ref());
    let record = record.or_else(|| next.streamer(hostname));
    let stats = snapshot.node_stats(hostname);
    let spec = record.map(|record| node_spec(record, stats.as_ref(), NodeState::Up));
    Ok(spec.map(|spec| NodeSpec {
        drain: spec.drain.map(|drain| DrainSpec {
            streams_per_minute: 0,
            deadline_utc_ms: None,
            ..drain
        }),
        ..spec
    }))
}

/// As many steps as drains of these nodes may take.
fn drain_steps(preview: &LayoutPreview<'_>, hostnames: &[Hostname]) -> Vec<Event> {
    let slots = hostnames.iter().map(|hostname| {
        let slots = preview.engine.counts_on(hostname);
        (slots.streams + slots.copies + slots.inferences) as usize
    });
    let steps = slots.sum::<usize>() / MOVES_PER_EVENT_MAX + DRAIN_STEPS_MORE;
    let step = Event::Drain {
        now_ms: preview.now_ms(),
        utc_ms: 0,
    };
    std::iter::repeat_n(step, steps).collect()
}

/// The consequences of the maintenance of a streamer. A drain is assumed to be done at once.
pub fn maintenance(
    snapshot: &WhatIfSnapshot,
    hostname: &Hostname,
    wanted: MaintenanceRequest,
    visible: &PreviewVisibility,
) -> Result<Vec<u8>, ApiError> {
    let mut preview = LayoutPreview::new(snapshot);
    let is_drain = matches!(wanted, MaintenanceRequest::Drain { .. });
    let drained = if is_drain {
        vec![hostname.clone()]
    } else {
        Vec::new()
    };
    let nodes = in_maintenance(snapshot, hostname, wanted)?;
    let mut events = vec![Event::Commit(Rows {
        nodes: nodes.into_iter().collect(),
        ..Rows::default()
    })];
    if is_drain {
        events.extend(drain_steps(&preview, &drained));
    }
    preview.apply(events);
    let assumed = Assumed { added: 0, drained };
    Ok(cluster_text(&preview, &assumed, visible))
}

/// What an answer is about.
struct Assumed {
    /// Streams that were added.
    added: u64,
    /// Nodes that were drained.
    drained: Vec<Hostname>,
}

/// What stays on nodes that were drained, as members, and the sentence about it.
fn left_on(
    preview: &LayoutPreview<'_>,
    hostnames: &[Hostname],
    visible: &PreviewVisibility,
) -> (String, String) {
    let left = hostnames.iter().map(|hostname| {
        let left = preview.engine.counts_on(hostname);
        left.streams + left.copies + left.inferences
    });
    let left: u64 = left.sum();
    let is_shown = |name: &str| visible.streams.shows(name);
    let named = hostnames
        .iter()
        .flat_map(|hostname| preview.engine.streams_left_on(hostname, is_shown));
    let named = named.take(NO_PLACE_SAMPLE_MAX);
    let named = Value::Array(named.map(|name| Value::from(name.as_str())).collect());
    let members = format!("\"no_place\":{left},\"no_place_sample\":{},", text(&named));
    let sentence = match left {
        0 => " Nothing would stay there.".to_owned(),
        1 => " 1 stream would stay there: no other node has room for it.".to_owned(),
        left => format!(" {left} streams would stay there: no other node has room for them."),
    };
    (members, sentence)
}

fn cluster_text(
    preview: &LayoutPreview<'_>,
    assumed: &Assumed,
    visible: &PreviewVisibility,
) -> Vec<u8> {
    let (no_place, sentence) = match &assumed.drained[..] {
        [] => Default::default(),
        drained => left_on(preview, drained, visible),
    };
    let sample = Value::Array(preview.moves_sample(&assumed.drained, visible));
    let (added, sample) = (assumed.added, text(&sample));
    let (items, hidden) = load_texts(preview, visible);
    let moves = preview.moves_caused();
    let (before, after) = preview.unplaced();
    let mut summary = summary(moves, items.len() + hidden, added, before, after);
    summary.push_str(&sentence);
    let mut out = b"{\"changes\":[".to_vec();
    out.extend_from_slice(items.join(",").as_bytes());
    let members = preview.members(visible, hidden);
    let numbers =
        format!("],{members},\"moves\":{moves},\"moves_sample\":{sample},{no_place}\"summary\":");
    out.extend_from_slice(numbers.as_bytes());
    write_string(&mut out, &summary);
    out.push(b'}');
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
    text.push_str(&format!(
        "; {} would change. ",
        count(nodes as u64, "load", "loads")
    ));
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
