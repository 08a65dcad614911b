//! Values made from a schema of the document: what each field may be, what it may not be, and
//! whether a response matches its description.
//!
//! Every case is a whole body with one interesting value in it, so that a failure names one field.
//! Unions are taken apart: each variant has its own cases.

use std::collections::HashMap;

use regex_automata::meta::Regex;
use serde_json::{Map, Value, json};

use crate::described::Document;

/// The expected treatment of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It is read back as it was sent.
    Kept,
    /// It is ignored: read-only, or unknown.
    Dropped,
    /// The request is refused with this code, or with any if it is empty.
    Refused(&'static str),
}

#[derive(Clone, Debug)]
pub struct Case {
    /// Where the value is in the body.
    pub pointer: String,
    pub body: Value,
    pub value: Value,
    pub fate: Fate,
    /// Marked as secret, itself or with what it is in.
    pub secret: bool,
    pub format: Option<String>,
}

/// The way from the root of a body to a value.
enum ValuePlace<'a> {
    Root,
    /// A member, and what else has to be in its object.
    Member(&'a ValuePlace<'a>, &'a str, Map<String, Value>),
    Item(&'a ValuePlace<'a>),
}

impl ValuePlace<'_> {
    fn body(&self, value: Value) -> Value {
        match self {
            ValuePlace::Root => value,
            ValuePlace::Member(parent, name, others) => {
                let mut object = others.clone();
                object.insert((*name).to_owned(), value);
                parent.body(Value::Object(object))
            }
            ValuePlace::Item(parent) => parent.body(json!([value])),
        }
    }

    fn pointer(&self) -> String {
        match self {
            ValuePlace::Root => String::new(),
            ValuePlace::Member(parent, name, _) => {
                let name = name.replace('~', "~0").replace('/', "~1");
                format!("{}/{name}", parent.pointer())
            }
            ValuePlace::Item(parent) => format!("{}/0", parent.pointer()),
        }
    }
}

/// All cases of a body.
pub fn cases(document: &Document, schema: &Value) -> Vec<Case> {
    let mut walk = Walk {
        document,
        cases: Vec::new(),
        way: Vec::new(),
        secrets: 0,
    };
    walk.value(&document.flat(schema), &ValuePlace::Root);
    walk.cases
}

struct Walk<'a> {
    document: &'a Document,
    cases: Vec<Case>,
    /// Titles of the objects around, so that schemas that contain themselves end.
    way: Vec<String>,
    /// Number of enclosing values that are secret.
    secrets: usize,
}

