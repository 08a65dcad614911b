//! Input: requests out of bytes that arrive in pieces.
//!
//! [`next_request`] is the one reader of requests: connections, unit tests and fuzz targets run it.
//! It works on the bytes where they were read, and copies them only into the [`Input`] of an
//! incomplete request. Promises: the requests found do not depend on how the bytes were cut into
//! reads; a head is admitted once, before its body is waited for; a head that arrives byte by byte
//! costs linear time. The grammar of heads is left to `head`, the end of bodies to `framing`.

use std::borrow::Cow;

use super::buffers::Charge;
use super::deadline::BodyPace;
use super::framing::{self, Framed, PartialBody};
use super::head::{self, Fields, Head};
use super::refusal::Refusal;
use crate::limits::HEAD_BYTES_MAX;

/// How far the first request of an [`Input`] has arrived.
#[derive(Debug)]
pub enum Progress<A> {
    /// The head is incomplete or was not parsed yet.
    Head,
    /// The head was admitted; a part of the body is missing.
    Body { body: PartialBody, admitted: A },
}

/// The first request of some bytes. `A` and `R` are what `admit` returns.
pub enum NextRequest<'a, A, R> {
    /// More bytes are needed. `wants_continue`: the client sends the body after `100 Continue`.
    Incomplete {
        input: Box<Input<A>>,
        wants_continue: bool,
    },
    /// The request was not admitted. `len`: its bytes. `body_missing`: its end is not known, so no
    /// request can follow.
    Rejected {
        head: Head<'a>,
        reason: R,
        len: usize,
        body_missing: bool,
    },
    /// `len`: bytes of the request. `body_late`: the body was completed after the admission.
    Complete {
        head: Head<'a>,
        body: Cow<'a, [u8]>,
        len: usize,
        body_late: bool,
        admitted: A,
    },
}

/// Reads the request at the start of `bytes`. `admit` gets a head as soon as it is complete and
/// returns the longest body it may have.
pub fn next_request<'a, A, R>(
    bytes: &'a [u8],
    progress: Progress<A>,
    fields: &'a mut Fields<'a>,
    admit: impl FnOnce(&Head<'a>) -> Result<(u64, A), R>,
) -> Result<NextRequest<'a, A, R>, Refusal> {
    let Some(head) = head::parse(bytes, fields)? else {
        return Ok(NextRequest::Incomplete {
            input: Box::new(Input::incomplete(bytes)),
            wants_continue: false,
        });
    };
    if let Progress::Body { body, admitted } = progress {
        let (body, len) = body.finish(head.len, bytes);
        return Ok(NextRequest::Complete {
            head,
            body,
            len,
            body_late: true,
            admitted,
        });
    }
    let after = &bytes[head.len..];
    let (body_bytes_max, admitted) = match admit(&head) {
        Ok(admitted) => admitted,
        Err(reason) => {
            let skipped = framing::skippable(head.framing, after);
            return Ok(NextRequest::Rejected {
                head,
                reason,
                len: head.len + skipped.unwrap_or(0),
                body_missing: skipped.is_none(),
            });
        }
    };
    Ok(match framing::begin(&head, bytes, body_bytes_max)? {
        Framed::Complete { body, len } => NextRequest::Complete {
            head,
            body,
            len,
            body_late: false,
            admitted,
        },
        Framed::Partial { body, keep } => NextRequest::Incomplete {
            input: Box::new(Input {
                bytes: bytes[..keep].to_vec(),
                ready: false,
                parsed: 0,
                body_received: after.len() as u64,
                pace: BodyPace::default(),
                charge: Charge::default(),
                progress: Progress::Body { body, admitted },
            }),
            wants_continue: head.expects_continue && after.is_empty(),
        },
    })
}

/// Whether the request that begins here is a `HEAD`: then no content follows the head of its
/// answer, also if the rest of the request is refused.
pub(super) fn is_of_head(bytes: &[u8]) -> bool {
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    line.starts_with(b"HEAD ")
}

/// The received part of a request that could not be answered yet.
#[derive(Debug)]
pub struct Input<A> {
    /// The head of the request in progress, then the bytes after it.
    pub(super) bytes: Vec<u8>,
    /// Not parsed yet: to be answered before anything more is read.
    pub(super) ready: bool,
    /// Length of the incomplete head at the last attempt to parse it.
    parsed: usize,
    /// Bytes of the body in progress, as sent.
    pub(super) body_received: u64,
    pub(super) pace: BodyPace,
    pub(super) charge: Charge,
    pub(super) progress: Progress<A>,
}

impl<A> Input<A> {
    /// Whether the request in progress is a `HEAD`.
    pub(super) fn is_of_head(&self) -> bool {
        is_of_head(&self.bytes)
    }

    /// The start of a head (or of a line, on an upgraded connection).
    pub(super) fn incomplete(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            ready: false,
            parsed: bytes.len(),
            body_received: 0,
            pace: BodyPace::default(),
            charge: Charge::default(),
            progress: Progress::Head,
        }
    }

    /// Bytes that were not parsed yet and may hold complete requests.
    pub(super) fn unparsed(bytes: &[u8]) -> Self {
        Self {
            ready: true,
            parsed: 0,
            ..Self::incomplete(bytes)
        }
    }

    /// Adds bytes that were read. Returns true if [`next_request`] may find a request now.
    pub fn add(&mut self, fresh: &[u8]) -> Result<bool, Refusal> {
        match &mut self.progress {
            Progress::Head => {
                self.bytes.extend_from_slice(fresh);
                // A head that arrives byte by byte is parsed once per line, not once per byte.
                let parse = self.parsed == 0
                    || memchr::memchr(b'\n', fresh).is_some()
                    || self.bytes.len() >= 2 * self.parsed
                    || self.bytes.len() >= HEAD_BYTES_MAX;
                if parse {
                    self.parsed = self.bytes.len();
                }
                Ok(parse)
            }
            Progress::Body { body, .. } => {
                self.body_received += fresh.len() as u64;
                body.add(fresh, &mut self.bytes)
            }
        }
    }

    /// Bytes of memory that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        let decoded = match &self.progress {
            Progress::Body { body, .. } => body.held_bytes(),
            Progress::Head => 0,
        };
        framing::written_bytes(&self.bytes) + decoded
    }

    /// The arguments of [`next_request`].
    pub fn into_parts(self) -> (Vec<u8>, Progress<A>) {
        (self.bytes, self.progress)
    }
}

#[cfg(test)]
mod tests;
