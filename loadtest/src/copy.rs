//! One streamer's own copy of its configuration, and every fault an answer can have.
//!
//! Pure: bytes in, changes and faults out. Faults are streams that an answer lacked, repeated,
//! reverted or contradicted; `judge` compares with the changes of operators.

use crate::answer::{self, Item};
use crate::seed::{Key, mix};
use xxhash_rust::xxh3::xxh3_64;

/// What can be wrong. Any of them fails a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// The server has something that the streamer never received.
    Missed,
    /// One answer names a stream twice.
    Duplicated,
    /// A complete answer without a stream that must be in it: the streamer would stop that stream.
    Shortened,
    /// An answer older than an earlier one, or older than a change acknowledged before it was
    /// requested for.
    Stale,
    /// One revision with two contents, or an answer that is not whole.
    Torn,
    /// A change that was acknowledged and is not there.
    Lost,
}

pub const FAULT_KINDS: [FaultKind; 6] = [
    FaultKind::Missed,
    FaultKind::Duplicated,
    FaultKind::Shortened,
    FaultKind::Stale,
    FaultKind::Torn,
    FaultKind::Lost,
];

/// A stream in a streamer's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub hash: u64,
    /// The greatest edit seen in this stream.
    pub edit: u64,
    pub updated_at: u64,
}

/// What an answer did to the copy.
#[derive(Debug, Default)]
pub struct Notes {
    /// Kind, stream (its name if the answer gave it) and what is wrong.
    pub faults: Vec<(FaultKind, Option<Key>, String)>,
    /// Streams whose edit number grew, with the new number.
    pub edits: Vec<(Key, u64)>,
    /// Streams outside `assigned` that were added (true) or removed (false).
    pub moves: Vec<(Key, bool)>,
    /// The content of the copy changed.
    pub changed: bool,
}

impl Notes {
    fn fault(&mut self, kind: FaultKind, stream: Option<Key>, what: impl Into<String>) {
        self.faults.push((kind, stream, what.into()));
    }
}

#[derive(Debug, Default)]
pub struct Copy {
    /// Sorted by key.
    entries: Vec<Entry>,
    /// Sum over all entries: two copies with the same digest have the same content.
    digest: u64,
    pub revision: Option<u64>,
    updated_at: Option<u64>,
    body_hash: Option<u64>,
    loaded: bool,
}

impl Copy {
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    pub fn find(&self, key: Key) -> Option<&Entry> {
        self.entries
            .binary_search_by_key(&key, |entry| entry.key)
            .ok()
            .map(|at| &self.entries[at])
    }

    /// Takes the body of a 200. `assigned`: sorted keys that must be in every complete answer.
    pub fn take(&mut self, body: &[u8], assigned: &[Key], notes: &mut Notes) {
        let body_hash = xxh3_64(body);
        if self.body_hash == Some(body_hash) {
            return; // byte for byte the answer that was checked last
        }
        let mut found = Vec::with_capacity(self.entries.len() + 1);
        let read = answer::read(body, &mut |item| found.push(entry_of(&item)));
        let envelope = match read {
            Ok(envelope) => envelope,
            Err(what) => {
                return notes.fault(
                    FaultKind::Torn,
                    None,
                    format!("a 200 that is not a whole answer: {what}"),
                );
            }
        };
        found.sort_unstable_by_key(|entry| entry.key);
        for pair in found.windows(2).filter(|pair| pair[0].key == pair[1].key) {
            notes.fault(
                FaultKind::Duplicated,
                Some(pair[0].key),
                "named twice in one answer",
            );
        }
        found.dedup_by_key(|entry| entry.key);

        self.check_order(&envelope, notes);
        let digest_before = self.digest;
        let full = envelope.removed.is_none();
        if let Some(removed) = &envelope.removed {
            self.body_hash = None; // the same delta again is not the same news
            self.take_delta(&found, removed, assigned, notes);
        } else {
            if envelope.next.is_some() {
                notes.fault(
                    FaultKind::Torn,
                    None,
                    "the whole list was requested and a page came",
                );
            }
            self.body_hash = Some(body_hash);
            self.take_full(found, assigned, notes);
        }
        notes.changed |= self.digest != digest_before || !self.loaded;
        if self.loaded
            && self.digest != digest_before
            && envelope.revision.is_some()
            && envelope.revision == self.revision
        {
            let revision = self.revision.unwrap_or(0);
            notes.fault(
                FaultKind::Torn,
                None,
                format!("revision {revision} with two contents"),
            );
        }
        self.loaded |= full;
        self.revision = envelope.revision.or(self.revision);
        self.updated_at = envelope.updated_at.or(self.updated_at);
    }

