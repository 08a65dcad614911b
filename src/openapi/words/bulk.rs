//! Changes of all streams that match filters.

use super::{NOT_PERMITTED, OPERATION, TOO_LARGE, UNAUTHORIZED, UNAVAILABLE, refuse};
use crate::error;
use crate::openapi::model::{BodyDoc, Content, OperationDoc, ResponseDoc, Shape};

pub const STREAMS_BATCH_UPDATE_BY_FILTER: OperationDoc = OperationDoc {
    tag: "stream",
    summary: "Change all streams that match",
    description: "Saves, deletes or moves the streams that match `q` and the filters, which are \
         those of `GET /streams`; without any, all streams. Without `apply=true` nothing is \
         changed: the answer has the number of these streams, some names and what would move. \
         The first 10,000 are tried, so a change that is not possible is refused by the dry run, \
         too. Names of parameters and members that are not known are always refused.\n\n\
         Which streams match is decided once, at the beginning; a token counts the streams that it \
         may list and write. Each of them is changed once, even if the change decides which ones \
         match. A stream that is changed by others meanwhile is changed only if it still matches, \
         and one that is deleted is not created again; both are counted in `skipped`. With \
         `expect` the change is refused with 409 if other streams match than at the dry run; saves \
         of other streams do not matter. For filters on what streamers report, such as \
         `health=outage`, `expect` may be `{}`.\n\n\
         Up to 10,000 streams are changed in one commit, all of them or none; those that others \
         change in the same moment follow in another one. More are changed in several commits, \
         and the answer has a line after each; the last line has `ended`. An error in the first \
         commit is an ordinary error. After it the last line names the error, and `done` the \
         streams that are on disk: the same request changes the rest. If the client disconnects, \
         the commit under way is the last one. Each commit has its own event `api_call`.",
    request: Some(BodyDoc {
        shape: Shape::One("streams_by_filter"),
        description: "The change, at most 8 KiB, and with `apply=true` what is expected to match.",
        example: r#"{"move":{"ingest":"streamer2.example.com"},"expect":{"count":412,"revision":4503599627370495}}"#,
        partial: false,
    }),
    responses: &[
        ResponseDoc {
            status: 200,
            description: "The dry run, or what was changed, which is on disk. For more than 10,000 \
                 streams: lines of JSON.",
            content: Content::JsonOr(
                Shape::AnyOf(&["streams_by_filter_preview", "streams_by_filter_result"]),
                r#"{"count":412,"moves":{"moves_caused":12,"moves_pending":0,"revision":716,"unplaced":0,"unplaced_before":0,"unplaced_copies":0,"unplaced_sample":[]},"revision":4503599627370495,"sample":["harbour/cam1"]}"#,
                "application/x-ndjson",
                "{\"changed\":10000,\"count\":10412,\"done\":10000,\"skipped\":0}\n{\"changed\":10410,\"count\":10412,\"done\":10412,\"skipped\":2,\"ended\":\"complete\"}\n",
            ),
            headers: &[],
        },
        refuse(
            "A parameter or member is unknown or invalid, or the change is not possible for a \
                 stream: `meta.name` names it. Nothing was changed.",
            error::NOT_ONE_CHANGE,
        ),
        UNAUTHORIZED,
        NOT_PERMITTED,
        refuse(
            "Other streams match than expected: `meta.count` and `meta.revision` are those of now. \
                 Or a node must not have a stream by the labels. Nothing was changed.",
            error::SELECTION_CHANGED,
        ),
        TOO_LARGE,
        UNAVAILABLE,
    ],
    errors: &[
        error::ILLEGAL_LAYOUT,
        error::LAYOUTER_DISABLED,
        error::LAYOUTER_BUSY,
        error::TOO_MANY_BULK_CHANGES,
    ],
    extension: true,
    ..OPERATION
};
