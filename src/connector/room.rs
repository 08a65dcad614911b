//! How many queries of one core run, how many connections it keeps, and how many of both fit.
//!
//! A query has one connection at most, and so has a streamer between two. Together they stay below
//! the descriptors that are reserved for them, so that none is missing for clients or the store;
//! and a part of those is never kept, so that kept connections leave room for queries.

use std::cell::Cell;

use crate::limits::QUERIES_RUNNING_MAX;

/// The queries and kept connections of one core.
pub struct QueryRoom {
    /// Most queries and kept connections together.
    connections_max: usize,
    kept: Cell<usize>,
    running: Cell<usize>,
    /// Of these, the queries of streamers that did not answer the last time.
    failing: Cell<usize>,
}

impl QueryRoom {
    pub fn new(connections_max: usize) -> Self {
        Self {
            // One to keep, one to query with.
            connections_max: connections_max.max(2),
            kept: Cell::new(0),
            running: Cell::new(0),
            failing: Cell::new(0),
        }
    }

    /// Queries that may run whatever is kept.
    fn running_max(&self) -> usize {
        (self.connections_max / 2).min(QUERIES_RUNNING_MAX)
    }

    /// Whether another query may start.
    pub fn has_room(&self) -> bool {
        let used = self.kept.get() + self.running.get();
        self.running.get() < QUERIES_RUNNING_MAX && used < self.connections_max
    }

    /// Whether a query may start of a streamer that did not answer the last time: half of the
    /// queries are for the others.
    pub fn has_room_for_failing(&self) -> bool {
        self.failing.get() < self.running_max().div_ceil(2)
    }

    /// A query starts. It uses the connection that its streamer kept, if that did.
    pub fn start(&self, was_failing: bool, was_kept: bool) {
        self.running.set(self.running.get() + 1);
        self.failing
            .set(self.failing.get() + usize::from(was_failing));
        self.close(was_kept);
    }

    pub fn end(&self, was_failing: bool) {
        self.running.set(self.running.get() - 1);
        self.failing
            .set(self.failing.get() - usize::from(was_failing));
    }

    /// Whether a connection may be kept; then it counts until it is closed or used.
    pub fn keep(&self) -> bool {
        let has_room = self.kept.get() < self.connections_max - self.running_max();
        self.kept.set(self.kept.get() + usize::from(has_room));
        has_room
    }

    /// A connection that may have been kept is closed.
    pub fn close(&self, was_kept: bool) {
        self.kept.set(self.kept.get() - usize::from(was_kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_kept_connections_stay_below_the_most() {
        for connections_max in [0, 1, 2, 3, 7, 100, 5_000] {
            let room = QueryRoom::new(connections_max);
            let most = connections_max.max(2);
            while room.keep() {}
            let mut running = 0;
            while room.has_room() {
                room.start(false, false);
                running += 1;
                assert!(room.kept.get() + room.running.get() <= most);
            }
            assert!(running > 0, "kept connections leave no room: {most}");
            assert!(running <= QUERIES_RUNNING_MAX);
            // Their streamers keep no connection, because others do.
            room.end(false);
            assert!(!room.keep());
            assert!(room.has_room());
            room.start(false, true);
            assert!(room.keep(), "the one that the query uses is no kept one");
        }
    }

    #[test]
    fn half_of_the_queries_are_of_streamers_that_answer() {
        for connections_max in [4, 100, 5_000] {
            let room = QueryRoom::new(connections_max);
            let mut failing = 0;
            while room.has_room() && room.has_room_for_failing() {
                room.start(true, false);
                failing += 1;
            }
            assert!(
                failing > 0 && room.has_room(),
                "{failing} {connections_max}"
            );
            room.end(true);
            assert!(room.has_room_for_failing());
        }
    }
}
