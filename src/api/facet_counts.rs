//! How many streams have which value of a field: a pure counter, bounded in memory.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::json::{scan, write_string};
use crate::query::Query;
use crate::state::pull::text_of;
use crate::state::record::ArchivedStream;

/// Values of all fields together that are counted apart, with at most 40 characters each. Streams
/// with further ones are counted together.
const VALUES_MAX: usize = 50_000;
/// Most keys of labels that are counted, and that one answer has.
const LABELS_MAX: usize = 1_000;
const LABELS_SHOWN_MAX: usize = 50;

/// A field whose values are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FacetField {
    Template,
    Namespace,
    Ingest,
    /// One label.
    Label(Box<str>),
    /// Every label.
    Labels,
}

impl FacetField {
    /// The field with a name in the API.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "template" => Self::Template,
            "namespace" => Self::Namespace,
            "layout.ingest" => Self::Ingest,
            "labels" => Self::Labels,
            _ => {
                let label = name.strip_prefix("labels.")?;
                Self::Label(Some(label).filter(|it| !it.is_empty())?.into())
            }
        })
    }
}

/// A request for counts of the streams that match filters.
pub struct FacetScan {
    pub query: Arc<Query>,
    pub wanted: WantedFacets,
}

/// What an answer has.
#[derive(Debug, Clone)]
pub struct WantedFacets {
    pub fields: Vec<FacetField>,
    /// Values of each field at most.
    pub values: usize,
}

#[derive(Debug, Default)]
struct ValueCounts {
    by_value: HashMap<Box<str>, u64>,
    /// Streams with other values.
    other: u64,
}

impl ValueCounts {
    fn add(&mut self, value: &str, kept: &mut usize) {
        self.add_count(value, 1, kept);
    }

    fn add_count(&mut self, value: &str, streams: u64, kept: &mut usize) {
        if let Some(count) = self.by_value.get_mut(value) {
            *count += streams;
        } else if *kept < VALUES_MAX {
            *kept += 1;
            self.by_value.insert(value.into(), streams);
        } else {
            self.other += streams;
        }
    }

    fn merge(&mut self, others: Self, kept: &mut usize) {
        self.other += others.other;
        for (value, count) in others.by_value {
            self.add_count(&value, count, kept);
        }
    }

    fn total(&self) -> u64 {
        self.by_value.values().sum::<u64>() + self.other
    }

    /// Writes the most frequent values, and how many streams have others.
    fn write(&self, field: &str, most: usize, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let mut values: Vec<(&str, u64)> = self.by_value.iter().map(|(v, n)| (&**v, *n)).collect();
        values.sort_unstable_by_key(|(value, count)| (Reverse(*count), *value));
        let shown = values.len().min(most);
        let rest: u64 = values[shown..].iter().map(|(_, count)| count).sum();
        out.extend_from_slice(b"{\"field\":");
        write_string(out, field);
        out.extend_from_slice(b",\"other\":");
        out.extend_from_slice(digits.format(self.other + rest).as_bytes());
        out.extend_from_slice(b",\"values\":[");
        for (at, (value, count)) in values[..shown].iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"" } else { b"," });
            out.extend_from_slice(b"{\"count\":");
            out.extend_from_slice(digits.format(*count).as_bytes());
            out.extend_from_slice(b",\"value\":");
            write_string(out, value);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }
}

/// Counts of streams by the values of all fields.
#[derive(Debug, Default)]
pub struct FacetCounts {
    labels: BTreeMap<Box<str>, ValueCounts>,
    template: ValueCounts,
    namespace: ValueCounts,
    ingest: ValueCounts,
    /// Values that are counted apart.
    kept: usize,
}

impl FacetCounts {
    pub fn add(&mut self, stream: &ArchivedStream) {
        let config = stream.config.as_str();
        for (name, counts) in [
            ("template", &mut self.template),
            ("namespace", &mut self.namespace),
        ] {
            if let Some(value) = scan::member(config, name).and_then(text_of) {
                counts.add(&value, &mut self.kept);
            }
        }
        if let Some(ingest) = stream.ingest() {
            self.ingest.add(ingest, &mut self.kept);
        }
        let labels = scan::member(config, "labels").unwrap_or_default();
        for (label, value) in scan::members(labels) {
            let Some(value) = text_of(value) else {
                continue;
            };
            if let Some(counts) = self.labels.get_mut(label) {
                counts.add(&value, &mut self.kept);
            } else if self.labels.len() < LABELS_MAX {
                let mut counts = ValueCounts::default();
                counts.add(&value, &mut self.kept);
                self.labels.insert(label.into(), counts);
            }
        }
    }

    /// Adds the counts of other streams.
    pub fn merge(&mut self, others: Self) {
        let kept = &mut self.kept;
        self.template.merge(others.template, kept);
        self.namespace.merge(others.namespace, kept);
        self.ingest.merge(others.ingest, kept);
        for (label, counts) in others.labels {
            if self.labels.len() < LABELS_MAX || self.labels.contains_key(&label) {
                self.labels.entry(label).or_default().merge(counts, kept);
            }
        }
    }

    /// About the bytes that the values take.
    pub fn bytes(&self) -> usize {
        const VALUE_BYTES: usize = 120;
        self.kept * VALUE_BYTES
    }

