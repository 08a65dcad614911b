//! Connections that only show whether an address accepts them.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::kind::tcp_address;
use super::shared::BridgeShared;

/// Longest time for the connection to a source.
const SOURCE_WITHIN: Duration = Duration::from_secs(1);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 2;

/// Whether `host:port` accepts a connection.
pub fn accepts(address: &str, within: Duration) -> bool {
    let Ok(addresses) = address.to_socket_addrs() else {
        return false;
    };
    let mut addresses = addresses.take(ADDRESSES_MAX);
    addresses.any(|address| TcpStream::connect_timeout(&address, within).is_ok())
}

/// Whether the source of a stream accepts a connection. Sources without connections do.
pub fn source_accepts(url: &str) -> bool {
    let Some((host, port)) = tcp_address(url) else {
        return true;
    };
    let address = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    accepts(&address, SOURCE_WITHIN)
}

/// Probes sources until the bridge is stopped.
pub fn run(shared: &BridgeShared) {
    while let Some((native, url)) = shared.wait_for_probe() {
        let is_accepted = source_accepts(&url);
        shared.put_probed((native, url), is_accepted);
    }
}
