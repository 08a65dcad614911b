#![allow(unsafe_code)] // one unchecked access, on bytes that were checked before; see `view!`
//! Stored records: one typed rkyv archive each, read in place.
//!
//! Typed fields are what the server decides on; `config` is the canonical JSON text of everything
//! it only carries, with defaults filled in and the places of the defaults noted, so that rendering
//! an answer is copying. The bytes in memory are the bytes on disk: `[schema version][rkyv
//! archive]`. Access is checked once, when bytes become a record (from disk, or just serialised),
//! and never again, because the bytes cannot change afterwards.
//!
//! Never change a struct in place: a new shape is a new module, a new version number and an upgrade
//! from the old one. `golden` reads a file of every kind and version in `tests/golden/records` and
//! compares what is written today with the newest ones byte by byte.

use std::fmt;
use std::sync::Arc;

use rkyv::rancor::Error as RkyvError;
use rkyv::{Archive, Deserialize, Serialize};

use super::event_streams::streams_of_text;

/// First byte of the records of entities, of marks and of the layouter.
pub const SCHEMA_VERSION: u8 = 1;
/// First byte of the records of streams. Version 1 did not have `handover_from`, version 2 not
/// `kept_rendered`, version 3 not `pinned`.
pub const STREAM_VERSION: u8 = 4;
/// First byte of the records of streamers. Version 1 did not have `cordon`, version 2 not its
/// `drain`.
pub const STREAMER_VERSION: u8 = 3;
/// First byte of the records of events. Version 1 did not have their streams.
pub const EVENT_VERSION: u8 = 2;

/// Longest layout history kept per stream.
pub const LAYOUTS_KEPT_MAX: usize = 100;
/// Older entries of the layout history are dropped when a new one is made.
pub const LAYOUTS_KEPT_MS: u64 = 90 * 24 * 3600 * 1000;
/// Entries of `ingest_history` that are shown, and former ingest nodes that are archive sources.
const INGEST_HISTORY_MAX: usize = 5;

/// What a node does for a stream. The number is the index in [`Stream::rendered`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Role {
    Ingest = 0,
    Backup = 1,
    Inference = 2,
}

impl Role {
    /// Whether other nodes read from a node in this role: the live stream or its archive.
    pub fn is_source(self) -> bool {
        matches!(self, Self::Ingest | Self::Backup)
    }
}

/// One placement of a stream on nodes.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub struct Layout {
    pub ingest: Option<String>,
    pub inference: Option<String>,
    pub dvr_backups: Vec<String>,
    pub failover_from: Option<String>,
    /// When the nodes changed, UTC ms.
    pub created_at: u64,
    /// True: by the layouter; false: through the API.
    pub by_layouter: bool,
    /// One of [`super::command::CHANGE_REASONS`].
    pub change_reason: Option<String>,
}

impl Layout {
    /// True when both place the stream on the same nodes.
    pub fn same_nodes(&self, other: &Self) -> bool {
        self.ingest == other.ingest
            && self.inference == other.inference
            && self.dvr_backups == other.dvr_backups
    }
}

/// A stream.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub struct Stream {
    pub name: String,
    /// Log sequence number of the last change.
    pub revision: u64,
    /// Stamp of the last change of any field, UTC ms.
    pub updated_at: u64,
    /// By [`Role`]: the revision at which the text for a node of that role last changed. Nodes'
    /// generations are rebuilt from it.
    pub rendered: [u64; 3],
    pub disabled: bool,
    /// `config` holds a secret that lists must mask.
    pub has_secrets: bool,
    pub namespace: Option<String>,
    /// Newest first; the first is where the stream is now. Empty: never placed.
    pub layouts: Vec<Layout>,
    /// The node that ingested the stream before a planned move, while it keeps it; see
    /// [`super::handover`].
    pub handover_from: Option<String>,
    /// The revision at which the text for that node last changed; 0 without it.
    pub kept_rendered: u64,
    /// The stream stays on its ingest node while that is legal.
    pub pinned: bool,
    /// Canonical JSON object without `name`, defaults filled in.
    pub config: String,
    /// Byte ranges (start, length) of `config` that are defaults. The text without them is what was
    /// saved.
    pub filled: Vec<(u32, u32)>,
}

