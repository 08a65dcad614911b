//! Who may do what: every operation of the document with every kind of credential. What is expected is computed from the documented rules
//! and the path alone, not from the server's own tables, so that an operation somebody forgot shows as a cell nobody expected.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use serde_json::json;
use sha1::{Digest as _, Sha1};

use weir_testkit::{API_KEY, EDIT_AUTH, TestServer};

/// What is done, as a token's permissions name it.
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

/// What an operation asks for.
#[derive(Clone, PartialEq, Debug)]
enum Rule {
    Anybody,
    Administrator,
    Token {
        collection: String,
        action: Action,
        /// A key of the collection, or the whole of it.
        keyed: bool,
        /// A streamer's own key opens it, too.
        own_streamer: bool,
    },
}

fn rule(method: &str, template: &str) -> Rule {
    let segments: Vec<&str> = template.split('/').skip(1).collect();
    let collection = segments[0].to_owned();
    let keyed = segments.iter().any(|segment| segment.starts_with('{'));
    let of_streamer = template.starts_with("/streamers/{hostname}/");
    let is_config = of_streamer && method == "GET";
    let is_report = of_streamer && segments.last() == Some(&"stats");
    let action = match method {
        "GET" if is_config || segments.last() == Some(&"logs") || collection == "auth" => {
            Action::Execute
        }
        "GET" if keyed || matches!(&*collection, "config" | "cluster" | "openapi.json") => {
            Action::Read
        }
        "GET" => Action::List,
        // What a node does with the token that opens its configuration.
        "PUT" if is_report => Action::Execute,
        "PUT" | "DELETE" => Action::Write,
        _ if segments.last() == Some(&"layouts") => Action::Write,
        _ => Action::Execute,
    };
    match &*collection {
        "monitoring" | "lb" => return Rule::Anybody,
        "api_tokens" | "config" if action == Action::Write => return Rule::Administrator,
        _ => {}
    }
    Rule::Token {
        collection: collection.trim_end_matches(".json").to_owned(),
        action,
        keyed,
        own_streamer: is_config || is_report,
    }
}

/// Says how much of (a collection, whether a key of it is asked for) the scopes of a token name.
type Scopes = Box<dyn Fn(&str, bool) -> Names>;

/// Who calls.
enum Who {
    /// Nobody, or somebody nobody knows.
    Stranger,
    Administrator,
    /// A streamer with its key; whether it is the one that the path names.
    Streamer(bool),
    /// A token that may do these actions on what its scopes name.
    Token(Vec<Action>, Scopes),
}

/// How much of what is asked for a token's scopes name.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    All,
    /// Some keys of the collection, but not the one asked for.
    OtherKeys,
    Nothing,
}

