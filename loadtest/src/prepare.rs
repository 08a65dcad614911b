//! Makes a cluster through the API: the same arguments give the same cluster, and doing it twice
//! changes nothing.

use crate::control::Control;
use crate::queried;
use crate::seed::{Random, mix};
use crate::streamers::cluster_key;
use std::fmt::Write as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Spread {
    /// Every streamer gets as many streams as every other.
    Even,
    /// A few streamers get many: the n-th most loaded one gets 1/n of the first.
    Skewed,
    /// No layout: streams stay for the layouter.
    None,
}

/// Different values per label of [`ClusterOptions::unplaced`].
pub const UNPLACED_LABELS: u64 = 10;

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub streamers: u64,
    pub streams: u64,
    pub spread: Spread,
    /// Share of the streams with one DVR backup.
    pub backups: f64,
    /// Different values per label.
    pub labels: u64,
    /// A comment of this length makes streams larger.
    pub padding: usize,
    pub batch: u64,
    pub seed: u64,
    /// The streamers have addresses of their own on this machine, and this port.
    pub query_port: Option<u16>,
}

impl ClusterOptions {
    /// Of streams that the layouter places.
    pub fn unplaced(streamers: u64, streams: u64, backups: f64, seed: u64) -> Self {
        Self {
            streamers,
            streams,
            spread: Spread::None,
            backups,
            labels: UNPLACED_LABELS,
            padding: 0,
            batch: 2000,
            seed,
            query_port: None,
        }
    }

    /// Names of the streams, and how many streamers shall have each.
    pub fn copies(&self) -> impl Iterator<Item = (String, u32)> + '_ {
        (0..self.streams).map(|n| (stream_name(n), 1 + u32::from(has_backup(n, self))))
    }
}

pub fn hostname(n: u64) -> String {
    format!("s{n:05}.lt.example")
}

/// Most names are plain; some have what names may have: slashes, spaces, letters of other
/// alphabets.
pub fn stream_name(n: u64) -> String {
    match n % 97 {
        13 => format!("lt/site {}/{n:07}", n % 10),
        29 => format!("lt-\u{43a}\u{430}\u{43d}\u{430}\u{43b}-{n:07}"),
        _ => format!("lt-{n:07}"),
    }
}

pub fn streamer_json(n: u64, options: &ClusterOptions) -> String {
    let name = hostname(n);
    let api = match options.query_port {
        Some(port) => format!("{}:{port}", queried::address(n)),
        None => format!("{name}:8080"),
    };
    format!(
        r#"{{"hostname":"{name}","role":"streamer","cluster_key":"{}","api_url":"http://{api}","private_payload_url":"http://10.{}.{}.{}:8080","channel_limit":{},"labels":{{"region":"r{}"}}}}"#,
        cluster_key(options.seed, &name),
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255,
        (options.streams * 4 / options.streamers.max(1)).max(1000),
        n % options.labels.max(1)
    )
}

