//! The documentation of each operation: description, parameters, body, responses.
//!
//! One file per resource, one constant per operation; the row of the operation refers to it. The
//! schema files describe fields. This file has the parameters and responses that several resources
//! share.

pub mod agent;
pub mod auth;
pub mod balancer;
pub mod cluster;
pub mod config;
pub mod config_external;
pub mod dvr;
pub mod episode;
pub mod event;
pub mod monitoring;
pub mod person;
pub mod stream;
pub mod streamer;
pub mod token;

use crate::error::{self, ErrorCode};
use crate::openapi::model::{
    Content, HeaderDoc, Kind, OperationDoc, ParamDoc, Place, ResponseDoc, Shape,
};

/// The default of all members.
pub const NONE: OperationDoc = OPERATION;
const OPERATION: OperationDoc = OperationDoc {
    tag: "",
    summary: "",
    description: "",
    parameters: &[],
    shared: &[],
    request: None,
    responses: &[],
    extension: false,
};

/// The parameters of every list.
const LIST: &[ParamDoc] = &[SELECT, SORT, LIMIT, CURSOR, FILTERS];
/// The parameters of a list without filters.
const PAGE: &[ParamDoc] = &[SELECT, SORT, LIMIT, CURSOR];

const LIMIT_MAX: i64 = 10_000;

const LIMIT_DEFAULT: i64 = 100;

const fn path(name: &'static str, description: &'static str, example: &'static str) -> ParamDoc {
    ParamDoc {
        name,
        place: Place::Path,
        required: true,
        kind: Kind::Text,
        description,
        example: Some(example),
        extension: false,
    }
}

const fn query(
    name: &'static str,
    kind: Kind,
    description: &'static str,
    example: &'static str,
) -> ParamDoc {
    ParamDoc {
        name,
        place: Place::Query,
        required: false,
        kind,
        description,
        example: Some(example),
        extension: false,
    }
}

const fn later(mut parameter: ParamDoc) -> ParamDoc {
    parameter.extension = true;
    parameter
}

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

const SELECT: ParamDoc = query(
    "select",
    Kind::List,
    "Fields to return, joined by commas; nested ones with dots. The key of the item is always \
         returned. A selected field an item does not \
     have is `null`.",
    r#"["name","inputs.url","dvr.expiration"]"#,
);

const LIMIT: ParamDoc = query(
    "limit",
    Kind::Integer {
        minimum: 1,
        maximum: Some(LIMIT_MAX),
        default: Some(LIMIT_DEFAULT),
    },
    "Largest number of items on the page.",
    "100",
);

const CURSOR: ParamDoc = query(
    "cursor",
    Kind::Text,
    "`next` or `prev` of an earlier answer to the same query. Opaque; filters and `sort` must be \
         repeated with it.",
    r#""bmFtZV9ndD1jYW0rMQ==""#,
);

const FILTERS: ParamDoc = query(
    "filters",
    Kind::Filters,
    "Any further parameters, each a filter on the field it names, with an optional suffix for \
         the comparison: `layout.ingest=a,b`, \
     `stats.bitrate_gt=1000`, `layout.ingest_is=null`, `inputs.url_like=10.0.`, `disabled`.",
    r#"{"layout.ingest":"streamer1.example.com"}"#,
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
    "The credentials are not valid for this node: a cluster key is valid for its own hostname only.",
    error::FORBIDDEN,
);

const TOO_LARGE: ResponseDoc = refuse(
    "The body is larger than this operation accepts, or a batch has more items.",
    error::BODY_TOO_LARGE,
);

const RETRY_AFTER: HeaderDoc = HeaderDoc {
    name: "Retry-After",
    kind: Kind::Integer {
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

const SORT: ParamDoc = query(
    "sort",
    Kind::List,
    "Fields to sort by, joined by commas; `-` before a field sorts it downwards. The key of the \
         collection decides among equals.",
    r#"["-updated_at"]"#,
);
const POLL_TIMEOUT: ParamDoc = query(
    "poll_timeout",
    Kind::Integer {
        minimum: 0,
        maximum: None,
        default: None,
    },
    "Seconds to wait for something that passes the filters. Answered as soon as there is \
         something, be it by a change or, where `stats` is \
     asked about, by what streamers report; or with an empty page at the end. Longer waits than \
     the server allows are shortened.",
    "30",
);

/// The number in the path of an episode or a person.
const fn number(name: &'static str, description: &'static str, example: &'static str) -> ParamDoc {
    ParamDoc {
        kind: Kind::Integer {
            minimum: 0,
            maximum: Some(i64::MAX),
            default: None,
        },
        ..path(name, description, example)
    }
}

const fn required(mut parameter: ParamDoc) -> ParamDoc {
    parameter.required = true;
    parameter
}

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
const FORMAT: ParamDoc = query(
    "format",
    Kind::Choice(&["openmetrics"]),
    "`openmetrics` answers in the text format of OpenMetrics, as does that media type in \
         `Accept`. JSON when absent.",
    r#""openmetrics""#,
);
