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
    /// Most events that are printed, newest first; with --follow those before it waits [default:
    /// 50, with --since all].
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Events that are printed without --limit and --since.
const NEWEST: usize = 50;

/// Most events that are kept to print them in the order of their time.
const ORDERED_MAX: usize = 10_000;

fn past(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("must be {}", duration::ALLOWED))
}

impl EventFlags {
    /// Most events of the past that are printed.
    fn past_max(&self) -> usize {
        match (self.limit, self.since) {
            (Some(limit), _) => limit as usize,
            (None, Some(_)) => usize::MAX,
            (None, None) => NEWEST,
        }
    }

    /// The query of events in this order, without `?`.
    fn query(&self, sort: &str) -> String {
        let mut parts = vec![format!("sort={sort}")];
        let filters = [
            ("event", &self.kind),
            ("user", &self.user),
            ("stream", &self.stream),
            ("entity_id", &self.entity),
        ];
        for (field, value) in filters {
            if let Some(value) = value {
                parts.push(format!("{field}={}", escape(value)));
            }
        }
        if let Some(since) = self.since {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let from = now.unwrap_or_default().saturating_sub(since);
            parts.push(format!("utc_ms_gte={}", from.as_millis()));
        }
        parts.join("&")
    }
}

/// A list of the API, and its member with the items.
const EVENTS: (&str, &str) = ("/events", "events");

pub fn run(server: &Connection, flags: &EventFlags) -> Result<Exit, Failure> {
    let mut events = EventPrinter {
        server,
        printer: Printer::new(),
        newest: None,
        count: 0,
    };
    if flags.follow {
        // Further events follow in the order of their time.
        events.past_in_order(flags)?;
        events.follow(flags)?;
        return Ok(Exit::Done);
    }
    let query = flags.query("-event_id");
    let is_array = server.output.output == OutputForm::Json;
    let read = server.list_pages(EVENTS, &query, flags.past_max(), |rows, _| {
        if is_array {
            events.array_part(rows)?;
        } else {
            events.page(rows)?;
        }
        Ok(!events.printer.is_closed())
    })?;
    if is_array {
        let end = if events.count == 0 { "[]" } else { "\n]" };
        events.printer.line(end)?;
    }
    events.printer.flush()?;
    if read.has_more && !events.printer.is_closed() {
        server.note(&format!(
            "{} of {}; --limit and --since print more",
            count(events.count),
            counted(read.estimated, "event")
        ));
    }
    Ok(Exit::Done)
}

/// Prints events as they are read.
struct EventPrinter<'s> {
    server: &'s Connection,
    printer: Printer,
    /// The highest id that was printed.
    newest: Option<u64>,
    count: u64,
}

impl EventPrinter<'_> {
    fn page(&mut self, rows: &[Value]) -> Result<(), Failure> {
        for event in rows {
            let id = number(event, "event_id");
            self.newest = self.newest.max(Some(id));
            print(self.server, &mut self.printer, event)?;
            self.count += 1;
        }
        self.printer.flush()
    }

    fn array_part(&mut self, rows: &[Value]) -> Result<(), Failure> {
        for event in rows {
            let begin = if self.count == 0 { "[\n" } else { ",\n" };
            self.printer.text(&format!("{begin}{event}"))?;
            self.count += 1;
        }
        Ok(())
    }

    /// Prints the events of the past in the order of their time.
    fn past_in_order(&mut self, flags: &EventFlags) -> Result<(), Failure> {
        let (server, limit) = (self.server, flags.past_max());
        if limit > ORDERED_MAX {
            let query = flags.query("event_id");
            let read = server.list_pages(EVENTS, &query, limit, |rows, _| {
                self.page(rows)?;
                Ok(!self.printer.is_closed())
            });
            return read.map(drop);
        }
        let query = flags.query("-event_id");
        let mut events = Vec::new();
        server.list_pages(EVENTS, &query, limit, |rows, _| {
            events.extend_from_slice(rows);
            Ok(true)
        })?;
        events.reverse();
        self.page(&events)
    }

    fn follow(&mut self, flags: &EventFlags) -> Result<(), Failure> {
        let query = flags.query("event_id");
        let mut last = match self.newest {
            Some(newest) => newest,
            None => newest_id(self.server)?,
        };
        let mut pause = RETRY.0;
        while !self.printer.is_closed() {
            let path = format!(
                "/events?event_id_gt={last}&limit={PAGE_MAX}&poll_timeout={POLL_SECONDS}&{query}"
            );
            match self.server.poll(&path, Duration::from_secs(POLL_SECONDS)) {
                Ok(answer) => {
                    pause = RETRY.0;
                    self.page(items(&answer, "events"))?;
                    last = last.max(self.newest.unwrap_or(0));
                }
                Err(ClientError::Transport { url, cause }) => {
                    self.server
                        .note(&format!("{url}: {cause}; trying again in {pause:?}"));
                    thread::sleep(pause);
                    pause = (pause * 2).min(RETRY.1);
                }
                Err(error) => return Err(failure(&error)),
            }
        }
        Ok(())
    }
}

/// The id of the newest event of all kinds, which further events are above.
fn newest_id(server: &Connection) -> Result<u64, Failure> {
    let newest = server.get("/events?sort=-event_id&limit=1&select=event_id")?;
    let first = items(&newest, "events").first();
    Ok(first.map_or(0, |event| number(event, "event_id")))
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