impl Walk<'_> {
    fn case(&mut self, place: &ValuePlace<'_>, value: Value, fate: Fate) {
        self.cases.push(Case {
            pointer: place.pointer(),
            body: place.body(value.clone()),
            value,
            fate,
            secret: self.secrets > 0,
            format: None,
        });
    }

    fn value(&mut self, flat: &Value, place: &ValuePlace<'_>) {
        let secret = usize::from(flat["x-secret"] == true);
        self.secrets += secret;
        let from = self.cases.len();
        self.described(flat, place);
        if let Some(format) = flat["format"].as_str() {
            for case in &mut self.cases[from..] {
                case.format = Some(format.to_owned());
            }
        }
        self.secrets -= secret;
    }

    fn described(&mut self, flat: &Value, place: &ValuePlace<'_>) {
        if flat["readOnly"] == true {
            // The last of its values: the first one is often the default, of flags `false`.
            let value = match self.document.valid(flat).pop() {
                Some(Value::Bool(_)) => json!(true),
                Some(value) => value,
                None => self.document.minimal(flat),
            };
            self.case(place, value, Fate::Dropped);
            return;
        }
        let variants = self.document.variants(flat);
        if !variants.is_empty() {
            self.union(flat, &variants, place);
        } else if flat["type"] == "object" {
            self.wrong_kinds(flat, place, &["array", "string", "integer"]);
            self.object(flat, place, None);
        } else if flat["type"] == "array" {
            self.wrong_kinds(flat, place, &["object", "string", "boolean"]);
            self.array(flat, place);
        } else {
            for value in self.document.valid(flat) {
                self.case(place, value, Fate::Kept);
            }
            for (value, code) in wrong(flat) {
                self.case(place, value, Fate::Refused(code));
            }
        }
    }

    fn wrong_kinds(&mut self, flat: &Value, place: &ValuePlace<'_>, kinds: &[&str]) {
        let code = match flat["type"].as_str() {
            Some("object") => "not_object",
            Some("array") => "not_array",
            _ => "",
        };
        for kind in kinds {
            self.case(place, of_kind(kind), Fate::Refused(code));
        }
    }

    fn object(&mut self, flat: &Value, place: &ValuePlace<'_>, told_by: Option<(&str, Value)>) {
        let title = flat["title"].as_str().unwrap_or_default().to_owned();
        if !title.is_empty() && self.way.contains(&title) {
            return;
        }
        self.way.push(title);
        let Value::Object(mut base) = self.document.minimal(flat) else {
            panic!("an object is described: {flat}")
        };
        if let Some((member, value)) = &told_by {
            base.insert((*member).to_owned(), value.clone());
        }
        let without = |name: &str| {
            let mut base = base.clone();
            base.remove(name);
            base
        };
        let properties = flat["properties"].as_object();
        for (name, property) in properties.into_iter().flatten() {
            let property = self.document.flat(property);
            let place = ValuePlace::Member(place, name, without(name));
            if told_by.as_ref().is_some_and(|(member, _)| member == name) {
                for value in self.document.valid(&property) {
                    self.case(&place, value, Fate::Kept);
                    let case = self.cases.last_mut().expect("just added");
                    case.format = property["format"].as_str().map(str::to_owned);
                }
            } else {
                self.value(&property, &place);
            }
        }
        let rest = &flat["additionalProperties"];
        if rest.is_object() {
            let rest = self.document.flat(rest);
            self.value(&rest, &ValuePlace::Member(place, "key.1", base.clone()));
            if flat["propertyNames"]["pattern"].is_string() {
                let value = self.document.minimal(&rest);
                let place = ValuePlace::Member(place, "a b/c", base.clone());
                self.case(&place, value, Fate::Refused("nomatch_pattern"));
            }
            if let Some(most) = flat["maxProperties"].as_u64() {
                let many = |count: u64| -> Value {
                    let member = |i| (format!("key{i}"), self.document.minimal(&rest));
                    Value::Object((0..count).map(member).collect())
                };
                let (most, more) = (many(most), many(most + 1));
                self.case(place, most, Fate::Kept);
                self.case(place, more, Fate::Refused("too_many_items"));
            }
        } else if properties.is_some() {
            let place = ValuePlace::Member(place, "x_none", base.clone());
            self.case(&place, json!({"a": [1]}), Fate::Dropped);
        }
        self.way.pop();
    }

    fn array(&mut self, flat: &Value, place: &ValuePlace<'_>) {
        let items = self.document.flat(&flat["items"]);
        let item = self.document.minimal(&items);
        self.case(place, json!([]), Fate::Kept);
        if let Some(most) = flat["maxItems"].as_u64() {
            let many = |count: u64| Value::Array(vec![item.clone(); count as usize]);
            self.case(place, many(most), Fate::Kept);
            self.case(place, many(most + 1), Fate::Refused("too_many_items"));
        }
        let inner = ValuePlace::Item(place);
        if flat["items"].is_object() {
            if items["nullable"] != true {
                let code = "null_in_array_of_non_nullable";
                self.case(&inner, Value::Null, Fate::Refused(code));
            }
            self.value(&items, &inner);
        }
    }

    fn union(&mut self, flat: &Value, variants: &[Value], place: &ValuePlace<'_>) {
        if let Some((member, named)) = self.document.named_variants(flat) {
            self.wrong_kinds(&json!({"type": "object"}), place, &["array", "string"]);
            for (value, variant) in &named {
                self.object(variant, place, Some((&member, value.clone())));
            }
            let inner = ValuePlace::Member(place, &member, Map::new());
            for value in [json!(5), json!({})] {
                self.case(&inner, value, Fate::Refused("not_string"));
            }
            if flat["x-discriminator"]["fallback"].is_null() {
                let unknown = json!("none://such");
                self.case(&inner, unknown, Fate::Refused("discriminator_unmapped"));
            }
            return;
        }
        let scalar = |variant: &Value| variant["type"] != "object" && variant["type"] != "array";
        if variants.iter().all(scalar) {
            let kinds: Vec<&str> = variants.iter().filter_map(|v| v["type"].as_str()).collect();
            for value in variants.iter().flat_map(|v| self.document.valid(v)) {
                self.case(place, value, Fate::Kept);
            }
            for kind in ["boolean", "integer", "string", "array", "object"] {
                let number = kind == "integer" && kinds.contains(&"number");
                if !kinds.contains(&kind) && !number {
                    self.case(place, of_kind(kind), Fate::Refused(""));
                }
            }
            return;
        }
        // Which variant was meant is unknown, so what is wrong in one may be right in another.
        for variant in variants {
            let from = self.cases.len();
            self.value(variant, place);
            let added = self.cases.split_off(from);
            let right = added.into_iter().filter(|case| case.fate == Fate::Kept);
            self.cases.extend(right);
        }
    }
}

