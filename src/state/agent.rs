//! Which streams use an agent, and where the agent sends their video.
//!
//! A stream uses an agent when one of its inputs goes `via` `agent://ID`. While streams use an
//! agent their placement decides, and all of them are placed together; only an agent without
//! streams has a layout of its own.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use imbl::{OrdMap, OrdSet};
use memchr::memmem::Finder;
use percent_encoding::percent_decode_str;

use super::State;
use super::entity::{Key, Kind};
use super::name::StreamName;
use super::record::{ArchivedFacts, ArchivedLayout, StreamRecord};
use crate::json::scan;

const SCHEME: &str = "agent://";

/// The agents that a stream's configuration names, each once, in the order of their names.
pub fn agents_of(config: &str) -> Vec<Box<str>> {
    let mut agents = agents_in_order(config);
    agents.sort_unstable();
    agents.dedup();
    agents
}

/// The agents that a stream's configuration names, in the order of its inputs.
pub fn agents_in_order(config: &str) -> Vec<Box<str>> {
    // Few streams have one, and every stream that is saved or shown is scanned.
    static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SCHEME));
    if FINDER.find(config.as_bytes()).is_none() {
        return Vec::new();
    }
    let inputs = scan::member(config, "inputs").unwrap_or("[]");
    scan::elements(inputs)
        .filter_map(|input| scan::member(input, "via"))
        .filter_map(scan::string)
        .filter_map(|url| agent_of(&url))
        .collect()
}

/// The id in `agent://ID`. Credentials and a path do not belong to it.
fn agent_of(url: &str) -> Option<Box<str>> {
    let rest = url.strip_prefix(SCHEME)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let id = authority.rsplit('@').next().unwrap_or_default();
    let id = percent_decode_str(id)
        .decode_utf8()
        .unwrap_or(Cow::Borrowed(id));
    (!id.is_empty()).then(|| Box::from(&*id))
}

/// The streams of each agent that has any.
#[derive(Clone, Default)]
pub(super) struct AgentStreams {
    by_agent: OrdMap<Arc<str>, OrdSet<StreamName>>,
}

impl AgentStreams {
    pub(super) fn of(&self, id: &str) -> Option<&OrdSet<StreamName>> {
        self.by_agent.get(id)
    }

    /// A stream was created, changed or deleted.
    pub(super) fn moved(
        &mut self,
        name: &StreamName,
        old: Option<&StreamRecord>,
        new: Option<&StreamRecord>,
    ) {
        let of = |record: Option<&StreamRecord>| {
            record.map_or_else(Vec::new, |record| agents_of(&record.config))
        };
        let (before, after) = (of(old), of(new));
        if before == after {
            return;
        }
        for id in before.iter().filter(|id| !after.contains(id)) {
            let Some(streams) = self.by_agent.get_mut(&**id) else {
                continue;
            };
            streams.remove(name);
            if streams.is_empty() {
                self.by_agent.remove(&**id);
            }
        }
        for id in after.into_iter().filter(|id| !before.contains(id)) {
            self.by_agent
                .entry(Arc::from(id))
                .or_default()
                .insert(name.clone());
        }
    }
}

impl State {
    /// The streams that use an agent, by name. A stream may use an agent that is not saved.
    pub fn streams_of_agent(&self, id: &str) -> impl Iterator<Item = &StreamName> {
        self.agent_streams.of(id).into_iter().flatten()
    }

    pub fn agent_has_streams(&self, id: &str) -> bool {
        self.agent_streams.of(id).is_some()
    }

    /// The layout of an agent: that of its streams, or its own while it has none.
    pub fn agent_layout(&self, id: &str) -> Option<&ArchivedLayout> {
        if self.agent_has_streams(id) {
            return self
                .streams_of_agent(id)
                .filter_map(|name| self.stream(name))
                .filter(|stream| !stream.disabled)
                .filter_map(|stream| stream.layout())
                .find(|layout| layout.ingest.is_some());
        }
        let key = Key::trusted(Kind::Agent, id);
        match &self.entities(Kind::Agent).get(&key)?.facts {
            ArchivedFacts::Agent { layout } => layout.as_ref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_found_in_inputs_only() {
        for (config, expected) in [
            (r"{}", &[][..]),
            (r#"{"title":"agent://x"}"#, &[]),
            (r#"{"inputs":[{"url":"agent://x"}]}"#, &[]),
            (
                concat!(
                    r#"{"inputs":[{"url":"rtsp://c","via":"agent://b"},{"url":"udp://d"},"#,
                    r#"{"url":"e","via":"agent://a"},{"url":"f","via":"agent://b"}]}"#
                ),
                &["a", "b"],
            ),
            (
                r#"{"inputs":[{"url":"u","via":"agent://user:pw@id%2F1/path?q"}]}"#,
                &["id/1"],
            ),
            (r#"{"inputs":[{"url":"u","via":"agent://"}]}"#, &[]),
            (r#"{"inputs":[{"url":"u","via":"AGENT://a"}]}"#, &[]),
        ] {
            let found = agents_of(config);
            let found: Vec<&str> = found.iter().map(|id| &**id).collect();
            assert_eq!(found, expected, "{config}");
        }
    }
}
