//! Bursts of operations and losses: up to six of eight streamers are silent at once, and nothing
//! comes to rest in between.
//!
//! At rest every rule is checked against the streams and streamers that the server returns and the
//! lists that streamers received. Nothing of the program's own judgement is used, and nothing that
//! the test remembers of what it did. `WEIR_LAYOUTER_SEED=7 cargo test --test it layouter_storm`
//! repeats a seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::fleet::{Fleet, moves, save_streamer, server};
use crate::random::Random;
use weir_testkit::TestServer;

const HOSTS: usize = 8;
const STREAMS: u64 = 60;
/// Groups of operations, each followed by a look at everything.
const GROUPS: usize = 8;
const ZONES: [&str; 2] = ["north", "south"];

/// The operations, printed if the test fails.
struct Story {
    seed: u64,
    lines: Vec<String>,
    /// The violations at the last check.
    broken: RefCell<Vec<String>>,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (lines, broken) = (self.lines.join("\n"), self.broken.borrow().join("\n"));
            eprintln!("seed {}:\n{lines}\nbroken:\n{broken}", self.seed);
        }
    }
}

type Labels = BTreeMap<String, String>;

struct StormNode {
    namespace: Option<String>,
    labels: Labels,
    limit: usize,
}

struct Wish {
    namespace: Option<String>,
    labels: Labels,
    disabled: bool,
    ingest: Option<String>,
}

fn labels_of(item: &Value) -> Labels {
    let labels = item["labels"].as_object().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let labels = labels.into_iter();
    labels
        .filter_map(|(key, value)| Some((key, text(&value)?)))
        .collect()
}

fn namespace_of(item: &Value) -> Option<String> {
    item["namespace"].as_str().map(str::to_owned)
}

fn list(server: &TestServer, collection: &str, key: &str) -> BTreeMap<String, Value> {
    let answer = server.get(&format!("/{collection}?limit=1000")).expect(200);
    let list = answer.json()[collection]
        .as_array()
        .expect("a list")
        .clone();
    list.into_iter()
        .map(|item| (item[key].as_str().expect("a name").to_owned(), item))
        .collect()
}

/// Whether all that one side requires is what the other side is.
fn satisfied(requires: &Labels, labels: &Labels) -> bool {
    requires.iter().all(|(key, value)| {
        key.strip_prefix("required.")
            .is_none_or(|key| labels.get(key) == Some(value))
    })
}

fn may(wish: &Wish, place: &StormNode) -> bool {
    wish.namespace == place.namespace
        && satisfied(&wish.labels, &place.labels)
        && satisfied(&place.labels, &wish.labels)
}

/// The running streamers, as the server shows them.
fn running_nodes(server: &TestServer, running: &BTreeSet<String>) -> BTreeMap<String, StormNode> {
    list(server, "streamers", "hostname")
        .into_iter()
        .filter(|(host, _)| running.contains(host))
        .map(|(host, item)| {
            let limit = item["channel_limit"].as_u64().expect("it was set");
            let place = StormNode {
                namespace: namespace_of(&item),
                labels: labels_of(&item),
                limit: limit as usize,
            };
            (host, place)
        })
        .collect()
}

/// The streams, as the server shows them.
fn wishes(server: &TestServer) -> BTreeMap<String, Wish> {
    list(server, "streams", "name")
        .into_iter()
        .map(|(name, item)| {
            let wish = Wish {
                namespace: namespace_of(&item),
                labels: labels_of(&item),
                disabled: item["disabled"] == json!(true),
                ingest: item["layout"]["ingest"].as_str().map(str::to_owned),
            };
            (name, wish)
        })
        .collect()
}

/// The violated rules.
fn violations(server: &TestServer, fleet: &Fleet, running: &BTreeSet<String>) -> Vec<String> {
    let (places, wishes) = (running_nodes(server, running), wishes(server));
    let mut found = Vec::new();
    let mut there: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for host in running {
        there.insert(host, BTreeSet::new());
    }
    for (name, wish) in &wishes {
        let Some(host) = &wish.ingest else { continue };
        match places.get(host) {
            _ if wish.disabled => found.push(format!("{name} is disabled and on {host}")),
            None => found.push(format!("{name} is on {host}, which is lost")),
            Some(place) if !may(wish, place) => {
                found.push(format!("{name} may not be on {host}"));
            }
            Some(_) => {
                let names = there.get_mut(host.as_str()).expect("it is running");
                names.insert(name.clone());
            }
        }
    }
    for (host, names) in &there {
        let limit = places[*host].limit;
        if names.len() > limit {
            found.push(format!("{host} has {} of {limit}", names.len()));
        }
        if fleet.lists.get(*host) != Some(names) {
            found.push(format!(
                "{host} received {:?}, not {names:?}",
                fleet.lists.get(*host)
            ));
        }
    }
    for (name, wish) in &wishes {
        if wish.disabled || wish.ingest.is_some() {
            continue;
        }
        for (host, place) in &places {
            if may(wish, place) && there[host.as_str()].len() < place.limit {
                found.push(format!("{name} waits and {host} has room"));
            }
        }
    }
    let mut holders = BTreeMap::new();
    for (host, names) in &fleet.lists {
        for name in names {
            if let Some(other) = holders.insert(name, host) {
                found.push(format!("{other} and {host} received {name}"));
            }
        }
    }
    found
}

