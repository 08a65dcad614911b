//! The compiled schema: nodes in one table, addressed by index, their members sorted by name.
//!
//! References are resolved at compile time (a reference with rules beside it becomes a node of its
//! own), so no walk looks up a name. Cycles between objects are allowed, because a walk descends
//! into the document; cycles of unions are refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value as Json};

use super::data;
use super::format::{self, Format};
use super::pattern::{self, Pattern};
use crate::json::{self, Key, Number, Value};

/// A set of JSON types. An integer is a number without a fraction; `NUMBER` includes it.
pub(super) type Kinds = u8;
pub(super) const NULL: Kinds = 1;
pub(super) const BOOLEAN: Kinds = 2;
pub(super) const INTEGER: Kinds = 4;
pub(super) const FLOAT: Kinds = 8;
pub(super) const NUMBER: Kinds = INTEGER | FLOAT;
pub(super) const STRING: Kinds = 16;
pub(super) const ARRAY: Kinds = 32;
pub(super) const OBJECT: Kinds = 64;
pub(super) const ANY: Kinds = 127;

pub(super) fn kind_of(value: &Value) -> Kinds {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(Number::Float(_)) => FLOAT,
        Value::Number(_) => INTEGER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NodeId(u32);

/// All nodes reachable from a root.
pub(super) struct Tree {
    nodes: Box<[SchemaNode]>,
}

impl std::ops::Index<NodeId> for Tree {
    type Output = SchemaNode;

    fn index(&self, id: NodeId) -> &SchemaNode {
        &self.nodes[id.0 as usize]
    }
}

/// The rules for one value. Rules for other types than that of the value are ignored.
#[derive(Default)]
pub(super) struct SchemaNode {
    /// Allowed types. For a union, the types of all variants.
    pub(super) kinds: Kinds,
    /// Values of `const` or `enum`; if not empty, only these are allowed.
    pub(super) options: Box<[Value]>,
    pub(super) is_const: bool,
    pub(super) minimum: Option<Number>,
    pub(super) maximum: Option<Number>,
    pub(super) text: Option<Box<TextRules>>,
    pub(super) array: Option<Box<ArrayRules>>,
    pub(super) object: Option<Box<ObjectRules>>,
    pub(super) union: Option<Box<Union>>,
    /// Every scalar in the value is masked.
    pub(super) secret: bool,
    /// The value or a part of it has a default to fill in.
    pub(super) fills: bool,
}

#[derive(Default)]
pub(super) struct TextRules {
    pub(super) format: Option<Format>,
    pub(super) pattern: Option<Pattern>,
    /// In characters.
    pub(super) length_min: Option<u64>,
    pub(super) length_max: Option<u64>,
}

#[derive(Default)]
pub(super) struct ArrayRules {
    pub(super) items: Option<NodeId>,
    pub(super) items_min: Option<u64>,
    pub(super) items_max: Option<u64>,
}

#[derive(Default)]
pub(super) struct ObjectRules {
    /// Sorted by name.
    pub(super) properties: Box<[Property]>,
    /// Numbers of the names if all are in the dictionary of keys, so a walk compares integers in
    /// one array.
    numbers: Box<[u16]>,
    /// Rules for the values of other members.
    pub(super) additional: Option<NodeId>,
    /// Rules for the keys of other members.
    pub(super) names: Option<NodeId>,
    /// Other members are an error; they are not just dropped.
    pub(super) closed: bool,
    pub(super) members_max: Option<u64>,
    /// Indexes of the properties required in input. Read-only properties are never required.
    pub(super) required: Box<[u16]>,
}

pub(super) struct Property {
    pub(super) name: Key,
    pub(super) node: NodeId,
    pub(super) read_only: bool,
    /// The default that is filled in for an absent member in the effective document.
    pub(super) filling: Option<Filling>,
}

/// A default that is filled in.
pub(super) struct Filling {
    /// Canonical text of the whole member: `"name":default`.
    pub(super) text: Box<str>,
    pub(super) value: Value,
}

/// A value that matches one of several nodes. `oneOf` and `anyOf` are equivalent: the first variant
/// that matches is taken.
pub(super) enum Union {
    Free(Box<[NodeId]>),
    /// A member names the variant.
    Named {
        member: Key,
        variants: Box<[(Box<str>, NodeId)]>,
        /// The variant of every other name.
        fallback: Option<NodeId>,
        /// Name and variant if the member is absent.
        absent: Option<(Box<str>, NodeId)>,
        all: Box<[NodeId]>,
    },
    /// The URL in a member selects the variant: by its scheme, then by pattern, in the order of the
    /// schema.
    Addressed {
        member: Key,
        schemes: Box<[Scheme]>,
        all: Box<[NodeId]>,
    },
}

/// The variants of one scheme, in the order in which they are tried.
type Scheme = (Box<str>, Box<[Address]>);

/// One variant of a scheme.
pub(super) struct Address {
    /// Absent if the scheme decides.
    pattern: Option<Pattern>,
    node: NodeId,
}

impl Union {
    pub(super) fn variants(&self) -> &[NodeId] {
        match self {
            Union::Free(all) | Union::Named { all, .. } | Union::Addressed { all, .. } => all,
        }
    }

    /// Name of the member that selects the variant.
    pub(super) fn member(&self) -> Option<&Key> {
        match self {
            Union::Free(_) => None,
            Union::Named { member, .. } | Union::Addressed { member, .. } => Some(member),
        }
    }

    /// The variant of an object without the discriminating member.
    pub(super) fn absent(&self) -> Option<NodeId> {
        match self {
            Union::Named { absent, .. } => absent.as_ref().map(|(_, node)| *node),
            Union::Free(_) | Union::Addressed { .. } => None,
        }
    }

    /// The variant selected by the text of the discriminating member.
    pub(super) fn variant(&self, text: &str) -> Option<NodeId> {
        match self {
            Union::Free(_) => None,
            Union::Named {
                variants, fallback, ..
            } => variants
                .binary_search_by(|(name, _)| (**name).cmp(text))
                .map_or(*fallback, |at| Some(variants[at].1)),
            Union::Addressed { schemes, .. } => {
                let scheme = text.split_once("://")?.0;
                let at = schemes
                    .binary_search_by(|(name, _)| (**name).cmp(scheme))
                    .ok()?;
                let fits = |address: &&Address| {
                    address
                        .pattern
                        .as_ref()
                        .is_none_or(|pattern| pattern.matches(text))
                };
                schemes[at].1.iter().find(fits).map(|address| address.node)
            }
        }
    }
}

impl ObjectRules {
    /// Whether any member is allowed, because there is no rule for members.
    pub(super) fn is_open(&self) -> bool {
        self.properties.is_empty() && self.additional.is_none() && !self.closed
    }

    /// Whether input must have the property at an index.
    pub(super) fn is_required(&self, property: usize) -> bool {
        self.required.iter().any(|at| usize::from(*at) == property)
    }

    pub(super) fn property(&self, name: &str) -> Option<&Property> {
        let at = self
            .properties
            .binary_search_by(|property| (*property.name).cmp(name));
        at.ok().map(|at| &self.properties[at])
    }

    /// Whether `index_of` knows all properties.
    pub(super) fn is_indexed(&self) -> bool {
        self.numbers.len() == self.properties.len()
    }

    /// The index of the property with a name of the dictionary.
    pub(super) fn index_of(&self, key: &Key) -> Option<usize> {
        match key {
            Key::Known(number) => self.numbers.binary_search(number).ok(),
            Key::Other(_) => None,
        }
    }

    /// Finds a property, for keys in ascending order: `from` is the first property that is not less
    /// than the previous key.
    pub(super) fn next_property(&self, key: &Key, from: &mut usize) -> Option<&Property> {
        match key {
            Key::Known(number) if !self.numbers.is_empty() => {
                let rest = &self.numbers[*from..];
                *from += rest
                    .iter()
                    .position(|known| known >= number)
                    .unwrap_or(rest.len());
                (self.numbers.get(*from) == Some(number)).then(|| &self.properties[*from])
            }
            key => {
                let rest = &self.properties[*from..];
                *from += rest.partition_point(|property| property.name < *key);
                self.properties
                    .get(*from)
                    .filter(|property| property.name == *key)
            }
        }
    }
}

impl Tree {
    /// The node for `value`: its variant, or the node itself if it is not a union. `Several` if the
    /// value does not select one variant.
    pub(super) fn resolve(&self, id: NodeId, value: &Value) -> Resolved {
        let mut id = id;
        loop {
            let Some(union) = &self[id].union else {
                return Resolved::One(id);
            };
            let next = if let Some(member) = union.member() {
                let text = value
                    .as_object()
                    .and_then(|object| object.member(member))
                    .and_then(Value::as_str);
                text.and_then(|text| union.variant(text))
            } else {
                self.only_of_kind(union.variants(), kind_of(value))
            };
            match next {
                Some(next) => id = next,
                None => return Resolved::Several,
            }
        }
    }

    /// Whether a member selects the variant of this union or of one inside it.
    pub(super) fn is_discriminator(&self, id: NodeId, key: &Key) -> bool {
        self[id].union.as_ref().is_some_and(|union| {
            let mut variants = union.variants().iter();
            union.member() == Some(key) || variants.any(|id| self.is_discriminator(*id, key))
        })
    }

    /// The only variant that allows this type, if there is exactly one.
    fn only_of_kind(&self, variants: &[NodeId], kind: Kinds) -> Option<NodeId> {
        let mut fitting = variants.iter().filter(|id| self[**id].kinds & kind != 0);
        fitting.next().copied().filter(|_| fitting.next().is_none())
    }

    /// Adds the node, or all variants instead of a union.
    pub(super) fn spread(&self, id: NodeId, into: &mut BTreeSet<NodeId>) {
        match &self[id].union {
            Some(union) => union
                .variants()
                .iter()
                .for_each(|variant| self.spread(*variant, into)),
            None => {
                into.insert(id);
            }
        }
    }
}

pub(super) enum Resolved {
    One(NodeId),
    Several,
}

/// Compiles the named schema and those it refers to. Panics on an error in the files, which are
/// part of the program.
pub(super) fn compile(schemas: &Schemas, root: &str) -> (Tree, NodeId) {
    let mut compiler = Compiler {
        schemas,
        nodes: Vec::new(),
        known: HashMap::new(),
    };
    let root = compiler.reference(root, &Map::new());
    let mut tree = Tree {
        nodes: compiler
            .nodes
            .into_iter()
            .map(|node| node.expect("every reserved node is compiled"))
            .collect(),
    };
    settle_kinds(&mut tree);
    settle_fills(&mut tree);
    (tree, root)
}

/// Schemas of the files by name.
pub(super) type Schemas = BTreeMap<String, Json>;

/// Reads the files. Panics on an error in them, because they are part of the program.
pub(super) fn read(files: &[(&str, &str)]) -> Schemas {
    let mut schemas = BTreeMap::new();
    for (file, text) in files {
        let json: Json =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let Some(Json::Object(found)) = json.get("schemas").cloned() else {
            panic!("{file}: no object \"schemas\"")
        };
        for (name, mut schema) in found {
            data::add_minimums(&mut schema);
            assert!(
                schemas.insert(name.clone(), schema).is_none(),
                "{file}: {name} is defined twice"
            );
        }
    }
    schemas
}

struct Compiler<'a> {
    schemas: &'a Schemas,
    nodes: Vec<Option<SchemaNode>>,
    /// Nodes of named schemas, by name and the rules beside the reference.
    known: HashMap<(String, String), NodeId>,
}

