//! The egress policy: which addresses outbound calls may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use parking_lot::RwLock;

use crate::subnet::Subnets;

/// Whether an address is never called, whatever the settings are.
pub(super) fn never_called(address: IpAddr) -> bool {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let local = (segments[0] & 0xffc0) == 0xfe80 || (segments[0] & 0xffc0) == 0xfec0;
            // Teredo obfuscates its IPv4 address, and no API is served through it.
            let teredo = segments[0] == 0x2001 && segments[1] == 0;
            let metadata = v6.to_bits() == 0xfd00_0ec2_0000_0000_0000_0000_0000_0254;
            if v6.is_unspecified() || v6.is_multicast() || local || teredo || metadata {
                return true;
            }
            match embedded_v4(v6) {
                Some(v4) => v4,
                None => return false,
            }
        }
    };
    let octets = v4.octets();
    let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&octets);
    octets[0] == 0 || v4.is_link_local() || octets[0] >= 224 || metadata
}

/// The IPv4 address inside the IPv6 address of a transition mechanism: IPv4-mapped,
/// IPv4-compatible, NAT64 and 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    let low = Ipv4Addr::from_bits(bits as u32);
    let head = bits >> 32;
    if head == 0xffff || (head == 0 && bits > 1) || head == 0x0064_ff9b_0000_0000_0000_0000 {
        return Some(low);
    }
    (bits >> 112 == 0x2002).then(|| Ipv4Addr::from_bits((bits >> 80) as u32))
}

/// The addresses that outbound calls may reach, by the settings and the own listeners.
#[derive(Debug, Default)]
pub struct EgressPolicy {
    /// Whether this machine itself may be called.
    loopback: bool,
    denied: Subnets,
    /// The listeners of this server, which must not call itself.
    own: RwLock<Vec<SocketAddr>>,
}

impl EgressPolicy {
    pub fn new(loopback: bool, denied: Subnets) -> Self {
        Self {
            loopback,
            denied,
            own: RwLock::default(),
        }
    }

    /// Sets the addresses this server listens on, once they are known.
    pub fn set_own_listeners(&self, own: Vec<SocketAddr>) {
        *self.own.write() = own;
    }

    /// Whether an address may be called; checked right before each connection.
    pub fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let plain = match ip {
            IpAddr::V6(v6) => embedded_v4(v6).map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        };
        !never_called(ip)
            && (self.loopback || !plain.is_loopback())
            && !self.denied.contains(ip)
            && !self.denied.contains(plain)
            && !self.is_own(plain, address.port())
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.read().iter().any(|own| {
            own.port() == port
                && if own.ip().is_unspecified() {
                    // An address that can be bound belongs to this machine.
                    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
                } else {
                    own.ip().to_canonical() == ip
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn every_notation_of_an_address_is_treated_the_same() {
        let at = |text: &str, port| SocketAddr::new(text.parse().expect("an address"), port);
        let strict = EgressPolicy::new(false, Subnets::parse(["10.66.0.0/16"]).expect("a subnet"));
        let open = EgressPolicy::new(true, Subnets::default());
        for never in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
        ] {
            assert!(!strict.allows(at(never, 80)), "{never}");
            assert!(!open.allows(at(never, 80)), "{never}, loopback allowed");
        }
        for fine in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "93.184.216.34",
            "fd00::1",
            "2606::1",
        ] {
            assert!(strict.allows(at(fine, 80)), "{fine}");
        }
        for denied in ["10.66.1.1", "::ffff:10.66.1.1", "64:ff9b::10.66.1.1"] {
            assert!(!strict.allows(at(denied, 80)), "{denied}");
            assert!(
                open.allows(at(denied, 80)),
                "{denied} is denied by a setting only"
            );
        }
        assert!(open.allows(at("127.0.0.1", 80)) && open.allows(at("::1", 80)));
        // The own listeners.
        let address = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = address.local_addr().expect("it is bound");
        open.set_own_listeners(vec![address, at("0.0.0.0", 7)]);
        assert!(!open.allows(address));
        assert!(open.allows(at("127.0.0.2", address.port())));
        assert!(!open.allows(at("::ffff:127.0.0.1", address.port())));
        assert!(!open.allows(at("127.0.0.1", 7)) && open.allows(at("10.255.255.1", 7)));
    }

    #[test]
    fn transition_addresses_contain_an_ipv4_address() {
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
                embedded_v4(address),
                hidden.map(|text| text.parse().expect("an address")),
                "{address}"
            );
        }
    }
}
