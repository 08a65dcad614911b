//! What streamers saw against what operators did: the times that edits took, and answers that were
//! older than they may be.
//!
//! Pure. The rule: a request that was sent after a change had been acknowledged is answered with
//! that change or a later one. It is checked for the first such request of every streamer
//! concerned; that later ones do not go back is the copy's own check. Streams that are moved are
//! judged only while no move is under way.

use crate::copy::FaultKind;
use crate::plan::{Edit, Move};
use crate::report::{Fault, Faults, Latency};
use crate::roster::Roster;
use crate::schedule::Nanos;
use crate::seed::Key;
use crate::streamers::Log;
use std::collections::{BTreeMap, HashMap};

#[derive(Default)]
pub struct Verdict {
    pub faults: Faults,
    pub wakes: BTreeMap<&'static str, Latency>,
    /// Edits that a streamer never saw because a later one of the same stream was there first.
    pub superseded: u64,
}

/// `is_counted`: whether a change intended at a time is in the measured window.
pub fn judge(
    roster: &Roster,
    edits: &[Edit],
    moves: &[Move],
    logs: &[&Log],
    is_counted: &dyn Fn(Nanos) -> bool,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut by_host = HashMap::<u32, Vec<u32>>::new();
    let mut learned = HashMap::<(u32, Key), Vec<(Nanos, u64)>>::new();
    for (at, log) in logs.iter().enumerate() {
        by_host.entry(log.host).or_default().push(at as u32);
        for (key, seq, read) in &log.edits {
            learned
                .entry((at as u32, *key))
                .or_default()
                .push((*read, *seq));
        }
    }
    judge_edits(
        roster,
        edits,
        logs,
        &by_host,
        &learned,
        is_counted,
        &mut verdict,
    );
    judge_moves(roster, moves, logs, &by_host, &mut verdict);
    verdict
}

fn judge_edits(
    roster: &Roster,
    edits: &[Edit],
    logs: &[&Log],
    by_host: &HashMap<u32, Vec<u32>>,
    learned: &HashMap<(u32, Key), Vec<(Nanos, u64)>>,
    is_counted: &dyn Fn(Nanos) -> bool,
    verdict: &mut Verdict,
) {
    let nobody = Vec::new();
    let mut last_of = BTreeMap::<u64, (Nanos, u32, bool)>::new();
    for edit in edits {
        for at in by_host.get(&edit.host).unwrap_or(&nobody) {
            let known = learned
                .get(&(*at, edit.stream))
                .map_or(&[][..], Vec::as_slice);
            let seen = known.iter().find(|(_, seq)| *seq >= edit.seq);
            if let Some((acked, _)) = edit.acked {
                let answers = &logs[*at as usize].answers;
                let first = answers.partition_point(|(sent, _)| *sent < acked);
                if let Some((sent, read)) = answers.get(first)
                    && seen.is_none_or(|(seen, _)| seen > read)
                {
                    verdict.faults.add(Fault {
                        kind: FaultKind::Stale,
                        streamer: roster.hosts[edit.host as usize].name.clone(),
                        stream: Some(roster.name_of(edit.stream)),
                        what: format!(
                            "edit {} was acknowledged {:.3} ms before a poll was sent whose \
                             answer did not carry it",
                            edit.seq,
                            (sent - acked) as f64 / 1e6
                        ),
                    });
                }
            }
            if !is_counted(edit.intended) {
                continue;
            }
            match seen {
                Some((read, seq)) if *seq == edit.seq => {
                    let took = read.saturating_sub(edit.intended);
                    verdict
                        .wakes
                        .entry("edit until its streamer has it")
                        .or_default()
                        .record(took);
                    let last = last_of.entry(edit.seq).or_insert((0, 0, false));
                    *last = (last.0.max(took), last.1 + 1, last.2);
                }
                Some(_) => verdict.superseded += 1,
                None => (),
            }
        }
        if is_counted(edit.intended) {
            measure_backups(roster, edit, by_host, learned, verdict);
        }
    }
    for (took, _, _) in last_of.values().filter(|(_, count, _)| *count > 1) {
        verdict
            .wakes
            .entry("edit until the last of its streamers has it")
            .or_default()
            .record(*took);
    }
}

