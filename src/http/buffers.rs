//! Buffers: the memory of one core for requests that are arriving and answers that are unsent.
//!
//! Every such buffer carries a [`Charge`], which is given back when the buffer is dropped. Two
//! limits follow: arriving requests get half of the budget, so that senders cannot keep out
//! readers, and no request is taken while unsent answers fill the rest. An answer that other
//! connections share is not counted: it belongs to the cache of configurations.

use std::cell::Cell;
use std::rc::Rc;

/// The buffers that all connections of one core share, and the budget for those of each.
pub(super) struct Buffers {
    /// The buffer of every read.
    pub(super) scratch: Cell<Option<Box<[u8]>>>,
    /// The buffer of every batch of answers.
    pub(super) out: Cell<Vec<u8>>,
    /// Bytes.
    max: usize,
    arriving: Rc<Cell<usize>>,
    unsent: Rc<Cell<usize>>,
    refused: Cell<u64>,
}

impl Buffers {
    pub(super) fn new(max: usize) -> Self {
        Self {
            scratch: Cell::new(None),
            out: Cell::new(Vec::new()),
            max,
            arriving: Rc::default(),
            unsent: Rc::default(),
            refused: Cell::new(0),
        }
    }

    /// Whether an arriving request whose buffers have `bytes` must not grow to that size. `charge`:
    /// what is counted for it already.
    ///
    /// While others hold little, any one body fits, or a large batch could never be sent.
    pub(super) fn refuses(&self, charge: &Charge, bytes: usize) -> bool {
        let others = self.arriving.get() - charge.bytes;
        let half = self.max / 2;
        let refuses = others + bytes > half && others > half / 4;
        self.refused.set(self.refused.get() + u64::from(refuses));
        refuses
    }

    /// Whether unsent answers leave no room for another request.
    pub(super) fn is_full(&self) -> bool {
        self.unsent.get() > self.max / 2
    }

    /// Counts `bytes` for an answer that is being made. Returns false if the answers of others
    /// leave no room for it. While they hold little, any one fits, or a long page could never be
    /// sent.
    pub(super) fn holds(&self, reserved: &mut Reserved, bytes: usize) -> bool {
        let charge = &mut reserved.0;
        charge.set(&self.unsent, bytes);
        let others = self.unsent.get() - bytes;
        let refuses = self.is_full() && others > self.max / 8;
        self.refused.set(self.refused.get() + u64::from(refuses));
        !refuses
    }

    /// Whether arriving requests have used up their part.
    pub(super) fn is_full_of_arriving(&self) -> bool {
        self.arriving.get() > self.max / 2
    }

    /// Counts a request that was refused because of [`Buffers::is_full`].
    pub(super) fn count_refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(super) fn charge_arriving(&self, charge: &mut Charge, bytes: usize) {
        charge.set(&self.arriving, bytes);
    }

    pub(super) fn unsent_charge(&self) -> Charge {
        Charge {
            total: Some(self.unsent.clone()),
            bytes: 0,
        }
    }

    pub(super) fn usage(&self) -> BufferUsage {
        BufferUsage {
            arriving_bytes: self.arriving.get() as u64,
            unsent_bytes: self.unsent.get() as u64,
            refused: self.refused.get(),
        }
    }
}

/// Memory of an answer that is being made, counted like unsent ones until it is dropped.
#[derive(Debug, Default)]
pub struct Reserved(Charge);

/// What the buffers of a core hold, and how often they were full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferUsage {
    pub arriving_bytes: u64,
    pub unsent_bytes: u64,
    /// Requests that were refused because the budget was used up.
    pub refused: u64,
}

/// The bytes of one buffer in the total of its core.
#[derive(Debug, Default)]
pub(super) struct Charge {
    total: Option<Rc<Cell<usize>>>,
    bytes: usize,
}

impl Charge {
    fn set(&mut self, total: &Rc<Cell<usize>>, bytes: usize) {
        let total = self.total.get_or_insert_with(|| total.clone());
        total.set(total.get() - self.bytes + bytes);
        self.bytes = bytes;
    }

    pub(super) fn add(&mut self, bytes: usize) {
        if let Some(total) = &self.total {
            total.set(total.get() + bytes);
            self.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        if let Some(total) = &self.total {
            total.set(total.get() - bytes);
            self.bytes -= bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arriving_requests_get_half_of_the_budget() {
        let buffers = Buffers::new(1000);
        let mut first = Charge::default();
        assert!(!buffers.refuses(&first, 10_000), "one body always fits");
        buffers.charge_arriving(&mut first, 126);
        let mut second = Charge::default();
        assert!(!buffers.refuses(&second, 374));
        buffers.charge_arriving(&mut second, 374);
        assert!(buffers.refuses(&second, 375));
        assert!(!buffers.refuses(&first, 100), "it shrinks");
        assert!(buffers.refuses(&Charge::default(), 1));
        assert!(!buffers.is_full());
        drop(first);
        buffers.charge_arriving(&mut second, 200);
        assert!(!buffers.refuses(&Charge::default(), 300));
        drop(second);
        let usage = buffers.usage();
        assert_eq!((usage.arriving_bytes, usage.refused), (0, 2));
    }

    #[test]
    fn unsent_answers_leave_no_room_for_requests() {
        let buffers = Buffers::new(1000);
        let mut unsent = buffers.unsent_charge();
        unsent.add(500);
        assert!(!buffers.is_full());
        unsent.add(1);
        assert!(buffers.is_full());
        assert!(!buffers.refuses(&Charge::default(), 500));
        unsent.remove(501);
        assert!(!buffers.is_full());
        unsent.add(700);
        drop(unsent);
        assert_eq!(buffers.usage(), BufferUsage::default());
    }
}
