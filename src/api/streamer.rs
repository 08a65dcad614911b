//! Streamers: the nodes that capture, record and analyse streams.
//!
//! An operator saves a streamer under its hostname; `role` determines its fields. `stats` and
//! `dvrs` come from the last report of the node; `stats` is null if that is too old. Only an
//! administrator who reads one streamer sees its cluster key; it is masked elsewhere. `state` shows
//! whether the streamer is relied on, from its signs of life.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster_scan::STREAMS_COUNTED_MIN;
use super::tagged::BodySource;
use super::{Call, Collection, ListRequest, Outcome, layout, streamer_check};
use crate::error::ApiError;
use crate::feed::nodes::{AssignedLoad, Draining, Provisioning, Standing};
use crate::fleet::health::{Counts, Health, StreamerHealth, StreamerInputs, health_of, state_code};
use crate::fleet::report::StreamerStats;
use crate::fleet::stats::{StreamerFacts, View};
use crate::json::{Number, Object, Value, scan, write_string};
use crate::query::params::{Flag, Parameter, ParameterValues as _};
use crate::query::{Document, KeyOrder, ListKind, Raw, SearchField, Source};
use crate::rt::utc_ms_of;
use crate::schema;
use crate::state::State;
use crate::state::apply::streamer_not_found;
use crate::state::command::{Command, MaintenanceRequest, streamer_items, streamer_patch};
use crate::state::name::Hostname;
use crate::state::record::{ArchivedCordon, Role, StreamerRecord};
use crate::state::tag::{EntityName, Versioned as _, take_item_conditions};

/// Renders one streamer. `masked` hides secrets.
pub fn render<'a>(
    streamer: &'a StreamerRecord,
    masked: bool,
    fleet: Option<View<'a>>,
    state: &'a State,
    out: &mut Vec<u8>,
) -> BodySource {
    let document = StreamerDoc::new(streamer, masked, fleet, state);
    document.render(out);
    let is_of_moment = document.facts.is_some() || document.signs.is_some();
    BodySource::of_moment(is_of_moment || masked && streamer.has_secrets)
}

/// The layouter has not looked at the streamer yet.
const NOT_SEEN_YET: Standing = Standing {
    name: "unknown",
    cause: "not_seen_yet",
    since_ms: None,
    hold_until_ms: None,
};

/// Counts of streams that are older are not shown.
const COUNTED_AGE_MAX: Duration = Duration::from_mins(1);

/// A streamer as the API shows it.
pub struct StreamerDoc<'a> {
    streamer: &'a StreamerRecord,
    fleet: Option<View<'a>>,
    config: Cow<'a, str>,
    masked: bool,
    facts: Option<Arc<StreamerFacts>>,
    stats: Option<Arc<StreamerStats>>,
    /// Its last sign of life, and what follows from its signs.
    signs: Option<(Option<u64>, Option<Standing>)>,
    draining: Option<Draining>,
    provisioning: Option<Provisioning>,
    assigned: Option<AssignedLoad>,
    cluster: &'a State,
    kept: Rc<KeptIngests>,
}

impl<'a> StreamerDoc<'a> {
    /// `fleet` holds the reports; without it the streamer is rendered without a report.
    pub fn new(
        streamer: &'a StreamerRecord,
        masked: bool,
        fleet: Option<View<'a>>,
        state: &'a State,
    ) -> Self {
        let (facts, stats) = fleet
            .and_then(|fleet| fleet.streamer(&streamer.hostname))
            .map_or((None, None), |(facts, stats)| (Some(facts), stats));
        let config = streamer.config.as_str();
        let config = if masked && streamer.has_secrets {
            Cow::Owned(schema::streamer().mask(config))
        } else {
            Cow::Borrowed(config)
        };
        Self {
            streamer,
            fleet,
            config,
            masked,
            facts,
            stats,
            signs: fleet.and_then(|fleet| fleet.signs(&streamer.hostname)),
            draining: fleet.and_then(|fleet| fleet.draining(&streamer.hostname)),
            provisioning: fleet.and_then(|fleet| fleet.provisioning(&streamer.hostname)),
            assigned: fleet.and_then(|fleet| fleet.assigned(&streamer.hostname)),
            cluster: state,
            kept: Rc::default(),
        }
    }

