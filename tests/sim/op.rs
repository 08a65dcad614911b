//! Operations: what an operator may send, as JSON, good and bad.
//!
//! Few names, few hosts and few values, so that operations meet: most change something that another
//! one made.

use serde_json::{Value, json};
use weir::testing::error::ApiError;
use weir::testing::json;
use weir::testing::state::command::{
    Command, EntitySave, HandoverEnd, StreamPatch, layout_items, stream_items, streamer_items,
    streamer_patch,
};
use weir::testing::state::entity::{Key, Kind};
use weir::testing::state::name::{Hostname, StreamName};

use super::random::Random;

/// Streams of the namespace `a` begin with `a/`.
pub const NAMES: [&str; 14] = [
    "one",
    "two",
    "three",
    "sports/hd/1",
    "sports/hd/2",
    "Первый канал",
    "a b",
    "50%",
    "z+z",
    "x?y#z",
    "a/one",
    "a/two",
    "tv",
    "tv2",
];
/// `v…` are inference nodes, `n…` are of the namespace `a`; `ghost` is never saved.
pub const HOSTS: [&str; 9] = [
    "s1",
    "s2",
    "s3",
    "s4",
    "s5.example.com:8080",
    "v1",
    "v2",
    "n1",
    "ghost",
];

#[derive(Debug, Clone)]
pub enum Op {
    SaveStream(String, Value),
    SaveStreams(Vec<Value>),
    DeleteStream(String),
    SetLayouts(Vec<Value>),
    /// The same as a planned move: the old ingest node may keep the stream.
    MoveStreams(Vec<Value>),
    /// Name, old node, new node.
    EndHandovers(Vec<(String, String, String)>),
    SaveStreamer(String, Value),
    SaveStreamers(Vec<Value>),
    DeleteStreamer(String),
    SaveEpisode(u64, Value),
    DeleteEpisode(u64),
}

/// Ids of episodes: few, and far apart.
const EPISODES: [u64; 5] = [0, 7, 9_007_199_254_740_993, 1 << 62, i64::MAX as u64];

impl Op {
    pub fn random(random: &mut Random<'_>) -> Self {
        match random.below(32) {
            0..=6 => {
                let name = *random.pick(&NAMES);
                Self::SaveStream(name.into(), stream_patch(random, name))
            }
            7..=8 => Self::SaveStreams(items(random, &NAMES, |random, name| {
                with_key(stream_patch(random, name), "name", name)
            })),
            9..=10 => Self::DeleteStream((*random.pick(&NAMES)).into()),
            11..=14 => Self::SetLayouts(items(random, &NAMES, |random, name| {
                with_key(layout(random), "name", name)
            })),
            15..=17 => {
                let host = *random.pick(&HOSTS[..8]);
                Self::SaveStreamer(host.into(), streamer_patch_of(random, host))
            }
            18 => Self::SaveStreamers(items(random, &HOSTS[..8], |random, host| {
                with_key(streamer_patch_of(random, host), "hostname", host)
            })),
            19 => Self::DeleteStreamer((*random.pick(&HOSTS)).into()),
            20..=24 => Self::SaveEpisode(*random.pick(&EPISODES), episode_patch(random)),
            25..=28 => Self::MoveStreams(moves(random)),
            29..=30 => Self::EndHandovers(ends(random)),
            _ => Self::DeleteEpisode(*random.pick(&EPISODES)),
        }
    }

    /// As the handlers make it of a request's body.
    pub fn command(&self) -> Result<Command, ApiError> {
        let stream = |text: &str| StreamName::parse(text).expect("a good name");
        let host = |text: &str| Hostname::parse(text).expect("a good hostname");
        Ok(match self {
            Self::SaveStream(name, patch) => {
                let name = stream(name);
                let patch = StreamPatch::from_body(value(patch), &name, "")?;
                Command::SaveStream { name, patch }
            }
            Self::SaveStreams(items) => Command::SaveStreams {
                items: stream_items(value(&json!(items)))?,
            },
            Self::DeleteStream(name) => Command::DeleteStream { name: stream(name) },
            Self::SetLayouts(items) => Command::SetLayouts {
                items: layout_items(value(&json!({ "layouts": items })))?,
            },
            Self::MoveStreams(items) => {
                let mut items = layout_items(value(&json!({ "layouts": items })))?;
                for (_, layout) in items.iter_mut() {
                    layout.hands_over = true;
                }
                Command::SetLayouts { items }
            }
            Self::EndHandovers(ends) => {
                let end = |(name, from, to): &(String, String, String)| HandoverEnd {
                    name: stream(name),
                    from: host(from),
                    to: host(to),
                };
                let items = ends.iter().map(end).collect();
                Command::EndHandovers { items }
            }
            Self::SaveStreamer(hostname, patch) => {
                let hostname = host(hostname);
                let patch = streamer_patch(value(patch), &hostname, "")?;
                Command::SaveStreamer { hostname, patch }
            }
            Self::SaveStreamers(items) => Command::SaveStreamers {
                items: streamer_items(value(&json!(items)))?,
            },
            Self::DeleteStreamer(hostname) => Command::DeleteStreamer {
                hostname: host(hostname),
            },
            Self::SaveEpisode(id, patch) => {
                let key = Key::Number(*id);
                let save = EntitySave::from_body(Kind::Episode, key, value(patch), "")?;
                Command::SaveEntity(save)
            }
            Self::DeleteEpisode(id) => Command::DeleteEntity {
                kind: Kind::Episode,
                key: Key::Number(*id),
            },
        })
    }
}

