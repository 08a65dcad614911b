//! The rules of queries once more, without any care for speed.

use super::*;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub(super) fn number(&mut self) -> Value {
        self.of(&[
            json!(0),
            json!(1),
            json!(2),
            json!(-3),
            json!(u64::MAX),
            json!(9_007_199_254_740_993_u64),
            json!(2.5),
            json!(-0.5),
        ])
    }

    pub(super) fn text(&mut self) -> Value {
        json!(self.of(&[
            "",
            "a",
            "ab",
            "B",
            "null",
            "undefined",
            "true",
            "2",
            "a\"b\\",
            "Ünï",
            "a b"
        ]))
    }

    pub(super) fn any(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 | 3 => self.number(),
            4 | 5 => self.text(),
            6 => json!([self.number(), self.text()]),
            _ => json!({"x": self.number()}),
        }
    }

    pub(super) fn thing(&mut self, name: &str, updated_at: u64) -> Value {
        let mut thing = json!({"name": name, "updated_at": updated_at});
        let mut set = |name: &str, value: Value| thing[name] = value;
        if self.below(3) > 0 {
            set(
                "n",
                self.of(&[json!(1), json!(2), json!(u64::MAX), json!("2"), Value::Null]),
            );
        }
        if self.below(3) > 0 {
            set("f", self.number());
        }
        if self.below(2) > 0 {
            set("b", json!(self.below(2) == 0));
        }
        if self.below(3) > 0 {
            set("s", self.text());
        }
        if self.below(2) > 0 {
            set("o", self.any());
        }
        if self.below(2) > 0 {
            set("tags", (0..self.below(3)).map(|_| self.text()).collect());
        }
        if self.below(4) == 0 {
            set("matrix", json!([[1, 2.5], [], [self.number()]]));
        }
        if self.below(2) > 0 {
            let list: Vec<Value> = (0..self.below(3))
                .map(|_| match self.below(4) {
                    0 => json!({}),
                    1 => json!({"n": self.below(3), "url": "rtsp://user:pass@Host/x"}),
                    2 => json!({"n": self.below(3), "url": "udp://239.0.0.1"}),
                    _ => json!({"url": null, "n": "x"}),
                })
                .collect();
            set("list", list.into());
        }
        if self.below(2) > 0 {
            set(
                "deep",
                self.of(&[json!({"a": {"b": "q"}}), json!({"a": 5}), json!({"a": {}})]),
            );
        }
        if self.below(2) > 0 {
            set("stats", json!({"bitrate": self.below(4) * 1000}));
        }
        if self.below(2) > 0 {
            set(
                "title",
                self.of(&[json!("Main STAGE"), json!("Größe"), json!("x")]),
            );
        }
        Value::Object(thing.as_object().expect("a thing is an object").clone())
    }
}

pub(super) fn leaves(value: &Value, path: &[&str], flatten: bool, found: &mut Vec<Value>) {
    match (value, path) {
        (Value::Array(values), _) if flatten || !path.is_empty() => {
            for value in values {
                leaves(value, path, flatten, found);
            }
        }
        (Value::String(text), []) if text == "null" || text == "undefined" => {
            found.push(Value::Null);
        }
        (value, []) => found.push(value.clone()),
        (Value::Object(members), [name, rest @ ..]) => {
            leaves(
                members.get(*name).unwrap_or(&Value::Null),
                rest,
                flatten,
                found,
            );
        }
        _ => found.push(Value::Null),
    }
}

pub(super) fn model_leaves(thing: &Value, path: &str, flatten: bool) -> Vec<Value> {
    let path: Vec<&str> = path.split('.').collect();
    let mut found = Vec::new();
    leaves(thing, &path, flatten, &mut found);
    if found.is_empty() {
        found.push(Value::Null);
    }
    found
}

pub(super) fn order_of_numbers(a: &Value, b: &Value) -> Ordering {
    let whole = |value: &Value| {
        value
            .as_u64()
            .map(i128::from)
            .or_else(|| value.as_i64().map(i128::from))
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // The numbers of the model do not meet where floats are too coarse.
        _ => a
            .as_f64()
            .partial_cmp(&b.as_f64())
            .expect("numbers are finite"),
    }
}

