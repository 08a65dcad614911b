//! The closed list of changes that the writer makes.
//!
//! Commands carry what was checked on the io core (names, shapes) and nothing that must be decided
//! on the newest state. They are made from bodies here, so that every endpoint reports errors in
//! the same way.

use std::time::Duration;

use super::batch::BatchItems;
use super::entity::{Key, Kind};
use super::episode::PublicationReport;
use super::event::{Audit, NewEvent};
use super::invalid::{checked, invalid};
use super::name::{Hostname, StreamName};
use super::pause::PauseRequest;
use super::record::Publication;
use super::report_gap::GapFill;
use super::retention::Retention;
use super::tag::{EntityName, Precondition};
use crate::access::rights::Grant;
use crate::duration;
use crate::error::{self, ApiError};
use crate::json::{Number, Object, Value, patch};
use crate::schema;

/// Most items of one batch.
pub const BATCH_ITEMS_MAX: usize = 10_000;
/// Pace of a drain whose body has none, streams per minute.
const DRAIN_PACE_DEFAULT: u32 = 200;
/// Longest time until the deadline of a drain.
const DRAIN_LIMIT_MAX: Duration = Duration::from_hours(30 * 24);

/// A requested change.
#[derive(Debug, Clone)]
pub enum Command {
    /// Create or change one stream.
    SaveStream {
        name: StreamName,
        patch: StreamPatch,
    },
    /// Create or change many streams, all or none.
    SaveStreams {
        items: BatchItems<StreamName, StreamPatch>,
    },
    DeleteStream {
        name: StreamName,
    },
    /// Change streams that filters selected, all or none. One that changed since is skipped;
    /// [`Done::Selected`](super::changes::Done) lists those.
    ChangeSelected {
        items: Vec<SelectedStream>,
        change: SelectedChange,
    },
    /// Place many streams, all or none.
    SetLayouts {
        items: BatchItems<StreamName, LayoutPatch>,
    },
    SaveStreamer {
        hostname: Hostname,
        patch: Object,
    },
    SaveStreamers {
        items: BatchItems<Hostname, Object>,
    },
    DeleteStreamer {
        hostname: Hostname,
    },
    /// Begin or end the maintenance of one streamer.
    SetMaintenance {
        hostname: Hostname,
        wanted: MaintenanceRequest,
    },
    /// Carry out a plan of the layouter. A row is skipped if its stream changed since the decision;
    /// [`Done::Placed`](super::changes::Done) lists those.
    Place {
        items: Vec<Placement>,
    },
    /// Issued by the layouter's thread. Nodes that handed streams over no longer keep them. An item
    /// is skipped if its stream is not handed over between these nodes any more.
    EndHandovers {
        items: Vec<HandoverEnd>,
    },
    /// Begin a pause of the layouter, or end it (`None`).
    PauseLayouter {
        wanted: Option<PauseRequest>,
        /// The user of the request.
        by: Box<str>,
    },
    /// Issued by the layouter's thread. Ends the pause of this revision at its time.
    ExpirePause {
        revision: u64,
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
    /// Place many agents, all or none; those that streams use are skipped.
    SetAgentLayouts {
        items: BatchItems<Key, LayoutPatch>,
    },
    /// A streamer reported that a stream's publication began or ended.
    ReportPublication {
        stream: StreamName,
        report: PublicationReport,
    },
    /// Issued when streamers stopped to report, and at a start: the times since when, UTC ms.
    OpenReportGaps {
        items: Vec<(Hostname, u64)>,
    },
    /// Recordings of a gap were read.
    FillReportGap(GapFill),
    /// Issued by the writer. Deletes entities past their retention and closes episodes whose
    /// publication ended, re-checked against the current state.
    ExpireEntities {
        retention: Retention,
        due: Vec<(Kind, Key)>,
    },
    /// Adds events to the event log and changes nothing else.
    AppendEvents {
        events: Vec<NewEvent>,
    },
}

/// The wanted change of one entity.
#[derive(Debug, Clone)]
pub struct EntitySave {
    pub kind: Kind,
    pub key: Key,
    /// Merge patch of the configuration, unknown and read-only fields dropped, without the key and
    /// the stamp.
    pub patch: Object,
    /// Members that a new entity gets where the patch has none: those that the server generates,
    /// such as a token's key.
    pub on_create: Object,
    pub episode: EpisodeProgress,
}

impl Command {
    /// The entity that it saves or deletes, if it is about one.
    pub fn entity(&self) -> Option<EntityName> {
        match self {
            Self::SaveStream { name, .. } | Self::DeleteStream { name } => {
                Some(EntityName::Stream(name.clone()))
            }
            Self::SaveStreamer { hostname, .. }
            | Self::DeleteStreamer { hostname }
            | Self::SetMaintenance { hostname, .. } => Some(EntityName::Streamer(hostname.clone())),
            Self::SaveEntity(save) | Self::SaveAgent { save, .. } => {
                Some(EntityName::Entity(save.kind, save.key.clone()))
            }
            Self::DeleteEntity { kind, key } => Some(EntityName::Entity(*kind, key.clone())),
            Self::SaveStreams { .. }
            | Self::ChangeSelected { .. }
            | Self::SetLayouts { .. }
            | Self::SaveStreamers { .. }
            | Self::Place { .. }
            | Self::EndHandovers { .. }
            | Self::PauseLayouter { .. }
            | Self::ExpirePause { .. }
            | Self::SetAgentLayouts { .. }
            | Self::ReportPublication { .. }
            | Self::OpenReportGaps { .. }
            | Self::FillReportGap(_)
            | Self::ExpireEntities { .. }
            | Self::AppendEvents { .. } => None,
        }
    }

