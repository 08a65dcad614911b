//! Auth backends, and the authorization of sessions.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, HOSTNAME, NO_STREAMER, NOT_PERMITTED, OPERATION, TOO_LARGE,
    UNAUTHORIZED, UNAVAILABLE, empty, json, path, refuse, saved,
};
use crate::access::answer::DURATION_SECONDS_DEFAULT;
use crate::error;
use crate::openapi::model::{BodyDoc, HeaderDoc, OperationDoc, ParamDoc, ResponseDoc, Shape};
use crate::query::params::ValueKind;

const NAME: ParamDoc = path(
    "name",
    "Name of the auth backend, as in `auth://NAME`.",
    r#""viewers""#,
);
const NO_BACKEND: ResponseDoc = refuse(
    "No auth backend has this name.",
    error::AUTH_BACKEND_NOT_FOUND,
);
const BACKEND_EXAMPLE: &str = r#"{"name":"viewers","allow_tokens":["let-me-in"],"deny_ips":["192.0.2.0/24"],"allow_countries":["RS"],"backends":[{"url":"http://billing.example.com/auth"}],"allow_default":false}"#;

pub const AUTH_BACKENDS_LIST: OperationDoc = OperationDoc {
    tag: "auth",
    summary: "List auth backends",
    description: "A page of the auth backends that match the filters, by default sorted by name. \
         Tokens are masked.",
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("auth_backends_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"auth_backends":[{"name":"viewers","allow_tokens":["***"],"allow_default":false}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AUTH_BACKEND_GET: OperationDoc = OperationDoc {
    tag: "auth",
    summary: "Read one auth backend",
    description: "The rules of the auth backend. Tokens are not masked for administrators.",
    parameters: &[NAME],
    responses: &[
        json(
            200,
            "The auth backend.",
            Shape::One("auth_backend_config"),
            BACKEND_EXAMPLE,
        ),
        UNAUTHORIZED,
        NO_BACKEND,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AUTH_BACKEND_SAVE: OperationDoc = OperationDoc {
    tag: "auth",
    summary: "Create or change an auth backend",
    description: "Merges the body into the stored auth backend, or creates it if the name is \
         new. It is effective at once.",
    parameters: &[NAME],
    request: Some(BodyDoc {
        shape: Shape::One("auth_backend_config"),
        description: "The fields to change.",
        example: r#"{"allow_tokens":["let-me-in"],"backends":[{"url":"http://billing.example.com/auth"}]}"#,
        partial: true,
    }),
    responses: &[
        saved("auth_backend_config", BACKEND_EXAMPLE),
        BAD_BODY,
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const AUTH_BACKEND_DELETE: OperationDoc = OperationDoc {
    tag: "auth",
    summary: "Delete an auth backend",
    description: "Deletes the auth backend. Streams that use it then refuse new sessions.",
    parameters: &[NAME],
    responses: &[DELETED, UNAUTHORIZED, NO_BACKEND, UNAVAILABLE],
    ..OPERATION
};

pub const AUTH_BACKEND_TEST: OperationDoc = OperationDoc {
    tag: "auth",
    summary: "Test an auth backend with an assumed viewer",
    description: "Decides about a new session like `/auth`, by the same rules in the same order, \
         and keeps nothing: no decision is reused or stored, no session counts. If no list \
         matches, all HTTP backends are called as for a session, with the `session_id` \
         `00000000-0000-0000-0000-000000000000`; of their replies only the decisions are answered. \
         It takes as long as the slowest of them, at most the setting `auth_backend_timeout`.",
    parameters: &[NAME],
    request: Some(BodyDoc {
        shape: Shape::One("auth_test"),
        description: "The viewer.",
        example: r#"{"ip":"192.0.2.31","token":"let-me-in","stream":"harbour/cam1"}"#,
        partial: false,
    }),
    responses: &[
        json(
            200,
            "The decision, whichever it is.",
            Shape::One("auth_test_result"),
            r#"{"backends":[{"reply":"denied","status":403},{"reply":"none"}],"by":"backends","country":"RS","decision":"denied"}"#,
        ),
        BAD_BODY,
        UNAUTHORIZED,
        NOT_PERMITTED,
        NO_BACKEND,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

const ALLOWED: ResponseDoc = ResponseDoc {
    headers: &[
        HeaderDoc {
            name: "X-AuthDuration",
            kind: ValueKind::Integer {
                minimum: 0,
                maximum: None,
                default: Some(DURATION_SECONDS_DEFAULT as u64),
            },
            description: "Seconds for which the decision is valid.",
        },
        HeaderDoc {
            name: "X-UserId",
            kind: ValueKind::Text,
            description: "Identifier of the viewer, by which sessions are counted.",
        },
        HeaderDoc {
            name: "X-Max-Sessions",
            kind: ValueKind::Integer {
                minimum: 0,
                maximum: None,
                default: None,
            },
            description: "Most concurrent sessions of the viewer. Above that, one of \
                 them is ended.",
        },
        HeaderDoc {
            name: "X-Unique",
            kind: ValueKind::Flag { default: None },
            description: "`true`: the viewer may have one session (older form of \
                 `X-Max-Sessions: 1`).",
        },
    ],
    ..json(
        200,
        "Allowed.",
        Shape::One("auth_response_v1"),
        r#"{"allowed_dvr_ranges":[{"opened_at":1710010000,"closed_at":1710020000}]}"#,
    )
};
const ALLOWED_ELSEWHERE: ResponseDoc = ResponseDoc {
    headers: &[HeaderDoc {
        name: "Location",
        kind: ValueKind::Text,
        description: "URL to play instead.",
    }],
    ..empty(302, "Allowed, with another URL to play.")
};
const SESSION_REFUSED: ResponseDoc = refuse(
    "Denied by a rule or by an HTTP backend, or the stream does not exist.",
    error::SESSION_DENIED,
);

pub const AUTH_REQUEST: OperationDoc = OperationDoc {
    tag: "auth",
    summary: "Authorize a session",
    description: "Requested by a streamer when a session begins and repeatedly while it lasts. \
         The auth backend in `on_play` of the stream decides: tokens, addresses, countries and \
         user agents in this order, then all its HTTP backends at once, of which one that allows \
         is enough, and `allow_default` if none of them replies. The decision is valid for \
         `X-AuthDuration` seconds.",
    responses: &[
        ALLOWED,
        ALLOWED_ELSEWHERE,
        BAD_QUERY,
        UNAUTHORIZED,
        SESSION_REFUSED,
        UNAVAILABLE,
    ],
    errors: &[
        error::TOO_MANY_SESSIONS,
        error::SESSION_STREAM_NOT_FOUND,
        error::SESSION_BACKEND_NOT_FOUND,
    ],
    ..OPERATION
};

pub const STREAMER_AUTH_REQUEST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Authorize a session, for one streamer",
    description: "Like `GET /auth`, with the same parameters and responses, for streamers that \
         have only their cluster key. Streams that the streamer neither holds nor may restream \
         do not exist for it.",
    parameters: &[HOSTNAME],
    responses: &[
        ALLOWED,
        ALLOWED_ELSEWHERE,
        BAD_QUERY,
        UNAUTHORIZED,
        SESSION_REFUSED,
        NO_STREAMER,
        UNAVAILABLE,
    ],
    errors: &[
        error::TOO_MANY_SESSIONS,
        error::SESSION_STREAM_NOT_FOUND,
        error::SESSION_BACKEND_NOT_FOUND,
        error::INCONSISTENT_STATE,
    ],
    extension: true,
    ..OPERATION
};
