//! Reading settings from all sources.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::read::{CONFIG_VARIABLE, ConfigError};
use super::setting::Written;
use super::table::IGNORED;
use super::*;
use crate::http::Cors;
use crate::state::node::Restreaming;

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// Read with a file of this text.
fn read_with(
    text: &str,
    pairs: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("weir.toml");
    fs::write(&path, text).expect("written");
    let flags = flags
        .iter()
        .map(|(key, value)| (*key, vec![(*value).to_owned()]))
        .collect();
    read(Some(&path), &environment(pairs), &flags)
}

fn settings_with(text: &str) -> Settings {
    read_with(text, &[], &[])
        .expect("a good configuration")
        .settings
}

fn problem(text: &str) -> String {
    let error = read_with(text, &[], &[]).expect_err("a bad configuration");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

#[test]
fn no_sources_give_the_documented_defaults() {
    let config = read(None, &[], &Vec::new()).expect("defaults are good");
    let settings = &config.settings;
    assert_eq!(
        settings.http.listen,
        ["127.0.0.1:9019"
            .parse::<std::net::SocketAddr>()
            .expect("an address")]
    );
    assert_eq!(settings.store.data_dir, Path::new("./weir-data"));
    assert_eq!(
        (settings.http.poll_wait_max, settings.store.cache_bytes),
        (Duration::from_secs(50), 64 << 20)
    );
    assert_eq!(
        (settings.feed.streams_limit, settings.feed.restreaming),
        (0, Restreaming::Flagged)
    );
    assert_eq!(
        (
            settings.log.level,
            settings.log.requests,
            &settings.http.cors
        ),
        (LogLevel::Info, false, &Cors::Off)
    );
    assert_eq!(config.warnings, Vec::<String>::new());
    assert!(
        config
            .values
            .iter()
            .all(|effective| effective.origin == Origin::Default)
    );
}

#[test]
fn flag_overrides_environment_overrides_file_overrides_default() {
    let file = "log_level = \"error\"\n";
    let env = [("CENTRAL_LOG_LEVEL", "debug")];
    let flag = [("log_level", "alert")];
    for (text, pairs, flags, level, origin) in [
        ("", &[][..], &[][..], LogLevel::Info, "default"),
        (file, &[], &[], LogLevel::Error, "weir.toml line 1"),
        (
            file,
            &env,
            &[],
            LogLevel::Debug,
            "environment CENTRAL_LOG_LEVEL",
        ),
        (file, &env, &flag, LogLevel::Alert, "flag --log-level"),
        ("", &[], &flag, LogLevel::Alert, "flag --log-level"),
    ] {
        let config = read_with(text, pairs, flags).expect("good values");
        assert_eq!(config.settings.log.level, level);
        let effective = config
            .values
            .iter()
            .find(|effective| effective.key == "log_level")
            .expect("in the table");
        assert!(
            effective.origin.to_string().ends_with(origin),
            "{}",
            effective.origin
        );
    }
}

#[test]
fn every_setting_is_read_from_file_environment_and_flag() {
    for setting in SETTINGS {
        let (Written::Default(value) | Written::Example(value)) = setting.written;
        let origin_of = |config: Config| {
            let effective = config
                .values
                .into_iter()
                .find(|effective| effective.key == setting.key);
            effective.expect("in the table").origin
        };
        let file = format!("\n{} = {value:?}\n", setting.key);
        assert!(
            matches!(
                origin_of(read_with(&file, &[], &[]).expect(&file)),
                Origin::File { line: 2, .. }
            ),
            "{file}"
        );
        let pairs = [(setting.variable(), value)];
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert!(
            matches!(
                origin_of(read_with("", &pairs, &[]).expect(value)),
                Origin::Environment { .. }
            ),
            "{value}"
        );
        assert!(matches!(
            origin_of(read_with("", &[], &[(setting.key, value)]).expect(value)),
            Origin::Flag { .. }
        ));
    }
}

#[test]
fn keys_variables_and_flags_are_unique_and_have_one_form() {
    let mut seen = std::collections::BTreeSet::new();
    for setting in SETTINGS {
        for name in setting.keys() {
            assert!(seen.insert(name), "{name} twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
        }
        let doc = setting.doc();
        assert!(
            doc.ends_with('.') && !doc.contains("  "),
            "{}: {doc}",
            setting.key
        );
        assert!(
            !setting.is_secret() || setting.default().is_none(),
            "{}: a secret has no default",
            setting.key
        );
    }
    for (key, _) in IGNORED {
        assert!(seen.insert(*key), "{key} is ignored and a setting");
    }
}

#[test]
fn the_shipped_example_is_current_and_has_the_defaults() {
    let shipped = include_str!("../dist/weir.toml");
    assert_eq!(
        example(),
        shipped,
        "refresh it: cargo run -- print config > src/dist/weir.toml"
    );
    let switched_on: String = shipped
        .lines()
        .filter(|line| !line.starts_with("# ") && !line.starts_with("##"))
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .filter(|line| {
            let key = line.split(' ').next().unwrap_or("");
            Setting::find(key).is_some_and(|setting| setting.default().is_some())
        })
        .collect();
    assert_eq!(
        switched_on.lines().count(),
        SETTINGS
            .iter()
            .filter(|setting| setting.default().is_some())
            .count()
    );
    assert_eq!(settings_with(&switched_on), settings_with(""));
    let everything: String = shipped
        .lines()
        .filter(|line| !line.starts_with("# ") && !line.starts_with("##"))
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    assert!(
        read_with(&everything, &[], &[]).is_ok(),
        "examples are good values"
    );
}

#[test]
fn unknown_keys_are_reported_with_line_and_suggestion() {
    let message = problem("# c\nlog_level = \"info\"\nlisen = \"127.0.0.1:1\"\n");
    assert!(
        message.starts_with("unknown setting \"lisen\" (")
            && message.ends_with("weir.toml line 3): did you mean \"listen\"?"),
        "{message}"
    );
    assert!(problem("[http]\nlisten = \"127.0.0.1:1\"\n").contains("unknown setting \"http\""));
    assert!(problem("zzzzzz = 1").contains("`weir print config` lists all"));
    assert!(problem("Log-Level = 1").contains("did you mean \"log_level\"?"));
    assert!(
        problem("log_level = \"info\"\nloglevel = \"error\"")
            .contains("set twice, in lines 1 and 2")
    );
}

#[test]
fn bad_values_are_reported_with_source_and_allowed_values() {
    let message = problem("\nhttp_port = 99999\n");
    assert!(message.starts_with("http_port = \"99999\" ("), "{message}");
    assert!(
        message.ends_with("weir.toml line 2): must be a whole number from 1 to 65535"),
        "{message}"
    );
    for (line, words) in [
        ("poll_wait_max = \"soon\"", "must be a length of time"),
        ("poll_wait_max = \"1h\"", "from 1s to 10m"),
        ("io_threads = -1", "from 0 to 256"),
        ("io_threads = \"+1\"", "from 0 to 256"),
        ("io_threads = 1.5", "whole number"),
        ("log_level = \"loud\"", "one of none, alert"),
        ("log_requests = \"perhaps\"", "true or false"),
        ("store_cache = \"64XB\"", "from 1MiB to 64GiB"),
        ("store_cache = 99999999999999999999", "weir.toml line 1"),
        ("listen = []", "addresses such as"),
        ("listen = \"example.com:80\"", "addresses such as"),
        ("listen = [\"127.0.0.1:1\", 5]", "an array in the file"),
        ("listen = 1979-05-27", "a datetime in the file"),
        ("data_dir = \"\"", "a path"),
        ("api_url = \"ftp://h\"", "begins with http"),
        ("cors_origins = [\"*\", \"http://a\"]", "origins such as"),
        ("cors_origins = \"http://a/path\"", "origins such as"),
        ("dynamic_streams_auth_token = \"a b\"", "letters, digits"),
    ] {
        let message = problem(line);
        assert!(message.contains(words), "{line}: {message}");
    }
}

#[test]
fn all_mistakes_are_reported_also_in_overridden_values() {
    let error = read_with(
        "http_port = 0\nlog_level = \"loud\"\n",
        &[
            ("CENTRAL_IO_THREADS", "many"),
            ("CENTRAL_LOG_LEVEL", "info"),
        ],
        &[("poll_wait_max", "never")],
    )
    .expect_err("four mistakes");
    assert_eq!(error.problems.len(), 4, "{error}");
    assert!(
        error
            .to_string()
            .contains("(environment CENTRAL_IO_THREADS)"),
        "{error}"
    );
    assert!(
        error.to_string().contains("(flag --poll-wait-max)"),
        "{error}"
    );
}

#[test]
fn no_message_and_no_table_shows_a_secret() {
    let canary = "CANARY with-space";
    for (key, value) in [
        ("api_key", canary),
        ("edit_auth", "CANARY"),
        ("dynamic_streams_auth_token", canary),
        ("api_url", "http://u:CANARY@h"),
    ] {
        let message = problem(&format!("{key} = {value:?}"));
        assert!(
            message.contains("***") && !message.contains("CANARY"),
            "{message}"
        );
    }
    let broken = problem("api_key = \"CANARY\nlisten");
    assert!(!broken.contains("CANARY"), "{broken}");
    let config = read_with(
        "",
        &[],
        &[
            ("api_key", "CANARY-0123456789"),
            ("edit_auth", "admin CANARY"),
        ],
    )
    .expect("good");
    assert!(!format!("{config:?}{}", config.table()).contains("CANARY"));
    assert_eq!(
        config.settings.auth.api_key.expect("given").expose(),
        "CANARY-0123456789"
    );
}

#[test]
fn unreadable_files_are_reported() {
    let error = read(Some(Path::new("/no/such/file.toml")), &[], &Vec::new()).expect_err("no file");
    assert!(
        error
            .to_string()
            .contains("/no/such/file.toml: cannot be read"),
        "{error}"
    );
    assert!(
        problem("listen = ").contains("weir.toml line 1: "),
        "syntax errors name the line"
    );
    let named = read(
        None,
        &environment(&[(CONFIG_VARIABLE, "/no/such/other.toml")]),
        &Vec::new(),
    );
    assert!(
        named
            .expect_err("no file")
            .to_string()
            .contains("/no/such/other.toml")
    );
}

#[test]
fn variables_without_effect_are_reported_as_warnings() {
    let config = read(
        None,
        &environment(&[
            ("CENTRAL_DATABASE_URL", "postgres://u:CANARY@h/db"),
            ("CENTRAL_LOG_LEVL", "x"),
            ("CENTRAL_API_KEY", ""),
            ("CENTRALISED", "x"),
            ("HOME", "/"),
        ]),
        &Vec::new(),
    )
    .expect("warnings stop nothing");
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.warnings[0].starts_with("CENTRAL_DATABASE_URL is ignored: "));
    assert!(
        config.warnings[1].ends_with("did you mean CENTRAL_LOG_LEVEL?"),
        "{}",
        config.warnings[1]
    );
    assert!(!config.warnings.concat().contains("CANARY"));
    assert_eq!(
        config.settings.auth.api_key, None,
        "an empty variable is not set"
    );
}

#[test]
fn removed_settings_in_the_file_are_reported_as_warnings() {
    let text = "database_url = \"http://u:CANARY@h\"\nlog_level = \"error\"\n";
    let config = read_with(text, &[], &[]).expect("warnings do not prevent a start");
    assert_eq!(config.settings.log.level, LogLevel::Error);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    let warning = &config.warnings[0];
    assert!(warning.starts_with("database_url ("), "{warning}");
    assert!(warning.contains("weir.toml line 1) is ignored: ") && !warning.contains("CANARY"));
}

#[test]
fn the_stronger_of_listen_and_http_port_is_used() {
    let listen = |text: &str, pairs: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        let config = read_with(text, pairs, flags).expect("good");
        let addresses: Vec<String> = config
            .settings
            .http
            .listen
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        (addresses.join(" "), config.warnings.len())
    };
    let port = [("CENTRAL_HTTP_PORT", "80")];
    assert_eq!(listen("", &port, &[]), ("0.0.0.0:80".to_owned(), 0));
    assert_eq!(
        listen("listen = [\"127.0.0.1:1\", \"[::1]:2\"]", &[], &[]),
        ("127.0.0.1:1 [::1]:2".to_owned(), 0)
    );
    assert_eq!(
        listen("listen = \"127.0.0.1:1\"", &port, &[]),
        ("0.0.0.0:80".to_owned(), 1)
    );
    assert_eq!(
        listen("", &port, &[("listen", "localhost:0")]),
        ("127.0.0.1:0".to_owned(), 1)
    );
    assert_eq!(
        listen("listen = \":7\"\nhttp_port = 80", &[], &[]),
        ("0.0.0.0:7".to_owned(), 1)
    );
}

