//! The URLs by which nodes pull streams from each other.
//!
//! They depend on the node that has the stream, by its kind and its addresses, and on what the kind
//! of the reading node takes: the first URL of the source with such a scheme. A source has the
//! templates in `pull_urls`; else the base URL in `private_payload_url`, if that has a scheme of a
//! media protocol; else the URLs under which servers of its kind serve streams.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::State;
use super::name::Hostname;
use super::record::{ArchivedNodeRole, StreamerRecord};
use crate::error::{self, ApiError};
use crate::json::{self, Object, Value, scan};
use crate::native_name::MediaServerKind;

/// Longest template of a URL, bytes.
const TEMPLATE_BYTES_MAX: usize = 1000;

/// Bytes of a stream's name that a path carries unescaped.
const PATH_KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The placeholders of a template: the name of the stream as here, its name on the server, and the
/// token of pulls.
const NAME: &str = "{name}";
const NATIVE: &str = "{native}";
const TOKEN: &str = "{token}";

/// The kind of media server that a node runs.
pub fn kind_of(state: &State, hostname: &str) -> MediaServerKind {
    let streamer = state.streamer(hostname);
    streamer.map_or_else(MediaServerKind::default, kind_of_record)
}

pub fn kind_of_record(streamer: &StreamerRecord) -> MediaServerKind {
    let kind = scan::member(&streamer.config, "kind").and_then(text_of);
    kind.and_then(|kind| MediaServerKind::parse(&kind))
        .unwrap_or_default()
}

/// Whether a streamer has the API that is queried. Media servers of other kinds have none; their
/// bridges report.
pub fn is_queried(streamer: &StreamerRecord) -> bool {
    matches!(streamer.role, ArchivedNodeRole::Streamer)
        && kind_of_record(streamer) == MediaServerKind::Flussonic
        && scan::member(&streamer.config, "api_url").is_some()
}

/// A JSON string as text.
pub fn text_of(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    match json::parse(value.as_bytes()) {
        Ok(Value::String(text)) => Some(Cow::Owned(text.into())),
        _ => None,
    }
}

/// A node that others pull streams from: what its URLs depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSource<'s> {
    kind: MediaServerKind,
    /// The templates, as JSON.
    templates: Option<&'s str>,
    /// The base of all URLs, of a media protocol.
    base: Option<Box<str>>,
    /// `host[:port]` over HTTP, and whether with TLS.
    authority: Cow<'s, str>,
    tls: bool,
}

impl<'s> PullSource<'s> {
    /// A node that is not saved is addressed by its name.
    pub fn new(record: Option<&'s StreamerRecord>, hostname: &'s str) -> Self {
        let mut source = Self {
            kind: MediaServerKind::default(),
            templates: None,
            base: None,
            authority: Cow::Borrowed(hostname),
            tls: false,
        };
        let Some(record) = record else {
            return source;
        };
        source.authority = Cow::Borrowed(record.pull_authority.as_str());
        source.tls = record.pull_tls;
        for (key, value) in scan::members(&record.config) {
            match key {
                "kind" => {
                    let kind = text_of(value);
                    let kind = kind.and_then(|kind| MediaServerKind::parse(&kind));
                    source.kind = kind.unwrap_or_default();
                }
                "pull_urls" if value != "[]" && value != "null" => source.templates = Some(value),
                "private_payload_url" => {
                    let url = text_of(value).filter(|url| is_media(url));
                    source.base = url.map(|url| without_credentials(&url).into());
                }
                _ => {}
            }
        }
        source
    }

    /// The URL from which a server of a kind pulls a stream, if it takes one of the source's.
    pub fn url(&self, reader: MediaServerKind, name: &str, token: Option<&str>) -> Option<String> {
        self.first_url(name, token, |url| reader.takes(url))
    }

    /// The URL from which a server reads an archive that another one has.
    pub fn archive_url(&self, name: &str, token: Option<&str>) -> Option<String> {
        let is_archive = |url: &str| url.starts_with("m4s://") || url.starts_with("m4ss://");
        self.first_url(name, token, is_archive)
    }

    fn first_url(
        &self,
        name: &str,
        token: Option<&str>,
        is_taken: impl Fn(&str) -> bool,
    ) -> Option<String> {
        if let Some(templates) = self.templates {
            let templates = json::parse(templates.as_bytes()).ok()?;
            let mut templates = templates.as_array()?.iter().filter_map(Value::as_str);
            let template = templates.find(|template| is_taken(template))?;
            return Some(fill(template, self.kind, name, token));
        }
        if let Some(base) = &self.base {
            return is_taken(base).then(|| fill(base, self.kind, name, token));
        }
        let mut served = self.served_urls(name, token).into_iter();
        served.find(|url| is_taken(url))
    }

