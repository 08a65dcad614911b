//! Reports: statistics that a streamer sends, or that this server queries from it.
//!
//! A report is about one streamer: sent by it or by an administrator, or made of its answers to
//! queries, with the same consequences. It is kept in memory until the streamer counts as silent.
//! Its members replace those of the previous report; absent members keep their values. Streams that
//! are not configured are listed apart (`unconfigured`). A report is a sign of life of the streamer
//! whatever it contains; invalid values are dropped, and the response lists them.

use std::time::Instant;

use super::shared::Shared;
use super::{Call, Outcome};
use crate::access::auth::Caller;
use crate::error::ApiError;
use crate::fleet::repair::Dropped;
use crate::fleet::report::{ReportSource, StreamerReport};
use crate::http::Response;
use crate::rt::uptime_ms;
use crate::state::State;
use crate::state::apply::streamer_not_found;
use crate::state::name::Hostname;

/// Twice a report with all fields about 6,000 streams.
pub const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub fn report(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let now = Instant::now();
    if call.state.streamer(&hostname).is_none() {
        return Err(streamer_not_found());
    }
    let node = call.shared.nodes.get(&hostname);
    node.activity.seen(uptime_ms());
    let report = StreamerReport::from_body(call.json()?, now)?;
    node.activity.reported(uptime_ms());
    let source = ReportSource {
        has_own_key: matches!(call.caller, Caller::Streamer(_)),
        ..ReportSource::default()
    };
    let dropped = store(
        call.shared,
        call.state,
        &hostname,
        report,
        source,
        now,
        || true,
    );
    if dropped.is_empty() {
        return Ok(Outcome::Reply(Response::no_content()));
    }
    Ok(Outcome::Reply(Response::json(200, dropped.to_body())))
}

/// Stores a report, whether it was sent by its streamer or queried, if it is still wanted when no
/// other one of the streamer is being stored. Returns what could not be used of it.
pub fn store(
    shared: &Shared,
    state: &State,
    hostname: &Hostname,
    mut report: StreamerReport,
    source: ReportSource,
    now: Instant,
    is_wanted: impl FnOnce() -> bool,
) -> Dropped {
    report.date_errors(super::now_ms());
    let dropped = std::mem::take(&mut report.dropped);
    report.check_health(source, super::now_ms());
    report.separate_streams(|name| state.stream(name).is_some());
    if shared.fleet.report(hostname, report, now, is_wanted) {
        shared.fleet.count_dropped(dropped.count());
        shared.reported();
    }
    dropped
}
