//! HTTP/1.1 as the generators need it: the workspace's framer, requests, and a blocking client for
//! set-up.
//!
//! Strict where a mistake of a server would flatter it: a response without a length, a short body
//! or an unexpected status is an error, never a sample.

use std::net::SocketAddrV4;
use std::time::Duration;

use weir_testkit::{KeepAlive, Response, request as wire};

use crate::Failure;

pub use weir_testkit::{frame, header};

/// Set-up requests may write 10,000 records; nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// The status of a response whose length is known already: cheaper than [`frame`].
pub fn status(input: &[u8]) -> Result<u16, Failure> {
    let digits = input
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    let status = digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok());
    status.ok_or_else(|| {
        let shown = String::from_utf8_lossy(&input[..input.len().min(60)]);
        format!("not a response of HTTP/1.1: {shown:?}").into()
    })
}

/// Responses as figures need them: what is wrong is an error with its text.
pub trait Checked: Sized {
    /// The response, if its status is one of these.
    fn one_of(self, statuses: &[u16], what: &str) -> Result<Self, Failure>;

    /// The body as JSON.
    fn value(&self) -> Result<serde_json::Value, Failure>;
}

impl Checked for Response {
    fn one_of(self, statuses: &[u16], what: &str) -> Result<Response, Failure> {
        if statuses.contains(&self.status) {
            return Ok(self);
        }
        let shown: String = self.text().chars().take(300).collect();
        let status = self.status;
        Err(format!("{what}: status {status} instead of {statuses:?}: {shown}").into())
    }

    fn value(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("not JSON ({error}): {}", self.text()).into())
    }
}

/// Blocking, keep-alive; for preparing and for checking, never for timing under load.
pub struct Client {
    connection: KeepAlive,
    authorization: String,
}

impl Client {
    pub fn new(to: SocketAddrV4, authorization: &str) -> Client {
        Client {
            connection: KeepAlive::new(to.into(), PATIENCE),
            authorization: authorization.to_owned(),
        }
    }

    pub fn get(&mut self, target: &str) -> Result<Response, Failure> {
        self.call("GET", target, "", b"")
    }

    pub fn call(
        &mut self,
        method: &str,
        target: &str,
        extra: &str,
        body: &[u8],
    ) -> Result<Response, Failure> {
        let bytes = request(method, target, &self.authorization, extra, body);
        self.exchange(&bytes)
    }

    /// Sends a whole request and reads its response.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Response, Failure> {
        Ok(self.connection.exchange(request)?)
    }
}

/// One request as every generator sends it. `extra` is whole header lines, each with its CRLF.
pub fn request(
    method: &str,
    target: &str,
    authorization: &str,
    extra: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut fields = String::new();
    if !authorization.is_empty() {
        fields.push_str(&format!("Authorization: {authorization}\r\n"));
    }
    fields.push_str(extra);
    let body = (!body.is_empty()).then_some(body);
    let mut out = Vec::new();
    wire::write(&mut out, method, target, "127.0.0.1", &fields, body);
    out
}
