//! Everything that can be asked of the writer. What is not listed cannot happen.
//!
//! Commands carry what was checked on the io core (names, shapes) and nothing that must be decided on the newest state. They are made from bodies
//! here, so that every place a body is read tells errors in the same way.

use super::apply::invalid;
use super::entity::{Key, Kind};
use super::episode::PublicationNews;
use super::event::{Audit, NewEvent};
use super::name::{Hostname, StreamName};
use super::record::{EntityRecord, Publication, StreamRecord, StreamerRecord};
use super::retention::Retention;
use crate::http::error::ApiError;
use crate::json::{Number, Object, Value, patch};
use crate::schema;

/// Most items of one batch.
pub const BATCH_ITEMS_MAX: usize = 10_000;

/// A change somebody asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Create or change one stream.
    SaveStream {
        name: StreamName,
        patch: StreamPatch,
    },
    /// Create or change many streams, all or none.
    SaveStreams {
        items: Vec<(StreamName, StreamPatch)>,
    },
    DeleteStream {
        name: StreamName,
    },
    /// Place many streams, all or none.
    SetLayouts {
        items: Vec<(StreamName, LayoutPatch)>,
    },
    SaveStreamer {
        hostname: Hostname,
        patch: Object,
    },
    SaveStreamers {
        items: Vec<(Hostname, Object)>,
    },
    DeleteStreamer {
        hostname: Hostname,
    },
    /// The layouter's plan. Each row is placed if it is still the one that was decided on; the others are told in [`Done::Placed`].
    Place {
        items: Vec<Placement>,
    },
    /// Create or change one entity.
    SaveEntity(EntitySave),
    DeleteEntity {
        kind: Kind,
        key: Key,
    },
    /// Create or change one agent; the layout counts only while no stream uses it.
    SaveAgent {
        save: EntitySave,
        layout: Option<LayoutPatch>,
    },
    /// Place many agents, all or none; those that streams use are passed over.
    SetAgentLayouts {
        items: Vec<(Key, LayoutPatch)>,
    },
    /// A streamer tells that a stream's publication began or ended.
    Publication {
        stream: StreamName,
        news: PublicationNews,
    },
    /// The writer's own: what is over for long enough goes, if that is still so.
    KeepHouse {
        kept: Retention,
        looked: Vec<(Kind, Key)>,
    },
    /// Nothing but events.
    Note {
        events: Vec<NewEvent>,
    },
}

/// The wanted change of one entity.
#[derive(Debug, Clone)]
pub struct EntitySave {
    pub kind: Kind,
    pub key: Key,
    /// Merge patch of the configuration, unknown and read-only fields dropped, without the key and the stamp.
    pub patch: Object,
    /// Members that a new entity gets where the patch has none: what the server makes up, such as a token's key.
    pub on_create: Object,
    pub episode: EpisodeNews,
}

/// What a save tells of an episode beside its configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpisodeNews {
    /// An open episode goes on, even if nothing else is new: it lasts until its stamp.
    pub goes_on: bool,
    /// Of an automatic episode.
    pub publication: Option<Publication>,
}

/// A command, and who is named for it in the event log.
#[derive(Debug, Clone)]
pub struct Asked {
    pub command: Command,
    pub audit: Option<Box<Audit>>,
}

impl From<Command> for Asked {
    fn from(command: Command) -> Self {
        Self {
            command,
            audit: None,
        }
    }
}

/// What a command came to.
#[derive(Debug, Clone)]
pub enum Done {
    Stream(StreamRecord),
    Streamer(StreamerRecord),
    Entity(Kind, EntityRecord),
    /// A plan was carried out, except for these of its items.
    Placed {
        refused: Vec<usize>,
    },
    /// Nothing to show: a deletion or a batch.
    Nothing,
}

impl Done {
    /// The status a client is answered with.
    pub fn status(&self) -> u16 {
        match self {
            Self::Stream(_) | Self::Streamer(_) | Self::Entity(..) => 200,
            Self::Placed { .. } | Self::Nothing => 204,
        }
    }
}

