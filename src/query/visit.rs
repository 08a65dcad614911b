//! Reading documents one after the other: those with the keys of a query, or all that may match.

use super::Query;
use super::model::{Document, ScanPosition, Source};

/// Enough to keep all outstanding loads of a core busy, few enough to be still in its nearest cache
/// when they are filtered.
const PREFETCHED_DOCUMENTS: usize = 16;

/// Passes up to `budget` documents that may match to `each`; returns true at the end.
pub(super) fn visit<'a, S: Source>(
    query: &Query,
    source: &'a S,
    position: &mut ScanPosition,
    budget: usize,
    each: &mut dyn FnMut(S::Doc<'a>),
) -> bool {
    let Some(keys) = query.keys() else {
        let mut waiting = Vec::with_capacity(PREFETCHED_DOCUMENTS);
        let mut flush = |waiting: &mut Vec<S::Doc<'a>>| {
            let loaded = waiting
                .iter()
                .fold(0, |sum, document: &S::Doc<'a>| sum ^ document.prefetch());
            std::hint::black_box(loaded);
            waiting.drain(..).for_each(&mut *each);
        };
        let done = source.scan(&query.hints(), position, budget, &mut |document| {
            waiting.push(document);
            if waiting.len() == PREFETCHED_DOCUMENTS {
                flush(&mut waiting);
            }
        });
        flush(&mut waiting);
        return done;
    };
    let to = keys.len().min(position.part.saturating_add(budget.max(1)));
    for key in &keys[position.part..to] {
        if let Some(document) = source.get(key) {
            each(document);
        }
    }
    position.part = to;
    to == keys.len()
}
