//! `GET /streamers/{hostname}/srt_port_resolve/{port}`: the stream of an SRT port of a streamer.
//!
//! A stream owns the port of its `srt_publish` and `srt2_publish`, and that of an SRT input that
//! listens. Publishing is possible on the ingest node, playing also on DVR backups. If several
//! streams have the same port by mistake, the first by name is returned.

use memchr::memmem;

use super::config_external::known_node;
use super::{Call, Outcome};
use crate::error::{self, ApiError};
use crate::http::response::TEXT;
use crate::http::{Body, Response};
use crate::json::{self, Value};
use crate::query::params::{Choice, ParameterValues as _};
use crate::state::record::Role;

const PLAY: &str = "play";
pub const MODE: Choice = Choice::new(
    "mode",
    &[PLAY, "publish"],
    "What the port is for, by the settings of the listener.",
)
.example(r#""publish""#)
.required();

pub fn resolve(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let hostname = call.hostname()?;
    let port = port(call.request.path)?;
    let plays = call.choice(&MODE)? == Some(PLAY);
    let node = known_node(call.state, &hostname)?;
    for (name, role) in &node.streams {
        let fits = match role {
            Role::Ingest => true,
            Role::Backup => plays,
            Role::Inference => false,
        };
        if !fits {
            continue;
        }
        let stream = call.state.stream(name);
        if stream.is_some_and(|stream| !stream.disabled && owns(&stream.config, port)) {
            let body = Body::Owned(name.as_str().as_bytes().to_vec());
            return Ok(Outcome::Reply(Response::with_body(200, TEXT, body)));
        }
    }
    Err(error::STREAM_NOT_FOUND.titled("No stream of this streamer uses the port in this mode"))
}

fn port(path: &str) -> Result<u16, ApiError> {
    let text = path.rsplit('/').next().unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(error::NOT_INTEGER.about_parameter("port", "must be an integer"));
    }
    text.parse().map_err(|_| {
        error::INPUT_OUT_OF_RANGE
            .about_parameter("port", "must be 0 to 65535")
            .with("minimum", 0)
            .with("maximum", u16::MAX)
    })
}

/// Whether a stream with this configuration owns the port.
fn owns(config: &str, port: u16) -> bool {
    let digits = port.to_string();
    // Excludes nearly all streams without parsing.
    if memmem::find(config.as_bytes(), digits.as_bytes()).is_none()
        || memmem::find(config.as_bytes(), b"srt").is_none()
    {
        return false;
    }
    let config = json::parse(config.as_bytes()).expect("a stored configuration is valid JSON");
    let published = ["srt_publish", "srt2_publish"].into_iter().any(|field| {
        let spec = config.get(field).and_then(|srt| srt.get("port"));
        spec.is_some_and(|spec| port_of(spec) == Some(port))
    });
    let inputs = config.get("inputs").and_then(Value::as_array);
    published
        || inputs.into_iter().flatten().any(|input| {
            let url = input.get("url").and_then(Value::as_str);
            url.and_then(listening_port) == Some(port)
        })
}

/// The port of `9000` or `"10.0.0.1:9000"`.
fn port_of(spec: &Value) -> Option<u16> {
    match spec {
        Value::String(text) => text.rsplit(':').next()?.parse().ok(),
        spec => u16::try_from(spec.as_u64()?).ok(),
    }
}

/// The port of an SRT URL of a listener, which has no address to connect to.
fn listening_port(url: &str) -> Option<u16> {
    let rest = ["srt://", "srt1://", "srt2://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    matches!(host, "" | "*" | "0.0.0.0" | "[::]")
        .then(|| port.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_owns_publish_ports_and_listening_inputs() {
        let owned = |config| owns(config, 9000);
        assert!(owned(r#"{"srt_publish":{"port":9000}}"#));
        assert!(owned(r#"{"srt2_publish":{"port":"10.0.0.1:9000"}}"#));
        assert!(owned(r#"{"inputs":[{"url":"srt://:9000"}]}"#));
        assert!(owned(
            r#"{"inputs":[{"url":"udp://x"},{"url":"srt2://u:p@0.0.0.0:9000?mode=listener"}]}"#
        ));
        for other in [
            r#"{"srt_publish":{"port":19000}}"#,
            r#"{"srt_publish":{"latency":9000}}"#,
            r#"{"inputs":[{"url":"srt://elsewhere:9000"}]}"#,
            r#"{"inputs":[{"url":"udp://:9000"}],"title":"srt"}"#,
        ] {
            assert!(!owned(other), "{other}");
        }
    }

    #[test]
    fn mode_is_required_and_one_of_two() {
        let read = |value| MODE.read(value).map_err(|error| error.items[0].code);
        assert_eq!(read(Some(PLAY)), Ok(Some(PLAY)));
        assert_eq!(read(Some("publish")), Ok(Some("publish")));
        assert_eq!(read(None), Err("missing_required"));
        for bad in ["", "both"] {
            assert_eq!(read(Some(bad)), Err("unknown_enum_option"), "{bad}");
        }
    }

    #[test]
    fn a_port_is_a_number_of_16_bits() {
        let status = |result: Result<u16, ApiError>| result.map_err(|error| error.status);
        assert_eq!(status(port("/streamers/h/srt_port_resolve/0")), Ok(0));
        for bad in ["x", "-1", "65536", "1.5", "%39000"] {
            assert_eq!(status(port(&format!("/a/{bad}"))), Err(400), "{bad}");
        }
    }
}
