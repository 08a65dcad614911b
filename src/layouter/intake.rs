//! Intake: stored records and measurements become the engine's specs.
//!
//! Reads records in place, one pass over the configuration's text. Every default of a configuration
//! is applied here, each in one function. Measurements of a node (its transcoder, its disks) are
//! merged in; an unmeasured node is assumed to be able: a stream that waits for a measurement which
//! may never come is worse off than one that is moved once.

use std::sync::Arc;

use super::{DrainSpec, DvrSpec, NodeSpec, NodeState, PlacementRole, StoredLayout, StreamSpec};
use crate::json::{Number, scan};
use crate::state::agent::agents_of;
use crate::state::label;
use crate::state::name::{Hostname, StreamName};
use crate::state::pull::kind_of_record;
use crate::state::record::{ArchivedCordon, ArchivedNodeRole, StreamRecord, StreamerRecord};

/// Channel limit of a node that configures none.
pub const CHANNEL_LIMIT_DEFAULT: u32 = 6000;

/// The layouter's view of a node's report. Values that were not reported are absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeStats {
    pub cpu_permille: Option<u32>,
    /// Streams that run there.
    pub streams: Option<u32>,
    /// The node can transcode.
    pub transcoder: Option<bool>,
    /// Total size of its disks.
    pub disk_bytes: Option<u64>,
}

/// The engine's spec of a stream.
pub fn stream_spec(record: &StreamRecord) -> StreamSpec {
    let config = record.config.as_str();
    let mut spec = StreamSpec {
        name: StreamName::trusted(&record.name),
        revision: record.revision.to_native(),
        disabled: record.disabled,
        quarantined: false,
        namespace: namespace(record.namespace.as_ref()),
        labels: Vec::new(),
        transcoder: false,
        kbps: None,
        measured: false,
        dvr: None,
        inference: false,
        agents: Vec::new(),
        layout: stored_layout(record),
        handover_from: record.handover_from().map(Hostname::trusted),
        pinned: record.pinned,
    };
    for (key, value) in scan::members(config) {
        match key {
            "claims" => {
                let bitrate = scan::member(value, "bitrate").and_then(number);
                spec.kbps = bitrate.map(saturated);
            }
            "dvr" => spec.dvr = dvr(value),
            "inputs" => {
                spec.agents = agents_of(config).into_iter().map(Arc::from).collect();
            }
            "labels" => spec.labels = label::pairs(value),
            "transcoder" => spec.transcoder = is_given(value),
            "vision" => spec.inference = is_given(value),
            _ => {}
        }
    }
    spec
}

/// The layout in a stream's row.
pub fn stored_layout(record: &StreamRecord) -> StoredLayout {
    let Some(layout) = record.layout() else {
        return StoredLayout {
            by_layouter: true,
            ..StoredLayout::default()
        };
    };
    let host = |host: Option<&str>| host.map(Hostname::trusted);
    StoredLayout {
        ingest: host(record.ingest()),
        inference: host(record.inference()),
        dvr_backups: record.backups().map(Hostname::trusted).collect(),
        failover_from: host(
            layout
                .failover_from
                .as_ref()
                .map(rkyv::string::ArchivedString::as_str),
        ),
        by_layouter: layout.by_layouter,
    }
}

/// The engine's spec of a node.
pub fn node_spec(record: &StreamerRecord, stats: Option<&NodeStats>, state: NodeState) -> NodeSpec {
    let config = record.config.as_str();
    let limit = |field: &str| scan::member(config, field).and_then(number).map(saturated);
    let channel_limit = limit("channel_limit");
    NodeSpec {
        hostname: Hostname::trusted(&record.hostname),
        role: match record.role {
            ArchivedNodeRole::Streamer => PlacementRole::Streamer,
            ArchivedNodeRole::Inference => PlacementRole::Inference,
            ArchivedNodeRole::Identification => PlacementRole::Other,
        },
        namespace: namespace(record.namespace.as_ref()),
        labels: scan::member(config, "labels").map_or_else(Vec::new, label::pairs),
        channel_limit: channel_limit.unwrap_or(CHANNEL_LIMIT_DEFAULT),
        channel_limit_stated: channel_limit.is_some(),
        // 0 means no limit.
        bandwidth_kbps: limit("total_bandwidth").filter(|kbps| *kbps > 0),
        disk_bytes: stats.and_then(|stats| stats.disk_bytes),
        transcoder: stats.and_then(|stats| stats.transcoder).unwrap_or(true),
        dvr: kind_of_record(record).records()
            && stats
                .and_then(|stats| stats.disk_bytes)
                .is_none_or(|bytes| bytes > 0),
        settling: false,
        cordoned: record.cordon.is_some(),
        drain: record.cordon.as_ref().and_then(drain_spec),
        state,
    }
}

