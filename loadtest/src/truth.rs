//! The proof at the end: the state of the server after the last change, against what
//! streamers hold and what operators were promised.
//!
//! Three independent sources must agree: the copy that a streamer built from its answers, a fresh
//! list of that streamer, and the operators' list of streams with their layouts.

use crate::control::Control;
use crate::copy::{self, Copy, Entry, FaultKind};
use crate::plan::{Edit, Move};
use crate::report::{Fault, Faults};
use crate::roster::{Roster, Stream};
use crate::seed::Key;
use std::collections::HashMap;

/// A fresh whole list of one streamer, by a way that no cache of the client can touch. None, with a
/// fault: what came is not a whole list.
pub fn fresh_list(
    control: &mut Control,
    prefix: &str,
    hostname: &str,
    faults: &mut Faults,
) -> Result<Option<Vec<Entry>>, String> {
    let path = format!("{prefix}/streamers/{hostname}/streams");
    let response = control.expect("GET", &path, None)?;
    match copy::entries_of(&response.body) {
        Ok(entries) => Ok(Some(entries)),
        Err(what) => {
            let what = format!("the fresh list: {what}");
            faults.add(Fault {
                kind: FaultKind::Torn,
                streamer: hostname.to_owned(),
                stream: None,
                what,
            });
            Ok(None)
        }
    }
}

/// One streamer's copy against its fresh list.
pub fn compare_copy(
    hostname: &str,
    copy: &Copy,
    fresh: &[Entry],
    names: &Roster,
    faults: &mut Faults,
) {
    let mut add = |kind, key: Key, what: String| {
        faults.add(Fault {
            kind,
            streamer: hostname.to_owned(),
            stream: Some(names.name_of(key)),
            what,
        });
    };
    if !copy.is_loaded() {
        let what = "never got a whole answer".to_owned();
        faults.add(Fault {
            kind: FaultKind::Missed,
            streamer: hostname.to_owned(),
            stream: None,
            what,
        });
        return;
    }
    let mut held = copy.entries().iter().peekable();
    for entry in fresh {
        while let Some(extra) = held.next_if(|held| held.key < entry.key) {
            add(
                FaultKind::Missed,
                extra.key,
                "never received that the stream is gone".into(),
            );
        }
        match held.next_if(|held| held.key == entry.key) {
            None => add(
                FaultKind::Missed,
                entry.key,
                "never received the stream".into(),
            ),
            Some(held) if held.edit > entry.edit => {
                let what = format!(
                    "received edit {}, the server now has {}",
                    held.edit, entry.edit
                );
                add(FaultKind::Lost, entry.key, what);
            }
            Some(held) if held.hash != entry.hash => {
                let what = format!(
                    "holds another content (edit {}) than the server (edit {})",
                    held.edit, entry.edit
                );
                add(FaultKind::Missed, entry.key, what);
            }
            Some(_) => (),
        }
    }
    for extra in held {
        add(
            FaultKind::Missed,
            extra.key,
            "never received that the stream is gone".into(),
        );
    }
}

/// One streamer's fresh list against the operators' list. `host`: its index in `roster`.
pub fn compare_roster(host: u32, fresh: &[Entry], roster: &Roster, faults: &mut Faults) {
    let hostname = &roster.hosts[host as usize].name;
    let mut add = |kind, key: Key, what: String| {
        faults.add(Fault {
            kind,
            streamer: hostname.clone(),
            stream: Some(roster.name_of(key)),
            what,
        });
    };
    let assigned = &roster.hosts[host as usize].assigned;
    for key in assigned {
        if fresh.binary_search_by_key(key, |entry| entry.key).is_err() {
            add(
                FaultKind::Shortened,
                *key,
                "laid out here by the list of streams, not in the streamer's list".into(),
            );
        }
    }
    for entry in fresh {
        let stream = roster.find(entry.key);
        let belongs = assigned.binary_search(&entry.key).is_ok()
            || stream.is_some_and(|stream| stream.unsure);
        if !belongs {
            add(
                FaultKind::Stale,
                entry.key,
                "in the streamer's list, not laid out here by the list of streams".into(),
            );
        }
        if let Some(stream) =
            stream.filter(|stream| stream.ingest == Some(host) && stream.edit != entry.edit)
        {
            let what = format!(
                "edit {} in the streamer's list, {} in the list of streams",
                entry.edit, stream.edit
            );
            add(FaultKind::Stale, entry.key, what);
        }
    }
}

