//! Layouts: placing streams, by the API or by a plan of the layouter.

use std::collections::BTreeMap;

use rkyv::string::ArchivedString;

use super::Changes;
use super::node_views::finish;
use super::streamer::node_of_role;
use crate::error::{self, ApiError};
use crate::json;
use crate::state::State;
use crate::state::batch::BatchItems;
use crate::state::changes::Done;
use crate::state::command::{CHANGE_REASONS, HandoverEnd, LayoutPatch, Placement};
use crate::state::event::{EventList, LIST_BYTES_MAX, LIST_MAX, NewEvent};
use crate::state::handover;
use crate::state::label;
use crate::state::name::{Hostname, StreamName};
use crate::state::record::{LAYOUTS_KEPT_MAX, LAYOUTS_KEPT_MS, Layout, NodeRole, Stream};

/// Places many streams, all or none.
pub(super) fn set(
    state: &State,
    items: BatchItems<StreamName, LayoutPatch>,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    items.apply_each(|i, name, layout| {
        let at = format!("/layouts/{i}");
        let result = set_one(state, &name, &layout, &at, changes);
        result.map_err(|error| error.of_item(&name))
    })?;
    Ok(Done::Nothing)
}

pub(super) fn set_one(
    state: &State,
    name: &StreamName,
    layout: &LayoutPatch,
    at: &str,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let old = state
        .stream(name)
        .ok_or_else(|| error::UNKNOWN_STREAM.at(format!("{at}/name")))?;
    let mut stream = old.to_owned();
    let before = stream.layouts.first().cloned().unwrap_or_default();
    place(state, &mut stream, layout, changes.stamp_ms, at)?;
    if !layout.force {
        check_labels(state, &stream, &before, at)?;
    }
    finish(state, name, Some(old), stream, changes);
    Ok(())
}

/// Refuses newly chosen nodes that the labels of the stream or of the node forbid: the layouter
/// would move the stream away at once, and without it nothing else would show the mistake. Limits
/// are not looked at: they are about room, which changes.
fn check_labels(
    state: &State,
    stream: &Stream,
    before: &Layout,
    pointer: &str,
) -> Result<(), ApiError> {
    let next = stream.layouts.first().cloned().unwrap_or_default();
    let mut chosen: Vec<(&str, String)> = Vec::new();
    for (field, host, old) in [
        ("ingest", &next.ingest, &before.ingest),
        ("inference", &next.inference, &before.inference),
    ] {
        let host = host.as_deref().filter(|_| host != old);
        chosen.extend(host.map(|host| (host, format!("{pointer}/{field}"))));
    }
    for (i, host) in next.dvr_backups.iter().enumerate() {
        if !before.dvr_backups.contains(host) {
            chosen.push((host, format!("{pointer}/dvr_backups/{i}")));
        }
    }
    let wants = label::of_config(&stream.config);
    for (host, at) in chosen {
        let Some(node) = state.streamer(host) else {
            continue;
        };
        let offers = label::of_config(&node.config);
        let reason = if !wants.required.iter().all(|it| offers.plain.contains(it)) {
            "node_misses_stream_required_labels"
        } else if !offers.required.iter().all(|it| wants.plain.contains(it)) {
            "stream_misses_node_required_labels"
        } else {
            continue;
        };
        return Err(error::ILLEGAL_LAYOUT
            .at(at)
            .with("hostname", host)
            .with("reason", reason));
    }
    Ok(())
}

/// Carries out a plan of the layouter. Skips the rows whose stream changed since the decision and
/// those that are not possible any more or that a pause holds, and returns their numbers.
pub(super) fn carry_out(state: &State, items: Vec<Placement>, changes: &mut Changes) -> Done {
    let mut refused = Vec::new();
    let mut relayouts = Relayouts::default();
    for (i, item) in items.into_iter().enumerate() {
        let old = state
            .stream(&item.name)
            .filter(|old| old.revision == item.revision && !state.holds_placement(item.improves));
        let placed = old.and_then(|old| {
            let mut stream = old.to_owned();
            let placed = place(state, &mut stream, &item.layout, changes.stamp_ms, "");
            placed.is_ok().then_some((old, stream))
        });
        match placed {
            Some((old, stream)) => {
                let changed_before = changes.streams.len();
                finish(state, &item.name, Some(old), stream, changes);
                if changes.streams.len() > changed_before {
                    relayouts.push(&item, old.ingest());
                }
            }
            None => refused.push(i),
        }
    }
    changes.events.extend(relayouts.event(changes));
    Done::Placed { refused }
}

/// The moves of one plan, as one event: the first of them, and the number of all by reason.
struct Relayouts {
    list: EventList,
    why: BTreeMap<&'static str, u64>,
}

impl Default for Relayouts {
    fn default() -> Self {
        Self {
            list: EventList::new(LIST_MAX, LIST_BYTES_MAX),
            why: BTreeMap::new(),
        }
    }
}

impl Relayouts {
    /// Adds a move. `from` is the ingest node before.
    fn push(&mut self, item: &Placement, from: Option<&str>) {
        *self.why.entry(item.why).or_default() += 1;
        self.list.push(|out| {
            let text = |out: &mut Vec<u8>, begin: &str, text: &str| {
                out.extend_from_slice(begin.as_bytes());
                json::write_string(out, text);
            };
            let wanted = item.layout.ingest.as_ref();
            let ingest = wanted.map_or(from, |ingest| ingest.as_ref().map(Hostname::as_str));
            out.push(b'{');
            if let Some(from) = from.filter(|_| ingest != from) {
                text(out, "\"from\":", from);
                out.push(b',');
            }
            if let (Some(_), Some(ingest)) = (wanted, ingest) {
                text(out, "\"ingest\":", ingest);
                out.push(b',');
            }
            text(out, "\"name\":", &item.name);
            text(out, ",\"why\":", item.why);
            out.push(b'}');
        });
    }

