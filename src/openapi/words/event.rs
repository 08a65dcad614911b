//! The log of events.

use super::{BAD_QUERY, OPERATION, UNAUTHORIZED, UNAVAILABLE, json};
use crate::openapi::model::{OperationDoc, Shape};

pub const CENTRAL_EVENTS_LIST: OperationDoc = OperationDoc {
    tag: "events",
    summary: "List events",
    description: "A page of the events that match the filters, by default oldest first: changes \
         through the API with their author, decisions of the layouter, connections of agents. An \
         event is committed together with its change. Refused requests and reads have no event; \
         the server logs them with `log_requests`. Old events are removed by age and by size. \
         Events contain no secrets.",
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("central_events_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"events":[{"event":"api_call","event_id":65536,"utc_ms":1727274724000,"operation_id":"stream_save","entity_type":"stream","entity_id":"harbour/cam1","originator":"operator","ip":"192.0.2.10","status":200,"duration":1812,"trace_id":"05cec7ee-fbd0-11ed-be56-0242ac120002"}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};
