//! Episodes.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, NUMBER_MAX, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE,
    json, number, refuse, saved,
};
use crate::error;
use crate::openapi::model::{BodyDoc, OperationDoc, ParamDoc, ResponseDoc, Shape};

const ID: ParamDoc = number(
    "episode_id",
    NUMBER_MAX,
    "Number of the episode.",
    "1721297304000123456",
);

const NO_EPISODE: ResponseDoc = refuse("No episode has this number.", error::EPISODE_NOT_FOUND);

const EPISODE_EXAMPLE: &str = r#"{"episode_id":1721297304000123456,"episode_type":"generic","media":"harbour/cam1","opened_at":1721297304000,"closed_at":1721297364000,"close_reason":"timeout","updated_at":1721297364102,"originator":{"source":"api"}}"#;

pub const EPISODES_LIST: OperationDoc = OperationDoc {
    tag: "episode",
    summary: "List episodes",
    description: "A page of the episodes that match the filters, by default sorted by \
         `updated_at`.\n\n\
         To receive every episode, set `updated_at_gt` to the largest `updated_at` received so \
         far, and `poll_timeout` to wait for the next. No episode is missed: the server assigns \
         stamps in the order in which episodes become readable, independently of the clocks of \
         clients, and a page of such a request never ends between two equal stamps: it may be \
         longer than `limit`.",
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("episodes_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"episodes":[{"episode_id":1721297304000123456,"episode_type":"face","media":"harbour/cam1","opened_at":1721297304000,"updated_at":1721297364102,"preview":"/9j/4AAQSkY="}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const EPISODE_GET: OperationDoc = OperationDoc {
    tag: "episode",
    summary: "Read one episode",
    description: "The episode as last saved.",
    parameters: &[ID],
    responses: &[
        json(200, "The episode.", Shape::One("episode"), EPISODE_EXAMPLE),
        BAD_QUERY,
        UNAUTHORIZED,
        NO_EPISODE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const EPISODE_SAVE: OperationDoc = OperationDoc {
    tag: "episode",
    summary: "Create or change an episode",
    description: "Merges the body into the stored episode, or creates the episode if the number \
         is new; usually the body is a full copy. `closed_at` cannot be changed once it is set. \
         Episodes are committed in groups: the response is sent when the group is on disk, which \
         is delayed by at most `episodes_buffer_delay`, and not at all while episodes are saved \
         one after another.",
    parameters: &[ID],
    request: Some(BodyDoc {
        shape: Shape::One("episode"),
        description: "The episode. `episode_id`, if present, must equal that of the path.",
        example: r#"{"episode_id":1721297304000123456,"episode_type":"door_open","media":"harbour/cam1","opened_at":1721297304000,"updated_at":1721297305000,"payload":{"door":"east"}}"#,
        partial: true,
    }),
    responses: &[
        saved("episode", EPISODE_EXAMPLE),
        BAD_BODY,
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const EPISODE_DELETE: OperationDoc = OperationDoc {
    tag: "episode",
    summary: "Delete an episode",
    description: "Deletes the episode. The recordings that it protected can then be erased.",
    parameters: &[ID],
    responses: &[DELETED, UNAUTHORIZED, NO_EPISODE, UNAVAILABLE],
    ..OPERATION
};
