//! Random histories of Weir, bridge and server against a model: edits, lost answers, refusals,
//! lists that lack streams, and restarts of the three at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::desired::{Wanted, WantedInput, WantedStream};
use super::super::kind::{ListedStream, ServerRules as _, StreamCall};
use super::super::plan::{CallEnd, CallPlan, Observation, Owned, OwnedState, Planner, ServerList};
use super::{Clock, TestRules, settings};

/// Histories of a usual run; the variable `BRIDGE_HISTORIES` changes it.
const HISTORIES: u64 = 400;
const STEPS: usize = 120;
/// Two of them have the same name on the server.
const NAMES: [&str; 6] = ["a", "b", "B", "c/1", "d", "e"];
const HOSTS: u64 = 3;
/// Rounds after which everything is settled, once nothing goes wrong any more.
const SETTLING_ROUNDS: usize = 200;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
    }

    fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// A stream on the model of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ActualStream {
    source: Box<str>,
    is_foreign: bool,
}

struct History {
    random: Random,
    clock: Clock,
    /// What is on disk.
    disk: (Option<Wanted>, Owned),
    planner: Planner,
    /// What Weir wants, and what the bridge was last given.
    weir: Wanted,
    given: Option<Wanted>,
    actual: BTreeMap<Box<str>, ActualStream>,
    /// The server shows sources as they were given.
    is_trusted: bool,
    /// The server keeps streams over its restart.
    is_persistent: bool,
    runs: u64,
    serial: u64,
    starts: Vec<(Instant, Box<str>)>,
    log: Vec<String>,
}

