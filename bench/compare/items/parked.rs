//! P5, P6, P8: one change and ten thousand parked polls with the same question, beside nchan and a
//! bare send loop.

use std::net::SocketAddrV4;

use super::{medians, ratios};
use crate::bare::Bare;
use crate::figures::{Goal, Row, Side, Spread, alternate, figure, rate};
use crate::http::{self, Checked as _};
use crate::machine::Meter;
use crate::nginx::Nginx;
use crate::waiters::{self, Waiters};
use crate::weir::{API, AUTHORIZATION, Weir};
use crate::{Bench, Failure};
use weir_testkit::Response;

/// The question of all waiters, the change that answers it, and the bytes that go out.
enum Feed {
    Weir {
        to: SocketAddrV4,
        meter: Meter,
        since: u64,
        edition: u64,
    },
    Nchan {
        to: SocketAddrV4,
        meter: Meter,
        body: Vec<u8>,
    },
    Bare {
        to: SocketAddrV4,
        meter: Meter,
        answer: Vec<u8>,
    },
}

const STREAM: &str = "watched";

impl Feed {
    fn to(&self) -> SocketAddrV4 {
        match self {
            Feed::Weir { to, .. } | Feed::Nchan { to, .. } | Feed::Bare { to, .. } => *to,
        }
    }

    fn meter(&self) -> Meter {
        match self {
            Feed::Weir { meter, .. } | Feed::Nchan { meter, .. } | Feed::Bare { meter, .. } => {
                meter.clone()
            }
        }
    }

    fn question(&self) -> Vec<u8> {
        match self {
            Feed::Weir { since, .. } => {
                let target =
                    format!("{API}/streams?name={STREAM}&updated_at_gt={since}&poll_timeout=50");
                http::request("GET", &target, AUTHORIZATION, "", b"")
            }
            Feed::Nchan { .. } | Feed::Bare { .. } => {
                http::request("GET", "/wait", AUTHORIZATION, "", b"")
            }
        }
    }

    fn publish(&mut self) -> Vec<u8> {
        match self {
            Feed::Weir { edition, .. } => {
                *edition += 1;
                let body = format!("{{\"title\":\"edition {edition:06}\"}}");
                http::request(
                    "PUT",
                    &format!("{API}/streams/{STREAM}"),
                    AUTHORIZATION,
                    "",
                    body.as_bytes(),
                )
            }
            Feed::Nchan { body, .. } => http::request("POST", "/publish", "", "", body),
            Feed::Bare { answer, .. } => http::request("POST", "/", "", "", answer),
        }
    }

    fn published(&mut self, answer: &Response) -> Result<(), Failure> {
        if let Feed::Weir { since, .. } = self {
            *since = answer.value()?["updated_at"]
                .as_u64()
                .ok_or("a saved stream without updated_at")?;
        }
        Ok(())
    }
}

/// Of one turn: a few fan-outs, the first dropped.
struct FanOutTurn {
    woken: f64,
    exact: f64,
    stat: f64,
    kernel: f64,
    last_ms: f64,
    bytes: f64,
}

