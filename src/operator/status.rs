//! `weir status` and `weir healthcheck`.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::connection::{Connection, failure};
use super::kinds;
use super::output::{OutputForm, Printer, is_terminal, pairs};
use super::words::{at, cell, count, counted, items, number, rate, text};
use crate::client::ClientError;
use crate::exit::{Exit, Failure};

/// Pause between two prints of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Streamers that are named in a line.
const NAMED_MAX: usize = 10;

/// Statuses of streams and streamers, as `/cluster/stats` counts them.
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
const LOST: &str = "offline";

/// Shown instead of what the key may not read.
const NOT_PERMITTED: &str = "not permitted";

/// What `weir status` prints.
struct ClusterStatus {
    /// `/cluster/stats`, or the counts of what the key may list.
    stats: Value,
    capacity: Room,
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

enum Room {
    Known(Value),
    LayouterOff,
    NotPermitted,
}

fn read(server: &Connection) -> Result<ClusterStatus, Failure> {
    let capacity = match server.try_send(Method::GET, "/cluster/capacity", &[], None) {
        Ok(answer) => Room::Known(answer.body),
        Err(ClientError::Status { status: 409, .. }) => Room::LayouterOff,
        Err(ClientError::Status { status: 403, .. }) => Room::NotPermitted,
        Err(error) => return Err(failure(&error)),
    };
    let stats = match permitted(server, "/cluster/stats")? {
        Some(stats) => stats,
        None => own_part(server)?,
    };
    let lists_streamers = at(&stats, "streamer_metrics_total").is_object();
    Ok(ClusterStatus {
        states: if lists_streamers {
            states(server)?
        } else {
            Vec::new()
        },
        stats,
        capacity,
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

/// The counts of streams and streamers that the key may list, in the form of `/cluster/stats`.
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
    Ok(json!({
        "stream_metrics_total": counts("streams", "name")?,
        "streamer_metrics_total": counts("streamers", "hostname")?,
        "unplaced": total(unplaced)?,
    }))
}

/// Names of streamers that are not up, by their state.
fn states(server: &Connection) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let mut states: Vec<(String, Vec<String>)> = Vec::new();
    let streamers = kinds::parse("streamers").map_err(|it| Failure::new(Exit::Runtime, it))?;
    server.pages(streamers, "select=hostname,state", usize::MAX, |rows| {
        for row in rows {
            let lost = text(row, "state.name") == LOST;
            let state = match text(row, "state.maintenance.mode") {
                mode if mode.is_empty() || lost => text(row, "state.name"),
                mode => mode,
            };
            if ["up", ""].contains(&state) {
                continue;
            }
            let name = cell(at(row, "hostname"));
            match states.iter_mut().find(|(known, _)| known == state) {
                Some((_, names)) => names.push(name),
                None => states.push((state.to_owned(), vec![name])),
            }
        }
        Ok(true)
    })?;
    Ok(states)
}

impl ClusterStatus {
    /// Enabled streams without a streamer, if that is known.
    fn unplaced(&self) -> Option<u64> {
        match &self.capacity {
            Room::Known(capacity) => {
                let classes = items(capacity, "classes").iter();
                Some(classes.map(|class| number(class, "unplaced")).sum())
            }
            Room::LayouterOff | Room::NotPermitted => at(&self.stats, "unplaced").as_u64(),
        }
    }

    fn is_bad(&self) -> bool {
        self.unplaced() > Some(0) || self.states.iter().any(|(state, _)| state == LOST)
    }

    fn json(&self) -> Value {
        let states = self.states.iter().cloned();
        let states: serde_json::Map<String, Value> =
            states.map(|(state, names)| (state, json!(names))).collect();
        json!({
            "streams": at(&self.stats, "stream_metrics_total"),
            "streamers": at(&self.stats, "streamer_metrics_total"),
            "states": states,
            "traffic": at(&self.stats, "streamer_bitrate_metrics_total"),
            "unplaced": self.unplaced(),
            "capacity": match &self.capacity {
                Room::Known(capacity) => capacity,
                Room::LayouterOff | Room::NotPermitted => &Value::Null,
            },
            "server": at(&self.session, "server"),
            "ok": !self.is_bad(),
        })
    }

    fn lines(&self) -> String {
        let (streams, streamers) = (
            at(&self.stats, "stream_metrics_total"),
            at(&self.stats, "streamer_metrics_total"),
        );
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
            let path = format!("streamer_bitrate_metrics_total.{way}_kbit");
            rate(number(&self.stats, &path) as f64)
        };
        let traffic = format!("{} in, {} out", kbit("input"), kbit("output"));
        let or_refused = |part: &Value, words: String| match part {
            Value::Null => NOT_PERMITTED.to_owned(),
            _ => words,
        };
        let counted = |counts: &Value, words: &str| {
            or_refused(
                counts,
                format!("{}  {words}", count(number(counts, "total"))),
            )
        };
        let server = text(&self.session, "server.version");
        pairs(&[
            ("streams", counted(streams, &of_streams)),
            ("streamers", counted(streamers, &of_streamers)),
            (
                "traffic",
                or_refused(at(&self.stats, "streamer_bitrate_metrics_total"), traffic),
            ),
            ("room", self.room()),
            ("server", format!("weir {server}")),
        ])
    }

    fn room(&self) -> String {
        let capacity = match &self.capacity {
            Room::Known(capacity) => capacity,
            Room::LayouterOff => return "the layouter is off".to_owned(),
            Room::NotPermitted => return NOT_PERMITTED.to_owned(),
        };
        let classes = items(capacity, "classes");
        let least = classes
            .iter()
            .min_by_key(|class| number(class, "streams_more"));
        let room = least.map_or_else(String::new, |class| {
            format!(
                "+{} more; {} runs out first; ",
                counted(number(class, "streams_more"), "stream"),
                text(class, "bottleneck")
            )
        });
        let lost: Vec<String> = items(capacity, "losses")
            .iter()
            .filter(|loss| at(loss, "survives") == &Value::Bool(false))
            .map(|loss| cell(at(loss, "hostname")))
            .collect();
        match (at(capacity, "survives_any_loss"), lost.first()) {
            (Value::Bool(true), _) => format!("{room}any single streamer may fail"),
            (_, Some(first)) => format!("{room}the loss of {first} would leave streams without"),
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