/// A [`Stream`] of version 1.
#[derive(Archive, Serialize, Deserialize)]
struct StreamV1 {
    name: String,
    revision: u64,
    updated_at: u64,
    rendered: [u64; 3],
    disabled: bool,
    has_secrets: bool,
    namespace: Option<String>,
    layouts: Vec<Layout>,
    config: String,
    filled: Vec<(u32, u32)>,
}

/// A [`Stream`] of version 2.
#[derive(Archive, Serialize, Deserialize)]
struct StreamV2 {
    name: String,
    revision: u64,
    updated_at: u64,
    rendered: [u64; 3],
    disabled: bool,
    has_secrets: bool,
    namespace: Option<String>,
    layouts: Vec<Layout>,
    handover_from: Option<String>,
    config: String,
    filled: Vec<(u32, u32)>,
}

/// A [`Stream`] of version 3.
#[derive(Archive, Serialize, Deserialize)]
struct StreamV3 {
    name: String,
    revision: u64,
    updated_at: u64,
    rendered: [u64; 3],
    disabled: bool,
    has_secrets: bool,
    namespace: Option<String>,
    layouts: Vec<Layout>,
    handover_from: Option<String>,
    kept_rendered: u64,
    config: String,
    filled: Vec<(u32, u32)>,
}

/// What a streamer is for.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub enum NodeRole {
    #[default]
    Streamer,
    Inference,
    Identification,
}

impl NodeRole {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "streamer" => Some(Self::Streamer),
            "inference" => Some(Self::Inference),
            "identification" => Some(Self::Identification),
            _ => None,
        }
    }
}

/// A streamer, inference or identification node.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub struct Streamer {
    pub hostname: String,
    pub revision: u64,
    pub updated_at: u64,
    pub role: NodeRole,
    pub cluster_key: String,
    /// `host[:port]` that other nodes pull from, and whether with TLS.
    pub pull_authority: String,
    pub pull_tls: bool,
    pub is_restreamer: bool,
    pub has_secrets: bool,
    pub namespace: Option<String>,
    /// Present while the node takes no new streams.
    pub cordon: Option<Cordon>,
    pub config: String,
    pub filled: Vec<(u32, u32)>,
}

/// Maintenance of a node that takes no new streams meanwhile.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq), derive(PartialEq))]
pub struct Cordon {
    /// As the operator gave it; may be empty.
    pub reason: String,
    /// Stamp of its begin, UTC ms.
    pub since: u64,
    /// Present while its streams leave.
    pub drain: Option<DrainOrder>,
}

/// How the streams of a node leave it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq), derive(PartialEq))]
pub struct DrainOrder {
    /// Streams per minute; 0: no limit.
    pub pace: u32,
    /// UTC ms; 0: none.
    pub deadline: u64,
    /// The streams come back after the maintenance.
    pub returns: bool,
}

/// A [`Streamer`] of version 2.
#[derive(Archive, Serialize, Deserialize)]
struct StreamerV2 {
    hostname: String,
    revision: u64,
    updated_at: u64,
    role: NodeRole,
    cluster_key: String,
    pull_authority: String,
    pull_tls: bool,
    is_restreamer: bool,
    has_secrets: bool,
    namespace: Option<String>,
    cordon: Option<CordonV2>,
    config: String,
    filled: Vec<(u32, u32)>,
}

/// A [`Cordon`] of version 2.
#[derive(Archive, Serialize, Deserialize)]
struct CordonV2 {
    reason: String,
    since: u64,
}

