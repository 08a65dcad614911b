//! Bodies that are made as the client takes them, not faster than their pace.
//!
//! A piece is made when the socket has taken the one before. A client that takes nothing is
//! disconnected by the send timeout, one that takes too little when the time of the body is over,
//! and all of them when the server stops: what is left would keep it from stopping.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Core, uncached};
use crate::api::call::PacedBody;
use crate::api::strict;
use crate::error;
use crate::http::Ticket;
use crate::rt;

/// Memory of a body besides what the socket has not taken.
const HELD_BYTES: usize = 64 * 1024;
/// Time that a body may be behind its pace and catch up, and that it must be ahead to wait.
const LATE_MAX: Duration = Duration::from_millis(50);
const EARLY_MAX: Duration = Duration::from_millis(5);
/// How often a waiting body looks whether the server stops.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// When the next piece may be sent.
struct Pace {
    bytes_per_second: u64,
    due: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self {
            bytes_per_second,
            due: now,
        }
    }

    /// Notes a piece. Returns how long to wait before the next one.
    fn sent(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let earliest = now.checked_sub(LATE_MAX).unwrap_or(now);
        let time = bytes as f64 / self.bytes_per_second as f64;
        self.due = self.due.max(earliest) + Duration::from_secs_f64(time);
        let early = self.due.saturating_duration_since(now);
        (early > EARLY_MAX).then_some(early)
    }
}

impl Core {
    /// Sends a body to its end, or ends the connection before it.
    pub(super) async fn send_body(self: Rc<Self>, body: Box<PacedBody>, ticket: Ticket) {
        let PacedBody {
            what,
            head,
            bytes_per_second,
            time_max,
            mut source,
        } = *body;
        let mut head = uncached(head);
        if self.held.borrow().manner(ticket).is_strict {
            head = head.header("Preference-Applied", strict::APPLIED);
        }
        if self.connections.finish_chunked_head(ticket, &head) {
            self.count_answer(200);
            self.ended(ticket, 200);
            self.held.borrow_mut().end(ticket);
            return;
        }
        let begun = self.connections.begin_chunks(ticket, head, HELD_BYTES);
        let Some(mut answer) = begun else {
            let refusal = error::HTTP_VERSION
                .titled("A body of unknown length is sent to clients of HTTP/1.1 only");
            return self.complete(ticket, refusal.into());
        };
        self.count_answer(200);
        let began = Instant::now();
        let mut pace = Pace::new(bytes_per_second, began);
        let mut piece = Vec::new();
        let mut bytes = 0;
        let why = loop {
            piece.clear();
            let turn = self.lists.turns.next().await;
            let is_last = !source.next(&mut piece);
            drop(turn);
            bytes += piece.len();
            if is_last {
                if answer.finish(&piece) {
                    source.on_sent();
                    self.ended(ticket, 200);
                    info!(what, bytes, ms = since_ms(began), "download sent");
                }
                self.held.borrow_mut().end(ticket);
                return;
            }
            answer.write(&piece);
            match self.until(began + time_max, answer.taken()).await {
                Waited::Done(true) => {}
                Waited::Done(false) => break "the client is gone or took nothing",
                Waited::Late => break "it took too long",
                Waited::Stopping => break "the server stops",
            }
            if let Some(early) = pace.sent(piece.len(), Instant::now()) {
                rt::sleep(early).await;
            }
        };
        let ms = since_ms(began);
        warn!(what, why, bytes, ms, "download not sent to its end");
        self.held.borrow_mut().end(ticket);
    }

    /// Waits for a future, until some time or until the server stops.
    async fn until<T>(&self, end: Instant, future: impl Future<Output = T>) -> Waited<T> {
        let mut future = pin!(future);
        loop {
            if self.shared.draining.load(Ordering::Acquire) {
                return Waited::Stopping;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::Late;
            }
            if let Some(done) = rt::within(left.min(LOOK_PAUSE), future.as_mut()).await {
                return Waited::Done(done);
            }
        }
    }
}

fn since_ms(began: Instant) -> u64 {
    began.elapsed().as_millis() as u64
}

/// How a wait ended.
enum Waited<T> {
    Done(T),
    Late,
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_held_and_a_short_delay_is_caught_up() {
        const MIB: u64 = 1 << 20;
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut pace = Pace::new(MIB, began);
        let piece = MIB as usize / 16;
        // 62.5 ms each.
        let mut wait = |now| pace.sent(piece, at(now)).map(|wait| wait.as_micros());
        assert_eq!(wait(0), Some(62_500));
        assert_eq!(wait(63), Some(62_000));
        // Late by 25 ms: the next one comes earlier.
        assert_eq!(wait(150), Some(37_500));
        // Small pieces go until they are 5 ms ahead: a timer is not finer.
        let mut pace = Pace::new(MIB, began);
        let small = MIB as usize / 1000;
        let at_once = (0..100).take_while(|_| pace.sent(small, began).is_none());
        assert_eq!(at_once.count(), 5);
        // A client that stalls for ten seconds does not get them back.
        let at_once = (0..100).take_while(|_| pace.sent(small, at(10_000)).is_none());
        assert_eq!(at_once.count(), 55);
    }
}
