//! Authorization matrix: every operation of the document with every kind of credential. Expected
//! statuses are computed from the documented rules and the path alone, not from the server's own
//! tables, so that an operation without a rule is detected.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use serde_json::json;
use sha1::{Digest as _, Sha1};

use weir_testkit::{API_KEY, EDIT_AUTH, TestServer};

/// An action of the permissions of a token.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Action {
    List,
    Read,
    Write,
    Execute,
}

const ACTIONS: [(Action, &str); 4] = [
    (Action::List, "list"),
    (Action::Read, "read"),
    (Action::Write, "write"),
    (Action::Execute, "execute"),
];

/// The right that an operation requires.
#[derive(Clone, PartialEq, Debug)]
enum Rule {
    Public,
    /// Every administrator and token.
    Valid,
    Administrator,
    Token {
        collection: String,
        action: Action,
        /// A key of the collection, or the whole of it.
        keyed: bool,
        /// A token for some keys may call it.
        divisible: bool,
        /// The cluster key of the streamer in the path is sufficient, too.
        own_streamer: bool,
    },
}

fn rule(method: &str, template: &str) -> Rule {
    let segments: Vec<&str> = template.split('/').skip(1).collect();
    let collection = match segments[0] {
        // Numbers of what the list of streams shows.
        "facets" => "streams".to_owned(),
        other => other.to_owned(),
    };
    let keyed = segments.iter().any(|segment| segment.starts_with('{'));
    let of_streamer = template.starts_with("/streamers/{hostname}/");
    let is_history = segments.last() == Some(&"history");
    let is_config = of_streamer && method == "GET" && !is_history;
    let is_report = of_streamer && segments.last() == Some(&"stats");
    let action = match method {
        "GET" if is_config || segments.last() == Some(&"logs") || collection == "auth" => {
            Action::Execute
        }
        "GET"
            if keyed
                || matches!(
                    &*collection,
                    "config" | "cluster" | "layouter" | "openapi.json"
                ) =>
        {
            Action::Read
        }
        "GET" => Action::List,
        // With the same right a node reads its configuration.
        "PUT" if is_report => Action::Execute,
        "PUT" | "DELETE" => Action::Write,
        _ if matches!(segments.last(), Some(&("layouts" | "batch_by_filter"))) => Action::Write,
        _ => Action::Execute,
    };
    match &*collection {
        "monitoring" | "lb" => return Rule::Public,
        "session" if method == "POST" => return Rule::Public,
        "session" => return Rule::Valid,
        "backup" => return Rule::Administrator,
        "api_tokens" | "config" if action == Action::Write => return Rule::Administrator,
        _ => {}
    }
    let is_by_filter = segments.last() == Some(&"batch_by_filter");
    Rule::Token {
        // Storages are not entities: their list requires the right to the whole collection.
        divisible: action == Action::List && collection != "dvrs" || is_by_filter,
        collection: collection.trim_end_matches(".json").to_owned(),
        action,
        keyed,
        own_streamer: is_config || is_report,
    }
}

/// The coverage of the scopes of a token, for a collection and whether a key of it is requested.
type Scopes = Box<dyn Fn(&str, bool) -> Coverage>;

enum CallerKind {
    /// Without valid credentials.
    Stranger,
    Administrator,
    /// The session of a browser that an administrator opened.
    Session,
    /// A streamer with its key; whether it is the one in the path.
    Streamer(bool),
    /// A token with these actions on its scopes.
    Token(Vec<Action>, Scopes),
}

/// The part of the requested entities that the scopes of a token name.
#[derive(Clone, Copy, PartialEq)]
enum Coverage {
    All,
    /// Some keys of the collection, but not the requested one.
    OtherKeys,
    Nothing,
}

/// The expected status; 0: authorized, with any status of the handler.
fn expected(rule: &Rule, caller: &CallerKind) -> u16 {
    match (rule, caller) {
        (Rule::Public, _) | (_, CallerKind::Administrator) => 0,
        (
            Rule::Token {
                own_streamer: true, ..
            },
            CallerKind::Session,
        )
        | (_, CallerKind::Stranger) => 401,
        (_, CallerKind::Session) | (Rule::Valid, CallerKind::Token(..)) => 0,
        (Rule::Administrator, _) | (Rule::Valid, CallerKind::Streamer(_)) => 403,
        (Rule::Token { own_streamer, .. }, CallerKind::Streamer(own)) => {
            if *own_streamer && *own {
                0
            } else {
                403
            }
        }
        (
            Rule::Token {
                collection,
                action,
                keyed,
                divisible,
                ..
            },
            CallerKind::Token(actions, names),
        ) => {
            let coverage = names(collection, *keyed);
            // A token for some keys gets a list of those.
            let is_part = *divisible && coverage == Coverage::OtherKeys;
            if actions.contains(action) && (coverage == Coverage::All || is_part) {
                0
            } else {
                403
            }
        }
    }
}

