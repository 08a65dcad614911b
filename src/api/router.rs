//! Routing: the endpoint of a method and a path.
//!
//! Names of streams may contain slashes, raw or as `%2F`. A path is therefore matched from both
//! ends: the literals before the name, then the literals after it, longest first; the name is the
//! rest. It is decoded once, after the match.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::error::{self, ApiError};
use crate::http::Method;

/// Both prefixes serve the same operations; clients of older versions use the second one.
pub const PREFIXES: [&str; 2] = ["/central/api/v3", "/streamer/api/v3"];

/// The variable part of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathParameter {
    None,
    /// One segment.
    Segment(&'static str),
    /// One segment or more.
    Tail(&'static str),
    /// One segment, then the tail, then one more segment. The first is the parameter; the handler
    /// reads the second.
    Pair(&'static str, &'static str),
}

/// `head`, then the parameter, then `tail`: `/streams/` `{name}` `/layouts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub method: Method,
    pub head: &'static str,
    pub parameter: PathParameter,
    pub tail: &'static str,
}

impl Route {
    /// The raw value of the parameter if the path (without prefix) has this form.
    fn matches<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.head)?;
        match self.parameter {
            PathParameter::None => rest.is_empty().then_some(""),
            PathParameter::Segment(_) => {
                let value = rest.strip_suffix(self.tail)?;
                (!value.is_empty() && !value.contains('/')).then_some(value)
            }
            PathParameter::Tail(_) => {
                let value = rest.strip_suffix(self.tail)?;
                (!value.is_empty()).then_some(value)
            }
            PathParameter::Pair(..) => {
                let (value, other) = rest.split_once(self.tail)?;
                let is_segment = |text: &str| !text.is_empty() && !text.contains('/');
                (is_segment(value) && is_segment(other)).then_some(value)
            }
        }
    }

    /// The path in the notation of OpenAPI.
    pub fn template(&self) -> String {
        match self.parameter {
            PathParameter::None => self.head.to_owned(),
            PathParameter::Segment(name) | PathParameter::Tail(name) => {
                format!("{}{{{name}}}{}", self.head, self.tail)
            }
            PathParameter::Pair(first, second) => {
                format!("{}{{{first}}}{}{{{second}}}", self.head, self.tail)
            }
        }
    }
}

/// The result of routing.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'p> {
    /// Index into the table and the decoded parameter.
    Endpoint(usize, Cow<'p, str>),
    /// The path exists for other methods only: these.
    OtherMethods(Vec<Method>),
    Nothing,
}

/// The short path of the agents' endpoint, served without a prefix as well: the URL is written into
/// devices.
const BARE: &str = "/endpoint/connect";

/// The path below either prefix.
pub fn strip_prefix(path: &str) -> Option<&str> {
    if path == BARE {
        return Some(path);
    }
    PREFIXES
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix))
        .filter(|rest| rest.starts_with('/'))
}

/// Finds the endpoint. `routes` holds routes with longer tails before those with shorter ones of
/// the same head.
pub fn find<'p>(routes: &[Route], method: Method, path: &'p str) -> Result<Found<'p>, ApiError> {
    let Some(path) = strip_prefix(path) else {
        return Ok(Found::Nothing);
    };
    let mut others = Vec::new();
    let mut taken: Option<&Route> = None;
    for (i, route) in routes.iter().enumerate() {
        // A path of a more specific route is not matched as a name: `PUT /streams/a/layouts` is
        // 405.
        if taken.is_some_and(|claim| {
            (claim.head, claim.parameter, claim.tail) != (route.head, route.parameter, route.tail)
        }) {
            break;
        }
        let Some(raw) = route.matches(path) else {
            continue;
        };
        if route.method == method {
            return Ok(Found::Endpoint(i, decode(raw)?));
        }
        others.push(route.method);
        taken = Some(route);
    }
    Ok(if others.is_empty() {
        Found::Nothing
    } else {
        Found::OtherMethods(others)
    })
}

/// The decoded parameter of a path that matches `route`.
pub fn parameter<'p>(route: &Route, path: &'p str) -> Result<Cow<'p, str>, ApiError> {
    let raw = strip_prefix(path).and_then(|path| route.matches(path));
    decode(raw.unwrap_or_default())
}

const NOT_ENCODED: &str = "The path is not percent-encoded UTF-8";

