//! The kinds of objects: one row each.

use serde_json::Value;

use super::words;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::schema::{self, Schema};

/// One kind of objects of the API.
pub struct ObjectKind {
    /// In the singular, `stream`; the plural is accepted as well.
    pub name: &'static str,
    pub plural: &'static str,
    /// Below the prefix of the API.
    pub path: &'static str,
    /// The member of a list.
    pub list: &'static str,
    /// The field that names an object.
    pub key: &'static str,
    /// Several can be saved by one request.
    pub has_batch: bool,
    /// The part of `weir export`.
    pub is_configuration: bool,
    schema: fn() -> &'static Schema,
    table: &'static [ColumnRow],
    wide: &'static [ColumnRow],
}

/// Header, field, form.
type ColumnRow = (&'static str, &'static str, CellForm);

/// How a value is written in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellForm {
    Text,
    Count,
    /// A count of at most the number in this field.
    CountOf(&'static str),
    Percent,
    /// kbit/s.
    Rate,
    /// Milliseconds since 1970.
    Time,
}

use CellForm::{Count, CountOf, Percent, Rate, Text, Time};

/// In the order in which they are applied.
pub const KINDS: &[ObjectKind] = &[
    ObjectKind {
        name: "streamer",
        plural: "streamers",
        path: "/streamers",
        list: "streamers",
        key: "hostname",
        has_batch: true,
        is_configuration: true,
        schema: schema::streamer,
        table: &[
            ("STREAMER", "hostname", Text),
            ("STATE", "state.code", Text),
            ("HEALTH", "health", Text),
            ("STREAMS", "load.ingests", CountOf("channel_limit")),
            ("OUTAGE", "streams.outage", Count),
            ("CPU", "stats.cpu_usage", Percent),
            ("OUT", "stats.output_kbit", Rate),
            ("VERSION", "stats.server_version", Text),
        ],
        wide: &[
            ("MEMORY", "stats.memory_usage", Percent),
            ("CLIENTS", "stats.total_clients", Count),
            ("URL", "api_url", Text),
            ("LABELS", "labels", Text),
            ("UPDATED", "updated_at", Time),
        ],
    },
    ObjectKind {
        name: "auth-backend",
        plural: "auth-backends",
        path: "/auth_backends",
        list: "auth_backends",
        key: "name",
        has_batch: false,
        is_configuration: true,
        schema: schema::auth_backend,
        table: &[
            ("AUTH BACKEND", "name", Text),
            ("ALLOW", "allow_default", Text),
        ],
        wide: &[],
    },
    ObjectKind {
        name: "balancer",
        plural: "balancers",
        path: "/load-balancers",
        list: "balancers",
        key: "name",
        has_batch: false,
        is_configuration: true,
        schema: schema::balancer,
        table: &[("BALANCER", "name", Text), ("SERVERS", "servers", Text)],
        wide: &[],
    },
    ObjectKind {
        name: "agent",
        plural: "agents",
        path: "/agents",
        list: "agents",
        key: "id",
        has_batch: false,
        is_configuration: true,
        schema: schema::agent,
        table: &[
            ("AGENT", "id", Text),
            ("TYPE", "stats.agent_type", Text),
            ("IP", "stats.peer_ip", Text),
            ("VERSION", "stats.version", Text),
            ("STREAMERS", "layout", Text),
        ],
        wide: &[
            ("LOCAL IP", "stats.local_ip", Text),
            ("MAC", "stats.mac_address", Text),
            ("UPDATED", "updated_at", Time),
        ],
    },
    ObjectKind {
        name: "stream",
        plural: "streams",
        path: "/streams",
        list: "streams",
        key: "name",
        has_batch: true,
        is_configuration: true,
        schema: schema::stream,
        table: &[
            ("STREAM", "name", Text),
            ("TITLE", "title", Text),
            ("STREAMER", "layout.ingest", Text),
            ("HEALTH", "health", Text),
            ("PLACED", "placed", Text),
            ("IN", "stats.bitrate", Rate),
            ("CLIENTS", "stats.online_clients", Count),
            ("LABELS", "labels", Text),
        ],
        wide: &[
            ("STATUS", "stats.status", Text),
            ("DISABLED", "disabled", Text),
            ("TEMPLATE", "template", Text),
            ("WHY", "layout.change_reason", Text),
            ("UPDATED", "updated_at", Time),
        ],
    },
    ObjectKind {
        name: "token",
        plural: "tokens",
        path: "/api_tokens",
        list: "api_tokens",
        key: "name",
        has_batch: false,
        is_configuration: false,
        schema: schema::api_token,
        table: &[
            ("TOKEN", "name", Text),
            ("PERMISSIONS", "permissions", Text),
        ],
        wide: &[],
    },
    ObjectKind {
        name: "episode",
        plural: "episodes",
        path: "/episodes",
        list: "episodes",
        key: "episode_id",
        has_batch: false,
        is_configuration: false,
        schema: schema::episode,
        table: &[
            ("EPISODE", "episode_id", Text),
            ("STREAM", "media", Text),
            ("OPENED", "opened_at", Time),
            ("CLOSED", "closed_at", Time),
        ],
        wide: &[("UPDATED", "updated_at", Time)],
    },
    ObjectKind {
        name: "person",
        plural: "persons",
        path: "/persons",
        list: "persons",
        key: "person_id",
        has_batch: false,
        is_configuration: false,
        schema: schema::person,
        table: &[
            ("PERSON", "person_id", Text),
            ("EXTERNAL ID", "external_id", Text),
        ],
        wide: &[("UPDATED", "updated_at", Time)],
    },
];

