//! Sessions of browsers that use the web interface: a cookie stands for a credential.
//!
//! The cookie is random; its digest, and the digest of the credential, are kept in memory until the
//! session ends: after 12 hours, by logging out, with the credential, or with the process. One ends
//! with its credential before the change of that is acknowledged. A cookie
//! counts only together with the header `X-Weir-UI: 1`, which pages of other origins cannot send,
//! and not for requests that a page of another site makes. What it permits is decided for every
//! request by the credential itself. Memory is bounded: above the limit the oldest session ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::digests::digest;
use super::guesses::{FailedCredentials, FailureLimit};
use crate::error::{self, ApiError};
use crate::http::Headers;
use crate::limits::BROWSER_SESSIONS_MAX;

/// Sent by pages for people with every request.
pub const PAGE_HEADER: &str = "X-Weir-UI";
const COOKIE: &str = "weir_session";
/// How long a session lasts.
pub const SESSION_TIME: Duration = Duration::from_hours(12);
/// How long the refusal of a wrong credential takes, whatever was wrong.
pub const REFUSAL_DELAY: Duration = Duration::from_millis(300);
/// Wrong credentials of one address in a minute; further attempts are 429.
const FAILED_LOGINS: FailureLimit = FailureLimit {
    failures_max: 10,
    window: Duration::from_mins(1),
};

/// The digest of the credential that a session stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionCredential {
    ApiKey([u8; 32]),
    /// Of `login:password`.
    Login([u8; 32]),
    /// Of the key of an API token.
    Token([u8; 32]),
}

/// A session of a browser.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrowserSession {
    pub credential: SessionCredential,
    expires: Instant,
    /// Milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// All sessions of browsers, and recent attempts to open one with wrong credentials.
pub struct BrowserSessions {
    by_cookie: Mutex<HashMap<[u8; 32], BrowserSession>>,
    failed: Mutex<FailedCredentials>,
}

impl Default for BrowserSessions {
    fn default() -> Self {
        Self {
            by_cookie: Mutex::default(),
            failed: Mutex::new(FailedCredentials::new(FAILED_LOGINS)),
        }
    }
}

impl BrowserSessions {
    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], BrowserSession>> {
        self.by_cookie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session. Returns the value of its cookie.
    pub fn open(
        &self,
        credential: SessionCredential,
        now: Instant,
        now_ms: u64,
    ) -> Result<(String, BrowserSession), ApiError> {
        let mut value = [0; 32];
        getrandom::fill(&mut value).map_err(|_| error::NO_RANDOMNESS.error())?;
        let value = URL_SAFE_NO_PAD.encode(value);
        let session = BrowserSession {
            credential,
            expires: now + SESSION_TIME,
            expires_at_ms: now_ms + SESSION_TIME.as_millis() as u64,
        };
        let mut table = self.table();
        if table.len() >= BROWSER_SESSIONS_MAX {
            table.retain(|_, session| session.expires > now);
        }
        if table.len() >= BROWSER_SESSIONS_MAX {
            let oldest = table.iter().min_by_key(|(_, session)| session.expires);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                table.remove(&key);
            }
        }
        table.insert(digest(value.as_bytes()), session);
        Ok((value, session))
    }

    /// The session of a cookie.
    pub fn find(&self, cookie: &[u8], now: Instant) -> Option<BrowserSession> {
        let session = *self.table().get(&digest(cookie))?;
        (session.expires > now).then_some(session)
    }

    /// Ends the session of a cookie.
    pub fn close(&self, cookie: &[u8]) {
        self.table().remove(&digest(cookie));
    }

    /// Ends the sessions whose credential is not valid any more: none returns with it.
    pub fn retain(&self, is_valid: impl Fn(&SessionCredential) -> bool) {
        self.table()
            .retain(|_, session| is_valid(&session.credential));
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    /// Seconds until an address that sent too many wrong credentials may try again.
    pub fn blocked_seconds(&self, client: IpAddr, now: Instant) -> Option<u32> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = failed.blocked_for(client, now)?;
        Some(u32::try_from(rest.as_secs() + 1).unwrap_or(u32::MAX))
    }

    pub fn count_failure(&self, client: IpAddr, now: Instant) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.add(client, now);
    }
}

