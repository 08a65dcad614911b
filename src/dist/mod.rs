//! What a package installs beside the binary, and the two words said to systemd.
//!
//! The texts are embedded, so that `weir print unit` and `weir print config` give the files that belong to this very version.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The systemd unit. Its `Type=notify` is kept by [`notify`].
pub const UNIT: &str = include_str!("weir.service");

/// What a service tells its manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Recovered and listening: units that wait for us may start.
    Ready,
    /// Draining: nothing new is taken.
    Stopping,
}

/// Tell the service manager, when there is one (`NOTIFY_SOCKET`). Returns whether it was told; a failure is worth a line in the log, never a stop.
pub fn notify(notice: Notice) -> io::Result<bool> {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let address = address.as_encoded_bytes();
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(String::from_utf8_lossy(address).as_ref())?,
    };
    notify_at(&address, notice)?;
    Ok(true)
}

fn notify_at(address: &SocketAddr, notice: Notice) -> io::Result<()> {
    let words: &[u8] = match notice {
        Notice::Ready => b"READY=1\n",
        Notice::Stopping => b"STOPPING=1\n",
    };
    UnixDatagram::unbound()?
        .send_to_addr(words, address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_ready_then_stopping() {
        let name = format!("weir-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("short enough");
        let manager = UnixDatagram::bind_addr(&address).expect("the name carries our process id");
        notify_at(&address, Notice::Ready).expect("somebody listens");
        notify_at(&address, Notice::Stopping).expect("somebody listens");
        let mut heard = [0_u8; 64];
        let length = manager.recv(&mut heard).expect("two datagrams wait");
        assert_eq!(&heard[..length], b"READY=1\n");
        let length = manager.recv(&mut heard).expect("one datagram waits");
        assert_eq!(&heard[..length], b"STOPPING=1\n");
    }

    #[test]
    fn the_unit_promises_only_what_is_kept() {
        assert!(UNIT.contains("Type=notify\n"), "see `notify`");
        assert!(!UNIT.contains("WatchdogSec"), "nobody feeds a watchdog");
        assert!(!UNIT.contains("ExecReload"), "nothing is read again on HUP");
        assert!(
            UNIT.contains("RestartPreventExitStatus=2 78\n"),
            "a wrong command line or configuration does not heal by restarting"
        );
    }
}