    /// Whether the streamer is relied on, as canonical JSON.
    fn state(&self) -> Option<String> {
        let (seen_ms, standing) = self.signs?;
        let Standing {
            name,
            cause,
            since_ms,
            hold_until_ms,
        } = standing.unwrap_or(NOT_SEEN_YET);
        let code = state_code(self.streamer, standing, self.draining);
        let mut text = format!("{{\"cause\":\"{cause}\",\"code\":\"{code}\"");
        let time = |text: &mut String, member: &str, at_ms: Option<u64>| {
            if let Some(at_ms) = at_ms {
                let _ = write!(text, ",\"{member}\":{}", utc_ms_of(at_ms));
            }
        };
        time(&mut text, "hold_until", hold_until_ms);
        if let Some(cordon) = self.streamer.cordon.as_ref() {
            text.push_str(",\"maintenance\":");
            text.push_str(&maintenance(cordon, self.draining));
        }
        let _ = write!(text, ",\"name\":\"{name}\"");
        time(&mut text, "seen_at", seen_ms);
        time(&mut text, "since", since_ms);
        text.push('}');
        Some(text)
    }

    /// What is assigned to the streamer, as canonical JSON.
    fn load(&self) -> String {
        let counts = assigned_counts(self.cluster, &self.kept, &self.streamer.hostname);
        let mut members = vec![
            ("backups", Value::from(counts[Role::Backup as usize])),
            ("inferences", Value::from(counts[Role::Inference as usize])),
            ("ingests", Value::from(counts[Role::Ingest as usize])),
        ];
        if let Some(assigned) = self.assigned {
            members.extend([
                ("channels", Value::from(assigned.channels)),
                ("disk_mb", Value::from(assigned.disk_mb)),
                ("kbps", Value::from(assigned.kbps)),
                ("percent", Value::from(assigned.percent)),
            ]);
        }
        object_text(members)
    }

    /// The streams that it ingests, by health, as canonical JSON. In a large cluster they are those
    /// of the last count.
    fn streams(&self) -> Option<String> {
        let fleet = self.fleet?;
        let counts = if self.cluster.streams_count() < STREAMS_COUNTED_MIN {
            self.count_streams(fleet)
        } else {
            let counted = fleet.counted(&self.streamer.hostname, COUNTED_AGE_MAX)?;
            Counts::of_all(counted.by_health)
        };
        let mut text = "{".to_owned();
        counts.write(None, &mut text);
        text.push('}');
        Some(text)
    }

    fn count_streams(&self, fleet: View<'_>) -> Counts {
        let hostname = self.streamer.hostname.as_str();
        let mut counts = Counts::default();
        let node = self.cluster.node(hostname);
        let held = node.iter().flat_map(|node| &node.streams);
        let ingested = held.filter(|(_, role)| **role == Role::Ingest);
        for stream in ingested.filter_map(|(name, _)| self.cluster.stream(name)) {
            // One that it only keeps after a move is counted where it is laid out.
            if stream.ingest() == Some(hostname) {
                let is_online = |_: &str| self.stats.is_some();
                counts.add(health_of(stream, fleet, is_online, |_| ()).0);
            }
        }
        counts
    }

    /// The health of the streamer, for which reports are needed.
    fn health(&self) -> Option<Health> {
        // Without reports there are no signs of life either.
        self.signs?;
        let inputs = StreamerInputs::of(self.streamer, self.stats.clone());
        Some(StreamerHealth::of(&inputs).status)
    }

    /// Whether it has the configuration that was written to it, as canonical JSON.
    fn provisioning(&self) -> Option<String> {
        let provisioning = self.provisioning?;
        let mut members = Vec::new();
        if let Some(at_ms) = provisioning.drifted_at {
            members.push(format!("\"drifted_at\":{at_ms}"));
        }
        if let Some(error) = provisioning.error {
            members.push(format!("\"error\":\"{error}\""));
        }
        let status = provisioning.error.map_or("ok", |_| "failed");
        members.push(format!("\"status\":\"{status}\""));
        if let Some(at_ms) = provisioning.written_at {
            members.push(format!("\"written_at\":{at_ms}"));
        }
        Some(format!("{{{}}}", members.join(",")))
    }

    fn stats(&self) -> Option<&str> {
        Some(self.stats.as_ref()?.text(self.masked))
    }

    /// Storages for recordings. Inference servers have none.
    fn dvrs(&self) -> Option<&str> {
        let dvrs = self.facts.as_ref()?.dvrs.as_ref()?;
        (scan::member(&self.config, "role") == Some("\"streamer\"")).then(|| dvrs.text(self.masked))
    }
}

/// How many streams each node keeps after a move, counted when it is needed. Shared by the
/// documents of a list, because there may be thousands while a node is drained.
#[derive(Default)]
struct KeptIngests(OnceCell<HashMap<Hostname, u64>>);