/// Backups and inference nodes may or may not receive an edit; when they do, it is measured.
fn measure_backups(
    roster: &Roster,
    edit: &Edit,
    by_host: &HashMap<u32, Vec<u32>>,
    learned: &HashMap<(u32, Key), Vec<(Nanos, u64)>>,
    verdict: &mut Verdict,
) {
    let Some(stream) = roster.find(edit.stream) else {
        return;
    };
    let others = stream.others.iter().filter(|host| **host != edit.host);
    for at in others.filter_map(|host| by_host.get(host)).flatten() {
        let known = learned
            .get(&(*at, edit.stream))
            .map_or(&[][..], Vec::as_slice);
        if let Some((read, _)) = known.iter().find(|(_, seq)| *seq == edit.seq) {
            let took = read.saturating_sub(edit.intended);
            let wakes = verdict.wakes.entry("edit until a backup has it");
            wakes.or_default().record(took);
        }
    }
}

fn judge_moves(
    roster: &Roster,
    moves: &[Move],
    logs: &[&Log],
    by_host: &HashMap<u32, Vec<u32>>,
    verdict: &mut Verdict,
) {
    let mut by_stream = BTreeMap::<Key, Vec<&Move>>::new();
    for moved in moves {
        by_stream.entry(moved.stream).or_default().push(moved);
    }
    let mut told = HashMap::<(u32, Key), Vec<(bool, u32)>>::new();
    for (at, log) in logs.iter().enumerate() {
        for (key, present, answer) in &log.moves {
            told.entry((at as u32, *key))
                .or_default()
                .push((*present, *answer));
        }
    }
    let nobody = Vec::new();
    for (key, moves) in by_stream {
        for (n, moved) in moves.iter().enumerate() {
            let Some(acked) = moved.acked else { continue };
            let until = moves.get(n + 1).map_or(Nanos::MAX, |next| next.sent);
            for (host, must) in [(moved.from, false), (moved.to, true)] {
                for at in by_host.get(&host).unwrap_or(&nobody) {
                    let answers = &logs[*at as usize].answers;
                    let first = answers.partition_point(|(sent, _)| *sent < acked);
                    let told = told.get(&(*at, key)).map_or(&[][..], Vec::as_slice);
                    for (index, (_, read)) in answers.iter().enumerate().skip(first) {
                        if *read >= until {
                            break;
                        }
                        let known = told
                            .iter()
                            .rev()
                            .find(|(_, answer)| *answer as usize <= index);
                        if known.is_some_and(|(present, _)| *present) != must {
                            verdict.faults.add(Fault {
                                kind: if must {
                                    FaultKind::Shortened
                                } else {
                                    FaultKind::Stale
                                },
                                streamer: roster.hosts[host as usize].name.clone(),
                                stream: Some(roster.name_of(key)),
                                what: format!(
                                    "moved {} this streamer, acknowledged before a poll whose \
                                     answer {} it",
                                    if must { "to" } else { "away from" },
                                    if must { "lacks" } else { "still names" },
                                ),
                            });
                            break;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Stream;

    fn stream(name: &str, ingest: u32) -> Stream {
        Stream {
            name: name.into(),
            key: Key::of(name),
            ingest: Some(ingest),
            others: Vec::new(),
            updated_at: 0,
            edit: 0,
            unsure: false,
            mover: false,
        }
    }

    fn roster() -> Roster {
        Roster::new(
            &["s1", "s2"],
            vec![stream("a", 0), stream("b", 0), stream("m", 0)],
        )
    }

    fn edit(seq: u64, intended: Nanos, acked: Nanos) -> Edit {
        Edit {
            seq,
            stream: Key::of("a"),
            host: 0,
            intended,
            acked: Some((acked, 0)),
        }
    }

    fn verdict(edits: &[Edit], moves: &[Move], logs: &[&Log]) -> Verdict {
        judge(&roster(), edits, moves, logs, &|_| true)
    }

    #[test]
    fn answer_requested_after_an_acknowledgement_has_the_edit() {
        // Asked at 5 (before the acknowledgement at 20) and answered without: allowed. Asked at 21:
        // not allowed.
        let a = Key::of("a");
        let mut log = Log {
            host: 0,
            answers: vec![(5, 15), (21, 30), (31, 40)],
            ..Log::default()
        };
        log.edits = vec![(a, 1, 30)];
        assert_eq!(verdict(&[edit(1, 10, 20)], &[], &[&log]).faults.total(), 0);
        log.edits = vec![(a, 1, 40)];
        let found = verdict(&[edit(1, 10, 20)], &[], &[&log]).faults;
        assert_eq!((found.total(), found.count(FaultKind::Stale)), (1, 1));
        assert_eq!(
            (
                found.shown[0].streamer.as_str(),
                found.shown[0].stream.as_deref()
            ),
            ("s1", Some("a"))
        );
        log.edits.clear();
        assert_eq!(
            verdict(&[edit(1, 10, 20)], &[], &[&log]).faults.total(),
            1,
            "never received although it polled"
        );
        log.edits = vec![(a, 2, 30)];
        let later = verdict(&[edit(1, 10, 20), edit(2, 12, 25)], &[], &[&log]);
        assert_eq!(
            (later.faults.total(), later.superseded),
            (0, 1),
            "a later edit stands for the earlier one"
        );
        let other = Log {
            host: 1,
            answers: vec![(21, 30)],
            ..Log::default()
        };
        assert_eq!(
            verdict(&[edit(1, 10, 20)], &[], &[&other]).faults.total(),
            0,
            "not its stream"
        );
    }

    #[test]
    fn wake_ups_are_measured_from_the_intended_time() {
        let (a, b) = (Key::of("a"), Key::of("b"));
        let log = Log {
            host: 0,
            edits: vec![(a, 1, 500), (b, 1, 900)],
            ..Log::default()
        };
        let of_b = Edit {
            stream: b,
            ..edit(1, 100, 20)
        };
        let found = verdict(&[edit(1, 100, 20), of_b], &[], &[&log]);
        assert_eq!(found.wakes["edit until its streamer has it"].count(), 2);
        assert_eq!(
            found.wakes["edit until the last of its streamers has it"].quantile(1.0),
            800
        );
        let counted = judge(&roster(), &[edit(1, 100, 20)], &[], &[&log], &|intended| {
            intended > 100
        });
        assert!(counted.wakes.is_empty(), "warm-up");
    }

    #[test]
    fn moved_stream_must_leave_one_list_and_enter_another() {
        let m = Key::of("m");
        let moved = |sent, acked, from, to| Move {
            stream: m,
            from,
            to,
            sent,
            acked,
        };
        let there = [moved(10, Some(20), 0, 1)];
        let mut old = Log {
            host: 0,
            answers: vec![(1, 2), (21, 30)],
            moves: vec![(m, true, 0), (m, false, 1)],
            ..Log::default()
        };
        let mut new = Log {
            host: 1,
            answers: vec![(1, 2), (21, 30)],
            moves: vec![(m, true, 1)],
            ..Log::default()
        };
        assert_eq!(verdict(&[], &there, &[&old, &new]).faults.total(), 0);
        new.moves.clear();
        let found = verdict(&[], &there, &[&old, &new]).faults;
        assert_eq!((found.total(), found.count(FaultKind::Shortened)), (1, 1));
        old.moves.pop();
        let found = verdict(&[], &there, &[&old, &new]).faults;
        assert_eq!((found.total(), found.count(FaultKind::Stale)), (2, 1));
        // While the next move is under way nothing is certain; the same when the move has no
        // answer.
        let back = [moved(10, Some(20), 0, 1), moved(25, Some(40), 1, 0)];
        assert_eq!(verdict(&[], &back, &[&old, &new]).faults.total(), 0);
        assert_eq!(
            verdict(&[], &[moved(10, None, 0, 1)], &[&old, &new])
                .faults
                .total(),
            0
        );
    }
}