    /// The URLs under which servers of this kind serve a stream, best first.
    fn served_urls(&self, name: &str, token: Option<&str>) -> Vec<String> {
        let host = self.host();
        let (m4s, http) = if self.tls {
            ("m4ss", "https")
        } else {
            ("m4s", "http")
        };
        match self.kind {
            MediaServerKind::Flussonic => {
                let authority = &self.authority;
                let path = utf8_percent_encode(name, PATH_KEPT);
                let token = token.map(|token| utf8_percent_encode(token, NON_ALPHANUMERIC));
                let query = token.map_or_else(String::new, |token| format!("?token={token}"));
                vec![
                    format!("{m4s}://{authority}/{path}{query}"),
                    format!("rtsp://{host}/{path}{query}"),
                    format!("{http}://{authority}/{path}/index.m3u8{query}"),
                ]
            }
            MediaServerKind::MediaMtx | MediaServerKind::Go2rtc => {
                vec![fill(&format!("rtsp://{host}:8554"), self.kind, name, token)]
            }
            MediaServerKind::NodeMediaServer | MediaServerKind::Srs => {
                vec![fill(&format!("rtmp://{host}:1935"), self.kind, name, token)]
            }
        }
    }

    /// The host without its port.
    fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }
}

/// Whether a URL is of a media protocol, other than those that Flussonic serves over HTTP.
fn is_media(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let of_http = ["http", "https", "m4s", "m4ss"];
    !of_http
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme))
}

/// The URL of a stream by a template. One without the name of the stream is the base of its URLs.
fn fill(template: &str, kind: MediaServerKind, name: &str, token: Option<&str>) -> String {
    let native = kind.native(name);
    let native = utf8_percent_encode(&native, PATH_KEPT).to_string();
    if !template.contains(NAME) && !template.contains(NATIVE) {
        let base = template.split(['?', '#']).next().unwrap_or_default();
        let base = base.trim_end_matches('/');
        return format!("{base}/{}", native.trim_start_matches('/'));
    }
    let name = utf8_percent_encode(name, PATH_KEPT).to_string();
    let token = utf8_percent_encode(token.unwrap_or_default(), NON_ALPHANUMERIC).to_string();
    // What is put in has no braces.
    let url = template.replace(NAME, &name).replace(NATIVE, &native);
    url.replace(TOKEN, &token)
}

/// A URL without its user and password, which are for calls of this server, not for other nodes.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let at = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[at..])
}

/// The URL of a player by the template in `play_urls` for what follows the name of the stream.
/// `None`: the streamer has templates, but none for that.
pub fn play_url(
    templates: &Object,
    kind: MediaServerKind,
    name: &str,
    suffix: &str,
) -> Option<String> {
    let template = templates.get(suffix).and_then(Value::as_str)?;
    let is_base = !template.contains(NAME) && !template.contains(NATIVE);
    let url = fill(template, kind, name, None);
    Some(if is_base {
        format!("{url}/{suffix}")
    } else {
        url
    })
}

/// Checks the templates of a streamer.
pub fn check_templates(config: &Object, pointer: &str) -> Result<(), ApiError> {
    let pull_urls = config.get("pull_urls").and_then(Value::as_array);
    for (i, template) in pull_urls.unwrap_or_default().iter().enumerate() {
        let template = template.as_str().unwrap_or_default();
        check_template(template, &[NAME, NATIVE, TOKEN], || {
            format!("{pointer}/pull_urls/{i}")
        })?;
    }
    let play_urls = config.get("play_urls").and_then(Value::as_object);
    for (suffix, template) in play_urls.into_iter().flat_map(Object::iter) {
        let template = template.as_str().unwrap_or_default();
        // The token of pulls is not for players.
        check_template(template, &[NAME, NATIVE], || {
            let mut at = format!("{pointer}/play_urls");
            json::push_pointer(&mut at, suffix);
            at
        })?;
    }
    Ok(())
}

fn check_template(
    template: &str,
    placeholders: &[&str],
    pointer: impl Fn() -> String,
) -> Result<(), ApiError> {
    if template.len() > TEMPLATE_BYTES_MAX {
        let allowed = format!("must have at most {TEMPLATE_BYTES_MAX} bytes");
        let error = error::TOO_LONG.about(pointer(), allowed);
        return Err(error.with("maximum", TEMPLATE_BYTES_MAX));
    }
    let mut rest = template.to_owned();
    for placeholder in placeholders {
        rest = rest.replace(placeholder, "");
    }
    if rest.contains(['{', '}']) {
        let allowed = placeholders.join(", ");
        let allowed = format!("must have no braces except those of {allowed}");
        return Err(error::WRONG_FORMAT.about(pointer(), allowed));
    }
    Ok(())
}

/// The address that other nodes pull from, as TLS and `host[:port]`: of `private_payload_url`, else
/// of `api_url`, else the hostname.
pub fn pull_authority(config: &Object, hostname: &Hostname) -> (bool, String) {
    for field in ["private_payload_url", "api_url"] {
        let Some(url) = config.get(field).and_then(Value::as_str) else {
            continue;
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            continue;
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // Credentials in the URL are for calls of this server, not for other nodes.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        if !authority.is_empty() {
            return (matches!(scheme, "https" | "m4ss"), authority.to_owned());
        }
    }
    (false, hostname.as_str().to_owned())
}
