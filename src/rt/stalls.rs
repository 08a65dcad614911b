//! How long the tasks of a core keep it from the others.
//!
//! A core runs one task at a time, until that waits. Every such piece is timed, for two readings of
//! the clock (about 50 ns); a request that costs more than a few milliseconds in one piece delays
//! all others of its core by as much.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use pin_project_lite::pin_project;

use crate::metrics::Histogram;

thread_local! {
    static STALLS: Arc<Histogram> = Arc::default();
}

/// The times for which tasks ran on this core without a break.
pub fn stalls() -> Arc<Histogram> {
    STALLS.with(Arc::clone)
}

pin_project! {
    /// A task whose pieces are timed.
    pub(super) struct Timed<F> {
        #[pin]
        task: F,
    }
}

impl<F> Timed<F> {
    pub(super) fn new(task: F) -> Self {
        Self { task }
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = Instant::now();
        let polled = self.project().task.poll(context);
        STALLS.with(|stalls| stalls.count(began.elapsed()));
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Exposition, MetricKind};

    fn samples() -> String {
        let mut out = Exposition::default();
        out.family("s_seconds", MetricKind::Histogram, "seconds", "S.")
            .histogram(&[], &stalls());
        out.finish()
    }

    #[test]
    fn every_piece_of_a_task_is_counted() {
        let task = async {
            std::thread::sleep(std::time::Duration::from_millis(30));
            for _ in 0..4 {
                crate::rt::yield_now().await;
            }
        };
        let before = samples();
        assert!(before.contains("s_seconds_count 0"), "{before}");
        crate::rt::run(&crate::rt::Options::default(), Timed::new(task)).expect("a runtime");
        let after = samples();
        let count = after
            .lines()
            .find_map(|line| line.strip_prefix("s_seconds_count "));
        let count: u64 = count.expect("a count").parse().expect("a number");
        assert!(count >= 5, "{after}");
        let short = after.lines().find(|line| line.contains("le=\"0.025\""));
        let short = short.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert!(short.expect("a bucket") < count, "{after}");
    }
}
