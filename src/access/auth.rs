//! Authorization of requests: one function, called in one place.
//!
//! Four credentials exist: the API key (`Bearer`), the operator's login (`Basic`), API tokens
//! (`Bearer`), limited to their permissions, and the cluster key of a streamer (`Cluster`), limited
//! to the configuration of its own hostname. The session of a browser stands for one of the first
//! three. Secrets are kept and compared as digests of equal
//! length in constant time. All wrong credentials get the same response: an unknown login cannot be
//! distinguished from a wrong password.

use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use sha1::{Digest as _, Sha1};
use subtle::ConstantTimeEq as _;

use super::browser_sessions::SessionCredential;
use super::digests::{digest, same};
use super::rights::{Action, Grant, Listable};
use super::token::{Demand, Token, Tokens};
use crate::error::{self, ApiError};
use crate::state::State;
use crate::state::entity::Kind;
use crate::state::record::{EntityRecord, StreamerRecord};

/// Largest difference between the clocks of a streamer and of this server, seconds.
pub const CLUSTER_SKEW_SECONDS_MAX: u64 = 300;

/// Longest `Authorization` value that is read, bytes.
const AUTHORIZATION_BYTES_MAX: usize = 8 * 1024;

const REQUIRED: &str = "Header `Authorization` is required";

/// Which credentials an operation accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// None are required: probes, redirects.
    Public,
    /// An administrator.
    Admin,
    /// An administrator, or the streamer in the path.
    Config,
}

/// Which permission an operation requires of an API token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenNeed {
    /// None: unknown paths, which are 404 for every valid token.
    Any,
    /// A right to an action on a collection.
    Right(Demand),
    /// A right to an action on some part of a collection; the operation leaves out the rest.
    Part(Demand),
    /// The right to list a whole collection.
    WholeList(&'static str),
    /// Not for tokens.
    Never,
}

/// What a request requires of its caller.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    pub access: Access,
    pub token: TokenNeed,
    /// The key in the path.
    pub key: Option<&'a str>,
    /// The streamer in the path.
    pub hostname: Option<&'a str>,
}

/// The sender of a request, after authorization.
#[derive(Clone, PartialEq, Debug)]
pub enum Caller {
    Anonymous,
    Administrator,
    /// The streamer in the path, with the record of the cluster key that it used.
    Streamer(StreamerRecord),
    Token(Arc<Token>),
}

impl Caller {
    /// Whether the caller sees the secrets of an entity that it reads.
    pub fn sees_secrets(&self) -> bool {
        matches!(self, Self::Administrator)
    }

    /// What its commands are applied with; `None` for callers without restriction.
    pub fn grant(&self) -> Option<Box<Grant>> {
        match self {
            Self::Token(token) => Some(Box::new(token.grant())),
            _ => None,
        }
    }

    /// The name under which the caller is recorded.
    pub fn name(&self) -> Box<str> {
        match self {
            Self::Anonymous => "".into(),
            Self::Administrator => "administrator".into(),
            Self::Streamer(_) => "streamer".into(),
            Self::Token(token) => format!("api_token:{}", token.name).into(),
        }
    }
}

/// Digests of the configured credentials, replaced as a whole when they change.
pub struct Auth {
    keys: ArcSwap<Keys>,
}

struct Keys {
    api_key: [u8; 32],
    /// Digest of `login:password`.
    edit_auth: Option<[u8; 32]>,
}

impl Keys {
    fn new(api_key: &str, edit_auth: Option<(&str, &str)>) -> Self {
        Self {
            api_key: digest(api_key.as_bytes()),
            edit_auth: edit_auth
                .map(|(login, password)| digest(format!("{login}:{password}").as_bytes())),
        }
    }
}

impl Auth {
    /// Credentials of the administrator. `edit_auth`: login and password, if configured.
    pub fn new(api_key: &str, edit_auth: Option<(&str, &str)>) -> Self {
        Self {
            keys: ArcSwap::from_pointee(Keys::new(api_key, edit_auth)),
        }
    }

    /// Replaces the credentials of the administrator; the previous ones are no longer valid.
    pub fn rotate(&self, api_key: &str, edit_auth: Option<(&str, &str)>) {
        self.keys.store(Arc::new(Keys::new(api_key, edit_auth)));
    }

