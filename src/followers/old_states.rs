//! Frees old states away from the cores.
//!
//! The last holder of a state frees what no other state shares with it: after a batch of megabytes
//! that takes tens of milliseconds. This thread holds every commit until it is the last holder. It
//! looks at many commits together, or each would cost the writer a wake-up of this thread.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::feed::Commit;

/// Pause between looks at the held commits.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Runs until the writer ends.
pub fn run(commits: &Receiver<Arc<Commit>>) {
    let mut held: Vec<Arc<Commit>> = Vec::new();
    loop {
        // The newest is always held, and needs no look.
        let next = if held.len() > 1 {
            commits.recv_timeout(LOOK_PAUSE)
        } else {
            commits.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(commit) => held.push(commit),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        thread::sleep(LOOK_PAUSE);
        held.extend(commits.try_iter());
        held.retain(|commit| Arc::strong_count(commit) > 1 || Arc::strong_count(&commit.state) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::state::State;
    use crate::state::node::RenderSettings;

    #[test]
    fn states_are_held_until_no_other_thread_holds_them() {
        let (sender, commits) = crossbeam_channel::unbounded();
        let (ended, end) = mpsc::channel();
        let follower = thread::spawn(move || {
            run(&commits);
            ended.send(()).expect("the test waits");
        });
        let state = || Arc::new(State::new(1, RenderSettings::default()));
        let (first, second) = (state(), state());
        let (weak_first, weak_second) = (Arc::downgrade(&first), Arc::downgrade(&second));
        for state in [&first, &second] {
            let commit = Arc::new(Commit::of(state.clone()));
            sender.send(commit).expect("it runs");
        }
        drop(first);
        while weak_first.strong_count() > 0 {
            thread::yield_now();
        }
        assert!(weak_second.strong_count() >= 1);
        drop(second);
        drop(sender);
        end.recv().expect("it ends with the writer");
        follower.join().expect("it does not panic");
        assert_eq!(weak_second.strong_count(), 0);
    }
}
