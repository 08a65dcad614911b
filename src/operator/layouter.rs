//! `weir layouter`: its state and its pauses.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use super::Operated;
use super::connection::{ClientFlags, Connection};
use super::output::{OutputForm, Printer, pairs};
use super::words::{at, count, counted, number, printable, text, time};
use crate::duration;
use crate::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum LayouterVerb {
    /// Print what waits, what the budgets allow, and what was decided in the last hour.
    Status(Operated<LayouterStatusFlags>),
    /// Hold improving moves, or everything, until a time or until `resume`.
    Pause(Operated<LayouterPauseFlags>),
    /// End the pause: what is due happens at once.
    Resume(Operated<LayouterResumeFlags>),
    /// Take back the improving moves that are not written yet.
    Drop(Operated<LayouterDropFlags>),
}

impl LayouterVerb {
    pub(super) fn client(&self) -> &ClientFlags {
        match self {
            Self::Status(Operated { client, .. })
            | Self::Pause(Operated { client, .. })
            | Self::Resume(Operated { client, .. })
            | Self::Drop(Operated { client, .. }) => client,
        }
    }
}

/// Executes a subcommand on the server of its flags.
pub(super) fn run(
    action: LayouterVerb,
    open: impl Fn(ClientFlags) -> Result<Connection, Failure>,
) -> Result<Exit, Failure> {
    match action {
        LayouterVerb::Status(it) => status(&open(it.client)?),
        LayouterVerb::Pause(it) => pause(&open(it.client)?, &it.own),
        LayouterVerb::Resume(it) => resume(&open(it.client)?),
        LayouterVerb::Drop(it) => drop_improving(&open(it.client)?),
    }
}

#[derive(Debug, Args)]
pub struct LayouterStatusFlags {}

#[derive(Debug, Args)]
pub struct LayouterPauseFlags {
    /// How long, for instance 30m, at most 30 days; without it until `resume`.
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    length: Option<String>,
    /// What is held.
    #[arg(long, value_enum, default_value_t = PausedMoves::Improving)]
    what: PausedMoves,
    /// Why, for those who see it in the interface.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct LayouterResumeFlags {}

#[derive(Debug, Args)]
pub struct LayouterDropFlags {}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PausedMoves {
    /// Moves for balance, for preferred labels, and back to a streamer that returned.
    Improving,
    /// Everything, also for lost and new streams.
    All,
}

fn length(text: &str) -> Result<String, String> {
    match duration::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("must be {}", duration::ALLOWED)),
    }
}

fn pause(server: &Connection, flags: &LayouterPauseFlags) -> Result<Exit, Failure> {
    let what = match flags.what {
        PausedMoves::Improving => "improving",
        PausedMoves::All => "all",
    };
    let mut wanted = json!({"what": what});
    let given = [("until", &flags.length), ("reason", &flags.reason)];
    for (member, value) in given {
        if let Some(value) = value {
            wanted[member] = Value::from(value.as_str());
        }
    }
    let saved = change(server, &json!({"pause": wanted}))?;
    server.note(&format!("layouter {}", paused(at(&saved, "paused"))));
    Ok(Exit::Done)
}

fn resume(server: &Connection) -> Result<Exit, Failure> {
    change(server, &json!({"pause": null}))?;
    server.note("layouter: not paused");
    Ok(Exit::Done)
}

fn drop_improving(server: &Connection) -> Result<Exit, Failure> {
    let dropped = change(server, &json!({"drop": "improving"}))?;
    let moves = counted(number(&dropped, "dropped"), "improving move");
    server.note(&format!("layouter: {moves} dropped"));
    Ok(Exit::Done)
}

fn change(server: &Connection, wanted: &Value) -> Result<Value, Failure> {
    let saved = server.send(Method::PUT, "/layouter", &[], Some(wanted))?;
    Ok(saved.body)
}

/// A pause in words.
fn paused(pause: &Value) -> String {
    let what = match text(pause, "what") {
        "all" => "everything",
        _ => "improving moves",
    };
    let until = match number(pause, "until") {
        0 => "until it is ended".to_owned(),
        until => format!("until {}", time(until)),
    };
    let by = printable(text(pause, "by"));
    let reason = match printable(text(pause, "reason")) {
        reason if reason.is_empty() => String::new(),
        reason => format!(": {reason}"),
    };
    format!("paused ({what}) {until}, by {by}{reason}")
}

fn status(server: &Connection) -> Result<Exit, Failure> {
    let status = server.get("/layouter")?;
    let mut printer = Printer::new();
    match server.output.output {
        OutputForm::Json => printer.json(&status)?,
        OutputForm::Jsonl => printer.line(&status.to_string())?,
        _ => printer.line(lines(&status).trim_end())?,
    }
    printer.flush()?;
    Ok(Exit::Done)
}

fn lines(status: &Value) -> String {
    let enabled = at(status, "enabled") == &Value::Bool(true);
    let waiting = format!(
        "{} urgent, {} improving, {} places missing{}",
        count(number(status, "waiting.urgent")),
        count(number(status, "waiting.improving")),
        count(number(status, "waiting.unplaced")),
        by_reason(at(status, "waiting.by_reason")),
    );
    let brake = match number(status, "brake.until") {
        0 => "off".to_owned(),
        until => format!("on until {}: no stream moves", time(until)),
    };
    let budgets = at(status, "budgets").as_object().into_iter().flatten();
    let budgets = budgets.map(|(name, budget)| {
        let (left, limit) = (number(budget, "left"), number(budget, "limit"));
        format!("{name} {} of {}", count(left), count(limit))
    });
    let hour: u64 = at(status, "moves_1h.by_reason")
        .as_object()
        .map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum());
    let reasons = by_reason(at(status, "moves_1h.by_reason"));
    let mut state = if enabled { "on" } else { "off" }.to_owned();
    let pause = at(status, "paused");
    if pause.is_object() {
        state.push_str(", ");
        state.push_str(&paused(pause));
    }
    pairs(&[
        ("layouter", state),
        ("waiting", waiting),
        ("budgets", budgets.collect::<Vec<_>>().join(", ")),
        ("brake", brake),
        ("last hour", format!("{} decided{reasons}", count(hour))),
    ])
}

/// Counts by reason, the largest first.
fn by_reason(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    let mut counts: Vec<(u64, &String)> = counts
        .filter_map(|(reason, count)| Some((count.as_u64()?, reason)))
        .collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let mut out = String::new();
    for (position, (number, reason)) in counts.into_iter().enumerate() {
        out.push_str(if position == 0 { ": " } else { ", " });
        out.push_str(&format!("{reason} {}", count(number)));
    }
    out
}
