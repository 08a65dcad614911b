//! `weir import FILE.m3u8`: the channels of a playlist become streams, saved through the API of a
//! running server.
//!
//! Only differences are saved: title, input and labels of each channel are compared with the
//! server's stream of that name. So importing a file twice changes nothing, and running again after
//! a failure finishes the work. An input counts as equal if its first URL is; other inputs, options
//! and labels of the stream stay. Streams that are not in the file are not read.
//!
//! Batches are saved whole or not at all. If the server refuses some channels of a batch, it is
//! saved without them, and each is reported with its line. With `--strict` nothing is saved unless
//! everything can be, in one batch. `playlist` reads the file, `channel` decides names, labels and
//! addresses; this file compares, saves and reports.

pub mod channel;
pub mod playlist;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::config::{self, Config, Settings};
use crate::exit::{Exit, Failure};
use crate::schema;
use crate::stdout;

use channel::{Channel, without_secrets};
use playlist::Problem;
use server::{ApiClient, BatchRefusal, ImportError};

/// Largest playlist. It is read whole; the largest known ones have a tenth of this size.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Most elements of one batch; a limit of the API.
const BATCH_MAX: usize = 10_000;

/// Most bytes of one batch. Below the server's limit for a body.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Most bytes of the names in one request. Percent-encoded in the target, they fit the server's
/// limit for a request head.
const NAMES_BYTES_MAX: usize = 4_000;

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Table,
    /// One object for programs.
    Json,
}

/// Flags of `weir import`.
#[derive(Debug, Clone, Args)]
pub struct ImportOptions {
    /// The playlist; `-` reads stdin.
    pub file: PathBuf,
    /// Base URL of the server [default: the setting api_url, else the first address of listen].
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Print what would be created and changed; save nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// All or nothing: a bad line or a refused stream fails the import, and nothing is saved.
    #[arg(long)]
    pub strict: bool,
    /// Streams per batch, each saved whole or not at all. With --strict all streams are one batch.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = batch_parser())]
    pub batch: u32,
    /// Prefix of every name, for instance iptv/.
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = prefix)]
    pub prefix: String,
    /// Form of the report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

fn batch_parser() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=BATCH_MAX as i64)
}

fn prefix(text: &str) -> Result<String, String> {
    channel::check_prefix(text).map(|()| text.to_owned())
}

/// Reads, compares, saves, reports. Skipped lines are in the report and not an error.
pub fn run(options: &ImportOptions, config: &Config) -> Result<Exit, Failure> {
    let bytes = read_file(&options.file)?;
    let server = ApiClient::new(
        &base_url(options, &config.settings)?,
        &api_key(&config.settings)?,
    )
    .map_err(|message| Failure::new(Exit::Usage, message))?;
    let started = Instant::now();
    let mut report = ImportReport::default();
    let outcome = import(&bytes, options, &server, &mut report);
    report.elapsed = started.elapsed();
    match options.output {
        Output::Table => {
            for problem in &report.skipped {
                eprintln!("line {}: {}", problem.line, problem.reason);
            }
            if report
                .skipped
                .iter()
                .any(|problem| problem.reason.ends_with(channel::HTTP_ENDINGS))
            {
                eprintln!(
                    "Write HLS or MPEG-TS addresses that end differently with hls://, hlss://, \
                     tshttp:// or tshttps://."
                );
            }
            print(&report.table(options, outcome.is_ok()))?;
        }
        Output::Json => print(&report.json(options, outcome.as_ref().err()))?,
    }
    outcome.map(|()| Exit::Done)
}

fn print(text: &str) -> Result<(), Failure> {
    stdout::print(text)
        .map_err(|error| Failure::new(Exit::Runtime, format!("cannot print the report: {error}")))
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::new(Exit::Runtime, format!("{}: {error}", path.display())))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::new(
            Exit::Runtime,
            format!("{}: larger than 256 MiB", path.display()),
        ));
    }
    Ok(bytes)
}

/// The URL of the server: `--url`, else the setting `api_url`, else the first address of `listen`.
fn base_url(options: &ImportOptions, settings: &Settings) -> Result<String, Failure> {
    if let Some(url) = options.url.as_ref().or(settings.http.api_url.as_ref()) {
        return Ok(url.clone());
    }
    let mut address = settings.http.listen[0];
    if address.port() == 0 {
        return Err(Failure::new(
            Exit::Usage,
            "the server listens on a port chosen at its start; --url is required",
        ));
    }
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(format!("http://{address}"))
}

