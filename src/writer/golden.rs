//! Golden stores: files that earlier versions wrote, the newest with a record in every table.
//!
//! Made once by `WEIR_GOLDEN=write cargo test -p weir --lib writer::golden` and never changed. They
//! must open, load and hold what is written below; today's writer must use the same tables and
//! keys as the newest. A new table is a new file: the older ones have no record of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rkyv::string::ArchivedString;
use weir_storage::{FILE_NAME, Options, Storage, Store};

use super::{SnapshotRecords, StateMachine, load, tables};
use crate::json;
use crate::state::command::{Command, EntitySave, StreamPatch, streamer_patch};
use crate::state::entity::{Key, Kind};
use crate::state::event::NewEvent;
use crate::state::name::{Hostname, StreamName};
use crate::state::node::RenderSettings;
use crate::state::pause::{PauseEnd, PauseRequest};
use crate::state::record::{ArchivedFacts, PauseScope};
use crate::state::report_gap::ReportGap;

const STAMP_MS: u64 = 1_795_000_000_000;

/// The newest golden store. The first had no table of the layouter, the second none of gaps.
const NEWEST: u32 = 3;

fn golden(version: u32) -> PathBuf {
    let file = format!("tests/golden/store_v{version}.redb");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn stream(name: &str, body: &str) -> Command {
    let name = StreamName::parse(name).expect("a name");
    let body = json::parse(body.as_bytes()).expect("JSON");
    let patch = StreamPatch::from_body(body, &name, "").expect("a stream");
    Command::SaveStream { name, patch }
}

fn entity(kind: Kind, key: &str, body: &str) -> Command {
    let key = Key::parse(kind, key).expect("a key");
    let body = json::parse(body.as_bytes()).expect("JSON");
    Command::SaveEntity(EntitySave::from_body(kind, key, body, "").expect("an entity"))
}

/// The commands that a golden store was made with, one batch each.
fn commands(version: u32) -> Vec<Command> {
    let hostname = Hostname::parse("s1").expect("a hostname");
    let body = json::parse(br#"{"role":"streamer","cluster_key":"k"}"#).expect("JSON");
    let patch = streamer_patch(body, &hostname, "").expect("a streamer");
    let input = r#""inputs":[{"url":"udp://239.0.0.1:1234"}]"#;
    let placed = format!(r#"{{{input},"layout":{{"ingest":"s1"}}}}"#);
    let gone = Key::parse(Kind::Agent, "gone").expect("a key");
    let name = StreamName::parse("removed").expect("a name");
    let event = NewEvent::new("server_started").text("version", "1");
    let mut commands = vec![
        Command::SaveStreamer { hostname, patch },
        stream("sports/hd/1", &placed),
        stream("removed", &placed),
        Command::DeleteStream { name },
        entity(Kind::Agent, "a1", r#"{"key":"agent-key"}"#),
        entity(Kind::Agent, "gone", r#"{"key":"agent-key"}"#),
        Command::DeleteEntity {
            kind: Kind::Agent,
            key: gone,
        },
        entity(Kind::ApiToken, "ui", r#"{"key":"token-key"}"#),
        entity(Kind::AuthBackend, "main", "{}"),
        entity(Kind::Balancer, "lb", "{}"),
        entity(
            Kind::Episode,
            "256",
            r#"{"media":"sports/hd/1","opened_at":1637094994000}"#,
        ),
        entity(Kind::Person, "7", r#"{"originator":"api"}"#),
        Command::AppendEvents {
            events: vec![event],
        },
    ];
    if version >= 2 {
        let wanted = PauseRequest {
            what: PauseScope::All,
            end: Some(PauseEnd::After(Duration::from_mins(30))),
            reason: "new switch".into(),
        };
        commands.push(Command::PauseLayouter {
            wanted: Some(wanted),
            by: "anna".into(),
        });
    }
    if version >= 3 {
        let hostname = Hostname::parse("s2").expect("a hostname");
        let body = json::parse(br#"{"role":"streamer","cluster_key":"k","api_url":"http://s2"}"#)
            .expect("JSON");
        let patch = streamer_patch(body, &hostname, "").expect("a streamer");
        let items = vec![(hostname.clone(), STAMP_MS)];
        commands.push(Command::SaveStreamer { hostname, patch });
        commands.push(Command::OpenReportGaps { items });
    }
    commands
}

/// A store with the records of the newest commands.
fn written(directory: &Path) -> Store {
    let (store, opened) = Store::open(directory, &Options::default()).expect("an empty store");
    let state = load(&store, &opened, RenderSettings::default()).expect("loads");
    let mut machine = StateMachine::new(state, store);
    for (at_ms, command) in (STAMP_MS..).zip(commands(NEWEST)) {
        let applied = machine.batch(vec![command], at_ms).expect("commits");
        applied.outcomes.into_iter().for_each(|outcome| {
            outcome.expect("is applied");
        });
    }
    machine.into_storage()
}

/// A golden store, copied into a directory and opened.
fn opened(version: u32, directory: &Path) -> (Store, weir_storage::Opened) {
    fs::copy(golden(version), directory.join(FILE_NAME)).expect("the golden file is copied");
    Store::open(directory, &Options::default()).expect("the golden store opens")
}

/// Table and key of every record.
fn keys(store: &Store) -> Vec<(&'static str, Vec<u8>)> {
    let mut keys = Vec::new();
    for table in tables() {
        store
            .load(table, None, &mut |key, _| {
                keys.push((table.0, key.to_vec()));
            })
            .expect("loads");
    }
    keys
}

#[test]
fn golden_stores_load_with_a_record_of_every_table() {
    let newest = golden(NEWEST);
    if std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write") && !newest.exists() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        written(scratch.path()).close().expect("closes");
        fs::copy(scratch.path().join(FILE_NAME), newest).expect("the golden file is written");
    }
    for version in 1..=NEWEST {
        golden_store_loads(version);
    }
}

fn golden_store_loads(version: u32) {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let (store, opened) = opened(version, directory.path());
    let state = load(&store, &opened, RenderSettings::default()).expect("the golden store loads");
    let revision = commands(version).len() as u64;
    assert_eq!((state.revision(), opened.lsn), (revision, revision));
    assert_eq!(state.stamp_ms(), STAMP_MS + revision - 1);
    assert_eq!(state.streams_count(), 1);
    let stream = state.stream("sports/hd/1").expect("the stream is there");
    assert_eq!(
        (&*stream.name, stream.ingest()),
        ("sports/hd/1", Some("s1"))
    );
    assert_eq!(
        (stream.revision.to_native(), stream.rendered[0].to_native()),
        (2, 2)
    );
    assert!(stream.config.contains("udp://239.0.0.1:1234"));
    let streamer = state.streamer("s1").expect("the streamer is there");
    assert_eq!(&*streamer.cluster_key, "k");
    let node = state.node("s1").expect("the node is there");
    assert_eq!((node.generation, node.delta_floor), (4, 4), "from the mark");
    for (kind, keys) in [
        (Kind::Agent, vec!["a1"]),
        (Kind::ApiToken, vec!["ui"]),
        (Kind::AuthBackend, vec!["main"]),
        (Kind::Balancer, vec!["lb"]),
        (Kind::Episode, vec!["256"]),
        (Kind::Person, vec!["7"]),
        (Kind::DeletedAgent, vec!["gone"]),
    ] {
        let found = state.entities(kind).by_key().keys();
        assert_eq!(found.map(ToString::to_string).collect::<Vec<_>>(), keys);
    }
    let gap = (version >= 3).then(|| ReportGap::new(STAMP_MS));
    assert_eq!(state.report_gap("s2"), gap);
    let episode = state.episodes().of("sports/hd/1", None).next();
    let facts = &episode.expect("the episode is indexed").facts;
    assert!(matches!(facts, ArchivedFacts::Episode { opened_at, .. } if *opened_at > 0));
    let events: Vec<&str> = state
        .events()
        .values()
        .flat_map(|chunk| chunk.events.iter().map(ArchivedString::as_str))
        .collect();
    assert_eq!(events.len(), version.min(2) as usize, "{events:?}");
    assert!(events[0].contains("\"event\":\"server_started\""));
    let pause = state
        .pause()
        .map(|pause| (pause.what.as_str(), &*pause.by, pause.until_ms()));
    let until_ms = STAMP_MS + commands(2).len() as u64 - 1 + 30 * 60_000;
    let written = ("all", "anna", Some(until_ms));
    assert_eq!(pause, (version >= 2).then_some(written));
}

#[test]
fn writer_uses_the_tables_and_keys_of_the_newest_golden_store() {
    let (old, new) = (tempfile::tempdir(), tempfile::tempdir());
    let (old, new) = (old.expect("a directory"), new.expect("a directory"));
    let golden = keys(&opened(NEWEST, old.path()).0);
    assert_eq!(keys(&written(new.path())), golden);
    for table in tables() {
        let has_record = golden.iter().any(|(name, _)| *name == table.0);
        assert!(has_record, "{} has no golden record", table.0);
    }
}

#[test]
fn snapshot_of_a_state_has_the_records_of_its_store() {
    let directory = tempfile::tempdir().expect("a directory");
    written(directory.path()).close().expect("closes");
    let (store, opened) = Store::open(directory.path(), &Options::default()).expect("opens");
    let state = load(&store, &opened, RenderSettings::default()).expect("loads");
    let mut stored = Vec::new();
    for table in tables() {
        let mut add = |key: &[u8], value: &[u8]| {
            stored.push((table.0, key.to_vec(), value.to_vec()));
        };
        store.load(table, None, &mut add).expect("loads");
    }
    let records = SnapshotRecords::new(state);
    let found: Vec<_> = records
        .map(|(table, key, value)| (table.0, key.to_vec(), value.to_vec()))
        .collect();
    // Also in the same order: tables one after another, keys as the store sorts them.
    assert_eq!(found, stored);
    assert!(stored.len() >= tables().count(), "a table has no record");
}
