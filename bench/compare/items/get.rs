//! P1-P4: one small JSON answer, as often as the core can send it, beside nginx sending the same
//! bytes.

use std::net::SocketAddrV4;

use super::{kernel_shares, medians, rates_note, ratios};
use crate::figures::{Goal, Row, Side, alternate, rate};
use crate::http::{Checked as _, Client};
use crate::load::{self, Get, Plan, Sample, Turn};
use crate::machine::Meter;
use crate::nginx::{Fixed, Nginx};
use crate::weir::{API, AUTHORIZATION, Weir};
use crate::{Bench, Failure};
use weir_testkit::Response;

/// Enough to saturate one core from one other, few enough that queueing does not hide the answers.
const CONNECTIONS: usize = 64;

/// Size of the answer, as far as the defaults that Weir fills in leave room for it.
const BODY_BYTES: usize = 300;

struct Endpoint {
    to: SocketAddrV4,
    target: String,
    meter: Meter,
}

/// The body in a self-test, which has no candidate.
const STUB: &[u8] = b"{\"inputs\":[{\"url\":\"rtsp://10.0.0.1:554/live/1\"}],\"labels\":{\"floor\":\"3\",\"site\":\"site-00001\"},\"name\":\"cam-0000001\",\
\"static\":true,\"title\":\"Camera 1, edition 0, with some more words in it so that the whole is three hundred bytes\",\"updated_at\":1700000000000,\
\"dvr\":{\"expiration\":604800,\"reference\":\"main\"},\"claims\":{\"bitrate\":2500}}";

