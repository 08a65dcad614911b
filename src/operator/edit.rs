//! `weir edit`: an object in the operator's editor.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use clap::Args;
use serde_json::Value;
use ureq::http::Method;

use super::connection::Connection;
use super::difference::{lines, patch_between};
use super::kinds::{self, ObjectKind};
use super::names;
use super::selection::{Agreement, confirm};
use super::words::{counted, number};
use crate::config::Config;
use crate::exit::{Exit, Failure, cannot};

#[derive(Debug, Args)]
pub struct EditFlags {
    /// The kind of the object, for instance stream.
    #[arg(value_parser = kinds::parse)]
    kind: &'static ObjectKind,
    #[arg(add = names::objects())]
    name: String,
    #[command(flatten)]
    agreement: Agreement,
}

pub fn run(server: &Connection, flags: &EditFlags, config: &Config) -> Result<Exit, Failure> {
    let kind = flags.kind;
    let answer = server.object(kind, &flags.name)?;
    let Some(etag) = answer.etag else {
        let what = "unexpected response: no ETag";
        return Err(Failure::new(Exit::Runtime, what));
    };
    let before = kind.given(&answer.body)?;
    let directory = tempfile::tempdir().map_err(cannot("create a file to edit"))?;
    let file = directory.path().join("object.json");
    let written = fs::File::create(&file).and_then(|mut file| writeln!(file, "{before:#}"));
    written.map_err(cannot("create a file to edit"))?;
    let variable = |name: &str| {
        let mut all = config.sources.environment.iter();
        let found = all.find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.clone())
    };
    let editor = variable("VISUAL").or_else(|| variable("EDITOR"));
    let editor = editor.unwrap_or_else(|| "vi".into());
    // An editor may have flags, so the shell splits its text.
    let status = Command::new("sh")
        .arg("-c")
        .arg("eval \"$0 \\\"\\$1\\\"\"")
        .arg(&editor)
        .arg(&file)
        .status()
        .map_err(cannot("run the editor"))?;
    if !status.success() {
        return Err(Failure::new(
            Exit::Runtime,
            "the editor failed; nothing was changed",
        ));
    }
    let text = fs::read_to_string(&file).map_err(cannot("read the edited file"))?;
    let result = save(server, flags, (&before, &etag), &text);
    if result
        .as_ref()
        .is_err_and(|failure| failure.exit != Exit::Usage)
    {
        // What was typed is worth more than the error.
        let kept = directory.keep().join("object.json");
        eprintln!("the edited text is kept in {}", kept.display());
    }
    result
}

fn save(
    server: &Connection,
    flags: &EditFlags,
    (before, etag): (&Value, &str),
    text: &str,
) -> Result<Exit, Failure> {
    let kind = flags.kind;
    let after: Value = serde_json::from_str(text).map_err(cannot("read the edited text"))?;
    if after[kind.key] != before[kind.key] {
        let what = format!("{} is the name of the object and stays", kind.key);
        return Err(Failure::new(Exit::Runtime, what));
    }
    let Some(patch) = patch_between(before, &after) else {
        server.note("nothing was changed");
        return Ok(Exit::Done);
    };
    let shown = lines(&kind.masked(before), &kind.masked(&after));
    for line in &shown {
        server.note(&format!("  {line}"));
    }
    if shown.is_empty() {
        server.note("  a secret changes");
    }
    let path = kind.path_of(&flags.name);
    let mut what = "save".to_owned();
    if ["stream", "streamer"].contains(&kind.name) {
        let preview = format!("{path}/preview_layout_change");
        if let Some(preview) = server.preview(&preview, &patch)? {
            let moves = number(&preview, "moves_caused");
            if moves > 0 {
                what = format!("save and move {}", counted(moves, "stream"));
            }
        }
    }
    confirm(&what, flags.agreement.yes)?;
    server.send(Method::PUT, &path, &[("if-match", etag)], Some(&patch))?;
    server.note("saved");
    Ok(Exit::Done)
}
