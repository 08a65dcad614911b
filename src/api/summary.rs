//! `GET /cluster/summary`: everything that an overview shows, in one small answer.

use std::any::Any;
use std::time::Duration;

use super::ANSWER_WAIT_MAX;
use super::call::{Call, Context, Outcome, Pending, Step};
use super::cluster::{counts_of, request_counts};
use super::cluster_counts::{ClusterCounts, CountsForm};
use super::cluster_summary::RenderedSummary;
use super::shared::ApiSettings;
use crate::access::auth::Caller;
use crate::access::rights::{Action, Visibility};
use crate::core::message::Reply;
use crate::error::{self, ApiError};
use crate::http::{Coding, Response};
use crate::state::tag::TagList;

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let token = match call.caller {
        Caller::Token(token) => Some(token),
        _ => None,
    };
    let reads_layouter = token.is_none_or(|token| token.rights.may(Action::Read, "layouter", None));
    Ok(Outcome::Pending(Box::new(SummaryRequest {
        coding: call.coding(),
        known: call.known_tags()?,
        streamers: token.map(|_| call.visible("streamers")),
        reads_layouter,
    })))
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
    fn answer(&self, counts: &ClusterCounts) -> Step {
        let Some(summary) = counts.summary() else {
            return Step::Wait;
        };
        Step::Done(match &self.streamers {
            None => self.response(&summary.whole),
            Some(visible) => {
                let shows = |hostname: &str| visible.shows(hostname);
                self.response(&summary.render(&shows, self.reads_layouter))
            }
        })
    }

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

    fn on_counts(&self, finished: Box<dyn Any + Send>) -> Step {
        match counts_of(finished) {
            Some(counted) => self.answer(&counted.value),
            None => Step::Wait,
        }
    }
}

impl Pending for SummaryRequest {
    fn wait(&self, _: &ApiSettings) -> Duration {
        ANSWER_WAIT_MAX
    }

    fn start(&mut self, context: &Context<'_>) -> Step {
        match request_counts(CountsForm::Summary, context) {
            Some(counted) => self.answer(&counted.value),
            None => Step::Wait,
        }
    }

    fn on_reply(&mut self, _: usize, reply: Reply, _: &Context<'_>) -> Step {
        match reply {
            Reply::Finished(finished) => self.on_counts(finished),
            reply => Step::of_body(reply),
        }
    }

    fn depends_on_visibility(&self) -> bool {
        self.streamers.is_some()
    }

    fn on_timeout(&mut self, _: &Context<'_>) -> Response {
        error::TIMED_OUT.error().into()
    }
}
