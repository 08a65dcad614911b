//! The log of events.

use super::{BAD_QUERY, NUMBER_MAX, OPERATION, UNAUTHORIZED, UNAVAILABLE, json, number, refuse};
use crate::error;
use crate::openapi::model::{OperationDoc, ParamDoc, ResponseDoc, Shape};

const ID: ParamDoc = number("event_id", NUMBER_MAX, "Number of the event.", "308871168");

const NO_EVENT: ResponseDoc = refuse(
    "No event has this number, or it is too old and was removed.",
    error::EVENT_NOT_FOUND,
);

const EVENT_EXAMPLE: &str = r#"{"changed":["/labels/site","/disabled"],"duration":1812,"entity_id":"harbour/cam1","entity_type":"stream","event":"api_call","event_id":308871168,"ip":"192.0.2.10","operation_id":"stream_save","originator":"operator","path":"/central/api/v3/streams/harbour/cam1","status":200,"trace_id":"05cec7ee-fbd0-11ed-be56-0242ac120002","user":"api_key","utc_ms":1727274724000}"#;

pub const CENTRAL_EVENTS_LIST: OperationDoc = OperationDoc {
    tag: "events",
    summary: "List events",
    description: "A page of the events that match the filters: changes through the API with their \
         author, decisions of the layouter, connections of agents. An event is committed together \
         with its change. Refused requests and reads have no event; the server logs them with \
         `log_requests`. Old events are removed by age and by size. Events contain no secrets.\n\n\
         A request with `limit`, and without `event_id_gt` or `event_id_gte`, gets the newest \
         events first (`sort=-event_id`); every other one the oldest first (`sort=event_id`).\n\n\
         Lists in an event are bounded: `entities` and `relayouts` show up to 100 elements, or \
         16 KiB, and `changed` up to 50, or 2 KiB. `entities_count`, `relayouts_count` and \
         `changed_count` count all of them. The filter `stream` finds the event by all streams.",
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

pub const CENTRAL_EVENT_GET: OperationDoc = OperationDoc {
    tag: "events",
    summary: "Read one event",
    description: "The event as the list shows it. Events never change.",
    parameters: &[ID],
    responses: &[
        json(
            200,
            "The event.",
            Shape::One("central_event"),
            EVENT_EXAMPLE,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        NO_EVENT,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};
