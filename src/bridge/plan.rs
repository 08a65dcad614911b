//! The pure planner: what is wanted, what the bridge made, what the server lists and the time
//! become calls. No clock and no socket here.
//!
//! * Only streams that the bridge made, or whose source reads back equal, are changed or removed.
//! * A stream is compared with what it was given, not with what the server shows of it.
//! * Removals come first, then changes, then additions; additions and changes are paced.
//! * A stream that a list lacks once is not given again: lists have been wrong. When the server
//!   restarted, one list is enough.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::desired::{Wanted, WantedStream};
use super::inputs::{InputChoice, PullInput};
use super::kind::{
    ListedStream, PutCause, Recording, ServerRules, StreamCall, host_of, matches_glob,
};

/// Streams of one source host that are starting at the same time.
const STARTING_PER_HOST_MAX: usize = 2;
/// A stream without bytes counts as starting for this long.
const STARTING_FOR: Duration = Duration::from_secs(5);
/// Additions that are recorded as the bridge's own in one write, ahead of their calls.
pub const RECORDED_AHEAD_MAX: usize = 64;
/// Changes of recordings in one plan, which are not paced as starts are.
const RECORD_CHANGES_MAX: usize = 50;
/// A stream that flows without a picture for this long is started again.
const SICK_AFTER: Duration = Duration::from_secs(5);
/// Pauses between restarts of a sick stream; the last one repeats.
const RESTART_PAUSES: [Duration; 3] = [
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(15),
];
/// Pauses after a call that failed, from the first to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
pub struct PlanSettings {
    pub starts_per_second: usize,
    /// Take over and remove what the bridge did not make, except what `keep` matches.
    pub exclusive: bool,
    pub keep: Option<Box<str>>,
    /// Stop the streams after this time without Weir.
    pub fence_after: Option<Duration>,
}

/// A stream that the bridge made on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedStream {
    pub name: Box<str>,
    pub source: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<Recording>,
    pub state: OwnedState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnedState {
    /// The server accepted it.
    Given,
    /// Recorded, and the call to add it was not made yet.
    Intended,
    /// The call to add it was made, and its result is unknown.
    Unsure,
    /// The call to change it was made or is about to be, and its result is unknown.
    Changing,
}

/// The streams that the bridge made, by their names on the server.
pub type Owned = BTreeMap<Box<str>, OwnedStream>;

/// Why a stream does not run, by a code of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamError {
    pub code: &'static str,
    pub text: Box<str>,
    pub since: Instant,
}

/// A stream, a code and a text.
type FoundError = (Box<str>, &'static str, Box<str>);

/// The streams of the server as it listed them.
#[derive(Debug, Clone, Default)]
pub struct ServerList {
    /// Differs from list to list.
    pub serial: u64,
    /// The identity of the server's run, if it has one.
    pub run: Option<Box<str>>,
    pub streams: BTreeMap<Box<str>, ListedStream>,
}

/// What is known of a stream on the server from its counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    /// Bytes arrived since the last look.
    pub is_growing: bool,
    /// The server reports sizes of pictures, and has none for this stream.
    pub lacks_picture: bool,
    pub viewers: u64,
}

/// A stream that is wanted on the server.
#[derive(Debug, Clone)]
struct Target {
    name: Box<str>,
    choice: InputChoice,
    /// How it is to be recorded, if it is; why it cannot be otherwise.
    recording: Option<Result<Recording, &'static str>>,
}

impl Target {
    fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref()?.as_ref().ok()
    }
}

/// What is remembered of a stream besides what it was given.
#[derive(Debug, Clone, Default)]
struct Track {
    started_at: Option<Instant>,
    is_running: bool,
    viewers: u64,
    /// The list that lacked the stream first.
    missing_in: Option<u64>,
    no_picture_since: Option<Instant>,
    restarts: usize,
    restarted_at: Option<Instant>,
    /// No earlier call may have added the stream.
    is_first_call: bool,
    failures: u32,
    retry_at: Option<Instant>,
    refusal: Option<Box<str>>,
    /// What kept the server from pulling the source again.
    source_fault: Option<SourceFault>,
}

