//! Changes of all streams that match filters: the server counts them, the operator confirms, and
//! the server changes those and no others.

use serde_json::{Value, json};
use ureq::http::Method;

use super::connection::Connection;
use super::progress;
use super::selection::{Agreement, confirm};
use super::words::{at, cell, counted, items, printable};
use crate::exit::{Exit, Failure};

/// Names in a question.
const NAMED_MAX: usize = 3;

/// A change of all streams that match.
pub struct BulkChange<'c> {
    /// The filters, as a query string.
    pub query: String,
    /// What is done, for the question: `disable`.
    pub verb: &'c str,
    /// What was done, for the result: `disabled`.
    pub done: &'c str,
    /// The body without what is expected.
    pub body: Value,
}

impl BulkChange<'_> {
    /// Counts them, has the operator confirm, and changes them.
    pub fn make(mut self, server: &Connection, agreement: &Agreement) -> Result<Exit, Failure> {
        let path = format!("/streams/batch_by_filter?{}", self.query);
        let dry = server.send(Method::POST, &path, &[], Some(&self.body))?;
        let dry = dry.body;
        let count = at(&dry, "count").as_u64().unwrap_or(0);
        if let Some(others) = at(&dry, "read_only").as_u64() {
            let others = counted(others, "stream");
            server.note(&format!("{others} more must not be changed with this key"));
        }
        if count == 0 {
            return Err(Failure::new(Exit::Runtime, "no stream passes the filter"));
        }
        confirm(&self.question(&dry, count), agreement.yes)?;
        self.body["expect"] = json!({"count": dry["count"], "revision": dry["revision"]});
        self.apply(server, &format!("{path}&apply=true"), count)
    }

    /// `disable 412 streams (a, b, c, ...), which moves 3 others`
    fn question(&self, dry: &Value, count: u64) -> String {
        let sample = items(dry, "sample").iter().take(NAMED_MAX);
        let mut names: Vec<String> = sample
            .map(|name| printable(&cell(name)).into_owned())
            .collect();
        if count > names.len() as u64 {
            names.push("...".to_owned());
        }
        let mut question = format!(
            "{} {} ({})",
            self.verb,
            counted(count, "stream"),
            names.join(", ")
        );
        let number = |path: &str| at(dry, path).as_u64().unwrap_or(0);
        let moved = number("moves.moves_caused");
        if moved > 0 {
            question.push_str(&format!("; {} would move", counted(moved, "stream")));
        }
        let (before, after) = (number("moves.unplaced_before"), number("moves.unplaced"));
        if after > before {
            let more = counted(after - before, "stream");
            question.push_str(&format!("; {more} would have no place"));
        }
        question
    }

    fn apply(&self, server: &Connection, path: &str, count: u64) -> Result<Exit, Failure> {
        let bar = progress::bar(server.output.quiet, count as usize);
        let last = server.send_for_lines(path, &self.body, |line| {
            bar.set_position(at(line, "done").as_u64().unwrap_or(0));
        })?;
        bar.finish_and_clear();
        let number = |member: &str| at(&last, member).as_u64().unwrap_or(0);
        let mut report = format!("{} {}", counted(number("done"), "stream"), self.done);
        if number("skipped") > 0 {
            let skipped = counted(number("skipped"), "stream");
            report = format!(
                "{} {}; {skipped} skipped: deleted or changed meanwhile",
                counted(number("done") - number("skipped"), "stream"),
                self.done
            );
        }
        match at(&last, "ended").as_str() {
            Some("complete") => {
                server.note(&report);
                Ok(Exit::Done)
            }
            Some(_) => {
                let why = items(&last, "errors").first();
                let why = why.map_or_else(String::new, |error| cell(at(error, "title")));
                let what = format!("{report}, then it ended: {why}; repeat it for the rest");
                Err(Failure::new(Exit::Runtime, what))
            }
            None => {
                let what = format!("{report}, then the connection ended; repeat it for the rest");
                Err(Failure::new(Exit::Runtime, what))
            }
        }
    }
}
