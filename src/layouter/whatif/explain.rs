//! Explanations: every node's decision about a stream, as codes and as sentences.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::preview::role_name;
use super::snapshot::{RenderLayout, WhatIfSnapshot};
use crate::error::ApiError;
use crate::json::{self, Object, Value, write_string};
use crate::layouter::{MoveObstacle, NodeDecision, PlacementRole, Reasons, SlotKind};
use crate::rt::utc_ms_of;
use crate::state::apply::stream_not_found;
use crate::state::name::{Hostname, StreamName};

/// Largest page of streams with every node's decision about each.
pub const DECISIONS_LIMIT_MAX: usize = 100;
/// The member of a layout that is computed only when it is selected.
pub const DECISIONS: &str = "layout.node_layout_decisions";

const KINDS: [SlotKind; 3] = [SlotKind::Ingest, SlotKind::DvrBackup, SlotKind::Inference];

const HELD_SUMMARY: &str = "Held: the stream came to two streamers shortly before each was lost. \
                            An edit of the stream, or an hour, ends that.";

/// Code and words for what a pause holds.
const PAUSED_CODE: &str = "layouter_paused";
const PAUSED: &str = "the layouter is paused";

/// Nodes of each role that a grouped explanation has beside the current one.
const BEST_MAX: usize = 5;
/// Names of nodes in a group.
const GROUP_HOSTS_MAX: usize = 5;
/// Groups, by the number of their nodes. There are as many as combinations of reasons.
const GROUPS_MAX: usize = 50;

/// The body of `GET /streams/{name}/layout/explain`.
pub fn render(
    snapshot: &WhatIfSnapshot,
    name: &StreamName,
    grouped: bool,
    render_layout: RenderLayout,
) -> Result<Vec<u8>, ApiError> {
    let stream = snapshot.state.stream(name).ok_or_else(stream_not_found)?;
    let (mut nodes, mut groups) = (Vec::new(), Vec::new());
    let mut summary = String::new();
    for kind in KINDS {
        let Some(decisions) = sorted(snapshot, name, kind) else {
            continue;
        };
        if kind == SlotKind::Ingest {
            summary = summary_of(&decisions, snapshot.engine.expects_nodes());
        }
        let is_shown = |at: usize, decision: &NodeDecision<'_>| {
            !grouped || decision.here || at <= BEST_MAX && decision.reasons.is_empty()
        };
        let shown = decisions.iter().enumerate();
        let shown = shown.filter(|(at, decision)| is_shown(*at, decision));
        nodes.extend(shown.map(|(_, decision)| node(decision, kind)));
        groups.extend(groups_of(&decisions, kind));
    }
    if snapshot.engine.is_quarantined(name) {
        HELD_SUMMARY.clone_into(&mut summary);
    }
    if summary.is_empty() {
        summary = if stream.disabled {
            "The stream is disabled and has no node.".to_owned()
        } else {
            "The layouter has not processed the stream yet.".to_owned()
        };
    }
    let mut out = b"{".to_vec();
    let held = held(snapshot, name);
    if let Some(held) = &held {
        summary = held.summary();
    }
    if let Some(better) = better(snapshot, name, held.as_ref()) {
        out.extend_from_slice(b"\"better\":");
        better.write(&mut out);
        out.push(b',');
    }
    if grouped {
        out.extend_from_slice(b"\"groups\":");
        Value::Array(groups).write(&mut out);
        out.push(b',');
    }
    if held.is_some() {
        out.extend_from_slice(b"\"held_by\":");
        write_string(&mut out, PAUSED_CODE);
        out.push(b',');
    }
    out.extend_from_slice(b"\"layout\":");
    if stream.layout().is_some() {
        render_layout(stream, &mut out);
    } else {
        out.extend_from_slice(b"{}");
    }
    out.extend_from_slice(b",\"name\":");
    write_string(&mut out, name);
    out.extend_from_slice(b",\"nodes\":");
    Value::Array(nodes).write(&mut out);
    out.extend_from_slice(b",\"summary\":");
    write_string(&mut out, &summary);
    out.push(b'}');
    Ok(out)
}

