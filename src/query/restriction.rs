//! Restriction of a query to the entities that the caller may see.

use std::fmt;

/// The entities of one collection that a caller may see.
///
/// For a restricted query all other entities do not exist: they are not listed, not counted, not
/// named by a cursor, and a change of one does not wake a poll.
pub struct Restriction {
    canonical: Box<str>,
    shows: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Restriction {
    /// The entities whose keys `shows` accepts.
    ///
    /// `canonical` is part of the identity of the query: parked polls share one answer only if it
    /// is equal. It must differ between restrictions that show different entities.
    pub fn new(
        canonical: impl Into<Box<str>>,
        shows: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            canonical: canonical.into(),
            shows: Box::new(shows),
        }
    }

    #[inline]
    pub(super) fn shows(&self, key: &str) -> bool {
        (self.shows)(key)
    }

    pub(super) fn canonical(&self) -> &str {
        &self.canonical
    }
}

impl fmt::Debug for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Restriction").field(&self.canonical).finish()
    }
}
