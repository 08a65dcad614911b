//! The end of each change of a stream: its stamps, and the nodes that can see the difference.

use super::{Changes, Lost, NodeChange, StreamChange};
use crate::state::State;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::{holders, render};
use crate::state::record::{Role, Stream, StreamRecord};

/// Removes a stream from the store and from the nodes that hold it.
pub(super) fn remove(state: &State, name: StreamName, old: &StreamRecord, changes: &mut Changes) {
    move_nodes(state, &name, Some(old), None, &mut changes.nodes);
    changes.streams.push(StreamChange {
        name,
        old: Some(old.clone()),
        new: None,
    });
}

/// Gives a changed stream its stamps and finds the nodes that can see the change.
pub(super) fn finish(
    state: &State,
    name: &StreamName,
    old: Option<&StreamRecord>,
    mut stream: Stream,
    changes: &mut Changes,
) -> StreamRecord {
    if let Some(old) = old {
        // Compared with the stamps of the old record: equal means that nothing else differs either.
        if **old == stream {
            return old.clone();
        }
    }
    stream.revision = changes.revision;
    stream.updated_at = changes.stamp_ms;
    let mut new = StreamRecord::new(&stream);
    let moved = move_nodes(state, name, old, Some(&new), &mut changes.nodes);
    let before = (stream.rendered, stream.kept_rendered);
    stamp_views(old, &mut stream, &moved, changes.revision);
    if before != (stream.rendered, stream.kept_rendered) {
        new = StreamRecord::new(&stream);
    }
    changes.streams.push(StreamChange {
        name: name.clone(),
        old: old.cloned(),
        new: Some(new.clone()),
    });
    new
}

/// The views of a stream whose text changed.
#[derive(Default)]
struct MovedViews {
    roles: [bool; 3],
    /// That of the node that keeps the stream for a handover.
    keeper: bool,
}

/// Sets the revisions at which the texts for the nodes of a stream last changed. A node that begins
/// or ends to keep the stream, as its ingest node, is sent the same as before.
fn stamp_views(old: Option<&StreamRecord>, stream: &mut Stream, moved: &MovedViews, revision: u64) {
    let ingest = Role::Ingest as usize;
    let mut kept_rendered = 0;
    if let Some(old) = old {
        let keeper = stream.handover_from.as_deref();
        kept_rendered = keeper.map_or(0, |host| old.rendered_for(host, Role::Ingest));
        let layout = stream.layouts.first();
        if let Some(host) = layout.and_then(|layout| layout.ingest.as_deref()) {
            stream.rendered[ingest] = old.rendered_for(host, Role::Ingest);
        }
    }
    for (role, moved) in moved.roles.into_iter().enumerate() {
        if moved {
            stream.rendered[role] = revision;
        }
    }
    stream.kept_rendered = if moved.keeper {
        revision
    } else {
        kept_rendered
    };
}

/// Compares what each holder was sent with what it will be sent, and adds the nodes whose view
/// moves.
fn move_nodes(
    state: &State,
    name: &StreamName,
    old: Option<&StreamRecord>,
    new: Option<&StreamRecord>,
    nodes: &mut Vec<NodeChange>,
) -> MovedViews {
    let mut moved = MovedViews::default();
    let before = StreamView::new(state, old);
    let after = StreamView::new(state, new);
    let keeper = new.and_then(|record| record.handover_from());
    let (mut text_before, mut text_after) = (Vec::new(), Vec::new());
    for &(host, role) in &after.holders {
        let role_before = before.role_of(host);
        let was_sent = before.render(role_before, host, &mut text_before);
        let is_sent = after.render(Some(role), host, &mut text_after);
        let visible = was_sent != is_sent || text_before != text_after;
        if visible && is_sent {
            if role == Role::Ingest && keeper == Some(host) {
                moved.keeper = true;
            } else {
                moved.roles[role as usize] = true;
            }
        }
        if visible || role_before != Some(role) {
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), Some(role))),
                visible,
                lost: lost(was_sent && !is_sent, name),
            });
        }
    }
    for &(host, role) in &before.holders {
        if after.role_of(host).is_none() {
            let was_sent = before.render(Some(role), host, &mut text_before);
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), None)),
                visible: was_sent,
                lost: lost(was_sent, name),
            });
        }
    }
    moved
}

fn lost(is_lost: bool, name: &StreamName) -> Lost {
    if is_lost {
        Lost::Stream(name.clone())
    } else {
        Lost::Nothing
    }
}

/// A stream before or after a change, as its nodes see it.
struct StreamView<'a> {
    state: &'a State,
    record: Option<&'a StreamRecord>,
    holders: Vec<(&'a str, Role)>,
}

impl<'a> StreamView<'a> {
    fn new(state: &'a State, record: Option<&'a StreamRecord>) -> Self {
        Self {
            state,
            record,
            holders: record.map_or_else(Vec::new, |record| holders(record).collect()),
        }
    }

    fn role_of(&self, host: &str) -> Option<Role> {
        let mut holders = self.holders.iter();
        holders
            .find(|(other, _)| *other == host)
            .map(|(_, role)| *role)
    }

    /// Renders what `host` is sent in `role` into `text`; false if it is sent nothing.
    fn render(&self, role: Option<Role>, host: &str, text: &mut Vec<u8>) -> bool {
        text.clear();
        match (self.record, role) {
            (Some(record), Some(role)) => render(self.state, record, role, host, text),
            _ => false,
        }
    }
}
