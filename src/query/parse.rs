//! Parsing: what a query string means for a kind.

use memchr::memmem::Finder;

use super::canonical::write_number;
use super::cursor::Cursor;
use super::filter::{Comparand, Filter, Operator, Test, Values};
use super::model::{Kind, Path};
use super::order::SortKey;
use super::pairs::{pairs, printable};
use super::search::Needle;
use super::{
    FILTERS_MAX, LIMIT_DEFAULT, LIMIT_MAX, PATH_DEPTH_MAX, Q_BYTES_MAX, Query, SELECT_PATHS_MAX,
    SORT_KEYS_MAX,
};
use crate::error::{self, ApiError};
use crate::json::FieldType;
use crate::json::scan::Projection;

impl Query {
    /// `own` are the parameters of the operation that are no filters; they are kept as they are.
    pub fn parse(raw: &str, kind: &'static Kind, own: &[&'static str]) -> Result<Query, ApiError> {
        let mut query = Query {
            kind,
            filters: Vec::new(),
            needle: None,
            sort: Vec::new(),
            select: None,
            limit: LIMIT_DEFAULT,
            limit_given: false,
            reversed: false,
            position: None,
            revision: None,
            own: Vec::new(),
            search: Vec::new(),
            keys: None,
            only: None,
        };
        let mut sort = None;
        let mut cursor = None;
        let mut filters_seen = 0;
        for pair in pairs(raw) {
            let (name, value) = pair.map_err(|name| {
                error::WRONG_FORMAT
                    .titled("The parameter is not percent-encoded UTF-8")
                    .at_parameter(name)
            })?;
            let value_or_true = value.as_deref().unwrap_or("true");
            if let Some(name) = own.iter().find(|own| **own == name) {
                query.own.retain(|(known, _)| known != name);
                query.own.push((name, value_or_true.to_owned()));
                continue;
            }
            match &*name {
                "limit" => {
                    query.limit = parse_limit(value_or_true)?;
                    query.limit_given = true;
                }
                "sort" => sort = value,
                "cursor" => cursor = value,
                "select" => query.select = parse_select(value.as_deref().unwrap_or(""), kind)?,
                "$reversed" => {
                    query.reversed = Comparand::parse(&name, value_or_true, FieldType::Boolean)?
                        .truth
                        == Some(true);
                }
                "q" if !kind.search.is_empty() => {
                    let text = value.as_deref().unwrap_or("");
                    if text.len() > Q_BYTES_MAX {
                        return Err(error::TOO_LONG
                            .titled("The search is too long")
                            .at_parameter("q")
                            .with("maximum", Q_BYTES_MAX));
                    }
                    query.needle = (!text.is_empty()).then(|| Needle::new(text));
                }
                _ => {
                    filters_seen += 1;
                    if filters_seen > FILTERS_MAX {
                        return Err(error::TOO_MANY_ITEMS
                            .titled("There are too many filters")
                            .at_parameter(printable(&name))
                            .with("maximum", FILTERS_MAX));
                    }
                    query.add_filter(&name, value.as_deref())?;
                }
            }
        }
        query.keys = query.keys_of_filters();
        query.sort = parse_sort(sort.as_deref().unwrap_or(""), kind)?;
        if query.needle.is_some() {
            query.search = kind
                .search
                .iter()
                .map(|search| (Path::new(search.path), search.url))
                .collect();
        }
        if let Some(text) = cursor.filter(|text| !text.is_empty()) {
            let question = query.question();
            let cursor = Cursor::decode(&text, &question)
                .ok_or_else(|| error::BAD_CURSOR.error().at_parameter("cursor"))?;
            query.reversed = cursor.reversed;
            query.revision = cursor.revision;
            query.position = Some(cursor.position);
        }
        Ok(query)
    }

    fn add_filter(&mut self, name: &str, value: Option<&str>) -> Result<(), ApiError> {
        const SUFFIXES: [(&str, Operator); 8] = [
            ("_ne", Operator::NotEqual),
            ("_gt", Operator::Greater),
            ("_lt", Operator::Less),
            ("_gte", Operator::GreaterEqual),
            ("_lte", Operator::LessEqual),
            ("_like", Operator::Like),
            ("_is", Operator::Is),
            ("_is_not", Operator::IsNot),
        ];
        let (path, operator) = SUFFIXES
            .iter()
            .find_map(|(suffix, operator)| Some((name.strip_suffix(suffix)?, *operator)))
            .filter(|(_, operator)| {
                !matches!(operator, Operator::Is | Operator::IsNot) || value == Some("null")
            })
            .unwrap_or((name, Operator::Equal));
        if (self.kind.secret)(path) {
            return Err(secret(name));
        }
        let Some(field_type) = (self.kind.field_type)(path) else {
            return Ok(());
        };
        let path = checked_path(path, name)?;
        let value = value.unwrap_or("true");
        let test = match operator {
            Operator::Equal => Test::Among(Values::parse(name, value, true, field_type)?),
            Operator::NotEqual => Test::NotAmong(Values::parse(name, value, true, field_type)?),
            Operator::Like => Test::Contains(Box::new(Finder::new(value).into_owned())),
            Operator::Is => Test::Absent,
            Operator::IsNot => Test::Present,
            _ => Test::Compare(operator, Comparand::parse(name, value, field_type)?),
        };
        self.filters
            .retain(|known| known.operator != operator || known.path != path);
        self.filters.push(Filter {
            path,
            operator,
            test,
        });
        Ok(())
    }

    fn keys_of_filters(&self) -> Option<Vec<Box<str>>> {
        self.filters.iter().find_map(|filter| match &filter.test {
            Test::Among(values) if filter.path.as_str() == self.kind.key => {
                let mut keys = values.texts.clone();
                // Keys are texts for us, even where the documents have numbers.
                keys.extend(values.numbers.iter().map(|number| {
                    let mut text = String::new();
                    write_number(*number, &mut text);
                    text.into_boxed_str()
                }));
                keys.sort_unstable();
                keys.dedup();
                Some(keys)
            }
            _ => None,
        })
    }
}
fn secret(parameter: &str) -> ApiError {
    error::SECRET_FIELD
        .error()
        .at_parameter(printable(parameter))
}