    /// The name under which the caller is recorded, by its `Authorization` scheme or the credential
    /// of its session.
    pub fn user(
        caller: &Caller,
        authorization: Option<&[u8]>,
        session: Option<SessionCredential>,
    ) -> Box<str> {
        let scheme = authorization
            .and_then(|header| header.split(|&byte| byte == b' ').next())
            .unwrap_or_default();
        match caller {
            Caller::Administrator
                if scheme.eq_ignore_ascii_case(b"basic")
                    || matches!(session, Some(SessionCredential::Login(_))) =>
            {
                "edit_auth".into()
            }
            Caller::Administrator => "api_key".into(),
            other => other.name(),
        }
    }

    /// Authorizes a request.
    ///
    /// `tokens`: those that the core has compiled. `now_seconds` (UTC) is called only to check a
    /// signature.
    pub fn authorize(
        &self,
        needs: Needs<'_>,
        authorization: Option<&[u8]>,
        tokens: &mut Tokens,
        state: &State,
        now_seconds: fn() -> u64,
    ) -> Result<Caller, ApiError> {
        let Needs {
            access, hostname, ..
        } = needs;
        if access == Access::Public {
            return Ok(Caller::Anonymous);
        }
        let header = authorization.ok_or_else(|| error::UNAUTHORIZED.titled(REQUIRED))?;
        if header.len() > AUTHORIZATION_BYTES_MAX {
            return Err(refused());
        }
        let (scheme, value) = match header.iter().position(|&byte| byte == b' ') {
            Some(space) => (&header[..space], header[space + 1..].trim_ascii()),
            None => return Err(refused()),
        };
        if scheme.eq_ignore_ascii_case(b"bearer") {
            let given = tokens.digests.of(value);
            if same(&given, &self.keys.load().api_key) {
                tokens.digests.remember(value, &given);
                return Ok(Caller::Administrator);
            }
            let token = tokens.find_exactly(state, &given).ok_or_else(refused)?;
            tokens.digests.remember(value, &given);
            check_token(&token, needs)?;
            return Ok(Caller::Token(token));
        }
        if scheme.eq_ignore_ascii_case(b"basic") {
            let login = base64::engine::general_purpose::STANDARD
                .decode(value)
                .map_err(|_| refused())?;
            return if self.is_login(&digest(&login)) {
                Ok(Caller::Administrator)
            } else {
                Err(refused())
            };
        }
        if scheme.eq_ignore_ascii_case(b"cluster") {
            if access != Access::Config {
                return Err(error::FORBIDDEN
                    .titled("A cluster key is valid only for the configuration of its streamer"));
            }
            let signed_for = hostname.and_then(|hostname| state.streamer(hostname));
            let key = signed_for.map_or("", |streamer| streamer.cluster_key.as_str());
            if cluster_signature_is_valid(value, key, now_seconds())
                && let Some(streamer) = signed_for
                && !key.is_empty()
            {
                return Ok(Caller::Streamer(streamer.clone()));
            }
            return Err(error::WRONG_CLUSTER_KEY.error());
        }
        Err(refused())
    }
}

impl Auth {
    /// Whether this is the digest of the configured login and password.
    fn is_login(&self, given: &[u8; 32]) -> bool {
        // Compared even without a configured login, so that timing reveals nothing.
        let edit_auth = self.keys.load().edit_auth;
        same(given, &edit_auth.unwrap_or_default()) & edit_auth.is_some()
    }

    /// Authorizes a request with the credential of a browser's session, which is valid as long as
    /// the credential is. It never opens the configuration of a streamer.
    pub fn authorize_session(
        &self,
        needs: Needs<'_>,
        credential: SessionCredential,
        tokens: &mut Tokens,
        state: &State,
    ) -> Result<Caller, ApiError> {
        match needs.access {
            Access::Public => return Ok(Caller::Anonymous),
            Access::Config => return Err(error::UNAUTHORIZED.titled(REQUIRED)),
            Access::Admin => {}
        }
        let is_valid = match credential {
            SessionCredential::ApiKey(given) => same(&given, &self.keys.load().api_key),
            SessionCredential::Login(given) => self.is_login(&given),
            SessionCredential::Token(given) => {
                let token = tokens.find_exactly(state, &given);
                let token = token.ok_or_else(lost_credentials)?;
                check_token(&token, needs)?;
                return Ok(Caller::Token(token));
            }
        };
        is_valid
            .then_some(Caller::Administrator)
            .ok_or_else(lost_credentials)
    }

