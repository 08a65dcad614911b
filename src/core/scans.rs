//! Scans of lists: in slices by time, one slice at a time on a core, between other requests.
//!
//! A slice is bounded by time, because what a document costs depends on the query: 0.1 us with one
//! filter, 100 us with sixty. All scans of a core take turns, so that a request waits for one slice
//! however many scans run.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::rt;

/// Longest time for a scan, with the turns of other scans. Then its client gets 503
/// `too_expensive`.
pub const LIST_TIME_MAX: Duration = Duration::from_secs(5);

/// The turns of the scans of a core.
#[derive(Default)]
pub struct ScanTurns {
    is_taken: Cell<bool>,
    waiting: RefCell<VecDeque<Rc<Waiting>>>,
}

struct Waiting {
    is_granted: Cell<bool>,
    waker: Waker,
}

/// The right to run one slice.
pub struct Turn<'a>(&'a ScanTurns);

impl ScanTurns {
    /// Waits for a turn, in the order of arrival, then until requests that came meanwhile are
    /// answered.
    pub async fn next(&self) -> Turn<'_> {
        let mut own: Option<Rc<Waiting>> = None;
        poll_fn(|context| {
            if let Some(own) = &own {
                return if own.is_granted.get() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
            if !self.is_taken.replace(true) {
                return Poll::Ready(());
            }
            let waiting = Rc::new(Waiting {
                is_granted: Cell::new(false),
                waker: context.waker().clone(),
            });
            self.waiting.borrow_mut().push_back(waiting.clone());
            own = Some(waiting);
            Poll::Pending
        })
        .await;
        let turn = Turn(self);
        rt::yield_now().await;
        turn
    }
}

impl Drop for Turn<'_> {
    /// Hands the turn on, or the scan that had it would take it again.
    fn drop(&mut self) {
        let Some(next) = self.0.waiting.borrow_mut().pop_front() else {
            self.0.is_taken.set(false);
            return;
        };
        next.is_granted.set(true);
        next.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_take_turns() {
        rt::run(&rt::Options::default(), async {
            let turns = Rc::new(ScanTurns::default());
            let order = Rc::new(RefCell::new(Vec::new()));
            let (ended, all_ended) = std::sync::mpsc::channel();
            for scan in 0..3 {
                let (turns, order, ended) = (turns.clone(), order.clone(), ended.clone());
                rt::spawn(async move {
                    for _ in 0..4 {
                        let turn = turns.next().await;
                        order.borrow_mut().push(scan);
                        drop(turn);
                    }
                    let _ = ended.send(());
                });
            }
            drop(ended);
            while all_ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                rt::yield_now().await;
            }
            let order = order.borrow();
            assert_eq!(order.len(), 12);
            for scan in 0..3 {
                let at = order.iter().position(|other| *other == scan);
                assert!(at < Some(6), "scan {scan} waited too long: {order:?}");
            }
        })
        .expect("a runtime");
    }
}
