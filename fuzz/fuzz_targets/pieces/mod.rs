//! Reads of any size: one request through the reader that connections run, and through what it
//! keeps between two reads.

use weir::testing::http::head::Head;
use weir::testing::http::head;
use weir::testing::http::{Input, NextRequest, Progress, next_request};
use weir::testing::http::Refusal;

/// The first request of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// Path and query; an empty query is left out.
    pub target: String,
    pub body: Vec<u8>,
    /// Where the request ends.
    pub end: usize,
}

/// `Ok(None)`: more bytes are needed. `piece` returns the size of each read.
pub fn first_request(
    data: &[u8],
    body_bytes_max: u64,
    mut piece: impl FnMut() -> usize,
) -> Result<Option<Seen>, Refusal> {
    let (mut kept, mut end): (Option<Box<Input<()>>>, _) = (None, 0);
    while end < data.len() {
        let start = end;
        end = data.len().min(start + piece().max(1));
        let piece = &data[start..end];
        let (buffer, progress) = match kept.take() {
            None => (piece.to_vec(), Progress::Head),
            Some(mut input) => {
                if !input.add(piece)? {
                    kept = Some(input);
                    continue;
                }
                input.into_parts()
            }
        };
        let mut fields = head::fields();
        let admit = |_: &Head<'_>| Ok::<_, ()>((body_bytes_max, ()));
        match next_request(&buffer, progress, &mut fields, admit)? {
            NextRequest::Complete {
                head, body, len, ..
            } => {
                let query = if head.query.is_empty() { "" } else { "?" };
                return Ok(Some(Seen {
                    method: head.method.as_str().into(),
                    target: format!("{}{query}{}", head.path, head.query),
                    body: body.into_owned(),
                    end: end - (buffer.len() - len),
                }));
            }
            NextRequest::Incomplete { input, .. } => kept = Some(input),
            NextRequest::Rejected { .. } => unreachable!("everything is admitted"),
        }
    }
    // A head whose parsing was put off to the end of its line may be refused already.
    if let Some((buffer, Progress::Head)) = kept.map(|input| input.into_parts()) {
        let mut fields = head::fields();
        let parsed = head::parse(&buffer, &mut fields)?;
        assert!(parsed.is_none(), "a complete head was not noticed");
    }
    Ok(None)
}

/// Sizes from 1 to 16 that follow from a seed.
pub fn sizes(seed: u8) -> impl FnMut() -> usize {
    let mut state = u32::from(seed) + 1;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 28) as usize
    }
}
