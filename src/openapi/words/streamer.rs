//! Nodes of the cluster.

use super::{
    BAD_BODY, BAD_QUERY, FORBIDDEN, HOSTNAME, LAYOUTER_OFF, NO_STREAMER, NOT_PERMITTED, OPERATION,
    TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, empty, json, refuse,
};
use crate::error;
use crate::openapi::model::{BodyDoc, OperationDoc, ResponseDoc, Shape};

pub const STREAMERS_LIST: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "List nodes",
    description: "A page of the nodes of all roles that match the filters, by default sorted by \
         hostname. Secrets are masked.",
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
    ..OPERATION
};

pub const STREAMERS_BATCH_UPDATE: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Save several nodes at once",
    description: "Creates the nodes that do not exist and merges into those that do, in one \
         transaction: one invalid item fails the batch. Every item has the `hostname` of its \
         node. A token needs the permissions of a single save for every item.",
    request: Some(BodyDoc {
        shape: Shape::Batch {
            of: "streamer_config",
            key: "hostname",
        },
        description: "One merge patch per node, with its `hostname`. New nodes need `role` and \
             `cluster_key`. At most 10,000.",
        example: r#"[{"hostname":"streamer1.example.com","role":"streamer","cluster_key":"xS6i6Q3DCc5nEvnu","labels":{"zone":"north"}}]"#,
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
    errors: &[error::STREAMER_CHECK_FAILED, error::KEY_NEEDED_FOR_CHECK],
    extension: true,
    ..OPERATION
};

pub const STREAMER_GET: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Read one node",
    description: "The configuration of the node and its last report. Secrets are not masked for \
         administrators.",
    parameters: &[HOSTNAME],
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
    ..OPERATION
};

pub const STREAMER_SAVE: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Register or change a node",
    description: "Merges the body into the stored node, or registers the node if the hostname is \
         new; then `role` and `cluster_key` are required. The role determines the other fields. \
         With `checks_enable` the server first requests the configuration of the node.\n\n\
         To set a credential (`cluster_key`, and `cluster_key`, `rproxy.endpoint_auth` and \
         `rproxy.streampoint_key` of `config`) or to change `api_url`, where the key is sent, a \
         token needs `execute` on the node besides `write`, because the cluster key opens what \
         `execute` does. A mask that is written back keeps the credential and needs no more. While \
         `cluster.node_config_provision_enabled` is on, a node that Weir queries receives the \
         authorization backends, so that it needs `execute` on all of them too.",
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
            "Saved and on disk. The effective configuration.",
            Shape::One("streamer_config"),
            STREAMER_EXAMPLE,
        ),
        refuse(
            "The body is not JSON, or a field is invalid, or with `checks_enable` the node did \
                 not return its configuration (`streamer_check_failed`, with the cause in \
                 `meta.reason`, for administrators only), or a check at a new address lacks \
                 the key (`key_needed_for_check`). Nothing was changed.",
            error::UNKNOWN_ENUM_OPTION,
        ),
        UNAUTHORIZED,
        NOT_PERMITTED,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    errors: &[error::STREAMER_CHECK_FAILED, error::KEY_NEEDED_FOR_CHECK],
    ..OPERATION
};