fn api_key(settings: &Settings) -> Result<String, Failure> {
    if let Some(key) = &settings.auth.api_key {
        return Ok(key.expose().to_owned());
    }
    match config::stored_api_key(&settings.store.data_dir) {
        Ok(Some(key)) => Ok(key.expose().to_owned()),
        Ok(None) => Err(Failure::new(
            Exit::Usage,
            format!(
                "no API key: set --api-key or CENTRAL_API_KEY, or --data-dir of a server on this \
                 machine (no key in {})",
                settings.store.data_dir.display()
            ),
        )),
        Err(error) => Err(Failure::new(Exit::Runtime, error.to_string())),
    }
}

// -------------------------------------------------------------------------------------------------
// Comparing

/// A channel that has to be saved.
#[derive(Debug, Clone)]
struct ChannelChange {
    line: usize,
    url_line: usize,
    name: String,
    /// `None`: the stream is new.
    before: Option<BTreeMap<String, String>>,
    /// Fields for the report, secrets masked.
    after: BTreeMap<String, String>,
    /// The body: the name and the fields that differ.
    patch: Value,
}

/// The change that makes the server's stream equal to the channel; `None`: they are equal.
fn compare(channel: &Channel, current: Option<&Value>) -> Option<ChannelChange> {
    let mut change = ChannelChange {
        line: channel.line,
        url_line: channel.url_line,
        name: channel.name.clone(),
        before: current.map(|_| BTreeMap::new()),
        after: BTreeMap::new(),
        patch: Value::Null,
    };
    let mut patch = Map::new();
    let mut differs = |field: &str, now: Option<&str>, new: &str| {
        if let Some(before) = &mut change.before {
            before.insert(field.to_owned(), without_secrets(now.unwrap_or("")));
        }
        change.after.insert(field.to_owned(), without_secrets(new));
    };
    let text = |path: &str| {
        current
            .and_then(|stream| stream.pointer(path))
            .and_then(Value::as_str)
    };
    let title = text("/title");
    if !channel.title.is_empty() && title != Some(&channel.title) {
        differs("title", title, &channel.title);
        patch.insert("title".to_owned(), json!(channel.title));
    }
    let url = text("/inputs/0/url");
    if !url.is_some_and(|url| same_url(url, &channel.url)) {
        differs("inputs", url, &channel.url);
        patch.insert("inputs".to_owned(), json!([{ "url": channel.url }]));
    }
    let mut labels = Map::new();
    for (key, value) in &channel.labels {
        let label = text(&format!("/labels/{key}"));
        if label != Some(value) {
            differs(&format!("labels.{key}"), label, value);
            labels.insert((*key).to_owned(), json!(value));
        }
    }
    if !labels.is_empty() {
        patch.insert("labels".to_owned(), Value::Object(labels));
    }
    if patch.is_empty() && current.is_some() {
        return None;
    }
    patch.insert("name".to_owned(), json!(channel.name));
    change.patch = Value::Object(patch);
    Some(change)
}

/// The server masks secrets in lists; then the visible parts are compared.
fn same_url(current: &str, new: &str) -> bool {
    current == new || (is_masked(current) && current == without_secrets(new))
}

fn is_masked(url: &str) -> bool {
    url.contains(schema::MASK)
}

/// The server's streams of these names.
fn current_streams(
    server: &ApiClient,
    channels: &[Channel],
    progress: &ProgressLine,
) -> Result<HashMap<String, Value>, ImportError> {
    let mut streams = HashMap::new();
    let mut rest = channels;
    while !rest.is_empty() {
        let mut names = String::new();
        let mut count = 0;
        for channel in rest {
            let name = server::escape(&channel.name);
            if count > 0 && names.len() + 1 + name.len() > NAMES_BYTES_MAX {
                break;
            }
            if count > 0 {
                names.push(',');
            }
            names.push_str(&name);
            count += 1;
        }
        let response = server.get(&format!(
            "/streams?select=name,title,inputs,labels&limit={count}&name={names}"
        ))?;
        let list = response
            .get("streams")
            .and_then(Value::as_array)
            .ok_or_else(|| ImportError::Unexpected("a list without streams".to_owned()))?;
        for stream in list {
            let Some(name) = stream.get("name").and_then(Value::as_str) else {
                return Err(ImportError::Unexpected(
                    "a stream without a name".to_owned(),
                ));
            };
            let mut stream = stream.clone();
            // Lists hide secrets; the stream itself shows them to an administrator.
            let url = stream.pointer("/inputs/0/url").and_then(Value::as_str);
            if url.is_some_and(is_masked) {
                stream = server.get(&format!("/streams/{}", server::escape(name)))?;
            }
            streams.insert(name.to_owned(), stream);
        }
        rest = &rest[count..];
        progress.show("comparing", channels.len() - rest.len(), channels.len());
    }
    Ok(streams)
}

