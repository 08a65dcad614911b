//! Golden records: files of every stored kind and schema version,
//! `tests/golden/records/vN/KIND.bin`.
//!
//! A file is made once, by `WEIR_GOLDEN=write cargo test -p weir --lib golden`, and never changed:
//! a released program wrote records like it. A new version adds a folder; the records of the older
//! folders must then read as what their upgrade makes of them. A kind whose shape did not change
//! has no file in the new folder. The literals below name every field,
//! so that a new field does not compile before it is thought of here.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::entity::KINDS;
use super::event_streams::stream_digest;
use super::record::{
    Cordon, DrainOrder, EVENT_VERSION, Entity, EntityRecord, EventChunk, EventChunkRecord,
    EventStream, Facts, Layout, LayouterPause, NodeMark, NodeMarkRecord, NodeRole, PauseRecord,
    PauseScope, Publication, RecordError, SCHEMA_VERSION, STREAM_VERSION, STREAMER_VERSION, Stream,
    StreamRecord, Streamer, StreamerRecord,
};

fn folder(version: u8) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/records/v{version}"))
}

type Check = Box<dyn Fn(&[u8])>;

/// A golden file: what today's program writes in its place, and what it reads from given bytes.
struct Golden {
    file: &'static str,
    /// The version that is written today.
    version: u8,
    written: Vec<u8>,
    /// Reads bytes and compares every field.
    check: Check,
    /// The error that bytes are refused with.
    refusal: fn(&[u8]) -> Option<RecordError>,
}

macro_rules! golden {
    ($view:ident, $file:literal, $record:expr) => {{
        let record = $record;
        Golden {
            file: $file,
            version: SCHEMA_VERSION,
            written: $view::new(&record).bytes().to_vec(),
            check: Box::new(move |bytes| {
                let read = $view::from_bytes(bytes).expect($file);
                assert_eq!(read.to_owned(), record, "{}", $file);
            }),
            refusal: |bytes| $view::from_bytes(bytes).err(),
        }
    }};
}

/// One record of every kind, with every field set; a second one where a kind has optional parts.
fn all() -> Vec<Golden> {
    let mut all = marks_and_events();
    let cordon = Cordon {
        reason: "new disks".into(),
        since: 1_795_000_000_204,
        drain: Some(DrainOrder {
            pace: 200,
            deadline: 1_795_000_009_999,
            returns: true,
        }),
    };
    all.extend(streamers(Some(&cordon), STREAMER_VERSION));
    all.extend(streams(Some(("s1.example.com", 4690)), STREAM_VERSION));
    all.extend(entities());
    all
}

fn layouts() -> Vec<Layout> {
    vec![
        Layout {
            ingest: Some("s2.example.com".into()),
            inference: Some("i1.example.com".into()),
            dvr_backups: vec!["s3.example.com".into(), "s4.example.com".into()],
            failover_from: Some("s1.example.com".into()),
            created_at: 1_795_000_000_200,
            by_layouter: true,
            change_reason: Some("node_become_offline".into()),
        },
        Layout {
            ingest: Some("s1.example.com".into()),
            inference: None,
            dvr_backups: Vec::new(),
            failover_from: None,
            created_at: 1_795_000_000_100,
            by_layouter: false,
            change_reason: None,
        },
    ]
}

/// Streams as they are after an upgrade from version 1, which had no `handover_from`, and version
/// 2, which had no `kept_rendered`; `pinned` is new in version 4.
fn streams(handover: Option<(&str, u64)>, version: u8) -> [Golden; 2] {
    let goldens = [
        golden!(
            StreamRecord,
            "stream.bin",
            Stream {
                name: "sports/hd/1".into(),
                revision: 4711,
                updated_at: 1_795_000_000_201,
                rendered: [4711, 4700, 17],
                disabled: true,
                has_secrets: true,
                namespace: Some("north".into()),
                layouts: layouts(),
                handover_from: handover.map(|(host, _)| host.to_owned()),
                kept_rendered: handover.map_or(0, |(_, rendered)| rendered),
                pinned: version >= 4,
                config: r#"{"inputs":[{"url":"rtsp://u:p@10.0.0.1/s"}],"static":true}"#.into(),
                filled: vec![(43, 14)],
            }
        ),
        golden!(
            StreamRecord,
            "stream_unplaced.bin",
            Stream {
                name: "Первый".into(),
                revision: 1,
                updated_at: 1_795_000_000_000,
                rendered: [0; 3],
                disabled: false,
                has_secrets: false,
                namespace: None,
                layouts: Vec::new(),
                handover_from: None,
                kept_rendered: 0,
                pinned: false,
                config: "{}".into(),
                filled: Vec::new(),
            }
        ),
    ];
    goldens.map(|golden| Golden { version, ..golden })
}

