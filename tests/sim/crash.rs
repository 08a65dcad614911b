//! The writer's machine over the real store on a disk that fails and loses power, with a clock that
//! jumps.
//!
//! One seed is one story: operations one by one and in batches, I/O errors that are recovered from,
//! power cuts in the middle of anything (opening included). After every step the state is compared
//! with the model, with itself as read back from the store, and with what each node was sent
//! before. Simulated streamers keep copies and bring them up to date by deltas.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Once};

use serde_json::Value;
use weir::testing::state::State;
use weir::testing::state::apply::{Stamp, apply};
use weir::testing::state::entity::{Key, Kind};
use weir::testing::state::node::RenderSettings;
use weir::testing::writer::StateMachine;
use weir::testing::writer::load;
use weir_storage::sim::{Fault, SimDisk};
use weir_storage::{Floor, LogKind, Opened, Options, Store, StoreError};

use super::model::{self, Model};
use super::op::Op;
use super::random::Random;
use super::view::{Sent, all_sent, check_indexes, check_reloaded, moved, sent, stored};

const STEPS: u64 = 150;

/// How often what the run is about did happen.
#[derive(Default, Debug)]
pub struct Tally {
    commits: u64,
    refused: u64,
    nothing_changed: u64,
    batches_of_many: u64,
    disk_errors: u64,
    cuts: u64,
    cuts_while_opening: u64,
    unknown_kept: u64,
    unknown_lost: u64,
    generations_moved: u64,
    handovers_begun: u64,
    handovers_ended: u64,
    deltas: u64,
    deltas_refused: u64,
}

/// The configuration that a streamer last read, and its revision.
struct Copy {
    revision: u64,
    streams: BTreeMap<String, String>,
}

struct World<'t> {
    random: Random<'static>,
    disk: SimDisk,
    machine: StateMachine<Store>,
    model: Model,
    clock_ms: u64,
    copies: BTreeMap<String, Copy>,
    tally: &'t mut Tally,
}

/// Panics inside the engine are caught and become errors; their messages would only hide those of
/// failed tests.
fn quiet_engine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let of_engine = |file: &str| file.contains("redb-") || file.contains("/rustc/");
            if !info.location().is_some_and(|at| of_engine(at.file())) {
                usual(info);
            }
        }));
    });
}

fn open(
    random: &mut Random<'_>,
    disk: &SimDisk,
) -> Result<(StateMachine<Store>, Opened), StoreError> {
    let options = Options {
        cache_bytes: 1 << 20,
        check_bytes_max: if random.below(2) == 0 { u64::MAX } else { 0 },
        reserve_bytes: 4096,
        // A store may change its kind of log at every start.
        log: *random.pick(&[LogKind::Append, LogKind::Append, LogKind::Redb]),
        log_segment_bytes: 128 << 10,
        pass_records: 10,
        applies_itself: false,
    };
    let (store, opened) = Store::open_on(Arc::new(disk.clone()), &options)?;
    let state = load(&store, &opened, settings())?;
    Ok((StateMachine::new(state, store), opened))
}

fn settings() -> RenderSettings {
    RenderSettings::default()
}

pub fn run(seed: u64, tally: &mut Tally) {
    quiet_engine();
    let mut random = Random::seeded(seed);
    let disk = SimDisk::new();
    let (machine, _) = open(&mut random, &disk).expect("a new disk opens");
    let mut world = World {
        random,
        disk,
        machine,
        model: Model::default(),
        clock_ms: 1_700_000_000_000,
        copies: BTreeMap::new(),
        tally,
    };
    for _ in 0..STEPS {
        world.step();
    }
}