// -------------------------------------------------------------------------------------------------
// Saving

fn import(
    bytes: &[u8],
    options: &ImportOptions,
    server: &ApiClient,
    report: &mut ImportReport,
) -> Result<(), Failure> {
    let progress = ProgressLine::new();
    let playlist = playlist::parse(bytes).map_err(|problem| {
        Failure::new(
            Exit::Runtime,
            format!(
                "{} line {}: {}",
                options.file.display(),
                problem.line,
                problem.reason
            ),
        )
    })?;
    let (channels, problems) = channel::channels(&playlist.entries, &options.prefix);
    report.player_options = playlist.player_options;
    report.skipped = playlist.problems;
    report.skipped.extend(problems);
    report.skipped.sort();
    report.channels = channels.len() + report.skipped.len();
    if options.strict && !report.skipped.is_empty() {
        return Err(strict_failure(report.skipped.len()));
    }
    let current = current_streams(server, &channels, &progress)?;
    let mut changes = Vec::new();
    for channel in &channels {
        match compare(channel, current.get(&channel.name)) {
            Some(change) => changes.push(change),
            None => report.unchanged += 1,
        }
    }
    if options.strict && changes.len() > BATCH_MAX {
        return Err(Failure::new(
            Exit::Runtime,
            format!(
                "--strict saves all streams in one batch of at most {BATCH_MAX}, but {} differ; \
                 nothing was saved. Divide the file or omit --strict",
                changes.len()
            ),
        ));
    }
    if options.dry_run {
        report.changes = changes;
        return Ok(());
    }
    let total = changes.len();
    let mut rest = changes;
    while !rest.is_empty() {
        let count = if options.strict {
            rest.len()
        } else {
            batch_length(&rest, options.batch as usize)
        };
        let tail = rest.split_off(count);
        save(server, rest, options.strict, report)?;
        rest = tail;
        progress.show("saving", total - rest.len(), total);
    }
    report.skipped.sort();
    Ok(())
}

fn strict_failure(count: usize) -> Failure {
    let lines = if count == 1 {
        "1 line".to_owned()
    } else {
        format!("{count} lines")
    };
    Failure::new(
        Exit::Runtime,
        format!("{lines} cannot be imported; with --strict nothing was saved"),
    )
}

/// Changes that fit both limits of a batch, at least one.
fn batch_length(changes: &[ChannelChange], count_max: usize) -> usize {
    let mut bytes = 0;
    let fits = changes.iter().take(count_max).take_while(|change| {
        bytes += change.patch.to_string().len() + 1;
        bytes <= BATCH_BYTES_MAX
    });
    fits.count().max(1)
}

/// Saves one batch. Refused elements leave it and the rest is sent again; each round is shorter.
fn save(
    server: &ApiClient,
    mut batch: Vec<ChannelChange>,
    strict: bool,
    report: &mut ImportReport,
) -> Result<(), Failure> {
    while !batch.is_empty() {
        let body = Value::Array(batch.iter().map(|change| change.patch.clone()).collect());
        let refusals = match server.put("/streams/batch", &body) {
            Ok(()) => {
                report.changes.append(&mut batch);
                return Ok(());
            }
            Err(ImportError::Refused(refusals)) => refusals,
            Err(error) => return Err(error.into()),
        };
        let mut refused: BTreeMap<usize, Problem> = BTreeMap::new();
        for refusal in &refusals {
            let Some((index, change)) = refusal
                .index()
                .and_then(|index| Some((index, batch.get(index)?)))
            else {
                continue;
            };
            let line = if refusal.pointer.contains("/inputs") {
                change.url_line
            } else {
                change.line
            };
            refused
                .entry(index)
                .and_modify(|problem| _ = write!(problem.reason, "; {refusal}"))
                .or_insert_with(|| Problem {
                    line,
                    reason: format!("the server refuses {:?}: {refusal}", change.name),
                });
        }
        if refused.is_empty() {
            let reasons: Vec<String> = refusals.iter().map(BatchRefusal::to_string).collect();
            return Err(Failure::new(
                Exit::Runtime,
                format!("the server refuses the batch: {}", reasons.join("; ")),
            ));
        }
        let count = refused.len();
        let mut index = 0;
        batch.retain(|_| {
            index += 1;
            !refused.contains_key(&(index - 1))
        });
        report.skipped.extend(refused.into_values());
        if strict {
            report.skipped.sort();
            return Err(strict_failure(count));
        }
    }
    Ok(())
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        Self::new(
            Exit::Runtime,
            format!("{error}. Run the import again when this is fixed: it saves what is missing"),
        )
    }
}