/// The controller adds how long old copies are kept.
fn drain_spec(cordon: &ArchivedCordon) -> Option<DrainSpec> {
    let order = cordon.drain.as_ref()?;
    let deadline = order.deadline.to_native();
    Some(DrainSpec {
        streams_per_minute: order.pace.to_native(),
        deadline_utc_ms: (deadline > 0).then_some(deadline),
        returns: order.returns,
        keeps_ms: 0,
    })
}

/// The CPU limit of a node in permille; `None` if it has none.
pub fn cpu_limit_permille(record: &StreamerRecord) -> Option<u32> {
    let percent = number(scan::member(&record.config, "cpu_limit")?)?;
    (percent > 0).then(|| (percent.min(100) * 10) as u32)
}

fn namespace(name: Option<&rkyv::string::ArchivedString>) -> Option<Arc<str>> {
    name.map(|name| Arc::from(name.as_str()))
}

fn dvr(dvr: &str) -> Option<DvrSpec> {
    if !dvr.starts_with('{') {
        return None;
    }
    let of = |field: &str| scan::member(dvr, field).and_then(number);
    Some(DvrSpec {
        expiration_s: of("expiration").unwrap_or(0),
        storage_limit_bytes: of("storage_limit").filter(|bytes| *bytes > 0),
        redundancy_factor: of("redundancy_factor").map_or(0, saturated),
    })
}

/// Whether a member is configured: an object or an array, even an empty one, but not `null` or
/// `false`.
fn is_given(value: &str) -> bool {
    value.starts_with(['{', '['])
}

fn number(text: &str) -> Option<u64> {
    match scan::number(text)? {
        Number::Unsigned(value) => Some(value),
        Number::Negative(_) => Some(0),
        Number::Float(value) => Some(value.max(0.0) as u64),
    }
}