/// The calls that are due.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CallPlan {
    pub calls: Vec<StreamCall>,
    /// Additions that the pace holds back, at most [`RECORDED_AHEAD_MAX`].
    pub next: Vec<StreamCall>,
}

pub struct Planner {
    settings: PlanSettings,
    rules: Arc<dyn ServerRules>,
    owned: Owned,
    /// `owned` differs from the file.
    is_unrecorded: bool,
    /// `owned` has entries that must be in the file before a call is made.
    awaits_disk: bool,
    targets: Option<BTreeMap<Box<str>, Target>>,
    tracks: BTreeMap<Box<str>, Track>,
    errors: BTreeMap<Box<str>, StreamError>,
    /// Errors of streams that have no target.
    untargeted: Vec<FoundError>,
    run: Option<Box<str>>,
    /// The first list of the current run, if the run changed while the bridge watched.
    restarted_in: Option<u64>,
    starts: VecDeque<Instant>,
    weir_seen: Instant,
}

impl Planner {
    pub fn new(
        settings: PlanSettings,
        rules: Arc<dyn ServerRules>,
        owned: Owned,
        now: Instant,
    ) -> Self {
        Self {
            settings,
            rules,
            owned,
            is_unrecorded: false,
            awaits_disk: false,
            targets: None,
            tracks: BTreeMap::new(),
            errors: BTreeMap::new(),
            untargeted: Vec::new(),
            run: None,
            restarted_in: None,
            starts: VecDeque::new(),
            weir_seen: now,
        }
    }

    pub fn owned(&self) -> &Owned {
        &self.owned
    }

    pub fn errors(&self) -> &BTreeMap<Box<str>, StreamError> {
        &self.errors
    }

    /// Weir gave a good answer.
    pub fn weir_answered(&mut self, now: Instant) {
        self.weir_seen = now;
    }

    pub fn is_fenced(&self, now: Instant) -> bool {
        let after = self.settings.fence_after;
        after.is_some_and(|after| now.duration_since(self.weir_seen) >= after)
    }

    /// The list of wanted streams is another one.
    pub fn set_wanted(&mut self, wanted: &Wanted) {
        let mut old = self.targets.take().unwrap_or_default();
        let mut targets: BTreeMap<Box<str>, Target> = BTreeMap::new();
        self.untargeted.clear();
        for (name, stream) in wanted {
            let inputs = self.inputs(name, stream);
            let native = self.rules.native(name);
            let is_owner = |name: &str| {
                let owned = self.owned.get(&native);
                owned.is_some_and(|owned| *owned.name == *name)
            };
            if inputs.is_empty() {
                continue;
            }
            let taken = "its name on the server is that of another stream";
            if let Some(other) = targets.get(&native) {
                // The stream that has the place keeps it.
                let loser = if is_owner(name) {
                    other.name.clone()
                } else {
                    name.clone()
                };
                self.untargeted
                    .push((loser.clone(), "name_taken", taken.into()));
                if loser == *name {
                    continue;
                }
            }
            let choice = match old.remove(&native) {
                Some(known) if known.choice.has_inputs(&inputs) => known.choice,
                _ => InputChoice::new(inputs),
            };
            let target = Target {
                name: name.clone(),
                choice,
                recording: stream.dvr.as_ref().map(|dvr| self.rules.recording(dvr)),
            };
            targets.insert(native, target);
        }
        self.tracks
            .retain(|native, _| targets.contains_key(native) || self.owned.contains_key(native));
        self.targets = Some(targets);
    }

    /// The inputs of a stream that the server can take.
    fn inputs(&mut self, name: &str, stream: &WantedStream) -> Vec<PullInput> {
        let mut inputs = Vec::new();
        let mut is_published = false;
        for input in &stream.inputs {
            if input.url.starts_with("publish://") {
                is_published = true;
                inputs.extend(self.rules.publisher().map(PullInput::published));
            } else if let Some(url) = self.rules.source(&input.url) {
                inputs.push(PullInput::new(url, input.timeout()));
            }
        }
        if inputs.is_empty() && !is_published {
            let schemes = stream.inputs.iter();
            let schemes = schemes.map(|input| input.url.split("://").next().unwrap_or_default());
            let schemes: Vec<&str> = schemes.collect();
            let text = match &schemes[..] {
                [] => "the stream has no input".to_owned(),
                _ => format!("no input that this server takes: {}", schemes.join(", ")),
            };
            self.untargeted
                .push((name.into(), "no_input_for_this_server", text.into()));
        }
        inputs
    }

