//! The body of `GET /cluster/summary`: what an overview of the cluster shows, in at most 8 KiB.
//!
//! It is made once for all callers. A caller who may not see all streamers gets it without the
//! names of the others.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::feed::rendered::Rendered;
use crate::json::{Number, Object, Value};

/// Most bytes of the classes of streams, of the worst losses, and of the lines of attention. With
/// the numbers, which take about 1.5 KiB, a summary has at most 8 KiB.
const CLASSES_BYTES_MAX: usize = 2048;
const LOSSES_BYTES_MAX: usize = 1024;
const ATTENTION_BYTES_MAX: usize = 3072;
/// Most classes, losses and lines of attention.
const CLASSES_MAX: usize = 20;
const LOSSES_MAX: usize = 5;
const ATTENTION_MAX: usize = 50;

/// Something that an operator should know, and how bad it is.
#[derive(Debug, Clone)]
pub struct AttentionLine {
    /// 3: streams are affected. 2: they may be soon. 1: a limit is near.
    pub severity: u8,
    pub kind: &'static str,
    /// The streamer that it is about.
    pub subject: Option<Box<str>>,
    /// UTC ms.
    pub since: Option<u64>,
    pub count: u64,
}

impl AttentionLine {
    /// A line about the cluster.
    pub fn of_cluster(severity: u8, kind: &'static str, count: u64) -> Self {
        Self {
            severity,
            kind,
            subject: None,
            since: None,
            count,
        }
    }

    fn value(&self) -> Value {
        let mut line = Object::default();
        line.insert("count", number(self.count));
        line.insert("kind", Value::from(self.kind));
        line.insert("severity", number(self.severity.into()));
        if let Some(since) = self.since {
            line.insert("since", number(since));
        }
        if let Some(subject) = &self.subject {
            line.insert("subject", Value::from(&**subject));
        }
        Value::Object(line)
    }
}

/// A streamer whose loss would leave streams without a place.
#[derive(Debug, Clone)]
pub struct BadLoss {
    pub hostname: Box<str>,
    pub unplaced: u64,
    loss: Value,
}

/// The free capacity, the worst first.
pub struct SummaryCapacity {
    /// UTC ms.
    at: u64,
    survives_any_loss: bool,
    /// The class of streams without demands.
    plain: Option<Value>,
    classes: Vec<Value>,
    /// By the streams that would be left, most first.
    pub losses: Vec<BadLoss>,
}

impl SummaryCapacity {
    /// Reads the body of `GET /cluster/capacity`, which was computed at a time.
    pub fn of(body: &Value, at: u64) -> Self {
        let list = |name: &str| body.get(name).and_then(Value::as_array).unwrap_or_default();
        let count = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mut classes: Vec<&Value> = list("classes").iter().collect();
        let plain = classes.iter().find(|class| is_plain(class));
        let plain = plain.map(|class| (*class).clone());
        // Those that fit nowhere, then those without room, then by their streams.
        classes.sort_by_key(|class| {
            let rank = match (count(class, "nodes"), count(class, "streams_more")) {
                (0, _) => 0,
                (_, 0) => 1,
                _ => 2,
            };
            (rank, std::cmp::Reverse(count(class, "streams")))
        });
        let bad = |loss: &&Value| loss.get("survives").and_then(Value::as_bool) == Some(false);
        let mut losses: Vec<BadLoss> = list("losses")
            .iter()
            .filter(bad)
            .map(|loss| BadLoss {
                hostname: loss
                    .get("hostname")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .into(),
                unplaced: count(loss, "unplaced"),
                loss: loss.clone(),
            })
            .collect();
        losses.sort_by(|a, b| (b.unplaced, &a.hostname).cmp(&(a.unplaced, &b.hostname)));
        let survives = body.get("survives_any_loss").and_then(Value::as_bool);
        Self {
            at,
            survives_any_loss: survives.unwrap_or(false),
            plain,
            classes: classes.into_iter().take(CLASSES_MAX).cloned().collect(),
            losses,
        }
    }

    /// How many more streams without demands fit.
    pub fn streams_more(&self) -> Option<u64> {
        self.plain.as_ref()?.get("streams_more")?.as_u64()
    }

