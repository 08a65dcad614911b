//! Sets of addresses, written as addresses and subnets of IPv4 and IPv6.
//!
//! An IPv4 address and its IPv4-mapped IPv6 form (`::ffff:a.b.c.d`) are the same address everywhere
//! in the program: a rule about one applies to the other. A set is a sorted list of disjoint
//! subnets, so a lookup is a binary search.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// A set of addresses. The empty set contains none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subnets {
    /// Sorted and disjoint; subnets of IPv4 in their IPv4-mapped form.
    nets: Vec<Ipv6Net>,
}

impl Subnets {
    /// The addresses of this machine.
    pub const LOOPBACK: [&'static str; 2] = ["127.0.0.0/8", "::1"];

    pub fn loopback() -> Self {
        Self::parse(Self::LOOPBACK).expect("the addresses are well-formed")
    }

    /// Parses texts such as `10.0.0.1`, `10.10.0.0/24` and `2001:db8::/32`. Bits after the prefix
    /// are ignored. The error is the index of the first invalid text.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, usize> {
        let nets = texts
            .into_iter()
            .enumerate()
            .map(|(index, text)| parse_net(text).ok_or(index));
        let nets = nets.collect::<Result<Vec<_>, _>>()?;
        let mut nets = Ipv6Net::aggregate(&nets);
        nets.sort_unstable();
        Ok(Self { nets })
    }

    /// Whether the set contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = mapped(address);
        let after = self.nets.partition_point(|net| net.network() <= address);
        after > 0 && self.nets[after - 1].contains(&address)
    }
}

/// The address under which a client is counted: a host with IPv6 has a whole /64.
pub fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The IPv6 form of an address.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The IPv6 form of the subnet in `text`; an address is the subnet that contains only itself.
///
/// `ipnet` would refuse a prefix with leading zeros, which saved configurations may have.
fn parse_net(text: &str) -> Option<Ipv6Net> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let net = match prefix {
        None => IpNet::from(address),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            IpNet::new(address, digits.parse().ok()?).ok()?
        }
        Some(_) => return None,
    };
    Some(match net {
        IpNet::V4(net) => {
            Ipv6Net::new(net.network().to_ipv6_mapped(), net.prefix_len() + 96).ok()?
        }
        IpNet::V6(net) => net.trunc(),
    })
}

/// Parses an address as clients write it, brackets (`[::1]`) allowed. The IPv4-mapped form becomes
/// IPv4.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn subnets_of_both_families_contain_their_addresses() {
        let set = Subnets::parse([
            "127.0.0.1",
            "10.10.0.0/24",
            "10.10.1.77/24",
            "2001:db8::/32",
            "::1",
            "192.168.1.1/032",
            "::ffff:172.16.0.0/108",
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
            "172.31.255.255",
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
            "172.32.0.0",
        ] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(!Subnets::default().contains(ip("0.0.0.0")));
    }

    #[test]
    fn prefix_zero_contains_the_whole_family() {
        let v4 = Subnets::parse(["1.2.3.4/0"]).expect("well formed");
        let v6 = Subnets::parse(["::/0"]).expect("well formed");
        for address in ["0.0.0.0", "255.255.255.255"] {
            assert!(v4.contains(ip(address)) && v6.contains(ip(address)));
        }
        let highest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert!(!v4.contains(ip(highest)) && v6.contains(ip(highest)));
    }

    #[test]
    fn invalid_subnet_is_reported_by_its_index() {
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
    fn overlapping_subnets_are_merged() {
        let set = Subnets::parse(["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/23"])
            .expect("well formed");
        assert_eq!(set.nets.len(), 1);
    }
}
