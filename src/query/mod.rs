//! Questions about a collection: filters, `q`, `sort`, `limit`, `cursor` and `select`, the same for every kind of thing.
//!
//! A `Query` is what a query string means for a `Kind`. An `Execution` answers it from a `Source` in slices, so that a million documents
//! do not hold up a core; what it answers is exactly what the whole list, filtered, sorted and cut, would give, and `estimated_count` is exact.
//! A page that is wanted in key order without filters is read from where it starts. Otherwise every document that may match is looked at
//! once, in place and without allocating, and only the best `limit + 1` are remembered.
//!
//! The rules where the reference is silent or wrong:
//! * a path maps over arrays, and a filter matches if any element does; an empty array is as good as nothing;
//! * missing, null, "null" and "undefined" are all absent; `_ne` matches what is absent, comparisons never do;
//! * a parameter that names no known field is no filter; the same operator twice: the last one counts;
//! * filtering or sorting by a secret is refused, since the answers would tell it;
//! * pages are places in the order of `sort`, made unique by the key (`cursor`); a document that exists during the whole walk is seen exactly once;
//! * sorted by the stamp of changes, a page never ends between documents of one stamp, because who continues from the last stamp would miss
//!   the rest.
//!
//! Who may ask, what a document looks like and which revision is read is decided by the caller.

pub mod cursor;

mod canonical;
mod execute;
mod filter;
mod model;
mod order;
mod page;
mod pairs;
mod parse;
mod search;

use std::cmp::Ordering;

use self::filter::{Filter, Operator, Test};
use self::model::any_leaf;
use self::search::Needle;
use crate::json::scan::{Projection, Scalar};
use crate::json::{Number, write_string};

pub use self::execute::Execution;
pub use self::model::{Document, Hints, KeyOrder, Kind, Leaf, Path, Place, Raw, Search, Source};
pub use self::order::{Position, SortKey, SortValue};
pub use self::page::{Page, Timing};
pub(crate) use self::pairs::pairs;

/// Most documents on a page; more is refused, since one answer would hold the core for too long.
pub const LIMIT_MAX: usize = 10_000;
pub const LIMIT_DEFAULT: usize = 100;
/// Bounds of the work that one request can ask for per document.
pub const SELECT_PATHS_MAX: usize = 100;
pub const PATH_DEPTH_MAX: usize = 8;
pub const SORT_KEYS_MAX: usize = 4;
pub const FILTERS_MAX: usize = 64;
pub const FILTER_VALUES_MAX: usize = 10_000;
pub const Q_BYTES_MAX: usize = 256;

/// A question about a collection.
pub struct Query {
    kind: &'static Kind,
    filters: Vec<Filter>,
    needle: Option<Needle>,
    /// The last one is the key.
    sort: Vec<SortKey>,
    select: Option<Vec<Projection>>,
    limit: usize,
    limit_given: bool,
    reversed: bool,
    position: Option<Position>,
    revision: Option<u64>,
    own: Vec<(&'static str, String)>,
    search: Vec<(Path, bool)>,
    keys: Option<Vec<Box<str>>>,
    only: Option<Only>,
}

/// The part of a collection that its reader may know of.
struct Only {
    /// Differs between readers who may know of different things.
    tag: Box<str>,
    shows: Box<dyn Fn(&str) -> bool>,
}

impl Query {
    /// Documents on a page.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// For operations whose list is not paged unless asked: the limit of a request that names none, 0 for the whole list.
    pub fn set_default_limit(&mut self, limit: usize) {
        if !self.limit_given {
            self.limit = if limit == 0 { usize::MAX } else { limit };
        }
    }

    /// Whether the request names a limit.
    pub fn has_limit(&self) -> bool {
        self.limit_given
    }

    /// Makes the cursors of the answer name a revision.
    pub fn pin_revision(&mut self, revision: u64) {
        self.revision = Some(revision);
    }

    /// The revision that the cursor of the request names.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// A parameter of the operation; without value it is "true".
    pub fn own(&self, name: &str) -> Option<&str> {
        self.own
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// If only documents with certain keys can match: these keys, sorted.
    pub fn keys(&self) -> Option<&[Box<str>]> {
        self.keys.as_deref()
    }

    pub fn hints(&self) -> Hints<'_> {
        let mut hints = Hints::default();
        for filter in &self.filters {
            match &filter.test {
                Test::Compare(Operator::Greater | Operator::GreaterEqual, comparand)
                    if Some(filter.path.as_str()) == self.kind.stamp =>
                {
                    if let Some(Number::Unsigned(stamp)) = comparand.number {
                        let more = u64::from(filter.operator == Operator::Greater);
                        let stamp = stamp.saturating_add(more);
                        hints.stamp_min = hints.stamp_min.max(Some(stamp));
                    }
                }
                Test::Among(values) if values.numbers.is_empty() && !values.yes && !values.no => {
                    hints.equal.push((filter.path.as_str(), &values.texts));
                }
                _ => {}
            }
        }
        hints
    }

    /// Leaves out everything whose key `shows` refuses, as if it did not exist. Two narrowed queries are the same question if their tags are equal.
    pub fn narrow(&mut self, tag: &str, shows: impl Fn(&str) -> bool + 'static) {
        self.only = Some(Only {
            tag: tag.into(),
            shows: Box::new(shows),
        });
    }

    /// Whether a document belongs on this or a later page: decides whether a change wakes a waiting poll.
    pub fn matches<D: Document>(&self, document: &D) -> bool {
        self.passes(document)
            && self.position.as_ref().is_none_or(|position| {
                self.order(document, &self.first_value(document), position) == Ordering::Greater
            })
    }

    /// Whether it depends on a top-level field which documents there are on this or a later page.
    pub fn depends_on(&self, field: &str) -> bool {
        let is_of = |path: &Path| path.parts().first().is_some_and(|first| **first == *field);
        let placed = self.position.is_some();
        self.filters.iter().any(|filter| is_of(&filter.path))
            || self.search.iter().any(|(path, _)| is_of(path))
            || placed && self.sort.iter().any(|key| is_of(&key.path))
    }

    fn has_filters(&self) -> bool {
        !self.filters.is_empty() || self.needle.is_some()
    }

    /// Whether some documents may be left out.
    fn selective(&self) -> bool {
        self.has_filters() || self.only.is_some()
    }

    fn passes<D: Document>(&self, document: &D) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| (only.shows)(document.key()))
            && self.filters.iter().all(|filter| filter.matches(document))
            && self.needle.as_ref().is_none_or(|needle| {
                if let Some(texts) = document.texts()
                    && !texts.iter().any(|text| needle.may_be_in(text))
                {
                    return false;
                }
                self.search.iter().any(|(path, url)| {
                    any_leaf(document, path, true, &mut |leaf| match leaf {
                        Scalar::Text(text) if *url => needle.is_in_url(&text),
                        Scalar::Text(text) => needle.is_in(&text),
                        _ => false,
                    })
                })
            })
    }

    /// The document as the request wants to see it.
    pub fn render<D: Document>(&self, document: &D, out: &mut Vec<u8>) {
        let Some(select) = &self.select else {
            return document.render(out);
        };
        out.push(b'{');
        for (i, want) in select.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(out, &want.name);
            out.push(b':');
            match document.field(&want.name) {
                Some(raw) => raw.project(&want.below, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
}
#[cfg(test)]
mod tests;
