//! The server's own settings over HTTP.
//!
//! The reference's fields are those settings of the configuration's table that can change while the server runs, in the reference's spelling
//! and units. Saving changes the configuration file; the answer is what is in force, and says where each value comes from, because the
//! environment and the command line are stronger than the file.

use std::time::Duration;

use super::cluster::{Form, form};
use super::{Call, Outcome};
use crate::config::{Config, Effective, Origin, Setting};
use crate::config::{SaveError, Wanted};
use crate::error::{self, ApiError, ErrorCode};
use crate::http::{Body, Response};
use crate::json::{Number, Object, Value};
use crate::metrics::{CONTENT_TYPE, Exposition, Kind as Metric};
use crate::schema::{self, MASK};
use crate::state::apply::invalid;
use crate::state::command::check_resets;

/// How the reference writes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    /// `"true"` or `"false"`.
    Word,
    Flag,
    Count,
    /// A number of milliseconds.
    Ms,
    /// An object of `login` and `password`.
    Login,
}

/// A field of the reference, as a JSON pointer, and the setting that it is.
struct Field {
    pointer: &'static str,
    key: &'static str,
    shape: Shape,
}

const fn field(pointer: &'static str, key: &'static str, shape: Shape) -> Field {
    Field {
        pointer,
        key,
        shape,
    }
}

const FIELDS: [Field; 18] = [
    field("/api_key", "api_key", Shape::Text),
    field("/api_url", "api_url", Shape::Text),
    field(
        "/cluster/node_config_provision_enabled",
        "cluster_node_config_provision_enabled",
        Shape::Flag,
    ),
    field(
        "/cluster/streamer_connector_retries",
        "cluster_streamer_connector_retries",
        Shape::Count,
    ),
    field(
        "/config_external_reconciliation_interval",
        "config_external_reconciliation_interval",
        Shape::Ms,
    ),
    field("/edit_auth", "edit_auth", Shape::Login),
    field("/episodes_buffer_delay", "episodes_buffer_delay", Shape::Ms),
    field(
        "/episodes_buffer_limit",
        "episodes_buffer_limit",
        Shape::Count,
    ),
    field(
        "/layouter_backups_count_as_channels",
        "layouter_backups_count_as_channels",
        Shape::Word,
    ),
    field("/layouter_enabled", "layouter_enabled", Shape::Word),
    field("/layouter_failback", "layouter_failback", Shape::Word),
    field("/layouter_rebalance", "layouter_rebalance", Shape::Word),
    field(
        "/layouter_sleeping_interval",
        "layouter_sleeping_interval",
        Shape::Ms,
    ),
    field("/log_requests", "log_requests", Shape::Word),
    field("/loglevel", "log_level", Shape::Text),
    field("/opentelemetry_url", "opentelemetry_url", Shape::Text),
    field("/streamer_dead_timeout", "streamer_dead_timeout", Shape::Ms),
    field(
        "/streamer_healthcheck_fails_threshold",
        "streamer_healthcheck_fails_threshold",
        Shape::Count,
    ),
];