pub fn stream_json(n: u64, options: &ClusterOptions) -> String {
    let name = serde_json::to_string(&stream_name(n)).expect("a string is always JSON");
    let draw = mix(options.seed ^ mix(n));
    let mut out = format!(
        r#"{{"name":{name},"title":"Channel {n}","inputs":[{{"url":"udp://239.{}.{}.{}:5000"}}],"labels":{{"region":"r{}","tier":"t{}"}}"#,
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255,
        draw % options.labels.max(1),
        draw >> 32 & 3
    );
    if has_backup(n, options) {
        out.push_str(
            r#","dvr":{"expiration":604800,"redundancy_factor":2,"reference":"localdvr0"}"#,
        );
    }
    if options.padding > 0 {
        let _ = write!(out, r#","comment":"{}""#, "x".repeat(options.padding));
    }
    out.push('}');
    out
}

/// Whether the n-th stream is recorded twice.
pub fn has_backup(n: u64, options: &ClusterOptions) -> bool {
    options.streamers > 1 && Random::new(options.seed ^ mix(n + 0xb0)).unit() < options.backups
}

/// Where the n-th stream runs: the streamer and its backup.
pub fn place(n: u64, options: &ClusterOptions, shares: &[f64]) -> (u64, Option<u64>) {
    let ingest = match options.spread {
        Spread::Even | Spread::None => {
            // A different order of the streamers in every round: neighbours in name are not
            // neighbours in place.
            let round = mix(options.seed ^ (n / options.streamers)) % options.streamers;
            (n + round) % options.streamers
        }
        Spread::Skewed => {
            let draw = Random::new(options.seed ^ mix(n)).unit();
            shares
                .partition_point(|share| *share < draw)
                .min(shares.len() - 1) as u64
        }
    };
    let step = 1 + mix(options.seed ^ n) % (options.streamers - 1).max(1);
    (
        ingest,
        has_backup(n, options).then(|| (ingest + step) % options.streamers),
    )
}

/// Running sums of 1/n, scaled to 1.
pub fn skewed_shares(streamers: u64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut shares: Vec<f64> = (1..=streamers)
        .map(|n| {
            sum += 1.0 / n as f64;
            sum
        })
        .collect();
    for share in &mut shares {
        *share /= sum;
    }
    shares
}

/// Sends everything; `progress` receives the number of saved objects.
pub fn run(
    control: &mut Control,
    options: &ClusterOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<(), String> {
    let mut done = 0;
    let mut send = |method: &str,
                    path: &str,
                    range: std::ops::Range<u64>,
                    open: &str,
                    close: &str,
                    each: &dyn Fn(u64) -> String| {
        let mut from = range.start;
        while from < range.end {
            let to = range.end.min(from + options.batch);
            let items: Vec<String> = (from..to).map(each).collect();
            let body = format!("{open}{}{close}", items.join(","));
            control.expect(method, path, Some(body.as_bytes()))?;
            done += to - from;
            progress(done);
            from = to;
        }
        Ok::<(), String>(())
    };
    send(
        "PUT",
        "/streamers/batch",
        0..options.streamers,
        "[",
        "]",
        &|n| streamer_json(n, options),
    )?;
    send(
        "PUT",
        "/streams/batch",
        0..options.streams,
        "[",
        "]",
        &|n| stream_json(n, options),
    )?;
    if options.spread == Spread::None || options.streamers == 0 {
        return Ok(());
    }
    let shares = skewed_shares(options.streamers);
    let layout = |n: u64| {
        let (ingest, backup) = place(n, options, &shares);
        let name = serde_json::to_string(&stream_name(n)).expect("a string is always JSON");
        let backups = backup.map_or(String::new(), |host| {
            format!(r#","dvr_backups":["{}"]"#, hostname(host))
        });
        format!(
            r#"{{"name":{name},"ingest":"{}"{backups}}}"#,
            hostname(ingest)
        )
    };
    send(
        "POST",
        "/streams/layouts",
        0..options.streams,
        "{\"layouts\":[",
        "]}",
        &layout,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(spread: Spread) -> ClusterOptions {
        ClusterOptions {
            streamers: 20,
            streams: 10_000,
            spread,
            backups: 0.25,
            labels: 5,
            padding: 10,
            batch: 1000,
            seed: 3,
            query_port: None,
        }
    }

    fn counts(options: &ClusterOptions) -> (Vec<u64>, u64) {
        let shares = skewed_shares(options.streamers);
        let (mut per_host, mut backups) = (vec![0; options.streamers as usize], 0);
        for n in 0..options.streams {
            let (ingest, backup) = place(n, options, &shares);
            per_host[ingest as usize] += 1;
            assert_ne!(backup, Some(ingest), "a backup is another node");
            backups += u64::from(backup.is_some());
        }
        (per_host, backups)
    }

    #[test]
    fn streams_and_backups_are_spread_as_configured() {
        let (even, backups) = counts(&options(Spread::Even));
        assert!(even.iter().all(|count| *count == 500), "{even:?}");
        assert!((2200..2800).contains(&backups));
        let (skewed, _) = counts(&options(Spread::Skewed));
        assert!(skewed[0] > 10 * skewed[19], "{skewed:?}");
        assert_eq!(skewed.iter().sum::<u64>(), 10_000);
    }

    #[test]
    fn every_object_is_json_and_depends_on_the_seed_only() {
        let options = options(Spread::Even);
        for n in 0..200 {
            let stream: serde_json::Value =
                serde_json::from_str(&stream_json(n, &options)).unwrap();
            assert_eq!(stream["name"], stream_name(n));
            let streamer: serde_json::Value =
                serde_json::from_str(&streamer_json(n, &options)).unwrap();
            assert_eq!(streamer["hostname"], hostname(n));
            assert_eq!(stream_json(n, &options), stream_json(n, &options));
        }
        let names: std::collections::HashSet<String> = (0..10_000).map(stream_name).collect();
        assert_eq!(names.len(), 10_000);
    }
}
