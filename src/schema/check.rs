//! Validates a whole document. Every violation is reported with its JSON pointer, up to a bound.
//!
//! Unknown members are not a violation: `prune` drops them. Read-only members are checked if
//! present and never required.

use std::fmt::Write;

use super::Schema;
use super::mask;
use super::tree::{
    self, ArrayRules, Kinds, NodeId, ObjectRules, SchemaNode, TextRules, Tree, Union, kind_of,
};
use crate::json::{self, Number, Object, Value};

/// Maximum number of violations in one response: enough to repair a document, and bounded for a
/// hostile one.
pub(super) const VIOLATIONS_MAX: usize = 20;

/// One violation of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Stable code for programs, such as `not_integer` or `unknown_enum_option`.
    pub code: &'static str,
    /// JSON pointer (RFC 6901) to the value, or to the position of a missing value.
    pub pointer: String,
    /// One sentence in plain English. Never contains the value, which may be a secret.
    pub title: String,
    /// The violated bounds, named as in JSON Schema.
    pub meta: Vec<(&'static str, String)>,
}

impl Schema {
    /// Checks a complete document, after merging.
    pub fn check(&self, merged: &Value) -> Result<(), Vec<Violation>> {
        let mut check = Check {
            tree: &self.tree,
            found: Vec::new(),
            most: VIOLATIONS_MAX,
        };
        check.value(self.root, merged, &DocumentPath::Root);
        if check.found.is_empty() {
            Ok(())
        } else {
            Err(check.found)
        }
    }
}

/// Whether a value is valid for one node.
#[cfg(test)]
pub(super) fn passes(tree: &Tree, id: NodeId, value: &Value) -> bool {
    let mut check = Check {
        tree,
        found: Vec::new(),
        most: 1,
    };
    check.value(id, value, &DocumentPath::Root);
    check.found.is_empty()
}

/// Whether a number of an allowed type is valid for a node.
pub(super) fn accepts_number(node: &SchemaNode, number: Number) -> bool {
    let (minimum, maximum) = bounds_of(node, number);
    minimum.is_none_or(|minimum| minimum <= number)
        && maximum.is_none_or(|maximum| number <= maximum)
}

/// Whether a text that is one of the options, if there are any, is valid for a node.
pub(super) fn accepts_text(tree: &Tree, node: &SchemaNode, text: &str) -> bool {
    let mut check = Check {
        tree,
        found: Vec::new(),
        most: 1,
    };
    check.string(node, text, &DocumentPath::Root);
    check.found.is_empty()
}

/// The bounds of a number, which depend on its own type: integers have 64 bits.
fn bounds_of(node: &SchemaNode, number: Number) -> (Option<Number>, Option<Number>) {
    let (mut minimum, mut maximum) = (node.minimum, node.maximum);
    if node.kinds & tree::FLOAT == 0 && !number.fits_signed() {
        minimum = minimum.or(Some(Number::from_signed(i64::MIN)));
        maximum = maximum.or(Some(Number::from_signed(i64::MAX)));
    }
    (minimum, maximum)
}

/// Position in the document: a list on the stack, converted to a pointer only for a violation.
enum DocumentPath<'a> {
    Root,
    Member(&'a DocumentPath<'a>, &'a str),
    Item(&'a DocumentPath<'a>, usize),
}

impl DocumentPath<'_> {
    fn pointer(&self) -> String {
        match self {
            DocumentPath::Root => String::new(),
            DocumentPath::Member(parent, key) => {
                let mut pointer = parent.pointer();
                json::push_pointer(&mut pointer, key);
                pointer
            }
            DocumentPath::Item(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }
}

/// The subject of a sentence about a whole document.
pub const WHOLE: &str = "The document";

impl DocumentPath<'_> {
    /// The subject of a sentence about the value.
    fn subject(&self) -> String {
        let printed = |key: &str| -> String {
            let printable = key.chars().filter(|letter| !letter.is_control());
            printable.take(PRINTED_KEY_CHARS_MAX).collect()
        };
        match self {
            DocumentPath::Root => WHOLE.to_owned(),
            DocumentPath::Member(_, key) => format!("`{}`", printed(key)),
            DocumentPath::Item(DocumentPath::Member(_, key), index) => {
                format!("Item {index} of `{}`", printed(key))
            }
            DocumentPath::Item(_, index) => format!("Item {index}"),
        }
    }
}

