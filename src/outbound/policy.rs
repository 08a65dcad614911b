//! Which addresses may be called.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use parking_lot::RwLock;

use crate::access::subnet::{Subnets, hidden_v4};

/// Why an address is never called, whatever the settings say.
pub(super) fn never(address: IpAddr) -> Option<&'static str> {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let local = (segments[0] & 0xffc0) == 0xfe80 || (segments[0] & 0xffc0) == 0xfec0;
            // Teredo hides its IPv4 address behind a mask, and nobody serves an API through it.
            let teredo = segments[0] == 0x2001 && segments[1] == 0;
            let metadata = v6.to_bits() == 0xfd00_0ec2_0000_0000_0000_0000_0000_0254;
            if v6.is_unspecified() || v6.is_multicast() || local || teredo || metadata {
                return Some("This address is never called");
            }
            hidden_v4(v6)?
        }
    };
    let octets = v4.octets();
    let metadata = [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]].contains(&octets);
    (octets[0] == 0 || v4.is_link_local() || octets[0] >= 224 || metadata)
        .then_some("This address is never called")
}

/// Which addresses may be called.
#[derive(Debug, Default)]
pub struct Reach {
    /// Whether this machine itself may be called.
    loopback: bool,
    denied: Subnets,
    /// Where this server listens; it does not call itself.
    own: RwLock<Vec<SocketAddr>>,
}

impl Reach {
    pub fn new(loopback: bool, denied: Subnets) -> Self {
        Self {
            loopback,
            denied,
            own: RwLock::default(),
        }
    }

    /// Tells where this server listens, once it is known.
    pub fn listening_on(&self, own: Vec<SocketAddr>) {
        *self.own.write() = own;
    }

    /// Asked for every address right before a connection to it.
    pub fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let plain = match ip {
            IpAddr::V6(v6) => hidden_v4(v6).map_or(ip, IpAddr::V4),
            IpAddr::V4(_) => ip,
        };
        never(ip).is_none()
            && (self.loopback || !plain.is_loopback())
            && !self.denied.contains(ip)
            && !self.denied.contains(plain)
            && !self.is_own(plain, address.port())
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        self.own.read().iter().any(|own| {
            own.port() == port
                && if own.ip().is_unspecified() {
                    // An address that can be bound is one of this machine.
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
    fn addresses_are_judged_the_same_however_they_are_written() {
        let at = |text: &str, port| SocketAddr::new(text.parse().expect("an address"), port);
        let strict = Reach::new(false, Subnets::parse(["10.66.0.0/16"]).expect("a subnet"));
        let open = Reach::new(true, Subnets::default());
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
            assert!(!open.allows(at(never, 80)), "{never}, even so");
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
            assert!(open.allows(at(denied, 80)), "{denied}, not by all");
        }
        assert!(open.allows(at("127.0.0.1", 80)) && open.allows(at("::1", 80)));
        // Ourselves.
        let address = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = address.local_addr().expect("it is bound");
        open.listening_on(vec![address, at("0.0.0.0", 7)]);
        assert!(!open.allows(address));
        assert!(open.allows(at("127.0.0.2", address.port())));
        assert!(!open.allows(at("::ffff:127.0.0.1", address.port())));
        assert!(!open.allows(at("127.0.0.1", 7)) && open.allows(at("10.255.255.1", 7)));
    }
}
