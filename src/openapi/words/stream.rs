//! Streams and their layouts.

use super::{
    BAD_BODY, BAD_QUERY, LAYOUTER_OFF, NAME, NO_STREAM, NOT_PERMITTED, OPERATION, TOO_LARGE,
    UNAUTHORIZED, UNAVAILABLE, empty, json, refuse,
};
use crate::error;
use crate::openapi::model::{BodyDoc, OperationDoc, ResponseDoc, Shape};

pub const STREAMS_LIST: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "List streams",
    description: "A page of the streams that match the filters, by default sorted by name. \
         Secrets are masked.\n\n\
         With `poll_timeout` the request waits while no stream matches. To receive every change, \
         set `updated_at_gt` to the largest `updated_at` received so far: changes get their \
         stamps in the order in which they become readable, so none is missed.\n\n\
         `named_by=remote` lists other streams: those that a configured streamer reports and this \
         server has no configuration of, with `name` and `stats` only. They are never sent to a \
         streamer, count nowhere as streams, and are gone when no current report names them. At \
         most 10,000 per streamer and 100,000 in all are kept; `weir_unconfigured_streams` counts \
         them. This list does not wait: `poll_timeout` has to be 0.\n\n\
         `stats.streaming_endpoint` is the base URL over HTTP below which players find the stream \
         as `/NAME/SUFFIX`: of a streamer that reports it running; else of its ingest node; else \
         of a streamer that may restream it. Only streamers that are alive and have an address for \
         players are chosen, of several the one with the smallest `output_kbit`. Without any it is \
         absent, unless the node of the stream reports a base URL with a public address.\n\n\
         From 20,000 streams on, a list of one or several values of `health` but `operational`, or \
         of `placed=false`, does not scan all streams, unless it has a `poll_timeout`. It has what \
         saves changed at once. What only reports changed it has after the next count, which the \
         list itself starts: its names are at most 12 s old, 14 s with 1,000,000 streams.",
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
    errors: &[error::LAYOUTER_DISABLED],
    ..OPERATION
};