/// A leaf against the text of a filter.
pub(super) fn model_order(leaf: &Value, text: &str, field_type: FieldType) -> Option<Ordering> {
    let other = field_type == FieldType::Other;
    match leaf {
        Value::Number(_)
            if other || matches!(field_type, FieldType::Integer | FieldType::Number) =>
        {
            let number: Value = serde_json::from_str(text).ok()?;
            number.is_number().then(|| order_of_numbers(leaf, &number))
        }
        Value::String(leaf) if other || field_type == FieldType::String => {
            Some(leaf.as_str().cmp(text))
        }
        Value::Bool(leaf) if other || field_type == FieldType::Boolean => {
            Some(leaf.cmp(&text.parse().ok()?))
        }
        _ => None,
    }
}

#[rustfmt::skip]
const FILTER_PATHS: &[&str] = &[
    "n", "f", "b", "s", "o", "tags", "matrix", "list.n", "list.url", "deep.a.b", "deep.a", "list",
    "stats.bitrate", "title", "updated_at",
];
#[rustfmt::skip]
const SORT_PATHS: &[&str] = &[
    "n", "f", "b", "s", "o", "tags", "list.n", "deep.a", "stats.bitrate", "updated_at", "name",
];
#[rustfmt::skip]
const SUFFIXES: &[&str] =
    &["", "", "_ne", "_gt", "_gte", "_lt", "_lte", "_like", "_is", "_is_not"];
#[rustfmt::skip]
const INTEGERS: &[&str] = &["0", "1", "2", "1000", "105", "109", "9223372036854775807"];
#[rustfmt::skip]
const SEARCHES: &[&str] =
    &["MAIN", "stage", "größe", "rtsp://host", "USER", "user:pass", "1", "k00"];

#[derive(Clone, Debug)]
pub(super) struct ModelFilter {
    pub(super) path: &'static str,
    pub(super) suffix: &'static str,
    pub(super) text: String,
}

impl ModelFilter {
    fn random(random: &mut Random) -> ModelFilter {
        let path = random.of(FILTER_PATHS);
        let suffix = random.of(SUFFIXES);
        let value = |random: &mut Random| match field_type(path) {
            Some(FieldType::Integer) => random.of(INTEGERS).to_owned(),
            Some(FieldType::Number) => random.number().to_string(),
            Some(FieldType::Boolean) => random.of(&["true", "false"]).to_owned(),
            _ => match random.below(3) {
                0 => random.number().to_string(),
                1 => random
                    .of(&["q", "udp://239.0.0.1", "Main STAGE"])
                    .to_owned(),
                _ => random.text().as_str().unwrap_or("").to_owned(),
            },
        };
        let mut text = value(random);
        if matches!(suffix, "" | "_ne") && random.below(2) == 0 {
            text = format!("{text},{}", value(random));
        }
        if suffix.starts_with("_is") {
            "null".clone_into(&mut text);
        }
        ModelFilter { path, suffix, text }
    }

    pub(super) fn matches(&self, thing: &Value) -> bool {
        let field_type = field_type(self.path).expect("the model knows its fields");
        let flatten = !self.suffix.starts_with("_is");
        let equal = |leaf: &Value| {
            self.text
                .split(',')
                .any(|text| model_order(leaf, text, field_type) == Some(Ordering::Equal))
        };
        model_leaves(thing, self.path, flatten)
            .iter()
            .any(|leaf| match self.suffix {
                "" => equal(leaf),
                "_ne" => !equal(leaf),
                "_is" => leaf.is_null(),
                "_is_not" => !leaf.is_null(),
                "_like" => leaf.as_str().is_some_and(|leaf| leaf.contains(&self.text)),
                comparison => {
                    model_order(leaf, &self.text, field_type).is_some_and(
                        |order| match comparison {
                            "_gt" => order.is_gt(),
                            "_gte" => order.is_ge(),
                            "_lt" => order.is_lt(),
                            _ => order.is_le(),
                        },
                    )
                }
            })
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) filters: Vec<ModelFilter>,
    pub(super) q: Option<String>,
    pub(super) sort: Vec<(&'static str, bool)>,
    pub(super) limit: usize,
}

impl Model {
    pub(super) fn random(random: &mut Random) -> Model {
        let mut model = Model {
            limit: 1 + random.below(6),
            ..Model::default()
        };
        for _ in 0..random.below(3) {
            let filter = ModelFilter::random(random);
            model
                .filters
                .retain(|known| (known.path, known.suffix) != (filter.path, filter.suffix));
            model.filters.push(filter);
        }
        if random.below(4) == 0 {
            model.q = Some(random.of(SEARCHES).to_owned());
        }
        for _ in 0..random.below(4) {
            let path = random.of(SORT_PATHS);
            if model.sort.iter().all(|(known, _)| *known != path) {
                model.sort.push((path, random.below(2) == 0));
            }
        }
        model
    }

