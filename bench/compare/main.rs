//! `compare`: Weir beside nginx, nchan, PostgreSQL and (optionally) etcd on this machine, in one
//! run, as one table.
//!
//! Every figure is a ratio against a peer measured in the same run: absolute figures do not travel.
//! The rules are few: server on one core, generator on another; order A-B-B-A; warm-up dropped;
//! median with the smallest and the largest pair; work per second of busy time of the server's core
//! first, wall clock second; the same bytes out, compared before timing; every connection admitted
//! and served, or there is no figure. Nothing fails because of time: the exit code is 1 only when
//! something did not work, never because it was slow.
//!
//! The parts: `figures` (ratios, table), `machine` (CPU time), `load` and `waiters`
//! (generators), `nginx`, `postgres`, `etcd`, `bare` and `weir` (the servers), `items` (what is
//! compared).

mod bare;
mod etcd;
mod figures;
mod http;
mod items;
mod load;
mod machine;
mod nginx;
mod postgres;
mod process;
mod waiters;
mod weir;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;
use tempfile::TempDir;

use crate::figures::{Goal, Row};
use crate::machine::Cores;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Failure = Box<dyn std::error::Error>;

#[derive(Parser, Debug)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line
#[command(
    name = "compare",
    about = "Weir beside nginx, nchan, PostgreSQL and etcd: one table of ratios"
)]
struct Arguments {
    /// Only these items, e.g. P1,P5,P9
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pairs of turns per ratio (A-B-B-A); at least 5 for a claim
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds measured per turn, after the warm-up
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// 2 pairs, short turns, 50,000 streams: shows that everything works, claims nothing
    #[arg(long)]
    quick: bool,
    /// Write everything as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also compare with etcd (P9b)
    #[arg(long)]
    etcd: bool,
    /// Second series: leave servers and generator to the scheduler
    #[arg(long)]
    unpinned: bool,
    /// Streams of the big cluster (P14-P16); its streamers carry 100 each
    #[arg(long, default_value_t = 1_000_000)]
    streams: usize,
    /// Parked polls of P5, P6 and P8
    #[arg(long, default_value_t = 10_000)]
    waiters: usize,
    /// This binary instead of building one
    #[arg(long)]
    weir: Option<PathBuf>,
    /// Keep data in this directory (on the disk to be measured) instead of a temporary one
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Peers against themselves: proves the harness without Weir; every ratio should be near 1
    #[arg(long)]
    self_test: bool,
    #[arg(long, hide = true)]
    bare_loop: bool,
}

/// The context of every item.
pub struct Bench {
    pub pairs: usize,
    pub warm: Duration,
    pub time: Duration,
    pub cores: Cores,
    pub streams: usize,
    pub waiters: usize,
    pub weir: Option<PathBuf>,
    pub self_test: bool,
    pub etcd: bool,
    pub quick: bool,
    scratch: PathBuf,
}