/// A change of the ingest that the layouter would make, if it was not paused.
struct HeldChange<'a> {
    stored: Option<&'a str>,
    wanted: Option<Hostname>,
}

impl HeldChange<'_> {
    fn summary(&self) -> String {
        let place = match self.stored {
            Some(host) => format!("the stream stays on {host}"),
            None => "the stream has no node".to_owned(),
        };
        match &self.wanted {
            Some(host) => format!("The layouter is paused: {place}, {host} is chosen for it."),
            None => format!("The layouter is paused: {place}, and none would have it."),
        }
    }
}

/// What a pause of everything holds of a stream.
fn held<'a>(snapshot: &'a WhatIfSnapshot, name: &str) -> Option<HeldChange<'a>> {
    snapshot.state.paused_since()?;
    let stored = snapshot.state.stream(name)?.ingest();
    let wanted = snapshot.engine.layout(name)?.ingest;
    (stored != wanted.as_deref()).then_some(HeldChange { stored, wanted })
}

/// A node that suits the stream better than its own, and why it does not move there now.
fn better(snapshot: &WhatIfSnapshot, name: &str, held: Option<&HeldChange<'_>>) -> Option<Value> {
    let is_paused = snapshot.state.pause().is_some();
    let (hostname, why) = match held {
        Some(held) => (held.wanted.as_ref()?, PAUSED.to_owned()),
        None => {
            let better = snapshot.engine.better(name)?;
            let why = match better.obstacle {
                MoveObstacle::NextRun if is_paused => PAUSED.to_owned(),
                other => obstacle(other),
            };
            (better.hostname, why)
        }
    };
    let mut item = Object::default();
    item.insert("hostname", Value::from(hostname.as_str()));
    item.insert("why_not_now", Value::from(why.as_str()));
    Some(Value::Object(item))
}

/// What keeps a stream from moving to a better node, in short.
fn obstacle(obstacle: MoveObstacle) -> String {
    let tenths = |permille: u32| format!("{}.{}", permille / 10, permille % 10);
    let short = |permille: u32| tenths(permille).trim_end_matches(".0").to_owned();
    match obstacle {
        MoveObstacle::LoadGap { gap, start } => {
            format!("gap {} < {} points", tenths(gap), short(start))
        }
        MoveObstacle::ChannelGap { gap, start } => format!("gap {gap} < {start} channels"),
        MoveObstacle::Budget => "budget".to_owned(),
        MoveObstacle::HoldUntil(until_ms) => {
            let until = UNIX_EPOCH + Duration::from_millis(utc_ms_of(until_ms));
            format!("hold until {}", humantime::format_rfc3339_seconds(until))
        }
        MoveObstacle::Probation => "a streamer on probation".to_owned(),
        MoveObstacle::InFlight => "moves in flight".to_owned(),
        MoveObstacle::Full { load, limit } => {
            format!("load {} >= {} %", tenths(load), short(limit))
        }
        MoveObstacle::BalanceOff => "balance is off".to_owned(),
        MoveObstacle::Pinned => "pinned".to_owned(),
        MoveObstacle::NextRun => "next run".to_owned(),
    }
}