fn of_kind(kind: &str) -> Value {
    match kind {
        "boolean" => json!(true),
        "integer" => json!(7),
        "number" => json!(1.5),
        "string" => json!("text"),
        "array" => json!([]),
        _ => json!({}),
    }
}

/// Texts that a format takes, and texts that it does not.
fn texts(format: &str) -> Option<(&'static [&'static str], &'static [&'static str])> {
    Some(match format {
        // Names of existing entities: the tests save them first.
        "server_name" => (&["t0"], &["", "a b", "a/b", "\u{7}"]),
        "media_name" | "dvr_name" | "event_sink_name" => {
            (&["t0", "a/b c"], &["", "/a", "a/", "a\nb"])
        }
        "auth_backend_name" => (&["t0"], &["", "/a", "a/", "a\nb"]),
        "agent_id" => (&["t0", "0-9"], &["", "a b"]),
        "agent_url" => (&["agent://t0", "t0"], &["", "agent://a b"]),
        "base64" => (
            &["", "AA==", "TWFu", "+/+/"],
            &["A", "AA=", "****", "TW Fu"],
        ),
        "hexbinary" => (&["00fF"], &["0", "0g", "0x00"]),
        "host_with_port" => (
            &["10.0.0.1:80", "a.example:65535"],
            &["a", "a:", "a:65536", "a:x"],
        ),
        "url" => (
            &["http://10.0.0.1/a?b=c", "https://[::1]:8080"],
            &["", "a", "http", "://a", "http://a b"],
        ),
        "input_url" => (&["udp://239.0.0.1:1234"], &["", "a", "://a", "udp://a b"]),
        "dvr_url" => (&["/storage/with space", "s3://bucket/a"], &["", "\u{7}"]),
        "ipv4" => (
            &["0.0.0.0", "255.255.255.255"],
            &["", "1.2.3", "1.2.3.256", "::1", "1.2.3.4/8", "01.2.3.4"],
        ),
        "ip" => (&["10.0.0.1", "2001:db8::1"], &["", "1.2.3", "host"]),
        "iso3166" => (&["RS", "DE"], &["R", "SRB", "R1"]),
        "subnet" => (
            &["10.0.0.1", "10.0.0.0/8", "2001:db8::/32"],
            &["1.2.3", "10.0.0.0/33", "host"],
        ),
        "token_scope" => (
            &["*", "streams", "streams/location1%2F*"],
            &["", "/a", "streams/%zz"],
        ),
        "uuid" => (
            &["05cec7ee-fbd0-11ed-be56-0242ac120002"],
            &["", "05cec7ee", "05cec7eefbd011edbe560242ac120002"],
        ),
        _ => return None,
    })
}

