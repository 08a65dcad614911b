//! Matches: all documents that a query selects, without order and pages.

use super::Query;
use super::execute::visit;
use super::model::{ScanPosition, Source};

/// A scan for all documents that match a query, slice by slice.
pub struct MatchScan<Q> {
    query: Q,
    position: ScanPosition,
}

impl<Q: std::ops::Deref<Target = Query>> MatchScan<Q> {
    pub fn new(query: Q) -> Self {
        Self {
            query,
            position: ScanPosition::default(),
        }
    }

    /// Passes the matches among up to `budget` more documents to `each`, every document once.
    /// Returns true at the end. All slices must read the same revision.
    pub fn step<'a, S: Source>(
        &mut self,
        source: &'a S,
        budget: usize,
        each: &mut dyn FnMut(S::Doc<'a>),
    ) -> bool {
        let query = &*self.query;
        visit(query, source, &mut self.position, budget, &mut |document| {
            if query.passes(&document) {
                each(document);
            }
        })
    }
}
