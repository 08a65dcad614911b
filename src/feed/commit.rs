//! What one batch of the writer changed.

use std::sync::Arc;
use std::time::Instant;

use crate::state::State;
use crate::state::entity::{KINDS, Key};
use crate::state::name::{Hostname, StreamName};

/// The message of the writer to all cores and the layouter: once per batch, after the fsync.
pub struct Commit {
    pub revision: u64,
    /// When the batch was on disk; it was published later.
    pub at: Instant,
    /// The state after the batch.
    pub state: Arc<State>,
    /// Streams that were created or changed, sorted.
    pub streams: Vec<StreamName>,
    /// Streams that were deleted, sorted.
    pub deleted_streams: Vec<StreamName>,
    /// Streamers that were created, changed or deleted, sorted.
    pub streamers: Vec<Hostname>,
    /// Streamers that were deleted, sorted. The same batch may have created them again.
    pub deleted_streamers: Vec<Hostname>,
    /// Nodes whose answer changed, sorted.
    pub hostnames: Vec<Hostname>,
    /// Agents whose streams were created, changed or deleted, sorted.
    pub agents: Vec<Box<str>>,
    /// By kind: entities that were created, changed or deleted, sorted.
    pub entities: [Vec<Key>; KINDS.len()],
    /// Revisions of the batches, this or merged ones, that logged events.
    pub event_chunks: Vec<u64>,
}

impl Commit {
    /// A batch that changed nothing.
    pub fn of(state: Arc<State>) -> Self {
        Self {
            revision: state.revision(),
            at: Instant::now(),
            state,
            streams: Vec::new(),
            deleted_streams: Vec::new(),
            streamers: Vec::new(),
            deleted_streamers: Vec::new(),
            hostnames: Vec::new(),
            agents: Vec::new(),
            entities: std::array::from_fn(|_| Vec::new()),
            event_chunks: Vec::new(),
        }
    }

    /// Several consecutive commits as one: everything that any of them changed, and the state
    /// after the last.
    ///
    /// # Panics
    /// If the slice is empty.
    pub fn merged(commits: &[Arc<Commit>]) -> Commit {
        fn union<T: Ord + Clone>(lists: impl Iterator<Item = T>) -> Vec<T> {
            let mut all: Vec<T> = lists.collect();
            all.sort_unstable();
            all.dedup();
            all
        }
        let last = commits.last().expect("at least one commit");
        let all = || commits.iter().map(|commit| &**commit);
        Commit {
            revision: last.revision,
            at: last.at,
            state: last.state.clone(),
            streams: union(all().flat_map(|commit| commit.streams.iter().cloned())),
            deleted_streams: union(all().flat_map(|commit| commit.deleted_streams.iter().cloned())),
            streamers: union(all().flat_map(|commit| commit.streamers.iter().cloned())),
            deleted_streamers: union(
                all().flat_map(|commit| commit.deleted_streamers.iter().cloned()),
            ),
            hostnames: union(all().flat_map(|commit| commit.hostnames.iter().cloned())),
            agents: union(all().flat_map(|commit| commit.agents.iter().cloned())),
            entities: std::array::from_fn(|kind| {
                union(all().flat_map(|commit| commit.entities[kind].iter().cloned()))
            }),
            event_chunks: union(all().flat_map(|commit| commit.event_chunks.iter().copied())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::trusted(text)
    }

    #[test]
    fn merged_commit_names_all_changes_and_the_last_state() {
        let commit = |revision, streams: &[&str], hosts: &[&str]| {
            let settings = crate::state::node::RenderSettings::default();
            Arc::new(Commit {
                revision,
                streams: streams.iter().map(|text| name(text)).collect(),
                hostnames: hosts.iter().map(|text| Hostname::trusted(text)).collect(),
                ..Commit::of(Arc::new(State::new(revision, settings)))
            })
        };
        let merged = Commit::merged(&[
            commit(1, &["b", "c"], &["h2"]),
            commit(2, &[], &[]),
            commit(3, &["a", "b"], &["h1", "h2"]),
        ]);
        assert_eq!((merged.revision, merged.state.store_id()), (3, 3));
        assert_eq!(merged.streams, [name("a"), name("b"), name("c")]);
        assert_eq!(
            merged.hostnames,
            [Hostname::trusted("h1"), Hostname::trusted("h2")]
        );
    }
}
