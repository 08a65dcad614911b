//! The rules of the planner, one by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::desired::{Wanted, WantedDvr, WantedInput, WantedStream};
use super::super::kind::{ListedStream, PutCause, StreamCall};
use super::super::plan::{
    CallEnd, CallPlan, Observation, Owned, OwnedState, OwnedStream, PlanSettings, Planner,
    RECORDED_AHEAD_MAX, ServerList, SourceFault,
};
use super::{Clock, TestRules, settings};

/// A planner with a server that does what it is called to do.
struct Bench {
    planner: Planner,
    list: ServerList,
    clock: Clock,
}

fn stream(urls: &[&str]) -> WantedStream {
    let input = |url: &&str| WantedInput {
        url: (*url).into(),
        source_timeout: None,
    };
    WantedStream {
        dvr: None,
        inputs: urls.iter().map(input).collect(),
    }
}

fn wanted(streams: &[(&str, &str)]) -> Wanted {
    let streams = streams.iter();
    streams
        .map(|(name, url)| ((*name).into(), stream(&[url])))
        .collect()
}

impl Bench {
    fn with(settings: PlanSettings, owned: Owned) -> Self {
        let clock = Clock::new();
        Self {
            planner: Planner::new(settings, Arc::new(TestRules), owned, clock.0),
            list: ServerList {
                serial: 1,
                ..ServerList::default()
            },
            clock,
        }
    }

    fn new() -> Self {
        Self::with(settings(), Owned::new())
    }

    fn plan(&mut self) -> CallPlan {
        self.list.serial += 1;
        self.planner.plan(self.clock.0, &self.list)
    }

    /// One round; the calls as text.
    fn round(&mut self) -> Vec<String> {
        let plan = self.plan();
        self.planner.record(&plan);
        for call in &plan.calls {
            self.planner.begin(self.clock.0, call);
            match call {
                StreamCall::Put { native, .. } => {
                    self.list
                        .streams
                        .insert(native.clone(), ListedStream::default());
                }
                StreamCall::Remove { native } => drop(self.list.streams.remove(native)),
            }
            self.planner.end(self.clock.0, call, Ok(()));
        }
        plan.calls.iter().map(StreamCall::to_string).collect()
    }

    fn observe(&mut self, native: &str, observation: Observation) {
        let seen = BTreeMap::from([(native.into(), observation)]);
        self.planner.observe(self.clock.0, &seen);
    }

    fn code(&self, name: &str) -> &str {
        let error = self.planner.errors().get(name);
        error.map_or("", |error| error.code)
    }
}

const FLOWS: Observation = Observation {
    is_growing: true,
    lacks_picture: false,
    viewers: 0,
};
const DARK: Observation = Observation {
    is_growing: true,
    lacks_picture: true,
    viewers: 0,
};

#[test]
fn nothing_known_plans_nothing() {
    let owned = OwnedStream {
        name: "a".into(),
        source: "rtsp://h/a".into(),
        recording: None,
        state: OwnedState::Given,
    };
    let mut bench = Bench::with(
        PlanSettings {
            exclusive: true,
            ..settings()
        },
        Owned::from([("a".into(), owned)]),
    );
    bench
        .list
        .streams
        .insert("x".into(), ListedStream::default());
    assert_eq!(bench.plan(), CallPlan::default());
}

#[test]
fn removals_come_first_then_changes_then_additions() {
    let mut bench = Bench::new();
    bench
        .planner
        .set_wanted(&wanted(&[("m", "rtsp://h1/m"), ("z", "rtsp://h2/z")]));
    bench.round();
    bench.clock.pass(6000);
    bench
        .planner
        .set_wanted(&wanted(&[("a", "rtsp://h3/a"), ("z", "rtsp://h2/new")]));
    assert_eq!(
        bench.round(),
        [
            "remove m",
            "change z from rtsp://h2/new",
            "add a from rtsp://h3/a"
        ]
    );
}

/// Streams of one name each, recorded below the root if there is one.
fn recorded(names: &[String], root: Option<&str>) -> Wanted {
    let streams = names.iter().map(|name| {
        let mut stream = stream(&[&format!("rtsp://{name}/a")]);
        stream.dvr = root.map(|root| {
            Box::new(WantedDvr {
                root: Some(root.into()),
                ..WantedDvr::default()
            })
        });
        (name.as_str().into(), stream)
    });
    streams.collect()
}

