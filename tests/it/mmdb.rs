//! Writes small databases of countries in MaxMind's format (the specification of version 2.0 is
//! public), so that tests need no third-party file. Used by the tests of `access::geo` as
//! well.

use std::net::IpAddr;

/// A node of the tree: what follows a 0 and a 1.
type TreeNode = [Option<Record>; 2];

#[derive(Clone, Copy)]
enum Record {
    TreeNode(usize),
    /// Offset into the data section.
    Data(usize),
}

/// A database of these subnets; later ones override earlier ones. IPv4 is at `::/96`, as the format
/// requires.
pub fn database(subnets: &[(&str, &str)]) -> Vec<u8> {
    let mut nodes: Vec<TreeNode> = vec![[None; 2]];
    let mut data = Vec::new();
    for (subnet, country) in subnets {
        let (bits, length) = place(subnet);
        let at = data.len();
        // {"country": {"iso_code": COUNTRY}}
        map(&mut data, 1);
        text(&mut data, "country");
        map(&mut data, 1);
        text(&mut data, "iso_code");
        text(&mut data, country);
        insert(&mut nodes, bits, length, at);
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for node in &nodes {
        for side in node {
            let value = match side {
                None => count,
                Some(Record::TreeNode(index)) => *index,
                Some(Record::Data(offset)) => count + 16 + offset,
            };
            file.extend_from_slice(&u32::try_from(value).expect("a small tree").to_be_bytes());
        }
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    map(&mut file, 9);
    text(&mut file, "binary_format_major_version");
    number(&mut file, 5, 2);
    text(&mut file, "binary_format_minor_version");
    number(&mut file, 5, 0);
    text(&mut file, "build_epoch");
    number(&mut file, 9, 1_700_000_000);
    text(&mut file, "database_type");
    text(&mut file, "Weir-Test-Country");
    text(&mut file, "description");
    map(&mut file, 0);
    text(&mut file, "ip_version");
    number(&mut file, 5, 6);
    text(&mut file, "languages");
    // An array without elements.
    file.extend_from_slice(&[0, 4]);
    text(&mut file, "node_count");
    number(&mut file, 6, count as u64);
    text(&mut file, "record_size");
    number(&mut file, 5, 32);
    file
}

/// The bits of a subnet from the left, and how many count.
fn place(subnet: &str) -> (u128, usize) {
    let (address, length) = subnet.split_once('/').expect("a subnet");
    let length: usize = length.parse().expect("a length");
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 96 + length),
        IpAddr::V6(v6) => (v6.to_bits(), length),
    }
}

fn insert(nodes: &mut Vec<TreeNode>, bits: u128, length: usize, data: usize) {
    let mut node = 0;
    for depth in 0..length {
        let side = ((bits >> (127 - depth)) & 1) as usize;
        if depth + 1 == length {
            nodes[node][side] = Some(Record::Data(data));
            return;
        }
        node = match nodes[node][side] {
            Some(Record::TreeNode(index)) => index,
            above => {
                // Both halves inherit the record.
                nodes.push([above; 2]);
                nodes[node][side] = Some(Record::TreeNode(nodes.len() - 1));
                nodes.len() - 1
            }
        };
    }
}

fn map(out: &mut Vec<u8>, pairs: u8) {
    out.push(0b1110_0000 | pairs);
}

fn text(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).expect("a short text");
    if length < 29 {
        out.push(0b0100_0000 | length);
    } else {
        out.extend_from_slice(&[0b0101_1101, length - 29]);
    }
    out.extend_from_slice(text.as_bytes());
}

/// Unsigned numbers: kind 5 has 16 bits, 6 has 32, 9 (an extended kind) has 64.
fn number(out: &mut Vec<u8>, kind: u8, value: u64) {
    let bytes = value.to_be_bytes();
    let significant = &bytes[(value.leading_zeros() / 8) as usize..];
    let length = significant.len() as u8;
    if kind <= 7 {
        out.push(kind << 5 | length);
    } else {
        out.extend_from_slice(&[length, kind - 7]);
    }
    out.extend_from_slice(significant);
}