/// Keywords that may be beside a reference without changing the rules for the value.
const NOTES: &[&str] = &[
    "$ref",
    "readOnly",
    "default",
    "deprecated",
    "description",
    "example",
    "examples",
    "title",
];

impl Compiler<'_> {
    fn schema(&mut self, schema: &Json) -> NodeId {
        let map = schema
            .as_object()
            .unwrap_or_else(|| panic!("a schema is an object, not {schema}"));
        if let Some(target) = map.get("$ref") {
            return self.reference(name_of(target), map);
        }
        let id = self.reserve();
        self.nodes[id.0 as usize] = Some(self.node(map));
        id
    }

    fn reference(&mut self, name: &str, beside: &Map<String, Json>) -> NodeId {
        let beside: Map<String, Json> = beside
            .iter()
            .filter(|(key, _)| {
                !NOTES.contains(&key.as_str())
                    && (!key.starts_with("x-") || matches!(key.as_str(), "x-nullable" | "x-secret"))
            })
            .map(|(key, rule)| (key.clone(), rule.clone()))
            .collect();
        let key = (name.to_owned(), Json::Object(beside.clone()).to_string());
        if let Some(id) = self.known.get(&key) {
            return *id;
        }
        let mut map = beside;
        let mut target = name;
        for hops in 0.. {
            assert!(hops < 16, "{name}: circular references");
            let schema = self
                .schemas
                .get(target)
                .unwrap_or_else(|| panic!("{target} is not defined"));
            let schema = schema
                .as_object()
                .unwrap_or_else(|| panic!("{target}: a schema is an object"));
            for (rule, value) in schema {
                map.entry(rule.clone()).or_insert_with(|| value.clone());
            }
            match schema.get("$ref") {
                Some(next) => target = name_of(next),
                None => break,
            }
        }
        map.remove("$ref");
        let id = self.reserve();
        self.known.insert(key, id);
        self.nodes[id.0 as usize] = Some(self.node(&map));
        id
    }

    fn reserve(&mut self) -> NodeId {
        self.nodes.push(None);
        NodeId((self.nodes.len() - 1) as u32)
    }

    fn node(&mut self, map: &Map<String, Json>) -> SchemaNode {
        let flag = |name: &str| map.get(name) == Some(&Json::Bool(true));
        let types = map
            .get("x-types")
            .or_else(|| map.get("x-demo-type"))
            .or_else(|| map.get("type"));
        let mut kinds = match types {
            Some(Json::String(name)) => kind_named(name),
            Some(Json::Array(names)) => names
                .iter()
                .map(|name| kind_named(name.as_str().unwrap_or_default()))
                .fold(0, |a, b| a | b),
            _ => ANY & !NULL,
        };
        if flag("x-nullable") || flag("nullable") || flag("x-any") || flag("x-unknown") {
            kinds |= NULL;
        }
        let range = map
            .get("format")
            .and_then(Json::as_str)
            .and_then(format::range);
        let bound = |name: &str| map.get(name).and_then(number_of);
        let options = match (map.get("const"), map.get("enum")) {
            (Some(constant), _) => vec![value_of(constant)],
            (None, Some(Json::Array(options))) => options.iter().map(value_of).collect(),
            _ => Vec::new(),
        };
        SchemaNode {
            kinds,
            options: options.into(),
            is_const: map.contains_key("const"),
            minimum: bound("minimum").or(range.map(|(minimum, _)| minimum)),
            maximum: bound("maximum").or(range.map(|(_, maximum)| maximum)),
            text: text_rules(map),
            array: self.array_rules(map),
            object: self.object_rules(map),
            union: self.union(map),
            secret: flag("x-secret"),
            fills: false,
        }
    }

    fn array_rules(&mut self, map: &Map<String, Json>) -> Option<Box<ArrayRules>> {
        let count = |name: &str| map.get(name).and_then(Json::as_u64);
        let items = map.get("items").map(|items| self.schema(items));
        let rules = ArrayRules {
            items,
            items_min: count("minItems"),
            items_max: count("maxItems"),
        };
        (rules.items.is_some() || rules.items_min.is_some() || rules.items_max.is_some())
            .then(|| Box::new(rules))
    }

    fn object_rules(&mut self, map: &Map<String, Json>) -> Option<Box<ObjectRules>> {
        if ![
            "properties",
            "additionalProperties",
            "propertyNames",
            "maxProperties",
        ]
        .iter()
        .any(|rule| map.contains_key(*rule))
        {
            return None;
        }
        let mut properties: Vec<Property> = map
            .get("properties")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(name, schema)| Property {
                name: Key::new(name),
                node: self.schema(schema),
                read_only: schema.get("readOnly") == Some(&Json::Bool(true)),
                filling: filling(name, schema),
            })
            .collect();
        properties.sort_by(|a, b| a.name.cmp(&b.name));
        let required = map
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .map(|name| {
                let name = name.as_str().unwrap_or_default();
                properties
                    .iter()
                    .position(|property| *property.name == *name)
                    .unwrap_or_else(|| panic!("{name} is required but not a property"))
            });
        let required = required
            .filter(|at| !properties[*at].read_only)
            .map(|at| at as u16)
            .collect();
        let numbers: Option<Vec<u16>> = properties
            .iter()
            .map(|property| match property.name {
                Key::Known(number) => Some(number),
                Key::Other(_) => None,
            })
            .collect();
        Some(Box::new(ObjectRules {
            required,
            numbers: numbers.unwrap_or_default().into(),
            properties: properties.into(),
            additional: map
                .get("additionalProperties")
                .filter(|schema| schema.is_object())
                .map(|schema| self.schema(schema)),
            names: map.get("propertyNames").map(|schema| self.schema(schema)),
            closed: map.get("additionalProperties") == Some(&Json::Bool(false)),
            members_max: map.get("maxProperties").and_then(Json::as_u64),
        }))
    }

    fn union(&mut self, map: &Map<String, Json>) -> Option<Box<Union>> {
        let list = map
            .get("oneOf")
            .or_else(|| map.get("anyOf"))?
            .as_array()
            .expect("the variants of a union are an array");
        let all: Box<[NodeId]> = list.iter().map(|schema| self.schema(schema)).collect();
        let Some(discriminator) = map.get("discriminator") else {
            return Some(Box::new(Union::Free(all)));
        };
        let member = discriminator.get("propertyName").and_then(Json::as_str);
        let member = Key::new(member.expect("a discriminator names a member"));
        let named = |name: &Json| {
            let at = list.iter().position(|schema| {
                schema
                    .get("$ref")
                    .is_some_and(|target| name_of(target) == name_of(name))
            });
            at.unwrap_or_else(|| panic!("{name} is not a variant of the union by {member:?}"))
        };
        if let Some(patterns) = discriminator.get("x-patterns").and_then(Json::as_object) {
            let patterns: Vec<(usize, &str)> = patterns
                .iter()
                .map(|(source, name)| (named(name), source.as_str()))
                .collect();
            let schemes = schemes_of(patterns, &all);
            return Some(Box::new(Union::Addressed {
                member,
                schemes,
                all,
            }));
        }
        let mapping = discriminator
            .get("mapping")
            .and_then(Json::as_object)
            .expect("a discriminator has a mapping or patterns");
        let mut variants: Vec<(Box<str>, NodeId)> = mapping
            .iter()
            .map(|(name, target)| (name.as_str().into(), all[named(target)]))
            .collect();
        variants.sort_unstable();
        let fallback = discriminator.get("x-fallback").map(|name| all[named(name)]);
        let absent = discriminator.get("x-absent").map(|target| {
            let variant = all[named(target)];
            let name = variants.iter().find(|(_, node)| *node == variant);
            let (name, _) = name.expect("the variant of an absent member has a name");
            (name.clone(), variant)
        });
        Some(Box::new(Union::Named {
            member,
            variants: variants.into(),
            fallback,
            absent,
            all,
        }))
    }
}

