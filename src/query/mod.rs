//! Lists: filters, `q`, `sort`, `limit`, `cursor` and `select`, the same for every kind of
//! document.
//!
//! A [`Query`] is a parsed query string of a list of one [`ListKind`]. An [`Execution`] answers it
//! from a [`Source`] in slices, so that a million documents do not hold up a core. The result
//! equals filtering, sorting and cutting the whole list, and `estimated_count` is exact. A page in
//! key order without filters is read from where it starts. Otherwise every document that may match
//! is read once, in place and without allocating, and only the best `limit + 1` positions are kept.
//!
//! Rules where the reference is silent or wrong:
//! * a path maps over arrays, and a filter matches if any element does; an empty array counts as no
//!   value;
//! * below a map of free keys, such as labels, the rest of a path is the key, dots included;
//! * missing, null, "null" and "undefined" are all absent; `_ne` matches absent values, comparisons
//!   never do;
//! * a parameter that names no known field is ignored; of a repeated operator on one field the last
//!   one counts, but repeated `select` and `sort` are joined;
//! * filtering or sorting by a secret is refused, since the answers would reveal it;
//! * a page starts at a position in the order of `sort`, made unique by the key: a document that
//!   exists during the whole walk through the pages is seen exactly once ([`cursor`]);
//! * a client may continue from the last stamp of changes that it received (ascending, with a lower
//!   bound of the stamp, without a cursor): such a page never ends between documents of one stamp,
//!   because the client would miss the rest. Every other page has at most `limit` documents.
//!
//! The caller decides which documents are visible ([`Restriction`]), how they look and which
//! revision is read.

pub mod cursor;
pub mod params;

mod canonical;
mod execute;
mod filter;
mod matches;
mod model;
mod order;
mod page;
mod pairs;
mod parse;
mod pass;
mod restriction;
mod search;
mod visit;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::{Bound, RangeBounds};

use self::filter::{Condition, Filter, Operator};
use self::params::{Parameter, ParameterSpec, ParameterValues, check_listed};
use self::search::Search;
use crate::json::scan::Projection;
use crate::json::{Number, write_string};

pub use self::execute::Execution;
pub use self::model::{
    Document, FieldPath, Hints, KeyOrder, Leaf, ListField, ListKind, Raw, ScanPosition,
    SearchField, Source, field,
};
pub use self::order::{Position, SortKey};
pub use self::page::Page;
pub(crate) use self::pairs::pairs;
pub use self::parse::{check_names, unknown_name};
pub use self::pass::{Findings, Pass};
pub use self::restriction::Restriction;

/// Most documents on a page; a larger limit is refused, since one answer would hold the core for
/// too long.
pub const LIMIT_MAX: usize = 10_000;
pub const LIMIT_DEFAULT: usize = 100;
/// Bounds of the work per document that one request can cause.
pub const SELECT_PATHS_MAX: usize = 100;
pub const PATH_DEPTH_MAX: usize = 8;
pub const SORT_KEYS_MAX: usize = 4;
pub const FILTERS_MAX: usize = 64;
pub const FILTER_VALUES_MAX: usize = 10_000;
pub const Q_BYTES_MAX: usize = 256;

/// The query string of a list, parsed.
pub struct Query {
    kind: &'static ListKind,
    filters: Vec<Filter>,
    search: Option<Search>,
    /// The last one is the key of the collection.
    sort: Vec<SortKey>,
    select: Option<Vec<Projection>>,
    limit: usize,
    limit_given: bool,
    /// The page is read towards the beginning of the list.
    reversed: bool,
    /// The page starts after this position.
    position: Option<Position>,
    revision: Option<u64>,
    /// The parameters of the operation.
    parameters: &'static [&'static dyn Parameter],
    /// Values of those that the operation reads itself.
    own: Vec<(&'static ParameterSpec, String)>,
    keys: Option<Vec<Box<str>>>,
    restriction: Option<Restriction>,
}

impl Query {
    /// Documents on a page.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Sets the limit of a request that names none; 0 for the whole list. For operations whose list
    /// is not paged by default.
    pub fn set_default_limit(&mut self, limit: usize) {
        if !self.limit_given {
            self.limit = if limit == 0 { usize::MAX } else { limit };
        }
    }

    /// Whether the request names a limit.
    pub fn has_limit(&self) -> bool {
        self.limit_given
    }

    /// Writes a revision into the cursors of the answer.
    pub fn pin_revision(&mut self, revision: u64) {
        self.revision = Some(revision);
    }

