//! The server's own settings: effective values, their sources, and changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::calls::park_request;
use crate::metrics::Metrics;
use weir_testkit::{API_KEY, Response, Signal, TestServer, wait_until};

const OLD: &str = "old-key-0123456789";
const NEW: &str = "new-key-0123456789";

/// One request with a key on a connection of its own.
fn with_key(server: &TestServer, key: &str, method: &str, path: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {key}");
    let path = format!("/central/api/v3{path}");
    let body = if method == "GET" {
        String::new()
    } else {
        body.to_string()
    };
    server.connect().request(
        method,
        &path,
        &[("Authorization", &bearer)],
        body.as_bytes(),
    )
}

#[test]
fn every_setting_shows_its_value_and_its_source() {
    let mut server = TestServer::with_environment(
        &["--layouter-enabled=true"],
        &[("CENTRAL_LOG_LEVEL", "error")],
    );
    let config = server.get("/config").expect(200).json();
    for (member, value) in [
        ("api_key", json!(API_KEY)),
        (
            "edit_auth",
            json!({"login": "operator", "password": "it-password"}),
        ),
        ("layouter_enabled", json!("true")),
        ("loglevel", json!("error")),
        ("log_requests", json!("false")),
        ("layouter_sleeping_interval", json!(30000)),
        ("config_external_reconciliation_interval", json!(5000)),
        ("episodes_buffer_delay", json!(1000)),
        ("episodes_buffer_limit", json!(250)),
        ("streamer_dead_timeout", json!(60000)),
        ("restart_required", json!([])),
        (
            "cluster",
            json!({"node_config_provision_enabled": false, "streamer_connector_retries": 5}),
        ),
    ] {
        assert_eq!(config[member], value, "{member}");
    }
    let sources = &config["sources"];
    assert_eq!(
        sources["layouter_enabled"],
        json!({"from": "flag", "name": "--layouter-enabled"})
    );
    assert_eq!(
        sources["loglevel"],
        json!({"from": "environment", "name": "CENTRAL_LOG_LEVEL"})
    );
    assert_eq!(sources["log_requests"], json!({"from": "default"}));
    assert_eq!(
        sources["cluster.streamer_connector_retries"],
        json!({"from": "default"})
    );
    assert_eq!(config["listeners"]["http"][0]["address"], "127.0.0.1");
    assert!(
        config["database"]["url"]
            .as_str()
            .is_some_and(|url| url.starts_with("file:///"))
    );
    let value = weir::testing::json::parse(config.to_string().as_bytes()).expect("JSON");
    weir::testing::schema::config()
        .check(&value)
        .expect("a document of the schema");
    server.restart();
    let again = server.get("/config").expect(200).json();
    assert_eq!(again["server_id"], config["server_id"]);
    assert_ne!(again["stats"]["id"], config["stats"]["id"]);
    let metrics = Metrics::read(&server.get("/config?format=openmetrics").expect(200));
    assert_eq!(
        Some(metrics.value(
            "server_started_at",
            &[("server_id", config["server_id"].as_str().expect("an id"))]
        )),
        again["stats"]["started_at"].as_f64()
    );
}

#[test]
fn saved_settings_apply_at_once_and_survive_a_restart() {
    let text = format!("# ours\napi_key = \"{OLD}\"\nloglevel = \"info\" # quiet\n");
    let mut server = TestServer::with_file(&text);
    let body = json!({
        "api_key": OLD, "loglevel": "debug", "layouter_sleeping_interval": 1500,
        "log_requests": "true", "cluster": {"streamer_connector_retries": 3},
        "server_id": "mine", "nonsense": 1,
    });
    let answer = with_key(&server, OLD, "PUT", "/config", &body)
        .expect(200)
        .json();
    assert_eq!(answer["layouter_sleeping_interval"], 1500);
    assert_eq!(answer["sources"]["loglevel"]["from"], "file");
    assert_ne!(answer["server_id"], "mine");
    let text = fs::read_to_string(server.file_path()).expect("the file is there");
    assert!(
        text.starts_with("# ours\n") && text.contains("loglevel = \"debug\" # quiet\n"),
        "{text}"
    );
    with_key(&server, OLD, "GET", "/streams/logged", &Value::Null).expect(404);
    let log = server.log();
    assert!(
        log.contains("/streams/logged") && !log.contains(OLD),
        "{log}"
    );
    server.restart();
    let again = with_key(&server, OLD, "GET", "/config", &Value::Null)
        .expect(200)
        .json();
    for member in [
        "loglevel",
        "layouter_sleeping_interval",
        "log_requests",
        "cluster",
        "sources",
    ] {
        assert_eq!(again[member], answer[member], "{member}");
    }
    // Null takes a setting out of the file.
    let body = json!({"api_key": OLD, "layouter_sleeping_interval": null});
    let answer = with_key(&server, OLD, "PUT", "/config", &body)
        .expect(200)
        .json();
    assert_eq!(answer["layouter_sleeping_interval"], 30000);
    assert_eq!(
        answer["sources"]["layouter_sleeping_interval"]["from"],
        "default"
    );
}