pub fn run(bench: &Bench, items: &[&'static str], rows: &mut Vec<Row>) -> Result<(), Failure> {
    let name = if bench.self_test {
        "nchan (self-test)"
    } else {
        "weir"
    };
    let rounds = if bench.quick { 2 } else { 8 };
    let body = learn_body(bench)?;
    if items.contains(&"P8") {
        memory(bench, name, &body, rows)?;
    }
    if !items.contains(&"P5") && !items.contains(&"P6") {
        return Ok(());
    }
    let (weir, second);
    let mut candidate = if bench.self_test {
        second = Nginx::start(bench, None, None)?;
        Feed::Nchan {
            to: second.to,
            meter: second.process.meter(bench.cores),
            body: body.clone(),
        }
    } else {
        weir = start_weir(bench)?;
        feed_of(bench, &weir)?
    };
    let answer = raw_answer(&mut candidate)?;
    let nginx = Nginx::start(bench, None, None)?;
    let mut peer = Feed::Nchan {
        to: nginx.to,
        meter: nginx.process.meter(bench.cores),
        body,
    };
    let pairs = alternate(bench.pairs, |side| {
        fan_out(
            if side == Side::Candidate {
                &mut candidate
            } else {
                &mut peer
            },
            bench.waiters,
            rounds,
        )
    })?;
    drop(nginx);
    let bytes = medians(&pairs, |turn| turn.bytes);
    rows.push(
        wake_row(
            "nchan",
            bench.waiters,
            Goal::AtLeast(1.6, 1.75),
            &pairs,
            (name, "nchan"),
        )
        .note(format!(
            "{:.0} B out per waiter, nchan {:.0} B (same body length; nchan adds headers)",
            bytes.0, bytes.1
        )),
    );
    let bare = Bare::start(bench)?;
    let mut loop_of_sends = Feed::Bare {
        to: bare.to,
        meter: bare.process.meter(bench.cores),
        answer,
    };
    let against_bare = alternate(bench.pairs, |side| {
        fan_out(
            if side == Side::Candidate {
                &mut candidate
            } else {
                &mut loop_of_sends
            },
            bench.waiters,
            rounds,
        )
    })?;
    rows.push(wake_row(
        "bare loop of sends",
        bench.waiters,
        Goal::AtLeast(0.92, 0.98),
        &against_bare,
        (name, "bare loop"),
    ));
    let last = medians(&pairs, |turn| turn.last_ms);
    rows.push(
        Row::new(
            "P6",
            format!("until the last of {} waiters has its bytes", bench.waiters),
            "nchan",
            "x",
            Goal::AtMost(0.62, 0.57),
        )
        .values(ratios(&pairs, |turn| turn.last_ms))
        .note(format!(
            "median of rounds, from the publish being sent: {name} {} ms, nchan {} ms",
            figure(last.0),
            figure(last.1)
        )),
    );
    Ok(())
}

fn wake_row(
    against: &str,
    waiters: usize,
    goal: Goal,
    pairs: &[(FanOutTurn, FanOutTurn)],
    names: (&str, &str),
) -> Row {
    let each = medians(pairs, |turn| turn.exact / turn.woken * 1e6);
    let stat = medians(pairs, |turn| turn.stat / turn.woken * 1e6);
    Row::new(
        "P5",
        format!("wake-ups per busy core-second, {waiters} waiters"),
        against,
        "x per busy s",
        goal,
    )
    .values(ratios(pairs, |turn| turn.woken / turn.exact))
    .wall(ratios(pairs, |turn| 1.0 / turn.last_ms))
    .kernel(
        pairs
            .iter()
            .map(|(candidate, _)| candidate.kernel / candidate.stat.max(1e-9)),
    )
    .note(format!(
        "busy us per wake-up by the CPU clock (by 10 ms ticks of /proc/stat): {} {} ({}), {} \
             {} ({}); {}/s and {}/s",
        names.0,
        figure(each.0),
        figure(stat.0),
        names.1,
        figure(each.1),
        figure(stat.1),
        rate(1e6 / each.0),
        rate(1e6 / each.1),
    ))
}

fn start_weir(bench: &Bench) -> Result<Weir, Failure> {
    bench.discard("parked");
    let weir = Weir::start(bench, "parked")?;
    weir.save_streams(0..1000)?;
    Ok(weir)
}

fn feed_of(bench: &Bench, weir: &Weir) -> Result<Feed, Failure> {
    let body =
        b"{\"title\":\"edition 000000\",\"inputs\":[{\"url\":\"rtsp://10.0.0.1:554/live\"}]}";
    let answer = weir
        .client()
        .call("PUT", &format!("{API}/streams/{STREAM}"), "", body)?
        .one_of(&[200, 201], "PUT stream")?;
    let mut feed = Feed::Weir {
        to: weir.to,
        meter: weir.process.meter(bench.cores),
        since: 0,
        edition: 0,
    };
    feed.published(&answer)?;
    Ok(feed)
}

/// The body that all waiters are sent: what Weir answers, so that nchan sends as much.
fn learn_body(bench: &Bench) -> Result<Vec<u8>, Failure> {
    if bench.self_test {
        return Ok(vec![b'm'; 300]);
    }
    let weir = start_weir(bench)?;
    feed_of(bench, &weir)?;
    let answer = weir
        .get(&format!(
            "/streams?name={STREAM}&updated_at_gt=0&poll_timeout=50"
        ))?
        .one_of(&[200], "GET streams")?;
    Ok(answer.body)
}

/// One whole answer as it goes out, for the bare loop to repeat.
fn raw_answer(feed: &mut Feed) -> Result<Vec<u8>, Failure> {
    let mut waiters = Waiters::connect(1, feed.to())?;
    waiters.park(0, &feed.question())?;
    waiters.settle(&feed.meter())?;
    let done = waiters.change(&feed.publish(), None, &feed.meter())?;
    feed.published(&done.answer)?;
    let bytes = done.woken[0].bytes;
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    // Same size to the byte: the body takes what the other head has in excess.
    let rest = bytes.saturating_sub(head.len() + 4);
    let digits = rest.to_string().len();
    let body = vec![b'm'; rest - digits];
    let mut out = head.to_vec();
    out.extend_from_slice(format!("{:0width$}\r\n\r\n", body.len(), width = digits).as_bytes());
    out.extend_from_slice(&body);
    assert_eq!(out.len(), bytes, "the bare loop sends exactly as much");
    Ok(out)
}

fn fan_out(feed: &mut Feed, count: usize, rounds: usize) -> Result<FanOutTurn, Failure> {
    let meter = feed.meter();
    let mut waiters = Waiters::connect(count, feed.to())?;
    let mut turn = FanOutTurn {
        woken: 0.0,
        exact: 0.0,
        stat: 0.0,
        kernel: 0.0,
        last_ms: 0.0,
        bytes: 0.0,
    };
    let mut last = Vec::new();
    for round in 0..=rounds {
        let question = feed.question();
        for waiter in 0..count {
            waiters.park(waiter, &question)?;
        }
        waiters.settle(&meter)?;
        let done = waiters.change(&feed.publish(), None, &meter)?;
        feed.published(&done.answer)?;
        if round > 0 {
            turn.woken += done.woken.len() as f64;
            turn.exact += done.busy.exact;
            turn.stat += done.busy.server;
            turn.kernel += done.busy.kernel;
            turn.bytes = done.woken[0].bytes as f64;
            last.push(done.last_ms());
        }
    }
    turn.last_ms = Spread::of(last).median;
    drop(waiters);
    Ok(turn)
}

/// P8 on processes that have done nothing else: memory kept from earlier bursts would hide what a
/// poll costs.
fn memory(bench: &Bench, name: &str, body: &[u8], rows: &mut Vec<Row>) -> Result<(), Failure> {
    let count = bench.waiters;
    let pairs = alternate(
        bench.pairs.min(3),
        |side| -> Result<waiters::Parked, Failure> {
            if side == Side::Candidate && !bench.self_test {
                let weir = start_weir(bench)?;
                let feed = feed_of(bench, &weir)?;
                park(&feed, count)
            } else {
                let nginx = Nginx::start(bench, None, None)?;
                park(
                    &Feed::Nchan {
                        to: nginx.to,
                        meter: nginx.process.meter(bench.cores),
                        body: body.to_vec(),
                    },
                    count,
                )
            }
        },
    )?;
    let kernel = medians(&pairs, |parked| parked.kernel_bytes);
    let user = medians(&pairs, |parked| parked.user_bytes);
    rows.push(
        Row::new(
            "P8",
            format!("user-space bytes per parked poll, {count} parked"),
            "nchan",
            "x",
            Goal::AtMost(0.2, 0.15),
        )
        .values(ratios(&pairs, |parked| parked.user_bytes))
        .note(format!(
            "{name} {:.0} B, nchan {:.0} B; kernel slab of both ends {:.0} B and {:.0} B",
            user.0, user.1, kernel.0, kernel.1
        )),
    );
    rows.push(
        Row::new(
            "P8",
            "the same, absolute",
            "-",
            "bytes",
            Goal::AtMost(2048.0, 1536.0),
        )
        .values(pairs.iter().map(|pair| pair.0.user_bytes)),
    );
    Ok(())
}

fn park(feed: &Feed, count: usize) -> Result<waiters::Parked, Failure> {
    // One request first: what a server sets up once is not the cost of a poll.
    let mut first = Waiters::connect(1, feed.to())?;
    first.park(0, &feed.question())?;
    first.settle(&feed.meter())?;
    let (parked, waiters) =
        waiters::parked_cost(count, feed.to(), &feed.meter(), |_| feed.question())?;
    drop(waiters);
    Ok(parked)
}
