//! The pause of a controller: the record of the store in, the end by time out.
//!
//! During a pause of everything the engine goes on as ever, on rows that stay as they are: what it
//! decides is counted and never sent. A pause of the moves that only improve makes it decide none
//! of them. Each begin and each end of a pause builds the engine again from the stored rows, so
//! that nothing that was decided under other rules is left over.

use std::time::Duration;

use tracing::info;

use super::Controller;
use crate::layouter::intake::stored_layout;
use crate::layouter::plan::matches_layout;
use crate::rt::utc_ms_of;
use crate::state::State;
use crate::state::command::Command;
use crate::state::name::StreamName;
use crate::state::record::PauseRecord;
use crate::state::trusted_time::TrustedTime;

/// Time between two attempts to write the end.
const RETRY_MS: u64 = 1000;

/// The pause that the controller follows.
#[derive(Default)]
pub(super) struct FollowedPause {
    record: Option<PauseRecord>,
    /// When its end is due, or to be tried again.
    ends_ms: Option<u64>,
}

impl FollowedPause {
    /// The pause at a start: by the wall clock, which may have gone on while the server was down.
    pub fn at_start(state: &State, now_ms: u64) -> Self {
        let Some(record) = state.pause().cloned() else {
            return Self::default();
        };
        let wall_ms = utc_ms_of(now_ms);
        let mut trusted = TrustedTime::at_start(state);
        trusted.check(wall_ms, Duration::ZERO);
        let left_ms = record.left_ms(wall_ms, trusted.is_doubted());
        let what = record.what.as_str();
        info!(what, left_ms, "the layouter is still paused");
        Self {
            ends_ms: left_ms.map(|left_ms| now_ms + left_ms),
            record: Some(record),
        }
    }

    /// Whether nothing moves at all.
    pub fn holds_all(&self) -> bool {
        self.record.as_ref().is_some_and(|it| it.holds_all())
    }

    pub fn holds_improving(&self) -> bool {
        self.record.is_some()
    }

    pub fn due_ms(&self) -> Option<u64> {
        self.ends_ms
    }

    /// Takes over the pause of a state. Returns whether it is another one.
    fn update(&mut self, state: &State, now_ms: u64) -> bool {
        if self.record.as_ref() == state.pause() {
            return false;
        }
        self.record = state.pause().cloned();
        // By the running clock, whatever becomes of the wall clock.
        let record = self.record.as_ref().filter(|it| it.until_ms().is_some());
        self.ends_ms = record.map(|it| now_ms + it.length_ms.to_native());
        true
    }
}

impl Controller {
    /// Follows the pause of the state. Returns whether the engine was built again for it.
    pub(super) fn follow_pause(&mut self, now_ms: u64) -> bool {
        let state = self.state.clone();
        if !self.pause.update(&state, now_ms) {
            return false;
        }
        match state.pause() {
            Some(pause) => {
                self.metrics.count_pause();
                let (what, by, reason) = (pause.what.as_str(), &*pause.by, &*pause.reason);
                info!(
                    what,
                    by,
                    reason,
                    until_ms = pause.until_ms(),
                    "layouter paused"
                );
            }
            None => info!("layouter resumed"),
        }
        self.transfers.handovers.set_pause(state.paused_since());
        self.rebuild_engine(now_ms);
        true
    }

    /// The command that ends the pause, if that is due.
    pub fn next_pause_end(&mut self, now_ms: u64) -> Option<Command> {
        self.pause.ends_ms.filter(|ends_ms| *ends_ms <= now_ms)?;
        let revision = self.pause.record.as_ref()?.revision.to_native();
        self.pause.ends_ms = Some(now_ms + RETRY_MS);
        Some(Command::ExpirePause { revision })
    }

    /// Takes back the decisions that only improve the layout and were not sent yet. Returns their
    /// number.
    pub fn drop_improving(&mut self, now_ms: u64) -> u64 {
        let dropped = self.improving_waiting();
        if dropped > 0 {
            self.load_engine(now_ms);
        }
        dropped
    }

