//! Time to read, prune and check the configuration of a stream of 2 KB, against serde_json reading
//! it into typed structs.
//!
//! Interleaved rounds, A-B-B-A, in CPU time; prints medians, the spread of the ratio, and the least
//! time of each part. The readers of JSON are compared in `json`.

use std::hint::black_box;

use serde::Deserialize;
use weir_testkit::sys::thread_cpu;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY: &str = r#"{"name":"sports/hockey-hd","title":"Hockey channel, north arena","comment":"Contribution over SRT, backup over RTSP from the truck","static":true,"disabled":false,"template":"sports-hd","labels":{"region":"north","required.gpu":"t4","tier":"gold"},"inputs":[{"url":"srt://10.20.30.40:9000?passphrase=0123456789abcdef&latency=120","priority":1,"title":"main","source_timeout":20,"video_timeout":15,"audio_timeout":30,"headers":{"User-Agent":"weir/1.0"}},{"url":"rtsp://operator:s3cr3t-passw0rd@192.168.10.17:554/Streaming/Channels/101","priority":2,"title":"truck","rtp":"udp","source_timeout":25},{"url":"https://cdn.example.com/backup/hockey/index.m3u8?token=aaaabbbbccccdddd","priority":3,"title":"cdn"}],"dvr":{"reference":"main","expiration":604800,"disk_usage_limit":90,"redundancy_factor":2,"storage_limit":1099511627776,"schedule":[[800,1500]]},"on_play":{"url":"https://auth.example.com/play?cluster=7","max_sessions":1000,"allowed_countries":["DE","FR","PL"],"session_keys":["name","ip","token"]},"on_publish":{"url":"https://auth.example.com/publish"},"pushes":[{"url":"rtmps://live.example.net/app/key-1234-5678-90ab","timeout":30,"retry_timeout":5,"retry_limit":10,"disabled":false},{"url":"srt://203.0.113.9:7000","passphrase":"another-passphrase","timeout":20}],"transcoder":{"global":{"hw":"nvenc"},"video":[{"track":1,"codec":"h264","bitrate":4500000,"preset":"veryfast","fps":50,"bframes":2,"size":{"width":1920,"height":1080,"strategy":"fit"}},{"track":2,"codec":"h264","bitrate":1500000,"preset":"veryfast","size":{"width":1280,"height":720}}],"audio":{"codec":"aac","bitrate":128000}},"thumbnails":{"enabled":true,"sizes":[{"width":320,"height":180}]},"protocols":{"hls":true,"dash":true,"rtmp":false,"srt":true},"clients_timeout":120,"source_timeout":60,"video_timeout":30,"audio_timeout":30,"max_retry_timeout":20,"segment_duration":5000,"segment_count":6,"chunk_duration":200,"add_audio_only":true,"hls_scte35":"rfc8216","playback_headers":[{"headers":{"Cache-Control":"max-age=3600"}}],"prepush":true,"position":17}"#;

