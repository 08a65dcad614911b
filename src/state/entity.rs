//! Entities: agents, API tokens, authorization backends, load balancers, episodes, persons. One
//! record, one map and one pair of commands serve all of them.
//!
//! A row of [`super::kinds`] has the differences between the kinds; [`facts`] extracts from a
//! merged configuration the values that the server uses, and checks what a schema cannot express.
//! Streams and streamers are not entities here: their layouts and the nodes' views make them
//! special.

use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};

pub use super::kinds::{KINDS, Kind};
use super::name::{RESERVED_KEYS, StreamName};
use super::record::{EntityRecord, Facts};
use crate::error::{self, ApiError};
use crate::json::{Number, Object, Value};

/// Longest key that is a text, bytes.
const KEY_BYTES_MAX: usize = 255;

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
                _ => Err("must be an integer from 0 to 9223372036854775807, without leading zeros"),
            };
        }
        if text.is_empty() || text.len() > KEY_BYTES_MAX {
            return Err("must have 1 to 255 bytes");
        }
        if text
            .chars()
            .any(|c| c.is_control() || matches!(c, ',' | '/'))
        {
            return Err("must not contain control characters, commas or slashes");
        }
        if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
            return Err("must not begin or end with white space");
        }
        if matches!(text, "." | "..") || RESERVED_KEYS.contains(&text) {
            return Err("is reserved: it names an operation");
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

    /// Entities by the stamp of their last change, from `stamp_ms` on; within that stamp only keys
    /// above `after`.
    pub fn changed_from(
        &self,
        stamp_ms: u64,
        after: Option<Key>,
    ) -> impl Iterator<Item = (&Key, &EntityRecord)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) => Excluded((stamp_ms, after)),
            // The least key.
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

/// Extracts the values that the server uses from a merged configuration, and checks the rules that
/// a schema cannot express.
pub fn facts(
    kind: Kind,
    merged: &Object,
    old: Option<&Facts>,
    pointer: &str,
) -> Result<Facts, ApiError> {
    match kind {
        Kind::Agent => Ok(match old {
            Some(facts @ Facts::Agent { .. }) => facts.clone(),
            _ => Facts::Agent { layout: None },
        }),
        Kind::ApiToken => token_facts(merged, pointer),
        Kind::Episode => episode_facts(merged, old, pointer),
        Kind::Person => Ok(Facts::Person {
            deleted_at: stamp(merged, "deleted_at"),
        }),
        Kind::AuthBackend | Kind::Balancer | Kind::DeletedAgent | Kind::ReportGap => {
            Ok(Facts::None)
        }
    }
}

fn stamp(merged: &Object, field: &str) -> Option<u64> {
    merged.get(field).and_then(Value::as_u64)
}

fn text<'a>(merged: &'a Object, field: &str) -> &'a str {
    merged
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn token_facts(merged: &Object, pointer: &str) -> Result<Facts, ApiError> {
    let key = text(merged, "key");
    if !(1..=256).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let allowed = "must have 1 to 256 visible ASCII characters";
        return Err(error::WRONG_FORMAT.about(format!("{pointer}/key"), allowed));
    }
    Ok(Facts::Token {
        digest: Sha256::digest(key.as_bytes()).into(),
    })
}

fn episode_facts(merged: &Object, old: Option<&Facts>, pointer: &str) -> Result<Facts, ApiError> {
    let closed_at = stamp(merged, "closed_at");
    let (closed_before, publication) = match old {
        Some(Facts::Episode {
            closed_at,
            publication,
            ..
        }) => (*closed_at, *publication),
        _ => (None, None),
    };
    if closed_before.is_some() && closed_at != closed_before {
        let predicate = "cannot be changed: an episode is closed once";
        return Err(error::IMMUTABLE_FIELD.about(format!("{pointer}/closed_at"), predicate));
    }
    let opened_at = stamp(merged, "opened_at").unwrap_or_default();
    // What was stored before this rule stays readable and may be saved again.
    let is_stored = matches!(old, Some(Facts::Episode { opened_at: before, .. })
        if *before == opened_at && closed_before == closed_at);
    if closed_at.is_some_and(|closed_at| closed_at < opened_at) && !is_stored {
        return Err(error::INPUT_OUT_OF_RANGE
            .about(
                format!("{pointer}/closed_at"),
                "must not be before `opened_at`",
            )
            .with("minimum", opened_at));
    }
    let media = text(merged, "media");
    // Streamers query the episodes of their streams by name, so it must be a valid name.
    StreamName::parse(media)
        .map_err(|why| error::WRONG_FORMAT.about(format!("{pointer}/media"), why))?;
    Ok(Facts::Episode {
        media: media.to_owned(),
        opened_at,
        closed_at,
        publication,
    })
}

