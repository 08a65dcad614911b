//! `weir token create` and `weir whoami`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use super::Operated;
use super::connection::Connection;
use super::output::{Printer, pairs};
use super::words::{at, cell, number, text, time};
use crate::client::escape;
use crate::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Create a token and print its key, once.
    Create(Operated<TokenFlags>),
}

/// What a token may do with the objects of its scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenRight {
    List,
    Read,
    Write,
    Execute,
}

#[derive(Debug, Args)]
pub struct TokenFlags {
    name: String,
    /// What it may do; reading includes lists.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    may: Vec<TokenRight>,
    /// The objects it may do that with, for instance streams/* or streams/news%2F*; with several,
    /// those of each.
    #[arg(long, value_name = "SCOPE", required = true)]
    scope: Vec<String>,
}

#[derive(Debug, Args)]
pub struct WhoamiFlags {}

pub fn create(server: &Connection, flags: &TokenFlags) -> Result<Exit, Failure> {
    let has = |right| flags.may.contains(&right);
    let mut rights = json!({});
    for (name, is_given) in [
        ("list", has(TokenRight::List) || has(TokenRight::Read)),
        ("read", has(TokenRight::Read)),
        ("write", has(TokenRight::Write)),
        ("execute", has(TokenRight::Execute)),
    ] {
        if is_given {
            rights[name] = Value::Bool(true);
        }
    }
    // The scopes of one permission have to match all.
    let of_scope = |scope: &String| {
        let mut permission = rights.clone();
        permission["scopes"] = json!([scope]);
        permission
    };
    let permissions: Vec<Value> = flags.scope.iter().map(of_scope).collect();
    let path = format!("/api_tokens/{}", escape(&flags.name));
    let body = json!({"permissions": permissions});
    // A token of this name keeps its key and its permissions.
    let only_new = [("if-none-match", "*")];
    let saved = server
        .send(Method::PUT, &path, &only_new, Some(&body))
        .map_err(|failure| match failure.exit {
            Exit::Conflict => Failure::new(
                Exit::Conflict,
                format!("token {}: {}", flags.name, failure.message),
            ),
            _ => failure,
        })?;
    let mut printer = Printer::new();
    if server.output.is_json() {
        printer.json(&saved.body)?;
    } else {
        server.note("the key is not shown again in lists:");
        printer.line(text(&saved.body, "key"))?;
    }
    printer.flush()?;
    Ok(Exit::Done)
}

pub fn whoami(server: &Connection, _flags: &WhoamiFlags) -> Result<Exit, Failure> {
    let session = server.get("/session")?;
    let mut printer = Printer::new();
    if server.output.is_json() {
        printer.json(&session)?;
    } else {
        let rights = at(&session, "may").as_object().into_iter().flatten();
        let rights = rights.filter(|(_, may)| *may == &Value::Bool(true));
        let rights: Vec<&str> = rights.map(|(right, _)| right.as_str()).collect();
        let expires = match number(&session, "expires_at") {
            0 => String::new(),
            ms => time(ms),
        };
        let lines = pairs(&[
            ("user", cell(at(&session, "user"))),
            ("may", rights.join(", ")),
            ("scopes", cell(at(&session, "scopes"))),
            ("expires", expires),
            (
                "server",
                format!("weir {}", text(&session, "server.version")),
            ),
        ]);
        printer.line(lines.trim_end())?;
    }
    printer.flush()?;
    Ok(Exit::Done)
}
