//! Previews that are read page by page.
//!
//! A preview is computed once; its later pages come from the same result, which their cursor names,
//! so that pages never mix two snapshots. The last results are kept for a while; a cursor of an
//! expired one is refused.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{self, ApiError};
use crate::json::scan;
use crate::query::{Document, Execution, ListKind, Query, Raw, Source};

/// How long a preview is kept for its later pages.
const KEPT_MAX: Duration = Duration::from_mins(1);
const PREVIEWS_KEPT_MAX: usize = 64;
/// Upper bound of the items of all kept previews.
const ITEMS_KEPT_MAX: usize = 1_000_000;

/// The items of a preview, each a canonical JSON object. Their keys are their positions.
pub struct PreviewItems {
    texts: Vec<(String, Box<str>)>,
    /// Further members of each page, without braces.
    members: Box<str>,
}

impl PreviewItems {
    pub fn new(texts: impl IntoIterator<Item = String>, members: String) -> Self {
        let numbered = texts.into_iter().enumerate();
        let texts = numbered.map(|(position, text)| (position.to_string(), text.into()));
        Self {
            texts: texts.collect(),
            members: members.into(),
        }
    }

    /// The first position of a range that begins at a bound.
    fn position(bound: Bound<&str>, shift_if_excluded: usize) -> Option<usize> {
        match bound {
            Bound::Unbounded => None,
            Bound::Included(key) => key.parse().ok(),
            Bound::Excluded(key) => key
                .parse::<usize>()
                .ok()
                .map(|position| position.wrapping_add(shift_if_excluded)),
        }
    }
}

/// One item of a preview.
pub struct PreviewItem<'a> {
    key: &'a str,
    text: &'a str,
}

impl Document for PreviewItem<'_> {
    fn key(&self) -> &str {
        self.key
    }

    fn field(&self, name: &str) -> Option<Raw<'_>> {
        scan::member(self.text, name).map(|text| Raw::Json(Cow::Borrowed(text)))
    }

    fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
    }
}

impl Source for PreviewItems {
    type Doc<'a> = PreviewItem<'a>;

    fn count(&self) -> u64 {
        self.texts.len() as u64
    }

    fn get(&self, key: &str) -> Option<PreviewItem<'_>> {
        let (key, text) = self.texts.get(key.parse::<usize>().ok()?)?;
        Some(PreviewItem { key, text })
    }

    fn ascending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = PreviewItem<'a>> {
        let first = Self::position(from, 1).unwrap_or(0);
        let items = self.texts.iter().skip(first);
        items.map(|(key, text)| PreviewItem { key, text })
    }

    fn descending<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = PreviewItem<'a>> {
        let end = match from {
            Bound::Unbounded => self.texts.len(),
            Bound::Included(_) => {
                Self::position(from, 0).map_or(0, |position| position.saturating_add(1))
            }
            Bound::Excluded(_) => Self::position(from, 0).unwrap_or(0),
        };
        let items = self.texts[..end.min(self.texts.len())].iter().rev();
        items.map(|(key, text)| PreviewItem { key, text })
    }
}

struct KeptPreview {
    number: u64,
    digest: u64,
    kind: &'static ListKind,
    until: Instant,
    items: Rc<PreviewItems>,
}

/// The last previews.
#[derive(Default)]
pub struct PreviewPages {
    kept: VecDeque<KeptPreview>,
    last_number: u64,
}

impl PreviewPages {
    /// One page: of the preview that the cursor names, or of a new one made by `compute`.
    pub fn page(
        &mut self,
        raw_query: &str,
        digest: u64,
        kind: &'static ListKind,
        compute: impl FnOnce() -> Result<PreviewItems, ApiError>,
    ) -> Result<Vec<u8>, ApiError> {
        let mut query = Query::parse(raw_query, kind, &[])?;
        let now = Instant::now();
        self.kept.retain(|kept| kept.until > now);
        let items = if let Some(number) = query.revision() {
            let kept = self.kept.iter().find(|kept| {
                kept.number == number && kept.digest == digest && std::ptr::eq(kept.kind, kind)
            });
            let kept = kept.ok_or_else(|| {
                error::WALK_EXPIRED
                    .titled(
                        "The preview of this cursor is no longer kept; begin with the first page",
                    )
                    .at_parameter("cursor")
            })?;
            kept.items.clone()
        } else {
            let items = Rc::new(compute()?);
            self.last_number += 1;
            query.pin_revision(self.last_number);
            items
        };
        let page = Execution::new(&query).run(&*items);
        let members = items.members.clone();
        let is_new = !self
            .kept
            .iter()
            .any(|kept| Some(kept.number) == query.revision());
        if is_new && (page.next.is_some() || page.prev.is_some()) {
            self.keep(KeptPreview {
                number: self.last_number,
                digest,
                kind,
                until: now + KEPT_MAX,
                items,
            });
        }
        Ok(page.into_body(&members))
    }

