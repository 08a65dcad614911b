//! Requests of streamers: their streams, and the recordings to keep.

use super::{
    BAD_QUERY, FORBIDDEN, HOSTNAME, NO_STREAMER, OPERATION, UNAUTHORIZED, UNAVAILABLE, empty, json,
    number, refuse,
};
use crate::error;
use crate::openapi::model::{
    Content, HeaderDoc, OperationDoc, ParamDoc, ParameterIn, ResponseDoc, Shape,
};
use crate::query::params::{ParameterSpec, ValueKind};

pub const STREAMER_STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "List the streams of a node",
    description: "The streams that the node must run, rendered for its role in each: the ingest \
         node gets the source, a DVR backup gets a pull from the ingest node, an inference node \
         gets name, pull and analytics settings. The whole list of one revision, unless `limit` \
         is set; all pages come from the revision of the first.\n\n\
         If `If-None-Match` has the `ETag` of the last response, the response is 304 while \
         nothing has changed for the node. With `poll_timeout` the request waits for such a \
         change. `changes_since` requests the delta only.\n\n\
         With `name` the operation is like the following two: it returns the named streams only, \
         including restreamed ones.",
    parameters: &[HOSTNAME, IF_NONE_MATCH],
    responses: &[
        ResponseDoc {
            headers: CONFIG_HEADERS,
            ..json(
                200,
                "The whole list, a page of it, or with `changes_since` the delta.",
                Shape::AnyOf(&["streams_list", "streams_delta"]),
                STREAMS_FOR_STREAMER_EXAMPLE,
            )
        },
        ResponseDoc {
            headers: &[ETAG],
            ..empty(
                304,
                "Nothing has changed for this node since the given `ETag`.",
            )
        },
        BAD_QUERY,
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        refuse(
            "The revision of `changes_since` or of the cursor is no longer kept. Request the \
                 whole list.",
            error::REVISION_GONE,
        ),
        UNAVAILABLE,
    ],
    errors: &[error::INCONSISTENT_STATE],
    ..OPERATION
};

pub const STREAMER_UPDATE_STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Check running streams of a node",
    description: "Requested by a streamer for streams that run on it but are not in its list. \
         The response has those that are placed on the node or that it may restream. The \
         streamer stops the others at once.",
    parameters: &[HOSTNAME],
    responses: &[
        json(
            200,
            "The requested streams that the node may run.",
            Shape::One("streams_list"),
            DYNAMIC_EXAMPLE,
        ),
        NO_NAMES,
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        UNAVAILABLE,
    ],
    errors: &[error::INCONSISTENT_STATE],
    ..OPERATION
};

pub const STREAMER_DYNAMIC_STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Resolve streams requested from a node",
    description: "Requested by a streamer when a client requests a stream that is not in its \
         list. If the node may restream, the response has the stream as an on-demand pull from \
         its ingest node, provided that it is in the same namespace. The streamer refuses \
         clients of the others.",
    parameters: &[HOSTNAME],
    responses: &[
        json(
            200,
            "The requested streams that the node may pull and serve.",
            Shape::One("streams_list"),
            DYNAMIC_EXAMPLE,
        ),
        NO_NAMES,
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        UNAVAILABLE,
    ],
    errors: &[error::INCONSISTENT_STATE],
    ..OPERATION
};

pub const EXTERNAL_EPISODES_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "List the episodes that protect recordings",
    description: "Requested by a streamer before it erases expired recordings. A stream without \
         episodes in the response has no protected recordings. If the list may be incomplete, \
         the response is 501, upon which a streamer erases nothing that an episode could protect: \
         while the store fails, and for streams with automatic episodes while the disk is full and \
         until the recordings of a time in which the streamer was not seen were read.",
    parameters: &[HOSTNAME],
    responses: &[
        json(
            200,
            "The episodes whose recordings must be kept.",
            Shape::One("external_episodes_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"episodes":[{"media":"harbour/cam1","episode_id":1721297304000123456,"opened_at":1721297304000,"updated_at":1721297364102}]}"#,
        ),
        NO_MEDIA,
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        refuse(
            "The list of episodes may be incomplete.",
            error::EPISODES_UNKNOWN,
        ),
    ],
    errors: &[error::INCONSISTENT_STATE],
    ..OPERATION
};

pub const SRT_PORT_RESOLVE: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Resolve an SRT port of a node",
    description: "Requested by a streamer when a client connects to an SRT port. Returns the \
         name of the stream that uses the port on this node.",
    parameters: &[
        HOSTNAME,
        number("port", u16::MAX as u64, "Number of the UDP port.", "9000"),
    ],
    responses: &[
        ResponseDoc {
            status: 200,
            description: "Name of the stream.",
            content: Content::Text("text/plain", "harbour/cam1"),
            headers: &[],
        },
        BAD_QUERY,
        UNAUTHORIZED,
        FORBIDDEN,
        refuse(
            "No stream uses this port on this node, or no node is registered under this hostname.",
            error::STREAM_NOT_FOUND,
        ),
        UNAVAILABLE,
    ],
    errors: &[error::STREAMER_NOT_FOUND, error::INCONSISTENT_STATE],
    ..OPERATION
};

const NO_MEDIA: ResponseDoc = refuse(
    "`media` is missing, or a parameter is invalid.",
    error::MISSING_REQUIRED,
);

const IF_NONE_MATCH: ParamDoc = ParamDoc {
    location: ParameterIn::Header,
    spec: ParameterSpec {
        example: Some(r#""\"5f0c-1827\"""#),
        extension: true,
        ..ParameterSpec::new(
            "If-None-Match",
            ValueKind::Text,
            "`ETag` of the last answer. While it still holds the answer is 304 without a body.",
        )
    },
};
const ETAG: HeaderDoc = HeaderDoc {
    name: "ETag",
    kind: ValueKind::Text,
    description: "Version of the configuration of this node. Changes only with it.",
};
const CONFIG_HEADERS: &[HeaderDoc] = &[
    ETAG,
    HeaderDoc {
        name: "X-Config-Server-Separate-Endpoints",
        kind: ValueKind::Choice(&["true"]),
        description: "The streamer must use the separate operations for running and for \
             requested streams.",
    },
    HeaderDoc {
        name: "X-Config-Server-Episodes",
        kind: ValueKind::Choice(&["true"]),
        description: "The streamer must request the episodes that protect recordings.",
    },
    HeaderDoc {
        name: "X-Config-Server-Dynamic-Streams",
        kind: ValueKind::Choice(&["false"]),
        description: "Sent only if restreaming is disabled: the streamer then refuses unknown \
             streams without a request.",
    },
];
const STREAMS_FOR_STREAMER_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"updated_at":1727274724000,"streams":[{"name":"harbour/cam1","title":"Harbour, north pier","static":true,"inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800}}]}"#;
const DYNAMIC_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"updated_at":1727274724000,"streams":[{"name":"harbour/cam9","static":false,"inputs":[{"url":"m4s://10.0.0.12:8080/harbour/cam9?token=T"}],"on_play":{"url":"auth://viewers"}}]}"#;
const NO_NAMES: ResponseDoc = refuse(
    "`name` is missing, or a parameter is invalid.",
    error::MISSING_REQUIRED,
);
