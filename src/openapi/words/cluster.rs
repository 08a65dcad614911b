//! The cluster as a whole.

use super::{
    BAD_BODY, LAYOUTER_OFF, NOT_PERMITTED, OPENMETRICS, OPERATION, TOO_LARGE, UNAUTHORIZED,
    UNAVAILABLE, empty, json,
};
use crate::error;
use crate::openapi::model::{
    BodyDoc, Content, HeaderDoc, OperationDoc, ParamDoc, ParameterIn, ResponseDoc, Shape,
};
use crate::query::params::{ParameterSpec, ValueKind};

pub const CLUSTER_STATS_GET: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Read the statistics of the cluster",
    description: "Counts of streams, agents and streamers by state, the traffic, and the state \
         of each streamer. For monitoring: the metrics have the names of the reference; the \
         names of this server's own metrics begin with `weir_`. One count is made for all \
         callers. In a cluster of up to about 15,000 streams it begins after the request; in a \
         larger one it may be 2 s old. From about 200,000 streams on no caller waits for a count: \
         it is also made while there are none, then at most once in 10 s, and the first of them \
         may get one that is a minute old. `collected_at` is when it began.",
    responses: &[
        ResponseDoc {
            status: 200,
            description: "The statistics.",
            content: Content::JsonOr(
                Shape::One("cluster_health_stats"),
                r#"{"version":100000001,"server_id":"123e4567-e89b-12d3-a456-426655440000","collected_at":1727274724000,"stream_metrics_total":{"operational":1210,"degradated":2,"partial_outage":0,"outage":1,"disabled":12,"total":1225},"streamer_bitrate_metrics_total":{"input_kbit":4210000,"output_kbit":18220000},"streamer_metrics":[{"hostname":"streamer1.example.com","status":"operational","uptime":4325502,"config":{"status":"operational"},"cpu":{"status":"operational","usage":48},"network":{"out_kbit":{"status":"operational","usage":9120000}}}]}"#,
                OPENMETRICS,
                "# TYPE stream_operational_count gauge\n\
                 stream_operational_count{server_id=\"123e4567-e89b-12d3-a456-426655440000\"} \
                 1210\n# EOF\n",
            ),
            headers: &[],
        },
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    ..OPERATION
};

pub const CLUSTER_PREVIEW: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Preview the effect of events",
    description: "The layout changes if streamers were lost, added, changed or drained, or streams \
         were added, in the given order; all losses happen at once, with the first, and all drains \
         at the end. Moves that are due \
         anyway are counted apart. A token sees the names that it has a right to. Nothing is \
         changed.",
    request: Some(BodyDoc {
        shape: Shape::One("cluster_preview_request"),
        description: "The assumed events.",
        example: r#"{"events":[{"event":"streamer_lost","hostname":"streamer1.example.com"},{"event":"streams_added","count":200,"stream":{"labels":{"required.zone":"north"}}}]}"#,
        partial: false,
    }),
    responses: &[
        json(
            200,
            "The resulting changes.",
            Shape::One("cluster_preview"),
            r#"{"moves":240,"moves_caused":240,"moves_pending":2,"revision":716,"unplaced":3,"unplaced_before":0,"unplaced_copies":0,"unplaced_sample":[{"name":"harbour/cam1","reasons":["node_channel_limit_exceeded","node_offline"]}],"moves_sample":[{"name":"harbour/cam2","from":"streamer1.example.com","to":"streamer2.example.com"}],"changes":[{"hostname":"streamer2.example.com","role":"ingest","before":320,"after":441,"delta":121,"capacity":500}],"summary":"240 streams would move; 1 load would change. 3 streams would be without a running node, 0 of them already now."}"#,
        ),
        BAD_BODY,
        UNAUTHORIZED,
        LAYOUTER_OFF,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    errors: &[error::STREAMER_NOT_FOUND],
    extension: true,
    ..OPERATION
};

