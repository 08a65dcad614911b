//! A streamer's answer, rendered once per generation and shared by every core, connection and waiter that sends it.
//!
//! The slot hangs on the node's view in the state, so a new generation begins with an empty slot and an old one goes with its last reader.
//! What all slots hold together is bounded in bytes: the slots that were filled first are emptied first and filled again by
//! whoever asks next.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwapOption;
use crossbeam_queue::SegQueue;

use crate::http::encoding::{Coding, compress};

/// Where the rendered answer of one generation of one node is kept.
#[derive(Default, Debug)]
pub struct RenderedSlot(ArcSwapOption<Rendered>);

/// One body in the codings that were asked for so far.
#[derive(Debug)]
pub struct Rendered {
    identity: Arc<[u8]>,
    gzip: OnceLock<Option<Arc<[u8]>>>,
    zstd: OnceLock<Option<Arc<[u8]>>>,
    /// Bytes of all slots together; this body's share is given back when it goes.
    total: Arc<AtomicUsize>,
}

impl Rendered {
    /// A body that is in no slot.
    pub fn new(identity: &[u8]) -> Self {
        Self::counted(Arc::from(identity), Arc::default())
    }

    fn counted(identity: Arc<[u8]>, total: Arc<AtomicUsize>) -> Self {
        total.fetch_add(identity.len(), Ordering::Relaxed);
        Self {
            identity,
            gzip: OnceLock::new(),
            zstd: OnceLock::new(),
            total,
        }
    }

    /// The body in a coding, encoded by the first who asks; as it is when encoding would not make it smaller.
    pub fn body(&self, coding: Option<Coding>) -> (Option<Coding>, Arc<[u8]>) {
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
    /// Filled slots, oldest first; those whose node moved on upgrade to nothing.
    filled: SegQueue<Weak<RenderedSlot>>,
}

impl RenderedCache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            total: Arc::default(),
            filled: SegQueue::new(),
        }
    }

    /// The answer in `slot`, rendered now if it is not there.
    pub fn get<E>(
        &self,
        slot: &Arc<RenderedSlot>,
        render: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Arc<Rendered>, E> {
        if let Some(rendered) = slot.0.load_full() {
            return Ok(rendered);
        }
        let rendered = Arc::new(Rendered::counted(Arc::from(render()?), self.total.clone()));
        slot.0.store(Some(rendered.clone()));
        self.filled.push(Arc::downgrade(slot));
        self.shrink();
        Ok(rendered)
    }

    /// Bytes held now, all codings.
    pub fn bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn shrink(&self) {
        while self.bytes() > self.bytes_max {
            let Some(oldest) = self.filled.pop() else {
                return;
            };
            if let Some(slot) = oldest.upgrade() {
                slot.0.store(None);
            }
        }
        // Slots of past generations hold nothing; forget them before they outnumber the live ones by much.
        while self.filled.len() > 4096 {
            match self.filled.pop() {
                Some(slot) if slot.strong_count() > 0 => {
                    self.filled.push(slot);
                    return;
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(cache: &RenderedCache, slot: &Arc<RenderedSlot>, bytes: usize) -> Arc<Rendered> {
        cache
            .get::<()>(slot, || Ok(vec![b'x'; bytes]))
            .expect("renders")
    }

    #[test]
    fn an_answer_is_rendered_once_until_it_is_pushed_out() {
        let cache = RenderedCache::new(1000);
        let slots: Vec<Arc<RenderedSlot>> = (0..3).map(|_| Arc::default()).collect();
        let first = fill(&cache, &slots[0], 400);
        assert!(Arc::ptr_eq(
            &first,
            &cache
                .get::<()>(&slots[0], || panic!("rendered twice"))
                .expect("is there")
        ));
        drop(first);
        fill(&cache, &slots[1], 400);
        fill(&cache, &slots[2], 400);
        assert!(cache.bytes() <= 1000, "{} bytes are held", cache.bytes());
        assert!(slots[0].0.load().is_none(), "the oldest goes first");
        assert!(slots[2].0.load().is_some(), "the newest stays");
    }

    #[test]
    fn what_a_generation_held_is_given_back_with_it() {
        let cache = RenderedCache::new(1_000_000);
        let slot: Arc<RenderedSlot> = Arc::default();
        let rendered = fill(&cache, &slot, 5000);
        rendered.body(Some(Coding::Gzip));
        assert!(cache.bytes() > 5000);
        drop((rendered, slot));
        assert_eq!(cache.bytes(), 0);
    }
}
