//! Random operations on a cluster that runs: after each of them the layouter comes to rest, and
//! everything it promises is computed again from outside, from the list of streams and from what
//! the streamers received.
//!
//! `WEIR_LAYOUTER_SEED=7 cargo test --test it layouter_random` repeats a seed.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::fleet::{Fleet, StreamNames, ingests, layouts, moved, server};
use crate::random::Random;
use weir_testkit::{TestServer, WAIT_MAX, wait_until};

const HOSTS: u64 = 7;
const STREAMS: u64 = 50;
const ROUNDS: usize = 14;

#[derive(Clone)]
struct RandomNode {
    zone: &'static str,
    /// Only streams of this tenant.
    tenant: Option<&'static str>,
    namespace: Option<&'static str>,
    channel_limit: u64,
}

#[derive(Clone, Default)]
struct Stream {
    /// Only in this zone.
    zone: Option<&'static str>,
    tenant: Option<&'static str>,
    namespace: Option<&'static str>,
    disabled: bool,
}

const ZONES: [&str; 2] = ["north", "south"];
const TENANTS: [&str; 2] = ["red", "blue"];

/// The saved entities, and the polling streamers.
struct RandomWorld {
    server: TestServer,
    fleet: Fleet,
    nodes: BTreeMap<String, RandomNode>,
    streams: BTreeMap<String, Stream>,
    random: Random<'static>,
    /// For the report of a failure.
    story: Vec<String>,
}

impl RandomNode {
    fn takes(&self, stream: &Stream) -> bool {
        stream.zone.is_none_or(|zone| zone == self.zone)
            && self
                .tenant
                .is_none_or(|tenant| stream.tenant == Some(tenant))
            && self.namespace == stream.namespace
    }
}

impl RandomWorld {
    fn save_node(&mut self) {
        let host = format!("s{}", self.random.below(HOSTS));
        let known = self.nodes.get(&host);
        let node = RandomNode {
            zone: ZONES[self.random.below(2) as usize],
            tenant: self.random.once_in(4).then_some("red"),
            // Chosen once.
            namespace: match known {
                Some(known) => known.namespace,
                None => self.random.once_in(5).then_some("ns"),
            },
            channel_limit: 1 + self.random.below(16),
        };
        let mut body = json!({
            "role": "streamer",
            "cluster_key": "key",
            "channel_limit": node.channel_limit,
            "labels": {"$reset": true, "zone": node.zone},
        });
        if let Some(tenant) = node.tenant {
            body["labels"]["required.tenant"] = tenant.into();
        }
        if let Some(namespace) = node.namespace {
            body["namespace"] = namespace.into();
        }
        self.story.push(format!("PUT {host} {body}"));
        let path = format!("/streamers/{host}");
        self.server.put(&path, body).expect(200);
        if self.nodes.insert(host.clone(), node).is_none() {
            self.fleet.start(&self.server, &host);
        }
    }

    /// A streamer falls silent, or one that did comes back.
    fn lose_or_return(&mut self) {
        let silent = self
            .nodes
            .keys()
            .find(|host| !self.fleet.streamers.contains_key(*host));
        if let Some(host) = silent.cloned() {
            self.story.push(format!("{host} returns"));
            self.fleet.start(&self.server, &host);
        } else if self.nodes.len() > 2 {
            let hosts: Vec<String> = self.nodes.keys().cloned().collect();
            let host = self.random.pick(&hosts).clone();
            self.story.push(format!("{host} is lost"));
            self.fleet.stop(&host);
        }
    }

    fn delete_node(&mut self) {
        let hosts: Vec<String> = self.nodes.keys().cloned().collect();
        if hosts.len() < 4 {
            return;
        }
        let host = self.random.pick(&hosts).clone();
        self.story.push(format!("DELETE {host}"));
        if self.fleet.streamers.contains_key(&host) {
            self.fleet.stop(&host);
        }
        self.server
            .delete(&format!("/streamers/{host}"))
            .expect(204);
        self.nodes.remove(&host);
    }

