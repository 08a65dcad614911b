//! `weir what-if` and `weir capacity`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use ureq::http::Method;

use super::connection::Connection;
use super::difference::merge;
use super::kinds;
use super::names;
use super::output::{ListPrinter, OutputForm, Printer};
use super::selection::pair;
use super::words::{at, cell, count, counted, items, number};
use crate::exit::{Exit, Failure};

/// Fields of a stream that decide where it may run.
const DEMANDS: [&str; 6] = [
    "claims",
    "dvr",
    "labels",
    "namespace",
    "transcoder",
    "vision",
];

/// Loads that are printed, largest change first.
const CHANGES_MAX: usize = 10;

/// Streams whose moves are printed.
const MOVES_MAX: usize = 10;

#[derive(Debug, Args)]
pub struct WhatIfFlags {
    #[command(subcommand)]
    supposed: Supposed,
}

#[derive(Debug, Subcommand)]
enum Supposed {
    /// Streamers are lost, all at once.
    Lose {
        #[arg(required = true, value_name = "HOST", add = names::streamers())]
        hosts: Vec<String>,
    },
    /// So many streams are added.
    Add {
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        streams: u32,
        /// A stream that they are like.
        #[arg(long, value_name = "NAME")]
        like: Option<String>,
    },
    /// Limits or labels of a streamer change, or it is added: `what-if change HOST
    /// channel_limit=100`.
    Change {
        host: String,
        #[arg(required = true, value_name = "FIELD=VALUE", value_parser = pair)]
        fields: Vec<(String, String)>,
    },
}

#[derive(Debug, Args)]
pub struct CapacityFlags {}

pub fn run(server: &Connection, flags: &WhatIfFlags) -> Result<Exit, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let events: Vec<Value> = match &flags.supposed {
        Supposed::Lose { hosts } => hosts
            .iter()
            .map(|host| json!({"event": "streamer_lost", "hostname": host}))
            .collect(),
        Supposed::Add { streams, like } => {
            let kind = kinds::parse("stream").map_err(usage)?;
            let stream = match like {
                Some(name) => {
                    let mut given = kind.given(&server.object(kind, name)?.body)?;
                    if let Some(members) = given.as_object_mut() {
                        members.retain(|member, _| DEMANDS.contains(&member.as_str()));
                    }
                    given
                }
                None => json!({}),
            };
            vec![json!({"event": "streams_added", "count": streams, "stream": stream})]
        }
        Supposed::Change { host, fields } => {
            let kind = kinds::parse("streamer").map_err(usage)?;
            let mut event = json!({"event": "streamer_saved", "hostname": host});
            for (field, value) in fields {
                merge(&mut event, kind.patch(field, Some(value))?);
            }
            vec![event]
        }
    };
    let body = json!({"events": events});
    let answer = server.send(Method::POST, "/cluster/preview", &[], Some(&body))?;
    print(server, &answer.body)
}

/// Prints the answer of a preview.
pub fn print(server: &Connection, preview: &Value) -> Result<Exit, Failure> {
    let mut printer = Printer::new();
    if server.output.is_json() {
        printer.json(preview)?;
        printer.flush()?;
    } else {
        printer.line(&cell(at(preview, "summary")))?;
        let mut changes: Vec<&Value> = items(preview, "changes").iter().collect();
        let size = |change: &Value| at(change, "delta").as_i64().unwrap_or(0).unsigned_abs();
        changes.sort_by_key(|change| std::cmp::Reverse(size(change)));
        for change in changes.iter().take(CHANGES_MAX) {
            let capacity = match number(change, "capacity") {
                0 => String::new(),
                limit => format!(" of {}", count(limit)),
            };
            printer.line(&format!(
                "  {} ({}): {} -> {}{capacity}",
                cell(at(change, "hostname")),
                cell(at(change, "role")),
                count(number(change, "before")),
                count(number(change, "after")),
            ))?;
        }
        if changes.len() > CHANGES_MAX {
            let more = (changes.len() - CHANGES_MAX) as u64;
            printer.line(&format!("  {} more", counted(more, "load")))?;
        }
        let moves = items(preview, "moves_sample");
        for moved in moves.iter().take(MOVES_MAX) {
            let node = |member: &str| match cell(at(moved, member)) {
                none if none.is_empty() => "no streamer".to_owned(),
                host => host,
            };
            printer.line(&format!(
                "  {}: {} -> {}",
                cell(at(moved, "name")),
                node("from"),
                node("to")
            ))?;
        }
        let more = number(preview, "moves_caused").saturating_sub(MOVES_MAX as u64);
        if !moves.is_empty() && more > 0 {
            printer.line(&format!("  {} more", counted(more, "stream")))?;
        }
        for sample in items(preview, "unplaced_sample") {
            let name = match cell(at(sample, "name")) {
                none if none.is_empty() => "a new stream".to_owned(),
                name => name,
            };
            let reasons = cell(at(sample, "reasons"));
            printer.line(&format!("  without a place: {name} ({reasons})"))?;
        }
        for name in items(preview, "no_place_sample") {
            printer.line(&format!("  stays: {}", cell(name)))?;
        }
        printer.flush()?;
    }
    let more = number(preview, "unplaced").saturating_sub(number(preview, "unplaced_before"));
    Ok(if more > 0 || number(preview, "no_place") > 0 {
        Exit::Unhealthy
    } else {
        Exit::Done
    })
}

pub fn capacity(server: &Connection, _flags: &CapacityFlags) -> Result<Exit, Failure> {
    let capacity = server.get("/cluster/capacity")?;
    let bad = at(&capacity, "survives_any_loss") == &Value::Bool(false);
    let columns = kinds::capacity_columns();
    let classes = items(&capacity, "classes");
    if server.output.output == OutputForm::Json {
        let mut printer = Printer::new();
        printer.json(&capacity)?;
        printer.flush()?;
    } else {
        let mut list = ListPrinter::new(&server.output, columns, "labels");
        list.page(classes)?;
        list.end()?;
        for loss in items(&capacity, "losses") {
            if at(loss, "survives") == &Value::Bool(false) {
                server.note(&format!(
                    "the loss of {} would leave {} without a place",
                    cell(at(loss, "hostname")),
                    counted(number(loss, "unplaced"), "stream")
                ));
            }
        }
    }
    Ok(if bad { Exit::Unhealthy } else { Exit::Done })
}