/// Streamers as they are after an upgrade from version 1, which had no `cordon`, and version 2,
/// which had no `drain`.
fn streamers(cordon: Option<&Cordon>, version: u8) -> [Golden; 3] {
    let streamer = |role| streamer(role, cordon.cloned());
    let goldens = [
        golden!(StreamerRecord, "streamer.bin", streamer(NodeRole::Streamer)),
        golden!(
            StreamerRecord,
            "streamer_inference.bin",
            streamer(NodeRole::Inference)
        ),
        golden!(
            StreamerRecord,
            "streamer_identification.bin",
            streamer(NodeRole::Identification)
        ),
    ];
    goldens.map(|golden| Golden { version, ..golden })
}

fn marks_and_events() -> Vec<Golden> {
    vec![
        golden!(
            NodeMarkRecord,
            "node.bin",
            NodeMark {
                generation: 4712,
                updated_at: 1_795_000_000_202,
            }
        ),
        events(),
        pause("pause.bin", PauseScope::Improving, 1_795_000_001_800),
        pause("pause_all.bin", PauseScope::All, 0),
    ]
}

fn pause(file: &'static str, what: PauseScope, until: u64) -> Golden {
    let pause = golden!(
        PauseRecord,
        "pause.bin",
        LayouterPause {
            revision: 4716,
            since: 1_795_000_000_206,
            until,
            length_ms: until.saturating_sub(1_795_000_000_300),
            by: "api_token:anna".into(),
            reason: "new switch".into(),
            what,
        }
    );
    Golden { file, ..pause }
}

fn events() -> Golden {
    let records = golden!(
        EventChunkRecord,
        "event.bin",
        EventChunk {
            revision: 4713,
            stamp_ms: 1_795_000_000_203,
            events: vec![
                r#"{"event":"api_call","event_id":308871168,"utc_ms":1795000000203}"#.into(),
                r#"{"event":"server_started","event_id":308871169}"#.into(),
            ],
            streams: vec![
                EventStream {
                    event: 0,
                    digest: 0x0123_4567_89ab_cdef,
                },
                EventStream {
                    event: 1,
                    digest: 17,
                },
            ],
        }
    );
    Golden {
        version: EVENT_VERSION,
        ..records
    }
}

/// The events of version 1: their streams come from their texts.
fn events_v1() -> Golden {
    let records = golden!(
        EventChunkRecord,
        "event.bin",
        EventChunk {
            revision: 4713,
            stamp_ms: 1_795_000_000_203,
            events: vec![
                r#"{"event":"api_call","event_id":308871168,"utc_ms":1795000000203}"#.into(),
                r#"{"event":"server_started","event_id":308871169}"#.into(),
            ],
            streams: Vec::new(),
        }
    );
    Golden {
        version: 1,
        ..records
    }
}

fn streamer(role: NodeRole, cordon: Option<Cordon>) -> Streamer {
    Streamer {
        hostname: "s1.example.com".into(),
        revision: 4714,
        updated_at: 1_795_000_000_204,
        role,
        cluster_key: "cluster-key".into(),
        pull_authority: "10.0.0.2:8080".into(),
        pull_tls: true,
        is_restreamer: true,
        has_secrets: true,
        namespace: Some("north".into()),
        cordon,
        config: r#"{"api_url":"https://10.0.0.2:8080","cluster_key":"cluster-key"}"#.into(),
        filled: vec![(1, 2), (3, 4)],
    }
}

