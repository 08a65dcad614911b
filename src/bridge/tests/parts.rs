//! The file, life signs, and reports.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::super::central::clock_fault;
use super::super::desired::{Wanted, WantedDvr, WantedInput, WantedStream};
use super::super::kept::{FoundFile, Kept, KeptFile, KeptRef};
use super::super::kind::{MeasuredStream, Picture, ServerMeasure};
use super::super::liveness::{LifeSign, Liveness, ServerLife};
use super::super::plan::{Owned, OwnedState, OwnedStream, StreamError};
use super::super::report::{ConfigStatus, HostUsage, Meter, ReportInput, report};
use super::super::shared::BridgeShared;
use super::{Clock, TestRules};

fn wanted(streams: &[(&str, &str)]) -> Wanted {
    let streams = streams.iter().map(|(name, url)| {
        let input = WantedInput {
            url: (*url).into(),
            source_timeout: Some(7),
        };
        let inputs = vec![input];
        ((*name).into(), WantedStream { inputs, dvr: None })
    });
    streams.collect()
}

#[test]
fn file_is_read_whole_or_not_at_all() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let file = KeptFile::new(directory.path(), "host.example:1");
    assert_eq!(file.read(), FoundFile::Nothing);
    let owned = OwnedStream {
        name: "a".into(),
        source: "rtsp://u:p@h/a".into(),
        recording: None,
        state: OwnedState::Given,
    };
    let kept = Kept {
        key: Some("k".to_owned()),
        has_joined: true,
        wanted: Some(wanted(&[("a", "rtsp://u:p@h/a"), ("ä \"", "publish://")])),
        owned: Owned::from([("a".into(), owned)]),
    };
    let write = |kept: &Kept| {
        let written = file.write(&KeptRef {
            key: kept.key.as_deref(),
            has_joined: kept.has_joined,
            wanted: kept.wanted.as_ref(),
            owned: &kept.owned,
        });
        written.expect("it can be written");
    };
    write(&kept);
    assert_eq!(file.read(), FoundFile::Kept(kept.clone()));
    let bytes = fs::read(file.path()).expect("it is there");
    // Torn at any byte, or with any byte changed, it is no knowledge.
    for end in 0..bytes.len() {
        fs::write(file.path(), &bytes[..end]).expect("it can be written");
        assert!(
            matches!(file.read(), FoundFile::Unreadable(_)),
            "cut at {end}"
        );
        let mut changed = bytes.clone();
        changed[end] ^= 1;
        fs::write(file.path(), &changed).expect("it can be written");
        assert!(
            matches!(file.read(), FoundFile::Unreadable(_)),
            "changed at {end}"
        );
    }
    // What a killed writer left beside it makes no difference.
    fs::write(directory.path().join("host.example_x3A_1.bridge.tmp"), "x").expect("a file");
    write(&kept);
    assert_eq!(file.read(), FoundFile::Kept(kept));
}

#[test]
fn recorded_intention_is_read_as_a_call_that_may_have_been_made() {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let file = KeptFile::new(directory.path(), "h");
    let owned = |state| OwnedStream {
        name: "a".into(),
        source: "rtsp://h/a".into(),
        recording: None,
        state,
    };
    let written = file.write(&KeptRef {
        key: None,
        has_joined: false,
        wanted: None,
        owned: &Owned::from([("a".into(), owned(OwnedState::Intended))]),
    });
    written.expect("it can be written");
    let FoundFile::Kept(kept) = file.read() else {
        panic!("it was written whole");
    };
    assert_eq!(kept.owned["a"], owned(OwnedState::Unsure));
}

