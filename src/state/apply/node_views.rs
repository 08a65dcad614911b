//! The end of each change of a stream: its stamps, and the nodes that can see the difference.

use super::{Changes, Lost, NodeChange, StreamChange};
use crate::state::State;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::{holders, render};
use crate::state::record::{Role, Stream, StreamRecord};

/// Removes a stream from the store and from the nodes that hold it.
pub(super) fn remove(state: &State, name: StreamName, old: &StreamRecord, changes: &mut Changes) {
    move_nodes(state, Some(old), None, &mut changes.nodes);
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
    let moved = move_nodes(state, old, Some(&new), &mut changes.nodes);
    if moved != [false; 3] {
        for (role, moved) in moved.into_iter().enumerate() {
            if moved {
                stream.rendered[role] = changes.revision;
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

/// Compares what each holder was sent with what it will be sent, and adds the nodes whose view
/// moves. Returns the roles whose text changed.
fn move_nodes(
    state: &State,
    old: Option<&StreamRecord>,
    new: Option<&StreamRecord>,
    nodes: &mut Vec<NodeChange>,
) -> [bool; 3] {
    let mut moved = [false; 3];
    let Some(name) = old.or(new).map(|record| StreamName::trusted(&record.name)) else {
        return moved;
    };
    let before = StreamView::new(state, old);
    let after = StreamView::new(state, new);
    let (mut text_before, mut text_after) = (Vec::new(), Vec::new());
    for &(host, role) in &after.holders {
        let role_before = before.role_of(host);
        let was_sent = before.render(role_before, host, &mut text_before);
        let is_sent = after.render(Some(role), host, &mut text_after);
        let visible = was_sent != is_sent || text_before != text_after;
        if visible && is_sent {
            moved[role as usize] = true;
        }
        if visible || role_before != Some(role) {
            nodes.push(NodeChange {
                hostname: Hostname::trusted(host),
                holds: Some((name.clone(), Some(role))),
                visible,
                lost: lost(was_sent && !is_sent, &name),
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
                lost: lost(was_sent, &name),
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