pub const LAYOUTER_GET: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Read the state of the layouter",
    description: "Whether it is on, how many decided layouts wait to be written, how many moves \
         its budgets still allow, whether the brake holds all moves after a large loss, and how \
         many changes it decided in the last hour, by reason. The answer has the same size in a \
         cluster of any size. While the layouter is off nothing waits and there are no budgets. \
         During a pause of everything it goes on deciding, and `waiting` has what it would do; \
         during a pause of the improving moves it decides none of these.",
    responses: &[
        json(
            200,
            "The state.",
            Shape::One("layouter_status"),
            r#"{"enabled":true,"last_run":{"at":1727274724000,"moves":12,"us":180},"next_run_at":1727274754000,"budgets":{"improving":{"left":950,"limit":1000},"make_room":{"left":64,"limit":64},"preferred":{"left":50,"limit":50},"rebalance":{"left":38,"limit":50},"restore":{"left":500,"limit":500}},"waiting":{"by_reason":{"rebalance":12},"improving":12,"unplaced":0,"urgent":0},"brake":{"on":false},"moves_1h":{"by_reason":{"not_distributed":40,"rebalance":50}},"paused":null}"#,
        ),
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const LAYOUTER_CHANGE: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Pause the layouter, or drop moves",
    description: "A pause of `improving` holds moves for balance, for preferred labels and back to \
         a node that returned; lost streams, new ones and drains go on. A pause of `all` holds \
         everything: lost nodes are noticed and nothing moves, a new stream has no node, drains \
         wait, and nodes that hand streams over keep them. Layouts that are set through the API \
         are still possible. Once the pause is answered, the layouter moves nothing that it \
         holds, also nothing that it had decided before.\n\n\
         A pause ends at `until` or with `{\"pause\":null}`; what is due then happens at once. It \
         is kept over restarts and no setting changes it. While the server is down its time goes \
         on; after a start with a clock that is not trusted it lasts as long again. A new pause \
         replaces the present one. While the layouter is switched off a pause is refused, and its \
         end is not. Begin and end are events of the log.\n\n\
         `drop` takes back the moves of `improving` that are decided and not on their way to the \
         disk; it changes nothing that is stored.",
    request: Some(BodyDoc {
        shape: Shape::One("layouter_change"),
        description: "A pause, or what is dropped.",
        example: r#"{"pause":{"until":"30m","what":"improving","reason":"new switch"}}"#,
        partial: false,
    }),
    responses: &[
        json(
            200,
            "The pause from now on, on disk; or the number of the dropped moves.",
            Shape::One("layouter_changed"),
            r#"{"paused":{"by":"api_token:anna","reason":"new switch","since":1727274724000,"until":1727276524000,"what":"improving"}}"#,
        ),
        BAD_BODY,
        UNAUTHORIZED,
        NOT_PERMITTED,
        LAYOUTER_OFF,
        TOO_LARGE,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

const SUMMARY_TAG: HeaderDoc = HeaderDoc {
    name: "ETag",
    kind: ValueKind::Text,
    description: "Names this summary. With it in `If-None-Match` the answer is 304 without a body, \
         as long as no newer count was made.",
};

const KNOWN_SUMMARY: ParamDoc = ParamDoc {
    location: ParameterIn::Header,
    spec: ParameterSpec {
        example: Some(r#""\"5f0c1827\"""#),
        extension: true,
        ..ParameterSpec::new(
            "If-None-Match",
            ValueKind::Text,
            "`ETag` of the last answer. While there is no newer count the answer is 304.",
        )
    },
};

pub const CLUSTER_SUMMARY_GET: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Read what an overview of the cluster shows",
    description: "Counts of streams and streamers, traffic, the layouter, free capacity, what \
         needs attention, polls and the store, in at most 8 KiB whatever the size of the cluster. \
         One count is made for all callers, as for `GET /cluster/stats`; `at` is when it began. \
         Each count equals the `estimated_count` of the \
         list of what it counts. A token with `read` on `cluster` gets all numbers; lines of \
         attention and losses about streamers only if it has a right to the streamer, and \
         `layouter` only with `read` on it (else null).",
    parameters: &[KNOWN_SUMMARY],
    responses: &[
        ResponseDoc {
            headers: &[SUMMARY_TAG],
            ..json(
                200,
                "The summary.",
                Shape::One("cluster_summary"),
                r#"{"at":1795888330634,"attention":[{"count":574,"kind":"streamer_down","severity":3,"since":1795888300000,"subject":"streamer1.example.com"}],"attention_kinds":{"streamer_down":1},"attention_total":1,"capacity":{"at":1795888330100,"bottleneck":"channels","classes":[{"bottleneck":"channels","labels":{},"nodes":3,"streams":1213,"streams_more":287,"transcoder":false,"unplaced":0}],"streams_more":287,"survives_any_loss":true,"worst_losses":[]},"layouter":{"brake":false,"enabled":true,"from":"flag","moves_1h":574,"paused":null,"paused_until":null,"waiting":{"improving":12,"urgent":0}},"polls":{"per_second":21.4,"waiting":197},"revision":716,"server":{"started_at":1795887790000,"version":"0.1.0"},"store":{"bytes":2148000,"commits_per_second":3.2,"fsync_p99_us":1000},"streamers":{"degradated":0,"disabled":0,"operational":3,"outage":1,"partial_outage":0,"states":{"cordoned":0,"down":1,"drained":0,"draining":0,"probation":0,"unsure":0,"up":3},"total":4},"streams":{"degradated":2,"disabled":12,"operational":1210,"outage":1,"partial_outage":0,"total":1225,"unplaced":0},"traffic":{"clients":912,"input_kbit":4210000,"output_kbit":18220000}}"#,
            )
        },
        empty(304, "The client has this summary."),
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const CLUSTER_CAPACITY_GET: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Read the free capacity of the cluster",
    description: "How many more streams of each kind fit, which resource is exhausted first, and \
         for each streamer whether the others could take over its streams. Computed once for all \
         callers: an answer that takes 0.01 s of a processor or more is used for 0.2 s to 2 s, and \
         one that takes 0.2 s or more for up to 10 s longer, while the next one is computed.",
    responses: &[
        json(
            200,
            "The capacity.",
            Shape::One("cluster_capacity"),
            r#"{"classes":[{"labels":{"required.zone":"north"},"nodes":3,"streams":1213,"unplaced":0,"streams_more":287,"bottleneck":"channels"}],"losses":[{"hostname":"streamer1.example.com","streams":412,"copies":40,"unplaced":125,"unplaced_copies":12,"survives":false}],"survives_any_loss":false}"#,
        ),
        UNAUTHORIZED,
        LAYOUTER_OFF,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};
