//! The streamers and streams of the demo.

use serde_json::{Value, json};

use super::streamer::hostname;
use crate::client::{ApiClient, ClientError};
use crate::exit::{Exit, Failure};

const SITES: [&str; 3] = ["paris", "tokyo", "lima"];
const CUSTOMERS: [&str; 4] = ["acme", "blue", "city", "dune"];

/// Streams that one batch saves.
const BATCH: u32 = 1000;

/// How large the cluster is.
pub struct DemoCluster {
    pub streamers: u16,
    pub streams: u32,
}

impl DemoCluster {
    /// Saves all of it.
    pub fn create(&self, server: &ApiClient) -> Result<(), Failure> {
        let failed = |error: ClientError| Failure::new(Exit::Runtime, error.to_string());
        let streamers: Vec<Value> = (1..=self.streamers).map(|n| self.streamer(n)).collect();
        let streamers = Value::Array(streamers);
        server.put("/streamers/batch", &streamers).map_err(failed)?;
        let mut first = 1;
        while first <= self.streams {
            let last = self.streams.min(first + BATCH - 1);
            let streams = Value::Array((first..=last).map(stream).collect());
            server.put("/streams/batch", &streams).map_err(failed)?;
            first = last + 1;
        }
        Ok(())
    }

    fn streamer(&self, number: u16) -> Value {
        // Room for all streams and copies without two of the streamers.
        let room = self.streams * 3 / u32::from(self.streamers) + 10;
        json!({
            "hostname": hostname(number),
            "role": "streamer",
            "cluster_key": format!("demo-{number}"),
            "channel_limit": room,
            "labels": {"site": SITES[usize::from(number) % SITES.len()]},
        })
    }
}

/// A stream: some are recorded with a copy, some may run at one site only, some are disabled.
fn stream(number: u32) -> Value {
    let n = number as usize;
    let site = SITES[n % SITES.len()];
    let mut stream = json!({
        "name": format!("{site}/cam-{number:04}"),
        "title": format!("Camera {number}"),
        "inputs": [{"url": format!("rtsp://10.{}.{}.1/main", n / 250 % 250, n % 250)}],
        "labels": {"customer": CUSTOMERS[n % CUSTOMERS.len()]},
    });
    if n.is_multiple_of(5) {
        stream["dvr"] = json!({"root": "/var/dvr", "expiration": 86400, "redundancy_factor": 2});
    }
    if n.is_multiple_of(7) {
        stream["labels"]["required.site"] = Value::from(site);
    }
    if n.is_multiple_of(40) {
        stream["disabled"] = Value::Bool(true);
    }
    stream
}