// -------------------------------------------------------------------------------------------------
// Reporting

#[derive(Debug, Default)]
struct ImportReport {
    /// Channels of the file, with those that were skipped.
    channels: usize,
    /// Saved channels; with `--dry-run` those that would be saved.
    changes: Vec<ChannelChange>,
    unchanged: usize,
    skipped: Vec<Problem>,
    player_options: usize,
    elapsed: Duration,
}

impl ImportReport {
    fn created(&self) -> usize {
        self.changes
            .iter()
            .filter(|change| change.before.is_none())
            .count()
    }

    fn table(&self, options: &ImportOptions, complete: bool) -> String {
        let mut out = String::new();
        if options.dry_run {
            for change in &self.changes {
                let ChannelChange {
                    name,
                    line,
                    before,
                    after,
                    ..
                } = change;
                let sign = if before.is_some() { '~' } else { '+' };
                _ = writeln!(out, "{sign} {name} (line {line})");
                for (field, value) in after {
                    _ = match before.as_ref().and_then(|before| before.get(field)) {
                        Some(now) => writeln!(out, "    {field}: {now:?} -> {value:?}"),
                        None => writeln!(out, "    {field}: {value:?}"),
                    };
                }
            }
        }
        if self.player_options > 0 {
            _ = writeln!(
                out,
                "{} lines with player options (#EXTVLCOPT, #KODIPROP) ignored",
                self.player_options
            );
        }
        let created = self.created();
        let would = if options.dry_run { "would be " } else { "" };
        let ending = if complete { "" } else { ", not finished" };
        _ = writeln!(
            out,
            "{} channels: {created} {would}created, {} {would}changed, {} unchanged, {} skipped \
             in {:.2} s{ending}",
            self.channels,
            self.changes.len() - created,
            self.unchanged,
            self.skipped.len(),
            self.elapsed.as_secs_f64(),
        );
        out
    }

    fn json(&self, options: &ImportOptions, failure: Option<&Failure>) -> String {
        let created = self.created();
        let changes: Vec<Value> = self
            .changes
            .iter()
            .map(|change| {
                let action = if change.before.is_some() {
                    "change"
                } else {
                    "create"
                };
                let mut item = json!({
                    "line": change.line,
                    "name": change.name,
                    "action": action,
                    "after": change.after,
                });
                if let Some(before) = &change.before {
                    item["before"] = json!(before);
                }
                item
            })
            .collect();
        let skipped: Vec<Value> = self
            .skipped
            .iter()
            .map(|problem| json!({ "line": problem.line, "reason": problem.reason }))
            .collect();
        let report = json!({
            "file": options.file.to_string_lossy(),
            "dry_run": options.dry_run,
            "strict": options.strict,
            "channels": self.channels,
            "created": created,
            "changed": self.changes.len() - created,
            "unchanged": self.unchanged,
            "player_options_ignored": self.player_options,
            "seconds": self.elapsed.as_secs_f64(),
            "error": failure.map(|failure| failure.message.as_str()),
            "changes": changes,
            "skipped": skipped,
        });
        format!("{report:#}\n")
    }
}

/// A line on stderr that is overwritten; shown on a terminal only.
struct ProgressLine {
    on: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self {
            on: io::stderr().is_terminal(),
        }
    }

    fn show(&self, doing: &str, done: usize, all: usize) {
        if self.on {
            let end = if done == all { "\r\x1b[K" } else { "" };
            eprint!("\r{doing} {done}/{all}{end}");
        }
    }
}

#[cfg(test)]
mod tests;
