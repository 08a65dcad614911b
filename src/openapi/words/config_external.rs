//! What a streamer asks for: its streams, and what it may erase.

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
    summary: "Tell a node its streams",
    description: "The streams the node has to run, rendered for what it does with each: the \
         ingest node gets the source, a node with an \
                      archive copy gets a pull from the ingest node, an inference node gets \
                      name, pull and analytics settings. Always the whole \
                      list of one revision unless a `limit` is given; all pages of one walk come \
                      from the revision of the first.\n\n\
                      A node that sends the `ETag` of its last answer in `If-None-Match` gets \
                      304 while nothing changed for it. Adding \
                      `poll_timeout` makes the server hold the request and answer in the moment \
                      something does. `changes_since` asks for the \
                      difference only.\n\n\
                      With `name` the operation answers like the two below: for the named \
                      streams only, restreamed ones included.",
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
                "The complete list, a page of it, or with `changes_since` the difference.",
                Shape::AnyOf(&["streams_list", "streams_delta"]),
                STREAMS_FOR_STREAMER_EXAMPLE,
            )
        },
        ResponseDoc {
            headers: &[ETAG],
            ..empty(304, "Nothing changed for this node since the given `ETag`.")
        },
        BAD_QUERY,
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        refuse(
            "The revision named by `changes_since` or by the cursor is no longer kept. Fetch the \
                 whole list.",
            error::REVISION_GONE,
        ),
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const STREAMER_UPDATE_STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Tell a node about running streams",
    description: "Asked by a streamer about streams that run on it but were not in the list of \
         its own: each is answered if it is placed on \
                      the node or may be restreamed by it. A name missing from the answer is \
                      stopped by the streamer at once.",
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
            "Those of the named streams the node may run.",
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
    summary: "Tell a node about requested streams",
    description: "Asked by a streamer when a viewer or publisher wants a stream it does not \
         know. A stream of the cluster, in the same \
                      namespace, is answered as an on-demand pull from its ingest node if this \
                      node may restream. A name missing from the answer is \
                      unknown, and the viewer is refused.",
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
            "Those of the named streams the node may fetch and serve.",
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
    summary: "Tell a node which recordings to keep",
    description: "Asked by a streamer before it erases recordings that are older than their \
         time. A stream that is not in the answer has nothing to \
                      protect. When the server cannot tell for sure the answer is 501, upon \
                      which a streamer erases nothing that an episode could \
                      protect.",
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
            "What has to be kept.",
            Shape::One("external_episodes_list"),
            r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"episodes":[{"media":"harbour/cam1","episode_id":1721297304000123456,"opened_at":1721297304000,"updated_at":1721297364102}]}"#,
        ),
        NO_MEDIA,
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        refuse(
            "It is not known which recordings are protected.",
            error::EPISODES_UNKNOWN,
        ),
    ],
    ..OPERATION
};

pub const SRT_PORT_RESOLVE: OperationDoc = OperationDoc {
    tag: "config-external",
    summary: "Tell a node the stream of an SRT port",
    description: "Asked by a streamer when somebody connects to an SRT port. Answers the name of \
         the stream that uses the port on this node.",
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
    "`media` is missing or a parameter has a value that cannot be used.",
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
    description: "Names the version of exactly what this node is told. It moves only when that \
         changes.",
};
const CONFIG_HEADERS: &[HeaderDoc] = &[
    ETAG,
    HeaderDoc {
        name: "X-Config-Server-Separate-Endpoints",
        kind: Kind::Choice(&["true"]),
        description: "Tells the streamer to use the separate operations for running and for \
             requested streams.",
    },
    HeaderDoc {
        name: "X-Config-Server-Episodes",
        kind: Kind::Choice(&["true"]),
        description: "Tells the streamer to ask here which recordings are protected by episodes.",
    },
    HeaderDoc {
        name: "X-Config-Server-Dynamic-Streams",
        kind: Kind::Choice(&["false"]),
        description: "Sent only when restreaming is switched off: the streamer then refuses \
             unknown streams without asking.",
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
    "`name` is missing or a parameter has a value that cannot be used.",
    error::MISSING_REQUIRED,
);
