//! Sessions of browsers.

use super::{BAD_BODY, OPERATION, RETRY_AFTER, TOO_LARGE, UNAUTHORIZED, empty, json, refuse};
use crate::error;
use crate::openapi::model::{
    BodyDoc, Content, HeaderDoc, OperationDoc, ParamDoc, ParameterIn, ResponseDoc, Shape,
};
use crate::query::params::{ParameterSpec, ValueKind};

const SESSION_EXAMPLE: &str = r#"{"user":"api_token:anna","may":{"read":true,"write":true,"execute":false,"admin":false},"scopes":["streams/*"],"expires_at":1727317924000,"server":{"version":"0.1.0","started_at":1727270000000},"features":["layouter"]}"#;

const PAGE: ParamDoc = ParamDoc {
    location: ParameterIn::Header,
    spec: ParameterSpec {
        extension: true,
        ..ParameterSpec::new(
            "X-Weir-UI",
            ValueKind::Text,
            "`1`. A cookie counts only together with it, and a session is opened only with it: \
             pages of other origins cannot send it. A 401 to a request with it has no \
             `WWW-Authenticate`.",
        )
    },
};

const COOKIE: HeaderDoc = HeaderDoc {
    name: "Set-Cookie",
    kind: ValueKind::Text,
    description: "`weir_session`, which scripts cannot read, for 43200 seconds (12 hours). \
         `Secure` if `X-Forwarded-Proto` is `https`.",
};

pub const SESSION_GET: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Read the session",
    description: "The caller and what its credential permits, for a session and for every other \
         credential but cluster keys.",
    parameters: &[PAGE],
    responses: &[
        json(
            200,
            "The caller.",
            Shape::One("browser_session"),
            SESSION_EXAMPLE,
        ),
        UNAUTHORIZED,
    ],
    extension: true,
    ..OPERATION
};

pub const SESSION_OPEN: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Open a session",
    description: "For the web interface: the answer sets a cookie that stands for the credential \
         until the session ends: after 12 hours, when it is closed, when the credential is \
         replaced or deleted, or with the process. At most 10000 sessions are kept; above, the \
         oldest one ends. A session never opens the configuration of a streamer. The refusal of a \
         wrong credential takes 300 milliseconds; after 10 in a minute, further attempts from the \
         address are 429 until the minute is over.",
    parameters: &[PAGE],
    request: Some(BodyDoc {
        shape: Shape::One("browser_login"),
        description: "The credential.",
        example: r#"{"key":"only-for-reading-9"}"#,
        partial: false,
    }),
    responses: &[
        ResponseDoc {
            headers: &[COOKIE],
            ..json(
                200,
                "The session.",
                Shape::One("browser_session"),
                SESSION_EXAMPLE,
            )
        },
        BAD_BODY,
        UNAUTHORIZED,
        refuse("A page of another site made the request.", error::FORBIDDEN),
        TOO_LARGE,
        ResponseDoc {
            status: 429,
            description: "Too many wrong credentials from this address.",
            content: Content::Error(error::TOO_MANY_FAILURES),
            headers: &[RETRY_AFTER],
        },
    ],
    errors: &[error::NO_RANDOMNESS],
    extension: true,
};

pub const SESSION_CLOSE: OperationDoc = OperationDoc {
    tag: "config",
    summary: "Close the session",
    description: "Ends the session of the cookie. Credentials are not affected.",
    parameters: &[PAGE],
    responses: &[empty(204, "The session has ended."), UNAUTHORIZED],
    extension: true,
    ..OPERATION
};