fn basic(login: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(login);
    format!("Basic {encoded}")
}

fn cluster(key: &str, seconds_off: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let time = now
        .checked_add_signed(seconds_off)
        .expect("near now")
        .to_string();
    let mut signed = format!("Cluster {time}:");
    for byte in Sha1::digest(format!("{time}:{key}")) {
        write!(signed, "{byte:02x}").expect("a string takes everything");
    }
    signed
}

/// The cookie of a new session, because one of the operations ends it.
fn session_cookie(server: &TestServer, kind: &CallerKind) -> Option<String> {
    if !matches!(kind, CallerKind::Session) {
        return None;
    }
    let path = format!("{}/session", weir_testkit::PREFIX);
    let body = json!({"key": API_KEY}).to_string();
    let fields = [("X-Weir-UI", "1")];
    let opened = server
        .connect()
        .request("POST", &path, &fields, body.as_bytes());
    let opened = opened.expect(200);
    let cookie = opened.header("set-cookie").expect("a cookie");
    cookie.split(';').next().map(str::to_owned)
}

struct Credential {
    what: String,
    authorization: Option<String>,
    kind: CallerKind,
}

/// Saves tokens of every kind and returns them beside the other credentials.
fn credentials(server: &TestServer, collections: &[String]) -> Vec<Credential> {
    let plain = |what: &str, authorization: Option<String>, kind| Credential {
        what: what.to_owned(),
        authorization,
        kind,
    };
    let mut all = vec![
        plain("none", None, CallerKind::Stranger),
        plain(
            "wrong key",
            Some(format!("Bearer {API_KEY}x")),
            CallerKind::Stranger,
        ),
        plain(
            "a streamer's key as key",
            Some("Bearer own-key".to_owned()),
            CallerKind::Stranger,
        ),
        plain(
            "wrong login",
            Some(basic("operator:wrong")),
            CallerKind::Stranger,
        ),
        plain(
            "unknown scheme",
            Some(format!("Digest {API_KEY}")),
            CallerKind::Stranger,
        ),
        plain(
            "key",
            Some(format!("Bearer {API_KEY}")),
            CallerKind::Administrator,
        ),
        plain("login", Some(basic(EDIT_AUTH)), CallerKind::Administrator),
        plain("session of the key", None, CallerKind::Session),
        plain(
            "own cluster key",
            Some(cluster("own-key", 0)),
            CallerKind::Streamer(true),
        ),
        plain(
            "own cluster key, stale",
            Some(cluster("own-key", -1000)),
            CallerKind::Streamer(false),
        ),
        plain(
            "foreign cluster key",
            Some(cluster("foreign-key", 0)),
            CallerKind::Streamer(false),
        ),
    ];
    let mut token = |what: String, body: serde_json::Value, actions: &[Action], names: Scopes| {
        let name = format!("t{}", all.len());
        let saved = server
            .put(&format!("/api_tokens/{name}"), body)
            .expect(200)
            .json();
        let key = saved["key"].as_str().expect("a key");
        all.push(Credential {
            what,
            authorization: Some(format!("Bearer {key}")),
            kind: CallerKind::Token(actions.to_vec(), names),
        });
    };
    let every = ACTIONS.map(|(action, _)| action);
    let permission = |scopes: serde_json::Value, actions: &[Action]| {
        let mut permission = json!({"scopes": scopes});
        for (action, name) in ACTIONS {
            if actions.contains(&action) {
                permission[name] = json!(true);
            }
        }
        permission
    };
    for (action, name) in ACTIONS {
        let body = json!({"permissions": [permission(json!(["*"]), &[action])]});
        token(
            format!("token, {name} of *"),
            body,
            &[action],
            Box::new(|_, _| Coverage::All),
        );
    }
    token(
        "token without permissions".to_owned(),
        json!({}),
        &[],
        Box::new(|_, _| Coverage::All),
    );
    for collection in collections {
        let own = collection.clone();
        let scope = format!("{collection}/*");
        let body = json!({"permissions": [permission(json!([scope]), &every)]});
        token(
            format!("token, all of {scope}"),
            body,
            &every,
            Box::new(move |requested, _| {
                if requested == own {
                    Coverage::All
                } else {
                    Coverage::Nothing
                }
            }),
        );
        let own = collection.clone();
        let scope = format!("{collection}/elsewhere%2F*");
        let body = json!({"permissions": [permission(json!([scope]), &every)]});
        token(
            format!("token, all of {scope}"),
            body,
            &every,
            Box::new(move |requested, _| {
                if requested == own {
                    Coverage::OtherKeys
                } else {
                    Coverage::Nothing
                }
            }),
        );
        let own = collection.clone();
        let body = json!({"permissions": [permission(json!([collection]), &every)]});
        token(
            format!("token, all of {collection}"),
            body,
            &every,
            Box::new(move |requested, keyed| {
                if requested == own && !keyed {
                    Coverage::All
                } else {
                    Coverage::Nothing
                }
            }),
        );
    }
    let body =
        json!({"auth_scopes": ["streams/*"], "permissions": [permission(json!(["*"]), &every)]});
    token(
        "token, all of * within streams/*".to_owned(),
        body,
        &every,
        Box::new(|requested, _| {
            if requested == "streams" {
                Coverage::All
            } else {
                Coverage::Nothing
            }
        }),
    );
    let body = json!({"permissions": [permission(json!(["streams/*", "streamers/*"]), &every)]});
    token(
        "token, scopes that exclude each other".to_owned(),
        body,
        &every,
        Box::new(|_, _| Coverage::Nothing),
    );
    all
}

