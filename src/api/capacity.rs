//! `GET /cluster/capacity`: computed by the what-if worker, at a bounded rate, for all callers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step};
use super::capacity_report::CapacityReport;
use super::layout::require_layouter;
use super::shared::{ApiSettings, Shared};
use super::shared_result::{Computed, SharedLookup};
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::{Coding, Response};
use crate::layouter::whatif::worker::WhatIfQuery;

/// A finished report, as it is sent to the requests that wait.
type Reported = Arc<Computed<CapacityReport>>;

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
        let capacity = &context.shared.layouter.capacity;
        let (step, renew) = match capacity.get(Instant::now(), |_| true, || context.completion(0)) {
            SharedLookup::Known(known, renew) => (Step::Done(self.response(&known.value)), renew),
            SharedLookup::Waits(renew) => (Step::Wait, renew),
        };
        if renew.0 {
            compute(context.shared);
        }
        step
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
            let value = CapacityReport::new(&body);
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
    for completion in shared.layouter.capacity.served() {
        completion.send(match outcome {
            Ok(report) => Reply::Finished(Box::new(report.clone())),
            Err(error) => Reply::Body(Err(error.clone())),
        });
    }
    if shared.layouter.capacity.end() {
        compute(shared);
    }
}
