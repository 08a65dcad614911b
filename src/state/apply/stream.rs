//! Streams: saving one, laying it out, and finding which nodes can see the difference.

use super::merge::{merge, namespace, stored};
use super::{Changes, Lost, NodeChange, Stamp, StreamChange};
use crate::http::error::ApiError;
use crate::json::{self, Value};
use crate::schema;
use crate::state::State;
use crate::state::command::{CHANGE_REASONS, LayoutPatch, Placement, StreamPatch};
use crate::state::event::NewEvent;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::{holders, render};
use crate::state::record::{
    LAYOUTS_KEPT_MAX, LAYOUTS_KEPT_MS, Layout, NodeRole, Role, Stream, StreamRecord,
};

/// What the layouter did, as one event.
#[derive(Default)]
pub(super) struct Relayouts(Vec<u8>);

impl Relayouts {
    pub(super) fn push(&mut self, item: &Placement) {
        let out = &mut self.0;
        out.push(if out.is_empty() { b'[' } else { b',' });
        out.extend_from_slice(b"{\"name\":");
        json::write_string(out, &item.name);
        if let Some(Some(ingest)) = &item.layout.ingest {
            out.extend_from_slice(b",\"ingest\":");
            json::write_string(out, ingest);
        }
        out.extend_from_slice(b",\"why\":");
        json::write_string(out, item.why);
        out.push(b'}');
    }

    pub(super) fn event(mut self) -> Option<NewEvent> {
        if self.0.is_empty() {
            return None;
        }
        self.0.push(b']');
        let relayouts = String::from_utf8(self.0).expect("written JSON is UTF-8");
        Some(NewEvent::new("layouter_processing_result").json("relayouts", relayouts.into()))
    }
}

pub(super) fn save_stream(
    state: &State,
    name: &StreamName,
    patch: StreamPatch,
    stamp: Stamp,
    pointer: &str,
    changes: &mut Changes,
) -> Result<StreamRecord, ApiError> {
    let old = state.stream(name);
    let mut stream = match old {
        Some(old) => old.to_owned(),
        None => Stream {
            name: name.to_string(),
            ..Stream::default()
        },
    };
    let merged = merge(
        schema::stream(),
        &stream.config,
        &stream.filled,
        patch.config,
        pointer,
    )?;
    let before = stream.namespace.as_deref();
    stream.namespace = namespace(&merged, old.is_some(), before, pointer)?;
    stream.disabled = merged
        .get("disabled")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let stored = stored(schema::stream(), merged);
    stream.has_secrets = stored.has_secrets;
    stream.config = stored.config;
    stream.filled = stored.filled;
    if let Some(layout) = &patch.layout {
        place(
            state,
            &mut stream,
            layout,
            stamp,
            &format!("{pointer}/layout"),
        )?;
    }
    Ok(finish_stream(state, name, old, stream, stamp, changes))
}

/// Gives a changed stream its stamps and finds the nodes that can see the change.
pub(super) fn finish_stream(
    state: &State,
    name: &StreamName,
    old: Option<&StreamRecord>,
    mut stream: Stream,
    stamp: Stamp,
    changes: &mut Changes,
) -> StreamRecord {
    if let Some(old) = old {
        // Compared with the stamps of the old record: equal means that nothing else differs either.
        if **old == stream {
            return old.clone();
        }
    }
    stream.revision = stamp.revision;
    stream.updated_at = stamp.ms;
    let mut new = StreamRecord::new(&stream);
    let moved = move_nodes(state, old, Some(&new), &mut changes.nodes);
    if moved != [false; 3] {
        for (role, moved) in moved.into_iter().enumerate() {
            if moved {
                stream.rendered[role] = stamp.revision;
            }
        }
        new = StreamRecord::new(&stream);
    }
    changes.streams.push(StreamChange {
        name: name.clone(),
        old: old.cloned(),
        new: Some(new.clone()),
    });
    new
}

