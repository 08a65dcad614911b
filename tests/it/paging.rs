//! Walks over large collections while they change: what exists throughout is seen exactly once.
//!
//! In process, at the query engine over states: over HTTP a million streams would take minutes, and what is promised is decided here. Between two
//! pages of a walk the collection is written to, by the same commands that requests become.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use serde_json::Value;
use weir::api::entity::{EntitySource, list_kind};
use weir::api::query::{Execution, Query, Source};
use weir::api::stream::{KIND as STREAMS, Streams};
use weir::json;
use weir::state::apply::{Stamp, apply};
use weir::state::command::{Command, EntitySave, StreamPatch};
use weir::state::entity::{Key, Kind};
use weir::state::name::{StreamName, shard_of};
use weir::state::node::RenderSettings;
use weir::state::record::{ArchivedFacts, Entity, EntityRecord, Facts, Stream, StreamRecord};
use weir::state::{Loader, SHARDS, State};

const MOMENT: u64 = 1_727_274_724_000;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A collection that is written to while it is read.
struct World {
    state: State,
    random: Random,
    /// Documents that were changed, deleted or made since the walk began.
    changed: BTreeSet<String>,
    deleted: BTreeSet<String>,
    made: BTreeSet<String>,
}

impl World {
    fn new(state: State) -> Self {
        Self {
            state,
            random: Random(0x9e37_79b9_7f4a_7c15),
            changed: BTreeSet::new(),
            deleted: BTreeSet::new(),
            made: BTreeSet::new(),
        }
    }

    fn apply(&mut self, command: Command) {
        let stamp = Stamp {
            revision: self.state.revision() + 1,
            ms: self.state.stamp_ms() + 1,
        };
        let changes = apply(&self.state, command, stamp).expect("is applied");
        if !changes.is_empty() {
            self.state.absorb(&changes);
        }
    }

    fn begin_walk(&mut self) {
        self.changed.clear();
        self.deleted.clear();
        self.made.clear();
    }
}

/// Reads a whole list page by page, with `write` between the pages. How often each document was seen.
fn walk(
    world: &mut World,
    question: &str,
    kind: &'static weir::api::query::Kind,
    page_of: fn(&State, Query) -> weir::api::query::Page,
    mut write: impl FnMut(&mut World),
) -> BTreeMap<String, usize> {
    world.begin_walk();
    let mut seen = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let query = Query::parse(&format!("{question}{cursor}"), kind, &[]).expect("a query");
        let page = page_of(&world.state, query);
        let next = page.next.clone();
        let body: Value = serde_json::from_slice(&page.into_body("")).expect("an answer");
        for item in body[kind.collection].as_array().expect("a list") {
            let key = match &item[kind.key] {
                Value::String(text) => text.clone(),
                number => number.to_string(),
            };
            *seen.entry(key).or_default() += 1;
        }
        let Some(next) = next else { return seen };
        let next = percent_encoding::utf8_percent_encode(&next, percent_encoding::NON_ALPHANUMERIC);
        cursor = format!("&cursor={next}");
        write(world);
    }
}

fn run<S: Source>(query: Query, source: &S) -> weir::api::query::Page {
    Execution::new(&query).run(source)
}

/// `moves`: a change moves a document in the order that is walked, so that it may be met again, or not, but not twice at one place.
fn check(
    world: &World,
    question: &str,
    before: &BTreeSet<String>,
    seen: &BTreeMap<String, usize>,
    moves: bool,
) {
    for key in before {
        if world.deleted.contains(key) || (moves && world.changed.contains(key)) {
            continue;
        }
        assert_eq!(seen.get(key), Some(&1), "{question}: {key}");
    }
    for (key, times) in seen {
        assert!(
            before.contains(key) || world.made.contains(key),
            "{question}: {key} was never there"
        );
        assert!(*times == 1 || moves, "{question}: {key} {times} times");
    }
}

// ---- episodes ------------------------------------------------------------------------------------------------------------------

const EPISODES: u64 = 100_000;

fn episodes() -> State {
    let mut loader = Loader::new(1, 1, MOMENT, RenderSettings::default());
    for n in 0..EPISODES {
        let (media, opened_at) = (format!("cam{}", n % 97), MOMENT - n * 7 % 50_021);
        loader.entity(
            Kind::Episode,
            EntityRecord::new(&Entity {
                // Far apart, over the whole range, so that others fit in between.
                key: (n * 92_000_000_000_000).to_string(),
                revision: 1,
                // Groups of one stamp, as batches leave them.
                updated_at: MOMENT - EPISODES + n / 8 * 8,
                config: format!(
                    r#"{{"episode_type":"generic","media":"{media}","opened_at":{opened_at}}}"#
                ),
                facts: Facts::Episode {
                    media,
                    opened_at,
                    closed_at: None,
                    publication: None,
                },
                ..Entity::default()
            }),
        );
    }
    loader.finish(Vec::new())
}

