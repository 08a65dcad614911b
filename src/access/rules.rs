//! The compiled lists of an authorization backend.
//!
//! The first match decides, in the order of the reference: allowed tokens, denied tokens, allowed
//! addresses, denied addresses, allowed countries, denied countries, allowed user agents, denied
//! user agents. Without a match the HTTP backends decide. Tokens are stored and compared as
//! digests, so that response times reveal nothing about them. A user agent matches if it contains
//! the listed text, case included. An entry that could never match (an invalid subnet, a country of
//! three letters) is refused when it is saved: a denial without effect would be worse than an
//! error.

use std::collections::HashSet;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use crate::error::{self, ApiError};
use crate::json::{Object, Value};
use crate::outbound::TargetUrl;
use crate::subnet::Subnets;

/// HTTP backends of one authorization backend; all are called for a session at once.
const BACKENDS_MAX: usize = 16;

/// A compiled authorization backend.
#[derive(Debug, Default)]
pub struct Rules {
    allow_tokens: HashSet<[u8; 32]>,
    deny_tokens: HashSet<[u8; 32]>,
    allow_ips: Subnets,
    deny_ips: Subnets,
    allow_countries: HashSet<Country>,
    deny_countries: HashSet<Country>,
    allow_uas: Vec<Box<str>>,
    deny_uas: Vec<Box<str>>,
    /// Called if no list matches.
    pub backends: Vec<TargetUrl>,
    /// Whether a new session is allowed if no backend decides.
    pub allow_default: bool,
}

/// ISO 3166 alpha-2, upper case.
pub type Country = [u8; 2];

/// Parses a country code, in any case.
pub fn country(text: &str) -> Option<Country> {
    match text.as_bytes() {
        [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
            Some([a.to_ascii_uppercase(), b.to_ascii_uppercase()])
        }
        _ => None,
    }
}

/// The properties of a viewer that the lists match.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// Empty if absent.
    pub token: &'a str,
    pub address: IpAddr,
    /// Empty if absent.
    pub user_agent: &'a str,
}

/// The result of matching a viewer with the lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListMatch {
    Allow(RuleList),
    Deny(RuleList),
    /// No list matches.
    None,
}

/// The list that matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleList {
    Tokens,
    Addresses,
    Countries,
    UserAgents,
}

impl ListMatch {
    /// The member of the configuration with the list that matched.
    pub fn list(self) -> Option<&'static str> {
        Some(match self {
            Self::Allow(RuleList::Tokens) => "allow_tokens",
            Self::Allow(RuleList::Addresses) => "allow_ips",
            Self::Allow(RuleList::Countries) => "allow_countries",
            Self::Allow(RuleList::UserAgents) => "allow_uas",
            Self::Deny(RuleList::Tokens) => "deny_tokens",
            Self::Deny(RuleList::Addresses) => "deny_ips",
            Self::Deny(RuleList::Countries) => "deny_countries",
            Self::Deny(RuleList::UserAgents) => "deny_uas",
            Self::None => return None,
        })
    }
}

impl Rules {
    /// Compiles a configuration. The error points at the invalid entry.
    pub fn parse(config: &Object, pointer: &str) -> Result<Self, ApiError> {
        let tokens = |field| {
            let texts = texts(config, field, pointer)?;
            Ok::<_, ApiError>(texts.into_iter().map(digest).collect())
        };
        let ips = |field| {
            Subnets::parse(texts(config, field, pointer)?).map_err(|index| {
                let allowed = "must be an address or a subnet such as 10.0.0.0/8 or 2001:db8::/32";
                error::WRONG_FORMAT.about(format!("{pointer}/{field}/{index}"), allowed)
            })
        };
        let countries = |field: &str| {
            let texts = texts(config, field, pointer)?;
            let known = texts.into_iter().enumerate().map(|(index, text)| {
                country(text).ok_or_else(|| {
                    let allowed = "must be a country code of two letters (ISO 3166-1 alpha-2)";
                    error::WRONG_FORMAT.about(format!("{pointer}/{field}/{index}"), allowed)
                })
            });
            known.collect::<Result<HashSet<_>, _>>()
        };
        let user_agents = |field| {
            let texts = texts(config, field, pointer)?;
            Ok::<_, ApiError>(texts.into_iter().map(Box::from).collect())
        };
        Ok(Self {
            allow_tokens: tokens("allow_tokens")?,
            deny_tokens: tokens("deny_tokens")?,
            allow_ips: ips("allow_ips")?,
            deny_ips: ips("deny_ips")?,
            allow_countries: countries("allow_countries")?,
            deny_countries: countries("deny_countries")?,
            allow_uas: user_agents("allow_uas")?,
            deny_uas: user_agents("deny_uas")?,
            backends: backends(config, pointer)?,
            allow_default: config
                .get("allow_default")
                .and_then(Value::as_bool)
                .unwrap_or(false),
        })
    }

