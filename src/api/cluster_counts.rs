//! The counts of the cluster as all callers get them: one scan, rendered once in each form.

use std::sync::OnceLock;

use super::cluster_scan::ClusterScan;
use super::cluster_summary::ClusterSummary;
use super::shared_result::SharedResult;
use crate::core::message::Completion;
use crate::feed::rendered::Rendered;
use crate::http::Coding;
use crate::metrics::Exposition;

/// A form in which the counts are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsForm {
    /// The body of `GET /cluster/stats`, in a coding.
    Json(Option<Coding>),
    Metrics,
    /// The body of `GET /cluster/summary`.
    Summary,
    /// Counts of streams by the values of fields.
    Facets,
}

/// A request that waits for the counts.
pub struct CountsWaiter {
    pub form: CountsForm,
    pub completion: Completion,
}

/// The counts that all callers share.
pub type SharedCounts = SharedResult<ClusterCounts, CountsWaiter>;

/// A finished scan and what was rendered from it.
pub struct ClusterCounts {
    pub scan: ClusterScan,
    json: OnceLock<Rendered>,
    metrics: OnceLock<Exposition>,
    summary: OnceLock<ClusterSummary>,
}

impl ClusterCounts {
    pub fn new(scan: ClusterScan) -> Self {
        Self {
            scan,
            json: OnceLock::new(),
            metrics: OnceLock::new(),
            summary: OnceLock::new(),
        }
    }

    pub fn has(&self, form: CountsForm) -> bool {
        match form {
            CountsForm::Json(coding) => self.json.get().is_some_and(|it| it.is_coded(coding)),
            CountsForm::Metrics => self.metrics.get().is_some(),
            CountsForm::Summary => self.summary.get().is_some(),
            CountsForm::Facets => self.scan.facets.is_some(),
        }
    }

    /// Renders a form, unless it is there. `summarize` makes the summary.
    pub fn render(
        &self,
        form: CountsForm,
        server_id: &str,
        summarize: impl FnOnce() -> ClusterSummary,
    ) {
        match form {
            CountsForm::Json(coding) => {
                let body = || Rendered::new(self.scan.to_json(server_id).as_bytes());
                // Encoded here, not on the core that sends it.
                self.json.get_or_init(body).body(coding);
            }
            CountsForm::Metrics => {
                self.metrics.get_or_init(|| {
                    let mut text = Exposition::default();
                    self.scan.write_metrics(server_id, &mut text);
                    text
                });
            }
            // They are counted by the scan itself.
            CountsForm::Facets => {}
            CountsForm::Summary => {
                self.summary.get_or_init(summarize);
            }
        }
    }

    /// The body of `GET /cluster/stats`, if it was rendered.
    pub fn json(&self) -> Option<&Rendered> {
        self.json.get()
    }

    /// The metrics of the cluster, if they were rendered.
    pub fn metrics(&self) -> Option<&Exposition> {
        self.metrics.get()
    }

    /// The summary, if it was made.
    pub fn summary(&self) -> Option<&ClusterSummary> {
        self.summary.get()
    }
}
