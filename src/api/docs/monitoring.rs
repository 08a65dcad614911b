//! Probes and this document.

use super::{OPERATION, RETRY_AFTER, UNAUTHORIZED, json};
use crate::api::openapi::{Content, EndpointDoc, ResponseDoc, Security, Shape};
use crate::error;

pub const DOCS: &[EndpointDoc] = &[
    EndpointDoc {
        method: "GET",
        path: "/monitoring/liveness",
        operation_id: "liveness_probe",
        tag: "monitoring",
        summary: "Ask whether the server works",
        description: "Answers 200 as long as the process handles requests, also while it starts or drains. Failure means: restart it.",
        responses: &[json(
            200,
            "The server handles requests.",
            Shape::One("server_stats_whoami"),
            WHOAMI_EXAMPLE,
        )],
        security: Security::Open,
        ..OPERATION
    },
    EndpointDoc {
        method: "GET",
        path: "/monitoring/readiness",
        operation_id: "readiness_probe",
        tag: "monitoring",
        summary: "Ask whether to send requests here",
        description: "Answers 200 once everything stored is loaded and until the server begins to stop. Failure means: send requests elsewhere.",
        responses: &[
            json(
                200,
                "The server is ready for requests.",
                Shape::One("server_stats_whoami"),
                WHOAMI_EXAMPLE,
            ),
            ResponseDoc {
                status: 503,
                description: "The server is starting or stopping.",
                content: Content::Error(error::NOT_READY),
                headers: &[RETRY_AFTER],
            },
        ],
        security: Security::Open,
        ..OPERATION
    },
    EndpointDoc {
        method: "GET",
        path: "/openapi.json",
        operation_id: "openapi_get",
        tag: "openapi",
        summary: "Get this document",
        description: "The OpenAPI document of the server that answers: what it serves, in which version. `weir print openapi` prints the same.",
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
    },
];

const WHOAMI_EXAMPLE: &str =
    r#"{"server_version":"0.1.0","build":1,"now":1727274724000,"started_at":1727270000}"#;