    /// Whether a credential of an administrator is valid; tokens are not looked at.
    pub fn is_current(&self, credential: &SessionCredential) -> bool {
        match credential {
            SessionCredential::ApiKey(given) => same(given, &self.keys.load().api_key),
            SessionCredential::Login(given) => self.is_login(given),
            SessionCredential::Token(_) => true,
        }
    }

    /// Whether a credential is valid in a state.
    pub fn is_valid(&self, credential: &SessionCredential, state: &State) -> bool {
        match credential {
            SessionCredential::Token(given) => record_of(given, state).is_some(),
            _ => self.is_current(credential),
        }
    }

    /// The caller whose API key or token this is, and its credential.
    pub fn key_of(&self, key: &str, state: &State) -> Option<(Caller, SessionCredential)> {
        let given = digest(key.as_bytes());
        if same(&given, &self.keys.load().api_key) {
            return Some((Caller::Administrator, SessionCredential::ApiKey(given)));
        }
        let token = Token::of(record_of(&given, state)?)?;
        let credential = SessionCredential::Token(given);
        Some((Caller::Token(Arc::new(token)), credential))
    }

    /// The administrator, if this is the configured login.
    pub fn login_of(&self, login: &str, password: &str) -> Option<(Caller, SessionCredential)> {
        let given = digest(format!("{login}:{password}").as_bytes());
        let is_known = self.is_login(&given);
        is_known.then_some((Caller::Administrator, SessionCredential::Login(given)))
    }
}

/// The token whose key has this digest.
fn record_of<'s>(given: &[u8; 32], state: &'s State) -> Option<&'s EntityRecord> {
    let mut records = state.entities(Kind::ApiToken).by_key().values();
    records.find(|record| {
        let digest = record.token_digest();
        digest.is_some_and(|digest| same(digest, given))
    })
}

/// Checks that a token has the required permission.
pub fn check_token(token: &Token, needs: Needs<'_>) -> Result<(), ApiError> {
    let rights = &token.rights;
    let is_allowed = match needs.token {
        TokenNeed::Any => true,
        TokenNeed::Never => false,
        TokenNeed::WholeList(collection) => rights.listable(collection) == Listable::Everything,
        TokenNeed::Part(Demand { collection, action }) => {
            rights.part(action, collection) != Listable::Nothing
        }
        TokenNeed::Right(Demand {
            collection,
            action: Action::List,
        }) => rights.listable(collection) != Listable::Nothing,
        TokenNeed::Right(Demand { collection, action }) => {
            rights.may(action, collection, needs.key)
        }
    };
    if is_allowed {
        return Ok(());
    }
    Err(match needs.token {
        TokenNeed::Right(Demand { collection, action })
        | TokenNeed::Part(Demand { collection, action }) => {
            lacks_permission(action, collection, needs.key)
        }
        TokenNeed::WholeList(collection) => lacks_permission(Action::List, collection, None),
        TokenNeed::Any | TokenNeed::Never => error::FORBIDDEN.error(),
    })
}

/// The error for a token that may not do something with a key, or with a whole collection.
pub fn lacks_permission(action: Action, collection: &str, key: Option<&str>) -> ApiError {
    let on = match key {
        Some(key) => format!("{collection}/{key}"),
        None => collection.to_owned(),
    };
    error::FORBIDDEN
        .error()
        .with("needs", action.as_str())
        .with("on", on)
}

/// The error for credentials that were valid when the request arrived.
pub fn lost_credentials() -> ApiError {
    error::UNAUTHORIZED.titled("The credentials are no longer valid")
}

fn refused() -> ApiError {
    error::UNAUTHORIZED.error()
}

/// Checks `<unix seconds>:<hex of sha1("<unix seconds>:<key>")>`, its time within the allowed skew.
fn cluster_signature_is_valid(value: &[u8], key: &str, now_seconds: u64) -> bool {
    let Some(colon) = value.iter().position(|&byte| byte == b':') else {
        return false;
    };
    let (time, signature) = (&value[..colon], &value[colon + 1..]);
    if time.is_empty() || time.len() > 12 || !time.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let seconds = time
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let expected = cluster_signature(key, time);
    let equal: bool = expected
        .as_slice()
        .ct_eq(&signature.to_ascii_lowercase())
        .into();
    equal & (seconds.abs_diff(now_seconds) <= CLUSTER_SKEW_SECONDS_MAX)
}