pub const FACETS_GET: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Count streams by the values of fields",
    description: "The most frequent values of each field with the number of their streams: as many \
         as `GET /streams` counts with the value as a filter. Streams without a value are not \
         counted; `other` has those with values that are not shown. `labels` stands for each \
         label, for at most 50 of them, those that most streams have.\n\n\
         Without filters the numbers are of the count that all callers share, as old as those of \
         `GET /cluster/stats`. With filters, and for a token that sees a part of the streams, they \
         are current: a scan counts the streams that match and that the token may list. One that \
         takes more than 5 s is refused. `sort`, `limit`, `cursor` and `select` do not apply. At \
         most 50,000 different values and 1,000 labels are counted apart; streams with further \
         values are in `other`.",
    responses: &[
        json(
            200,
            "The counts.",
            Shape::One("facets"),
            r#"{"at":1727274724000,"facets":[{"field":"labels.customer","other":12,"values":[{"count":17523,"value":"acme"},{"count":911,"value":"borealis"}]}]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const STREAMS_BATCH_UPDATE: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Save several streams at once",
    description: "Creates the streams that do not exist and merges into those that do, in one \
         transaction: one invalid item fails the batch. Every item has the `name` of its stream. \
         A token needs `write` on every stream. If an old ingest node keeps a stream for a \
         handover, its end changes the stream again: `updated_at` and the ETag move.",
    request: Some(BodyDoc {
        shape: Shape::Batch {
            of: "central_stream_config",
            key: "name",
        },
        description: "One merge patch per stream, with its `name`. At most 10,000.",
        example: r#"[{"name":"harbour/cam1","disabled":true},{"name":"harbour/cam2","inputs":[{"url":"rtsp://10.0.4.18/stream1"}]}]"#,
        partial: true,
    }),
    responses: &[
        empty(204, "All items are saved and on disk."),
        refuse(
            "At least one item is invalid; the pointers name all of them. Nothing was changed.",
            error::MISSING_REQUIRED,
        ),
        UNAUTHORIZED,
        NOT_PERMITTED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const BATCH_UPDATE_STREAMS_LAYOUTS: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Set the layouts of several streams",
    description: "Places streams manually, all of them or none. The default of `change_reason` \
         is `relayout_by_api`. A node that the `required.` labels of the stream or of the node \
         forbid is refused, whether the layouter is enabled or not, unless `force` is `true`. The \
         layouter, if enabled, moves streams again whose placement breaks a rule, forced ones \
         too. If an old ingest node keeps a stream for a handover, its end changes the stream \
         again: `updated_at` and the ETag move. A token needs `write` on every stream. With \
         `dry_run=true` nothing is set: all entries are tried together on a copy of the layouter, \
         labels included, and the answer has a verdict for each.",
    request: Some(BodyDoc {
        shape: Shape::One("central_stream_layout_list"),
        description: "The layouts. Every stream must exist. At most 10,000.",
        example: r#"{"layouts":[{"name":"harbour/cam1","ingest":"streamer1.example.com","dvr_backups":["streamer2.example.com"]}]}"#,
        partial: false,
    }),
    responses: &[
        json(
            200,
            "The verdicts of a dry run. Nothing was changed.",
            Shape::One("layout_verdicts"),
            r#"{"layouts":[{"name":"harbour/cam1","ingest":"streamer1.example.com","verdict":"will_be_undone","reasons":["node_channel_limit_exceeded"]}]}"#,
        ),
        empty(204, "All layouts are set and on disk."),
        refuse(
            "At least one entry is invalid, for example because its stream does not exist. \
                 Nothing was changed.",
            error::UNKNOWN_STREAM,
        ),
        UNAUTHORIZED,
        NOT_PERMITTED,
        refuse(
            "The labels of a stream or of a node forbid the placement. Nothing was changed.",
            error::ILLEGAL_LAYOUT,
        ),
        TOO_LARGE,
        UNAVAILABLE,
    ],
    errors: &[error::LAYOUTER_DISABLED],
    ..OPERATION
};

pub const STREAM_GET: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Read one stream",
    description: "The effective configuration with defaults filled in, the stored one in \
         `config_on_disk`, the layout, and the statistics of the running stream. Secrets are not \
         masked for administrators. `stats`, `health` and what is masked move the `ETag` without a \
         change of what is stored, which alone is compared with `If-Match` of a save.",
    parameters: &[NAME],
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
    ..OPERATION
};

pub const STREAM_SAVE: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Create or change a stream",
    description: "Merges the body into the stored stream, or creates the stream if the name is \
         new. The merged result is validated. `name`, if present, must equal that of the path. If \
         the old ingest node keeps the stream for a handover, its end changes the stream again: \
         `updated_at` and the ETag move.",
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
            "Saved and on disk. The effective configuration.",
            Shape::One("central_stream_config"),
            STREAM_EXAMPLE,
        ),
        BAD_BODY,
        UNAUTHORIZED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const STREAM_DELETE: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Delete a stream",
    description: "Deletes the stream. Its streamers stop it at their next poll and remove its \
         recordings by their own rules.",
    parameters: &[NAME],
    responses: &[
        empty(204, "Deleted, and the deletion is on disk."),
        UNAUTHORIZED,
        NO_STREAM,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const STREAM_LAYOUTS_GET: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "List the layout history of a stream",
    description: "The layout history of one stream, by default newest first: one entry per \
         change of nodes, with its reason.",
    parameters: &[NAME],
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
    ..OPERATION
};

const PREDICTION_EXAMPLE: &str = r#"{"estimated_count":1,"next":null,"prev":null,"timing":{},"moves_caused":1,"moves_pending":0,"revision":716,"unplaced":0,"unplaced_before":0,"unplaced_copies":0,"unplaced_sample":[],"changes":[{"name":"harbour/cam1","ingest":"streamer2.example.com","change_reason":"node_misses_stream_required_labels","originator":"layouter"}]}"#;

