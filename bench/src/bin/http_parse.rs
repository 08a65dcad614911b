//! Reading request heads: a GET and a PUT as clients send them, and sixteen GETs that one read
//! brought.
//!
//! `cargo run --release -p weir-bench --bin http_parse -- [CALLS PER ROUND]`

use weir::testing::http::head;
use weir_bench::{measure, size};

const GET: &[u8] = b"GET /central/api/v3/streams/site-0001/camera-00000001 HTTP/1.1\r\nHost: central.example.com:9019\r\n\
User-Agent: streamer/24.11\r\nAccept: application/json\r\nAccept-Encoding: gzip, zstd\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
If-None-Match: \"0000000000000007-1-1820\"\r\nConnection: keep-alive\r\n\r\n";
const PUT: &[u8] = b"PUT /central/api/v3/streams/site-0001/camera-00000001 HTTP/1.1\r\nHost: central.example.com:9019\r\n\
User-Agent: operator/1.0\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: 245\r\n\
Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n";

fn head_len(bytes: &[u8]) -> usize {
    let mut fields = head::fields();
    let head = head::parse(bytes, &mut fields).expect("well formed");
    head.expect("complete").len
}

fn main() {
    let calls = size(100_000);
    println!("GET of {} bytes, PUT of {} bytes", GET.len(), PUT.len());
    measure("head of a GET", calls, || head_len(GET));
    measure("head of a PUT", calls, || head_len(PUT));
    let pipelined = GET.repeat(16);
    measure("16 heads in one read", calls / 16, || {
        let (mut used, mut heads) = (0, 0);
        while used < pipelined.len() {
            used += head_len(&pipelined[used..]);
            heads += 1;
        }
        assert_eq!(heads, 16);
        used
    });
    let part = &GET[..GET.len() - 2];
    measure("a head that is not complete", calls, || {
        let mut fields = head::fields();
        head::parse(part, &mut fields)
            .expect("well formed")
            .is_none()
    });
}
