//! Persons.

use super::{
    BAD_BODY, BAD_QUERY, NUMBER_MAX, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, empty, json,
    number, refuse, saved,
};
use crate::error;
use crate::openapi::model::{BodyDoc, OperationDoc, ParamDoc, ResponseDoc, Shape};

const ID: ParamDoc = number(
    "person_id",
    NUMBER_MAX,
    "Number of the person.",
    "6865733185536000123",
);

const NO_PERSON: ResponseDoc = refuse("No person has this number.", error::PERSON_NOT_FOUND);

const PERSON_EXAMPLE: &str = r#"{"person_id":6865733185536000123,"external_id":"staff-117","originator":"api","updated_at":1637034282845,"fingerprints":[{"version":"v3","data":"q83vEjRWeJA="}],"photos":[{"mime_type":"image/jpeg","data":"/9j/4AAQSkY="}]}"#;

pub const PERSONS_LIST: OperationDoc = OperationDoc {
    tag: "vision",
    summary: "List persons",
    description: "A page of the persons that match the filters, by default sorted by number. \
         Deleted persons are included for 30 days, with `deleted_at`; `deleted_at_is=null` \
         excludes them.",
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("vision_persons_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"persons":[{"person_id":6865733185536000123,"external_id":"staff-117","originator":"api","updated_at":1637034282845}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const PERSON_GET: OperationDoc = OperationDoc {
    tag: "vision",
    summary: "Read one person",
    description: "The person with fingerprints and photos.",
    parameters: &[ID],
    responses: &[
        json(
            200,
            "The person.",
            Shape::One("vision_person"),
            PERSON_EXAMPLE,
        ),
        UNAUTHORIZED,
        NO_PERSON,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const PERSON_SAVE: OperationDoc = OperationDoc {
    tag: "vision",
    summary: "Create or change a person",
    description: "Merges the body into the stored person, or creates the person if the number is \
         new.",
    parameters: &[ID],
    request: Some(BodyDoc {
        shape: Shape::One("vision_person"),
        description: "The fields to change.",
        example: r#"{"person_id":6865733185536000123,"external_id":"staff-117","originator":"api","updated_at":1637034282845,"photos":[{"data":"/9j/4AAQSkY="}]}"#,
        partial: true,
    }),
    responses: &[
        saved("vision_person", PERSON_EXAMPLE),
        BAD_BODY,
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const PERSON_DELETE: OperationDoc = OperationDoc {
    tag: "vision",
    summary: "Delete a person",
    description: "Marks the person as deleted, so that clients with a copy can delete theirs. \
         The person is removed after 30 days.",
    parameters: &[ID],
    responses: &[
        empty(204, "Marked as deleted, on disk."),
        UNAUTHORIZED,
        NO_PERSON,
        UNAVAILABLE,
    ],
    ..OPERATION
};