/// The nodes of one role by their reasons, the largest group first.
fn groups_of(decisions: &[NodeDecision<'_>], kind: SlotKind) -> Vec<Value> {
    let mut by_reasons: BTreeMap<Reasons, Vec<&str>> = BTreeMap::new();
    for decision in decisions {
        let hosts = by_reasons.entry(decision.reasons).or_default();
        hosts.push(decision.hostname.as_str());
    }
    let mut groups: Vec<(Reasons, Vec<&str>)> = by_reasons.into_iter().collect();
    groups.sort_by_key(|(_, hosts)| Reverse(hosts.len()));
    let group = |(reasons, hosts): (Reasons, Vec<&str>)| {
        let mut item = Object::default();
        let named = hosts.iter().take(GROUP_HOSTS_MAX).copied();
        item.insert("hostnames", Value::Array(named.map(Value::from).collect()));
        let count = json::Number::Unsigned(hosts.len() as u64);
        item.insert("nodes", Value::Number(count));
        let reasons = reasons.public_codes().map(Value::from);
        item.insert("reasons", Value::Array(reasons.collect()));
        item.insert("role", Value::from(role_name(kind)));
        Value::Object(item)
    };
    groups.into_iter().take(GROUPS_MAX).map(group).collect()
}

/// Decisions of the nodes of the right role: the current node first, then the best.
fn sorted<'e>(
    snapshot: &'e WhatIfSnapshot,
    name: &StreamName,
    kind: SlotKind,
) -> Option<Vec<NodeDecision<'e>>> {
    let wanted = match kind {
        SlotKind::Ingest | SlotKind::DvrBackup => PlacementRole::Streamer,
        SlotKind::Inference => PlacementRole::Inference,
    };
    let mut decisions = snapshot.engine.explain(name, kind)?;
    if snapshot.state.paused_since().is_some() {
        // The engine is ahead of the rows.
        let stored = snapshot.stored(name)?;
        for decision in &mut decisions {
            let host = Some(decision.hostname);
            decision.here = match kind {
                SlotKind::Ingest => stored.ingest.as_ref() == host,
                SlotKind::Inference => stored.inference.as_ref() == host,
                SlotKind::DvrBackup => stored.dvr_backups.iter().any(|it| Some(it) == host),
            };
        }
    }
    decisions.retain(|decision| decision.here || decision.role == wanted);
    decisions.sort_by_key(|decision| {
        (
            !decision.here,
            !decision.reasons.is_empty(),
            Reverse(decision.score),
            decision.load_permille,
            decision.hostname,
        )
    });
    Some(decisions)
}

/// One number for how well a node suits: preferred labels first, free capacity second.
fn suitability(decision: &NodeDecision<'_>) -> u64 {
    u64::from(decision.score) * 1000 + u64::from(1000 - decision.load_permille.min(1000))
}

fn node(decision: &NodeDecision<'_>, kind: SlotKind) -> Value {
    let allowed = decision.reasons.is_empty();
    let mut item = Object::default();
    item.insert("current", Value::Bool(decision.here));
    item.insert("hostname", Value::from(decision.hostname.as_str()));
    let percent = json::Number::Unsigned((decision.load_permille / 10).into());
    item.insert("load_percent", Value::Number(percent));
    item.insert("node_decision", Value::Bool(allowed));
    let reasons = decision.reasons.public_codes().map(Value::from);
    item.insert("reasons", Value::Array(reasons.collect()));
    item.insert("role", Value::from(role_name(kind)));
    if allowed {
        item.insert(
            "score",
            Value::Number(json::Number::Unsigned(suitability(decision))),
        );
    }
    item.insert("summary", Value::from(sentence(decision).as_str()));
    Value::Object(item)
}

fn sentence(decision: &NodeDecision<'_>) -> String {
    let load = format!(
        "load {}.{} %",
        decision.load_permille / 10,
        decision.load_permille % 10
    );
    if decision.reasons.is_empty() {
        let labels = match decision.score {
            0 => String::new(),
            score => format!("label score {score}; "),
        };
        return format!("Can take the stream: {labels}{load}.");
    }
    let why: Vec<&str> = PHRASES
        .iter()
        .filter(|(reason, _)| decision.reasons.has(*reason))
        .map(|(_, phrase)| *phrase)
        .collect();
    format!("Cannot take the stream: {}; {load}.", why.join(", "))
}

const PHRASES: [(Reasons, &str); 12] = [
    (Reasons::ROLE, "the node has another role"),
    (Reasons::NAMESPACE, "the node is in another namespace"),
    (
        Reasons::NODE_MISSES_LABELS,
        "the node lacks labels that the stream requires",
    ),
    (
        Reasons::STREAM_MISSES_LABELS,
        "the stream lacks labels that the node requires",
    ),
    (Reasons::TRANSCODING, "the node cannot transcode"),
    (Reasons::OFFLINE, "the node is offline"),
    (Reasons::CHANNEL_LIMIT, "no free channel"),
    (Reasons::BANDWIDTH, "not enough bandwidth"),
    (Reasons::DVR_SIZE, "not enough disk space for the recording"),
    (Reasons::CPU, "CPU pressure"),
    (Reasons::SIBLING, "the node has another slot of the stream"),
    (Reasons::CORDONED, "the node is in maintenance"),
];

