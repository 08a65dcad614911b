//! Request heads: an accepted head that is printed plainly is read as the same head; a part of it
//! needs more bytes; the bytes after it do not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::testing::http::head::{Head, fields, parse as head};

/// The head in the plainest form that means the same.
fn print(head: &Head<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path.as_bytes());
    if !head.query.is_empty() {
        out.push(b'?');
        out.extend_from_slice(head.query.as_bytes());
    }
    out.extend_from_slice(if head.is_1_0 {
        b" HTTP/1.0\r\n"
    } else {
        b" HTTP/1.1\r\n"
    });
    for (name, value) in head.headers.iter() {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn assert_same(a: &Head<'_>, b: &Head<'_>) {
    assert_eq!(
        (a.method, a.path, a.query, a.framing),
        (b.method, b.path, b.query, b.framing)
    );
    assert_eq!(
        (a.is_1_0, a.keep_alive, a.expects_continue),
        (b.is_1_0, b.keep_alive, b.expects_continue)
    );
    assert!(a.headers.iter().eq(b.headers.iter()));
}

fuzz_target!(|data: &[u8]| {
    let mut room = fields();
    let Ok(Some(read)) = head(data, &mut room) else {
        return;
    };
    assert!(read.len <= data.len());
    assert!(read.path.starts_with('/') || read.path == "*");

    let mut room_again = fields();
    let alone = head(&data[..read.len], &mut room_again);
    assert_same(&read, &alone.expect("accepted").expect("complete"));

    let plain = print(&read);
    let mut room_plain = fields();
    let again = head(&plain, &mut room_plain);
    assert_same(&read, &again.expect("accepted").expect("complete"));

    let step = 1 + read.len / 64;
    for cut in (0..read.len).step_by(step) {
        let mut room_cut = fields();
        assert!(
            matches!(head(&data[..cut], &mut room_cut), Ok(None)),
            "cut at {cut}"
        );
    }
});