fn checked_path(path: &str, parameter: &str) -> Result<Path, ApiError> {
    if path.split('.').nth(PATH_DEPTH_MAX).is_some() {
        return Err(error::TOO_DEEP
            .error()
            .at_parameter(printable(parameter))
            .with("maximum", PATH_DEPTH_MAX));
    }
    Ok(Path::new(path))
}

fn parse_limit(text: &str) -> Result<usize, ApiError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error::NOT_INTEGER
            .titled("The limit is an integer")
            .at_parameter("limit"));
    }
    text.parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| {
            error::INPUT_OUT_OF_RANGE
                .titled("The limit is out of range")
                .at_parameter("limit")
                .with("minimum", 1)
                .with("maximum", LIMIT_MAX)
        })
}

/// The order as asked for, or else the default one; always total, by the key.
fn parse_sort(text: &str, kind: &Kind) -> Result<Vec<SortKey>, ApiError> {
    let mut sort: Vec<SortKey> = Vec::new();
    let asked = text.split(',').filter(|piece| !piece.is_empty());
    for (i, piece) in asked.enumerate() {
        if i == SORT_KEYS_MAX {
            return Err(error::TOO_MANY_ITEMS
                .titled("There are too many sort keys")
                .at_parameter("sort")
                .with("maximum", SORT_KEYS_MAX));
        }
        add_sort_key(piece, kind, &mut sort)?;
    }
    if sort.is_empty() {
        for piece in kind.default_sort.split(',') {
            add_sort_key(piece, kind, &mut sort)?;
        }
    }
    // The direction of the key where nobody asked for one is that of the default order.
    let descending = kind
        .default_sort
        .split(',')
        .any(|piece| piece.strip_prefix('-') == Some(kind.key));
    let end = sort
        .iter()
        .position(|sort| sort.path.as_str() == kind.key)
        .unwrap_or(sort.len());
    let descending = sort.get(end).map_or(descending, |key| key.descending);
    // What comes after the key decides nothing.
    sort.truncate(end);
    sort.push(SortKey {
        path: Path::new(kind.key),
        descending,
        numeric: false,
    });
    Ok(sort)
}

fn add_sort_key(piece: &str, kind: &Kind, sort: &mut Vec<SortKey>) -> Result<(), ApiError> {
    let (path, descending) = match piece.strip_prefix('-') {
        Some(path) => (path, true),
        None => (piece, false),
    };
    if (kind.secret)(path) {
        return Err(secret("sort"));
    }
    // As with filters: what no document has decides nothing.
    let Some(field_type) = (kind.field_type)(path) else {
        return Ok(());
    };
    let path = checked_path(path, "sort")?;
    if sort.iter().all(|known| known.path != path) {
        sort.push(SortKey {
            path,
            descending,
            numeric: matches!(field_type, FieldType::Integer | FieldType::Number),
        });
    }
    Ok(())
}

fn parse_select(text: &str, kind: &Kind) -> Result<Option<Vec<Projection>>, ApiError> {
    let mut tree = Vec::new();
    let mut paths = 0;
    for piece in text.split(',').filter(|piece| !piece.is_empty()) {
        paths += 1;
        if paths > SELECT_PATHS_MAX {
            return Err(error::TOO_MANY_ITEMS
                .titled("There are too many fields")
                .at_parameter("select")
                .with("maximum", SELECT_PATHS_MAX));
        }
        want(&mut tree, checked_path(piece, "select")?.parts());
    }
    if paths == 0 {
        return Ok(None);
    }
    for name in (kind.required)() {
        want(&mut tree, std::slice::from_ref(name));
    }
    Ok(Some(tree))
}

/// Adds a path to a selection; the whole of something includes its parts.
fn want(tree: &mut Vec<Projection>, path: &[Box<str>]) {
    let [name, rest @ ..] = path else { return };
    match tree.binary_search_by(|known| known.name.cmp(name)) {
        Ok(found) if rest.is_empty() => tree[found].below.clear(),
        Ok(found) if tree[found].below.is_empty() => {}
        Ok(found) => want(&mut tree[found].below, rest),
        Err(place) => {
            let mut below = Vec::new();
            want(&mut below, rest);
            tree.insert(
                place,
                Projection {
                    name: name.clone(),
                    below,
                },
            );
        }
    }
}
