//! Streams that streamers report and this server has no configuration of, as a list.
//!
//! `GET /streams?named_by=remote` lists them. Their documents have a name, `named_by` and `stats`;
//! a streamer that is configured has to report them. Other operations do not know them.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use super::Call;
use crate::error::{self, ApiError};
use crate::fleet::stats::{AddedStats, View};
use crate::fleet::unconfigured::UnconfiguredNames;
use crate::json::write_string;
use crate::query::params::POLL_TIMEOUT;
use crate::query::{Document, Query, Raw, Source};
use crate::state::State;

/// The value of `named_by`: this server learned of them from another one.
pub const NAMED_BY: &str = "remote";

/// Whether a query is for these streams. It cannot wait for them, because reports and not changes
/// of the configuration bring them.
pub fn is_wanted(call: &Call<'_>, query: &Query) -> Result<bool, ApiError> {
    let hints = query.hints();
    let named_by = hints.equal.iter().find(|(path, _)| *path == "named_by");
    let Some((_, values)) = named_by else {
        return Ok(false);
    };
    let is_wanted = matches!(values, [only] if &**only == NAMED_BY);
    if is_wanted && call.poll_wait(&POLL_TIMEOUT)?.is_some() {
        let allowed = "must be 0 where `named_by` is `remote`";
        return Err(error::WRONG_FORMAT.about_parameter("poll_timeout", allowed));
    }
    Ok(is_wanted)
}

/// One of them.
pub struct UnconfiguredDoc<'a> {
    name: &'a str,
    stats: String,
}

impl Document for UnconfiguredDoc<'_> {
    fn key(&self) -> &str {
        self.name
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        match name {
            "name" => Some(Raw::Text(self.name)),
            "named_by" => Some(Raw::Text(NAMED_BY)),
            "stats" => Some(Raw::Json(Cow::Borrowed(&self.stats))),
            _ => None,
        }
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        write_string(out, self.name);
        out.extend_from_slice(b",\"named_by\":");
        write_string(out, NAMED_BY);
        out.extend_from_slice(b",\"stats\":");
        out.extend_from_slice(self.stats.as_bytes());
        out.push(b'}');
    }
}

/// All of them, as a source of the query engine. Between two slices of a list streams come and go;
/// each that stays is listed once.
pub struct Unconfigured<'s> {
    state: &'s State,
    fleet: View<'s>,
    names: Arc<UnconfiguredNames>,
}

impl<'s> Unconfigured<'s> {
    pub fn new(state: &'s State, fleet: View<'s>) -> Self {
        Self {
            state,
            fleet,
            names: fleet.unconfigured(),
        }
    }

    /// The document of a name, unless it is configured now or no streamer reports it any more.
    fn doc<'a>(&self, name: &'a str) -> Option<UnconfiguredDoc<'a>> {
        if self.state.stream(name).is_some() {
            return None;
        }
        let stats = self.fleet.stream(name, None, |facts| {
            // The report of a deleted streamer is kept for a while and no longer counts.
            let is_current = facts.nodes().any(|it| self.state.streamer(it).is_some());
            let mut stats = Vec::new();
            facts.render(&AddedStats::default(), &mut stats);
            is_current.then_some(stats)
        });
        Some(UnconfiguredDoc {
            name,
            stats: String::from_utf8(stats.flatten()?).expect("rendered JSON is UTF-8"),
        })
    }
}

impl Source for Unconfigured<'_> {
    type Doc<'a>
        = UnconfiguredDoc<'a>
    where
        Self: 'a;

    fn count(&self) -> u64 {
        self.names.len() as u64
    }

    fn get(&self, key: &str) -> Option<UnconfiguredDoc<'_>> {
        let (name, _) = self.names.get_key_value(key)?;
        self.doc(name)
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = UnconfiguredDoc<'a>> {
        let names = self.names.range::<_, str>((from, Bound::Unbounded));
        names.filter_map(|(name, _)| self.doc(name))
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = UnconfiguredDoc<'a>> {
        let names = self.names.range::<_, str>((Bound::Unbounded, from)).rev();
        names.filter_map(|(name, _)| self.doc(name))
    }
}