/// The wanted change of one stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamPatch {
    /// Merge patch of the configuration, unknown and read-only fields dropped.
    pub config: Object,
    pub layout: Option<LayoutPatch>,
}

/// The wanted change of one layout. An absent member stays as it is, `null` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayoutPatch {
    pub ingest: Option<Option<Hostname>>,
    pub inference: Option<Option<Hostname>>,
    pub dvr_backups: Option<Vec<Hostname>>,
    pub failover_from: Option<Option<Hostname>>,
    /// A reason code of the reference; absent: the change came through the API.
    pub change_reason: Option<String>,
    pub by_layouter: bool,
}

/// Where the layouter wants a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub name: StreamName,
    /// Of the row this was decided on.
    pub revision: u64,
    pub layout: LayoutPatch,
    /// The layouter's own name of the reason; it has some that no layout may be given with.
    pub why: &'static str,
}

/// Reasons that a layout may be given with.
pub const CHANGE_REASONS: [&str; 15] = [
    "stream_misses_node_required_labels",
    "node_misses_stream_required_labels",
    "node_become_offline",
    "stream_disabled",
    "node_deleted",
    "node_channel_limit_exceeded",
    "multistream_agent_ingest_conflict",
    "streamer_dvr_size_exceeded",
    "streamer_total_bandwidth_exceeded",
    "preferred_labels_better_match",
    "not_distributed",
    "dvr_redundancy_adjust",
    "node_cpu_pressure",
    "relayout_by_api",
    "namespace_mismatch",
];

impl StreamPatch {
    /// From a body for one stream whose name the path gave, or for an item of a batch at `pointer`.
    pub fn from_body(body: Value, name: &StreamName, pointer: &str) -> Result<Self, ApiError> {
        let mut body = body;
        check_key(&body, "name", name, pointer)?;
        check_resets(&body, pointer)?;
        let layout = match &mut body {
            Value::Object(object) => object.remove("layout"),
            _ => None,
        };
        let layout = match layout {
            Some(layout) => Some(LayoutPatch::from_body(
                &layout,
                &format!("{pointer}/layout"),
            )?),
            None => None,
        };
        schema::stream().prune(&mut body);
        let Value::Object(mut config) = body else {
            return Err(not_an_object(pointer));
        };
        // The key is the path's; the rest is the server's own.
        for field in [
            "name",
            "layout",
            "updated_at",
            "stats",
            "named_by",
            "config_on_disk",
        ] {
            config.remove(field);
        }
        Ok(Self { config, layout })
    }
}

impl LayoutPatch {
    /// From a `layout` object or an item of `layouts`. Members that only the server writes (`created_at`, histories, decisions) are dropped.
    pub fn from_body(body: &Value, pointer: &str) -> Result<Self, ApiError> {
        if body.is_null() {
            return Ok(Self::cleared());
        }
        let mut given = body.clone();
        schema::stream_layout().prune(&mut given);
        // What `null` clears is no value to be checked.
        if let Value::Object(object) = &mut given {
            object.retain(|_, value| !value.is_null());
        }
        schema::stream_layout()
            .check(&given)
            .map_err(|violations| invalid(violations, pointer))?;
        let host = |field: &str| -> Result<Option<Option<Hostname>>, ApiError> {
            match body.get(field) {
                None => Ok(None),
                Some(Value::Null) => Ok(Some(None)),
                Some(value) => {
                    parse_host(value, &format!("{pointer}/{field}")).map(|host| Some(Some(host)))
                }
            }
        };
        let backups = body.get("dvr_backups").map(|backups| {
            let hosts = backups.as_array().unwrap_or_default().iter().enumerate();
            hosts
                .map(|(i, host)| parse_host(host, &format!("{pointer}/dvr_backups/{i}")))
                .collect::<Result<Vec<_>, _>>()
        });
        let text = |field: &str| given.get(field).and_then(Value::as_str);
        Ok(Self {
            ingest: host("ingest")?,
            inference: host("inference")?,
            dvr_backups: backups.transpose()?,
            failover_from: host("failover_from")?,
            change_reason: text("change_reason").map(str::to_owned),
            by_layouter: text("originator") == Some("layouter"),
        })
    }