    /// The answer with these counts, which were made at a time (UTC ms).
    pub fn body(&self, wanted: &WantedFacets, at: u64) -> Vec<u8> {
        let mut out = b"{\"at\":".to_vec();
        out.extend_from_slice(itoa::Buffer::new().format(at).as_bytes());
        out.extend_from_slice(b",\"facets\":");
        let begin = out.len();
        let mut write = |field: &str, counts: &ValueCounts| {
            out.push(b',');
            counts.write(field, wanted.values, &mut out);
        };
        for field in &wanted.fields {
            match field {
                FacetField::Template => write("template", &self.template),
                FacetField::Namespace => write("namespace", &self.namespace),
                FacetField::Ingest => write("layout.ingest", &self.ingest),
                FacetField::Label(label) => {
                    let none = ValueCounts::default();
                    let counts = self.labels.get(label).unwrap_or(&none);
                    write(&format!("labels.{label}"), counts);
                }
                FacetField::Labels => {
                    for (label, counts) in self.most_frequent_labels() {
                        write(&format!("labels.{label}"), counts);
                    }
                }
            }
        }
        if out.len() == begin {
            out.push(b'[');
        } else {
            out[begin] = b'[';
        }
        out.extend_from_slice(b"]}");
        out
    }

    /// The labels that most streams have, by name.
    fn most_frequent_labels(&self) -> Vec<(&str, &ValueCounts)> {
        let mut labels: Vec<_> = self.labels.iter().map(|(key, it)| (&**key, it)).collect();
        if labels.len() > LABELS_SHOWN_MAX {
            labels.sort_by_key(|(_, counts)| Reverse(counts.total()));
            labels.truncate(LABELS_SHOWN_MAX);
            labels.sort_unstable_by_key(|(key, _)| *key);
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(fields: &[&str], values: usize) -> WantedFacets {
        let fields = fields.iter().filter_map(|it| FacetField::parse(it));
        WantedFacets {
            fields: fields.collect(),
            values,
        }
    }

    fn text(counts: &FacetCounts, fields: &[&str], values: usize) -> String {
        let body = counts.body(&wanted(fields, values), 7);
        String::from_utf8(body).expect("UTF-8")
    }

    #[test]
    fn most_frequent_values_come_first_and_the_rest_together() {
        let mut counts = FacetCounts::default();
        for (value, times) in [("a", 1), ("b", 3), ("c", 3), ("d", 2)] {
            for _ in 0..times {
                counts.template.add(value, &mut counts.kept);
            }
        }
        assert_eq!(
            text(&counts, &["template", "labels.x"], 2),
            r#"{"at":7,"facets":[{"field":"template","other":3,"values":[{"count":3,"value":"b"},{"count":3,"value":"c"}]},{"field":"labels.x","other":0,"values":[]}]}"#
        );
        assert_eq!(text(&counts, &["labels"], 2), r#"{"at":7,"facets":[]}"#);
    }

    #[test]
    fn values_and_labels_are_bounded() {
        let mut counts = FacetCounts {
            kept: VALUES_MAX - 1,
            ..FacetCounts::default()
        };
        for value in ["a", "b", "a", "c"] {
            counts.ingest.add(value, &mut counts.kept);
        }
        assert_eq!(
            text(&counts, &["layout.ingest"], 9),
            r#"{"at":7,"facets":[{"field":"layout.ingest","other":2,"values":[{"count":2,"value":"a"}]}]}"#
        );
        for label in 0..LABELS_SHOWN_MAX + 2 {
            let label = format!("l{label:02}");
            let of_label = ValueCounts {
                other: if label == "l00" { 1 } else { 2 },
                ..ValueCounts::default()
            };
            counts.labels.insert(label.into(), of_label);
        }
        let shown = counts.most_frequent_labels();
        assert_eq!(shown.len(), LABELS_SHOWN_MAX);
        assert!(shown.iter().all(|(label, _)| *label != "l00"));
        assert!(shown.is_sorted_by_key(|(label, _)| *label));
    }

    #[test]
    fn merged_counts_are_those_of_all_streams() {
        let counted = |values: &[&str], label: &str| {
            let mut counts = FacetCounts::default();
            for value in values {
                counts.template.add(value, &mut counts.kept);
                let of_label = counts.labels.entry(label.into()).or_default();
                of_label.add(value, &mut counts.kept);
            }
            counts
        };
        let mut counts = counted(&["a", "b", "a"], "x");
        counts.merge(counted(&["b", "c", "b"], "y"));
        counts.merge(counted(&["a"], "x"));
        assert_eq!(
            text(&counts, &["template", "labels.x", "labels.y"], 9),
            r#"{"at":7,"facets":[{"field":"template","other":0,"values":[{"count":3,"value":"a"},{"count":3,"value":"b"},{"count":1,"value":"c"}]},{"field":"labels.x","other":0,"values":[{"count":3,"value":"a"},{"count":1,"value":"b"}]},{"field":"labels.y","other":0,"values":[{"count":2,"value":"b"},{"count":1,"value":"c"}]}]}"#
        );
        assert_eq!(counts.kept, 7, "values that are counted apart");
        counts.kept = VALUES_MAX;
        counts.merge(counted(&["a", "d", "d"], "x"));
        assert_eq!(counts.template.by_value["a"], 4);
        assert_eq!(
            counts.template.other, 2,
            "further values are counted together"
        );
    }

    #[test]
    fn fields_have_the_names_of_filters() {
        assert_eq!(FacetField::parse("labels"), Some(FacetField::Labels));
        let label = FacetField::Label("required.zone".into());
        assert_eq!(FacetField::parse("labels.required.zone"), Some(label));
        for name in ["", "labels.", "title", "layout", "label.a"] {
            assert_eq!(FacetField::parse(name), None, "{name}");
        }
    }
}
