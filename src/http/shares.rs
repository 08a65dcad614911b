//! How the connections of a core are shared: half of them for one address, a part for probes.
//!
//! One client that opens all connections must not keep out others, and never the probes of an
//! orchestrator, which would then restart a healthy server. Trusted proxies are not limited by
//! address: their connections belong to many clients.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::subnet::counted_address;

/// The connections of one core by address. Has at most one entry per open connection.
#[derive(Default)]
pub(super) struct ConnectionShares {
    by_address: HashMap<IpAddr, usize>,
    /// Connections beyond the share of their address.
    refused: u64,
}

/// What a new connection may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    Any,
    /// The others are in use: only probes are answered.
    Probes,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All connections are in use.
    All,
    /// The address has its share.
    Address,
}

/// Connections reserved for probes.
pub(super) fn reserved(connections_max: usize) -> usize {
    (connections_max / 32).min(256)
}

impl ConnectionShares {
    /// Enters a connection, where `open` are open. `address`: `None` for a trusted proxy.
    pub(super) fn enter(
        &mut self,
        address: Option<IpAddr>,
        open: usize,
        connections_max: usize,
    ) -> Result<Share, Full> {
        if open >= connections_max {
            return Err(Full::All);
        }
        if let Some(address) = address {
            let held = self.by_address.entry(counted_address(address)).or_default();
            if *held >= connections_max.div_ceil(2) {
                self.refused += 1;
                return Err(Full::Address);
            }
            *held += 1;
        }
        if open >= connections_max - reserved(connections_max) {
            return Ok(Share::Probes);
        }
        Ok(Share::Any)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Removes a connection that was entered.
    pub(super) fn leave(&mut self, address: Option<IpAddr>) {
        let Some(address) = address.map(counted_address) else {
            return;
        };
        if let Some(held) = self.by_address.get_mut(&address) {
            *held -= 1;
            if *held == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_between_addresses_and_probes() {
        const MAX: usize = 64;
        let mut shares = ConnectionShares::default();
        let [a, b] = ["198.51.100.1", "2001:db8::1"].map(|text| text.parse().ok());
        let mut open = 0;
        for _ in 0..MAX / 2 {
            assert_eq!(shares.enter(a, open, MAX), Ok(Share::Any));
            open += 1;
        }
        assert_eq!(shares.enter(a, open, MAX), Err(Full::Address));
        let neighbour = "2001:db8::2".parse().ok();
        for at in 0..MAX / 2 {
            let share = if open < MAX - reserved(MAX) {
                Share::Any
            } else {
                Share::Probes
            };
            let address = if at % 2 == 0 { b } else { neighbour };
            assert_eq!(shares.enter(address, open, MAX), Ok(share), "{open}");
            open += 1;
        }
        assert_eq!(shares.enter(None, open, MAX), Err(Full::All));
        shares.leave(a);
        open -= 1;
        assert_eq!(shares.enter(neighbour, open, MAX), Err(Full::Address));
        assert_eq!(shares.enter(a, open, MAX), Ok(Share::Probes));
        // Of a trusted proxy all that are free.
        for _ in 0..MAX / 2 {
            shares.leave(a);
        }
        for open in MAX / 2..MAX {
            assert!(shares.enter(None, open, MAX).is_ok());
        }
        for _ in 0..MAX / 4 {
            shares.leave(b);
            shares.leave(neighbour);
        }
        assert!(shares.by_address.is_empty());
    }
}
