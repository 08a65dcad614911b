//! Endpoints of API tokens.
//!
//! A key is generated unless the body has one. Only an administrator who reads or saves the token
//! sees it. Operations by which a token could extend its rights (saving tokens or the
//! configuration) are not available to tokens.

use super::{Call, Outcome, entity};
use crate::error::{self, ApiError};
use crate::json::Value;
use crate::state::command::{Command, EntitySave, is_unset};
use crate::state::entity::Kind;

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
    if save.patch.get("key").is_some_and(is_unset) {
        save.patch.remove("key");
    }
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
