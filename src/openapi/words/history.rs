//! Numbers of the past.

use super::{BAD_QUERY, HOSTNAME, NO_STREAMER, OPERATION, UNAUTHORIZED, UNAVAILABLE, json};
use crate::openapi::model::{OperationDoc, Shape};

pub const CLUSTER_HISTORY_GET: OperationDoc = OperationDoc {
    tag: "cluster",
    summary: "Read the numbers of the cluster over the last day",
    description: "A row for each step: `streams` and `streamers` that are configured; \
         `streams_operational`, `streams_degradated`, `streams_outage` and `streams_unplaced` as \
         `GET /cluster/summary` counts them; `streams_more`, how many more fit; `streamers_up`; \
         `input_kbit`, `output_kbit` and `clients`, sums over the streamers that report; \
         `moves_1h`, decisions of the layouter in the hour before. A row of 10 s is a sample; a \
         longer one has the means of the samples in it.\n\n\
         Counts by health and free capacity are known only while callers request the summary, \
         the statistics or the capacity: no sample counts streams. `streams_more` and `moves_1h` \
         are unknown while the layouter is off, and `moves_1h` for a token that may not read \
         `/layouter`. What is not known is null. The numbers are kept in memory: after a start \
         they begin again. If the wall clock is set, the times of all rows move with it.",
    responses: &[
        json(
            200,
            "The table.",
            Shape::One("history"),
            r#"{"fields":["at","streams","streams_operational","streams_degradated","streams_outage","streams_unplaced","streams_more","streamers","streamers_up","input_kbit","output_kbit","clients","moves_1h"],"points":[[1795888320000,1225,1210,2,1,0,287,4,3,4210000,18220000,912,574],[1795888380000,1225,null,null,null,null,null,4,4,4230000,18190000,915,574]]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const STREAMER_HISTORY_GET: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Read the numbers of a node over the last hour",
    description: "A row for each step with numbers of the last report in it: `cpu` and `memory` in \
         percent, `input_kbit`, `output_kbit` and `clients`. They are held until the next report \
         if that comes within the dead timeout; otherwise they are null from the last report on. \
         Numbers above 4,294,967,294 are shown as that. With more than 5,000 nodes they are kept \
         by minute instead of by half minute. They are kept in memory; a node that is deleted and \
         registered again begins again. Times are those of `GET /cluster/history`.",
    parameters: &[HOSTNAME],
    responses: &[
        json(
            200,
            "The table; without rows if the node did not report.",
            Shape::One("history"),
            r#"{"fields":["at","cpu","memory","input_kbit","output_kbit","clients"],"points":[[1795888320000,48,31,120000,960000,912],[1795888350000,null,null,null,null,null],[1795888380000,52,31,121000,955000,915]]}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        NO_STREAMER,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};

pub const STREAMERS_HISTORIES_GET: OperationDoc = OperationDoc {
    tag: "streamer",
    summary: "Read one number of many nodes over the last half hour",
    description: "A column for each node, named by its hostname, of the numbers that `GET \
         /streamers/{hostname}/history` has. Without `hostname` the nodes follow by their names; \
         `next` is there if more follow.",
    responses: &[
        json(
            200,
            "The table.",
            Shape::One("history"),
            r#"{"fields":["at","streamer1.example.com","streamer2.example.com"],"points":[[1795888320000,48,null],[1795888350000,52,17]],"next":"streamer2.example.com"}"#,
        ),
        BAD_QUERY,
        UNAUTHORIZED,
        UNAVAILABLE,
    ],
    extension: true,
    ..OPERATION
};