    /// Whether the command deletes, and so makes room on a full disk.
    pub fn frees_space(&self) -> bool {
        matches!(
            self,
            Self::DeleteStream { .. }
                | Self::DeleteStreamer { .. }
                | Self::DeleteEntity { .. }
                | Self::ExpireEntities { .. }
                | Self::PauseLayouter { wanted: None, .. }
                | Self::ExpirePause { .. }
                | Self::ChangeSelected {
                    change: SelectedChange::Delete,
                    ..
                }
        )
    }
}

/// Facts of an episode that a save carries beside its configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpisodeProgress {
    pub continuation: Continuation,
    /// Progress of an automatic episode.
    pub publication: Option<Publication>,
}

/// Whether an open episode goes on: it gets a new stamp even if nothing else changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Continuation {
    #[default]
    No,
    Yes,
    /// It goes on if this stamp of the client is not the stored one: a document that was read and
    /// is sent back has the stored one.
    Stamped(u64),
}

impl Continuation {
    pub fn goes_on(self, stored_ms: Option<u64>) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::Stamped(stamp_ms) => Some(stamp_ms) != stored_ms,
        }
    }
}

/// A command, the caller that the event log names for it, and what the caller may change.
#[derive(Debug, Clone)]
pub struct AuditedCommand {
    pub command: Command,
    pub audit: Option<Box<Audit>>,
    /// `None`: everything.
    pub grant: Option<Box<Grant>>,
    /// What must be true of the state that it is applied to.
    pub conditions: Vec<Precondition>,
}

