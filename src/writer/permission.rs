//! What the token behind a command may change, checked where the state is known.
//!
//! A request is admitted by its operation and path. A command may reach further: a batch names many
//! entities, and deleting an agent deletes its streams. The writer therefore checks a command
//! against the permissions that its token has by then, and against all that the command changes, in
//! the same step in which it is applied. A refused command changes nothing.
//!
//! Writing an entity is not enough to set a credential of it, because the credential opens what
//! `execute` on the entity opens: the configuration of a streamer with all passwords in it, the
//! control connection of an agent. While streamers are provisioned, the credentials of a streamer
//! also open the authorization backends, which are written to it.

use std::sync::Arc;

use crate::access::auth::{lacks_permission, lost_credentials};
use crate::access::rights::{Action, Grant, Rights};
use crate::access::token::Token;
use crate::error::ApiError;
use crate::json::{Object, Value, scan};
use crate::schema::MASK;
use crate::state::State;
use crate::state::apply::{Changes, EntityChange};
use crate::state::command::Command;
use crate::state::entity::{Key, Kind};
use crate::state::pull::is_queried;

/// Members of a streamer that open it, or determine where its key is sent.
const STREAMER_CREDENTIALS: [&[&str]; 5] = [
    &["cluster_key"],
    &["api_url"],
    &["config", "cluster_key"],
    &["config", "rproxy", "endpoint_auth"],
    &["config", "rproxy", "streampoint_key"],
];
/// Members of an agent that open it.
const AGENT_CREDENTIALS: [&[&str]; 1] = [&["key"]];
/// Most missing permissions that an error names.
const NAMED_MAX: usize = 20;

/// The permissions of the token behind a command.
pub struct ChangeRights {
    rights: Arc<Rights>,
    provisions: bool,
}

impl ChangeRights {
    /// The permissions that the token has in `state`; an error if its key is not valid any more.
    pub fn of(grant: &Grant, state: &State) -> Result<Self, ApiError> {
        let key = Key::parse(Kind::ApiToken, &grant.token).map_err(|_| lost_credentials())?;
        let record = state.entities(Kind::ApiToken).get(&key);
        let record = record.ok_or_else(lost_credentials)?;
        if record.revision == grant.revision {
            return Ok(Self {
                rights: grant.rights.clone(),
                provisions: grant.provisions,
            });
        }
        let token = Token::of(record).filter(|token| token.digest == grant.digest);
        token
            .map(|token| Self {
                rights: token.rights,
                provisions: grant.provisions,
            })
            .ok_or_else(lost_credentials)
    }

    /// Checks what a command names: entities and credentials.
    pub fn check_command(&self, command: &Command) -> Result<(), ApiError> {
        let mut missing = Missing::new(&self.rights, false);
        let to = &mut missing;
        let streamer = |to: &mut Missing<'_>, hostname: &str, patch: &Object| {
            to.require(Action::Write, "streamers", hostname);
            if STREAMER_CREDENTIALS[..]
                .iter()
                .any(|path| is_set(patch, path))
            {
                to.require(Action::Execute, "streamers", hostname);
            }
        };
        match command {
            Command::SaveStream { name, .. } | Command::DeleteStream { name } => {
                to.require(Action::Write, "streams", name);
            }
            Command::SaveStreams { items } => {
                let names = items.iter().map(|(name, _)| name);
                names.for_each(|name| to.require(Action::Write, "streams", name));
            }
            Command::ChangeSelected { items, .. } => {
                let names = items.iter().map(|item| &item.name);
                names.for_each(|name| to.require(Action::Write, "streams", name));
            }
            Command::SetLayouts { items } => {
                let names = items.iter().map(|(name, _)| name);
                names.for_each(|name| to.require(Action::Write, "streams", name));
            }
            Command::SaveStreamer { hostname, patch } => streamer(to, hostname, patch),
            Command::SaveStreamers { items } => {
                let items = items.iter();
                items.for_each(|(hostname, patch)| streamer(to, hostname, patch));
            }
            Command::DeleteStreamer { hostname } | Command::SetMaintenance { hostname, .. } => {
                to.require(Action::Write, "streamers", hostname);
            }
            Command::SaveEntity(save) | Command::SaveAgent { save, .. } => {
                to.require_entity(Action::Write, save.kind, &save.key);
                let credentials = credentials_of(save.kind);
                if credentials.iter().any(|path| is_set(&save.patch, path)) {
                    to.require_entity(Action::Execute, save.kind, &save.key);
                }
            }
            Command::DeleteEntity { kind, key } => to.require_entity(Action::Write, *kind, key),
            Command::SetAgentLayouts { items } => {
                let keys = items.iter().map(|(key, _)| key);
                keys.for_each(|key| to.require_entity(Action::Write, Kind::Agent, key));
            }
            Command::PauseLayouter { .. } => to.require_whole(Action::Write, "layouter"),
            // Issued by this server only.
            Command::Place { .. }
            | Command::EndHandovers { .. }
            | Command::ExpirePause { .. }
            | Command::ReportPublication { .. }
            | Command::OpenReportGaps { .. }
            | Command::FillReportGap(_)
            | Command::ExpireEntities { .. }
            | Command::AppendEvents { .. } => {}
        }
        missing.result()
    }

    /// Checks what a command changes in `state`. Entities that the token does not see are counted,
    /// not named.
    pub fn check_changes(&self, state: &State, changes: &Changes) -> Result<(), ApiError> {
        let mut missing = Missing::new(&self.rights, true);
        for change in &changes.streams {
            missing.require(Action::Write, "streams", &change.name);
        }
        for change in &changes.streamers {
            missing.require(Action::Write, "streamers", &change.hostname);
            let old = state.streamer(&change.hostname);
            let was_queried = old.is_some_and(is_queried);
            let old = old.map_or("{}", |old| old.config.as_str());
            let new = change.new.as_ref().map(|new| new.config.as_str());
            let opens = differs(&STREAMER_CREDENTIALS, old, new);
            if opens {
                missing.require(Action::Execute, "streamers", &change.hostname);
            }
            let is_provisioned = self.provisions && change.new.as_ref().is_some_and(is_queried);
            if is_provisioned && (opens || !was_queried) {
                let backends = state.entities(Kind::AuthBackend).by_key().keys();
                for key in backends {
                    missing.require_entity(Action::Execute, Kind::AuthBackend, key);
                }
            }
        }
        for EntityChange {
            kind,
            key,
            old,
            new,
        } in &changes.entities
        {
            missing.require_entity(Action::Write, *kind, key);
            let old = old.as_ref().map_or("{}", |old| old.config.as_str());
            let new = new.as_ref().map(|new| new.config.as_str());
            if differs(credentials_of(*kind), old, new) {
                missing.require_entity(Action::Execute, *kind, key);
            }
        }
        missing.result()
    }
}