pub fn run(bench: &Bench, items: &[&'static str], rows: &mut Vec<Row>) -> Result<(), Failure> {
    let (answer, weir) = if bench.self_test {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"1\"\r\n\r\n";
        (
            Response {
                status: 200,
                head: head.as_slice().into(),
                body: STUB.to_vec(),
                ..Response::default()
            },
            None,
        )
    } else {
        bench.discard("get");
        let weir = Weir::start(bench, "get")?;
        weir.save_streams(0..1000)?;
        // Small on purpose: what is measured is the path of a request, not of a body.
        let mut client = weir.client();
        let small = format!("{API}/streams/small");
        let mut save = |comment: &str| {
            let body = format!(
                "{{\"title\":\"Camera\",\"inputs\":[{{\"url\":\"rtsp://10.0.0.1:554/live\"}}],\"comment\":\"{comment}\"}}"
            );
            client
                .call("PUT", &small, "", body.as_bytes())?
                .one_of(&[200, 201], "PUT stream")?;
            client.get(&small)?.one_of(&[200], "GET stream")
        };
        let short = save("-")?.body.len();
        (
            save(&"-".repeat(BODY_BYTES.saturating_sub(short) + 1))?,
            Some(weir),
        )
    };
    let target = format!("{API}/streams/small");
    let fixed = Fixed {
        target: target.clone(),
        file_target: "/fixed-file".into(),
        answer,
    };
    let nginx = Nginx::start(bench, Some(&fixed), None)?;
    let second = if weir.is_none() {
        Some(Nginx::start(bench, Some(&fixed), None)?)
    } else {
        None
    };
    let candidate = match (&weir, &second) {
        (Some(weir), _) => Endpoint {
            to: weir.to,
            target: target.clone(),
            meter: weir.process.meter(bench.cores),
        },
        (None, Some(second)) => Endpoint {
            to: second.to,
            target: target.clone(),
            meter: second.process.meter(bench.cores),
        },
        (None, None) => unreachable!("one of them was started"),
    };
    let names = (
        if weir.is_some() {
            "weir"
        } else {
            "nginx (self-test)"
        },
        "nginx",
    );

    let mut peer = Endpoint {
        to: nginx.to,
        target: target.clone(),
        meter: nginx.process.meter(bench.cores),
    };
    let file = Endpoint {
        to: nginx.to,
        target: fixed.file_target.clone(),
        meter: peer.meter.clone(),
    };
    let same = same_bytes(&candidate, &peer)?;
    same_bytes(&candidate, &file)?;
    // The stronger form of the peer is the peer.
    let mut best = (0.0, 0.0);
    for _ in 0..2 {
        best.0 = f64::max(best.0, saturate(bench, &peer, 1, None)?.per_busy_second());
        best.1 = f64::max(best.1, saturate(bench, &file, 1, None)?.per_busy_second());
    }
    let chosen = format!(
        "nginx serves it by `{}` ({} per busy s; the other way {})",
        if best.0 >= best.1 {
            "return"
        } else {
            "static file with open_file_cache"
        },
        rate(best.0.max(best.1)),
        rate(best.0.min(best.1))
    );
    if best.1 > best.0 {
        peer = file;
    }

    let turn = |side: Side| {
        if side == Side::Candidate {
            &candidate
        } else {
            &peer
        }
    };
    let series = |pipeline: usize, each: Option<usize>| {
        alternate(bench.pairs, |side| {
            saturate(bench, turn(side), pipeline, each)
        })
    };
    let closed_row = |item, what: &str, goal, pairs: &[(Sample, Sample)]| {
        Row::new(item, what, "nginx", "x per busy s", goal)
            .values(ratios(pairs, Sample::per_busy_second))
            .wall(ratios(pairs, Sample::per_second))
            .kernel(kernel_shares(pairs))
            .note(rates_note(pairs, names))
    };
    let plain = series(1, None)?;
    rows.push(
        closed_row(
            "P1",
            &format!(
                "GET {} B of JSON, {CONNECTIONS} connections",
                fixed.answer.body.len()
            ),
            Goal::AtLeast(1.1, 1.35),
            &plain,
        )
        .note(same)
        .note(chosen),
    );
    if items.contains(&"P2") {
        rows.push(closed_row(
            "P2",
            "the same, 16 requests pipelined",
            Goal::AtLeast(6.0, 10.0),
            &series(16, None)?,
        ));
    }
    if items.contains(&"P3") {
        let saturation = medians(&plain, Sample::per_second);
        let slower = saturation.0.min(saturation.1);
        for (load, goal) in [(0.8, Goal::AtMost(0.7, 0.5)), (0.5, Goal::Open)] {
            let per_second = slower * load;
            let pairs = alternate(bench.pairs, |side| {
                let endpoint = turn(side);
                let mut work = Get::new(&endpoint.target, AUTHORIZATION, "", 200);
                load::open_loop(
                    plan(bench, endpoint, 1, None),
                    per_second,
                    Turn::Free,
                    &mut work,
                    &endpoint.meter,
                )
            })?;
            let p = |percentile: f64| {
                medians(&pairs, move |sample: &Sample| {
                    sample.percentile_ms(percentile)
                })
            };
            rows.push(
                Row::new(
                    "P3",
                    format!("open-loop p99 at {:.0} % load", load * 100.0),
                    "nginx",
                    "x",
                    goal,
                )
                .values(ratios(&pairs, |sample| sample.percentile_ms(99.0)))
                .kernel(kernel_shares(&pairs))
                .note(format!(
                    "{}/s requested; ms p50 / p99 / p99.9: {} {:.3} / {:.3} / {:.3}, {} {:.3} \
                         / {:.3} / {:.3}",
                    rate(per_second),
                    names.0,
                    p(50.0).0,
                    p(99.0).0,
                    p(99.9).0,
                    names.1,
                    p(50.0).1,
                    p(99.0).1,
                    p(99.9).1,
                )),
            );
        }
    }
    if items.contains(&"P4") {
        rows.push(closed_row(
            "P4",
            "10 requests per connection, then close",
            Goal::AtLeast(1.0, 1.2),
            &series(1, Some(10))?,
        ));
    }
    Ok(())
}

fn plan(
    bench: &Bench,
    endpoint: &Endpoint,
    pipeline: usize,
    answers_per_connection: Option<usize>,
) -> Plan {
    Plan {
        to: endpoint.to,
        connections: CONNECTIONS,
        pipeline,
        answers_per_connection,
        warm: bench.warm,
        time: bench.time,
    }
}

fn saturate(
    bench: &Bench,
    endpoint: &Endpoint,
    pipeline: usize,
    each: Option<usize>,
) -> Result<Sample, Failure> {
    let mut work = Get::new(&endpoint.target, AUTHORIZATION, "", 200);
    load::closed(
        plan(bench, endpoint, pipeline, each),
        &mut work,
        &endpoint.meter,
    )
}

/// Status and body must be equal, the peer's headers a superset of the candidate's; the note lists
/// the rest.
fn same_bytes(candidate: &Endpoint, peer: &Endpoint) -> Result<String, Failure> {
    let ask = |endpoint: &Endpoint| Client::new(endpoint.to, AUTHORIZATION).get(&endpoint.target);
    let (ours, theirs) = (ask(candidate)?, ask(peer)?);
    if ours.status != theirs.status || ours.body != theirs.body {
        return Err(format!(
            "not the same bytes: {} {} B and {} {} B",
            ours.status,
            ours.body.len(),
            theirs.status,
            theirs.body.len()
        )
        .into());
    }
    let names = |answer: &Response| {
        answer
            .headers()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    let (mine, other) = (names(&ours), names(&theirs));
    // nginx adds `Connection: keep-alive`, which HTTP/1.1 does not need.
    if let Some(missing) = mine.iter().find(|name| !other.contains(name)) {
        return Err(format!("nginx does not send the header {missing}").into());
    }
    let extra: Vec<&String> = other.iter().filter(|name| !mine.contains(name)).collect();
    Ok(format!(
        "same status, same body; heads {} B and {} B (nginx adds {extra:?} and cannot leave them \
         out)",
        ours.head.len(),
        theirs.head.len()
    ))
}
