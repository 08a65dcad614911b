//! Requests of streamers: their streams, and the recordings to keep.

use super::{
    BAD_QUERY, CURSOR, FORBIDDEN, HOSTNAME, LIMIT_MAX, NO_STREAMER, OPERATION, PAGE, SELECT,
    UNAUTHORIZED, UNAVAILABLE, empty, json, later, path, query, refuse, required,
};
use crate::error;
use crate::openapi::model::{
    Content, HeaderDoc, Kind, OperationDoc, ParamDoc, Place, ResponseDoc, Shape,
};

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
    parameters: &[
        HOSTNAME,
        HOST,
        SELECT,
        query(
            "sort",
            Kind::List,
            "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By \
                 `name` when absent.",
            r#"["-dvr.expiration","name"]"#,
        ),
        query(
            "limit",
            Kind::Integer {
                minimum: 1,
                maximum: Some(LIMIT_MAX),
                default: None,
            },
            "Largest number of streams on a page. The whole list when absent.",
            "1000",
        ),
        query(
            "cursor",
            Kind::Text,
            "`next` or `prev` of an earlier answer. Refused with 410 when the revision it \
                 belongs to is no longer kept (60 seconds).",
            r#""bmFtZV9ndD1jYW0rMQ==""#,
        ),
        query(
            "q",
            Kind::Text,
            "Text to look for, in upper or lower case, in name, title, comment, template and the \
                 URLs of inputs (without credentials).",
            r#""harbour""#,
        ),
        ParamDoc {
            required: false,
            description: "Names of streams, joined by commas. Answers for these only, whether \
                 placed here or restreamed. For streamers that \
                              know a single operation.",
            ..NAMES
        },
        ParamDoc {
            name: "If-None-Match",
            place: Place::Header,
            required: false,
            kind: Kind::Text,
            description: "`ETag` of the last answer. While it still holds the answer is 304 \
                 without a body.",
            example: Some(r#""\"5f0c-1827\"""#),
            extension: true,
        },
        later(query(
            "poll_timeout",
            Kind::Integer {
                minimum: 0,
                maximum: None,
                default: None,
            },
            "With `If-None-Match`: seconds to wait for a change that concerns this node before \
                 answering 304. Longer waits than the server \
                 allows are shortened.",
            "30",
        )),
        later(query(
            "changes_since",
            Kind::Integer {
                minimum: 0,
                maximum: None,
                default: None,
            },
            "Revision the node has. Answers with what changed for the node since then, or with \
                 410 when that is too long ago; then the \
                 whole list has to be fetched. Send the `ETag` of that revision in \
                 `If-None-Match`, too: if the server was restored from a \
                 backup since, its revisions mean something else, and the answer is 410.",
            "1820",
        )),
    ],
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
    ..OPERATION
};

pub const STREAMER_UPDATE_STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Check running streams of a node",
    description: "Requested by a streamer for streams that run on it but are not in its list. \
         The response has those that are placed on the node or that it may restream. The \
         streamer stops the others at once.",
    parameters: &[
        HOSTNAME,
        HOST,
        NAMES,
        CURSOR,
        LIMIT_OPTIONAL,
        SELECT,
        SORT_BY_NAME,
    ],
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
    ..OPERATION
};

pub const STREAMER_DYNAMIC_STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Resolve streams requested from a node",
    description: "Requested by a streamer when a client requests a stream that is not in its \
         list. If the node may restream, the response has the stream as an on-demand pull from \
         its ingest node, provided that it is in the same namespace. The streamer refuses \
         clients of the others.",
    parameters: &[
        HOSTNAME,
        HOST,
        NAMES,
        CURSOR,
        LIMIT_OPTIONAL,
        SELECT,
        SORT_BY_NAME,
    ],
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
    ..OPERATION
};