/// The variants by scheme. `patterns` has an index into `all` for each pattern.
fn schemes_of(mut patterns: Vec<(usize, &str)>, all: &[NodeId]) -> Box<[Scheme]> {
    // The order of the variants decides between overlapping patterns; members of an object have no
    // order.
    patterns.sort_unstable();
    let mut schemes: BTreeMap<Box<str>, Vec<Address>> = BTreeMap::new();
    for (at, source) in patterns {
        let known = pattern::schemes(source)
            .unwrap_or_else(|| panic!("pattern {source:?} of a union must begin with its schemes"));
        for scheme in known {
            let pattern =
                (!pattern::takes_all_of(source, &scheme)).then(|| Pattern::compile(source));
            schemes.entry(scheme).or_default().push(Address {
                pattern,
                node: all[at],
            });
        }
    }
    let schemes = schemes.into_iter();
    schemes
        .map(|(scheme, list)| (scheme, list.into()))
        .collect()
}

/// The text to fill in for an absent member. Deprecated and read-only members are not filled in.
fn filling(name: &str, schema: &Json) -> Option<Filling> {
    let marked = |mark: &str| schema.get(mark) == Some(&Json::Bool(true));
    let default = schema
        .get("default")
        .filter(|_| !marked("deprecated") && !marked("readOnly"))?;
    let mut text = Vec::new();
    json::write_string(&mut text, name);
    text.push(b':');
    let value = value_of(default);
    value.write(&mut text);
    let text = json::text_of(text).into();
    Some(Filling { text, value })
}

