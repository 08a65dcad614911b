//! The candidate: starts the real binary and speaks its public API. Also the data every item uses.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::http::{Checked as _, Client};
use crate::process::{Launch, Process};
use crate::{Bench, Failure, http};
use weir_testkit::Response;

pub const API: &str = "/central/api/v3";
const KEY: &str = "comparison-key";
pub const AUTHORIZATION: &str = "Bearer comparison-key";

pub struct Weir {
    pub process: Process,
    pub to: SocketAddrV4,
    /// From `exec` to the first 200 of the readiness probe.
    pub ready_after: Duration,
}

/// Items of one batch request.
pub const BATCH: usize = 10_000;

impl Weir {
    /// Starts on a data directory inside the scratch directory; an empty or absent one is a new
    /// store.
    pub fn start(bench: &Bench, data: &str) -> Result<Weir, Failure> {
        let program = bench
            .weir
            .as_deref()
            .ok_or("there is no Weir binary (self-test)")?;
        let directory = bench.directory(data)?;
        let log = bench.directory("logs")?.join(format!("weir-{data}.log"));
        let started = Instant::now();
        let arguments = [
            "serve",
            "--data-dir",
            &directory.display().to_string(),
            "--listen",
            "127.0.0.1:0",
            "--api-key",
            KEY,
            "--io-threads",
            "1",
        ];
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut process = Process::start(
            Launch {
                name: "weir",
                program,
                arguments,
                user: None,
                log,
            },
            bench.cores,
        )?;
        let line = process.line()?;
        let to: SocketAddrV4 = line
            .strip_prefix("listening on http://")
            .and_then(|address| address.trim().parse().ok())
            .ok_or_else(|| {
                format!("the first line of output is {line:?}, not `listening on http://ADDR:PORT`")
            })?;
        let mut client = Client::new(to, AUTHORIZATION);
        while client.get(&format!("{API}/monitoring/readiness"))?.status != 200 {
            if started.elapsed() > Duration::from_mins(5) {
                return Err("Weir is not ready after 300 s".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Weir {
            process,
            to,
            ready_after: started.elapsed(),
        })
    }

    pub fn client(&self) -> Client {
        Client::new(self.to, AUTHORIZATION)
    }

    pub fn get(&self, target: &str) -> Result<Response, Failure> {
        self.client().get(&format!("{API}{target}"))
    }

    /// Saves streams `numbers` in batches.
    pub fn save_streams(&self, numbers: std::ops::Range<usize>) -> Result<(), Failure> {
        let mut client = self.client();
        for first in numbers.clone().step_by(BATCH) {
            let items: Vec<String> = (first..(first + BATCH).min(numbers.end))
                .map(|number| stream_json(number, 0))
                .collect();
            let body = format!("[{}]", items.join(","));
            client
                .call("PUT", &format!("{API}/streams/batch"), "", body.as_bytes())?
                .one_of(&[204, 200], "PUT /streams/batch")?;
        }
        Ok(())
    }

    pub fn save_streamers(&self, count: usize) -> Result<(), Failure> {
        let mut client = self.client();
        for first in (0..count).step_by(BATCH) {
            let items: Vec<String> = (first..(first + BATCH).min(count))
                .map(streamer_json)
                .collect();
            let body = format!("[{}]", items.join(","));
            client
                .call(
                    "PUT",
                    &format!("{API}/streamers/batch"),
                    "",
                    body.as_bytes(),
                )?
                .one_of(&[204, 200], "PUT /streamers/batch")?;
        }
        Ok(())
    }

    /// Lays streams out: `ingest_of` names each stream's streamer.
    pub fn lay_out(
        &self,
        streams: usize,
        ingest_of: impl Fn(usize) -> usize,
    ) -> Result<(), Failure> {
        let mut client = self.client();
        for first in (0..streams).step_by(BATCH) {
            let items: Vec<String> = (first..(first + BATCH).min(streams))
                .map(|number| {
                    format!(
                        "{{\"name\":\"{}\",\"ingest\":\"{}\"}}",
                        stream_name(number),
                        hostname(ingest_of(number))
                    )
                })
                .collect();
            let body = format!("{{\"layouts\":[{}]}}", items.join(","));
            client
                .call(
                    "POST",
                    &format!("{API}/streams/layouts"),
                    "",
                    body.as_bytes(),
                )?
                .one_of(&[204, 200], "POST /streams/layouts")?;
        }
        Ok(())
    }
}

pub fn stream_name(number: usize) -> String {
    format!("cam-{number:07}")
}

pub fn hostname(number: usize) -> String {
    format!("node-{number:05}.example")
}

/// How many sites there are: a filter for one of them matches about 50 of a million streams.
const SITES: usize = 20_000;

pub fn site(number: usize) -> String {
    format!("site-{:05}", number.wrapping_mul(7919) % SITES)
}

/// Different for every stream below a million, and in no order.
pub fn bitrate(number: usize) -> usize {
    500 + (number as u128 * 2_654_435_761 % 1_000_003) as usize
}

/// The config of a stream as an operator would write it. `edition` changes the title: a save that
/// changes nothing could be answered without writing.
pub fn stream_json(number: usize, edition: u64) -> String {
    format!(
        "{{\"name\":\"{}\",\"title\":\"Camera {number}, edition {edition}\",\
         \"comment\":\"North gate, pole {number}, faces the car park; contract 4711, maintained twice a year\",\
         \"inputs\":[{{\"url\":\"rtsp://10.{}.{}.{}:554/live/{number}\"}},{{\"url\":\"rtsp://backup.example:554/live/{number}\"}}],\
         \"labels\":{{\"site\":\"{}\",\"floor\":\"{}\"}},\"claims\":{{\"bitrate\":{}}},\"dvr\":{{\"reference\":\"main\",\"expiration\":604800}}}}",
        stream_name(number),
        number >> 16 & 255,
        number >> 8 & 255,
        number & 255,
        site(number),
        number % 12,
        bitrate(number),
    )
}

pub fn streamer_json(number: usize) -> String {
    let hostname = hostname(number);
    format!(
        "{{\"hostname\":\"{hostname}\",\"role\":\"streamer\",\"cluster_key\":\"key-{number}\",\"api_url\":\"http://{hostname}:80\"}}"
    )
}

/// Title changes of one stream of each of the given ones, as one batch.
pub fn batch_of_changes(numbers: impl Iterator<Item = usize>, edition: u64) -> Vec<u8> {
    let items: Vec<String> = numbers
        .map(|number| {
            format!(
                "{{\"name\":\"{}\",\"title\":\"edition {edition}\"}}",
                stream_name(number)
            )
        })
        .collect();
    let body = format!("[{}]", items.join(","));
    http::request(
        "PUT",
        &format!("{API}/streams/batch"),
        AUTHORIZATION,
        "",
        body.as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn streams_are_valid_json_with_distinct_bitrates() {
        for number in [0, 1, 65_536, 999_999] {
            let value: serde_json::Value =
                serde_json::from_str(&stream_json(number, 3)).expect("valid JSON");
            assert_eq!(value["name"], stream_name(number));
            assert_eq!(value["claims"]["bitrate"], bitrate(number));
        }
        let distinct: HashSet<usize> = (0..1_000_000).map(bitrate).collect();
        assert_eq!(distinct.len(), 1_000_000);
    }

    #[test]
    fn a_site_is_shared_by_few_streams_of_a_million() {
        let wanted = site(7);
        let matching = (0..1_000_000)
            .filter(|&number| site(number) == wanted)
            .count();
        assert!((1..100).contains(&matching), "{matching} fit on one page");
    }
}