impl KeptIngests {
    fn of(&self, state: &State, hostname: &str) -> u64 {
        let counts = self.0.get_or_init(|| {
            let mut counts = HashMap::new();
            for name in state.handovers() {
                let from = state.stream(name).and_then(|stream| stream.handover_from());
                let Some(from) = from else { continue };
                let node = state.node(from);
                let role = node.and_then(|node| node.streams.get(name));
                if role == Some(&Role::Ingest) {
                    *counts.entry(Hostname::trusted(from)).or_default() += 1;
                }
            }
            counts
        });
        counts.get(hostname).copied().unwrap_or_default()
    }
}

/// Streams that are laid out on a streamer, by their role there. One that it only keeps after a
/// move is laid out on the other one.
fn assigned_counts(state: &State, kept: &KeptIngests, hostname: &str) -> [u64; 3] {
    let mut counts = [0; 3];
    if let Some(node) = state.node(hostname) {
        for role in node.streams.values() {
            counts[*role as usize] += 1;
        }
        counts[Role::Ingest as usize] -= kept.of(state, hostname);
    }
    counts
}

/// The maintenance of a streamer and, while it is drained, what is left on it, as canonical JSON.
fn maintenance(cordon: &ArchivedCordon, draining: Option<Draining>) -> String {
    let mut members: Vec<(&str, Value)> = vec![
        ("reason", Value::from(cordon.reason.as_str())),
        ("since", Value::from(cordon.since.to_native())),
    ];
    let Some(order) = cordon.drain.as_ref() else {
        members.push(("mode", Value::from("cordon")));
        return object_text(members);
    };
    members.push(("mode", Value::from("drain")));
    members.push(("pace", Value::from(u64::from(order.pace.to_native()))));
    members.push(("return", Value::from(order.returns)));
    if order.deadline > 0 {
        members.push(("deadline", Value::from(order.deadline.to_native())));
    }
    if let Some(left) = draining {
        members.push(("backups", Value::from(left.backups)));
        members.push(("inferences", Value::from(left.inferences)));
        members.push(("ingests", Value::from(left.ingests)));
        members.push(("no_place", Value::from(left.no_place)));
        if let Some(at_ms) = left.drained_ms {
            members.push(("drained_at", Value::from(utc_ms_of(at_ms))));
        }
    }
    object_text(members)
}

fn object_text(members: Vec<(&str, Value)>) -> String {
    let mut object = Object::default();
    for (name, value) in members {
        object.insert(name, value);
    }
    Value::Object(object).to_text()
}

impl Document for StreamerDoc<'_> {
    fn key(&self) -> &str {
        &self.streamer.hostname
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        match name {
            "hostname" => Some(Raw::Text(&self.streamer.hostname)),
            "updated_at" => Some(Raw::Number(Number::Unsigned(
                self.streamer.updated_at.to_native(),
            ))),
            "stats" => Some(Raw::Json(Cow::Borrowed(self.stats()?))),
            "health" => Some(Raw::Text(self.health()?.as_str())),
            "load" => Some(Raw::Json(Cow::Owned(self.load()))),
            "provisioning" => Some(Raw::Json(Cow::Owned(self.provisioning()?))),
            "state" => Some(Raw::Json(Cow::Owned(self.state()?))),
            "streams" => Some(Raw::Json(Cow::Owned(self.streams()?))),
            "dvrs" => Some(Raw::Json(Cow::Borrowed(self.dvrs()?))),
            _ => scan::member(&self.config, name).map(|text| Raw::Json(Cow::Borrowed(text))),
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"hostname\":");
        write_string(out, &self.streamer.hostname);
        out.push(b',');
        // The configuration is not empty: it has at least a role and a cluster key.
        out.extend_from_slice(&self.config.as_bytes()[1..self.config.len() - 1]);
        if let Some(dvrs) = self.dvrs() {
            out.extend_from_slice(b",\"dvrs\":");
            out.extend_from_slice(dvrs.as_bytes());
        }
        if let Some(health) = self.health() {
            out.extend_from_slice(b",\"health\":");
            write_string(out, health.as_str());
        }
        out.extend_from_slice(b",\"load\":");
        out.extend_from_slice(self.load().as_bytes());
        if let Some(provisioning) = self.provisioning() {
            out.extend_from_slice(b",\"provisioning\":");
            out.extend_from_slice(provisioning.as_bytes());
        }
        if let Some(state) = self.state() {
            out.extend_from_slice(b",\"state\":");
            out.extend_from_slice(state.as_bytes());
        }
        out.extend_from_slice(b",\"stats\":");
        out.extend_from_slice(self.stats().unwrap_or("null").as_bytes());
        if let Some(streams) = self.streams() {
            out.extend_from_slice(b",\"streams\":");
            out.extend_from_slice(streams.as_bytes());
        }
        out.extend_from_slice(b",\"updated_at\":");
        out.extend_from_slice(
            itoa::Buffer::new()
                .format(self.streamer.updated_at.to_native())
                .as_bytes(),
        );
        out.push(b'}');
    }
}