/// The error for a path segment that is not a key of this kind.
pub fn bad_key(kind: Kind, why: &'static str) -> ApiError {
    error::WRONG_FORMAT.about_parameter(kind.key_field(), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::state::State;
    use crate::state::apply::{Changes, Stamp, apply};
    use crate::state::command::{Command, EntitySave};
    use crate::state::node::RenderSettings;

    struct EntityFixture(State);

    impl EntityFixture {
        fn new() -> Self {
            Self(State::new(1, RenderSettings::default()))
        }

        fn apply(&mut self, command: Command) -> Result<Changes, ApiError> {
            let stamp = Stamp {
                revision: self.0.revision() + 1,
                ms: self.0.stamp_ms().max(1_700_000_000_000) + 1,
            };
            let changes = apply(&self.0, command, stamp)?;
            self.0.absorb(&changes);
            Ok(changes)
        }

        fn save(&mut self, kind: Kind, key: &str, body: &str) -> Result<Changes, ApiError> {
            let key = Key::parse(kind, key).expect("a key");
            let body = json::parse(body.as_bytes()).expect("JSON");
            let save = EntitySave::from_body(kind, key, body, "")?;
            self.apply(Command::SaveEntity(save))
        }

        fn changed_from(&self, kind: Kind, stamp_ms: u64, after: Option<&str>) -> Vec<String> {
            let after = after.map(|key| Key::trusted(kind, key));
            let found = self.0.entities(kind).changed_from(stamp_ms, after);
            found.map(|(key, _)| key.to_string()).collect()
        }
    }

    #[test]
    fn keys_fit_into_a_path_and_numbers_are_exact() {
        for good in ["0", "7", "9223372036854775807"] {
            let key = Key::parse(Kind::Episode, good).expect("a number");
            assert_eq!(key.to_string(), good);
        }
        for bad in [
            "",
            "-1",
            "+1",
            "01",
            "1.0",
            "9223372036854775808",
            "a",
            " 1",
        ] {
            assert!(Key::parse(Kind::Episode, bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a/b", "a,b", " a", "a\n", ".", "layouts"] {
            assert!(Key::parse(Kind::Agent, bad).is_err(), "{bad:?}");
        }
        assert!(Key::parse(Kind::Agent, "30226aa9:1").is_ok());
        let number = |text| Key::trusted(Kind::Person, text);
        assert!(number("9") < number("10"), "numbers, not texts");
    }

    #[test]
    fn entities_since_a_stamp_come_in_order_of_change() {
        let mut sut = EntityFixture::new();
        for key in ["3", "1", "2"] {
            let body = r#"{"media":"cam","opened_at":1637094994000}"#;
            sut.save(Kind::Episode, key, body).expect("is saved");
        }
        let first = 1_700_000_000_001;
        assert_eq!(sut.changed_from(Kind::Episode, 0, None), ["3", "1", "2"]);
        assert_eq!(
            sut.changed_from(Kind::Episode, first, Some("3")),
            ["1", "2"]
        );
        sut.save(Kind::Episode, "3", r#"{"preview":"AAAA"}"#)
            .expect("is saved");
        assert_eq!(sut.changed_from(Kind::Episode, 0, None), ["1", "2", "3"]);
        let key = Key::Number(1);
        let kind = Kind::Episode;
        sut.apply(Command::DeleteEntity { kind, key })
            .expect("is deleted");
        assert_eq!(sut.changed_from(Kind::Episode, 0, None), ["2", "3"]);
    }

    #[test]
    fn an_episode_is_closed_once() {
        let mut sut = EntityFixture::new();
        let open = r#"{"media":"cam","opened_at":1637094994000}"#;
        let closed = r#"{"closed_at":1637094995000}"#;
        sut.save(Kind::Episode, "1", open).expect("is saved");
        sut.save(Kind::Episode, "1", closed).expect("is closed");
        let again = sut.save(Kind::Episode, "1", closed).expect("nothing new");
        assert!(again.is_empty());
        for other in [r#"{"closed_at":1637094996000}"#, r#"{"closed_at":null}"#] {
            let error = sut.save(Kind::Episode, "1", other).expect_err("is closed");
            assert_eq!(error.items[0].code, "immutable_field");
            assert_eq!(error.items[0].pointer.as_deref(), Some("/closed_at"));
        }
    }

    #[test]
    fn generated_members_are_added_on_creation_only() {
        let mut sut = EntityFixture::new();
        let save = |made: &str, patch: &str| {
            let key = Key::parse(Kind::ApiToken, "vision").expect("a key");
            let patch = json::parse(patch.as_bytes()).expect("JSON");
            let mut save = EntitySave::from_body(Kind::ApiToken, key, patch, "").expect("fits");
            save.on_create.insert("key", Value::from(made));
            Command::SaveEntity(save)
        };
        let digest = |sut: &EntityFixture| {
            let key = Key::parse(Kind::ApiToken, "vision").expect("a key");
            let token = sut.0.entities(Kind::ApiToken).get(&key).expect("is there");
            match token.to_owned().facts {
                Facts::Token { digest } => digest,
                other => panic!("{other:?}"),
            }
        };
        sut.apply(save("made", "{}")).expect("is saved");
        let made = digest(&sut);
        assert_eq!(made, <[u8; 32]>::from(Sha256::digest(b"made")));
        sut.apply(save("other", r#"{"auth_scopes":["user/15"]}"#))
            .expect("is saved");
        assert_eq!(digest(&sut), made, "only a new token gets a key");
        sut.apply(save("other", r#"{"key":"given"}"#))
            .expect("is saved");
        assert_ne!(digest(&sut), made);
    }
}
