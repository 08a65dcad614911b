//! The settings of the server as a document, and the changes that a document requests.
//!
//! The members of the document are settings that take effect at once, in the spelling and the units
//! of the reference, as marked in the settings table. The response has the effective values and
//! their sources, because flags and the environment override the file.

use super::shared::Shared;
use crate::config::{
    Config, ConfigMember, EffectiveValue, MemberShape, Origin, SETTINGS, SaveError, Secret,
    Setting, SettingChanges,
};
use crate::error::{self, ApiError, ErrorCode};
use crate::json::{Number, Object, Value};
use crate::schema;
use crate::state::apply::invalid;
use crate::state::command::check_resets;

/// The members of the document that are settings.
fn members() -> impl Iterator<Item = (&'static Setting, &'static ConfigMember)> {
    SETTINGS
        .iter()
        .filter_map(|setting| Some((setting, setting.member.as_ref()?)))
}

/// The effective value of a member; `None`: not set.
fn shown(
    setting: &Setting,
    member: &ConfigMember,
    config: &Config,
    api_key: &Secret,
    masked: bool,
) -> Option<Value> {
    // Without a configured key the one in the data directory is used.
    if setting.key == "api_key" {
        return Some(api_key.json(masked));
    }
    let value = (member.shown)(&config.settings, masked)?;
    Some(match (member.shape, &value) {
        (MemberShape::Word, Value::Bool(on)) => Value::from(if *on { "true" } else { "false" }),
        _ => value,
    })
}

/// The kind of source of a value.
pub fn source_kind(effective: &EffectiveValue) -> &'static str {
    match &effective.origin {
        Origin::Default => "default",
        Origin::File { .. } => "file",
        Origin::Environment { .. } => "environment",
        Origin::Flag { .. } => "flag",
    }
}

/// The source of a value.
fn source(effective: &EffectiveValue) -> Value {
    let mut object = Object::default();
    let name = match &effective.origin {
        Origin::Default => None,
        Origin::File { path, .. } => Some(path.display().to_string()),
        Origin::Environment { name } => Some(name.clone()),
        Origin::Flag { name } => Some(format!("--{name}")),
    };
    object.insert("from", Value::from(source_kind(effective)));
    if let Some(name) = name {
        object.insert("name", Value::from(name));
    }
    Value::Object(object)
}

/// The whole document.
pub fn render(shared: &Shared, masked: bool) -> Value {
    let config = shared.settings.running.config();
    let api_key = shared.settings.running.api_key();
    let mut all = Object::default();
    let mut cluster = Object::default();
    let mut sources = Object::default();
    for (setting, member) in members() {
        let value = shown(setting, member, &config, &api_key, masked);
        let name = &member.pointer[1..];
        sources.insert(
            name.replace('/', "."),
            source(config.effective(setting.key)),
        );
        let Some(value) = value else { continue };
        match name.strip_prefix("cluster/") {
            Some(name) => cluster.insert(name, value),
            None => all.insert(name, value),
        };
    }
    let waiting = shared.settings.running.waiting_for_restart();
    let waiting: Vec<_> = waiting.iter().map(|key| Value::from(*key)).collect();
    let database = Value::from(format!("file://{}", shared.identity.data_dir.display()));
    all.insert("cluster", Value::Object(cluster));
    all.insert("sources", Value::Object(sources));
    all.insert("restart_required", Value::from(waiting));
    all.insert("database", object([("url", database)]));
    all.insert("listeners", listeners(&config));
    all.insert("server_id", Value::from(&*shared.identity.server_id));
    all.insert("stats", stats(shared));
    Value::Object(all)
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().collect())
}

fn listeners(config: &Config) -> Value {
    let http = config.settings.http.listen.iter().map(|address| {
        object([
            ("address", Value::from(address.ip().to_string())),
            ("api", Value::Bool(true)),
            ("port", Value::from(u64::from(address.port()))),
        ])
    });
    object([
        ("http", Value::from(http.collect::<Vec<_>>())),
        ("https", Value::from(Vec::new())),
    ])
}

fn stats(shared: &Shared) -> Value {
    let uptime = super::now_seconds().saturating_sub(shared.identity.started_at_seconds);
    object([
        ("id", Value::from(&*shared.identity.run_id)),
        ("server_version", Value::from(env!("CARGO_PKG_VERSION"))),
        (
            "started_at",
            Value::from(shared.identity.started_at_seconds),
        ),
        ("uptime", Value::from(uptime)),
    ])
}

