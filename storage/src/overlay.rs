//! Overlay: records that are durable in the log and not in the tables yet.
//!
//! Only the newest value of a key is kept, so memory is bounded by distinct keys, and the values
//! are shared with whoever committed them. A pass takes what has gathered and puts it into the
//! tables, while commits gather for the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::entry::{Change, Position};

/// The newest value of a key. `None`: deleted.
pub type Value = Option<Arc<[u8]>>;
/// The newest value of each key, by table. Commits only find keys; a pass sorts them.
pub type Records = BTreeMap<Box<str>, HashMap<Box<[u8]>, Value>>;

/// What is ahead of the tables.
#[derive(Default, Debug)]
pub struct Overlay {
    /// Newer than those of the pass.
    current: Records,
    pass: Option<Arc<Pass>>,
    /// The last batch in `current` or before it.
    newest: Position,
    /// The tables have everything up to here.
    complete: Position,
}

/// What is put into the tables together: all records up to a position.
#[derive(Debug)]
pub struct Pass {
    pub records: Records,
    pub upto: Position,
}

impl Overlay {
    /// Nothing is ahead of tables that are complete up to a position.
    pub fn new(complete: Position) -> Self {
        Self {
            newest: complete,
            complete,
            ..Self::default()
        }
    }

    /// Like [`Overlay::new`], with the newest values of all batches up to `newest`.
    pub fn replayed(complete: Position, newest: Position, records: Records) -> Self {
        Self {
            current: records,
            newest,
            ..Self::new(complete)
        }
    }

    /// Adds a change of a batch. `value`: the bytes of a put, shared if possible.
    pub fn add(&mut self, table: &str, key: &[u8], value: Value) {
        if !self.current.contains_key(table) {
            self.current.insert(table.into(), HashMap::new());
        }
        let records = self.current.get_mut(table).expect("it was added");
        match records.get_mut(key) {
            Some(known) => *known = value,
            None => {
                records.insert(key.into(), value);
            }
        }
    }

    /// All changes of the batch at this position were added.
    pub fn advance(&mut self, to: Position) {
        self.newest = to;
    }

    /// Whether the tables lack no batch. One without changes counts: its position is lacking.
    pub fn is_empty(&self) -> bool {
        self.newest == self.complete
    }

    /// Records that differ from the tables.
    pub fn len(&self) -> usize {
        let passing = self.pass.iter().map(|pass| &pass.records);
        let all = passing.chain([&self.current]).flat_map(BTreeMap::values);
        all.map(HashMap::len).sum()
    }

    /// Tables with such records.
    pub fn tables(&self) -> Vec<String> {
        let passing = self.pass.iter().flat_map(|pass| pass.records.keys());
        passing
            .chain(self.current.keys())
            .map(ToString::to_string)
            .collect()
    }

    /// What goes into the tables next. One pass is under way at a time.
    pub fn begin_pass(&mut self) -> Arc<Pass> {
        assert!(self.pass.is_none(), "one pass after the other");
        let pass = Arc::new(Pass {
            records: std::mem::take(&mut self.current),
            upto: self.newest,
        });
        self.pass = Some(pass.clone());
        pass
    }

    /// Everything of the pass is in the tables.
    pub fn end_pass(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.complete = pass.upto;
        }
    }

    /// The pass failed: what it had is ahead of the tables as before.
    pub fn undo_pass(&mut self) {
        let Some(pass) = self.pass.take() else { return };
        let newer = std::mem::take(&mut self.current);
        self.current = pass.records.clone();
        for (table, records) in newer {
            self.current.entry(table).or_default().extend(records);
        }
    }

    /// The records of a shard of a table that differ from the tables, in key order.
    pub fn range(&self, table: &str, shard: Option<u8>) -> Vec<(Box<[u8]>, Value)> {
        let is_wanted =
            |key: &[u8]| shard.is_none_or(|shard| key.first().is_some_and(|first| *first == shard));
        let mut merged = BTreeMap::new();
        let passing = self.pass.iter().map(|pass| &pass.records);
        for records in passing.chain([&self.current]) {
            if let Some(records) = records.get(table) {
                let wanted = records.iter().filter(|(key, _)| is_wanted(key));
                merged.extend(wanted.map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        merged.into_iter().collect()
    }
}

impl Pass {
    /// The changes in the order of tables and keys.
    pub fn changes(&self) -> Vec<Change<'_>> {
        let mut changes = Vec::new();
        for (table, records) in &self.records {
            let begin = changes.len();
            changes.extend(records.iter().map(|(key, value)| Change {
                table,
                key,
                value: value.as_deref(),
            }));
            changes[begin..].sort_unstable_by_key(|change| change.key);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Arc<[u8]> {
        Arc::from(text.as_bytes())
    }

    fn seen(overlay: &Overlay, shard: Option<u8>) -> Vec<(String, Option<String>)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let range = overlay.range("t", shard).into_iter();
        range
            .map(|(key, value)| (text(&key), value.map(|value| text(&value))))
            .collect()
    }

    #[test]
    fn newest_value_of_a_key_counts_through_a_pass() {
        let at = |lsn| Position {
            lsn,
            ..Position::default()
        };
        let mut overlay = Overlay::new(at(3));
        assert!(overlay.is_empty());
        overlay.add("t", b"a1", Some(value("old")));
        overlay.add("t", b"a2", Some(value("two")));
        overlay.add("u", b"a1", Some(value("other")));
        overlay.advance(at(4));
        let pass = overlay.begin_pass();
        assert_eq!((pass.upto, pass.changes().len()), (at(4), 3));
        overlay.add("t", b"a1", Some(value("new")));
        overlay.add("t", b"a2", None);
        overlay.add("t", b"b1", Some(value("b")));
        overlay.advance(at(5));
        let some = |text: &str| Some(text.to_owned());
        let all = [
            ("a1".to_owned(), some("new")),
            ("a2".to_owned(), None),
            ("b1".to_owned(), some("b")),
        ];
        assert_eq!(seen(&overlay, None), all);
        assert_eq!(seen(&overlay, Some(b'a')), all[..2]);
        assert_eq!(seen(&overlay, Some(255)), []);
        overlay.undo_pass();
        assert_eq!(seen(&overlay, None), all);
        let keys = |pass: &Pass| -> Vec<String> {
            let changes = pass.changes().into_iter();
            changes
                .map(|it| format!("{} {}", it.table, String::from_utf8_lossy(it.key)))
                .collect()
        };
        let pass = overlay.begin_pass();
        assert_eq!(pass.upto, at(5));
        let in_order = ["t a1", "t a2", "t b1", "u a1"];
        assert_eq!(keys(&pass), in_order, "tables are filled in their order");
        overlay.end_pass();
        assert!(overlay.is_empty());
        assert_eq!(overlay.begin_pass().upto, at(5));
    }
}