struct StormWorld {
    server: TestServer,
    fleet: Fleet,
    random: Random<'static>,
    running: BTreeSet<String>,
    story: Story,
}

impl StormWorld {
    fn labels(&mut self) -> Value {
        let zone = match self.random.below(3) {
            0 => Value::Null,
            n => json!(ZONES[n as usize - 1]),
        };
        let tier = if self.random.below(3) == 0 {
            json!("gold")
        } else {
            Value::Null
        };
        json!({"required.zone": zone, "tier": tier})
    }

    fn limits(&mut self, host: &str) {
        let limit = self.random.below(10);
        self.log(&format!("{host} takes {limit}"));
        save_streamer(&self.server, host, json!({"channel_limit": limit}));
    }

    fn log(&mut self, line: &str) {
        self.story.lines.push(line.to_owned());
    }

    fn act(&mut self) {
        let name = format!("r{}", self.random.below(STREAMS));
        let host = format!("h{}", self.random.below(HOSTS as u64));
        let path = format!("/streams/{name}");
        match self.random.below(20) {
            0..8 => {
                // A namespace is given once, so the name decides it.
                let mut body = json!({"static": true, "labels": self.labels()});
                if name.ends_with('7') {
                    body["namespace"] = json!("other");
                }
                self.log(&format!("save {name} {body}"));
                self.server.put(&path, body).expect(200);
            }
            8..11 => {
                self.log(&format!("delete {name}"));
                let status = self.server.delete(&path).status;
                assert!([204, 404].contains(&status), "{status}");
            }
            11..13 => {
                if self.server.get(&path).status != 200 {
                    return;
                }
                let disabled = self.random.below(2) == 0;
                self.log(&format!("{name} disabled: {disabled}"));
                let body = json!({"disabled": disabled});
                self.server.put(&path, body).expect(200);
            }
            13..15 => self.limits(&host),
            15..17 => {
                let zone = *self.random.pick(&ZONES);
                self.log(&format!("{host} is in {zone}"));
                save_streamer(&self.server, &host, json!({"labels": {"zone": zone}}));
            }
            17 => {
                self.log(&format!("{name} by hand to {host}"));
                let body = json!({"layouts": [{"name": name, "ingest": host, "force": true}]});
                let status = self.server.post("/streams/layouts", body).status;
                assert!([204, 400, 404].contains(&status), "{status}");
            }
            _ if self.running.contains(&host) => {
                // One stays, or nothing moves at all.
                if self.running.len() > 2 {
                    self.log(&format!("{host} falls silent"));
                    self.fleet.stop(&host);
                    self.running.remove(&host);
                }
            }
            _ => {
                self.log(&format!("{host} returns"));
                self.fleet.start(&self.server, &host);
                self.running.insert(host);
            }
        }
    }

    /// Waits until every rule holds, and sees that it stays so.
    fn settle(&mut self) {
        let Self {
            server,
            fleet,
            running,
            story,
            ..
        } = self;
        let holds = |fleet: &Fleet| {
            let found = violations(server, fleet, running);
            let done = found.is_empty();
            *story.broken.borrow_mut() = found;
            done
        };
        fleet.until(holds);
        fleet.rest(server, 2);
        fleet.until(holds);
    }
}

#[test]
fn every_rule_holds_after_bursts_of_losses() {
    let seed = std::env::var("WEIR_LAYOUTER_SEED");
    let seed = seed.map_or(1, |seed| seed.parse().expect("a number"));
    let server = server(&[
        "--streamer-dead-timeout",
        "6s",
        "--layouter-sleeping-interval",
        "200ms",
        "--layouter-quarantine=false",
    ]);
    let mut fleet = Fleet::new();
    let mut running = BTreeSet::new();
    for i in 0..HOSTS {
        let host = format!("h{i}");
        let mut body = json!({"channel_limit": 6, "labels": {"zone": ZONES[i % 2]}});
        if i == 7 {
            body["namespace"] = json!("other");
        }
        if i == 6 {
            body["labels"]["required.tier"] = json!("gold");
        }
        save_streamer(&server, &host, body);
        fleet.start(&server, &host);
        running.insert(host);
    }
    let mut world = StormWorld {
        server,
        fleet,
        random: Random::seeded(seed),
        running,
        story: Story {
            seed,
            lines: Vec::new(),
            broken: RefCell::default(),
        },
    };
    for _ in 0..40 {
        world.act();
    }
    world.settle();
    for group in 0..GROUPS {
        world.log(&format!("-- {group}"));
        for _ in 0..=world.random.below(9) {
            world.act();
        }
        world.settle();
    }
    let logged = moves(&world.server, 0).into_iter();
    let whys: BTreeSet<String> = logged.map(|logged| logged.why).collect();
    for why in ["node_become_offline", "not_distributed"] {
        assert!(whys.contains(why), "a calm story: {whys:?}");
    }
}
