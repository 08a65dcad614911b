//! The names of streams that streamers report and this server has no configuration of.
//!
//! They are never sent to a streamer and never count as streams of the cluster; operators see them
//! in a list of their own. A name stays as long as a current report has it. Readers take a snapshot
//! and do not wait; a report whose names are those of the one before changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use imbl::OrdMap;
use parking_lot::Mutex;

use super::report::StreamStats;
use crate::limits::{UNCONFIGURED_PER_STREAMER_MAX, UNCONFIGURED_STREAMS_MAX};

/// The names, each with the number of streamers that list it.
pub type UnconfiguredNames = OrdMap<Arc<str>, u32>;

/// The names of all streamers.
#[derive(Default)]
pub struct UnconfiguredStreams {
    names: ArcSwap<UnconfiguredNames>,
    changing: Mutex<()>,
    /// Names of current reports that are above a limit.
    left_out: AtomicU64,
}

/// The names of one streamer.
#[derive(Debug, Default)]
pub struct NodeNames {
    /// Sorted.
    listed: Vec<Arc<str>>,
    left_out: u64,
    /// The time of the report that they are from.
    stamp_ms: u64,
}

impl UnconfiguredStreams {
    /// A snapshot.
    pub fn names(&self) -> Arc<UnconfiguredNames> {
        self.names.load_full()
    }

    /// Names of current reports that are above a limit.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Takes over the names of a report, and removes from it the streams above a limit.
    pub fn replace(
        &self,
        node: &mut NodeNames,
        streams: &mut Vec<(Box<str>, StreamStats)>,
        stamp_ms: u64,
    ) {
        node.stamp_ms = stamp_ms;
        if streams.is_empty() && node.listed.is_empty() && node.left_out == 0 {
            return;
        }
        // The same ones are kept of two equal reports.
        streams.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let names = streams.iter().map(|(name, _)| &**name);
        if node.left_out == 0 && names.eq(node.listed.iter().map(|name| &**name)) {
            return;
        }
        let reported = streams.len();
        let one_at_a_time = self.changing.lock();
        let mut names = UnconfiguredNames::clone(&self.names.load());
        for name in node.listed.drain(..) {
            release(&mut names, &name);
        }
        streams.retain(|(name, _)| {
            let has_room = node.listed.len() < UNCONFIGURED_PER_STREAMER_MAX
                && (names.len() < UNCONFIGURED_STREAMS_MAX || names.contains_key(&**name));
            if has_room {
                let known = names.get_key_value(&**name).map(|(name, _)| name.clone());
                let name = known.unwrap_or_else(|| Arc::from(&**name));
                *names.entry(name.clone()).or_insert(0) += 1;
                node.listed.push(name);
            }
            has_room
        });
        self.names.store(Arc::new(names));
        drop(one_at_a_time);
        self.count_left_out(node, (reported - streams.len()) as u64);
    }

    /// Removes the names of a streamer whose last report is older than `oldest_ms`.
    pub fn expire(&self, node: &mut NodeNames, oldest_ms: u64) {
        if node.stamp_ms >= oldest_ms || (node.listed.is_empty() && node.left_out == 0) {
            return;
        }
        let one_at_a_time = self.changing.lock();
        let mut names = UnconfiguredNames::clone(&self.names.load());
        for name in std::mem::take(&mut node.listed) {
            release(&mut names, &name);
        }
        self.names.store(Arc::new(names));
        drop(one_at_a_time);
        self.count_left_out(node, 0);
    }

    fn count_left_out(&self, node: &mut NodeNames, now: u64) {
        let before = std::mem::replace(&mut node.left_out, now);
        self.left_out.fetch_add(now, Ordering::Relaxed);
        self.left_out.fetch_sub(before, Ordering::Relaxed);
    }
}

/// One streamer less lists a name.
fn release(names: &mut UnconfiguredNames, name: &Arc<str>) {
    if let Some(count) = names.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::report::StreamerReport;
    use crate::json;

    fn streams(names: impl IntoIterator<Item = String>) -> Vec<(Box<str>, StreamStats)> {
        let listed = names
            .into_iter()
            .map(|name| format!(r#"{{"name":"{name}"}}"#));
        let listed: Vec<String> = listed.collect();
        let body = format!(r#"{{"streams":[{}]}}"#, listed.join(","));
        let body = json::parse(body.as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(body, std::time::Instant::now());
        report.expect("a report").streams.expect("streams")
    }

    fn some(names: &[&str]) -> Vec<(Box<str>, StreamStats)> {
        streams(names.iter().map(|&name| name.to_owned()))
    }

    fn known(all: &UnconfiguredStreams) -> Vec<(String, u32)> {
        let names = all.names();
        let names = names.iter().map(|(name, count)| (name.to_string(), *count));
        names.collect()
    }

    #[test]
    fn name_stays_while_any_streamer_lists_it() {
        let all = UnconfiguredStreams::default();
        let (mut first, mut second) = (NodeNames::default(), NodeNames::default());
        all.replace(&mut first, &mut some(&["b", "a"]), 1);
        all.replace(&mut second, &mut some(&["b", "c"]), 2);
        let named = |names: &[(&str, u32)]| -> Vec<(String, u32)> {
            names
                .iter()
                .map(|&(name, count)| (name.to_owned(), count))
                .collect()
        };
        assert_eq!(known(&all), named(&[("a", 1), ("b", 2), ("c", 1)]));
        let before = all.names();
        all.replace(&mut first, &mut some(&["a", "b"]), 3);
        assert!(Arc::ptr_eq(&before, &all.names()), "the same names");
        all.replace(&mut first, &mut some(&["a"]), 4);
        assert_eq!(known(&all), named(&[("a", 1), ("b", 1), ("c", 1)]));
        all.expire(&mut second, 2);
        assert_eq!(known(&all).len(), 3, "it is current");
        all.expire(&mut second, 3);
        assert_eq!(known(&all), named(&[("a", 1)]));
        all.replace(&mut first, &mut Vec::new(), 5);
        assert_eq!(known(&all), []);
    }

    #[test]
    fn names_above_the_limits_are_left_out_until_there_is_room() {
        let all = UnconfiguredStreams::default();
        let per_node = UNCONFIGURED_PER_STREAMER_MAX;
        let mut nodes: Vec<NodeNames> = Vec::new();
        for node in 0..UNCONFIGURED_STREAMS_MAX / per_node {
            let mut names = NodeNames::default();
            let mut reported = streams((0..=per_node).map(|i| format!("n{node}/{i}")));
            all.replace(&mut names, &mut reported, 1);
            assert_eq!(reported.len(), per_node);
            nodes.push(names);
        }
        assert_eq!(all.left_out(), nodes.len() as u64);
        assert_eq!(all.names().len(), UNCONFIGURED_STREAMS_MAX);
        let mut late = NodeNames::default();
        let mut reported = some(&["late", "n0/1"]);
        all.replace(&mut late, &mut reported, 1);
        assert_eq!(reported.len(), 1, "a name that is known takes no room");
        assert_eq!(all.left_out(), nodes.len() as u64 + 1);
        all.replace(&mut nodes[0], &mut some(&["n0/1"]), 2);
        assert_eq!(all.left_out(), nodes.len() as u64);
        all.replace(&mut late, &mut some(&["late", "n0/1"]), 2);
        assert_eq!(all.left_out(), nodes.len() as u64 - 1);
        assert_eq!(all.names().get("n0/1"), Some(&2));
        assert!(all.names().contains_key("late"));
    }
}