    /// Forgets decisions about streams whose rows have the wanted layout, during a pause in which
    /// no batch does.
    pub(super) fn forget_settled<'a>(&mut self, names: impl IntoIterator<Item = &'a StreamName>) {
        let Some(engine) = self.engine.as_ref().filter(|_| self.pause.holds_all()) else {
            return;
        };
        for name in names {
            let differs = match (self.state.stream(name), engine.layout(name)) {
                (Some(row), Some(layout)) => !matches_layout(&stored_layout(row), &layout),
                _ => false,
            };
            if !differs {
                self.plan.forget(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layouter::controller::tests::ControllerTest;
    use crate::layouter::intake::NodeStats;
    use crate::state::changes::Done;
    use crate::state::command::{LayoutPatch, MaintenanceRequest, Placement};
    use crate::state::name::Hostname;
    use crate::state::pause::{PauseEnd, PauseRequest};
    use crate::state::record::PauseScope;

    const BOTH: [&str; 2] = ["s1", "s2"];
    const HALF_MINUTE: PauseEnd = PauseEnd::After(Duration::from_secs(30));

    /// Two nodes with three streams each.
    fn world() -> ControllerTest {
        let mut world = ControllerTest::new(&BOTH);
        for i in 0..6 {
            world.save(&format!("c{i}"), "{}");
        }
        world.write();
        world
    }

    fn pause_until(world: &mut ControllerTest, what: PauseScope, end: Option<PauseEnd>) {
        let reason = String::new();
        let wanted = Some(PauseRequest { what, end, reason });
        let by = "anna".into();
        world.commit(Command::PauseLayouter { wanted, by });
    }

    fn pause(world: &mut ControllerTest, what: PauseScope) {
        pause_until(world, what, None);
    }

    fn resume(world: &mut ControllerTest) {
        let (wanted, by) = (None, "anna".into());
        world.commit(Command::PauseLayouter { wanted, by });
    }

    /// Time passes with these nodes alive, and nothing is sent to the writer.
    fn hold(world: &mut ControllerTest, hosts: &[&str], seconds: u64) {
        for _ in 0..seconds {
            world.beat(hosts);
            assert_eq!(world.take(), None);
            let now_ms = world.now_ms;
            assert_eq!(world.controller.next_handover_ends(now_ms), None);
            assert!(world.controller.due_ms() > now_ms, "it does not spin");
        }
    }

    fn waiting(world: &ControllerTest) -> (u64, u64) {
        let status = world.controller.status(None);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let count = |what: &str| status["waiting"][what].as_u64().expect("a count");
        (count("urgent"), count("improving"))
    }

    fn refused(world: &mut ControllerTest, items: Vec<Placement>) -> Vec<usize> {
        match world.commit(Command::Place { items }) {
            Done::Placed { refused } => refused,
            other => panic!("not a plan: {other:?}"),
        }
    }

    #[test]
    fn paused_layouter_only_counts_what_it_would_do() {
        let mut world = world();
        pause(&mut world, PauseScope::All);
        world.save("new", "{}");
        hold(&mut world, &["s2"], 100);
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
        assert_eq!((world.ingest("new"), waiting(&world)), (None, (4, 0)));
        // What is edited, switched off, moved or deleted is decided from its new row.
        world.save("new", r#"{"title":"t"}"#);
        assert_eq!(waiting(&world), (4, 0));
        world.save("new", r#"{"disabled":true}"#);
        assert_eq!(waiting(&world), (3, 0));
        let on_s1 = (0..6).map(|i| format!("c{i}"));
        let mut on_s1 = on_s1.filter(|name| world.ingest(name) == Some("s1"));
        let (moved, deleted) = (on_s1.next().expect("one"), on_s1.next().expect("two"));
        let layout = LayoutPatch {
            ingest: Some(Some(Hostname::trusted("s2"))),
            ..LayoutPatch::default()
        };
        world.commit(Command::SetLayouts {
            items: vec![(StreamName::trusted(&moved), layout)].into(),
        });
        assert_eq!(
            (world.ingest(&moved), waiting(&world)),
            (Some("s2"), (2, 0))
        );
        let name = StreamName::trusted(&deleted);
        world.commit(Command::DeleteStream { name });
        assert_eq!(waiting(&world), (1, 0));
        // It all happens at the end, as one plan.
        resume(&mut world);
        let batch = world.take().expect("a batch");
        assert_eq!(batch.1.len(), 1);
        assert_eq!(world.take(), None);
        assert_eq!(refused(&mut world, batch.1), Vec::<usize>::new());
        assert_eq!((world.on("s1"), world.on("s2")), (0, 5));
    }

    #[test]
    fn node_that_returns_during_a_pause_keeps_its_streams() {
        let mut world = world();
        pause(&mut world, PauseScope::All);
        hold(&mut world, &["s2"], 70);
        assert_eq!(waiting(&world), (3, 0));
        hold(&mut world, &BOTH, 200);
        assert_eq!(waiting(&world), (0, 0), "it would have gone back");
        resume(&mut world);
        world.live(&BOTH, 100);
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
        assert!((0..6).all(|i| world.history(&format!("c{i}")).len() == 1));
    }

    #[test]
    fn batch_under_way_is_refused_once_a_pause_is_stored() {
        let mut world = world();
        world.live(&["s2"], 600);
        for _ in 0..200 {
            world.beat(&BOTH);
            if waiting(&world).1 > 0 {
                break;
            }
        }
        assert_eq!(waiting(&world).1, 3, "three would go back");
        let (_, back) = world.take().expect("a batch");
        assert!(back.iter().all(|item| item.improves), "{back:?}");
        world.save("new", "{}");
        let (id, new) = world.take().expect("a batch");
        assert!(!new[0].improves, "{new:?}");
        pause(&mut world, PauseScope::Improving);
        assert_eq!(refused(&mut world, back), [0, 1, 2]);
        assert_eq!(refused(&mut world, new), Vec::<usize>::new());
        let done = Ok(Done::Placed { refused: vec![] });
        world.controller.on_reply(id, &done, world.now_ms);
        world.live(&BOTH, 100);
        assert!(world.ingest("new").is_some());
        assert_eq!(world.on("s1") + world.on("s2"), 7);
        let moved = (0..6).any(|i| world.history(&format!("c{i}"))[0].starts_with("s1 -"));
        assert!(!moved, "nothing went back");
        pause(&mut world, PauseScope::All);
        world.save("later", "{}");
        resume(&mut world);
        let (_, later) = world.take().expect("a batch");
        pause(&mut world, PauseScope::All);
        assert_eq!(
            refused(&mut world, later.clone()),
            (0..later.len()).collect::<Vec<_>>()
        );
        assert_eq!(world.ingest("later"), None);
    }

    #[test]
    fn fail_back_waits_for_the_end_of_a_pause_fail_over_does_not() {
        let mut world = world();
        pause(&mut world, PauseScope::Improving);
        world.live(&["s2"], 600);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 6));
        world.live(&BOTH, 300);
        assert_eq!((world.on("s1"), world.on("s2")), (0, 6));
        world.save("new", "{}");
        world.write();
        assert_eq!(world.ingest("new"), Some("s1"));
        resume(&mut world);
        world.live(&BOTH, 35);
        assert_eq!(world.on("s1") - 1, 3);
    }

    #[test]
    fn pause_ends_on_the_running_clock_and_the_end_is_repeated() {
        let mut world = world();
        pause_until(&mut world, PauseScope::All, Some(HALF_MINUTE));
        let begin_ms = world.now_ms;
        hold(&mut world, &BOTH, 29);
        assert!(world.controller.next_pause_end(world.now_ms).is_none());
        assert!(world.controller.due_ms() <= begin_ms + 30_000);
        world.beat(&BOTH);
        let end = world.controller.next_pause_end(world.now_ms);
        let end = end.expect("the end");
        assert!(world.controller.next_pause_end(world.now_ms).is_none());
        world.beat(&BOTH);
        let again = world.controller.next_pause_end(world.now_ms);
        world.commit(again.expect("it was not written"));
        assert_eq!(world.machine.state().pause(), None);
        world.save("new", "{}");
        assert_eq!(world.write(), 1);
        // A late one ends no other pause.
        pause(&mut world, PauseScope::All);
        world.commit(end);
        assert!(world.machine.state().pause().is_some());
    }

    #[test]
    fn restart_keeps_a_pause_for_its_length_at_most() {
        // Goal: a pause outlasts a restart, and does not last for ever when the wall clock is not
        // the one of its begin. Method: the stamps of this log are years before the wall clock.
        let mut world = world();
        pause_until(&mut world, PauseScope::All, Some(HALF_MINUTE));
        hold(&mut world, &BOTH, 20);
        world.restart();
        world.save("new", "{}");
        hold(&mut world, &BOTH, 29);
        world.beat(&BOTH);
        let end = world.controller.next_pause_end(world.now_ms);
        world.commit(end.expect("the end"));
        assert_eq!(world.write(), 1);
        assert!(world.ingest("new").is_some());
    }

    #[test]
    fn handover_waits_in_a_pause_but_for_those_of_operators() {
        let mut world = world();
        let streams: Vec<String> = (0..6).map(|i| format!("c{i}")).collect();
        let on_s1 = |name: &&String| world.ingest(name) == Some("s1");
        let on_s1: Vec<String> = streams.iter().filter(on_s1).cloned().collect();
        let move_one = |world: &mut ControllerTest, name: &str| {
            let layout = LayoutPatch {
                ingest: Some(Some(Hostname::trusted("s2"))),
                hands_over: true,
                ..LayoutPatch::default()
            };
            world.commit(Command::SetLayouts {
                items: vec![(StreamName::trusted(name), layout)].into(),
            });
        };
        let kept = |world: &ControllerTest| world.machine.state().handovers().len();
        move_one(&mut world, &on_s1[0]);
        world.beat(&BOTH);
        pause(&mut world, PauseScope::All);
        world.beat(&BOTH);
        move_one(&mut world, &on_s1[1]);
        assert_eq!(kept(&world), 2);
        hold(&mut world, &BOTH, 19);
        world.beat(&BOTH);
        let (number, items) = world
            .controller
            .next_handover_ends(world.now_ms)
            .expect("an end");
        assert_eq!((items.len(), &*items[0].name), (1, &*on_s1[1]));
        // A batch that was under way when the pause was stored ends nothing that it holds.
        let held = crate::state::command::HandoverEnd {
            name: StreamName::trusted(&on_s1[0]),
            ..items[0].clone()
        };
        let done = world.commit(Command::EndHandovers {
            items: vec![held, items[0].clone()],
        });
        let now_ms = world.now_ms;
        world
            .controller
            .on_handover_reply(number, &Ok(done), now_ms);
        assert_eq!(kept(&world), 1);
        hold(&mut world, &BOTH, 100);
        world.restart();
        hold(&mut world, &BOTH, 50);
        resume(&mut world);
        world.live(&BOTH, 1);
        // Balance may hand it back.
        let stream = world.machine.state().stream(&on_s1[0]);
        assert_ne!(stream.expect("it is there").handover_from(), Some("s1"));
    }

    #[test]
    fn drain_waits_in_a_pause_of_everything_only() {
        for (what, left) in [(PauseScope::All, 3), (PauseScope::Improving, 0)] {
            let mut world = world();
            pause(&mut world, what);
            let hostname = Hostname::trusted("s1");
            world.commit(Command::SetMaintenance {
                hostname,
                wanted: MaintenanceRequest::Drain {
                    reason: String::new(),
                    pace: 0,
                    within: None,
                    returns: true,
                },
            });
            for _ in 0..60 {
                world.beat(&BOTH);
                while let Some((id, items)) = world.take() {
                    let done = world.commit(Command::Place { items });
                    world.controller.on_reply(id, &Ok(done), world.now_ms);
                }
            }
            assert_eq!(world.on("s1"), left, "{what:?}");
            resume(&mut world);
            world.live(&BOTH, 60);
            assert_eq!(world.on("s1"), 0, "{what:?}");
        }
    }

    #[test]
    fn pressure_is_relieved_after_a_pause_of_everything() {
        for (what, held) in [(PauseScope::All, true), (PauseScope::Improving, false)] {
            let mut world = ControllerTest::new(&BOTH);
            for host in BOTH {
                world.save_streamer(host, r#"{"cpu_limit":80}"#);
            }
            for i in 0..40 {
                world.save(&format!("c{i}"), "{}");
            }
            world.write();
            pause(&mut world, what);
            let pass = |world: &mut ControllerTest| {
                for second in 0..100 {
                    for (host, cpu) in [("s1", 950), ("s2", 300)] {
                        let stats = NodeStats {
                            cpu_permille: Some(cpu).filter(|_| second % 10 == 0),
                            streams: Some(20),
                            ..NodeStats::default()
                        };
                        let (hostname, now_ms) = (Hostname::trusted(host), world.now_ms);
                        world.controller.record_stats(&hostname, stats, now_ms);
                    }
                    world.beat(&BOTH);
                    while let Some((id, items)) = world.take() {
                        let done = world.commit(Command::Place { items });
                        world.controller.on_reply(id, &Ok(done), world.now_ms);
                    }
                }
            };
            pass(&mut world);
            assert!(world.controller.is_pressed("s1"));
            assert_eq!(world.on("s1") == 20, held, "{what:?}: {}", world.on("s1"));
            resume(&mut world);
            pass(&mut world);
            assert!(world.on("s1") < 20, "{what:?}");
        }
    }

    #[test]
    fn streams_that_only_would_have_moved_are_not_held() {
        // Goal: a stream comes under suspicion by moves that were made. Method: two nodes are lost
        // one after the other during a pause; without it the second would have got the streams.
        let mut world = ControllerTest::new(&["s1", "s2", "s3"]);
        world.save("c", r#"{"labels":{"required.x":"y"}}"#);
        for host in ["s1", "s2", "s3"] {
            world.save_streamer(host, r#"{"labels":{"x":"y"}}"#);
        }
        world.write();
        let first = world.ingest("c").expect("placed").to_owned();
        pause(&mut world, PauseScope::All);
        let mut left: Vec<&str> = ["s1", "s2", "s3"]
            .into_iter()
            .filter(|it| *it != first)
            .collect();
        hold(&mut world, &left, 65);
        let engine = world.controller.engine().expect("it is on");
        let second = engine
            .layout("c")
            .and_then(|layout| layout.ingest)
            .expect("it would move");
        left.retain(|it| *it != &*second);
        hold(&mut world, &left, 65);
        world.controller.take_events();
        resume(&mut world);
        world.live(&left, 1);
        assert_eq!(world.ingest("c"), Some(left[0]));
    }

    #[test]
    fn pause_refills_no_budget_and_dropped_moves_are_taken_back() {
        let mut world = world();
        world.live(&["s2"], 600);
        let restore_left = |world: &ControllerTest| {
            let budgets = world.controller.engine().expect("it is on").budgets_left();
            let restore = budgets.iter().find(|it| it.name == "restore");
            restore.expect("a budget").left
        };
        for _ in 0..200 {
            world.beat(&BOTH);
            if waiting(&world).1 > 0 {
                break;
            }
        }
        assert_eq!((waiting(&world), restore_left(&world)), ((0, 3), 497));
        pause(&mut world, PauseScope::Improving);
        assert_eq!((waiting(&world), restore_left(&world)), ((0, 0), 497));
        resume(&mut world);
        assert!(restore_left(&world) <= 497, "{}", restore_left(&world));
        let now_ms = world.now_ms;
        let decided = waiting(&world).1;
        assert_eq!((decided, world.controller.drop_improving(now_ms)), (3, 3));
        assert_eq!(waiting(&world), (0, 0));
        assert_eq!(world.controller.drop_improving(now_ms), 0);
        // The next run decides them again.
        world.live(&BOTH, 40);
        assert_eq!((world.on("s1"), world.on("s2")), (3, 3));
    }
}