impl World<'_> {
    fn step(&mut self) {
        self.turn_clock();
        match self.random.below(40) {
            0 => self.cut_power(None),
            1..=3 => {
                let kind = *self
                    .random
                    .pick(&[ErrorKind::StorageFull, ErrorKind::Other]);
                let after = 1 + self.random.below(16);
                self.disk.set_fault(after, Fault::Once(kind));
            }
            4 | 5 => {
                let after = 1 + self.random.below(16);
                self.disk.set_fault(after, Fault::Cut);
            }
            _ => {}
        }
        let count = match self.random.below(6) {
            0 => 2 + self.random.below(5),
            _ => 1,
        };
        let ops: Vec<Op> = (0..count).map(|_| Op::random(&mut self.random)).collect();
        self.commit(&ops);
        self.check();
        if self.random.below(3) == 0 {
            self.read_back();
        }
        self.streamers_poll();
    }

    fn turn_clock(&mut self) {
        let day = 24 * 3600 * 1000;
        self.clock_ms = match self.random.below(20) {
            0 => self.clock_ms - 2 * day,
            1 => self.clock_ms + day,
            2 => self.clock_ms + 50 * day,
            3 => self.clock_ms,
            n => self.clock_ms + n * 7,
        };
    }

    /// One batch, and what it came to.
    fn commit(&mut self, ops: &[Op]) {
        let mut next = self.model.clone();
        // Bodies that are invalid by themselves are refused before the writer.
        let mut sent_ops = Vec::new();
        let mut commands = Vec::new();
        for op in ops {
            match op.command() {
                Ok(command) => {
                    commands.push(command);
                    sent_ops.push(op.clone());
                }
                Err(error) => {
                    let outcome = next.clone().batch(std::slice::from_ref(op), self.clock_ms);
                    assert_eq!(outcome, [Err(error.status)], "{op:?}: {error:?}");
                    self.tally.refused += 1;
                }
            }
        }
        let expected = next.batch(&sent_ops, self.clock_ms);
        let before = self.machine.state().clone();
        match self.machine.batch(commands.clone(), self.clock_ms) {
            Ok(applied) => {
                let outcomes: Vec<Result<(), u16>> = applied
                    .outcomes
                    .iter()
                    .map(|outcome| outcome.as_ref().map(|_| ()).map_err(|error| error.status))
                    .collect();
                assert_eq!(outcomes, expected, "{sent_ops:#?}");
                self.tally.refused +=
                    outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
                self.tally.batches_of_many += u64::from(outcomes.len() > 1);
                assert_eq!(
                    applied.commit.is_some(),
                    next.revision > self.model.revision,
                    "{sent_ops:#?}"
                );
                if applied.commit.is_some() {
                    self.tally.commits += 1;
                } else {
                    self.tally.nothing_changed += 1;
                    assert!(Arc::ptr_eq(&before, self.machine.state()));
                }
                self.count_handovers(&next);
                self.model = next;
                let woken = applied.commit.map(|commit| {
                    commit
                        .hostnames
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                });
                self.replay(&before, commands, woken.unwrap_or_default());
            }
            Err(_) if self.disk.is_dead() => self.cut_power(Some(next)),
            Err(error) if self.machine.is_failed() => {
                self.tally.disk_errors += 1;
                self.recover(next, &error);
            }
            // Refused before anything was written.
            Err(_) => {
                self.tally.disk_errors += 1;
                assert!(Arc::ptr_eq(&before, self.machine.state()));
            }
        }
    }

    fn count_handovers(&mut self, next: &Model) {
        for (name, stream) in &next.streams {
            let before = self.model.streams.get(name);
            let was_kept = before.is_some_and(|it| it.kept_by.is_some());
            match (was_kept, stream.kept_by.is_some()) {
                (false, true) => self.tally.handovers_begun += 1,
                (true, false) => self.tally.handovers_ended += 1,
                _ => {}
            }
        }
    }

    /// Applies the commands one by one: each moves exactly the nodes whose configuration it
    /// changes.
    fn replay(
        &mut self,
        before: &State,
        commands: Vec<weir::testing::state::command::Command>,
        mut woken: Vec<String>,
    ) {
        let after = self.machine.state();
        let stamp = Stamp {
            revision: after.revision(),
            ms: after.stamp_ms(),
        };
        let mut state = before.clone();
        let mut sent_before = all_sent(&state);
        for command in commands {
            let story = format!("{command:?}");
            let Ok(changes) = apply(&state, command, stamp) else {
                continue;
            };
            if changes.is_empty() {
                continue;
            }
            state.absorb(&changes);
            let sent_after = all_sent(&state);
            let differs = moved(&sent_before, &sent_after);
            let mut moves: Vec<String> = changes
                .nodes
                .iter()
                .filter(|node| node.visible)
                .map(|node| node.hostname.to_string())
                .collect();
            moves.sort();
            moves.dedup();
            assert_eq!(
                moves,
                differs.into_iter().collect::<Vec<_>>(),
                "{story}\n{sent_before:#?}\n{sent_after:#?}"
            );
            for host in &moves {
                assert_eq!(
                    state.node(host).expect("a node that moved").generation,
                    stamp.revision
                );
                assert!(woken.contains(host), "{host} is not woken");
            }
            self.tally.generations_moved += moves.len() as u64;
            sent_before = sent_after;
        }
        woken.retain(|host| {
            state
                .node(host)
                .is_none_or(|node| node.generation != stamp.revision)
        });
        assert_eq!(woken, Vec::<String>::new(), "woken for nothing");
        for (hostname, node) in after.nodes() {
            let replayed = state.node(hostname).expect("a replay has the same nodes");
            assert_eq!(
                (replayed.generation, &replayed.removed),
                (node.generation, &node.removed)
            );
        }
    }

    fn recover(&mut self, next: Model, error: &StoreError) {
        // The power may fail while the store is opened again.
        if self.random.below(4) == 0 {
            let after = 1 + self.random.below(6);
            self.disk.set_fault(after, Fault::Cut);
        }
        for _ in 0..5 {
            match self.machine.recover() {
                Ok(commit) => {
                    if commit.is_some() {
                        self.tally.unknown_kept += 1;
                        self.model = next;
                    } else {
                        self.tally.unknown_lost += 1;
                    }
                    return;
                }
                Err(_) if self.disk.is_dead() => return self.cut_power(Some(next)),
                Err(_) => {}
            }
        }
        panic!("{error}, and the store cannot be opened on a healthy disk");
    }

    /// Cuts the power and starts again. Acknowledged batches are there; an unacknowledged one is
    /// there completely or not at all.
    fn cut_power(&mut self, unknown: Option<Model>) {
        self.tally.cuts += 1;
        let mut disk = self.disk.power_cut(self.random.below(u64::MAX >> 12));
        let opened = loop {
            if self.random.below(4) == 0 {
                let after = 1 + self.random.below(20);
                disk.set_fault(after, Fault::Cut);
            }
            match open(&mut self.random, &disk) {
                Ok((machine, opened)) => {
                    self.machine = machine;
                    disk.clear_faults();
                    break opened;
                }
                Err(error) => {
                    assert!(disk.is_dead(), "does not open: {error}");
                    self.tally.cuts_while_opening += 1;
                    disk = disk.power_cut(self.random.below(u64::MAX >> 12));
                }
            }
        };
        if disk.is_dead() {
            // It went in the very last operation of opening.
            self.disk = disk;
            return self.cut_power(unknown);
        }
        self.disk = disk;
        match unknown {
            Some(next) if next.revision == opened.lsn && next.revision > self.model.revision => {
                self.tally.unknown_kept += 1;
                self.model = next;
            }
            Some(_) => self.tally.unknown_lost += 1,
            None => {}
        }
        assert_eq!(
            (opened.lsn, opened.stamp_ms),
            (self.model.revision, self.model.stamp_ms),
            "another revision than was acknowledged"
        );
    }

    /// The state equals the model.
    fn check(&self) {
        let state = self.machine.state();
        check_indexes(state);
        compare(state, &self.model);
    }

    fn read_back(&mut self) {
        let state = self.machine.state();
        let opened = Opened {
            store_id: state.store_id(),
            lsn: self.model.revision,
            stamp_ms: self.model.stamp_ms,
            restored: Floor::default(),
            clean: true,
            checked: true,
            corrected: 0,
        };
        match load(self.machine.storage(), &opened, settings()) {
            Ok(loaded) => {
                check_reloaded(state, &loaded);
                for (host, copy) in &self.copies {
                    catch_up(&loaded, host, copy, self.tally);
                }
            }
            Err(error) => assert!(self.machine.is_failed() || self.disk.is_dead(), "{error}"),
        }
    }

    /// Some streamers poll: the generation shows whether anything has changed, and a delta updates
    /// their copies.
    fn streamers_poll(&mut self) {
        let state = self.machine.state().clone();
        let hosts: Vec<String> = state.nodes().keys().map(ToString::to_string).collect();
        for host in hosts {
            let node = state.node(&host).expect("it was listed");
            if let Some(copy) = self.copies.get(&host) {
                catch_up(&state, &host, copy, self.tally);
            }
            if self.random.below(4) == 0 {
                let Sent { streams, known } = sent(&state, &host);
                if known {
                    self.copies.insert(
                        host,
                        Copy {
                            revision: node.generation,
                            streams,
                        },
                    );
                } else {
                    self.copies.remove(&host);
                }
            }
        }
    }
}

