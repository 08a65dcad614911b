//! Parsing: the meaning of a query string for one kind of list.

use memchr::memmem::Finder;

use super::canonical::write_number;
use super::cursor::Cursor;
use super::filter::{Comparand, Condition, DigestSet, Filter, Operator, ValueSet};
use super::model::{FieldPath, ListField, ListKind, split};
use super::order::SortKey;
use super::pairs::pairs;
use super::params::{Parameter, ValueKind};
use super::search::Search;
use super::{
    FILTERS_MAX, LIMIT_DEFAULT, LIMIT_MAX, PATH_DEPTH_MAX, Q_BYTES_MAX, Query, SELECT_PATHS_MAX,
    SORT_KEYS_MAX,
};
use crate::error::{self, ApiError, ErrorCode, printable};
use crate::json::FieldType;
use crate::json::scan::Projection;
use crate::schema::{Schema, nearest};

impl Query {
    /// Parses a query string. `parameters` are those of the operation: what the engine does not
    /// read itself is kept as it is, for the handler.
    pub fn parse(
        raw: &str,
        kind: &'static ListKind,
        parameters: &'static [&'static dyn Parameter],
    ) -> Result<Self, ApiError> {
        let mut query = Self::empty(kind, parameters);
        let (mut sort, mut select) = (String::new(), String::new());
        let mut cursor = None;
        let mut filters_seen = 0;
        for pair in pairs(raw) {
            let (name, value) = pair.map_err(|name| {
                error::WRONG_FORMAT.about_parameter(&name, "is not percent-encoded UTF-8")
            })?;
            let value_or_true = value.as_deref().unwrap_or("true");
            let mut own = parameters.iter().map(|parameter| parameter.spec());
            if let Some(spec) = own.find(|spec| spec.name == name && !spec.of_engine) {
                let known = query.own.iter_mut().find(|(known, _)| known.name == name);
                match known {
                    Some((_, list)) if matches!(spec.kind, ValueKind::List) => {
                        join(list, value.as_deref());
                    }
                    Some((_, last)) => value_or_true.clone_into(last),
                    None => query.own.push((spec, value_or_true.to_owned())),
                }
                continue;
            }
            match &*name {
                "limit" => {
                    query.limit = parse_limit(value_or_true)?;
                    query.limit_given = true;
                }
                "sort" => join(&mut sort, value.as_deref()),
                "cursor" => cursor = value,
                "select" => join(&mut select, value.as_deref()),
                "$reversed" => {
                    let comparand = Comparand::parse(&name, value_or_true, FieldType::Boolean)?;
                    query.reversed = comparand.boolean == Some(true);
                }
                "q" if !kind.search.is_empty() => {
                    query.search = parse_search(value.as_deref().unwrap_or(""), kind)?;
                }
                _ => {
                    filters_seen += 1;
                    if filters_seen > FILTERS_MAX {
                        return Err(too_many_filters(&name));
                    }
                    query.add_filter(&name, value.as_deref())?;
                }
            }
        }
        query.keys = query.keys_of_filters();
        query.sort = parse_sort(&sort, kind)?;
        query.select = parse_select(&select, kind)?;
        if let Some(text) = cursor.filter(|text| !text.is_empty()) {
            query.start_at(&text)?;
        }
        Ok(query)
    }

    fn empty(kind: &'static ListKind, parameters: &'static [&'static dyn Parameter]) -> Self {
        Self {
            kind,
            parameters,
            filters: Vec::new(),
            search: None,
            sort: Vec::new(),
            select: None,
            limit: LIMIT_DEFAULT,
            limit_given: false,
            reversed: false,
            position: None,
            revision: None,
            own: Vec::new(),
            keys: None,
            restriction: None,
        }
    }

    fn start_at(&mut self, cursor: &str) -> Result<(), ApiError> {
        let cursor = Cursor::decode(cursor, &self.cursor_scope())
            .ok_or_else(|| error::BAD_CURSOR.error().at_parameter("cursor"))?;
        self.reversed = cursor.reversed;
        self.revision = cursor.revision;
        self.position = Some(cursor.position);
        Ok(())
    }

    fn add_filter(&mut self, name: &str, value: Option<&str>) -> Result<(), ApiError> {
        let (path, operator) = filter_of(name, value);
        let Some(field) = known_field(self.kind, path, name)? else {
            return Ok(());
        };
        let KnownField {
            path,
            field_type,
            digest,
        } = field;
        let value = value.unwrap_or("true");
        let condition = match operator {
            Operator::Equal | Operator::NotEqual if digest.is_some() => {
                let values = ValueSet::parse(name, value, field_type)?;
                let includes = operator == Operator::Equal;
                Condition::Digests(DigestSet::new(&values, digest, includes))
            }
            _ if digest.is_some() => return Err(only_equality(name, path.as_str())),
            Operator::Equal => Condition::In(ValueSet::parse(name, value, field_type)?),
            Operator::NotEqual => Condition::NotIn(ValueSet::parse(name, value, field_type)?),
            Operator::Like => Condition::Contains(Box::new(Finder::new(value).into_owned())),
            Operator::Is => Condition::Absent,
            Operator::IsNot => Condition::Present,
            _ => Condition::Compare(operator, Comparand::parse(name, value, field_type)?),
        };
        self.filters
            .retain(|known| known.operator != operator || known.path != path);
        self.filters.push(Filter {
            path,
            operator,
            condition,
        });
        Ok(())
    }

    fn keys_of_filters(&self) -> Option<Vec<Box<str>>> {
        self.filters
            .iter()
            .find_map(|filter| match &filter.condition {
                Condition::In(values) if filter.path.as_str() == self.kind.key => {
                    let mut keys = values.texts.clone();
                    // Keys are texts in a source, even where the documents have numbers.
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

fn secret_field(parameter: &str) -> ApiError {
    let predicate = "concerns a secret; secrets can be neither filtered nor sorted by";
    error::SECRET_FIELD.about_parameter(&printable(parameter), predicate)
}

fn only_equality(parameter: &str, field: &str) -> ApiError {
    let allowed = format!("must be `{field}` or `{field}_ne`");
    error::UNKNOWN_PARAMETER.about_parameter(&printable(parameter), allowed)
}

fn too_many_fields(parameter: &str, maximum: usize) -> ApiError {
    let allowed = format!("must have at most {maximum} fields");
    error::TOO_MANY_ITEMS
        .about_parameter(parameter, allowed)
        .with("maximum", maximum)
}

fn too_many_filters(parameter: &str) -> ApiError {
    let predicate = format!("is one too many: a query must have at most {FILTERS_MAX} filters");
    error::TOO_MANY_ITEMS
        .about_parameter(&printable(parameter), predicate)
        .with("maximum", FILTERS_MAX)
}

/// The path and the operator of a filter.
fn filter_of<'n>(name: &'n str, value: Option<&str>) -> (&'n str, Operator) {
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
    SUFFIXES
        .iter()
        .find_map(|(suffix, operator)| Some((name.strip_suffix(suffix)?, *operator)))
        .filter(|(_, operator)| {
            !matches!(operator, Operator::Is | Operator::IsNot) || value == Some("null")
        })
        .unwrap_or((name, Operator::Equal))
}

/// Refuses filters, orders and selections of fields that the list does not have, and parameters
/// that the operation does not have, which are ignored otherwise.
pub fn check_names(
    raw: &str,
    kind: &ListKind,
    parameters: &[&'static str],
) -> Result<(), ApiError> {
    const ENGINE: [&str; 6] = ["limit", "sort", "cursor", "select", "$reversed", "q"];
    let is_field = |path: &str| (kind.field)(path).is_some();
    for (name, value) in pairs(raw).flatten() {
        let value = value.as_deref();
        match &*name {
            "sort" | "select" => {
                let pieces = value.unwrap_or_default().split(',');
                let paths = pieces.map(|piece| match &*name {
                    "sort" => piece.strip_prefix('-').unwrap_or(piece),
                    _ => piece,
                });
                for path in paths.filter(|path| !path.is_empty()) {
                    if !is_field(path) {
                        let known = (kind.schema)().map(Schema::paths).unwrap_or_default();
                        let known = known.iter().map(String::as_str);
                        return Err(unknown_name(error::UNKNOWN_FIELD, path, &name, known));
                    }
                }
            }
            known if parameters.contains(&known) || ENGINE.contains(&known) => {}
            _ if is_field(filter_of(&name, value).0) => {}
            _ => {
                let fields = (kind.schema)().map(Schema::paths).unwrap_or_default();
                let fields = fields.iter().map(String::as_str);
                let known = parameters.iter().copied().chain(ENGINE).chain(fields);
                let (path, _) = filter_of(&name, value);
                return Err(unknown_name(error::UNKNOWN_PARAMETER, path, &name, known));
            }
        }
    }
    Ok(())
}

/// The error for an unknown name at a query parameter.
pub fn unknown_name<'n>(
    code: ErrorCode,
    name: &str,
    parameter: &str,
    known: impl Iterator<Item = &'n str>,
) -> ApiError {
    let near = nearest(name, known);
    let suggestion = near.map(|near| format!("; did you mean `{near}`?"));
    let suggestion = suggestion.unwrap_or_default();
    // Of a filter the parameter is shown, with its operator.
    let is_parameter = code == error::UNKNOWN_PARAMETER;
    let shown = printable(if is_parameter { parameter } else { name });
    let title = code.title.replace("{name}", &shown);
    let title = title.replace("{parameter}", &printable(parameter)) + &suggestion;
    let error = code.titled(title).at_parameter(printable(parameter));
    match near {
        Some(near) => error.with("nearest", near),
        None => error,
    }
}

/// A field that a filter or an order names.
struct KnownField {
    path: FieldPath,
    field_type: FieldType,
    digest: Option<fn(&str) -> u64>,
}

/// The field that a filter or an order names, unless it is unknown. Secrets are refused, known or
/// not.
fn known_field(
    kind: &ListKind,
    text: &str,
    parameter: &str,
) -> Result<Option<KnownField>, ApiError> {
    let field = (kind.field)(text);
    let secret = match &field {
        Some(field) => (kind.secret)(&field.members),
        None => (kind.secret)(&split(text)),
    };
    if secret {
        return Err(secret_field(parameter));
    }
    let Some(ListField {
        members,
        field_type,
        digest,
    }) = field
    else {
        return Ok(None);
    };
    check_depth(&members, parameter)?;
    Ok(Some(KnownField {
        path: FieldPath::of_parts(text, members),
        field_type,
        digest,
    }))
}

fn check_depth(parts: &[Box<str>], parameter: &str) -> Result<(), ApiError> {
    if parts.len() > PATH_DEPTH_MAX {
        let allowed = format!("must have paths of at most {PATH_DEPTH_MAX} parts");
        return Err(error::TOO_DEEP
            .about_parameter(&printable(parameter), allowed)
            .with("maximum", PATH_DEPTH_MAX));
    }
    Ok(())
}

/// Adds a value of a repeated parameter to a list joined by commas.
fn join(list: &mut String, more: Option<&str>) {
    list.push(',');
    list.push_str(more.unwrap_or_default());
}

fn parse_limit(text: &str) -> Result<usize, ApiError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error::NOT_INTEGER.about_parameter("limit", "must be an integer"));
    }
    text.parse()
        .ok()
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| {
            let allowed = format!("must be between 1 and {LIMIT_MAX}");
            error::INPUT_OUT_OF_RANGE
                .about_parameter("limit", allowed)
                .with("minimum", 1)
                .with("maximum", LIMIT_MAX)
        })
}