/// The kind of this name, for clap.
pub fn parse(name: &str) -> Result<&'static ObjectKind, String> {
    let names = |kind: &&ObjectKind| kind.name == name || kind.plural == name;
    KINDS.iter().find(names).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.plural).collect();
        format!("must be one of: {}", known.join(", "))
    })
}

impl std::fmt::Debug for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl ObjectKind {
    /// The path of one object.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{}", self.path, crate::client::escape(name))
    }

    /// Whether objects have this field.
    pub fn has_field(&self, path: &str) -> bool {
        (self.schema)().field(path).is_some()
    }

    pub fn columns(&self, is_wide: bool) -> Vec<Column> {
        let wide = if is_wide { self.wide } else { &[] };
        columns(self.table.iter().chain(wide))
    }

    /// What a client may set of an object, as it was given: without stamps, reports, states and
    /// defaults.
    pub fn given(&self, object: &Value) -> Result<Value, Failure> {
        let name = &object[self.key];
        let given = object.get("config_on_disk").unwrap_or(object);
        let mut given = self.parsed(given)?;
        (self.schema)().prune(&mut given);
        let mut given = self.value_of(&given.to_string())?;
        if let Some(members) = given.as_object_mut() {
            members.remove("updated_at");
            members.insert(self.key.to_owned(), name.clone());
        }
        Ok(given)
    }

    /// An object as the server uses it, with the defaults of absent members.
    pub fn effective(&self, object: &Value) -> Result<Value, Failure> {
        let effective = (self.schema)().effective(&self.parsed(object)?);
        self.value_of(&effective.text)
    }

    fn parsed(&self, object: &Value) -> Result<json::Value, Failure> {
        json::parse(object.to_string().as_bytes())
            .map_err(|error| self.unexpected(format!("{error:?}")))
    }

    fn value_of(&self, text: &str) -> Result<Value, Failure> {
        serde_json::from_str(text).map_err(|error| self.unexpected(error.to_string()))
    }

    fn unexpected(&self, what: String) -> Failure {
        Failure::new(Exit::Runtime, format!("unexpected {}: {what}", self.name))
    }

    /// An object with its secrets masked, for a person to read.
    pub fn masked(&self, object: &Value) -> Value {
        let masked = (self.schema)().mask(&object.to_string());
        serde_json::from_str(&masked).unwrap_or(Value::Null)
    }

    /// The change of one field, by its dotted path and the text of its value; `None` removes it.
    pub fn patch(&self, path: &str, text: Option<&str>) -> Result<Value, Failure> {
        let field = (self.schema)().field(path).ok_or_else(|| {
            let known = (self.schema)().paths();
            let nearest = schema::nearest(path, known.iter().map(String::as_str));
            let hint = nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
            let what = format!("a {} has no field {path:?}{hint}", self.name);
            Failure::new(Exit::Usage, what)
        })?;
        let kinds = &field.kinds;
        let value = match text {
            None => Value::Null,
            Some(text) => {
                let json: Option<Value> = serde_json::from_str(text).ok();
                let fits = json.filter(|json| match json {
                    Value::Bool(_) => kinds.is_boolean() || !kinds.is_string(),
                    Value::Number(_) => {
                        kinds.is_integer() || kinds.is_number() || !kinds.is_string()
                    }
                    Value::Null => !kinds.is_string(),
                    Value::String(_) | Value::Array(_) | Value::Object(_) => true,
                });
                fits.unwrap_or_else(|| Value::String(text.to_owned()))
            }
        };
        let nested = field.members.iter().rev().fold(value, |value, member| {
            Value::Object([(member.to_string(), value)].into_iter().collect())
        });
        Ok(nested)
    }
}

/// The columns of `weir capacity`.
pub fn capacity_columns() -> Vec<Column> {
    const COLUMNS: &[ColumnRow] = &[
        ("LABELS", "labels", Text),
        ("STREAMERS", "nodes", Count),
        ("STREAMS", "streams", Count),
        ("UNPLACED", "unplaced", Count),
        ("MORE", "streams_more", Count),
        ("BOTTLENECK", "bottleneck", Text),
    ];
    columns(COLUMNS.iter())
}

fn columns<'r>(rows: impl Iterator<Item = &'r ColumnRow>) -> Vec<Column> {
    rows.map(|(header, field, form)| Column {
        header: (*header).to_owned(),
        field: (*field).to_owned(),
        form: *form,
        is_number: !matches!(form, Text | Time),
    })
    .collect()
}

/// One column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    pub header: String,
    pub field: String,
    form: CellForm,
    pub is_number: bool,
}

impl Column {
    /// A column of a field that the operator named.
    pub fn named(field: &str) -> Self {
        Self {
            header: field.to_uppercase(),
            field: field.to_owned(),
            form: Text,
            is_number: false,
        }
    }

    /// The fields of the API that the column shows.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let limit = match self.form {
            CountOf(limit) => Some(limit),
            _ => None,
        };
        [self.field.as_str()].into_iter().chain(limit)
    }

    pub fn cell(&self, row: &Value) -> String {
        let value = words::at(row, &self.field);
        let number = value.as_f64();
        match (self.form, number) {
            (CountOf(limit), Some(_)) => {
                let count = value.as_u64().map(words::count).unwrap_or_default();
                match words::number(row, limit) {
                    0 => count,
                    limit => format!("{count}/{}", words::count(limit)),
                }
            }
            (Count, Some(_)) => value
                .as_u64()
                .map_or_else(|| words::cell(value), words::count),
            (Percent, Some(number)) => format!("{number:.0}%"),
            (Rate, Some(number)) => words::rate(number),
            (Time, Some(_)) => value.as_u64().map_or_else(String::new, words::time),
            _ => words::cell(value),
        }
    }
}
