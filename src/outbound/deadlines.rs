//! Deadlines of the calls of one io core.
//!
//! A future that waits for a socket must not be dropped, so a deadline ends the wait instead: it
//! shuts the socket down, which makes it ready. One task looks at all deadlines, because a timer of
//! each call would cost more than the call keeps otherwise.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::rt::{Inbox, sys};

/// The deadlines of one core.
#[derive(Default)]
pub struct Deadlines {
    next: Cell<u64>,
    calls: RefCell<HashMap<u64, Rc<DeadlineState>>>,
}

struct DeadlineState {
    until_ms: Cell<u64>,
    is_over: Cell<bool>,
    wait: RefCell<DeadlineWait>,
}

/// What a call waits for.
#[derive(Default)]
enum DeadlineWait {
    #[default]
    Nothing,
    Socket(RawFd),
    /// Another thread; the function ends the wait.
    Thread(Box<dyn Fn()>),
}

/// The deadline of one call, which may have several waits.
pub struct CallDeadline {
    all: Rc<Deadlines>,
    id: u64,
    state: Rc<DeadlineState>,
}

impl Deadlines {
    /// Begins a call that ends at a time of `rt::uptime_ms`.
    pub fn begin(self: &Rc<Self>, until_ms: u64) -> CallDeadline {
        let id = self.next.get();
        self.next.set(id + 1);
        let state = Rc::new(DeadlineState {
            until_ms: Cell::new(until_ms),
            is_over: Cell::new(false),
            wait: RefCell::default(),
        });
        self.calls.borrow_mut().insert(id, state.clone());
        let all = self.clone();
        CallDeadline { all, id, state }
    }

    /// Ends the waits of all calls whose time is over.
    pub fn end_overdue(&self, now_ms: u64) {
        for call in self.calls.borrow().values() {
            if now_ms < call.until_ms.get() || call.is_over.replace(true) {
                continue;
            }
            call.interrupt();
        }
    }

    /// Gives all calls more time: this process did not run for a while.
    pub fn extend(&self, by_ms: u64) {
        for call in self.calls.borrow().values() {
            call.until_ms.set(call.until_ms.get() + by_ms);
        }
    }

    /// Calls now.
    pub fn count(&self) -> usize {
        self.calls.borrow().len()
    }
}

impl DeadlineState {
    fn interrupt(&self) {
        match &*self.wait.borrow() {
            DeadlineWait::Nothing => {}
            DeadlineWait::Socket(socket) => sys::shutdown(*socket, sys::Side::Both),
            DeadlineWait::Thread(end) => end(),
        }
    }
}

impl CallDeadline {
    pub fn is_over(&self) -> bool {
        self.state.is_over.get()
    }

    pub fn left_ms(&self, now_ms: u64) -> u64 {
        self.state.until_ms.get().saturating_sub(now_ms)
    }

    /// Another deadline, after half of the time that is left.
    pub fn half(&self, now_ms: u64) -> Self {
        self.all.begin(now_ms + self.left_ms(now_ms) / 2)
    }

    /// Waits for a socket: the wait ends at the deadline.
    pub async fn wait_for<T>(&self, socket: RawFd, wait: impl Future<Output = T>) -> T {
        *self.state.wait.borrow_mut() = DeadlineWait::Socket(socket);
        if self.is_over() {
            self.state.interrupt();
        }
        let result = wait.await;
        *self.state.wait.borrow_mut() = DeadlineWait::Nothing;
        result
    }

    /// Receives what another thread pushes; `None` at the deadline, or if it pushes that.
    pub async fn receive<T: Send + 'static>(&self, from: &Arc<Inbox<Option<T>>>) -> Option<T> {
        let inbox = from.clone();
        let end = move || inbox.push(None);
        *self.state.wait.borrow_mut() = DeadlineWait::Thread(Box::new(end));
        if self.is_over() {
            self.state.interrupt();
        }
        let received = from.recv().await;
        *self.state.wait.borrow_mut() = DeadlineWait::Nothing;
        received
    }
}

impl Drop for CallDeadline {
    fn drop(&mut self) {
        self.all.calls.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{self, Options};

    #[test]
    fn overdue_waits_end_and_others_go_on() {
        rt::run(&Options::default(), async {
            let all = Rc::new(Deadlines::default());
            let (early, late) = (all.begin(10), all.begin(20));
            let inbox: Arc<Inbox<Option<u8>>> = Arc::default();
            all.end_overdue(10);
            assert_eq!(early.receive(&inbox).await, None, "it is over already");
            inbox.push(Some(7));
            assert_eq!(late.receive(&inbox).await, Some(7));
            all.extend(5);
            all.end_overdue(24);
            assert!(!late.is_over());
            let (waiting, done) = (inbox.clone(), Rc::new(Cell::new(false)));
            let flag = done.clone();
            rt::spawn(async move {
                assert_eq!(late.receive(&waiting).await, None);
                flag.set(true);
            });
            rt::yield_now().await;
            all.end_overdue(25);
            while !done.get() {
                rt::yield_now().await;
            }
            drop(early);
            assert_eq!(all.count(), 0);
        })
        .expect("a runtime");
    }
}