/// Longest member name that a title repeats, in characters.
const PRINTED_KEY_CHARS_MAX: usize = 64;

struct Check<'a> {
    tree: &'a Tree,
    found: Vec<Violation>,
    most: usize,
}

impl<'a> Check<'a> {
    /// Recursion descends into the document or into a union, and no union contains itself.
    fn value(&mut self, id: NodeId, value: &Value, path: &DocumentPath<'_>) {
        let node = &self.tree[id];
        let kind = kind_of(value);
        if node.kinds & kind == 0 {
            self.wrong_kind(node.kinds, path);
            return;
        }
        if kind == tree::NULL {
            return;
        }
        if let Some(union) = &node.union {
            self.union(union, value, path);
        }
        if !node.options.is_empty() && !node.options.contains(value) {
            self.unknown_option(node, path);
            return;
        }
        match value {
            Value::Number(number) => self.number(node, *number, path),
            Value::String(text) => self.string(node, text, path),
            Value::Array(items) => {
                if let Some(rules) = &node.array {
                    self.array(rules, items, path);
                }
            }
            Value::Object(object) => {
                if let Some(rules) = &node.object {
                    self.object(rules, object, path);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn number(&mut self, node: &SchemaNode, number: Number, path: &DocumentPath<'_>) {
        if !accepts_number(node, number) {
            let (minimum, maximum) = bounds_of(node, number);
            let text = |bound: Option<Number>| bound.map(|bound| Value::Number(bound).to_text());
            let (minimum, maximum) = (text(minimum), text(maximum));
            let title = bounds_title("must be", minimum.as_deref(), maximum.as_deref(), "");
            self.report(
                "input_out_of_range",
                path,
                title,
                [("minimum", minimum), ("maximum", maximum)],
            );
        }
    }

    fn string(&mut self, node: &SchemaNode, text: &str, path: &DocumentPath<'_>) {
        let format = node.text.as_ref().and_then(|rules| rules.format);
        let address = format.is_some_and(super::format::Format::is_address);
        if (node.secret && text == mask::MASK) || (address && mask::has_masked_password(text)) {
            let title =
                "has the mask `***`, which does not match a stored secret; send the secret itself";
            self.report(
                "wrong_format",
                path,
                title.into(),
                [("format", Some("secret".into()))],
            );
            return;
        }
        if let Some(rules) = &node.text {
            self.text(rules, text, path);
        }
    }

    fn text(&mut self, rules: &TextRules, text: &str, path: &DocumentPath<'_>) {
        if rules.length_min.is_some() || rules.length_max.is_some() {
            let length = text.chars().count() as u64;
            let bounds = || {
                let text = |bound: Option<u64>| bound.map(|bound| bound.to_string());
                (text(rules.length_min), text(rules.length_max))
            };
            let code = match (rules.length_min, rules.length_max) {
                (Some(least), _) if length < least => Some("too_short"),
                (_, Some(most)) if length > most => Some("too_long"),
                _ => None,
            };
            if let Some(code) = code {
                let (least, most) = bounds();
                let title = bounds_title(
                    "must have",
                    least.as_deref(),
                    most.as_deref(),
                    " characters",
                );
                self.report(
                    code,
                    path,
                    title,
                    [("minLength", least), ("maxLength", most)],
                );
            }
        }
        if let Some(pattern) = &rules.pattern
            && !pattern.matches(text)
        {
            let title = format!("must match the pattern {}", pattern.source);
            self.report(
                "nomatch_pattern",
                path,
                title,
                [("pattern", Some(pattern.source.to_string()))],
            );
            return;
        }
        if let Some(format) = rules.format
            && !format.accepts(text)
        {
            self.report(
                "wrong_format",
                path,
                format!("must be {}", format.allowed),
                [("format", Some(format.name.into()))],
            );
        }
    }

    fn array(&mut self, rules: &ArrayRules, items: &[Value], path: &DocumentPath<'_>) {
        let count = items.len() as u64;
        let code = match (rules.items_min, rules.items_max) {
            (Some(least), _) if count < least => Some("too_few_items"),
            (_, Some(most)) if count > most => Some("too_many_items"),
            _ => None,
        };
        if let Some(code) = code {
            let text = |bound: Option<u64>| bound.map(|bound| bound.to_string());
            let (least, most) = (text(rules.items_min), text(rules.items_max));
            let title = bounds_title("must have", least.as_deref(), most.as_deref(), " items");
            self.report(code, path, title, [("minItems", least), ("maxItems", most)]);
        }
        let Some(id) = rules.items else { return };
        let nullable = self.tree[id].kinds & tree::NULL != 0;
        for (index, item) in items.iter().enumerate() {
            if self.is_full() {
                return;
            }
            if item.is_null() && !nullable {
                let title = "must not be null";
                self.report(
                    "null_in_array_of_non_nullable",
                    &DocumentPath::Item(path, index),
                    title.into(),
                    [],
                );
                continue;
            }
            self.value(id, item, &DocumentPath::Item(path, index));
        }
    }

    fn object(&mut self, rules: &ObjectRules, object: &Object, path: &DocumentPath<'_>) {
        if let Some(most) = rules.members_max.filter(|most| object.len() as u64 > *most) {
            let title = format!("must have at most {most} members");
            self.report(
                "too_many_items",
                path,
                title,
                [("maxProperties", Some(most.to_string()))],
            );
        }
        for at in &rules.required {
            let name = &rules.properties[usize::from(*at)].name;
            if object.member(name).is_none_or(Value::is_null) {
                self.report(
                    "missing_required",
                    &DocumentPath::Member(path, name),
                    "is required".into(),
                    [],
                );
            }
        }
        let mut from = 0;
        for (key, value) in object.members() {
            if self.is_full() {
                return;
            }
            if let Some(property) = rules.next_property(key, &mut from) {
                self.value(property.node, value, &DocumentPath::Member(path, key));
                continue;
            }
            let path = DocumentPath::Member(path, key);
            if rules.closed {
                self.report("extra_keys", &path, "is unknown".into(), []);
                continue;
            }
            if let Some(text) = rules.names.and_then(|id| self.tree[id].text.as_ref()) {
                self.text(text, key, &path);
            }
            if let Some(id) = rules.additional {
                self.value(id, value, &path);
            }
        }
    }

    fn union(&mut self, union: &'a Union, value: &Value, path: &DocumentPath<'_>) {
        let Some(member) = union.member() else {
            self.free(union.variants(), value, path);
            return;
        };
        let Value::Object(object) = value else { return };
        match object.member(member) {
            None | Some(Value::Null) => {
                if let Some(variant) = union.absent() {
                    self.value(variant, value, path);
                    return;
                }
                let title = format!(
                    "is required: it selects the variant of the object, one of: {}",
                    known(union)
                );
                self.report(
                    "discriminator_missing",
                    &DocumentPath::Member(path, member),
                    title,
                    [],
                );
            }
            Some(Value::String(text)) => {
                if let Some(variant) = union.variant(text) {
                    self.value(variant, value, path);
                    return;
                }
                let title = format!("must select a known variant, one of: {}", known(union));
                let path = DocumentPath::Member(path, member);
                self.report("discriminator_unmapped", &path, title, []);
            }
            Some(_) => self.report(
                "not_string",
                &DocumentPath::Member(path, member),
                "must be a string".into(),
                [],
            ),
        }
    }

    /// If only one variant accepts the type of the value, its violations are reported. Otherwise at
    /// least one must match.
    fn free(&mut self, variants: &[NodeId], value: &Value, path: &DocumentPath<'_>) {
        let kind = kind_of(value);
        let mut fitting = variants
            .iter()
            .filter(|id| self.tree[**id].kinds & kind != 0);
        let Some(first) = fitting.next() else { return };
        let mut others = fitting.peekable();
        if others.peek().is_none() {
            self.value(*first, value, path);
            return;
        }
        let fits = |id: &NodeId| {
            let mut trial = Check {
                tree: self.tree,
                found: Vec::new(),
                most: 1,
            };
            trial.value(*id, value, path);
            trial.found.is_empty()
        };
        if !fits(first) && !others.any(fits) {
            let count = variants.len();
            self.report(
                "unmatched_any",
                path,
                format!("must match one of the {count} documented variants"),
                [],
            );
        }
    }

    #[cold]
    fn wrong_kind(&mut self, allowed: Kinds, path: &DocumentPath<'_>) {
        let (code, title) = match allowed & !tree::NULL {
            tree::BOOLEAN => ("not_boolean", "must be true or false"),
            tree::INTEGER => ("not_integer", "must be an integer"),
            tree::NUMBER => ("not_number", "must be a number"),
            tree::STRING => ("not_string", "must be a string"),
            tree::ARRAY => ("not_array", "must be an array"),
            tree::OBJECT => ("not_object", "must be an object"),
            0 => ("not_null", "must be null"),
            several => {
                let names: Vec<&str> = KIND_NAMES
                    .iter()
                    .filter(|(kind, _)| several & kind != 0)
                    .map(|(_, name)| *name)
                    .collect();
                let names = names.join(", ");
                self.report(
                    "invalid_type",
                    path,
                    format!("must have one of these types: {names}"),
                    [("type", Some(names.clone()))],
                );
                return;
            }
        };
        self.report(code, path, title.into(), []);
    }

    #[cold]
    fn unknown_option(&mut self, node: &SchemaNode, path: &DocumentPath<'_>) {
        let mut options = String::new();
        for (index, option) in node.options.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            match option {
                Value::String(text) => write!(options, "{separator}{text}"),
                other => write!(options, "{separator}{other}"),
            }
            .expect("a string accepts all writes");
        }
        if node.is_const {
            self.report(
                "not_const",
                path,
                format!("must be {options}"),
                [("const", Some(options.clone()))],
            );
        } else {
            self.report(
                "unknown_enum_option",
                path,
                format!("must be one of: {options}"),
                [("enum", Some(options.clone()))],
            );
        }
    }

    #[cold]
    fn report<const N: usize>(
        &mut self,
        code: &'static str,
        path: &DocumentPath<'_>,
        predicate: String,
        meta: [(&'static str, Option<String>); N],
    ) {
        if !self.is_full() {
            let meta = meta
                .into_iter()
                .filter_map(|(name, bound)| Some((name, bound?)))
                .collect();
            self.found.push(Violation {
                code,
                pointer: path.pointer(),
                title: format!("{} {predicate}", path.subject()),
                meta,
            });
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.most
    }
}

const KIND_NAMES: [(Kinds, &str); 6] = [
    (tree::BOOLEAN, "boolean"),
    (tree::INTEGER, "integer"),
    (tree::FLOAT, "number"),
    (tree::STRING, "string"),
    (tree::ARRAY, "array"),
    (tree::OBJECT, "object"),
];

/// Allowed values of a discriminator, separated by commas.
fn known(union: &Union) -> String {
    let names: Vec<&str> = match union {
        Union::Free(_) => Vec::new(),
        Union::Named { variants, .. } => variants.iter().map(|(name, _)| &**name).collect(),
        Union::Addressed { schemes, .. } => schemes.iter().map(|(scheme, _)| &**scheme).collect(),
    };
    names.join(", ")
}

fn bounds_title(verb: &str, least: Option<&str>, most: Option<&str>, unit: &str) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{verb} {least} to {most}{unit}"),
        (Some(least), None) => format!("{verb} at least {least}{unit}"),
        (None, Some(most)) => format!("{verb} at most {most}{unit}"),
        (None, None) => unreachable!("a violated rule has a bound"),
    }
}
