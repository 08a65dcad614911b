//! A client of the API, for subcommands: requests over plain HTTP, with errors worded for an
//! operator.
//!
//! A busy server (429, 503) is retried after the time that it names. Redirects are not followed,
//! proxies of the environment are not used, and only the given server receives the key.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body};

use crate::authorities;
use crate::config::{self, Settings};
use crate::exit::{Exit, Failure};

const ANSWER_BYTES_MAX: u64 = 64 << 20;
const ATTEMPTS_MAX: u32 = 6;
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(2);
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
    /// Longest time for one answer.
    wait: Duration,
}

/// Why a request failed.
#[derive(Debug)]
pub enum ClientError {
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
    pub title: String,
    /// Stable name of the error, `layouter_off`; may be empty.
    pub code: String,
}

/// A successful answer.
pub struct ApiAnswer {
    /// The entity tag, of answers about one entity.
    pub etag: Option<String>,
    /// `Null` for an answer without a body.
    pub body: Value,
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

impl fmt::Display for ClientError {
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
        Self::with_wait(url, key, ANSWER_WAIT_MAX)
    }

    /// Like `new`, with the longest time for one answer. Of a download it is the longest time
    /// without a byte.
    pub fn with_wait(url: &str, key: &str, wait: Duration) -> Result<Self, String> {
        let url = url.trim_end_matches('/');
        let rest = url.strip_prefix("http://").or(url.strip_prefix("https://"));
        let Some(rest) = rest else {
            return Err(format!(
                "--url must begin with http:// or https://: {url:?}"
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
        if url.starts_with("https:") {
            authorities::check()?;
        }
        let prefixed = url.ends_with("/central/api/v3") || url.ends_with("/streamer/api/v3");
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .tls_config(authorities::client_config(url))
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(wait))
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
            wait,
        })
    }

    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        let bytes = self.request(path, || {
            self.agent
                .get(format!("{}{path}", self.base))
                .header("authorization", &self.authorization)
                .call()
        })?;
        serde_json::from_slice(&bytes).map_err(|_| ClientError::Unexpected("not JSON".to_owned()))
    }

    /// 400 with reasons is [`ClientError::Refused`].
    pub fn put(&self, path: &str, body: &Value) -> Result<(), ClientError> {
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
            Err(ClientError::Status {
                status: 400,
                reasons,
                ..
            }) if !reasons.is_empty() => Err(ClientError::Refused(reasons)),
            Err(error) => Err(error),
        }
    }

    /// Any request, with at most `wait` for its answer. A poll is a request that waits.
    pub fn call(
        &self,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: Option<&Value>,
        wait: Option<Duration>,
    ) -> Result<ApiAnswer, ClientError> {
        let url = self.shown(path);
        let transport = |cause: String| ClientError::Transport {
            url: url.clone(),
            cause,
        };
        let body = body.map_or_else(String::new, Value::to_string);
        let response = self.respond(path, || {
            let mut request = Request::builder()
                .method(&method)
                .uri(format!("{}{path}", self.base))
                .header("authorization", &self.authorization);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if !body.is_empty() {
                request = request.header("content-type", "application/json");
            }
            let request = request.body(body.as_bytes().to_vec())?;
            let request = self.agent.configure_request(request);
            let request = request.timeout_global(wait.or(Some(ANSWER_WAIT_MAX)));
            self.agent.run(request.build())
        })?;
        let etag = response.headers().get("etag");
        let etag = etag.and_then(|value| value.to_str().ok().map(str::to_owned));
        let bytes = read_whole(response).map_err(|error| transport(error.to_string()))?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .map_err(|_| ClientError::Unexpected("not JSON".to_owned()))?
        };
        Ok(ApiAnswer { etag, body })
    }

    /// A `POST` whose answer is JSON in lines; each is passed on as it arrives. Returns the last
    /// one: if the connection ends early, it is not what the server would have sent last.
    pub fn post_lines(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
        mut each: impl FnMut(&Value),
    ) -> Result<Value, ClientError> {
        let body = body.to_string();
        let response = self.respond(path, || {
            let mut request = self
                .agent
                .post(format!("{}{path}", self.base))
                .header("authorization", &self.authorization)
                .header("content-type", "application/json");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request
                .config()
                .timeout_global(None)
                .timeout_recv_response(Some(ANSWER_WAIT_MAX))
                .timeout_per_read(Some(ANSWER_WAIT_MAX))
                .build()
                .send(body.as_bytes())
        })?;
        let reader = response.into_body().into_reader().take(ANSWER_BYTES_MAX);
        let mut last = None;
        for line in BufReader::new(reader).lines() {
            let line = match line {
                Ok(line) => line,
                Err(_) if last.is_some() => break,
                Err(error) => {
                    return Err(ClientError::Transport {
                        url: self.shown(path),
                        cause: error.to_string(),
                    });
                }
            };
            let value: Value = serde_json::from_str(&line)
                .map_err(|_| ClientError::Unexpected("not JSON in lines".to_owned()))?;
            each(&value);
            last = Some(value);
        }
        last.ok_or_else(|| ClientError::Unexpected("no line".to_owned()))
    }

    /// The body of an answer of any length, as it arrives. A server that sends nothing for
    /// longer than an answer may take is an error.
    pub fn download(&self, path: &str) -> Result<impl Read + use<>, ClientError> {
        let response = self.respond(path, || {
            self.agent
                .get(format!("{}{path}", self.base))
                .header("authorization", &self.authorization)
                .config()
                .timeout_global(None)
                .timeout_recv_response(Some(self.wait))
                .timeout_per_read(Some(self.wait))
                .build()
                .call()
        })?;
        Ok(response.into_body().into_reader())
    }

    /// Sends a request, and reads the whole answer.
    fn request(
        &self,
        path: &str,
        send: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Vec<u8>, ClientError> {
        read_whole(self.respond(path, send)?).map_err(|error| ClientError::Transport {
            url: self.shown(path),
            cause: error.to_string(),
        })
    }

    /// Without the query, which may be a long list of names.
    fn shown(&self, path: &str) -> String {
        format!("{}{}", self.base, path.split('?').next().unwrap_or(path))
    }

    /// Sends a request, and again while the server is busy. All requests of this client are
    /// idempotent.
    fn respond(
        &self,
        path: &str,
        send: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, ClientError> {
        let url = self.shown(path);
        let transport = |error: ureq::Error| ClientError::Transport {
            url: url.clone(),
            cause: error.to_string(),
        };
        let mut attempt = 1;
        loop {
            let response = send().map_err(transport)?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
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
            let bytes = read_whole(response).map_err(transport)?;
            return Err(ClientError::Status {
                status: status.as_u16(),
                url,
                reasons: reasons(&bytes),
            });
        }
    }
}

fn read_whole(response: Response<Body>) -> Result<Vec<u8>, ureq::Error> {
    let body = response.into_body().into_with_config();
    body.limit(ANSWER_BYTES_MAX).read_to_vec()
}

/// The URL of the server: `--url`, else the setting `api_url`, else the first address of `listen`.
pub fn base_url(url: Option<&str>, settings: &Settings) -> Result<String, Failure> {
    if let Some(url) = url.or(settings.http.api_url.as_deref()) {
        return Ok(url.to_owned());
    }
    let mut address = settings.http.listen[0];
    if address.port() == 0 {
        return Err(Failure::new(
            Exit::Usage,
            "the server listens on a port chosen at its start; --url is required",
        ));
    }
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(format!("http://{address}"))
}

pub fn api_key(settings: &Settings) -> Result<String, Failure> {
    if let Some(key) = &settings.auth.api_key {
        return Ok(key.expose().to_owned());
    }
    match config::stored_api_key(&settings.store.data_dir) {
        Ok(Some(key)) => Ok(key.expose().to_owned()),
        Ok(None) => Err(Failure::new(
            Exit::Usage,
            format!(
                "no API key: set --api-key or CENTRAL_API_KEY, or --data-dir of a server on this \
                 machine (no key in {})",
                settings.store.data_dir.display()
            ),
        )),
        Err(error) => Err(Failure::new(Exit::Runtime, error.to_string())),
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
                code: text(error, "/code"),
            }
        })
        .collect()
}
