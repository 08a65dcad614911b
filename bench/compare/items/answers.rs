//! P11-P13: the configuration of a streamer with 1,000 streams: nothing new, everything compressed,
//! and only what changed.

use super::{kernel_shares, rates_note, ratios};
use crate::figures::{Goal, Row, Side, alternate};
use crate::http::{Checked as _, Client};
use crate::load::{self, Get, Plan, Sample};
use crate::machine::Meter;
use crate::nginx::{Compressed, Nginx};
use crate::weir::{API, AUTHORIZATION, Weir, batch_of_changes, hostname, stream_name};
use crate::{Bench, Failure};

const STREAMS: usize = 1_000;

pub fn run(bench: &Bench, items: &[&'static str], rows: &mut Vec<Row>) -> Result<(), Failure> {
    bench.discard("answers");
    let weir = Weir::start(bench, "answers")?;
    weir.save_streamers(1)?;
    weir.save_streams(0..STREAMS)?;
    weir.lay_out(STREAMS, |_| 0)?;
    let target = format!("{API}/streamers/{}/streams", hostname(0));
    let mut client = weir.client();
    let whole = client
        .get(&target)?
        .one_of(&[200], "config of a streamer")?;
    let count = whole.value()?["streams"].as_array().map_or(0, Vec::len);
    if count != STREAMS {
        return Err(format!("the streamer gets {count} streams instead of {STREAMS}").into());
    }
    let etag = whole
        .header("etag")
        .ok_or("a streamer's config without an ETag")?
        .to_owned();
    let meter = weir.process.meter(bench.cores);
    let saturate = |to, target: &str, extra: &str, status, meter: &Meter| {
        let plan = Plan {
            to,
            connections: 64,
            pipeline: 1,
            answers_per_connection: None,
            warm: bench.warm,
            time: bench.time,
        };
        load::closed(
            plan,
            &mut Get::new(target, AUTHORIZATION, extra, status),
            meter,
        )
    };
    if items.contains(&"P11") {
        let single = format!("{API}/streams/{}", stream_name(1));
        let condition = format!("If-None-Match: {etag}\r\n");
        let pairs = alternate(bench.pairs, |side| match side {
            Side::Candidate => saturate(weir.to, &target, &condition, 304, &meter),
            Side::Peer => saturate(weir.to, &single, "", 200, &meter),
        })?;
        rows.push(
            Row::new(
                "P11",
                format!("unchanged config of {STREAMS} streams (304)"),
                "its own single GET",
                "x per busy s",
                Goal::AtLeast(1.0, 1.0),
            )
            .values(ratios(&pairs, Sample::per_busy_second))
            .wall(ratios(&pairs, Sample::per_second))
            .kernel(kernel_shares(&pairs))
            .note(rates_note(&pairs, ("304", "GET"))),
        );
    }
    if items.contains(&"P12") {
        let nginx = Nginx::start(
            bench,
            None,
            Some(&Compressed {
                body: whole.body.clone(),
            }),
        )?;
        let peer = nginx.process.meter(bench.cores);
        let accept = "Accept-Encoding: gzip\r\n";
        for (path, against, goal) in [
            (
                "/gzip-on/whole.json",
                "nginx gzip on, level 1",
                Goal::AtLeast(20.0, 50.0),
            ),
            (
                "/gzip-static/whole.json",
                "nginx gzip_static",
                Goal::AtLeast(1.0, 1.3),
            ),
        ] {
            let ours = client.call("GET", &target, accept, b"")?;
            let theirs = Client::new(nginx.to, AUTHORIZATION).call("GET", path, accept, b"")?;
            for answer in [&ours, &theirs] {
                if answer.header("content-encoding") != Some("gzip") {
                    return Err(format!("{against}: an answer is not compressed").into());
                }
            }
            let pairs = alternate(bench.pairs, |side| match side {
                Side::Candidate => saturate(weir.to, &target, accept, 200, &meter),
                Side::Peer => saturate(nginx.to, path, accept, 200, &peer),
            })?;
            rows.push(
                Row::new(
                    "P12",
                    format!("the whole config of {STREAMS} streams, gzip"),
                    against,
                    "x per busy s",
                    goal,
                )
                .values(ratios(&pairs, Sample::per_busy_second))
                .wall(ratios(&pairs, Sample::per_second))
                .kernel(kernel_shares(&pairs))
                .note(rates_note(&pairs, ("weir", "nginx")))
                .note(format!(
                    "{} B of JSON; compressed {} B, nginx {} B",
                    whole.body.len(),
                    ours.body.len(),
                    theirs.body.len()
                )),
            );
        }
    }
    if items.contains(&"P13") {
        let revision = revision_of(&whole)?;
        client
            .exchange(&batch_of_changes(std::iter::once(7), 1))?
            .one_of(&[200, 204], "PUT /streams/batch")?;
        let delta = client
            .get(&format!("{target}?changes_since={revision}"))?
            .one_of(&[200], "changes of a streamer")?;
        let changed = delta.value()?["streams"].as_array().map_or(0, Vec::len);
        if changed != 1 {
            return Err(format!("the delta has {changed} streams instead of 1").into());
        }
        rows.push(
            Row::new(
                "P13",
                format!("bytes of a delta, 1 of {STREAMS} streams changed"),
                "whole answer",
                "%",
                Goal::AtMost(1.0, 0.3),
            )
            .values([delta.body.len() as f64 / whole.body.len() as f64 * 100.0])
            .note(format!("{} B of {} B", delta.body.len(), whole.body.len())),
        );
    }
    Ok(())
}

/// The revision of a whole answer: a field of the body or a header.
fn revision_of(whole: &weir_testkit::Response) -> Result<String, Failure> {
    if let Some(number) = whole.value()?["revision"].as_u64() {
        return Ok(number.to_string());
    }
    ["x-config-revision", "x-revision"]
        .iter()
        .find_map(|name| whole.header(name))
        .map(str::to_owned)
        .ok_or_else(|| {
            "a streamer's config names no revision, so a client cannot request changes".into()
        })
}
