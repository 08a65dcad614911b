//! Matches: all documents that a query selects, without order and pages.

use super::Query;
use super::model::{ScanPosition, Source};
use super::visit::visit;

impl Query {
    /// Passes the matches among up to `budget` more documents to `each`, every document once.
    /// Returns true at the end. All calls for one scan must read the same revision.
    pub fn matches_in<'a, S: Source>(
        &self,
        source: &'a S,
        position: &mut ScanPosition,
        budget: usize,
        each: &mut dyn FnMut(S::Doc<'a>),
    ) -> bool {
        visit(self, source, position, budget, &mut |document| {
            if self.passes(&document) {
                each(document);
            }
        })
    }
}
