//! Chunked bodies: however the bytes are divided into reads, the result is the same. The first byte of the input seeds the division.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::http::framing::{Chunked, Fed};
use weir::http::refusal::Refusal;

const BODY_BYTES_MAX: u64 = 4096;

fn feed(input: &[u8], mut piece: impl FnMut() -> usize) -> (Result<Fed, Refusal>, Vec<u8>) {
    let (mut chunked, mut body, mut used) = (Chunked::new(BODY_BYTES_MAX), Vec::new(), 0);
    while used < input.len() {
        let end = input.len().min(used + piece());
        match chunked.feed(&input[used..end], &mut body) {
            Ok(fed) if fed.complete => {
                return (
                    Ok(Fed {
                        used: used + fed.used,
                        complete: true,
                    }),
                    body,
                );
            }
            Ok(fed) => {
                assert_eq!(fed.used, end - used, "an incomplete body takes everything");
                used = end;
            }
            Err(refusal) => return (Err(refusal), body),
        }
    }
    (
        Ok(Fed {
            used,
            complete: false,
        }),
        body,
    )
}

fuzz_target!(|data: &[u8]| {
    let Some((&seed, input)) = data.split_first() else {
        return;
    };
    let whole = feed(input, || input.len());
    assert_eq!(feed(input, || 1), whole);
    let mut state = u32::from(seed) + 1;
    let pieces = feed(input, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 28) as usize
    });
    assert_eq!(pieces, whole);

    let (fed, body) = whole;
    assert!(body.len() <= input.len() && body.len() as u64 <= BODY_BYTES_MAX);
    let Ok(Fed { complete: true, .. }) = fed else {
        return;
    };
    // What was decoded, encoded in the plainest way, is decoded to the same.
    let mut plain = Vec::new();
    if !body.is_empty() {
        plain.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        plain.extend_from_slice(&body);
        plain.extend_from_slice(b"\r\n");
    }
    plain.extend_from_slice(b"0\r\n\r\n");
    let expected = Fed {
        used: plain.len(),
        complete: true,
    };
    assert_eq!(feed(&plain, || plain.len()), (Ok(expected), body));
});
