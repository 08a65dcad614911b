//! The server of a subcommand: which one, with which key, and what its refusals look like.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::Method;

use super::context::Contexts;
use super::kinds::ObjectKind;
use super::output::OutputFlags;
use crate::client::{self, ApiAnswer, ApiClient, BatchRefusal, ClientError};
use crate::config::flags::{CLIENT, Configured};
use crate::config::{Config, Origin};
use crate::duration;
use crate::exit::{Exit, Failure};

/// Entities of one page, when all are read.
const PAGE_MAX: usize = 1000;

/// Every request is strict: what the server does not know is an error.
const STRICT: (&str, &str) = ("prefer", "handling=strict");

/// Flags of all subcommands that are clients.
#[derive(Debug, Args)]
pub struct ClientFlags {
    /// Base URL of the server [default: CENTRAL_API_URL, else the context, else the server of the
    /// data directory].
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub url: Option<String>,
    /// The context whose server is used, instead of the chosen one.
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Server",
        conflicts_with = "url"
    )]
    pub context: Option<String>,
    /// Longest time for one answer.
    #[arg(
        long,
        value_name = "TIME",
        help_heading = "Server",
        default_value = "2m",
        value_parser = waiting_time
    )]
    pub timeout: Duration,
    #[command(flatten)]
    pub output: OutputFlags,
    #[command(flatten)]
    pub configured: Configured<CLIENT>,
}

fn waiting_time(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| format!("must be {}", duration::ALLOWED))
}

/// A server and how its answers are printed.
pub struct Connection {
    api: ApiClient,
    timeout: Duration,
    pub output: OutputFlags,
}

impl Connection {
    /// By flags and variables, else by the context, else by the data directory. The key of a
    /// context is sent to the URL of that context only.
    pub fn open(flags: ClientFlags, config: &Config) -> Result<Self, Failure> {
        let is_given = |key: &str| {
            let origin = &config.effective(key).origin;
            matches!(origin, Origin::Environment { .. } | Origin::Flag { .. })
        };
        let names_server = flags.url.is_some() || is_given("api_url") || is_given("data_dir");
        let context = if flags.context.is_some() || !names_server {
            Contexts::read(config)?.find(flags.context.as_deref())?
        } else {
            None
        };
        let (url, key) = match context {
            Some(context) if is_given("api_key") => {
                (context.url, client::api_key(&config.settings)?)
            }
            Some(context) => (context.url, context.api_key),
            None => (
                client::base_url(flags.url.as_deref(), &config.settings)?,
                client::api_key(&config.settings)?,
            ),
        };
        Ok(Self {
            api: ApiClient::new(&url, &key).map_err(|what| Failure::new(Exit::Usage, what))?,
            timeout: flags.timeout,
            output: flags.output,
        })
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(self.send(Method::GET, path, &[], None)?.body)
    }

    /// The object of this name, with its entity tag.
    pub fn object(&self, kind: &ObjectKind, name: &str) -> Result<ApiAnswer, Failure> {
        self.send(Method::GET, &kind.path_of(name), &[], None)
    }

    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<ApiAnswer, Failure> {
        self.try_send(method, path, headers, body)
            .map_err(|error| failure(&error))
    }

    pub fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<ApiAnswer, ClientError> {
        let headers = [headers, &[STRICT]].concat();
        self.api
            .call((method, path), &headers, body, Some(self.timeout))
    }

    /// A request whose answer is JSON in lines. Returns the last one.
    pub fn send_for_lines(
        &self,
        path: &str,
        body: &Value,
        each: impl FnMut(&Value),
    ) -> Result<Value, Failure> {
        let sent = self.api.post_lines(path, &[STRICT], body, each);
        sent.map_err(|error| failure(&error))
    }

    /// A request that waits for a commit, for at most `poll_timeout`, which is in its path.
    pub fn poll(&self, path: &str, poll_timeout: Duration) -> Result<Value, ClientError> {
        let wait = self.timeout + poll_timeout;
        let answer = self
            .api
            .call((Method::GET, path), &[STRICT], None, Some(wait))?;
        Ok(answer.body)
    }

    /// The part of a preview that needs the layouter; `None` while it is off.
    pub fn preview(&self, path: &str, body: &Value) -> Result<Option<Value>, Failure> {
        match self.try_send(Method::POST, path, &[], Some(body)) {
            Ok(answer) => Ok(Some(answer.body)),
            Err(ClientError::Status { reasons, .. })
                if reasons
                    .iter()
                    .any(|reason| reason.code == "layouter_disabled") =>
            {
                Ok(None)
            }
            Err(error) => Err(failure(&error)),
        }
    }

    /// Reads a list page by page. `query` has the filters, without `limit` and `cursor`; `page`
    /// returns whether it wants more. Returns the estimated number of all entities.
    pub fn pages(
        &self,
        kind: &ObjectKind,
        query: &str,
        limit: usize,
        mut page: impl FnMut(&[Value]) -> Result<bool, Failure>,
    ) -> Result<u64, Failure> {
        let mut cursor = None::<String>;
        let mut left = limit;
        loop {
            let size = left.min(PAGE_MAX);
            let mut path = format!("{}?limit={size}", kind.path);
            for part in [Some(query), cursor.as_deref()].into_iter().flatten() {
                if !part.is_empty() {
                    path.push('&');
                    path.push_str(part);
                }
            }
            let answer = self.get(&path)?;
            let unexpected = || {
                let what = format!("unexpected response of {}: no list", kind.path);
                Failure::new(Exit::Runtime, what)
            };
            let rows = answer[kind.list].as_array().ok_or_else(unexpected)?;
            left -= rows.len().min(left);
            let wants_more = page(rows)?;
            cursor = answer["next"]
                .as_str()
                .map(|next| format!("cursor={}", client::escape(next)));
            if cursor.is_none() || left == 0 || !wants_more {
                return Ok(answer["estimated_count"].as_u64().unwrap_or(0));
            }
        }
    }

    /// A line for the person, unless `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.output.quiet {
            eprintln!("{text}");
        }
    }
}

/// What the server refused, in its own words, with code and pointer.
pub fn failure(error: &ClientError) -> Failure {
    let worded = |reasons: &[BatchRefusal]| {
        let sentences = reasons.iter().map(|reason| {
            let places = [reason.code.as_str(), reason.pointer.as_str()];
            let places: Vec<&str> = places.into_iter().filter(|it| !it.is_empty()).collect();
            if places.is_empty() {
                reason.title.clone()
            } else {
                format!("{} ({})", reason.title, places.join(", "))
            }
        });
        sentences.collect::<Vec<_>>().join("; ")
    };
    match error {
        ClientError::Status {
            status, reasons, ..
        } if *status != 401 && !reasons.is_empty() => {
            let exit = match status {
                409 | 412 => Exit::Conflict,
                _ => Exit::Runtime,
            };
            Failure::new(exit, worded(reasons))
        }
        ClientError::Refused(reasons) => Failure::new(Exit::Runtime, worded(reasons)),
        other => Failure::new(Exit::Runtime, other.to_string()),
    }
}