fn parse_search(text: &str, kind: &ListKind) -> Result<Option<Search>, ApiError> {
    if text.len() > Q_BYTES_MAX {
        let allowed = format!("must have at most {Q_BYTES_MAX} bytes");
        return Err(error::TOO_LONG
            .about_parameter("q", allowed)
            .with("maximum", Q_BYTES_MAX));
    }
    Ok((!text.is_empty()).then(|| Search::new(text, kind)))
}

/// The order of the request, or the default one. It is always total, because it ends with the key.
fn parse_sort(text: &str, kind: &ListKind) -> Result<Vec<SortKey>, ApiError> {
    let mut sort: Vec<SortKey> = Vec::new();
    let requested = text.split(',').filter(|piece| !piece.is_empty());
    for (i, piece) in requested.enumerate() {
        if i == SORT_KEYS_MAX {
            return Err(too_many_fields("sort", SORT_KEYS_MAX));
        }
        add_sort_key(piece, kind, &mut sort)?;
    }
    if sort.is_empty() {
        for piece in kind.default_sort.split(',') {
            add_sort_key(piece, kind, &mut sort)?;
        }
    }
    // A key whose direction the request does not name has that of the default order.
    let descending = kind
        .default_sort
        .split(',')
        .any(|piece| piece.strip_prefix('-') == Some(kind.key));
    let end = sort
        .iter()
        .position(|sort| sort.path.as_str() == kind.key)
        .unwrap_or(sort.len());
    let descending = sort.get(end).map_or(descending, |key| key.descending);
    // Fields after the key have no effect, because no two documents share a key.
    sort.truncate(end);
    sort.push(SortKey {
        path: FieldPath::new(kind.key),
        descending,
        numeric: false,
    });
    Ok(sort)
}

