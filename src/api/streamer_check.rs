//! Check that a streamer can be reached, before a change of it is stored.
//!
//! With `checks_enable` a save first requests the configuration of the node, at the address and
//! with the cluster key that the node would have after the save. If the node does not reply with a
//! JSON object, nothing is stored. The save is validated before the call, and again when it is
//! applied, because the streamer may have changed meanwhile. The reply is untrusted input: its size
//! is bounded, and only its type is checked.
//!
//! The stored cluster key is not sent to an address that the same request gives: a signature made
//! with it is valid for some minutes, also at this server. Only an administrator gets the reason
//! of a failed check; to others it would reveal which hosts and ports can be reached from here.

use std::time::{Duration, Instant};

use super::call::{Call, Context, Outcome, Pending, Step};
use super::shared::ApiSettings;
use crate::access::auth::Caller;
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::fleet::peer;
use crate::http::Response;
use crate::json::{self, Value};
use crate::outbound::{CallResult, CancelToken, OutboundCall, OutboundError};
use crate::query::params::Flag;
use crate::schema;
use crate::state::State;
use crate::state::apply::{Stamp, apply};
use crate::state::changes::Done;
use crate::state::command::{AuditedCommand, Command};
use crate::state::record::StreamerRecord;
use crate::state::tag;
use crate::writer::permission::ChangeRights;

pub const CHECKS_ENABLE: Flag = Flag::new(
    "checks_enable",
    false,
    "Query the node for its configuration before anything is stored, at its `api_url` (or \
     hostname) and with its cluster key as they would be after the save; if it does not answer \
     200 with a JSON object within 5 s, nothing is stored. A stored cluster key is not sent to a \
     new address: with another `api_url` the body must contain `cluster_key`.",
)
.example("true");
/// Deadline of the call.
pub const WAIT: Duration = Duration::from_secs(5);
/// Longest configuration of a node: some thousand streams.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A save that waits for its streamer. Dropping it cancels the call.
struct StreamerCheck {
    command: Option<AuditedCommand>,
    call: Option<OutboundCall>,
    /// Whether the response has the reason of a failure.
    reveals: bool,
    cancel: CancelToken,
}

