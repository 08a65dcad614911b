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
    /// Index into the table, the decoded parameter, and where it is in the path.
    Endpoint(usize, Cow<'p, str>, ParameterSpan),
    /// The path exists for other methods only: these.
    OtherMethods(Vec<Method>),
    Nothing,
}

/// Where the parameter is in a path, so that the path is matched once per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterSpan {
    start: u32,
    len: u32,
}

impl ParameterSpan {
    /// The decoded parameter of the path that was matched.
    pub fn parameter(self, path: &str) -> Result<Cow<'_, str>, ApiError> {
        let start = self.start as usize;
        let raw = path.get(start..start + self.len as usize);
        decode(raw.unwrap_or_default())
    }
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

/// The routes of a table, arranged so that a path is compared with those of its first segment only.
pub struct Router {
    groups: Vec<RouteGroup>,
}

/// The routes whose paths begin with one segment.
struct RouteGroup {
    segment: &'static str,
    forms: Vec<RouteForm>,
}

/// The routes of one form of path, which are neighbours in the table.
struct RouteForm {
    route: Route,
    methods: Vec<(Method, usize)>,
}

impl Router {
    /// `routes` holds routes with longer tails before those with shorter ones of the same head.
    pub fn new(routes: &[Route]) -> Self {
        let mut groups: Vec<RouteGroup> = Vec::new();
        let form_of = |route: &Route| (route.head, route.parameter, route.tail);
        for (i, route) in routes.iter().enumerate() {
            let segment = first_segment(route.head);
            let group = groups.iter_mut().find(|group| group.segment == segment);
            let same_as_before = i > 0 && form_of(&routes[i - 1]) == form_of(route);
            let new_form = || RouteForm {
                route: *route,
                methods: vec![(route.method, i)],
            };
            match group {
                Some(group) => match group.forms.last_mut() {
                    Some(form) if same_as_before => form.methods.push((route.method, i)),
                    _ => group.forms.push(new_form()),
                },
                None => groups.push(RouteGroup {
                    segment,
                    forms: vec![new_form()],
                }),
            }
        }
        Self { groups }
    }

    /// Finds the endpoint.
    pub fn find<'p>(&self, method: Method, path: &'p str) -> Result<Found<'p>, ApiError> {
        let Some(below) = strip_prefix(path) else {
            return Ok(Found::Nothing);
        };
        let segment = first_segment(below);
        let group = self.groups.iter().find(|group| group.segment == segment);
        let forms = group.map_or(&[][..], |group| &group.forms);
        // A path of a more specific form is not matched as a name: `PUT /streams/a/layouts` is 405.
        for RouteForm { route, methods } in forms {
            let Some(raw) = route.matches(below) else {
                continue;
            };
            let served = methods.iter().find(|(served, _)| *served == method);
            return Ok(match served {
                Some((_, index)) => {
                    let start = path.len() - below.len() + route.head.len();
                    let (start, len) = (start as u32, raw.len() as u32);
                    Found::Endpoint(*index, decode(raw)?, ParameterSpan { start, len })
                }
                None => Found::OtherMethods(methods.iter().map(|(method, _)| *method).collect()),
            });
        }
        Ok(Found::Nothing)
    }
}

/// The first segment of a path, without its slash.
fn first_segment(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let end = path.bytes().position(|byte| byte == b'/');
    &path[..end.unwrap_or(path.len())]
}

const NOT_ENCODED: &str = "The path is not percent-encoded UTF-8";

/// Decodes a part of a path, once.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, ApiError> {
    if memchr::memchr(b'%', raw.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(raw));
    }
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
        let path = format!("/central/api/v3{path}");
        match Router::new(ROUTES).find(method, &path) {
            Ok(Found::Endpoint(i, name, span)) => {
                assert_eq!(span.parameter(&path).as_ref(), Ok(&name));
                (Some(i), name.into_owned())
            }
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
        let router = Router::new(ROUTES);
        assert_eq!(
            router.find(Method::Get, "/streams"),
            Ok(Found::Nothing),
            "no prefix"
        );
        assert_eq!(
            router.find(Method::Get, "/central/api/v3streams"),
            Ok(Found::Nothing),
            "no slash"
        );
    }

    /// The rows one by one, which is what the arranged ones must equal.
    fn find_in_order<'p>(
        routes: &[Route],
        method: Method,
        path: &'p str,
    ) -> (Option<(usize, &'p str)>, Vec<Method>) {
        let mut others = Vec::new();
        let mut taken: Option<&Route> = None;
        let form = |route: &Route| (route.head, route.parameter, route.tail);
        for (i, route) in routes.iter().enumerate() {
            if taken.is_some_and(|taken| form(taken) != form(route)) {
                break;
            }
            let Some(raw) = strip_prefix(path).and_then(|path| route.matches(path)) else {
                continue;
            };
            if route.method == method {
                return (Some((i, raw)), Vec::new());
            }
            others.push(route.method);
            taken = Some(route);
        }
        (None, others)
    }

    proptest::proptest! {
        #[test]
        fn arranged_routes_find_what_the_rows_in_order_do(
            pick in proptest::prelude::any::<(usize, usize, usize, usize)>(),
            parameter in "[a-z/%]{0,6}",
            end in "(/|/layouts|/streams|/[a-z]{1,5})?",
        ) {
            use crate::api::endpoint::ROUTES;
            let (row, tail, prefix, method) = pick;
            let head = ROUTES[row % ROUTES.len()].head;
            let tail = ROUTES[tail % ROUTES.len()].tail;
            let prefix = ["/central/api/v3", "/streamer/api/v3", "", "/central"][prefix % 4];
            let method = ROUTES[method % ROUTES.len()].method;
            for path in [
                format!("{prefix}{head}"),
                format!("{prefix}{head}{parameter}{tail}"),
                format!("{prefix}{head}{parameter}{tail}{end}"),
                format!("{prefix}/{parameter}{end}"),
            ] {
                let (expected, others) = find_in_order(&ROUTES, method, &path);
                let found = Router::new(&ROUTES).find(method, &path);
                let expected = match expected {
                    Some((_, raw)) if decode(raw).is_err() => decode(raw).map(|_| Found::Nothing),
                    Some((index, raw)) => {
                        let Ok(Found::Endpoint(_, _, span)) = &found else {
                            panic!("{path}: {found:?}");
                        };
                        proptest::prop_assert_eq!(span.parameter(&path), decode(raw));
                        Ok(Found::Endpoint(index, decode(raw).expect("checked"), *span))
                    }
                    None if others.is_empty() => Ok(Found::Nothing),
                    None => Ok(Found::OtherMethods(others)),
                };
                proptest::prop_assert_eq!(found, expected);
            }
        }
    }
}
