//! `weir describe`, `weir explain` and `weir history`.

use clap::Args;
use serde_json::Value;
use ureq::http::Method;

use super::connection::{Connection, failure};
use super::event;
use super::kinds::{self, ObjectKind};
use super::names;
use super::output::{Printer, pairs};
use super::words::{age, at, cell, count, counted, items, number, rate, text, time};
use crate::client::{ClientError, escape};
use crate::exit::{Exit, Failure};

/// Lines of events and of layouts in a description.
const RECENT_MAX: usize = 10;

#[derive(Debug, Args)]
pub struct DescribeFlags {
    /// stream or streamer.
    #[arg(value_parser = kinds::parse)]
    kind: &'static ObjectKind,
    #[arg(add = names::objects())]
    name: String,
}

#[derive(Debug, Args)]
pub struct ExplainFlags {
    /// The stream.
    #[arg(add = names::streams())]
    name: String,
}

#[derive(Debug, Args)]
pub struct HistoryFlags {
    /// The stream.
    #[arg(add = names::streams())]
    name: String,
}

/// A description is for people: JSON is what `weir get` prints.
pub fn describe(server: &Connection, flags: &DescribeFlags) -> Result<Exit, Failure> {
    let object = server.object(flags.kind, &flags.name)?.body;
    if server.output.is_json() {
        let mut printer = Printer::new();
        printer.json(&object)?;
        printer.flush()?;
        return Ok(Exit::Done);
    }
    let text = match flags.kind.name {
        "stream" => stream(server, &flags.name, &object)?,
        "streamer" => streamer(server, &flags.name, &object)?,
        _ => {
            let given = flags.kind.given(&object)?;
            format!("{given:#}\n")
        }
    };
    print(&text)
}

fn print(text: &str) -> Result<Exit, Failure> {
    let mut printer = Printer::new();
    printer.line(text.trim_end())?;
    printer.flush()?;
    Ok(Exit::Done)
}

/// A time and its age, `2026-11-28T18:26:29Z (3m 20s ago)`.
fn since(ms: u64) -> String {
    if ms == 0 {
        return String::new();
    }
    format!("{} ({} ago)", time(ms), age(ms))
}

fn stream(server: &Connection, name: &str, stream: &Value) -> Result<String, Failure> {
    let on = |path: &str| cell(at(stream, path));
    let mut out = pairs(&[
        ("stream", cell(at(stream, "name"))),
        ("title", on("title")),
        ("comment", on("comment")),
        (
            "disabled",
            if at(stream, "disabled") == &Value::Bool(true) {
                "yes".to_owned()
            } else {
                String::new()
            },
        ),
        ("labels", on("labels")),
        ("template", on("template")),
        ("inputs", on("inputs")),
        ("streamer", on("layout.ingest")),
        ("copies", on("layout.dvr_backups")),
        ("handed over from", on("layout.handover_from")),
        ("pinned", on("layout.pinned")),
        ("since", since(number(stream, "layout.created_at"))),
        ("why", on("layout.change_reason")),
        ("status", on("stats.status")),
        ("error", on("stats.error")),
        ("updated", since(number(stream, "updated_at"))),
    ]);
    out.push_str(&explanation(server, name)?);
    out.push_str(&timeline(server, name, RECENT_MAX)?);
    Ok(out)
}

fn streamer(server: &Connection, name: &str, streamer: &Value) -> Result<String, Failure> {
    let on = |path: &str| cell(at(streamer, path));
    let assigned = server.get(&format!(
        "/streams?layout.ingest={}&limit=1&select=name",
        escape(name)
    ))?;
    let limit = number(streamer, "channel_limit");
    let limit = if limit > 0 {
        format!(" of at most {}", count(limit))
    } else {
        String::new()
    };
    let percent = |path: &str| {
        let value = at(streamer, path).as_f64();
        value.map_or_else(String::new, |value| format!("{value:.0}%"))
    };
    let rate_of = |path: &str| {
        let value = at(streamer, path).as_f64();
        value.map_or_else(String::new, rate)
    };
    let mut out = pairs(&[
        ("streamer", on("hostname")),
        ("state", on("state.name")),
        ("why", on("state.cause")),
        ("since", since(number(streamer, "state.since"))),
        ("seen", since(number(streamer, "state.seen_at"))),
        ("maintenance", on("state.maintenance")),
        ("health", on("stats.healthcheck_status.status")),
        ("labels", on("labels")),
        ("url", on("api_url")),
        (
            "streams",
            format!("{}{limit}", count(number(&assigned, "estimated_count"))),
        ),
        ("cpu", percent("stats.cpu_usage")),
        ("memory", percent("stats.memory_usage")),
        ("in", rate_of("stats.input_kbit")),
        ("out", rate_of("stats.output_kbit")),
        ("clients", on("stats.total_clients")),
        ("version", on("stats.server_version")),
        ("updated", since(number(streamer, "updated_at"))),
    ]);
    let events = server.get(&format!(
        "/events?sort=-event_id&limit={RECENT_MAX}&entity_id={}",
        escape(name)
    ))?;
    append(
        &mut out,
        "events",
        items(&events, "events").iter().map(event::line),
    );
    Ok(out)
}

