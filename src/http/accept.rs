//! Accepting connections.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::conn::{Conn, Core, Phase, connection};
use super::connections::{Connections, add, tick};
use super::{Accepts, Ended, Service};
use crate::error;
use crate::limits::ACCEPT_PAUSE_MS;
use crate::rt::{self, Listener, Socket, sys};

/// Accepts connections and serves them until `Connections::drain`. Then returns, while the last connections finish: wait for
/// `Connections::drained`.
pub async fn serve<S: Service + 'static>(
    listener: Listener,
    service: Rc<S>,
    connections: Rc<Connections<S::Admitted>>,
) {
    let core = Rc::new(Core {
        service,
        shared: connections.clone(),
    });
    if !connections.ticking.replace(true) {
        rt::spawn(tick(core.clone()));
    }
    let fd = listener.as_raw_fd();
    if !connections.is_draining() {
        connections.listeners.borrow_mut().push(fd);
        accept_all(&listener, &core).await;
        connections
            .listeners
            .borrow_mut()
            .retain(|other| *other != fd);
    }
    let arrivals = mem::take(&mut *connections.arrivals.borrow_mut());
    for (stream, peer) in arrivals {
        if let Ok(socket) = Listener::adopt(stream) {
            open(&core, socket, peer);
        }
    }
    connections.tell_drained();
}

async fn accept_all<S: Service + 'static>(listener: &Listener, core: &Rc<Core<S>>) {
    let shared = &core.shared;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => open(core, socket, sys::plain(peer.ip())),
            Err(error) if shared.is_draining() || sys::is_closed(&error) => {
                if !shared.is_draining() {
                    tracing::error!(%error, "a listening socket has failed");
                }
                return;
            }
            // The client left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if sys::is_exhausted(&error) {
                    add(&shared.count.exhausted, 1);
                }
                // The queue of the kernel keeps them until descriptors are free again.
                rt::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn open<S: Service + 'static>(core: &Rc<Core<S>>, socket: Socket, peer: IpAddr) {
    let shared = &core.shared;
    add(&shared.count.accepted, 1);
    let fd = socket.as_raw_fd();
    let mut table = shared.table.borrow_mut();
    if table.open >= shared.limits.connections_max {
        drop(table);
        add(&shared.count.shed, 1);
        shared.shed(fd);
        return;
    }
    table.open += 1;
    let slot = table.free.pop().unwrap_or_else(|| {
        table.conns.push(None);
        table.epochs.push(0);
        table.conns.len() as u32 - 1
    });
    table.wheel.add(slot);
    let epoch = table.epochs[slot];
    table.conns[slot] = Some(Conn {
        socket: fd,
        epoch,
        peer,
        phase: Phase::Quiet,
        last: false,
        linger: false,
        owed: false,
        upgraded: false,
        ended: Ended::ByPeer,
        half_closed: false,
        woken: false,
        head_only: false,
        keep_alive: true,
        is_1_0: false,
        accepts: Accepts::NONE,
        origin: 0,
        since: 0,
        waker: None,
        input: None,
        unsent: None,
    });
    let due = if shared.is_draining() {
        shared.limits.linger_ms
    } else {
        shared.limits.first_byte_ms
    };
    table.wheel.set(slot, shared.after(due));
    drop(table);
    rt::spawn(connection(core.clone(), socket, slot));
}

impl<A> Connections<A> {
    /// Too many connections: say so, if that can be done without waiting, and hang up.
    pub(super) fn shed(&self, socket: RawFd) {
        let mut out = self.take_out();
        let full = error::TOO_MANY_CONNECTIONS.error();
        self.write_last(full.into(), &mut out);
        // The client is gone or gets it; both are fine.
        drop(self.send(socket, &out, None));
        self.give_out(out);
        sys::shutdown(socket, sys::Side::Write);
    }
}