/// Invalid values of a scalar, with the code of the error.
fn wrong(flat: &Value) -> Vec<(Value, &'static str)> {
    let kind = flat["type"].as_str().unwrap_or_default();
    let code = match kind {
        "boolean" => "not_boolean",
        "integer" => "not_integer",
        "number" => "not_number",
        "string" => "not_string",
        _ => return Vec::new(),
    };
    let others: &[Value] = match kind {
        "boolean" => &[json!("true"), json!(1), json!([])],
        "integer" => &[json!("1"), json!(1.5), json!({})],
        "number" => &[json!("1"), json!(true), json!([])],
        _ => &[json!(1), json!(false), json!({})],
    };
    let mut wrong: Vec<_> = others.iter().map(|value| (value.clone(), code)).collect();
    if flat["enum"].is_array() || !flat["const"].is_null() {
        let code = if flat["enum"].is_array() {
            "unknown_enum_option"
        } else {
            "not_const"
        };
        wrong.push(match kind {
            "string" => (json!("no such option"), code),
            _ => (json!(-77_777), code),
        });
        return wrong;
    }
    if kind == "integer" {
        if let Some(least) = flat["minimum"].as_i64() {
            wrong.push((json!(least - 1), "input_out_of_range"));
            wrong.push((json!(i64::MIN), "input_out_of_range"));
        }
        if let Some(most) = flat["maximum"].as_u64() {
            wrong.push((json!(most.saturating_add(1)), "input_out_of_range"));
        }
        wrong.push((json!(1_u64 << 63), "input_out_of_range"));
        wrong.push((json!(u64::MAX), "input_out_of_range"));
        wrong.push((json!(1e30), "not_integer"));
        wrong.push((json!(-1e30), "not_integer"));
    } else {
        if let Some(least) = flat["minimum"].as_f64() {
            wrong.push((json!(least - 0.5), "input_out_of_range"));
            wrong.push((json!(-1.7e308), "input_out_of_range"));
        }
        if let Some(most) = flat["maximum"].as_f64() {
            wrong.push((json!(most + 0.5), "input_out_of_range"));
            wrong.push((json!(1.7e308), "input_out_of_range"));
        }
    }
    if let Some(least) = flat["minLength"].as_u64().filter(|least| *least > 0) {
        wrong.push((json!("a".repeat(least as usize - 1)), "too_short"));
    }
    if let Some(most) = flat["maxLength"].as_u64() {
        wrong.push((json!("a".repeat(most as usize + 1)), "too_long"));
        wrong.push((json!("a".repeat(100_000)), "too_long"));
    }
    if let Some(pattern) = flat["pattern"].as_str() {
        let pattern = Regex::new(pattern).expect("patterns compile");
        let others = ["?", "a b", "\u{e9}"].into_iter();
        let other = others.filter(|text| !pattern.is_match(*text)).take(1);
        wrong.extend(other.map(|text| (json!(text), "nomatch_pattern")));
    } else if let Some((_, bad)) = flat["format"].as_str().and_then(texts)
        && kind == "string"
    {
        wrong.extend(bad.iter().map(|text| (json!(text), "wrong_format")));
    }
    wrong
}

impl Document {
    /// The member that distinguishes the variants of a union, and each value of it with its
    /// variant.
    pub fn named_variants(&self, flat: &Value) -> Option<(String, Vec<(Value, Value)>)> {
        let schema = |name: &str| {
            let name = name.strip_prefix("#/components/schemas/").unwrap_or(name);
            self.flat(self.schema(name))
        };
        let by = if flat["discriminator"].is_object() {
            &flat["discriminator"]
        } else if flat["x-discriminator"].is_object() {
            &flat["x-discriminator"]
        } else {
            return None;
        };
        let member = by["propertyName"].as_str()?.to_owned();
        let named = match by["mapping"].as_object() {
            Some(mapping) => mapping
                .iter()
                .map(|(value, name)| (json!(value), schema(name.as_str().expect("a name"))))
                .collect(),
            None => by["patterns"]
                .as_object()?
                .values()
                .map(|name| {
                    let variant = schema(name.as_str().expect("a name"));
                    let address = self.flat(&variant["properties"][&member]);
                    (self.valid(&address)[0].clone(), variant)
                })
                .collect(),
        };
        Some((member, named))
    }

