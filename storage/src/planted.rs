//! Bugs on purpose: a test of the tests plants one and must see it found.
//!
//! Without the feature `planted`, which only the tests of this package have, none can be.

/// What the code gets wrong while it is planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// An entry of the log is not compared with its checksum.
    ChecksumSkipped,
    /// The log forgets entries that the tables lack.
    TrimTooEarly,
    /// The tables are called complete with the first records of a pass.
    CompleteTooEarly,
    /// Entries of a former use of a segment are taken for the next ones.
    StaleSegmentTaken,
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug for the stores that this thread works with, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

#[cfg(feature = "planted")]
pub(crate) fn is(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Planted) -> bool {
    false
}
