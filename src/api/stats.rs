//! Reports: statistics that a streamer sends, for nodes behind NAT that this server cannot call.
//!
//! A report is about one streamer, sent by it or by an administrator. It is kept in memory until
//! the streamer counts as silent. Its members replace those of the previous report; absent members
//! keep their values. Streams that are not configured are ignored. A report is a sign of life of
//! the streamer whatever it contains; invalid values are dropped, and the response lists them.

use std::time::Instant;

use super::{Call, Outcome};
use crate::access::auth::Caller;
use crate::error::ApiError;
use crate::fleet::report::StreamerReport;
use crate::http::Response;
use crate::rt::uptime_ms;
use crate::state::apply::streamer_not_found;

/// Twice a report with all fields about 6,000 streams.
pub const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub fn report(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let now = Instant::now();
    if call.state.streamer(&hostname).is_none() {
        return Err(streamer_not_found());
    }
    call.shared.nodes.get(&hostname).activity.seen(uptime_ms());
    let mut report = StreamerReport::from_body(call.json()?, now)?;
    report.date_errors(super::now_ms());
    let dropped = std::mem::take(&mut report.dropped);
    let has_own_key = matches!(call.caller, Caller::Streamer(_));
    report.check_health(has_own_key, super::now_ms());
    report.retain_streams(|name| call.state.stream(name).is_some());
    let shared = call.shared;
    shared.fleet.count_dropped(dropped.count());
    shared.fleet.report(&hostname, report, now);
    shared.reported();
    if dropped.is_empty() {
        return Ok(Outcome::Reply(Response::no_content()));
    }
    Ok(Outcome::Reply(Response::json(200, dropped.to_body())))
}
