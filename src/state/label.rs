//! The grammar of labels: properties, requirements and preferences.
//!
//! A plain key is a property. `required.KEY` requires the property KEY of the other side.
//! `preferred.KEY` on a stream prefers nodes with it; on a node it has no effect. A prefix without
//! a key behind it is a plain key.

use std::sync::Arc;

use crate::json::scan;

const REQUIRED: &str = "required.";
const PREFERRED: &str = "preferred.";

/// A property: key and value.
pub type LabelPair = (Arc<str>, Arc<str>);

/// Labels by meaning, each part sorted and without duplicates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedLabels {
    pub plain: Vec<LabelPair>,
    pub required: Vec<LabelPair>,
    pub preferred: Vec<LabelPair>,
}

/// The labels of a `labels` object.
pub fn pairs(object: &str) -> Vec<LabelPair> {
    scan::members(object)
        .filter_map(|(key, value)| {
            let value = scan::string(value)?;
            Some((Arc::from(key), Arc::from(&*value)))
        })
        .collect()
}

/// The labels of a stored configuration.
pub fn of_config(config: &str) -> ParsedLabels {
    let labels = scan::member(config, "labels");
    parse(&labels.map_or_else(Vec::new, pairs))
}

pub fn parse(labels: &[LabelPair]) -> ParsedLabels {
    let mut parsed = ParsedLabels::default();
    for (key, value) in labels {
        let (part, key) = match (key.strip_prefix(REQUIRED), key.strip_prefix(PREFERRED)) {
            (Some(rest), _) if !rest.is_empty() => (&mut parsed.required, Arc::from(rest)),
            (_, Some(rest)) if !rest.is_empty() => (&mut parsed.preferred, Arc::from(rest)),
            _ => (&mut parsed.plain, key.clone()),
        };
        part.push((key, value.clone()));
    }
    for part in [
        &mut parsed.plain,
        &mut parsed.required,
        &mut parsed.preferred,
    ] {
        part.sort_unstable();
        part.dedup();
    }
    parsed
}

/// Whether the required labels of a stream and of a node, given as their stored configurations,
/// allow the stream on the node.
pub fn fit(stream: &str, node: &str) -> bool {
    let (wants, offers) = (of_config(stream), of_config(node));
    wants.required.iter().all(|it| offers.plain.contains(it))
        && offers.required.iter().all(|it| wants.plain.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> LabelPair {
        (Arc::from(key), Arc::from(value))
    }

    #[test]
    fn prefixes_mark_requirements_and_preferences() {
        let parsed = parse(&[
            pair("zone", "north"),
            pair("required.gpu", "yes"),
            pair("preferred.dc", "d1"),
            pair("required.", "a plain key"),
            pair("zone", "north"),
            pair("preferred.required.x", "1"),
        ]);
        assert_eq!(
            parsed,
            ParsedLabels {
                plain: vec![pair("required.", "a plain key"), pair("zone", "north")],
                required: vec![pair("gpu", "yes")],
                preferred: vec![pair("dc", "d1"), pair("required.x", "1")],
            }
        );
    }
}