fn saturated(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::{Layout, NodeRole as StoredRole, Stream, Streamer};

    fn stream(config: &str) -> StreamSpec {
        stream_spec(&StreamRecord::new(&Stream {
            name: "a".into(),
            revision: 7,
            config: config.into(),
            ..Stream::default()
        }))
    }

    fn pair(key: &str, value: &str) -> (Arc<str>, Arc<str>) {
        (Arc::from(key), Arc::from(value))
    }

    #[test]
    fn stream_spec_reads_the_configuration() {
        let spec = stream(concat!(
            r#"{"claims":{"bitrate":2543},"dvr":{"expiration":604800,"redundancy_factor":2,"#,
            r#""storage_limit":400000000000},"inputs":[{"url":"rtsp://c","via":"agent://b"},"#,
            r#"{"url":"u","via":"agent://a"}],"labels":{"preferred.dc":"d1","zone":"n\"1"},"#,
            r#""static":true,"transcoder":{"vb":2000},"vision":{}}"#,
        ));
        let expected = StreamSpec {
            revision: 7,
            labels: vec![pair("preferred.dc", "d1"), pair("zone", "n\"1")],
            transcoder: true,
            kbps: Some(2543),
            dvr: Some(DvrSpec {
                expiration_s: 604_800,
                storage_limit_bytes: Some(400_000_000_000),
                redundancy_factor: 2,
            }),
            inference: true,
            agents: vec![Arc::from("a"), Arc::from("b")],
            layout: StoredLayout {
                by_layouter: true,
                ..StoredLayout::default()
            },
            ..StreamSpec::new("a")
        };
        assert_eq!(spec, expected);
    }

    #[test]
    fn empty_configuration_demands_one_channel() {
        for config in [
            "{}",
            r#"{"inputs":[],"static":false}"#,
            r#"{"dvr":null,"transcoder":null,"vision":null}"#,
            r#"{"dvr":false,"labels":{},"transcoder":false,"vision":false}"#,
        ] {
            let spec = stream(config);
            assert!(
                !spec.transcoder && !spec.inference && !spec.disabled,
                "{config}"
            );
            assert_eq!(
                (spec.kbps, spec.dvr, spec.labels.len()),
                (None, None, 0),
                "{config}"
            );
        }
        let dvr = stream(r#"{"dvr":{"reference":"d"}}"#).dvr;
        assert_eq!(dvr, Some(DvrSpec::default()), "records, but claims no disk");
    }

    #[test]
    fn stored_layout_has_nodes_and_originator() {
        let record = StreamRecord::new(&Stream {
            name: "a".into(),
            disabled: true,
            namespace: Some("ns".into()),
            layouts: vec![Layout {
                ingest: Some("s1".into()),
                inference: Some("i1".into()),
                dvr_backups: vec!["s2".into(), "s3".into()],
                failover_from: Some("s4".into()),
                by_layouter: false,
                ..Layout::default()
            }],
            config: "{}".into(),
            ..Stream::default()
        });
        let spec = stream_spec(&record);
        let host = |name| Some(Hostname::trusted(name));
        assert!(spec.disabled && !spec.layout.by_layouter);
        assert_eq!(spec.namespace.as_deref(), Some("ns"));
        assert_eq!(spec.layout.ingest, host("s1"));
        assert_eq!(spec.layout.inference, host("i1"));
        assert_eq!(spec.layout.failover_from, host("s4"));
        assert_eq!(spec.layout.dvr_backups.len(), 2);
    }

    #[test]
    fn node_spec_merges_configuration_and_measurements() {
        let record = StreamerRecord::new(&Streamer {
            hostname: "s1".into(),
            config: concat!(
                r#"{"channel_limit":5,"cpu_limit":80,"labels":{"required.tenant":"t"},"#,
                r#""total_bandwidth":1024}"#,
            )
            .into(),
            ..Streamer::default()
        });
        let spec = node_spec(&record, None, NodeState::Up);
        assert_eq!((spec.channel_limit, spec.bandwidth_kbps), (5, Some(1024)));
        assert!(spec.channel_limit_stated);
        assert_eq!(
            (spec.disk_bytes, spec.transcoder, spec.dvr),
            (None, true, true)
        );
        assert_eq!(spec.labels, [pair("required.tenant", "t")]);
        assert_eq!(cpu_limit_permille(&record), Some(800));

        let stats = NodeStats {
            transcoder: Some(false),
            disk_bytes: Some(150 << 20),
            ..NodeStats::default()
        };
        let spec = node_spec(&record, Some(&stats), NodeState::Down);
        assert_eq!(
            (spec.disk_bytes, spec.transcoder, spec.state),
            (Some(150 << 20), false, NodeState::Down)
        );
    }

    #[test]
    fn node_without_limits_gets_defaults_and_keeps_its_role() {
        for (role, expected) in [
            (StoredRole::Streamer, PlacementRole::Streamer),
            (StoredRole::Inference, PlacementRole::Inference),
            (StoredRole::Identification, PlacementRole::Other),
        ] {
            let record = StreamerRecord::new(&Streamer {
                hostname: "s1".into(),
                role,
                config: r#"{"cpu_limit":0,"total_bandwidth":0}"#.into(),
                ..Streamer::default()
            });
            let spec = node_spec(&record, None, NodeState::Up);
            assert_eq!(
                (spec.role, spec.channel_limit, spec.bandwidth_kbps),
                (expected, CHANNEL_LIMIT_DEFAULT, None)
            );
            assert!(!spec.channel_limit_stated);
            assert_eq!(cpu_limit_permille(&record), None);
        }
    }
}