#[test]
fn operations_accept_exactly_the_documented_credentials() {
    let server = TestServer::new();
    let nodes = json!([
        {"hostname": "1", "role": "streamer", "cluster_key": "own-key"},
        {"hostname": "2", "role": "streamer", "cluster_key": "foreign-key"},
    ]);
    server.put("/streamers/batch", nodes).expect(204);
    let document = server.get("/openapi.json").expect(200).json();
    let mut operations = Vec::new();
    for (template, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path item") {
            if operation["operationId"].is_string() {
                operations.push((method.to_uppercase(), template.clone()));
            }
        }
    }
    assert!(operations.len() >= 30, "{operations:?}");
    let mut collections: Vec<String> = operations
        .iter()
        .filter_map(|(method, template)| match rule(method, template) {
            Rule::Token { collection, .. } => Some(collection),
            _ => None,
        })
        .collect();
    collections.sort_unstable();
    collections.dedup();
    let credentials = credentials(&server, &collections);
    let mut wrong = Vec::new();
    let mut client = server.connect();
    for (method, template) in &operations {
        if template.starts_with("/endpoint/") {
            // Agents authenticate in their own handshake: credentials of the API have no effect.
            let target = format!("{}{template}", weir_testkit::PREFIX);
            for credential in &credentials {
                let fields = credential.authorization.iter();
                let fields: Vec<(&str, &str)> = fields
                    .map(|value| ("Authorization", value.as_str()))
                    .collect();
                let answer = server.connect().request(method, &target, &fields, b"");
                assert!(
                    (400..404).contains(&answer.status),
                    "{template} with {}: {answer:?}",
                    credential.what
                );
            }
            continue;
        }
        let rule = rule(method, template);
        // A key that is valid in every path. Only the streamer exists, and no request has a body.
        let mut path = String::new();
        for segment in template.split('/').skip(1) {
            let is_open = segment.starts_with('{');
            path.push('/');
            path.push_str(if is_open { "1" } else { segment });
        }
        // The streamer must not be deleted.
        let path = if method == "DELETE" {
            path.replace("/1", "/7")
        } else {
            path
        };
        for credential in &credentials {
            // Wrong credentials are counted by client.
            let address = weir_testkit::new_client_address();
            let mut fields = vec![("X-Real-IP", &*address)];
            let authorization = credential.authorization.iter();
            fields.extend(authorization.map(|value| ("Authorization", value.as_str())));
            let target = format!("{}{path}", weir_testkit::PREFIX);
            let cookie = session_cookie(&server, &credential.kind);
            if let Some(cookie) = &cookie {
                fields.extend([("Cookie", &**cookie), ("X-Weir-UI", "1")]);
            }
            let answer = client.request(method, &target, &fields, b"");
            if answer.header("connection") == Some("close") {
                client = server.connect();
            }
            let status = if matches!(answer.status, 401 | 403) {
                answer.status
            } else {
                0
            };
            let expected = expected(&rule, &credential.kind);
            if status != expected {
                wrong.push(format!(
                    "{method} {template} with {}: {} instead of {expected}",
                    credential.what, answer.status
                ));
            }
            let is_challenged = answer.status == 401 && cookie.is_none();
            if answer.header("www-authenticate").is_some() != is_challenged {
                wrong.push(format!(
                    "{method} {template} with {}: challenge",
                    credential.what
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} unexpected cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn unknown_paths_are_404_only_with_valid_credentials() {
    let server = TestServer::new();
    let credentials = credentials(&server, &[]);
    for (method, path) in [
        ("GET", "/nothing"),
        ("PATCH", "/streams/a"),
        ("POST", "/streams"),
    ] {
        for credential in &credentials {
            let answer = server.call_as(method, path, credential.authorization.as_deref());
            let is_revealed = matches!(answer.status, 404 | 405);
            let expected = match &credential.kind {
                CallerKind::Administrator | CallerKind::Token(..) => true,
                // Sent without its cookie here.
                CallerKind::Stranger | CallerKind::Streamer(_) | CallerKind::Session => false,
            };
            assert_eq!(
                is_revealed, expected,
                "{method} {path} with {}: {answer:?}",
                credential.what
            );
        }
    }
}
