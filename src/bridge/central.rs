//! Weir as one streamer uses it: its list, questions about streams that vanished, reports, joining,
//! and questions about viewers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::caller::{CallAnswer, CallFault, HttpCaller, OutgoingCall};
use super::desired::{self, Wanted};
use crate::access::auth::CLUSTER_SKEW_SECONDS_MAX;
use crate::client::escape;

/// Longest time for an answer, the wait of a poll not counted.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a poll waits for news.
pub const POLL_WAIT: Duration = Duration::from_secs(20);
/// Connections to Weir that are kept for the next call.
const CONNECTIONS_KEPT: usize = 2;

pub struct Central {
    /// With the prefix of the API, without a slash at the end.
    base: String,
    hostname: String,
    /// Polls, which another thread may cut.
    polls: HttpCaller,
    caller: HttpCaller,
}

/// The result of a poll.
#[derive(Debug)]
pub enum Polled {
    /// Nothing changed since the tag.
    Unchanged,
    List {
        wanted: Wanted,
        etag: Option<String>,
        /// Streams that vanished, and about which Weir gave no answer: they stay.
        unclear: Option<CallFault>,
    },
}

/// What a streamer is saved with when it joins.
#[derive(Debug, Clone, Default)]
pub struct JoinFields {
    /// By which other streamers pull from this one.
    pub kind: &'static str,
    pub private_payload_url: Option<String>,
    /// The URLs of players by what follows the name of a stream; empty: not known.
    pub play_urls: BTreeMap<&'static str, String>,
    pub channel_limit: Option<u64>,
    pub labels: BTreeMap<String, String>,
    pub namespace: Option<String>,
}

/// The `Authorization` of a streamer with this key.
pub fn cluster_authorization(key: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let hash = Sha1::digest(format!("{now}:{key}"));
    let mut value = format!("Cluster {now}:");
    for byte in hash {
        value.push_str(&format!("{byte:02x}"));
    }
    value
}

/// The answer, unless it refuses a signature and shows that the clocks are the cause.
fn with_clock(answer: CallAnswer) -> Result<CallAnswer, CallFault> {
    let date = answer.header("date").filter(|_| answer.status == 401);
    let there = date.and_then(|date| httpdate::parse_http_date(date).ok());
    match there.and_then(|there| clock_fault(SystemTime::now(), there)) {
        Some(text) => Err(CallFault::Status(401, text)),
        None => Ok(answer),
    }
}

/// What is wrong with the clock of this machine, if it is too far from another one for signatures.
pub fn clock_fault(here: SystemTime, there: SystemTime) -> Option<String> {
    let (way, difference) = match here.duration_since(there) {
        Ok(ahead) => ("ahead of", ahead),
        Err(error) => ("behind", error.duration()),
    };
    let minutes = (difference.as_secs() + 30) / 60;
    let is_far = difference > Duration::from_secs(CLUSTER_SKEW_SECONDS_MAX);
    let text = format!("the clock of this machine is {minutes} min {way} that of Weir");
    is_far.then_some(text)
}

impl Central {
    /// `url` may end in one of the prefixes of the API.
    pub fn new(url: &str, hostname: &str) -> Self {
        let url = url.trim_end_matches('/');
        let is_prefixed = url.ends_with("/central/api/v3") || url.ends_with("/streamer/api/v3");
        Self {
            base: if is_prefixed {
                url.to_owned()
            } else {
                format!("{url}/central/api/v3")
            },
            hostname: escape(hostname),
            polls: HttpCaller::new(url, 1),
            caller: HttpCaller::new(url, CONNECTIONS_KEPT),
        }
    }

    /// Ends a poll that waits.
    pub fn cut(&self) {
        self.polls.cut();
    }

