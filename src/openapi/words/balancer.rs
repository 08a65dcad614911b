//! Load balancers, and their redirects.

use super::{
    BAD_BODY, BAD_QUERY, DELETED, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, empty, json,
    path, refuse, saved,
};
use crate::error;
use crate::openapi::model::{BodyDoc, HeaderDoc, OperationDoc, ParamDoc, ResponseDoc, Shape};
use crate::query::params::ValueKind;

const NAME: ParamDoc = path("name", "Name of the load balancer.", r#""europe""#);
const NO_BALANCER: ResponseDoc =
    refuse("No load balancer has this name.", error::BALANCER_NOT_FOUND);
const BALANCER_EXAMPLE: &str = r#"{"name":"europe","mode":"usage","servers":[{"name":"streamer1.example.com","countries":["RS","HU"],"countries_default":true,"max_bitrate":10000000}]}"#;

pub const LOAD_BALANCERS_LIST: OperationDoc = OperationDoc {
    tag: "balancer",
    summary: "List load balancers",
    description: "A page of the load balancers that match the filters, by default sorted by name.",
    responses: &[
        json(
            200,
            "The page.",
            Shape::One("balancers_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"balancers":[{"name":"europe","mode":"clients","servers":[{"name":"streamer1.example.com"}]}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const LOAD_BALANCER_GET: OperationDoc = OperationDoc {
    tag: "balancer",
    summary: "Read one load balancer",
    description: "The servers of the load balancer and the measure of their load.",
    parameters: &[NAME],
    responses: &[
        json(
            200,
            "The load balancer.",
            Shape::One("balancer_config"),
            BALANCER_EXAMPLE,
        ),
        UNAUTHORIZED,
        NO_BALANCER,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const LOAD_BALANCER_SAVE: OperationDoc = OperationDoc {
    tag: "balancer",
    summary: "Create or change a load balancer",
    description: "Merges the body into the stored load balancer, or creates it if the name is new.",
    parameters: &[NAME],
    request: Some(BodyDoc {
        shape: Shape::One("balancer_config"),
        description: "The fields to change.",
        example: r#"{"mode":"usage","servers":[{"name":"streamer1.example.com","max_bitrate":10000000}]}"#,
        partial: true,
    }),
    responses: &[
        saved("balancer_config", BALANCER_EXAMPLE),
        BAD_BODY,
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const LOAD_BALANCER_DELETE: OperationDoc = OperationDoc {
    tag: "balancer",
    summary: "Delete a load balancer",
    description: "Deletes the load balancer. Viewers that were redirected stay on their streamer.",
    parameters: &[NAME],
    responses: &[DELETED, UNAUTHORIZED, NO_BALANCER, UNAVAILABLE],
    extension: true,
    ..OPERATION
};

const STREAMING_PARAMETERS: &[ParamDoc] = &[
    path(
        "loadbalancer_name",
        "Name of the load balancer.",
        r#""europe""#,
    ),
    path(
        "escaped_stream_name",
        "Name of the stream, with its slashes written as `%2F`.",
        r#""harbour%2Fcam1""#,
    ),
    path(
        "multi_segment_suffix",
        "The rest of the address as the streamer knows it. May have slashes in it.",
        r#""index.m3u8""#,
    ),
];
const REDIRECT: ResponseDoc = ResponseDoc {
    headers: &[HeaderDoc {
        name: "Location",
        kind: ValueKind::Text,
        description: "URL of the stream on the chosen streamer, with the query of the request.",
    }],
    ..empty(302, "Redirect to the chosen streamer.")
};
const UNKNOWN: ResponseDoc = refuse(
    "No load balancer or no stream has this name.",
    error::STREAM_NOT_FOUND,
);
const NOT_ELIGIBLE: ResponseDoc = refuse(
    "No streamer of the load balancer is eligible: alive, below its limit, able to serve the \
         stream, serving the country of the client, and with an address for players \
         (`no_public_address` if only that is missing).",
    error::NO_STREAMER_AVAILABLE,
);

pub const STREAMING_LB_PLAYBACK: OperationDoc = OperationDoc {
    tag: "balancer",
    summary: "Redirect a viewer to a streamer",
    description: "Redirects to the least loaded streamer that accepts viewers from this country, \
         at its `public_payload_url`, else at its `api_url` or hostname if that is not internal; \
         a streamer with `play_urls` at the URL there for the rest of the address. \
         Of the streamers of the load balancer, those that report the stream running are \
         considered; if none of them is eligible, its ingest node; else those that may restream \
         it; and all for a stream that is placed nowhere and that none reports. \
         For protocols over HTTP: HLS, DASH, WHEP. Requires no credentials, although the \
         reference has no such exception: players have none for this server, and the streamer \
         checks those of the viewer. It reveals only whether a load balancer and a stream of \
         this name exist.",
    parameters: STREAMING_PARAMETERS,
    responses: &[REDIRECT, UNKNOWN, NOT_ELIGIBLE],
    errors: &[error::BALANCER_NOT_FOUND, error::NO_PUBLIC_ADDRESS],
    extension: true,
    ..OPERATION
};

pub const STREAMING_LB_PUBLISH: OperationDoc = OperationDoc {
    tag: "balancer",
    summary: "Redirect a publisher to a streamer",
    description: "Redirects like the operation for viewers, but only to the ingest node of the \
         stream if it has one. For publishing over HTTP: WHIP. The body is ignored. Requires no \
         credentials for the same reason: the streamer checks those of the publisher.",
    parameters: STREAMING_PARAMETERS,
    responses: &[REDIRECT, UNKNOWN, NOT_ELIGIBLE],
    errors: &[error::BALANCER_NOT_FOUND, error::NO_PUBLIC_ADDRESS],
    extension: true,
    ..OPERATION
};
