//! One blocking connection for everything that is not load: preparing, asking for the truth.

use crate::wire::{self, Parser, Response};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest silence of the server on this connection. A batch of 10,000 streams on a slow disk takes seconds.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Where the server is and how to be let in.
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
        wire::encode_segment(&mut path, name);
        path
    }
}

pub struct Control {
    target: Target,
    stream: Option<TcpStream>,
}

impl Control {
    pub fn new(target: &Target) -> Control {
        Control {
            target: target.clone(),
            stream: None,
        }
    }

    /// Sends one request and waits for its answer. `path` begins behind the prefix unless it is the whole path.
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
        wire::write_request(
            &mut request,
            method,
            &whole,
            &self.target.host,
            &fields,
            body,
        );
        // A kept connection may have been closed by the server meanwhile: once more on a new one. Nothing sent here
        // does harm when it is done twice.
        let fresh = self.stream.is_none();
        match self.exchange(&request) {
            Err(_) if !fresh => self.exchange(&request),
            result => result,
        }
        .map_err(|error| format!("{method} {whole}: {error}"))
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Response, String> {
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            let stream = TcpStream::connect(self.target.address)
                .map_err(|error| format!("cannot reach {}: {error}", self.target.address))?;
            let set = stream
                .set_nodelay(true)
                .and_then(|()| stream.set_read_timeout(Some(SILENCE_MAX)));
            set.map_err(|error| error.to_string())?;
            stream
        };
        stream
            .write_all(request)
            .map_err(|error| error.to_string())?;
        let mut parser = Parser::default();
        let mut buffer = vec![0; 256 << 10];
        let mut found = None;
        while found.is_none() {
            let count = stream
                .read(&mut buffer)
                .map_err(|error| error.to_string())?;
            if count == 0 {
                return Err("closed before the answer was complete".into());
            }
            parser.feed(&buffer[..count], &mut |response| found = Some(response))?;
        }
        let response = found.expect("the loop ends with an answer");
        if !response.close {
            self.stream = Some(stream);
        }
        Ok(response)
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
