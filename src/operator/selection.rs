//! Which objects a change is about: names, labels, or filters.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;
use serde_json::Value;

use super::connection::Connection;
use super::kinds::ObjectKind;
use super::words;
use crate::client::escape;
use crate::exit::{Exit, Failure};

/// Most objects of one change.
const SELECTED_MAX: usize = 1_000_000;

#[derive(Debug, Args)]
pub struct Filters {
    /// Only objects with this label; several must all be there.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Only objects that pass this filter of the API, for instance layout.ingest=HOST or
    /// title_like=news.
    #[arg(long = "filter", value_name = "FIELD=VALUE", value_parser = pair)]
    filters: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct Agreement {
    /// Agree beforehand: what a filter found is changed without a question.
    #[arg(short, long)]
    pub yes: bool,
}

/// What a change is about.
pub enum Selected {
    Names(Vec<String>),
    /// All streams that pass filters, which are a query string: the server finds them.
    Matching(String),
}

/// The objects of a change beside those that are named.
#[derive(Debug, Args)]
pub struct Selection {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    agreement: Agreement,
}

/// `FIELD=VALUE`, for clap.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (field, value) = text.split_once('=').ok_or("must be FIELD=VALUE")?;
    if field.is_empty() {
        return Err("must be FIELD=VALUE".to_owned());
    }
    Ok((field.to_owned(), value.to_owned()))
}

/// Filters as a part of a query.
pub fn query<'p>(pairs: impl IntoIterator<Item = &'p (String, String)>) -> String {
    let parts = pairs
        .into_iter()
        .map(|(field, value)| format!("{}={}", escape(field), escape(value)));
    parts.collect::<Vec<_>>().join("&")
}

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.filters.is_empty()
    }

    pub fn query(&self) -> String {
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| (format!("labels.{key}"), value.clone()));
        let all: Vec<(String, String)> = labels.chain(self.filters.iter().cloned()).collect();
        query(&all)
    }
}

impl Selection {
    /// The agreement to what filters found.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// The streams: those given, or filters.
    pub fn streams(
        &self,
        server: &Connection,
        kind: &ObjectKind,
        given: &[String],
    ) -> Result<Selected, Failure> {
        if given.is_empty() && !self.filters.is_empty() {
            return Ok(Selected::Matching(self.filters.query()));
        }
        self.names(server, kind, given, "").map(Selected::Names)
    }

    /// The names of all that pass a query.
    pub fn found(
        server: &Connection,
        kind: &ObjectKind,
        filters: &str,
    ) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        let query = format!("select={}&{filters}", kind.key);
        server.pages(kind, &query, SELECTED_MAX, |rows| {
            let found = rows.iter().filter_map(|row| row[kind.key].as_str());
            names.extend(found.map(str::to_owned));
            Ok(true)
        })?;
        if names.is_empty() {
            let what = format!("no {} passes the filter", kind.name);
            return Err(Failure::new(Exit::Runtime, what));
        }
        Ok(names)
    }

    /// The names of the objects: those given, or all that pass the filters, which the operator has
    /// to confirm.
    pub fn names(
        &self,
        server: &Connection,
        kind: &ObjectKind,
        given: &[String],
        verb: &str,
    ) -> Result<Vec<String>, Failure> {
        match (given.is_empty(), self.filters.is_empty()) {
            (false, true) => return Ok(given.to_vec()),
            (true, true) => {
                let what = format!("no {} is named: give names, --label or --filter", kind.name);
                return Err(Failure::new(Exit::Usage, what));
            }
            (false, false) => {
                let what = "either names or filters, not both";
                return Err(Failure::new(Exit::Usage, what));
            }
            (true, false) => {}
        }
        let names = Self::found(server, kind, &self.filters.query())?;
        let count = words::counted(names.len() as u64, kind.name);
        confirm(&format!("{verb} {count}"), self.agreement.yes)?;
        Ok(names)
    }
}

/// Continues if the operator agrees: by `--yes`, or by `y` on a terminal.
pub fn confirm(what: &str, is_agreed: bool) -> Result<(), Failure> {
    if is_agreed {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let what = format!("{what}: not confirmed; --yes confirms");
        return Err(Failure::new(Exit::Usage, what));
    }
    eprint!("{what}? [y/N] ");
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if read.is_ok() && ["y", "yes"].contains(&line.trim()) {
        return Ok(());
    }
    Err(Failure::new(Exit::Runtime, "nothing was changed"))
}

/// Whether an object has a label.
pub fn has_label(object: &Value, (key, value): &(String, String)) -> bool {
    object["labels"][key] == Value::String(value.clone())
}