    fn event(self, changes: &Changes) -> Option<NewEvent> {
        let count = self.list.count();
        if count == 0 {
            return None;
        }
        let why = self
            .why
            .iter()
            .map(|(why, count)| format!("\"{why}\":{count}"));
        let why = format!("{{{}}}", why.collect::<Vec<_>>().join(","));
        let event = NewEvent::new("layouter_processing_result")
            .json("relayouts", &self.list.finish())
            .number("relayouts_count", count)
            .json("relayouts_why", &why);
        Some(event.about_streams(changes.streams.iter().map(|change| &*change.name)))
    }
}

/// Writes a wanted layout into a stream. The whole of it must be possible: known nodes of the right
/// role and namespace, no node twice.
pub(super) fn place(
    state: &State,
    stream: &mut Stream,
    wanted: &LayoutPatch,
    stamp_ms: u64,
    pointer: &str,
) -> Result<(), ApiError> {
    let current = stream.layouts.first().cloned().unwrap_or_default();
    let mut next = merged(&current, wanted);
    check_nodes(state, stream, &current, &next, pointer)?;
    let reason = wanted
        .change_reason
        .as_deref()
        .filter(|reason| CHANGE_REASONS.contains(reason));
    let stays = next.ingest == current.ingest;
    let pinned = wanted.pinned.unwrap_or(stays && stream.pinned);
    stream.pinned = pinned && next.ingest.is_some();
    if next.same_nodes(&current) {
        if wanted.change_reason.is_some() {
            next.change_reason = reason.map(str::to_owned);
        }
        if let Some(first) = stream.layouts.first_mut() {
            *first = next;
        }
        return Ok(());
    }
    let left = current.ingest.filter(|_| wanted.hands_over);
    handover::moved(state, stream, left, &next);
    next.change_reason = match (reason, wanted.by_layouter) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, false) => Some("relayout_by_api".to_owned()),
        (None, true) => None,
    };
    next.by_layouter = wanted.by_layouter;
    next.created_at = stamp_ms;
    stream.layouts.insert(0, next);
    let oldest = stamp_ms.saturating_sub(LAYOUTS_KEPT_MS);
    let mut kept = 0;
    stream.layouts.retain(|layout: &Layout| {
        kept += 1;
        kept == 1 || (kept <= LAYOUTS_KEPT_MAX && layout.created_at >= oldest)
    });
    Ok(())
}

/// Takes handed over streams from the nodes that kept them. Skips those that are not handed over
/// between these nodes any more, and those that a pause holds.
pub(super) fn end_handovers(state: &State, items: &[HandoverEnd], changes: &mut Changes) -> Done {
    for item in items {
        let old = state.stream(&item.name).filter(|old| {
            old.handover_from() == Some(&*item.from)
                && old.ingest() == Some(&*item.to)
                && !state.holds_handover(old)
        });
        if let Some(old) = old {
            let mut stream = old.to_owned();
            stream.handover_from = None;
            finish(state, &item.name, Some(old), stream, changes);
        }
    }
    Done::Nothing
}

/// The current layout with the members that the patch names.
fn merged(current: &Layout, wanted: &LayoutPatch) -> Layout {
    let mut next = current.clone();
    let text = |host: &Option<Hostname>| host.as_ref().map(ToString::to_string);
    if let Some(ingest) = &wanted.ingest {
        next.ingest = text(ingest);
    }
    if let Some(inference) = &wanted.inference {
        next.inference = text(inference);
    }
    if let Some(backups) = &wanted.dvr_backups {
        next.dvr_backups = backups.iter().map(ToString::to_string).collect();
    }
    if let Some(failover_from) = &wanted.failover_from {
        next.failover_from = text(failover_from);
    }
    next
}

/// Refuses a layout that is not possible. A node that holds the stream already may have been
/// deleted since: it is checked only when it is newly chosen.
fn check_nodes(
    state: &State,
    stream: &Stream,
    current: &Layout,
    next: &Layout,
    pointer: &str,
) -> Result<(), ApiError> {
    let check = |host: &str, role, at| check_node(state, stream, host, role, at);
    if let Some(host) = &next.ingest
        && next.ingest != current.ingest
    {
        check(host, NodeRole::Streamer, format!("{pointer}/ingest"))?;
    }
    if let Some(host) = &next.inference
        && next.inference != current.inference
    {
        check(host, NodeRole::Inference, format!("{pointer}/inference"))?;
    }
    for (i, host) in next.dvr_backups.iter().enumerate() {
        let at = format!("{pointer}/dvr_backups/{i}");
        if !current.dvr_backups.contains(host) {
            check(host, NodeRole::Streamer, at.clone())?;
        }
        if next.ingest.as_ref() == Some(host) || next.dvr_backups[..i].contains(host) {
            return Err(error::DUPLICATE_NODE.at(at).with("hostname", host));
        }
    }
    Ok(())
}

fn check_node(
    state: &State,
    stream: &Stream,
    host: &str,
    role: NodeRole,
    at: String,
) -> Result<(), ApiError> {
    let node = node_of_role(state, host, role, at.clone())?;
    let namespace = node.namespace.as_ref().map(ArchivedString::as_str);
    if namespace != stream.namespace.as_deref() {
        return Err(error::NAMESPACE_MISMATCH.at(at).with("hostname", host));
    }
    Ok(())
}
