//! API tokens: what each operation asks of them, and their endpoints.
//!
//! A token's key is made here when none is given, and shown to an administrator who reads or saves that token, to nobody else. What would let a
//! token give itself more (saving tokens and the configuration) is not for tokens at all.

use std::collections::HashMap;
use std::rc::Rc;

use imbl::OrdMap;

use super::auth::TokenNeed;
use super::{Call, Outcome, entity};
use crate::access::rights::{Action, Rights};
use crate::error::{self, ApiError};
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::command::{Command, EntitySave};
use crate::state::entity::{Key, Kind};
use crate::state::record::EntityRecord;

/// What an operation asks of a token: the collection (or function) that scopes name, and the action. The key is the path's parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    pub collection: &'static str,
    pub action: Action,
}

const fn to(collection: &'static str, action: Action) -> TokenNeed {
    TokenNeed::Right(Demand { collection, action })
}

/// What each operation asks of a token. Operations that need no credentials are not here.
pub const DEMANDS: &[(&str, TokenNeed)] = &[
    ("streams_list", to("streams", Action::List)),
    ("stream_get", to("streams", Action::Read)),
    ("stream_save", to("streams", Action::Write)),
    ("stream_delete", to("streams", Action::Write)),
    ("streams_batch_update", to("streams", Action::Write)),
    ("stream_layouts_get", to("streams", Action::Read)),
    ("batch_update_streams_layouts", to("streams", Action::Write)),
    ("stream_layout_explain", to("streams", Action::Read)),
    (
        "preview_layout_change_for_stream_config",
        to("streams", Action::Execute),
    ),
    (
        "batch_stream_layout_preview",
        to("streams", Action::Execute),
    ),
    ("streamers_list", to("streamers", Action::List)),
    ("streamer_get", to("streamers", Action::Read)),
    ("streamer_save", to("streamers", Action::Write)),
    ("streamer_delete", to("streamers", Action::Write)),
    ("streamers_batch_update", to("streamers", Action::Write)),
    (
        "preview_layout_change_for_streamer_config",
        to("streamers", Action::Execute),
    ),
    (
        "batch_streamer_layout_preview",
        to("streamers", Action::Execute),
    ),
    // What a streamer is told holds the passwords of its streams: more than reading about the streamer.
    ("streamer_stats_report", to("streamers", Action::Execute)),
    ("streamer_streams_list", to("streamers", Action::Execute)),
    (
        "streamer_update_streams_list",
        to("streamers", Action::Execute),
    ),
    (
        "streamer_dynamic_streams_list",
        to("streamers", Action::Execute),
    ),
    ("external_episodes_list", to("streamers", Action::Execute)),
    ("srt_port_resolve", to("streamers", Action::Execute)),
    ("agents_list", to("agents", Action::List)),
    ("agent_get", to("agents", Action::Read)),
    ("agent_save", to("agents", Action::Write)),
    ("agent_delete", to("agents", Action::Write)),
    ("batch_update_agents_layouts", to("agents", Action::Write)),
    ("agent_reboot", to("agents", Action::Execute)),
    ("agent_reset", to("agents", Action::Execute)),
    ("agent_disconnect", to("agents", Action::Execute)),
    ("agent_logs_get", to("agents", Action::Execute)),
    ("episodes_list", to("episodes", Action::List)),
    ("episode_get", to("episodes", Action::Read)),
    ("episode_save", to("episodes", Action::Write)),
    ("episode_delete", to("episodes", Action::Write)),
    ("persons_list", to("persons", Action::List)),
    ("person_get", to("persons", Action::Read)),
    ("person_save", to("persons", Action::Write)),
    ("person_delete", to("persons", Action::Write)),
    ("dvrs_list", to("dvrs", Action::List)),
    ("central_events_list", to("events", Action::List)),
    ("auth_backends_list", to("auth_backends", Action::List)),
    ("auth_backend_get", to("auth_backends", Action::Read)),
    ("auth_backend_save", to("auth_backends", Action::Write)),
    ("auth_backend_delete", to("auth_backends", Action::Write)),
    ("auth_request", to("auth", Action::Execute)),
    ("load_balancers_list", to("load-balancers", Action::List)),
    ("load_balancer_get", to("load-balancers", Action::Read)),
    ("load_balancer_save", to("load-balancers", Action::Write)),
    ("load_balancer_delete", to("load-balancers", Action::Write)),
    ("cluster_stats_get", to("cluster", Action::Read)),
    ("cluster_capacity_get", to("cluster", Action::Read)),
    ("cluster_preview", to("cluster", Action::Execute)),
    ("config_get", to("config", Action::Read)),
    ("config_save", TokenNeed::Never),
    ("api_tokens_list", to("api_tokens", Action::List)),
    ("api_token_get", to("api_tokens", Action::Read)),
    ("api_token_save", TokenNeed::Never),
    ("api_token_delete", TokenNeed::Never),
    ("openapi_get", to("openapi", Action::Read)),
];

