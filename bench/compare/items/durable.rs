//! P9, P9b, P10: saves that are on disk before they are answered, beside PostgreSQL, etcd and the
//! disk itself.
//!
//! All of them get the same JSON for the same 50,000 names from the same client thread; PostgreSQL
//! as a prepared `INSERT .. ON CONFLICT DO UPDATE` of a jsonb row over TCP with `fsync` and
//! `synchronous_commit` on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::{kernel_shares, medians, rates_note, ratios};
use crate::etcd::{self, Etcd};
use crate::figures::{Goal, Row, Side, alternate, figure, rate};
use crate::http::{self, Checked as _};
use crate::load::{self, Plan, Sample, Turn, Work};
use crate::machine::{Disk, Meter};
use crate::postgres::{self, Postgres, Upsert};
use crate::process::Process;
use crate::weir::{API, AUTHORIZATION, Weir, stream_json, stream_name};
use crate::{Bench, Failure};
use weir_testkit::sys;

const NAMES: usize = 50_000;

/// Names in no order, contents never the same twice.
struct Saves {
    state: u64,
    edition: u64,
}

impl Saves {
    fn next(&mut self) -> (usize, u64) {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.edition += 1;
        ((self.state >> 33) as usize % NAMES, self.edition)
    }

    fn row(&mut self) -> (String, Vec<u8>) {
        let (number, edition) = self.next();
        (
            stream_name(number),
            stream_json(number, edition).into_bytes(),
        )
    }
}

struct WeirPut<'a> {
    saves: &'a mut Saves,
}

impl Work for WeirPut<'_> {
    fn request(&mut self, _connection: usize, _last: bool, out: &mut Vec<u8>) {
        let (number, edition) = self.saves.next();
        let target = format!("{API}/streams/{}", stream_name(number));
        out.extend_from_slice(&http::request(
            "PUT",
            &target,
            AUTHORIZATION,
            "",
            stream_json(number, edition).as_bytes(),
        ));
    }

    fn answer(&mut self, _connection: usize, input: &[u8]) -> Result<Option<usize>, Failure> {
        match http::frame(input)? {
            Some(frame) if frame.status != 200 => Err(format!(
                "PUT was answered with {}: {}",
                frame.status,
                String::from_utf8_lossy(&input[frame.head..frame.total])
            )
            .into()),
            frame => Ok(frame.map(|frame| frame.total)),
        }
    }
}