/// A [`Streamer`] of version 1.
#[derive(Archive, Serialize, Deserialize)]
struct StreamerV1 {
    hostname: String,
    revision: u64,
    updated_at: u64,
    role: NodeRole,
    cluster_key: String,
    pull_authority: String,
    pull_tls: bool,
    is_restreamer: bool,
    has_secrets: bool,
    namespace: Option<String>,
    config: String,
    filled: Vec<(u32, u32)>,
}

/// An entity that is neither a stream nor a streamer; see [`super::entity`].
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub struct Entity {
    /// As in a path; a number without leading zeros for kinds with numeric keys.
    pub key: String,
    pub revision: u64,
    /// Stamp of the last change of any field, UTC ms.
    pub updated_at: u64,
    pub has_secrets: bool,
    pub facts: Facts,
    /// Canonical JSON object without the key and the stamp, defaults filled in.
    pub config: String,
    pub filled: Vec<(u32, u32)>,
}

/// The values that the server's decisions depend on, by kind of entity.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub enum Facts {
    #[default]
    None,
    Agent {
        /// The layout while no stream uses the agent. Otherwise that of its streams applies.
        layout: Option<Layout>,
    },
    Episode {
        media: String,
        /// UTC ms.
        opened_at: u64,
        /// UTC ms; set once.
        closed_at: Option<u64>,
        /// Present in an episode that the server made of a publication.
        publication: Option<Publication>,
    },
    Person {
        /// UTC ms. A deleted person is kept for a while, so that clients with a copy see the
        /// deletion.
        deleted_at: Option<u64>,
    },
    Token {
        /// SHA-256 of the key.
        digest: [u8; 32],
    },
}

/// The publication behind an automatic episode.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub struct Publication {
    /// UTC ms; absent while the stream is published.
    pub ended_at: Option<u64>,
}

/// The events of one batch, in their order.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub struct EventChunk {
    /// Log sequence number of the batch.
    pub revision: u64,
    /// UTC ms.
    pub stamp_ms: u64,
    /// Canonical JSON objects, as the API shows them.
    pub events: Vec<String>,
    /// The streams that the events are about, also those that their texts leave out; sorted.
    pub streams: Vec<EventStream>,
}

/// A stream that an event is about.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default,
)]
#[rkyv(compare(PartialEq))]
pub struct EventStream {
    /// Index of the event in its chunk.
    pub event: u32,
    /// [`stream_digest`](super::event_streams::stream_digest) of its name: ten thousand names of a
    /// batch would push many older events out of the log.
    pub digest: u64,
}

/// An [`EventChunk`] of version 1.
#[derive(Archive, Serialize, Deserialize)]
struct EventChunkV1 {
    revision: u64,
    stamp_ms: u64,
    events: Vec<String>,
}

/// A node's generation at the removal of a stream: without it the generation would step back at a
/// restart.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeMark {
    /// The node's generation when the mark was written; after a restart also the oldest revision
    /// that a delta can start from.
    pub generation: u64,
    /// Stamp of that change, UTC ms.
    pub updated_at: u64,
}

/// What a pause of the layouter holds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(compare(PartialEq))]
pub enum PauseScope {
    /// Moves of streams that could stay where they are, but for drains.
    #[default]
    Improving,
    All,
}

/// A pause of the layouter.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct LayouterPause {
    /// Log sequence number of its request.
    pub revision: u64,
    /// Stamp of its begin, UTC ms.
    pub since: u64,
    /// Stamp of its end, UTC ms; 0: until it is ended.
    pub until: u64,
    /// From its request to its end.
    pub length_ms: u64,
    /// The user of the request.
    pub by: String,
    /// As the operator gave it; may be empty.
    pub reason: String,
    pub what: PauseScope,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    Version {
        found: u8,
        /// The newest version of this kind of record.
        newest: u8,
    },
    Damaged,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { found, newest } if found > newest => write!(
                f,
                "the record has schema version {found}, written by a newer program; this program \
                 reads versions up to {newest}"
            ),
            Self::Version { found, .. } => {
                write!(f, "the record has no known schema version: {found}")
            }
            Self::Damaged => f.write_str("the record does not decode"),
        }
    }
}

