//! Assumed events of `POST /cluster/preview`: parsing, and the specs they stand for.

use super::snapshot::WhatIfSnapshot;
use crate::error::{self, ApiError, BatchErrors};
use crate::json::{Object, Value};
use crate::layouter::intake::{CHANNEL_LIMIT_DEFAULT, node_spec, stream_spec};
use crate::layouter::{NodeSpec, NodeState, PlacementRole, StreamSpec};
use crate::schema;
use crate::state::State;
use crate::state::apply::{Stamp, apply};
use crate::state::command::{Command, StreamPatch};
use crate::state::name::{Hostname, StreamName};

/// Upper bound of assumed streams in one request.
const STREAMS_ADDED_MAX: u64 = 1_000_000;

/// One assumed event of the cluster.
#[derive(Debug)]
pub enum AssumedEvent {
    StreamerLost {
        hostname: Hostname,
        pointer: String,
    },
    StreamerDrained {
        hostname: Hostname,
        pointer: String,
    },
    StreamerSaved {
        hostname: Hostname,
        config: Object,
    },
    StreamsAdded {
        count: u64,
        patch: StreamPatch,
        pointer: String,
    },
}

impl AssumedEvent {
    /// Parses the body of `POST /cluster/preview`.
    pub fn from_body(body: Value) -> Result<Vec<Self>, ApiError> {
        let mut body = body;
        let schema = schema::cluster_preview_request();
        schema.prune(&mut body);
        schema
            .check(&body)
            .map_err(|violations| crate::state::apply::invalid(violations, ""))?;
        let Some(Value::Array(events)) =
            body.as_object_mut().and_then(|body| body.remove("events"))
        else {
            return Ok(Vec::new());
        };
        let mut streams_left = STREAMS_ADDED_MAX;
        let mut errors = BatchErrors::default();
        let mut read = Vec::with_capacity(events.len());
        for (i, event) in events.into_iter().enumerate() {
            let one = Self::one(event, format!("/events/{i}"), &mut streams_left);
            read.extend(errors.keep(one));
            if errors.is_full() {
                break;
            }
        }
        errors.finish()?;
        Ok(read)
    }

    fn one(event: Value, pointer: String, streams_left: &mut u64) -> Result<Self, ApiError> {
        let Value::Object(mut event) = event else {
            return Err(error::NOT_OBJECT.at(pointer));
        };
        let hostname = |event: &Object| {
            let text = event.get("hostname").and_then(Value::as_str);
            Hostname::parse(text.unwrap_or_default())
                .map_err(|why| error::WRONG_FORMAT.about(format!("{pointer}/hostname"), why))
        };
        match event.get("event").and_then(Value::as_str) {
            Some("streamer_lost") => Ok(Self::StreamerLost {
                hostname: hostname(&event)?,
                pointer,
            }),
            Some("streamer_drained") => Ok(Self::StreamerDrained {
                hostname: hostname(&event)?,
                pointer,
            }),
            Some("streamer_saved") => Ok(Self::StreamerSaved {
                hostname: hostname(&event)?,
                config: event,
            }),
            _ => {
                let count = event.get("count").and_then(Value::as_u64).unwrap_or(1);
                *streams_left = streams_left.checked_sub(count).ok_or_else(|| {
                    let allowed = "must be at most 1,000,000 in all events together";
                    error::INPUT_OUT_OF_RANGE
                        .about(format!("{pointer}/count"), allowed)
                        .with("maximum", STREAMS_ADDED_MAX)
                })?;
                let stream = event.remove("stream");
                let stream = stream.unwrap_or_else(|| Value::Object(Object::default()));
                let pointer = format!("{pointer}/stream");
                let mut stream = stream;
                if let Value::Object(object) = &mut stream {
                    // The streams are new, even if the configuration is a copy of an existing
                    // one's.
                    object.remove("name");
                    object.remove("layout");
                }
                let patch = StreamPatch::from_body(stream, &assumed_name(0), &pointer)?;
                Ok(Self::StreamsAdded {
                    count,
                    patch,
                    pointer,
                })
            }
        }
    }
}

/// The name of an assumed stream; with the control character it differs from every real name.
pub fn assumed_name(number: u64) -> StreamName {
    StreamName::trusted(&format!("\u{1}{number:07}"))
}

/// The spec of a node with the assumed limits and labels.
pub fn assumed_node(snapshot: &WhatIfSnapshot, hostname: Hostname, config: &Object) -> NodeSpec {
    let number = |field| {
        let value = config.get(field).and_then(Value::as_u64)?;
        Some(u32::try_from(value).unwrap_or(u32::MAX))
    };
    let stats = snapshot.node_stats(&hostname);
    let mut spec = match snapshot.state.streamer(&hostname) {
        Some(record) => node_spec(record, stats.as_ref(), NodeState::Up),
        None => NodeSpec {
            role: match config.get("role").and_then(Value::as_str) {
                Some("inference") => PlacementRole::Inference,
                _ => PlacementRole::Streamer,
            },
            namespace: config
                .get("namespace")
                .and_then(Value::as_str)
                .map(Into::into),
            channel_limit_stated: false,
            ..NodeSpec::streamer(&hostname, CHANNEL_LIMIT_DEFAULT)
        },
    };
    if let Some(limit) = number("channel_limit") {
        spec.channel_limit = limit;
        spec.channel_limit_stated = true;
    }
    if let Some(kbps) = number("total_bandwidth") {
        spec.bandwidth_kbps = (kbps > 0).then_some(kbps);
    }
    if let Some(labels) = config.get("labels").and_then(Value::as_object) {
        let pairs = labels.iter().filter_map(|(key, value)| {
            let value = value.as_str()?;
            Some((key.into(), value.into()))
        });
        spec.labels = pairs.collect();
    }
    spec
}

/// The spec of a stream with the assumed configuration, which is checked as in a save.
pub fn assumed_stream(
    state: &State,
    patch: StreamPatch,
    pointer: &str,
) -> Result<StreamSpec, ApiError> {
    let stamp = Stamp {
        revision: state.revision() + 1,
        ms: state.stamp_ms() + 1,
    };
    let name = assumed_name(0);
    let items = vec![(name, patch)].into();
    let changes = apply(state, Command::SaveStreams { items }, stamp).map_err(|mut error| {
        for item in &mut error.items {
            // The stream was item 0 of a batch.
            let at = item.pointer.as_deref().unwrap_or_default();
            item.pointer = Some(format!("{pointer}{}", at.strip_prefix("/0").unwrap_or(at)));
        }
        error
    })?;
    let record = changes
        .streams
        .first()
        .and_then(|change| change.new.as_ref());
    Ok(record.map_or_else(|| StreamSpec::new(""), stream_spec))
}
