//! The rights of a caller who is not an administrator: the permissions of an API token.
//!
//! A permission allows some of list, read, write and execute on what *all* of its scopes match. A
//! token may do what *any* of its permissions allows, within its `auth_scopes` if it has those. A
//! scope is `*`, a collection (`streams`), or a collection and keys in it: `streams/*`,
//! `streams/location1%2F*`, where `*` matches any text and everything else is percent-decoded.
//! `streams/*` also matches the collection itself, which operations on a whole collection (a batch)
//! require. A list shows only the keys that the token may list.

use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::error::{self, ApiError};
use crate::json::{Object, Value};

/// A kind of operation on a collection or an entity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Action {
    /// Read many.
    List,
    /// Read one.
    Read,
    /// Create, change or delete one.
    Write,
    /// Run a command.
    Execute,
}

impl Action {
    pub const ALL: [Action; 4] = [Self::List, Self::Read, Self::Write, Self::Execute];

    /// The member of a permission that allows the action.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Execute => "execute",
        }
    }
}

/// The rights of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// `auth_scopes`: one of them must match; absent: no restriction.
    cap: Option<Vec<Scope>>,
    permissions: Vec<Permission>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Permission {
    /// All of them must match; without any, nothing matches.
    scopes: Vec<Scope>,
    /// Indexed by [`Action`].
    actions: [bool; 4],
}

/// One scope.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Everything,
    Collection(Box<str>),
    Keys {
        collection: Box<str>,
        keys: KeyPattern,
    },
}

/// A wildcard pattern: the texts between its `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyPattern(Vec<Box<str>>);

impl KeyPattern {
    fn parse(text: &str) -> Option<Self> {
        let parts = text.split('*').map(|part| {
            let decoded = percent_decode_str(part).decode_utf8().ok()?;
            // An invalid escape would be kept as text and match other keys than intended.
            (!broken_escape(part)).then(|| Box::from(&*decoded))
        });
        parts.collect::<Option<Vec<_>>>().map(Self)
    }

    fn is_anything(&self) -> bool {
        self.0.len() > 1 && self.0.iter().all(|part| part.is_empty())
    }

    fn matches(&self, key: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else {
            return self.0.first().is_some_and(|only| **only == *key);
        };
        let Some(rest) = key
            .strip_prefix(&**first)
            .and_then(|rest| rest.strip_suffix(&**last))
        else {
            return false;
        };
        // The first occurrence of each part leaves the longest rest for the next.
        middle
            .iter()
            .try_fold(rest, |rest, part| {
                rest.find(&**part).map(|at| &rest[at + part.len()..])
            })
            .is_some()
    }
}

fn broken_escape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut escapes = memchr::memchr_iter(b'%', bytes);
    escapes.any(|at| !(is_hex(at + 1) && is_hex(at + 2)))
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everything);
        }
        let (collection, keys) = match text.split_once('/') {
            Some((collection, keys)) => (collection, Some(keys)),
            None => (text, None),
        };
        if collection.is_empty() || collection.contains(['*', '%']) || keys == Some("") {
            return None;
        }
        let collection = Box::from(collection);
        Some(match keys {
            None => Self::Collection(collection),
            Some(keys) => Self::Keys {
                collection,
                keys: KeyPattern::parse(keys)?,
            },
        })
    }

    /// Whether it matches a key, or the whole collection if `key` is `None`.
    fn matches(&self, collection: &str, key: Option<&str>) -> bool {
        match self {
            Self::Everything => true,
            Self::Collection(known) => **known == *collection && key.is_none(),
            Self::Keys {
                collection: known,
                keys,
            } => {
                **known == *collection
                    && match key {
                        Some(key) => keys.matches(key),
                        None => keys.is_anything(),
                    }
            }
        }
    }

    /// Whether it matches anything in the collection.
    fn touches(&self, collection: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Collection(known)
            | Self::Keys {
                collection: known, ..
            } => **known == *collection,
        }
    }
}

/// The part of a collection that a token may list, or on which it may do something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listable {
    Nothing,
    /// Entities whose keys [`Rights::may`] allows.
    Some,
    Everything,
}

