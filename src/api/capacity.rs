//! `GET /cluster/capacity`: computed by the what-if worker, at a bounded rate, for all callers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step};
use super::capacity_report::{CapacityReport, CapacityWaiter};
use super::layout::require_layouter;
use super::shared::{ApiSettings, Shared};
use super::shared_result::{Computed, SharedLookup};
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::{Coding, Response};
use crate::layouter::whatif::worker::WhatIfQuery;

/// A finished report, as it is sent to the requests that wait.
type Reported = Arc<Computed<CapacityReport>>;

/// The last report, or the next one if that may differ. A receiver gets it later.
pub enum CapacityLookup {
    Known(Reported),
    Later(Receiver<Option<Reported>>),
}

/// Requests the report from another thread than a core.
pub fn request(shared: &Arc<Shared>) -> CapacityLookup {
    let (sender, receiver) = bounded(1);
    let deliver: CapacityWaiter = Box::new(move |outcome: &Result<Reported, ApiError>| {
        // The receiver may have given up.
        let _ = sender.send(outcome.as_ref().ok().cloned());
    });
    match look_up(shared, || deliver) {
        Some(known) => CapacityLookup::Known(known),
        None => CapacityLookup::Later(receiver),
    }
}

/// Computes a report if it is time for one without a caller.
pub fn renew(shared: &Arc<Shared>, now: Instant) {
    if shared.layouter.capacity.renew_by_itself(now).0 {
        compute(shared);
    }
}

/// Returns the report, or lets `waiter` wait for the next one.
fn look_up(shared: &Arc<Shared>, waiter: impl FnOnce() -> CapacityWaiter) -> Option<Reported> {
    let capacity = &shared.layouter.capacity;
    let (known, renew) = match capacity.get(Instant::now(), |_| true, waiter) {
        SharedLookup::Known(known, renew) => (Some(known), renew),
        SharedLookup::Waits(renew) => (None, renew),
    };
    if renew.0 {
        compute(shared);
    }
    known
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    require_layouter(call)?;
    let coding = call.coding();
    Ok(Outcome::Pending(Box::new(CapacityRequest { coding })))
}

/// A request that waits for the report.
struct CapacityRequest {
    coding: Option<Coding>,
}

impl CapacityRequest {
    fn response(&self, report: &CapacityReport) -> Response {
        let (coding, body) = report.body.body(self.coding);
        Response::shared(200, coding, body)
    }
}

impl Pending for CapacityRequest {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let waiter = || -> CapacityWaiter {
            let completion = context.completion(0);
            Box::new(move |outcome: &Result<Reported, ApiError>| {
                completion.send(match outcome {
                    Ok(report) => Reply::Finished(Box::new(report.clone())),
                    Err(error) => Reply::Body(Err(error.clone())),
                });
            })
        };
        match look_up(context.shared, waiter) {
            Some(known) => Step::Done(self.response(&known.value)),
            None => Step::Wait,
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        match reply {
            Reply::Finished(report) => match report.downcast::<Reported>() {
                Ok(report) => Step::Done(self.response(&report.value)),
                Err(_) => Step::Wait,
            },
            reply => Step::of_body(reply),
        }
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}

/// Has the worker compute the report for the callers that wait, unless the last one will do.
fn compute(shared: &Arc<Shared>) {
    let began = Instant::now();
    if let Some(last) = shared.layouter.capacity.begin(began) {
        return finish(shared, &Ok(last));
    }
    let to = shared.clone();
    let on_answer = move |answer: Result<Vec<u8>, ApiError>, cost| {
        let report = answer.map(|body| {
            let value = CapacityReport::new(&body, super::now_ms());
            let report = Arc::new(Computed { value, began, cost });
            to.layouter.capacity.store(report.clone());
            report
        });
        finish(&to, &report);
    };
    let whatif = &shared.layouter.whatif;
    if let Err(refused) = whatif.query(WhatIfQuery::Capacity, Box::new(on_answer)) {
        finish(shared, &Err(refused));
    }
}

/// Answers the callers that a computation was for, and begins the next one if others wait.
fn finish(shared: &Arc<Shared>, outcome: &Result<Reported, ApiError>) {
    for deliver in shared.layouter.capacity.served() {
        deliver(outcome);
    }
    if shared.layouter.capacity.end() {
        compute(shared);
    }
}
