//! Time to read a body: tape, strict reader, serde_json's tree, and simd-json's tape without
//! building the value.
//!
//! Bodies of one size differ from each other, against branch prediction of a single body. The
//! readers take turns over all bodies; the least CPU time of the rounds counts.

use std::fmt::Write;
use std::hint::black_box;

use weir::testing::json::readers;
use weir_testkit::sys::thread_cpu;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Its name, what makes a body, the bytes of a body, the number of bodies.
type Row = (&'static str, fn(&mut Random, usize) -> String, usize, usize);

const ROWS: &[Row] = &[
    ("stream 200 B", stream, 200, 4000),
    ("stream 600 B", stream, 600, 2000),
    ("stream 2 KB", stream, 2000, 1000),
    ("report 2 KB", report, 2000, 1000),
    ("report 200 KB", report, 200_000, 10),
    ("report 10 MB", report, 10_000_000, 1),
    ("floats 2 KB", floats, 2000, 300),
    ("Cyrillic 2 KB", cyrillic, 2000, 300),
];

const READERS: usize = 4;

/// Xorshift. The counting allocator of the bench library, which has a generator, would be measured
/// too.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Up to `digits_max` digits, each length equally likely.
fn integer(random: &mut Random, digits_max: u64) -> u64 {
    let digits = 1 + random.below(digits_max) as u32;
    random.below(10_u64.pow(digits))
}

fn text(random: &mut Random, bytes_max: u64) -> String {
    const WORDS: &[&str] = &[
        "arena", "camera", "north", "h264", "hockey", "backup", "main", "é", "42", "encoder",
    ];
    let bytes = 1 + random.below(bytes_max) as usize;
    let mut text = String::from("\"");
    while text.len() <= bytes {
        text.push_str(one_of(random, WORDS));
        text.push_str(one_of(random, &[" ", "/", "-", ".", ":"]));
    }
    text + "\""
}

fn one_of<'a>(random: &mut Random, list: &[&'a str]) -> &'a str {
    list[random.below(list.len() as u64) as usize]
}

/// A configuration with as many inputs as the size allows.
fn stream(random: &mut Random, bytes: usize) -> String {
    let mut body = format!(
        r#"{{"name":{},"title":{},"static":{},"dvr":{{"reference":{},"expiration":{}}},"inputs":["#,
        text(random, 16),
        text(random, 40),
        random.below(2) == 0,
        text(random, 10),
        integer(random, 7),
    );
    loop {
        let (url, title, timeout) = (text(random, 80), text(random, 10), integer(random, 3));
        let input = r#""source_timeout":"#;
        write!(body, r#"{{"url":{url},"title":{title},{input}{timeout}}}"#).expect("a string");
        if body.len() + 80 > bytes {
            return body + "]}";
        }
        body.push(',');
    }
}

fn report(random: &mut Random, bytes: usize) -> String {
    let mut body = String::from(r#"{"streams":["#);
    loop {
        write!(
            body,
            r#"{{"name":{},"stats":{{"alive":{},"bitrate":{},"bytes_in":{},"bytes_out":{},"#,
            text(random, 20),
            random.below(9) > 0,
            integer(random, 5),
            integer(random, 12),
            integer(random, 14),
        )
        .expect("a string");
        write!(
            body,
            r#""client_count":{},"id":{},"input_error_rate":{},"last_dts":{}.{},"media_info":"#,
            integer(random, 4),
            text(random, 36),
            one_of(random, &["0.0", "0.25", "1.5"]),
            integer(random, 13),
            random.below(1000),
        )
        .expect("a string");
        write!(
            body,
            r#"{{"tracks":[{{"content":"video","codec":{},"bitrate":{},"fps":{}.0,"height":{}}}]}}}}}}"#,
            text(random, 6),
            integer(random, 5),
            random.below(60),
            integer(random, 4),
        )
        .expect("a string");
        if body.len() + 200 > bytes {
            return body + "]}";
        }
        body.push(',');
    }
}

fn floats(random: &mut Random, bytes: usize) -> String {
    let mut body = String::from("[0.5");
    while body.len() < bytes {
        write!(body, ",{:?}", random.below(u64::MAX) as f64 / 1e15).expect("a string");
    }
    body + "]"
}

fn cyrillic(random: &mut Random, bytes: usize) -> String {
    let sentence = "Камера у входа ";
    let times = (bytes - random.below(bytes as u64 / 4) as usize) / sentence.len();
    format!(r#"{{"comment":"{}"}}"#, sentence.repeat(times))
}

/// Least time of one body, for each of the readers.
fn measure(bodies: &[String]) -> [f64; READERS] {
    let bytes: usize = bodies.iter().map(String::len).sum();
    let (passes, rounds) = (
        (400_000 / bytes).max(1),
        if bytes > 5_000_000 { 9 } else { 61 },
    );
    let longest = bodies.iter().map(String::len).max().unwrap_or(0);
    let mut copy = vec![b' '; longest + simd_json::INPUT_PADDING];
    let mut buffers = simd_json::Buffers::default();
    let mut tape_alone = |body: &[u8]| {
        copy[..body.len()].copy_from_slice(body);
        let mut tape = simd_json::Tape(Vec::with_capacity(body.len() / 4));
        simd_json::fill_tape_padded(&mut copy, body.len(), &mut buffers, &mut tape).expect("JSON");
        black_box(&tape);
    };
    let mut least = [f64::MAX; READERS];
    for _ in 0..rounds {
        let mut time = |reader: usize, read: &mut dyn FnMut(&[u8])| {
            let start = thread_cpu();
            for _ in 0..passes {
                for body in bodies {
                    read(black_box(body.as_bytes()));
                }
            }
            let spent = thread_cpu().saturating_sub(start).as_nanos() as f64;
            let each = spent / (passes * bodies.len()) as f64;
            least[reader] = least[reader].min(each);
        };
        time(0, &mut |body| {
            drop(black_box(readers::tape(body).expect("JSON")));
        });
        time(1, &mut |body| {
            drop(black_box(readers::strict(body).expect("JSON")));
        });
        time(2, &mut |body| {
            drop(black_box(
                serde_json::from_slice::<serde_json::Value>(body).expect("JSON"),
            ));
        });
        time(3, &mut tape_alone);
    }
    least
}

fn main() {
    println!(
        "{:<14} {:>9} {:>12} {:>12} {:>12} {:>14} {:>12}",
        "body", "bytes", "tape ns", "strict ns", "serde_json", "simd-json tape", "tape/strict"
    );
    for (name, make, bytes, count) in ROWS {
        let mut random = Random(0x5eed);
        let bodies: Vec<String> = (0..*count).map(|_| make(&mut random, *bytes)).collect();
        let bytes = bodies.iter().map(String::len).sum::<usize>() / count;
        let [tape, strict, serde_json, alone] = measure(&bodies);
        println!(
            "{name:<14} {bytes:>9} {tape:>12.0} {strict:>12.0} {serde_json:>12.0} {alone:>14.0} {:>12.2}",
            tape / strict
        );
    }
}