impl std::error::Error for RecordError {}

macro_rules! view {
    ($view:ident, $owned:ident, $archived:ident, $version:expr, $upgrade:expr) => {
        /// A stored record, shared and read in place.
        #[derive(Clone)]
        pub struct $view(Arc<[u8]>);

        impl $view {
            /// Serialises a record into the bytes that go to disk and that readers share.
            pub fn new(record: &$owned) -> Self {
                let archive = rkyv::to_bytes::<RkyvError>(record)
                    .expect("serialising into memory cannot fail");
                let mut bytes = Vec::with_capacity(archive.len() + 1);
                bytes.push($version);
                bytes.extend_from_slice(&archive);
                Self(Arc::from(bytes))
            }

            /// Checks bytes that were read from disk. Those of an older version are upgraded.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
                let (&found, archive) = bytes.split_first().ok_or(RecordError::Damaged)?;
                if found != $version {
                    let upgrade: Upgrade<$owned> = $upgrade;
                    let upgraded =
                        upgrade(found, archive).unwrap_or(Err(RecordError::Version {
                            found,
                            newest: $version,
                        }))?;
                    return Ok(Self::new(&upgraded));
                }
                rkyv::access::<$archived, RkyvError>(archive).map_err(|_| RecordError::Damaged)?;
                Ok(Self(Arc::from(bytes)))
            }

            pub fn bytes(&self) -> &Arc<[u8]> {
                &self.0
            }

            /// An owned copy to change.
            pub fn to_owned(&self) -> $owned {
                rkyv::deserialize::<$owned, RkyvError>(&**self)
                    .expect("a checked record deserialises")
            }
        }

        impl std::ops::Deref for $view {
            type Target = $archived;
            fn deref(&self) -> &$archived {
                // SAFETY: `new` serialised these bytes and `from_bytes` checked them; they are
                // immutable behind the Arc, and the `unaligned` feature removes any demand on their
                // address.
                unsafe { rkyv::access_unchecked::<$archived>(&self.0[1..]) }
            }
        }

        impl PartialEq for $view {
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }

        impl fmt::Debug for $view {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.to_owned(), f)
            }
        }
    };
}

/// Reads a record of an older version; `None` for a version that is not known.
type Upgrade<T> = fn(u8, &[u8]) -> Option<Result<T, RecordError>>;

/// For records that have been of one version only.
fn no_upgrade<T>(_: u8, _: &[u8]) -> Option<Result<T, RecordError>> {
    None
}

view!(
    StreamRecord,
    Stream,
    ArchivedStream,
    STREAM_VERSION,
    upgraded_stream
);
view!(
    StreamerRecord,
    Streamer,
    ArchivedStreamer,
    STREAMER_VERSION,
    upgraded_streamer
);
view!(
    NodeMarkRecord,
    NodeMark,
    ArchivedNodeMark,
    SCHEMA_VERSION,
    no_upgrade
);
view!(
    EntityRecord,
    Entity,
    ArchivedEntity,
    SCHEMA_VERSION,
    no_upgrade
);
view!(
    PauseRecord,
    LayouterPause,
    ArchivedLayouterPause,
    SCHEMA_VERSION,
    no_upgrade
);
view!(
    EventChunkRecord,
    EventChunk,
    ArchivedEventChunk,
    EVENT_VERSION,
    upgraded_events
);

fn upgraded_stream(found: u8, archive: &[u8]) -> Option<Result<Stream, RecordError>> {
    match found {
        1 => Some(stream_of_version_1(archive)),
        2 => Some(stream_of_version_2(archive)),
        3 => Some(stream_of_version_3(archive)),
        _ => None,
    }
}