fn text_rules(map: &Map<String, Json>) -> Option<Box<TextRules>> {
    let count = |name: &str| map.get(name).and_then(Json::as_u64);
    let rules = TextRules {
        format: map
            .get("format")
            .and_then(Json::as_str)
            .and_then(format::text),
        pattern: map
            .get("pattern")
            .and_then(Json::as_str)
            .map(Pattern::compile),
        length_min: count("minLength"),
        length_max: count("maxLength"),
    };
    let some = rules.format.is_some()
        || rules.pattern.is_some()
        || rules.length_min.is_some()
        || rules.length_max.is_some();
    some.then(|| Box::new(rules))
}

fn kind_named(name: &str) -> Kinds {
    match name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "integer" => INTEGER,
        "number" => NUMBER,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => panic!("{name:?} is not a type"),
    }
}

/// `#/components/schemas/NAME`, or just the name.
fn name_of(target: &Json) -> &str {
    let target = target
        .as_str()
        .unwrap_or_else(|| panic!("{target} names no schema"));
    target.rsplit('/').next().unwrap_or(target)
}

fn value_of(json: &Json) -> Value {
    json::parse(json.to_string().as_bytes()).expect("what serde_json writes is JSON")
}

fn number_of(json: &Json) -> Option<Number> {
    match value_of(json) {
        Value::Number(number) => Some(number.to_integer().unwrap_or(number)),
        _ => None,
    }
}

