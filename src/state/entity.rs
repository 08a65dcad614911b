//! Entities: agents, API tokens, authorization backends, load balancers, episodes, persons. One record, one map and one pair of commands serve
//! all of them.
//!
//! A [`Kind`] says what the API calls a thing, which schema describes it and what its keys look like; [`facts`] takes out of a merged
//! configuration what the server itself has to know, and checks what a schema cannot say. Streams and streamers are not here: their
//! layouts and nodes' views make them special.

use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};

use super::name::StreamName;
use super::record::{EntityRecord, Facts};
use crate::http::error::ApiError;
use crate::json::{Number, Object, Value};
use crate::schema::{self, Schema};

/// Longest key that is a text, bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Last segments of paths that are operations of a collection.
const RESERVED_KEYS: [&str; 3] = ["layouts", "batch", "preview_layout_change"];

/// What an entity is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    Agent = 0,
    ApiToken = 1,
    AuthBackend = 2,
    Balancer = 3,
    Episode = 4,
    Person = 5,
}

pub const KINDS: [Kind; 6] = [
    Kind::Agent,
    Kind::ApiToken,
    Kind::AuthBackend,
    Kind::Balancer,
    Kind::Episode,
    Kind::Person,
];

impl Kind {
    pub fn schema(self) -> &'static Schema {
        match self {
            Self::Agent => schema::agent(),
            Self::ApiToken => schema::api_token(),
            Self::AuthBackend => schema::auth_backend(),
            Self::Balancer => schema::balancer(),
            Self::Episode => schema::episode(),
            Self::Person => schema::person(),
        }
    }

    /// The field that holds the key.
    pub fn key_field(self) -> &'static str {
        match self {
            Self::Agent => "id",
            Self::ApiToken | Self::AuthBackend | Self::Balancer => "name",
            Self::Episode => "episode_id",
            Self::Person => "person_id",
        }
    }

    pub fn has_number_keys(self) -> bool {
        matches!(self, Self::Episode | Self::Person)
    }

    /// Whether the API shows the stamp of the last change.
    pub fn shows_stamp(self) -> bool {
        matches!(self, Self::Agent | Self::Episode | Self::Person)
    }

    pub fn not_found(self) -> ApiError {
        let (code, title) = match self {
            Self::Agent => ("agent_not_found", "There is no agent of this id"),
            Self::ApiToken => ("api_token_not_found", "There is no API token of this name"),
            Self::AuthBackend => (
                "auth_backend_not_found",
                "There is no authorization backend of this name",
            ),
            Self::Balancer => (
                "balancer_not_found",
                "There is no load balancer of this name",
            ),
            Self::Episode => ("episode_not_found", "There is no episode of this id"),
            Self::Person => ("person_not_found", "There is no person of this id"),
        };
        ApiError::not_found(code, title)
    }
}

/// The key of an entity, in the order of its collection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Number(u64),
    Text(Arc<str>),
}

