//! API tokens: the right that an operation requires, and compiled tokens.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::digests::{Digests, same};
use super::rights::{Action, Grant, Rights};
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::entity::{Key, Kind};
use crate::state::record::EntityRecord;

/// The right that an operation requires: the collection (or function) that scopes name, and the
/// action. The key is the parameter of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    pub collection: &'static str,
    pub action: Action,
}

/// A saved token with compiled rights.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    pub name: Box<str>,
    /// Digest of the key.
    pub digest: [u8; 32],
    /// When it last changed.
    pub revision: u64,
    pub rights: Arc<Rights>,
}

impl Token {
    pub fn of(record: &EntityRecord) -> Option<Self> {
        let config = match json::parse(record.config.as_bytes()) {
            Ok(Value::Object(config)) => config,
            _ => Object::new(),
        };
        Some(Self {
            name: record.key.as_str().into(),
            digest: *record.token_digest()?,
            // The rights were checked by the save; rights that cannot be parsed allow nothing.
            rights: Arc::new(Rights::parse(&config, "").unwrap_or_default()),
            revision: record.revision.to_native(),
        })
    }

    pub fn grant(&self) -> Grant {
        Grant {
            token: self.name.clone(),
            digest: self.digest,
            revision: self.revision,
            rights: self.rights.clone(),
            provisions: false,
        }
    }
}

/// Compiled tokens by the digest of their key. Owned by one core.
#[derive(Default)]
pub struct Tokens {
    of: OrdMap<Key, EntityRecord>,
    by_digest: HashMap<[u8; 32], Arc<Token>>,
    /// Digests of keys that were accepted on this core.
    pub(super) digests: Digests,
}

impl Tokens {
    /// The token with this digest in `state`. Compiles all tokens again if one has changed.
    pub fn find(&mut self, state: &State, digest: &[u8; 32]) -> Option<Arc<Token>> {
        let newest = state.entities(Kind::ApiToken).by_key();
        if !self.of.ptr_eq(newest) {
            self.of = newest.clone();
            self.forget_keys();
            self.by_digest = newest
                .values()
                .filter_map(Token::of)
                .map(|token| (token.digest, Arc::new(token)))
                .collect();
        }
        self.by_digest.get(digest).cloned()
    }

    /// The token with this digest, compared in constant time.
    pub(super) fn find_exactly(&mut self, state: &State, given: &[u8; 32]) -> Option<Arc<Token>> {
        self.find(state, given)
            .filter(|token| same(given, &token.digest))
    }

    /// Forgets the keys of clients. They are hashed again when they are sent again.
    pub fn forget_keys(&mut self) {
        self.digests.clear();
    }
}
