//! Changes of objects: fields, labels, switches, deletion, moves.

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::bulk::BulkChange;
use super::connection::{Connection, failure};
use super::difference::merge;
use super::kinds::{self, ObjectKind};
use super::names;
use super::output::Printer;
use super::progress;
use super::selection::{Selected, Selection};
use super::words::{at, cell, counted, items, printable};
use crate::client::ClientError;
use crate::exit::{Exit, Failure};

/// Objects of one batch, which is saved whole or not at all.
const BATCH_MAX: usize = 1000;

/// Bytes of one batch, below the server's limit for a body.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Refused streams that an error names.
const REFUSED_MAX: usize = 5;

#[derive(Debug, Args)]
pub struct SetFlags {
    /// The kind of the objects, for instance stream.
    #[arg(value_parser = kinds::parse)]
    kind: &'static ObjectKind,
    /// Names, then changes: FIELD=VALUE sets a field, FIELD- removes it.
    #[arg(required = true, value_name = "NAME|FIELD=VALUE|FIELD-", add = names::objects())]
    terms: Vec<String>,
    /// Create objects that do not exist.
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct SwitchFlags {
    /// Names of streams, with or without `stream` before them.
    #[arg(value_name = "NAME", add = names::streams())]
    names: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct LabelFlags {
    /// Names of streams, then labels: KEY=VALUE sets one, KEY- removes it.
    #[arg(required = true, value_name = "NAME|KEY=VALUE|KEY-", add = names::streams())]
    terms: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct DeleteFlags {
    /// The kind of the objects, for instance stream.
    #[arg(value_parser = kinds::parse)]
    kind: &'static ObjectKind,
    #[arg(value_name = "NAME", add = names::objects())]
    names: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct MoveFlags {
    #[arg(value_name = "NAME", add = names::streams())]
    names: Vec<String>,
    /// The streamer that they move to.
    #[arg(long, value_name = "HOST", add = names::streamers())]
    to: String,
    /// Move also what the layouter would move away again.
    #[arg(long)]
    force: bool,
    /// Keep them there while that is legal.
    #[arg(long)]
    pin: bool,
    /// Print which moves the layouter would undo, and move nothing; exits with 3 if there are any.
    #[arg(long, conflicts_with = "force")]
    dry_run: bool,
    #[command(flatten)]
    selection: Selection,
}

/// Splits terms into names and changes: a change is `FIELD=VALUE` or `FIELD-`.
fn names_and_changes(terms: &[String]) -> (Vec<String>, Vec<(&str, Option<&str>)>) {
    let is_change = |term: &&String| term.contains('=') || term.ends_with('-');
    let first = terms.iter().position(|term| is_change(&term));
    let (names, changes) = terms.split_at(first.unwrap_or(terms.len()));
    let changes = changes.iter().map(|term| match term.split_once('=') {
        Some((field, value)) => (field, Some(value)),
        None => (term.strip_suffix('-').unwrap_or(term), None),
    });
    (names.to_vec(), changes.collect())
}

/// The patch of all changes.
fn patch_of(
    kind: &ObjectKind,
    changes: &[(&str, Option<&str>)],
    prefix: &str,
) -> Result<Value, Failure> {
    if changes.is_empty() {
        let what = "nothing to change: give FIELD=VALUE or FIELD-";
        return Err(Failure::new(Exit::Usage, what));
    }
    let mut patch = json!({});
    for (field, value) in changes {
        merge(&mut patch, kind.patch(&format!("{prefix}{field}"), *value)?);
    }
    Ok(patch)
}

/// `weir set`.
pub fn set(server: &Connection, flags: &SetFlags) -> Result<Exit, Failure> {
    let (names, changes) = names_and_changes(&flags.terms);
    let patch = patch_of(flags.kind, &changes, "")?;
    let change = SavedPatch {
        kind: flags.kind,
        verb: "change",
        done: "changed",
        patch,
        must_exist: !flags.create,
    };
    change.make(server, &flags.selection, &names)
}

/// `weir label`.
pub fn label(server: &Connection, flags: &LabelFlags) -> Result<Exit, Failure> {
    let kind = stream()?;
    let (names, changes) = names_and_changes(&flags.terms);
    let change = SavedPatch {
        kind,
        verb: "label",
        done: "labelled",
        patch: patch_of(kind, &changes, "labels.")?,
        must_exist: true,
    };
    change.make(server, &flags.selection, &names)
}

/// `weir enable` and `weir disable`.
pub fn switch(
    server: &Connection,
    flags: &SwitchFlags,
    is_disabled: bool,
) -> Result<Exit, Failure> {
    let kind = stream()?;
    let (verb, done) = if is_disabled {
        ("disable", "disabled")
    } else {
        ("enable", "enabled")
    };
    let change = SavedPatch {
        kind,
        verb,
        done,
        patch: json!({"disabled": is_disabled}),
        must_exist: true,
    };
    change.make(server, &flags.selection, without_kind(&flags.names))
}

/// One patch for all objects of a selection.
struct SavedPatch<'c> {
    kind: &'static ObjectKind,
    verb: &'c str,
    done: &'c str,
    patch: Value,
    must_exist: bool,
}

impl SavedPatch<'_> {
    fn make(
        self,
        server: &Connection,
        selection: &Selection,
        given: &[String],
    ) -> Result<Exit, Failure> {
        let Self {
            kind,
            verb,
            done,
            patch,
            must_exist,
        } = self;
        if !is_stream(kind) {
            let names = selection.names(server, kind, given, verb)?;
            return save(server, kind, &names, &patch, must_exist);
        }
        match selection.streams(server, kind, given)? {
            Selected::Names(names) => save(server, kind, &names, &patch, must_exist),
            Selected::Matching(query) => {
                let body = json!({ "patch": patch });
                let change = BulkChange {
                    query,
                    verb,
                    done,
                    body,
                };
                change.make(server, selection.agreement())
            }
        }
    }
}

/// Whether the server changes all objects of this kind that match.
fn is_stream(kind: &ObjectKind) -> bool {
    kind.list == "streams"
}

/// `disable stream NAME` is `disable NAME`.
fn without_kind(names: &[String]) -> &[String] {
    match names {
        [kind, rest @ ..] if !rest.is_empty() && ["stream", "streams"].contains(&kind.as_str()) => {
            rest
        }
        _ => names,
    }
}

fn stream() -> Result<&'static ObjectKind, Failure> {
    kinds::parse("stream").map_err(|what| Failure::new(Exit::Runtime, what))
}

/// Saves the same patch for all names, and prints how many.
fn save(
    server: &Connection,
    kind: &ObjectKind,
    names: &[String],
    patch: &Value,
    must_exist: bool,
) -> Result<Exit, Failure> {
    let changes: Vec<ObjectChange> = names
        .iter()
        .map(|name| ObjectChange {
            name: name.clone(),
            patch: patch.clone(),
            must_exist,
        })
        .collect();
    save_all(server, kind, &changes)?;
    let saved = counted(names.len() as u64, kind.name);
    server.note(&format!("{saved} saved"));
    Ok(Exit::Done)
}

/// A change of one object.
pub struct ObjectChange {
    pub name: String,
    pub patch: Value,
    /// It is not created if it does not exist.
    pub must_exist: bool,
}

/// Saves changes in batches, each whole or not at all.
pub fn save_all(
    server: &Connection,
    kind: &ObjectKind,
    changes: &[ObjectChange],
) -> Result<(), Failure> {
    let bar = progress::bar(server.output.quiet, changes.len());
    if let (true, [_, _, ..]) = (kind.has_batch, changes) {
        let mut rest = changes;
        while !rest.is_empty() {
            let (batch, count) = batch(kind, rest);
            let path = format!("{}/batch", kind.path);
            let sent = server.try_send(Method::PUT, &path, &[], Some(&batch));
            sent.map_err(|error| {
                let saved = changes.len() - rest.len();
                refused(&error, &rest[..count], saved)
            })?;
            bar.inc(count as u64);
            rest = &rest[count..];
        }
    } else {
        for (saved, change) in changes.iter().enumerate() {
            let path = kind.path_of(&change.name);
            let condition: &[(&str, &str)] = if change.must_exist {
                &[("if-match", "*")]
            } else {
                &[]
            };
            let sent = server.try_send(Method::PUT, &path, condition, Some(&change.patch));
            sent.map_err(|error| refused(&error, std::slice::from_ref(change), saved))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The body of the next batch, and how many changes it has.
fn batch(kind: &ObjectKind, changes: &[ObjectChange]) -> (Value, usize) {
    let mut items = Vec::new();
    let mut bytes = 0;
    for change in changes.iter().take(BATCH_MAX) {
        let mut item = change.patch.clone();
        item[kind.key] = Value::from(change.name.as_str());
        if change.must_exist {
            item["if_match"] = Value::from("*");
        }
        let size = item.to_string().len();
        if !items.is_empty() && bytes + size > BATCH_BYTES_MAX {
            break;
        }
        bytes += size;
        items.push(item);
    }
    let count = items.len();
    (Value::Array(items), count)
}

/// The refusal of a save, with the names of the objects.
fn refused(error: &ClientError, changes: &[ObjectChange], saved: usize) -> Failure {
    let before = if saved > 0 {
        format!("{saved} were saved before: ")
    } else {
        String::new()
    };
    let reasons = match error {
        ClientError::Status { reasons, .. } | ClientError::Refused(reasons) => reasons.as_slice(),
        _ => &[],
    };
    let of_one = changes.len() == 1;
    let named = reasons.iter().filter_map(|reason| {
        let change = if of_one {
            changes.first()
        } else {
            changes.get(reason.index()?)
        };
        let name = printable(&change?.name).into_owned();
        if reason.code == "precondition_failed" {
            return Some(format!("{name} does not exist"));
        }
        Some(format!("{name}: {reason} ({})", reason.code))
    });
    let named: Vec<String> = named.collect();
    let failure = failure(error);
    if named.is_empty() {
        return Failure::new(failure.exit, format!("{before}{}", failure.message));
    }
    let more = named.len().saturating_sub(REFUSED_MAX);
    let mut text = named[..named.len() - more].join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    Failure::new(failure.exit, format!("{before}{text}"))
}

/// `weir delete`. What is not there any more is printed and is no error.
pub fn delete(server: &Connection, flags: &DeleteFlags) -> Result<Exit, Failure> {
    let (kind, selection) = (flags.kind, &flags.selection);
    if is_stream(kind)
        && let Selected::Matching(query) = selection.streams(server, kind, &flags.names)?
    {
        let change = BulkChange {
            query,
            verb: "delete",
            done: "deleted",
            body: json!({"delete": true}),
        };
        return change.make(server, selection.agreement());
    }
    let names = selection.names(server, kind, &flags.names, "delete")?;
    delete_all(server, kind, &names)
}

pub fn delete_all(
    server: &Connection,
    kind: &ObjectKind,
    names: &[String],
) -> Result<Exit, Failure> {
    let bar = progress::bar(server.output.quiet, names.len());
    let mut deleted = 0;
    for name in names {
        match server.try_send(Method::DELETE, &kind.path_of(name), &[], None) {
            Ok(_) => deleted += 1,
            Err(ClientError::Status {
                status: 404,
                reasons,
                ..
            }) if !reasons.is_empty() => {
                server.note(&format!("{}: {}", printable(name), reasons[0]));
            }
            Err(error) => {
                let failure = failure(&error);
                let what = format!(
                    "{}: {}; {} deleted before",
                    printable(name),
                    failure.message,
                    counted(deleted, kind.name)
                );
                return Err(Failure::new(failure.exit, what));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    server.note(&format!("{} deleted", counted(deleted, kind.name)));
    let all = deleted == names.len() as u64;
    Ok(if all { Exit::Done } else { Exit::Runtime })
}

/// `weir move`.
pub fn relocate(server: &Connection, flags: &MoveFlags) -> Result<Exit, Failure> {
    let kind = stream()?;
    let given = without_kind(&flags.names);
    let selected = flags.selection.streams(server, kind, given)?;
    let names = match &selected {
        Selected::Names(names) => names.clone(),
        // The layouter is not consulted.
        Selected::Matching(_) if flags.force => Vec::new(),
        Selected::Matching(query) => Selection::found(server, kind, query)?,
    };
    let body = |batch: &[String]| {
        let layout = |name: &String| {
            json!({
                "name": name, "ingest": flags.to, "force": flags.force, "pinned": flags.pin,
            })
        };
        json!({"layouts": batch.iter().map(layout).collect::<Vec<_>>()})
    };
    if flags.dry_run || !flags.force {
        let mut verdicts = Vec::new();
        for batch in names.chunks(BATCH_MAX) {
            verdicts.extend(verdicts_on(server, &body(batch), flags.dry_run)?);
        }
        if flags.dry_run {
            return print_verdicts(server, &verdicts);
        }
        refuse_undone(&verdicts)?;
    }
    if let Selected::Matching(query) = selected {
        let change = BulkChange {
            query,
            verb: "move",
            done: "moved",
            body: json!({
                "move": {"ingest": flags.to, "force": flags.force, "pinned": flags.pin},
            }),
        };
        return change.make(server, flags.selection.agreement());
    }
    let bar = progress::bar(server.output.quiet, names.len());
    for batch in names.chunks(BATCH_MAX) {
        server.send(Method::POST, "/streams/layouts", &[], Some(&body(batch)))?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let moved = counted(names.len() as u64, "stream");
    server.note(&format!("{moved} moved to {}", flags.to));
    Ok(Exit::Done)
}

/// The server's verdicts about layouts; none while the layouter is off, unless they are `needed`.
fn verdicts_on(server: &Connection, body: &Value, needed: bool) -> Result<Vec<Value>, Failure> {
    let path = "/streams/layouts?dry_run=true";
    match server.try_send(Method::POST, path, &[], Some(body)) {
        Ok(answer) => Ok(items(&answer.body, "layouts").to_vec()),
        Err(ClientError::Status { status: 409, .. }) if !needed => Ok(Vec::new()),
        Err(error) => Err(failure(&error)),
    }
}

fn is_undone(verdict: &Value) -> bool {
    at(verdict, "verdict") != &Value::from("ok")
}

fn has_reasons(verdict: &Value) -> bool {
    !items(verdict, "reasons").is_empty()
}

fn objected(verdict: &Value) -> String {
    let name = cell(at(verdict, "name"));
    format!("{}: {}", printable(&name), cell(at(verdict, "reasons")))
}

fn print_verdicts(server: &Connection, verdicts: &[Value]) -> Result<Exit, Failure> {
    let mut printer = Printer::new();
    if server.output.is_json() {
        printer.json(&Value::from(verdicts.to_vec()))?;
    } else {
        for verdict in verdicts {
            if is_undone(verdict) {
                printer.line(&format!("{} (would be undone)", objected(verdict)))?;
            } else if has_reasons(verdict) {
                printer.line(&format!("{} (would stay)", objected(verdict)))?;
            } else {
                printer.line(&format!("{}: ok", printable(&cell(at(verdict, "name")))))?;
            }
        }
    }
    printer.flush()?;
    Ok(if verdicts.iter().any(is_undone) {
        Exit::Unhealthy
    } else {
        Exit::Done
    })
}

/// Fails if the layouter would undo some of the moves, or something speaks against them.
fn refuse_undone(verdicts: &[Value]) -> Result<(), Failure> {
    let refused = verdicts
        .iter()
        .filter(|it| is_undone(it) || has_reasons(it));
    let refused = refused.map(objected);
    let refused: Vec<String> = refused.collect();
    if refused.is_empty() {
        return Ok(());
    }
    let more = refused.len().saturating_sub(REFUSED_MAX);
    let mut what = refused[..refused.len() - more].join("\n  ");
    if more > 0 {
        what.push_str(&format!("\n  and {more} more"));
    }
    let what = format!(
        "the layouter objects to these and may move them again; --force moves them all the \
         same\n  {what}"
    );
    Err(Failure::new(Exit::Conflict, what))
}
