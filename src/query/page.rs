//! One page of an answer, as JSON.

use std::time::Duration;

use crate::json::write_string;

/// Time spent on the parts of an answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub filter: Duration,
    pub sort: Duration,
    pub limit: Duration,
    pub select: Duration,
    /// Getting the documents before there was a query to run; the caller's to fill.
    pub load: Duration,
}

/// One page of an answer.
#[derive(Debug)]
pub struct Page {
    pub estimated_count: u64,
    /// How many documents are on the page.
    pub items: usize,
    pub next: Option<String>,
    pub prev: Option<String>,
    pub timing: Timing,
    /// `{"COLLECTION":[...]`, without the rest of the envelope.
    pub(super) body: Vec<u8>,
}

/// The same list in the opposite order; `head` bytes come before it.
pub(super) fn flipped(body: &[u8], ends: &[usize], head: usize) -> Vec<u8> {
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
    /// The whole envelope. `extra` are further members of it, as canonical JSON without braces (`"updated_at":5`), or nothing.
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
                ",\"timing\":{{\"filter\":{:.3},\"limit\":{:.3},\"load\":{:.3},\"select\":{:.3},\"sort\":{:.3}}}",
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