/// No stream was handed over when version 1 was written.
fn stream_of_version_1(archive: &[u8]) -> Result<Stream, RecordError> {
    let old = rkyv::access::<ArchivedStreamV1, RkyvError>(archive)
        .and_then(rkyv::deserialize::<StreamV1, RkyvError>)
        .map_err(|_| RecordError::Damaged)?;
    Ok(Stream {
        name: old.name,
        revision: old.revision,
        updated_at: old.updated_at,
        rendered: old.rendered,
        disabled: old.disabled,
        has_secrets: old.has_secrets,
        namespace: old.namespace,
        layouts: old.layouts,
        handover_from: None,
        kept_rendered: 0,
        pinned: false,
        config: old.config,
        filled: old.filled,
    })
}

/// The old and the new node of a handover shared one revision in version 2.
fn stream_of_version_2(archive: &[u8]) -> Result<Stream, RecordError> {
    let old = rkyv::access::<ArchivedStreamV2, RkyvError>(archive)
        .and_then(rkyv::deserialize::<StreamV2, RkyvError>)
        .map_err(|_| RecordError::Damaged)?;
    let is_kept = old.handover_from.is_some();
    Ok(Stream {
        name: old.name,
        revision: old.revision,
        updated_at: old.updated_at,
        rendered: old.rendered,
        disabled: old.disabled,
        has_secrets: old.has_secrets,
        namespace: old.namespace,
        layouts: old.layouts,
        handover_from: old.handover_from,
        kept_rendered: if is_kept {
            old.rendered[Role::Ingest as usize]
        } else {
            0
        },
        pinned: false,
        config: old.config,
        filled: old.filled,
    })
}

/// No stream was pinned when version 3 was written.
fn stream_of_version_3(archive: &[u8]) -> Result<Stream, RecordError> {
    let old = rkyv::access::<ArchivedStreamV3, RkyvError>(archive)
        .and_then(rkyv::deserialize::<StreamV3, RkyvError>)
        .map_err(|_| RecordError::Damaged)?;
    Ok(Stream {
        name: old.name,
        revision: old.revision,
        updated_at: old.updated_at,
        rendered: old.rendered,
        disabled: old.disabled,
        has_secrets: old.has_secrets,
        namespace: old.namespace,
        layouts: old.layouts,
        handover_from: old.handover_from,
        kept_rendered: old.kept_rendered,
        pinned: false,
        config: old.config,
        filled: old.filled,
    })
}

fn upgraded_streamer(found: u8, archive: &[u8]) -> Option<Result<Streamer, RecordError>> {
    match found {
        1 => Some(streamer_of_version_1(archive)),
        2 => Some(streamer_of_version_2(archive)),
        _ => None,
    }
}

/// No streamer was drained when version 2 was written.
fn streamer_of_version_2(archive: &[u8]) -> Result<Streamer, RecordError> {
    let old = rkyv::access::<ArchivedStreamerV2, RkyvError>(archive)
        .and_then(rkyv::deserialize::<StreamerV2, RkyvError>)
        .map_err(|_| RecordError::Damaged)?;
    Ok(Streamer {
        hostname: old.hostname,
        revision: old.revision,
        updated_at: old.updated_at,
        role: old.role,
        cluster_key: old.cluster_key,
        pull_authority: old.pull_authority,
        pull_tls: old.pull_tls,
        is_restreamer: old.is_restreamer,
        has_secrets: old.has_secrets,
        namespace: old.namespace,
        cordon: old.cordon.map(|cordon| Cordon {
            reason: cordon.reason,
            since: cordon.since,
            drain: None,
        }),
        config: old.config,
        filled: old.filled,
    })
}