/// The value of a field as it is in force; `None`: not set.
fn shown(field: &Field, config: &Config, api_key: &str, masked: bool) -> Option<Value> {
    let settings = &config.settings;
    let secret = |text: &str| Value::from(if masked { MASK } else { text });
    let ms = |time: Duration| Value::from(time.as_millis() as u64);
    let word = |on: bool| Value::from(if on { "true" } else { "false" });
    Some(match field.key {
        "api_key" => secret(api_key),
        "edit_auth" => {
            let login = settings.auth.edit_auth.as_ref()?;
            let mut object = Object::default();
            object.insert("login", Value::from(&*login.name));
            object.insert("password", secret(login.password.expose()));
            Value::Object(object)
        }
        "api_url" => Value::from(&**settings.http.api_url.as_ref()?),
        "opentelemetry_url" => {
            let url = settings.fleet.opentelemetry_url.as_ref()?;
            let hidden = masked && url.contains('@');
            Value::from(if hidden { MASK } else { url })
        }
        "cluster_node_config_provision_enabled" => {
            Value::Bool(settings.fleet.node_config_provision_enabled)
        }
        "cluster_streamer_connector_retries" => {
            Value::from(settings.fleet.streamer_connector_retries)
        }
        "streamer_healthcheck_fails_threshold" => {
            Value::from(settings.fleet.healthcheck_fails_threshold)
        }
        "config_external_reconciliation_interval" => ms(settings.fleet.reconciliation_interval),
        "streamer_dead_timeout" => Value::from(settings.layouter.dead_timeout_ms),
        "episodes_buffer_delay" => ms(settings.episodes.buffer_delay),
        "episodes_buffer_limit" => Value::from(settings.episodes.buffer_limit as u64),
        "layouter_enabled" => word(settings.layouter.enabled),
        "layouter_failback" => word(settings.layouter.engine.failback),
        "layouter_rebalance" => word(settings.layouter.engine.rebalance),
        "layouter_backups_count_as_channels" => {
            word(settings.layouter.engine.backups_count_as_channels)
        }
        "layouter_sleeping_interval" => Value::from(settings.layouter.interval_ms),
        "log_requests" => word(settings.log.requests),
        "log_level" => Value::from(&**config.effective("log_level").value.as_ref()?),
        _ => return None,
    })
}

/// Where a value comes from.
fn source(effective: &Effective) -> Value {
    let mut object = Object::default();
    let (from, name) = match &effective.origin {
        Origin::Default => ("default", None),
        Origin::File { path, .. } => ("file", Some(path.display().to_string())),
        Origin::Environment { name } => ("environment", Some(name.clone())),
        Origin::Flag { name } => ("flag", Some(format!("--{name}"))),
    };
    object.insert("from", Value::from(from));
    if let Some(name) = name {
        object.insert("name", Value::from(name));
    }
    Value::Object(object)
}

/// The whole answer.
pub fn render(shared: &super::Shared, masked: bool) -> Value {
    let config = shared.running.config();
    let api_key = shared.running.api_key();
    let mut all = Object::default();
    let mut cluster = Object::default();
    let mut sources = Object::default();
    for field in &FIELDS {
        let value = shown(field, &config, api_key.expose(), masked);
        let name = &field.pointer[1..];
        sources.insert(name.replace('/', "."), source(config.effective(field.key)));
        let Some(value) = value else { continue };
        match name.strip_prefix("cluster/") {
            Some(name) => cluster.insert(name, value),
            None => all.insert(name, value),
        };
    }
    all.insert("cluster", Value::Object(cluster));
    all.insert("sources", Value::Object(sources));
    let waiting = shared.running.waiting_for_restart();
    all.insert(
        "restart_required",
        Value::from(
            waiting
                .iter()
                .map(|key| Value::from(*key))
                .collect::<Vec<_>>(),
        ),
    );
    let mut database = Object::default();
    database.insert(
        "url",
        Value::from(format!("file://{}", shared.data_dir.display())),
    );
    all.insert("database", Value::Object(database));
    let http = config.settings.http.listen.iter().map(|address| {
        let mut listener = Object::default();
        listener.insert("address", Value::from(address.ip().to_string()));
        listener.insert("api", Value::Bool(true));
        listener.insert("port", Value::from(u64::from(address.port())));
        Value::Object(listener)
    });
    let mut listeners = Object::default();
    listeners.insert("http", Value::from(http.collect::<Vec<_>>()));
    listeners.insert("https", Value::from(Vec::new()));
    all.insert("listeners", Value::Object(listeners));
    all.insert("server_id", Value::from(&*shared.server_id));
    let mut stats = Object::default();
    stats.insert("id", Value::from(&*shared.run_id));
    stats.insert("server_version", Value::from(env!("CARGO_PKG_VERSION")));
    stats.insert("started_at", Value::from(shared.started_at_seconds));
    stats.insert(
        "uptime",
        Value::from(super::now_seconds().saturating_sub(shared.started_at_seconds)),
    );
    all.insert("stats", Value::Object(stats));
    Value::Object(all)
}

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let shared = call.core.shared();
    if form(call)? == Form::OpenMetrics {
        let text = metrics(shared);
        return Ok(Outcome::Reply(text_response(text)));
    }
    let body = render(shared, call.masks()).to_text();
    Ok(Outcome::Reply(Response::json(200, body.into_bytes())))
}