    /// Revisions and stamps never go back.
    fn check_order(&self, envelope: &answer::Envelope, notes: &mut Notes) {
        for (what, old, new) in [
            ("revision", self.revision, envelope.revision),
            ("updated_at", self.updated_at, envelope.updated_at),
        ] {
            if let (Some(old), Some(new)) = (old, new)
                && new < old
            {
                notes.fault(FaultKind::Stale, None, format!("{what} {new} after {old}"));
            }
        }
    }

    /// Compares the new state of one stream with the previous one.
    fn compare(old: &Entry, new: &mut Entry, notes: &mut Notes) {
        if new.edit < old.edit {
            notes.fault(
                FaultKind::Stale,
                Some(new.key),
                format!("edit {} after {}", new.edit, old.edit),
            );
        } else if new.edit > old.edit {
            notes.edits.push((new.key, new.edit));
        }
        if new.updated_at < old.updated_at && new.updated_at != 0 {
            let what = format!("updated_at {} after {}", new.updated_at, old.updated_at);
            notes.fault(FaultKind::Stale, Some(new.key), what);
        }
    }

    fn take_full(&mut self, mut found: Vec<Entry>, assigned: &[Key], notes: &mut Notes) {
        let mut old = self.entries.iter().peekable();
        let mut must = assigned.iter().peekable();
        let is_assigned = |key: Key| assigned.binary_search(&key).is_ok();
        let mut digest = 0u64;
        for new in &mut found {
            digest = digest.wrapping_add(digest_of(new));
            while let Some(key) = must.next_if(|key| **key < new.key) {
                notes.fault(FaultKind::Shortened, Some(*key), "not in a complete answer");
            }
            must.next_if(|key| **key == new.key);
            while let Some(gone) = old.next_if(|old| old.key < new.key) {
                if !is_assigned(gone.key) {
                    notes.moves.push((gone.key, false));
                }
            }
            if let Some(old) = old.next_if(|old| old.key == new.key) {
                Copy::compare(old, new, notes);
            } else {
                if new.edit > 0 {
                    notes.edits.push((new.key, new.edit));
                }
                if !is_assigned(new.key) {
                    notes.moves.push((new.key, true));
                }
            }
        }
        for gone in old.filter(|gone| !is_assigned(gone.key)) {
            notes.moves.push((gone.key, false));
        }
        for key in must {
            notes.fault(FaultKind::Shortened, Some(*key), "not in a complete answer");
        }
        found.shrink_to_fit();
        self.entries = found;
        self.digest = digest;
    }

