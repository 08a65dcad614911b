//! One blocking connection for everything that is not load: preparing, reading the final state.

use std::net::SocketAddr;
use std::time::Duration;

use weir_testkit::{KeepAlive, Response, encode_segment, request};

/// Longest wait for one response. A batch of 10,000 streams on a slow disk takes seconds.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Address and credentials of the server.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// As in `Host:`.
    pub host: String,
    /// Path before `/streams`.
    pub prefix: String,
    pub api_key: String,
}

impl Target {
    /// Header fields of an administrator's request.
    pub fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.api_key)
    }

    /// The path of one object; the name is percent-encoded.
    pub fn path_of(&self, collection: &str, name: &str) -> String {
        let mut path = format!("{}/{collection}/", self.prefix);
        path.push_str(&encode_segment(name));
        path
    }
}

pub struct Control {
    target: Target,
    connection: KeepAlive,
}

impl Control {
    pub fn new(target: &Target) -> Control {
        Control {
            target: target.clone(),
            connection: KeepAlive::new(target.address, SILENCE_MAX),
        }
    }

    /// Sends one request and waits for its answer. `path` begins behind the prefix unless it is the
    /// whole path.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: Option<&[u8]>,
    ) -> Result<Response, String> {
        let whole = if path.starts_with(&self.target.prefix) {
            path.to_owned()
        } else {
            self.target.prefix.clone() + path
        };
        let fields = self.target.bearer() + fields;
        let mut request = Vec::new();
        request::write(
            &mut request,
            method,
            &whole,
            &self.target.host,
            &fields,
            body,
        );
        self.connection
            .exchange(&request)
            .map_err(|error| format!("{method} {whole}: {error}"))
    }

    /// A request that must succeed.
    pub fn expect(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Response, String> {
        let response = self.request(method, path, "", body)?;
        if (200..300).contains(&response.status) {
            return Ok(response);
        }
        let text = String::from_utf8_lossy(&response.body);
        let text: String = text.chars().take(400).collect();
        let hint = if response.status == 401 {
            " (is --api-key right?)"
        } else {
            ""
        };
        Err(format!(
            "{method} {path}: {}{hint}: {text}",
            response.status
        ))
    }
}
