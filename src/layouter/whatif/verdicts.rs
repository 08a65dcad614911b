//! Verdicts about layouts before they are set: which of them the layouter would undo.

use super::consequences::LayoutPreview;
use super::preview::preview_commands;
use super::snapshot::WhatIfSnapshot;
use crate::error::ApiError;
use crate::json::{Object, Value};
use crate::layouter::{Engine, MoveReason, Reasons, SlotKind, StreamLayout};
use crate::state::batch::BatchItems;
use crate::state::command::{Command, LayoutPatch};
use crate::state::name::{Hostname, StreamName};

/// The nodes that an item names.
struct WantedNodes {
    stream: StreamName,
    nodes: Vec<(SlotKind, Hostname)>,
}

impl WantedNodes {
    fn of(stream: &StreamName, layout: &LayoutPatch) -> Self {
        let one = |host: &Option<Option<Hostname>>| host.clone().flatten();
        let ingest = one(&layout.ingest).map(|host| (SlotKind::Ingest, host));
        let inference = one(&layout.inference).map(|host| (SlotKind::Inference, host));
        let backups = layout.dvr_backups.iter().flatten().cloned();
        let backups = backups.map(|host| (SlotKind::DvrBackup, host));
        Self {
            stream: stream.clone(),
            nodes: ingest.into_iter().chain(inference).chain(backups).collect(),
        }
    }
}

/// The body of a dry run of `POST /streams/layouts`. All items are set together, then the layouter
/// runs once. An item that labels forbid is judged as if it were forced.
pub fn render(
    snapshot: &WhatIfSnapshot,
    items: BatchItems<StreamName, LayoutPatch>,
) -> Result<Vec<u8>, ApiError> {
    let mut items = items;
    for (_, layout) in items.iter_mut() {
        layout.force = true;
    }
    let wanted = items
        .iter()
        .map(|(name, layout)| WantedNodes::of(name, layout));
    let wanted: Vec<WantedNodes> = wanted.collect();
    let preview = preview_commands(snapshot, vec![Command::SetLayouts { items }])?;
    let verdicts = wanted
        .iter()
        .map(|wanted| verdict(snapshot, &preview, wanted));
    let mut body = Object::default();
    body.insert("layouts", Value::Array(verdicts.collect()));
    let mut out = Vec::new();
    Value::Object(body).write(&mut out);
    Ok(out)
}

fn verdict(snapshot: &WhatIfSnapshot, preview: &LayoutPreview<'_>, wanted: &WantedNodes) -> Value {
    let after = preview.engine.layout(&wanted.stream).unwrap_or_default();
    let undone = wanted.nodes.iter();
    let undone = undone.filter(|(kind, host)| !has(&after, *kind, host));
    let mut reasons: Vec<&'static str> = undone
        .flat_map(|(kind, host)| why_undone(snapshot, preview, &wanted.stream, *kind, host))
        .collect();
    let verdict = if reasons.is_empty() {
        let nodes = wanted.nodes.iter();
        reasons.extend(nodes.flat_map(|(kind, host)| {
            let tolerated = Reasons::CORDONED | Reasons::CPU | Reasons::OFFLINE;
            against(&preview.unchanged, &wanted.stream, *kind, host, tolerated)
        }));
        "ok"
    } else {
        "will_be_undone"
    };
    reasons.sort_unstable();
    reasons.dedup();
    let mut item = Object::default();
    if let Some((SlotKind::Ingest, host)) = wanted.nodes.first() {
        item.insert("ingest", Value::from(host.as_str()));
    }
    item.insert("name", Value::from(wanted.stream.as_str()));
    let reasons = reasons.into_iter().map(Value::from);
    item.insert("reasons", Value::Array(reasons.collect()));
    item.insert("verdict", Value::from(verdict));
    Value::Object(item)
}

fn has(layout: &StreamLayout, kind: SlotKind, host: &Hostname) -> bool {
    match kind {
        SlotKind::Ingest => layout.ingest.as_ref() == Some(host),
        SlotKind::Inference => layout.inference.as_ref() == Some(host),
        SlotKind::DvrBackup => layout.dvr_backups.contains(host),
    }
}

/// The codes of those of the reasons that an engine has against a node.
fn against(
    engine: &Engine,
    stream: &StreamName,
    kind: SlotKind,
    host: &Hostname,
    among: Reasons,
) -> Vec<&'static str> {
    let reasons = engine.reasons_against(stream, kind, host);
    Reasons(reasons.0 & among.0).public_codes().collect()
}

/// Why a slot is not on the node that was wanted: the reasons against that node, or else the reason
/// of the move away from it. There is at least one.
fn why_undone(
    snapshot: &WhatIfSnapshot,
    preview: &LayoutPreview<'_>,
    stream: &StreamName,
    kind: SlotKind,
    host: &Hostname,
) -> Vec<&'static str> {
    let stored = snapshot.state.stream(stream);
    if stored.is_some_and(|stored| stored.disabled) {
        return vec![MoveReason::Disabled.code()];
    }
    let against = against(&preview.engine, stream, kind, host, Reasons(u16::MAX));
    if !against.is_empty() {
        return against;
    }
    let mut changes = preview.changes.iter();
    let change = changes.find(|change| change.stream == *stream && change.kind == kind);
    let reason = change.map_or(MoveReason::NotDistributed, |change| change.reason);
    vec![reason.code()]
}