#[test]
fn change_of_recording_starts_nothing_again() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..60).map(|number| format!("s{number:02}")).collect();
    bench.planner.set_wanted(&recorded(&names, None));
    for _ in 0..8 {
        bench.round();
        bench.clock.pass(1000);
    }
    assert!(bench.round().is_empty(), "all are given");
    // More than may start in a second; one plan has a bounded number of them.
    bench.planner.set_wanted(&recorded(&names, Some("/r")));
    let calls = bench.round();
    assert_eq!(calls.len(), 50);
    assert!(
        calls.iter().all(|call| call.starts_with("record ")),
        "{calls:?}"
    );
    assert_eq!(bench.round().len(), 10);
    assert!(bench.round().is_empty());
    let one = &names[..1];
    let mut wanted = recorded(&names, Some("/r"));
    wanted.extend(recorded(one, None));
    bench.planner.set_wanted(&wanted);
    assert_eq!(
        bench.round(),
        ["stop the recording of s00 from rtsp://s00/a"]
    );
    wanted.extend(recorded(one, Some("/other")));
    bench.planner.set_wanted(&wanted);
    let plan = bench.plan();
    let [
        StreamCall::Put {
            recording, cause, ..
        },
    ] = &plan.calls[..]
    else {
        panic!("{plan:?}");
    };
    assert_eq!(*cause, PutCause::Record);
    assert_eq!(recording.as_ref().map(|it| &*it.root), Some("/other"));
    assert!(bench.planner.record(&plan), "it is on disk before the call");
}

#[test]
fn impossible_recording_is_an_error_of_a_running_stream() {
    let mut bench = Bench::new();
    let names = ["a".to_owned()];
    let mut wanted = recorded(&names, Some("/r"));
    wanted.get_mut("a").expect("it is there").dvr = Some(Box::default());
    bench.planner.set_wanted(&wanted);
    assert_eq!(bench.round(), ["add a from rtsp://a/a"]);
    bench.round();
    assert_eq!(bench.code("a"), "dvr_not_supported");
    bench.planner.set_wanted(&recorded(&names, Some("/r")));
    assert_eq!(bench.round(), ["record a from rtsp://a/a"]);
    bench.round();
    assert_eq!(bench.code("a"), "");
}

#[test]
fn stream_is_removed_whether_or_not_the_list_shows_it() {
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    bench.round();
    bench.list.streams.clear();
    bench.planner.set_wanted(&Wanted::new());
    assert_eq!(bench.round(), ["remove a"]);
    assert!(bench.round().is_empty());
}

#[test]
fn stream_that_one_list_lacks_is_not_given_again() {
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    bench.round();
    bench.clock.pass(6000);
    let known = std::mem::take(&mut bench.list.streams);
    assert!(bench.round().is_empty(), "lists have been wrong");
    bench.list.streams = known;
    assert!(bench.round().is_empty());
    bench.list.streams.clear();
    assert!(bench.round().is_empty());
    assert_eq!(bench.round(), ["add a from rtsp://h/a"], "twice in a row");
    // After a restart of the server the first list is enough.
    bench.clock.pass(6000);
    bench.list.run = Some("1".into());
    bench.round();
    bench.list.run = Some("2".into());
    bench.list.streams.clear();
    assert_eq!(bench.round(), ["add a from rtsp://h/a"]);
}

#[test]
fn what_reads_back_equal_is_adopted_and_else_foreign() {
    let mut bench = Bench::new();
    let shown = |source: &str| ListedStream {
        source: Some(source.into()),
        is_idle: false,
    };
    bench.list.streams.insert("a".into(), shown("rtsp://h/a"));
    bench
        .list
        .streams
        .insert("b".into(), shown("rtsp://h/other"));
    let both = wanted(&[("a", "rtsp://h/a"), ("b", "rtsp://h/b")]);
    bench.planner.set_wanted(&both);
    assert!(bench.round().is_empty());
    assert_eq!((bench.code("a"), bench.code("b")), ("", "foreign_stream"));
    assert!(bench.planner.owned().contains_key("a"), "adopted");
    bench.planner.set_wanted(&Wanted::new());
    assert_eq!(bench.round(), ["remove a"]);
}