    fn cleared() -> Self {
        Self {
            ingest: Some(None),
            inference: Some(None),
            dvr_backups: Some(Vec::new()),
            failover_from: Some(None),
            ..Self::default()
        }
    }
}

/// From a body for one streamer; unknown and read-only fields dropped.
pub fn streamer_patch(body: Value, hostname: &Hostname, pointer: &str) -> Result<Object, ApiError> {
    let mut body = body;
    check_key(&body, "hostname", hostname, pointer)?;
    check_resets(&body, pointer)?;
    schema::streamer().prune(&mut body);
    let Value::Object(mut patch) = body else {
        return Err(not_an_object(pointer));
    };
    for field in ["hostname", "updated_at", "stats", "dvrs"] {
        patch.remove(field);
    }
    Ok(patch)
}

impl EntitySave {
    /// From a body for one entity.
    pub fn from_body(kind: Kind, key: Key, body: Value, pointer: &str) -> Result<Self, ApiError> {
        let mut body = body;
        let field = kind.key_field();
        let given = body
            .get(field)
            .filter(|given| !matches!(given, Value::Null));
        if given.is_some_and(|given| *given != key.to_value()) {
            return Err(key_mismatch(format!("{pointer}/{field}")));
        }
        check_resets(&body, pointer)?;
        kind.schema().prune(&mut body);
        let Value::Object(mut patch) = body else {
            return Err(not_an_object(pointer));
        };
        patch.remove(field);
        let stamp = patch.remove("updated_at");
        if let Some(stamp) = &stamp {
            check_moment(stamp, format!("{pointer}/updated_at"))?;
        }
        Ok(Self {
            kind,
            key,
            patch,
            on_create: Object::default(),
            episode: EpisodeNews {
                goes_on: stamp.is_some() && kind == Kind::Episode,
                publication: None,
            },
        })
    }
}

/// The items of `PUT /streams/batch`: a bare array of streams, no name twice.
pub fn stream_items(body: Value) -> Result<Vec<(StreamName, StreamPatch)>, ApiError> {
    batch_items(body, "name", StreamName::parse, StreamPatch::from_body)
}

/// The items of `PUT /streamers/batch`: a bare array of streamers, no hostname twice.
pub fn streamer_items(body: Value) -> Result<Vec<(Hostname, Object)>, ApiError> {
    batch_items(body, "hostname", Hostname::parse, streamer_patch)
}

/// The items of a bare array of objects, each naming itself in `key`, each read by `patch_of`.
fn batch_items<N: Ord + Clone, P>(
    body: Value,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
    patch_of: impl Fn(Value, &N, &str) -> Result<P, ApiError>,
) -> Result<Vec<(N, P)>, ApiError> {
    let Value::Array(items) = body else {
        return Err(ApiError::bad_body(
            "",
            "not_array",
            "A batch is a JSON array of objects",
        ));
    };
    named_items(items, "", key, parse)?
        .into_iter()
        .enumerate()
        .map(|(i, (name, item))| {
            let patch = patch_of(item, &name, &format!("/{i}"))?;
            Ok((name, patch))
        })
        .collect()
}

/// The items of `POST /streams/layouts`.
pub fn layout_items(body: Value) -> Result<Vec<(StreamName, LayoutPatch)>, ApiError> {
    layouts(body, "name", StreamName::parse)
}

/// The items of `POST /agents/layouts`.
pub fn agent_layout_items(body: Value) -> Result<Vec<(Key, LayoutPatch)>, ApiError> {
    layouts(body, "id", |id| Key::parse(Kind::Agent, id))
}

