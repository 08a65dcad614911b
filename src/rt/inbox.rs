//! Inbox: messages to one core from any thread, a lock-free queue and one wake.
//!
//! Promises: no message is lost, and the order of each sender is kept. It is unbounded: the
//! senders have bounds of their own (a batch per commit, a reply per command that the core itself
//! has sent).

use std::future::poll_fn;
use std::task::Poll;

use atomic_waker::AtomicWaker;
use crossbeam_queue::SegQueue;

/// One per core; shared by `Arc`.
pub struct Inbox<T> {
    queue: SegQueue<T>,
    /// Wakes the one task that receives.
    receiver: AtomicWaker,
}

impl<T> Inbox<T> {
    pub fn new() -> Self {
        Self {
            queue: SegQueue::new(),
            receiver: AtomicWaker::new(),
        }
    }

    /// Sends a message without blocking. The wake costs a system call only if the core sleeps.
    pub fn push(&self, message: T) {
        self.queue.push(message);
        self.receiver.wake();
    }

    pub fn try_recv(&self) -> Option<T> {
        self.queue.pop()
    }

    /// The next message. One task per inbox may wait here.
    pub async fn recv(&self) -> T {
        poll_fn(|context| {
            if let Some(message) = self.queue.pop() {
                return Poll::Ready(message);
            }
            self.receiver.register(context.waker());
            // A message pushed before the registration caused no wake: look again.
            match self.queue.pop() {
                Some(message) => Poll::Ready(message),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}