    /// Values of a scalar: each option, each bound, and some between.
    pub fn valid(&self, flat: &Value) -> Vec<Value> {
        if let Some(options) = flat["enum"].as_array() {
            return options.iter().filter(|it| !it.is_null()).cloned().collect();
        }
        if !flat["const"].is_null() {
            return vec![flat["const"].clone()];
        }
        let variants = self.variants(flat);
        if !variants.is_empty() {
            return variants
                .iter()
                .flat_map(|variant| self.valid(variant))
                .collect();
        }
        let (least, most) = (flat["minimum"].as_i64(), flat["maximum"].as_i64());
        match flat["type"].as_str() {
            Some("boolean") => vec![json!(true), json!(false)],
            Some("integer") if flat["format"] == "snowflake_id" => vec![json!(0), json!(i64::MAX)],
            Some("integer") => match (least, most) {
                (Some(least), Some(most)) => {
                    vec![json!(least), json!(most), json!(least.midpoint(most))]
                }
                (Some(least), None) => vec![
                    json!(least),
                    json!(9_007_199_254_740_993_u64),
                    json!(i64::MAX),
                ],
                (None, Some(most)) => vec![json!(most), json!(most - 1)],
                (None, None) => vec![json!(0), json!(9_007_199_254_740_993_u64), json!(-7)],
            },
            Some("number") => match (flat["minimum"].as_f64(), flat["maximum"].as_f64()) {
                (Some(least), Some(most)) => vec![
                    flat["minimum"].clone(),
                    flat["maximum"].clone(),
                    json!(least.midpoint(most) + 0.125),
                ],
                (Some(least), None) => vec![json!(least), json!(least + 0.125)],
                _ => vec![json!(0), json!(0.125), json!(-2.5e-7)],
            },
            Some("string") => Self::valid_texts(flat),
            _ => Vec::new(),
        }
    }

    fn valid_texts(flat: &Value) -> Vec<Value> {
        let examples = flat["examples"].as_array().cloned().unwrap_or_default();
        let (least, most) = (flat["minLength"].as_u64(), flat["maxLength"].as_u64());
        if flat["format"] == "hexbinary"
            && let Some(most) = most
        {
            return vec![json!("0f".repeat(most as usize / 2))];
        }
        let mut values = Vec::new();
        for length in [least.filter(|least| *least > 0), most]
            .into_iter()
            .flatten()
        {
            values.push(json!("a".repeat(length as usize)));
        }
        if flat["pattern"].is_string() {
            if values.is_empty() {
                values.clone_from(&examples);
            }
            if values.is_empty() {
                values = vec![json!("abc")];
            }
            return values;
        }
        match flat["format"].as_str().and_then(texts) {
            Some((good, _)) => values.extend(good.iter().map(|text| json!(text))),
            None if flat["format"] == "url_or_empty" => {
                values.extend([json!(""), json!("http://a/b")]);
            }
            None if values.is_empty() => values.extend([
                json!("text"),
                json!("žluť 漢字 \u{1f600} \"\\/\u{7f}\u{2028}"),
                json!(""),
            ]),
            None => {}
        }
        values
    }

    /// The smallest value that is right.
    pub fn minimal(&self, flat: &Value) -> Value {
        if let Some((member, named)) = self.named_variants(flat) {
            let (value, variant) = named.into_iter().next_back().expect("a union has variants");
            let mut object = self.minimal(&variant);
            object[member] = value;
            return object;
        }
        if let Some(variant) = self.variants(flat).first() {
            return self.minimal(variant);
        }
        match flat["type"].as_str() {
            Some("object") => {
                let required = flat["required"].as_array().into_iter().flatten();
                let members = required.filter_map(|name| {
                    let name = name.as_str().expect("names are strings");
                    let property = self.flat(&flat["properties"][name]);
                    (property["readOnly"] != true)
                        .then(|| (name.to_owned(), self.minimal(&property)))
                });
                Value::Object(members.collect())
            }
            Some("array") => json!([]),
            Some(_) => self.valid(flat)[0].clone(),
            None => json!({}),
        }
    }
}

/// Collects the deviations of a response from its schema, each with its pointer.
#[derive(Default)]
pub struct Conformance {
    patterns: HashMap<String, Regex>,
}

impl Conformance {
    pub fn faults(&mut self, document: &Document, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.value(document, &document.flat(schema), value, "", &mut faults);
        faults
    }

