//! Changes of settings that the event log may not have yet.
//!
//! The configuration file and the store are two files, so a change of settings and its event cannot
//! be one write. Therefore the journal records first what is about to happen: the event, and
//! digests of the file before and after. Then the file is replaced, the event is logged, and the
//! entry is removed. A server that was killed in between logs the entries of its journal at the
//! next start, unless the file is still as it was before or the log has the event. So every change
//! has its event; an event without its change is only possible if the old file was restored in the
//! meantime.
//!
//! The journal is one file in the data directory, readable by its owner only and replaced as a
//! whole. It contains no values of settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};

use super::save::replace_file;
use crate::json::{self, Value, scan, write_string};
use crate::state::State;
use crate::state::event::NewEvent;

/// Its name in the data directory.
pub const FILE_NAME: &str = "settings_changes.json";
/// Changes that wait for the log while the store is down. Above: the oldest are dropped.
const ENTRIES_MAX: usize = 100;

/// A change of settings that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Digests of the file.
    pub before: Box<str>,
    pub after: Box<str>,
    /// Revision of the state when the change began; its event has a later one.
    pub revision: u64,
    pub event: NewEvent,
}

impl JournalEntry {
    pub fn new(before: &str, after: &str, revision: u64, event: NewEvent) -> Self {
        Self {
            before: digest(before.as_bytes()),
            after: digest(after.as_bytes()),
            revision,
            event,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"after\":");
        write_string(out, &self.after);
        out.extend_from_slice(b",\"before\":");
        write_string(out, &self.before);
        out.extend_from_slice(b",\"event\":");
        out.extend_from_slice(self.event.text_of_members().as_bytes());
        out.extend_from_slice(b",\"revision\":");
        out.extend_from_slice(self.revision.to_string().as_bytes());
        out.extend_from_slice(b"}\n");
    }

    fn read(line: &[u8]) -> Option<Self> {
        let entry = json::parse(line).ok()?;
        let text = |name| entry.get(name).and_then(Value::as_str).map(Box::from);
        Some(Self {
            before: text("before")?,
            after: text("after")?,
            revision: entry.get("revision")?.as_u64()?,
            event: NewEvent::api_call_of(entry.get("event")?)?,
        })
    }

    /// Whether the log has its event.
    fn is_logged(&self, state: &State) -> bool {
        let later = state.events().range(self.revision + 1..);
        let mut texts = later.flat_map(|(_, chunk)| chunk.events.iter());
        texts.any(|text| {
            ["operation_id", "trace_id", "user"]
                .into_iter()
                .all(|name| scan::member(text, name) == self.event.member(name))
        })
    }
}

fn digest(text: &[u8]) -> Box<str> {
    let hash = Sha256::digest(text);
    hash.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into()
}

/// The journal of a data directory.
pub struct Journal {
    path: PathBuf,
    changing: Mutex<()>,
}

/// The exclusive right to change settings.
pub struct JournalGuard<'j> {
    journal: &'j Journal,
    _guard: MutexGuard<'j, ()>,
}

impl Journal {
    pub fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(FILE_NAME),
            changing: Mutex::new(()),
        }
    }

    pub fn lock(&self) -> JournalGuard<'_> {
        JournalGuard {
            _guard: self.changing.lock(),
            journal: self,
        }
    }

    fn entries(&self) -> io::Result<Vec<JournalEntry>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        let entries: Vec<_> = lines
            .iter()
            .filter_map(|line| JournalEntry::read(line))
            .collect();
        if entries.len() < lines.len() {
            tracing::warn!(path = %self.path.display(), "ignoring malformed journal lines");
        }
        Ok(entries)
    }

    fn replace(&self, entries: &[JournalEntry]) -> io::Result<()> {
        if entries.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let mut text = Vec::new();
        for entry in entries {
            entry.write(&mut text);
        }
        let text = String::from_utf8(text).expect("written JSON is UTF-8");
        replace_file(&self.path, &text, 0o600)
    }
}