    fn value(&self, shows: &dyn Fn(&str) -> bool) -> Value {
        let member = |name: &str| self.plain.as_ref()?.get(name).cloned();
        let losses = self.losses.iter().filter(|loss| shows(&loss.hostname));
        let losses = losses.take(LOSSES_MAX).map(|loss| loss.loss.clone());
        let mut capacity = Object::default();
        capacity.insert("at", number(self.at));
        capacity.insert("bottleneck", member("bottleneck").unwrap_or(Value::Null));
        let classes = within(CLASSES_BYTES_MAX, self.classes.iter().cloned());
        capacity.insert("classes", Value::Array(classes));
        capacity.insert("streams_more", member("streams_more").unwrap_or(number(0)));
        let survives = Value::Bool(self.survives_any_loss);
        capacity.insert("survives_any_loss", survives);
        let losses = within(LOSSES_BYTES_MAX, losses);
        capacity.insert("worst_losses", Value::Array(losses));
        Value::Object(capacity)
    }
}

fn is_plain(class: &Value) -> bool {
    let labels = class.get("labels").and_then(Value::as_object);
    labels.is_none_or(Object::is_empty)
        && class.get("transcoder").and_then(Value::as_bool) != Some(true)
        && class.get("namespace").is_none()
}

fn number(value: u64) -> Value {
    Value::Number(Number::Unsigned(value))
}

/// The first values whose texts have at most so many bytes together.
fn within(bytes_max: usize, values: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut bytes = 0;
    values
        .take_while(|value| {
            bytes += value.to_text().len() + 1;
            bytes <= bytes_max
        })
        .collect()
}

/// A summary, and what names it in a tag.
pub struct RenderedSummary {
    pub body: Rendered,
    pub etag: String,
}

impl RenderedSummary {
    fn new(body: &[u8]) -> Self {
        Self {
            body: Rendered::new(body),
            etag: format!("{:x}", xxh3_64(body)),
        }
    }
}

/// The summary of one count.
pub struct ClusterSummary {
    /// The parts that every caller gets.
    parts: Object,
    layouter: Value,
    /// Unknown while the layouter is off or has not answered.
    capacity: Option<SummaryCapacity>,
    /// The worst first.
    attention: Vec<AttentionLine>,
    /// For callers who see everything.
    pub whole: RenderedSummary,
}