    /// The calls that are due now.
    pub fn plan(&mut self, now: Instant, list: &ServerList) -> CallPlan {
        let mut plan = CallPlan::default();
        if self.targets.is_none() {
            return plan;
        }
        self.note_run(list);
        let mut errors: Vec<FoundError> = self.untargeted.clone();
        let is_fenced = self.is_fenced(now);
        self.plan_removals(now, list, is_fenced, &mut plan);
        if !is_fenced {
            self.plan_puts(now, list, &mut plan, &mut errors);
        }
        self.set_errors(now, errors);
        plan
    }

    fn note_run(&mut self, list: &ServerList) {
        if self.run != list.run {
            let is_known = self.run.is_some();
            self.run.clone_from(&list.run);
            self.restarted_in = is_known.then_some(list.serial);
        } else if self.restarted_in != Some(list.serial) {
            self.restarted_in = None;
        }
    }

    fn plan_removals(&mut self, now: Instant, list: &ServerList, all: bool, plan: &mut CallPlan) {
        let targets = self.targets.as_ref().expect("checked by the caller");
        let is_wanted = |native: &str| !all && targets.contains_key(native);
        // What was only intended was never given to the server.
        self.owned
            .retain(|native, owned| owned.state != OwnedState::Intended || is_wanted(native));
        let tracks = &self.tracks;
        let is_due = |native: &str| {
            let retry_at = tracks.get(native).and_then(|track| track.retry_at);
            retry_at.is_none_or(|at| now >= at)
        };
        for native in self.owned.keys() {
            if !is_wanted(native) && is_due(native) {
                let native = native.clone();
                plan.calls.push(StreamCall::Remove { native });
            }
        }
        if !self.settings.exclusive || all {
            return;
        }
        let keep = self.settings.keep.as_deref();
        for native in list.streams.keys() {
            let is_kept = keep.is_some_and(|pattern| matches_glob(pattern, native));
            let is_ours = targets.contains_key(native) || self.owned.contains_key(native);
            if !is_kept && !is_ours && is_due(native) {
                let native = native.clone();
                plan.calls.push(StreamCall::Remove { native });
            }
        }
    }

    fn plan_puts(
        &mut self,
        now: Instant,
        list: &ServerList,
        plan: &mut CallPlan,
        errors: &mut Vec<FoundError>,
    ) {
        let targets = self.targets.take().expect("checked by the caller");
        let mut puts = Vec::new();
        for (native, target) in &targets {
            let cause = match self.judge(now, native, target, list) {
                Verdict::Put(cause) => cause,
                Verdict::Foreign => {
                    let text = "the server has a stream of this name that was not made by the \
                                bridge";
                    errors.push((target.name.clone(), "foreign_stream", text.into()));
                    continue;
                }
                Verdict::Fine => {
                    self.push_errors(now, native, target, errors);
                    continue;
                }
            };
            self.push_errors(now, native, target, errors);
            let track = self.tracks.entry(native.clone()).or_default();
            if track.retry_at.is_none_or(|at| now >= at) {
                let order = (cause == PutCause::Add, std::cmp::Reverse(track.viewers));
                puts.push((order, native, target, cause));
            }
        }
        puts.sort_by_key(|(order, ..)| *order);
        let mut starting = self.starting(now);
        let (mut resumes, mut record_changes) = (0, 0);
        for (_, native, target, cause) in puts {
            let source = target.choice.source();
            // A resume may wait for a silent source.
            resumes += u32::from(cause == PutCause::Resume);
            if cause == PutCause::Resume && resumes > 1 {
                continue;
            }
            let call = StreamCall::Put {
                native: native.clone(),
                source: source.into(),
                recording: target.recording().cloned(),
                cause,
            };
            if cause == PutCause::Record {
                record_changes += 1;
                if record_changes <= RECORD_CHANGES_MAX {
                    plan.calls.push(call);
                }
                continue;
            }
            let count = starting.entry(host_of(source).into()).or_default();
            let is_paced = self.has_start(now, plan) && *count < STARTING_PER_HOST_MAX;
            if is_paced {
                *count += 1;
                plan.calls.push(call);
            } else if cause == PutCause::Add && plan.next.len() < RECORDED_AHEAD_MAX {
                plan.next.push(call);
            }
        }
        self.targets = Some(targets);
    }