/// All streamers of a state, as a source of the query engine.
pub struct Streamers<'s> {
    state: &'s State,
    fleet: Option<View<'s>>,
    kept: Rc<KeptIngests>,
}

impl<'s> Streamers<'s> {
    pub fn new(state: &'s State, fleet: Option<View<'s>>) -> Self {
        Self {
            state,
            fleet,
            kept: Rc::default(),
        }
    }

    fn doc(&self, streamer: &'s StreamerRecord) -> StreamerDoc<'s> {
        StreamerDoc {
            kept: self.kept.clone(),
            ..StreamerDoc::new(streamer, true, self.fleet, self.state)
        }
    }
}

impl Source for Streamers<'_> {
    type Doc<'a>
        = StreamerDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.state.streamers().len() as u64
    }

    fn get(&self, key: &str) -> Option<StreamerDoc<'_>> {
        self.state.streamer(key).map(|streamer| self.doc(streamer))
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = StreamerDoc<'a>> {
        let range = self
            .state
            .streamers()
            .range::<_, str>((from, Bound::Unbounded));
        range.map(|(_, streamer)| self.doc(streamer))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = StreamerDoc<'a>> {
        let range = self
            .state
            .streamers()
            .range::<_, str>((Bound::Unbounded, from))
            .rev();
        range.map(|(_, streamer)| self.doc(streamer))
    }
}

/// The description of streamers for the query engine.
pub static KIND: ListKind = ListKind {
    collection: "streamers",
    key: "hostname",
    key_order: KeyOrder::Text,
    default_sort: "hostname",
    stamp: Some("updated_at"),
    required: || schema::streamer().required(),
    search: &[
        SearchField {
            path: "hostname",
            url: false,
        },
        SearchField {
            path: "api_url",
            url: true,
        },
    ],
    field: |path| crate::query::field(schema::streamer(), path),
    secret: |path| schema::streamer().is_secret(path),
    schema: || Some(schema::streamer()),
};

/// Has streams counted for later requests, if their counts are not those of this one.
fn keep_counted(call: &Call<'_>) {
    if call.state.streams_count() >= STREAMS_COUNTED_MIN {
        call.shared.workers.cluster_counts.peek(Instant::now());
    }
}

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let query = call.query(&KIND)?;
    if query.reads("streams") {
        keep_counted(call);
    }
    Ok(Outcome::List(ListRequest::new(
        Collection::Streamers,
        query,
    )))
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let streamer = call
        .state
        .streamer(&call.hostname()?)
        .ok_or_else(streamer_not_found)?;
    keep_counted(call);
    let mut body = Vec::new();
    let source = render(
        streamer,
        call.masks(),
        Some(call.fleet()),
        call.state,
        &mut body,
    );
    let answer = call.entity_answer(streamer.tag(call.state), source, body)?;
    Ok(Outcome::Reply(answer))
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let patch = streamer_patch(call.json()?, &hostname, "")?;
    let command = Command::SaveStreamer { hostname, patch };
    if call.flag(&streamer_check::CHECKS_ENABLE)? {
        return streamer_check::before(call, command);
    }
    Ok(Outcome::Command(command))
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    Ok(Outcome::Command(Command::DeleteStreamer {
        hostname: call.hostname()?,
    }))
}

pub const MAINTENANCE_PARAMETERS: &[&dyn Parameter] = &[&DRY_RUN];

const DRY_RUN: Flag = Flag::new(
    "dry_run",
    false,
    "Answer with what would move instead, as `POST /cluster/preview` does: a drain as if it was \
     done at once, with the streams that find no place. Nothing is changed.",
)
.example("true");

/// `PUT /streamers/{hostname}/maintenance`.
pub fn save_maintenance(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let wanted = MaintenanceRequest::from_body(call.json()?)?;
    if call.flag(&DRY_RUN)? {
        return layout::preview_maintenance(call, hostname, wanted);
    }
    if matches!(wanted, MaintenanceRequest::Drain { .. }) {
        layout::require_layouter(call)?;
    }
    let command = Command::SetMaintenance { hostname, wanted };
    Ok(Outcome::Command(command))
}

pub fn save_batch(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let mut body = call.json()?;
    let conditions = take_item_conditions(&mut body, "", "hostname", |hostname| {
        Some(EntityName::Streamer(Hostname::parse(hostname).ok()?))
    })?;
    let items = call.batch(streamer_items(body)?)?;
    Ok(Outcome::Batch(Command::SaveStreamers { items }, conditions))
}