pub fn run(bench: &Bench, items: &[&'static str], rows: &mut Vec<Row>) -> Result<(), Failure> {
    let mut saves = Saves {
        state: 42,
        edition: 0,
    };
    let weir = if bench.self_test {
        None
    } else {
        bench.discard("durable");
        let weir = Weir::start(bench, "durable")?;
        weir.save_streams(0..NAMES)?;
        Some(weir)
    };
    if items.contains(&"P9") {
        bench.discard("postgresql");
        let mut postgres = Postgres::start(bench)?;
        let mut session = postgres.session()?;
        session.query(postgres::TABLE)?;
        session.copy(
            "copy stream (name, config) from stdin",
            (0..NAMES).map(|number| format!("{}\t{}", stream_name(number), stream_json(number, 0))),
        )?;
        session.query("vacuum analyze stream")?;
        session.query("checkpoint")?;
        for (clients, goal) in [
            (1, Goal::AtLeast(0.9, 1.2)),
            (32, Goal::AtLeast(3.0, 4.0)),
            (128, Goal::AtLeast(5.0, 8.0)),
            (512, Goal::Open),
        ] {
            let pairs = alternate(bench.pairs, |side| match (side, &weir) {
                (Side::Candidate, Some(weir)) => put(bench, weir, clients, &mut saves),
                _ => upsert(bench, &postgres, clients, &mut saves),
            })?;
            rows.push(save_row("P9", clients, "PostgreSQL", goal, &pairs, bench));
        }
        let count = session.query("select count(*) from stream")?;
        if count[0][0] != NAMES.to_string() {
            return Err(format!("PostgreSQL holds {} rows instead of {NAMES}", count[0][0]).into());
        }
    }
    if items.contains(&"P9b") && bench.etcd {
        bench.discard("etcd");
        let etcd = Etcd::start(bench)?;
        let pairs = alternate(bench.pairs, |side| {
            if let (Side::Candidate, Some(weir)) = (side, &weir) {
                return put(bench, weir, 32, &mut saves);
            }
            let mut next = || saves.row();
            let mut work = etcd::EtcdPut { next: &mut next };
            load::closed(
                plan(bench, etcd.to, 32),
                &mut work,
                &meter(bench, &etcd.process),
            )
        })?;
        rows.push(save_row(
            "P9b",
            32,
            "etcd",
            Goal::AtLeast(6.0, 10.0),
            &pairs,
            bench,
        ));
    }
    if let Some(weir) = &weir {
        if items.contains(&"P10") {
            answer_times(bench, weir, &mut saves, rows)?;
        }
        acknowledged_is_there(bench, weir, &mut saves)?;
    }
    Ok(())
}

fn save_row(
    item: &'static str,
    clients: usize,
    against: &str,
    goal: Goal,
    pairs: &[(Sample, Sample)],
    bench: &Bench,
) -> Row {
    let name = if bench.self_test { "self-test" } else { "weir" };
    let busy = ratios(pairs, Sample::per_busy_second);
    let latency = medians(pairs, |sample| sample.percentile_ms(50.0));
    let slow = medians(pairs, |sample| sample.percentile_ms(99.0));
    Row::new(
        item,
        format!("durable saves per second, {clients} clients"),
        against,
        "x per s",
        goal,
    )
    .values(ratios(pairs, Sample::per_second))
    .kernel(kernel_shares(pairs))
    .note(rates_note(pairs, (name, against)))
    .note(disk_note(pairs, (name, against)))
    .note(format!(
        "per busy second of the core x{}; ms p50 / p99: {name} {} / {}, {against} {} / {}",
        figure(crate::figures::Spread::of(busy).median),
        figure(latency.0),
        figure(slow.0),
        figure(latency.1),
        figure(slow.1)
    ))
}

/// What a save costs the disk, counted at the device: the applier's and the checkpointer's writes
/// are in it.
fn disk_note(pairs: &[(Sample, Sample)], names: (&str, &str)) -> String {
    let saves_per_flush = medians(pairs, |sample| {
        sample.answers as f64 / sample.busy.flushes.max(1.0)
    });
    let bytes = medians(pairs, |sample| {
        sample.busy.bytes_written / (sample.answers as f64).max(1.0)
    });
    format!(
        "saves per flush of the disk and bytes written per save: {} {}, {:.0} B; {} {}, {:.0} B",
        names.0,
        figure(saves_per_flush.0),
        bytes.0,
        names.1,
        figure(saves_per_flush.1),
        bytes.1
    )
}

/// A meter that counts what reaches the disk, too.
fn meter(bench: &Bench, process: &Process) -> Meter {
    Meter {
        disk: bench
            .directory("durable")
            .ok()
            .and_then(|directory| Disk::under(&directory)),
        ..process.meter(bench.cores)
    }
}

fn plan(bench: &Bench, to: std::net::SocketAddrV4, connections: usize) -> Plan {
    Plan {
        to,
        connections,
        pipeline: 1,
        answers_per_connection: None,
        warm: bench.warm,
        time: bench.time,
    }
}

fn put(bench: &Bench, weir: &Weir, clients: usize, saves: &mut Saves) -> Result<Sample, Failure> {
    load::closed(
        plan(bench, weir.to, clients),
        &mut WeirPut { saves },
        &meter(bench, &weir.process),
    )
}

fn upsert(
    bench: &Bench,
    postgres: &Postgres,
    clients: usize,
    saves: &mut Saves,
) -> Result<Sample, Failure> {
    let mut next = || saves.row();
    load::closed(
        plan(bench, postgres.to, clients),
        &mut Upsert { next: &mut next },
        &meter(bench, &postgres.process),
    )
}

/// Milliseconds, and the kernel's part of the busy time.
#[derive(Default)]
struct AnswerTimes {
    p50: f64,
    p99: f64,
    kernel: f64,
}

impl AnswerTimes {
    fn of(sample: &Sample) -> AnswerTimes {
        AnswerTimes {
            p50: sample.percentile_ms(50.0),
            p99: sample.percentile_ms(99.0),
            kernel: sample.busy.kernel_share(),
        }
    }
}

/// P10: the disk is measured in the same run, in the same directory, between the turns of the
/// server.
fn answer_times(
    bench: &Bench,
    weir: &Weir,
    saves: &mut Saves,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let saturation = put(bench, weir, 32, saves)?.per_second();
    let probe = |bench: &Bench| fdatasync(bench, bench.time);
    let open = alternate(bench.pairs, |side| match side {
        Side::Candidate => {
            let meter = weir.process.meter(bench.cores);
            let sample = load::open_loop(
                plan(bench, weir.to, 32),
                saturation / 2.0,
                Turn::Free,
                &mut WeirPut { saves },
                &meter,
            )?;
            Ok(AnswerTimes::of(&sample))
        }
        Side::Peer => probe(bench),
    })?;
    let alone = alternate(bench.pairs, |side| match side {
        Side::Candidate => put(bench, weir, 1, saves).map(|sample| AnswerTimes::of(&sample)),
        Side::Peer => probe(bench),
    })?;
    for (what, goal, pairs) in [
        (
            format!(
                "PUT p99, 32 clients, open loop at 50 % ({}/s)",
                rate(saturation / 2.0)
            ),
            Goal::AtMost(3.0, 2.0),
            open,
        ),
        ("PUT p99, 1 client".to_owned(), Goal::Open, alone),
    ] {
        let (p50, p99) = (
            medians(&pairs, |each: &AnswerTimes| each.p50),
            medians(&pairs, |each: &AnswerTimes| each.p99),
        );
        rows.push(
            Row::new("P10", what, "fdatasync p99", "x", goal)
                .values(ratios(&pairs, |each| each.p99))
                .kernel(pairs.iter().map(|pair| pair.0.kernel))
                .note(format!(
                    "ms p50 / p99: PUT {} / {}, one 4 KiB write and fdatasync {} / {}",
                    figure(p50.0),
                    figure(p99.0),
                    figure(p50.1),
                    figure(p99.1)
                )),
        );
    }
    Ok(())
}

/// p50 and p99 in ms of overwriting 4 KiB of a preallocated file and syncing it, on the server's
/// core.
fn fdatasync(bench: &Bench, time: Duration) -> Result<AnswerTimes, Failure> {
    const BYTES: u64 = 32 << 20;
    let path = bench.directory("durable")?.join("probe");
    let cores = bench.cores;
    let probe = std::thread::spawn(move || -> std::io::Result<_> {
        sys::pin(cores.server(), cores.count)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        if file.metadata()?.len() < BYTES {
            file.write_all_at(&vec![1; BYTES as usize], 0)?;
            file.sync_all()?;
        }
        let mut latency = load::histogram();
        let start = Instant::now();
        let mut number: u64 = 0;
        while start.elapsed() < time {
            number += 1;
            let before = Instant::now();
            file.write_all_at(
                &[number as u8; 4096],
                number.wrapping_mul(4096 * 7919) % BYTES / 4096 * 4096,
            )?;
            file.sync_data()?;
            latency.saturating_record(before.elapsed().as_nanos() as u64);
        }
        std::fs::remove_file(&path)?;
        Ok(AnswerTimes {
            p50: latency.value_at_percentile(50.0) as f64 / 1e6,
            p99: latency.value_at_percentile(99.0) as f64 / 1e6,
            ..AnswerTimes::default()
        })
    });
    Ok(probe
        .join()
        .map_err(|_| "the probe of the disk panicked")??)
}

/// What was answered must be there: the last save of a name is what a GET shows.
fn acknowledged_is_there(bench: &Bench, weir: &Weir, saves: &mut Saves) -> Result<(), Failure> {
    let mut client = weir.client();
    for _ in 0..if bench.quick { 10 } else { 100 } {
        let (number, edition) = saves.next();
        let target = format!("{API}/streams/{}", stream_name(number));
        client
            .call("PUT", &target, "", stream_json(number, edition).as_bytes())?
            .one_of(&[200], "PUT stream")?;
        let shown = client.get(&target)?.one_of(&[200], "GET stream")?.value()?;
        if shown["title"] != format!("Camera {number}, edition {edition}") {
            return Err(format!(
                "{} shows {} after edition {edition} was acknowledged",
                stream_name(number),
                shown["title"]
            )
            .into());
        }
    }
    Ok(())
}