    fn save_streams(&mut self) {
        let mut items = Vec::new();
        let mut names = StreamNames::new();
        for _ in 0..=self.random.below(8) {
            let name = format!("c{:02}", self.random.below(STREAMS));
            if !names.insert(name.clone()) {
                continue;
            }
            let known = self.streams.get(&name);
            let stream = Stream {
                zone: self.random.once_in(2).then(|| *self.random.pick(&ZONES)),
                tenant: self.random.once_in(3).then(|| *self.random.pick(&TENANTS)),
                namespace: match known {
                    Some(known) => known.namespace,
                    None => self.random.once_in(8).then_some("ns"),
                },
                disabled: self.random.once_in(10),
            };
            let mut labels = json!({"$reset": true});
            if let Some(zone) = stream.zone {
                labels["required.zone"] = zone.into();
            }
            if let Some(tenant) = stream.tenant {
                labels["tenant"] = tenant.into();
            }
            let mut item = json!({
                "name": name,
                "static": true,
                "disabled": stream.disabled,
                "labels": labels,
            });
            if let Some(namespace) = stream.namespace {
                item["namespace"] = namespace.into();
            }
            self.streams.insert(name, stream);
            items.push(item);
        }
        let body = json!(items);
        self.story.push(format!("PUT {body}"));
        self.server.put("/streams/batch", body).expect(204);
    }

    fn delete_stream(&mut self) {
        let names: Vec<String> = self.streams.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = self.random.pick(&names).clone();
        self.story.push(format!("DELETE {name}"));
        self.server.delete(&format!("/streams/{name}")).expect(204);
        self.streams.remove(&name);
    }