/// Compares what each holder was told with what it will be told. Returns for which roles that moved.
pub(super) fn move_nodes(
    state: &State,
    old: Option<&StreamRecord>,
    new: Option<&StreamRecord>,
    nodes: &mut Vec<NodeChange>,
) -> [bool; 3] {
    let mut moved = [false; 3];
    let Some(name) = old.or(new).map(|record| StreamName::trusted(&record.name)) else {
        return moved;
    };
    let before: Vec<(&str, Role)> = old
        .map(|record| holders(record).collect())
        .unwrap_or_default();
    let after: Vec<(&str, Role)> = new
        .map(|record| holders(record).collect())
        .unwrap_or_default();
    if before.is_empty() && after.is_empty() {
        return moved;
    }
    let (mut text_before, mut text_after) = (Vec::new(), Vec::new());
    let tell = |record: Option<&StreamRecord>,
                role: Option<Role>,
                host: &str,
                text: &mut Vec<u8>|
     -> bool {
        text.clear();
        match (record, role) {
            (Some(record), Some(role)) => render(state, record, role, host, text),
            _ => false,
        }
    };
    let role_of = |list: &[(&str, Role)], host: &str| {
        list.iter()
            .find(|(other, _)| *other == host)
            .map(|(_, role)| *role)
    };
    for &(host, role) in &after {
        let role_before = role_of(&before, host);
        let was_told = tell(old, role_before, host, &mut text_before);
        let is_told = tell(new, Some(role), host, &mut text_after);
        let visible = was_told != is_told || text_before != text_after;
        if visible && is_told {
            moved[role as usize] = true;
        }
        let lost = if was_told && !is_told {
            Lost::Stream(name.clone())
        } else {
            Lost::Nothing
        };
        if visible || role_before != Some(role) {
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), Some(role))),
                visible,
                lost,
            });
        }
    }
    for &(host, role) in &before {
        if role_of(&after, host).is_none() {
            let was_told = tell(old, Some(role), host, &mut text_before);
            let lost = if was_told {
                Lost::Stream(name.clone())
            } else {
                Lost::Nothing
            };
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), None)),
                visible: was_told,
                lost,
            });
        }
    }
    moved
}

/// Writes a wanted layout into a stream. The whole of it must be possible: known nodes of the right role and namespace, no node twice.
pub(super) fn place(
    state: &State,
    stream: &mut Stream,
    wanted: &LayoutPatch,
    stamp: Stamp,
    pointer: &str,
) -> Result<(), ApiError> {
    let current = stream.layouts.first().cloned().unwrap_or_default();
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
    // A node that is already there may have been deleted since: it is checked only when it is newly chosen.
    let check = |host: &str, known: bool, role: NodeRole, at: String| -> Result<(), ApiError> {
        if known {
            return Ok(());
        }
        let Some(streamer) = state.streamer(host) else {
            return Err(streamer_not_found_in_body(at, host));
        };
        let streamer_role = NodeRole::parse(streamer.role.as_str()).unwrap_or_default();
        if streamer_role != role {
            let title = "The node has another role";
            return Err(ApiError::bad_body(at, "wrong_node_role", title)
                .with("hostname", host)
                .with("role", streamer.role.as_str()));
        }
        if streamer
            .namespace
            .as_ref()
            .map(rkyv::string::ArchivedString::as_str)
            != stream.namespace.as_deref()
        {
            return Err(ApiError::bad_body(
                at,
                "namespace_mismatch",
                "The stream and the node are in different namespaces",
            )
            .with("hostname", host));
        }
        Ok(())
    };
    if let Some(host) = &next.ingest {
        check(
            host,
            next.ingest == current.ingest,
            NodeRole::Streamer,
            format!("{pointer}/ingest"),
        )?;
    }
    if let Some(host) = &next.inference {
        check(
            host,
            next.inference == current.inference,
            NodeRole::Inference,
            format!("{pointer}/inference"),
        )?;
    }
    for (i, host) in next.dvr_backups.iter().enumerate() {
        let at = format!("{pointer}/dvr_backups/{i}");
        check(
            host,
            current.dvr_backups.contains(host),
            NodeRole::Streamer,
            at.clone(),
        )?;
        if next.ingest.as_ref() == Some(host) || next.dvr_backups[..i].contains(host) {
            return Err(
                ApiError::bad_body(at, "duplicate_node", "A node holds a stream once")
                    .with("hostname", host),
            );
        }
    }
    let reason = wanted
        .change_reason
        .as_deref()
        .filter(|reason| CHANGE_REASONS.contains(reason));
    if next.same_nodes(&current) {
        if wanted.change_reason.is_some() {
            next.change_reason = reason.map(str::to_owned);
        }
        if next != current {
            match stream.layouts.first_mut() {
                Some(first) => *first = next,
                None => return Ok(()),
            }
        }
        return Ok(());
    }
    next.change_reason = match (reason, wanted.by_layouter) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, false) => Some("relayout_by_api".to_owned()),
        (None, true) => None,
    };
    next.by_layouter = wanted.by_layouter;
    next.created_at = stamp.ms;
    stream.layouts.insert(0, next);
    let oldest = stamp.ms.saturating_sub(LAYOUTS_KEPT_MS);
    let mut kept = 0;
    stream.layouts.retain(|layout: &Layout| {
        kept += 1;
        kept == 1 || (kept <= LAYOUTS_KEPT_MAX && layout.created_at >= oldest)
    });
    Ok(())
}

pub(super) fn streamer_not_found_in_body(pointer: String, host: &str) -> ApiError {
    ApiError::bad_body(
        pointer,
        "streamer_not_found",
        "There is no streamer of this hostname",
    )
    .with("hostname", host)
}
