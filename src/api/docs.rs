//! The words about each operation: what it does, what it takes, what it answers.
//!
//! One entry per operation of streams, streamers, configuration for streamers, and probes. The router's table decides what is served; this one
//! tells it to people and tools, through `openapi`. Fields are described in the schema files, not here.

use super::openapi::{
    BodyDoc, Content, EndpointDoc, HeaderDoc, Kind, ParamDoc, Place, ResponseDoc, Security, Shape,
};

/// Most items a page can have, and what is taken when `limit` is absent.
const LIMIT_MAX: i64 = 10_000;
const LIMIT_DEFAULT: i64 = 100;

const fn path(name: &'static str, description: &'static str, example: &'static str) -> ParamDoc {
    ParamDoc {
        name,
        place: Place::Path,
        required: true,
        kind: Kind::Text,
        description,
        example: Some(example),
        extension: false,
    }
}

const fn query(
    name: &'static str,
    kind: Kind,
    description: &'static str,
    example: &'static str,
) -> ParamDoc {
    ParamDoc {
        name,
        place: Place::Query,
        required: false,
        kind,
        description,
        example: Some(example),
        extension: false,
    }
}

const fn later(mut parameter: ParamDoc) -> ParamDoc {
    parameter.extension = true;
    parameter
}

const fn refuse(
    status: u16,
    description: &'static str,
    code: &'static str,
    title: &'static str,
) -> ResponseDoc {
    ResponseDoc {
        status,
        description,
        content: Content::Error { code, title },
        headers: &[],
    }
}

const fn empty(status: u16, description: &'static str) -> ResponseDoc {
    ResponseDoc {
        status,
        description,
        content: Content::None,
        headers: &[],
    }
}

const fn json(
    status: u16,
    description: &'static str,
    shape: Shape,
    example: &'static str,
) -> ResponseDoc {
    ResponseDoc {
        status,
        description,
        content: Content::Json(shape, example),
        headers: &[],
    }
}

