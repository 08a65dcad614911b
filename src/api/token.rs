//! API tokens: the right that an operation requires, compiled tokens, and their endpoints.
//!
//! A key is generated unless the body has one. Only an administrator who reads or saves the token
//! sees it. Operations by which a token could extend its rights (saving tokens or the
//! configuration) are not available to tokens.

use std::collections::HashMap;
use std::rc::Rc;

use imbl::OrdMap;

use super::{Call, Outcome, entity};
use crate::access::rights::{Action, Rights};
use crate::error::{self, ApiError};
use crate::json::{self, Object, Value};
use crate::state::State;
use crate::state::command::{Command, EntitySave};
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
            // The rights were checked by the save; rights that cannot be parsed allow nothing.
            rights: Rights::parse(&config, "").unwrap_or_default(),
        })
    }
}

/// Compiled tokens by the digest of their key. Owned by one core.
#[derive(Default)]
pub struct Tokens {
    of: OrdMap<Key, EntityRecord>,
    by_digest: HashMap<[u8; 32], Rc<Token>>,
}

impl Tokens {
    /// The token with this digest in `state`. Compiles all tokens again if one has changed.
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
    /// The largest multiple of 62 in a byte. Larger bytes are discarded, to avoid modulo bias.
    const FAIR: u8 = 248;
    let mut key = String::with_capacity(27);
    while key.len() < 27 {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| error::NO_RANDOMNESS.error())?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR);
        let letters = fair.map(|byte| char::from(LETTERS[usize::from(byte % 62)]));
        key.extend(letters.take(27 - key.len()));
    }
    Ok(key)
}

pub fn list(call: &Call<'_>) -> Result<Outcome, ApiError> {
    entity::list(call, Kind::ApiToken).map(Outcome::List)
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
    fn generated_keys_are_long_and_unique() {
        let keys: std::collections::BTreeSet<String> =
            (0..100).map(|_| new_key().expect("randomness")).collect();
        assert_eq!(keys.len(), 100);
        for key in keys {
            assert!(key.len() == 27 && key.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
