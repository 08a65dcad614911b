//! What would change if: the engine's own code on a snapshot, and the difference told in streams or in loads of nodes.
//!
//! The supposed commands go the way of real ones: `state::apply` checks and merges them, `layouter::intake` reads the records, the engine takes
//! the rows. What would happen anyway, without the supposition, is let happen first, so that it is not told as its consequence. A preview
//! looks as far as one tick of the layouter: everything urgent, and what the budgets of one interval allow of the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::pages::Items;
use super::worker::Snapshot;
use crate::access::rights::Visibility;
use crate::error::{self, ApiError};
use crate::json::{self, FieldType, Object, Value, write_string};
use crate::layouter::intake::{node_spec, stream_spec};
use crate::layouter::{
    Engine, Event, LayoutChange, NodeSpec, NodeState, PlacementRole, Rows, SlotKind, StreamLayout,
    StreamSpec,
};
use crate::query::{KeyOrder, ListKind};
use crate::schema;
use crate::state::State;
use crate::state::apply::{Stamp, apply, streamer_not_found};
use crate::state::command::{Command, StreamPatch};
use crate::state::name::{Hostname, StreamName};
use crate::state::record::Role;

/// Most streams that may be supposed at once.
const STREAMS_ADDED_MAX: u64 = 1_000_000;

/// Changes of layouts, one per stream, in the order of their names.
pub static LAYOUTS: ListKind = ListKind {
    collection: "changes",
    key: "$position",
    key_order: KeyOrder::Decimal,
    default_sort: "$position",
    stamp: None,
    required: schema_required_of_layouts,
    search: &[],
    field_type: |path| crate::query::field_type(schema::layout_change(), path),
    secret: |_| false,
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
    field_type: |path| match path {
        "before" | "after" | "delta" => Some(FieldType::Integer),
        _ => crate::query::field_type(schema::load_change(), path),
    },
    secret: |_| false,
};

fn schema_required_of_layouts() -> &'static [Box<str>] {
    schema::layout_change().required()
}

/// One thing that is supposed to happen to the cluster.
#[derive(Debug)]
pub enum Supposed {
    StreamerLost {
        hostname: Hostname,
        pointer: String,
    },
    StreamerSaved {
        hostname: Hostname,
        config: Object,
    },
    StreamsAdded {
        count: u64,
        patch: StreamPatch,
        pointer: String,
    },
}

impl Supposed {
    /// From the body of `POST /cluster/preview`.
    pub fn from_body(body: Value) -> Result<Vec<Self>, ApiError> {
        let mut body = body;
        let schema = schema::cluster_preview_request();
        schema.prune(&mut body);
        schema
            .check(&body)
            .map_err(|violations| crate::state::apply::invalid(violations, ""))?;
        let Some(Value::Array(events)) =
            body.as_object_mut().and_then(|body| body.remove("events"))
        else {
            return Ok(Vec::new());
        };
        let mut streams_left = STREAMS_ADDED_MAX;
        let each = events.into_iter().enumerate();
        each.map(|(i, event)| Self::one(event, format!("/events/{i}"), &mut streams_left))
            .collect()
    }