/// Where the document has a setting.
pub fn pointer_of(key: &str) -> &'static str {
    let mut members = members().filter(|(setting, _)| setting.key == key);
    members.next().map_or("", |(_, member)| member.pointer)
}

/// The changes that a body requests, and the warnings about those that a stronger source overrides.
pub fn changes(
    mut body: Value,
    config: &Config,
    api_key: &Secret,
) -> Result<(SettingChanges, Vec<Value>), ApiError> {
    let schema = schema::config();
    check_resets(&body, "")?;
    schema.prune(&mut body);
    let object = object_of(&mut body)?;
    check_api_key(object)?;
    // A client may send back the masks it received: they stand for the present values.
    schema.unmask(&mut body, &secrets(config, api_key));
    let object = object_of(&mut body)?;
    let is_removed = |member: &ConfigMember| at(object, member.pointer).is_some_and(Value::is_null);
    let mut changes: SettingChanges = members()
        .filter(|(_, member)| is_removed(member))
        .map(|(setting, _)| (setting.key, None))
        .collect();
    if let Some(Value::Object(cluster)) = object.get_mut("cluster") {
        cluster.retain(|_, value| !value.is_null());
    }
    object.retain(|_, value| !value.is_null());
    check_schema(&body)?;
    let object = object_of(&mut body)?;
    let mut warnings = Vec::new();
    for (setting, member) in members() {
        let Some(value) = at(object, member.pointer) else {
            continue;
        };
        let text = text_of(member, value)?;
        // The effective credentials are required in the body, but need not be written to the file.
        let login = config.settings.auth.edit_auth.as_ref();
        let is_kept = match setting.key {
            "api_key" => text == api_key.expose(),
            "edit_auth" => login
                .is_some_and(|login| text == format!("{} {}", login.name, login.password.expose())),
            _ => false,
        };
        if is_kept {
            continue;
        }
        if !setting.accepts(&text) {
            let allowed = format!("must be {}", setting.form);
            return Err(error::OUT_OF_RANGE.about(member.pointer, allowed));
        }
        let effective = shown(setting, member, config, api_key, false);
        if effective.as_ref() != Some(value) {
            warnings.extend(overridden(config.effective(setting.key), member));
        }
        changes.push((setting.key, Some(text)));
    }
    Ok((changes, warnings))
}

/// The warning that a value in the file does not come into force.
fn overridden(effective: &EffectiveValue, member: &ConfigMember) -> Option<Value> {
    if !matches!(
        effective.origin,
        Origin::Environment { .. } | Origin::Flag { .. }
    ) {
        return None;
    }
    let name = member.pointer[1..].replace('/', ".");
    let title = format!(
        "`{name}` is saved in the configuration file, but not in force: {} overrides it",
        effective.origin
    );
    Some(object([
        ("by", source(effective)),
        ("code", Value::from("overridden")),
        ("setting", Value::from(name)),
        ("title", Value::from(title)),
    ]))
}

fn object_of(body: &mut Value) -> Result<&mut Object, ApiError> {
    match body {
        Value::Object(object) => Ok(object),
        _ => Err(error::NOT_OBJECT.at("")),
    }
}

fn check_api_key(object: &Object) -> Result<(), ApiError> {
    let (code, title) = match object.get("api_key") {
        Some(Value::String(_)) => return Ok(()),
        None | Some(Value::Null) => (
            error::MISSING_REQUIRED,
            "`api_key` is required: the present key or a new one",
        ),
        Some(_) => (error::NOT_STRING, "`api_key` must be a string"),
    };
    Err(code.titled(title).at_pointer("/api_key"))
}

fn check_schema(body: &Value) -> Result<(), ApiError> {
    let Err(mut found) = schema::config().check(body) else {
        return Ok(());
    };
    // `database` is required in the document and not changed by a save.
    found.retain(|violation| violation.pointer != "/database");
    if found.is_empty() {
        Ok(())
    } else {
        Err(invalid(found, ""))
    }
}

fn at<'v>(object: &'v Object, pointer: &str) -> Option<&'v Value> {
    let mut steps = pointer[1..].split('/');
    let first = object.get(steps.next()?)?;
    steps.try_fold(first, Value::get)
}

/// The members that are masked for some callers, with their values.
fn secrets(config: &Config, api_key: &Secret) -> Value {
    let mut object = Object::default();
    for (setting, member) in members().filter(|(setting, _)| setting.is_secret()) {
        if let Some(value) = shown(setting, member, config, api_key, false) {
            object.insert(&member.pointer[1..], value);
        }
    }
    Value::Object(object)
}