    /// Whether one more stream may start within the pace, besides those of the plan.
    fn has_start(&mut self, now: Instant, plan: &CallPlan) -> bool {
        let second = Duration::from_secs(1);
        while self
            .starts
            .front()
            .is_some_and(|at| now.duration_since(*at) >= second)
        {
            self.starts.pop_front();
        }
        let planned = plan.calls.iter();
        let planned = planned.filter(|call| call.starts());
        self.starts.len() + planned.count() < self.settings.starts_per_second
    }

    /// The number of starting streams of each host.
    fn starting(&self, now: Instant) -> BTreeMap<Box<str>, usize> {
        let mut hosts: BTreeMap<Box<str>, usize> = BTreeMap::new();
        for (native, track) in &self.tracks {
            let is_starting = !track.is_running
                && track
                    .started_at
                    .is_some_and(|at| now.duration_since(at) < STARTING_FOR);
            if let Some(owned) = self.owned.get(native).filter(|_| is_starting) {
                *hosts.entry(host_of(&owned.source).into()).or_default() += 1;
            }
        }
        hosts
    }

    fn judge(&mut self, now: Instant, native: &str, target: &Target, list: &ServerList) -> Verdict {
        let source = target.choice.source();
        let listed = list.streams.get(native);
        let shown = listed.and_then(|listed| listed.source.as_deref());
        let track = self.tracks.entry(native.into()).or_default();
        let Some(owned) = self.owned.get_mut(native) else {
            return match listed {
                None => Verdict::Put(PutCause::Add),
                Some(_) if shown == Some(source) => {
                    self.adopt(native, target);
                    Verdict::Fine
                }
                Some(_) if self.settings.exclusive => Verdict::Put(PutCause::Change),
                Some(_) => Verdict::Foreign,
            };
        };
        owned.name.clone_from(&target.name);
        let Some(listed) = listed else {
            if owned.state == OwnedState::Intended {
                return Verdict::Put(PutCause::Add);
            }
            // The first list after a restart counts as the second one that lacks the stream.
            let is_first = u64::from(self.restarted_in == Some(list.serial));
            let first = *track.missing_in.get_or_insert(list.serial - is_first);
            return if first == list.serial {
                Verdict::Fine
            } else {
                Verdict::Put(PutCause::Add)
            };
        };
        track.missing_in = None;
        match owned.state {
            OwnedState::Intended => {
                // Another one made it between the record and the call.
                self.owned.remove(native);
                return self.judge(now, native, target, list);
            }
            OwnedState::Unsure => owned.state = OwnedState::Given,
            OwnedState::Changing if shown == Some(&*owned.source) => {
                owned.state = OwnedState::Given;
            }
            OwnedState::Changing | OwnedState::Given => {}
        }
        let is_other = shown.is_some_and(|shown| *shown != *owned.source);
        if *owned.source != *source || owned.state == OwnedState::Changing || is_other {
            return Verdict::Put(PutCause::Change);
        }
        if track.is_sick(now) && track.may_restart(now) {
            return Verdict::Put(PutCause::Restart);
        }
        if listed.is_idle {
            return Verdict::Put(PutCause::Resume);
        }
        if owned.recording.as_ref() != target.recording() {
            return Verdict::Put(PutCause::Record);
        }
        Verdict::Fine
    }

    fn adopt(&mut self, native: &str, target: &Target) {
        let owned = OwnedStream {
            name: target.name.clone(),
            source: target.choice.source().into(),
            recording: None,
            state: OwnedState::Given,
        };
        self.owned.insert(native.into(), owned);
        self.is_unrecorded = true;
    }

    // ---- the calls of a plan ------------------------------------------------------------------

    /// Records that the calls of a plan are about to be made. True if the record has to be on disk
    /// before the first of them.
    pub fn record(&mut self, plan: &CallPlan) -> bool {
        let mut is_new = false;
        for call in &plan.calls {
            is_new |= self.record_call(call);
        }
        if is_new {
            for call in &plan.next {
                self.record_call(call);
            }
        }
        self.awaits_disk
    }