    fn take_delta(
        &mut self,
        changed: &[Entry],
        removed: &[String],
        assigned: &[Key],
        notes: &mut Notes,
    ) {
        if !self.loaded {
            return notes.fault(
                FaultKind::Torn,
                None,
                "a delta to a streamer that has nothing",
            );
        }
        for new in changed {
            let mut new = *new;
            match self
                .entries
                .binary_search_by_key(&new.key, |entry| entry.key)
            {
                Ok(at) => {
                    Copy::compare(&self.entries[at], &mut new, notes);
                    self.digest = self.digest.wrapping_sub(digest_of(&self.entries[at]));
                    self.entries[at] = new;
                }
                Err(at) => {
                    if new.edit > 0 {
                        notes.edits.push((new.key, new.edit));
                    }
                    if assigned.binary_search(&new.key).is_err() {
                        notes.moves.push((new.key, true));
                    }
                    self.entries.insert(at, new);
                }
            }
            self.digest = self.digest.wrapping_add(digest_of(&new));
        }
        for name in removed {
            let key = Key::of(name);
            if changed
                .binary_search_by_key(&key, |entry| entry.key)
                .is_ok()
            {
                notes.fault(
                    FaultKind::Duplicated,
                    Some(key),
                    "changed and removed in one delta",
                );
            }
            if assigned.binary_search(&key).is_ok() {
                notes.fault(FaultKind::Shortened, Some(key), "removed by a delta");
            }
            // A name that is not in the copy is no fault: it came and went between two polls.
            if let Ok(at) = self.entries.binary_search_by_key(&key, |entry| entry.key) {
                self.digest = self.digest.wrapping_sub(digest_of(&self.entries[at]));
                self.entries.remove(at);
                if assigned.binary_search(&key).is_err() {
                    notes.moves.push((key, false));
                }
            }
        }
    }
}

fn entry_of(item: &Item<'_>) -> Entry {
    Entry {
        key: item.key(),
        hash: item.hash,
        edit: item.edit(),
        updated_at: item.updated_at.unwrap_or(0),
    }
}

fn digest_of(entry: &Entry) -> u64 {
    mix(entry.key.0 ^ entry.hash.rotate_left(17))
}

