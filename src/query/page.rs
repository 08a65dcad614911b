//! One page of an answer, as JSON.

use std::time::Duration;

use crate::json::write_string;

/// Time spent on each part of an answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub filter: Duration,
    pub sort: Duration,
    pub limit: Duration,
    pub select: Duration,
    /// Loading the documents before the query ran. Set by the caller.
    pub load: Duration,
}

/// One page of an answer.
#[derive(Debug)]
pub struct Page {
    /// Number of documents that pass the filters; exact.
    pub estimated_count: u64,
    /// Number of documents on the page.
    pub items: usize,
    pub next: Option<String>,
    pub prev: Option<String>,
    pub timing: Timing,
    /// `{"COLLECTION":[...]`, without the rest of the envelope.
    pub(super) body: Vec<u8>,
}

/// The list in the opposite order. `ends` are the ends of its items; `head` bytes come before it.
pub(super) fn reversed_list(body: &[u8], ends: &[usize], head: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 256);
    out.extend_from_slice(&body[..head]);
    for (i, &end) in ends.iter().enumerate().rev() {
        let start = if i == 0 { head } else { ends[i - 1] + 1 };
        out.extend_from_slice(&body[start..end]);
        if i > 0 {
            out.push(b',');
        }
    }
    out
}

impl Page {
    /// The whole response body. `extra` are further members as canonical JSON without braces
    /// (`"updated_at":5`); it may be empty.
    pub fn into_body(self, extra: &str) -> Vec<u8> {
        let mut out = self.body;
        out.extend_from_slice(b",\"estimated_count\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.estimated_count).as_bytes());
        for (name, cursor) in [("next", &self.next), ("prev", &self.prev)] {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match cursor {
                Some(cursor) => write_string(&mut out, cursor),
                None => out.extend_from_slice(b"null"),
            }
        }
        let timing = &self.timing;
        out.extend_from_slice(
            format!(
                ",\"timing\":{{\"filter\":{:.3},\"limit\":{:.3},\"load\":{:.3},\
                 \"select\":{:.3},\"sort\":{:.3}}}",
                ms(timing.filter),
                ms(timing.limit),
                ms(timing.load),
                ms(timing.select),
                ms(timing.sort)
            )
            .as_bytes(),
        );
        if !extra.is_empty() {
            out.push(b',');
            out.extend_from_slice(extra.as_bytes());
        }
        out.push(b'}');
        out
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