impl From<Command> for AuditedCommand {
    fn from(command: Command) -> Self {
        Self {
            command,
            audit: None,
            grant: None,
            conditions: Vec::new(),
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
#[allow(clippy::option_option)] // absent, null or a value
pub struct LayoutPatch {
    pub ingest: Option<Option<Hostname>>,
    pub inference: Option<Option<Hostname>>,
    pub dvr_backups: Option<Vec<Hostname>>,
    pub failover_from: Option<Option<Hostname>>,
    /// Whether the stream is to stay on its ingest node; a new node without it ends that.
    pub pinned: Option<bool>,
    /// One of [`CHANGE_REASONS`]; absent: the change came through the API.
    pub change_reason: Option<String>,
    pub by_layouter: bool,
    /// Placed even where a node may not have the stream.
    pub force: bool,
    /// The move is planned: the old ingest node may keep the stream until the new one runs it.
    pub hands_over: bool,
}

/// One of the selected streams.
#[derive(Debug, Clone)]
pub struct SelectedStream {
    pub name: StreamName,
    /// The revision at which it was selected.
    pub revision: u64,
    /// If the change moves it: its ingest node may keep it until the new one runs it.
    pub hands_over: bool,
}

/// The same change for every selected stream.
#[derive(Debug, Clone)]
pub enum SelectedChange {
    Patch(StreamPatch),
    Move(LayoutPatch),
    Delete,
}

/// The wanted maintenance of one streamer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaintenanceRequest {
    /// It takes no new streams.
    Cordon { reason: String },
    /// Its streams leave, too.
    Drain {
        reason: String,
        /// Streams per minute; 0: no limit.
        pace: u32,
        /// The longest time that it may take.
        within: Option<Duration>,
        /// The streams come back afterwards.
        returns: bool,
    },
    /// It takes streams again.
    End,
}

impl MaintenanceRequest {
    /// Reads the body of `PUT /streamers/{hostname}/maintenance`.
    pub fn from_body(body: Value) -> Result<Self, ApiError> {
        let body = checked(schema::streamer_maintenance(), body)?;
        let text = |field: &str| body.get(field).and_then(Value::as_str);
        let reason = text("reason").unwrap_or_default().to_owned();
        match text("mode") {
            Some("drain") => {
                let pace = body.get("pace").and_then(Value::as_u64);
                Ok(Self::Drain {
                    reason,
                    pace: pace.map_or(DRAIN_PACE_DEFAULT, |pace| pace as u32),
                    within: text("deadline").map(drain_limit).transpose()?,
                    returns: body.get("return").and_then(Value::as_bool).unwrap_or(true),
                })
            }
            mode => {
                for member in ["deadline", "pace", "return"] {
                    if body.get(member).is_some() {
                        let forbidden = "must not be given without mode `drain`";
                        return Err(error::WRONG_FORMAT.about(format!("/{member}"), forbidden));
                    }
                }
                Ok(match mode {
                    Some("none") => Self::End,
                    _ => Self::Cordon { reason },
                })
            }
        }
    }
}

/// The longest time of a drain, as its body gives it.
fn drain_limit(text: &str) -> Result<Duration, ApiError> {
    let limit = duration::parse(text).ok_or_else(|| {
        let wanted = format!("must be {}", duration::ALLOWED);
        error::WRONG_FORMAT.about("/deadline", &wanted)
    })?;
    if limit > DRAIN_LIMIT_MAX {
        let wanted = format!("must be at most {}", duration::text(DRAIN_LIMIT_MAX));
        return Err(error::INPUT_OUT_OF_RANGE.about("/deadline", &wanted));
    }
    Ok(limit)
}

/// The end of a handover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoverEnd {
    pub name: StreamName,
    /// The node that kept the stream.
    pub from: Hostname,
    /// The node that it was handed over to.
    pub to: Hostname,
}

/// One row of a plan: where the layouter places a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub name: StreamName,
    /// Revision of the stream that the decision was made on.
    pub revision: u64,
    pub layout: LayoutPatch,
    /// It improves a layout that could stay, and is no drain.
    pub improves: bool,
    /// The layouter's own reason code; some of them are not in [`CHANGE_REASONS`].
    pub why: &'static str,
}

/// Reason codes that the API accepts for a layout.
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
    /// Reads a body for one stream whose name the path gave, or an item of a batch at `pointer`.
    pub fn from_body(body: Value, name: &StreamName, pointer: &str) -> Result<Self, ApiError> {
        check_key(&body, "name", name, pointer)?;
        Self::of_any(body, pointer)
    }

    /// Reads a patch at `pointer` without the name of its stream.
    pub fn of_any(body: Value, pointer: &str) -> Result<Self, ApiError> {
        let mut body = body;
        check_resets(&body, pointer)?;
        let layout = match &mut body {
            Value::Object(object) => object.remove("layout"),
            _ => None,
        };
        let layout = match layout {
            Some(layout) => {
                let mut patch = LayoutPatch::from_body(&layout, &format!("{pointer}/layout"))?;
                if resets(&body) {
                    patch.replace_all();
                }
                Some(patch)
            }
            None => None,
        };
        schema::stream().prune(&mut body);
        let Value::Object(mut config) = body else {
            return Err(not_an_object(pointer));
        };
        // The key comes from the path; the other members are written by the server only.
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
    /// Reads a `layout` object or an item of `layouts`. Members that only the server writes
    /// (`created_at`, histories, decisions) are dropped.
    pub fn from_body(body: &Value, pointer: &str) -> Result<Self, ApiError> {
        if body.is_null() {
            return Ok(Self::cleared());
        }
        check_resets(body, pointer)?;
        let mut given = body.clone();
        schema::stream_layout().prune(&mut given);
        // `null` clears a member and is not checked as its value.
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
        let mut patch = Self {
            ingest: host("ingest")?,
            inference: host("inference")?,
            dvr_backups: backups.transpose()?,
            failover_from: host("failover_from")?,
            pinned: body
                .get("pinned")
                .map(|pinned| *pinned == Value::Bool(true)),
            change_reason: text("change_reason").map(str::to_owned),
            by_layouter: text("originator") == Some("layouter"),
            force: false,
            hands_over: false,
        };
        if resets(body) {
            patch.replace_all();
        }
        Ok(patch)
    }

    /// Clears the members that it does not name, as `$reset` demands.
    pub fn replace_all(&mut self) {
        self.ingest.get_or_insert_default();
        self.inference.get_or_insert_default();
        self.dvr_backups.get_or_insert_default();
        self.failover_from.get_or_insert_default();
        self.pinned.get_or_insert_default();
    }

    fn cleared() -> Self {
        Self {
            ingest: Some(None),
            inference: Some(None),
            dvr_backups: Some(Vec::new()),
            failover_from: Some(None),
            pinned: Some(false),
            ..Self::default()
        }
    }
}

