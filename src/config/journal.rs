//! Changes of settings that the event log may not know yet.
//!
//! The configuration file and the store are two files, so a change of settings and its event cannot be one write. What is to happen is therefore
//! written down here first: the event, and digests of the file before and after. Then the file is replaced, the event is logged, and the entry goes.
//! A server that was cut off in between logs at its next start what it finds here, unless the file is still as it was before, or the log
//! has it. So every change has its event, and an event without its change is only possible if somebody put the old file back meanwhile.
//!
//! The journal is one file in the data directory, for its owner only, replaced as a whole. It holds no values of settings.

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
/// Changes that wait for the log while the store is down; of more the oldest are forgotten.
const ENTRIES_MAX: usize = 100;

/// A change of settings on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Digests of the file.
    pub before: Box<str>,
    pub after: Box<str>,
    /// Of the state when the change began: its event is later.
    pub revision: u64,
    pub event: NewEvent,
}

impl Entry {
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

/// The right to change settings; there is one.
pub struct Turn<'j> {
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

    pub fn turn(&self) -> Turn<'_> {
        Turn {
            _guard: self.changing.lock(),
            journal: self,
        }
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        let entries: Vec<_> = lines.iter().filter_map(|line| Entry::read(line)).collect();
        if entries.len() < lines.len() {
            tracing::warn!(path = %self.path.display(), "lines that are no changes of settings are passed over");
        }
        Ok(entries)
    }

    fn replace(&self, entries: &[Entry]) -> io::Result<()> {
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

impl Turn<'_> {
    /// A change is about to be made. After an error it must not be.
    pub fn begin(&self, entry: Entry) -> io::Result<()> {
        let mut entries = self.journal.entries()?;
        let surplus = (entries.len() + 1).saturating_sub(ENTRIES_MAX);
        if surplus > 0 {
            tracing::warn!(surplus, "changes of settings will not be in the event log");
        }
        entries.drain(..surplus);
        entries.push(entry);
        self.journal.replace(&entries)
    }

    /// The change that was begun is not made.
    pub fn withdraw(&self) -> io::Result<()> {
        let mut entries = self.journal.entries()?;
        entries.pop();
        self.journal.replace(&entries)
    }

    /// What is to be logged of the changes that were begun in this run of the server: all of them were made.
    pub fn unlogged(&self, state: &State) -> io::Result<Vec<NewEvent>> {
        let mut entries = self.journal.entries()?;
        entries.retain(|entry| !entry.is_logged(state));
        Ok(entries.into_iter().map(|entry| entry.event).collect())
    }

    /// The same at a start: whether the last change was made is told by the file. Every earlier one was, or the next would not have begun.
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

    /// The log has all of it.
    pub fn clear(&self) -> io::Result<()> {
        self.journal.replace(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::Command;
    use crate::state::event::Audit;
    use crate::state::node::RenderSettings;
    use crate::writer::StateMachine;
    use std::time::Instant;
    use weir_storage::Store;

    fn event(trace_id: &str) -> NewEvent {
        let audit = Audit {
            operation: "config_save",
            path: "/central/api/v3/config".into(),
            entity: None,
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
    fn what_was_begun_is_logged_after_a_crash_unless_it_was_not_made() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("weir.toml");
        let (journal, state) = (Journal::new(folder.path()), state());
        let begin = |before: &str, after: &str, trace_id: &str| {
            let entry = Entry::new(before, after, 0, event(trace_id));
            journal.turn().begin(entry).expect("written");
        };
        let found = || {
            let found = journal.turn().unlogged_at_start(&state, &file);
            let trace_id = |event: &NewEvent| event.member("trace_id").map(str::to_owned);
            let found = found.expect("read");
            found.iter().filter_map(trace_id).collect::<Vec<_>>()
        };
        assert!(found().is_empty(), "nothing was begun");
        begin("", "a = 1", "t1");
        assert!(found().is_empty(), "there is no file: it was not made");
        fs::write(&file, "a = 1").expect("written");
        assert_eq!(found(), ["\"t1\""]);
        begin("a = 1", "a = 2", "t2");
        assert_eq!(found(), ["\"t1\""], "the second was not made");
        fs::write(&file, "a = 2").expect("written");
        assert_eq!(found(), ["\"t1\"", "\"t2\""]);
        fs::write(&file, "a = 3").expect("somebody was quick");
        assert_eq!(found(), ["\"t1\"", "\"t2\""]);
        journal.turn().withdraw().expect("written");
        assert_eq!(found(), ["\"t1\""]);
        // A change that changes nothing may be told.
        begin("a = 3", "a = 3", "t3");
        assert_eq!(found(), ["\"t1\"", "\"t3\""]);
        journal.turn().clear().expect("removed");
        assert!(found().is_empty() && !folder.path().join(FILE_NAME).exists());
    }

    #[test]
    fn what_the_log_has_is_not_logged_again() {
        let folder = tempfile::tempdir().expect("a directory");
        let (store, _) =
            Store::open(folder.path(), &weir_storage::Options::default()).expect("a store");
        let mut machine = StateMachine::new(std::sync::Arc::new(state()), store);
        let journal = Journal::new(folder.path());
        for trace_id in ["t1", "t2"] {
            let entry = Entry::new("", trace_id, machine.state().revision(), event(trace_id));
            journal.turn().begin(entry).expect("written");
        }
        let unlogged = |machine: &StateMachine<Store>| {
            let found = journal.turn().unlogged(machine.state()).expect("read");
            found.len()
        };
        assert_eq!(unlogged(&machine), 2);
        for (trace_id, left) in [("t1", 1), ("t2", 0)] {
            let events = vec![event(trace_id)];
            let note = Command::AppendEvents { events };
            machine.batch(vec![note], 1_000).expect("commits");
            assert_eq!(unlogged(&machine), left);
        }
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written_and_nonsense_is_passed_over() {
        let folder = tempfile::tempdir().expect("a directory");
        let journal = Journal::new(folder.path());
        let entry = Entry::new("x", "y", 7, event("t"));
        journal.turn().begin(entry.clone()).expect("written");
        assert_eq!(
            journal.entries().expect("read"),
            std::slice::from_ref(&entry)
        );
        let path = folder.path().join(FILE_NAME);
        let good = fs::read_to_string(&path).expect("there");
        fs::write(&path, format!("nonsense\n{{}}\n{good}{{\"after\":")).expect("written");
        assert_eq!(
            journal.entries().expect("read"),
            std::slice::from_ref(&entry)
        );
        for _ in 0..2 * ENTRIES_MAX {
            journal.turn().begin(entry.clone()).expect("written");
        }
        assert_eq!(journal.entries().expect("read").len(), ENTRIES_MAX);
    }
}
