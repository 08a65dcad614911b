//! Walks over large collections while they change: what exists throughout is seen exactly once.
//!
//! In process, at the query engine over states, between whose pages the collection is written to by
//! the same commands that requests become; and over HTTP, while others write as fast as they can.
//! Both from the first page to the last and back. Over HTTP the collection is smaller unless
//! `WEIR_PAGING_STREAMS=1000000` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use imbl::OrdMap;
use serde_json::Value;
use weir::testing::api::entity::{EntitySource, list_kind};
use weir::testing::api::stream::{KIND as STREAMS, Streams};
use weir::testing::json;
use weir::testing::query::{Execution, Query, Source};
use weir::testing::state::apply::{Stamp, apply};
use weir::testing::state::command::{Command, EntitySave, StreamPatch};
use weir::testing::state::entity::{Key, Kind};
use weir::testing::state::name::{StreamName, shard_of};
use weir::testing::state::node::RenderSettings;
use weir::testing::state::record::{
    ArchivedFacts, Entity, EntityRecord, Facts, Stream, StreamRecord,
};
use weir::testing::state::{Loader, SHARDS, State};
use weir_storage::{Batch, Op, Storage as _, Store};

use weir_testkit::{API_KEY, PREFIX, TestServer};

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
struct PagedWorld {
    state: State,
    random: Random,
    /// Documents that were changed, deleted or made since the walk began.
    changed: BTreeSet<String>,
    deleted: BTreeSet<String>,
    made: BTreeSet<String>,
}

impl PagedWorld {
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    On,
    Back,
}

/// Reads a whole list page by page, with `write` between the pages. How often each document was
/// seen.
fn walk(
    world: &mut PagedWorld,
    question: &str,
    way: Way,
    kind: &'static weir::testing::query::ListKind,
    page_of: fn(&State, Query) -> weir::testing::query::Page,
    mut write: impl FnMut(&mut PagedWorld),
) -> BTreeMap<String, usize> {
    let mut cursor = String::new();
    let ask = |world: &PagedWorld, cursor: &str| {
        let query = Query::parse(&format!("{question}{cursor}"), kind, &[]).expect("a query");
        page_of(&world.state, query)
    };
    if way == Way::Back {
        // No writes on the way to the last page, from which the walk begins.
        while let Some(next) = ask(world, &cursor).next {
            cursor = escaped(&next);
        }
    }
    world.begin_walk();
    let mut seen = BTreeMap::new();
    loop {
        let page = ask(world, &cursor);
        let further = match way {
            Way::On => page.next.clone(),
            Way::Back => page.prev.clone(),
        };
        let body: Value = serde_json::from_slice(&page.into_body("")).expect("an answer");
        for key in keys(&body, kind.collection, kind.key) {
            *seen.entry(key).or_default() += 1;
        }
        let Some(further) = further else { return seen };
        cursor = escaped(&further);
        write(world);
    }
}

/// The query parameter for the page at a cursor.
fn escaped(cursor: &str) -> String {
    format!("&cursor={}", weir_testkit::encode_segment(cursor))
}

fn keys(page: &Value, collection: &str, key: &str) -> Vec<String> {
    let items = page[collection].as_array().expect("a list").iter();
    let keys = items.map(|item| match &item[key] {
        Value::String(text) => text.clone(),
        number => number.to_string(),
    });
    keys.collect()
}

fn run<S: Source>(query: Query, source: &S) -> weir::testing::query::Page {
    Execution::new(&query).run(source)
}