fn entities() -> Vec<Golden> {
    let entity = |key: &str, facts, config: &str| Entity {
        key: key.to_owned(),
        revision: 4715,
        updated_at: 1_795_000_000_205,
        has_secrets: true,
        facts,
        config: config.to_owned(),
        filled: vec![(1, 11)],
    };
    let agent = |layout| {
        let config = r#"{"enabled":1,"key":"agent-key"}"#;
        entity("30226aa9", Facts::Agent { layout }, config)
    };
    let episode = |closed_at, publication| {
        let facts = Facts::Episode {
            media: "sports/hd/1".into(),
            opened_at: 1_795_000_000_000,
            closed_at,
            publication,
        };
        entity("9223372036854775807", facts, r#"{"media":"sports/hd/1"}"#)
    };
    let person = |deleted_at| {
        let facts = Facts::Person { deleted_at };
        entity("42", facts, r#"{"originator":"api"}"#)
    };
    let digest = std::array::from_fn(|i| i as u8 * 7);
    let on = Some(Publication { ended_at: None });
    let ended = Some(Publication {
        ended_at: Some(1_795_000_000_050),
    });
    let left = entity("30226aa9", Facts::None, r#"{"key":"agent-key"}"#);
    let backend = entity("main", Facts::None, r#"{"backends":[]}"#);
    let balancer = entity("lb", Facts::None, r#"{"url":"http://b"}"#);
    let token = entity("ui", Facts::Token { digest }, r#"{"key":"token-key"}"#);
    let gap = r#"{"filled":"sports/hd/1","made":7,"since":1795000000000}"#;
    let gap = entity("s1.example.com", Facts::None, gap);
    let placed = agent(layouts().into_iter().next());
    vec![
        golden!(EntityRecord, "agent.bin", placed),
        golden!(EntityRecord, "agent_unplaced.bin", agent(None)),
        golden!(EntityRecord, "api_token.bin", token),
        golden!(EntityRecord, "auth_backend.bin", backend),
        golden!(EntityRecord, "balancer.bin", balancer),
        golden!(EntityRecord, "deleted_agent.bin", left),
        golden!(EntityRecord, "episode.bin", episode(None, None)),
        golden!(EntityRecord, "episode_on.bin", episode(None, on)),
        golden!(
            EntityRecord,
            "episode_closed.bin",
            episode(Some(1_795_000_000_060), ended)
        ),
        golden!(EntityRecord, "person.bin", person(None)),
        golden!(
            EntityRecord,
            "person_deleted.bin",
            person(Some(1_795_000_000_070))
        ),
        golden!(EntityRecord, "report_gap.bin", gap),
    ]
}

#[test]
fn golden_records_of_every_version_read_back_whole() {
    let mut goldens = all();
    goldens.extend(streams(None, 1));
    goldens.extend(streams(Some(("s1.example.com", 4711)), 2));
    goldens.extend(streams(Some(("s1.example.com", 4690)), 3));
    goldens.extend(streamers(None, 1));
    let cordon = Cordon {
        reason: "new disks".into(),
        since: 1_795_000_000_204,
        drain: None,
    };
    goldens.extend(streamers(Some(&cordon), 2));
    goldens.push(events_v1());
    for version in 1..=EVENT_VERSION.max(STREAM_VERSION).max(STREAMER_VERSION) {
        let mut files: BTreeSet<String> = fs::read_dir(folder(version))
            .expect("every version has a folder")
            .map(|entry| entry.expect("is listed").file_name().into_string())
            .collect::<Result<_, _>>()
            .expect("names are ASCII");
        for golden in goldens.iter().filter(|it| it.version == version) {
            let bytes = fs::read(folder(version).join(golden.file)).expect(golden.file);
            (golden.check)(&bytes);
            files.remove(golden.file);
        }
        assert!(files.is_empty(), "files that no test reads: {files:?}");
    }
}

#[test]
fn records_are_written_as_the_newest_golden_files() {
    let may_write = std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write");
    for golden in all() {
        let folder = folder(golden.version);
        let path = folder.join(golden.file);
        if may_write && !path.exists() {
            fs::create_dir_all(&folder).expect("the folder is created");
            fs::write(&path, &golden.written).expect("the golden file is written");
        }
        let bytes = fs::read(&path).expect(golden.file);
        assert!(
            bytes == golden.written,
            "{}: the shape of a record changed without a new schema version",
            golden.file
        );
    }
}

#[test]
fn streams_of_events_of_version_1_come_from_their_texts() {
    // The record as version 1 wrote it, with texts of the same length.
    let text = |event: &str, length: usize| format!("{event:<length$}");
    let bytes = fs::read(folder(1).join("event.bin")).expect("the golden file");
    let old = [
        r#"{"event":"api_call","event_id":308871168,"utc_ms":1795000000203}"#,
        r#"{"event":"server_started","event_id":308871169}"#,
    ];
    let new = [
        r#"{"entity_id":"a","entity_type":"stream"}"#,
        r#"{"relayouts":[{"name":"b"},{"name":"c"}]}"#,
    ];
    let mut bytes = bytes;
    for (old, new) in old.iter().zip(new) {
        let at = memchr::memmem::find(&bytes, old.as_bytes()).expect("the text of an event");
        bytes[at..at + old.len()].copy_from_slice(text(new, old.len()).as_bytes());
    }
    let chunk = EventChunkRecord::from_bytes(&bytes).expect("a record of version 1");
    for (event, name, found) in [
        (0, "a", true),
        (0, "b", false),
        (1, "a", false),
        (1, "b", true),
        (1, "c", true),
        (2, "c", false),
    ] {
        assert_eq!(
            chunk.is_about(event, &[stream_digest(name)]),
            found,
            "{event} {name}"
        );
    }
    let mut many: Vec<u64> = ["a", "x", "y", "z"].map(stream_digest).to_vec();
    many.sort_unstable();
    assert!(chunk.is_about(0, &many) && !chunk.is_about(1, &many));
}

#[test]
fn every_kind_of_entity_has_a_golden_file() {
    let files: Vec<&str> = all().iter().map(|golden| golden.file).collect();
    for kind in KINDS {
        let file = format!("{}.bin", kind.row().table);
        assert!(files.contains(&&*file), "{kind:?}");
    }
}

#[test]
fn record_of_unknown_version_is_refused_by_its_number() {
    for golden in all() {
        let newest = golden.version;
        for found in [0, newest + 1, u8::MAX] {
            let mut bytes = golden.written.clone();
            bytes[0] = found;
            let error = (golden.refusal)(&bytes);
            assert_eq!(
                error,
                Some(RecordError::Version { found, newest }),
                "{}",
                golden.file
            );
        }
    }
    let newer = RecordError::Version {
        found: 7,
        newest: 1,
    };
    assert_eq!(
        newer.to_string(),
        "the record has schema version 7, written by a newer program; this program reads versions \
         up to 1"
    );
}