/// The token behind a command: the permissions with which it was admitted. The writer applies the
/// command with those that the token has by then.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The name of the token.
    pub token: Box<str>,
    /// Digest of its key.
    pub digest: [u8; 32],
    /// When the token last changed.
    pub revision: u64,
    pub rights: Arc<Rights>,
    /// Streamers are sent the authorization backends.
    pub provisions: bool,
}

/// Which entities of one collection a caller may see, beyond what it was let in for.
#[derive(Clone, Debug, Default)]
pub struct Visibility(Option<(Arc<Rights>, &'static str)>);

impl Visibility {
    /// All entities.
    pub const ALL: Self = Self(None);

    /// The entities of a collection on which a token has any right.
    pub fn of(rights: &Arc<Rights>, collection: &'static str) -> Self {
        Self(Some((rights.clone(), collection)))
    }

    pub fn shows(&self, key: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|(rights, collection)| rights.sees(collection, key))
    }

    /// Equal for callers that see the same.
    pub fn canonical(&self) -> String {
        match &self.0 {
            None => String::new(),
            Some(restricted) => format!("{restricted:?}"),
        }
    }
}

impl Rights {
    /// Parses the configuration of a token. The error points at the invalid scope.
    pub fn parse(config: &Object, pointer: &str) -> Result<Self, ApiError> {
        let cap = match config.get("auth_scopes").and_then(Value::as_array) {
            Some(items) => Some(scopes(items, &format!("{pointer}/auth_scopes"))?),
            None => None,
        };
        let items = config.get("permissions").and_then(Value::as_array);
        let items = items.unwrap_or_default().iter().enumerate();
        let permissions = items.map(|(index, item)| {
            let named = item.get("scopes").and_then(Value::as_array);
            let place = format!("{pointer}/permissions/{index}/scopes");
            Ok(Permission {
                scopes: scopes(named.unwrap_or_default(), &place)?,
                actions: Action::ALL.map(|action| {
                    let allowed = item.get(action.as_str()).and_then(Value::as_bool);
                    allowed.unwrap_or(false)
                }),
            })
        });
        Ok(Self {
            cap,
            permissions: permissions.collect::<Result<_, ApiError>>()?,
        })
    }

    /// Whether an action on a key is allowed, or on the whole collection if `key` is `None`.
    pub fn may(&self, action: Action, collection: &str, key: Option<&str>) -> bool {
        let names = |scope: &Scope| scope.matches(collection, key);
        self.cap.as_ref().is_none_or(|cap| cap.iter().any(names))
            && self.permissions.iter().any(|permission| {
                permission.actions[action as usize]
                    && !permission.scopes.is_empty()
                    && permission.scopes.iter().all(names)
            })
    }

    /// Whether any action on a key is allowed.
    pub fn sees(&self, collection: &str, key: &str) -> bool {
        let may = |action| self.may(action, collection, Some(key));
        Action::ALL.into_iter().any(may)
    }

    /// Whether an action is allowed on anything.
    pub fn has(&self, action: Action) -> bool {
        let mut permissions = self.permissions.iter();
        permissions.any(|it| it.actions[action as usize] && !it.scopes.is_empty())
    }

    /// The part of a collection that may be listed.
    pub fn listable(&self, collection: &str) -> Listable {
        self.part(Action::List, collection)
    }

    /// The part of a collection on which an action is allowed.
    pub fn part(&self, action: Action, collection: &str) -> Listable {
        if self.may(action, collection, None) {
            return Listable::Everything;
        }
        let touches = |scope: &Scope| scope.touches(collection);
        let some = self.cap.as_ref().is_none_or(|cap| cap.iter().any(touches))
            && self.permissions.iter().any(|permission| {
                permission.actions[action as usize]
                    && !permission.scopes.is_empty()
                    && permission.scopes.iter().all(touches)
            });
        if some {
            Listable::Some
        } else {
            Listable::Nothing
        }
    }
}

fn scopes(items: &[Value], pointer: &str) -> Result<Vec<Scope>, ApiError> {
    let read = items.iter().enumerate().map(|(index, item)| {
        item.as_str().and_then(Scope::parse).ok_or_else(|| {
            let allowed =
                "must be `*`, a collection, or a collection and keys like `streams/a%2F*`";
            error::WRONG_FORMAT.about(format!("{pointer}/{index}"), allowed)
        })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn rights(text: &str) -> Rights {
        match json::parse(text.as_bytes()) {
            Ok(Value::Object(config)) => Rights::parse(&config, "").expect("good rights"),
            other => panic!("{other:?}"),
        }
    }

    fn one(scopes: &[&str], actions: &[Action]) -> Rights {
        let scopes = scopes.iter().map(|scope| format!("{scope:?}"));
        let scopes = scopes.collect::<Vec<_>>().join(",");
        let actions: String = actions
            .iter()
            .map(|action| format!(",{:?}:true", action.as_str()))
            .collect();
        rights(&format!(
            r#"{{"permissions":[{{"scopes":[{scopes}]{actions}}}]}}"#
        ))
    }

    /// Collections and keys that are checked.
    const THINGS: [(&str, Option<&str>); 8] = [
        ("streams", None),
        ("streams", Some("a")),
        ("streams", Some("location1/a")),
        ("streams", Some("location1/a/b")),
        ("streams", Some("location10/a")),
        ("streamers", None),
        ("streamers", Some("s1")),
        ("auth", None),
    ];

    /// Which of [`THINGS`] the scopes match, written by hand.
    const SCOPES: [(&[&str], [u8; 8]); 16] = [
        (&[], [0, 0, 0, 0, 0, 0, 0, 0]),
        (&["*"], [1, 1, 1, 1, 1, 1, 1, 1]),
        (&["streams/*"], [1, 1, 1, 1, 1, 0, 0, 0]),
        (&["streams"], [1, 0, 0, 0, 0, 0, 0, 0]),
        (&["streams/a"], [0, 1, 0, 0, 0, 0, 0, 0]),
        (&["streams/location1%2F*"], [0, 0, 1, 1, 0, 0, 0, 0]),
        (&["streams/location1%2f*"], [0, 0, 1, 1, 0, 0, 0, 0]),
        (&["streams/location1/*"], [0, 0, 1, 1, 0, 0, 0, 0]),
        (&["streams/location1*"], [0, 0, 1, 1, 1, 0, 0, 0]),
        (&["streams/*/a"], [0, 0, 1, 0, 1, 0, 0, 0]),
        (&["streams/*1*b"], [0, 0, 0, 1, 0, 0, 0, 0]),
        (&["streams/%2A"], [0, 0, 0, 0, 0, 0, 0, 0]),
        (&["streamers/s1"], [0, 0, 0, 0, 0, 0, 1, 0]),
        (&["auth"], [0, 0, 0, 0, 0, 0, 0, 1]),
        // All scopes of a permission must match.
        (
            &["streams/*", "streams/location1%2F*"],
            [0, 0, 1, 1, 0, 0, 0, 0],
        ),
        (&["streams/*", "streamers/*"], [0, 0, 0, 0, 0, 0, 0, 0]),
    ];

    #[test]
    fn scopes_match_as_the_reference_says() {
        for (scopes, named) in SCOPES {
            let rights = one(scopes, &Action::ALL);
            for ((collection, key), expected) in THINGS.iter().zip(named) {
                for action in Action::ALL {
                    assert_eq!(
                        rights.may(action, collection, *key),
                        expected == 1,
                        "{scopes:?} {action:?} {collection} {key:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_action_is_allowed_separately() {
        for allowed in Action::ALL {
            let rights = one(&["streams/*"], &[allowed]);
            for action in Action::ALL {
                for key in [None, Some("a")] {
                    assert_eq!(rights.may(action, "streams", key), action == allowed);
                }
            }
        }
        let none = rights(r#"{"permissions":[{"scopes":["*"],"read":false}]}"#);
        assert!(
            !Action::ALL
                .iter()
                .any(|action| none.may(*action, "streams", None))
        );
        assert!(!rights("{}").may(Action::Read, "streams", None));
    }

    #[test]
    fn permissions_are_added_but_not_mixed() {
        let both = rights(
            r#"{"permissions":[{"scopes":["streams/*"],"read":true},{"scopes":["streamers/*"],"write":true}]}"#,
        );
        assert!(both.may(Action::Read, "streams", Some("a")));
        assert!(both.may(Action::Write, "streamers", Some("s1")));
        assert!(!both.may(Action::Write, "streams", Some("a")));
        assert!(!both.may(Action::Read, "streamers", Some("s1")));
    }

    #[test]
    fn all_pairs_of_permissions_and_caps_follow_the_rule() {
        // Goal: union of permissions, intersection of scopes and the cap work together. Method: all
        // combinations of the table above against the rule computed from its rows.
        let text = |scopes: &[&str]| {
            let quoted = scopes.iter().map(|scope| format!("{scope:?}"));
            quoted.collect::<Vec<_>>().join(",")
        };
        for (first, first_named) in SCOPES {
            for (second, second_named) in SCOPES {
                for (cap, cap_named) in SCOPES.iter().filter(|(scopes, _)| scopes.len() < 2) {
                    let rights = rights(&format!(
                        r#"{{"auth_scopes":[{}],"permissions":[{{"scopes":[{}],"read":true}},{{"scopes":[{}],"read":true}}]}}"#,
                        text(cap),
                        text(first),
                        text(second)
                    ));
                    for (i, (collection, key)) in THINGS.iter().enumerate() {
                        let expected =
                            cap_named[i] == 1 && (first_named[i] == 1 || second_named[i] == 1);
                        let may = rights.may(Action::Read, collection, *key);
                        assert_eq!(may, expected, "{cap:?} {first:?} {second:?} {key:?}");
                        assert!(!rights.may(Action::Write, collection, *key));
                    }
                }
            }
        }
    }

    #[test]
    fn cap_of_an_unknown_collection_allows_nothing() {
        let rights = rights(
            r#"{"auth_scopes":["user/15"],"permissions":[{"scopes":["*"],"list":true,"read":true}]}"#,
        );
        assert!(!rights.may(Action::Read, "streams", Some("a")));
        assert_eq!(rights.listable("streams"), Listable::Nothing);
    }

    #[test]
    fn lists_show_what_may_be_listed() {
        for (scopes, listable) in [
            (&["*"][..], Listable::Everything),
            (&["streams/*"], Listable::Everything),
            (&["streams"], Listable::Everything),
            (&["streams/location1%2F*"], Listable::Some),
            (&["streams/*", "streams/a"], Listable::Some),
            (&["streamers/*"], Listable::Nothing),
            (&["streams/a", "streamers/*"], Listable::Nothing),
            (&[], Listable::Nothing),
        ] {
            assert_eq!(
                one(scopes, &[Action::List]).listable("streams"),
                listable,
                "{scopes:?}"
            );
            let others = one(scopes, &[Action::Read, Action::Write, Action::Execute]);
            assert_eq!(others.listable("streams"), Listable::Nothing);
        }
        let capped =
            rights(r#"{"auth_scopes":["streams/a"],"permissions":[{"scopes":["*"],"list":true}]}"#);
        assert_eq!(capped.listable("streams"), Listable::Some);
        assert_eq!(capped.listable("streamers"), Listable::Nothing);
    }

    #[test]
    fn invalid_scopes_are_refused_with_their_pointer() {
        for bad in [
            "",
            "/a",
            "streams/",
            "*/a",
            "str*",
            "streams/%",
            "streams/%zz",
            "streams/%ff",
            "a%2Fb",
        ] {
            let text =
                format!(r#"{{"permissions":[{{"scopes":["*"]}},{{"scopes":["*",{bad:?}]}}]}}"#);
            let Ok(Value::Object(config)) = json::parse(text.as_bytes()) else {
                panic!("{text}")
            };
            let error = Rights::parse(&config, "").expect_err(bad);
            assert_eq!(
                error.items[0].pointer.as_deref(),
                Some("/permissions/1/scopes/1")
            );
        }
    }
}
