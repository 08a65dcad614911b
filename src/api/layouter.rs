//! `/layouter`: what the layouter does now, read on its own thread, and its pause.

use std::time::Duration;

use tracing::info;

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step};
use super::layout::require_layouter;
use super::shared::ApiSettings;
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::Value;
use crate::layouter::controller::Controller;
use crate::layouter::thread::LayouterMessage;
use crate::state::command::Command;
use crate::state::pause::LayouterRequest;
use crate::state::record::PauseRecord;

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
        let pause = context.state.pause().cloned();
        let query = LayouterMessage::Query(Box::new(move |controller: &Controller| {
            completion.send(Reply::Body(Ok(controller
                .status(pause.as_ref())
                .into_bytes())));
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

/// `PUT /layouter`. A pause is a record of the store; what is dropped was not stored.
pub fn change(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let wanted = match LayouterRequest::from_body(call.json()?)? {
        LayouterRequest::Resume => None,
        LayouterRequest::Pause(wanted) => {
            require_layouter(call)?;
            Some(wanted)
        }
        LayouterRequest::DropImproving => {
            require_layouter(call)?;
            let user = call.user();
            return Ok(Outcome::Pending(Box::new(DroppedMoves { user })));
        }
    };
    let by = call.user();
    Ok(Outcome::Command(Command::PauseLayouter { wanted, by }))
}

/// The answer to a changed pause.
pub fn paused_response(pause: Option<&PauseRecord>) -> Response {
    let pause = pause.map_or(Value::Null, |pause| pause.to_value());
    Response::json(
        200,
        format!("{{\"paused\":{}}}", pause.to_text()).into_bytes(),
    )
}

/// A request to drop improving moves, which waits for the layouter's thread.
struct DroppedMoves {
    user: Box<str>,
}

impl Pending for DroppedMoves {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let (completion, user) = (context.completion(0), self.user.clone());
        let message = LayouterMessage::DropImproving(Box::new(move |dropped| {
            info!(dropped, %user, "improving moves dropped");
            let body = format!("{{\"dropped\":{dropped}}}");
            completion.send(Reply::Body(Ok(body.into_bytes())));
        }));
        if context.shared.layouter.handle.send(message) {
            Step::Wait
        } else {
            error::LAYOUTER_BUSY.error().into()
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        Step::of_body(reply)
    }

    /// The moves are dropped, whether the reply is sent or not.
    fn ends_with_right(&self) -> bool {
        false
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}
