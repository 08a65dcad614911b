//! Target URLs of outbound calls, parsed and checked once.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use super::policy::never_called;

/// Longest URL that is called, bytes.
const URL_BYTES_MAX: usize = 2048;

/// Hostnames that serve nothing but a cloud machine's metadata, secrets included.
const METADATA_NAMES: [&str; 5] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

/// A checked `http` or `https` URL that may be called, with its credentials set apart.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetUrl {
    pub(super) uri: Uri,
    /// Built from the user and password of the URL; sent to this target only.
    pub(super) authorization: Option<String>,
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl TargetUrl {
    /// Parses and checks a URL. The error is what it must be, and does not repeat it.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > URL_BYTES_MAX {
            return Err("must have at most 2048 bytes");
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must not contain spaces, control or non-ASCII characters");
        }
        let (scheme, rest) = url
            .split_once("://")
            .ok_or("must be a URL that begins with http:// or https://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err("must be a URL that begins with http:// or https://");
        }
        if rest.contains('#') {
            return Err("must not have a fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('\\') || path.starts_with('\\') {
            return Err("must have a valid host");
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri: Uri = format!("{}://{host}{slash}{path}", scheme.to_ascii_lowercase())
            .parse()
            .map_err(|_| "Invalid URL")?;
        check_host(&uri, host)?;
        let authorization = user.map(basic_authorization);
        Ok(Self { uri, authorization })
    }

    /// Returns this target with `pairs`, an encoded query, appended to its query.
    #[must_use]
    pub fn with_query(&self, pairs: &str) -> Self {
        let glue = match self.uri.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        let uri = format!("{}{glue}{pairs}", self.uri)
            .parse()
            .unwrap_or_else(|_| self.uri.clone());
        Self {
            uri,
            authorization: self.authorization.clone(),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host; IPv6 addresses are in brackets.
    pub(super) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        let default = if self.is_tls() { 443 } else { 80 };
        self.uri.port_u16().unwrap_or(default)
    }

    /// Host and port as the URL has them.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |it| it.as_str())
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", |it| it.as_str())
    }

    /// The `Authorization` value made of the user and password of the URL.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// The peer that fair queueing is done by: scheme, host and port.
    pub(super) fn peer(&self) -> Box<str> {
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or_default();
        let tls = u8::from(self.uri.scheme_str() == Some("https"));
        format!("{tls} {port} {}", host.to_ascii_lowercase()).into()
    }
}

/// Checks the host and port of a parsed URL, written as `host` in its text.
fn check_host(uri: &Uri, host: &str) -> Result<(), &'static str> {
    let parsed = uri.host().unwrap_or_default();
    let name = parsed.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || uri.authority().is_none_or(|a| a.as_str() != host) {
        return Err("must have a valid host");
    }
    let port = host.rsplit_once(':').map(|(_, port)| port);
    if let Some(port) = port.filter(|port| !port.ends_with(']'))
        && !port.parse::<u16>().is_ok_and(|number| number > 0)
    {
        return Err("must have a valid port");
    }
    if METADATA_NAMES.contains(&name.as_str()) {
        return Err("has an address that is never called");
    }
    match literal_address(parsed) {
        Some(address) if never_called(address) => Err("has an address that is never called"),
        _ => Ok(()),
    }
}

/// The `Authorization` value for the user (and password) of a URL.
fn basic_authorization(user: &str) -> String {
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    if !plain.contains(&b':') {
        plain.push(b':');
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
    format!("Basic {encoded}")
}

/// The address of a host that is written as an address.
pub(super) fn literal_address(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_accepted() {
        for good in [
            "http://10.0.0.1",
            "https://auth.example.com/a/b?c=d",
            "HTTP://user:pass@auth.example.com:8080/auth",
            "http://[2001:db8::1]:80/",
            "http://x?y",
        ] {
            assert!(TargetUrl::parse(good).is_ok(), "{good}");
        }
        let long = format!("http://x/{}", "a".repeat(URL_BYTES_MAX));
        for bad in [
            "",
            "/relative",
            "auth.example.com",
            "file:///etc/passwd",
            "gopher://x/",
            "ftp://x/",
            "auth://other",
            "http://",
            "http:///path",
            "http://?x",
            "http://a b/",
            "http://a/\r\nHost: b",
            "http://a/\0",
            "http://b\u{fc}cher.example/",
            "http://a/#fragment",
            "http://a:x/",
            "http://a:99999/",
            "http://a:0/",
            "http://a:/",
            "http://a\\@b/",
            "http://metadata.google.internal/computeMetadata/v1/",
            "http://METADATA.google.internal./",
            "http://169.254.169.254/latest/",
            "http://[::ffff:169.254.169.254]/",
            "http://0.0.0.0/",
            "http://user@169.254.169.254/",
            &long,
        ] {
            assert!(TargetUrl::parse(bad).is_err(), "{bad}");
        }
        let shown = format!(
            "{:?}",
            TargetUrl::parse("http://u:secret@h/p").expect("good")
        );
        assert_eq!(shown, "http://h/p", "no password in logs");
    }
}