/// Metrics as an answer.
pub fn text_response(text: String) -> Response {
    Response::with_body(200, CONTENT_TYPE, Body::Owned(text.into_bytes()))
}

/// What is a number in the settings.
fn metrics(shared: &super::Shared) -> String {
    let mut out = Exposition::default();
    let version = env!("CARGO_PKG_VERSION");
    let labels = [("version", version), ("server_id", &*shared.server_id)];
    out.one(
        "server_started_at",
        Metric::Gauge,
        "",
        "When this server was started, seconds since 1970.",
        &labels,
        shared.started_at_seconds,
    );
    let config = shared.running.config();
    let settings = &config.settings;
    for (name, help, time) in [
        (
            "weir_setting_layouter_sleeping_interval_seconds",
            "Pause between two runs of the layouter over everything.",
            Duration::from_millis(settings.layouter.interval_ms),
        ),
        (
            "weir_setting_streamer_dead_timeout_seconds",
            "Silence after which a streamer counts as dead.",
            Duration::from_millis(settings.layouter.dead_timeout_ms),
        ),
        (
            "weir_setting_episodes_buffer_delay_seconds",
            "Longest time that a saved episode waits for others.",
            settings.episodes.buffer_delay,
        ),
    ] {
        out.one(name, Metric::Gauge, "seconds", help, &labels, time);
    }
    out.one(
        "weir_setting_episodes_buffer_limit",
        Metric::Gauge,
        "",
        "Waiting episodes at which they are written without further delay.",
        &labels,
        settings.episodes.buffer_limit,
    );
    out.one(
        "weir_setting_layouter_enabled",
        Metric::Gauge,
        "",
        "1 when the server places streams by itself.",
        &labels,
        u64::from(settings.layouter.enabled),
    );
    out.finish()
}

/// What a body wants to change. `Err` tells where it cannot be.
pub fn wanted(body: Value, config: &Config, api_key: &str) -> Result<Wanted, ApiError> {
    let mut body = body;
    let schema = schema::config();
    check_resets(&body, "")?;
    schema.prune(&mut body);
    let Value::Object(object) = &mut body else {
        return Err(error::NOT_OBJECT
            .titled("Expected a JSON object")
            .at_pointer(""));
    };
    match object.get("api_key") {
        Some(Value::String(_)) => {}
        None | Some(Value::Null) => {
            return Err(error::MISSING_REQUIRED.titled("Settings are saved together with the key of the API: the present one, or a new one").at_pointer("/api_key"));
        }
        Some(_) => {
            return Err(error::NOT_STRING
                .titled("A key is a string")
                .at_pointer("/api_key"));
        }
    }
    // Whoever sends back what was shown masked wants to keep it.
    schema.unmask(&mut body, &secrets(config, api_key));
    let Value::Object(object) = &mut body else {
        return Err(error::NOT_OBJECT
            .titled("Expected a JSON object")
            .at_pointer(""));
    };
    let removed: Vec<&Field> = FIELDS
        .iter()
        .filter(|field| at(object, field.pointer).is_some_and(Value::is_null))
        .collect();
    for name in ["cluster"] {
        if let Some(Value::Object(inner)) = object.get_mut(name) {
            inner.retain(|_, value| !value.is_null());
        }
    }
    object.retain(|_, value| !value.is_null());
    schema
        .check(&body)
        .map_err(|found| {
            // Of what is required only the key is to be sent; the rest is the server's own.
            let found: Vec<_> = found
                .into_iter()
                .filter(|violation| violation.pointer != "/database")
                .collect();
            invalid(found, "")
        })
        .or_else(|error| {
            if error.items.is_empty() {
                Ok(())
            } else {
                Err(error)
            }
        })?;
    let Value::Object(object) = &body else {
        return Err(error::NOT_OBJECT
            .titled("Expected a JSON object")
            .at_pointer(""));
    };
    let mut wanted: Wanted = removed.iter().map(|field| (field.key, None)).collect();
    for field in &FIELDS {
        let Some(value) = at(object, field.pointer) else {
            continue;
        };
        let text = text_of(field, value)?;
        // Secrets that are in force need not come into the file, too.
        let login = config.settings.auth.edit_auth.as_ref();
        let kept = match field.key {
            "api_key" => text == api_key,
            "edit_auth" => login
                .is_some_and(|login| text == format!("{} {}", login.name, login.password.expose())),
            _ => false,
        };
        if kept {
            continue;
        }
        let setting = Setting::find(field.key).expect("fields are settings of the table");
        if !setting.accepts(&text) {
            let title = format!("Must be {}", setting.allowed());
            return Err(error::OUT_OF_RANGE.titled(title).at_pointer(field.pointer));
        }
        wanted.push((field.key, Some(text)));
    }
    Ok(wanted)
}

