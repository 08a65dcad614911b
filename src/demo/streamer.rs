//! A simulated streamer: polls its streams, and reports that they run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::Method;

use crate::client::{ApiClient, ClientError, escape};

/// How long a poll waits for a change, in seconds; after it the streamer reports.
const POLL_SECONDS: u64 = 2;

/// Pause after a failed request, and between looks at the time while it is away.
const PAUSE: Duration = Duration::from_millis(200);

/// The name of the streamer of this number.
pub fn hostname(number: u16) -> String {
    format!("edge-{number:02}.demo")
}

pub struct DemoStreamer {
    number: u16,
    server: ApiClient,
    started: Instant,
    /// It fails this often.
    outage: Option<Duration>,
    etag: String,
    streams: Vec<String>,
}

impl DemoStreamer {
    pub fn new(number: u16, server: ApiClient) -> Self {
        Self {
            number,
            server,
            started: Instant::now(),
            outage: None,
            etag: String::new(),
            streams: Vec::new(),
        }
    }

    /// The same, away for the second half of each of these times.
    pub fn failing(self, outage: Duration) -> Self {
        Self {
            outage: Some(outage),
            ..self
        }
    }

    /// Runs until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if self.is_away() {
                // What ran is gone when it returns.
                self.etag.clear();
                thread::sleep(PAUSE);
                continue;
            }
            // A server that is busy or ends is tried again.
            if self.poll().and_then(|()| self.report()).is_err() {
                thread::sleep(PAUSE);
            }
        }
    }

    fn is_away(&self) -> bool {
        self.outage.is_some_and(|outage| {
            let since = self.started.elapsed().as_millis() % outage.as_millis();
            since * 2 >= outage.as_millis()
        })
    }

    fn poll(&mut self) -> Result<(), ClientError> {
        let host = escape(&hostname(self.number));
        let path = format!("/streamers/{host}/streams?poll_timeout={POLL_SECONDS}");
        let condition = [("if-none-match", self.etag.as_str())];
        let headers: &[_] = if self.etag.is_empty() {
            &[]
        } else {
            &condition
        };
        match self.server.call((Method::GET, &path), headers, None, None) {
            Ok(answer) => {
                let streams = answer.body["streams"].as_array();
                let names = streams.into_iter().flatten();
                let names = names.filter_map(|stream| stream["name"].as_str());
                self.streams = names.map(str::to_owned).collect();
                self.etag = answer.etag.unwrap_or_default();
                Ok(())
            }
            Err(ClientError::Status { status: 304, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn report(&self) -> Result<(), ClientError> {
        let seconds = self.started.elapsed().as_secs();
        // It goes up and down within a quarter of an hour, each streamer at its own time.
        let phase = (seconds as f64 / 900.0 + f64::from(self.number) / 7.0) * std::f64::consts::TAU;
        let viewers = |at: usize| (f64::from(at as u32 % 13) * (1.5 + phase.sin())) as u64;
        let streams: Vec<Value> = self
            .streams
            .iter()
            .enumerate()
            .map(|(at, name)| {
                json!({
                    "name": name,
                    "status": "running",
                    "alive": true,
                    "bitrate": 2500 + at % 7 * 500,
                    "online_clients": viewers(at),
                })
            })
            .collect();
        let count = self.streams.len() as u64;
        let clients: u64 = (0..self.streams.len()).map(viewers).sum();
        let cpu = 20.0 + count as f64 / 4.0 + 10.0 * phase.sin();
        let body = json!({
            "stats": {
                "cpu_usage": cpu.clamp(1.0, 75.0) as u64,
                "memory_usage": (30 + count / 8).min(75),
                "input_kbit": count * 4000,
                "output_kbit": clients * 4000,
                "total_clients": clients,
                "total_streams": count,
                "uptime": seconds,
                "server_version": "demo",
            },
            "streams": streams,
        });
        let path = format!("/streamers/{}/stats", escape(&hostname(self.number)));
        self.server.put(&path, &body)
    }
}