    fn value(
        &mut self,
        document: &Document,
        flat: &Value,
        value: &Value,
        at: &str,
        faults: &mut Vec<String>,
    ) {
        if value.is_null() && flat["nullable"] == true {
            return;
        }
        let mut fault = |what: String| faults.push(format!("{at}: {what}"));
        if let Some((member, named)) = document.named_variants(flat) {
            let tag = value[&member].as_str().unwrap_or_default();
            let variant = match flat["x-discriminator"]["patterns"].as_object() {
                None => named.iter().find(|(name, _)| name == tag).map(|(_, it)| it),
                Some(patterns) => patterns
                    .keys()
                    .position(|pattern| self.matches(pattern, tag))
                    .map(|at| &named[at].1),
            };
            let other = if tag.is_empty() { "absent" } else { "fallback" };
            let other = flat["x-discriminator"][other].as_str();
            let other = other.map(|name| document.flat(document.schema(name)));
            match variant.or(other.as_ref()) {
                Some(variant) => self.value(document, variant, value, at, faults),
                None => fault(format!("no variant has the tag {tag:?}")),
            }
            return;
        }
        let variants = document.variants(flat);
        if !variants.is_empty() {
            let fits = variants.iter().any(|variant| {
                let mut faults = Vec::new();
                self.value(document, variant, value, at, &mut faults);
                faults.is_empty()
            });
            if !fits {
                fault(format!("like no variant: {value}"));
            }
            return;
        }
        let right = match flat["type"].as_str() {
            None => true,
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            Some(other) => panic!("{other} is no type"),
        };
        if !right {
            fault(format!("{value} is no {}", flat["type"]));
            return;
        }
        if flat["enum"]
            .as_array()
            .is_some_and(|options| !options.contains(value))
        {
            fault(format!("{value} is not one of {}", flat["enum"]));
        }
        if !flat["const"].is_null() && flat["const"] != *value {
            fault(format!("{value} is not {}", flat["const"]));
        }
        if let Some(number) = value.as_f64() {
            let below = flat["minimum"].as_f64().is_some_and(|least| number < least);
            let above = flat["maximum"].as_f64().is_some_and(|most| number > most);
            if below || above {
                fault(format!("{value} is outside of its range"));
            }
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as u64;
            let short = flat["minLength"]
                .as_u64()
                .is_some_and(|least| length < least);
            let long = flat["maxLength"].as_u64().is_some_and(|most| length > most);
            if short || long {
                fault(format!("{value} has a wrong length"));
            }
            if let Some(pattern) = flat["pattern"].as_str()
                && !self.matches(pattern, text)
            {
                fault(format!("{value} does not match {pattern}"));
            }
        }
        if let Some(items) = value.as_array() {
            if flat["maxItems"]
                .as_u64()
                .is_some_and(|most| items.len() as u64 > most)
            {
                fault("too many items".to_owned());
            }
            let described = document.flat(&flat["items"]);
            for (i, item) in items.iter().enumerate() {
                self.value(document, &described, item, &format!("{at}/{i}"), faults);
            }
        } else if let Some(object) = value.as_object() {
            for name in flat["required"].as_array().into_iter().flatten() {
                if !object.contains_key(name.as_str().expect("names are strings")) {
                    faults.push(format!("{at}: {name} is missing"));
                }
            }
            for (name, member) in object {
                let at = format!("{at}/{name}");
                let rest = &flat["additionalProperties"];
                match flat["properties"].get(name) {
                    Some(property) => {
                        self.value(document, &document.flat(property), member, &at, faults);
                    }
                    None if rest.is_object() => {
                        self.value(document, &document.flat(rest), member, &at, faults);
                    }
                    None if flat["properties"].is_object() && rest != true => {
                        faults.push(format!("{at}: not described"));
                    }
                    None => {}
                }
            }
        }
    }

    fn matches(&mut self, pattern: &str, text: &str) -> bool {
        let compiled = self.patterns.entry(pattern.to_owned());
        compiled
            .or_insert_with(|| Regex::new(pattern).expect("patterns compile"))
            .is_match(text)
    }
}