/// Whether an object replaces the stored one.
pub fn resets(body: &Value) -> bool {
    body.get(patch::RESET) == Some(&Value::Bool(true))
}

/// Reads a body for one streamer. Unknown and read-only fields are dropped.
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
    /// Reads a body for one entity. Unknown and read-only fields are dropped.
    pub fn from_body(kind: Kind, key: Key, body: Value, pointer: &str) -> Result<Self, ApiError> {
        let mut body = body;
        let field = kind.key_field();
        let given = body.get(field).filter(|given| !is_unset(given));
        if given.is_some_and(|given| *given != key.to_value()) {
            return Err(key_mismatch(format!("{pointer}/{field}")));
        }
        check_resets(&body, pointer)?;
        kind.schema().prune(&mut body);
        let Value::Object(mut patch) = body else {
            return Err(not_an_object(pointer));
        };
        patch.remove(field);
        let stamp = patch.remove("updated_at").filter(|it| !is_unset(it));
        if let Some(stamp) = &stamp {
            check_moment(stamp, format!("{pointer}/updated_at"))?;
        }
        let continuation = match stamp.as_ref().and_then(Value::as_u64) {
            Some(stamp_ms) if kind == Kind::Episode => Continuation::Stamped(stamp_ms),
            _ => Continuation::No,
        };
        Ok(Self {
            kind,
            key,
            patch,
            on_create: Object::default(),
            episode: EpisodeProgress {
                continuation,
                publication: None,
            },
        })
    }
}

/// Reads the items of `PUT /streams/batch`: an array of streams, no name twice.
pub fn stream_items(body: Value) -> Result<BatchItems<StreamName, StreamPatch>, ApiError> {
    batch_items(body, "name", StreamName::parse, StreamPatch::from_body)
}

/// Reads the items of `PUT /streamers/batch`: an array of streamers, no hostname twice.
pub fn streamer_items(body: Value) -> Result<BatchItems<Hostname, Object>, ApiError> {
    batch_items(body, "hostname", Hostname::parse, streamer_patch)
}

/// Reads the items of an array of objects, whose keys are in the member `key`.
fn batch_items<N: Ord + Clone, P>(
    body: Value,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
    patch_of: impl Fn(Value, &N, &str) -> Result<P, ApiError>,
) -> Result<BatchItems<N, P>, ApiError> {
    let Value::Array(items) = body else {
        return Err(error::NOT_ARRAY.about("", "must be an array of objects"));
    };
    named_items(items, "", key, parse, patch_of)
}

/// Reads the items of `POST /streams/layouts`.
pub fn layout_items(body: Value) -> Result<BatchItems<StreamName, LayoutPatch>, ApiError> {
    layouts(body, "name", StreamName::parse)
}

/// Reads the items of `POST /agents/layouts`.
pub fn agent_layout_items(body: Value) -> Result<BatchItems<Key, LayoutPatch>, ApiError> {
    layouts(body, "id", |id| Key::parse(Kind::Agent, id))
}

fn layouts<N: Ord + Clone>(
    body: Value,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
) -> Result<BatchItems<N, LayoutPatch>, ApiError> {
    let Value::Object(mut body) = body else {
        return Err(not_an_object(""));
    };
    let items = match body.remove("layouts") {
        Some(Value::Array(items)) => items,
        Some(_) => {
            return Err(error::NOT_ARRAY.about("/layouts", "must be an array of objects"));
        }
        None => {
            return Err(error::MISSING_REQUIRED.at("/layouts"));
        }
    };
    named_items(items, "/layouts", key, parse, |item, _, at| {
        let force = match item.get("force") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(force)) => *force,
            Some(_) => {
                return Err(error::NOT_BOOLEAN.at(format!("{at}/force")));
            }
        };
        let layout = LayoutPatch::from_body(&item, at)?;
        Ok(LayoutPatch { force, ..layout })
    })
}