fn wanted_stream(url: &str) -> WantedStream {
    WantedStream {
        dvr: None,
        inputs: vec![WantedInput {
            url: url.into(),
            source_timeout: None,
        }],
    }
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let clock = Clock::new();
        Self {
            is_trusted: random.once_in(2),
            is_persistent: random.once_in(2),
            random,
            clock,
            disk: (None, Owned::new()),
            planner: Planner::new(settings(), Arc::new(TestRules), Owned::new(), clock.0),
            weir: Wanted::new(),
            given: None,
            actual: BTreeMap::new(),
            runs: 0,
            serial: 0,
            starts: Vec::new(),
            log: Vec::new(),
        }
    }

    fn name(&mut self) -> Box<str> {
        NAMES[self.random.below(NAMES.len() as u64) as usize].into()
    }

    fn step(&mut self) {
        let ms = self.random.below(1500);
        self.clock.pass(ms);
        match self.random.below(14) {
            0..=2 => self.edit(),
            3 | 4 => self.deliver(),
            5 => self.restart_server(),
            6 => self.restart_bridge(),
            7 => self.act_by_hand(),
            8 => self.measure(),
            _ => {
                self.round(true);
            }
        }
    }

    fn edit(&mut self) {
        let name = self.name();
        if self.random.once_in(3) {
            self.log.push(format!("weir: {name} is removed"));
            self.weir.remove(&name);
            return;
        }
        let url = match self.random.below(8) {
            0 => "file:///etc/passwd".to_owned(),
            1 => "rtsp://h/\";}".to_owned(),
            other => format!("rtsp://h{}/{other}", self.random.below(HOSTS)),
        };
        self.log.push(format!("weir: {name} from {url}"));
        self.weir.insert(name, wanted_stream(&url));
    }

    /// A good answer arrives.
    fn deliver(&mut self) {
        self.log.push("news".to_owned());
        self.given = Some(self.weir.clone());
        self.disk = (self.given.clone(), self.planner.owned().clone());
        self.planner.weir_answered(self.clock.0);
        self.planner.set_wanted(&self.weir);
    }

    fn restart_server(&mut self) {
        self.log.push("the server restarts".to_owned());
        self.runs += 1;
        if !self.is_persistent {
            self.actual.clear();
        }
    }

    fn restart_bridge(&mut self) {
        self.log.push("the bridge restarts".to_owned());
        let (wanted, mut owned) = self.disk.clone();
        for owned in owned.values_mut() {
            // As the file does.
            if owned.state == OwnedState::Intended {
                owned.state = OwnedState::Unsure;
            }
        }
        self.planner = Planner::new(settings(), Arc::new(TestRules), owned, self.clock.0);
        self.given = wanted;
        if let Some(wanted) = &self.given {
            self.planner.set_wanted(wanted);
        }
        // The pace of a process begins with it.
        self.starts.clear();
    }

    /// An operator adds a stream of his own, or removes one.
    fn act_by_hand(&mut self) {
        let native = TestRules.native(&self.name());
        let is_foreign = self.actual.get(&native).map(|stream| stream.is_foreign);
        match is_foreign {
            // One of ours that vanishes from a server that shows no sources is given again.
            Some(_) => drop(self.actual.remove(&native)),
            None => {
                let is_ours = |owned: &Owned| owned.contains_key(&native);
                if is_ours(self.planner.owned()) || is_ours(&self.disk.1) {
                    return;
                }
                let source = format!("rtsp://h{}/3", self.random.below(HOSTS)).into();
                let is_foreign = true;
                self.actual
                    .insert(native.clone(), ActualStream { source, is_foreign });
            }
        }
        self.log.push(format!("by hand: {native}"));
    }

    fn measure(&mut self) {
        let mut seen = BTreeMap::new();
        for native in self.actual.keys() {
            let observation = Observation {
                is_growing: true,
                ..Observation::default()
            };
            seen.insert(native.clone(), observation);
        }
        self.planner.observe(self.clock.0, &seen);
    }

    /// What the server shows; with faults, streams of the bridge may be missing.
    fn list(&mut self, has_faults: bool) -> ServerList {
        let lacks_all = has_faults && self.random.once_in(10);
        self.serial += 1;
        let streams = self.actual.iter();
        let streams = streams.filter(|(_, stream)| stream.is_foreign || !lacks_all);
        let shown = streams.map(|(native, stream)| {
            let source = self.is_trusted.then(|| stream.source.clone());
            let is_idle = false;
            (native.clone(), ListedStream { source, is_idle })
        });
        ServerList {
            serial: self.serial,
            run: Some(self.runs.to_string().into()),
            streams: shown.collect(),
        }
    }

    /// Plans and makes the calls, as the worker does. True if no call was due.
    fn round(&mut self, has_faults: bool) -> bool {
        let list = self.list(has_faults);
        let plan = self.planner.plan(self.clock.0, &list);
        self.note_adopted();
        if self.planner.record(&plan) {
            self.disk.1 = self.planner.owned().clone();
            self.planner.recorded();
        }
        if has_faults && self.random.once_in(12) {
            self.restart_bridge();
            return false;
        }
        for call in &plan.calls {
            self.check(call);
            self.planner.begin(self.clock.0, call);
            // The answer is lost, before the call had its effect or after it.
            let is_lost = has_faults && self.random.once_in(8);
            let is_refused = has_faults && !is_lost && self.random.once_in(10);
            if !(is_refused || is_lost && self.random.once_in(2)) {
                self.apply(call);
            }
            self.log.push(format!(
                "call: {call}, lost {is_lost}, refused {is_refused}"
            ));
            if has_faults && self.random.once_in(20) {
                self.restart_bridge();
                return false;
            }
            let end = |refusal| CallEnd {
                refusal,
                source_fault: None,
            };
            let result = match (is_lost, is_refused) {
                (true, _) => Err(end(None)),
                (_, true) => Err(end(Some("no".into()))),
                _ => Ok(()),
            };
            self.planner.end(self.clock.0, call, result);
        }
        if self.random.once_in(2) {
            self.disk.1 = self.planner.owned().clone();
            self.planner.recorded();
        }
        self.check_pace();
        plan == CallPlan::default()
    }

    /// One whose source reads back as it is wanted is the bridge's from then on.
    fn note_adopted(&mut self) {
        for (native, owned) in self.planner.owned() {
            let actual = self.actual.get_mut(native).filter(|it| it.is_foreign);
            if let Some(actual) = actual.filter(|_| owned.state == OwnedState::Given) {
                assert!(self.is_trusted && actual.source == owned.source, "{native}");
                actual.is_foreign = false;
            }
        }
    }

    fn apply(&mut self, call: &StreamCall) {
        match call {
            StreamCall::Put { native, source, .. } => {
                let source = source.clone();
                let is_foreign = false;
                self.actual
                    .insert(native.clone(), ActualStream { source, is_foreign });
            }
            StreamCall::Remove { native } => drop(self.actual.remove(native)),
        }
    }

    /// No call is made for what is not ours, and none that the bridge was not given a reason for.
    fn check(&mut self, call: &StreamCall) {
        let given = self.given.clone();
        let given = given.unwrap_or_else(|| panic!("{call}: nothing is known{}", self.story()));
        let native = call.native();
        let is_foreign = self.actual.get(native).is_some_and(|it| it.is_foreign);
        let mut urls = given
            .iter()
            .filter(|(name, _)| *TestRules.native(name) == *native)
            .map(|(_, stream)| &*stream.inputs[0].url);
        match call {
            StreamCall::Put { source, .. } => {
                assert!(!is_foreign, "{call}: it is foreign{}", self.story());
                assert!(urls.any(|url| *url == **source), "{call}{}", self.story());
                assert!(source.starts_with("rtsp://h") && !source.contains(';'));
                let recorded = self.disk.1.get(native);
                let is_recorded = recorded.is_some_and(|owned| owned.source == *source);
                assert!(is_recorded, "{call}: not on disk{}", self.story());
                self.starts.push((self.clock.0, source.clone()));
            }
            StreamCall::Remove { .. } => {
                let is_usable = |url: &str| TestRules.source(url).is_some();
                assert!(!urls.any(is_usable), "{call}: wanted{}", self.story());
                assert!(!is_foreign, "{call}: it is foreign{}", self.story());
            }
        }
    }

    fn check_pace(&mut self) {
        let now = self.clock.0;
        self.starts
            .retain(|(at, _)| now.duration_since(*at) < Duration::from_secs(1));
        assert!(self.starts.len() <= 10, "{:?}", self.starts);
    }

    fn story(&self) -> String {
        let begin = self.log.len().saturating_sub(40);
        format!("\n{}", self.log[begin..].join("\n"))
    }

    /// Nothing goes wrong any more: the server has what is wanted, and no call is left.
    fn settle(&mut self) {
        self.deliver();
        for _ in 0..SETTLING_ROUNDS {
            self.clock.pass(500);
            self.round(false);
            self.measure();
        }
        let log = self.story();
        for _ in 0..3 {
            assert!(self.round(false), "calls without a change{log}");
        }
        let mut names: BTreeSet<Box<str>> = BTreeSet::new();
        for (name, stream) in &self.weir {
            let native = TestRules.native(name);
            if TestRules.source(&stream.inputs[0].url).is_some() {
                names.insert(native);
            }
        }
        for (native, stream) in &self.actual {
            assert!(
                stream.is_foreign || names.contains(native),
                "{native} was left behind{log}"
            );
        }
        for native in names {
            let errors = self.planner.errors();
            let owner = self.planner.owned().get(&native);
            let source = self.actual.get(&native);
            let source = source.unwrap_or_else(|| panic!("{native} is missing{log}"));
            match owner {
                Some(owned) => {
                    assert_eq!(source.source, owned.source, "{native}{log}");
                    let stream = &self.weir[&owned.name];
                    assert_eq!(stream.inputs[0].url, owned.source, "{native}{log}");
                }
                None => assert!(
                    errors.values().any(|error| error.code == "foreign_stream"),
                    "{native}{log}"
                ),
            }
        }
    }
}

#[test]
fn random_histories_end_as_wanted() {
    let histories = std::env::var("BRIDGE_HISTORIES").ok();
    let histories = histories.and_then(|text| text.parse().ok());
    for seed in 1..=histories.unwrap_or(HISTORIES) {
        let mut history = History::new(seed);
        for _ in 0..STEPS {
            history.step();
        }
        history.settle();
    }
}