    fn one(event: Value, pointer: String, streams_left: &mut u64) -> Result<Self, ApiError> {
        let Value::Object(mut event) = event else {
            return Err(error::NOT_OBJECT
                .titled("Expected a JSON object")
                .at_pointer(pointer));
        };
        let hostname = |event: &Object| {
            let text = event.get("hostname").and_then(Value::as_str);
            Hostname::parse(text.unwrap_or_default()).map_err(|why| {
                error::WRONG_FORMAT
                    .titled(why)
                    .at_pointer(format!("{pointer}/hostname"))
            })
        };
        match event.get("event").and_then(Value::as_str) {
            Some("streamer_lost") => Ok(Self::StreamerLost {
                hostname: hostname(&event)?,
                pointer,
            }),
            Some("streamer_saved") => Ok(Self::StreamerSaved {
                hostname: hostname(&event)?,
                config: event,
            }),
            _ => {
                let count = event.get("count").and_then(Value::as_u64).unwrap_or(1);
                *streams_left = streams_left.checked_sub(count).ok_or_else(|| {
                    let title = "At most 1,000,000 streams can be supposed at once";
                    error::INPUT_OUT_OF_RANGE
                        .titled(title)
                        .at_pointer(format!("{pointer}/count"))
                        .with("maximum", STREAMS_ADDED_MAX)
                })?;
                let stream = event.remove("stream");
                let stream = stream.unwrap_or_else(|| Value::Object(Object::default()));
                let pointer = format!("{pointer}/stream");
                let mut stream = stream;
                if let Value::Object(object) = &mut stream {
                    // All of them are new, wherever the configuration was taken from.
                    object.remove("name");
                    object.remove("layout");
                }
                let patch = StreamPatch::from_body(stream, &supposed_name(0), &pointer)?;
                Ok(Self::StreamsAdded {
                    count,
                    patch,
                    pointer,
                })
            }
        }
    }
}

/// The name of a supposed stream; the control character keeps it apart from every real one.
fn supposed_name(number: u64) -> StreamName {
    StreamName::trusted(&format!("\u{1}{number:07}"))
}

/// A snapshot in which something happened.
struct Supposition {
    engine: Engine,
    changes: Vec<LayoutChange>,
    /// Streams whose rows were touched.
    touched: BTreeSet<StreamName>,
}

