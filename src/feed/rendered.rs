//! A node's configuration, rendered once per generation and shared by every core, connection and
//! parked poll that sends it.
//!
//! A slot belongs to a node ([`super::nodes`]) and holds the answer of its newest generation. What
//! all slots hold together is bounded in bytes.
//!
//! When that is full, most new answers are not kept. Streamers poll in turns: if the oldest answer
//! made room for the newest, each would be gone when its streamer polls again, as soon as all
//! together are a little too large. One in [`REPLACED_EVERY`] replaces the oldest, so that answers
//! which are not needed any more go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwapOption;
use crossbeam_queue::SegQueue;

use crate::http::encoding::{Coding, compress};

/// Of the answers that do not fit, one in so many replaces the oldest ones.
const REPLACED_EVERY: usize = 8;

/// The rendered configuration of one node.
#[derive(Default, Debug)]
pub struct RenderedSlot(ArcSwapOption<Rendered>);

impl RenderedSlot {
    fn has(&self, generation: u64) -> bool {
        let rendered = self.0.load();
        rendered
            .as_ref()
            .is_some_and(|it| it.generation == generation)
    }

    /// Whether the answer of a generation is there in a coding.
    pub fn has_coded(&self, generation: u64, coding: Option<Coding>) -> bool {
        let rendered = self.0.load();
        let of_generation = rendered.as_ref().filter(|it| it.generation == generation);
        of_generation.is_some_and(|rendered| rendered.is_coded(coding))
    }

    /// Stores an answer, unless a newer generation is there: a core may still be at an older state.
    fn store(&self, rendered: &Arc<Rendered>) {
        self.0.rcu(|old| match old {
            Some(old) if old.generation > rendered.generation => Some(old.clone()),
            _ => Some(rendered.clone()),
        });
    }

    fn clear(&self, generation: u64) {
        self.0
            .rcu(|old| old.clone().filter(|old| old.generation != generation));
    }
}

/// The coding that a body has, and its bytes.
pub type Body = (Option<Coding>, Arc<[u8]>);

/// One body in the codings that were needed so far.
#[derive(Debug)]
pub struct Rendered {
    /// Of the node's configuration; 0 for a body in no slot.
    generation: u64,
    identity: Arc<[u8]>,
    gzip: OnceLock<Option<Arc<[u8]>>>,
    zstd: OnceLock<Option<Arc<[u8]>>>,
    /// Bytes of all slots together; this body's share is given back when it is dropped.
    total: Arc<AtomicUsize>,
}

impl Rendered {
    /// A body that is in no slot.
    pub fn new(identity: &[u8]) -> Self {
        Self::counted(0, Arc::from(identity), Arc::default())
    }

    fn counted(generation: u64, identity: Arc<[u8]>, total: Arc<AtomicUsize>) -> Self {
        total.fetch_add(identity.len(), Ordering::Relaxed);
        Self {
            generation,
            identity,
            gzip: OnceLock::new(),
            zstd: OnceLock::new(),
            total,
        }
    }

    /// The body in a coding, encoded at its first use; unencoded if encoding does not make it
    /// smaller.
    pub fn body(&self, coding: Option<Coding>) -> Body {
        let cell = match coding {
            None => return (None, self.identity.clone()),
            Some(Coding::Gzip) => &self.gzip,
            Some(Coding::Zstd) => &self.zstd,
        };
        let encoded = cell.get_or_init(|| {
            let encoded: Arc<[u8]> =
                Arc::from(coding.and_then(|coding| compress(&self.identity, coding))?);
            self.total.fetch_add(encoded.len(), Ordering::Relaxed);
            Some(encoded)
        });
        match encoded {
            Some(encoded) => (coding, encoded.clone()),
            None => (None, self.identity.clone()),
        }
    }

    /// Whether the body was encoded already.
    pub fn is_coded(&self, coding: Option<Coding>) -> bool {
        match coding {
            None => true,
            Some(Coding::Gzip) => self.gzip.get().is_some(),
            Some(Coding::Zstd) => self.zstd.get().is_some(),
        }
    }

    fn bytes(&self) -> usize {
        let encoded = |cell: &OnceLock<Option<Arc<[u8]>>>| {
            cell.get()
                .and_then(Option::as_ref)
                .map_or(0, |body| body.len())
        };
        self.identity.len() + encoded(&self.gzip) + encoded(&self.zstd)
    }
}

