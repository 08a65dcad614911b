//! The free capacity of the cluster as all callers get it.

use std::sync::Arc;

use super::shared_result::Computed;
use crate::error::ApiError;
use crate::feed::rendered::Rendered;

/// Receives the report, or why there is none.
pub type CapacityWaiter = Box<dyn FnOnce(&Result<Arc<Computed<CapacityReport>>, ApiError>) + Send>;

/// The free capacity at one moment.
pub struct CapacityReport {
    /// The body of `GET /cluster/capacity`.
    pub body: Rendered,
    /// UTC ms.
    pub at: u64,
}

impl CapacityReport {
    pub fn new(body: &[u8], at: u64) -> Self {
        Self {
            body: Rendered::new(body),
            at,
        }
    }
}