#[test]
fn environment_and_command_line_override_saved_settings() {
    let server = TestServer::with_environment(&[], &[("CENTRAL_LAYOUTER_ENABLED", "false")]);
    let body = json!({"api_key": API_KEY, "layouter_enabled": "true", "episodes_buffer_limit": 7});
    let answer = server.put("/config", body).expect(200).json();
    assert_eq!(answer["layouter_enabled"], "false");
    assert_eq!(answer["sources"]["layouter_enabled"]["from"], "environment");
    assert_eq!(answer["episodes_buffer_limit"], 7);
    // Without `--config` the file is in the data directory, readable by its owner only, and read at
    // the next start.
    let file = server.data_dir().join("weir.toml");
    let text = fs::read_to_string(&file).expect("the file is there");
    assert!(text.contains("layouter_enabled = true"), "{text}");
    assert!(
        !text.contains(API_KEY),
        "a key that is in force already is not written down"
    );
    let mode = fs::metadata(&file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut server = server;
    server.restart();
    assert_eq!(
        server.get("/config").expect(200).json()["episodes_buffer_limit"],
        7
    );
}

#[test]
fn new_api_key_takes_effect_at_once() {
    let mut server = TestServer::with_file(&format!(
        "api_key = \"{OLD}\"\nedit_auth = \"admin first-password\"\n"
    ));
    let bearer = format!("Bearer {OLD}");
    let old = [("Authorization", bearer.as_str())];
    let mut open = server.connect();
    open.request("GET", "/central/api/v3/streams", &old, b"")
        .expect(200);
    let mut parked = server.connect();
    parked.send_request("GET", "/central/api/v3/streams?poll_timeout=50", &old, b"");
    let parked_count = || {
        let path = "/cluster/stats?format=openmetrics";
        let answer = with_key(&server, OLD, "GET", path, &Value::Null).expect(200);
        Metrics::read(&answer).value("weir_polls_parked", &[])
    };
    wait_until("a parked poll", parked_count, |count| *count > 0.5);
    let body =
        json!({"api_key": NEW, "edit_auth": {"login": "admin", "password": "second-password"}});
    let answer = with_key(&server, OLD, "PUT", "/config", &body)
        .expect(200)
        .json();
    assert_eq!(answer["api_key"], NEW);
    assert_eq!(
        parked.response(false).expect(200).json()["streams"],
        json!([])
    );
    parked
        .request("GET", "/central/api/v3/streams?poll_timeout=50", &old, b"")
        .expect(401);
    open.request("GET", "/central/api/v3/streams", &old, b"")
        .expect(401);
    with_key(&server, NEW, "GET", "/streams", &Value::Null).expect(200);
    // admin:first-password and admin:second-password.
    server
        .call_as(
            "GET",
            "/streams",
            Some("Basic YWRtaW46Zmlyc3QtcGFzc3dvcmQ="),
        )
        .expect(401);
    server
        .call_as(
            "GET",
            "/streams",
            Some("Basic YWRtaW46c2Vjb25kLXBhc3N3b3Jk"),
        )
        .expect(200);
    server.restart();
    with_key(&server, OLD, "GET", "/streams", &Value::Null).expect(401);
    with_key(&server, NEW, "GET", "/streams", &Value::Null).expect(200);
    let events = with_key(
        &server,
        NEW,
        "GET",
        "/events?operation_id=config_save",
        &Value::Null,
    )
    .expect(200);
    let text = events.text();
    assert_eq!(events.json()["events"].as_array().map(Vec::len), Some(1));
    assert!(!text.contains(NEW) && !text.contains("password"), "{text}");
}

#[test]
fn saved_key_replaces_a_generated_one() {
    let mut server = TestServer::bare();
    let key = fs::read_to_string(server.data_dir().join("api_key")).expect("a key was made");
    let key = key.trim();
    let body = json!({"api_key": key, "loglevel": "warning"});
    with_key(&server, key, "PUT", "/config", &body).expect(200);
    with_key(&server, key, "PUT", "/config", &json!({"api_key": NEW})).expect(200);
    with_key(&server, key, "GET", "/streams", &Value::Null).expect(401);
    server.restart();
    with_key(&server, NEW, "GET", "/streams", &Value::Null).expect(200);
}

#[test]
fn refused_settings_change_nothing() {
    let text = format!("api_key = \"{OLD}\"\n");
    let server = TestServer::with_file(&text);
    for (body, error) in [
        (json!([]), "not_object "),
        (json!({"loglevel": "debug"}), "missing_required /api_key"),
        (json!({"api_key": "two words"}), "out_of_range /api_key"),
        (
            json!({"api_key": OLD, "loglevel": "loud"}),
            "unknown_enum_option /loglevel",
        ),
        (
            json!({"api_key": OLD, "layouter_enabled": true}),
            "not_string /layouter_enabled",
        ),
        (
            json!({"api_key": OLD, "layouter_sleeping_interval": 0}),
            "out_of_range /layouter_sleeping_interval",
        ),
        (
            json!({"api_key": OLD, "api_url": "ftp://x"}),
            "out_of_range /api_url",
        ),
        (
            json!({"api_key": OLD, "edit_auth": {"login": "a b", "password": "p"}}),
            "out_of_range /edit_auth",
        ),
    ] {
        let answer = with_key(&server, OLD, "PUT", "/config", &body).expect(400);
        assert_eq!(answer.errors(), [error], "{body}");
    }
    // The temporary file cannot be created.
    let blocked = server.file_path().with_extension("toml.tmp");
    fs::create_dir(&blocked).expect("made");
    fs::write(blocked.join("x"), "").expect("written");
    let body = json!({"api_key": NEW, "loglevel": "debug"});
    let answer = with_key(&server, OLD, "PUT", "/config", &body).expect(409);
    assert_eq!(answer.errors(), ["config_file_unwritable"]);
    assert_eq!(fs::read_to_string(server.file_path()).expect("there"), text);
    let config = with_key(&server, OLD, "GET", "/config", &Value::Null)
        .expect(200)
        .json();
    assert_eq!(
        (&config["api_key"], &config["loglevel"]),
        (&json!(OLD), &json!("info"))
    );
    // The file was damaged by hand meanwhile.
    fs::remove_dir_all(&blocked).expect("removed");
    fs::write(server.file_path(), format!("{text}polls = 5\n")).expect("written");
    let answer = with_key(&server, OLD, "PUT", "/config", &body).expect(409);
    assert_eq!(answer.errors(), ["config_file_invalid"]);
    with_key(&server, OLD, "GET", "/streams", &Value::Null).expect(200);
}

#[test]
fn hangup_reads_the_configuration_file_again() {
    let server = TestServer::with_file(&format!("api_key = \"{OLD}\"\n"));
    let status = |key| with_key(&server, key, "GET", "/streams", &Value::Null).status;
    // Signals of log rotation and of debuggers have no effect.
    server.signal(Signal::USR1);
    server.signal(Signal::USR2);
    // A parked poll with the old key must end.
    let path = "/central/api/v3/streams?name=none&poll_timeout=50";
    let fields = format!("Authorization: Bearer {OLD}\r\n");
    let head = format!("GET {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
    let mut poll = park_request(&server, &head);
    let text = format!("api_key = \"{NEW}\"\nlog_level = \"warning\"\nstore_cache = \"65MiB\"\n");
    fs::write(server.file_path(), text).expect("written");
    server.signal(Signal::HUP);
    wait_until("the new key", || status(NEW), |status| *status == 200);
    assert_eq!(status(OLD), 401);
    let ended = poll.response(false).expect(200);
    assert_eq!(ended.json()["streams"], json!([]), "without data");
    let config = with_key(&server, NEW, "GET", "/config", &Value::Null).json();
    assert_eq!(config["loglevel"], "warning");
    assert_eq!(config["restart_required"], json!(["store_cache"]));
    // An invalid file changes nothing and ends nothing.
    fs::write(server.file_path(), "api_key = 5\npolls = 1\n").expect("written");
    server.signal(Signal::HUP);
    let refused = || server.log().contains("configuration file is invalid");
    wait_until("a refusal", refused, |refused| *refused);
    assert_eq!(status(NEW), 200);
}

#[test]
fn save_warns_of_what_a_flag_or_variable_overrides() {
    let server = TestServer::with_environment(
        &["--log-level", "warning"],
        &[("CENTRAL_STREAMER_DEAD_TIMEOUT", "90s")],
    );
    let save = |body: Value| server.put("/config", body).expect(200).json();
    let body = json!({
        "api_key": API_KEY,
        "loglevel": "error",
        "streamer_dead_timeout": 80_000,
        "episodes_buffer_limit": 7,
    });
    let saved = save(body);
    assert_eq!(saved["loglevel"], "warning");
    assert_eq!(saved["episodes_buffer_limit"], 7);
    let warnings = saved["warnings"].as_array().expect("warnings");
    let mut named: Vec<(&str, &Value)> = warnings
        .iter()
        .map(|warning| {
            assert_eq!(warning["code"], "overridden");
            (warning["setting"].as_str().expect("a name"), &warning["by"])
        })
        .collect();
    named.sort_by_key(|(setting, _)| *setting);
    let flag = json!({"from": "flag", "name": "--log-level"});
    let variable = json!({"from": "environment", "name": "CENTRAL_STREAMER_DEAD_TIMEOUT"});
    assert_eq!(
        named,
        [("loglevel", &flag), ("streamer_dead_timeout", &variable)]
    );
    // A value that is in force is no reason for a warning, nor is a save of what was read.
    let same = json!({"api_key": API_KEY, "loglevel": "warning"});
    assert_eq!(save(same)["warnings"], Value::Null);
    let read = server.get("/config").expect(200).json();
    assert_eq!(read["warnings"], Value::Null);
    assert_eq!(save(read)["warnings"], Value::Null);
}
