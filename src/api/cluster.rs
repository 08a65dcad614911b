//! Statistics of the cluster: counts by health, the health of each streamer, and server metrics.
//!
//! A thread counts, only while callers want the counts and at a bounded rate; all callers get the
//! same. The metrics of this server itself begin with `weir_` and are collected for each request.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::call::{Call, Context, Outcome, Pending, Step};
use super::cluster_counts::{ClusterCounts, CountsForm, CountsWaiter};
use super::cluster_scan::ClusterScan;
use super::shared::{ApiSettings, Shared};
use super::shared_result::{Computed, SharedLookup};
use super::stats_format::{StatsFormat, shared_json_response, stats_format, text_response};
use super::{ANSWER_WAIT_MAX, server_metrics};
use crate::core::message::{CoreMessage, Reply};
use crate::core::metrics::CoreMetrics;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::metrics::Exposition;
use crate::state::State;

/// A finished count, as the thread sends it to the requests that wait.
type Counted = Arc<Computed<ClusterCounts>>;

pub fn stats(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let form = match stats_format(call)? {
        StatsFormat::Json => CountsForm::Json(call.coding()),
        StatsFormat::OpenMetrics => CountsForm::Metrics,
    };
    Ok(Outcome::Pending(Box::new(ClusterStats {
        form,
        metrics: None,
        cores: Vec::new(),
    })))
}

/// The pending request for statistics: the counts and, for metrics, the counters of all cores.
struct ClusterStats {
    form: CountsForm,
    metrics: Option<Exposition>,
    cores: Vec<CoreMetrics>,
}

/// A text with the families of all metrics; its samples are those of an empty moment.
pub fn metric_families(shared: &Shared, state: &State) -> String {
    let fleet = shared.fleet.view(Instant::now());
    let scan = ClusterScan::new(state, fleet, &shared.agents.presence, super::now_ms());
    let mut text = Exposition::default();
    scan.write_metrics(&shared.identity.server_id, &mut text);
    server_metrics::render(text, &[], shared, state)
}

impl ClusterStats {
    /// Continues with the counts, in the form that was requested.
    fn with_counts(&mut self, counted: &ClusterCounts, context: &Context<'_>) -> Step {
        if let CountsForm::Json(coding) = self.form {
            let body = counted.json().map(|it| it.body(coding));
            return match body {
                Some((coding, body)) => Step::Done(shared_json_response(coding, body)),
                None => Step::Wait,
            };
        }
        self.metrics = counted.metrics().cloned();
        for (part, inbox) in context.shared.cores.iter().enumerate() {
            inbox.push(CoreMessage::CollectMetrics(context.completion(part)));
        }
        Step::Wait
    }

    fn with_cores(&mut self, metrics: CoreMetrics, context: &Context<'_>) -> Step {
        self.cores.push(metrics);
        self.cores.sort_by_key(|core| core.index);
        if self.cores.len() < context.shared.cores.len() {
            return Step::Wait;
        }
        let text = self.metrics.take().unwrap_or_default();
        let text = server_metrics::render(text, &self.cores, context.shared, context.state);
        Step::Done(text_response(text))
    }
}

/// Requests the counts in a form; `None` if the reply to part 0 will have them.
fn request_counts(form: CountsForm, context: &Context<'_>) -> Option<Counted> {
    let worker = &context.shared.workers.cluster_counts;
    let waiter = || CountsWaiter {
        form,
        completion: context.completion(0),
    };
    let has = |counts: &ClusterCounts| counts.has(form);
    let (counted, renew) = match worker.counts.get(Instant::now(), has, waiter) {
        SharedLookup::Known(counted, renew) => (Some(counted), renew),
        SharedLookup::Waits(renew) => (None, renew),
    };
    worker.start(renew);
    counted
}

/// The counts that the thread sent.
fn counts_of(finished: Box<dyn Any + Send>) -> Option<Counted> {
    finished.downcast::<Counted>().ok().map(|counted| *counted)
}

/// What a request takes of the counts, in one step.
pub trait CountsReader: Send {
    const FORM: CountsForm;

    /// The answer, if the counts have the form.
    fn answer(&self, counts: &ClusterCounts) -> Option<Response>;

    /// Whether the answer contains only what is visible to its caller.
    fn depends_on_visibility(&self) -> bool;
}

/// A request that waits for the counts of the cluster.
pub struct CountsRequest<R>(pub R);

impl<R: CountsReader> CountsRequest<R> {
    fn with_counts(&self, counts: &ClusterCounts) -> Step {
        self.0.answer(counts).map_or(Step::Wait, Step::Done)
    }
}

impl<R: CountsReader> Pending for CountsRequest<R> {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        match request_counts(R::FORM, context) {
            Some(counted) => self.with_counts(&counted.value),
            None => Step::Wait,
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        match reply {
            Reply::Finished(finished) => match counts_of(finished) {
                Some(counted) => self.with_counts(&counted.value),
                None => Step::Wait,
            },
            reply => Step::of_body(reply),
        }
    }

    fn depends_on_visibility(&self) -> bool {
        self.0.depends_on_visibility()
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}

impl Pending for ClusterStats {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        match request_counts(self.form, context) {
            Some(counted) => self.with_counts(&counted.value, context),
            None => Step::Wait,
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, context: &Context<'_>) -> Step {
        match reply {
            Reply::Metrics(metrics) => self.with_cores(*metrics, context),
            Reply::Finished(finished) => match counts_of(finished) {
                Some(counted) => self.with_counts(&counted.value, context),
                None => Step::Wait,
            },
            reply => Step::of_body(reply),
        }
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}