#[test]
fn second_stream_with_a_taken_name_is_an_error_and_no_swap() {
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("b", "rtsp://h/b")]));
    bench.round();
    // Upper case comes first in order, and does not take the place.
    bench
        .planner
        .set_wanted(&wanted(&[("B", "rtsp://h/B"), ("b", "rtsp://h/b")]));
    assert!(bench.round().is_empty());
    assert_eq!((bench.code("B"), bench.code("b")), ("name_taken", ""));
    bench.planner.set_wanted(&wanted(&[("B", "rtsp://h/B")]));
    bench.clock.pass(6000);
    assert_eq!(bench.round(), ["change b from rtsp://h/B"]);
    // Nor does the later one in order, once the place is taken.
    bench
        .planner
        .set_wanted(&wanted(&[("B", "rtsp://h/B"), ("b", "rtsp://h/b")]));
    assert!(bench.round().is_empty());
    assert_eq!((bench.code("B"), bench.code("b")), ("", "name_taken"));
}

#[test]
fn additions_keep_the_pace_and_two_per_host() {
    let mut bench = Bench::new();
    let names: Vec<(String, String)> = (0..100)
        .map(|number| {
            (
                format!("s{number:03}"),
                format!("rtsp://h{}/a", number % 30),
            )
        })
        .collect();
    let list: Vec<(&str, &str)> = names.iter().map(|(name, url)| (&**name, &**url)).collect();
    bench.planner.set_wanted(&wanted(&list));
    let plan = bench.plan();
    assert_eq!(plan.calls.len(), 10);
    assert_eq!(plan.next.len(), RECORDED_AHEAD_MAX);
    assert_eq!(bench.round().len(), 10);
    assert_eq!(bench.round().len(), 0, "within the same second");
    bench.clock.pass(1000);
    assert_eq!(bench.round().len(), 10);
    // All from one host: two at a time, until their bytes flow.
    let mut bench = Bench::new();
    let list: Vec<(&str, &str)> = names
        .iter()
        .map(|(name, _)| (&**name, "rtsp://user:p@[fd00::1]:554/x"))
        .collect();
    bench.planner.set_wanted(&wanted(&list));
    assert_eq!(bench.round().len(), 2);
    bench.clock.pass(1000);
    assert_eq!(bench.round().len(), 0);
    bench.observe("s000", FLOWS);
    assert_eq!(bench.round().len(), 1, "one of the two flows");
    bench.clock.pass(5000);
    assert_eq!(
        bench.round().len(),
        2,
        "silence is no reason to wait for ever"
    );
}

#[test]
fn most_watched_streams_return_first() {
    let mut bench = Bench::with(
        PlanSettings {
            starts_per_second: 1,
            ..settings()
        },
        Owned::new(),
    );
    bench
        .planner
        .set_wanted(&wanted(&[("a", "rtsp://h1/a"), ("b", "rtsp://h2/b")]));
    bench.list.run = Some("1".into());
    bench.round();
    bench.clock.pass(1000);
    bench.round();
    let watched = Observation {
        viewers: 9,
        ..FLOWS
    };
    bench.observe("b", watched);
    bench.clock.pass(1000);
    bench.list.run = Some("2".into());
    bench.list.streams.clear();
    assert_eq!(bench.round(), ["add b from rtsp://h2/b"]);
}

#[test]
fn stream_without_a_picture_is_restarted_ever_more_rarely() {
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    bench.round();
    let mut restarts = Vec::new();
    for second in 1..=2400 {
        bench.clock.pass(1000);
        bench.observe("a", DARK);
        if !bench.round().is_empty() {
            restarts.push(second);
        }
    }
    let pauses: Vec<i32> = restarts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(restarts[0], 6, "five seconds after the first look");
    assert_eq!(pauses, [60, 300, 900, 900]);
    assert_eq!(bench.code("a"), "no_picture");
    bench.observe("a", FLOWS);
    assert!(bench.round().is_empty());
    assert_eq!(bench.code("a"), "");
    // Silence is no sickness: the server connects again by itself.
    for _ in 0..60 {
        bench.clock.pass(1000);
        bench.observe("a", Observation::default());
        assert!(bench.round().is_empty());
    }
}

