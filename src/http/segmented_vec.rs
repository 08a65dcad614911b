//! A vector that grows in steps and never moves: what it holds per connection is all that a connection costs.
//!
//! A `Vec` would copy itself whenever it grows and leave the old copies to the allocator; with ten thousand connections that was a
//! third of their memory.

use std::ops::{Index, IndexMut};

const STEP: usize = 256;

pub(super) struct SegmentedVec<T> {
    steps: Vec<Vec<T>>,
    len: usize,
}

impl<T> SegmentedVec<T> {
    pub(super) fn new() -> Self {
        Self {
            steps: Vec::new(),
            len: 0,
        }
    }

    pub(super) fn push(&mut self, value: T) {
        if self.len.is_multiple_of(STEP) {
            self.steps.push(Vec::with_capacity(STEP));
        }
        self.steps[self.len / STEP].push(value);
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        self.steps.get_mut(at / STEP)?.get_mut(at % STEP)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.steps.iter_mut().flatten()
    }
}

impl<T> Index<u32> for SegmentedVec<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.steps[at as usize / STEP][at as usize % STEP]
    }
}

impl<T> IndexMut<u32> for SegmentedVec<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.steps[at as usize / STEP][at as usize % STEP]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_stays_where_it_is() {
        let mut steps = SegmentedVec::new();
        for i in 0..1000_u32 {
            steps.push(i);
        }
        assert_eq!(steps.len(), 1000);
        let first: *const u32 = &raw const steps[0];
        for i in 1000..5000 {
            steps.push(i);
        }
        assert_eq!(first, &raw const steps[0]);
        steps[4999] = 7;
        assert_eq!((steps[256], steps[255], steps[4999]), (256, 255, 7));
        assert_eq!(steps.get_mut(4998), Some(&mut 4998));
        assert_eq!(steps.get_mut(5000), None);
        assert_eq!(steps.iter_mut().count(), 5000);
    }
}
