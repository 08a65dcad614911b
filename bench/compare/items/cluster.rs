//! P14-P16: the big cluster, 1,000,000 streams over 10,000 streamers: a polling fleet, lists, and
//! starting.

use std::io::Write;
use std::time::Instant;

use super::{medians, ratios};
use crate::figures::{Goal, Row, Side, Spread, alternate, figure};
use crate::http::Checked as _;
use crate::load::{self, Plan, Turn, Work};
use crate::machine;
use crate::postgres::{self, Postgres, Session};
use crate::waiters::Waiters;
use crate::weir::{API, AUTHORIZATION, Weir, hostname, site, stream_json, stream_name};
use crate::{Bench, Failure, http};
use weir_testkit::Signal;

const STREAMS_EACH: usize = 100;
const POLL_SECONDS: f64 = 5.0;

pub fn run(bench: &Bench, items: &[&'static str], rows: &mut Vec<Row>) -> Result<(), Failure> {
    let data = prepare(bench)?;
    // Starting first: afterwards the server stays up for the rest.
    if items.contains(&"P16") {
        start(bench, &data, rows)?;
    }
    if items.contains(&"P14") || items.contains(&"P15") {
        let weir = Weir::start(bench, &data)?;
        if items.contains(&"P14") {
            fleet(bench, &weir, rows)?;
        }
        if items.contains(&"P15") {
            lists(bench, &weir, rows)?;
        }
    }
    Ok(())
}

/// Builds the cluster once per scratch directory; a kept one is used again.
fn prepare(bench: &Bench) -> Result<String, Failure> {
    let data = format!("cluster-{}", bench.streams);
    let complete = bench.directory("logs")?.join(format!("{data}.complete"));
    if complete.exists() {
        return Ok(data);
    }
    bench.discard(&data);
    let started = Instant::now();
    let streamers = bench.streams / STREAMS_EACH;
    let mut weir = Weir::start(bench, &data)?;
    weir.save_streamers(streamers)?;
    weir.save_streams(0..bench.streams)?;
    weir.lay_out(bench.streams, |stream| stream % streamers)?;
    let shown = weir
        .get("/streams?limit=1")?
        .one_of(&[200], "GET /streams")?
        .value()?;
    if shown["estimated_count"].as_u64() != Some(bench.streams as u64) {
        return Err(format!(
            "the cluster holds {} streams instead of {}",
            shown["estimated_count"], bench.streams
        )
        .into());
    }
    weir.process.end(Signal::TERM);
    eprintln!(
        "   {} streams over {streamers} streamers saved and laid out in {:.0} s",
        bench.streams,
        started.elapsed().as_secs_f64()
    );
    std::fs::write(complete, "")?;
    Ok(data)
}

fn start(bench: &Bench, data: &str, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (mut clean, mut killed, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    let (mut clean_kernel, mut killed_kernel) = (Vec::new(), Vec::new());
    bench.discard("empty");
    let empty = Weir::start(bench, "empty")?;
    let base = machine::resident_bytes(&empty.process.pids());
    drop(empty);
    for round in 0..bench.pairs {
        let mut weir = Weir::start(bench, data)?;
        clean.push(weir.ready_after.as_secs_f64());
        clean_kernel.push(machine::kernel_share(&weir.process.pids()));
        resident
            .push((machine::resident_bytes(&weir.process.pids()) - base) / bench.streams as f64);
        // Saves in flight, the last one acknowledged, then the end without a warning.
        let title = format!("before the end, {round}");
        let body = format!("{{\"title\":\"{title}\"}}");
        let target = format!("{API}/streams/{}", stream_name(round));
        weir.client()
            .call("PUT", &target, "", body.as_bytes())?
            .one_of(&[200], "PUT stream")?;
        let mut stream = std::net::TcpStream::connect(weir.to)?;
        for number in 0..64 {
            let target = format!("{API}/streams/{}", stream_name(1000 + number));
            stream.write_all(&http::request(
                "PUT",
                &target,
                AUTHORIZATION,
                "",
                b"{\"title\":\"in flight\"}",
            ))?;
        }
        weir.process.end(Signal::KILL);
        let again = Weir::start(bench, data)?;
        killed.push(again.ready_after.as_secs_f64());
        killed_kernel.push(machine::kernel_share(&again.process.pids()));
        let shown = again
            .get(&format!("/streams/{}", stream_name(round)))?
            .one_of(&[200], "GET stream")?
            .value()?;
        if shown["title"] != title.as_str() {
            return Err(format!(
                "an acknowledged save is gone after kill -9: {} instead of {title:?}",
                shown["title"]
            )
            .into());
        }
    }
    let what = |how: &str| format!("start with {} streams until ready, {how}", bench.streams);
    rows.push(
        Row::new(
            "P16",
            what("after a clean stop"),
            "-",
            "s",
            Goal::AtMost(2.0, 0.1),
        )
        .values(clean)
        .kernel(clean_kernel)
        .note("files in the page cache"),
    );
    rows.push(
        Row::new(
            "P16",
            what("after kill -9 with saves in flight"),
            "-",
            "s",
            Goal::AtMost(3.0, 0.1),
        )
        .values(killed)
        .kernel(killed_kernel)
        .note("the acknowledged save was there each time"),
    );
    rows.push(
        Row::new(
            "P16",
            "resident memory per stream, ready",
            "-",
            "bytes",
            Goal::AtMost(1536.0, 512.0),
        )
        .values(resident)
        .note(format!(
            "beyond {:.1} MiB of an empty server; config of about {} B, laid out",
            base / 1_048_576.0,
            stream_json(1, 0).len()
        )),
    );
    Ok(())
}

struct Poll {
    requests: Vec<Vec<u8>>,
    status: u16,
}

impl Work for Poll {
    fn request(&mut self, connection: usize, _last: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.requests[connection]);
    }

    fn answer(&mut self, _connection: usize, input: &[u8]) -> Result<Option<usize>, Failure> {
        match http::frame(input)? {
            Some(frame) if frame.status != self.status => {
                Err(format!("a poll was answered with {}", frame.status).into())
            }
            frame => Ok(frame.map(|frame| frame.total)),
        }
    }
}

fn fleet(bench: &Bench, weir: &Weir, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let streamers = bench.streams / STREAMS_EACH;
    let target = |streamer: usize| format!("{API}/streamers/{}/streams", hostname(streamer));
    let mut etags = vec![String::new(); streamers];
    {
        let mut waiters = Waiters::connect(streamers, weir.to)?;
        for streamer in 0..streamers {
            waiters.park(
                streamer,
                &http::request("GET", &target(streamer), AUTHORIZATION, "", b""),
            )?;
        }
        for answer in waiters.answers(streamers)? {
            etags[answer.waiter] = answer
                .etag
                .ok_or("a streamer's config without an ETag")?
                .into();
        }
    }
    let meter = weir.process.meter(bench.cores);
    for (what, condition) in [
        ("with If-None-Match (304)", true),
        ("whole answers (200)", false),
    ] {
        let requests = (0..streamers)
            .map(|streamer| {
                let extra = if condition {
                    format!("If-None-Match: {}\r\n", etags[streamer])
                } else {
                    String::new()
                };
                http::request("GET", &target(streamer), AUTHORIZATION, &extra, b"")
            })
            .collect();
        let mut work = Poll {
            requests,
            status: if condition { 304 } else { 200 },
        };
        let mut samples = Vec::new();
        for _ in 0..bench.pairs {
            // One whole period to warm up, so that every connection was served once; then at least
            // another.
            let period = std::time::Duration::from_secs_f64(POLL_SECONDS);
            let plan = Plan {
                to: weir.to,
                connections: streamers,
                pipeline: 1,
                answers_per_connection: None,
                warm: period,
                time: period.max(bench.time),
            };
            samples.push(load::open_loop(
                plan,
                streamers as f64 / POLL_SECONDS,
                Turn::Round,
                &mut work,
                &meter,
            )?);
        }
        let p99 = Spread::of(samples.iter().map(|sample| sample.percentile_ms(99.0))).median;
        let per_second = Spread::of(samples.iter().map(load::Sample::per_second)).median;
        let own = Spread::of(
            samples
                .iter()
                .map(|sample| sample.busy.exact / sample.wall * 100.0),
        )
        .median;
        let bytes = samples[0].bytes as f64 / samples[0].answers as f64;
        rows.push(
            Row::new(
                "P14",
                format!(
                    "{streamers} streamers x {STREAMS_EACH} streams every 5 s, \
             {what}"
                ),
                "the core",
                "% busy",
                Goal::AtMost(30.0, 10.0),
            )
            .values(
                samples
                    .iter()
                    .map(|sample| sample.busy.server / sample.wall * 100.0),
            )
            .kernel(samples.iter().map(|sample| sample.busy.kernel_share()))
            .note(format!(
                "{per_second:.0} polls/s, {bytes:.0} B each, p99 {} ms; the \
                 server's own CPU clock {own:.1} %",
                figure(p99)
            )),
        );
    }
    Ok(())
}

/// One query in both languages, and how often it is sent per turn.
struct Question {
    what: &'static str,
    weir: String,
    sql: String,
    repeat: usize,
}

fn lists(bench: &Bench, weir: &Weir, rows: &mut Vec<Row>) -> Result<(), Failure> {
    bench.discard("postgresql");
    let mut postgres = Postgres::start(bench)?;
    let mut session = postgres.session()?;
    session.query(postgres::TABLE)?;
    session.copy(
        "copy stream (name, config) from stdin",
        (0..bench.streams)
            .map(|number| format!("{}\t{}", stream_name(number), stream_json(number, 0))),
    )?;
    session.query("vacuum analyze stream")?;
    let wanted = site(7);
    let questions = [
        Question {
            what: "first page by name",
            weir: "/streams?limit=100".into(),
            sql: "select name, config from stream order by name limit 100".into(),
            repeat: 200,
        },
        Question {
            what: "filter on a nested field without an index (labels.site)",
            weir: format!("/streams?labels.site={wanted}&limit=100"),
            sql: format!(
                "select name, config from stream where config->'labels'->>'site' = \
             '{wanted}' order by name limit 100"
            ),
            repeat: 3,
        },
        Question {
            what: "sort by a nested number (sort=-claims.bitrate)",
            weir: "/streams?sort=-claims.bitrate&limit=100".into(),
            sql: "select name, config from stream order by (config->'claims'->>'bitrate')::bigint \
             desc nulls last, name limit 100"
                .into(),
            repeat: 3,
        },
    ];
    for (number, question) in questions.iter().enumerate() {
        session.prepare(number + 1, &question.sql)?;
        let names = compare_names(weir, &mut session, number + 1, question)?;
        let meter = weir.process.meter(bench.cores);
        let mut kernel = Vec::new();
        let pairs = alternate(bench.pairs, |side| {
            let before = meter.read();
            let time = query(weir, &mut session, number + 1, question, side)?;
            if side == Side::Candidate {
                kernel.push((meter.read() - before).kernel_share());
            }
            Ok::<_, Failure>(time)
        })?;
        let times = medians(&pairs, |&each| each);
        let what = format!("{} streams: {}", bench.streams, question.what);
        let note = format!(
            "median ms: weir {}, PostgreSQL {}; the same {names} names from both",
            figure(times.0),
            figure(times.1)
        );
        if number == 0 {
            rows.push(
                Row::new("P15", what, "-", "ms", Goal::AtMost(1.0, 0.3))
                    .values(pairs.iter().map(|pair| pair.0))
                    .kernel(kernel)
                    .note(note),
            );
        } else {
            rows.push(
                Row::new(
                    "P15",
                    what,
                    "PostgreSQL jsonb, warm",
                    "x",
                    Goal::AtMost(1.0, 0.2),
                )
                .values(ratios(&pairs, |&each| each))
                .kernel(kernel)
                .note(note),
            );
        }
    }
    Ok(())
}

/// Median time of one query in ms, alone on a kept connection, until the last byte is there.
fn query(
    weir: &Weir,
    session: &mut Session,
    prepared: usize,
    question: &Question,
    side: Side,
) -> Result<f64, Failure> {
    let mut client = weir.client();
    let target = format!("{API}{}", question.weir);
    let mut times = Vec::new();
    // The first one connects and warms; it is dropped.
    for round in 0..=question.repeat {
        let start = Instant::now();
        match side {
            Side::Candidate => {
                client.get(&target)?.one_of(&[200], "GET /streams")?;
            }
            Side::Peer => {
                session.execute(prepared)?;
            }
        }
        if round > 0 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(Spread::of(times).median)
}

/// Both must give the same streams in the same order; how many.
fn compare_names(
    weir: &Weir,
    session: &mut Session,
    prepared: usize,
    question: &Question,
) -> Result<usize, Failure> {
    let answer = weir
        .get(&question.weir)?
        .one_of(&[200], "GET /streams")?
        .value()?;
    let ours: Vec<&str> = answer["streams"]
        .as_array()
        .map(|streams| {
            streams
                .iter()
                .filter_map(|stream| stream["name"].as_str())
                .collect()
        })
        .unwrap_or_default();
    let rows = session.execute(prepared)?;
    let theirs: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    if ours == theirs && !ours.is_empty() {
        return Ok(ours.len());
    }
    Err(format!(
        "{}: Weir lists {} ({:?} ..), PostgreSQL {} ({:?} ..)",
        question.what,
        ours.len(),
        ours.first(),
        theirs.len(),
        theirs.first()
    )
    .into())
}