/// A delta brings a copy of any age to what a fresh reader is sent, or is refused.
fn catch_up(state: &State, host: &str, copy: &Copy, tally: &mut Tally) {
    let Some(node) = state.node(host) else {
        panic!("{host} is not a node any more");
    };
    let now = sent(state, host);
    if copy.revision == node.generation {
        assert_eq!(now.streams, copy.streams, "{host} misses a change");
    }
    if copy.revision < node.delta_floor {
        tally.deltas_refused += 1;
        return;
    }
    assert!(
        copy.revision <= node.generation,
        "the generation of {host} went back"
    );
    tally.deltas += 1;
    let mut streams = copy.streams.clone();
    for (_, name) in node
        .removed
        .iter()
        .filter(|(revision, _)| *revision > copy.revision)
    {
        streams.remove(name.as_str());
    }
    for (name, role) in &node.streams {
        let stream = state.stream(name).expect("a node holds streams that exist");
        if stream.rendered_for(host, *role) > copy.revision
            && let Some(text) = now.streams.get(name.as_str())
        {
            streams.insert(name.to_string(), text.clone());
        }
    }
    assert_eq!(
        streams, now.streams,
        "a delta from {} to {} for {host}",
        copy.revision, node.generation
    );
}

/// A state against the model, record by record and answer by answer.
pub fn compare(state: &State, model: &Model) {
    assert_eq!(
        (state.revision(), state.stamp_ms()),
        (model.revision, model.stamp_ms)
    );
    assert_eq!(state.streams_count(), model.streams.len());
    let mut effective: BTreeMap<String, Value> = BTreeMap::new();
    for (name, expected) in &model.streams {
        let stream = state
            .stream(name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        let on_disk = stored(&stream.config, stream.filled_spans());
        assert_eq!(on_disk, Value::Object(expected.config.clone()), "{name}");
        assert_eq!(
            (stream.revision.to_native(), stream.updated_at.to_native()),
            (expected.revision, expected.updated_at),
            "{name}"
        );
        let layouts: Vec<model::Layout> = stream
            .to_owned()
            .layouts
            .into_iter()
            .map(|layout| model::Layout {
                ingest: layout.ingest,
                inference: layout.inference,
                backups: layout.dvr_backups,
                failover_from: layout.failover_from,
                created_at: layout.created_at,
                by_layouter: layout.by_layouter,
                reason: layout.change_reason,
            })
            .collect();
        assert_eq!(layouts, expected.layouts, "{name}");
        assert_eq!(
            stream.handover_from(),
            expected.kept_by.as_deref(),
            "{name}"
        );
        effective.insert(
            name.clone(),
            serde_json::from_str(&stream.config).expect("a configuration is JSON"),
        );
    }
    assert_eq!(state.streamers().len(), model.streamers.len());
    for (host, expected) in &model.streamers {
        let streamer = state
            .streamer(host)
            .unwrap_or_else(|| panic!("{host} is missing"));
        assert_eq!(
            stored(&streamer.config, streamer.filled_spans()),
            Value::Object(expected.config.clone()),
            "{host}"
        );
        assert_eq!(
            (
                streamer.revision.to_native(),
                streamer.updated_at.to_native()
            ),
            (expected.revision, expected.updated_at),
            "{host}"
        );
    }
    let episodes = state.entities(Kind::Episode);
    assert_eq!(episodes.by_key().len(), model.episodes.len());
    for (id, expected) in &model.episodes {
        let episode = episodes
            .get(&Key::Number(*id))
            .unwrap_or_else(|| panic!("episode {id} is missing"));
        let mut on_disk = stored(&episode.config, episode.filled_spans());
        let members = on_disk.as_object_mut().expect("an object");
        // The stamp of the batch that made it.
        assert!(members.remove("episode_appearance_timestamps").is_some());
        assert_eq!(on_disk, Value::Object(expected.config.clone()), "{id}");
        assert_eq!(
            (episode.revision.to_native(), episode.updated_at.to_native()),
            (expected.revision, expected.updated_at),
            "{id}"
        );
    }
    for hostname in state.nodes().keys() {
        let expected = model.configuration(hostname, |name| effective[name].clone());
        let sent: BTreeMap<String, Value> = sent(state, hostname)
            .streams
            .into_iter()
            .map(|(name, text)| {
                (
                    name,
                    serde_json::from_str(&text).expect("an answer is JSON"),
                )
            })
            .collect();
        assert_eq!(sent, expected, "{hostname}");
    }
}

/// Goal: through crashes, failing disks and jumping clocks the state equals the model, and
/// streamers are woken for their own changes only. Method: `WEIR_SIM_SEEDS` stories from seed 1, or
/// the one of `WEIR_SIM_SEED`; a failure prints its seed.
#[test]
fn cluster_matches_the_model_through_crashes() {
    let mut tally = Tally::default();
    if let Some(seed) = super::number("WEIR_SIM_SEED") {
        return run(seed, &mut tally);
    }
    let seeds = super::number("WEIR_SIM_SEEDS").unwrap_or(100);
    for seed in 1..=seeds {
        let failing = super::Failing(seed);
        run(seed, &mut tally);
        failing.passed();
    }
    println!("{seeds} seeds: {tally:?}");
    // The run must have covered what it is for.
    let Tally {
        commits,
        refused,
        nothing_changed,
        batches_of_many,
        disk_errors,
        cuts,
        cuts_while_opening,
        unknown_kept,
        unknown_lost,
        generations_moved,
        handovers_begun,
        handovers_ended,
        deltas,
        deltas_refused,
    } = tally;
    for (what, happened) in [
        ("commits", commits / 20),
        ("refused", refused / 10),
        ("nothing changed", nothing_changed),
        ("batches", batches_of_many),
        ("disk errors", disk_errors),
        ("cuts", cuts),
        ("cuts while opening", cuts_while_opening * 10),
        ("unknown kept", unknown_kept * 10),
        ("unknown lost", unknown_lost * 4),
        ("generations moved", generations_moved / 10),
        ("handovers begun", handovers_begun * 4),
        ("handovers ended", handovers_ended * 4),
        ("deltas", deltas / 10),
        ("deltas refused", deltas_refused),
    ] {
        assert!(happened >= seeds, "too few: {what}");
    }
}
