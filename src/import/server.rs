//! A client of the API: two requests over plain HTTP, with errors worded for an operator.
//!
//! A busy server (429, 503) is retried after the time that it names. Redirects are not followed,
//! proxies of the environment are not used, and only the given server receives the key.

use std::fmt;
use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

const ANSWER_BYTES_MAX: u64 = 64 << 20;
const ATTEMPTS_MAX: u32 = 6;
const BUSY_WAIT_MAX: Duration = Duration::from_secs(10);

/// Characters that are not escaped in a path segment and in a value of a query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

pub struct ApiClient {
    agent: Agent,
    base: String,
    authorization: String,
}

/// Why a request failed.
#[derive(Debug)]
pub enum ImportError {
    /// 400 for a batch: the refused elements.
    Refused(Vec<BatchRefusal>),
    /// Any other status that is not a success.
    Status {
        status: u16,
        url: String,
        reasons: Vec<BatchRefusal>,
    },
    Transport {
        url: String,
        cause: String,
    },
    /// A response that this API does not send.
    Unexpected(String),
}

/// One entry of `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRefusal {
    /// JSON pointer into the body, `/12/inputs/0/url`; may be empty.
    pub pointer: String,
    title: String,
}

impl BatchRefusal {
    /// The index of the refused element.
    pub fn index(&self) -> Option<usize> {
        self.pointer
            .strip_prefix('/')?
            .split('/')
            .next()?
            .parse()
            .ok()
    }
}

impl fmt::Display for BatchRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.pointer.splitn(3, '/').nth(2).unwrap_or("");
        if place.is_empty() {
            f.write_str(&self.title)
        } else {
            write!(f, "{} (at {place})", self.title)
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |reasons: &[BatchRefusal]| {
            reasons
                .iter()
                .map(BatchRefusal::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        };
        match self {
            Self::Refused(reasons) => {
                write!(f, "the server refuses the request: {}", list(reasons))
            }
            Self::Status {
                status: 401 | 403,
                url,
                ..
            } => {
                write!(
                    f,
                    "{url} refuses the key: set --api-key or CENTRAL_API_KEY to the \
                     administrator's key"
                )
            }
            Self::Status {
                status: 404, url, ..
            } => write!(f, "{url} was not found: is --url the base URL of a server?"),
            Self::Status { status: 413, .. } => {
                f.write_str("the batch is too large for the server: use a smaller --batch")
            }
            Self::Status {
                status,
                url,
                reasons,
            } => write!(f, "{url} answered {status} {}", list(reasons)),
            Self::Transport { url, cause } => write!(f, "{url}: {cause}"),
            Self::Unexpected(what) => write!(
                f,
                "unexpected response ({what}): is --url the base URL of a server?"
            ),
        }
    }
}

impl ApiClient {
    /// `url` may end in one of the prefixes of the API; without one, `/central/api/v3` is added.
    pub fn new(url: &str, key: &str) -> Result<Self, String> {
        let url = url.trim_end_matches('/');
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!(
                "--url must begin with http:// (TLS is not supported): {url:?}"
            ));
        };
        let authority = rest.split('/').next().unwrap_or("");
        if authority.is_empty() || url.contains(['?', '#', ' ']) {
            return Err(format!(
                "--url must have a host and may have a port and a path: {url:?}"
            ));
        }
        if authority.contains('@') {
            return Err(
                "--url must not contain credentials; use --api-key or CENTRAL_API_KEY".to_owned(),
            );
        }
        let prefixed = url.ends_with("/central/api/v3") || url.ends_with("/streamer/api/v3");
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("weir-import/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_mins(2)))
            .build()
            .into();
        Ok(Self {
            agent,
            base: if prefixed {
                url.to_owned()
            } else {
                format!("{url}/central/api/v3")
            },
            authorization: format!("Bearer {key}"),
        })
    }

    pub fn get(&self, path: &str) -> Result<Value, ImportError> {
        let bytes = self.request(path, || {
            self.agent
                .get(format!("{}{path}", self.base))
                .header("authorization", &self.authorization)
                .call()
        })?;
        serde_json::from_slice(&bytes).map_err(|_| ImportError::Unexpected("not JSON".to_owned()))
    }

    /// 400 with reasons is [`ImportError::Refused`].
    pub fn put(&self, path: &str, body: &Value) -> Result<(), ImportError> {
        let body = body.to_string();
        let sent = self.request(path, || {
            self.agent
                .put(format!("{}{path}", self.base))
                .header("authorization", &self.authorization)
                .header("content-type", "application/json")
                .send(body.as_bytes())
        });
        match sent {
            Ok(_) => Ok(()),
            Err(ImportError::Status {
                status: 400,
                reasons,
                ..
            }) if !reasons.is_empty() => Err(ImportError::Refused(reasons)),
            Err(error) => Err(error),
        }
    }

    /// Sends a request, and again while the server is busy. Both requests of this client are
    /// idempotent.
    fn request(
        &self,
        path: &str,
        send: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Vec<u8>, ImportError> {
        // Without the query, which may be a long list of names.
        let url = format!("{}{}", self.base, path.split('?').next().unwrap_or(path));
        let transport = |error: ureq::Error| ImportError::Transport {
            url: url.clone(),
            cause: error.to_string(),
        };
        let mut attempt = 1;
        loop {
            let mut response = send().map_err(transport)?;
            let status = response.status();
            let busy = [
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::TOO_MANY_REQUESTS,
            ]
            .contains(&status);
            if busy && attempt < ATTEMPTS_MAX {
                attempt += 1;
                thread::sleep(retry_after(&response));
                continue;
            }
            let bytes = response
                .body_mut()
                .with_config()
                .limit(ANSWER_BYTES_MAX)
                .read_to_vec()
                .map_err(transport)?;
            if status.is_success() {
                return Ok(bytes);
            }
            return Err(ImportError::Status {
                status: status.as_u16(),
                url,
                reasons: reasons(&bytes),
            });
        }
    }
}

fn retry_after(response: &Response<Body>) -> Duration {
    let named = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(named.unwrap_or(1)).min(BUSY_WAIT_MAX)
}

fn reasons(body: &[u8]) -> Vec<BatchRefusal> {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |error: &Value, path: &str| {
        error
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let errors = body
        .get("errors")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    errors
        .iter()
        .map(|error| {
            let title = text(error, "/title");
            BatchRefusal {
                pointer: text(error, "/source/pointer"),
                title: if title.is_empty() {
                    text(error, "/code")
                } else {
                    title
                },
            }
        })
        .collect()
}