fn cluster_signature(key: &str, time_as_sent: &[u8]) -> Vec<u8> {
    let mut hash = Sha1::new();
    hash.update(time_as_sent);
    hash.update(b":");
    hash.update(key.as_bytes());
    let mut hex = Vec::with_capacity(40);
    for byte in hash.finalize() {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        hex.push(HEX[usize::from(byte >> 4)]);
        hex.push(HEX[usize::from(byte & 15)]);
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: Needs<'_> = Needs {
        access: Access::Admin,
        token: TokenNeed::Never,
        key: None,
        hostname: None,
    };

    #[test]
    fn cluster_signature_expires_after_the_allowed_skew() {
        let signed = b"1700000000:28665cd1597a4cdd90d896012fef330bf5357bbe";
        assert!(cluster_signature_is_valid(
            signed,
            "xS6i6Q3DCc5nEvnu",
            1_700_000_300
        ));
        assert!(
            !cluster_signature_is_valid(signed, "xS6i6Q3DCc5nEvnu", 1_700_000_301),
            "too old"
        );
        assert!(
            !cluster_signature_is_valid(signed, "xS6i6Q3DCc5nEvnv", 1_700_000_000),
            "another key"
        );
        assert!(!cluster_signature_is_valid(
            b"1700000001:28665cd1597a4cdd90d896012fef330bf5357bbe",
            "xS6i6Q3DCc5nEvnu",
            1_700_000_000
        ));
        for junk in [
            "",
            ":",
            "x:y",
            "99999999999999999999:28665cd1597a4cdd90d896012fef330bf5357bbe",
            "1700000000",
        ] {
            assert!(
                !cluster_signature_is_valid(junk.as_bytes(), "xS6i6Q3DCc5nEvnu", 1_700_000_000),
                "{junk}"
            );
        }
    }

    #[test]
    fn digests_that_differ_in_any_bit_are_not_the_same() {
        let digest = digest(b"key");
        assert!(same(&digest, &{ digest }));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!same(&digest, &other), "bit {bit}");
        }
    }

    #[test]
    fn remembered_key_is_refused_when_it_is_replaced() {
        let auth = Auth::new("k1", None);
        let state = State::new(1, crate::state::node::RenderSettings::default());
        let mut tokens = Tokens::default();
        let mut statuses = || {
            [&b"Bearer k1"[..], b"Bearer k2"].map(|header| {
                let caller = auth.authorize(ADMIN, Some(header), &mut tokens, &state, || 0);
                caller.map_err(|error| error.status)
            })
        };
        for _ in 0..3 {
            assert_eq!(statuses(), [Ok(Caller::Administrator), Err(401)]);
        }
        auth.rotate("k2", None);
        for _ in 0..3 {
            assert_eq!(statuses(), [Err(401), Ok(Caller::Administrator)]);
        }
        auth.rotate("k1", None);
        assert_eq!(statuses(), [Ok(Caller::Administrator), Err(401)]);
    }

    #[test]
    fn only_the_configured_key_and_login_are_accepted() {
        let auth = Auth::new("k1", Some(("admin", "pa:ss")));
        let state = State::new(1, crate::state::node::RenderSettings::default());
        let authorize = |header: Option<&str>| {
            auth.authorize(
                ADMIN,
                header.map(str::as_bytes),
                &mut Tokens::default(),
                &state,
                || 0,
            )
            .map_err(|e| e.status)
        };
        assert_eq!(authorize(Some("Bearer k1")), Ok(Caller::Administrator));
        assert_eq!(authorize(Some("bearer  k1")), Ok(Caller::Administrator));
        assert_eq!(
            authorize(Some("Basic YWRtaW46cGE6c3M=")),
            Ok(Caller::Administrator)
        );
        for bad in [
            None,
            Some(""),
            Some("k1"),
            Some("Bearer"),
            Some("Bearer k2"),
            Some("Bearer "),
            Some("Basic !!"),
            Some("Basic YWRtaW46eA=="),
            Some("Digest k1"),
        ] {
            assert_eq!(authorize(bad), Err(401), "{bad:?}");
        }
        assert_eq!(authorize(Some("Cluster 1:2")), Err(403));
        let closed = Auth::new("k1", None);
        assert_eq!(
            closed
                .authorize(
                    ADMIN,
                    Some(b"Basic Og=="),
                    &mut Tokens::default(),
                    &state,
                    || 0
                )
                .map_err(|e| e.status),
            Err(401)
        );
    }
}
