//! A change of settings: the file, the values in force, and its event in the log.
//!
//! Made on a thread of its own, because files are slow. A journal makes the change and its event
//! one thing over a crash.

use std::cell::Cell;
use std::time::Duration;

use super::ANSWER_WAIT_MAX;
use super::call::{Context, Pending, Step};
use super::shared::{AccessControl, ApiSettings, Shared};
use crate::config::journal::{JournalEntry, JournalGuard};
use crate::config::running::Saved;
use crate::config::{SaveError, SettingChanges, changed_keys};
use crate::core::message::{CoreMessage, Reply};
use crate::error::{self, ApiError};
use crate::http::Response;
use crate::json::Value;
use crate::state::changed_members::ChangedMembers;
use crate::state::command::Command;
use crate::state::event::{Audit, NewEvent};
use crate::writer::{Envelope, ReplyTo};

/// A change of settings on its way to the file.
pub struct SettingsSave {
    change: Option<(SettingChanges, Vec<Value>, Audit)>,
}

impl SettingsSave {
    /// `warnings`: for the response, if the change is saved.
    pub fn new(changes: SettingChanges, warnings: Vec<Value>, audit: Audit) -> Self {
        Self {
            change: Some((changes, warnings, audit)),
        }
    }
}

impl Pending for SettingsSave {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    /// It may replace the very credentials that it was requested with.
    fn ends_with_right(&self) -> bool {
        false
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        let (changes, warnings, audit) = self.change.take().expect("it is started once");
        let (shared, completion) = (context.shared.clone(), context.completion(0));
        let started = std::thread::Builder::new()
            .name("settings".into())
            .spawn(move || {
                let saved = save_settings(&shared, &changes, warnings, &audit);
                completion.send(Reply::Body(saved));
            });
        match started {
            Ok(_) => Step::Wait,
            Err(error) => {
                tracing::warn!(%error, "cannot start the thread for a change of settings");
                let title = "The server has no resources for another thread; nothing was changed";
                error::OVERLOADED.titled(title).into()
            }
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        Step::of_body(reply)
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}

/// Changes settings; returns the body of the answer. Blocks.
fn save_settings(
    shared: &Shared,
    changes: &SettingChanges,
    warnings: Vec<Value>,
    audit: &Audit,
) -> Result<Vec<u8>, ApiError> {
    let journal = shared.settings.journal.lock();
    let revision = shared.published.state().load().revision();
    let begun = Cell::new(false);
    let begin = |before: &str, after: &str| {
        let mut changed = ChangedMembers::default();
        for key in changed_keys(before, changes) {
            changed.add(super::config_document::pointer_of(key));
        }
        let event = changed.add_to(audit.event(200));
        journal.begin(JournalEntry::new(before, after, revision, event))?;
        begun.set(true);
        Ok(())
    };
    let saved = shared.settings.running.save(changes, begin).inspect_err(|_| {
        if begun.get()
            && let Err(error) = journal.withdraw()
        {
            tracing::warn!(
                %error,
                "cannot remove a failed change from the settings journal; its event may be logged \
                 at the next start"
            );
        }
    });
    let saved = saved.map_err(|error| super::config_document::refused(&error))?;
    end_replaced_credentials(shared, &saved);
    // The settings are saved, even if their event cannot be logged yet.
    let state = shared.published.state().load_full();
    log_settings(shared, &journal, journal.unlogged(&state));
    let mut document = super::config_document::render(shared, false);
    if let Value::Object(members) = &mut document
        && !warnings.is_empty()
    {
        members.insert("warnings", Value::from(warnings));
    }
    Ok(document.to_text().into_bytes())
}

/// Reads the configuration file again. An invalid file is logged and changes nothing.
pub fn reload(shared: &Shared) {
    match shared.settings.running.reload() {
        Ok(saved) => {
            end_replaced_credentials(shared, &saved);
            let waiting = shared.settings.running.waiting_for_restart();
            tracing::info!(restart_required = ?waiting, "configuration file read again");
        }
        Err(SaveError::Invalid(problems)) => {
            tracing::error!(%problems, "configuration file is invalid: settings stay as they are");
        }
        Err(SaveError::File(error)) => {
            tracing::error!(%error, "configuration file cannot be read: settings stay as they are");
        }
    }
}

/// Ends the sessions and the waiting requests of an administrator whose credentials were replaced.
fn end_replaced_credentials(shared: &Shared, saved: &Saved) {
    if saved.rotated {
        let AccessControl { auth, browsers, .. } = &shared.access;
        browsers.retain(|credential| auth.is_current(credential));
        for inbox in &shared.cores {
            inbox.push(CoreMessage::CredentialsReplaced);
        }
    }
}

/// Appends the events of the journal to the event log. After an error they stay in the journal for
/// the next change or the next start.
pub fn log_settings(
    shared: &Shared,
    journal: &JournalGuard<'_>,
    unlogged: std::io::Result<Vec<NewEvent>>,
) {
    let log = |events: Vec<NewEvent>| {
        if !events.is_empty() {
            let (replies, logged) = crossbeam_channel::bounded(1);
            let note = Envelope {
                command: Command::AppendEvents { events }.into(),
                reply_to: ReplyTo::Thread { replies, id: 0 },
            };
            let why = |error: ApiError| error.items[0].title.to_string();
            shared.commands.send(note).map_err(why)?;
            let logged = logged.recv_timeout(ANSWER_WAIT_MAX / 2);
            let (_, outcome) = logged.map_err(|error| error.to_string())?;
            outcome.map_err(why)?;
        }
        journal.clear().map_err(|error| error.to_string())
    };
    let logged = unlogged.map_err(|error| error.to_string()).and_then(log);
    if let Err(error) = logged {
        tracing::warn!(%error, "cannot log a change of settings; retrying with the next change");
    }
}
