//! `GET /cluster/summary`: everything that an overview shows, in one small answer.

use super::call::{Call, Outcome};
use super::cluster::{CountsReader, CountsRequest};
use super::cluster_counts::{ClusterCounts, CountsForm};
use super::cluster_summary::RenderedSummary;
use crate::access::auth::Caller;
use crate::access::rights::{Action, Visibility};
use crate::error::ApiError;
use crate::http::{Coding, Response};
use crate::state::tag::TagList;

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let token = match call.caller {
        Caller::Token(token) => Some(token),
        _ => None,
    };
    let reads_layouter = token.is_none_or(|token| token.rights.may(Action::Read, "layouter", None));
    Ok(Outcome::Pending(Box::new(CountsRequest(SummaryRequest {
        coding: call.coding(),
        known: call.known_tags()?,
        streamers: token.map(|_| call.visible("streamers")),
        reads_layouter,
    }))))
}

/// A request that waits for the counts of the cluster.
struct SummaryRequest {
    coding: Option<Coding>,
    /// The answers that the client has.
    known: Option<TagList>,
    /// The streamers that a token may see; `None`: all.
    streamers: Option<Visibility>,
    reads_layouter: bool,
}

impl SummaryRequest {
    fn response(&self, summary: &RenderedSummary) -> Response {
        let known = self.known.as_ref();
        if let Some(known) = known.and_then(|known| known.find(&summary.etag)) {
            return Response::new(304).header("ETag", format!("\"{known}\""));
        }
        let (coding, body) = summary.body.body(self.coding);
        let mark = match coding {
            None => "",
            Some(Coding::Gzip) => "-gzip",
            Some(Coding::Zstd) => "-zstd",
        };
        let etag = format!("\"{}{mark}\"", summary.etag);
        Response::shared(200, coding, body).header("ETag", etag)
    }
}

impl CountsReader for SummaryRequest {
    const FORM: CountsForm = CountsForm::Summary;

    fn answer(&self, counts: &ClusterCounts) -> Option<Response> {
        let summary = counts.summary()?;
        Some(match &self.streamers {
            None => self.response(&summary.whole),
            Some(visible) => {
                let shows = |hostname: &str| visible.shows(hostname);
                self.response(&summary.render(&shows, self.reads_layouter))
            }
        })
    }

    fn depends_on_visibility(&self) -> bool {
        self.streamers.is_some()
    }
}
