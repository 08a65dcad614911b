//! The values of settings: their types, the rules for their texts, and how `/config` shows them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::scalar::whole;
use super::setting::{SettingRule, list, secret, text, word};
use crate::http::Cors;
use crate::json::{Object, Value};
use crate::schema::MASK;
use crate::state::node::Restreaming;
use crate::subnet::Subnets;
use crate::traces::Collector;
use weir_storage::LogKind;

/// A text that is never printed by accident. It is not compared in constant time; the check of
/// credentials is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A name and a password for HTTP Basic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub name: String,
    pub password: Secret,
}

/// Levels of the log, from silent to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    None,
    Alert,
    Critical,
    Error,
    Warning,
    Notice,
    #[default]
    Info,
    Debug,
}

impl LogLevel {
    const NAMES: &[&str; 8] = &[
        "none", "alert", "critical", "error", "warning", "notice", "info", "debug",
    ];
    const ALL: &[Self; 8] = &[
        Self::None,
        Self::Alert,
        Self::Critical,
        Self::Error,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// The nearest of the five levels of `tracing`; never quieter than this one.
    pub fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            Self::None => LevelFilter::OFF,
            Self::Alert | Self::Critical | Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Notice | Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

/// Whether threads are pinned to processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PinThreads {
    #[default]
    Auto,
    Off,
}

/// Which resources make a streamer full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayouterBalance {
    /// The fullest of channels, bandwidth and disk.
    #[default]
    Dominant,
    Channels,
}

// -------------------------------------------------------------------------------------------------
// Rules

pub(super) const LISTEN: SettingRule<Vec<SocketAddr>> = list(
    "addresses such as 127.0.0.1:9019, [::1]:9019, localhost:9019 or :9019 (all IPv4 addresses), \
     at most 16",
    |texts| {
        let fits = (1..=16).contains(&texts.len());
        fits.then(|| texts.iter().map(|text| listen_address(text)).collect())?
    },
);

pub(super) const PORT: SettingRule<Option<u16>> = SettingRule::Number {
    min: 1,
    max: 65_535,
    parse: |port| u16::try_from(port).ok().map(Some),
};

pub(super) const API_URL: SettingRule<Option<String>> = text(
    "a URL that begins with http:// or https:// and has a host, without credentials, query or \
     fragment",
    |text| base_url(text).map(Some),
);

pub(super) const COLLECTOR: SettingRule<Option<Collector>> = text(
    "a URL that begins with http:// or https:// and has a host, without credentials; its query may \
     be service_name=NAME",
    |text| Collector::parse(text).map(Some),
);

pub(super) const CORS: SettingRule<Cors> = list(
    "origins such as https://panel.example.com (scheme and host, no path), or * alone for any, \
     at most 64",
    cors,
);

pub(super) const API_KEY: SettingRule<Option<Secret>> =
    secret("1 to 256 visible ASCII characters, no spaces", |text| {
        is_api_key(text).then(|| Some(Secret::new(text)))
    });

pub(super) const LOGIN: SettingRule<Option<Login>> = secret(
    "a login and a password with a space or a colon between them",
    |text| login(text).map(Some),
);

pub(super) const URL_TOKEN: SettingRule<Option<Secret>> = secret(
    "1 to 256 characters out of letters, digits and - . _ ~",
    |text| is_word(text, 256, b"-._~").then(|| Some(Secret::new(text))),
);

pub(super) const DIRECTORY: SettingRule<PathBuf> = text("a path of a directory", path);

pub(super) const FILE: SettingRule<Option<PathBuf>> =
    text("a path of a file", |text| path(text).map(Some));

pub(super) const SUBNETS: SettingRule<Subnets> = list(
    "addresses and subnets such as 10.0.0.0/8 or fd00::/8, at most 256",
    |texts| {
        let texts = (texts.len() <= 256).then(|| texts.iter().map(String::as_str))?;
        Subnets::parse(texts).ok()
    },
);

pub(super) const PROXIES: SettingRule<Subnets> = list(
    "`loopback`, `none`, and addresses and subnets such as 10.0.0.5 or fd00::/8, at most 256",
    |texts| {
        let texts = (1..=256).contains(&texts.len()).then_some(texts)?;
        let is_none = texts.iter().any(|text| text == "none");
        if is_none && texts.len() > 1 {
            return None;
        }
        let mut nets: Vec<&str> = Vec::new();
        for text in texts {
            match text.as_str() {
                "none" => {}
                "loopback" => nets.extend(Subnets::LOOPBACK),
                net => nets.push(net),
            }
        }
        Subnets::parse(nets).ok()
    },
);

pub(super) const LABEL_KEY: SettingRule<Option<String>> = text(
    "the key of a label, 1 to 40 characters out of letters, digits and - . _",
    |text| is_word(text, 40, b"-._").then(|| Some(text.to_owned())),
);

pub(super) const RESTREAMING: SettingRule<Restreaming> = word(
    &["off", "marked", "all"],
    &[Restreaming::Off, Restreaming::Flagged, Restreaming::All],
);

pub(super) const BALANCE: SettingRule<LayouterBalance> = word(
    &["dominant", "channels"],
    &[LayouterBalance::Dominant, LayouterBalance::Channels],
);

pub(super) const PIN_THREADS: SettingRule<PinThreads> =
    word(&["auto", "off"], &[PinThreads::Auto, PinThreads::Off]);

