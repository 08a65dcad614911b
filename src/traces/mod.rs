//! Traces: which requests are recorded as spans, and their way to a collector.
//!
//! A core records a span when a request is answered: a few words into a bounded queue, never a
//! wait. A thread of its own sends them by OTLP over HTTP ([`exporter`]). What does not fit into
//! the queue, or cannot be sent, is dropped and counted.

pub mod context;
mod exporter;

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;

pub use self::context::TraceContext;
pub use self::exporter::Collector;

/// Spans that wait to be sent.
const QUEUE_SPANS: usize = 8192;

/// One answered request.
#[derive(Debug)]
pub struct RequestSpan {
    pub context: TraceContext,
    /// The span of the caller, if it sent one.
    pub parent: Option<u64>,
    pub method: &'static str,
    /// The pattern of the path; `None` if there is no such endpoint.
    pub route: Option<Box<str>>,
    pub path: Box<str>,
    pub peer: IpAddr,
    pub status: u16,
    pub began: SystemTime,
    pub took: Duration,
}

impl RequestSpan {
    fn name(&self) -> Cow<'static, str> {
        match &self.route {
            Some(route) => format!("{} {route}", self.method).into(),
            None => self.method.into(),
        }
    }
}

/// Spans by their fate.
#[derive(Default, Debug)]
pub struct SpanCounts {
    pub exported: AtomicU64,
    /// The collector refused them or could not be reached.
    pub failed: AtomicU64,
    /// The queue was full.
    pub dropped: AtomicU64,
}

struct TracesThread {
    collector: Collector,
    thread: JoinHandle<()>,
}

/// The traces of a server: off until a collector is set.
#[derive(Default)]
pub struct Traces {
    /// Read for every request.
    is_on: AtomicBool,
    /// Of the requests without a context, one in so many is recorded; 0: none.
    one_in: AtomicU64,
    /// Where spans are queued for the thread that runs.
    queue: ArcSwapOption<Sender<RequestSpan>>,
    running: Mutex<Option<TracesThread>>,
    pub counts: Arc<SpanCounts>,
}

impl Traces {
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Sends spans to a collector from now on, or to none. What waits for the former one is still
    /// sent.
    pub fn set(&self, collector: Option<Collector>, one_in: u64) -> io::Result<()> {
        self.one_in.store(one_in, Ordering::Relaxed);
        let mut running = self.running.lock();
        if running.as_ref().map(|it| &it.collector) == collector.as_ref() {
            return Ok(());
        }
        self.is_on.store(false, Ordering::Relaxed);
        self.queue.store(None);
        *running = None;
        let Some(collector) = collector else {
            return Ok(());
        };
        let (queue, spans) = bounded(QUEUE_SPANS);
        let (to, counts) = (collector.clone(), self.counts.clone());
        let thread = std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || exporter::run(&to, &spans, &counts))?;
        *running = Some(TracesThread { collector, thread });
        self.queue.store(Some(Arc::new(queue)));
        self.is_on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a request without a context is recorded. `random` differs for each.
    pub fn samples(&self, random: u64) -> bool {
        let one_in = self.one_in.load(Ordering::Relaxed);
        one_in > 0 && random.is_multiple_of(one_in)
    }

    /// Records a span, unless too many wait.
    pub fn record(&self, span: RequestSpan) {
        let queue = self.queue.load();
        if let Some(queue) = queue.as_ref()
            && let Err(TrySendError::Full(_)) = queue.try_send(span)
        {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what waits, for at most this long.
    pub fn end(&self, patience: Duration) {
        self.queue.store(None);
        let Some(TracesThread { thread, .. }) = self.running.lock().take() else {
            return;
        };
        let until = Instant::now() + patience;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}