/// Sets the types of each union to those of its variants. Panics if a union contains itself.
fn settle_kinds(tree: &mut Tree) {
    fn kinds(tree: &Tree, id: NodeId, open: &mut Vec<NodeId>) -> Kinds {
        let node = &tree[id];
        let Some(union) = &node.union else {
            return node.kinds;
        };
        assert!(!open.contains(&id), "a union contains itself");
        open.push(id);
        let all = union
            .variants()
            .iter()
            .fold(node.kinds & NULL, |all, variant| {
                all | kinds(tree, *variant, open)
            });
        open.pop();
        all
    }
    let settled: Vec<Kinds> = (0..tree.nodes.len())
        .map(|at| kinds(tree, NodeId(at as u32), &mut Vec::new()))
        .collect();
    tree.nodes
        .iter_mut()
        .zip(settled)
        .for_each(|(node, kinds)| node.kinds = kinds);
}

/// Marks every node that contains a default, so `effective` skips the others.
fn settle_fills(tree: &mut Tree) {
    loop {
        let fills = |id: &NodeId| tree[*id].fills;
        let found: Vec<usize> = tree
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| {
                let array = node
                    .array
                    .as_ref()
                    .and_then(|rules| rules.items)
                    .is_some_and(|id| fills(&id));
                let union = node
                    .union
                    .as_ref()
                    .is_some_and(|union| union.variants().iter().any(fills));
                let object = node.object.as_ref().is_some_and(|rules| {
                    rules.additional.is_some_and(|id| fills(&id))
                        || rules
                            .properties
                            .iter()
                            .any(|it| it.filling.is_some() || fills(&it.node))
                });
                !node.fills && (array || union || object)
            })
            .map(|(at, _)| at)
            .collect();
        if found.is_empty() {
            return;
        }
        for at in found {
            tree.nodes[at].fills = true;
        }
    }
}
