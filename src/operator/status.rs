//! `weir status` and `weir healthcheck`.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::connection::{Connection, failure};
use super::output::{OutputForm, Printer, is_terminal, pairs};
use super::words::{at, cell, count, counted, items, number, rate, text, time};
use crate::client::ClientError;
use crate::exit::{Exit, Failure};

/// Pause between two prints of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Streamers that are named in a line.
const NAMED_MAX: usize = 10;

/// Statuses of streams and streamers, as `/cluster/summary` counts them.
const STATUSES: [&str; 5] = [
    "operational",
    "degradated",
    "partial_outage",
    "outage",
    "disabled",
];

#[derive(Debug, Args)]
pub struct StatusFlags {
    /// Print again every 2 s, until it is interrupted.
    #[arg(short, long)]
    watch: bool,
}

#[derive(Debug, Args)]
pub struct HealthcheckFlags {}

/// The state of a streamer that is lost.
const LOST: &str = "down";

/// Lines of attention that are shown, the worst first.
const ATTENTION_MAX: usize = 5;

/// Shown instead of what the key may not read.
const NOT_PERMITTED: &str = "not permitted";

/// What `weir status` prints.
struct ClusterStatus {
    /// `/cluster/summary`, or the counts of what the key may list in its form.
    summary: Value,
    /// The key may read the summary.
    is_whole: bool,
    session: Value,
    /// Names of streamers that are not up, by their state.
    states: Vec<(String, Vec<String>)>,
}

pub fn status(server: &Connection, flags: &StatusFlags) -> Result<Exit, Failure> {
    loop {
        let status = read(server)?;
        let mut printer = Printer::new();
        if flags.watch && is_terminal() {
            // Clears the screen.
            printer.line("\x1b[H\x1b[2J")?;
        }
        match server.output.output {
            OutputForm::Json => printer.json(&status.json())?,
            OutputForm::Jsonl => printer.line(&status.json().to_string())?,
            _ => printer.line(status.lines().trim_end())?,
        }
        printer.flush()?;
        if !flags.watch || printer.is_closed() {
            return Ok(if status.is_bad() {
                Exit::Unhealthy
            } else {
                Exit::Done
            });
        }
        thread::sleep(PAUSE);
    }
}

fn read(server: &Connection) -> Result<ClusterStatus, Failure> {
    let summary = permitted(server, "/cluster/summary")?;
    let is_whole = summary.is_some();
    let summary = match summary {
        Some(summary) => summary,
        None => own_part(server)?,
    };
    let streamers = at(&summary, "streamers");
    let are_all_up = number(streamers, "total") == number(streamers, "states.up");
    Ok(ClusterStatus {
        states: if are_all_up {
            Vec::new()
        } else {
            states(server)?
        },
        summary,
        is_whole,
        session: server.get("/session")?,
    })
}

/// The body of an answer; `None` if the key may not read it.
fn permitted(server: &Connection, path: &str) -> Result<Option<Value>, Failure> {
    match server.try_send(Method::GET, path, &[], None) {
        Ok(answer) => Ok(Some(answer.body)),
        Err(ClientError::Status { status: 403, .. }) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}

/// The counts of streams and streamers that the key may list, in the form of the summary.
fn own_part(server: &Connection) -> Result<Value, Failure> {
    let total = |path: &str| {
        let list = permitted(server, path)?;
        Ok::<_, Failure>(list.map(|list| number(&list, "estimated_count")))
    };
    let counts = |collection: &str, key: &str| {
        let of = |filter: &str| total(&format!("/{collection}?{filter}limit=1&select={key}"));
        let Some(all) = of("")? else {
            return Ok::<_, Failure>(Value::Null);
        };
        let mut counts = json!({"total": all});
        for status in STATUSES {
            counts[status] = json!(of(&format!("health={status}&"))?);
        }
        Ok(counts)
    };
    let unplaced = "/streams?placed=false&health_ne=disabled&limit=1&select=name";
    let mut streams = counts("streams", "name")?;
    if streams.is_object() {
        streams["unplaced"] = json!(total(unplaced)?);
    }
    Ok(json!({"streams": streams, "streamers": counts("streamers", "hostname")?}))
}

/// Names of streamers that are not up, by their state; none if the key may not list them.
fn states(server: &Connection) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let path = "/streamers?state.code_ne=up&limit=10000&select=hostname,state";
    let list = permitted(server, path)?.unwrap_or_default();
    let mut states: Vec<(String, Vec<String>)> = Vec::new();
    for row in items(&list, "streamers") {
        let state = text(row, "state.code");
        if ["up", ""].contains(&state) {
            continue;
        }
        let name = cell(at(row, "hostname"));
        match states.iter_mut().find(|(known, _)| known == state) {
            Some((_, names)) => names.push(name),
            None => states.push((state.to_owned(), vec![name])),
        }
    }
    states.sort_by_key(|(state, _)| state != LOST);
    Ok(states)
}

impl ClusterStatus {
    /// Enabled streams without a streamer, if that is known.
    fn unplaced(&self) -> Option<u64> {
        at(&self.summary, "streams.unplaced").as_u64()
    }

    fn is_bad(&self) -> bool {
        self.unplaced() > Some(0) || self.states.iter().any(|(state, _)| state == LOST)
    }

    fn json(&self) -> Value {
        let states = self.states.iter().cloned();
        let states: serde_json::Map<String, Value> =
            states.map(|(state, names)| (state, json!(names))).collect();
        json!({
            "streams": at(&self.summary, "streams"),
            "streamers": at(&self.summary, "streamers"),
            "states": states,
            "traffic": at(&self.summary, "traffic"),
            "unplaced": self.unplaced(),
            "capacity": at(&self.summary, "capacity"),
            "layouter": at(&self.summary, "layouter"),
            "attention": at(&self.summary, "attention"),
            "attention_total": at(&self.summary, "attention_total"),
            "server": at(&self.session, "server"),
            "ok": !self.is_bad(),
        })
    }

