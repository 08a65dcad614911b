//! The lists of an authorization backend, compiled for asking.
//!
//! The order is the reference's and the first match decides: allowed tokens, denied tokens, allowed addresses, denied addresses, allowed
//! countries, denied countries, allowed programs, denied programs. Whom no list knows is left to the HTTP backends. Tokens are kept and
//! compared as digests, so that the time of an answer tells nothing about them. A program is known by a part of its `User-Agent`, case
//! included. What could never match as it was meant (a subnet that is none, a country of three letters) is refused when it is saved: a
//! denial that silently does nothing would be worse than an error.

use std::collections::HashSet;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use crate::error::{self, ApiError};
use crate::json::{Object, Value};
use crate::outbound::TargetUrl;
use crate::subnet::Subnets;

/// HTTP backends that are asked at once for one session.
pub const BACKENDS_MAX: usize = 16;

/// A saved backend.
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
    /// Asked when no list decides.
    pub backends: Vec<TargetUrl>,
    /// What becomes of a new session that nobody decides about.
    pub allow_default: bool,
}

/// ISO 3166 alpha-2, upper case.
pub type Country = [u8; 2];

/// Reads a country as people write it.
pub fn country(text: &str) -> Option<Country> {
    match text.as_bytes() {
        [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
            Some([a.to_ascii_uppercase(), b.to_ascii_uppercase()])
        }
        _ => None,
    }
}

/// What the lists are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// Empty: none.
    pub token: &'a str,
    pub address: IpAddr,
    /// Empty: none.
    pub user_agent: &'a str,
}

/// What the lists say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    Allow(List),
    Deny(List),
    /// On no list.
    Open,
}

/// Which list decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    Tokens,
    Addresses,
    Countries,
    Programs,
}

impl Rules {
    /// Reads a configuration. The error names the place of what cannot be meant.
    pub fn parse(config: &Object, pointer: &str) -> Result<Self, ApiError> {
        let tokens = |field| {
            let texts = texts(config, field, pointer)?;
            Ok::<_, ApiError>(texts.into_iter().map(digest).collect())
        };
        let ips = |field| {
            Subnets::parse(texts(config, field, pointer)?).map_err(|index| {
                error::WRONG_FORMAT.titled("This is neither an address nor a subnet such as 10.0.0.0/8 or 2001:db8::/32").at_pointer(format!("{pointer}/{field}/{index}"))
            })
        };
        let countries = |field: &str| {
            let texts = texts(config, field, pointer)?;
            let known = texts.into_iter().enumerate().map(|(index, text)| {
                country(text).ok_or_else(|| {
                    error::WRONG_FORMAT
                        .titled("A country is written as its two letters of ISO 3166")
                        .at_pointer(format!("{pointer}/{field}/{index}"))
                })
            });
            known.collect::<Result<HashSet<_>, _>>()
        };
        let programs = |field| {
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
            allow_uas: programs("allow_uas")?,
            deny_uas: programs("deny_uas")?,
            backends: backends(config, pointer)?,
            allow_default: config
                .get("allow_default")
                .and_then(Value::as_bool)
                .unwrap_or(false),
        })
    }

    /// A backend that is nothing but one URL.
    pub fn of_url(target: TargetUrl) -> Self {
        Self {
            backends: vec![target],
            ..Self::default()
        }
    }

    /// Asks the lists. `country` is looked up only if a list wants to know it.
    pub fn listed(&self, viewer: Viewer<'_>, country: impl FnOnce() -> Option<Country>) -> Listed {
        if !viewer.token.is_empty() {
            let token = digest(viewer.token);
            if self.allow_tokens.contains(&token) {
                return Listed::Allow(List::Tokens);
            }
            if self.deny_tokens.contains(&token) {
                return Listed::Deny(List::Tokens);
            }
        }
        if self.allow_ips.contains(viewer.address) {
            return Listed::Allow(List::Addresses);
        }
        if self.deny_ips.contains(viewer.address) {
            return Listed::Deny(List::Addresses);
        }
        if !(self.allow_countries.is_empty() && self.deny_countries.is_empty())
            && let Some(country) = country()
        {
            if self.allow_countries.contains(&country) {
                return Listed::Allow(List::Countries);
            }
            if self.deny_countries.contains(&country) {
                return Listed::Deny(List::Countries);
            }
        }
        if !viewer.user_agent.is_empty() {
            let is_on = |list: &[Box<str>]| {
                let mut known = list.iter();
                known.any(|part| viewer.user_agent.contains(&**part))
            };
            if is_on(&self.allow_uas) {
                return Listed::Allow(List::Programs);
            }
            if is_on(&self.deny_uas) {
                return Listed::Deny(List::Programs);
            }
        }
        Listed::Open
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The texts of a list that may be absent. The schema has seen to their type.
fn texts<'a>(config: &'a Object, field: &str, pointer: &str) -> Result<Vec<&'a str>, ApiError> {
    let items = config.get(field).and_then(Value::as_array);
    let items = items.unwrap_or_default().iter().enumerate();
    items
        .map(|(index, item)| {
            item.as_str()
                .filter(|text| !text.is_empty())
                .ok_or_else(|| {
                    error::TOO_SHORT
                        .titled("An empty text matches nothing")
                        .at_pointer(format!("{pointer}/{field}/{index}"))
                })
        })
        .collect()
}

