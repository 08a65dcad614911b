//! The address of a client behind proxies: `X-Real-IP` and `X-Forwarded-For`, where a trusted proxy
//! sends them.
//!
//! Any client can send these fields, so they count only on connections from a trusted proxy. A
//! proxy must set or remove `X-Real-IP`. In `X-Forwarded-For` each proxy appends the address that
//! it saw: the last one that is not a trusted proxy is the client.

use std::net::IpAddr;

use super::Headers;
use crate::subnet::{Subnets, parse_address};

/// The address of the client of a request that came over a connection from `peer`.
pub fn client_address(headers: &Headers<'_>, peer: IpAddr, trusted: &Subnets) -> IpAddr {
    let peer = peer.to_canonical();
    // Most requests have none.
    if !headers.has_forwarded() {
        return peer;
    }
    if !trusted.contains(peer) {
        return peer;
    }
    let address = |value: &[u8]| parse_address(std::str::from_utf8(value).ok()?.trim());
    if let Some(real) = headers.get("x-real-ip").and_then(address) {
        return real.to_canonical();
    }
    let fields = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
    let hops: Vec<&[u8]> = fields
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .collect();
    let mut client = peer;
    for hop in hops.into_iter().rev() {
        // Behind an unreadable hop nothing is certain.
        let Some(hop) = address(hop) else {
            return client;
        };
        client = hop.to_canonical();
        if !trusted.contains(client) {
            return client;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;

    #[test]
    fn only_trusted_proxies_name_their_client() {
        let trusted = Subnets::parse(["127.0.0.0/8", "::1", "10.0.0.0/24"]).expect("subnets");
        for (peer, fields, client) in [
            ("127.0.0.1", "", "127.0.0.1"),
            ("127.0.0.1", "X-Real-IP: 198.51.100.7", "198.51.100.7"),
            (
                "::ffff:127.0.0.1",
                "X-Real-IP: [2001:db8::1]",
                "2001:db8::1",
            ),
            ("::1", "x-real-ip: ::ffff:198.51.100.7", "198.51.100.7"),
            ("127.0.0.1", "X-Real-IP: nonsense", "127.0.0.1"),
            // Private addresses are not trusted by themselves.
            ("10.0.1.1", "X-Real-IP: 198.51.100.7", "10.0.1.1"),
            (
                "192.168.0.1",
                "X-Forwarded-For: 198.51.100.7",
                "192.168.0.1",
            ),
            ("10.0.0.9", "X-Forwarded-For: 198.51.100.7", "198.51.100.7"),
            // What the client itself sent is before what the proxies appended.
            (
                "10.0.0.9",
                "X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.8",
                "198.51.100.7",
            ),
            (
                "10.0.0.9",
                "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 198.51.100.7",
                "198.51.100.7",
            ),
            (
                "10.0.0.9",
                "X-Forwarded-For: 198.51.100.7, unknown",
                "10.0.0.9",
            ),
            (
                "10.0.0.9",
                "X-Forwarded-For: 198.51.100.7, unknown, 10.0.0.8",
                "10.0.0.8",
            ),
            (
                "10.0.0.9",
                "X-Forwarded-For: 10.0.0.7, 10.0.0.8",
                "10.0.0.7",
            ),
        ] {
            let fields = if fields.is_empty() {
                String::new()
            } else {
                format!("{fields}\r\n")
            };
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            let mut buffer = head::fields();
            let parsed = head::parse(text.as_bytes(), &mut buffer).expect("well-formed");
            let head = parsed.expect("complete");
            let peer = peer.parse().expect("an address");
            let found = client_address(&head.headers, peer, &trusted);
            assert_eq!(found.to_string(), client, "{peer} {fields}");
        }
    }
}