fn at<'v>(object: &'v Object, pointer: &str) -> Option<&'v Value> {
    let mut steps = pointer[1..].split('/');
    let first = object.get(steps.next()?)?;
    steps.try_fold(first, Value::get)
}

/// What is masked where it is shown to others, as a body has it.
fn secrets(config: &Config, api_key: &str) -> Value {
    let mut object = Object::default();
    for field in &FIELDS {
        if let Some(value) = shown(field, config, api_key, false)
            && matches!(field.key, "api_key" | "edit_auth" | "opentelemetry_url")
        {
            object.insert(&field.pointer[1..], value);
        }
    }
    Value::Object(object)
}

/// A value of the reference as the file has it.
fn text_of(field: &Field, value: &Value) -> Result<String, ApiError> {
    let whole = |value: &Value| match value {
        Value::Number(number) => match number.to_integer() {
            Some(Number::Unsigned(whole)) => Some(whole),
            _ => None,
        },
        _ => None,
    };
    let bad =
        |code: ErrorCode, title: &'static str| Err(code.titled(title).at_pointer(field.pointer));
    Ok(match (field.shape, value) {
        (Shape::Text | Shape::Word, Value::String(text)) => text.to_string(),
        (Shape::Flag, Value::Bool(on)) => on.to_string(),
        (Shape::Count, value) => match whole(value) {
            Some(count) => count.to_string(),
            None => return bad(error::NOT_INTEGER, "Must be a whole number, not below 0"),
        },
        (Shape::Ms, value) => match whole(value) {
            Some(ms) => format!("{ms}ms"),
            None => {
                return bad(
                    error::NOT_INTEGER,
                    "Must be a whole number of milliseconds, not below 0",
                );
            }
        },
        (Shape::Login, Value::Object(login)) => {
            let part = |name: &str| login.get(name).and_then(Value::as_str);
            let (Some(name), Some(password)) = (part("login"), part("password")) else {
                return bad(error::MISSING_REQUIRED, "A login has a name and a password");
            };
            if name.contains([' ', ':']) {
                return bad(
                    error::OUT_OF_RANGE,
                    "A login cannot contain a space or a colon",
                );
            }
            format!("{name} {password}")
        }
        _ => return bad(error::INVALID_TYPE, "Has another type than this setting"),
    })
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let running = &call.core.shared().running;
    let wanted = wanted(call.json()?, &running.config(), running.api_key().expose())?;
    Ok(Outcome::Configure(wanted))
}