#[test]
fn fence_removes_streams_and_a_good_answer_returns_them() {
    let fence_after = Some(std::time::Duration::from_mins(1));
    let mut bench = Bench::with(
        PlanSettings {
            fence_after,
            ..settings()
        },
        Owned::new(),
    );
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    bench.round();
    bench.clock.pass(59_000);
    assert!(bench.round().is_empty());
    bench.clock.pass(1000);
    assert_eq!(bench.round(), ["remove a"]);
    bench.planner.weir_answered(bench.clock.0);
    assert_eq!(bench.round(), ["add a from rtsp://h/a"]);
    // Without a fence they run for ever.
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    bench.round();
    bench.clock.pass(7 * 24 * 3_600_000);
    assert!(bench.round().is_empty());
}

#[test]
fn silent_input_is_replaced_and_the_first_returns() {
    let mut bench = Bench::new();
    let inputs = ["rtsp://h1/a", "m4s://h9/a", "rtsp://h2/a"];
    let both = Wanted::from([("a".into(), stream(&inputs))]);
    bench.planner.set_wanted(&both);
    assert_eq!(bench.round(), ["add a from rtsp://h1/a"]);
    let silent = Observation::default();
    bench.clock.pass(59_000);
    bench.observe("a", silent);
    assert!(bench.round().is_empty());
    bench.clock.pass(1000);
    bench.observe("a", silent);
    assert_eq!(bench.round(), ["change a from rtsp://h2/a"]);
    let mut changes = Vec::new();
    for second in 0..130 {
        bench.clock.pass(1000);
        bench.observe("a", FLOWS);
        for (native, url) in bench.planner.probes(bench.clock.0) {
            assert_eq!(&*url, "rtsp://h1/a");
            // It accepts connections from second 40 on, with one break.
            let accepts = second >= 40 && second != 50;
            let now = bench.clock.0;
            bench.planner.probed(now, &native, &url, accepts);
        }
        if !bench.round().is_empty() {
            changes.push(second);
        }
    }
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0] >= 100, "a minute without a break: {changes:?}");
}

#[test]
fn refused_stream_is_an_error_and_tried_again_later() {
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    let mut attempts = Vec::new();
    for second in 0..200 {
        bench.clock.pass(1000);
        let plan = bench.plan();
        bench.planner.record(&plan);
        for call in &plan.calls {
            attempts.push(second);
            let refusal = Some("no".into());
            let end = CallEnd {
                refusal,
                source_fault: None,
            };
            bench.planner.begin(bench.clock.0, call);
            bench.planner.end(bench.clock.0, call, Err(end));
        }
    }
    assert!((6..12).contains(&attempts.len()), "{attempts:?}");
    assert_eq!(bench.code("a"), "server_refused");
    assert!(bench.planner.owned().is_empty(), "nothing of ours is there");
    bench.clock.pass(60_000);
    bench.round();
    bench.round();
    assert_eq!(bench.code("a"), "");
}

#[test]
fn change_with_a_lost_answer_is_made_again() {
    let mut bench = Bench::new();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/a")]));
    bench.round();
    bench.planner.set_wanted(&wanted(&[("a", "rtsp://h/b")]));
    bench.clock.pass(6000);
    let plan = bench.plan();
    assert!(bench.planner.record(&plan), "on disk before the call");
    // The bridge is killed; what it recorded is all that is left.
    let owned = bench.planner.owned().clone();
    assert_eq!(owned["a"].state, OwnedState::Changing);
    let mut again = Bench::with(settings(), owned);
    again.list = bench.list.clone();
    again.planner.set_wanted(&wanted(&[("a", "rtsp://h/b")]));
    assert_eq!(again.round(), ["change a from rtsp://h/b"]);
    assert!(again.round().is_empty());
}

#[test]
fn idle_streams_resume_one_at_a_time() {
    let mut bench = Bench::new();
    bench
        .planner
        .set_wanted(&wanted(&[("a", "rtsp://h1/a"), ("b", "rtsp://h2/b")]));
    bench.round();
    bench.clock.pass(6000);
    for native in ["a", "b"] {
        bench.list.streams.get_mut(native).expect("given").is_idle = true;
    }
    let plan = bench.plan();
    let [call @ StreamCall::Put { cause, .. }] = &plan.calls[..] else {
        panic!("one call: {plan:?}");
    };
    assert_eq!(*cause, PutCause::Resume);
    let end = CallEnd {
        refusal: None,
        source_fault: Some(SourceFault::Unreachable),
    };
    bench.planner.begin(bench.clock.0, call);
    bench.planner.end(bench.clock.0, call, Err(end));
    bench.plan();
    assert_eq!(bench.code("a"), "source_unreachable");
}