fn add_sort_key(piece: &str, kind: &ListKind, sort: &mut Vec<SortKey>) -> Result<(), ApiError> {
    let (path, descending) = match piece.strip_prefix('-') {
        Some(path) => (path, true),
        None => (piece, false),
    };
    // As with filters, an unknown field is ignored.
    let Some(field) = known_field(kind, path, "sort")?.filter(|field| field.digest.is_none())
    else {
        return Ok(());
    };
    let KnownField {
        path, field_type, ..
    } = field;
    if sort.iter().all(|known| known.path != path) {
        sort.push(SortKey {
            path,
            descending,
            numeric: matches!(
                field_type,
                FieldType::Integer | FieldType::Moment | FieldType::Number
            ),
        });
    }
    Ok(())
}

fn parse_select(text: &str, kind: &ListKind) -> Result<Option<Vec<Projection>>, ApiError> {
    let mut tree = Vec::new();
    let mut paths = 0;
    for piece in text.split(',').filter(|piece| !piece.is_empty()) {
        paths += 1;
        if paths > SELECT_PATHS_MAX {
            return Err(too_many_fields("select", SELECT_PATHS_MAX));
        }
        let parts = (kind.field)(piece).map_or_else(|| split(piece), |field| field.members);
        check_depth(&parts, "select")?;
        add_path(&mut tree, &parts);
    }
    if paths == 0 {
        return Ok(None);
    }
    for name in (kind.required)() {
        add_path(&mut tree, std::slice::from_ref(name));
    }
    Ok(Some(tree))
}

/// Adds a path to a selection. A whole field includes its parts.
fn add_path(tree: &mut Vec<Projection>, path: &[Box<str>]) {
    let [name, rest @ ..] = path else { return };
    match tree.binary_search_by(|known| known.name.cmp(name)) {
        Ok(found) if rest.is_empty() => tree[found].below.clear(),
        Ok(found) if tree[found].below.is_empty() => {}
        Ok(found) => add_path(&mut tree[found].below, rest),
        Err(index) => {
            let mut below = Vec::new();
            add_path(&mut below, rest);
            let name = name.clone();
            tree.insert(index, Projection { name, below });
        }
    }
}