fn credentials_of(kind: Kind) -> &'static [&'static [&'static str]] {
    match kind {
        Kind::Agent => &AGENT_CREDENTIALS,
        // Tokens are for administrators only; the others have none.
        _ => &[],
    }
}

/// Whether a patch sets a member. A mask keeps it. That a given value is the stored one is no
/// excuse: the caller could find it out by guessing.
fn is_set(patch: &Object, path: &[&str]) -> bool {
    let [name, rest @ ..] = path else {
        return false;
    };
    match (patch.get(name), rest) {
        (None, _) => false,
        (Some(Value::String(text)), []) => **text != *MASK,
        (Some(Value::Object(inner)), [_, ..]) => is_set(inner, rest),
        (Some(value), rest) => rest.is_empty() || !value.is_null(),
    }
}

/// Whether one of the members has another value in the new configuration, if there is one.
fn differs(paths: &[&[&str]], old: &str, new: Option<&str>) -> bool {
    fn member<'t>(config: &'t str, path: &[&str]) -> Option<&'t str> {
        let mut steps = path.iter();
        steps.try_fold(config, |config, step| scan::member(config, step))
    }
    let Some(new) = new else {
        return false;
    };
    paths
        .iter()
        .any(|path| member(old, path) != member(new, path))
}

/// The permissions that a token lacks.
struct Missing<'r> {
    rights: &'r Rights,
    /// Whether entities that the token does not see are only counted.
    hides: bool,
    named: Vec<(Action, &'static str, Option<String>)>,
    hidden: Vec<(&'static str, usize)>,
}

impl<'r> Missing<'r> {
    fn new(rights: &'r Rights, hides: bool) -> Self {
        Self {
            rights,
            hides,
            named: Vec::new(),
            hidden: Vec::new(),
        }
    }

    fn require_entity(&mut self, action: Action, kind: Kind, key: &Key) {
        let scope = kind.row().scope;
        // Records of the server itself have no scope.
        if !scope.is_empty() {
            self.require(action, scope, &key.to_string());
        }
    }

    /// Requires a right to something that has no key.
    fn require_whole(&mut self, action: Action, collection: &'static str) {
        if !self.rights.may(action, collection, None) {
            self.named.push((action, collection, None));
        }
    }

    fn require(&mut self, action: Action, collection: &'static str, key: &str) {
        if self.rights.may(action, collection, Some(key)) {
            return;
        }
        if !self.hides || self.rights.sees(collection, key) {
            if self.named.len() < NAMED_MAX {
                self.named.push((action, collection, Some(key.to_owned())));
            }
            return;
        }
        match self.hidden.iter_mut().find(|(of, _)| *of == collection) {
            Some((_, count)) => *count += 1,
            None => self.hidden.push((collection, 1)),
        }
    }

    fn result(self) -> Result<(), ApiError> {
        let named = self.named.iter();
        let named = named
            .map(|(action, collection, key)| lacks_permission(*action, collection, key.as_deref()));
        let hidden = self.hidden.iter();
        let hidden = hidden.map(|(collection, count)| {
            lacks_permission(Action::Write, collection, None).with("hidden", count)
        });
        let all = named.chain(hidden).reduce(|mut all, error| {
            all.items.extend(error.items);
            all
        });
        all.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::command::{AuditedCommand, EntitySave, StreamPatch};
    use crate::state::name::StreamName;
    use crate::state::node::RenderSettings;
    use crate::writer::NoStorage;
    use crate::writer::StateMachine;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn body(text: &str) -> Value {
        json::parse(text.as_bytes()).expect("JSON")
    }

    fn entity(kind: Kind, key: &str, text: &str) -> AuditedCommand {
        let key = Key::parse(kind, key).expect("a key");
        let save = EntitySave::from_body(kind, key, body(text), "").expect("an entity");
        Command::SaveEntity(save).into()
    }

    fn stream_of_agent(name: &str) -> AuditedCommand {
        let name = StreamName::trusted(name);
        let text = r#"{"inputs":[{"url":"rtsp://10.0.0.1/","via":"agent://a1"}]}"#;
        let patch = StreamPatch::from_body(body(text), &name, "").expect("a stream");
        Command::SaveStream { name, patch }.into()
    }

    fn token(key: &str, scopes: &str) -> AuditedCommand {
        let permissions = format!(r#"[{{"scopes":[{scopes}],"write":true}}]"#);
        let text = format!(r#"{{"key":"{key}","permissions":{permissions}}}"#);
        entity(Kind::ApiToken, "t", &text)
    }

    fn delete(kind: Kind, key: &str) -> AuditedCommand {
        let key = Key::parse(kind, key).expect("a key");
        Command::DeleteEntity { kind, key }.into()
    }

    #[test]
    fn commands_are_checked_where_they_are_applied() {
        // Goal: nothing that happens between the admission of a command and its application widens
        // what it may change. Method: one batch has what happens, and then the command, admitted
        // with the permissions from before.
        let agents = r#""agents/*""#;
        let both = r#""*""#;
        let cases: [(&str, Vec<AuditedCommand>, Option<u16>); 7] = [
            (agents, vec![], None),
            (agents, vec![stream_of_agent("late")], Some(403)),
            (both, vec![stream_of_agent("late")], None),
            (
                both,
                vec![stream_of_agent("late"), token("k1", agents)],
                Some(403),
            ),
            (
                agents,
                vec![stream_of_agent("late"), token("k1", both)],
                None,
            ),
            (both, vec![token("k2", both)], Some(401)),
            (both, vec![delete(Kind::ApiToken, "t")], Some(401)),
        ];
        for (at, (scopes, meanwhile, refused)) in cases.into_iter().enumerate() {
            let state = State::new(1, RenderSettings::default());
            let mut machine = StateMachine::new(Arc::new(state), NoStorage);
            let agent = entity(Kind::Agent, "a1", r#"{"key":"agent-key"}"#);
            let applied = machine.batch(vec![agent, token("k1", scopes)], NOW_MS);
            let applied = applied.expect("a log that takes everything");
            assert!(
                applied.outcomes.iter().all(Result::is_ok),
                "{:?}",
                applied.outcomes
            );
            let tokens = machine.state().entities(Kind::ApiToken).by_key();
            let admitted = tokens.values().find_map(Token::of).expect("a token");
            let mut commands = meanwhile;
            commands.push(AuditedCommand {
                grant: Some(Box::new(admitted.grant())),
                ..delete(Kind::Agent, "a1")
            });
            let applied = machine.batch(commands, NOW_MS + 1);
            let mut outcomes = applied.expect("a log that takes everything").outcomes;
            let outcome = outcomes.pop().expect("an outcome").map_err(|e| e.status);
            assert!(outcomes.iter().all(Result::is_ok), "case {at}");
            assert_eq!(outcome.err(), refused, "case {at}");
            let left = machine.state().entities(Kind::Agent).by_key().len();
            assert_eq!(left, usize::from(refused.is_some()), "case {at}");
        }
    }

    #[test]
    fn parts_of_a_patch_set_credentials() {
        for (patch, path, sets) in [
            (r#"{"key":"x"}"#, &["key"][..], true),
            (r#"{"key":""}"#, &["key"], true),
            (r#"{"key":null}"#, &["key"], true),
            (r#"{"key":"***"}"#, &["key"], false),
            (r#"{"other":"x"}"#, &["key"], false),
            (r#"{"a":{"b":"x"}}"#, &["a", "b"], true),
            (r#"{"a":{"b":"***"}}"#, &["a", "b"], false),
            (r#"{"a":{}}"#, &["a", "b"], false),
            (r#"{"a":null}"#, &["a", "b"], false),
            (r#"{"a":5}"#, &["a", "b"], true),
        ] {
            let Value::Object(object) = body(patch) else {
                unreachable!("all are objects");
            };
            assert_eq!(is_set(&object, path), sets, "{patch}");
        }
        // A patch that removes what it does not name is found by its result.
        let paths: [&[&str]; 1] = [&["a", "b"]];
        assert!(differs(&paths, r#"{"a":{"b":"x"}}"#, Some("{}")));
        assert!(!differs(&paths, r#"{"a":{"b":"x"}}"#, None), "a deletion");
    }
}