impl Key {
    /// A key as it is written in a path.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, &'static str> {
        if kind.has_number_keys() {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            return match text.parse::<u64>() {
                Ok(number)
                    if digits
                        && i64::try_from(number).is_ok()
                        && (text.len() == 1 || !text.starts_with('0')) =>
                {
                    Ok(Self::Number(number))
                }
                _ => Err(
                    "An id is a whole number from 0 to 9223372036854775807, without leading zeros",
                ),
            };
        }
        if text.is_empty() || text.len() > KEY_BYTES_MAX {
            return Err("A name has 1 to 255 bytes");
        }
        if text
            .chars()
            .any(|c| c.is_control() || matches!(c, ',' | '/'))
        {
            return Err("A name cannot hold control characters, commas or slashes");
        }
        if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
            return Err("A name cannot begin or end with a blank");
        }
        if matches!(text, "." | "..") || RESERVED_KEYS.contains(&text) {
            return Err("This name is the name of an operation");
        }
        Ok(Self::Text(Arc::from(text)))
    }

    /// A key that was checked when it was first stored.
    pub fn trusted(kind: Kind, text: &str) -> Self {
        if kind.has_number_keys() {
            Self::Number(text.parse().unwrap_or_default())
        } else {
            Self::Text(Arc::from(text))
        }
    }

    pub fn to_value(&self) -> Value {
        match self {
            Self::Number(number) => Value::Number(Number::Unsigned(*number)),
            Self::Text(text) => Value::String(Box::from(&**text)),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All entities of one kind.
#[derive(Clone, Default)]
pub struct Entities {
    by_key: OrdMap<Key, EntityRecord>,
    by_stamp: OrdSet<(u64, Key)>,
}

impl Entities {
    pub fn get(&self, key: &Key) -> Option<&EntityRecord> {
        self.by_key.get(key)
    }

    pub fn by_key(&self) -> &OrdMap<Key, EntityRecord> {
        &self.by_key
    }

    /// Entities by the stamp of their last change, from `stamp_ms` on; within that stamp only keys above `after`.
    pub fn changed_from(
        &self,
        stamp_ms: u64,
        after: Option<Key>,
    ) -> impl Iterator<Item = (&Key, &EntityRecord)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) => Excluded((stamp_ms, after)),
            // The least key there is.
            None => Included((stamp_ms, Key::Number(0))),
        };
        self.by_stamp
            .range((from, Unbounded))
            .filter_map(|(_, key)| self.by_key.get_key_value(key))
    }

    pub(super) fn put(&mut self, key: &Key, old: Option<&EntityRecord>, new: EntityRecord) {
        if let Some(old) = old {
            self.by_stamp
                .remove(&(old.updated_at.to_native(), key.clone()));
        }
        self.by_stamp
            .insert((new.updated_at.to_native(), key.clone()));
        self.by_key.insert(key.clone(), new);
    }

    pub(super) fn remove(&mut self, key: &Key, old: &EntityRecord) {
        self.by_stamp
            .remove(&(old.updated_at.to_native(), key.clone()));
        self.by_key.remove(key);
    }
}

/// What the server has to know of a merged configuration, and the rules that a schema cannot state.
pub fn facts(
    kind: Kind,
    merged: &Object,
    old: Option<&Facts>,
    pointer: &str,
) -> Result<Facts, ApiError> {
    let stamp = |field| merged.get(field).and_then(Value::as_u64);
    match kind {
        Kind::Agent => Ok(match old {
            Some(facts @ Facts::Agent { .. }) => facts.clone(),
            _ => Facts::Agent { layout: None },
        }),
        Kind::ApiToken => {
            let key = merged
                .get("key")
                .and_then(Value::as_str)
                .unwrap_or_default();
            Ok(Facts::Token {
                digest: Sha256::digest(key.as_bytes()).into(),
            })
        }
        Kind::Episode => {
            let closed_at = stamp("closed_at");
            if let Some(Facts::Episode {
                closed_at: Some(closed),
                ..
            }) = old
                && closed_at != Some(*closed)
            {
                return Err(ApiError::bad_body(
                    format!("{pointer}/closed_at"),
                    "immutable_field",
                    "An episode is closed once; the time cannot be changed afterwards",
                ));
            }
            let media = merged
                .get("media")
                .and_then(Value::as_str)
                .unwrap_or_default();
            // Streamers ask for the episodes of their streams by name: what is no name of a stream could never be asked for.
            StreamName::parse(media).map_err(|why| {
                ApiError::bad_body(format!("{pointer}/media"), "wrong_format", why)
            })?;
            Ok(Facts::Episode {
                media: media.to_owned(),
                opened_at: stamp("opened_at").unwrap_or_default(),
                closed_at,
                publication: match old {
                    Some(Facts::Episode { publication, .. }) => *publication,
                    _ => None,
                },
            })
        }
        Kind::Person => Ok(Facts::Person {
            deleted_at: stamp("deleted_at"),
        }),
        Kind::AuthBackend | Kind::Balancer => Ok(Facts::None),
    }
}

/// The error for a path segment that is no key of this kind.
pub fn bad_key(kind: Kind, why: &'static str) -> ApiError {
    ApiError::bad_parameter(kind.key_field(), "wrong_format", why)
}