    fn record_call(&mut self, call: &StreamCall) -> bool {
        let StreamCall::Put {
            native,
            source,
            recording,
            cause,
        } = call
        else {
            return false;
        };
        let known = self.owned.get(native);
        let is_same =
            known.is_some_and(|owned| owned.source == *source && owned.recording == *recording);
        let state = match cause {
            PutCause::Restart | PutCause::Resume => return false,
            PutCause::Add if is_same => return false,
            PutCause::Add => OwnedState::Intended,
            PutCause::Change | PutCause::Record => OwnedState::Changing,
        };
        if is_same && known.is_some_and(|owned| owned.state == state) {
            return false;
        }
        let targets = self.targets.as_ref();
        let Some(target) = targets.and_then(|targets| targets.get(native)) else {
            return false;
        };
        let owned = OwnedStream {
            name: target.name.clone(),
            source: source.clone(),
            recording: recording.clone(),
            state,
        };
        self.owned.insert(native.clone(), owned);
        self.is_unrecorded = true;
        self.awaits_disk = true;
        true
    }

    /// The call is made now.
    pub fn begin(&mut self, now: Instant, call: &StreamCall) {
        if let StreamCall::Put { native, cause, .. } = call
            && call.starts()
        {
            self.starts.push_back(now);
            let track = self.tracks.entry(native.clone()).or_default();
            track.started_at = Some(now);
            track.is_running = false;
            track.no_picture_since = None;
            track.missing_in = None;
            if *cause == PutCause::Restart {
                track.restarts += 1;
                track.restarted_at = Some(now);
            } else if let Some(owned) = self.owned.get_mut(native)
                && *cause == PutCause::Add
            {
                track.is_first_call = owned.state == OwnedState::Intended;
                owned.state = OwnedState::Unsure;
            }
            let targets = self.targets.as_mut();
            if let Some(target) = targets.and_then(|targets| targets.get_mut(native)) {
                target.choice.given(now);
            }
        }
    }

    /// The result of a call. `refusal`: the server received it and refused it.
    pub fn end(&mut self, now: Instant, call: &StreamCall, result: Result<(), CallEnd>) {
        let native = call.native();
        let is_put = matches!(call, StreamCall::Put { .. });
        match result {
            Ok(()) => {
                self.is_unrecorded = true;
                if let Some(track) = self.tracks.get_mut(native) {
                    track.failures = 0;
                    track.retry_at = None;
                    track.refusal = None;
                    track.source_fault = None;
                }
                if !is_put {
                    self.owned.remove(native);
                    self.tracks.remove(native);
                } else if let Some(owned) = self.owned.get_mut(native) {
                    owned.state = OwnedState::Given;
                }
            }
            Err(end) => {
                let track = self.tracks.entry(native.into()).or_default();
                let pause = RETRY_MIN * 2_u32.pow(track.failures.min(6));
                track.retry_at = Some(now + pause.min(RETRY_MAX));
                track.failures += 1;
                track.refusal = end.refusal;
                track.source_fault = end.source_fault;
                let is_refused = track.refusal.is_some() && track.is_first_call;
                let owned = self.owned.get(native);
                let is_unsure = owned.is_some_and(|owned| owned.state == OwnedState::Unsure);
                if is_put && is_refused && is_unsure {
                    // No call before it can have made something of ours.
                    self.owned.remove(native);
                    self.is_unrecorded = true;
                }
            }
        }
    }

    /// Whether the record differs from what was last taken by [`Planner::recorded`].
    pub fn is_unrecorded(&self) -> bool {
        self.is_unrecorded
    }

    pub fn recorded(&mut self) {
        self.is_unrecorded = false;
        self.awaits_disk = false;
    }

    // ---- what the counters show ---------------------------------------------------------------