/// Everything that was acknowledged against the operators' list.
pub fn compare_promises(
    edits: &[Edit],
    moves: &[Move],
    before: &Roster,
    now: &Roster,
    faults: &mut Faults,
) {
    let mut lost = |host: u32, key: Key, what: String| {
        let streamer = before.hosts[host as usize].name.clone();
        faults.add(Fault {
            kind: FaultKind::Lost,
            streamer,
            stream: Some(before.name_of(key)),
            what,
        });
    };
    let mut last_edits = HashMap::new();
    for edit in edits.iter().filter(|edit| edit.acked.is_some()) {
        last_edits.insert(edit.stream, edit);
    }
    for edit in last_edits.values() {
        let (_, stamp) = edit.acked.expect("only acknowledged ones were kept");
        match now.find(edit.stream) {
            None => lost(
                edit.host,
                edit.stream,
                format!("edit {} was acknowledged, the stream is gone", edit.seq),
            ),
            Some(Stream { edit: found, .. }) if *found < edit.seq => {
                lost(
                    edit.host,
                    edit.stream,
                    format!("edit {} was acknowledged, the server has {found}", edit.seq),
                );
            }
            Some(Stream { updated_at, .. }) if *updated_at < stamp => {
                lost(
                    edit.host,
                    edit.stream,
                    format!("acknowledged with updated_at {stamp}, now it is {updated_at}"),
                );
            }
            Some(_) => (),
        }
    }
    let mut last_moves = HashMap::new();
    for moved in moves {
        last_moves.insert(moved.stream, moved);
    }
    for moved in last_moves.values().filter(|moved| moved.acked.is_some()) {
        let wanted = &before.hosts[moved.to as usize].name;
        let found = now
            .find(moved.stream)
            .and_then(|stream| stream.ingest)
            .map(|host| &now.hosts[host as usize].name);
        if found != Some(wanted) {
            lost(
                moved.to,
                moved.stream,
                format!("a move to {wanted} was acknowledged, the stream is on {found:?}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[(&str, &str)]) -> String {
        let items: Vec<String> = items
            .iter()
            .map(|(name, title)| format!(r#"{{"name":"{name}","title":"{title}"}}"#))
            .collect();
        format!(r#"{{"streams":[{}]}}"#, items.join(","))
    }

    fn stream(name: &str, edit: u64) -> Stream {
        Stream {
            name: name.into(),
            key: Key::of(name),
            ingest: Some(0),
            others: Vec::new(),
            updated_at: 5,
            edit,
            unsure: false,
            mover: false,
        }
    }

    fn found(held: &[(&str, &str)], fresh: &[(&str, &str)]) -> Faults {
        let mut copy = Copy::default();
        copy.take(list(held).as_bytes(), &[], &mut copy::Notes::default());
        let fresh = copy::entries_of(list(fresh).as_bytes()).unwrap();
        let mut faults = Faults::default();
        compare_copy(
            "s1",
            &copy,
            &fresh,
            &Roster::new(&["s1"], vec![stream("a", 0)]),
            &mut faults,
        );
        faults
    }

    #[test]
    fn differing_copy_has_missed_something() {
        let held = [("a", "x edit=1"), ("b", "y")];
        assert_eq!(found(&held, &held).total(), 0);
        let missed = |fresh: &[(&str, &str)]| found(&held, fresh).count(FaultKind::Missed);
        assert_eq!(missed(&[("a", "x edit=2"), ("b", "y")]), 1);
        assert_eq!(missed(&[("a", "x edit=1")]), 1);
        assert_eq!(missed(&[("a", "x edit=1"), ("b", "y"), ("c", "z")]), 1);
        assert_eq!(missed(&[]), 2);
        let newer = found(&held, &[("a", "x"), ("b", "y")]);
        assert_eq!((newer.total(), newer.count(FaultKind::Lost)), (1, 1));
        assert_eq!(newer.shown[0].stream.as_deref(), Some("a"));
        let mut faults = Faults::default();
        compare_copy("s1", &Copy::default(), &[], &Roster::default(), &mut faults);
        assert_eq!(
            faults.count(FaultKind::Missed),
            1,
            "an empty list is no excuse for never having had one"
        );
    }

    #[test]
    fn the_list_of_a_streamer_must_agree_with_the_list_of_streams() {
        let roster = Roster::new(&["s1"], vec![stream("a", 3), stream("b", 0)]);
        let check = |items: &[(&str, &str)]| {
            let mut faults = Faults::default();
            compare_roster(
                0,
                &copy::entries_of(list(items).as_bytes()).unwrap(),
                &roster,
                &mut faults,
            );
            faults
        };
        assert_eq!(check(&[("a", "edit=3"), ("b", "")]).total(), 0);
        assert_eq!(check(&[("a", "edit=3")]).count(FaultKind::Shortened), 1);
        assert_eq!(
            check(&[("a", "edit=2"), ("b", "")]).count(FaultKind::Stale),
            1
        );
        assert_eq!(
            check(&[("a", "edit=3"), ("b", ""), ("c", "")]).count(FaultKind::Stale),
            1
        );
    }

    #[test]
    fn acknowledged_changes_must_be_stored() {
        let before = Roster::new(&["s1", "s2"], vec![stream("a", 0)]);
        let edit = |seq, stamp| Edit {
            seq,
            stream: Key::of("a"),
            host: 0,
            intended: 0,
            acked: Some((1, stamp)),
        };
        let check = |edits: &[Edit], moves: &[Move], now: Vec<Stream>| {
            let mut faults = Faults::default();
            compare_promises(
                edits,
                moves,
                &before,
                &Roster::new(&["s1", "s2"], now),
                &mut faults,
            );
            faults.count(FaultKind::Lost)
        };
        assert_eq!(
            check(&[edit(1, 4), edit(2, 5)], &[], vec![stream("a", 2)]),
            0
        );
        assert_eq!(
            check(&[edit(1, 4), edit(2, 5)], &[], vec![stream("a", 1)]),
            1
        );
        assert_eq!(
            check(&[edit(2, 6)], &[], vec![stream("a", 2)]),
            1,
            "the stamp went back"
        );
        assert_eq!(check(&[edit(2, 5)], &[], vec![]), 1);
        let moved = Move {
            stream: Key::of("a"),
            from: 0,
            to: 1,
            sent: 0,
            acked: Some(1),
        };
        assert_eq!(
            check(&[], std::slice::from_ref(&moved), vec![stream("a", 0)]),
            1
        );
        assert_eq!(
            check(
                &[],
                std::slice::from_ref(&moved),
                vec![Stream {
                    ingest: Some(1),
                    ..stream("a", 0)
                }]
            ),
            0
        );
    }
}
