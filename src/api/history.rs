//! Numbers of the past, in the form of a table: the cluster, one streamer, many streamers.
//!
//! The first column is the time of the row; rows are a step apart. A number that is not known is
//! null, so that a line through the others has a gap there.

use std::ops::{Bound, RangeInclusive};
use std::time::Instant;

use super::call::{Call, Outcome};
use crate::access::auth::Caller;
use crate::access::rights::Action;
use crate::error::{self, ApiError};
use crate::fleet::history::{
    CLUSTER_FIELDS, CLUSTER_KEPT_MS, Histories, NODE_FIELDS, NODE_KEPT_MS, SAMPLE_MS,
};
use crate::http::Response;
use crate::json::write_string;
use crate::limits::HISTORIES_PAGE_MAX;
use crate::query::params::{Choice, Integer, Parameter, ParameterValues as _, Text};
use crate::state::apply::streamer_not_found;
use crate::state::name::Hostname;

const SINCE: Integer = Integer::moment(
    "since",
    "Time of the first row, milliseconds since 1970. Without it the table begins an hour ago; it \
     never begins before the first number that is kept.",
)
.example("1795888320000");

const CLUSTER_STEP: Choice = Choice::new(
    "step",
    &["10", "60", "300", "900", "3600"],
    "Seconds between two rows, by default 60. Rows of 10 s are kept for an hour.",
)
.example(r#""60""#);

const NODE_STEP: Choice = Choice::new(
    "step",
    &["30", "60", "300"],
    "Seconds between two rows, by default 30.",
)
.example(r#""30""#);

const FIELD: Choice =
    Choice::new("field", &NODE_FIELDS, "The number, by default `cpu`.").example(r#""cpu""#);

const POINTS: Integer = Integer::new("points", "Number of rows at most, by default 60.")
    .between(1, 60)
    .example("60");

const SHORT_STEP: Choice = Choice::new(
    "step",
    &["30", "60"],
    "Seconds between two rows, by default 30.",
)
.example(r#""30""#);

const HOSTNAMES: Text = Text::list(
    "hostname",
    "Hostnames of the streamers, joined by commas, at most 250. Those that do not exist and those \
     that a token does not see are left out. Without it: all streamers, by hostname.",
)
.example(r#"["streamer1.example.com"]"#);

const AFTER: Text = Text::new(
    "after",
    "`next` of the answer before: the streamers behind this one follow.",
)
.example(r#""streamer1.example.com""#);

const LIMIT: Integer = Integer::new("limit", "Number of streamers at most, by default 250.")
    .between(1, HISTORIES_PAGE_MAX)
    .example("250");

pub const CLUSTER_PARAMETERS: &[&dyn Parameter] = &[&SINCE, &CLUSTER_STEP];
pub const NODE_PARAMETERS: &[&dyn Parameter] = &[&SINCE, &NODE_STEP];
pub const NODES_PARAMETERS: &[&dyn Parameter] =
    &[&FIELD, &POINTS, &SHORT_STEP, &HOSTNAMES, &AFTER, &LIMIT];

/// How far a table goes back by default.
const SHOWN_MS: u64 = 3_600_000;
const MOVES: usize = CLUSTER_FIELDS.len() - 1;

/// `GET /cluster/history`
pub fn cluster(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let step_ms = step_ms(call, &CLUSTER_STEP, 60_000)?;
    let kept_ms = if step_ms == SAMPLE_MS {
        SHOWN_MS
    } else {
        CLUSTER_KEPT_MS
    };
    let histories = &call.shared.workers.histories;
    let steps = steps(call, histories, step_ms, kept_ms)?;
    // A token that may not read the layouter does not see its moves.
    let sees_moves = match call.caller {
        Caller::Token(token) => token.rights.may(Action::Read, "layouter", None),
        _ => true,
    };
    let cluster = histories.cluster();
    let mut table = NumberTable::new(CLUSTER_FIELDS.into_iter());
    for step in steps {
        let mut numbers = cluster.means(step * step_ms, (step + 1) * step_ms);
        if !sees_moves {
            numbers[MOVES] = None;
        }
        table.add(histories.epoch_utc_ms() + step * step_ms, &numbers);
    }
    drop(cluster);
    Ok(table.into_outcome(None))
}

/// `GET /streamers/{hostname}/history`
pub fn node(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    if call.state.streamer(&hostname).is_none() {
        return Err(streamer_not_found());
    }
    let step_ms = step_ms(call, &NODE_STEP, 30_000)?;
    let histories = &call.shared.workers.histories;
    let steps = steps(call, histories, step_ms, NODE_KEPT_MS)?;
    let nodes = histories.nodes();
    let mut table = NumberTable::new(NODE_FIELDS.into_iter());
    if let Some(node) = nodes.get(&hostname) {
        for step in steps {
            let numbers = node.means(step * step_ms, (step + 1) * step_ms);
            table.add(histories.epoch_utc_ms() + step * step_ms, &numbers);
        }
    }
    drop(nodes);
    Ok(table.into_outcome(None))
}

/// `GET /streamers/histories`
pub fn nodes(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let field = call.choice(&FIELD)?.unwrap_or(NODE_FIELDS[0]);
    let field = NODE_FIELDS.iter().position(|it| *it == field);
    let field = field.expect("one of the fields");
    let step_ms = step_ms(call, &SHORT_STEP, 30_000)?;
    let points = call.integer(&POINTS)?.unwrap_or(60);
    let (hostnames, next) = hostnames(call)?;
    let histories = &call.shared.workers.histories;
    let last = histories.ms_of(Instant::now()) / step_ms;
    let first = (last + 1).saturating_sub(points);
    let nodes = histories.nodes();
    let of_hosts: Vec<_> = hostnames.iter().map(|it| nodes.get(it)).collect();
    let mut table = NumberTable::new(hostnames.iter().map(|it| &**it));
    let mut numbers = vec![None; hostnames.len()];
    for step in first..=last {
        let (from_ms, to_ms) = (step * step_ms, (step + 1) * step_ms);
        for (number, node) in numbers.iter_mut().zip(&of_hosts) {
            *number = node.and_then(|node| node.mean(field, from_ms, to_ms));
        }
        table.add(histories.epoch_utc_ms() + from_ms, &numbers);
    }
    drop(nodes);
    Ok(table.into_outcome(next.as_ref()))
}

fn step_ms(call: &Call<'_>, parameter: &Choice, default_ms: u64) -> Result<u64, ApiError> {
    let step = call.choice(parameter)?;
    let seconds = step.map(|step| step.parse::<u64>().expect("the choices are numbers"));
    Ok(seconds.map_or(default_ms, |seconds| seconds * 1000))
}

/// The steps from `since` on, to the present one.
fn steps(
    call: &Call<'_>,
    histories: &Histories,
    step_ms: u64,
    kept_ms: u64,
) -> Result<RangeInclusive<u64>, ApiError> {
    let now_ms = histories.ms_of(Instant::now());
    let since_ms = match call.integer(&SINCE)? {
        Some(utc_ms) => utc_ms.saturating_sub(histories.epoch_utc_ms()),
        None => (now_ms + 1).saturating_sub(SHOWN_MS),
    };
    let last = now_ms / step_ms;
    let oldest = (last + 1).saturating_sub(kept_ms / step_ms);
    Ok(since_ms.div_ceil(step_ms).max(oldest)..=last)
}

/// The streamers of an answer, and the last of them if there are more.
fn hostnames(call: &Call<'_>) -> Result<(Vec<Hostname>, Option<Hostname>), ApiError> {
    let visible = call.visible("streamers");
    let limit = call.integer(&LIMIT)?.unwrap_or(HISTORIES_PAGE_MAX) as usize;
    let after = call.text(&AFTER)?;
    if let Some(names) = call.text(&HOSTNAMES)? {
        let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
        if names.len() as u64 > HISTORIES_PAGE_MAX {
            let allowed = format!("takes at most {HISTORIES_PAGE_MAX} hostnames");
            return Err(error::INPUT_OUT_OF_RANGE.about_parameter(HOSTNAMES.name(), &allowed));
        }
        let known = names.into_iter().filter(|name| visible.shows(name));
        let known = known.filter_map(|name| call.state.streamer(name));
        let mut hostnames = Vec::new();
        for record in known {
            let hostname = Hostname::trusted(&record.hostname);
            if !hostnames.contains(&hostname) && hostnames.len() < limit {
                hostnames.push(hostname);
            }
        }
        return Ok((hostnames, None));
    }
    let from = after.as_deref();
    let from = from.map_or(Bound::Unbounded, Bound::Excluded);
    let range = call
        .state
        .streamers()
        .range::<_, str>((from, Bound::Unbounded));
    let hostnames = range.map(|(hostname, _)| hostname);
    let mut hostnames = hostnames.filter(|hostname| visible.shows(hostname));
    let page: Vec<Hostname> = hostnames.by_ref().take(limit).cloned().collect();
    let next = hostnames.next().and_then(|_| page.last().cloned());
    Ok((page, next))
}

/// A table as JSON. It begins with the first row that has a number.
struct NumberTable {
    text: Vec<u8>,
    is_empty: bool,
}

impl NumberTable {
    fn new<'f>(fields: impl Iterator<Item = &'f str>) -> Self {
        let mut text = b"{\"fields\":[\"at\"".to_vec();
        for field in fields {
            text.push(b',');
            write_string(&mut text, field);
        }
        text.push(b']');
        Self {
            text,
            is_empty: true,
        }
    }

    fn add(&mut self, at: u64, numbers: &[Option<u64>]) {
        if self.is_empty && numbers.iter().all(Option::is_none) {
            return;
        }
        let begin: &[u8] = if self.is_empty {
            b",\"points\":[["
        } else {
            b",["
        };
        self.is_empty = false;
        let mut digits = itoa::Buffer::new();
        self.text.extend_from_slice(begin);
        self.text.extend_from_slice(digits.format(at).as_bytes());
        for number in numbers {
            let number = number.map_or("null", |it| digits.format(it));
            self.text.push(b',');
            self.text.extend_from_slice(number.as_bytes());
        }
        self.text.push(b']');
    }

    /// `next` leads to the streamers behind those of the table.
    fn into_outcome(mut self, next: Option<&Hostname>) -> Outcome {
        let end: &[u8] = if self.is_empty {
            b",\"points\":[]"
        } else {
            b"]"
        };
        self.text.extend_from_slice(end);
        if let Some(next) = next {
            self.text.extend_from_slice(b",\"next\":");
            write_string(&mut self.text, next);
        }
        self.text.push(b'}');
        Outcome::Reply(Response::json(200, self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: NumberTable, next: Option<&str>) -> String {
        let next = next.map(Hostname::trusted);
        let Outcome::Reply(response) = table.into_outcome(next.as_ref()) else {
            panic!("it is a reply");
        };
        String::from_utf8(response.body.bytes().to_vec()).expect("UTF-8")
    }

    #[test]
    fn tables_begin_with_the_first_number_and_keep_later_gaps() {
        let mut table = NumberTable::new(["a", "b"].into_iter());
        table.add(10, &[None, None]);
        table.add(20, &[None, Some(1)]);
        table.add(30, &[None, None]);
        table.add(40, &[Some(u64::MAX), None]);
        assert_eq!(
            text(table, Some("s1")),
            r#"{"fields":["at","a","b"],"points":[[20,null,1],[30,null,null],[40,18446744073709551615,null]],"next":"s1"}"#
        );
        let empty = NumberTable::new([].into_iter());
        assert_eq!(text(empty, None), r#"{"fields":["at"],"points":[]}"#);
    }
}