impl Drop for StreamerCheck {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Pending for StreamerCheck {
    fn wait(&self, _: &ApiSettings) -> Duration {
        WAIT + Duration::from_secs(1)
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let call = self.call.take().expect("it is started once");
        context.call(0, call, &self.cancel);
        Step::Wait
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        let Reply::Call(result) = reply else {
            return Step::Wait;
        };
        match check(result) {
            Ok(()) => Step::Command(self.command.take().expect("one reply comes")),
            Err(error) => self.shown(error).into(),
        }
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        self.shown(failed("timed_out")).into()
    }
}

impl StreamerCheck {
    fn shown(&self, error: ApiError) -> ApiError {
        shown(error, self.reveals)
    }
}

/// The error of a failed check as its caller gets it.
fn shown(error: ApiError, reveals: bool) -> ApiError {
    if reveals || error.status != error::STREAMER_CHECK_FAILED.status {
        error
    } else {
        failed("check_failed")
    }
}

/// Starts the call that precedes `command`. An invalid command is refused without a call.
pub fn before(call: &Call<'_>, command: Command) -> Result<Outcome, ApiError> {
    let command = call.audited(command)?;
    let permission = call.grant();
    let permission = permission.map(|grant| ChangeRights::of(&grant, call.state));
    let permission = permission.transpose()?;
    if let Some(permission) = &permission {
        permission.check_command(&command.command)?;
    }
    let stamp = Stamp {
        revision: call.state.revision() + 1,
        ms: call.state.stamp_ms() + 1,
    };
    let changes = apply(call.state, command.command.clone(), stamp)?;
    if let Some(permission) = &permission {
        permission.check_changes(call.state, &changes)?;
    }
    tag::judge(call.state, &command.conditions)?;
    let Done::Streamer(streamer) = changes.done else {
        unreachable!("a save of a streamer comes to a streamer");
    };
    check_destination(call.state, &command.command, &streamer)?;
    let reveals = matches!(call.caller, Caller::Administrator);
    let deadline = Instant::now() + WAIT;
    let path = "/streamer/api/v3/config";
    let now = super::now_seconds();
    match peer::get(&streamer, path, now, deadline, ANSWER_BYTES_MAX) {
        Some(mut to_streamer) => {
            to_streamer.headers.extend(call.trace_fields());
            Ok(Outcome::Pending(Box::new(StreamerCheck {
                command: Some(command),
                call: Some(to_streamer),
                reveals,
                cancel: CancelToken::default(),
            })))
        }
        None => Err(shown(failed("no_address"), reveals)),
    }
}

/// Refuses to send the stored key of a streamer to another address than the stored one.
fn check_destination(
    state: &State,
    command: &Command,
    saved: &StreamerRecord,
) -> Result<(), ApiError> {
    let Command::SaveStreamer { hostname, patch } = command else {
        return Ok(());
    };
    let gives_key =
        matches!(patch.get("cluster_key"), Some(Value::String(key)) if **key != *schema::MASK);
    let Some(stored) = state.streamer(hostname) else {
        return Ok(());
    };
    let destination = peer::key_destination(saved);
    if gives_key || destination.is_none() || destination == peer::key_destination(stored) {
        return Ok(());
    }
    Err(error::KEY_NEEDED_FOR_CHECK
        .error()
        .at_pointer("/cluster_key"))
}

fn check(outcome: CallResult) -> Result<(), ApiError> {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(OutboundError::Busy) => {
            let title = "Too many outbound calls are pending; nothing was changed";
            return Err(error::OVERLOADED.titled(title));
        }
        Err(OutboundError::Forbidden) => return Err(failed("address_not_allowed")),
        Err(OutboundError::TimedOut) => return Err(failed("timed_out")),
        Err(OutboundError::Unreachable | OutboundError::Cancelled) => {
            return Err(failed("unreachable"));
        }
        Err(OutboundError::BadResponse) => return Err(failed("bad_answer")),
    };
    if answer.status != 200 {
        return Err(failed("status").with("status", answer.status));
    }
    match json::parse(&answer.body) {
        Ok(Value::Object(_)) => Ok(()),
        _ => Err(failed("bad_answer")),
    }
}

fn failed(reason: &'static str) -> ApiError {
    error::STREAMER_CHECK_FAILED
        .error()
        .at_parameter(CHECKS_ENABLE.name())
        .with("reason", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::client::OutboundResponse;

    fn answer(status: u16, body: &str) -> OutboundResponse {
        OutboundResponse {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn save_requires_a_json_object_from_the_node() {
        assert!(check(Ok(answer(200, r#"{"listeners":{}}"#))).is_ok());
        for bad in ["", "[]", "\"{}\"", "{", "<html>"] {
            let error = check(Ok(answer(200, bad))).expect_err(bad);
            assert_eq!(
                (error.status, error.items[0].code),
                (400, "streamer_check_failed")
            );
        }
        for status in [204, 302, 401, 404, 500] {
            let error = check(Ok(answer(status, "{}"))).expect_err("no configuration");
            let status = status.to_string();
            let meta = [("reason", "status".to_owned()), ("status", status)];
            assert_eq!(error.items[0].meta, meta);
        }
        for (failure, reason) in [
            (OutboundError::Forbidden, "address_not_allowed"),
            (OutboundError::TimedOut, "timed_out"),
            (OutboundError::Unreachable, "unreachable"),
            (OutboundError::BadResponse, "bad_answer"),
        ] {
            let error = check(Err(failure)).expect_err("no response");
            assert_eq!(error.items[0].meta, [("reason", reason.to_owned())]);
        }
        let busy = check(Err(OutboundError::Busy)).expect_err("overload");
        assert_eq!(busy.status, 503, "not an error of the node");
    }
}
