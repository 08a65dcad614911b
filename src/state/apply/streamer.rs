//! Streamers: saving and deleting them, and sending a new address to the nodes that pull from it.

use std::collections::BTreeSet;

use super::merge::{merge, namespace, stored};
use super::{Changes, NodeChange, StreamerChange, streamer_not_found};
use crate::error::{self, ApiError};
use crate::json::{Object, Value};
use crate::schema;
use crate::state::batch::BatchItems;
use crate::state::changes::Done;
use crate::state::command::MaintenanceRequest;
use crate::state::name::Hostname;
use crate::state::node::{holders, render};
use crate::state::pull::{PullSource, check_templates, kind_of_record, pull_authority};
use crate::state::record::{Cordon, DrainOrder, NodeRole, Streamer, StreamerRecord};
use crate::state::{SHARDS, State};

pub(super) fn save_one(
    state: &State,
    hostname: &Hostname,
    patch: Object,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let record = save(state, hostname, patch, "", changes)?;
    move_addresses(state, changes);
    Ok(Done::Streamer(record))
}

pub(super) fn save_all(
    state: &State,
    items: BatchItems<Hostname, Object>,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    items.apply_each(|i, hostname, patch| {
        let result = save(state, &hostname, patch, &format!("/{i}"), changes);
        result.map(drop).map_err(|error| error.of_item(&hostname))
    })?;
    move_addresses(state, changes);
    Ok(Done::Nothing)
}

pub(super) fn delete(
    state: &State,
    hostname: Hostname,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    if state.streamer(&hostname).is_none() {
        return Err(streamer_not_found());
    }
    // Parked polls for this node's configuration are answered with 404.
    changes
        .nodes
        .push(NodeChange::full_resync(hostname.clone()));
    changes.streamers.push(StreamerChange {
        hostname,
        new: None,
    });
    move_addresses(state, changes);
    Ok(Done::Nothing)
}

/// Begins or ends the maintenance of a streamer. What it is sent stays the same.
pub(super) fn set_maintenance(
    state: &State,
    hostname: &Hostname,
    wanted: MaintenanceRequest,
    changes: &mut Changes,
) -> Result<Done, ApiError> {
    let old = state.streamer(hostname).ok_or_else(streamer_not_found)?;
    let mut streamer = old.to_owned();
    let before = streamer.cordon.take();
    let since = before.as_ref().map_or(changes.stamp_ms, |it| it.since);
    streamer.cordon = match wanted {
        MaintenanceRequest::End => None,
        MaintenanceRequest::Cordon { reason } => Some(Cordon {
            reason,
            since,
            drain: None,
        }),
        MaintenanceRequest::Drain {
            reason,
            pace,
            within,
            returns,
        } => {
            let within_ms = within.map(|it| it.as_millis() as u64);
            let deadline = within_ms.map_or(0, |it| changes.stamp_ms + it);
            let since = match before {
                Some(Cordon { drain: None, .. }) | None => changes.stamp_ms,
                Some(draining) => draining.since,
            };
            Some(Cordon {
                reason,
                since,
                drain: Some(DrainOrder {
                    pace,
                    deadline,
                    returns,
                }),
            })
        }
    };
    if **old == streamer {
        return Ok(Done::Streamer(old.clone()));
    }
    streamer.revision = changes.revision;
    streamer.updated_at = changes.stamp_ms;
    let new = StreamerRecord::new(&streamer);
    changes.streamers.push(StreamerChange {
        hostname: hostname.clone(),
        new: Some(new.clone()),
    });
    Ok(Done::Streamer(new))
}

/// The streamer that a body names as a node, if it has the role.
pub(super) fn node_of_role<'a>(
    state: &'a State,
    host: &str,
    role: NodeRole,
    pointer: String,
) -> Result<&'a StreamerRecord, ApiError> {
    let Some(streamer) = state.streamer(host) else {
        return Err(error::UNKNOWN_STREAMER.at(pointer).with("hostname", host));
    };
    let found = streamer.role.as_str();
    if NodeRole::parse(found).unwrap_or_default() != role {
        return Err(error::WRONG_NODE_ROLE
            .at(pointer)
            .with("hostname", host)
            .with("role", found));
    }
    Ok(streamer)
}