/// A title, and lines below it; nothing if there are none.
fn append(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    for (at, line) in lines.enumerate() {
        if at == 0 {
            out.push_str(&format!("\n{title}\n"));
        }
        out.push_str(&format!("  {line}\n"));
    }
}

/// `weir explain`.
pub fn explain(server: &Connection, flags: &ExplainFlags) -> Result<Exit, Failure> {
    if server.output.is_json() {
        let path = format!("/streams/{}/layout/explain", escape(&flags.name));
        let mut printer = Printer::new();
        printer.json(&server.get(&path)?)?;
        printer.flush()?;
        return Ok(Exit::Done);
    }
    print(explanation(server, &flags.name)?.trim_start())
}

/// Why a stream is where it is: one sentence, the best nodes, and all by their reasons.
fn explanation(server: &Connection, name: &str) -> Result<String, Failure> {
    let path = format!("/streams/{}/layout/explain?group=reasons", escape(name));
    let answer = match server.try_send(Method::GET, &path, &[], None) {
        Ok(answer) => answer.body,
        Err(ClientError::Status { status: 409, .. }) => {
            return Ok("\nThe layouter is off.\n".to_owned());
        }
        Err(error) => return Err(failure(&error)),
    };
    let mut out = format!("\n{}\n", cell(at(&answer, "summary")));
    let better = at(&answer, "better");
    if better.is_object() {
        out.push_str(&format!(
            "  {} is better; why not now: {}\n",
            cell(at(better, "hostname")),
            cell(at(better, "why_not_now"))
        ));
    }
    for node in items(&answer, "nodes") {
        out.push_str(&format!(
            "  {} ({}): {}\n",
            cell(at(node, "hostname")),
            cell(at(node, "role")),
            cell(at(node, "summary"))
        ));
    }
    for group in items(&answer, "groups") {
        let (nodes, role) = (number(group, "nodes"), cell(at(group, "role")));
        let nodes = counted(nodes, "node");
        let hosts = cell(at(group, "hostnames"));
        match cell(at(group, "reasons")) {
            none if none.is_empty() => {
                out.push_str(&format!("  {nodes} can ({role}): {hosts}\n"));
            }
            reasons => out.push_str(&format!("  {nodes} cannot ({role}): {reasons}: {hosts}\n")),
        }
    }
    Ok(out)
}

/// `weir history`.
pub fn history(server: &Connection, flags: &HistoryFlags) -> Result<Exit, Failure> {
    if server.output.is_json() {
        let path = format!("/streams/{}/layouts?limit=100", escape(&flags.name));
        let layouts = server.get(&path)?;
        let mut printer = Printer::new();
        printer.json(at(&layouts, "layouts"))?;
        printer.flush()?;
        return Ok(Exit::Done);
    }
    // The stream has to exist.
    let kind = kinds::parse("stream").map_err(|it| Failure::new(Exit::Runtime, it))?;
    server.object(kind, &flags.name)?;
    print(timeline(server, &flags.name, 100)?.trim_start())
}

/// Layouts of a stream and calls about it, newest first.
fn timeline(server: &Connection, name: &str, lines_max: usize) -> Result<String, Failure> {
    let name = escape(name);
    let layouts = server.get(&format!("/streams/{name}/layouts?limit={lines_max}"))?;
    let events = server.try_send(
        Method::GET,
        &format!("/events?stream={name}&event=api_call&sort=-event_id&limit={lines_max}"),
        &[],
        None,
    );
    // A token without a right to the log sees the layouts alone.
    let events = match events {
        Ok(answer) => answer.body,
        Err(ClientError::Status { status: 403, .. }) => Value::Null,
        Err(error) => return Err(failure(&error)),
    };
    let mut lines: Vec<(u64, String)> = items(&layouts, "layouts").iter().map(moved).collect();
    let calls = items(&events, "events").iter();
    lines.extend(calls.map(|call| (number(call, "utc_ms"), event::happened(call))));
    lines.sort_by_key(|(ms, _)| std::cmp::Reverse(*ms));
    lines.truncate(lines_max);
    let mut out = String::new();
    let lines = lines.into_iter();
    append(
        &mut out,
        "history",
        lines.map(|(ms, what)| format!("{}  {what}", time(ms))),
    );
    Ok(out)
}

fn moved(layout: &Value) -> (u64, String) {
    let why = match text(layout, "change_reason") {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    let by = cell(at(layout, "originator"));
    let ingest = match cell(at(layout, "ingest")) {
        none if none.is_empty() => "no streamer".to_owned(),
        host => host,
    };
    let what = format!("{by}: on {ingest}{why}");
    (number(layout, "created_at"), what)
}
