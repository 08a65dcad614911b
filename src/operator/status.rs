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
    "degraded",
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

/// What `weir status` prints.
struct ClusterStatus {
    stats: Value,
    /// `None` while the layouter is off.
    capacity: Option<Value>,
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
    let capacity = match server.try_send(Method::GET, "/cluster/capacity", &[], None) {
        Ok(answer) => Some(answer.body),
        Err(ClientError::Status { status: 409, .. }) => None,
        Err(error) => return Err(failure(&error)),
    };
    let mut states: Vec<(String, Vec<String>)> = Vec::new();
    let streamers = kinds::parse("streamers").map_err(|it| Failure::new(Exit::Runtime, it))?;
    server.pages(streamers, "select=hostname,state", usize::MAX, |rows| {
        for row in rows {
            let state = match text(row, "state.maintenance.mode") {
                "" => text(row, "state.name"),
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
    Ok(ClusterStatus {
        stats: server.get("/cluster/stats")?,
        capacity,
        session: server.get("/session")?,
        states,
    })
}

impl ClusterStatus {
    fn unplaced(&self) -> u64 {
        let classes = self
            .capacity
            .as_ref()
            .map_or(&[][..], |it| items(it, "classes"));
        classes.iter().map(|class| number(class, "unplaced")).sum()
    }

    fn is_bad(&self) -> bool {
        self.unplaced() > 0 || self.states.iter().any(|(state, _)| state == "down")
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
            "unplaced": self.capacity.as_ref().map(|_| self.unplaced()),
            "capacity": self.capacity,
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
        if self.capacity.is_some() {
            _ = write!(
                of_streams,
                ", {} without a streamer",
                count(self.unplaced())
            );
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
        let server = text(&self.session, "server.version");
        pairs(&[
            (
                "streams",
                format!("{}  {of_streams}", count(number(streams, "total"))),
            ),
            (
                "streamers",
                format!("{}  {of_streamers}", count(number(streamers, "total"))),
            ),
            (
                "traffic",
                format!("{} in, {} out", kbit("input"), kbit("output")),
            ),
            ("room", self.room()),
            ("server", format!("weir {server}")),
        ])
    }

    fn room(&self) -> String {
        let Some(capacity) = &self.capacity else {
            return "the layouter is off".to_owned();
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