/// Responses of both previews.
const PREVIEWED: &[ResponseDoc] = &[
    json(
        200,
        "The changes.",
        Shape::One("central_stream_layout_prediction"),
        PREDICTION_EXAMPLE,
    ),
    BAD_BODY,
    UNAUTHORIZED,
    LAYOUTER_OFF,
    TOO_LARGE,
    UNAVAILABLE,
];

pub const PREVIEW_LAYOUT_CHANGE_FOR_STREAM_CONFIG: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Preview the layout changes of saving a stream",
    description: "Every stream that would be placed differently if the body were saved: this one \
         and others that would move because of it. Nothing is changed. A save right afterwards \
         has the predicted effect.",
    parameters: &[NAME],
    request: Some(BodyDoc {
        shape: Shape::One("central_stream_config"),
        description: "The fields to change, as in a save.",
        example: r#"{"labels":{"required.zone":"north"}}"#,
        partial: true,
    }),
    responses: PREVIEWED,
    ..OPERATION
};

pub const BATCH_STREAM_LAYOUT_PREVIEW: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Preview the layout changes of saving several streams",
    description: "Every stream that would be placed differently if all items were saved \
         together. Nothing is changed.",
    request: Some(BodyDoc {
        shape: Shape::Batch {
            of: "central_stream_config",
            key: "name",
        },
        description: "One merge patch per stream, with its `name`. At most 10,000.",
        example: r#"[{"name":"harbour/cam1","labels":{"required.zone":"north"}}]"#,
        partial: true,
    }),
    responses: PREVIEWED,
    extension: true,
    ..OPERATION
};

pub const STREAM_LAYOUT_EXPLAIN: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Explain the layout of a stream",
    description: "The layout of the stream with its reason, and for every node whether the \
         stream could be placed there: all reasons against it, or its score. `better` names a \
         node that suits the stream better, and why it does not move there now. With \
         `group=reasons` the nodes are counted by their reasons.",
    parameters: &[NAME],
    responses: &[
        json(
            200,
            "The explanation.",
            Shape::One("layout_explanation"),
            r#"{"name":"harbour/cam1","layout":{"ingest":"streamer1.example.com","change_reason":"not_distributed","originator":"layouter","created_at":1727274724000},"summary":"Placed on streamer1.example.com, the least loaded of 2 nodes in zone north.","nodes":[{"hostname":"streamer1.example.com","role":"ingest","current":true,"node_decision":true,"reasons":[],"score":1000,"summary":"41 of 500 channels are used."},{"hostname":"streamer3.example.com","role":"ingest","current":false,"node_decision":false,"reasons":["node_misses_stream_required_labels"],"summary":"Does not have the label zone=north."}],"better":{"hostname":"streamer2.example.com","why_not_now":"gap 6.2 < 10 points"}}"#,
        ),
        UNAUTHORIZED,
        NO_STREAM,
        LAYOUTER_OFF,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

const STREAM_EXAMPLE: &str = r#"{"name":"harbour/cam1","title":"Harbour, north pier","static":true,"inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800,"redundancy_factor":2},"labels":{"preferred.zone":"north"},"layout":{"ingest":"streamer1.example.com","dvr_backups":["streamer2.example.com"],"originator":"layouter","created_at":1727274724000},"updated_at":1727274724000,"config_on_disk":{"name":"harbour/cam1","title":"Harbour, north pier","inputs":[{"url":"rtsp://10.0.4.17/stream1"}]}}"#;
const STREAM_SAVE_EXAMPLE: &str = r#"{"title":"Harbour, north pier","inputs":[{"url":"rtsp://10.0.4.17/stream1"}],"dvr":{"reference":"localdvr0","expiration":604800,"redundancy_factor":2},"labels":{"preferred.zone":"north"}}"#;