fn backends(config: &Object, pointer: &str) -> Result<Vec<TargetUrl>, ApiError> {
    let items = config.get("backends").and_then(Value::as_array);
    let items = items.unwrap_or_default();
    if items.len() > BACKENDS_MAX {
        return Err(error::TOO_MANY_ITEMS
            .titled("A session is decided by at most 16 HTTP backends")
            .at_pointer(format!("{pointer}/backends"))
            .with("maximum", BACKENDS_MAX));
    }
    let targets = items.iter().enumerate().map(|(index, item)| {
        let url = item.get("url").and_then(Value::as_str).unwrap_or_default();
        TargetUrl::parse(url).map_err(|why| {
            error::WRONG_FORMAT
                .titled(why)
                .at_pointer(format!("{pointer}/backends/{index}/url"))
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

    /// Every list, each of whose entries would decide differently from the one before.
    const ALL: &str = r#"{"allow_tokens":["good"],"deny_tokens":["bad","good"],
        "allow_ips":["10.0.0.0/8","2001:db8::/32"],"deny_ips":["10.0.0.0/8","192.168.0.0/16"],
        "allow_countries":["RS"],"deny_countries":["RS","xx"],
        "allow_uas":["VLC/3"],"deny_uas":["VLC","curl"]}"#;

    #[test]
    fn the_first_list_that_knows_a_viewer_decides() {
        use Listed::{Allow, Deny, Open};
        let rules = rules(ALL);
        let cases = [
            // Each later fact would decide otherwise.
            (
                ("good", "192.168.0.1", "curl"),
                Some("XX"),
                Allow(List::Tokens),
            ),
            (("bad", "10.1.1.1", "VLC/3"), Some("RS"), Deny(List::Tokens)),
            (
                ("other", "10.1.1.1", "curl"),
                Some("XX"),
                Allow(List::Addresses),
            ),
            (("", "2001:db8::7", "curl"), None, Allow(List::Addresses)),
            (
                ("", "192.168.3.4", "VLC/3"),
                Some("RS"),
                Deny(List::Addresses),
            ),
            (
                ("", "::ffff:192.168.3.4", "VLC/3"),
                Some("RS"),
                Deny(List::Addresses),
            ),
            (("", "8.8.8.8", "curl"), Some("RS"), Allow(List::Countries)),
            (("", "8.8.8.8", "VLC/3"), Some("XX"), Deny(List::Countries)),
            (
                ("", "8.8.8.8", "Player VLC/3.0.8 LibVLC"),
                Some("DE"),
                Allow(List::Programs),
            ),
            (("", "8.8.8.8", "VLC/2"), Some("DE"), Deny(List::Programs)),
            (("", "8.8.8.8", "libcurl/8"), None, Deny(List::Programs)),
            (("", "8.8.8.8", "vlc/3"), None, Open),
            (("", "8.8.8.8", ""), None, Open),
            (("Good", "8.8.8.8", ""), Some("DE"), Open),
        ];
        for ((token, address, agent), land, expected) in cases {
            let found = rules.listed(viewer(token, address, agent), || land.and_then(country));
            assert_eq!(found, expected, "{token} {address} {agent} {land:?}");
        }
    }

    #[test]
    fn countries_are_looked_up_only_for_lists_of_countries() {
        let without = rules(r#"{"allow_ips":["10.0.0.1"],"deny_uas":["x"]}"#);
        let found = without.listed(viewer("", "8.8.8.8", "y"), || panic!("nobody asked"));
        assert_eq!(found, Listed::Open);
        let decided = rules(ALL);
        let found = decided.listed(viewer("good", "8.8.8.8", ""), || panic!("decided before"));
        assert_eq!(found, Listed::Allow(List::Tokens));
    }

    #[test]
    fn absent_and_empty_lists_decide_nothing() {
        for text in [
            "{}",
            r#"{"allow_tokens":[],"deny_ips":[],"allow_countries":[],"deny_uas":[],"backends":[]}"#,
            r#"{"allow_tokens":null,"deny_ips":null}"#,
        ] {
            let rules = rules(text);
            let found = rules.listed(viewer("t", "8.8.8.8", "ua"), || country("RS"));
            assert_eq!(found, Listed::Open);
            assert!(!rules.allow_default && rules.backends.is_empty());
        }
        assert!(rules(r#"{"allow_default":true}"#).allow_default);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
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