/// `moves`: a change moves a document in the order that is walked, so that it may be met again, or
/// not, but not twice at one place.
fn check(
    world: &PagedWorld,
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

// ---- episodes -----------------------------------------------------------------------------------

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

fn write_episodes(world: &mut PagedWorld) {
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

fn save_episode(world: &mut PagedWorld, id: u64, body: &str) {
    let body = json::parse(body.as_bytes()).expect("JSON");
    let save = EntitySave::from_body(Kind::Episode, Key::Number(id), body, "").expect("fits");
    world.apply(Command::SaveEntity(save));
}

#[test]
fn episode_pages_show_each_item_once_under_writes() {
    let mut world = PagedWorld::new(episodes());
    let page = |state: &State, query: Query| run(query, &EntitySource::new(Kind::Episode, state));
    for (question, way, moves) in [
        ("sort=episode_id&limit=997", Way::On, false),
        ("sort=-episode_id&limit=9999", Way::On, false),
        ("sort=-episode_id&limit=9999", Way::Back, false),
        ("sort=-opened_at&limit=9000&select=media", Way::On, false),
        ("sort=-opened_at&limit=9000&select=media", Way::Back, false),
        (
            "sort=media,-opened_at&limit=9000&select=media",
            Way::On,
            false,
        ),
        (
            "media=cam1,cam2,cam96,none&limit=500&sort=opened_at",
            Way::On,
            false,
        ),
        (
            "media=cam1,cam2,cam96,none&limit=500&sort=opened_at",
            Way::Back,
            false,
        ),
        ("limit=9001&select=media", Way::On, true),
        ("updated_at_gt=0&media=cam3,cam4&limit=300", Way::On, true),
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
        let seen = walk(&mut world, question, way, kind, page, write_episodes);
        check(&world, question, &before, &seen, moves);
        if moves {
            // A changed document moves ahead: it is met after its change, if not before.
            for key in &world.changed {
                let there = before.contains(key) && !world.deleted.contains(key);
                assert!(!there || seen.contains_key(key), "{question}: {key}");
            }
        }
        assert!(world.changed.len() > 10, "the walk was written under");
    }
}

// ---- streams ------------------------------------------------------------------------------------

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

fn write_streams(world: &mut PagedWorld) {
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

fn save_stream(world: &mut PagedWorld, name: &str, n: u64) {
    let name = StreamName::trusted(name);
    let body = json::parse(format!(r#"{{"comment":"{n}"}}"#).as_bytes()).expect("JSON");
    let patch = StreamPatch::from_body(body, &name, "").expect("fits");
    world.apply(Command::SaveStream { name, patch });
}

#[test]
fn stream_pages_show_each_item_once_under_writes() {
    let mut world = PagedWorld::new(streams());
    let page = |state: &State, query: Query| run(query, &Streams::new(state, None));
    let question = "limit=10000&select=title";
    for way in [Way::On, Way::Back] {
        let before: BTreeSet<String> = (0..SHARDS)
            .flat_map(|shard| world.state.shard(shard).keys())
            .map(ToString::to_string)
            .collect();
        let seen = walk(&mut world, question, way, &STREAMS, page, write_streams);
        check(&world, question, &before, &seen, false);
        assert!(world.changed.len() > 500, "the walk was written under");
    }
}

// ---- over HTTP ----------------------------------------------------------------------------------

/// Puts streams into a store as they are there after they were saved.
fn fill(directory: &Path, streams: u64) {
    let options = weir_storage::Options::default();
    let (mut store, opened) = Store::open(directory, &options).expect("an empty store");
    let (batch, mut lsn) = (10_000, opened.lsn);
    for first in (0..streams).step_by(batch as usize) {
        lsn += 1;
        let ops = (first..streams.min(first + batch)).map(|n| {
            let name = format!("cam{n:07}");
            let record = StreamRecord::new(&Stream {
                name: name.clone(),
                revision: lsn,
                updated_at: MOMENT + lsn,
                config: "{}".to_owned(),
                ..Stream::default()
            });
            let mut key = vec![shard_of(&name) as u8];
            key.extend_from_slice(name.as_bytes());
            Op::Put {
                table: weir::testing::writer::STREAMS,
                key: key.into(),
                value: record.bytes().clone(),
            }
        });
        let ops = ops.collect();
        let stamp_ms = MOMENT + lsn;
        let batch = Batch {
            lsn,
            stamp_ms,
            ops,
            ..Batch::default()
        };
        store.commit(&batch).expect("commits");
    }
}

/// Streams that a writer changed, deleted and created until it was stopped.
fn write_until(
    server: &TestServer,
    streams: u64,
    seed: u64,
    stop: &AtomicBool,
) -> [BTreeSet<String>; 3] {
    let mut random = Random(seed);
    let [mut changed, mut deleted, mut made] = [const { BTreeSet::new() }; 3];
    let mut client = server.connect();
    let bearer = format!("Bearer {API_KEY}");
    let mut send = |method: &str, name: &str, body: &str| {
        let (path, fields) = (
            format!("{PREFIX}/streams/{name}"),
            [("Authorization", &*bearer)],
        );
        client
            .request(method, &path, &fields, body.as_bytes())
            .status
    };
    while !stop.load(Ordering::Acquire) {
        let n = random.below(streams);
        let name = format!("cam{n:07}");
        let body = format!(r#"{{"comment":"{n}"}}"#);
        match random.below(4) {
            0 => {
                let status = send("DELETE", &name, "");
                assert!(matches!(status, 204 | 404), "{status}");
                deleted.insert(name);
            }
            1 => {
                let name = format!("{name}-{seed}-{}", made.len());
                assert_eq!(send("PUT", &name, &body), 200);
                made.insert(name);
            }
            // A deleted one would be created again.
            _ if !deleted.contains(&name) => {
                assert_eq!(send("PUT", &name, &body), 200);
                changed.insert(name);
            }
            _ => {}
        }
    }
    [changed, deleted, made]
}

#[test]
fn http_pages_show_each_stream_once_under_writes() {
    let streams = std::env::var("WEIR_PAGING_STREAMS").map_or(100_000, |count| {
        count.parse::<u64>().expect("a number of streams")
    });
    let server = TestServer::on(|directory| fill(directory, streams), &[]);
    let question = "/streams?limit=10000&select=name";
    let page = |cursor: Option<&str>| {
        let cursor = cursor.map_or(String::new(), escaped);
        server
            .get(&format!("{question}{cursor}"))
            .expect(200)
            .json()
    };
    for way in [Way::On, Way::Back] {
        let (further, mut at) = match way {
            Way::On => ("next", None),
            Way::Back => ("prev", None),
        };
        if way == Way::Back {
            while let Some(next) = page(at.as_deref())["next"].as_str() {
                at = Some(next.to_owned());
            }
        }
        let all = |server: &TestServer| {
            let (mut names, mut at) = (BTreeSet::new(), String::new());
            loop {
                let list = server.get(&format!("{question}{at}")).expect(200).json();
                names.extend(keys(&list, "streams", "name"));
                match list["next"].as_str() {
                    Some(next) => at = escaped(next),
                    None => return names,
                }
            }
        };
        let before = all(&server);
        let stop = AtomicBool::new(false);
        let (seen, written) = std::thread::scope(|scope| {
            let writers = [1, 2].map(|seed| {
                let (server, stop) = (&server, &stop);
                scope.spawn(move || write_until(server, streams, seed, stop))
            });
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            loop {
                let list = page(at.as_deref());
                for key in keys(&list, "streams", "name") {
                    *seen.entry(key).or_default() += 1;
                }
                at = list[further].as_str().map(str::to_owned);
                if at.is_none() {
                    break;
                }
            }
            stop.store(true, Ordering::Release);
            (seen, writers.map(|writer| writer.join().expect("it wrote")))
        });
        let union = |place: usize| {
            written
                .iter()
                .flat_map(|sets| sets[place].clone())
                .collect::<BTreeSet<_>>()
        };
        let (changed, deleted, made) = (union(0), union(1), union(2));
        assert!(
            changed.len() + deleted.len() + made.len() > 10,
            "it was written to"
        );
        for name in before.difference(&deleted) {
            assert_eq!(seen.get(name), Some(&1), "{way:?}: {name}");
        }
        for (name, times) in &seen {
            assert!(
                before.contains(name) || made.contains(name),
                "{way:?}: {name} was never there"
            );
            assert_eq!(*times, 1, "{way:?}: {name}");
        }
    }
}
