//! Reports of streamers: how a node that this server cannot call, because it is behind a translator
//! of addresses, tells how it fares.
//!
//! A report is about one streamer and comes from it, or from an administrator for it. It is kept in
//! memory only, for as long as a streamer may be silent, and replaces what the same streamer said
//! before; a member that is absent stays as it was. Streams that are not configured are not kept.

use std::time::Instant;

use super::{Call, Outcome};
use crate::error::ApiError;
use crate::fleet::report::StreamerReport;
use crate::http::Response;
use crate::state::apply::streamer_not_found;

/// Six thousand streams with everything a node can say of them, twice.
pub const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub fn report(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let now = Instant::now();
    let mut report = StreamerReport::from_body(call.json()?, now)?;
    if call.state.streamer(&hostname).is_none() {
        return Err(streamer_not_found());
    }
    report.retain_streams(|name| call.state.stream(name).is_some());
    let shared = call.shared;
    shared.fleet.report(&hostname, report, now);
    shared.reported();
    Ok(Outcome::Reply(Response::no_content()))
}