    /// An authorization backend that is a single URL.
    pub fn of_url(target: TargetUrl) -> Self {
        Self {
            backends: vec![target],
            ..Self::default()
        }
    }

    /// Matches a viewer with the lists. `country` is called only if a list of countries is not
    /// empty.
    pub fn match_viewer(
        &self,
        viewer: Viewer<'_>,
        country: impl FnOnce() -> Option<Country>,
    ) -> ListMatch {
        if !viewer.token.is_empty() {
            let token = digest(viewer.token);
            if self.allow_tokens.contains(&token) {
                return ListMatch::Allow(RuleList::Tokens);
            }
            if self.deny_tokens.contains(&token) {
                return ListMatch::Deny(RuleList::Tokens);
            }
        }
        if self.allow_ips.contains(viewer.address) {
            return ListMatch::Allow(RuleList::Addresses);
        }
        if self.deny_ips.contains(viewer.address) {
            return ListMatch::Deny(RuleList::Addresses);
        }
        if !(self.allow_countries.is_empty() && self.deny_countries.is_empty())
            && let Some(country) = country()
        {
            if self.allow_countries.contains(&country) {
                return ListMatch::Allow(RuleList::Countries);
            }
            if self.deny_countries.contains(&country) {
                return ListMatch::Deny(RuleList::Countries);
            }
        }
        if !viewer.user_agent.is_empty() {
            let is_on = |list: &[Box<str>]| {
                let mut known = list.iter();
                known.any(|part| viewer.user_agent.contains(&**part))
            };
            if is_on(&self.allow_uas) {
                return ListMatch::Allow(RuleList::UserAgents);
            }
            if is_on(&self.deny_uas) {
                return ListMatch::Deny(RuleList::UserAgents);
            }
        }
        ListMatch::None
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The texts of a list, which may be absent. The schema has checked their types.
fn texts<'a>(config: &'a Object, field: &str, pointer: &str) -> Result<Vec<&'a str>, ApiError> {
    let items = config.get(field).and_then(Value::as_array);
    let items = items.unwrap_or_default().iter().enumerate();
    items
        .map(|(index, item)| {
            item.as_str()
                .filter(|text| !text.is_empty())
                .ok_or_else(|| {
                    let at = format!("{pointer}/{field}/{index}");
                    error::TOO_SHORT.about(at, "must not be empty")
                })
        })
        .collect()
}