    /// The revision in the cursor of the request.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    pub fn kind(&self) -> &'static ListKind {
        self.kind
    }

    /// Leaves out everything that the caller must not see, as if it did not exist.
    pub fn restrict(&mut self, restriction: Restriction) {
        self.restriction = Some(restriction);
    }

    /// Whether entities may be left out because the caller must not see them.
    pub fn is_restricted(&self) -> bool {
        self.restriction.is_some()
    }

    /// If only documents with certain keys can match: these keys, sorted.
    pub fn keys(&self) -> Option<&[Box<str>]> {
        self.keys.as_deref()
    }

    /// Conditions by which an index can exclude documents.
    pub fn hints(&self) -> Hints<'_> {
        let mut hints = Hints::default();
        for filter in &self.filters {
            match &filter.condition {
                Condition::Compare(Operator::Greater | Operator::GreaterEqual, comparand)
                    if Some(filter.path.as_str()) == self.kind.stamp =>
                {
                    if let Some(Number::Unsigned(stamp)) = comparand.number {
                        let more = u64::from(filter.operator == Operator::Greater);
                        let stamp = stamp.saturating_add(more);
                        hints.stamp_min = hints.stamp_min.max(Some(stamp));
                    }
                }
                Condition::Compare(operator, comparand)
                    if filter.path.as_str() == self.kind.key
                        && self.kind.key_order == KeyOrder::Text
                        && comparand.number.is_none()
                        && comparand.boolean.is_none() =>
                {
                    if let Some(text) = &comparand.text {
                        narrow_keys(&mut hints, *operator, text);
                    }
                }
                Condition::In(values) if values.has_only_texts() => {
                    hints.equal.push((filter.path.as_str(), &values.texts));
                }
                Condition::In(values) if values.is_only_false() => {
                    hints.is_false.push(filter.path.as_str());
                }
                _ => {}
            }
        }
        hints
    }

    /// Whether every document matches.
    pub fn selects_all(&self) -> bool {
        self.filters.is_empty() && self.search.is_none() && self.restriction.is_none()
    }

    /// Whether a document belongs on this or a later page: decides whether a change wakes a parked
    /// poll.
    pub fn matches<D: Document>(&self, document: &D) -> bool {
        self.passes(document)
            && self.position.as_ref().is_none_or(|position| {
                self.order(document, &self.first_value(document), position) == Ordering::Greater
            })
    }

    /// Whether a top-level field decides which documents are on this or a later page.
    pub fn depends_on(&self, field: &str) -> bool {
        let is_of = |path: &FieldPath| path.parts().first().is_some_and(|first| **first == *field);
        let positioned = self.position.is_some();
        self.filters.iter().any(|filter| is_of(&filter.path))
            || self
                .search
                .as_ref()
                .is_some_and(|search| search.paths().any(is_of))
            || positioned && self.sort.iter().any(|key| is_of(&key.path))
    }

    /// Whether a top-level field is needed: to choose documents, to sort them or to render them.
    pub fn reads(&self, field: &str) -> bool {
        let selects = match &self.select {
            Some(select) => select.iter().any(|it| *it.name == *field),
            None => true,
        };
        selects || self.scans_by(field)
    }

    /// Whether a scan needs a top-level field: to choose documents or to sort them.
    pub fn scans_by(&self, field: &str) -> bool {
        let is_of = |path: &FieldPath| path.parts().first().is_some_and(|first| **first == *field);
        self.depends_on(field) || self.sort.iter().any(|key| is_of(&key.path))
    }

    /// Appends the document with the fields that the request selects.
    pub fn render<D: Document>(&self, document: &D, out: &mut Vec<u8>) {
        let Some(select) = &self.select else {
            return document.render(out);
        };
        out.push(b'{');
        for (i, field) in select.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_string(out, &field.name);
            out.push(b':');
            match document.field(&field.name) {
                Some(raw) => raw.project(&field.below, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }

    /// Whether the client may continue from the last stamp of the page instead of its cursor.
    fn continues_by_stamp(&self) -> bool {
        let stamp = self.kind.stamp;
        let is_lower_bound = |filter: &Filter| {
            Some(filter.path.as_str()) == stamp
                && matches!(
                    filter.condition,
                    Condition::Compare(Operator::Greater | Operator::GreaterEqual, _)
                )
        };
        let first = &self.sort[0];
        Some(first.path.as_str()) == stamp
            && !first.descending
            && self.position.is_none()
            && self.filters.iter().any(is_lower_bound)
    }

    fn has_filters(&self) -> bool {
        !self.filters.is_empty() || self.search.is_some()
    }

    /// Whether some documents may be left out.
    fn is_selective(&self) -> bool {
        self.has_filters() || self.is_restricted()
    }

    fn passes<D: Document>(&self, document: &D) -> bool {
        self.restriction
            .as_ref()
            .is_none_or(|visible| visible.shows(document.key()))
            && self.filters.iter().all(|filter| filter.matches(document))
            && self
                .search
                .as_ref()
                .is_none_or(|search| search.matches(document))
    }
}

/// The operation's own parameters.
impl ParameterValues for Query {
    fn value(&self, spec: &ParameterSpec) -> Option<Cow<'_, str>> {
        check_listed(self.parameters, spec);
        let mut own = self.own.iter().filter(|(known, _)| known.name == spec.name);
        own.next().map(|(_, value)| Cow::Borrowed(value.as_str()))
    }
}

/// Narrows the range of keys by a comparison.
fn narrow_keys<'q>(hints: &mut Hints<'q>, operator: Operator, with: &'q str) {
    let range = (hints.key_from, hints.key_to);
    if !RangeBounds::<str>::contains(&range, with) {
        // It rules out nothing more, or everything, which the filter does.
        return;
    }
    match operator {
        Operator::Greater => hints.key_from = Bound::Excluded(with),
        Operator::GreaterEqual => hints.key_from = Bound::Included(with),
        Operator::Less => hints.key_to = Bound::Excluded(with),
        Operator::LessEqual => hints.key_to = Bound::Included(with),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
