//! Memory for direct reads and writes: whole blocks that begin at a multiple of a block.

use crate::entry::BLOCK;

/// A buffer whose bytes begin at a multiple of [`BLOCK`]. It keeps its memory.
#[derive(Default, Debug)]
pub struct Blocks {
    bytes: Vec<u8>,
    start: usize,
}

impl Blocks {
    pub fn zeroed(bytes: usize) -> Self {
        let mut blocks = Self::default();
        blocks.zeros(bytes);
        blocks
    }

    /// Replaces the content by what `write` appends, which must be whole blocks.
    pub fn write<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.clear();
        let result = write(&mut self.bytes);
        if self.bytes[self.start..].as_ptr().align_offset(BLOCK) != 0 {
            // It has grown and moved.
            let content = std::mem::take(&mut self.bytes);
            self.bytes = Vec::with_capacity(content.len() + 2 * BLOCK);
            let content = &content[self.start..];
            self.clear();
            self.bytes.extend_from_slice(content);
        }
        debug_assert_eq!(self.get().len() % BLOCK, 0);
        result
    }

    /// Replaces the content by zeros and returns it, to be read into.
    pub fn zeros(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.capacity() < bytes + BLOCK {
            self.bytes = Vec::with_capacity(bytes + BLOCK);
        }
        self.clear();
        self.bytes.resize(self.start + bytes, 0);
        &mut self.bytes[self.start..]
    }

    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = self.bytes.as_ptr().align_offset(BLOCK);
        self.bytes.resize(self.start, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_aligned_however_it_grows() {
        let mut blocks = Blocks::default();
        for count in [1, 3, 2, 700, 1] {
            let content: Vec<u8> = (0..count * BLOCK).map(|i| (i % 251) as u8).collect();
            blocks.write(|out| {
                for part in content.chunks(1000) {
                    out.extend_from_slice(part);
                }
            });
            assert_eq!(blocks.get(), content);
            assert_eq!(blocks.get().as_ptr().align_offset(BLOCK), 0);
        }
        let zeros = blocks.zeros(BLOCK);
        assert_eq!(
            (zeros.len(), zeros.as_ptr().align_offset(BLOCK)),
            (BLOCK, 0)
        );
        assert!(blocks.get().iter().all(|byte| *byte == 0));
    }
}
