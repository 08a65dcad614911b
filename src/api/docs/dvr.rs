//! Storages for recordings.

use super::{BAD_QUERY, LIST, OPERATION, UNAUTHORIZED, UNAVAILABLE, json};
use crate::api::openapi::{EndpointDoc, Shape};

pub const DOCS: &[EndpointDoc] = &[EndpointDoc {
    method: "GET",
    path: "/dvrs",
    operation_id: "dvrs_list",
    tag: "dvr",
    summary: "List storages",
    description: "A page of the storages that streamers of the cluster have, each name once, sorted by name unless asked otherwise. A stream refers \
                  to one with `dvr.reference`.",
    shared: LIST,
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("central_dvrs_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"dvrs":[{"name":"localdvr0"}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
}];