fn backends(config: &Object, pointer: &str) -> Result<Vec<TargetUrl>, ApiError> {
    let items = config.get("backends").and_then(Value::as_array);
    let items = items.unwrap_or_default();
    if items.len() > BACKENDS_MAX {
        return Err(error::TOO_MANY_ITEMS
            .about(format!("{pointer}/backends"), "must have at most 16 items")
            .with("maximum", BACKENDS_MAX));
    }
    let targets = items.iter().enumerate().map(|(index, item)| {
        let url = item.get("url").and_then(Value::as_str).unwrap_or_default();
        TargetUrl::parse(url).map_err(|why| {
            error::WRONG_FORMAT.about(format!("{pointer}/backends/{index}/url"), why)
        })
    });
    targets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn object(text: &str) -> Object {
        match json::parse(text.as_bytes()) {
            Ok(Value::Object(object)) => object,
            other => panic!("{other:?}"),
        }
    }

    fn rules(text: &str) -> Rules {
        Rules::parse(&object(text), "").expect("good rules")
    }

    fn viewer<'a>(token: &'a str, address: &str, user_agent: &'a str) -> Viewer<'a> {
        Viewer {
            token,
            address: address.parse().expect("an address"),
            user_agent,
        }
    }

    /// All lists, each with an entry that contradicts the list before it.
    const ALL: &str = r#"{"allow_tokens":["good"],"deny_tokens":["bad","good"],
        "allow_ips":["10.0.0.0/8","2001:db8::/32"],"deny_ips":["10.0.0.0/8","192.168.0.0/16"],
        "allow_countries":["RS"],"deny_countries":["RS","xx"],
        "allow_uas":["VLC/3"],"deny_uas":["VLC","curl"]}"#;

    #[test]
    fn first_matching_list_decides() {
        use ListMatch::{Allow, Deny};
        let rules = rules(ALL);
        let cases = [
            // Each later list would decide otherwise.
            (
                ("good", "192.168.0.1", "curl"),
                Some("XX"),
                Allow(RuleList::Tokens),
            ),
            (
                ("bad", "10.1.1.1", "VLC/3"),
                Some("RS"),
                Deny(RuleList::Tokens),
            ),
            (
                ("other", "10.1.1.1", "curl"),
                Some("XX"),
                Allow(RuleList::Addresses),
            ),
            (
                ("", "2001:db8::7", "curl"),
                None,
                Allow(RuleList::Addresses),
            ),
            (
                ("", "192.168.3.4", "VLC/3"),
                Some("RS"),
                Deny(RuleList::Addresses),
            ),
            (
                ("", "::ffff:192.168.3.4", "VLC/3"),
                Some("RS"),
                Deny(RuleList::Addresses),
            ),
            (
                ("", "8.8.8.8", "curl"),
                Some("RS"),
                Allow(RuleList::Countries),
            ),
            (
                ("", "8.8.8.8", "VLC/3"),
                Some("XX"),
                Deny(RuleList::Countries),
            ),
            (
                ("", "8.8.8.8", "Player VLC/3.0.8 LibVLC"),
                Some("DE"),
                Allow(RuleList::UserAgents),
            ),
            (
                ("", "8.8.8.8", "VLC/2"),
                Some("DE"),
                Deny(RuleList::UserAgents),
            ),
            (
                ("", "8.8.8.8", "libcurl/8"),
                None,
                Deny(RuleList::UserAgents),
            ),
            (("", "8.8.8.8", "vlc/3"), None, ListMatch::None),
            (("", "8.8.8.8", ""), None, ListMatch::None),
            (("Good", "8.8.8.8", ""), Some("DE"), ListMatch::None),
        ];
        for ((token, address, agent), code, expected) in cases {
            let found =
                rules.match_viewer(viewer(token, address, agent), || code.and_then(country));
            assert_eq!(found, expected, "{token} {address} {agent} {code:?}");
        }
    }

    #[test]
    fn country_is_looked_up_only_for_country_lists() {
        let without = rules(r#"{"allow_ips":["10.0.0.1"],"deny_uas":["x"]}"#);
        let found = without.match_viewer(viewer("", "8.8.8.8", "y"), || panic!("not needed"));
        assert_eq!(found, ListMatch::None);
        let decided = rules(ALL);
        let found =
            decided.match_viewer(viewer("good", "8.8.8.8", ""), || panic!("already decided"));
        assert_eq!(found, ListMatch::Allow(RuleList::Tokens));
    }

    #[test]
    fn absent_and_empty_lists_match_nothing() {
        for text in [
            "{}",
            r#"{"allow_tokens":[],"deny_ips":[],"allow_countries":[],"deny_uas":[],"backends":[]}"#,
            r#"{"allow_tokens":null,"deny_ips":null}"#,
        ] {
            let rules = rules(text);
            let found = rules.match_viewer(viewer("t", "8.8.8.8", "ua"), || country("RS"));
            assert_eq!(found, ListMatch::None);
            assert!(!rules.allow_default && rules.backends.is_empty());
        }
        assert!(rules(r#"{"allow_default":true}"#).allow_default);
    }

    #[test]
    fn invalid_entries_are_refused_with_their_pointer() {
        let many = format!(
            r#"{{"backends":[{}]}}"#,
            vec![r#"{"url":"http://h/"}"#; BACKENDS_MAX + 1].join(",")
        );
        for (text, place) in [
            (
                r#"{"allow_ips":["10.0.0.1","10.0.0.0/33"]}"#,
                "/allow_ips/1",
            ),
            (r#"{"deny_ips":["example.com"]}"#, "/deny_ips/0"),
            (r#"{"allow_countries":["RS","SRB"]}"#, "/allow_countries/1"),
            (r#"{"deny_countries":["R1"]}"#, "/deny_countries/0"),
            (r#"{"allow_tokens":[""]}"#, "/allow_tokens/0"),
            (r#"{"deny_uas":["a",""]}"#, "/deny_uas/1"),
            (
                r#"{"backends":[{"url":"http://h/"},{"url":"ftp://h/"}]}"#,
                "/backends/1/url",
            ),
            (
                r#"{"backends":[{"url":"http://h/\r\nX: y"}]}"#,
                "/backends/0/url",
            ),
            (&many, "/backends"),
        ] {
            let error = Rules::parse(&object(text), "").expect_err(text);
            assert_eq!(error.status, 400);
            assert_eq!(error.items[0].pointer.as_deref(), Some(place), "{text}");
        }
    }
}
