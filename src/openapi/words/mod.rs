//! The documentation of each operation: description, parameters, body, responses.
//!
//! One file per resource, one constant per operation; the row of the operation refers to it. The
//! schema files describe fields; the constants in `api` that read query parameters describe those.
//! This file has the responses that several resources share.

pub mod agent;
pub mod auth;
pub mod backup;
pub mod balancer;
pub mod bulk;
pub mod cluster;
pub mod config;
pub mod config_external;
pub mod dvr;
pub mod episode;
pub mod event;
pub mod history;
pub mod monitoring;
pub mod person;
pub mod session;
pub mod stream;
pub mod streamer;
pub mod token;

use crate::error::{self, ErrorCode};
use crate::openapi::model::{
    Content, HeaderDoc, OperationDoc, ParamDoc, ParameterIn, ResponseDoc, Shape,
};
use crate::query::params::{ParameterSpec, ValueKind};

/// The default of all members.
const OPERATION: OperationDoc = OperationDoc {
    tag: "",
    summary: "",
    description: "",
    parameters: &[],
    request: None,
    responses: &[],
    errors: &[],
    extension: false,
};

const fn path(name: &'static str, description: &'static str, example: &'static str) -> ParamDoc {
    ParamDoc {
        location: ParameterIn::Path,
        spec: ParameterSpec {
            required: true,
            example: Some(example),
            ..ParameterSpec::new(name, ValueKind::Text, description)
        },
    }
}

/// A whole number in the path.
const fn number(
    name: &'static str,
    maximum: u64,
    description: &'static str,
    example: &'static str,
) -> ParamDoc {
    let mut number = path(name, description, example);
    number.spec.kind = ValueKind::Integer {
        minimum: 0,
        maximum: Some(maximum),
        default: None,
    };
    number
}

/// The number of an episode or a person, at most.
const NUMBER_MAX: u64 = i64::MAX as u64;

const fn refuse(description: &'static str, error: ErrorCode) -> ResponseDoc {
    ResponseDoc {
        status: error.status,
        description,
        content: Content::Error(error),
        headers: &[],
    }
}

const fn empty(status: u16, description: &'static str) -> ResponseDoc {
    ResponseDoc {
        status,
        description,
        content: Content::None,
        headers: &[],
    }
}

const fn json(
    status: u16,
    description: &'static str,
    shape: Shape,
    example: &'static str,
) -> ResponseDoc {
    ResponseDoc {
        status,
        description,
        content: Content::Json(shape, example),
        headers: &[],
    }
}

const NAME: ParamDoc = path(
    "name",
    "Name of the stream. Slashes in it may be sent as they are or as `%2F`; both name the same \
         stream.",
    r#""harbour/cam1""#,
);

const HOSTNAME: ParamDoc = path(
    "hostname",
    "Hostname under which the node is registered.",
    r#""streamer1.example.com""#,
);

const BAD_QUERY: ResponseDoc = refuse("A parameter is invalid.", error::INPUT_OUT_OF_RANGE);

const BAD_BODY: ResponseDoc = refuse(
    "The body is not JSON, or a field is invalid. Nothing was changed.",
    error::NOMATCH_PATTERN,
);

const UNAUTHORIZED: ResponseDoc = refuse("Credentials are missing or wrong.", error::UNAUTHORIZED);

const NO_STREAM: ResponseDoc = refuse("No stream has this name.", error::STREAM_NOT_FOUND);

const NO_STREAMER: ResponseDoc = refuse(
    "No node is registered under this hostname.",
    error::STREAMER_NOT_FOUND,
);

const FORBIDDEN: ResponseDoc = refuse(
    "The credentials are not valid for this node: a cluster key is valid for its own hostname \
     only.",
    error::FORBIDDEN,
);

const NOT_PERMITTED: ResponseDoc = refuse(
    "The token lacks permission for something that this changes; `meta.needs` and `meta.on` name \
     the action and the entity. Entities that the token does not see are counted in \
     `meta.hidden`. Nothing was changed.",
    error::FORBIDDEN,
);

const TOO_LARGE: ResponseDoc = refuse(
    "The body is larger than this operation accepts, or a batch has more items.",
    error::BODY_TOO_LARGE,
);

const RETRY_AFTER: HeaderDoc = HeaderDoc {
    name: "Retry-After",
    kind: ValueKind::Integer {
        minimum: 1,
        maximum: None,
        default: None,
    },
    description: "Seconds after which to try again.",
};

const UNAVAILABLE: ResponseDoc = ResponseDoc {
    status: 503,
    description: "The server is starting, stopping or overloaded, or its disk does not accept \
         writes. Nothing was changed, except that with the code `storage_failed` or `timed_out` \
         a change may or may not have taken effect.",
    content: Content::Error(error::STORAGE_UNAVAILABLE),
    headers: &[RETRY_AFTER],
};

/// The response to a save.
const fn saved(schema: &'static str, example: &'static str) -> ResponseDoc {
    json(
        200,
        "Saved and on disk. The effective configuration.",
        Shape::One(schema),
        example,
    )
}

const DELETED: ResponseDoc = empty(204, "Deleted, and the deletion is on disk.");
const LAYOUTER_OFF: ResponseDoc = refuse("The layouter is disabled.", error::LAYOUTER_DISABLED);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
