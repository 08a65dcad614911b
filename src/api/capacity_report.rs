//! The free capacity of the cluster as all callers get it.

use crate::feed::rendered::Rendered;

/// The free capacity at one moment.
pub struct CapacityReport {
    /// The body of `GET /cluster/capacity`.
    pub body: Rendered,
}

impl CapacityReport {
    pub fn new(body: &[u8]) -> Self {
        Self {
            body: Rendered::new(body),
        }
    }
}
