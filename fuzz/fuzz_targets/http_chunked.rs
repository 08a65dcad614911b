//! Chunked bodies: the result does not depend on the sizes of the reads, and a body that is encoded
//! again is decoded to the same. The first byte of the input seeds the sizes.
#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;
use pieces::{first_request, sizes};

const BODY_BYTES_MAX: u64 = 4096;

const HEAD: &[u8] = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let Some((&seed, chunks)) = data.split_first() else {
        return;
    };
    let input = [HEAD, chunks].concat();
    let whole = first_request(&input, BODY_BYTES_MAX, || input.len());
    assert_eq!(first_request(&input, BODY_BYTES_MAX, || 1), whole);
    assert_eq!(first_request(&input, BODY_BYTES_MAX, sizes(seed)), whole);
    // Cut behind the head: the whole body arrives late.
    let mut late = [HEAD.len(), chunks.len()].into_iter();
    let late = first_request(&input, BODY_BYTES_MAX, || late.next().unwrap_or(1));
    assert_eq!(late, whole);

    let Ok(Some(seen)) = whole else {
        return;
    };
    let body = seen.body;
    assert!(body.len() <= chunks.len() && body.len() as u64 <= BODY_BYTES_MAX);
    // What was decoded, encoded in the plainest way, is decoded to the same.
    let mut plain = HEAD.to_vec();
    if !body.is_empty() {
        plain.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        plain.extend_from_slice(&body);
        plain.extend_from_slice(b"\r\n");
    }
    plain.extend_from_slice(b"0\r\n\r\n");
    let again = first_request(&plain, BODY_BYTES_MAX, || plain.len());
    let again = again.expect("accepted").expect("complete");
    assert_eq!((again.body, again.end), (body, plain.len()));
});
