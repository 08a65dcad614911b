//! The handovers of a controller, whether its layouter is enabled or not: commits, reports, losses
//! and time in, ends for the writer out.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::Controller;
use crate::error::ApiError;
use crate::feed::Commit;
use crate::layouter::handover::{HandoverCause, HandoverReport};
use crate::state::changes::Done;
use crate::state::command::HandoverEnd;
use crate::state::handover::may_keep;
use crate::state::name::Hostname;
use crate::state::node::may_restream;

impl Controller {
    /// Reads from the state which streams are handed over.
    pub(super) fn recall_handovers(&mut self, now_ms: u64) {
        let state = self.state.clone();
        for name in state.handovers() {
            self.transfers
                .handovers
                .update(name, state.stream(name), now_ms);
        }
    }

    /// Follows a commit: begun and ended handovers, and nodes that may not keep streams any more.
    pub(super) fn follow_handovers(&mut self, commit: &Commit, now_ms: u64) {
        let state = self.state.clone();
        for name in commit.streams.iter().chain(&commit.deleted_streams) {
            self.transfers
                .handovers
                .update(name, state.stream(name), now_ms);
        }
        for hostname in &commit.streamers {
            self.transfers
                .handovers
                .end_from(hostname, HandoverCause::Illegal, |name| {
                    let record = state.stream(name);
                    record.is_none_or(|record| !may_keep(&state, &record.to_owned(), hostname))
                });
        }
        // The old node of a new handover may be lost already.
        let records = commit.streams.iter().filter_map(|name| state.stream(name));
        let keepers: BTreeSet<&str> = records.filter_map(|it| it.handover_from()).collect();
        for from in keepers {
            self.end_handovers_of_lost(&Hostname::trusted(from));
        }
    }

    /// Ends the handovers from a node that is lost. Nothing there runs any longer.
    pub(super) fn end_handovers_of_lost(&mut self, hostname: &Hostname) {
        if self.node_state(hostname) == super::NodeState::Down {
            let handovers = &mut self.transfers.handovers;
            handovers.end_from(hostname, HandoverCause::NodeLost, |_| true);
        }
    }

    /// Records which nodes ran the streams that were just handed over to them. `runs` finds a
    /// stream in the last report of a node.
    pub fn note_begun_handovers(&mut self, runs: impl Fn(&str, &Hostname) -> bool) {
        self.transfers.handovers.note_begun(runs);
    }

    /// Records which streams run on a node that has just reported. `runs` is called with a stream
    /// and the time since which a report of the node counts.
    pub fn record_running(
        &mut self,
        hostname: &Hostname,
        now_ms: u64,
        runs: impl Fn(&str, u64) -> bool,
    ) {
        let node = self.nodes.find(hostname);
        let streamer = self.state.streamer(hostname);
        let report = HandoverReport {
            hostname,
            sent: node.map_or(0, |node| node.activity.sent_revision()),
            restreams: streamer.is_some_and(|it| may_restream(&self.state, it)),
            now_ms,
        };
        self.transfers.handovers.reported(&report, &runs);
        self.record_built(&report, &runs);
    }

    /// The next handovers to end, and their number for [`Controller::on_handover_reply`].
    pub fn next_handover_ends(&mut self, now_ms: u64) -> Option<(u64, Vec<HandoverEnd>)> {
        self.transfers.handovers.next_batch(now_ms)
    }