impl Supposition {
    /// Lets happen what would happen anyway.
    fn new(snapshot: &Snapshot) -> Self {
        let mut engine = snapshot.engine.snapshot();
        engine.apply(Event::Tick {
            now_ms: snapshot.now_ms,
        });
        Self {
            engine,
            changes: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Lets events happen, and then an interval pass.
    fn happen(&mut self, snapshot: &Snapshot, mut events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let interval_ms = self.engine.settings().interval_ms;
        events.push(Event::Tick {
            now_ms: snapshot.now_ms + interval_ms,
        });
        self.changes = self.engine.apply_all(events);
        let moved = self.changes.iter().map(|change| change.stream.clone());
        self.touched.extend(moved);
    }

    /// Streams that are elsewhere than before, with where they are now.
    fn moved<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = (&'a StreamName, Placement, StreamLayout)> {
        self.touched.iter().filter_map(|name| {
            let before = Placement::stored(state, name);
            let after = self.engine.layout(name).unwrap_or_default();
            (before != Placement::of(&after)).then_some((name, before, after))
        })
    }
}

/// The nodes of a stream.
#[derive(PartialEq, Eq, Default)]
struct Placement {
    ingest: Option<Hostname>,
    inference: Option<Hostname>,
    dvr_backups: BTreeSet<Hostname>,
}

impl Placement {
    fn of(layout: &StreamLayout) -> Self {
        Self {
            ingest: layout.ingest.clone(),
            inference: layout.inference.clone(),
            dvr_backups: layout.dvr_backups.iter().cloned().collect(),
        }
    }

    fn stored(state: &State, name: &StreamName) -> Self {
        let Some(stream) = state.stream(name) else {
            return Self::default();
        };
        Self {
            ingest: stream.ingest().map(Hostname::trusted),
            inference: stream.inference().map(Hostname::trusted),
            dvr_backups: stream.backups().map(Hostname::trusted).collect(),
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

/// What the engine makes of commands that are not carried out.
fn suppose(snapshot: &Snapshot, commands: Vec<Command>) -> Result<Supposition, ApiError> {
    let mut supposition = Supposition::new(snapshot);
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
            supposition.touched.insert(change.name.clone());
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
    supposition.happen(snapshot, events.into_iter().collect());
    Ok(supposition)
}

/// Which streams would be placed differently.
pub fn layouts(
    snapshot: &Snapshot,
    commands: Vec<Command>,
    visible: &Visibility,
) -> Result<Items, ApiError> {
    let supposition = suppose(snapshot, commands)?;
    // Of several changes of a stream the ingest's is the one that is told, as in a save.
    let mut reasons: BTreeMap<&StreamName, &LayoutChange> = BTreeMap::new();
    for change in &supposition.changes {
        let told = reasons.entry(&change.stream).or_insert(change);
        if change.kind < told.kind {
            *told = change;
        }
    }
    let mut hidden = 0;
    let items = supposition
        .moved(&snapshot.state)
        .filter_map(|(name, _, after)| {
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
    Ok(Items::new(items, hidden))
}

/// A layout that would come about, as an item of a list.
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

/// Streams that nodes would gain, less those they would lose.
type Loads = BTreeMap<(Hostname, SlotKind), i64>;

fn deltas(supposition: &Supposition, state: &State) -> Loads {
    let mut deltas = Loads::new();
    for (_, before, after) in supposition.moved(state) {
        for (host, kind) in before.nodes() {
            *deltas.entry((host.clone(), kind)).or_default() -= 1;
        }
        for (host, kind) in Placement::of(&after).nodes() {
            *deltas.entry((host.clone(), kind)).or_default() += 1;
        }
    }
    deltas.retain(|_, delta| *delta != 0);
    deltas
}

fn load_texts(state: &State, deltas: Loads) -> Vec<String> {
    let texts = deltas.into_iter().map(|((hostname, kind), delta)| {
        let role = match kind {
            SlotKind::Ingest => Role::Ingest,
            SlotKind::Inference => Role::Inference,
            SlotKind::DvrBackup => Role::Backup,
        };
        let before = state.node(&hostname).map_or(0, |node| {
            let roles = node.streams.iter();
            roles.filter(|(_, other)| **other == role).count() as i64
        });
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

/// How the API calls what a node does for a stream.
pub fn role_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Ingest => "ingest",
        SlotKind::Inference => "inference",
        SlotKind::DvrBackup => "dvr_backup",
    }
}

/// Which nodes would have another number of streams.
pub fn loads(
    snapshot: &Snapshot,
    commands: Vec<Command>,
    visible: &Visibility,
) -> Result<Items, ApiError> {
    let supposition = suppose(snapshot, commands)?;
    let mut deltas = deltas(&supposition, &snapshot.state);
    let all = deltas.len();
    deltas.retain(|(hostname, _), _| visible.shows(hostname));
    let hidden = (all - deltas.len()) as u64;
    Ok(Items::new(load_texts(&snapshot.state, deltas), hidden))
}

/// What would come of events that have not happened.
pub fn cluster(snapshot: &Snapshot, supposed: Vec<Supposed>) -> Result<Vec<u8>, ApiError> {
    let mut supposition = Supposition::new(snapshot);
    let waiting_before = supposition.engine.waiting_count();
    let mut events: Vec<Event> = Vec::new();
    let mut added = 0;
    for event in supposed {
        match event {
            Supposed::StreamerLost { hostname, pointer } => {
                if snapshot.state.streamer(&hostname).is_none() {
                    let at = format!("{pointer}/hostname");
                    return Err(streamer_not_found()
                        .at_pointer(at)
                        .with("hostname", &hostname));
                }
                let lost = (hostname, NodeState::Down);
                // Those that are lost one after the other are lost together: nothing is moved from one to the next.
                match events.last_mut() {
                    Some(Event::NodeStates(states)) => states.push(lost),
                    _ => events.push(Event::NodeStates(vec![lost])),
                }
            }
            Supposed::StreamerSaved { hostname, config } => {
                let spec = supposed_node(snapshot, hostname, &config);
                events.push(Event::Commit(Rows {
                    nodes: vec![spec],
                    ..Rows::default()
                }));
            }
            Supposed::StreamsAdded {
                count,
                patch,
                pointer,
            } => {
                let spec = supposed_stream(&snapshot.state, patch, &pointer)?;
                let streams = (added..added + count).map(|number| StreamSpec {
                    name: supposed_name(number),
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
    supposition.happen(snapshot, events);
    let moves = supposition
        .moved(&snapshot.state)
        .filter(|(name, before, _)| {
            snapshot.state.stream(name).is_some() && *before != Placement::default()
        })
        .count();
    let unplaced = supposition.engine.waiting_count();
    let deltas = deltas(&supposition, &snapshot.state);
    let nodes = deltas.len();
    let mut out = b"{\"changes\":[".to_vec();
    out.extend_from_slice(load_texts(&snapshot.state, deltas).join(",").as_bytes());
    out.extend_from_slice(format!("],\"moves\":{moves},\"summary\":").as_bytes());
    write_string(
        &mut out,
        &summary(moves, nodes, added, waiting_before, unplaced),
    );
    out.extend_from_slice(format!(",\"unplaced\":{unplaced}}}").as_bytes());
    Ok(out)
}

fn summary(moves: usize, nodes: usize, added: u64, waiting: u32, unplaced: u32) -> String {
    let streams = |count: u64| {
        if count == 1 {
            "1 stream".to_owned()
        } else {
            format!("{count} streams")
        }
    };
    let mut text = format!("{} would move", streams(moves as u64));
    if added > 0 {
        text.push_str(&format!(", {} would be added", streams(added)));
    }
    text.push_str(&format!("; {nodes} loads would change. "));
    if unplaced == 0 {
        text.push_str("Everything would have a place.");
    } else {
        text.push_str(&format!(
            "{unplaced} would be without a place, {waiting} of them before."
        ));
    }
    text
}

/// A node with the limits and labels that are supposed of it.
fn supposed_node(snapshot: &Snapshot, hostname: Hostname, config: &Object) -> NodeSpec {
    let number = |field| {
        let value = config.get(field).and_then(Value::as_u64)?;
        Some(u32::try_from(value).unwrap_or(u32::MAX))
    };
    let stats = snapshot.node_stats(&hostname);
    let mut spec = match snapshot.state.streamer(&hostname) {
        Some(record) => node_spec(record, stats.as_ref(), NodeState::Up),
        None => NodeSpec {
            role: match config.get("role").and_then(Value::as_str) {
                Some("inference") => PlacementRole::Inference,
                _ => PlacementRole::Streamer,
            },
            namespace: config
                .get("namespace")
                .and_then(Value::as_str)
                .map(Into::into),
            ..NodeSpec::streamer(&hostname, crate::layouter::intake::CHANNEL_LIMIT_DEFAULT)
        },
    };
    if let Some(limit) = number("channel_limit") {
        spec.channel_limit = limit;
    }
    if let Some(kbps) = number("total_bandwidth") {
        spec.bandwidth_kbps = (kbps > 0).then_some(kbps);
    }
    if let Some(labels) = config.get("labels").and_then(Value::as_object) {
        let pairs = labels.iter().filter_map(|(key, value)| {
            let value = value.as_str()?;
            Some((key.into(), value.into()))
        });
        spec.labels = pairs.collect();
    }
    spec
}

/// A stream of a supposed configuration, checked as a save would.
fn supposed_stream(
    state: &State,
    patch: StreamPatch,
    pointer: &str,
) -> Result<StreamSpec, ApiError> {
    let stamp = Stamp {
        revision: state.revision() + 1,
        ms: state.stamp_ms() + 1,
    };
    let name = supposed_name(0);
    let items = vec![(name, patch)];
    let changes = apply(state, Command::SaveStreams { items }, stamp).map_err(|mut error| {
        for item in &mut error.items {
            // It was item 0 of a batch.
            let at = item.pointer.as_deref().unwrap_or_default();
            item.pointer = Some(format!("{pointer}{}", at.strip_prefix("/0").unwrap_or(at)));
        }
        error
    })?;
    let record = changes
        .streams
        .first()
        .and_then(|change| change.new.as_ref());
    Ok(record.map_or_else(|| StreamSpec::new(""), stream_spec))
}

fn text(value: &Value) -> String {
    let mut out = Vec::new();
    value.write(&mut out);
    json::text_of(out)
}
