//! Sessions of browsers: `/session`.
//!
//! The page sends the credential once and gets a cookie that scripts cannot read. What is wrong
//! with a credential is not answered before a constant time has passed, by a deadline of the
//! request: no core waits.

use std::time::Instant;

use tracing::info;

use super::{Call, Outcome, now_ms};
use crate::access::auth::{Auth, Caller};
use crate::access::browser_sessions::{
    BrowserSession, PAGE_HEADER, REFUSAL_DELAY, SessionCredential, cookie_of, is_same_site,
    set_cookie,
};
use crate::access::rights::Action;
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::{self, Object, Value};
use crate::state::entity::{Key, Kind};

#[allow(clippy::unnecessary_wraps)] // the type of all handlers
pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let session = call.session();
    let user = call.user();
    let body = document(call, call.caller, &user, session.as_ref());
    Ok(Outcome::Reply(Response::json(200, body)))
}

pub fn open(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let headers = &call.request.headers;
    let body = call.json()?;
    let body = body.as_object().ok_or_else(|| error::NOT_OBJECT.at(""))?;
    if headers.get(PAGE_HEADER).is_none_or(|value| value != b"1") {
        return Err(error::MISSING_REQUIRED.titled("Header `X-Weir-UI` is required"));
    }
    if !is_same_site(headers) {
        return Err(error::FORBIDDEN.titled("The request comes from a page of another site"));
    }
    let browsers = &call.shared.access.browsers;
    let (now, client) = (Instant::now(), call.request.peer);
    if let Some(seconds) = browsers.blocked_seconds(client, now) {
        return Err(error::TOO_MANY_FAILURES.error().retry_after(seconds));
    }
    let Some((caller, credential)) = credential_of(call, body)? else {
        browsers.count_failure(client, now);
        let mut refusal = Response::from(error::UNAUTHORIZED.error());
        // Browsers would show a login of their own.
        refusal
            .headers
            .retain(|(name, _)| *name != "WWW-Authenticate");
        refusal.delay = Some(REFUSAL_DELAY);
        return Ok(Outcome::Reply(refusal));
    };
    if let Some(cookie) = cookie_of(headers) {
        browsers.close(cookie);
    }
    let (cookie, session) = browsers.open(credential, now, now_ms())?;
    // A credential that ended meanwhile ended the sessions that were open then.
    let newest = call.shared.published.state().load_full();
    if !call.shared.access.auth.is_valid(&credential, &newest) {
        browsers.close(cookie.as_bytes());
        return Err(error::UNAUTHORIZED.error());
    }
    let user = Auth::user(&caller, None, Some(credential));
    info!(%user, %client, "session opened");
    let body = document(call, &caller, &user, Some(&session));
    let response = Response::json(200, body).header("Set-Cookie", set_cookie(&cookie, headers));
    Ok(Outcome::Reply(response))
}

#[allow(clippy::unnecessary_wraps)] // the type of all handlers
pub fn close(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let headers = &call.request.headers;
    if let Some(cookie) = cookie_of(headers) {
        let (user, client) = (call.user(), call.request.peer);
        call.shared.access.browsers.close(cookie);
        info!(%user, %client, "session closed");
    }
    let response = Response::no_content().header("Set-Cookie", set_cookie("", headers));
    Ok(Outcome::Reply(response))
}

/// The caller whose credential the body has; `None` if it is wrong.
fn credential_of(
    call: &Call<'_>,
    body: &Object,
) -> Result<Option<(Caller, SessionCredential)>, ApiError> {
    let text = |name: &str| match body.get(name) {
        None => Err(error::MISSING_REQUIRED.at(format!("/{name}"))),
        Some(value) => {
            let text = value.as_str();
            text.ok_or_else(|| error::NOT_STRING.at(format!("/{name}")))
        }
    };
    let auth = &call.shared.access.auth;
    if body.contains_key("login") || body.contains_key("password") {
        return Ok(auth.login_of(text("login")?, text("password")?));
    }
    Ok(auth.key_of(text("key")?, call.state))
}

/// The body of a session.
fn document(
    call: &Call<'_>,
    caller: &Caller,
    user: &str,
    session: Option<&BrowserSession>,
) -> Vec<u8> {
    let has = |action: Action| match caller {
        Caller::Token(token) => token.rights.has(action),
        Caller::Administrator => true,
        Caller::Anonymous | Caller::Streamer(_) => false,
    };
    let is_admin = *caller == Caller::Administrator;
    let may = object([
        ("read", Value::from(has(Action::Read) || has(Action::List))),
        ("write", Value::from(has(Action::Write))),
        ("execute", Value::from(has(Action::Execute))),
        ("admin", Value::from(is_admin)),
    ]);
    let identity = &call.shared.identity;
    let server = object([
        ("version", Value::from(env!("CARGO_PKG_VERSION"))),
        (
            "started_at",
            Value::from(identity.started_at_seconds * 1000),
        ),
    ]);
    let config = call.shared.settings.running.config();
    let layouter = config
        .settings
        .layouter
        .enabled
        .then(|| Value::from("layouter"));
    let expires_at = session.map_or(Value::Null, |session| Value::from(session.expires_at_ms));
    let body = object([
        ("user", Value::from(user)),
        ("may", may),
        ("scopes", Value::Array(scopes(call, caller))),
        ("expires_at", expires_at),
        ("server", server),
        ("features", Value::Array(layouter.into_iter().collect())),
    ]);
    body.to_text().into_bytes()
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let mut object = Object::new();
    for (name, value) in members {
        object.insert(name, value);
    }
    Value::Object(object)
}

/// The scopes of all permissions of a token, each once.
fn scopes(call: &Call<'_>, caller: &Caller) -> Vec<Value> {
    let Caller::Token(token) = caller else {
        return vec![Value::from("*")];
    };
    let key = Key::trusted(Kind::ApiToken, &token.name);
    let record = call.state.entities(Kind::ApiToken).get(&key);
    let config = record.and_then(|record| json::parse(record.config.as_bytes()).ok());
    let mut found: Vec<Value> = Vec::new();
    let permissions = config.as_ref().and_then(|config| config.get("permissions"));
    for permission in permissions.and_then(Value::as_array).unwrap_or_default() {
        let scopes = permission.get("scopes").and_then(Value::as_array);
        for scope in scopes.unwrap_or_default() {
            if !found.contains(scope) {
                found.push(scope.clone());
            }
        }
    }
    found
}
