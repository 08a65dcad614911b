//! The handshake of agents: proof of the key, upgrade to a control connection.
//!
//! The control connection belongs to the core that accepted it (`core::agents`) and carries
//! `agents::protocol`.

use std::sync::atomic::Ordering;

use super::call::{Call, Outcome};
use super::now_ms;
use super::shared::Shared;
use crate::agents::handshake::{AGENT_NONCE_BYTES_MAX, RejectedProof, server_proof};
use crate::agents::messages::NewConnection;
use crate::agents::protocol::{self, PROTOCOL};
use crate::agents::streampoint::{digest, secret_of, streampoint};
use crate::error::{self, ApiError};
use crate::http::response::TEXT;
use crate::http::{Body, Response, Upgrade};
use crate::state::command::Command;
use crate::state::entity::{Key, Kind};
use crate::state::event::{EntityType, NewEvent};
use crate::writer::Envelope;

/// `POST /endpoint/connect`: the handshake, and the upgrade if the agent requests it.
pub fn connect(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let id = header(call, "x-peeklio-id").ok_or_else(unknown)?;
    let key = Key::parse(Kind::Agent, id).map_err(|_| unknown())?;
    let living = call.state.entities(Kind::Agent).get(&key);
    let deleted = call.state.entities(Kind::DeletedAgent).get(&key);
    let agent = living.or(deleted).ok_or_else(unknown)?;
    let secret = secret_of(agent);
    if secret.is_empty() {
        return Err(failed());
    }
    let now_ms = now_ms();
    if let Some(challenge) = check_proof(call, id, &secret, now_ms)? {
        return Ok(Outcome::Reply(challenge));
    }
    if living.is_none() {
        let response = authorized().header("X-Force-Reset", "true");
        return Ok(Outcome::Reply(response));
    }
    upgrade(call, id, &secret, now_ms)
}

fn header<'a>(call: &Call<'a>, name: &str) -> Option<&'a str> {
    let value = std::str::from_utf8(call.request.headers.get(name)?).ok()?;
    Some(value.trim())
}

/// Checks that the agent knows its key. Returns a challenge if a proof or a valid nonce is missing.
fn check_proof(
    call: &Call<'_>,
    id: &str,
    secret: &str,
    now_ms: u64,
) -> Result<Option<Response>, ApiError> {
    let nonce = header(call, "x-nonce");
    let (Some(proof), Some(nonce)) = (call.request.headers.authorization().and_then(proof), nonce)
    else {
        return Ok(Some(challenge(call, id, secret, nonce, now_ms)));
    };
    let nonces = &call.shared.agents.nonces;
    match nonces.verify(id, secret, nonce.as_bytes(), proof, now_ms) {
        Ok(()) => Ok(None),
        Err(RejectedProof::Nonce) => Ok(Some(challenge(call, id, secret, None, now_ms))),
        Err(RejectedProof::Key) => {
            if call.local.refusals.borrow_mut().may_log() {
                let event = NewEvent::new("agent_connect_failed")
                    .text("reason", "authentication_failed")
                    .entity(EntityType::Agent, id);
                append_event(call.shared, event);
            }
            Err(failed())
        }
    }
}

/// The response to an authenticated agent: the upgrade, or its streampoint if it requests none.
fn upgrade(call: &Call<'_>, id: &str, secret: &str, now_ms: u64) -> Result<Outcome, ApiError> {
    let shared = call.shared;
    let streampoint = streampoint(call.state, id);
    let url = streampoint.url.map(|url| ("X-Streampoint-Url", url.into()));
    if !call.request.offers(PROTOCOL) {
        let mut response = authorized();
        response.headers.extend(url);
        return Ok(Outcome::Reply(response));
    }
    if shared.draining.load(Ordering::Acquire) {
        let title = "The server is stopping; connect again";
        return Err(error::SHUTTING_DOWN.titled(title));
    }
    let silence_max = shared.settings.api.agent_silence_max;
    let greeting = protocol::hello_line(env!("CARGO_PKG_VERSION"), silence_max, now_ms);
    let connection = NewConnection {
        id: id.into(),
        key_digest: digest(secret),
        host: streampoint.host,
    };
    Ok(Outcome::Upgrade {
        upgrade: Upgrade {
            protocol: PROTOCOL,
            headers: url.into_iter().collect(),
            greeting,
            silence_max,
        },
        connection,
    })
}

/// Sends an event to the writer; it is dropped if there is no room.
pub fn append_event(shared: &Shared, event: NewEvent) {
    let command = Command::AppendEvents {
        events: vec![event],
    };
    let sent = shared.commands.send(Envelope::unanswered(command));
    if let Err(error) = sent {
        tracing::debug!(title = %error.items[0].title, "event about an agent dropped");
    }
}

fn unknown() -> ApiError {
    error::AGENT_UNKNOWN.error()
}

fn failed() -> ApiError {
    error::AUTHENTICATION_FAILED.error()
}

fn authorized() -> Response {
    Response::with_body(200, TEXT, Body::Owned(b"authorized".to_vec()))
}

/// The value of `Authorization: Peeklio`.
fn proof(authorization: &[u8]) -> Option<&[u8]> {
    let space = authorization.iter().position(|&byte| byte == b' ')?;
    let (scheme, value) = authorization.split_at(space);
    scheme
        .eq_ignore_ascii_case(b"peeklio")
        .then(|| value.trim_ascii())
}

/// The 401 response with a nonce and a salt for the agent's proof, and with the proof of this
/// server. `own` is the nonce that the agent sent.
fn challenge(call: &Call<'_>, id: &str, key: &str, own: Option<&str>, now_ms: u64) -> Response {
    let challenge = call.shared.agents.nonces.challenge(id, now_ms);
    let own = own.filter(|own| own.len() <= AGENT_NONCE_BYTES_MAX);
    let proof = server_proof(&challenge, key, own);
    let mut response = Response::from(error::AGENT_CHALLENGE.error());
    // Other credentials of the API are not accepted here.
    response
        .headers
        .retain(|(name, _)| *name != "WWW-Authenticate");
    response
        .header("WWW-Authenticate", "Peeklio")
        .header("X-Nonce", challenge.nonce)
        .header("X-Salt", challenge.salt)
        .header("X-Agentauth", proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_of_a_proof_is_case_insensitive() {
        assert_eq!(proof(b"Peeklio abc "), Some(&b"abc"[..]));
        assert_eq!(proof(b"PEEKLIO  abc"), Some(&b"abc"[..]));
        for other in [&b"Bearer abc"[..], b"Peeklio", b"", b"Peeklioabc"] {
            assert_eq!(proof(other), None);
        }
    }
}