#[test]
fn values_have_several_written_forms() {
    assert_eq!(
        settings_with("store_cache = \"1GiB\"").store.cache_bytes,
        1 << 30
    );
    assert_eq!(
        settings_with("store_cache = \"64 M\"").store.cache_bytes,
        64 << 20
    );
    assert_eq!(
        settings_with("store_cache = \"2MB\"").store.cache_bytes,
        2_000_000
    );
    assert_eq!(
        settings_with("store_cache = 0x100000").store.cache_bytes,
        1 << 20
    );
    assert_eq!(
        settings_with("poll_wait_max = 30000").http.poll_wait_max,
        Duration::from_secs(30)
    );
    assert_eq!(
        settings_with("poll_wait_max = \"1m30s\"")
            .http
            .poll_wait_max,
        Duration::from_secs(90)
    );
    assert!(settings_with("log_requests = true").log.requests);
    assert!(settings_with("log_requests = \"on\"").log.requests);
    assert_eq!(
        settings_with("loglevel = \"Warning\"").log.level,
        LogLevel::Warning
    );
    assert_eq!(settings_with("io_threads = 3").http.io_threads, 3);
    assert_eq!(
        settings_with("api_url = \"http://h:1/x/\"")
            .http
            .api_url
            .as_deref(),
        Some("http://h:1/x")
    );
    assert_eq!(settings_with("cors_origins = \"*\"").http.cors, Cors::Any);
    let origins = Cors::Origins(vec![
        "https://a.example".to_owned(),
        "http://b:8080".to_owned(),
    ]);
    assert_eq!(
        settings_with("cors_origins = \"https://A.example, http://b:8080\"")
            .http
            .cors,
        origins
    );
}

proptest! {
    #![proptest_config(crate::proptests::config())]
    #[test]
    fn no_file_panics(text in "(listen|api_key|store_cache|\\PC{0,8}|[\\[\\]=\"'\n. 0-9]){0,12}") {
        let _ = read_with(&text, &[], &[]);
    }
}

#[test]
fn readme_names_existing_settings() {
    let readme = include_str!("../../README.md");
    let words = readme.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let variables = words.filter_map(|word| word.strip_prefix("CENTRAL_"));
    let keys = readme
        .split("setting `")
        .skip(1)
        .filter_map(|rest| rest.split('`').next());
    let named: Vec<String> = variables
        .chain(keys)
        .map(str::to_ascii_lowercase)
        .filter(|key| !key.is_empty() && key != "config")
        .collect();
    assert!(!named.is_empty());
    for key in named {
        assert!(Setting::find(&key).is_some(), "README names {key}");
    }
}
