//! Accepting: connections of one listening socket, until the drain.
//!
//! Promises: a pending accept is never dropped (that would leak a descriptor); connections that the
//! kernel has accepted before a drain are served; beyond `connections_max`, or the share of its
//! address in it, a client gets 503.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::conn::{Served, connection};
use super::conn_table::Conn;
use super::connections::Connections;
use super::counters::add;
use super::shares::{Full, Share};
use super::{Service, response};
use crate::error;
use crate::limits::{ACCEPT_PAUSE_MS, PROBE_FIRST_BYTE_MS_MAX, SENDS_PER_YIELD};
use crate::rt::{self, Listener, Socket, sys};

/// Accepts connections and serves them until `Connections::drain`. Returns while the last
/// connections finish: `Connections::drained` waits for them.
pub async fn serve<S: Service + 'static>(
    listener: Listener,
    service: Rc<S>,
    connections: Rc<Connections<S::Admitted>>,
) {
    let served = Rc::new(Served {
        service,
        shared: connections.clone(),
    });
    if !connections.ticking.replace(true) {
        rt::spawn(tick(served.clone()));
    }
    let fd = listener.as_raw_fd();
    if !connections.is_draining() {
        connections.listeners.borrow_mut().push(fd);
        accept_all(&listener, &served).await;
        connections
            .listeners
            .borrow_mut()
            .retain(|other| *other != fd);
    }
    let arrivals = mem::take(&mut *connections.arrivals.borrow_mut());
    for (stream, peer) in arrivals {
        if let Ok(socket) = Listener::adopt(stream) {
            open(&served, socket, peer);
        }
    }
    connections.notify_drained();
}

async fn accept_all<S: Service + 'static>(listener: &Listener, served: &Rc<Served<S>>) {
    let shared = &served.shared;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => open(served, socket, sys::unmapped(peer.ip())),
            Err(error) if shared.is_draining() || sys::is_closed(&error) => {
                if !shared.is_draining() {
                    let address = listener.local_addr();
                    tracing::error!(%address, %error, "listening socket failed");
                }
                return;
            }
            // The client left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if sys::is_exhausted(&error) {
                    add(&shared.count.exhausted, 1);
                }
                // The queue of the kernel keeps the connections until descriptors are free again.
                rt::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Enters a connection into the table and starts its task.
fn open<S: Service + 'static>(served: &Rc<Served<S>>, socket: Socket, peer: IpAddr) {
    let shared = &served.shared;
    add(&shared.count.accepted, 1);
    let fd = socket.as_raw_fd();
    let mut table = shared.table.borrow_mut();
    let (sharer, open) = (shared.sharer(peer), table.open);
    let max = shared.limits.connections_max;
    let share = match table.shares.enter(sharer, open, max) {
        Ok(share) => share,
        Err(full) => {
            drop(table);
            shared.shed(fd, full);
            return;
        }
    };
    table.open += 1;
    let slot = table.free.pop().unwrap_or_else(|| {
        table.conns.push(None);
        table.epochs.push(0);
        table.conns.len() as u32 - 1
    });
    table.wheel.add(slot);
    let epoch = table.epochs[slot];
    let mut conn = Conn::new(fd, epoch, peer);
    conn.for_probes = share == Share::Probes;
    table.conns[slot] = Some(conn);
    let due = if shared.is_draining() {
        shared.limits.linger_ms
    } else if share == Share::Probes {
        shared.limits.first_byte_ms.min(PROBE_FIRST_BYTE_MS_MAX)
    } else {
        shared.limits.first_byte_ms
    };
    table.wheel.set(slot, shared.after(due));
    drop(table);
    rt::spawn(connection(served.clone(), socket, slot));
}

impl<A> Connections<A> {
    /// Answers 503 to a connection too many, if that needs no waiting, and closes it.
    fn shed(&self, socket: RawFd, full: Full) {
        let mut out = self.take_out();
        let why = match full {
            Full::All => {
                add(&self.count.shed, 1);
                error::TOO_MANY_CONNECTIONS
            }
            // Counted where it was found.
            Full::Address => error::ADDRESS_CONNECTIONS,
        };
        self.write_last(why.error().into(), false, &mut out);
        // If the socket does not take the answer, the client sees the close alone.
        drop(self.send(socket, &out, None));
        self.return_out(out);
        sys::shutdown(socket, sys::Side::Write);
    }
}

/// The only timer of a core: turns its clock and its deadlines.
async fn tick<S: Service + 'static>(served: Rc<Served<S>>) {
    let shared = &served.shared;
    let tick = Duration::from_millis(u64::from(shared.limits.tick_ms));
    let mut due = Vec::new();
    let mut dated = 0;
    while !shared.is_drained() {
        rt::sleep(tick).await;
        let now = shared.started.elapsed().as_millis() / u128::from(shared.limits.tick_ms);
        // At the default tick this wraps after 13 years of one process.
        let now = now as u32;
        shared.now.set(now);
        let date = SystemTime::now();
        let second = date
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        if second != dated {
            dated = second;
            *shared.common.borrow_mut() = response::common(date, &shared.cors);
        }
        if (1..=now).contains(&shared.idle_end.get()) {
            shared.end_idle();
        }
        shared.table.borrow_mut().wheel.advance(now, &mut due);
        for (i, slot) in due.drain(..).enumerate() {
            if i % SENDS_PER_YIELD == SENDS_PER_YIELD - 1 {
                rt::yield_now().await;
            }
            served.on_deadline(slot);
        }
    }
    shared.ticking.set(false);
}