/// The entries of a complete answer, sorted, for comparing with a copy.
pub fn entries_of(body: &[u8]) -> Result<Vec<Entry>, &'static str> {
    let mut found = Vec::new();
    let envelope = answer::read(body, &mut |item| found.push(entry_of(&item)))?;
    if envelope.removed.is_some() || envelope.next.is_some() {
        return Err("not a complete list");
    }
    found.sort_unstable_by_key(|entry| entry.key);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<Key> {
        let mut keys: Vec<Key> = names.iter().map(|name| Key::of(name)).collect();
        keys.sort_unstable();
        keys
    }

    fn full(revision: u64, items: &[(&str, &str)]) -> String {
        let items: Vec<String> = items
            .iter()
            .map(|(name, title)| format!(r#"{{"name":"{name}","title":"{title}"}}"#))
            .collect();
        format!(
            r#"{{"revision":{revision},"streams":[{}],"updated_at":{revision}}}"#,
            items.join(",")
        )
    }

    fn delta(revision: u64, items: &[(&str, &str)], removed: &str) -> String {
        full(revision, items).replace(
            r#"{"revision""#,
            &format!(r#"{{"removed":[{removed}],"revision""#),
        )
    }

    fn take(copy: &mut Copy, body: &str, assigned: &[&str]) -> Notes {
        let mut notes = Notes::default();
        copy.take(body.as_bytes(), &keys(assigned), &mut notes);
        notes
    }

    fn kinds(notes: &Notes) -> Vec<FaultKind> {
        notes.faults.iter().map(|fault| fault.0).collect()
    }

    const AB: &[&str] = &["a", "b"];

    #[test]
    fn full_and_delta_lead_to_the_same_copy() {
        let mut copy = Copy::default();
        let notes = take(&mut copy, &full(1, &[("a", "x"), ("b", "y")]), AB);
        assert!(notes.faults.is_empty() && notes.changed);
        let notes = take(
            &mut copy,
            &delta(2, &[("b", "y edit=5"), ("m", "z")], ""),
            AB,
        );
        assert!(notes.faults.is_empty() && notes.changed);
        assert_eq!(notes.edits, [(Key::of("b"), 5)]);
        assert_eq!(notes.moves, [(Key::of("m"), true)]);
        let same = full(2, &[("a", "x"), ("b", "y edit=5"), ("m", "z")]);
        let notes = take(&mut copy, &same, AB);
        assert!(notes.faults.is_empty() && !notes.changed, "{notes:?}");
        assert_eq!(copy.entries(), entries_of(same.as_bytes()).unwrap());
        let notes = take(&mut copy, &delta(3, &[], "\"m\""), AB);
        assert!(notes.faults.is_empty() && notes.changed);
        assert_eq!(notes.moves, [(Key::of("m"), false)]);
        assert_eq!(copy.entries().len(), 2);
    }

    #[test]
    fn shortened_answer_names_the_missing_stream() {
        for first in [full(1, &[("a", "x")]), full(1, &[("b", "x")]), full(1, &[])] {
            let notes = take(&mut Copy::default(), &first, AB);
            assert!(
                notes
                    .faults
                    .iter()
                    .all(|fault| fault.0 == FaultKind::Shortened)
                    && !notes.faults.is_empty()
            );
        }
        let mut copy = Copy::default();
        take(&mut copy, &full(1, &[("a", "x"), ("b", "y")]), AB);
        let notes = take(&mut copy, &full(2, &[("a", "x")]), AB);
        assert_eq!(
            notes.faults,
            [(
                FaultKind::Shortened,
                Some(Key::of("b")),
                "not in a complete answer".to_owned()
            )]
        );
        let mut copy = Copy::default();
        take(&mut copy, &full(1, &[("a", "x"), ("b", "y")]), AB);
        assert_eq!(
            kinds(&take(&mut copy, &delta(2, &[], "\"a\""), AB)),
            [FaultKind::Shortened]
        );
    }

    #[test]
    fn duplicate_stream_is_a_fault() {
        let notes = take(
            &mut Copy::default(),
            &full(1, &[("a", "x"), ("b", "y"), ("a", "x")]),
            AB,
        );
        assert_eq!(notes.faults[0].0, FaultKind::Duplicated);
        assert_eq!(notes.faults[0].1, Some(Key::of("a")));
        let mut copy = Copy::default();
        take(&mut copy, &full(1, &[("a", "x"), ("m", "y")]), &["a"]);
        assert_eq!(
            kinds(&take(&mut copy, &delta(2, &[("m", "z")], "\"m\""), &["a"])),
            [FaultKind::Duplicated]
        );
    }

    #[test]
    fn answer_older_than_the_copy_is_a_fault() {
        let mut copy = Copy::default();
        take(&mut copy, &full(5, &[("a", "x edit=7"), ("b", "y")]), AB);
        let notes = take(&mut copy, &full(4, &[("a", "x edit=6"), ("b", "y")]), AB);
        assert_eq!(
            kinds(&notes),
            [FaultKind::Stale; 3],
            "revision, updated_at and the edit itself"
        );
        let mut copy = Copy::default();
        take(&mut copy, &full(5, &[("a", "x edit=7"), ("b", "y")]), AB);
        let notes = take(&mut copy, &delta(6, &[("a", "x edit=6")], ""), AB);
        assert_eq!(
            notes.faults,
            [(
                FaultKind::Stale,
                Some(Key::of("a")),
                "edit 6 after 7".to_owned()
            )]
        );
    }

    #[test]
    fn one_revision_with_two_contents_is_torn() {
        let mut copy = Copy::default();
        take(&mut copy, &full(5, &[("a", "x"), ("b", "y")]), AB);
        assert_eq!(
            kinds(&take(&mut copy, &full(5, &[("a", "x"), ("b", "z")]), AB)),
            [FaultKind::Torn]
        );
        let whole = full(6, &[("a", "x"), ("b", "y")]);
        assert_eq!(
            kinds(&take(&mut copy, &whole[..whole.len() - 9], AB)),
            [FaultKind::Torn]
        );
        let paged = whole.replace(r#"{"revision""#, r#"{"next":"YQ==","revision""#);
        assert_eq!(kinds(&take(&mut copy, &paged, AB)), [FaultKind::Torn]);
        assert_eq!(
            kinds(&take(&mut Copy::default(), &delta(1, &[], ""), AB)),
            [FaultKind::Torn]
        );
    }
}
