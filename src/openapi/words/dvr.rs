//! Storages for recordings.

use super::{BAD_QUERY, OPERATION, UNAUTHORIZED, UNAVAILABLE, json};
use crate::openapi::model::{OperationDoc, Shape};

pub const DVRS_LIST: OperationDoc = OperationDoc {
    tag: "dvr",
    summary: "List storages",
    description: "A page of the storages on the streamers of the cluster, each name once, by \
         default sorted by name. `dvr.reference` of a stream refers to one.",
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
};