    fn keep(&mut self, preview: KeptPreview) {
        self.kept.push_back(preview);
        let count = |kept: &VecDeque<KeptPreview>| {
            kept.iter()
                .map(|kept| kept.items.texts.len())
                .sum::<usize>()
        };
        while self.kept.len() > PREVIEWS_KEPT_MAX
            || (self.kept.len() > 1 && count(&self.kept) > ITEMS_KEPT_MAX)
        {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{self, FieldType};
    use crate::query::{KeyOrder, ListField};

    static KIND: ListKind = ListKind {
        collection: "changes",
        key: "$position",
        key_order: KeyOrder::Decimal,
        default_sort: "$position",
        stamp: None,
        required: || &[],
        search: &[],
        field: |path| (path == "name").then(|| ListField::top_level(path, FieldType::String)),
        secret: |_| false,
        schema: || None,
    };

    fn items(count: usize, tag: &str) -> PreviewItems {
        let texts = (0..count).map(|i| format!(r#"{{"name":"{tag}{i}"}}"#));
        PreviewItems::new(texts, String::new())
    }

    fn read(body: &[u8]) -> (Vec<String>, Option<String>, Option<String>) {
        let body = json::parse(body).expect("JSON");
        let names = body.get("changes").and_then(json::Value::as_array);
        let names = names.expect("a list").iter();
        let text =
            |value: Option<&json::Value>| value.and_then(json::Value::as_str).map(str::to_owned);
        (
            names.filter_map(|item| text(item.get("name"))).collect(),
            text(body.get("next")),
            text(body.get("prev")),
        )
    }

    fn with_cursor(cursor: &str) -> String {
        format!("limit=2&cursor={}", cursor.replace('=', "%3D"))
    }

    #[test]
    fn later_pages_come_from_the_same_preview() {
        let mut pages = PreviewPages::default();
        let mut page = |query: &str, digest, tag: &'static str| {
            pages
                .page(query, digest, &KIND, || Ok(items(5, tag)))
                .map(|body| read(&body))
        };
        let (names, next, prev) = page("limit=2", 1, "a").expect("a page");
        assert_eq!((names, prev), (vec!["a0".into(), "a1".into()], None));
        // Another preview in between, and one of the same request.
        page("limit=2", 2, "b").expect("a page");
        page("limit=2", 1, "c").expect("a page");
        let next = with_cursor(&next.expect("there is more"));
        let (names, next, prev) = page(&next, 1, "d").expect("a page");
        assert_eq!(names, ["a2", "a3"]);
        let last = with_cursor(&next.expect("there is more"));
        let (names, next, _) = page(&last, 1, "d").expect("a page");
        assert_eq!((names, next), (vec!["a4".to_owned()], None));
        let (names, ..) =
            page(&with_cursor(&prev.expect("there is a page before")), 1, "d").expect("a page");
        assert_eq!(names, ["a0", "a1"]);
        let error = page(&last, 2, "d").expect_err("a cursor of another request");
        assert_eq!((error.status, error.items[0].code), (410, "walk_expired"));
    }

    #[test]
    fn oldest_previews_are_dropped_first() {
        let mut pages = PreviewPages::default();
        let mut first = None;
        for digest in 0..=PREVIEWS_KEPT_MAX as u64 {
            let page = pages.page("limit=2", digest, &KIND, || Ok(items(3, "a")));
            let (_, next, _) = read(&page.expect("a page"));
            first = first.or(next);
        }
        assert_eq!(pages.kept.len(), PREVIEWS_KEPT_MAX);
        let cursor = with_cursor(&first.expect("there was more"));
        let error = pages.page(&cursor, 0, &KIND, || Ok(items(3, "b")));
        assert_eq!(error.expect_err("it is gone").status, 410);
    }
}
