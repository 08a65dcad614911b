//! The visible part of a state, in a comparable form, and the invariants of every state.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde_json::Value;
use weir::testing::schema;
use weir::testing::state::State;
use weir::testing::state::entity::{KINDS, Key, Kind};
use weir::testing::state::node::{Node, holders, render};
use weir::testing::state::record::{ArchivedFacts, Role, StreamRecord};

/// The configuration of one hostname: whether it is registered, and the text of each stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    pub known: bool,
    pub streams: BTreeMap<String, String>,
}

pub fn sent(state: &State, hostname: &str) -> Sent {
    let mut streams = BTreeMap::new();
    for (name, role) in state.node(hostname).iter().flat_map(|node| &node.streams) {
        let stream = state
            .stream(name)
            .expect("a node holds only streams that exist");
        let mut text = Vec::new();
        if render(state, stream, *role, hostname, &mut text) {
            let text = String::from_utf8(text).expect("rendered text is UTF-8");
            streams.insert(name.to_string(), text);
        }
    }
    Sent {
        known: state.streamer(hostname).is_some(),
        streams,
    }
}

/// The configuration of every node.
pub fn all_sent(state: &State) -> BTreeMap<String, Sent> {
    let sent = |hostname: &str| (hostname.to_owned(), sent(state, hostname));
    state
        .nodes()
        .keys()
        .map(|hostname| sent(hostname))
        .collect()
}

/// The nodes whose answer differs. A host that no state names is sent nothing.
pub fn moved(before: &BTreeMap<String, Sent>, after: &BTreeMap<String, Sent>) -> BTreeSet<String> {
    let nothing = Sent::default();
    before
        .keys()
        .chain(after.keys())
        .filter(|host| {
            before.get(*host).unwrap_or(&nothing) != after.get(*host).unwrap_or(&nothing)
        })
        .cloned()
        .collect()
}

/// The configuration as the operator stored it.
#[allow(
    dead_code,
    reason = "the fuzz target `apply` has no model to compare it with"
)]
pub fn stored(text: &str, filled: impl Iterator<Item = (u32, u32)>) -> Value {
    let mut stored = Vec::new();
    schema::without_filled(text, filled, &mut stored);
    serde_json::from_slice(&stored).expect("a stored configuration is JSON")
}

fn names<'s>(streams: impl Iterator<Item = &'s StreamRecord>) -> Vec<String> {
    streams.map(|stream| stream.name.to_string()).collect()
}

/// The indexes agree with the records.
pub fn check_indexes(state: &State) {
    let mut all: BTreeMap<String, &StreamRecord> = BTreeMap::new();
    for shard in 0..weir::testing::state::SHARDS {
        for (name, stream) in state.shard(shard) {
            assert_eq!(name.shard(), shard, "{name} is in the wrong shard");
            assert_eq!(name.as_str(), stream.name.as_str());
            all.insert(name.to_string(), stream);
        }
    }
    assert_eq!(state.streams_count(), all.len());
    let sorted: Vec<String> = all.keys().cloned().collect();
    assert_eq!(names(state.streams_by_name(Bound::Unbounded)), sorted);
    let middle = "sports/hd/1".to_owned();
    for from in [
        Bound::Included(middle.as_str()),
        Bound::Excluded(middle.as_str()),
    ] {
        let expected: Vec<String> = all
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(names(state.streams_by_name(from)), expected);
        let expected: Vec<String> = all
            .range::<str, _>((Bound::Unbounded, from))
            .rev()
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(names(state.streams_by_name_descending(from)), expected);
    }
    let reversed: Vec<String> = sorted.iter().rev().cloned().collect();
    assert_eq!(
        names(state.streams_by_name_descending(Bound::Unbounded)),
        reversed
    );

    check_episodes(state);

    let mut by_stamp: Vec<(u64, String)> = all
        .values()
        .map(|stream| (stream.updated_at.to_native(), stream.name.to_string()))
        .collect();
    by_stamp.sort();
    let expected: Vec<String> = by_stamp.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(names(state.streams_changed_from(0, None)), expected);
    if let Some((stamp, name)) = by_stamp.get(by_stamp.len() / 2) {
        let expected: Vec<String> = by_stamp
            .iter()
            .filter(|(other, _)| other >= stamp)
            .map(|(_, name)| name.clone())
            .collect();
        assert_eq!(names(state.streams_changed_from(*stamp, None)), expected);
        let expected: Vec<String> = by_stamp
            .iter()
            .filter(|entry| **entry > (*stamp, name.clone()))
            .map(|(_, name)| name.clone())
            .collect();
        assert_eq!(
            names(state.streams_changed_from(*stamp, Some(name))),
            expected
        );
    }

    let mut held: BTreeMap<String, BTreeMap<String, Role>> = BTreeMap::new();
    for (name, stream) in &all {
        assert!(stream.revision.to_native() <= state.revision());
        assert!(stream.updated_at.to_native() <= state.stamp_ms());
        for (host, role) in holders(stream) {
            let before = held
                .entry(host.into())
                .or_default()
                .insert(name.clone(), role);
            assert_eq!(before, None, "{host} holds {name} twice");
        }
    }
    for hostname in held.keys().map(String::as_str).chain(
        state
            .streamers()
            .keys()
            .map(weir::testing::state::name::Hostname::as_str),
    ) {
        assert!(
            state.node(hostname).is_some(),
            "there is no node {hostname}"
        );
    }
    for (hostname, node) in state.nodes() {
        let streams: BTreeMap<String, Role> = node
            .streams
            .iter()
            .map(|(name, role)| (name.to_string(), *role))
            .collect();
        assert_eq!(
            streams,
            held.remove(hostname.as_str()).unwrap_or_default(),
            "streams of {hostname}"
        );
        assert!(node.generation <= state.revision() && node.updated_at <= state.stamp_ms());
        assert!(node.delta_floor <= node.generation);
        let removed: Vec<u64> = node.removed.iter().map(|(revision, _)| *revision).collect();
        assert!(removed.is_sorted(), "removals are in order");
        assert!(
            removed
                .first()
                .is_none_or(|first| *first > node.delta_floor)
        );
    }
}

