//! Copy-on-write containers: a copy shares everything, and the first write to a part copies that
//! part.
//!
//! They make a snapshot of the engine, and with it a preview, cost a fraction of a millisecond.
//! Without a snapshot a write copies nothing.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// A vector in chunks of `N`.
#[derive(Clone)]
pub struct CowVec<T, const N: usize = 256> {
    chunks: Vec<Arc<[T]>>,
    len: usize,
}

impl<T: Clone + Default, const N: usize> CowVec<T, N> {
    pub fn new() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, value: T) {
        if self.len / N == self.chunks.len() {
            self.chunks.push((0..N).map(|_| T::default()).collect());
        }
        self.len += 1;
        *self.get_mut(self.len as u32 - 1) = value;
    }

    #[inline]
    pub fn get(&self, i: u32) -> &T {
        debug_assert!((i as usize) < self.len);
        &self.chunks[i as usize / N][i as usize % N]
    }

    #[inline]
    pub fn get_mut(&mut self, i: u32) -> &mut T {
        debug_assert!((i as usize) < self.len);
        &mut Arc::make_mut(&mut self.chunks[i as usize / N])[i as usize % N]
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .take(self.len)
    }

    pub fn clear(&mut self) {
        self.chunks.clear();
        self.len = 0;
    }
}

/// A hash map in `N` parts. It cannot be iterated: its order would depend on its history.
#[derive(Clone)]
pub struct CowMap<K, V, const N: usize = 64> {
    parts: Vec<Arc<HashMap<K, V, FixedHash>>>,
}

impl<K: Hash + Eq + Clone, V: Clone, const N: usize> CowMap<K, V, N> {
    pub fn new() -> Self {
        Self {
            parts: (0..N).map(|_| Arc::default()).collect(),
        }
    }

    fn part<Q: Hash + ?Sized>(key: &Q) -> usize {
        // The map of each part uses the low bits and the top seven.
        (FixedHash::default().hash_one(key) >> 40) as usize % N
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.parts[Self::part(key)].get(key)
    }

    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let part = &mut self.parts[Self::part(key)];
        if part.contains_key(key) {
            Arc::make_mut(part).get_mut(key)
        } else {
            None
        }
    }

    pub fn insert(&mut self, key: K, value: V) {
        Arc::make_mut(&mut self.parts[Self::part(&key)]).insert(key, value);
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let part = &mut self.parts[Self::part(key)];
        if part.contains_key(key) {
            Arc::make_mut(part).remove(key)
        } else {
            None
        }
    }

    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

/// A hasher without a random seed, so that runs are repeatable. Names are chosen by clients, so
/// words are mixed well.
pub type FixedHash = BuildHasherDefault<Mixer>;

#[derive(Clone, Copy, Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0 ^ xxhash_rust::xxh3::xxh3_64(bytes));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0.rotate_left(5) ^ value);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Mixes 64 bits (the finalizer of SplitMix64); a bijection.
#[inline]
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_does_not_see_later_writes() {
        let mut vec = CowVec::<u32, 4>::new();
        let mut map = CowMap::<u32, u32, 2>::new();
        for i in 0..10 {
            vec.push(i);
            map.insert(i, i);
        }
        let (old_vec, old_map) = (vec.clone(), map.clone());
        *vec.get_mut(5) = 50;
        vec.push(99);
        map.insert(5, 50);
        map.remove(&6);
        assert_eq!(
            old_vec.iter().copied().collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
        assert_eq!((*vec.get(5), vec.len(), old_vec.len()), (50, 11, 10));
        assert_eq!(
            (old_map.get(&5), old_map.get(&6), map.get(&5), map.get(&6)),
            (Some(&5), Some(&6), Some(&50), None)
        );
    }
}
