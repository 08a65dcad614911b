//! Connections that only show whether a server is behind an address.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::kind::tcp_address;
use super::shared::BridgeShared;

/// Longest time for the connection to a source.
const SOURCE_WITHIN: Duration = Duration::from_secs(1);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 2;

/// What a client of RTSP, and one of RTMP, begins with.
const RTSP_OPENING: &[u8] = b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n";
const RTMP_OPENING: &[u8] = &{
    let mut bytes = [0; 1537];
    bytes[0] = 3;
    bytes
};

/// Where a media server serves media.
#[derive(Debug, Clone)]
pub struct MediaPort {
    /// `host:port`.
    pub address: Box<str>,
    /// `rtsp` or `rtmp`.
    pub scheme: &'static str,
}

impl MediaPort {
    /// Whether the server answers there. The system accepts connections of a process that hangs,
    /// so the first bytes of the protocol are sent, and any answer counts, even the end.
    pub fn answers(&self, within: Duration) -> bool {
        let opening = match self.scheme {
            "rtsp" => RTSP_OPENING,
            _ => RTMP_OPENING,
        };
        let answers = |address: &SocketAddr| -> io::Result<()> {
            let mut socket = TcpStream::connect_timeout(address, within)?;
            socket.set_write_timeout(Some(within))?;
            socket.set_read_timeout(Some(within))?;
            socket.write_all(opening)?;
            socket.read(&mut [0; 64]).map(drop)
        };
        any_address(&self.address, |address| answers(address).is_ok())
    }
}

/// Whether `host:port` accepts a connection.
fn accepts(address: &str, within: Duration) -> bool {
    any_address(address, |address| {
        TcpStream::connect_timeout(address, within).is_ok()
    })
}

fn any_address(address: &str, is_good: impl Fn(&SocketAddr) -> bool) -> bool {
    let Ok(addresses) = address.to_socket_addrs() else {
        return false;
    };
    let mut addresses = addresses.take(ADDRESSES_MAX);
    addresses.any(|address| is_good(&address))
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
