//! P7: thousands of streamers, each parked on its own config; one batch concerns 1, 100 or 1,000 of
//! them.
//!
//! Service is what the answer must cost anyway: the same batch without parked polls, plus one bare
//! send per streamer concerned. The goal is about what comes on top, and about how it grows with
//! streamers that are not concerned.

use std::collections::HashSet;

use crate::bare::Bare;
use crate::figures::{Goal, Row, Spread, figure};
use crate::http::{self, Checked as _};
use crate::machine::Meter;
use crate::waiters::Waiters;
use crate::weir::{API, AUTHORIZATION, Weir, batch_of_changes, hostname};
use crate::{Bench, Failure};

/// Streams of each streamer: some company for the one that changes.
const STREAMS_EACH: usize = 2;
/// With 20,000 descriptors a server takes 15,000 connections; the others are for its own requests.
const PARKED: [usize; 3] = [1_000, 10_000, 14_500];
const CONCERNED: [(usize, usize); 3] = [(1, 400), (100, 40), (1_000, 10)];

fn percentile(values: &mut [f64], percentile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * percentile).ceil() as usize).clamp(1, values.len()) - 1]
}

pub fn run(bench: &Bench, _items: &[&'static str], rows: &mut Vec<Row>) -> Result<(), Failure> {
    let most = if bench.quick { 1_000 } else { PARKED[2] };
    let send_ms = bare_send_ms(bench)?;
    bench.discard("streamers");
    let weir = Weir::start(bench, "streamers")?;
    weir.save_streamers(most)?;
    weir.save_streams(0..most * STREAMS_EACH)?;
    weir.lay_out(most * STREAMS_EACH, |stream| stream % most)?;
    let meter = weir.process.meter(bench.cores);
    let mut edition = 1;

    // (concerned, all latencies of a series, its p99) by number parked.
    let mut p99_of_one: Vec<(usize, Vec<f64>)> = Vec::new();
    for parked in PARKED.into_iter().filter(|&parked| parked <= most) {
        let mut one = Vec::new();
        let mut measured: Vec<(usize, Vec<[f64; 6]>)> = CONCERNED
            .iter()
            .map(|&(concerned, _)| (concerned, Vec::new()))
            .collect();
        for _ in 0..bench.pairs {
            let services = CONCERNED
                .iter()
                .map(|&(concerned, rounds)| {
                    service_ms(&weir, concerned.min(most), rounds, most, &mut edition)
                })
                .collect::<Result<Vec<_>, Failure>>()?;
            let mut fleet = Fleet::park(&weir, parked, &meter)?;
            for (index, &(concerned, rounds)) in CONCERNED.iter().enumerate() {
                let mut latencies = Vec::new();
                let before = meter.read();
                for round in 0..rounds {
                    latencies.extend(fleet.change(
                        concerned.min(parked),
                        round,
                        &mut edition,
                        &meter,
                    )?);
                }
                let kernel = (meter.read() - before).kernel_share();
                let service = services[index][1] + send_ms * concerned as f64;
                let (p50, p99) = (
                    percentile(&mut latencies, 0.5),
                    percentile(&mut latencies, 0.99),
                );
                if concerned == 1 {
                    one.push(p99);
                }
                measured[index].1.push([
                    p99 - service,
                    p99,
                    p50,
                    services[index][1],
                    services[index][0],
                    kernel,
                ]);
            }
        }
        p99_of_one.push((parked, one));
        for (concerned, series) in measured {
            let median = |at: usize| Spread::of(series.iter().map(|each| each[at])).median;
            rows.push(
                Row::new(
                    "P7",
                    format!(
                        "{concerned} of {parked} parked streamers concerned: p99 \
                 beyond service"
                    ),
                    "itself",
                    "ms",
                    if parked == 10_000 {
                        Goal::AtMost(1.0, 0.5)
                    } else {
                        Goal::Open
                    },
                )
                .values(series.iter().map(|each| each[0]))
                .kernel(series.iter().map(|each| each[5]))
                .note(format!(
                    "wake-up p50 {} ms, p99 {} ms from the batch being sent; the batch \
                         without parked polls p50 {} ms, p99 {} ms; bare send {} us",
                    figure(median(2)),
                    figure(median(1)),
                    figure(median(4)),
                    figure(median(3)),
                    figure(send_ms * 1e3)
                )),
            );
        }
    }
    if let (Some((few, base)), Some((many, grown))) = (p99_of_one.first(), p99_of_one.last())
        && few != many
    {
        let (base, grown) = (base.clone(), grown.clone());
        rows.push(
            Row::new(
                "P7",
                format!("growth of p99 from {few} to {many} parked, 1 concerned"),
                "itself",
                "x",
                Goal::AtMost(1.2, 1.05),
            )
            .values(
                grown
                    .into_iter()
                    .zip(base)
                    .map(|(grown, base)| grown / base),
            ),
        );
    }
    Ok(())
}

/// Cost of one bare send to a waiter, measured now: part of any wake-up.
fn bare_send_ms(bench: &Bench) -> Result<f64, Failure> {
    let bare = Bare::start(bench)?;
    let meter = bare.process.meter(bench.cores);
    let count = 2_000;
    let mut waiters = Waiters::connect(count, bare.to)?;
    let publish = http::request(
        "POST",
        "/",
        "",
        "",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let mut each = Vec::new();
    for _ in 0..5 {
        for waiter in 0..count {
            waiters.park(waiter, &http::request("GET", "/wait", "", "", b""))?;
        }
        waiters.settle(&meter)?;
        each.push(waiters.change(&publish, None, &meter)?.last_ms() / count as f64);
    }
    Ok(Spread::of(each).median)
}

/// p50 and p99 of the same batch without parked polls.
fn service_ms(
    weir: &Weir,
    concerned: usize,
    rounds: usize,
    most: usize,
    edition: &mut u64,
) -> Result<[f64; 2], Failure> {
    let mut client = weir.client();
    let mut times = Vec::new();
    for round in 0..rounds {
        *edition += 1;
        let request = batch_of_changes(
            (0..concerned).map(|each| chosen(each, round, most)),
            *edition,
        );
        let start = std::time::Instant::now();
        client
            .exchange(&request)?
            .one_of(&[200, 204], "PUT /streams/batch")?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok([percentile(&mut times, 0.5), percentile(&mut times, 0.99)])
}

/// Spread over the fleet, different in every round; distinct within one round (the step is prime).
fn chosen(each: usize, round: usize, of: usize) -> usize {
    (round * 31 + each * 7919) % of
}

struct Fleet {
    waiters: Waiters,
    etags: Vec<Box<str>>,
}

impl Fleet {
    fn park(weir: &Weir, count: usize, meter: &Meter) -> Result<Fleet, Failure> {
        let mut waiters = Waiters::connect(count, weir.to)?;
        for streamer in 0..count {
            let target = format!("{API}/streamers/{}/streams", hostname(streamer));
            waiters.park(
                streamer,
                &http::request("GET", &target, AUTHORIZATION, "", b""),
            )?;
        }
        let mut etags = vec![Box::from(""); count];
        for answer in waiters.answers(count)? {
            if answer.status != 200 {
                return Err(
                    format!("a streamer's config was answered with {}", answer.status).into(),
                );
            }
            etags[answer.waiter] = answer.etag.ok_or("a streamer's config without an ETag")?;
        }
        let mut fleet = Fleet { waiters, etags };
        for streamer in 0..count {
            fleet.poll(streamer)?;
        }
        fleet.waiters.settle(meter)?;
        Ok(fleet)
    }

    fn poll(&mut self, streamer: usize) -> Result<(), Failure> {
        let target = format!(
            "{API}/streamers/{}/streams?poll_timeout=50",
            hostname(streamer)
        );
        let condition = format!("If-None-Match: {}\r\n", self.etags[streamer]);
        self.waiters.park(
            streamer,
            &http::request("GET", &target, AUTHORIZATION, &condition, b""),
        )
    }

    /// One batch; latencies of exactly the streamers concerned, in ms, which then park again.
    fn change(
        &mut self,
        concerned: usize,
        round: usize,
        edition: &mut u64,
        meter: &Meter,
    ) -> Result<Vec<f64>, Failure> {
        *edition += 1;
        let of = self.waiters.count();
        let streamers: Vec<usize> = (0..concerned).map(|each| chosen(each, round, of)).collect();
        // Stream number n belongs to streamer n modulo the size of the fleet, which is at least
        // `of`.
        let publish = batch_of_changes(streamers.iter().copied(), *edition);
        let set: HashSet<usize> = streamers.into_iter().collect();
        let done = self.waiters.change(&publish, Some(&set), meter)?;
        let latencies = done.latencies_ms();
        for woken in done.woken {
            self.etags[woken.waiter] = woken.etag.ok_or("a streamer's config without an ETag")?;
            self.poll(woken.waiter)?;
        }
        // A woken streamer must be parked again before the next batch, and no other may be
        // answered.
        self.waiters
            .quiet_for(std::time::Duration::from_millis(if concerned > 100 {
                25
            } else {
                4
            }))?;
        Ok(latencies)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // the same computation gives the same bits
mod tests {
    use super::*;

    #[test]
    fn percentiles_take_the_value_at_or_above() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            (
                percentile(&mut values, 0.5),
                percentile(&mut values, 0.99),
                percentile(&mut values, 1.0)
            ),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(percentile(&mut [7.0], 0.99), 7.0);
    }

    #[test]
    fn a_round_concerns_distinct_streamers() {
        for parked in PARKED {
            for (concerned, _) in CONCERNED {
                let distinct: HashSet<usize> =
                    (0..concerned).map(|each| chosen(each, 3, parked)).collect();
                assert_eq!(distinct.len(), concerned);
            }
        }
    }
}
