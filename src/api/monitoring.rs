//! Probes and the description of the API.
//!
//! Liveness is answered by the core that accepted the connection. Readiness also requires that the
//! store takes writes and the process is not stopping. Both need no credentials and return the
//! version and the times only.

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cluster_scan::BUILD;
use super::{Call, Outcome};
use crate::error::{self, ApiError};
use crate::http::Response;

/// Failed attempts in a row to open the store from which on readiness shows their number.
const REOPEN_FAILURES_SHOWN: u64 = 3;

#[allow(clippy::unnecessary_wraps)] // the type of all handlers
pub fn liveness(call: &Call<'_>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Reply(whoami(call)))
}

pub fn readiness(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let shared = call.shared;
    if shared.draining.load(Ordering::Acquire) {
        return Err(error::NOT_READY
            .titled("The server is stopping")
            .retry_after(1));
    }
    if let Some(safe_mode) = shared.published.safe_mode() {
        return Err(safe_mode.error());
    }
    if !shared.published.is_writable() {
        return Err(store_failure(shared.published.reopen_failures()));
    }
    if shared.published.is_short_of_space() {
        return Err(error::DISK_FULL.error());
    }
    Ok(Outcome::Reply(whoami(call)))
}

/// A store that failed is usually back at once. If not, the operator must look at the disk.
fn store_failure(reopen_failures: u64) -> ApiError {
    if reopen_failures < REOPEN_FAILURES_SHOWN {
        return error::NOT_READY.error();
    }
    let title = format!(
        "The store does not accept writes: it could not be opened {reopen_failures} times in a row"
    );
    let error = error::NOT_READY.titled(title);
    error.with("reopen_failures", reopen_failures)
}

fn whoami(call: &Call<'_>) -> Response {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let started_at = call.shared.identity.started_at_seconds;
    let version = env!("CARGO_PKG_VERSION");
    let body = format!(
        "{{\"build\":{BUILD},\"now\":{now},\"server_version\":\"{version}\",\"started_at\":{started_at}}}"
    );
    Response::json(200, body.into_bytes())
}

#[allow(clippy::unnecessary_wraps)] // the type of all handlers
pub fn openapi(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let (coding, body) = call.shared.documentation.openapi.body(call.coding());
    Ok(Outcome::Reply(Response::shared(200, coding, body)))
}
