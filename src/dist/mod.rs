//! The files that a package installs beside the binary, and notification of the service manager.
//!
//! The texts are embedded, so that `weir print unit` and `weir print config` print those of this
//! version.

pub mod docs;
mod monitoring;

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub use monitoring::{alerts, dashboard};

/// The systemd unit. [`notify`] implements its `Type=notify`.
pub const UNIT: &str = include_str!("weir.service");

/// The systemd unit of a bridge, one instance per media server.
pub const BRIDGE_UNIT: &str = include_str!("weir-bridge@.service");
/// A compose file: this server, and three media servers with their bridges.
pub const BRIDGE_COMPOSE: &str = include_str!("bridge-compose.yaml");

/// A state of the service that its manager is notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// The state is loaded and the listeners are open.
    Ready,
    /// Draining: no new connections are accepted.
    Stopping,
}

/// Notifies the service manager, if `NOTIFY_SOCKET` names one.
pub fn notify(state: ServiceState) -> io::Result<()> {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = address.as_encoded_bytes();
    // Containers may have an abstract socket.
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(String::from_utf8_lossy(address).as_ref())?,
    };
    notify_at(&address, state)
}

fn notify_at(address: &SocketAddr, state: ServiceState) -> io::Result<()> {
    let message: &[u8] = match state {
        ServiceState::Ready => b"READY=1\n",
        ServiceState::Stopping => b"STOPPING=1\n",
    };
    UnixDatagram::unbound()?
        .send_to_addr(message, address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_manager_receives_ready_then_stopping() {
        let name = format!("weir-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("short enough");
        let manager = UnixDatagram::bind_addr(&address).expect("the name has our process id");
        notify_at(&address, ServiceState::Ready).expect("the socket is bound");
        notify_at(&address, ServiceState::Stopping).expect("the socket is bound");
        let mut received = [0_u8; 64];
        let length = manager
            .recv(&mut received)
            .expect("two datagrams are queued");
        assert_eq!(&received[..length], b"READY=1\n");
        let length = manager.recv(&mut received).expect("one datagram is queued");
        assert_eq!(&received[..length], b"STOPPING=1\n");
    }

    #[test]
    fn units_of_bridges_name_options_that_exist() {
        let text = [BRIDGE_UNIT, BRIDGE_COMPOSE].concat();
        let mut found = 0;
        for part in text.split("WEIR_BRIDGE_").skip(1) {
            let is_name = |letter: char| letter.is_ascii_uppercase() || letter == '_';
            let end = part.find(|letter| !is_name(letter)).unwrap_or(part.len());
            let name = format!("WEIR_BRIDGE_{}", &part[..end]);
            let mut options = crate::bridge::options::OPTIONS.iter();
            assert!(options.any(|option| option.variable() == name), "{name}");
            found += 1;
        }
        assert!(found > 10, "{found}");
        assert!(BRIDGE_UNIT.contains("Type=notify\n"), "see `notify`");
    }

    #[test]
    fn unit_has_only_features_that_are_implemented() {
        assert!(UNIT.contains("Type=notify\n"), "see `notify`");
        assert!(
            !UNIT.contains("WatchdogSec"),
            "no watchdog messages are sent"
        );
        assert!(UNIT.contains("ExecReload=/bin/kill -HUP"), "HUP reloads");
        assert!(
            UNIT.contains("RestartPreventExitStatus=2 78\n"),
            "a restart does not fix a command line or a configuration"
        );
    }
}