    /// The list, if it differs from the one with the tag; `waits` for that. `known` is the list
    /// that the server follows: Weir must confirm that streams which the answer lacks are gone.
    pub fn poll(
        &self,
        key: &str,
        etag: Option<&str>,
        waits: bool,
        known: Option<&Wanted>,
    ) -> Result<Polled, CallFault> {
        let mut path = "/streams".to_owned();
        let mut deadline = ANSWER_WITHIN;
        if etag.is_some() && waits {
            path.push_str(&format!("?poll_timeout={}", POLL_WAIT.as_secs()));
            deadline += POLL_WAIT;
        }
        let fields: Vec<(&str, &str)> =
            etag.map(|tag| ("if-none-match", tag)).into_iter().collect();
        let answer = with_clock(self.get(&self.polls, key, &path, &fields, deadline)?)?;
        if answer.status == 304 && etag.is_some() {
            return Ok(Polled::Unchanged);
        }
        let etag = answer.header("etag").map(str::to_owned);
        let fresh = desired::read_list(answer)?;
        let Some(known) = known else {
            return Ok(Polled::List {
                wanted: fresh,
                etag,
                unclear: None,
            });
        };
        let (mut kept, mut unclear, mut fault) = (Wanted::new(), BTreeSet::new(), None);
        for names in desired::questions(known, &fresh) {
            match self.vanished(key, &names) {
                Ok(confirmed) => kept.extend(confirmed),
                Err(error) => {
                    unclear.extend(names);
                    fault = Some(error);
                }
            }
        }
        Ok(Polled::List {
            wanted: desired::merged(known, fresh, kept, &unclear),
            etag: etag.filter(|_| fault.is_none()),
            unclear: fault,
        })
    }

    /// Which of the streams that a list lacked are to keep running here.
    fn vanished(&self, key: &str, names: &[Box<str>]) -> Result<Wanted, CallFault> {
        let names: Vec<String> = names.iter().map(|name| escape(name)).collect();
        let path = format!("/update-streams?name={}", names.join(","));
        let answer = self.get(&self.polls, key, &path, &[], ANSWER_WITHIN)?;
        desired::read_kept(answer)
    }

    pub fn report(&self, key: &str, body: &[u8]) -> Result<(), CallFault> {
        let url = format!("{}/streamers/{}/stats", self.base, self.hostname);
        self.put(&url, &cluster_authorization(key), body)
    }

    /// Saves the streamer with its cluster key, by the right of a token.
    pub fn join(&self, token: &str, key: &str, fields: &JoinFields) -> Result<(), CallFault> {
        let mut body = json!({"role": "streamer", "cluster_key": key, "kind": fields.kind});
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[name] = value;
            }
        };
        let text = |text: &Option<String>| text.clone().map(Value::from);
        set("private_payload_url", text(&fields.private_payload_url));
        let play_urls = (!fields.play_urls.is_empty()).then(|| json!(fields.play_urls));
        set("play_urls", play_urls);
        set("namespace", text(&fields.namespace));
        set("channel_limit", fields.channel_limit.map(Value::from));
        let labels = (!fields.labels.is_empty()).then(|| json!(fields.labels));
        set("labels", labels);
        let url = format!("{}/streamers/{}", self.base, self.hostname);
        let authorization = format!("Bearer {token}");
        self.put(&url, &authorization, body.to_string().as_bytes())
    }

    fn put(&self, url: &str, authorization: &str, body: &[u8]) -> Result<(), CallFault> {
        let answer = self.caller.call(&OutgoingCall {
            method: "PUT",
            url,
            headers: &[
                ("authorization", authorization),
                ("content-type", "application/json"),
            ],
            body,
            deadline: ANSWER_WITHIN,
        })?;
        with_clock(answer)?.success().map(drop)
    }

    /// Whether a viewer may play; with the answer's own lifetime.
    pub fn may_play(&self, key: &str, query: &str) -> Result<CallAnswer, CallFault> {
        let path = format!("/auth?{query}");
        self.get(&self.caller, key, &path, &[], ANSWER_WITHIN)
    }

    /// Reads what is below the streamer's own path, with its key.
    fn get(
        &self,
        caller: &HttpCaller,
        key: &str,
        path: &str,
        fields: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<CallAnswer, CallFault> {
        let url = format!("{}/streamers/{}{path}", self.base, self.hostname);
        let authorization = cluster_authorization(key);
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend_from_slice(fields);
        caller.call(&OutgoingCall {
            method: "GET",
            url: &url,
            headers: &headers,
            body: b"",
            deadline,
        })
    }
}
