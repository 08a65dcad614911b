//! Sets of addresses written as addresses and subnets, IPv4 and IPv6.
//!
//! An IPv4 address and the IPv6 address that embeds it (`::ffff:a.b.c.d`) are the same address everywhere in the program: a rule about one
//! holds for the other. A set is a sorted list of disjoint ranges, so a look-up costs a binary search however long the list was.

use std::net::{IpAddr, Ipv6Addr};

/// A set of addresses. The empty set contains nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subnets {
    /// First and last address, sorted, disjoint, with gaps between them.
    ranges: Vec<(u128, u128)>,
}

impl Subnets {
    /// Reads `10.0.0.1`, `10.10.0.0/24`, `2001:db8::/32`; bits behind the prefix are ignored. Tells the index of the first text that is
    /// nothing like that.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, usize> {
        let mut ranges = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            ranges.push(range(text).ok_or(index)?);
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Ok(Self { ranges: merged })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let number = number(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.ranges[after - 1].1
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// The place of an address among all addresses, IPv4 where IPv6 embeds it.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// First and last address of what a text names.
fn range(text: &str) -> Option<(u128, u128)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u32 = match prefix {
        None => width,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|length| *length <= width)?
        }
        Some(_) => return None,
    };
    let free = width - prefix;
    let behind = if free == 128 {
        u128::MAX
    } else {
        (1u128 << free) - 1
    };
    let first = number(address) & !behind;
    Some((first, first | behind))
}

/// An address as a client may write it, `[::1]` included; embedded IPv4 becomes IPv4.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

/// The IPv4 address that a transition mechanism hides in an IPv6 address: embedded, compatible, NAT64 and 6to4.
pub fn hidden_v4(address: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let bits = address.to_bits();
    let low = std::net::Ipv4Addr::from_bits(bits as u32);
    let head = bits >> 32;
    if head == 0xffff || (head == 0 && bits > 1) || head == 0x0064_ff9b_0000_0000_0000_0000 {
        return Some(low);
    }
    (bits >> 112 == 0x2002).then(|| std::net::Ipv4Addr::from_bits((bits >> 80) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_and_subnets_of_both_families_contain_what_they_name() {
        let set = Subnets::parse([
            "127.0.0.1",
            "10.10.0.0/24",
            "10.10.1.77/24",
            "2001:db8::/32",
            "::1",
            "192.168.1.1/32",
        ])
        .expect("all are well formed");
        for inside in [
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "10.10.0.0",
            "10.10.0.255",
            "10.10.1.0",
            "10.10.1.255",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "::1",
            "192.168.1.1",
        ] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in [
            "127.0.0.2",
            "10.9.255.255",
            "10.10.2.0",
            "2001:db9::",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "::2",
            "::",
            "192.168.1.2",
            "192.168.1.0",
            "::127.0.0.1",
        ] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(!Subnets::default().contains(ip("0.0.0.0")));
    }

    #[test]
    fn the_widest_subnets_are_everything_of_their_family() {
        let v4 = Subnets::parse(["1.2.3.4/0"]).expect("well formed");
        let v6 = Subnets::parse(["::/0"]).expect("well formed");
        for address in ["0.0.0.0", "255.255.255.255"] {
            assert!(v4.contains(ip(address)) && v6.contains(ip(address)));
        }
        let highest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert!(!v4.contains(ip(highest)) && v6.contains(ip(highest)));
    }

    #[test]
    fn what_is_no_subnet_is_told_by_its_place() {
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+1",
            "10.0.0.0/-1",
            "10.0.0.0/1/1",
            "::/129",
            "010.0.0.1",
            "example.com",
            "10.0.0.0 /8",
            "[::1]",
            "fe80::1%eth0",
        ] {
            assert_eq!(Subnets::parse(["::1", bad]), Err(1), "{bad:?}");
        }
    }

    #[test]
    fn overlapping_subnets_are_one_range() {
        let set = Subnets::parse(["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/23"])
            .expect("well formed");
        assert_eq!(set.ranges.len(), 1);
    }

    #[test]
    fn transition_addresses_show_what_they_hide() {
        for (address, hidden) in [
            ("::ffff:169.254.169.254", Some("169.254.169.254")),
            ("::169.254.169.254", Some("169.254.169.254")),
            ("64:ff9b::169.254.169.254", Some("169.254.169.254")),
            ("2002:a9fe:a9fe::1", Some("169.254.169.254")),
            ("::1", None),
            ("::", None),
            ("2001:db8::1", None),
        ] {
            let address: Ipv6Addr = address.parse().expect("an address");
            assert_eq!(
                hidden_v4(address),
                hidden.map(|text| text.parse().expect("an address")),
                "{address}"
            );
        }
    }
}