    /// Places a stream manually, legally or not.
    fn place(&mut self) {
        let names: Vec<String> = self.streams.keys().cloned().collect();
        let hosts: Vec<String> = self.nodes.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = self.random.pick(&names).clone();
        let host = self.random.pick(&hosts).clone();
        if self.streams[&name].namespace != self.nodes[&host].namespace {
            return;
        }
        let body = json!({"layouts": [{"name": name, "ingest": host, "force": true}]});
        self.story.push(format!("POST {body}"));
        self.server.post("/streams/layouts", body).expect(204);
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..=2 => self.save_node(),
            3 | 4 => self.lose_or_return(),
            5 => self.delete_node(),
            6 => self.delete_stream(),
            7 | 8 => self.place(),
            _ => self.save_streams(),
        }
    }

    /// The first violated rule.
    fn broken(&self) -> Option<String> {
        let layouts = layouts(&self.server);
        if !layouts.keys().eq(self.streams.keys()) {
            return Some("the list of streams is not what was saved".into());
        }
        let polls = |host: &String| self.fleet.streamers.contains_key(host);
        let mut holds: BTreeMap<&String, StreamNames> = self
            .nodes
            .keys()
            .map(|host| (host, StreamNames::new()))
            .collect();
        for (name, layout) in &layouts {
            let stream = &self.streams[name];
            let Some(ingest) = layout["ingest"].as_str() else {
                continue;
            };
            let Some((host, node)) = self.nodes.get_key_value(ingest) else {
                return Some(format!("{name} is on {ingest}, which was deleted"));
            };
            if stream.disabled || !node.takes(stream) || !polls(host) {
                return Some(format!("{name} may not be on {host}"));
            }
            holds.entry(host).or_default().insert(name.clone());
        }
        for (host, names) in &holds {
            let node = &self.nodes[*host];
            if names.len() as u64 > node.channel_limit {
                return Some(format!("{host} has too many"));
            }
            if polls(host) && self.fleet.lists.get(*host) != Some(names) {
                return Some(format!("{host} received another list than {names:?}"));
            }
        }
        let waits = |name: &&String| {
            layouts[*name]["ingest"] == Value::Null && !self.streams[*name].disabled
        };
        for name in self.streams.keys().filter(waits) {
            let room = self.nodes.iter().find(|(host, node)| {
                polls(host)
                    && node.takes(&self.streams[name])
                    && (holds[host].len() as u64) < node.channel_limit
            });
            if let Some((host, _)) = room {
                return Some(format!("{name} waits, and {host} has room"));
            }
        }
        None
    }

    /// Enabled streams without an ingest on a streamer that polls.
    fn off_air(&self) -> u64 {
        let layouts = layouts(&self.server);
        let is_off_air = |name: &&String| {
            let ingest = layouts[*name]["ingest"].as_str();
            let polls = |host| self.fleet.streamers.contains_key(host);
            !self.streams[*name].disabled && !ingest.is_some_and(polls)
        };
        self.streams.keys().filter(is_off_air).count() as u64
    }

    /// How many streams the capacity says a loss would take off the air.
    fn unplaced_by_loss(&self, host: &str) -> u64 {
        let capacity = self.server.get("/cluster/capacity").expect(200).json();
        let losses = capacity["losses"].as_array().expect("losses");
        let loss = losses.iter().find(|loss| loss["hostname"] == *host);
        let loss = loss.unwrap_or_else(|| panic!("{host} is not in {capacity}"));
        let unplaced = loss["unplaced"].as_u64().expect("a number");
        assert_eq!(loss["survives"], unplaced == 0, "{loss}");
        unplaced
    }

    /// Loses one streamer after the other, also the last one: each time as many streams are off the
    /// air, and have moved, as the capacity and the preview of that loss say.
    fn lose_all(&mut self) {
        let hosts: Vec<String> = self.fleet.streamers.keys().cloned().collect();
        for host in hosts {
            let event = json!({"events": [{"event": "streamer_lost", "hostname": host}]});
            let preview = || {
                let preview = self.server.post("/cluster/preview", event.clone());
                preview.expect(200).json()
            };
            let is_at_rest = |preview: &Value| preview["moves_pending"] == 0;
            let preview = wait_until("nothing is pending", preview, is_at_rest);
            let unplaced = preview["unplaced"].as_u64();
            let placed = ingests(&self.server);
            let more = self.unplaced_by_loss(&host);
            assert_eq!(unplaced, Some(self.off_air() + more), "{preview}");
            let moves = preview["moves_caused"].as_u64();
            self.story.push(format!("{host} is lost, for good"));
            let down = format!("\"message\":\"streamer is down\",\"hostname\":\"{host}\"");
            let losses = || self.server.log().matches(&down).count();
            let before = losses();
            self.fleet.stop(&host);
            wait_until("the loss is noticed", losses, |count| *count > before);
            wait_until(
                &format!("{unplaced:?} streams are off the air"),
                || Some(self.off_air()),
                |off_air| *off_air == unplaced,
            );
            wait_until(
                &format!("{moves:?} streams have moved"),
                || Some(moved(&placed, &ingests(&self.server))),
                |moved| *moved == moves,
            );
        }
        let enabled = self.streams.values().filter(|stream| !stream.disabled);
        let enabled = enabled.count() as u64;
        assert_eq!(self.off_air(), enabled);
        let capacity = self.server.get("/cluster/capacity").expect(200).json();
        let classes = capacity["classes"].as_array().expect("classes");
        for class in classes {
            assert_eq!(class["streams_more"], 0, "{class}");
            assert_eq!(class["unplaced"], class["streams"], "{class}");
        }
        let streams = classes.iter().map(|class| class["streams"].as_u64());
        let streams: Option<u64> = streams.sum();
        assert_eq!(
            streams,
            Some(enabled),
            "disabled ones do not count: {capacity}"
        );
    }

    /// Waits until no rule is violated.
    fn rest(&mut self) {
        let guard = Instant::now() + WAIT_MAX;
        while let Some(broken) = self.broken() {
            assert!(
                Instant::now() < guard,
                "{broken}\n{}\n{:?}",
                self.story.join("\n"),
                self.fleet.lists
            );
            self.fleet.take_news();
        }
    }
}

#[test]
fn random_operations_end_in_a_valid_layout() {
    let seed = std::env::var("WEIR_LAYOUTER_SEED");
    let seed: u64 = seed.ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("WEIR_LAYOUTER_SEED={seed} repeats it");
    let mut world = RandomWorld {
        server: server(&[
            "--streamer-dead-timeout",
            "5s",
            "--layouter-sleeping-interval",
            "300ms",
            "--layouter-quarantine=false",
        ]),
        fleet: Fleet::new(),
        nodes: BTreeMap::new(),
        streams: BTreeMap::new(),
        random: Random::seeded(seed),
        story: Vec::new(),
    };
    while world.nodes.len() < 5 {
        world.save_node();
    }
    world.save_streams();
    world.rest();
    for _ in 0..ROUNDS {
        for _ in 0..=world.random.below(4) {
            world.step();
        }
        world.rest();
    }
    // Optional moves end: after some intervals nothing is written.
    let guard = Instant::now() + WAIT_MAX;
    loop {
        let before = layouts(&world.server);
        world.fleet.rest(&world.server, 10);
        if layouts(&world.server) == before {
            break;
        }
        assert!(Instant::now() < guard, "it never comes to rest");
    }
    assert_eq!(world.broken(), None);
    world.lose_all();
}