    /// Takes what the counters of the server show. Streams without an entry have no bytes.
    pub fn observe(&mut self, now: Instant, seen: &BTreeMap<Box<str>, Observation>) {
        let Some(targets) = &mut self.targets else {
            return;
        };
        for (native, target) in targets {
            let Some(track) = self.tracks.get_mut(native) else {
                continue;
            };
            let observation = seen.get(native).copied().unwrap_or_default();
            track.is_running |= observation.is_growing;
            if seen.contains_key(native) {
                track.viewers = observation.viewers;
            }
            if !observation.is_growing {
                track.no_picture_since = None;
            } else if observation.lacks_picture {
                track.no_picture_since.get_or_insert(now);
            } else {
                track.no_picture_since = None;
                track.restarts = 0;
            }
            let owned = self.owned.get(native);
            if owned.is_some_and(|owned| owned.state == OwnedState::Given) {
                target.choice.observe(now, observation.is_growing);
            }
        }
    }

    /// The sources that should be probed: first inputs of streams that run from another one, and
    /// sources that give nothing.
    pub fn probes(&self, now: Instant) -> Vec<(Box<str>, Box<str>)> {
        let targets = self.targets.iter().flatten();
        let probes = targets.filter_map(|(native, target)| {
            let url = target.choice.probe(now)?;
            Some((native.clone(), url.into()))
        });
        probes.collect()
    }

    pub fn probed(&mut self, now: Instant, native: &str, url: &str, accepts: bool) {
        let targets = self.targets.as_mut();
        if let Some(target) = targets.and_then(|targets| targets.get_mut(native)) {
            target.choice.probed(now, url, accepts);
        }
    }

    // ---- errors -------------------------------------------------------------------------------

    fn push_errors(
        &self,
        now: Instant,
        native: &str,
        target: &Target,
        errors: &mut Vec<FoundError>,
    ) {
        let (name, is_unreachable) = (&*target.name, target.choice.is_unreachable());
        let Some(track) = self.tracks.get(native) else {
            return;
        };
        if let Some(text) = &track.refusal {
            errors.push((name.into(), "server_refused", text.clone()));
        } else if track.is_sick(now) {
            let text = "bytes arrive, and the server finds no picture in them";
            errors.push((name.into(), "no_picture", text.into()));
        } else if let Some(fault) = track
            .source_fault
            .or(is_unreachable.then_some(SourceFault::Unreachable))
        {
            errors.push((name.into(), fault.code(), fault.text().into()));
        } else if let Some(Err(text)) = target.recording {
            errors.push((name.into(), "dvr_not_supported", text.into()));
        }
    }

    fn set_errors(&mut self, now: Instant, found: Vec<FoundError>) {
        let mut old = std::mem::take(&mut self.errors);
        for (name, code, text) in found {
            let since = match old.remove(&name) {
                Some(known) if known.code == code => known.since,
                _ => now,
            };
            self.errors.insert(name, StreamError { code, text, since });
        }
    }
}

/// Why a call failed, as far as the plan needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEnd {
    /// The server received the call and refused it, in its words.
    pub refusal: Option<Box<str>>,
    /// What is wrong with the source of the stream, not with the call.
    pub source_fault: Option<SourceFault>,
}

/// Why a server does not pull a source, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFault {
    /// It accepts no connection.
    Unreachable,
    /// It answered the server's request with an error.
    Refused,
    /// It wants other credentials.
    Unauthorized,
}

impl SourceFault {
    pub const ALL: [Self; 3] = [Self::Unreachable, Self::Refused, Self::Unauthorized];

    fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "source_unreachable",
            Self::Refused => "source_refused",
            Self::Unauthorized => "source_unauthorized",
        }
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "the source accepts no connection",
            Self::Refused => "the source answers with an error",
            Self::Unauthorized => "the source does not accept the credentials of its URL",
        }
    }
}

enum Verdict {
    Fine,
    Foreign,
    Put(PutCause),
}

impl Track {
    fn is_sick(&self, now: Instant) -> bool {
        let since = self.no_picture_since;
        since.is_some_and(|since| now.duration_since(since) >= SICK_AFTER)
    }

    fn may_restart(&self, now: Instant) -> bool {
        let Some(at) = self.restarted_at.filter(|_| self.restarts > 0) else {
            return true;
        };
        let pause = RESTART_PAUSES[(self.restarts - 1).min(RESTART_PAUSES.len() - 1)];
        now.duration_since(at) >= pause
    }
}