/// The same body as types, the way one would write them by hand, with owned strings.
#[derive(Deserialize)]
#[allow(dead_code)] // only filled
struct Stream {
    name: Option<String>,
    title: Option<String>,
    comment: Option<String>,
    #[serde(rename = "static")]
    is_static: Option<bool>,
    disabled: Option<bool>,
    template: Option<String>,
    labels: Option<std::collections::BTreeMap<String, String>>,
    inputs: Option<Vec<Input>>,
    dvr: Option<Dvr>,
    on_play: Option<Auth>,
    on_publish: Option<Auth>,
    pushes: Option<Vec<Push>>,
    transcoder: Option<Transcoder>,
    thumbnails: Option<Thumbnails>,
    protocols: Option<std::collections::BTreeMap<String, bool>>,
    clients_timeout: Option<u64>,
    source_timeout: Option<u64>,
    video_timeout: Option<u64>,
    audio_timeout: Option<u64>,
    max_retry_timeout: Option<u64>,
    segment_duration: Option<u64>,
    segment_count: Option<u64>,
    chunk_duration: Option<u64>,
    add_audio_only: Option<bool>,
    hls_scte35: Option<String>,
    playback_headers: Option<Vec<Headers>>,
    prepush: Option<bool>,
    position: Option<u64>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Input {
    url: String,
    priority: Option<u64>,
    title: Option<String>,
    rtp: Option<String>,
    source_timeout: Option<u64>,
    video_timeout: Option<u64>,
    audio_timeout: Option<u64>,
    headers: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Dvr {
    reference: Option<String>,
    expiration: Option<u64>,
    disk_usage_limit: Option<u64>,
    redundancy_factor: Option<u64>,
    storage_limit: Option<u64>,
    schedule: Option<Vec<Vec<u64>>>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Auth {
    url: Option<String>,
    max_sessions: Option<u64>,
    allowed_countries: Option<Vec<String>>,
    session_keys: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Push {
    url: String,
    passphrase: Option<String>,
    timeout: Option<u64>,
    retry_timeout: Option<u64>,
    retry_limit: Option<u64>,
    disabled: Option<bool>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Transcoder {
    global: Option<std::collections::BTreeMap<String, String>>,
    video: Option<Vec<Video>>,
    audio: Option<Audio>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Video {
    codec: Option<String>,
    bitrate: Option<u64>,
    preset: Option<String>,
    fps: Option<u64>,
    bframes: Option<u64>,
    size: Option<Size>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Audio {
    codec: Option<String>,
    bitrate: Option<u64>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Size {
    width: Option<u64>,
    height: Option<u64>,
    strategy: Option<String>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Thumbnails {
    enabled: Option<bool>,
    sizes: Option<Vec<Size>>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Headers {
    headers: Option<std::collections::BTreeMap<String, String>>,
}

fn nanoseconds(rounds: u32, mut work: impl FnMut()) -> f64 {
    let start = thread_cpu();
    for _ in 0..rounds {
        work();
    }
    thread_cpu().saturating_sub(start).as_nanos() as f64 / f64::from(rounds)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let schema = weir::testing::schema::stream();
    let body = BODY.as_bytes();
    let parsed = weir::testing::json::parse(body).expect("the body is JSON");
    if let Err(found) = schema.check(&parsed) {
        panic!("the body is a stream: {found:?}");
    }
    let text = parsed.to_text();
    let ours = || {
        let mut value = weir::testing::json::parse(black_box(body)).expect("JSON");
        schema.prune(&mut value);
        schema.check(&value).expect("valid");
        value
    };
    let theirs = || serde_json::from_slice::<Stream>(black_box(body)).expect("JSON");
    const ROUNDS: u32 = 1000;
    let mut ratios = Vec::new();
    let (mut a_all, mut b_all) = (Vec::new(), Vec::new());
    for pair in 0..61 {
        let mut a = nanoseconds(ROUNDS, || drop(black_box(ours())));
        let mut b = nanoseconds(ROUNDS, || drop(black_box(theirs())));
        b = f64::midpoint(b, nanoseconds(ROUNDS, || drop(black_box(theirs()))));
        a = f64::midpoint(a, nanoseconds(ROUNDS, || drop(black_box(ours()))));
        // The first pair warms up.
        if pair > 0 {
            ratios.push(a / b);
            a_all.push(a);
            b_all.push(b);
        }
    }
    println!("body of {} bytes", body.len());
    println!("parse+prune+check     {:7.0} ns", median(&mut a_all));
    println!("serde_json, typed     {:7.0} ns", median(&mut b_all));
    println!(
        "at least              {:7.0} ns / {:.0} ns = {:.3}",
        a_all[0],
        b_all[0],
        a_all[0] / b_all[0]
    );
    let middle = median(&mut ratios);
    println!(
        "ratio                 {middle:7.3} ({:.3} to {:.3})",
        ratios[0],
        ratios[ratios.len() - 1]
    );
    let show = |name: &str, work: &mut dyn FnMut()| {
        let mut all: Vec<f64> = (0..40)
            .map(|_| nanoseconds(ROUNDS / 2, &mut *work))
            .collect();
        let _ = median(&mut all);
        println!("{name:<21} {:7.0} ns at least", all[0]);
    };
    show("parse", &mut || {
        drop(black_box(
            weir::testing::json::parse(black_box(body)).expect("JSON"),
        ));
    });
    show("clone and drop", &mut || drop(black_box(parsed.clone())));
    let mut pruned = parsed.clone();
    schema.prune(&mut pruned);
    show("prune (nothing left)", &mut || {
        schema.prune(black_box(&mut pruned));
    });
    show("check", &mut || {
        schema.check(black_box(&parsed)).expect("valid");
    });
    show("effective", &mut || {
        drop(black_box(schema.effective(black_box(&parsed))));
    });
    show("write", &mut || drop(black_box(parsed.to_text())));
    show("has_secrets", &mut || {
        _ = black_box(schema.has_secrets(black_box(&parsed)));
    });
    show("mask", &mut || {
        drop(black_box(schema.mask(black_box(&text))));
    });
}
