//! Names of streams and streamers for the completion of a shell, from the server.
//!
//! The server is that of the environment, of the chosen context or of the data directory: flags of
//! the line that is being completed are not known here. A server that does not answer in time, or
//! refuses, completes nothing, and nothing is printed.

use std::ffi::OsStr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use clap::Parser;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use super::connection::{ClientFlags, Connection};
use crate::client::escape;
use crate::config::{self, Flags};

/// Longest wait for the names: the operator has pressed a key and waits.
const WAIT_MAX: Duration = Duration::from_millis(300);
/// Names of one completion.
const NAMES_MAX: usize = 100;

/// The defaults of the flags of all clients.
#[derive(Parser)]
struct NoFlags {
    #[command(flatten)]
    client: ClientFlags,
}

/// Completes names of objects of the kind that the line names.
pub fn objects() -> ArgValueCompleter {
    ArgValueCompleter::new(|given: &OsStr| {
        let words: Vec<_> = std::env::args_os().collect();
        let has = |names: [&str; 2]| words.iter().any(|word| names.iter().any(|it| word == it));
        if has(["streamer", "streamers"]) {
            complete("/streamers", "streamers", "hostname", given)
        } else if has(["stream", "streams"]) {
            complete("/streams", "streams", "name", given)
        } else {
            Vec::new()
        }
    })
}

/// Completes names of streams.
pub fn streams() -> ArgValueCompleter {
    ArgValueCompleter::new(|given: &OsStr| complete("/streams", "streams", "name", given))
}

/// Completes hostnames of streamers.
pub fn streamers() -> ArgValueCompleter {
    ArgValueCompleter::new(|given: &OsStr| complete("/streamers", "streamers", "hostname", given))
}

fn complete(
    path: &'static str,
    list: &'static str,
    key: &'static str,
    given: &OsStr,
) -> Vec<CompletionCandidate> {
    let Some(begin) = given.to_str().map(str::to_owned) else {
        return Vec::new();
    };
    let (sender, names) = channel();
    // Without the time limits and repetitions of the client: the process ends before them.
    thread::spawn(move || {
        // The receiver may be gone.
        let _ = sender.send(names_from_server(path, list, key, &begin));
    });
    let names = names.recv_timeout(WAIT_MAX).ok().flatten();
    let names = names.unwrap_or_default().into_iter();
    names.map(CompletionCandidate::new).collect()
}

fn names_from_server(path: &str, list: &str, key: &str, begin: &str) -> Option<Vec<String>> {
    let environment: Vec<_> = std::env::vars_os().collect();
    let config = config::read(None, &environment, &Flags::default()).ok()?;
    let NoFlags { client } = NoFlags::try_parse_from(["weir"]).ok()?;
    let server = Connection::open(client, &config).ok()?;
    let mut query = format!("{path}?select={key}&sort={key}&limit={NAMES_MAX}");
    if !begin.is_empty() {
        query.push_str(&format!("&{key}_gte={}", escape(begin)));
    }
    let page = server.get(&query).ok()?;
    let names = page[list].as_array()?.iter();
    let names = names.filter_map(|item| item[key].as_str());
    Some(
        names
            .take_while(|name| name.starts_with(begin))
            .filter(|name| !name.chars().any(char::is_control))
            .map(str::to_owned)
            .collect(),
    )
}