/// The value of a member as the configuration file has it.
fn text_of(member: &ConfigMember, value: &Value) -> Result<String, ApiError> {
    let whole = |what: &'static str| match value {
        Value::Number(number) => match number.to_integer() {
            Some(Number::Unsigned(whole)) => Ok(whole),
            _ => Err((error::NOT_INTEGER, what)),
        },
        _ => Err((error::NOT_INTEGER, what)),
    };
    let text = match (member.shape, value) {
        (MemberShape::Text | MemberShape::Word, Value::String(text)) => Ok(text.to_string()),
        (MemberShape::Flag, Value::Bool(on)) => Ok(on.to_string()),
        (MemberShape::Count, _) => {
            whole("must be an integer of at least 0").map(|count| count.to_string())
        }
        (MemberShape::Ms, _) => {
            whole("must be an integer of milliseconds, at least 0").map(|ms| format!("{ms}ms"))
        }
        (MemberShape::Login, Value::Object(login)) => login_text(login),
        _ => Err((error::INVALID_TYPE, "has another type than the setting")),
    };
    text.map_err(|(code, predicate)| code.about(member.pointer, predicate))
}

fn login_text(login: &Object) -> Result<String, (ErrorCode, &'static str)> {
    let part = |name: &str| login.get(name).and_then(Value::as_str);
    let (Some(name), Some(password)) = (part("login"), part("password")) else {
        return Err((error::MISSING_REQUIRED, "needs `login` and `password`"));
    };
    if name.contains([' ', ':']) {
        return Err((
            error::OUT_OF_RANGE,
            "must not have a space or a colon in `login`",
        ));
    }
    Ok(format!("{name} {password}"))
}

/// The error for settings that could not be saved. The path of the file is logged, not sent.
pub fn refused(error: &SaveError) -> ApiError {
    match error {
        SaveError::Invalid(problems) => {
            tracing::warn!(%problems, "settings not saved: the configuration would be invalid");
            error::CONFIG_FILE_INVALID.error()
        }
        SaveError::File(error) => {
            tracing::warn!(%error, "settings not saved: the configuration file cannot be replaced");
            error::CONFIG_FILE_UNWRITABLE.error()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::setting::Effect;
    use crate::json;

    fn config() -> Config {
        let flags = vec![("edit_auth", vec!["admin old-password".to_owned()])];
        crate::config::read(Some(std::path::Path::new("/dev/null")), &[], &flags)
            .expect("a configuration")
    }

    fn changes_of(body: &str) -> Result<SettingChanges, ApiError> {
        let body = json::parse(body.as_bytes()).expect("JSON");
        Ok(changes(body, &config(), &Secret::new("key"))?.0)
    }

    #[test]
    fn every_member_takes_effect_at_once_and_has_a_schema() {
        for (setting, member) in members() {
            assert_eq!(setting.effect, Effect::AtOnce, "{}", setting.key);
            let path = member.pointer[1..].replace('/', ".");
            assert!(schema::config().field(&path).is_some(), "{path}");
        }
    }

    #[test]
    fn body_is_translated_to_values_of_the_file() {
        let body = r#"{"api_key":"key","loglevel":"debug","layouter_enabled":"true",
            "layouter_sleeping_interval":1500,"edit_auth":{"login":"admin","password":"***"},
            "cluster":{"streamer_connector_retries":3,"node_config_provision_enabled":null},
            "server_id":"x","api_url":null,"strange":1}"#;
        let mut changes = changes_of(body).expect("a good body");
        changes.sort();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            changes,
            [
                ("api_url", None),
                ("cluster_node_config_provision_enabled", None),
                ("cluster_streamer_connector_retries", some("3")),
                ("layouter_enabled", some("true")),
                ("layouter_sleeping_interval", some("1500ms")),
                ("log_level", some("debug")),
            ]
        );
        assert_eq!(changes_of(r#"{"api_key":"***"}"#), Ok(Vec::new()));
        assert_eq!(
            changes_of(r#"{"api_key":"new"}"#),
            Ok(vec![("api_key", some("new"))])
        );
    }

    #[test]
    fn errors_point_to_the_member() {
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
                "input_out_of_range",
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
            let error = changes_of(body).expect_err(body);
            let item = &error.items[0];
            assert_eq!(
                (item.pointer.as_deref(), item.code),
                (Some(pointer), code),
                "{body}"
            );
        }
    }
}