fn value(of: &Value) -> json::Value {
    json::parse(of.to_string().as_bytes()).expect("what serde_json writes is JSON")
}

fn with_key(mut object: Value, key: &str, name: &str) -> Value {
    object[key] = name.into();
    object
}

/// One to four items of different names, rarely none.
fn items(
    random: &mut Random<'_>,
    from: &[&str],
    mut item: impl FnMut(&mut Random<'_>, &str) -> Value,
) -> Vec<Value> {
    let count = match random.below(12) {
        0 => 0,
        n => 1 + n % 4,
    };
    let mut left = from.to_vec();
    (0..count)
        .map(|_| {
            let at = random.below(left.len() as u64) as usize;
            item(random, left.swap_remove(at))
        })
        .collect()
}

/// Mostly a stream to one of the usual nodes, so that it moves often.
fn moves(random: &mut Random<'_>) -> Vec<Value> {
    if random.once_in(4) {
        return items(random, &NAMES, |random, name| {
            with_key(layout(random), "name", name)
        });
    }
    let (name, host) = (*random.pick(&NAMES[..4]), *random.pick(&HOSTS[..4]));
    vec![json!({"name": name, "ingest": host})]
}

/// Ends of handovers of half of the streams, between any of the usual nodes.
fn ends(random: &mut Random<'_>) -> Vec<(String, String, String)> {
    let mut ends = Vec::new();
    for name in NAMES {
        if random.below(2) == 0 {
            continue;
        }
        for from in &HOSTS[..4] {
            let others = HOSTS[..4].iter().filter(|to| *to != from);
            ends.extend(others.map(|to| (name.into(), (*from).into(), (*to).into())));
        }
    }
    ends
}

fn stream_patch(random: &mut Random<'_>, name: &str) -> Value {
    let mut patch = json!({});
    if name.starts_with("a/") && !random.once_in(20) {
        patch["namespace"] = "a".into();
    }
    for _ in 0..=random.below(3) {
        let small = random.below(3);
        let (field, value) = match random.below(16) {
            0 => (
                "title",
                json!(["News", "Новости \"24\"", ""][small as usize]),
            ),
            1 => ("comment", json!(format!("c{small}"))),
            2 | 3 => ("disabled", json!(small == 0)),
            4 => ("static", json!(small == 0)),
            5 => (
                "labels",
                [
                    json!({"k": "1"}),
                    json!({"k": null, "l": "2"}),
                    json!({"$reset": true, "m": "3"}),
                ][small as usize]
                    .clone(),
            ),
            6 => (
                "inputs",
                json!([{"url": format!("udp://239.0.0.{small}:1234")}]),
            ),
            7 | 8 => (
                "dvr",
                json!({"reference": "disks", "expiration": 3600 * (small + 1)}),
            ),
            9 => (
                "dvr",
                json!({"remotes": [format!("m4s://elsewhere:80/{small}")], "expiration": null}),
            ),
            10 => ("on_play", json!({"url": format!("auth://b{small}")})),
            11 => (
                "vision",
                json!({"alg": (["faces", "plates", "faces"][small as usize])}),
            ),
            12 => ("segment_count", json!(4 + small)),
            13 => ("template", json!("cameras")),
            14 => {
                let field = *random.pick(&[
                    "title", "comment", "disabled", "static", "labels", "inputs", "dvr", "on_play",
                    "vision",
                ]);
                (field, Value::Null)
            }
            // Dropped: unknown, or the server's own.
            _ => [
                ("no_such_field", json!({"a": small})),
                ("stats", json!({"alive": true})),
                ("updated_at", json!(5)),
            ][small as usize]
                .clone(),
        };
        patch[field] = value;
    }
    if random.once_in(4) {
        patch["layout"] = if random.once_in(12) {
            Value::Null
        } else {
            layout(random)
        };
    }
    match random.below(40) {
        0 => patch["title"] = json!(5),
        1 => patch["segment_duration"] = json!(10),
        2 => patch["name"] = json!("another"),
        3 => patch["namespace"] = json!("other"),
        4 => patch["$reset"] = json!(true),
        _ => {}
    }
    patch
}

fn layout(random: &mut Random<'_>) -> Value {
    let mut layout = json!({});
    if !random.once_in(4) {
        layout["ingest"] = host_or_null(
            random,
            &["s1", "s2", "s3", "s4", "s5.example.com:8080", "n1", "ghost"],
            7,
        );
    }
    if random.below(2) == 0 {
        let mut left = vec!["s1", "s2", "s3", "s4"];
        let mut backups = Vec::new();
        for _ in 0..random.below(4) {
            let at = random.below(left.len() as u64) as usize;
            // Rarely the same node again, which is refused.
            backups.push(if random.once_in(20) {
                left[at]
            } else {
                left.swap_remove(at)
            });
        }
        layout["dvr_backups"] = if random.once_in(10) {
            Value::Null
        } else {
            json!(backups)
        };
    }
    if random.once_in(3) {
        layout["inference"] = host_or_null(random, &["v1", "v2", "v1", "v2", "s1"], 5);
    }
    match random.below(12) {
        0 => layout["failover_from"] = json!("s1"),
        1 => layout["change_reason"] = json!("node_become_offline"),
        2 => layout["originator"] = json!("layouter"),
        3 => layout["created_at"] = json!(1),
        _ => {}
    }
    layout
}

fn episode_patch(random: &mut Random<'_>) -> Value {
    const MOMENT: u64 = 1_700_000_000_000;
    let mut patch = json!({});
    if !random.once_in(6) {
        patch["media"] = json!(*random.pick(&NAMES[..4]));
        patch["opened_at"] = json!(MOMENT + random.below(3));
    }
    if random.once_in(4) {
        patch["closed_at"] = json!(MOMENT + 10 + random.below(2));
    }
    let small = random.below(3);
    match random.below(12) {
        0..=3 => patch["updated_at"] = json!(MOMENT + 60_000 * small),
        4 | 5 => patch["preview_timestamp"] = json!(MOMENT + small),
        6 => patch["preview_timestamp"] = Value::Null,
        7 => patch["has_dvr"] = json!(true),
        8 => patch["no_such_field"] = json!(small),
        9 => patch["closed_at"] = Value::Null,
        10 => patch["opened_at"] = json!("soon"),
        _ => {}
    }
    patch
}

fn host_or_null(random: &mut Random<'_>, hosts: &[&str], of: u64) -> Value {
    if random.once_in(of) {
        Value::Null
    } else {
        json!(*random.pick(hosts))
    }
}

fn streamer_patch_of(random: &mut Random<'_>, host: &str) -> Value {
    let small = random.below(3);
    let mut patch = json!({
        "cluster_key": format!("key{}", random.below(2)),
        "role": if host.starts_with('v') { "inference" } else { "streamer" },
    });
    if host.starts_with('n') {
        patch["namespace"] = json!("a");
    }
    match random.below(8) {
        0 | 1 => patch["api_url"] = json!(format!("http://10.0.0.{small}:8080")),
        // Inference nodes have no address to pull from.
        2 if !host.starts_with('v') => {
            patch["private_payload_url"] = json!(format!("https://10.1.0.{small}"));
        }
        3 => patch["api_url"] = Value::Null,
        4 => patch["private_payload_url"] = Value::Null,
        5 => patch["no_such_field"] = json!(small),
        _ => {}
    }
    if !host.starts_with('v') {
        match random.below(16) {
            0 => patch["kind"] = json!("mediamtx"),
            1 => patch["kind"] = json!("srs"),
            2 | 3 => patch["kind"] = Value::Null,
            4 => patch["pull_urls"] = json!(["m4s://x/{name}"]),
            5 => patch["pull_urls"] = json!(["rtsp://y/{native}", "m4s://z/{name}"]),
            6 => patch["pull_urls"] = Value::Null,
            _ => {}
        }
    }
    match random.below(30) {
        0 => patch["cluster_key"] = json!(7),
        1 => patch["namespace"] = json!("other"),
        2 => patch["hostname"] = json!("another"),
        _ => {}
    }
    patch
}