/// 0: let through, whatever comes of it.
fn expected(rule: &Rule, who: &Who) -> u16 {
    match (rule, who) {
        (Rule::Anybody, _) | (_, Who::Administrator) => 0,
        (_, Who::Stranger) => 401,
        (Rule::Administrator, _) => 403,
        (Rule::Token { own_streamer, .. }, Who::Streamer(own)) => {
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
                ..
            },
            Who::Token(actions, names),
        ) => {
            let reach = names(collection, *keyed);
            // Whoever may list some keys sees a list of those.
            // Storages are no records of ours: their list is whole or not at all.
            let is_divisible = *action == Action::List && collection != "dvrs";
            let reaches = reach == Names::All || (is_divisible && reach == Names::OtherKeys);
            if actions.contains(action) && reaches {
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

struct Credential {
    what: String,
    authorization: Option<String>,
    who: Who,
}

/// Saves tokens of every kind and returns them beside the other credentials.
fn credentials(server: &TestServer, collections: &[String]) -> Vec<Credential> {
    let plain = |what: &str, authorization: Option<String>, who| Credential {
        what: what.to_owned(),
        authorization,
        who,
    };
    let mut all = vec![
        plain("none", None, Who::Stranger),
        plain(
            "wrong key",
            Some(format!("Bearer {API_KEY}x")),
            Who::Stranger,
        ),
        plain(
            "a streamer's key as key",
            Some("Bearer own-key".to_owned()),
            Who::Stranger,
        ),
        plain("wrong login", Some(basic("operator:wrong")), Who::Stranger),
        plain(
            "unknown scheme",
            Some(format!("Digest {API_KEY}")),
            Who::Stranger,
        ),
        plain("key", Some(format!("Bearer {API_KEY}")), Who::Administrator),
        plain("login", Some(basic(EDIT_AUTH)), Who::Administrator),
        plain(
            "own cluster key",
            Some(cluster("own-key", 0)),
            Who::Streamer(true),
        ),
        plain(
            "own cluster key, stale",
            Some(cluster("own-key", -1000)),
            Who::Streamer(false),
        ),
        plain(
            "foreign cluster key",
            Some(cluster("foreign-key", 0)),
            Who::Streamer(false),
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
            who: Who::Token(actions.to_vec(), names),
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
            Box::new(|_, _| Names::All),
        );
    }
    token(
        "token without permissions".to_owned(),
        json!({}),
        &[],
        Box::new(|_, _| Names::All),
    );
    for collection in collections {
        let own = collection.clone();
        let scope = format!("{collection}/*");
        let body = json!({"permissions": [permission(json!([scope]), &every)]});
        token(
            format!("token, all of {scope}"),
            body,
            &every,
            Box::new(move |asked, _| {
                if asked == own {
                    Names::All
                } else {
                    Names::Nothing
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
            Box::new(move |asked, _| {
                if asked == own {
                    Names::OtherKeys
                } else {
                    Names::Nothing
                }
            }),
        );
        let own = collection.clone();
        let body = json!({"permissions": [permission(json!([collection]), &every)]});
        token(
            format!("token, all of {collection}"),
            body,
            &every,
            Box::new(move |asked, keyed| {
                if asked == own && !keyed {
                    Names::All
                } else {
                    Names::Nothing
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
        Box::new(|asked, _| {
            if asked == "streams" {
                Names::All
            } else {
                Names::Nothing
            }
        }),
    );
    let body = json!({"permissions": [permission(json!(["streams/*", "streamers/*"]), &every)]});
    token(
        "token, scopes that exclude each other".to_owned(),
        body,
        &every,
        Box::new(|_, _| Names::Nothing),
    );
    all
}

#[test]
fn every_operation_opens_for_exactly_the_credentials_it_is_documented_for() {
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
            // Agents prove who they are in a handshake of their own: no credential of the API makes a difference there.
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
        // One key that every kind of path takes. Of what it names only the streamer exists, and no request has a body.
        let mut path = String::new();
        for segment in template.split('/').skip(1) {
            let is_open = segment.starts_with('{');
            path.push('/');
            path.push_str(if is_open { "1" } else { segment });
        }
        // What deletes the streamer would spoil the rest.
        let path = if method == "DELETE" {
            path.replace("/1", "/7")
        } else {
            path
        };
        for credential in &credentials {
            let fields: Vec<(&str, &str)> = credential
                .authorization
                .iter()
                .map(|value| ("Authorization", value.as_str()))
                .collect();
            let target = format!("{}{path}", weir_testkit::PREFIX);
            let answer = client.request(method, &target, &fields, b"");
            if answer.header("connection") == Some("close") {
                client = server.connect();
            }
            let status = if matches!(answer.status, 401 | 403) {
                answer.status
            } else {
                0
            };
            let expected = expected(&rule, &credential.who);
            if status != expected {
                wrong.push(format!(
                    "{method} {template} with {}: {} instead of {expected}",
                    credential.what, answer.status
                ));
            }
            if answer.header("www-authenticate").is_some() != (answer.status == 401) {
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
fn what_is_not_there_is_told_to_whoever_is_known() {
    let server = TestServer::new();
    let credentials = credentials(&server, &[]);
    for (method, path) in [
        ("GET", "/nothing"),
        ("PATCH", "/streams/a"),
        ("POST", "/streams"),
    ] {
        for credential in &credentials {
            let answer = server.call_as(method, path, credential.authorization.as_deref());
            let is_told = matches!(answer.status, 404 | 405);
            let expected = match &credential.who {
                Who::Administrator | Who::Token(..) => true,
                Who::Stranger | Who::Streamer(_) => false,
            };
            assert_eq!(
                is_told, expected,
                "{method} {path} with {}: {answer:?}",
                credential.what
            );
        }
    }
}
