//! `weir events`, and the line of one event.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::Value;

use super::connection::{Connection, failure};
use super::output::{OutputForm, Printer};
use super::words::{at, cell, count, counted, items, number, text, time};
use crate::client::{ClientError, escape};
use crate::duration;
use crate::exit::{Exit, Failure};

/// Seconds that one poll of `--follow` waits.
const POLL_SECONDS: u64 = 25;

/// First and longest pause before a failed poll is repeated.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Most events of one page.
const PAGE_MAX: usize = 1000;

#[derive(Debug, Args)]
pub struct EventFlags {
    /// Wait for further events, and print each.
    #[arg(short, long)]
    follow: bool,
    /// Only events of the last TIME, for instance 1h.
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Duration>,
    /// Only this kind, for instance `api_call`.
    #[arg(long, value_name = "EVENT")]
    kind: Option<String>,
    /// Only calls of this user.
    #[arg(long)]
    user: Option<String>,
    /// Only events of this stream: saves, batches, moves.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Only events of this object.
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Most events that are printed, newest first; with --follow those before it waits.
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

fn past(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("must be {}", duration::ALLOWED))
}

impl EventFlags {
    fn query(&self) -> String {
        let mut parts = Vec::new();
        let filters = [
            ("event", &self.kind),
            ("user", &self.user),
            ("stream", &self.stream),
            ("entity_id", &self.entity),
        ];
        for (field, value) in filters {
            if let Some(value) = value {
                parts.push(format!("&{field}={}", escape(value)));
            }
        }
        if let Some(since) = self.since {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let from = now.unwrap_or_default().saturating_sub(since);
            parts.push(format!("&utc_ms_gte={}", from.as_millis()));
        }
        parts.concat()
    }
}

pub fn run(server: &Connection, flags: &EventFlags) -> Result<Exit, Failure> {
    let filters = flags.query();
    let newest = format!("/events?sort=-event_id&limit={}{filters}", flags.limit);
    let mut events = server.get(&newest)?["events"].take();
    let events = events
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    let mut printer = Printer::new();
    let is_json = server.output.output == OutputForm::Json;
    if is_json && !flags.follow {
        printer.json(&Value::Array(events))?;
        printer.flush()?;
        return Ok(Exit::Done);
    }
    let mut last = newest_id(server, &events)?;
    let in_order: Box<dyn Iterator<Item = &Value>> = if flags.follow {
        Box::new(events.iter().rev())
    } else {
        Box::new(events.iter())
    };
    for event in in_order {
        print(server, &mut printer, event)?;
    }
    printer.flush()?;
    let mut pause = RETRY.0;
    while flags.follow && !printer.is_closed() {
        let path = format!(
            "/events?event_id_gt={last}&sort=event_id&limit={PAGE_MAX}\
             &poll_timeout={POLL_SECONDS}{filters}"
        );
        match server.poll(&path, Duration::from_secs(POLL_SECONDS)) {
            Ok(answer) => {
                pause = RETRY.0;
                for event in items(&answer, "events") {
                    last = last.max(number(event, "event_id"));
                    print(server, &mut printer, event)?;
                }
                printer.flush()?;
            }
            Err(ClientError::Transport { url, cause }) => {
                server.note(&format!("{url}: {cause}; trying again in {pause:?}"));
                thread::sleep(pause);
                pause = (pause * 2).min(RETRY.1);
            }
            Err(error) => return Err(failure(&error)),
        }
    }
    Ok(Exit::Done)
}

/// The id that further events are above: of the newest event of all kinds, if none passed.
fn newest_id(server: &Connection, events: &[Value]) -> Result<u64, Failure> {
    if let Some(first) = events.first() {
        return Ok(number(first, "event_id"));
    }
    let newest = server.get("/events?sort=-event_id&limit=1&select=event_id")?;
    Ok(number(&newest, "events.0.event_id").max(
        items(&newest, "events")
            .first()
            .map_or(0, |event| number(event, "event_id")),
    ))
}

fn print(server: &Connection, printer: &mut Printer, event: &Value) -> Result<(), Failure> {
    match server.output.output {
        OutputForm::Json | OutputForm::Jsonl => printer.line(&event.to_string()),
        OutputForm::Name => printer.line(&number(event, "event_id").to_string()),
        OutputForm::Table | OutputForm::Wide => printer.line(&line(event)),
    }
}

/// One event as a line: time, kind, what happened.
pub fn line(event: &Value) -> String {
    let kind = cell(at(event, "event"));
    let at_time = time(number(event, "utc_ms"));
    format!("{at_time}  {kind:26}  {}", happened(event))
        .trim_end()
        .to_owned()
}

/// What happened, without time and kind.
pub fn happened(event: &Value) -> String {
    let entity = cell(at(event, "entity_id"));
    match text(event, "event") {
        "layouter_streamer_state" => {
            let (state, why) = (cell(at(event, "state")), cell(at(event, "why")));
            format!("{entity} is {state} ({why})")
        }
        "layouter_processing_result" => {
            let moved = number(event, "relayouts_count");
            let by_reason = at(event, "relayouts_why").as_object();
            let by_reason = by_reason.into_iter().flatten().map(|(why, number)| {
                let number = number.as_u64().unwrap_or(0);
                format!("{} {why}", count(number))
            });
            let by_reason = by_reason.collect::<Vec<_>>().join(", ");
            format!("{}: {by_reason}", counted(moved, "new layout"))
        }
        "api_call" => {
            let operation = cell(at(event, "operation_id"));
            let user = cell(at(event, "user"));
            let entities = number(event, "entities_count");
            let what = if entity.is_empty() && entities > 0 {
                format!("{} {}s", count(entities), cell(at(event, "entity_type")))
            } else {
                entity
            };
            let changed = items(event, "changed").iter().map(cell);
            let changed = changed.collect::<Vec<_>>().join(" ");
            let status = number(event, "status");
            let status = if (200..300).contains(&status) {
                String::new()
            } else {
                format!(" refused {status}")
            };
            format!("{user}: {operation} {what}{status} {changed}")
                .trim_end()
                .to_owned()
        }
        _ => {
            let mut rest = event.clone();
            if let Some(members) = rest.as_object_mut() {
                for known in ["event", "event_id", "utc_ms", "server"] {
                    members.remove(known);
                }
            }
            cell(&rest)
        }
    }
}