fn summary_of(decisions: &[NodeDecision<'_>], expects_nodes: bool) -> String {
    let total = decisions.len();
    let able = decisions.iter().filter(|d| d.reasons.is_empty()).count();
    match decisions.first() {
        Some(first) if first.here => {
            let better = decisions[1..]
                .iter()
                .filter(|d| d.reasons.is_empty() && d.score > first.score)
                .count();
            let rank = if better > 0 {
                format!("; {better} score higher, but are almost full or needed by others")
            } else {
                String::new()
            };
            format!(
                "Placed on {}; {able} of {total} nodes can take it{rank}.",
                first.hostname
            )
        }
        _ if able == 0 => {
            let mut worst: Vec<(usize, &str)> = PHRASES
                .iter()
                .map(|(reason, phrase)| {
                    let count = decisions.iter().filter(|d| d.reasons.has(*reason)).count();
                    (count, *phrase)
                })
                .filter(|(count, _)| *count > 0)
                .collect();
            worst.sort_by_key(|(count, _)| Reverse(*count));
            let why: Vec<String> = worst
                .iter()
                .take(3)
                .map(|(count, phrase)| format!("{count}: {phrase}"))
                .collect();
            let why = if why.is_empty() {
                String::new()
            } else {
                format!(" ({})", why.join("; "))
            };
            format!("Waiting: none of {total} nodes can take it{why}.")
        }
        _ if expects_nodes => format!(
            "Not placed yet: streamers that were saved are expected; {able} of {total} nodes can \
             take it."
        ),
        _ => format!("Not placed yet; {able} of {total} nodes can take it."),
    }
}

/// A page of streams, completed with every node's decision about each.
pub fn with_decisions(snapshot: &WhatIfSnapshot, page: &[u8]) -> Vec<u8> {
    let mut body = json::parse(page).expect("a page is JSON");
    let streams = body.get_mut("streams").and_then(Value::as_array_mut);
    for item in streams.into_iter().flatten() {
        let name = item.get("name").and_then(Value::as_str);
        let name = StreamName::trusted(name.unwrap_or_default());
        let Some(object) = item.as_object_mut() else {
            continue;
        };
        if !matches!(object.get("layout"), Some(Value::Object(_))) {
            object.insert("layout", Value::Object(Object::default()));
        }
        if let Some(Value::Object(layout)) = object.get_mut("layout") {
            let decisions = decisions(snapshot, &name);
            layout.insert("node_layout_decisions", Value::Array(decisions));
        }
    }
    let mut out = Vec::new();
    body.write(&mut out);
    out
}

/// One decision per node: about the ingest on streamers, about inference on inference nodes.
fn decisions(snapshot: &WhatIfSnapshot, name: &StreamName) -> Vec<Value> {
    let mut all = Vec::new();
    for (kind, role) in [
        (SlotKind::Ingest, "streamer"),
        (SlotKind::Inference, "inference"),
    ] {
        for decision in sorted(snapshot, name, kind).into_iter().flatten() {
            let mut item = Object::default();
            item.insert("hostname", Value::from(decision.hostname.as_str()));
            item.insert("node_decision", Value::Bool(decision.reasons.is_empty()));
            let reasons = decision.reasons.public_codes().map(Value::from);
            item.insert("reasons", Value::Array(reasons.collect()));
            item.insert("role", Value::from(role));
            all.push(Value::Object(item));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_phrase() {
        let all = Reasons(u16::MAX).codes().count();
        assert_eq!(all, PHRASES.len());
        for (reason, phrase) in PHRASES {
            assert_eq!(reason.codes().count(), 1, "{phrase}");
        }
    }
}