/// No streamer was cordoned when version 1 was written.
fn streamer_of_version_1(archive: &[u8]) -> Result<Streamer, RecordError> {
    let old = rkyv::access::<ArchivedStreamerV1, RkyvError>(archive)
        .and_then(rkyv::deserialize::<StreamerV1, RkyvError>)
        .map_err(|_| RecordError::Damaged)?;
    Ok(Streamer {
        hostname: old.hostname,
        revision: old.revision,
        updated_at: old.updated_at,
        role: old.role,
        cluster_key: old.cluster_key,
        pull_authority: old.pull_authority,
        pull_tls: old.pull_tls,
        is_restreamer: old.is_restreamer,
        has_secrets: old.has_secrets,
        namespace: old.namespace,
        cordon: None,
        config: old.config,
        filled: old.filled,
    })
}

fn upgraded_events(found: u8, archive: &[u8]) -> Option<Result<EventChunk, RecordError>> {
    (found == 1).then(|| events_of_version_1(archive))
}

/// The streams of older events are those that their texts name.
fn events_of_version_1(archive: &[u8]) -> Result<EventChunk, RecordError> {
    let old = rkyv::access::<ArchivedEventChunkV1, RkyvError>(archive)
        .and_then(rkyv::deserialize::<EventChunkV1, RkyvError>)
        .map_err(|_| RecordError::Damaged)?;
    let texts = old.events.iter().enumerate();
    let mut streams: Vec<EventStream> = texts
        .flat_map(|(event, text)| {
            let digests = streams_of_text(text).into_iter();
            digests.map(move |digest| EventStream {
                digest,
                event: event as u32,
            })
        })
        .collect();
    streams.sort_unstable();
    Ok(EventChunk {
        revision: old.revision,
        stamp_ms: old.stamp_ms,
        events: old.events,
        streams,
    })
}

impl ArchivedEventChunk {
    /// Whether one of its events is about one of these streams. `digests` are sorted.
    pub fn is_about(&self, event: usize, digests: &[u64]) -> bool {
        let begin = self.streams.partition_point(|it| it.event() < event);
        let streams = &self.streams[begin..];
        let streams = &streams[..streams.partition_point(|it| it.event() == event)];
        if streams.len() < digests.len() {
            let mut found = streams.iter().map(|it| it.digest.to_native());
            return found.any(|digest| digests.binary_search(&digest).is_ok());
        }
        let has = |digest: &u64| {
            let found = streams.binary_search_by_key(digest, |it| it.digest.to_native());
            found.is_ok()
        };
        digests.iter().any(has)
    }
}

impl ArchivedEventStream {
    fn event(&self) -> usize {
        self.event.to_native() as usize
    }
}

impl ArchivedEntity {
    pub fn filled_spans(&self) -> impl Iterator<Item = (u32, u32)> {
        self.filled
            .iter()
            .map(|span| (span.0.to_native(), span.1.to_native()))
    }
}

impl ArchivedStream {
    /// The present layout.
    pub fn layout(&self) -> Option<&ArchivedLayout> {
        self.layouts.first()
    }

    pub fn ingest(&self) -> Option<&str> {
        self.layout()
            .and_then(|layout| layout.ingest.as_ref())
            .map(rkyv::string::ArchivedString::as_str)
    }

    /// The node that keeps the stream until its new ingest node runs it.
    pub fn handover_from(&self) -> Option<&str> {
        let from = self.handover_from.as_ref();
        from.map(rkyv::string::ArchivedString::as_str)
    }

    /// The node that others read the live stream from: during a handover the one that still runs
    /// it.
    pub fn source(&self) -> Option<&str> {
        self.handover_from().or_else(|| self.ingest())
    }

    pub fn inference(&self) -> Option<&str> {
        self.layout()
            .and_then(|layout| layout.inference.as_ref())
            .map(rkyv::string::ArchivedString::as_str)
    }

    pub fn backups(&self) -> impl Iterator<Item = &str> {
        self.layout().into_iter().flat_map(|layout| {
            layout
                .dvr_backups
                .iter()
                .map(rkyv::string::ArchivedString::as_str)
        })
    }

    pub fn rendered_at(&self, role: Role) -> u64 {
        self.rendered[role as usize].to_native()
    }

