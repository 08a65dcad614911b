//! A request detached from its connection, so that another thread can answer it.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::Request;
use super::head::{self, Head};

/// A copy of a request. A large body is shared with the connection instead of copied.
pub struct DetachedRequest {
    head: Box<[u8]>,
    body: Arc<Vec<u8>>,
    /// The body in its buffer.
    range: Range<usize>,
    peer: IpAddr,
}

impl DetachedRequest {
    pub(super) fn of(request: &Request<'_>) -> Self {
        let (body, range) = match request.buffer {
            Some(buffer) => {
                let start = request.body.as_ptr().addr() - buffer.as_ptr().addr();
                (buffer.clone(), start..start + request.body.len())
            }
            None => (Arc::new(request.body.to_vec()), 0..request.body.len()),
        };
        Self {
            head: request.head.into(),
            body,
            range,
            peer: request.peer,
        }
    }

    /// Bytes of memory that it holds.
    pub fn held_bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Calls `read` with the request. What was found out about its caller may be outdated.
    pub fn read<T>(&self, read: impl FnOnce(&Request<'_>) -> T) -> T {
        let mut fields = head::fields();
        let parsed = head::parse(&self.head, &mut fields);
        let Ok(Some(head)) = parsed else {
            unreachable!("the head was parsed before")
        };
        let Head {
            method,
            path,
            query,
            headers,
            ..
        } = head;
        read(&Request {
            method: method.without_head(),
            path,
            query,
            headers,
            body: &self.body[self.range.clone()],
            peer: self.peer,
            body_late: true,
            may_upgrade: false,
            head: &self.head,
            buffer: Some(&self.body),
        })
    }
}