impl ClusterSummary {
    pub fn new(
        parts: Object,
        layouter: Value,
        capacity: Option<SummaryCapacity>,
        mut attention: Vec<AttentionLine>,
    ) -> Self {
        attention.sort_by(|a, b| {
            let worst = (b.severity, b.count).cmp(&(a.severity, a.count));
            worst.then_with(|| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)))
        });
        let mut summary = Self {
            parts,
            layouter,
            capacity,
            attention,
            whole: RenderedSummary::new(b""),
        };
        summary.whole = summary.render(&|_| true, true);
        summary
    }

    /// The summary with the names of those streamers only that `shows` allows.
    pub fn render(&self, shows: &dyn Fn(&str) -> bool, has_layouter: bool) -> RenderedSummary {
        let is_shown = |line: &&AttentionLine| line.subject.as_deref().is_none_or(shows);
        let lines: Vec<&AttentionLine> = self.attention.iter().filter(is_shown).collect();
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for line in &lines {
            *kinds.entry(line.kind).or_default() += 1;
        }
        let mut all = self.parts.clone();
        let shown = lines.iter().take(ATTENTION_MAX).map(|line| line.value());
        let shown = within(ATTENTION_BYTES_MAX, shown);
        all.insert("attention", Value::Array(shown));
        let kinds = kinds.into_iter().map(|(kind, count)| (kind, number(count)));
        all.insert("attention_kinds", Value::Object(kinds.collect()));
        all.insert("attention_total", number(lines.len() as u64));
        let capacity = self.capacity.as_ref();
        let capacity = capacity.map_or(Value::Null, |capacity| capacity.value(shows));
        all.insert("capacity", capacity);
        let layouter = if has_layouter {
            self.layouter.clone()
        } else {
            Value::Null
        };
        all.insert("layouter", layouter);
        RenderedSummary::new(Value::Object(all).to_text().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    /// A capacity with many classes and losses, whose names are as long as they may be.
    fn large_capacity() -> Value {
        let name = "x".repeat(253);
        let classes: Vec<String> = (0..1000)
            .map(|n| {
                format!(
                    r#"{{"labels":{{"required.{name}":"{n}"}},"nodes":{},"streams":{n},"streams_more":{}}}"#,
                    n % 3,
                    n % 2
                )
            })
            .collect();
        let losses: Vec<String> = (0..1000)
            .map(|n| {
                format!(
                    r#"{{"hostname":"{n}{name}","survives":{},"unplaced":{n}}}"#,
                    n % 2 == 0
                )
            })
            .collect();
        let text = format!(
            r#"{{"classes":[{}],"losses":[{}],"survives_any_loss":false}}"#,
            classes.join(","),
            losses.join(",")
        );
        json::parse(text.as_bytes()).expect("JSON")
    }

    #[test]
    fn summary_has_at_most_8_kib_whatever_the_cluster() {
        let capacity = SummaryCapacity::of(&large_capacity(), 1);
        assert_eq!(capacity.losses.len(), 500);
        assert_eq!(capacity.losses[0].unplaced, 999, "the worst first");
        let lines = (0..5000_u32).map(|n| AttentionLine {
            severity: 3,
            kind: "streamer_down",
            subject: Some(format!("{n}{}", "x".repeat(250)).into()),
            since: Some(u64::MAX),
            count: n.into(),
        });
        let summary = ClusterSummary::new(
            Object::default(),
            Value::Null,
            Some(capacity),
            lines.collect(),
        );
        let (_, body) = summary.whole.body.body(None);
        assert!(body.len() <= 8192 - 1536, "{} bytes", body.len());
        let body = json::parse(&body).expect("JSON");
        let of = |name: &str| body.get(name).cloned().unwrap_or(Value::Null);
        assert_eq!(of("attention_total").as_u64(), Some(5000));
        let attention = of("attention");
        let first = &attention.as_array().expect("lines")[0];
        assert_eq!(first.get("count").and_then(Value::as_u64), Some(4999));
        let classes = of("capacity").get("classes").cloned().expect("classes");
        let first = &classes.as_array().expect("classes")[0];
        assert_eq!(
            first.get("nodes").and_then(Value::as_u64),
            Some(0),
            "the worst first"
        );
    }

    #[test]
    fn names_that_a_caller_may_not_see_are_left_out() {
        let line = |subject: Option<&str>, severity| AttentionLine {
            subject: subject.map(Box::from),
            ..AttentionLine::of_cluster(severity, "streamer_down", 1)
        };
        let lines = vec![line(Some("s1"), 1), line(Some("s2"), 3), line(None, 2)];
        let capacity = r#"{"losses":[{"hostname":"s1","survives":false,"unplaced":1},
            {"hostname":"s2","survives":false,"unplaced":2}]}"#;
        let capacity = json::parse(capacity.as_bytes()).expect("JSON");
        let capacity = SummaryCapacity::of(&capacity, 1);
        let layouter = Value::from("on");
        let summary = ClusterSummary::new(Object::default(), layouter, Some(capacity), lines);
        let text = |of: &RenderedSummary| {
            let (_, body) = of.body.body(None);
            String::from_utf8(body.to_vec()).expect("UTF-8")
        };
        let whole = text(&summary.whole);
        assert!(whole.contains("s1") && whole.contains("s2") && whole.contains("\"on\""));
        assert!(whole.contains(r#""attention_total":3"#), "{whole}");
        let part = summary.render(&|hostname| hostname == "s1", false);
        let shown = text(&part);
        assert!(shown.contains("s1") && !shown.contains("s2"), "{shown}");
        assert!(shown.contains(r#""attention_total":2"#), "{shown}");
        assert!(shown.contains(r#""layouter":null"#), "{shown}");
        assert_ne!(part.etag, summary.whole.etag);
    }
}