/// Fails if no item is good.
fn named_items<N: Ord + Clone, P>(
    items: Vec<Value>,
    pointer: &str,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
    patch_of: impl Fn(Value, &N, &str) -> Result<P, ApiError>,
) -> Result<BatchItems<N, P>, ApiError> {
    if items.len() > BATCH_ITEMS_MAX {
        return Err(error::BATCH_TOO_LONG
            .about(pointer, "must have at most 10,000 items")
            .with("maximum", BATCH_ITEMS_MAX));
    }
    let mut seen = std::collections::BTreeSet::new();
    BatchItems::read(items.into_iter().enumerate().map(|(i, item)| {
        let at = format!("{pointer}/{i}");
        let given = item.get(key).and_then(Value::as_str).map(str::to_owned);
        let read = item_key(&item, &at, key, &parse).and_then(|name| {
            if !seen.insert(name.clone()) {
                return Err(error::DUPLICATE_ITEM.at(format!("{at}/{key}")));
            }
            let patch = patch_of(item, &name, &at)?;
            Ok((name, patch))
        });
        read.map_err(|error| match &given {
            Some(name) => error.of_item(name),
            None => error,
        })
    }))
}

/// The key of an item of a batch.
fn item_key<N>(
    item: &Value,
    at: &str,
    key: &'static str,
    parse: impl Fn(&str) -> Result<N, &'static str>,
) -> Result<N, ApiError> {
    match item {
        Value::Object(_) => {}
        Value::Null => {
            return Err(error::NULL_IN_ARRAY_OF_NON_NULLABLE.at(at));
        }
        _ => return Err(not_an_object(at)),
    }
    let at_key = format!("{at}/{key}");
    match item.get(key) {
        Some(Value::String(name)) => {
            parse(name).map_err(|why| error::WRONG_FORMAT.about(at_key, why))
        }
        Some(_) => Err(error::NOT_STRING.at(at_key)),
        None => Err(error::MISSING_REQUIRED.at(at_key)),
    }
}

fn parse_host(value: &Value, pointer: &str) -> Result<Hostname, ApiError> {
    match value {
        Value::String(host) => {
            Hostname::parse(host).map_err(|why| error::WRONG_FORMAT.about(pointer, why))
        }
        _ => Err(error::NOT_STRING.at(pointer)),
    }
}

fn check_key(body: &Value, key: &str, expected: &str, pointer: &str) -> Result<(), ApiError> {
    match body.get(key).filter(|given| !is_unset(given)) {
        None => Ok(()),
        Some(Value::String(given)) if &**given == expected => Ok(()),
        Some(_) => Err(key_mismatch(format!("{pointer}/{key}"))),
    }
}

/// Whether a key or a stamp is not given: clients generated from the API document send members
/// without a value as `""` or `0`.
pub fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Number(Number::Unsigned(0)) => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn key_mismatch(pointer: String) -> ApiError {
    error::KEY_MISMATCH.at(pointer)
}

/// Checks a client's own stamp, which the server's stamp replaces and no schema describes.
pub fn check_moment(moment: &Value, pointer: String) -> Result<(), ApiError> {
    let (code, title) = match moment {
        Value::Null => return Ok(()),
        Value::Number(Number::Unsigned(ms)) if is_moment(*ms) => return Ok(()),
        Value::Number(Number::Unsigned(_) | Number::Negative(_)) => (
            error::INPUT_OUT_OF_RANGE,
            "must be a time in milliseconds since 1970",
        ),
        Value::Number(Number::Float(_))
        | Value::Bool(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => (error::NOT_INTEGER, "must be an integer"),
    };
    Err(code.about(pointer, title))
}

/// Whether a number is a time in milliseconds since 1970, and not in seconds.
pub fn is_moment(ms: u64) -> bool {
    (1_000_000_000_000..=10_000_000_000_000).contains(&ms)
}

/// Refuses a `$reset` that is not a boolean.
pub fn check_resets(body: &Value, pointer: &str) -> Result<(), ApiError> {
    match patch::misused_reset(body) {
        None => Ok(()),
        Some(at) => Err(error::NOT_BOOLEAN.at(format!("{pointer}{at}"))),
    }
}

fn not_an_object(pointer: &str) -> ApiError {
    error::NOT_OBJECT.at(pointer)
}
