//! Segmented vector: it grows by segments and never moves its elements.
//!
//! Promise: an element costs its size and no more. A `Vec` copies itself when it grows and leaves
//! the old copies to the allocator; with ten thousand connections that was a third of their memory.

use std::ops::{Index, IndexMut};

const SEGMENT: usize = 256;

pub(super) struct SegmentedVec<T> {
    segments: Vec<Vec<T>>,
    len: usize,
}

impl<T> SegmentedVec<T> {
    pub(super) fn new() -> Self {
        Self {
            segments: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn push(&mut self, value: T) {
        if self.len.is_multiple_of(SEGMENT) {
            self.segments.push(Vec::with_capacity(SEGMENT));
        }
        self.segments[self.len / SEGMENT].push(value);
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        self.segments.get_mut(at / SEGMENT)?.get_mut(at % SEGMENT)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.segments.iter_mut().flatten()
    }
}

impl<T> Index<u32> for SegmentedVec<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.segments[at as usize / SEGMENT][at as usize % SEGMENT]
    }
}

impl<T> IndexMut<u32> for SegmentedVec<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.segments[at as usize / SEGMENT][at as usize % SEGMENT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_never_move() {
        let mut segments = SegmentedVec::new();
        for i in 0..1000_u32 {
            segments.push(i);
        }
        assert_eq!(segments.len(), 1000);
        let first: *const u32 = &raw const segments[0];
        for i in 1000..5000 {
            segments.push(i);
        }
        assert_eq!(first, &raw const segments[0]);
        segments[4999] = 7;
        assert_eq!(
            (segments[256], segments[255], segments[4999]),
            (256, 255, 7)
        );
        assert_eq!(segments.get_mut(4998), Some(&mut 4998));
        assert_eq!(segments.get_mut(5000), None);
        assert_eq!(segments.iter_mut().count(), 5000);
    }
}
