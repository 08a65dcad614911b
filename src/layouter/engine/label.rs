//! The grammar of labels: which are properties, which are demands, which are wishes.
//!
//! A plain key is a property. `required.KEY` demands the property KEY of the other side. `preferred.KEY` on a stream wishes for it; on a node it
//! means nothing, because a node does not choose. A prefix with nothing behind it is a plain key.

use std::sync::Arc;

const REQUIRED: &str = "required.";
const PREFERRED: &str = "preferred.";

/// A property: key and value.
pub type Pair = (Arc<str>, Arc<str>);

/// Labels by meaning, each part sorted and free of repetitions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    pub plain: Vec<Pair>,
    pub required: Vec<Pair>,
    pub preferred: Vec<Pair>,
}

pub fn parse(labels: &[Pair]) -> Parsed {
    let mut parsed = Parsed::default();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> Pair {
        (Arc::from(key), Arc::from(value))
    }

    #[test]
    fn prefixes_tell_demands_and_wishes_from_properties() {
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
            Parsed {
                plain: vec![pair("required.", "a plain key"), pair("zone", "north")],
                required: vec![pair("gpu", "yes")],
                preferred: vec![pair("dc", "d1"), pair("required.x", "1")],
            }
        );
    }
}
