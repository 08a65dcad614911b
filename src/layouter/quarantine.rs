//! Quarantine: a stream that ends one streamer after the other is held.
//!
//! Some streams end the program that captures them. Fail-over then carries such a stream to the
//! next streamer, and every other stream there is interrupted as well. What it looks like from
//! here: a streamer is lost soon after the stream came to it, twice, and on different streamers.
//!
//! A stream that came together with hundreds of others looks the same at first. Three rules
//! separate the one from the many. It must have come to both lost streamers. A loss counts only if
//! no other streamer is lost at about the same time, because one stream ends one streamer at a
//! time, and the next one is lost a dead timeout later at the earliest. And if several streams fit,
//! none is held before a third loss.
//!
//! It is kept in memory and, as events, in the log: a start reads from there what is held. Losses
//! before a start do not count.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::json::scan;
use crate::state::State;
use crate::state::name::{Hostname, StreamName};
use crate::state::record::StreamRecord;

/// Events of the log.
pub const HELD: &str = "layouter_stream_held";
pub const RELEASED: &str = "layouter_stream_released";

/// A stream that came to a node at most this long before its last sign is a suspect.
const CAME_BEFORE_MS: u64 = 60_000;
/// Both losses are within this time, and at least within so many dead timeouts.
const LOSSES_WITHIN_MS: u64 = 600_000;
const LOSSES_WITHIN_TIMEOUTS: u64 = 5;
/// How long a stream is held.
pub const HOLD_MS: u64 = 3_600_000;
/// After three losses so many streams are held at most, after two only a single one: if more came
/// to the same nodes, most of them are innocent, and the next loss separates them.
const HELD_AT_ONCE_MAX: usize = 3;
/// The newest arrivals are kept. More at once are no reason for suspicion.
const ARRIVALS_MAX: usize = 1 << 16;
/// Events that a start reads, newest first.
const EVENTS_READ_MAX: usize = 100_000;

/// A lost node, and its last sign of life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostNode {
    pub hostname: Hostname,
    pub seen_ms: u64,
}

struct Arrival {
    at_ms: u64,
    stream: StreamName,
    node: Hostname,
}

/// A loss to which a stream had come.
struct Strike {
    at_ms: u64,
    node: Hostname,
}

/// Streams that came to nodes, losses of nodes, and streams that are held.
#[derive(Default)]
pub struct Quarantine {
    now_ms: u64,
    dead_timeout_ms: u64,
    arrivals: VecDeque<Arrival>,
    strikes: HashMap<StreamName, Vec<Strike>>,
    /// Times of losses.
    losses: VecDeque<u64>,
    /// Until when each is held.
    held: BTreeMap<StreamName, u64>,
}

impl Quarantine {
    /// Time passes; returns the streams whose time is over, which are no longer held.
    pub fn advance(&mut self, now_ms: u64, dead_timeout_ms: u64) -> Vec<StreamName> {
        self.now_ms = self.now_ms.max(now_ms);
        self.dead_timeout_ms = dead_timeout_ms;
        let over = self.held.iter().filter(|(_, until)| **until <= now_ms);
        let over: Vec<StreamName> = over.map(|(name, _)| name.clone()).collect();
        for name in &over {
            self.held.remove(name);
        }
        over
    }

    pub fn holds(&self, stream: &str) -> bool {
        !self.held.is_empty() && self.held.contains_key(stream)
    }