    /// The revision at which the text for a node, which has this role, last changed.
    pub fn rendered_for(&self, host: &str, role: Role) -> u64 {
        if role == Role::Ingest && self.handover_from() == Some(host) {
            self.kept_rendered.to_native()
        } else {
            self.rendered_at(role)
        }
    }

    pub fn filled_spans(&self) -> impl Iterator<Item = (u32, u32)> {
        self.filled
            .iter()
            .map(|span| (span.0.to_native(), span.1.to_native()))
    }

    /// The last ingest nodes, newest first, the present one included: (since, hostname, placed by
    /// the layouter).
    pub fn ingest_history(&self) -> Vec<(u64, &str, bool)> {
        let mut history: Vec<(u64, &str, bool)> = Vec::new();
        let mut run: Option<(u64, &str, bool)> = None;
        for layout in self.layouts.iter() {
            let entry = layout.ingest.as_ref().map(|host| {
                (
                    layout.created_at.to_native(),
                    host.as_str(),
                    layout.by_layouter,
                )
            });
            match (run, entry) {
                // The same node further back: the stream has been there since then.
                (Some((_, host, _)), Some(older)) if host == older.1 => run = Some(older),
                (Some(done), _) => {
                    history.push(done);
                    run = entry;
                }
                (None, _) => run = entry,
            }
            if history.len() == INGEST_HISTORY_MAX {
                return history;
            }
        }
        history.extend(run);
        history
    }
}

impl ArchivedStreamer {
    pub fn filled_spans(&self) -> impl Iterator<Item = (u32, u32)> {
        self.filled
            .iter()
            .map(|span| (span.0.to_native(), span.1.to_native()))
    }
}

impl ArchivedEntity {
    /// SHA-256 of a token's key.
    pub fn token_digest(&self) -> Option<&[u8; 32]> {
        match &self.facts {
            ArchivedFacts::Token { digest } => Some(digest),
            _ => None,
        }
    }
}

impl ArchivedNodeRole {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Streamer => "streamer",
            Self::Inference => "inference",
            Self::Identification => "identification",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(ingest: Option<&str>, created_at: u64) -> Layout {
        Layout {
            ingest: ingest.map(str::to_owned),
            created_at,
            ..Layout::default()
        }
    }

    #[test]
    fn record_reads_back_whole_and_refuses_damage() {
        let stream = Stream {
            name: "a".into(),
            revision: 7,
            layouts: vec![placed(Some("s1"), 5)],
            config: r#"{"static":true}"#.into(),
            filled: vec![(1, 13)],
            ..Stream::default()
        };
        let record = StreamRecord::new(&stream);
        assert_eq!(record.to_owned(), stream);
        assert_eq!(
            StreamRecord::from_bytes(record.bytes())
                .expect("just written")
                .to_owned(),
            stream
        );
        assert_eq!(StreamRecord::from_bytes(&[]), Err(RecordError::Damaged));
        let mut other_version = record.bytes().to_vec();
        other_version[0] = 99;
        assert_eq!(
            StreamRecord::from_bytes(&other_version),
            Err(RecordError::Version {
                found: 99,
                newest: STREAM_VERSION
            })
        );
        assert_eq!(
            StreamRecord::from_bytes(&record.bytes()[..20]),
            Err(RecordError::Damaged)
        );
    }

    #[test]
    fn ingest_history_lists_each_stay_once() {
        let stream = Stream {
            layouts: vec![
                placed(Some("c"), 60),
                placed(Some("b"), 50),
                placed(Some("b"), 40),
                placed(None, 30),
                placed(Some("a"), 20),
                placed(Some("a"), 10),
            ],
            ..Stream::default()
        };
        let record = StreamRecord::new(&stream);
        let history: Vec<_> = record
            .ingest_history()
            .into_iter()
            .map(|(since, host, _)| (since, host))
            .collect();
        assert_eq!(history, [(60, "c"), (40, "b"), (10, "a")]);
    }
}