impl Bench {
    /// A directory of this name inside the scratch directory.
    pub fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.scratch.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Removes it with everything in it.
    pub fn discard(&self, name: &str) {
        let _ = fs::remove_dir_all(self.scratch.join(name));
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.bare_loop {
        return match bare::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bare loop: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match compare(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The directory for servers and data: the given one, or one that is removed at the end.
fn scratch_directory(given: Option<&Path>) -> Result<(PathBuf, Option<TempDir>), Failure> {
    let (scratch, temporary) = if let Some(path) = given {
        (path.to_owned(), None)
    } else {
        let made = tempfile::Builder::new().prefix("weir-compare-").tempdir()?;
        (made.path().to_owned(), Some(made))
    };
    fs::create_dir_all(&scratch)?;
    // PostgreSQL runs as its own user and has to reach its directory.
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))?;
    Ok((fs::canonicalize(&scratch)?, temporary))
}

/// Measures the selected items, group by group, and prints the rows of each.
fn run_groups(bench: &Bench, only: &[String]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for group in items::GROUPS {
        let wanted =
            |item: &str| only.is_empty() || only.iter().any(|only| only.eq_ignore_ascii_case(item));
        let chosen: Vec<&'static str> = group
            .items
            .iter()
            .copied()
            .filter(|item| wanted(item))
            .collect();
        if chosen.is_empty() || (bench.self_test && !group.self_test) {
            continue;
        }
        eprintln!("{} ..", chosen.join(" "));
        let started = Instant::now();
        let mut measured = Vec::new();
        if let Err(error) = (group.run)(bench, &chosen, &mut measured) {
            measured.push(Row::failure(
                chosen[0],
                format!("{} stopped: {error}", chosen.join(" ")),
            ));
        }
        // Items of a group share turns: P1 is measured for P3, but shown only when requested.
        measured.retain(|row| chosen.contains(&row.item));
        eprint!("{}", figures::table(&measured));
        eprintln!("   ({:.0} s)", started.elapsed().as_secs_f64());
        for row in &mut measured {
            if bench.self_test {
                row.goal = Goal::Open;
            }
        }
        rows.append(&mut measured);
    }
    rows
}

fn compare(arguments: &Arguments) -> Result<bool, Failure> {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = Cores {
        pinned: !arguments.unpinned,
        count,
    };
    if cores.pinned && count < 2 {
        return Err(
            "pinning needs two cores: one for the server, one for the generator (or --unpinned)"
                .into(),
        );
    }
    let (scratch, _temporary) = scratch_directory(arguments.scratch.as_deref())?;
    let (pairs, seconds, streams) = if arguments.quick {
        (2, 0.6, arguments.streams.min(50_000))
    } else {
        (arguments.pairs, arguments.seconds, arguments.streams)
    };
    let bench = Bench {
        pairs,
        warm: Duration::from_secs_f64(seconds / 3.0),
        time: Duration::from_secs_f64(seconds),
        cores,
        streams,
        waiters: arguments.waiters,
        weir: if arguments.self_test {
            None
        } else {
            Some(find_weir(arguments.weir.as_deref())?)
        },
        self_test: arguments.self_test,
        etcd: arguments.etcd
            || arguments
                .only
                .iter()
                .any(|only| only.eq_ignore_ascii_case("P9b")),
        quick: arguments.quick,
        scratch: scratch.clone(),
    };
    // After the build, before the first peer: children inherit the priority, not the pinning.
    let _raised = weir_testkit::sys::raise_priority();
    weir_testkit::sys::pin(cores.generator(), count)?;

    let others = machine::busy_for(Duration::from_secs(2));
    if others > 0.05 {
        eprintln!(
            "other processes keep {:.0} % of the machine busy: these figures will be noisy",
            others * 100.0
        );
    }
    let rows = run_groups(&bench, &arguments.only);
    let series = if cores.pinned {
        "server on core 0, generator on core 1"
    } else {
        "not pinned"
    };
    let machine = format!(
        "{}; {}, nchan 1.3 (Debian), {}; {series}, {pairs} pairs of {seconds} s; {:.0} % busy \
         with other work before",
        machine::line(&scratch, count),
        nginx::version(),
        postgres::version(),
        others * 100.0,
    );
    println!("{}", figures::table(&rows));
    println!("{machine}");
    if pairs < 5 {
        println!("fewer than 5 pairs: these figures claim nothing");
    }
    if let Some(path) = &arguments.json {
        let settings = json!({
            "pairs": pairs, "seconds": seconds, "pinned": cores.pinned, "streams": bench.streams,
            "waiters": bench.waiters,
            "self_test": bench.self_test,
        });
        fs::write(
            path,
            serde_json::to_string_pretty(&figures::document(&rows, &machine, &settings))?,
        )?;
    }
    Ok(rows.iter().all(|row| !row.failed))
}

/// The binary given, or one built with the same profile as this harness.
fn find_weir(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    let own = std::env::current_exe()?;
    let directory = own.parent().ok_or("the harness has no directory")?;
    let profile = directory
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("dist");
    let profile = if profile == "debug" { "dev" } else { profile };
    if profile != "dist" {
        eprintln!("profile {profile}: a claim needs --profile dist");
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--profile", profile, "-p", "weir", "--bin", "weir"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !status.success() {
        return Err("Weir does not build".into());
    }
    Ok(directory.join("weir"))
}
