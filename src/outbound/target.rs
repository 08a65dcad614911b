//! Where calls go: URLs that were checked once.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use percent_encoding::percent_decode_str;
use ureq::http::Uri;

use super::policy::never;

/// Longest URL that is called.
pub const URL_BYTES_MAX: usize = 2048;

/// Hosts whose only use is to tell a cloud machine its secrets.
const METADATA_NAMES: [&str; 5] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Where a call goes: an `http` or `https` URL that was checked once.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub(super) uri: Uri,
    /// From the URL's user and password; sent to this target only.
    pub(super) authorization: Option<String>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl Target {
    /// The sentence of the error says what is wrong, never what the URL holds.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > URL_BYTES_MAX {
            return Err("The URL has more than 2048 bytes");
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("A URL has no spaces, control characters or characters beyond ASCII");
        }
        let (scheme, rest) = url
            .split_once("://")
            .ok_or("A URL begins with http:// or https://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err("Only http and https are called");
        }
        if rest.contains('#') {
            return Err("A URL that is called has no fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('\\') || path.starts_with('\\') {
            return Err("The host of the URL is malformed");
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri: Uri = format!("{}://{host}{slash}{path}", scheme.to_ascii_lowercase())
            .parse()
            .map_err(|_| "The URL is malformed")?;
        let parsed = uri.host().unwrap_or_default();
        let name = parsed.trim_end_matches('.').to_ascii_lowercase();
        if name.is_empty() || uri.authority().is_none_or(|a| a.as_str() != host) {
            return Err("The host of the URL is malformed");
        }
        let port = host.rsplit_once(':').map(|(_, port)| port);
        if let Some(port) = port.filter(|port| !port.ends_with(']'))
            && !port.parse::<u16>().is_ok_and(|number| number > 0)
        {
            return Err("The port of the URL is malformed");
        }
        if METADATA_NAMES.contains(&name.as_str()) {
            return Err("This host is never called");
        }
        if let Some(literal) = literal(parsed)
            && let Some(why) = never(literal)
        {
            return Err(why);
        }
        let authorization = user.map(|user| {
            let plain: Vec<u8> = percent_decode_str(user).collect();
            let plain = if plain.contains(&b':') {
                plain
            } else {
                [plain, vec![b':']].concat()
            };
            let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
            format!("Basic {encoded}")
        });
        Ok(Self { uri, authorization })
    }

    /// The same target with more behind its `?`. `pairs` is a query that is already encoded.
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

    /// What turns are taken by: scheme, host and port.
    pub(super) fn peer(&self) -> Box<str> {
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or_default();
        let tls = u8::from(self.uri.scheme_str() == Some("https"));
        format!("{tls} {port} {}", host.to_ascii_lowercase()).into()
    }
}

/// A host that is written as an address.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
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
    fn only_plain_urls_of_http_are_targets() {
        for good in [
            "http://10.0.0.1",
            "https://auth.example.com/a/b?c=d",
            "HTTP://user:pass@auth.example.com:8080/auth",
            "http://[2001:db8::1]:80/",
            "http://x?y",
        ] {
            assert!(Target::parse(good).is_ok(), "{good}");
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
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        let shown = format!("{:?}", Target::parse("http://u:secret@h/p").expect("good"));
        assert_eq!(shown, "http://h/p", "a log shows no password");
    }
}