pub const STREAMER_DELETE: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Remove a node",
    description: "Deletes the node. Its polls are then answered with 404. The layouter moves its \
         streams with the reason `node_deleted`.",
    parameters: &[HOSTNAME],
    responses: &[
        empty(204, "Removed, and the removal is on disk."),
        UNAUTHORIZED,
        NO_STREAMER,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const STREAMER_MAINTENANCE_SAVE: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Begin or end the maintenance of a node",
    description: "With `cordon` the layouter places nothing new on the node and moves nothing to \
         it; the streams that are there stay, and what is lost elsewhere goes to other nodes. A \
         layout that is set through the API is still possible. If an agent sends a new stream \
         beside some of the node, all of them move to another node; without room there the new \
         one waits. Two things that the node runs already may still come to it when their node is \
         lost: a stream with a DVR backup there, if no other node can take it, and a stream that \
         is being handed over and that the node still keeps. With `none` the node takes streams \
         again. The mode is kept over restarts and shown in `state.maintenance` of the node.\n\n\
         With `drain` its streams leave, too, by `pace` and only to nodes that have room: what \
         finds no place stays on the air there, is counted in `no_place` and is tried again. DVR \
         backups leave first, and the old copy is kept until every copy of the stream runs, or \
         until `layouter_handover` has passed. A streamer that ingests goes on until the new one \
         does. While one part of a stream is on its way its others stay, also if several nodes \
         are drained at once. A `deadline` makes the drain as fast as it needs; after it an \
         ingest may take the place of a copy of its own stream. `drained_at` is set once nothing \
         is placed on the node and the node itself lists no stream in a report; a node that \
         reports nothing never gets it. Archives that are on the node alone stay on its disk. \
         With `none` the streams that it ingested return, unless `return` was `false`. A drain \
         needs the layouter: while that is switched off the request is refused, and one in \
         progress waits.",
    parameters: &[HOSTNAME],
    request: Some(BodyDoc {
        shape: Shape::One("streamer_maintenance"),
        description: "The mode, and why.",
        example: r#"{"mode":"drain","reason":"new disks","pace":200,"deadline":"30m"}"#,
        partial: false,
    }),
    responses: &[
        json(
            200,
            "Saved and on disk. The node; with `dry_run` what would move.",
            Shape::AnyOf(&["streamer_config", "cluster_preview"]),
            STREAMER_EXAMPLE,
        ),
        refuse(
            "The body is not JSON, or a field is invalid. Nothing was changed.",
            error::UNKNOWN_ENUM_OPTION,
        ),
        UNAUTHORIZED,
        NOT_PERMITTED,
        NO_STREAMER,
        LAYOUTER_OFF,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const STREAMER_STATS_REPORT: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Report the statistics of a node",
    description: "For nodes that this server cannot call, and for tests: the statistics of the \
         node, its storages and the streams that run on it. Members replace those of the \
         previous report; absent members keep their values; `streams` has all running streams. \
         Reports are kept in memory until the node counts as silent, and are shown as `stats` \
         and `dvrs` of the node and as `stats` of the streams. A report is a sign of life, \
         whatever it contains. A node that reports is not queried (`streamer_queries`). \
         Percentages are clamped to 0..100 and fractions rounded; other \
         invalid values are dropped, and the response lists them. A stream that does not run may \
         have an `error`. A node may report for itself with its cluster key.",
    parameters: &[HOSTNAME],
    request: Some(BodyDoc {
        shape: Shape::One("streamer_report"),
        description: "The report. Streams that are not configured here are listed apart \
             (`GET /streams?named_by=remote`). At most 16 MiB and 100,000 streams.",
        example: r#"{"stats":{"cpu_usage":48,"memory_usage":27,"input_kbit":400300,"output_kbit":500400,"total_clients":2040,"online_streams":27},"dvrs":[{"name":"localdvr0","root":"/storage"}],"streams":[{"name":"harbour/cam1","status":"running","alive":true,"bitrate":2543,"online_clients":3}]}"#,
        partial: false,
    }),
    responses: &[
        json(
            200,
            "Accepted without the listed parts.",
            Shape::One("streamer_report_result"),
            r#"{"dropped":[{"code":"not_integer","pointer":"/stats/cpu_usage","title":"Must be an integer"}],"dropped_count":1}"#,
        ),
        empty(204, "Accepted completely."),
        refuse(
            "The body is not a JSON object. The report is discarded, but is a sign of life.",
            error::NOT_OBJECT,
        ),
        UNAUTHORIZED,
        FORBIDDEN,
        NO_STREAMER,
        TOO_LARGE,
    ],
    extension: true,
    ..OPERATION
};

const PREDICTION_EXAMPLE: &str = r#"{"estimated_count":2,"next":null,"prev":null,"timing":{},"moves_caused":21,"moves_pending":0,"revision":716,"unplaced":0,"unplaced_before":0,"unplaced_copies":0,"unplaced_sample":[],"changes":[{"hostname":"streamer1.example.com","role":"ingest","before":321,"after":300,"delta":-21,"capacity":300},{"hostname":"streamer2.example.com","role":"ingest","before":240,"after":261,"delta":21,"capacity":500}]}"#;

/// Responses of both previews.
const PREVIEWED: &[ResponseDoc] = &[
    json(
        200,
        "The changes.",
        Shape::One("central_streamer_layout_prediction"),
        PREDICTION_EXAMPLE,
    ),
    BAD_BODY,
    UNAUTHORIZED,
    LAYOUTER_OFF,
    TOO_LARGE,
    UNAVAILABLE,
];

pub const PREVIEW_LAYOUT_CHANGE_FOR_STREAMER_CONFIG: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Preview the load changes of saving a node",
    description: "Every node that would have another number of streams if the body were saved. \
         Nothing is changed.",
    parameters: &[HOSTNAME],
    request: Some(BodyDoc {
        shape: Shape::One("streamer_config"),
        description: "The fields to change, as in a save.",
        example: r#"{"role":"streamer","cluster_key":"xS6i6Q3DCc5nEvnu","channel_limit":300}"#,
        partial: true,
    }),
    responses: PREVIEWED,
    ..OPERATION
};

pub const BATCH_STREAMER_LAYOUT_PREVIEW: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Preview the load changes of saving several nodes",
    description: "Every node that would have another number of streams if all items were saved \
         together. Nothing is changed.",
    request: Some(BodyDoc {
        shape: Shape::Batch {
            of: "streamer_config",
            key: "hostname",
        },
        description: "One merge patch per node, with its `hostname`. At most 10,000.",
        example: r#"[{"hostname":"streamer1.example.com","role":"streamer","cluster_key":"xS6i6Q3DCc5nEvnu","channel_limit":300}]"#,
        partial: true,
    }),
    responses: PREVIEWED,
    extension: true,
    ..OPERATION
};

const STREAMER_EXAMPLE: &str = r#"{"hostname":"streamer1.example.com","role":"streamer","api_url":"http://10.0.0.11:8080","public_payload_url":"https://streamer1.example.com","cluster_key":"xS6i6Q3DCc5nEvnu","channel_limit":500,"total_bandwidth":10000000,"labels":{"zone":"north"},"stats":null}"#;
const STREAMER_SAVE_EXAMPLE: &str = r#"{"role":"streamer","api_url":"http://10.0.0.11:8080","public_payload_url":"https://streamer1.example.com","cluster_key":"xS6i6Q3DCc5nEvnu","channel_limit":500,"total_bandwidth":10000000,"labels":{"zone":"north"}}"#;