#[test]
fn recordings_of_earlier_files_are_read() {
    let read = |text: &str| serde_json::from_str::<WantedStream>(text).expect(text);
    assert_eq!(read("{}").dvr, None);
    assert_eq!(read(r#"{"dvr":false}"#).dvr, None);
    assert_eq!(read(r#"{"dvr":true}"#).dvr, Some(Box::default()));
    let dvr = WantedDvr {
        root: Some("/r".into()),
        expiration: Some(5),
        needs_more: true,
    };
    let stream = WantedStream {
        inputs: Vec::new(),
        dvr: Some(Box::new(dvr)),
    };
    let text = serde_json::to_string(&stream).expect("JSON");
    assert_eq!(read(&text), stream);
}

#[test]
fn clocks_that_differ_are_named() {
    let here = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let fault = |there| clock_fault(here, there);
    assert_eq!(fault(here), None);
    assert_eq!(fault(here + Duration::from_mins(5)), None);
    let text = |way| {
        Some(format!(
            "the clock of this machine is 60 min {way} that of Weir"
        ))
    };
    assert_eq!(fault(here + Duration::from_hours(1)), text("behind"));
    assert_eq!(fault(here - Duration::from_hours(1)), text("ahead of"));
}

#[test]
fn only_silence_of_both_ports_for_a_while_is_death() {
    let mut clock = Clock::new();
    let mut liveness = Liveness::default();
    let mut see = |ms, sign| liveness.see(clock.pass(ms), sign);
    use LifeSign::{Api, Media, MediaWithoutApi, Silence};
    assert_eq!(see(0, MediaWithoutApi), ServerLife::Down, "not seen yet");
    assert_eq!(see(500, Api), ServerLife::Up);
    assert_eq!(see(500, Silence), ServerLife::Up);
    assert_eq!(see(1499, Silence), ServerLife::Up);
    assert_eq!(see(1, Silence), ServerLife::Down);
    assert_eq!(see(100, MediaWithoutApi), ServerLife::Down, "it starts");
    assert_eq!(see(100, Media), ServerLife::Down);
    assert_eq!(see(100, Api), ServerLife::Up);
    assert_eq!(see(1999, MediaWithoutApi), ServerLife::Up, "a slow answer");
    assert_eq!(see(1, MediaWithoutApi), ServerLife::Unmanageable);
    assert_eq!(see(100_000, MediaWithoutApi), ServerLife::Unmanageable);
    assert_eq!(see(1999, Silence), ServerLife::Unmanageable);
    assert_eq!(see(1000, Api), ServerLife::Up, "its silence was short");
    assert_eq!(see(1500, Silence), ServerLife::Up, "and begins again");
    // A look at the media port alone is an answer, and no word about the API.
    assert_eq!(see(100, Media), ServerLife::Up);
    assert_eq!(see(100_000, Media), ServerLife::Up);
    assert_eq!(see(2000, Silence), ServerLife::Down);
    assert_eq!(liveness.deaths(), 2);
}

#[test]
fn silence_counts_from_the_last_answer() {
    // A server that hangs right after an answer is dead 2 s after it, however long the first look
    // without one took, and if it was the only one.
    let mut clock = Clock::new();
    let mut liveness = Liveness::default();
    liveness.see(clock.0, LifeSign::Api);
    assert_eq!(liveness.answered_at(), Some(clock.0));
    let at = clock.pass(2000);
    assert_eq!(liveness.see(at, LifeSign::Silence), ServerLife::Down);
    // An answer that came while the look waited counts.
    liveness.see(clock.pass(1), LifeSign::Api);
    let answered_at = clock.pass(900);
    liveness.see(answered_at, LifeSign::Api);
    let at = clock.pass(1100);
    assert_eq!(liveness.see(at, LifeSign::Silence), ServerLife::Up);
}

#[test]
fn dead_server_is_neither_polled_nor_reported() {
    let mut clock = Clock::new();
    let shared = BridgeShared::new(None, false);
    shared.see(clock.0, LifeSign::Api);
    assert!(shared.wait_for_turn().is_some(), "polled");
    shared.put_report(b"good".to_vec());
    shared.see(clock.pass(2000), LifeSign::Silence);
    assert_eq!(shared.life(), (ServerLife::Down, 1));
    let fault = ConfigStatus::error("unreachable", None, "cut");
    assert!(!shared.put_fault(1, fault), "the poll was cut");
    // The report from before, and one that the worker made too late.
    shared.put_report(b"late".to_vec());
    shared.see(clock.pass(1), LifeSign::Api);
    shared.put_report(b"new".to_vec());
    assert_eq!(shared.wait_for_report().as_deref(), Some(&b"new"[..]));
    let turn = shared.wait_for_turn().expect("polled again");
    assert_eq!(turn.epoch, 2, "its list is wanted at once");
    shared.stop();
    assert!(shared.wait_for_report().is_none());
    assert!(!shared.wait_for_silence(Duration::ZERO));
}

/// Counters of a server, and the reports made of them.
struct ReportBench {
    clock: Clock,
    meter: Meter,
    wanted: Wanted,
    errors: BTreeMap<Box<str>, StreamError>,
}

impl ReportBench {
    fn count(&mut self, ms: u64, streams: &[(&str, u64, Option<Picture>)]) {
        let streams = streams.iter().map(|(native, bytes_in, picture)| {
            let stream = MeasuredStream {
                bytes_in: *bytes_in,
                bytes_out: 5,
                viewers: 2,
                picture: *picture,
                codec: Some("h264".into()),
            };
            ((*native).into(), stream)
        });
        let measure = ServerMeasure {
            version: "1".into(),
            uptime_seconds: 9,
            streams: streams.collect(),
        };
        let now = self.clock.pass(ms);
        self.meter.add(now, measure);
    }

    fn report(&self, is_measured: bool) -> Value {
        let body = report(
            &self.meter,
            &ReportInput {
                hostname: "h",
                rules: &TestRules,
                wanted: Some(&self.wanted),
                errors: &self.errors,
                config: &ConfigStatus::error("unreachable", Some(500), "away"),
                usage: HostUsage {
                    cpu_percent: 100,
                    ..HostUsage::default()
                },
                now: self.clock.0,
                wall_ms: 1_700_000_000_000,
                is_measured,
            },
        );
        serde_json::from_slice(&body).expect("JSON")
    }

    fn of(&self, name: &str) -> Value {
        let report = self.report(true);
        let streams = report["streams"].as_array().expect("a list");
        let found = streams.iter().find(|stream| stream["name"] == name);
        found.expect("it is reported").clone()
    }
}

#[test]
fn reports_show_what_flows_and_why_not() {
    let mut bench = ReportBench {
        clock: Clock::new(),
        meter: Meter::default(),
        wanted: wanted(&[
            ("a", "rtsp://h/a"),
            ("b", "rtsp://h/b"),
            ("p", "publish://"),
        ]),
        errors: BTreeMap::new(),
    };
    let size = Some(Picture::Size(160, 120));
    bench.count(0, &[("a", 1000, size), ("b", 0, None)]);
    assert_eq!(bench.of("a")["status"], "waiting", "one look is none");
    // 125,000 bytes in a second are 1,000 kbit/s.
    bench.count(
        1000,
        &[("a", 126_000, size), ("b", 0, None), ("p", 0, None)],
    );
    let stream = bench.of("a");
    assert_eq!(
        (&stream["status"], &stream["alive"]),
        (&"running".into(), &true.into())
    );
    assert_eq!(stream["bitrate"], 1000);
    assert_eq!(stream["media_info"]["tracks"][0]["width"], 160);
    assert_eq!(stream["last_dts_at"], 1_700_000_000_000_u64);
    assert_eq!(bench.of("b")["status"], "waiting");
    // The server started the stream again: its counter falls, and no rate is negative.
    bench.count(
        1000,
        &[
            ("a", 50, size),
            ("b", 9, Some(Picture::Missing)),
            ("p", 10, None),
        ],
    );
    assert_eq!(bench.of("a")["bitrate"], 0);
    assert_eq!(bench.of("a")["status"], "running", "a moment without bytes");
    assert_eq!(
        bench.of("b")["status"],
        "waiting",
        "bytes are not a picture"
    );
    assert_eq!(bench.of("p")["opened_at"], 1_700_000_000_000_u64);
    assert!(
        bench.of("a").get("opened_at").is_none(),
        "for publishers only"
    );
    bench.count(12_000, &[("a", 50, size)]);
    assert_eq!(
        bench.of("a")["status"],
        "waiting",
        "no bytes for 12 seconds"
    );
    let error = StreamError {
        code: "server_refused",
        text: "no".into(),
        since: bench.clock.0,
    };
    bench.errors.insert("b".into(), error);
    bench.clock.pass(3_000);
    let stream = bench.of("b");
    assert_eq!(stream["status"], "error");
    assert_eq!(stream["error"]["code"], "server_refused");
    assert_eq!(stream["error"]["since"], 1_699_999_997_000_u64);
    let stats = bench.report(true)["stats"].clone();
    assert_eq!(stats["config_external_status"]["while"], "refresh");
    assert_eq!(stats["total_streams"], 3);
    assert!(
        bench.report(false).get("streams").is_none(),
        "about the server alone"
    );
    let is_whole = |value: &Value| value.as_f64().is_none_or(|it| it.fract() == 0.0);
    let numbers = stats.as_object().expect("an object").values();
    assert!(numbers.clone().all(is_whole), "{stats}");
}