    /// The streams that are held.
    pub fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.held.keys()
    }

    /// Ends the hold of a stream. Returns whether it was held. Earlier losses do not count any
    /// more.
    pub fn release(&mut self, stream: &str) -> bool {
        self.strikes.remove(stream);
        self.held.remove(stream).is_some()
    }

    /// A stream came to a node.
    pub fn arrived(&mut self, stream: &StreamName, node: &Hostname) {
        if self.arrivals.len() == ARRIVALS_MAX {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back(Arrival {
            at_ms: self.now_ms,
            stream: stream.clone(),
            node: node.clone(),
        });
    }

    /// Nodes were lost, in one moment. Returns the streams that are held from now on.
    pub fn lost(&mut self, nodes: &[LostNode]) -> Vec<StreamName> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let now_ms = self.now_ms;
        self.forget_old();
        let together_ms = self.dead_timeout_ms / 2;
        let is_together = |at_ms: u64| now_ms - at_ms < together_ms;
        let is_alone = nodes.len() == 1 && !self.losses.iter().any(|at_ms| is_together(*at_ms));
        self.losses.extend(nodes.iter().map(|_| now_ms));
        if !is_alone {
            // Nor was the first of them a loss by a stream.
            self.strikes.retain(|_, strikes| {
                strikes.retain(|strike| !is_together(strike.at_ms));
                !strikes.is_empty()
            });
            return Vec::new();
        }
        let LostNode { hostname, seen_ms } = &nodes[0];
        let from_ms = seen_ms.saturating_sub(CAME_BEFORE_MS);
        let came = |it: &&Arrival| it.node == *hostname && it.at_ms >= from_ms;
        let came: Vec<StreamName> = self
            .arrivals
            .iter()
            .filter(came)
            .map(|it| it.stream.clone())
            .collect();
        let mut suspects: Vec<(usize, StreamName)> = Vec::new();
        for stream in came {
            let strikes = self.strikes.entry(stream.clone()).or_default();
            if strikes.iter().any(|strike| strike.at_ms == now_ms) {
                // It came twice.
                continue;
            }
            let before = strikes.iter().map(|strike| &strike.node);
            let before: BTreeSet<&Hostname> = before.filter(|node| *node != hostname).collect();
            if !before.is_empty() {
                suspects.push((before.len(), stream));
            }
            strikes.push(Strike {
                at_ms: now_ms,
                node: hostname.clone(),
            });
        }
        let most = suspects.iter().map(|(losses, _)| *losses).max();
        let suspects = suspects
            .into_iter()
            .filter(|(losses, _)| Some(*losses) == most);
        let suspects: Vec<StreamName> = suspects.map(|(_, stream)| stream).collect();
        if suspects.len() > if most > Some(1) { HELD_AT_ONCE_MAX } else { 1 } {
            return Vec::new();
        }
        for stream in &suspects {
            self.strikes.remove(stream);
            self.held.insert(stream.clone(), now_ms + HOLD_MS);
        }
        suspects
    }

    fn forget_old(&mut self) {
        let within_ms = LOSSES_WITHIN_MS.max(LOSSES_WITHIN_TIMEOUTS * self.dead_timeout_ms);
        let oldest_ms = self.now_ms.saturating_sub(within_ms);
        self.losses.retain(|at_ms| *at_ms >= oldest_ms);
        self.strikes.retain(|_, strikes| {
            strikes.retain(|strike| strike.at_ms >= oldest_ms);
            !strikes.is_empty()
        });
    }

    /// Reads from the event log which streams were held before a start.
    pub fn recall(&mut self, state: &State) {
        let newest_ms = state.stamp_ms();
        let chunks = state.events().iter().rev().map(|(_, chunk)| chunk);
        let recent = chunks.take_while(|chunk| chunk.stamp_ms.to_native() + HOLD_MS > newest_ms);
        let events = recent.flat_map(|chunk| {
            let stamp_ms = chunk.stamp_ms.to_native();
            let texts = chunk.events.iter().rev();
            texts.map(move |text| (stamp_ms, text.as_str()))
        });
        let mut known: BTreeSet<StreamName> = BTreeSet::new();
        for (stamp_ms, text) in events.take(EVENTS_READ_MAX) {
            let member = |name: &str| scan::string(scan::member(text, name)?);
            let Some(event) = member("event").filter(|it| *it == HELD || *it == RELEASED) else {
                continue;
            };
            let Some(name) = member("entity_id") else {
                continue;
            };
            let name = StreamName::trusted(&name);
            // The newest event of a stream counts.
            if !known.insert(name.clone()) || event != HELD {
                continue;
            }
            let record = state.stream(&name);
            if record.is_some_and(|record| !is_edited_since(record, stamp_ms)) {
                let left_ms = (stamp_ms + HOLD_MS).saturating_sub(newest_ms);
                self.held.insert(name, self.now_ms + left_ms);
            }
        }
    }
}

/// Whether a stream was changed after a time, by others than the layouter.
fn is_edited_since(record: &StreamRecord, stamp_ms: u64) -> bool {
    let placed = record.layout().filter(|layout| layout.ingest.is_none());
    let placed_ms = placed.map_or(0, |layout| layout.created_at.to_native());
    record.updated_at.to_native() > stamp_ms.max(placed_ms)
}

