//! Names of streams whose health is rare, and of those without a streamer, as a count found them.
//!
//! A list of them in a large cluster looks at these names and at the streams that were saved since,
//! not at all streams. Each is checked again: a name only saves the search for it. A stream whose
//! health changed by a report is found with the next count.

use crate::fleet::health::Health;
use crate::query::Hints;
use crate::state::State;
use crate::state::name::StreamName;

/// Most names of one kind that are kept; of more, most documents of a scan match anyway.
const NAMES_MAX: usize = 20_000;
/// Most streams saved since the count.
const SAVED_MAX: usize = 20_000;
/// The health that most streams have: no names are kept.
const COMMON: Health = Health::Operational;

/// Names of one kind; `None` if there were too many.
type Names = Option<Vec<StreamName>>;

/// Names found by one count, by health and of streams without a streamer.
#[derive(Debug)]
pub struct RareStreams {
    by_health: [Names; 5],
    without_streamer: Names,
    /// The stamp of the last change in the state that was counted.
    stamp_ms: u64,
    restored_revision: u64,
}

impl RareStreams {
    /// Of a state that will be counted.
    pub fn new(state: &State) -> Self {
        Self {
            by_health: std::array::from_fn(|_| Some(Vec::new())),
            without_streamer: Some(Vec::new()),
            stamp_ms: state.stamp_ms(),
            restored_revision: state.restored_revision(),
        }
    }

    /// Notes one stream.
    pub fn note(&mut self, name: &StreamName, health: Health, has_streamer: bool) {
        if health != COMMON {
            add(&mut self.by_health[health as usize], name);
        }
        if !has_streamer {
            add(&mut self.without_streamer, name);
        }
    }

    /// The names of all streams that may match, sorted: those that were found, and those that were
    /// saved since. `None` if that cannot be known from these names, or is not less than a scan.
    pub fn candidates(&self, hints: &Hints<'_>, state: &State) -> Option<Vec<StreamName>> {
        let is_later = state.stamp_ms() >= self.stamp_ms;
        if !is_later || state.restored_revision() != self.restored_revision {
            return None;
        }
        let mut names = self.found(hints)?;
        let saved = state.streams_changed_from(self.stamp_ms, None);
        let before = names.len();
        names.extend(
            saved
                .take(SAVED_MAX + 1)
                .map(|stream| StreamName::trusted(stream.name.as_str())),
        );
        if names.len() - before > SAVED_MAX {
            return None;
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    fn found(&self, hints: &Hints<'_>) -> Names {
        let mut equal = hints.equal.iter();
        if let Some((_, values)) = equal.find(|(path, _)| *path == "health") {
            let mut names = Vec::new();
            for value in *values {
                let health = Health::parse(value);
                // No stream has a health with another name.
                let Some(health) = health else { continue };
                if health == COMMON {
                    return None;
                }
                names.extend(self.by_health[health as usize].as_ref()?.iter().cloned());
            }
            return Some(names);
        }
        if hints.is_false.contains(&"placed") {
            return self.without_streamer.clone();
        }
        None
    }
}

fn add(names: &mut Names, name: &StreamName) {
    if let Some(known) = names {
        if known.len() < NAMES_MAX {
            known.push(name.clone());
        } else {
            *names = None;
        }
    }
}