impl JournalGuard<'_> {
    /// Records a change that is about to be made. After an error it must not be made.
    pub fn begin(&self, entry: JournalEntry) -> io::Result<()> {
        let mut entries = self.journal.entries()?;
        let surplus = (entries.len() + 1).saturating_sub(ENTRIES_MAX);
        if surplus > 0 {
            tracing::warn!(
                surplus,
                "settings journal is full; dropping its oldest entries"
            );
        }
        entries.drain(..surplus);
        entries.push(entry);
        self.journal.replace(&entries)
    }

    /// Removes the last entry: its change was not made.
    pub fn withdraw(&self) -> io::Result<()> {
        let mut entries = self.journal.entries()?;
        entries.pop();
        self.journal.replace(&entries)
    }

    /// The events of this run that the log does not have. All their changes were made.
    pub fn unlogged(&self, state: &State) -> io::Result<Vec<NewEvent>> {
        let mut entries = self.journal.entries()?;
        entries.retain(|entry| !entry.is_logged(state));
        Ok(entries.into_iter().map(|entry| entry.event).collect())
    }

    /// The events that the log does not have, at a start: the file shows whether the last change
    /// was made. Every earlier one was, or the next would not have begun.
    pub fn unlogged_at_start(&self, state: &State, config: &Path) -> io::Result<Vec<NewEvent>> {
        let mut entries = self.journal.entries()?;
        let Some(last) = entries.last() else {
            return Ok(Vec::new());
        };
        let text = match fs::read(config) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let now = digest(&text);
        if now == last.before && now != last.after {
            entries.pop();
        }
        entries.retain(|entry| !entry.is_logged(state));
        Ok(entries.into_iter().map(|entry| entry.event).collect())
    }

    /// Removes all entries: the log has their events.
    pub fn clear(&self) -> io::Result<()> {
        self.journal.replace(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::Command;
    use crate::state::event::{Audit, AuditSubject};
    use crate::state::node::RenderSettings;
    use crate::writer::StateMachine;
    use std::time::Instant;
    use weir_storage::Store;

    fn event(trace_id: &str) -> NewEvent {
        let audit = Audit {
            operation: "config_save",
            path: "/central/api/v3/config".into(),
            subject: AuditSubject::Other,
            originator: Some("pa\"nel".into()),
            trace_id: trace_id.into(),
            user: "api_key".into(),
            ip: [127, 0, 0, 1].into(),
            user_agent: None,
            received: Instant::now(),
        };
        audit.event(200)
    }

    fn state() -> State {
        State::new(1, RenderSettings::default())
    }

    #[test]
    fn changes_made_before_a_crash_are_logged_at_the_start() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("weir.toml");
        let (journal, state) = (Journal::new(folder.path()), state());
        let begin = |before: &str, after: &str, trace_id: &str| {
            let entry = JournalEntry::new(before, after, 0, event(trace_id));
            journal.lock().begin(entry).expect("written");
        };
        let found = || {
            let found = journal.lock().unlogged_at_start(&state, &file);
            let trace_id = |event: &NewEvent| event.member("trace_id").map(str::to_owned);
            let found = found.expect("read");
            found.iter().filter_map(trace_id).collect::<Vec<_>>()
        };
        assert!(found().is_empty(), "no entry");
        begin("", "a = 1", "t1");
        assert!(found().is_empty(), "without a file it was not made");
        fs::write(&file, "a = 1").expect("written");
        assert_eq!(found(), ["\"t1\""]);
        begin("a = 1", "a = 2", "t2");
        assert_eq!(found(), ["\"t1\""], "the second was not made");
        fs::write(&file, "a = 2").expect("written");
        assert_eq!(found(), ["\"t1\"", "\"t2\""]);
        fs::write(&file, "a = 3").expect("edited by hand");
        assert_eq!(found(), ["\"t1\"", "\"t2\""]);
        journal.lock().withdraw().expect("written");
        assert_eq!(found(), ["\"t1\""]);
        // A change without effect may be logged.
        begin("a = 3", "a = 3", "t3");
        assert_eq!(found(), ["\"t1\"", "\"t3\""]);
        journal.lock().clear().expect("removed");
        assert!(found().is_empty() && !folder.path().join(FILE_NAME).exists());
    }

    #[test]
    fn events_of_the_log_are_not_logged_again() {
        let folder = tempfile::tempdir().expect("a directory");
        let (store, _) =
            Store::open(folder.path(), &weir_storage::Options::default()).expect("a store");
        let mut machine = StateMachine::new(std::sync::Arc::new(state()), store);
        let journal = Journal::new(folder.path());
        for trace_id in ["t1", "t2"] {
            let entry =
                JournalEntry::new("", trace_id, machine.state().revision(), event(trace_id));
            journal.lock().begin(entry).expect("written");
        }
        let unlogged = |machine: &StateMachine<Store>| {
            let found = journal.lock().unlogged(machine.state()).expect("read");
            found.len()
        };
        assert_eq!(unlogged(&machine), 2);
        for (trace_id, left) in [("t1", 1), ("t2", 0)] {
            let events = vec![event(trace_id)];
            let append = Command::AppendEvents { events };
            machine.batch(vec![append], 1_000).expect("commits");
            assert_eq!(unlogged(&machine), left);
        }
    }

    #[test]
    fn entries_read_back_and_malformed_lines_are_ignored() {
        let folder = tempfile::tempdir().expect("a directory");
        let journal = Journal::new(folder.path());
        let entry = JournalEntry::new("x", "y", 7, event("t"));
        journal.lock().begin(entry.clone()).expect("written");
        assert_eq!(
            journal.entries().expect("read"),
            std::slice::from_ref(&entry)
        );
        let path = folder.path().join(FILE_NAME);
        let good = fs::read_to_string(&path).expect("there");
        fs::write(&path, format!("malformed\n{{}}\n{good}{{\"after\":")).expect("written");
        assert_eq!(
            journal.entries().expect("read"),
            std::slice::from_ref(&entry)
        );
        for _ in 0..2 * ENTRIES_MAX {
            journal.lock().begin(entry.clone()).expect("written");
        }
        assert_eq!(journal.entries().expect("read").len(), ENTRIES_MAX);
    }
}
