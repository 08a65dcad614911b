//! `weir import FILE`: the channels of a playlist, or the rows of a CSV file, become streams, saved
//! through the API of a running server.
//!
//! Only differences are saved: title, position, inputs and labels of each channel are compared with
//! the server's stream. So importing a file twice changes nothing, and running again after a
//! failure finishes the work. Members and inputs that an operator added stay. Streams that are not
//! in the file do not change.
//!
//! Batches are saved whole or not at all. If the server refuses some channels of a batch, it is
//! saved without them, and each is reported with its line. With `--strict` nothing is saved unless
//! everything can be, in one batch. `playlist` or `csv_file` reads the file, `channel` decides
//! names, labels and addresses, `stored` finds the streams of the channels, `compare` makes the
//! changes; this file saves.

mod address;
pub mod channel;
mod compare;
mod csv_file;
mod player_options;
pub mod playlist;
mod report;
mod stored;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::client::{ApiClient, BatchRefusal, ClientError};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::operator::connection::ServerFlags;
use crate::operator::progress;
use crate::stdout;

use channel::Channel;
use compare::{ChannelChange, compare};
use playlist::{Playlist, Problem};
use report::ImportReport;

/// Largest playlist. It is read whole; the largest known ones have a tenth of this size.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Most elements of one batch; a limit of the API.
const BATCH_MAX: usize = 10_000;

/// Most bytes of one batch. Below the server's limit for a body.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Table,
    /// One object for programs.
    Json,
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileForm {
    /// An extended M3U playlist.
    M3u,
    /// A table with a row of names above it.
    Csv,
}

/// Flags of `weir import`.
#[derive(Debug, Clone, Args)]
pub struct ImportOptions {
    /// The playlist or CSV file; `-` reads stdin. A file without a channel that can be imported is
    /// an error.
    pub file: PathBuf,
    /// Form of the file [default: csv if its name ends in .csv, else m3u].
    ///
    /// The first line of a CSV file names its columns, separated by a comma or a semicolon: `url`
    /// (required; several columns are several inputs), `name`, `title`, `position`, `comment`,
    /// `template`, `disabled`, `static`, `user_agent`, `header.NAME` and `label.KEY`. Without a
    /// name it is made from the title, as in a playlist. An empty cell changes nothing.
    #[arg(long, value_enum, value_name = "FORM")]
    pub format: Option<FileForm>,
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
    #[command(flatten)]
    pub report: ReportFlags,
}

/// How an import is reported.
#[derive(Debug, Clone, Args)]
pub struct ReportFlags {
    /// Form of the report.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Print every skipped line, not only some of each reason.
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print nothing but the report and errors.
    #[arg(short, long)]
    pub quiet: bool,
}

impl ImportOptions {
    fn form(&self) -> FileForm {
        let extension = self.file.extension();
        let is_csv = extension.is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        self.format
            .unwrap_or(if is_csv { FileForm::Csv } else { FileForm::M3u })
    }
}

fn batch_parser() -> impl clap::builder::TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=BATCH_MAX as i64)
}

fn prefix(text: &str) -> Result<String, String> {
    channel::check_prefix(text).map(|()| text.to_owned())
}

/// Connects, reads, compares, saves, reports. Skipped lines are in the report and not an error.
pub fn run(
    options: &ImportOptions,
    server: &ServerFlags,
    config: &Config,
) -> Result<Exit, Failure> {
    let server = server.find(config)?.api;
    let started = Instant::now();
    let mut report = ImportReport::default();
    // Before the file is read, which may take long: a wrong server or key is the first message.
    let outcome = server
        .get("/session")
        .map_err(Failure::from)
        .and_then(|_| read_file(&options.file))
        .and_then(|bytes| import(&bytes, options, &server, &mut report));
    report.elapsed = started.elapsed();
    let flags = &options.report;
    match flags.output {
        Output::Table => {
            if !flags.quiet {
                eprint!("{}", report.skipped_lines(flags.verbose));
            }
            if report.channels > 0 {
                print(&report.table(options, outcome.is_ok()))?;
            }
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

// -------------------------------------------------------------------------------------------------
// Saving

fn import(
    bytes: &[u8],
    options: &ImportOptions,
    server: &ApiClient,
    report: &mut ImportReport,
) -> Result<(), Failure> {
    let is_quiet = options.report.quiet;
    let mut channels = read_channels(bytes, options, report)?;
    let current = stored::find(server, &mut channels, is_quiet)?;
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
    let bar = progress::bar(is_quiet, changes.len());
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
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    report.skipped.sort();
    Ok(())
}

/// The channels of a file that can be streams; the others are in the report.
fn read_channels(
    bytes: &[u8],
    options: &ImportOptions,
    report: &mut ImportReport,
) -> Result<Vec<Channel>, Failure> {
    let read = match options.form() {
        FileForm::M3u => playlist::parse(bytes),
        FileForm::Csv => csv_file::parse(bytes),
    };
    let playlist: Playlist = read.map_err(|problem| {
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
    report.channels = playlist.entries.len() + playlist.problems.len();
    report.skipped = playlist.problems;
    report.skipped.extend(problems);
    report.skipped.sort();
    if options.strict && !report.skipped.is_empty() {
        return Err(strict_failure(report.skipped.len()));
    }
    if channels.is_empty() {
        let what = match report.channels {
            0 => "has no channel".to_owned(),
            count => format!("none of its {count} channels can be imported"),
        };
        let message = format!("{}: {what}", options.file.display());
        return Err(Failure::new(Exit::Runtime, message));
    }
    Ok(channels)
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
            Err(ClientError::Refused(refusals)) => refusals,
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
            let line = change.channel.line_of(&refusal.pointer);
            refused
                .entry(index)
                .and_modify(|problem| _ = write!(problem.reason, "; {refusal}"))
                .or_insert_with(|| Problem {
                    line,
                    code: "refused_by_server",
                    reason: format!("the server refuses {:?}: {refusal}", change.channel.name),
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

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(
            Exit::Runtime,
            format!("{error}. Run the import again when this is fixed: it saves what is missing"),
        )
    }
}

#[cfg(test)]
mod tests;