fn layouts<N: Ord + Clone>(
    body: Value,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
) -> Result<Vec<(N, LayoutPatch)>, ApiError> {
    let Value::Object(mut body) = body else {
        return Err(not_an_object(""));
    };
    let items = match body.remove("layouts") {
        Some(Value::Array(items)) => items,
        Some(_) => {
            return Err(ApiError::bad_body(
                "/layouts",
                "not_array",
                "Layouts are an array of objects",
            ));
        }
        None => {
            return Err(ApiError::bad_body(
                "/layouts",
                "missing_required",
                "The body has no layouts",
            ));
        }
    };
    named_items(items, "/layouts", key, parse)?
        .into_iter()
        .enumerate()
        .map(|(i, (name, item))| {
            Ok((
                name,
                LayoutPatch::from_body(&item, &format!("/layouts/{i}"))?,
            ))
        })
        .collect()
}

fn named_items<N: Ord + Clone>(
    items: Vec<Value>,
    pointer: &str,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
) -> Result<Vec<(N, Value)>, ApiError> {
    if items.len() > BATCH_ITEMS_MAX {
        let title = "A batch has at most 10,000 items";
        return Err(ApiError::new(413, "too_many_items", title)
            .at_pointer(pointer)
            .with("maximum", BATCH_ITEMS_MAX));
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut named = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let at = format!("{pointer}/{i}");
        match item {
            Value::Object(_) => {}
            Value::Null => {
                let code = "null_in_array_of_non_nullable";
                let title = "An item of a batch may not be null";
                return Err(ApiError::bad_body(at, code, title));
            }
            _ => return Err(not_an_object(&at)),
        }
        let at_key = format!("{at}/{key}");
        let name = match item.get(key) {
            Some(Value::String(name)) => {
                parse(name).map_err(|why| ApiError::bad_body(&at_key, "wrong_format", why))?
            }
            Some(_) => {
                return Err(ApiError::bad_body(
                    at_key,
                    "not_string",
                    "A name is a string",
                ));
            }
            None => {
                return Err(ApiError::bad_body(
                    at_key,
                    "missing_required",
                    "An item of a batch names what it is for",
                ));
            }
        };
        if !seen.insert(name.clone()) {
            return Err(ApiError::bad_body(
                at_key,
                "duplicate_item",
                "A batch names each thing once",
            ));
        }
        named.push((name, item));
    }
    Ok(named)
}

fn parse_host(value: &Value, pointer: &str) -> Result<Hostname, ApiError> {
    match value {
        Value::String(host) => {
            Hostname::parse(host).map_err(|why| ApiError::bad_body(pointer, "wrong_format", why))
        }
        _ => Err(ApiError::bad_body(
            pointer,
            "not_string",
            "A hostname is a string",
        )),
    }
}

fn check_key(body: &Value, key: &str, expected: &str, pointer: &str) -> Result<(), ApiError> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(given)) if &**given == expected => Ok(()),
        Some(_) => Err(key_mismatch(format!("{pointer}/{key}"))),
    }
}

fn key_mismatch(pointer: String) -> ApiError {
    ApiError::bad_body(
        pointer,
        "key_mismatch",
        "The body names something else than the path; names cannot be changed",
    )
}

/// A time in milliseconds that a schema does not look at: a client's own stamp, whose place the server's takes, is one all the same.
pub fn check_moment(moment: &Value, pointer: String) -> Result<(), ApiError> {
    let (code, title) = match moment {
        Value::Null | Value::Number(Number::Unsigned(1_000_000_000_000..=10_000_000_000_000)) => {
            return Ok(());
        }
        Value::Number(Number::Unsigned(_) | Number::Negative(_)) => (
            "input_out_of_range",
            "Must be a time in milliseconds since 1970",
        ),
        Value::Number(Number::Float(_))
        | Value::Bool(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => ("not_integer", "Must be an integer"),
    };
    Err(ApiError::bad_body(pointer, code, title))
}

/// A `$reset` says yes or no.
pub fn check_resets(body: &Value, pointer: &str) -> Result<(), ApiError> {
    match patch::misused_reset(body) {
        None => Ok(()),
        Some(at) => Err(ApiError::bad_body(
            format!("{pointer}{at}"),
            "not_boolean",
            "Must be true or false",
        )),
    }
}

fn not_an_object(pointer: &str) -> ApiError {
    ApiError::bad_body(pointer, "not_object", "Expected a JSON object")
}