pub(super) const STORAGE_LOG: SettingRule<LogKind> =
    word(&["append", "redb"], &[LogKind::Append, LogKind::Redb]);

pub(super) const LOG_LEVEL: SettingRule<LogLevel> = word(LogLevel::NAMES, LogLevel::ALL);

// -------------------------------------------------------------------------------------------------
// Texts

fn listen_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = if let Some(port) = text.strip_prefix(':') {
        (Ipv4Addr::UNSPECIFIED, port)
    } else if let Some(port) = text.strip_prefix("localhost:") {
        (Ipv4Addr::LOCALHOST, port)
    } else {
        return text.parse().ok();
    };
    let port = u16::try_from(whole(port)?).ok()?;
    Some((address, port).into())
}

/// `http://host[:port][/path]` without its trailing slashes.
fn base_url(text: &str) -> Option<String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))?;
    let authority = rest.split('/').next()?;
    let is_clean = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"?#@\"<>\\^`{|}".contains(&byte));
    (is_clean && !authority.is_empty() && !authority.starts_with(':'))
        .then(|| text.trim_end_matches('/').to_owned())
}

/// The text of a refused URL for a message, its credentials masked.
pub(super) fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}{MASK}{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

fn cors(texts: &[String]) -> Option<Cors> {
    if texts.is_empty() || texts.len() > 64 {
        return None;
    }
    if texts.len() == 1 && texts[0] == "*" {
        return Some(Cors::Any);
    }
    let origin = |text: &String| {
        let (scheme, host) = text.split_once("://")?;
        let fits = is_word(scheme, usize::MAX, b"+-.") && is_word(host, usize::MAX, b"-._:[]");
        // Browsers send both parts in lower case.
        fits.then(|| text.to_ascii_lowercase())
    };
    texts
        .iter()
        .map(origin)
        .collect::<Option<Vec<_>>>()
        .map(Cors::Origins)
}

/// Whether the text has 1 to `length_max` characters, all letters, digits or one of `others`.
fn is_word(text: &str, length_max: usize, others: &[u8]) -> bool {
    (1..=length_max).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

pub(super) fn is_api_key(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A login cannot contain a colon (RFC 7617) and ours no space, so the first of either divides.
fn login(text: &str) -> Option<Login> {
    let (name, password) = text.split_once([' ', ':'])?;
    let fits = !name.is_empty() && !password.is_empty() && !text.chars().any(char::is_control);
    fits.then(|| Login {
        name: name.to_owned(),
        password: Secret::new(password),
    })
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.contains('\0')).then(|| PathBuf::from(text))
}

/// A value that the document of `/config` can show.
pub(super) trait Shown {
    /// The value as JSON, with its secrets masked or not. `None`: not set.
    fn shown(&self, masked: bool) -> Option<Value>;
}

impl Shown for bool {
    fn shown(&self, _: bool) -> Option<Value> {
        Some(Value::Bool(*self))
    }
}

impl Shown for u64 {
    fn shown(&self, _: bool) -> Option<Value> {
        Some(Value::from(*self))
    }
}

impl Shown for usize {
    fn shown(&self, _: bool) -> Option<Value> {
        Some(Value::from(*self as u64))
    }
}

/// In milliseconds.
impl Shown for Duration {
    fn shown(&self, _: bool) -> Option<Value> {
        Some(Value::from(self.as_millis() as u64))
    }
}

impl Shown for LogLevel {
    fn shown(&self, _: bool) -> Option<Value> {
        Some(Value::from(Self::NAMES[*self as usize]))
    }
}

impl Shown for Option<String> {
    fn shown(&self, _: bool) -> Option<Value> {
        self.as_deref().map(Value::from)
    }
}

impl Shown for Option<Collector> {
    fn shown(&self, _: bool) -> Option<Value> {
        self.as_ref()
            .map(|collector| Value::from(&*collector.to_string()))
    }
}

impl Shown for Option<Secret> {
    fn shown(&self, masked: bool) -> Option<Value> {
        self.as_ref().map(|secret| secret.json(masked))
    }
}

impl Shown for Option<Login> {
    fn shown(&self, masked: bool) -> Option<Value> {
        let login = self.as_ref()?;
        let mut object = Object::default();
        object.insert("login", Value::from(&*login.name));
        object.insert("password", login.password.json(masked));
        Some(Value::Object(object))
    }
}

impl Secret {
    /// The secret, or its mask.
    pub fn json(&self, masked: bool) -> Value {
        Value::from(if masked { MASK } else { self.expose() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_space_or_colon_ends_the_login() {
        for (text, name, password) in [
            ("admin secret", "admin", "secret"),
            ("admin:secret", "admin", "secret"),
            ("admin se:cr et", "admin", "se:cr et"),
            ("admin:se cret", "admin", "se cret"),
        ] {
            let login = login(text).expect(text);
            assert_eq!(
                (login.name.as_str(), login.password.expose()),
                (name, password)
            );
        }
        for text in ["admin", "admin:", " secret", ":secret", "a b\n"] {
            assert_eq!(login(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_log_level_has_its_own_name() {
        for (level, name) in LogLevel::ALL.iter().zip(LogLevel::NAMES) {
            assert_eq!(level.shown(false), Some(Value::from(*name)));
        }
    }
}