/// Whether a changed row is the edit of an operator: another configuration, or a layout of theirs.
pub fn is_edit(before: Option<&StreamRecord>, after: &StreamRecord) -> bool {
    let Some(before) = before else {
        return true;
    };
    let is_placed = after.layout().is_some_and(|layout| !layout.by_layouter)
        && after.ingest() != before.ingest();
    is_placed || before.config != after.config || before.disabled != after.disabled
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1000;
    const DEAD: u64 = 60 * S;

    fn stream(name: &str) -> StreamName {
        StreamName::trusted(name)
    }

    /// Streams come to nodes and nodes are lost; the time is in seconds.
    #[derive(Default)]
    struct Run {
        quarantine: Quarantine,
    }

    impl Run {
        fn at(&mut self, second: u64) -> &mut Quarantine {
            self.quarantine.advance(second * S, DEAD);
            &mut self.quarantine
        }

        fn come(&mut self, second: u64, node: &str, streams: &[String]) {
            let node = Hostname::trusted(node);
            for name in streams {
                self.at(second).arrived(&stream(name), &node);
            }
        }

        /// Nodes that were last seen a dead timeout ago are lost.
        fn lose(&mut self, second: u64, nodes: &[&str]) -> Vec<StreamName> {
            let nodes: Vec<LostNode> = nodes
                .iter()
                .map(|node| LostNode {
                    hostname: Hostname::trusted(node),
                    seen_ms: second * S - DEAD,
                })
                .collect();
            self.at(second).lost(&nodes)
        }
    }

    fn many(from: usize, to: usize) -> Vec<String> {
        (from..to).map(|i| format!("c{i:03}")).collect()
    }

    fn bad() -> Vec<String> {
        vec!["bad".to_owned()]
    }

    #[test]
    fn stream_that_ends_two_streamers_is_held_for_an_hour() {
        let mut run = Run::default();
        run.come(0, "a", &many(0, 300));
        run.come(1000, "a", &bad());
        assert_eq!(run.lose(1090, &["a"]), []);
        // Everything moves, the bad one with half of the others.
        run.come(1090, "b", &many(0, 150));
        run.come(1090, "b", &bad());
        run.come(1090, "c", &many(150, 300));
        assert_eq!(run.lose(1160, &["b"]), [stream("bad")]);
        assert!(run.at(1161).holds("bad"));
        assert_eq!(run.quarantine.advance(4759 * S, DEAD), []);
        assert_eq!(run.quarantine.advance(4760 * S, DEAD), [stream("bad")]);
        assert!(!run.quarantine.holds("bad"));
        // Earlier losses no longer count: the next one is the first.
        run.come(4770, "c", &bad());
        assert_eq!(run.lose(4840, &["c"]), []);
    }

    #[test]
    fn late_loss_and_loss_of_the_same_node_do_not_count() {
        let mut run = Run::default();
        run.come(0, "a", &bad());
        assert_eq!(run.lose(130, &["a"]), [], "it ran there for 70 s");
        run.come(130, "b", &bad());
        assert_eq!(run.lose(200, &["b"]), [], "the first one");
        run.come(260, "b", &bad());
        assert_eq!(run.lose(330, &["b"]), [], "the same node again");
        run.come(1000, "c", &bad());
        assert_eq!(run.lose(1070, &["c"]), [], "ten minutes later");
        run.come(1070, "d", &bad());
        assert_eq!(run.lose(1140, &["d"]), [stream("bad")]);
    }

    #[test]
    fn losses_at_about_the_same_time_hold_nothing() {
        // Goal: the loss of a data centre holds none of its streams. Method: nodes that just got
        // their streams are lost in one moment, one after the other, and again where the streams
        // went.
        for pause in [0, 5, 20] {
            let mut run = Run::default();
            let nodes = ["a", "b", "c", "d"];
            for (i, node) in nodes.iter().enumerate() {
                run.come(100, node, &many(i * 2, i * 2 + 2));
            }
            for round in 0..3_u64 {
                let lost_at = 160 + round * 100;
                for (i, node) in nodes.iter().enumerate() {
                    let node = format!("{node}{round}");
                    let node = if round == 0 { nodes[i] } else { &node };
                    let at = lost_at + i as u64 * pause;
                    assert_eq!(run.lose(at, &[node]), [], "round {round}, {pause} s");
                    let next = format!("{}{}", nodes[i], round + 1);
                    run.come(at, &next, &many(i * 2, i * 2 + 2));
                }
            }
        }
    }

    #[test]
    fn many_streams_that_came_to_both_are_innocent() {
        for (count, is_held) in [(1, true), (2, false), (300, false)] {
            let mut run = Run::default();
            run.come(100, "a", &many(0, count));
            assert_eq!(run.lose(170, &["a"]), []);
            run.come(170, "b", &many(0, count));
            assert_eq!(!run.lose(240, &["b"]).is_empty(), is_held, "{count}");
        }
        // The one among them is found where they are spread.
        let mut run = Run::default();
        run.come(100, "a", &many(0, 30));
        run.come(100, "a", &bad());
        run.lose(170, &["a"]);
        run.come(170, "b", &many(0, 10));
        run.come(170, "b", &bad());
        assert_eq!(run.lose(240, &["b"]), []);
        run.come(240, "c", &many(0, 2));
        run.come(240, "c", &bad());
        assert_eq!(run.lose(310, &["c"]).len(), 3);
    }

    #[test]
    fn arrivals_are_bounded() {
        let mut run = Run::default();
        run.come(0, "a", &bad());
        let node = Hostname::trusted("b");
        for i in 0..2 * ARRIVALS_MAX {
            run.quarantine.arrived(&stream(&format!("c{i}")), &node);
        }
        assert_eq!(run.quarantine.arrivals.len(), ARRIVALS_MAX);
    }
}
