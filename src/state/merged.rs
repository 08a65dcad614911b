//! Merges the orders of the shards into one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::name::StreamName;
use super::record::StreamRecord;

struct MergeHead<'a, I> {
    name: &'a StreamName,
    record: &'a StreamRecord,
    rest: I,
    descending: bool,
}

impl<I> PartialEq for MergeHead<'_, I> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl<I> Eq for MergeHead<'_, I> {}
impl<I> PartialOrd for MergeHead<'_, I> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<I> Ord for MergeHead<'_, I> {
    // The heap yields its greatest element first.
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.name.cmp(other.name);
        if self.descending {
            order
        } else {
            order.reverse()
        }
    }
}

pub(super) struct Merged<'a, I> {
    heads: BinaryHeap<MergeHead<'a, I>>,
}

impl<'a, I: Iterator<Item = (&'a StreamName, &'a StreamRecord)>> Merged<'a, I> {
    pub(super) fn ascending(shards: impl Iterator<Item = I>) -> Self {
        Self::new(shards, false)
    }

    pub(super) fn descending(shards: impl Iterator<Item = I>) -> Self {
        Self::new(shards, true)
    }

    fn new(shards: impl Iterator<Item = I>, descending: bool) -> Self {
        let heads = shards
            .filter_map(|mut rest| {
                rest.next().map(|(name, record)| MergeHead {
                    name,
                    record,
                    rest,
                    descending,
                })
            })
            .collect();
        Self { heads }
    }
}

impl<'a, I: Iterator<Item = (&'a StreamName, &'a StreamRecord)>> Iterator for Merged<'a, I> {
    type Item = &'a StreamRecord;

    fn next(&mut self) -> Option<&'a StreamRecord> {
        let mut head = self.heads.peek_mut()?;
        let record = head.record;
        if let Some((name, record)) = head.rest.next() {
            head.name = name;
            head.record = record;
        } else {
            std::collections::binary_heap::PeekMut::pop(head);
        }
        Some(record)
    }
}
