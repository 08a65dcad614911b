//! The thread that samples the numbers of the past: of the cluster, and what its streamers report.
//!
//! A sample costs a look at each streamer, and none at streams: their health is taken from a count
//! that was made for other callers, once, and is unknown in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::cluster_summary::SummaryCapacity;
use super::shared::Shared;
use crate::feed::Commit;
use crate::fleet::health::{Health, state_code};
use crate::fleet::history::{ClusterNumbers, NodeSample, SAMPLE_MS};
use crate::fleet::report::StreamerStats;
use crate::json;
use crate::state::State;
use crate::state::name::Hostname;

/// Age from which a count or a capacity is not that of the sample.
const COUNTED_AGE_MAX: Duration = Duration::from_secs(30);

/// Samples until the writer ends. `deletions` are the commits that deleted streamers.
pub fn run(shared: &Arc<Shared>, deletions: &Receiver<Arc<Commit>>) {
    let mut sampler = Sampler::default();
    loop {
        let now = Instant::now();
        sampler.sample(shared, now);
        let at_ms = shared.workers.histories.ms_of(now);
        let next = now + Duration::from_millis(SAMPLE_MS - at_ms % SAMPLE_MS);
        while Instant::now() < next {
            match deletions.recv_deadline(next) {
                Ok(commit) => sampler.on_commit(shared, &commit),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        for commit in deletions.try_iter().take(deletions.len()) {
            sampler.on_commit(shared, &commit);
        }
    }
}

#[derive(Default)]
struct Sampler {
    /// When streamers were deleted whose last report may still be current.
    deleted: HashMap<Hostname, Instant>,
    /// When the counts and the capacity began that were taken last.
    counted: Option<Instant>,
    capacity: Option<Instant>,
}

/// Sums over the streamers. A number that none reports is unknown.
#[derive(Default)]
struct Sums {
    up: u64,
    input_kbit: Option<u64>,
    output_kbit: Option<u64>,
    clients: Option<u64>,
}

impl Sums {
    fn add(&mut self, stats: &StreamerStats) {
        for (sum, number) in [
            (&mut self.input_kbit, stats.input_kbit),
            (&mut self.output_kbit, stats.output_kbit),
            (&mut self.clients, stats.clients),
        ] {
            if let Some(number) = number {
                *sum = Some(sum.unwrap_or(0).saturating_add(number));
            }
        }
    }
}

impl Sampler {
    /// A deleted streamer has no past, also if it was created again since.
    fn on_commit(&mut self, shared: &Shared, commit: &Commit) {
        for hostname in &commit.deleted_streamers {
            shared.workers.histories.remove_node(hostname);
            if shared.fleet.streamer(hostname, commit.at).is_some() {
                self.deleted.insert(hostname.clone(), commit.at);
            }
        }
    }

    fn sample(&mut self, shared: &Arc<Shared>, now: Instant) {
        let histories = &shared.workers.histories;
        let at_ms = histories.ms_of(now);
        histories.follow_clock(at_ms, super::now_ms());
        let current_for = shared.fleet.dead_after();
        self.deleted
            .retain(|_, at| now.saturating_duration_since(*at) < current_for);
        let state = shared.published.state().load_full();
        let (sums, reports) = self.look_at_streamers(shared, &state, now);
        let current_for_ms = u64::try_from(current_for.as_millis()).unwrap_or(u64::MAX);
        histories.add_nodes(&reports, current_for_ms);
        histories.fit_steps();
        let numbers = self.of_cluster(shared, &state, &sums, now);
        histories.add_cluster(at_ms, numbers);
    }

    fn look_at_streamers(
        &self,
        shared: &Shared,
        state: &State,
        now: Instant,
    ) -> (Sums, Vec<NodeSample>) {
        let fleet = shared.fleet.view(now);
        let mut sums = Sums::default();
        let mut reports = Vec::new();
        for (hostname, record) in state.streamers() {
            let standing = fleet.signs(hostname).and_then(|(_, standing)| standing);
            let code = state_code(record, standing, fleet.draining(hostname));
            sums.up += u64::from(code == "up");
            let Some((_, Some(stats))) = fleet.streamer(hostname) else {
                continue;
            };
            sums.add(&stats);
            let is_of_deleted = |at: &Instant| stats.received <= *at;
            if !self.deleted.get(hostname).is_some_and(is_of_deleted) {
                reports.push(NodeSample {
                    hostname: hostname.clone(),
                    at_ms: shared.workers.histories.ms_of(stats.received),
                    numbers: [
                        stats.usage.cpu_percent,
                        stats.usage.memory_percent,
                        stats.input_kbit,
                        stats.output_kbit,
                        stats.clients,
                    ],
                });
            }
        }
        (sums, reports)
    }

    fn of_cluster(
        &mut self,
        shared: &Shared,
        state: &State,
        sums: &Sums,
        now: Instant,
    ) -> ClusterNumbers {
        let is_layouter_on = shared.settings.running.config().settings.layouter.enabled;
        let counted = shared.workers.cluster_counts.counts.last();
        let counted = counted.filter(|it| is_new(&mut self.counted, it.began, now));
        let streams = counted.as_ref().map(|it| &it.value.scan.streams);
        let of = |health| Some(streams?.of(health));
        let capacity = shared.layouter.capacity.last();
        let capacity = capacity.filter(|it| is_new(&mut self.capacity, it.began, now));
        let streams_more = capacity.filter(|_| is_layouter_on).and_then(|report| {
            let (_, body) = report.value.body.body(None);
            let body = json::parse(&body).ok()?;
            SummaryCapacity::of(&body, report.value.at).streams_more()
        });
        let moves_1h = is_layouter_on.then(|| shared.layouter.metrics.work().moves_1h);
        [
            Some(state.streams_count() as u64),
            of(Health::Operational),
            of(Health::Degraded),
            of(Health::Outage),
            counted.as_ref().map(|it| it.value.scan.unplaced),
            streams_more,
            Some(state.streamers().len() as u64),
            Some(sums.up),
            sums.input_kbit,
            sums.output_kbit,
            sums.clients,
            moves_1h,
        ]
    }
}

/// Whether a result is newer than the one that was taken last, and not old.
fn is_new(taken: &mut Option<Instant>, began: Instant, now: Instant) -> bool {
    let is_newer = taken.is_none_or(|taken| began > taken);
    *taken = Some(began);
    is_newer && now.saturating_duration_since(began) <= COUNTED_AGE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::shared::tests::shared;
    use crate::fleet::report::StreamerReport;
    use crate::state::command::{Command, streamer_patch};
    use crate::state::node::RenderSettings;
    use crate::writer::{NoStorage, StateMachine};

    fn save(hostname: &Hostname, key: &str) -> Command {
        let body = format!(r#"{{"role":"streamer","cluster_key":"{key}"}}"#);
        let body = json::parse(body.as_bytes()).expect("JSON");
        let patch = streamer_patch(body, hostname, "").expect("a streamer");
        let hostname = hostname.clone();
        Command::SaveStreamer { hostname, patch }
    }

    fn report(shared: &Shared, hostname: &Hostname, cpu: u64) {
        let now = Instant::now();
        let body = format!(r#"{{"stats":{{"cpu_usage":{cpu}}}}}"#);
        let body = json::parse(body.as_bytes()).expect("JSON");
        let report = StreamerReport::from_body(body, now).expect("a report");
        shared.fleet.report(hostname, report, now, || true);
    }

    #[test]
    fn streamer_that_is_replaced_in_one_batch_begins_anew() {
        let shared = shared();
        let hostname = Hostname::trusted("s1");
        let mut machine = StateMachine::new(
            Arc::new(State::new(1, RenderSettings::default())),
            NoStorage,
        );
        let mut sampler = Sampler::default();
        let mut commit = |sampler: &mut Sampler, commands: Vec<Command>| {
            let applied = machine.batch(commands, 1).expect("it takes everything");
            let commit = applied.commit.expect("it changes something");
            shared.published.state().store(commit.state.clone());
            sampler.on_commit(&shared, &commit);
        };
        let cpu = |sampler: &mut Sampler| {
            let now = Instant::now();
            sampler.sample(&shared, now);
            let to_ms = shared.workers.histories.ms_of(now) + 1;
            shared
                .workers
                .histories
                .nodes()
                .get("s1")
                .and_then(|node| node.mean(0, 0, to_ms))
        };
        commit(&mut sampler, vec![save(&hostname, "a")]);
        report(&shared, &hostname, 10);
        assert_eq!(cpu(&mut sampler), Some(10));
        commit(&mut sampler, vec![save(&hostname, "b")]);
        assert_eq!(cpu(&mut sampler), Some(10), "a save keeps it");
        let delete = Command::DeleteStreamer {
            hostname: hostname.clone(),
        };
        commit(&mut sampler, vec![delete, save(&hostname, "b")]);
        assert_eq!(cpu(&mut sampler), None);
        report(&shared, &hostname, 20);
        assert_eq!(cpu(&mut sampler), Some(20));
    }

    #[test]
    fn result_is_taken_once_and_while_it_is_new() {
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let mut taken = None;
        assert!(is_new(&mut taken, began, began + second));
        assert!(!is_new(&mut taken, began, began + 2 * second));
        let next = began + 3 * second;
        assert!(!is_new(&mut taken, next, next + COUNTED_AGE_MAX + second));
        assert!(is_new(&mut taken, next + second, next + 2 * second));
    }
}
