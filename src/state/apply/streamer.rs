//! Streamers: saving one, and telling a new address to everybody who pulls from it.

use super::merge::{merge, namespace, stored};
use super::{Changes, NodeChange, Stamp, StreamerChange};
use crate::http::error::ApiError;
use crate::json::{Object, Value};
use crate::schema;
use crate::state::name::Hostname;
use crate::state::node::{holders, pull_authority, render};
use crate::state::record::{NodeRole, Streamer, StreamerRecord};
use crate::state::{SHARDS, State};

pub(super) fn save_streamer(
    state: &State,
    hostname: &Hostname,
    patch: Object,
    stamp: Stamp,
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
    let before = streamer.namespace.as_deref();
    streamer.namespace = namespace(&merged, old.is_some(), before, pointer)?;
    let role = merged
        .get("role")
        .and_then(Value::as_str)
        .and_then(NodeRole::parse)
        .unwrap_or_default();
    streamer.role = role;
    let cluster_key = merged.get("cluster_key").and_then(Value::as_str);
    streamer.cluster_key = String::from(cluster_key.unwrap_or_default());
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
    streamer.revision = stamp.revision;
    streamer.updated_at = stamp.ms;
    let new = StreamerRecord::new(&streamer);
    if old.is_none() {
        // A node that was deleted and came back starts over.
        changes.nodes.push(NodeChange::told_anew(hostname.clone()));
    }
    changes.streamers.push(StreamerChange {
        hostname: hostname.clone(),
        new: Some(new.clone()),
    });
    Ok(new)
}

/// When a node that others pull from got another address, everybody who is told that address is told the new one.
pub(super) fn move_addresses(state: &State, changes: &mut Changes) {
    let moved: Vec<&Hostname> = changes
        .streamers
        .iter()
        .filter(|change| {
            let before = state
                .streamer(&change.hostname)
                .map(|old| (old.pull_tls, old.pull_authority.to_string()));
            let after = change
                .new
                .as_ref()
                .map(|new| (new.pull_tls, new.pull_authority.to_string()));
            let by_name = || (false, change.hostname.to_string());
            let is_source = state
                .node(&change.hostname)
                .is_some_and(|node| node.is_source);
            is_source && before.unwrap_or_else(by_name) != after.unwrap_or_else(by_name)
        })
        .map(|change| &change.hostname)
        .collect();
    if moved.is_empty() {
        return;
    }
    // Rare enough for a scan of everything: an address is given when a node is set up, and then stays.
    let mut next = state.clone();
    next.absorb(changes);
    let mut told: std::collections::BTreeSet<Hostname> = std::collections::BTreeSet::new();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for shard in 0..SHARDS {
        for stream in state.shard(shard).values() {
            let history = stream.ingest_history();
            let named: Vec<&str> = holders(stream)
                .map(|(host, _)| host)
                .chain(history.iter().map(|(_, host, _)| *host))
                .filter(|host| moved.iter().any(|moved| moved.as_str() == *host))
                .collect();
            for (host, role) in holders(stream) {
                // Nobody is told its own address.
                if told.contains(host) || named.iter().all(|named| *named == host) {
                    continue;
                }
                before.clear();
                after.clear();
                render(state, stream, role, host, &mut before);
                render(&next, stream, role, host, &mut after);
                if before != after {
                    told.insert(Hostname::trusted(host));
                }
            }
        }
    }
    for hostname in told {
        changes.nodes.push(NodeChange::told_anew(hostname));
    }
}