impl Drop for Rendered {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// The bound over all slots.
pub struct RenderedCache {
    bytes_max: usize,
    total: Arc<AtomicUsize>,
    /// Filled slots with their generation, oldest first.
    filled: SegQueue<(Weak<RenderedSlot>, u64)>,
    /// Answers that did not fit, ever.
    unfit: AtomicUsize,
}

impl RenderedCache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            total: Arc::default(),
            filled: SegQueue::new(),
            unfit: AtomicUsize::new(0),
        }
    }

    /// The answer of a generation in a coding, rendered now if it is not in the slot.
    pub fn body<E>(
        &self,
        slot: &Arc<RenderedSlot>,
        generation: u64,
        coding: Option<Coding>,
        render: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Body, E> {
        if let Some(rendered) = slot.0.load().as_ref()
            && rendered.generation == generation
        {
            return Ok(rendered.body(coding));
        }
        let identity = Arc::from(render()?);
        let rendered = Arc::new(Rendered::counted(generation, identity, self.total.clone()));
        slot.store(&rendered);
        let body = rendered.body(coding);
        if self.bytes() > self.bytes_max
            && !self
                .unfit
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(REPLACED_EVERY)
        {
            slot.clear(generation);
        } else {
            self.filled.push((Arc::downgrade(slot), generation));
            self.shrink();
        }
        Ok(body)
    }

    /// Bytes held now, all codings.
    pub fn bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn shrink(&self) {
        while self.bytes() > self.bytes_max {
            let Some((oldest, generation)) = self.filled.pop() else {
                return;
            };
            if let Some(slot) = oldest.upgrade() {
                slot.clear(generation);
            }
        }
        // Entries of past generations hold nothing; forget them before they outnumber the others.
        while self.filled.len() > 4096 {
            let Some((slot, generation)) = self.filled.pop() else {
                return;
            };
            if slot.upgrade().is_some_and(|slot| slot.has(generation)) {
                self.filled.push((slot, generation));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(cache: &RenderedCache, slot: &Arc<RenderedSlot>, of: u64, bytes: usize) -> Arc<[u8]> {
        let body = cache.body::<()>(slot, of, None, || Ok(vec![b'x'; bytes]));
        body.expect("renders").1
    }

    #[test]
    fn answer_is_rendered_once_until_it_is_evicted() {
        let cache = RenderedCache::new(1000);
        let slots: Vec<Arc<RenderedSlot>> = (0..3).map(|_| Arc::default()).collect();
        let first = fill(&cache, &slots[0], 1, 400);
        let again = cache.body::<()>(&slots[0], 1, None, || panic!("rendered twice"));
        let (_, again) = again.expect("is there");
        assert!(Arc::ptr_eq(&first, &again));
        fill(&cache, &slots[1], 1, 400);
        fill(&cache, &slots[2], 1, 400);
        assert!(cache.bytes() <= 1000, "{} bytes are held", cache.bytes());
        assert!(!slots[0].has(1), "the oldest goes first");
        assert!(slots[2].has(1), "the newest stays");
    }

    #[test]
    fn polls_in_turns_find_most_answers_although_not_all_fit() {
        let cache = RenderedCache::new(80_000);
        let slots: Vec<Arc<RenderedSlot>> = (0..100).map(|_| Arc::default()).collect();
        let round = || {
            let found = slots.iter().filter(|slot| slot.has(1)).count();
            for slot in &slots {
                fill(&cache, slot, 1, 1000);
            }
            assert!(cache.bytes() <= 80_000, "{} bytes are held", cache.bytes());
            found
        };
        round();
        for _ in 0..10 {
            let found = round();
            assert!((70..=80).contains(&found), "{found} of 100 were there");
        }
    }

    #[test]
    fn answers_that_are_not_needed_make_room() {
        let cache = RenderedCache::new(80_000);
        let unused: Vec<Arc<RenderedSlot>> = (0..100).map(|_| Arc::default()).collect();
        for slot in &unused {
            fill(&cache, slot, 1, 1000);
        }
        let used: Vec<Arc<RenderedSlot>> = (0..40).map(|_| Arc::default()).collect();
        for _ in 0..200 {
            for slot in &used {
                fill(&cache, slot, 1, 1000);
            }
        }
        assert!(used.iter().all(|slot| slot.has(1)));
    }

    #[test]
    fn newer_generation_replaces_the_older_and_not_the_reverse() {
        let cache = RenderedCache::new(1_000_000);
        let slot: Arc<RenderedSlot> = Arc::default();
        let zip = Some(Coding::Gzip);
        let body = cache.body::<()>(&slot, 5, zip, || Ok(vec![b'x'; 5000]));
        assert_eq!(body.expect("renders").0, zip);
        assert!(cache.bytes() > 5000);
        fill(&cache, &slot, 6, 100);
        assert_eq!(cache.bytes(), 100, "the older answer is given back");
        // A core that is still at the older state.
        assert_eq!(fill(&cache, &slot, 5, 7).len(), 7);
        assert_eq!(fill(&cache, &slot, 6, 9).len(), 100);
        drop(slot);
        assert_eq!(cache.bytes(), 0);
    }
}