const NAME: ParamDoc = path(
    "name",
    "Name of the stream. Slashes in it may be sent as they are or as `%2F`; both name the same stream.",
    r#""harbour/cam1""#,
);
const HOSTNAME: ParamDoc = path(
    "hostname",
    "Hostname under which the node is registered.",
    r#""streamer1.example.com""#,
);
const SELECT: ParamDoc = query(
    "select",
    Kind::List,
    "Fields to return, joined by commas; nested ones with dots. The key of the item is always returned. A selected field an item does not \
     have is `null`.",
    r#"["name","inputs.url","dvr.expiration"]"#,
);
const LIMIT: ParamDoc = query(
    "limit",
    Kind::Integer {
        minimum: 1,
        maximum: Some(LIMIT_MAX),
        default: Some(LIMIT_DEFAULT),
    },
    "Largest number of items on the page.",
    "100",
);
const CURSOR: ParamDoc = query(
    "cursor",
    Kind::Text,
    "`next` or `prev` of an earlier answer to the same query. Opaque; filters and `sort` must be repeated with it.",
    r#""bmFtZV9ndD1jYW0rMQ==""#,
);
const FILTERS: ParamDoc = query(
    "filters",
    Kind::Filters,
    "Any further parameters, each a filter on the field it names, with an optional suffix for the comparison: `layout.ingest=a,b`, \
     `stats.bitrate_gt=1000`, `layout.ingest_is=null`, `inputs.url_like=10.0.`, `disabled`.",
    r#"{"layout.ingest":"streamer1.example.com"}"#,
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
const HOST: ParamDoc = query(
    "host",
    Kind::Text,
    "Hostname that streamers add to their requests by themselves. Ignored, the path decides.",
    r#""streamer1.example.com""#,
);

const BAD_QUERY: ResponseDoc = refuse(
    400,
    "A parameter has a value that cannot be used.",
    "input_out_of_range",
    "The limit must be between 1 and 10000",
);
const BAD_BODY: ResponseDoc = refuse(
    400,
    "The body is not JSON, or a field in it has a value that cannot be used. Nothing was changed.",
    "nomatch_pattern",
    "No kind of source has a url like this",
);
const UNAUTHORIZED: ResponseDoc = refuse(
    401,
    "Credentials are missing or wrong.",
    "unauthorized",
    "Credentials are required",
);
const NO_STREAM: ResponseDoc = refuse(
    404,
    "No stream has this name.",
    "stream_not_found",
    "No stream has this name",
);
const NO_STREAMER: ResponseDoc = refuse(
    404,
    "No node is registered under this hostname.",
    "streamer_not_found",
    "No node is registered under this hostname",
);
const FORBIDDEN: ResponseDoc = refuse(
    403,
    "The credentials are valid but not for this node: a cluster key opens its own hostname only.",
    "forbidden",
    "This key does not open this hostname",
);
const TOO_LARGE: ResponseDoc = refuse(
    413,
    "The body is larger than this operation accepts, or a batch has more items.",
    "body_too_large",
    "The body is larger than this operation accepts",
);
const RETRY_AFTER: HeaderDoc = HeaderDoc {
    name: "Retry-After",
    kind: Kind::Integer {
        minimum: 1,
        maximum: None,
        default: None,
    },
    description: "Seconds after which to try again.",
};
const UNAVAILABLE: ResponseDoc = ResponseDoc {
    status: 503,
    description: "The server cannot answer now: it is starting or stopping, more changes wait than it can hold, or its disk does not accept \
                  writes. Nothing was changed, unless the code is `storage_failed` or `timed_out`: then a change may or may not have taken effect.",
    content: Content::Error {
        code: "unavailable",
        title: "The server cannot take changes at the moment",
    },
    headers: &[RETRY_AFTER],
};

const ETAG: HeaderDoc = HeaderDoc {
    name: "ETag",
    kind: Kind::Text,
    description: "Names the version of exactly what this node is told. It moves only when that changes.",
};
const CONFIG_HEADERS: &[HeaderDoc] = &[
    ETAG,
    HeaderDoc {
        name: "X-Config-Server-Separate-Endpoints",
        kind: Kind::Choice(&["true"]),
        description: "Tells the streamer to use the separate operations for running and for requested streams.",
    },
    HeaderDoc {
        name: "X-Config-Server-Episodes",
        kind: Kind::Choice(&["true"]),
        description: "Tells the streamer to ask here which recordings are protected by episodes.",
    },
    HeaderDoc {
        name: "X-Config-Server-Dynamic-Streams",
        kind: Kind::Choice(&["false"]),
        description: "Sent only when restreaming is switched off: the streamer then refuses unknown streams without asking.",
    },
];

const STREAM_EXAMPLE: &str = r#"{"name":"harbour/cam1","title":"Harbour, north pier","static":true,"inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800,"redundancy_factor":2},"labels":{"preferred.zone":"north"},"layout":{"ingest":"streamer1.example.com","dvr_backups":["streamer2.example.com"],"originator":"layouter","created_at":1727274724000},"updated_at":1727274724000,"config_on_disk":{"name":"harbour/cam1","title":"Harbour, north pier","inputs":[{"url":"rtsp://10.0.4.17/stream1"}]}}"#;
const STREAM_SAVE_EXAMPLE: &str = r#"{"title":"Harbour, north pier","inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800,"redundancy_factor":2},"labels":{"preferred.zone":"north"}}"#;
const STREAMER_EXAMPLE: &str = r#"{"hostname":"streamer1.example.com","role":"streamer","api_url":"http://10.0.0.11:8080","public_payload_url":"https://streamer1.example.com","cluster_key":"xS6i6Q3DCc5nEvnu","channel_limit":500,"total_bandwidth":10000000,"labels":{"zone":"north"},"stats":null}"#;
const STREAMER_SAVE_EXAMPLE: &str = r#"{"role":"streamer","api_url":"http://10.0.0.11:8080","public_payload_url":"https://streamer1.example.com","cluster_key":"xS6i6Q3DCc5nEvnu","channel_limit":500,"total_bandwidth":10000000,"labels":{"zone":"north"}}"#;
const STREAMS_FOR_STREAMER_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"updated_at":1727274724000,"streams":[{"name":"harbour/cam1","title":"Harbour, north pier","static":true,"inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800}}]}"#;
const DYNAMIC_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"updated_at":1727274724000,"streams":[{"name":"harbour/cam9","static":false,"inputs":[{"url":"m4s://10.0.0.12:8080/harbour/cam9?token=T"}],"on_play":{"url":"auth://viewers"}}]}"#;
const WHOAMI_EXAMPLE: &str =
    r#"{"server_version":"0.1.0","build":1,"now":1727274724000,"started_at":1727270000}"#;

/// The documented operations, in the order of the document's tags.
pub const ENDPOINT_DOCS: &[EndpointDoc] = &[
    EndpointDoc {
        method: "GET",
        path: "/streams",
        operation_id: "streams_list",
        tag: "stream",
        summary: "List streams",
        description: "A page of the streams that pass the filters, sorted by name unless asked otherwise. Secrets are masked.\n\n\
                      With `poll_timeout` the request waits while nothing passes the filters. A program that wants to see every change asks with \
                      `updated_at_gt` set to the largest `updated_at` it has seen: changes get their stamps in the order they become readable, \
                      so none is missed.",
        parameters: &[
            SELECT,
            query(
                "sort",
                Kind::List,
                "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By `name` when absent, and `name` decides among equals.",
                r#"["-stats.bitrate","name"]"#,
            ),
            LIMIT,
            CURSOR,
            query(
                "q",
                Kind::Text,
                "Text to look for, in upper or lower case, in name, title, comment, template and the URLs of inputs (without credentials).",
                r#""harbour""#,
            ),
            query(
                "poll_timeout",
                Kind::Integer {
                    minimum: 0,
                    maximum: None,
                    default: None,
                },
                "Seconds to wait for something that passes the filters. Answered as soon as there is something, or with an empty page at the end. \
                 Longer waits than the server allows are shortened.",
                "30",
            ),
            query(
                "scheme",
                Kind::Choice(&["http", "https"]),
                "Scheme wanted in `stats.streaming_endpoint`; where a node does not serve it, the other one is returned.",
                r#""https""#,
            ),
            query(
                "client_ip",
                Kind::Text,
                "Address of the viewer for whom `stats.streaming_endpoint` is asked.",
                r#""192.0.2.31""#,
            ),
            later(query(
                "include_ingest_history",
                Kind::Flag,
                "Also return `layout.ingest_history`.",
                "true",
            )),
            FILTERS,
        ],
        request: None,
        responses: &[
            json(
                200,
                "The page.",
                Shape::One("central_streams_list"),
                r#"{"estimated_count":1,"next":null,"prev":null,"timing":{"filter":0,"sort":0,"limit":0,"select":0},"streams":[{"name":"harbour/cam1","inputs":[{"url":"rtsp://admin:***@10.0.4.17/stream1"}],"updated_at":1727274724000}]}"#,
            ),
            BAD_QUERY,
            UNAUTHORIZED,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "PUT",
        path: "/streams/batch",
        operation_id: "streams_batch_update",
        tag: "stream",
        summary: "Save several streams at once",
        description: "Creates the streams that do not exist and merges into those that do, all of them or none: one invalid item refuses the \
                      batch. No reader sees a part of it. Every item names its stream.",
        parameters: &[],
        request: Some(BodyDoc {
            shape: Shape::ArrayOf("central_stream_config"),
            description: "One merge patch per stream, with its `name`. At most 10,000.",
            example: r#"[{"name":"harbour/cam1","disabled":true},{"name":"harbour/cam2","inputs":[{"url":"rtsp://10.0.4.18/stream1"}]}]"#,
            partial: true,
        }),
        responses: &[
            empty(204, "All items are saved and on disk."),
            refuse(
                400,
                "At least one item is invalid; the pointers name all of them. Nothing was changed.",
                "missing_required",
                "Every item needs the name of its stream",
            ),
            UNAUTHORIZED,
            TOO_LARGE,
            UNAVAILABLE,
        ],
        extension: true,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "POST",
        path: "/streams/layouts",
        operation_id: "batch_update_streams_layouts",
        tag: "stream",
        summary: "Set the layouts of several streams",
        description: "Places streams by hand, all of them or none. A layout without a `change_reason` gets `relayout_by_api`. The layouter, when it \
                      runs, may move the streams again if the placement breaks a rule.",
        parameters: &[],
        request: Some(BodyDoc {
            shape: Shape::One("central_stream_layout_list"),
            description: "The layouts. Every stream must exist. At most 10,000.",
            example: r#"{"layouts":[{"name":"harbour/cam1","ingest":"streamer1.example.com","dvr_backups":["streamer2.example.com"]}]}"#,
            partial: false,
        }),
        responses: &[
            empty(204, "All layouts are set and on disk."),
            refuse(
                400,
                "At least one entry is invalid, for example names a stream that does not exist. Nothing was changed.",
                "stream_not_found",
                "No stream has this name",
            ),
            UNAUTHORIZED,
            TOO_LARGE,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "GET",
        path: "/streams/{name}",
        operation_id: "stream_get",
        tag: "stream",
        summary: "Read one stream",
        description: "The effective configuration with defaults filled in, the stored one in `config_on_disk`, the layout, and what is known of \
                      the running stream. An administrator sees secrets here in the clear.",
        parameters: &[NAME],
        request: None,
        responses: &[
            json(
                200,
                "The stream.",
                Shape::One("central_stream_config"),
                STREAM_EXAMPLE,
            ),
            UNAUTHORIZED,
            NO_STREAM,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "PUT",
        path: "/streams/{name}",
        operation_id: "stream_save",
        tag: "stream",
        summary: "Create or change a stream",
        description: "Merges the body into the stored stream, or creates the stream if the name is new. The merged result is checked as a whole. \
                      A `name` in the body must equal the one in the path.",
        parameters: &[NAME],
        request: Some(BodyDoc {
            shape: Shape::One("central_stream_config"),
            description: "The fields to change.",
            example: STREAM_SAVE_EXAMPLE,
            partial: true,
        }),
        responses: &[
            json(
                200,
                "Saved and on disk; the whole effective configuration.",
                Shape::One("central_stream_config"),
                STREAM_EXAMPLE,
            ),
            BAD_BODY,
            UNAUTHORIZED,
            TOO_LARGE,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "DELETE",
        path: "/streams/{name}",
        operation_id: "stream_delete",
        tag: "stream",
        summary: "Delete a stream",
        description: "Removes the stream for good. Its streamers learn it at their next poll and stop the stream; what they recorded is \
                      removed by their own rules.",
        parameters: &[NAME],
        request: None,
        responses: &[
            empty(204, "Deleted, and the deletion is on disk."),
            UNAUTHORIZED,
            NO_STREAM,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "GET",
        path: "/streams/{name}/layouts",
        operation_id: "stream_layouts_get",
        tag: "stream",
        summary: "Read where a stream has been",
        description: "The layout history of one stream, newest first: one entry per change of nodes, with its reason.",
        parameters: &[
            NAME,
            query(
                "created_at_gt",
                Kind::Moment,
                "Only changes after this moment.",
                "1730844572000",
            ),
            query(
                "created_at_lt",
                Kind::Moment,
                "Only changes before this moment.",
                "1730844572000",
            ),
            LIMIT,
            CURSOR,
            SELECT,
            query(
                "sort",
                Kind::List,
                "Fields to sort by, joined by commas; `-` before a field sorts it downwards. `-created_at` when absent.",
                r#"["created_at"]"#,
            ),
        ],
        request: None,
        responses: &[
            json(
                200,
                "The page.",
                Shape::One("central_stream_layouts"),
                r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"layouts":[{"created_at":1727274724000,"ingest":"streamer1.example.com","change_reason":"not_distributed","originator":"layouter"}]}"#,
            ),
            BAD_QUERY,
            UNAUTHORIZED,
            NO_STREAM,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "GET",
        path: "/streamers",
        operation_id: "streamers_list",
        tag: "streamer",
        summary: "List nodes",
        description: "A page of the nodes of all roles that pass the filters, sorted by hostname unless asked otherwise. Secrets are masked.",
        parameters: &[
            SELECT,
            query(
                "sort",
                Kind::List,
                "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By `hostname` when absent.",
                r#"["-stats.cpu_usage"]"#,
            ),
            LIMIT,
            CURSOR,
            FILTERS,
        ],
        request: None,
        responses: &[
            json(
                200,
                "The page.",
                Shape::One("streamers_list"),
                r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"streamers":[{"hostname":"streamer1.example.com","role":"streamer","cluster_key":"***","stats":null}]}"#,
            ),
            BAD_QUERY,
            UNAUTHORIZED,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "PUT",
        path: "/streamers/batch",
        operation_id: "streamers_batch_update",
        tag: "streamer",
        summary: "Save several nodes at once",
        description: "Creates the nodes that do not exist and merges into those that do, all of them or none: one invalid item refuses the \
                      batch. Every item names its node by `hostname`.",
        parameters: &[],
        request: Some(BodyDoc {
            shape: Shape::ArrayOf("streamer_config"),
            description: "One merge patch per node, with its `hostname`. New nodes need `role` and `cluster_key`. At most 10,000.",
            example: r#"[{"hostname":"streamer1.example.com","role":"streamer","cluster_key":"xS6i6Q3DCc5nEvnu","labels":{"zone":"north"}}]"#,
            partial: true,
        }),
        responses: &[
            empty(204, "All items are saved and on disk."),
            refuse(
                400,
                "At least one item is invalid; the pointers name all of them. Nothing was changed.",
                "missing_required",
                "A new node needs a role",
            ),
            UNAUTHORIZED,
            TOO_LARGE,
            UNAVAILABLE,
        ],
        extension: true,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "GET",
        path: "/streamers/{hostname}",
        operation_id: "streamer_get",
        tag: "streamer",
        summary: "Read one node",
        description: "The configuration of the node and what it last reported. An administrator sees secrets here in the clear.",
        parameters: &[HOSTNAME],
        request: None,
        responses: &[
            json(
                200,
                "The node.",
                Shape::One("streamer_config"),
                STREAMER_EXAMPLE,
            ),
            UNAUTHORIZED,
            NO_STREAMER,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "PUT",
        path: "/streamers/{hostname}",
        operation_id: "streamer_save",
        tag: "streamer",
        summary: "Register or change a node",
        description: "Merges the body into the stored node, or registers the node if the hostname is new; then `role` and `cluster_key` are \
                      required. The role decides which fields there are.",
        parameters: &[HOSTNAME],
        request: Some(BodyDoc {
            shape: Shape::One("streamer_config"),
            description: "The fields to change.",
            example: STREAMER_SAVE_EXAMPLE,
            partial: true,
        }),
        responses: &[
            json(
                200,
                "Saved and on disk; the whole effective configuration.",
                Shape::One("streamer_config"),
                STREAMER_EXAMPLE,
            ),
            refuse(
                400,
                "The body is not JSON, or a field in it has a value that cannot be used. Nothing was changed.",
                "unknown_enum_option",
                "No node has a role like this",
            ),
            UNAUTHORIZED,
            TOO_LARGE,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "DELETE",
        path: "/streamers/{hostname}",
        operation_id: "streamer_delete",
        tag: "streamer",
        summary: "Remove a node",
        description: "Takes the node out of the cluster for good. From then on its polls are answered 404. Streams placed on it are moved by \
                      the layouter with the reason `node_deleted`.",
        parameters: &[HOSTNAME],
        request: None,
        responses: &[
            empty(204, "Removed, and the removal is on disk."),
            UNAUTHORIZED,
            NO_STREAMER,
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Administrator,
    },
    EndpointDoc {
        method: "GET",
        path: "/streamers/{hostname}/streams",
        operation_id: "streamer_streams_list",
        tag: "config-external",
        summary: "Tell a node its streams",
        description: "The streams the node has to run, rendered for what it does with each: the ingest node gets the source, a node with an \
                      archive copy gets a pull from the ingest node, an inference node gets name, pull and analytics settings. Always the whole \
                      list of one revision unless a `limit` is given; all pages of one walk come from the revision of the first.\n\n\
                      A node that sends the `ETag` of its last answer in `If-None-Match` gets 304 while nothing changed for it. Adding \
                      `poll_timeout` makes the server hold the request and answer in the moment something does. `changes_since` asks for the \
                      difference only.\n\n\
                      With `name` the operation answers like the two below: for the named streams only, restreamed ones included.",
        parameters: &[
            HOSTNAME,
            HOST,
            SELECT,
            query(
                "sort",
                Kind::List,
                "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By `name` when absent.",
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
                "`next` or `prev` of an earlier answer. Refused with 410 when the revision it belongs to is no longer kept (60 seconds).",
                r#""bmFtZV9ndD1jYW0rMQ==""#,
            ),
            query(
                "q",
                Kind::Text,
                "Text to look for, in upper or lower case, in name, title, comment, template and the URLs of inputs (without credentials).",
                r#""harbour""#,
            ),
            ParamDoc {
                required: false,
                description: "Names of streams, joined by commas. Answers for these only, whether placed here or restreamed. For streamers that \
                              know a single operation.",
                ..NAMES
            },
            ParamDoc {
                name: "If-None-Match",
                place: Place::Header,
                required: false,
                kind: Kind::Text,
                description: "`ETag` of the last answer. While it still holds the answer is 304 without a body.",
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
                "With `If-None-Match`: seconds to wait for a change that concerns this node before answering 304. Longer waits than the server \
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
                "Revision the node has. Answers with what changed for the node since then, or with 410 when that is too long ago; then the \
                 whole list has to be fetched. Send the `ETag` of that revision in `If-None-Match`, too: if the server was restored from a \
                 backup since, its revisions mean something else, and the answer is 410.",
                "1820",
            )),
        ],
        request: None,
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
                410,
                "The revision named by `changes_since` or by the cursor is no longer kept. Fetch the whole list.",
                "revision_gone",
                "The revision is no longer kept; fetch the whole list",
            ),
            UNAVAILABLE,
        ],
        extension: false,
        security: Security::Node,
    },
    EndpointDoc {
        method: "GET",
        path: "/streamers/{hostname}/update-streams",
        operation_id: "streamer_update_streams_list",
        tag: "config-external",
        summary: "Tell a node about running streams",
        description: "Asked by a streamer about streams that run on it but were not in the list of its own: each is answered if it is placed on \
                      the node or may be restreamed by it. A name missing from the answer is stopped by the streamer at once.",
        parameters: &[
            HOSTNAME,
            HOST,
            NAMES,
            CURSOR,
            LIMIT_OPTIONAL,
            SELECT,
            SORT_BY_NAME,
        ],
        request: None,
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
        extension: false,
        security: Security::Node,
    },
    EndpointDoc {
        method: "GET",
        path: "/streamers/{hostname}/dynamic-streams",
        operation_id: "streamer_dynamic_streams_list",
        tag: "config-external",
        summary: "Tell a node about requested streams",
        description: "Asked by a streamer when a viewer or publisher wants a stream it does not know. A stream of the cluster, in the same \
                      namespace, is answered as an on-demand pull from its ingest node if this node may restream. A name missing from the answer is \
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
        request: None,
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
        extension: false,
        security: Security::Node,
    },
    EndpointDoc {
        method: "GET",
        path: "/streamers/{hostname}/episodes",
        operation_id: "external_episodes_list",
        tag: "config-external",
        summary: "Tell a node which recordings to keep",
        description: "Asked by a streamer before it erases recordings that are older than their time. Episodes are not kept by this server yet: \
                      the answer is always 501, upon which a streamer erases nothing that an episode could protect.",
        parameters: &[HOSTNAME, HOST],
        request: None,
        responses: &[
            UNAUTHORIZED,
            FORBIDDEN,
            NO_STREAMER,
            refuse(
                501,
                "It is not known which recordings are protected.",
                "episodes_unknown",
                "This server keeps no episodes; keep what is recorded",
            ),
        ],
        extension: false,
        security: Security::Node,
    },
    EndpointDoc {
        method: "GET",
        path: "/monitoring/liveness",
        operation_id: "liveness_probe",
        tag: "monitoring",
        summary: "Ask whether the server works",
        description: "Answers 200 as long as the process handles requests, also while it starts or drains. Failure means: restart it.",
        parameters: &[],
        request: None,
        responses: &[json(
            200,
            "The server handles requests.",
            Shape::One("server_stats_whoami"),
            WHOAMI_EXAMPLE,
        )],
        extension: false,
        security: Security::Open,
    },
    EndpointDoc {
        method: "GET",
        path: "/monitoring/readiness",
        operation_id: "readiness_probe",
        tag: "monitoring",
        summary: "Ask whether to send requests here",
        description: "Answers 200 once everything stored is loaded and until the server begins to stop. Failure means: send requests elsewhere.",
        parameters: &[],
        request: None,
        responses: &[
            json(
                200,
                "The server is ready for requests.",
                Shape::One("server_stats_whoami"),
                WHOAMI_EXAMPLE,
            ),
            ResponseDoc {
                status: 503,
                description: "The server is starting or stopping.",
                content: Content::Error {
                    code: "not_ready",
                    title: "The server is not ready",
                },
                headers: &[RETRY_AFTER],
            },
        ],
        extension: false,
        security: Security::Open,
    },
    EndpointDoc {
        method: "GET",
        path: "/openapi.json",
        operation_id: "openapi_get",
        tag: "openapi",
        summary: "Get this document",
        description: "The OpenAPI document of the server that answers: what it serves, in which version. `weir print openapi` prints the same.",
        parameters: &[],
        request: None,
        responses: &[
            json(
                200,
                "The document.",
                Shape::Openapi,
                r#"{"openapi":"3.1.0","info":{"title":"Weir API","version":"0.1.0"},"paths":{}}"#,
            ),
            UNAUTHORIZED,
        ],
        extension: true,
        security: Security::Administrator,
    },
];

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
    "Fields to sort by, joined by commas; `-` before a field sorts it downwards. By `name` when absent.",
    r#"["name"]"#,
);
const NO_NAMES: ResponseDoc = refuse(
    400,
    "`name` is missing or a parameter has a value that cannot be used.",
    "missing_required",
    "The parameter name is required",
);