pub const EXTERNAL_EPISODES_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "List the episodes that protect recordings",
    description: "Requested by a streamer before it erases expired recordings. A stream without \
         episodes in the response has no protected recordings. If the list may be incomplete, \
         the response is 501, upon which a streamer erases nothing that an episode could protect.",
    parameters: &[
        HOSTNAME,
        HOST,
        ParamDoc {
            name: "media",
            description: "Streams asked about, joined by commas. Their episodes come mixed.",
            ..NAMES
        },
        query(
            "opened_at_lt",
            Kind::Moment,
            "Only episodes that began before this moment.",
            "1637094994000",
        ),
        query(
            "closed_at_gt",
            Kind::Moment,
            "Only episodes that ended after this moment or go on.",
            "1637094994000",
        ),
    ],
    shared: PAGE,
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
    ..OPERATION
};

pub const SRT_PORT_RESOLVE: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Resolve an SRT port of a node",
    description: "Requested by a streamer when a client connects to an SRT port. Returns the \
         name of the stream that uses the port on this node.",
    parameters: &[
        HOSTNAME,
        ParamDoc {
            kind: Kind::Integer {
                minimum: 0,
                maximum: Some(65_535),
                default: None,
            },
            ..path("port", "Number of the UDP port.", "9000")
        },
        required(query(
            "mode",
            Kind::Choice(&["play", "publish"]),
            "What the port is for, by the settings of the listener.",
            r#""publish""#,
        )),
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
    ..OPERATION
};

const NO_MEDIA: ResponseDoc = refuse(
    "`media` is missing, or a parameter is invalid.",
    error::MISSING_REQUIRED,
);

const HOST: ParamDoc = query(
    "host",
    Kind::Text,
    "Hostname that streamers add to their requests by themselves. Ignored, the path decides.",
    r#""streamer1.example.com""#,
);
const NAMES: ParamDoc = ParamDoc {
    name: "name",
    place: Place::Query,
    required: true,
    kind: Kind::List,
    description: "Names of the streams asked for, joined by commas.",
    example: Some(r#"["harbour/cam1","harbour/cam2"]"#),
    extension: false,
};
const ETAG: HeaderDoc = HeaderDoc {
    name: "ETag",
    kind: Kind::Text,
    description: "Version of the configuration of this node. Changes only with it.",
};
const CONFIG_HEADERS: &[HeaderDoc] = &[
    ETAG,
    HeaderDoc {
        name: "X-Config-Server-Separate-Endpoints",
        kind: Kind::Choice(&["true"]),
        description: "The streamer must use the separate operations for running and for \
             requested streams.",
    },
    HeaderDoc {
        name: "X-Config-Server-Episodes",
        kind: Kind::Choice(&["true"]),
        description: "The streamer must request the episodes that protect recordings.",
    },
    HeaderDoc {
        name: "X-Config-Server-Dynamic-Streams",
        kind: Kind::Choice(&["false"]),
        description: "Sent only if restreaming is disabled: the streamer then refuses unknown \
             streams without a request.",
    },
];
const STREAMS_FOR_STREAMER_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"updated_at":1727274724000,"streams":[{"name":"harbour/cam1","title":"Harbour, north pier","static":true,"inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800}}]}"#;
const DYNAMIC_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"updated_at":1727274724000,"streams":[{"name":"harbour/cam9","static":false,"inputs":[{"url":"m4s://10.0.0.12:8080/harbour/cam9?token=T"}],"on_play":{"url":"auth://viewers"}}]}"#;
const LIMIT_OPTIONAL: ParamDoc = query(
    "limit",
    Kind::Integer {
        minimum: 1,
        maximum: Some(LIMIT_MAX),
        default: None,
    },
    "Largest number of streams on a page. All that were asked for when absent.",
    "1000",
);
const SORT_BY_NAME: ParamDoc = query(
    "sort",
    Kind::List,
    "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By `name` when \
         absent.",
    r#"["name"]"#,
);
const NO_NAMES: ResponseDoc = refuse(
    "`name` is missing, or a parameter is invalid.",
    error::MISSING_REQUIRED,
);