fn write_episodes(world: &mut World) {
    for _ in 0..20 {
        let n = world.random.below(EPISODES);
        let id = n * 92_000_000_000_000;
        match world.random.below(4) {
            0 => {
                let key = Key::Number(id);
                if world.state.entities(Kind::Episode).get(&key).is_some() {
                    let kind = Kind::Episode;
                    world.apply(Command::DeleteEntity { kind, key });
                    world.deleted.insert(id.to_string());
                }
            }
            1 => {
                let id = id + 1 + world.random.below(1_000_000);
                world.made.insert(id.to_string());
                save_episode(
                    world,
                    id,
                    &format!(r#"{{"media":"cam{}","opened_at":{MOMENT}}}"#, n % 97),
                );
            }
            _ => {
                let key = Key::Number(id);
                if world.state.entities(Kind::Episode).get(&key).is_some() {
                    world.changed.insert(id.to_string());
                    save_episode(
                        world,
                        id,
                        &format!(r#"{{"preview_timestamp":{}}}"#, MOMENT + n),
                    );
                }
            }
        }
    }
}

fn save_episode(world: &mut World, id: u64, body: &str) {
    let body = json::parse(body.as_bytes()).expect("JSON");
    let save = EntitySave::from_body(Kind::Episode, Key::Number(id), body, "").expect("fits");
    world.apply(Command::SaveEntity(save));
}

#[test]
fn a_hundred_thousand_episodes_page_exactly_once_under_writes() {
    let mut world = World::new(episodes());
    let page = |state: &State, query: Query| run(query, &EntitySource::new(Kind::Episode, state));
    for (question, moves) in [
        ("sort=episode_id&limit=997", false),
        ("sort=-episode_id&limit=9999", false),
        ("sort=-opened_at&limit=9000&select=media", false),
        ("sort=media,-opened_at&limit=9000&select=media", false),
        ("media=cam1,cam2,cam96,none&limit=500&sort=opened_at", false),
        ("limit=9001&select=media", true),
        ("updated_at_gt=1&media=cam3,cam4&limit=300", true),
    ] {
        let filter = question
            .split('&')
            .find_map(|part| part.strip_prefix("media="));
        let before: BTreeSet<String> = world
            .state
            .entities(Kind::Episode)
            .by_key()
            .iter()
            .filter(|(_, record)| {
                filter.is_none_or(|media| {
                    let ArchivedFacts::Episode { media: of, .. } = &record.facts else {
                        return false;
                    };
                    media.split(',').any(|name| name == of.as_str())
                })
            })
            .map(|(key, _)| key.to_string())
            .collect();
        let kind = list_kind(Kind::Episode);
        let seen = walk(&mut world, question, kind, page, write_episodes);
        check(&world, question, &before, &seen, moves);
        if moves {
            // Whoever changed moved ahead: it is met after its change, if not before.
            for key in &world.changed {
                let there = before.contains(key) && !world.deleted.contains(key);
                assert!(!there || seen.contains_key(key), "{question}: {key}");
            }
        }
        assert!(world.changed.len() > 10, "the walk was written under");
    }
}

// ---- streams --------------------------------------------------------------------------------------------------------------------

const STREAMS_COUNT: u64 = 1_000_000;

fn streams() -> State {
    let mut loader = Loader::new(1, 1, MOMENT, RenderSettings::default());
    let mut shards: Vec<OrdMap<StreamName, StreamRecord>> = vec![OrdMap::new(); SHARDS];
    for n in 0..STREAMS_COUNT {
        let name = format!("cam{n:07}");
        let record = StreamRecord::new(&Stream {
            name: name.clone(),
            revision: 1,
            updated_at: MOMENT - STREAMS_COUNT + n,
            config: "{}".to_owned(),
            ..Stream::default()
        });
        shards[shard_of(&name)].insert(StreamName::trusted(&name), record);
    }
    for (index, shard) in shards.into_iter().enumerate() {
        loader.shard(index, shard);
    }
    loader.finish(Vec::new())
}

fn write_streams(world: &mut World) {
    for _ in 0..20 {
        let n = world.random.below(STREAMS_COUNT);
        let text = format!("cam{n:07}");
        let name = StreamName::trusted(&text);
        let there = world.state.stream(&text).is_some();
        match world.random.below(4) {
            0 if there => {
                world.apply(Command::DeleteStream { name });
                world.deleted.insert(text);
            }
            1 => {
                let text = format!("{text}-{}", world.random.below(1000));
                world.made.insert(text.clone());
                save_stream(world, &text, n);
            }
            _ if there => {
                save_stream(world, &text, n);
                world.changed.insert(text);
            }
            _ => {}
        }
    }
}

fn save_stream(world: &mut World, name: &str, n: u64) {
    let name = StreamName::trusted(name);
    let body = json::parse(format!(r#"{{"comment":"{n}"}}"#).as_bytes()).expect("JSON");
    let patch = StreamPatch::from_body(body, &name, "").expect("fits");
    world.apply(Command::SaveStream { name, patch });
}

#[test]
fn a_million_streams_page_exactly_once_under_writes() {
    let mut world = World::new(streams());
    let page = |state: &State, query: Query| run(query, &Streams::new(state, None));
    let question = "limit=10000&select=title";
    let before: BTreeSet<String> = (0..SHARDS)
        .flat_map(|shard| world.state.shard(shard).keys())
        .map(ToString::to_string)
        .collect();
    let seen = walk(&mut world, question, &STREAMS, page, write_streams);
    check(&world, question, &before, &seen, false);
    assert!(world.changed.len() > 500, "the walk was written under");
}
