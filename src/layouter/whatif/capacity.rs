//! Capacity: how many more streams fit, what limits them, and the cost of losing each streamer.

use super::snapshot::WhatIfSnapshot;
use crate::json::{Number, Object, Value};
use crate::layouter::{Capacity, ClassReport, NodeState, PlacementRole, Reasons, StreamSpec};

/// The body of `GET /cluster/capacity`.
pub fn render(snapshot: &WhatIfSnapshot) -> Vec<u8> {
    let engine = &snapshot.engine;
    let mut reports = engine.class_reports();
    // Classes with most streams first; ties by the name of a stream.
    reports.sort_by_key(|report| (std::cmp::Reverse(report.streams), report.example));
    let is_plain = |report: &ClassReport<'_>| {
        report.labels.is_empty() && !report.transcoder && namespace(snapshot, report).is_none()
    };
    let mut classes: Vec<Value> = Vec::with_capacity(reports.len() + 1);
    for report in &reports {
        classes.push(class(snapshot, report));
    }
    if !reports.iter().any(is_plain) {
        classes.push(without_demands(snapshot));
    }
    let mut nodes: Vec<_> = engine
        .nodes()
        .filter(|node| node.role == PlacementRole::Streamer && node.state != NodeState::Down)
        .map(|node| node.hostname)
        .collect();
    nodes.sort_unstable();
    let mut survives_any = true;
    let losses = nodes.into_iter().filter_map(|hostname| {
        let survival = engine.survival(hostname)?;
        let survives = survival.unplaced.streams == 0;
        survives_any &= survives;
        let mut loss = Object::default();
        loss.insert("copies", number(survival.there.copies));
        loss.insert("hostname", Value::from(hostname.as_str()));
        loss.insert("streams", number(survival.there.streams));
        loss.insert("survives", Value::Bool(survives));
        loss.insert("unplaced", number(survival.unplaced.streams));
        loss.insert("unplaced_copies", number(survival.unplaced.copies));
        Some(Value::Object(loss))
    });
    let losses = losses.collect();
    let mut answer = Object::default();
    answer.insert("classes", Value::Array(classes));
    answer.insert("losses", Value::Array(losses));
    answer.insert("survives_any_loss", Value::Bool(survives_any));
    let mut out = Vec::new();
    Value::Object(answer).write(&mut out);
    out
}

fn number(value: u64) -> Value {
    Value::Number(Number::Unsigned(value))
}

fn namespace<'s>(snapshot: &'s WhatIfSnapshot, report: &ClassReport<'_>) -> Option<&'s str> {
    let stream = snapshot.state.stream(report.example)?;
    stream
        .namespace
        .as_ref()
        .map(rkyv::string::ArchivedString::as_str)
}

fn class(snapshot: &WhatIfSnapshot, report: &ClassReport<'_>) -> Value {
    let mut labels = Object::default();
    for (key, value) in &report.labels {
        labels.insert(key, Value::from(*value));
    }
    let mut class = Object::default();
    if let Some(bottleneck) = bottleneck(report.nodes, report.capacity) {
        class.insert("bottleneck", Value::from(bottleneck));
    }
    class.insert("labels", Value::Object(labels));
    if let Some(namespace) = namespace(snapshot, report) {
        class.insert("namespace", Value::from(namespace));
    }
    class.insert("nodes", number(report.nodes as u64));
    class.insert("streams", number(u64::from(report.streams)));
    class.insert("streams_more", number(report.capacity.fits));
    class.insert("transcoder", Value::Bool(report.transcoder));
    class.insert("unplaced", number(u64::from(report.waiting)));
    Value::Object(class)
}

/// The class of streams without demands, if there are none yet.
fn without_demands(snapshot: &WhatIfSnapshot) -> Value {
    let engine = &snapshot.engine;
    let capacity = engine.capacity(&StreamSpec::new(""));
    let nodes = engine.nodes().filter(|node| {
        node.role == PlacementRole::Streamer && node.state != NodeState::Down && node.is_open
    });
    let nodes = nodes.count();
    let mut class = Object::default();
    if let Some(bottleneck) = bottleneck(nodes, capacity) {
        class.insert("bottleneck", Value::from(bottleneck));
    }
    class.insert("labels", Value::Object(Object::default()));
    class.insert("nodes", number(nodes as u64));
    class.insert("streams", number(0));
    class.insert("streams_more", number(capacity.fits));
    class.insert("transcoder", Value::Bool(false));
    class.insert("unplaced", number(0));
    Value::Object(class)
}

/// The capacity that limits further streams; `None` if nothing is limited.
fn bottleneck(nodes: usize, capacity: Capacity) -> Option<&'static str> {
    if nodes == 0 {
        return Some("nodes");
    }
    [
        (Reasons::CHANNEL_LIMIT, "channels"),
        (Reasons::BANDWIDTH, "bandwidth"),
        (Reasons::DVR_SIZE, "storage"),
    ]
    .into_iter()
    .find(|(reason, _)| capacity.bottleneck.has(*reason))
    .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn bottleneck_has_a_public_name() {
        let capacity = |bottleneck| Capacity {
            fits: 1,
            bottleneck,
        };
        assert_eq!(bottleneck(0, capacity(Reasons::OFFLINE)), Some("nodes"));
        assert_eq!(
            bottleneck(2, capacity(Reasons::CHANNEL_LIMIT)),
            Some("channels")
        );
        assert_eq!(bottleneck(2, capacity(Reasons::DVR_SIZE)), Some("storage"));
        assert_eq!(bottleneck(2, capacity(Reasons::NONE)), None);
        let mut out = Vec::new();
        number(7).write(&mut out);
        assert_eq!(json::text_of(out), "7");
    }
}