/// What an operation asks of a token. Unknown operations are for administrators only.
pub fn need(operation: &str) -> TokenNeed {
    let found = DEMANDS.iter().find(|(id, _)| *id == operation);
    found.map_or(TokenNeed::Never, |(_, need)| *need)
}

/// A saved token, compiled for asking.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    pub name: Box<str>,
    /// Of its key.
    pub digest: [u8; 32],
    pub rights: Rights,
}

impl Token {
    fn of(record: &EntityRecord) -> Option<Self> {
        let config = match json::parse(record.config.as_bytes()) {
            Ok(Value::Object(config)) => config,
            _ => Object::new(),
        };
        Some(Self {
            name: record.key.as_str().into(),
            digest: *record.token_digest()?,
            // Checked when it was saved; whatever is not understood any more allows nothing.
            rights: Rights::parse(&config, "").unwrap_or_default(),
        })
    }
}

/// All tokens of a state by the digest of their key, as one core keeps them.
#[derive(Default)]
pub struct Tokens {
    of: OrdMap<Key, EntityRecord>,
    by_digest: HashMap<[u8; 32], Rc<Token>>,
}

impl Tokens {
    /// The token of this digest in `state`. What was compiled before is used as long as no token has changed.
    pub fn find(&mut self, state: &State, digest: &[u8; 32]) -> Option<Rc<Token>> {
        let newest = state.entities(Kind::ApiToken).by_key();
        if !self.of.ptr_eq(newest) {
            self.of = newest.clone();
            self.by_digest = newest
                .values()
                .filter_map(Token::of)
                .map(|token| (token.digest, Rc::new(token)))
                .collect();
        }
        self.by_digest.get(digest).cloned()
    }
}

/// A new key: 27 letters and digits, about 160 bits.
fn new_key() -> Result<String, ApiError> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    /// The largest multiple of 62 that a byte holds: beyond, some letters would come more often.
    const FAIR: u8 = 248;
    let mut key = String::with_capacity(27);
    while key.len() < 27 {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|_| error::NO_RANDOMNESS.titled("No key can be made at present"))?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR);
        let letters = fair.map(|byte| char::from(LETTERS[usize::from(byte % 62)]));
        key.extend(letters.take(27 - key.len()));
    }
    Ok(key)
}

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::ApiToken, &[])
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::get(call, Kind::ApiToken)
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let key = call.key(Kind::ApiToken)?;
    let mut save = EntitySave::from_body(Kind::ApiToken, key, call.json()?, "")?;
    save.on_create.insert("key", Value::from(new_key()?));
    Ok(Outcome::Command(Command::SaveEntity(save)))
}

pub fn delete(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::delete(call, Kind::ApiToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_listed_once() {
        let mut ids: Vec<&str> = DEMANDS.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
        for operation in ["api_token_save", "config_save", "nothing"] {
            assert_eq!(need(operation), TokenNeed::Never, "{operation}");
        }
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let keys: std::collections::BTreeSet<String> =
            (0..100).map(|_| new_key().expect("randomness")).collect();
        assert_eq!(keys.len(), 100);
        for key in keys {
            assert!(key.len() == 27 && key.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn every_endpoint_with_credentials_says_what_it_asks_of_a_token() {
        for endpoint in super::super::ENDPOINTS {
            let is_listed = DEMANDS.iter().any(|(id, _)| *id == endpoint.id);
            let is_public = endpoint.access == super::super::auth::Access::Public;
            assert!(is_listed != is_public, "{}", endpoint.id);
        }
    }
}
