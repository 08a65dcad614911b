//! Options for players that streamers have too: the user agent and the headers of a request.
//!
//! Playlists write them behind a pipe (`URL|User-Agent=..&Referer=..`, percent-encoded), in
//! lines (`#EXTVLCOPT:http-user-agent=..`, `#KODIPROP:inputstream.adaptive.stream_headers=..`,
//! `#EXTHTTP:{"Cookie":".."}`) and in attributes (`http-referrer=".."`). The pipe wins over the
//! lines, these over the attributes. Other options are counted and ignored.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

/// The options of one input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputOptions {
    pub user_agent: Option<String>,
    pub headers: BTreeMap<String, String>,
}

/// Names behind a pipe that are options of the player, not headers.
const PLAYER_ONLY: [&str; 14] = [
    "accept-charset",
    "acceptencoding",
    "active-remote",
    "auth",
    "connection-timeout",
    "customrequest",
    "encoding",
    "failonerror",
    "noshout",
    "postdata",
    "redirect-limit",
    "seekable",
    "sslcipherlist",
    "verifypeer",
];

impl InputOptions {
    pub fn is_empty(&self) -> bool {
        self.user_agent.is_none() && self.headers.is_empty()
    }

    /// Options in attributes of `#EXTINF`.
    pub fn of_attributes(attributes: &[(String, String)]) -> Self {
        let mut options = Self::default();
        for (name, value) in attributes {
            if let "user-agent" | "http-user-agent" | "http-referrer" | "http-referer" | "referer" =
                name.as_str()
            {
                options.set(name.trim_start_matches("http-"), value);
            }
        }
        options
    }

    /// Adds the options of another; those win.
    pub fn add(&mut self, other: &Self) {
        if other.user_agent.is_some() {
            self.user_agent.clone_from(&other.user_agent);
        }
        let headers = other.headers.iter();
        self.headers
            .extend(headers.map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Reads the options behind a pipe. Returns the URL without them, and how many were ignored.
    /// A line without a URL before its pipe is returned whole, so that a report can quote it.
    pub fn read_pipe<'u>(&mut self, text: &'u str) -> (&'u str, usize) {
        match text.split_once('|') {
            Some((url, options)) if !url.is_empty() && is_pair(options) => {
                (url.trim_end(), self.read_pairs(options))
            }
            _ => (text, 0),
        }
    }

    /// Reads the text after `#EXTVLCOPT:` or `#KODIPROP:`. Returns how many options were ignored.
    pub fn read_line(&mut self, text: &str) -> usize {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim().trim_matches('"');
        if name.ends_with("_headers") {
            return self.read_pairs(value);
        }
        let (name, value) = match name.as_str() {
            "http-header" | "http-headers" => {
                let pair = value.split_once(':').or_else(|| value.split_once('='));
                pair.unwrap_or((value, ""))
            }
            "http-user-agent" | "http-referrer" | "http-referer" | "http-origin"
            | "http-cookie" | "http-cookies" => (name.trim_start_matches("http-"), value),
            "user-agent" | "referrer" | "referer" => (name.as_str(), value),
            _ => return 1,
        };
        usize::from(!self.set(name, value))
    }

    /// Reads the object after `#EXTHTTP:`, headers by name. Returns how many were ignored.
    pub fn read_json(&mut self, text: &str) -> usize {
        let headers: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        if headers.is_empty() {
            return 1;
        }
        let ignored = headers
            .iter()
            .filter(|(name, value)| !value.as_str().is_some_and(|value| self.set(name, value)));
        ignored.count()
    }

    /// Reads `Name=value&Name=value`, percent-encoded. Returns how many were ignored.
    fn read_pairs(&mut self, text: &str) -> usize {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let ignored = pairs.filter(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            // An exclamation mark makes a header of every name.
            let is_option = PLAYER_ONLY.contains(&name.to_ascii_lowercase().as_str());
            is_option || !self.set(name.trim_start_matches('!'), &decode(value))
        });
        ignored.count()
    }

    /// Sets a header by its name. `false`: it is not a header.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        let value = plain(value);
        let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
        let name = name.trim();
        if name.is_empty() || value.is_empty() || !name.bytes().all(is_token) {
            return false;
        }
        let lower = name.to_ascii_lowercase();
        let name = match lower.as_str() {
            "user-agent" => {
                self.user_agent = Some(value);
                return true;
            }
            "referer" | "referrer" => "Referer",
            "origin" => "Origin",
            "cookie" | "cookies" => "Cookie",
            _ => name,
        };
        self.headers
            .retain(|key, _| !key.eq_ignore_ascii_case(name));
        self.headers.insert(name.to_owned(), value);
        true
    }

    /// Adds the members of an input in the API.
    pub fn write(&self, input: &mut Map<String, Value>) {
        if let Some(user_agent) = &self.user_agent {
            input.insert("user_agent".to_owned(), json!(user_agent));
        }
        if !self.headers.is_empty() {
            input.insert("headers".to_owned(), json!(self.headers));
        }
    }
}

/// Whether the text begins with `Name=`.
fn is_pair(text: &str) -> bool {
    let name = text.split('=').next().unwrap_or_default();
    let is_name = |c: u8| c.is_ascii_alphanumeric() || b"!-_".contains(&c);
    text.contains('=') && !name.is_empty() && name.bytes().all(is_name)
}

/// Without control characters (a tab is a space) and outer spaces.
pub fn plain(text: &str) -> String {
    let spaced = text.replace('\t', " ");
    spaced.trim().chars().filter(|c| !c.is_control()).collect()
}
