//! The server of a subcommand: which one, with which key, and what its refusals look like.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use ureq::http::Method;

use super::context::Contexts;
use super::kinds::ObjectKind;
use super::output::OutputFlags;
use super::progress;
use crate::client::{self, ApiAnswer, ApiClient, BatchRefusal, ClientError};
use crate::config::flags::{CLIENT, Configured};
use crate::config::{Config, Origin};
use crate::duration;
use crate::exit::{Exit, Failure};

/// Entities of one page, when all are read.
const PAGE_MAX: usize = 1000;

/// Every request is strict: what the server does not know is an error.
const STRICT: (&str, &str) = ("prefer", "handling=strict");

/// Which server, with which settings.
#[derive(Debug, Args)]
pub struct ServerFlags {
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
    context: Option<String>,
    /// Longest time for one answer.
    #[arg(
        long,
        value_name = "TIME",
        help_heading = "Server",
        default_value = "2m",
        value_parser = waiting_time
    )]
    timeout: Duration,
    #[command(flatten)]
    pub configured: Configured<CLIENT>,
}

/// Flags of all subcommands that are clients.
#[derive(Debug, Args)]
pub struct ClientFlags {
    #[command(flatten)]
    pub server: ServerFlags,
    #[command(flatten)]
    pub output: OutputFlags,
}

/// Whether a flag or a variable sets this setting.
fn is_given(config: &Config, key: &str) -> bool {
    let origin = &config.effective(key).origin;
    matches!(origin, Origin::Environment { .. } | Origin::Flag { .. })
}

impl ServerFlags {
    /// Finds the server: by flags and variables, else by the context, else by the data directory.
    /// The key of a context is sent to the URL of that context only.
    pub fn find(&self, config: &Config) -> Result<FoundServer, Failure> {
        let is_given = |key| is_given(config, key);
        let names_server = self.url.is_some() || is_given("api_url") || is_given("data_dir");
        let context = if self.context.is_some() || !names_server {
            Contexts::read(config)?.find(self.context.as_deref())?
        } else {
            None
        };
        let (url, key) = match context {
            Some(context) if is_given("api_key") => {
                (context.url, client::api_key(&config.settings)?)
            }
            Some(context) => (context.url, context.api_key),
            None => (
                client::base_url(self.url.as_deref(), &config.settings)?,
                client::api_key(&config.settings)?,
            ),
        };
        self.client_of(url, &key)
    }

    /// Finds the server of the data directory.
    pub fn of_settings(&self, config: &Config) -> Result<FoundServer, Failure> {
        let url = client::base_url(None, &config.settings)?;
        self.client_of(url, &client::api_key(&config.settings)?)
    }

    fn client_of(&self, url: String, key: &str) -> Result<FoundServer, Failure> {
        let api = ApiClient::with_wait(&url, key, self.timeout);
        let api = api.map_err(|what| Failure::new(Exit::Usage, what))?;
        Ok(FoundServer { url, api })
    }

    /// Whether a server is named, by a flag, by CENTRAL_API_URL without a data directory beside
    /// it, or by the chosen context. Else the data directory is meant.
    pub fn names_server(&self, config: &Config) -> Result<bool, Failure> {
        if self.url.is_some() || self.context.is_some() {
            return Ok(true);
        }
        if is_given(config, "data_dir") {
            return Ok(false);
        }
        if is_given(config, "api_url") {
            return Ok(true);
        }
        Ok(Contexts::read(config)?.find(None)?.is_some())
    }
}

/// A server, and a client with the key for it.
pub struct FoundServer {
    pub url: String,
    pub api: ApiClient,
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
    pub fn open(flags: ClientFlags, config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            api: flags.server.find(config)?.api,
            timeout: flags.server.timeout,
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

    /// A preview of the layouter; `None` while it is off, or if the key may save and not preview.
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
            Err(ClientError::Status { status: 403, .. }) => Ok(None),
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
        let list = (kind.path, kind.list);
        let read = self.list_pages(list, query, limit, |rows, _| page(rows))?;
        Ok(read.estimated)
    }

    /// Reads all of a list page by page, with a bar on stderr while it lasts, unless it `is_quiet`.
    pub fn all_pages(
        &self,
        kind: &ObjectKind,
        query: &str,
        is_quiet: bool,
        mut page: impl FnMut(&[Value]) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let bar = progress::of_list(is_quiet, kind.plural);
        let list = (kind.path, kind.list);
        self.list_pages(list, query, usize::MAX, |rows, estimated| {
            bar.set_length(estimated);
            let wants_more = page(rows)?;
            bar.inc(rows.len() as u64);
            Ok(wants_more)
        })?;
        bar.finish_and_clear();
        Ok(())
    }

    /// Reads at most `limit` items of the member `list` of a path, page by page. `page` also gets
    /// the estimated number of all items.
    pub fn list_pages(
        &self,
        (path, list): (&str, &str),
        query: &str,
        limit: usize,
        mut page: impl FnMut(&[Value], u64) -> Result<bool, Failure>,
    ) -> Result<ReadPages, Failure> {
        let mut cursor = None::<String>;
        let mut left = limit;
        loop {
            let size = left.min(PAGE_MAX);
            let mut target = format!("{path}?limit={size}");
            for part in [Some(query), cursor.as_deref()].into_iter().flatten() {
                if !part.is_empty() {
                    target.push('&');
                    target.push_str(part);
                }
            }
            let answer = self.get(&target)?;
            let unexpected = || {
                let what = format!("unexpected response of {path}: no list");
                Failure::new(Exit::Runtime, what)
            };
            let rows = answer[list].as_array().ok_or_else(unexpected)?;
            let estimated = answer["estimated_count"].as_u64().unwrap_or(0);
            left -= rows.len().min(left);
            let wants_more = page(rows, estimated)?;
            cursor = answer["next"]
                .as_str()
                .map(|next| format!("cursor={}", client::escape(next)));
            if cursor.is_none() || left == 0 || !wants_more {
                let has_more = cursor.is_some();
                return Ok(ReadPages {
                    estimated,
                    has_more,
                });
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

/// The end of a list that was read.
pub struct ReadPages {
    /// Number of all items that pass the filters.
    pub estimated: u64,
    /// Items follow that were not read.
    pub has_more: bool,
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
