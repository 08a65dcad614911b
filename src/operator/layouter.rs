//! `weir layouter status`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Operated;
use super::connection::Connection;
use super::output::{OutputForm, Printer, pairs};
use super::words::{at, count, number, time};
use crate::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum LayouterVerb {
    /// Print what waits, what the budgets allow, and what was decided in the last hour.
    Status(Operated<LayouterStatusFlags>),
}

#[derive(Debug, Args)]
pub struct LayouterStatusFlags {}

pub fn status(server: &Connection, _flags: &LayouterStatusFlags) -> Result<Exit, Failure> {
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
    let state = if enabled { "on" } else { "off" };
    pairs(&[
        ("layouter", state.to_owned()),
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