    /// Handles the writer's reply to ends of handovers.
    pub fn on_handover_reply(
        &mut self,
        number: u64,
        outcome: &Result<Done, ApiError>,
        now_ms: u64,
    ) {
        if let Err(error) = outcome {
            warn!(title = %error.items[0].title, "ends of handovers not written; retrying");
        }
        let metrics = self.metrics.clone();
        let mut counts = [0_u64; HandoverCause::ALL.len()];
        self.transfers
            .handovers
            .on_reply(number, outcome.is_ok(), now_ms, |cause| {
                counts[cause as usize] += 1;
            });
        for (cause, count) in HandoverCause::ALL.into_iter().zip(counts) {
            if count > 0 {
                info!(cause = cause.code(), count, "handovers ended");
                metrics.count_handovers(cause, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::STORAGE_UNAVAILABLE;
    use crate::layouter::controller::ControllerSettings;
    use crate::layouter::controller::tests::ControllerTest;
    use crate::state::command::{Command, LayoutPatch};
    use crate::state::name::StreamName;

    const HOSTS: [&str; 3] = ["s1", "s2", "s3"];

    /// Three nodes and a stream on the first.
    fn world(config: &str) -> ControllerTest {
        let mut world = ControllerTest::new(&HOSTS);
        world.save("a", config);
        world.write();
        plan_move(&mut world, "a", "s1");
        end_by_time(&mut world);
        assert_eq!(nodes_of(&world), ["s1"]);
        world
    }

    /// An operator moves a stream.
    fn plan_move(world: &mut ControllerTest, name: &str, host: &str) {
        let layout = LayoutPatch {
            ingest: Some(Some(Hostname::trusted(host))),
            hands_over: world.controller.settings().handover_ms > 0,
            ..LayoutPatch::default()
        };
        world.commit(Command::SetLayouts {
            items: vec![(StreamName::trusted(name), layout)].into(),
        });
    }

    fn end_by_time(world: &mut ControllerTest) {
        world.live(&HOSTS, 21);
    }

    /// A node that was sent everything reports that it runs all its streams.
    fn report(world: &mut ControllerTest, host: &str) {
        let hostname = Hostname::trusted(host);
        let node = world.nodes.get(&hostname);
        node.activity.sent(world.machine.state().revision());
        let now_ms = world.now_ms;
        world
            .controller
            .record_running(&hostname, now_ms, |_, _| true);
        world.write();
    }

    /// The same, of a node whose last report came at this time.
    fn report_of(world: &mut ControllerTest, host: &str, reported_ms: u64) {
        let hostname = Hostname::trusted(host);
        let now_ms = world.now_ms;
        world
            .controller
            .record_running(&hostname, now_ms, |_, from_ms| from_ms <= reported_ms);
        world.write();
    }

    /// The nodes that are sent the stream `a`.
    fn nodes_of(world: &ControllerTest) -> Vec<&'static str> {
        let state = world.machine.state();
        let has = |host: &&str| {
            let node = state.node(host).expect("it was saved");
            node.streams.contains_key("a")
        };
        HOSTS.into_iter().filter(has).collect()
    }

    fn kept_by(world: &ControllerTest) -> Option<&str> {
        world.machine.state().stream("a")?.handover_from()
    }

    fn set(world: &mut ControllerTest, change: impl FnOnce(&mut ControllerSettings)) {
        let mut settings = world.controller.settings().clone();
        change(&mut settings);
        world.controller.set(settings, world.now_ms);
    }

    #[test]
    fn old_node_keeps_a_stream_until_the_new_one_reports_it() {
        let mut world = world("{}");
        let generation = |world: &ControllerTest, host| {
            let node = world.machine.state().node(host);
            node.expect("it was saved").generation
        };
        let before = generation(&world, "s1");
        plan_move(&mut world, "a", "s2");
        assert_eq!(
            (world.ingest("a"), kept_by(&world)),
            (Some("s2"), Some("s1"))
        );
        assert_eq!(nodes_of(&world), ["s1", "s2"]);
        assert_eq!(
            generation(&world, "s1"),
            before,
            "it is sent the same as before"
        );
        // A report of the old node, one without the stream, and one from before it was sent.
        let (s1, s2) = (Hostname::trusted("s1"), Hostname::trusted("s2"));
        let now_ms = world.now_ms;
        world.controller.record_running(&s1, now_ms, |_, _| true);
        world.controller.record_running(&s2, now_ms, |_, _| false);
        world.nodes.get(&s2).activity.sent(1);
        world.controller.record_running(&s2, now_ms, |_, _| true);
        world.live(&HOSTS, 10);
        assert_eq!(nodes_of(&world), ["s1", "s2"]);
        report(&mut world, "s2");
        assert_eq!((nodes_of(&world), kept_by(&world)), (vec!["s2"], None));
        assert!(generation(&world, "s1") > before);
        world.live(&HOSTS, 60);
        assert_eq!(world.ingest("a"), Some("s2"));
    }

    #[test]
    fn report_counts_from_the_begin_of_the_handover() {
        let mut world = world("{}");
        let since_ms = world.now_ms;
        plan_move(&mut world, "a", "s2");
        world.live(&HOSTS, 5);
        let s2 = Hostname::trusted("s2");
        let now_ms = world.now_ms;
        world
            .controller
            .record_running(&s2, now_ms, |name, not_before_ms| {
                assert_eq!((name, not_before_ms), ("a", since_ms));
                false
            });
    }

    #[test]
    fn restreamer_must_be_sent_a_stream_before_it_captures_it() {
        // Goal: what the new node pulls from the old one does not end the handover. Method: it runs
        // the stream from the begin, because it restreams or was seen to.
        for restreams in [true, false] {
            let mut world = world("{}");
            let flag = format!(r#"{{"is_restreamer":{restreams}}}"#);
            world.save_streamer("s2", &flag);
            plan_move(&mut world, "a", "s2");
            world.controller.note_begun_handovers(|name, host| {
                assert_eq!((name, &**host), ("a", "s2"));
                !restreams
            });
            let s2 = world.nodes.get(&Hostname::trusted("s2"));
            let at_ms = world.now_ms;
            report_of(&mut world, "s2", at_ms);
            world.live(&HOSTS, 3);
            let at_ms = world.now_ms;
            report_of(&mut world, "s2", at_ms);
            assert_eq!(kept_by(&world), Some("s1"), "it was not sent the move");
            s2.activity.sent(world.machine.state().revision());
            report_of(&mut world, "s2", at_ms);
            world.live(&HOSTS, 4);
            let at_ms = world.now_ms;
            report_of(&mut world, "s2", at_ms);
            assert_eq!(kept_by(&world), Some("s1"), "it was sent the move just now");
            world.live(&HOSTS, 4);
            report_of(&mut world, "s2", at_ms);
            assert_eq!(kept_by(&world), Some("s1"), "the report is an earlier one");
            let at_ms = world.now_ms;
            report_of(&mut world, "s2", at_ms);
            assert_eq!(kept_by(&world), None);
        }
    }

    #[test]
    fn handover_to_a_restreamer_that_pages_ends_by_time() {
        let mut world = world("{}");
        world.save_streamer("s2", r#"{"is_restreamer":true}"#);
        plan_move(&mut world, "a", "s2");
        for _ in 0..19 {
            world.live(&HOSTS, 1);
            let at_ms = world.now_ms;
            report_of(&mut world, "s2", at_ms);
            assert_eq!(nodes_of(&world), ["s1", "s2"], "it may still pull");
        }
        world.live(&HOSTS, 1);
        assert_eq!(nodes_of(&world), ["s2"]);
    }

    #[test]
    fn handover_ends_at_its_time_limit() {
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        let since_ms = world.now_ms;
        world.live(&HOSTS, 19);
        assert_eq!(nodes_of(&world), ["s1", "s2"]);
        assert!(world.controller.due_ms() <= since_ms + 20_000);
        world.live(&HOSTS, 1);
        assert_eq!(nodes_of(&world), ["s2"]);
    }

    #[test]
    fn improving_moves_hand_over_and_fail_overs_do_not() {
        let mut world = world("{}");
        world.live(&HOSTS[1..], 61);
        assert_eq!(kept_by(&world), None, "a lost node keeps nothing");
        let away = world.ingest("a").expect("it moved").to_owned();
        assert_ne!(away, "s1");
        let mut handed_over = false;
        for _ in 0..120 {
            world.live(&HOSTS, 1);
            handed_over |= world.ingest("a") == Some("s1") && kept_by(&world) == Some(&*away);
        }
        assert!(handed_over, "it returned: {:?}", world.history("a"));
        assert_eq!((nodes_of(&world), kept_by(&world)), (vec!["s1"], None));
        // A label that the node does not have is no planned move.
        world.save_streamer("s3", r#"{"labels":{"x":"y"}}"#);
        world.save("a", r#"{"labels":{"required.x":"y"}}"#);
        world.write();
        assert_eq!((nodes_of(&world), kept_by(&world)), (vec!["s3"], None));
    }

    #[test]
    fn loss_of_the_old_node_ends_its_handovers() {
        let mut world = world("{}");
        set(&mut world, |settings| settings.handover_ms = 600_000);
        plan_move(&mut world, "a", "s2");
        world.live(&HOSTS[1..], 59);
        assert_eq!(nodes_of(&world), ["s1", "s2"]);
        world.live(&HOSTS[1..], 3);
        assert_eq!(nodes_of(&world), ["s2"]);
        // A move off a node that is lost already.
        set(&mut world, |settings| settings.enabled = false);
        plan_move(&mut world, "a", "s1");
        report(&mut world, "s1");
        plan_move(&mut world, "a", "s3");
        assert_eq!(kept_by(&world), Some("s1"));
        world.write();
        assert_eq!(nodes_of(&world), ["s3"]);
    }

    #[test]
    fn stream_returns_when_its_new_node_is_lost() {
        let mut world = world("{}");
        set(&mut world, |settings| settings.handover_ms = 600_000);
        plan_move(&mut world, "a", "s2");
        // Both others are emptier than the old node.
        for i in 0..3 {
            world.save(&format!("b{i}"), "{}");
            world.write();
            plan_move(&mut world, &format!("b{i}"), "s1");
        }
        world.live(&["s1", "s3"], 61);
        assert_eq!((world.ingest("a"), kept_by(&world)), (Some("s1"), None));
        assert_eq!(nodes_of(&world), ["s1"]);
        assert_eq!(world.history("a")[0], "s1 node_become_offline");
    }

    #[test]
    fn second_move_leaves_the_stream_where_it_runs() {
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        plan_move(&mut world, "a", "s3");
        assert_eq!(
            (world.ingest("a"), kept_by(&world)),
            (Some("s3"), Some("s1"))
        );
        assert_eq!(nodes_of(&world), ["s1", "s3"]);
        report(&mut world, "s2");
        assert_eq!(
            nodes_of(&world),
            ["s1", "s3"],
            "the second node has it no more"
        );
        report(&mut world, "s3");
        assert_eq!(nodes_of(&world), ["s3"]);
        plan_move(&mut world, "a", "s2");
        plan_move(&mut world, "a", "s3");
        assert_eq!(
            (nodes_of(&world), kept_by(&world)),
            (vec!["s3"], None),
            "back again"
        );
    }

    #[test]
    fn edits_end_the_handover_of_a_stream_that_may_not_stay() {
        for (edit, keeps) in [
            (r#"{"title":"t"}"#, true),
            (r#"{"disabled":true}"#, false),
            (r#"{"dvr":{"root":"/d"}}"#, false),
            (r#"{"labels":{"required.x":"y"}}"#, false),
            (r#"{"inputs":[{"url":"publish://"}]}"#, false),
        ] {
            let mut world = world("{}");
            set(&mut world, |settings| settings.enabled = false);
            world.save_streamer("s2", r#"{"labels":{"x":"y"}}"#);
            plan_move(&mut world, "a", "s2");
            world.save("a", edit);
            assert_eq!(kept_by(&world).is_some(), keeps, "{edit}");
            assert_eq!(nodes_of(&world).contains(&"s1"), keeps, "{edit}");
        }
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        world.commit(Command::DeleteStream {
            name: StreamName::trusted("a"),
        });
        assert_eq!(nodes_of(&world), [""; 0]);
        world.live(&HOSTS, 30);
        world.save("a", "{}");
        world.write();
        assert_eq!(kept_by(&world), None, "a new stream of the name");
    }

    #[test]
    fn changed_or_deleted_old_node_keeps_nothing() {
        for change in [r#"{"labels":{"required.x":"y"}}"#, ""] {
            let mut world = world("{}");
            plan_move(&mut world, "a", "s2");
            if change.is_empty() {
                let hostname = Hostname::trusted("s1");
                world.commit(Command::DeleteStreamer { hostname });
            } else {
                world.save_streamer("s1", change);
            }
            world.write();
            assert_eq!((world.ingest("a"), kept_by(&world)), (Some("s2"), None));
        }
    }

    #[test]
    fn streams_that_must_not_run_twice_move_at_once() {
        for config in [
            r#"{"dvr":{"root":"/d"}}"#,
            r#"{"pushes":[{"url":"rtmp://d/a"}]}"#,
            r#"{"inputs":[{"url":"udp://239.0.0.1:1"},{"url":"publish://"}]}"#,
            r#"{"inputs":[{"url":"rtsp://c/1","via":"agent://x"}]}"#,
            r#"{"template":"t"}"#,
            r#"{"srt_publish":{"port":9000}}"#,
        ] {
            let mut world = world(config);
            plan_move(&mut world, "a", "s2");
            assert_eq!(
                (nodes_of(&world), kept_by(&world)),
                (vec!["s2"], None),
                "{config}"
            );
        }
    }

    #[test]
    fn handovers_end_without_the_layouter_and_after_a_restart() {
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        set(&mut world, |settings| settings.enabled = false);
        assert!(world.controller.engine().is_none());
        report(&mut world, "s2");
        assert_eq!(nodes_of(&world), ["s2"]);
        plan_move(&mut world, "a", "s1");
        assert_eq!(kept_by(&world), Some("s2"));
        world.restart();
        world.live(&HOSTS, 15);
        assert_eq!(nodes_of(&world), ["s1", "s2"]);
        world.live(&HOSTS, 6);
        assert_eq!(nodes_of(&world), ["s1"]);
        plan_move(&mut world, "a", "s2");
        world.restart();
        report(&mut world, "s2");
        assert_eq!(nodes_of(&world), ["s2"]);
    }

    #[test]
    fn end_that_was_not_written_is_repeated() {
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        let (s2, now_ms) = (Hostname::trusted("s2"), world.now_ms);
        world.controller.record_running(&s2, now_ms, |_, _| true);
        for _ in 0..3 {
            let ends = world.controller.next_handover_ends(world.now_ms);
            let (number, items) = ends.expect("the end is due");
            assert_eq!(items.len(), 1);
            assert_eq!(
                world.controller.next_handover_ends(world.now_ms),
                None,
                "in flight"
            );
            let full = Err(STORAGE_UNAVAILABLE.error().retry_after(1));
            world
                .controller
                .on_handover_reply(number, &full, world.now_ms);
            assert_eq!(
                world.controller.next_handover_ends(world.now_ms),
                None,
                "a pause"
            );
            assert!(world.controller.due_ms() <= world.now_ms + 1000);
            world.now_ms += 1000;
        }
        world.write();
        assert_eq!(nodes_of(&world), ["s2"]);
    }

    #[test]
    fn end_of_an_earlier_handover_does_not_end_a_later_one() {
        // Goal: an end that is on its way when the stream moves again changes nothing.
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        let (s2, now_ms) = (Hostname::trusted("s2"), world.now_ms);
        world.controller.record_running(&s2, now_ms, |_, _| true);
        let (number, items) = world
            .controller
            .next_handover_ends(world.now_ms)
            .expect("due");
        plan_move(&mut world, "a", "s3");
        let done = world.commit(Command::EndHandovers { items });
        let now_ms = world.now_ms;
        world
            .controller
            .on_handover_reply(number, &Ok(done), now_ms);
        world.write();
        assert_eq!(nodes_of(&world), ["s1", "s3"]);
        end_by_time(&mut world);
        assert_eq!(nodes_of(&world), ["s3"]);
    }

    #[test]
    fn setting_of_zero_ends_handovers_and_begins_none() {
        let mut world = world("{}");
        plan_move(&mut world, "a", "s2");
        set(&mut world, |settings| settings.handover_ms = 0);
        world.live(&HOSTS, 1);
        assert_eq!(nodes_of(&world), ["s2"]);
        plan_move(&mut world, "a", "s1");
        assert_eq!(nodes_of(&world), ["s1"]);
        world.live(&HOSTS[1..], 61);
        for _ in 0..120 {
            world.live(&HOSTS, 1);
            assert_eq!(kept_by(&world), None);
        }
        assert_eq!(world.ingest("a"), Some("s1"), "it was restored");
    }

    #[test]
    fn old_node_is_charged_for_the_streams_that_it_keeps() {
        // Goal: new streams go where there is room in fact. Method: one node hands two of its three
        // streams over, so both have three and two until that is over.
        let mut world = ControllerTest::new(&["s1", "s2"]);
        for i in 0..3 {
            world.save(&format!("c{i}"), "{}");
            world.write();
            plan_move(&mut world, &format!("c{i}"), "s1");
        }
        world.live(&["s1", "s2"], 21);
        plan_move(&mut world, "c0", "s2");
        plan_move(&mut world, "c1", "s2");
        let s2 = world.nodes.get(&Hostname::trusted("s2"));
        s2.activity.sent(world.machine.state().revision());
        world.beat(&["s1", "s2"]);
        world.save("a", "{}");
        world.write();
        assert_eq!(world.ingest("a"), Some("s2"), "three there, two here");
        report(&mut world, "s2");
        world.save("d", "{}");
        world.write();
        assert_eq!(world.ingest("d"), Some("s1"));
    }
}
