//! Probes and this document.

use super::{OPERATION, RETRY_AFTER, UNAUTHORIZED, json};
use crate::error;
use crate::openapi::model::{Content, OperationDoc, ResponseDoc, Shape};

pub const LIVENESS_PROBE: OperationDoc = OperationDoc {
    tag: "monitoring",
    summary: "Check liveness",
    description: "Returns 200 while the process handles requests, also while it starts or \
         drains. After a failure, restart the server.",
    responses: &[json(
        200,
        "The server handles requests.",
        Shape::One("server_stats_whoami"),
        WHOAMI_EXAMPLE,
    )],
    ..OPERATION
};

pub const READINESS_PROBE: OperationDoc = OperationDoc {
    tag: "monitoring",
    summary: "Check readiness",
    description: "Returns 200 from the time when the state is loaded until the server begins to \
         stop. After a failure, send requests to another server.",
    responses: &[
        json(
            200,
            "The server is ready for requests.",
            Shape::One("server_stats_whoami"),
            WHOAMI_EXAMPLE,
        ),
        ResponseDoc {
            status: 503,
            description: "The server is starting or stopping, its store does not accept writes, or \
                 its disk is full. If the store could not be opened three times in a row or more, \
                 `meta.reopen_failures` is their number. Reads are served meanwhile.",
            content: Content::Error(error::NOT_READY),
            headers: &[RETRY_AFTER],
        },
    ],
    errors: &[error::DISK_FULL],
    ..OPERATION
};

pub const OPENAPI_GET: OperationDoc = OperationDoc {
    tag: "openapi",
    summary: "Get this document",
    description: "The OpenAPI document of this server. `weir print openapi` prints the same.",
    responses: &[
        json(
            200,
            "The document.",
            Shape::Openapi,
            r#"{"openapi":"3.1.0","info":{"title":"Weir API","version":"0.1.0"},"paths":{}}"#,
        ),
        UNAUTHORIZED,
    ],
    extension: true,
    ..OPERATION
};

const WHOAMI_EXAMPLE: &str =
    r#"{"server_version":"0.1.0","build":1,"now":1727274724000,"started_at":1727270000}"#;
