//! `GET /layouter`: what the layouter does now, read on its own thread.

use std::time::Duration;

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step};
use super::shared::ApiSettings;
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::layouter::controller::Controller;
use crate::layouter::thread::LayouterMessage;

#[allow(clippy::unnecessary_wraps)] // the type of all handlers
pub fn get(_: &Call<'_>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Pending(Box::new(LayouterStatus)))
}

/// A request that waits for the layouter's thread.
struct LayouterStatus;

impl Pending for LayouterStatus {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let completion = context.completion(0);
        let query = LayouterMessage::Query(Box::new(move |controller: &Controller| {
            completion.send(Reply::Body(Ok(controller.status().into_bytes())));
        }));
        if context.shared.layouter.handle.send(query) {
            Step::Wait
        } else {
            error::LAYOUTER_BUSY.error().into()
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        Step::of_body(reply)
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}