/// Decodes a part of a path, once.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, ApiError> {
    let bad = || error::WRONG_FORMAT.titled(NOT_ENCODED).at_parameter("path");
    if has_broken_escape(raw) {
        return Err(bad());
    }
    percent_decode_str(raw).decode_utf8().map_err(|_| bad())
}

fn has_broken_escape(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    bytes.iter().enumerate().any(|(i, &byte)| {
        byte == b'%'
            && !(bytes.get(i + 1).is_some_and(u8::is_ascii_hexdigit)
                && bytes.get(i + 2).is_some_and(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &[Route] = &[
        Route {
            method: Method::Get,
            head: "/streams",
            parameter: PathParameter::None,
            tail: "",
        },
        Route {
            method: Method::Put,
            head: "/streams/batch",
            parameter: PathParameter::None,
            tail: "",
        },
        Route {
            method: Method::Get,
            head: "/streams/",
            parameter: PathParameter::Tail("name"),
            tail: "/layouts",
        },
        Route {
            method: Method::Get,
            head: "/streams/",
            parameter: PathParameter::Tail("name"),
            tail: "",
        },
        Route {
            method: Method::Put,
            head: "/streams/",
            parameter: PathParameter::Tail("name"),
            tail: "",
        },
        Route {
            method: Method::Get,
            head: "/streamers/",
            parameter: PathParameter::Segment("hostname"),
            tail: "/streams",
        },
        Route {
            method: Method::Get,
            head: "/streamers/",
            parameter: PathParameter::Pair("hostname", "port"),
            tail: "/ports/",
        },
    ];

    fn at(method: Method, path: &str) -> (Option<usize>, String) {
        match find(ROUTES, method, &format!("/central/api/v3{path}")) {
            Ok(Found::Endpoint(i, name)) => (Some(i), name.into_owned()),
            Ok(Found::OtherMethods(methods)) => (None, format!("{methods:?}")),
            Ok(Found::Nothing) => (None, "404".to_owned()),
            Err(error) => (None, error.status.to_string()),
        }
    }

    #[test]
    fn suffixes_win_over_names_and_escapes_do_not_count_as_suffixes() {
        assert_eq!(at(Method::Get, "/streams"), (Some(0), String::new()));
        assert_eq!(at(Method::Get, "/streams/a/b"), (Some(3), "a/b".into()));
        assert_eq!(at(Method::Get, "/streams/a%2Fb"), (Some(3), "a/b".into()));
        assert_eq!(
            at(Method::Get, "/streams/a/b/layouts"),
            (Some(2), "a/b".into())
        );
        assert_eq!(
            at(Method::Get, "/streams/a%2Flayouts"),
            (Some(3), "a/layouts".into())
        );
        assert_eq!(at(Method::Put, "/streams/batch"), (Some(1), String::new()));
        assert_eq!(
            at(Method::Get, "/streamers/h/streams"),
            (Some(5), "h".into())
        );
        assert_eq!(
            at(Method::Get, "/streamers/h%2Fi/ports/1"),
            (Some(6), "h/i".into())
        );
        for nothing in [
            "h/ports",
            "h/ports/",
            "h/ports/1/2",
            "/ports/1",
            "h/i/ports/1",
        ] {
            assert_eq!(
                at(Method::Get, &format!("/streamers/{nothing}")),
                (None, "404".into())
            );
        }
        assert_eq!(ROUTES[6].template(), "/streamers/{hostname}/ports/{port}");
    }

    #[test]
    fn unknown_paths_are_404_and_other_methods_are_listed() {
        assert_eq!(
            at(Method::Put, "/streams/a/layouts"),
            (None, "[Get]".into())
        );
        assert_eq!(
            at(Method::Delete, "/streams/a"),
            (None, "[Get, Put]".into())
        );
        assert_eq!(at(Method::Get, "/streams/"), (None, "404".into()));
        assert_eq!(
            at(Method::Get, "/streamers/a/b/streams"),
            (None, "404".into())
        );
        assert_eq!(at(Method::Get, "/nothing"), (None, "404".into()));
        assert_eq!(at(Method::Get, "/streams/%ff"), (None, "400".into()));
        assert_eq!(at(Method::Get, "/streams/a%2"), (None, "400".into()));
        assert_eq!(
            find(ROUTES, Method::Get, "/streams"),
            Ok(Found::Nothing),
            "no prefix"
        );
        assert_eq!(
            find(ROUTES, Method::Get, "/central/api/v3streams"),
            Ok(Found::Nothing),
            "no slash"
        );
    }
}
