//! `weir get`: lists and objects.

use clap::Args;
use serde_json::Value;

use super::connection::Connection;
use super::kinds::{self, Column, ObjectKind};
use super::names;
use super::output::{ListPrinter, OutputForm};
use super::selection::{Filters, query};
use super::words;
use crate::client::escape;
use crate::exit::{Exit, Failure};

#[derive(Debug, Args)]
pub struct GetFlags {
    /// streams, streamers, agents, tokens, auth-backends, balancers, episodes or persons.
    #[arg(value_parser = kinds::parse)]
    kind: &'static ObjectKind,
    /// Names, or filters of the API as FIELD=VALUE; q=TEXT searches.
    #[arg(add = names::objects())]
    terms: Vec<String>,
    #[command(flatten)]
    filters: Filters,
    /// Sort by fields of the API, for instance -stats.bitrate,name.
    #[arg(long, value_name = "FIELDS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Most objects that are printed.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print all objects.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

pub fn run(server: &Connection, flags: &GetFlags) -> Result<Exit, Failure> {
    let kind = flags.kind;
    let (filters, names): (Vec<&String>, Vec<&String>) =
        flags.terms.iter().partition(|term| term.contains('='));
    let filters: Vec<(String, String)> = filters
        .into_iter()
        .filter_map(|term| term.split_once('='))
        .map(|(field, value)| (field.to_owned(), value.to_owned()))
        .collect();
    let form = server.output.output;
    let columns = columns(server, kind);
    if !names.is_empty() {
        if !filters.is_empty() || !flags.filters.is_empty() {
            let what = "either names or filters, not both";
            return Err(Failure::new(Exit::Usage, what));
        }
        return objects(server, kind, &names, columns);
    }
    let mut parts = vec![query(&filters), flags.filters.query()];
    if let Some(sort) = &flags.sort {
        parts.push(format!("sort={}", escape(sort)));
    }
    let selects = !server.output.is_json() || !server.output.columns.is_empty();
    if selects {
        let fields = columns.iter().flat_map(Column::fields);
        let fields: Vec<&str> = std::iter::once(kind.key).chain(fields).collect();
        parts.push(format!("select={}", fields.join(",")));
    }
    parts.retain(|part| !part.is_empty());
    let limit = if flags.all {
        usize::MAX
    } else {
        flags.limit as usize
    };
    let mut list = ListPrinter::new(&server.output, columns, kind.key);
    let estimated = server.pages(kind, &parts.join("&"), limit, |rows| {
        list.page(rows)?;
        Ok(!list.printer.is_closed())
    })?;
    let count = list.end()? as u64;
    if count == 0 && form != OutputForm::Json {
        server.note(&format!("no {} found", kind.name));
    } else if count < estimated && count == limit as u64 {
        server.note(&format!(
            "{} of {}; --all prints the rest",
            words::count(count),
            words::counted(estimated, kind.name)
        ));
    }
    Ok(Exit::Done)
}

fn columns(server: &Connection, kind: &ObjectKind) -> Vec<Column> {
    let flags = &server.output;
    if flags.columns.is_empty() {
        return kind.columns(flags.output == OutputForm::Wide);
    }
    flags.columns.iter().map(|it| Column::named(it)).collect()
}

/// Objects by name, with all that the caller may see of them. One that is not found is an error
/// after the others are printed.
fn objects(
    server: &Connection,
    kind: &ObjectKind,
    names: &[&String],
    columns: Vec<Column>,
) -> Result<Exit, Failure> {
    let mut found: Vec<Value> = Vec::new();
    let mut missing = None;
    for name in names {
        match server.object(kind, name) {
            Ok(answer) => found.push(answer.body),
            Err(failure) => {
                let message = format!("{}: {}", words::printable(name), failure.message);
                missing.get_or_insert(Failure::new(failure.exit, message));
            }
        }
    }
    let mut list = ListPrinter::new(&server.output, columns, kind.key);
    if names.len() == 1 && server.output.output == OutputForm::Json {
        if let Some(object) = found.first() {
            list.printer.json(object)?;
            list.printer.flush()?;
        }
    } else {
        list.page(&found)?;
        list.end()?;
    }
    missing.map_or(Ok(Exit::Done), Err)
}