    pub(super) fn raw(&self, random: &mut Random) -> String {
        let mut pieces = vec![format!("limit={}", self.limit)];
        for filter in &self.filters {
            let mut text = String::new();
            encode_component(&filter.text, &mut text);
            pieces.push(format!("{}{}={text}", filter.path, filter.suffix));
        }
        if let Some(q) = &self.q {
            let mut text = String::new();
            encode_component(q, &mut text);
            pieces.push(format!("q={text}"));
        }
        if !self.sort.is_empty() {
            let keys: Vec<String> = self
                .sort
                .iter()
                .map(|(path, down)| format!("{}{path}", if *down { "-" } else { "" }))
                .collect();
            pieces.push(format!("sort={}", keys.join(",")));
        }
        for i in (1..pieces.len()).rev() {
            pieces.swap(i, random.below(i + 1));
        }
        pieces.join("&")
    }

    pub(super) fn matches(&self, thing: &Value) -> bool {
        self.filters.iter().all(|filter| filter.matches(thing))
            && self.q.as_ref().is_none_or(|q| {
                let mut texts = model_leaves(thing, "name", true);
                texts.extend(model_leaves(thing, "title", true));
                texts.extend(model_leaves(thing, "list.url", true));
                texts.iter().filter_map(Value::as_str).any(|text| {
                    text.replace("user:pass@", "")
                        .to_lowercase()
                        .contains(&q.to_lowercase())
                })
            })
    }

    pub(super) fn order(&self, a: &Value, b: &Value) -> Ordering {
        let class = |value: &Value| match value {
            Value::Null => 0,
            Value::Number(_) => 1,
            Value::String(_) => 2,
            Value::Bool(false) => 3,
            Value::Bool(true) => 4,
            _ => 5,
        };
        for (path, down) in self.sort.iter().copied().chain([("name", false)]) {
            let first = |thing: &Value| {
                model_leaves(thing, path, false)
                    .into_iter()
                    .find(|leaf| !leaf.is_null())
                    .unwrap_or(Value::Null)
            };
            let (a, b) = (first(a), first(b));
            let order = match (&a, &b) {
                (Value::Number(_), Value::Number(_)) => order_of_numbers(&a, &b),
                (Value::String(a), Value::String(b)) => a.cmp(b),
                _ => class(&a).cmp(&class(&b)),
            };
            let order = if down { order.reverse() } else { order };
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    pub(super) fn list(&self, things: &Things) -> Vec<Value> {
        let mut list: Vec<Value> = things
            .all
            .values()
            .map(|thing| thing.value.clone())
            .filter(|thing| self.matches(thing))
            .collect();
        list.sort_by(|a, b| self.order(a, b));
        list
    }

    /// Whether a client may continue the first page from its last stamp.
    pub(super) fn continues_by_stamp(&self) -> bool {
        let is_lower_bound = |filter: &ModelFilter| {
            filter.path == "updated_at" && ["_gt", "_gte"].contains(&filter.suffix)
        };
        self.sort.first() == Some(&("updated_at", false)) && self.filters.iter().any(is_lower_bound)
    }
}

pub(super) fn random_things(random: &mut Random) -> Things {
    let mut things = Things {
        parts: 1 + random.below(3),
        ..Things::default()
    };
    for i in 0..random.below(40) {
        let name = format!("{}k{i:02}", "x".repeat(random.below(3)));
        let stamp = 100 + random.below(12) as u64;
        things.insert(random.thing(&name, stamp));
    }
    things
}