/// The error for settings that could not be saved. What the file's path is, is for the log.
pub fn refused(error: &SaveError) -> ApiError {
    match error {
        SaveError::Invalid(problems) => {
            tracing::warn!(%problems, "settings are not saved: with them the configuration would be wrong");
            error::CONFIG_FILE_INVALID.error()
        }
        SaveError::File(error) => {
            tracing::warn!(%error, "settings are not saved");
            error::CONFIG_FILE_UNWRITABLE.error()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::running::changes_at_once;
    use crate::json;

    fn config() -> Config {
        let flags = vec![("edit_auth", vec!["admin old-password".to_owned()])];
        crate::config::read(Some(std::path::Path::new("/dev/null")), &[], &flags)
            .expect("a configuration")
    }

    fn wants(body: &str) -> Result<Wanted, ApiError> {
        let body = json::parse(body.as_bytes()).expect("JSON");
        wanted(body, &config(), "key")
    }

    #[test]
    fn every_field_is_a_setting_that_changes_at_once_and_has_a_schema() {
        for field in &FIELDS {
            assert!(changes_at_once(field.key), "{}", field.key);
            let path = field.pointer[1..].replace('/', ".");
            assert!(schema::config().filter_type(&path).is_some(), "{path}");
        }
    }

    #[test]
    fn a_body_becomes_values_of_the_file() {
        let body = r#"{"api_key":"key","loglevel":"debug","layouter_enabled":"true","layouter_sleeping_interval":1500,"cluster":{"streamer_connector_retries":3,"node_config_provision_enabled":null},"edit_auth":{"login":"admin","password":"***"},"server_id":"x","api_url":null,"strange":1}"#;
        let mut wanted = wants(body).expect("a good body");
        wanted.sort();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            wanted,
            [
                ("api_url", None),
                ("cluster_node_config_provision_enabled", None),
                ("cluster_streamer_connector_retries", some("3")),
                ("layouter_enabled", some("true")),
                ("layouter_sleeping_interval", some("1500ms")),
                ("log_level", some("debug")),
            ]
        );
        assert_eq!(wants(r#"{"api_key":"***"}"#), Ok(Vec::new()));
        assert_eq!(
            wants(r#"{"api_key":"new"}"#),
            Ok(vec![("api_key", some("new"))])
        );
    }

    #[test]
    fn errors_say_where() {
        for (body, pointer, code) in [
            ("[]", "", "not_object"),
            ("{}", "/api_key", "missing_required"),
            (r#"{"api_key":null}"#, "/api_key", "missing_required"),
            (r#"{"api_key":5}"#, "/api_key", "not_string"),
            (r#"{"api_key":"two words"}"#, "/api_key", "out_of_range"),
            (
                r#"{"api_key":"key","loglevel":"loud"}"#,
                "/loglevel",
                "unknown_enum_option",
            ),
            (
                r#"{"api_key":"key","layouter_enabled":true}"#,
                "/layouter_enabled",
                "not_string",
            ),
            (
                r#"{"api_key":"key","layouter_enabled":"yes"}"#,
                "/layouter_enabled",
                "unknown_enum_option",
            ),
            (
                r#"{"api_key":"key","log_requests":"maybe"}"#,
                "/log_requests",
                "out_of_range",
            ),
            (
                r#"{"api_key":"key","layouter_sleeping_interval":-5}"#,
                "/layouter_sleeping_interval",
                "not_integer",
            ),
            (
                r#"{"api_key":"key","layouter_sleeping_interval":1}"#,
                "/layouter_sleeping_interval",
                "out_of_range",
            ),
            (
                r#"{"api_key":"key","episodes_buffer_limit":1.5}"#,
                "/episodes_buffer_limit",
                "not_integer",
            ),
            (
                r#"{"api_key":"key","cluster":{"streamer_connector_retries":"x"}}"#,
                "/cluster/streamer_connector_retries",
                "not_integer",
            ),
        ] {
            let error = wants(body).expect_err(body);
            let item = &error.items[0];
            assert_eq!(
                (item.pointer.as_deref(), item.code),
                (Some(pointer), code),
                "{body}"
            );
        }
    }
}