/// Whether the request was made by a page for people.
pub fn is_of_page(headers: &Headers<'_>) -> bool {
    headers.get(PAGE_HEADER).is_some()
}

/// Whether no page of another site made the request.
pub fn is_same_site(headers: &Headers<'_>) -> bool {
    let mut sites = headers.all("sec-fetch-site");
    sites.all(|site| [&b"same-origin"[..], b"none"].contains(&site.trim_ascii()))
}

/// The cookie of a session, if it counts for the request. `Authorization` beats it.
pub fn cookie_of<'a>(headers: &Headers<'a>) -> Option<&'a [u8]> {
    if headers.authorization().is_some()
        || headers.get(PAGE_HEADER)?.trim_ascii() != b"1"
        || !is_same_site(headers)
    {
        return None;
    }
    let cookies = headers.all("cookie");
    let mut cookies = cookies.flat_map(|value| value.split(|byte| *byte == b';'));
    cookies.find_map(|cookie| {
        let value = cookie.trim_ascii().strip_prefix(COOKIE.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

/// The field that gives a browser the cookie of a session; an empty value takes it away.
pub fn set_cookie(value: &str, headers: &Headers<'_>) -> String {
    let seconds = if value.is_empty() {
        0
    } else {
        SESSION_TIME.as_secs()
    };
    let over_tls = headers.get("x-forwarded-proto");
    let over_tls = over_tls.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"));
    let secure = if over_tls { "; Secure" } else { "" };
    format!("{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionCredential = SessionCredential::ApiKey([7; 32]);

    #[test]
    fn session_ends_after_its_time_and_when_it_is_closed() {
        let sessions = BrowserSessions::default();
        let now = Instant::now();
        let (cookie, opened) = sessions.open(KEY, now, 1_000).expect("randomness");
        assert_eq!(cookie.len(), 43);
        assert_eq!(opened.expires_at_ms, 1_000 + 43_200_000);
        let last = now + Duration::from_secs(12 * 3600 - 1);
        assert_eq!(sessions.find(cookie.as_bytes(), last), Some(opened));
        assert_eq!(sessions.find(cookie.as_bytes(), now + SESSION_TIME), None);
        assert_eq!(sessions.find(b"another", now), None);
        sessions.close(cookie.as_bytes());
        assert_eq!(sessions.find(cookie.as_bytes(), now), None);
    }

    #[test]
    fn number_of_sessions_is_bounded_and_the_oldest_ends() {
        let sessions = BrowserSessions::default();
        let start = Instant::now();
        let mut cookies = Vec::new();
        for number in 0..=BROWSER_SESSIONS_MAX as u64 {
            let now = start + Duration::from_millis(number);
            cookies.push(sessions.open(KEY, now, 0).expect("randomness").0);
        }
        assert_eq!(sessions.table().len(), BROWSER_SESSIONS_MAX);
        let found = |cookie: &String| sessions.find(cookie.as_bytes(), start).is_some();
        assert!(!found(&cookies[0]));
        assert!(cookies[1..].iter().all(found));
    }

    #[test]
    fn address_is_blocked_until_its_minute_is_over() {
        let sessions = BrowserSessions::default();
        let now = Instant::now();
        let [a, b] = ["198.51.100.1", "198.51.100.2"].map(|text| text.parse().expect("one"));
        for _ in 0..10 {
            assert_eq!(sessions.blocked_seconds(a, now), None);
            sessions.count_failure(a, now);
        }
        assert_eq!(sessions.blocked_seconds(a, now), Some(61));
        assert_eq!(sessions.blocked_seconds(b, now), None);
        let later = now + Duration::from_mins(1);
        assert_eq!(sessions.blocked_seconds(a, later), None);
    }
}