fn save(
    state: &State,
    hostname: &Hostname,
    patch: Object,
    pointer: &str,
    changes: &mut Changes,
) -> Result<StreamerRecord, ApiError> {
    let old = state.streamer(hostname);
    let mut streamer = match old {
        Some(old) => old.to_owned(),
        None => Streamer {
            hostname: hostname.to_string(),
            ..Streamer::default()
        },
    };
    let merged = merge(
        schema::streamer(),
        &streamer.config,
        &streamer.filled,
        patch,
        pointer,
    )?;
    check_templates(&merged, pointer)?;
    let before = streamer.namespace.as_deref();
    streamer.namespace = namespace(&merged, old.is_some(), before, pointer)?;
    let text = |field: &str| merged.get(field).and_then(Value::as_str);
    streamer.role = text("role").and_then(NodeRole::parse).unwrap_or_default();
    streamer.cluster_key = String::from(text("cluster_key").unwrap_or_default());
    streamer.is_restreamer = merged
        .get("is_restreamer")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    (streamer.pull_tls, streamer.pull_authority) = pull_authority(&merged, hostname);
    let stored = stored(schema::streamer(), merged);
    streamer.has_secrets = stored.has_secrets;
    streamer.config = stored.config;
    streamer.filled = stored.filled;
    if let Some(old) = old
        && **old == streamer
    {
        return Ok(old.clone());
    }
    streamer.revision = changes.revision;
    streamer.updated_at = changes.stamp_ms;
    let new = StreamerRecord::new(&streamer);
    if old.is_none() {
        // A node that was deleted and saved again starts over.
        changes
            .nodes
            .push(NodeChange::full_resync(hostname.clone()));
    }
    changes.streamers.push(StreamerChange {
        hostname: hostname.clone(),
        new: Some(new.clone()),
    });
    Ok(new)
}

/// Finds the nodes whose configuration names an address that changed, or that pull otherwise now.
fn move_addresses(state: &State, changes: &mut Changes) {
    let moved = moved_sources(state, changes);
    let turned = turned_readers(state, changes);
    if moved.is_empty() && turned.is_empty() {
        return;
    }
    // A scan of every stream, which is rare enough: a node gets its address when it is set up.
    let mut next = state.clone();
    next.absorb(changes);
    let mut concerned: BTreeSet<Hostname> = BTreeSet::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for stream in (0..SHARDS).flat_map(|shard| state.shard(shard).values()) {
        let history = stream.ingest_history();
        let named: Vec<&str> = holders(stream)
            .map(|(host, _)| host)
            .chain(history.iter().map(|(_, host, _)| *host))
            .filter(|host| moved.contains(*host))
            .collect();
        for (host, role) in holders(stream) {
            // No node's configuration names its own address.
            let is_same = !turned.contains(host) && named.iter().all(|named| *named == host);
            if is_same || concerned.contains(host) {
                continue;
            }
            before.clear();
            after.clear();
            render(state, stream, role, host, &mut before);
            render(&next, stream, role, host, &mut after);
            if before != after {
                concerned.insert(Hostname::trusted(host));
            }
        }
    }
    let concerned = concerned.into_iter().map(NodeChange::full_resync);
    changes.nodes.extend(concerned);
}

/// The saved or deleted streamers that other nodes pull from and whose URLs changed.
fn moved_sources(state: &State, changes: &Changes) -> BTreeSet<Hostname> {
    let moved = changes.streamers.iter().filter(|change| {
        let hostname = &change.hostname;
        let before = PullSource::new(state.streamer(hostname), hostname);
        let after = PullSource::new(change.new.as_ref(), hostname);
        before != after && state.node(hostname).is_some_and(|node| node.is_source)
    });
    moved.map(|change| change.hostname.clone()).collect()
}

/// The saved or deleted streamers that are of another kind now, and hold streams.
fn turned_readers(state: &State, changes: &Changes) -> BTreeSet<Hostname> {
    let kind = |record: Option<&StreamerRecord>| record.map(kind_of_record).unwrap_or_default();
    let turned = changes.streamers.iter().filter(|change| {
        let before = kind(state.streamer(&change.hostname));
        before != kind(change.new.as_ref())
            && (state.node(&change.hostname)).is_some_and(|node| !node.streams.is_empty())
    });
    turned.map(|change| change.hostname.clone()).collect()
}
