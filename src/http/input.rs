//! Input: what has arrived of a request that could not be answered yet.

use super::framing::Chunked;
use super::refusal::Refusal;
use crate::limits::HEAD_BYTES_MAX;

/// What has arrived and could not be answered yet.
pub(super) struct Input<A> {
    /// The head of the request in progress, then what follows it.
    pub(super) bytes: Vec<u8>,
    /// Not looked at yet: to be answered before anything more is read.
    pub(super) ready: bool,
    /// How much of an incomplete head has been looked at.
    pub(super) seen: usize,
    /// Of the body in progress, as sent.
    pub(super) body_received: u64,
    pub(super) progress: Progress<A>,
}

/// How far the first request of an `Input` is.
pub(super) enum Progress<A> {
    /// The head is incomplete or not looked at.
    Head,
    /// Admitted; head and body have this many bytes together.
    Length { total: usize, admitted: Option<A> },
    /// Admitted; the body is decoded while it arrives and cut out of the bytes.
    Chunked {
        chunked: Box<ChunkedBody>,
        admitted: Option<A>,
    },
}

pub(super) struct ChunkedBody {
    pub(super) decoder: Chunked,
    pub(super) body: Vec<u8>,
}

impl<A> Input<A> {
    pub(super) fn new(bytes: &[u8], progress: Progress<A>) -> Self {
        Self {
            bytes: bytes.to_vec(),
            ready: false,
            seen: 0,
            body_received: 0,
            progress,
        }
    }

    /// Complete or not, nobody has looked at it.
    pub(super) fn unseen(bytes: &[u8]) -> Self {
        Self {
            ready: true,
            ..Self::new(bytes, Progress::Head)
        }
    }

    /// Adds what was read. Says whether it is worth looking at the whole.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        match &mut self.progress {
            Progress::Head => {
                self.bytes.extend_from_slice(bytes);
                // A head that comes byte by byte is looked at once per line, not once per byte.
                let look = self.seen == 0
                    || memchr::memchr(b'\n', bytes).is_some()
                    || self.bytes.len() >= 2 * self.seen
                    || self.bytes.len() >= HEAD_BYTES_MAX;
                if look {
                    self.seen = self.bytes.len();
                }
                Ok(look)
            }
            Progress::Length { total, .. } => {
                self.bytes.extend_from_slice(bytes);
                self.body_received += bytes.len() as u64;
                Ok(self.bytes.len() >= *total)
            }
            Progress::Chunked { chunked, .. } => {
                self.body_received += bytes.len() as u64;
                let fed = chunked.decoder.feed(bytes, &mut chunked.body)?;
                self.bytes.extend_from_slice(&bytes[fed.used..]);
                Ok(fed.complete)
            }
        }
    }
}