    fn lines(&self) -> String {
        let (streams, streamers) = (at(&self.summary, "streams"), at(&self.summary, "streamers"));
        let mut of_streams = by_status(streams);
        if let Some(unplaced) = self.unplaced() {
            _ = write!(of_streams, ", {} without a streamer", count(unplaced));
        }
        let mut of_streamers = by_status(streamers);
        for (state, names) in &self.states {
            let shown = names.iter().take(NAMED_MAX).cloned();
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 {
                format!(" and {} more", count(more as u64))
            } else {
                String::new()
            };
            _ = write!(of_streamers, "; {state}: {shown}{more}");
        }
        let kbit = |way: &str| {
            let path = format!("traffic.{way}_kbit");
            rate(number(&self.summary, &path) as f64)
        };
        let traffic = format!("{} in, {} out", kbit("input"), kbit("output"));
        let or_refused = |part: &Value, words: String| match part {
            Value::Null => NOT_PERMITTED.to_owned(),
            _ => words,
        };
        let with_total = |counts: &Value, words: &str| {
            or_refused(
                counts,
                format!("{}  {words}", count(number(counts, "total"))),
            )
        };
        pairs(&[
            ("streams", with_total(streams, &of_streams)),
            ("streamers", with_total(streamers, &of_streamers)),
            ("traffic", or_refused(at(&self.summary, "traffic"), traffic)),
            ("room", self.room()),
            ("layouter", self.layouter()),
            ("attention", self.attention()),
        ])
    }

    fn layouter(&self) -> String {
        let layouter = at(&self.summary, "layouter");
        if !layouter.is_object() {
            return NOT_PERMITTED.to_owned();
        }
        if at(layouter, "enabled") != &Value::Bool(true) {
            return "off".to_owned();
        }
        let until = match number(layouter, "paused_until") {
            0 => String::new(),
            until => format!(" until {}", time(until)),
        };
        let state = match text(layouter, "paused") {
            "" => "on".to_owned(),
            "all" => format!("paused (everything){until}"),
            _ => format!("paused (improving moves){until}"),
        };
        let brake = match at(layouter, "brake") {
            Value::Bool(true) => "; brake on: no stream moves",
            _ => "",
        };
        format!(
            "{state}; {} urgent and {} improving wait, {} in the last hour{brake}",
            count(number(layouter, "waiting.urgent")),
            count(number(layouter, "waiting.improving")),
            counted(number(layouter, "moves_1h"), "move"),
        )
    }

    /// How much an operator should look at, and the worst of it.
    fn attention(&self) -> String {
        if !self.is_whole {
            return NOT_PERMITTED.to_owned();
        }
        let total = number(&self.summary, "attention_total");
        let lines = items(&self.summary, "attention").iter().take(ATTENTION_MAX);
        let mut parts: Vec<String> = lines
            .map(|line| {
                let mut line_text = text(line, "kind").to_owned();
                let subject = cell(at(line, "subject"));
                let affected = number(line, "count");
                if !subject.is_empty() {
                    _ = write!(line_text, " {subject}");
                } else if affected > 1 {
                    _ = write!(line_text, " {}", count(affected));
                }
                line_text
            })
            .collect();
        let more = total.saturating_sub(parts.len() as u64);
        if more > 0 {
            parts.push(format!("{} more", count(more)));
        }
        match total {
            0 => "nothing".to_owned(),
            total => format!("{}  {}", count(total), parts.join(", ")),
        }
    }

    fn room(&self) -> String {
        let capacity = match (self.is_whole, at(&self.summary, "capacity")) {
            (false, _) => return NOT_PERMITTED.to_owned(),
            (true, Value::Null) => {
                let is_off = at(&self.summary, "layouter.enabled") == &Value::Bool(false);
                let why = if is_off {
                    "the layouter is off"
                } else {
                    "not known yet"
                };
                return why.to_owned();
            }
            (true, capacity) => capacity,
        };
        let mut room = format!(
            "+{} more; ",
            counted(number(capacity, "streams_more"), "stream")
        );
        let bottleneck = text(capacity, "bottleneck");
        if !bottleneck.is_empty() {
            _ = write!(room, "{bottleneck} runs out first; ");
        }
        let worst = items(capacity, "worst_losses").first();
        match (at(capacity, "survives_any_loss"), worst) {
            (Value::Bool(true), _) => format!("{room}any single streamer may fail"),
            (_, Some(loss)) => {
                let hostname = cell(at(loss, "hostname"));
                format!("{room}the loss of {hostname} would leave streams without")
            }
            _ => format!("{room}some losses would leave streams without"),
        }
    }
}

fn by_status(counts: &Value) -> String {
    let counted = STATUSES
        .iter()
        .map(|status| (status, number(counts, status)))
        .filter(|(status, number)| *number > 0 || **status == "operational");
    let counted = counted.map(|(status, number)| format!("{} {status}", count(number)));
    counted.collect::<Vec<_>>().join(", ")
}

/// `weir healthcheck`: for containers and supervisors.
pub fn healthcheck(server: &Connection, _flags: &HealthcheckFlags) -> Result<Exit, Failure> {
    match server.try_send(Method::GET, "/monitoring/readiness", &[], None) {
        Ok(answer) => {
            server.note(&format!(
                "ready: weir {}",
                text(&answer.body, "server_version")
            ));
            Ok(Exit::Done)
        }
        Err(error) => {
            let message = failure(&error).message;
            Err(Failure::new(Exit::Unhealthy, message))
        }
    }
}
