//! The API of this server, as far as a bridge uses it.
//!
//! The list of streams is answered whole and at once; reports are kept. Requests need a signature
//! that is at most five minutes old by this server's clock, which may be wrong.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{FakeAnswer, FakeKind, FakeRequest};

/// Oldest signature that is accepted.
const SKEW_SECONDS: u64 = 300;

#[derive(Debug, Default)]
pub struct FakeWeir {
    /// Configurations by the name of their stream.
    pub streams: BTreeMap<String, Value>,
    /// The reports, oldest first.
    pub reports: Vec<Value>,
    /// Requests for the list.
    pub polls: usize,
    /// Lists that are refused with 401 from now on.
    pub refusals: usize,
    /// Its clock is this much ahead of others.
    pub clock_ahead: Duration,
}

/// Whether a request has a signature of about this time.
fn is_signed(request: &FakeRequest, now: SystemTime) -> bool {
    let authorization = request.authorization.as_deref().unwrap_or_default();
    let signed_at = authorization
        .strip_prefix("Cluster ")
        .and_then(|signature| signature.split_once(':'))
        .and_then(|(seconds, _)| seconds.parse::<u64>().ok());
    let now = now.duration_since(UNIX_EPOCH).expect("after 1970");
    signed_at.is_some_and(|at| at.abs_diff(now.as_secs()) <= SKEW_SECONDS)
}

impl FakeWeir {
    /// A stream that is pulled from a URL.
    pub fn run(&mut self, name: &str, url: &str) {
        let stream = json!({"name": name, "inputs": [{"url": url}]});
        self.streams.insert(name.to_owned(), stream);
    }

    fn list(&self, is_listed: impl Fn(&str) -> bool) -> FakeAnswer {
        let streams = self.streams.iter().filter(|(name, _)| is_listed(name));
        let streams: Vec<&Value> = streams.map(|(_, stream)| stream).collect();
        let count = streams.len();
        FakeAnswer::json(200, &json!({"streams": streams, "estimated_count": count}))
    }

    fn signed_answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        let tail = request.path.rsplit('/').next().unwrap_or_default();
        match (&*request.method, tail) {
            ("GET", "streams") => {
                self.polls += 1;
                if self.refusals > 0 {
                    self.refusals -= 1;
                    return FakeAnswer::text(401, "not now");
                }
                self.list(|_| true)
            }
            ("GET", "update-streams") => {
                let names: Vec<&str> = request.parameter("name").split(',').collect();
                self.list(|name| names.contains(&name))
            }
            ("PUT", "stats") => {
                self.reports.push(request.json());
                FakeAnswer::json(200, &json!({}))
            }
            _ => FakeAnswer::text(404, ""),
        }
    }
}

impl FakeKind for FakeWeir {
    fn answer(&mut self, request: &FakeRequest) -> FakeAnswer {
        let now = SystemTime::now() + self.clock_ahead;
        let mut answer = if is_signed(request, now) {
            self.signed_answer(request)
        } else {
            FakeAnswer::text(401, "signature")
        };
        answer.fields = format!("Date: {}\r\n", httpdate::fmt_http_date(now));
        answer
    }

    fn restart(&mut self) {}
}