/// Episodes by stamp and by stream are the episodes.
fn check_episodes(state: &State) {
    let episodes = state.entities(Kind::Episode);
    let mut by_stamp = Vec::new();
    let mut by_media: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for (key, record) in episodes.by_key() {
        let Key::Number(id) = key else {
            panic!("{key} is no number")
        };
        let ArchivedFacts::Episode {
            media, opened_at, ..
        } = &record.facts
        else {
            panic!("{key} is no episode")
        };
        by_stamp.push((record.updated_at.to_native(), *id));
        let places = by_media.entry(media.to_string()).or_default();
        places.push((opened_at.to_native(), *id));
    }
    by_stamp.sort_unstable();
    let listed: Vec<(u64, u64)> = episodes
        .changed_from(0, None)
        .map(|(_, record)| {
            (
                record.updated_at.to_native(),
                record.key.parse().expect("a number"),
            )
        })
        .collect();
    assert_eq!(listed, by_stamp);
    for (media, mut places) in by_media {
        places.sort_unstable();
        let listed: Vec<u64> = state
            .episodes()
            .of(&media, None)
            .map(|record| record.key.parse().expect("a number"))
            .collect();
        let ids: Vec<u64> = places.iter().map(|(_, id)| *id).collect();
        assert_eq!(listed, ids, "{media}");
        let after = state.episodes().of(&media, Some(places[0]));
        assert_eq!(after.count(), places.len() - 1, "{media}");
    }
}

/// A state that was read from disk is the one that was in memory.
pub fn check_reloaded(memory: &State, disk: &State) {
    assert_eq!(
        (disk.revision(), disk.stamp_ms()),
        (memory.revision(), memory.stamp_ms())
    );
    assert_eq!(disk.store_id(), memory.store_id());
    assert_eq!(disk.streams_count(), memory.streams_count());
    for shard in 0..weir::testing::state::SHARDS {
        assert!(
            disk.shard(shard) == memory.shard(shard),
            "streams of shard {shard}"
        );
    }
    assert!(disk.streamers() == memory.streamers(), "streamers");
    for kind in KINDS {
        assert!(
            disk.entities(kind).by_key() == memory.entities(kind).by_key(),
            "{kind:?}"
        );
    }
    assert!(
        names(disk.streams_changed_from(0, None)) == names(memory.streams_changed_from(0, None)),
        "order of stamps"
    );
    check_indexes(disk);
    for (hostname, node) in memory.nodes() {
        let none = Node::default();
        let loaded = disk.node(hostname).map_or(&none, |node| node);
        assert_eq!(loaded.streams, node.streams, "{hostname}");
        assert_eq!(sent(disk, hostname), sent(memory, hostname), "{hostname}");
        check_generation(disk, hostname, node, loaded);
        assert!(
            loaded.updated_at >= node.updated_at || loaded.generation == 0,
            "{hostname}"
        );
        // Removals are not stored: a delta that would need them is refused.
        assert!(loaded.delta_floor >= node.delta_floor && loaded.removed.is_empty());
        let newest = node.removed.back().map_or(0, |(revision, _)| *revision);
        assert!(
            loaded.delta_floor >= newest,
            "{hostname} would receive a delta with a gap"
        );
    }
    for hostname in disk.nodes().keys() {
        assert!(
            memory.node(hostname).is_some(),
            "{hostname} came from nowhere"
        );
    }
}

/// Equal, except that a backup may count as moved together with another backup of the same stream
/// (see `Loader::finish`).
fn check_generation(disk: &State, hostname: &str, memory: &Node, loaded: &Node) {
    if loaded.generation == memory.generation {
        return;
    }
    let of_backups = loaded.streams.iter().any(|(name, role)| {
        *role == Role::Backup
            && disk.stream(name).is_some_and(|stream| {
                stream.backups().count() > 1
                    && stream.rendered_at(Role::Backup) == loaded.generation
            })
    });
    assert!(
        loaded.generation > memory.generation && of_backups,
        "the generation of {hostname} was {} and is {} after a restart",
        memory.generation,
        loaded.generation
    );
}
