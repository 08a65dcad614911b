//! Facets of a part of the streams, counted by a scan.

use std::rc::Rc;

use super::parts::StreamSink;
use super::{ANSWER_WAIT_MAX, Core};
use crate::api::facet_counts::{FacetCounts, FacetScan};
use crate::api::now_ms;
use crate::api::stream_doc::StreamDoc;
use crate::error::ApiError;
use crate::http::{Answer, Reserved, Response, Ticket};
use crate::rt;

impl StreamSink for FacetCounts {
    fn empty(&self) -> Self {
        Self::default()
    }

    fn add(&mut self, document: &StreamDoc<'_>) {
        FacetCounts::add(self, document.record());
    }

    fn merge(&mut self, other: Self) {
        FacetCounts::merge(self, other);
    }

    fn held_bytes(&self) -> usize {
        self.bytes()
    }
}

impl Core {
    pub(super) fn facets(self: &Rc<Self>, request: Box<FacetScan>, ticket: Ticket) -> Answer {
        self.lists.scanning.borrow_mut().insert(ticket);
        rt::spawn(self.clone().run_facets(request, ticket));
        Answer::Wait {
            deadline: Some(ANSWER_WAIT_MAX),
        }
    }

    async fn run_facets(self: Rc<Self>, request: Box<FacetScan>, ticket: Ticket) {
        let answer = self.answer_facets(&request, ticket).await;
        self.lists.scanning.borrow_mut().remove(&ticket);
        if let Some(response) = answer.unwrap_or_else(|error| Some(error.into()))
            && self.connections.is_waiting(ticket)
        {
            self.complete(ticket, response);
        }
    }

    /// The answer. `None`: the client is gone.
    async fn answer_facets(
        &self,
        request: &FacetScan,
        ticket: Ticket,
    ) -> Result<Option<Response>, ApiError> {
        let at = now_ms();
        let state = self.state();
        let mut reserved = Reserved::default();
        let query = (&request.query, ticket);
        let counts = self
            .scan_streams(query, &state, &mut reserved, FacetCounts::default())
            .await?;
        Ok(counts.map(|counts| Response::json(200, counts.body(&request.wanted, at))))
    }
}
