//! The subcommands of operators against the real server: what they print, what they change, and
//! their exit codes.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::limit_files;
use crate::fleet::{fleet_of, save_streams, server as with_layouter};
use crate::metrics::Metrics;
use weir_testkit::sys::{self, Signal};
use weir_testkit::{API_KEY, TestServer, run, wait_until};

/// An operator with a home directory of its own.
pub struct OperatorShell<'s> {
    pub server: &'s TestServer,
    pub home: TempDir,
    pub key: String,
}

impl<'s> OperatorShell<'s> {
    pub fn new(server: &'s TestServer) -> Self {
        Self {
            server,
            home: tempfile::tempdir().expect("a scratch directory"),
            key: API_KEY.to_owned(),
        }
    }

    pub fn run_with(&self, line: &str, environment: &[(&str, &str)]) -> Output {
        let arguments: Vec<&str> = line.split(' ').collect();
        let home = self.home.path().to_str().expect("a path of text");
        let environment = [environment, &[("HOME", home)]].concat();
        run(&arguments, &environment, self.home.path())
    }

    /// Runs a subcommand; a space in an argument is not possible.
    pub fn run(&self, line: &str) -> Output {
        let url = format!("http://{}", self.server.address());
        let known = [("CENTRAL_API_URL", &*url), ("CENTRAL_API_KEY", &*self.key)];
        self.run_with(line, &known)
    }

    /// What a subcommand prints that ends with this exit code.
    #[track_caller]
    pub fn prints(&self, line: &str, exit: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(exit), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let text = self.prints(line, 0);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    /// What a subcommand reports on stderr that ends with this exit code.
    #[track_caller]
    pub fn fails(&self, line: &str, exit: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(exit), "{line}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text).expect("a file");
    }
}

fn streams(server: &TestServer, count: usize) {
    let items = (0..count).map(|at| {
        let customer = if at % 2 == 0 { "acme" } else { "beta" };
        json!({"name": format!("tv/{at:03}"), "title": format!("Channel {at}"),
               "labels": {"customer": customer}})
    });
    let items: Vec<Value> = items.collect();
    server.put("/streams/batch", Value::from(items)).expect(204);
}

fn title(server: &TestServer, name: &str) -> Value {
    let path = format!("/streams/{}", name.replace('/', "%2F"));
    server.get(&path).expect(200).json()["title"].clone()
}

#[test]
fn lists_are_tables_names_or_json() {
    let server = TestServer::new();
    streams(&server, 205);
    let shell = OperatorShell::new(&server);
    let table = shell.prints("get streams --sort -name --limit 3 --columns name,title", 0);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines,
        [
            "NAME    TITLE",
            "tv/204  Channel 204",
            "tv/203  Channel 203",
            "tv/202  Channel 202"
        ]
    );
    let all = shell.prints("get streams --all -o name", 0);
    assert_eq!(all.lines().count(), 205);
    assert_eq!(
        shell
            .json("get streams --all -o json")
            .as_array()
            .map(Vec::len),
        Some(205)
    );
    let lines = shell.prints("get streams -l customer=beta --limit 2 -o jsonl", 0);
    for line in lines.lines() {
        let stream: Value = serde_json::from_str(line).expect("JSON in each line");
        assert_eq!(stream["labels"]["customer"], "beta", "{line}");
    }
    assert_eq!(lines.lines().count(), 2);
    assert_eq!(
        shell.json("get stream tv/007 -o json")["title"],
        "Channel 7"
    );
    assert_eq!(shell.json("get streams q=channel.7 -o json"), json!([]));
    let rest = shell.fails("get streams --limit 5", 0);
    assert!(
        rest.contains("5 of 205 streams; --all prints the rest"),
        "{rest}"
    );
    assert_eq!(shell.fails("get streams --limit 5 -q", 0), "");
    let missing = shell.run("get stream tv/007 nothing -o name");
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(missing.stdout, b"tv/007\n");
    let unknown = shell.fails("get streams titel=x", 1);
    assert!(
        unknown.contains("titel") && unknown.contains("unknown_parameter"),
        "{unknown}"
    );
    shell.fails("get cats", 2);
}

#[test]
fn titles_do_not_control_the_terminal() {
    let server = TestServer::new();
    server
        .put("/streams/a", json!({"title": "\u{1b}[2Jgone\u{202e}"}))
        .expect(200);
    let shell = OperatorShell::new(&server);
    for line in [
        "get streams",
        "describe stream a",
        "get streams --columns title",
    ] {
        let text = shell.prints(line, 0);
        assert!(text.contains("\\u{1b}[2Jgone\\u{202e}"), "{line}: {text}");
        assert!(!text.contains('\u{1b}'), "{line}: {text}");
    }
}

#[test]
fn changes_create_nothing_that_was_deleted() {
    let server = TestServer::new();
    streams(&server, 3);
    let shell = OperatorShell::new(&server);
    shell.prints(
        "set stream tv/000 title=News labels.site=x labels.customer-",
        0,
    );
    let stream = server.get("/streams/tv%2F000").expect(200).json();
    assert_eq!(stream["title"], "News");
    assert_eq!(stream["labels"], json!({"site": "x"}));
    shell.prints("disable tv/000 tv/001", 0);
    shell.prints("enable stream tv/001", 0);
    let disabled = shell.prints("get streams disabled=true -o name", 0);
    assert_eq!(disabled, "tv/000\n");
    shell.prints("label tv/001 tv/002 a=1 customer-", 0);
    for line in ["set stream gone title=x", "disable gone", "label gone a=b"] {
        let text = shell.fails(line, 5);
        assert!(text.contains("gone does not exist"), "{line}: {text}");
    }
    // All or none.
    let text = shell.fails("disable tv/001 gone tv/002", 5);
    assert!(text.contains("gone does not exist"), "{text}");
    assert_eq!(
        shell.prints("get streams disabled=true -o name", 0),
        "tv/000\n"
    );
    server.get("/streams/gone").expect(404);
    shell.prints("set stream new title=x --create", 0);
    assert_eq!(title(&server, "new"), "x");
    // A filter is confirmed, and here is no terminal.
    let text = shell.fails("delete streams -l a=1", 2);
    assert!(text.contains("delete 2 streams"), "{text}");
    shell.prints("delete streams -l a=1 --yes", 0);
    assert_eq!(shell.prints("get streams -o name", 0), "new\ntv/000\n");
    shell.fails("delete stream tv/001", 1);
    shell.fails("delete streams", 2);
    let text = shell.fails("set stream tv/000 titel=x", 2);
    assert!(text.contains("did you mean title?"), "{text}");
}

#[test]
fn filters_are_changes_of_what_matches_on_the_server() {
    let server = TestServer::new();
    streams(&server, 6);
    for host in ["h1", "h2"] {
        let body = json!({"role": "streamer", "cluster_key": "k", "labels": {"zone": "n"}});
        server.put(&format!("/streamers/{host}"), body).expect(200);
    }
    let shell = OperatorShell::new(&server);
    let noted = |line: &str| {
        let output = shell.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let named = |filter: &str| shell.prints(&format!("get streams {filter} -o name --all"), 0);
    let text = shell.fails("disable -l customer=beta", 2);
    assert!(
        text.contains("disable 3 streams (tv/001, tv/003, tv/005): not confirmed"),
        "{text}"
    );
    assert!(noted("disable -l customer=beta --yes").contains("3 streams disabled"));
    assert_eq!(named("disabled=true"), "tv/001\ntv/003\ntv/005\n");
    noted("enable --filter name=tv/003 --yes");
    noted("label --filter disabled=true --yes site=x customer-");
    assert_eq!(named("labels.site=x"), "tv/001\ntv/005\n");
    noted("set stream --filter labels.site=x --yes title=News");
    assert_eq!(named("title=News"), "tv/001\ntv/005\n");
    noted("move -l customer=acme --to h1 --yes");
    assert_eq!(named("layout.ingest=h1"), "tv/000\ntv/002\ntv/004\n");
    noted("move tv/000 --to h2 --pin");
    noted("move --filter name=tv/002 --to h2 --pin --yes");
    assert_eq!(named("layout.pinned=true"), "tv/000\ntv/002\n");
    assert!(shell.prints("describe stream tv/000", 0).contains("pinned"));
    noted("move tv/000 --to h2");
    assert_eq!(named("layout.pinned=true"), "tv/002\n");
    // Other kinds are changed by name.
    noted("set streamer -l zone=n --yes channel_limit=7");
    let limit =
        |host: &str| server.get(&format!("/streamers/{host}")).json()["channel_limit"].clone();
    assert_eq!((limit("h1"), limit("h2")), (json!(7), json!(7)));
    for (line, exit, wanted) in [
        (
            "delete streams -l customer=nobody --yes",
            1,
            "no stream passes the filter",
        ),
        (
            "delete streams --filter titel=x --yes",
            1,
            "did you mean `title`?",
        ),
        (
            "move -l customer=acme --to nowhere --yes",
            1,
            "streamer_not_found",
        ),
        ("disable tv/000 -l customer=acme --yes", 2, "not both"),
    ] {
        let text = shell.fails(line, exit);
        assert!(text.contains(wanted), "{line}: {text}");
    }
    assert!(noted("delete streams -l customer=acme --yes").contains("3 streams deleted"));
    assert_eq!(named("name_like=tv"), "tv/001\ntv/003\ntv/005\n");
    let events = server.get("/events?operation_id=streams_batch_update_by_filter");
    let events = events.expect(200).json()["events"].clone();
    assert_eq!(events.as_array().map(Vec::len), Some(7));
}

#[test]
fn shells_complete_names_from_the_server() {
    let server = TestServer::new();
    streams(&server, 3);
    let body = json!({"role": "streamer", "cluster_key": "k"});
    server.put("/streamers/edge-1", body).expect(200);
    let shell = OperatorShell::new(&server);
    let script = shell.prints("completions bash", 0);
    assert!(script.contains("WEIR_COMPLETE"), "{script}");
    let url = format!("http://{}", server.address());
    // The last word is completed.
    let complete = |url: &str, line: &str| -> Vec<String> {
        let last = line.split(' ').count() - 1;
        let output = shell.run_with(
            &format!("-- {line}"),
            &[
                ("WEIR_COMPLETE", "bash"),
                ("_CLAP_COMPLETE_INDEX", &last.to_string()),
                ("CENTRAL_API_URL", url),
                ("CENTRAL_API_KEY", &shell.key),
            ],
        );
        assert!(output.status.success(), "{line}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    };
    // On a loaded machine the server may be too late: then nothing is completed.
    let until = |line: &str, wanted: &[&str]| {
        let look = || complete(&url, line);
        wait_until(line, look, |seen| seen == wanted);
    };
    until("weir disable tv/", &["tv/000", "tv/001", "tv/002"]);
    until("weir move tv/001", &["tv/001"]);
    until("weir describe streamer edge", &["edge-1"]);
    until("weir set stream tv/002", &["tv/002"]);
    until("weir cordon edge", &["edge-1"]);
    until("weir move tv/001 --to edge", &["edge-1"]);
    // Subcommands need no server.
    assert_eq!(complete("http://127.0.0.1:1", "weir uncor"), ["uncordon"]);
    // Without a server, and with a wrong key, there are no names, and no words either.
    assert_eq!(complete("http://127.0.0.1:1", "weir disable tv/"), [""; 0]);
}

#[test]
fn restricted_token_sees_and_changes_its_part() {
    let server = TestServer::new();
    streams(&server, 2);
    server.put("/streams/other", json!({})).expect(200);
    let mut shell = OperatorShell::new(&server);
    let created = shell.prints(
        "token create anna --may read,write --scope streams/tv%2F* --scope agents/*",
        0,
    );
    let text = shell.fails("token create anna --may read --scope *", 5);
    assert!(text.contains("anna"), "{text}");
    shell.key = created.trim().to_owned();
    assert_eq!(shell.prints("get streams -o name", 0), "tv/000\ntv/001\n");
    assert!(shell.prints("whoami", 0).contains("anna"));
    shell.prints("set stream tv/000 title=Mine", 0);
    let text = shell.fails("set stream other title=x", 1);
    assert!(!text.contains("gone"), "{text}");
    assert_eq!(title(&server, "tv/000"), "Mine");
    shell.key = "wrong".to_owned();
    assert!(shell.fails("get streams", 1).contains("refuses the key"));
}

#[test]
fn layouter_is_paused_and_resumed_from_the_command_line() {
    let server = with_layouter(&[]);
    let shell = OperatorShell::new(&server);
    let paused = || server.get("/layouter").expect(200).json()["paused"].take();
    shell.prints("layouter pause --for 30m --what all --reason switch", 0);
    let pause = paused();
    let length = pause["until"].as_u64().zip(pause["since"].as_u64());
    assert_eq!(length.map(|(until, since)| until - since), Some(1_800_000));
    assert_eq!(
        (&pause["what"], &pause["reason"]),
        (&json!("all"), &json!("switch"))
    );
    let text = shell.prints("layouter status", 0);
    assert!(text.contains("on, paused (everything) until 20"), "{text}");
    assert!(text.contains(", by api_key: switch"), "{text}");
    shell.prints("layouter pause", 0);
    let pause = paused();
    assert_eq!(
        (&pause["what"], &pause["until"]),
        (&json!("improving"), &Value::Null)
    );
    let text = shell.prints("layouter status", 0);
    assert!(
        text.contains("paused (improving moves) until it is ended"),
        "{text}"
    );
    shell.prints("layouter drop", 0);
    shell.prints("layouter resume", 0);
    assert_eq!(paused(), Value::Null);
    shell.prints("layouter pause --for soon", 2);
    shell.prints("layouter pause --for 31d", 1);
    assert_eq!(paused(), Value::Null);
}

#[test]
fn status_names_what_is_wrong_and_exits_with_3() {
    let server = with_layouter(&["--streamer-dead-timeout", "4s"]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let shell = OperatorShell::new(&server);
    let text = shell.prints("status", 0);
    assert!(text.contains("0 without a streamer"), "{text}");
    assert_eq!(shell.json("status -o json")["ok"], true);
    shell.prints("capacity", 0);
    let text = shell.prints("layouter status", 0);
    assert!(text.contains("4 decided: not_distributed 4"), "{text}");
    assert_eq!(shell.json("layouter status -o json")["enabled"], true);
    let lost = shell.prints("what-if lose s1", 0);
    assert!(lost.contains("2 streams would move"), "{lost}");
    assert!(lost.contains("s2 (ingest): 2 -> 4"), "{lost}");
    shell.prints("what-if lose s1 s2", 3);
    shell.prints("what-if add 3 --like c00", 0);
    shell.prints("what-if change s2 channel_limit=1", 0);
    let why = shell.prints("explain c00", 0);
    assert!(why.contains("2 of 2 nodes can take it"), "{why}");
    assert!(!why.contains("why not now"), "both have 2 streams: {why}");
    shell.prints("cordon s1 --reason disks", 0);
    let text = shell.prints("status", 0);
    assert!(text.contains("cordoned: s1"), "{text}");
    let on_s1 = shell.prints("get streams layout.ingest=s1 -o name", 0);
    let on_s1 = on_s1.lines().next().expect("a stream");
    // A move that the layouter would undo needs --force.
    let on_s2 = shell.prints("get streams layout.ingest=s2 -o name", 0);
    let on_s2 = on_s2.lines().next().expect("a stream");
    let text = shell.fails(&format!("move {on_s2} --to s1"), 5);
    assert!(text.contains("node_cordoned"), "{text}");
    let text = shell.prints(&format!("move {on_s2} --to s1 --dry-run"), 0);
    assert!(text.contains("node_cordoned (would stay)"), "{text}");
    shell.prints(&format!("move {on_s2} --to s2 --dry-run"), 0);
    shell.prints(&format!("move {on_s2} --to s1 --force"), 0);
    fleet.until(|fleet| fleet.has("s1") == 3);
    shell.prints("uncordon s1", 0);
    shell.prints(&format!("move {on_s1} --to s2"), 0);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let history = shell.prints(&format!("history {on_s1}"), 0);
    assert!(history.contains("on s2"), "{history}");
    let text = shell.prints("describe streamer s2", 0);
    assert!(text.contains("streams      2"), "{text}");
    shell.prints("top --once", 0);
    shell.fails("cordon nothing", 1);
    server
        .put("/streams/off", json!({"disabled": true}))
        .expect(200);
    let text = shell.prints("move off --to s1 --dry-run", 3);
    assert!(text.contains("stream_disabled (would be undone)"), "{text}");
    let text = shell.fails("move off --to s1", 5);
    assert!(text.contains("stream_disabled"), "{text}");
}

#[test]
fn streamer_is_drained_from_the_command_line() {
    let server = with_layouter(&[]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    save_streams(&server, 0..4);
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
    let shell = OperatorShell::new(&server);
    let text = shell.prints("drain s1 --dry-run", 0);
    assert!(text.contains("2 streams would move"), "{text}");
    assert!(text.contains("s1 (ingest): 2 -> 0"), "{text}");
    let preview = shell.json("drain s1 --dry-run -o json");
    assert_eq!(preview["no_place"], 0);
    server
        .put("/streamers/s2", json!({"channel_limit": 3}))
        .expect(200);
    let text = shell.prints("drain s1 --dry-run", 3);
    assert!(text.contains("stays: c0"), "{text}");
    server
        .put("/streamers/s2", json!({"channel_limit": 9}))
        .expect(200);
    for (line, exit) in [
        ("drain", 2),
        ("drain s1 --deadline soon", 2),
        ("drain s1 --pace 60001", 2),
        ("drain s1 --dry-run --wait", 2),
        ("drain s9", 1),
    ] {
        shell.fails(line, exit);
    }
    // It waits for the streamer's own report, not only for the moves.
    thread::scope(|scope| {
        let waits = scope.spawn(|| shell.run("drain s1 --pace 0 --deadline 2h --reason x --wait"));
        fleet.until(|fleet| fleet.has("s1") == 0 && fleet.has("s2") == 4);
        let drained = || {
            server
                .put("/streamers/s1/stats", json!({"streams": []}))
                .expect(204);
            server.get("/streamers/s1").expect(200).json()["state"]["maintenance"].take()
        };
        wait_until("it is drained", drained, |it| it["drained_at"].is_u64());
        let output = waits.join().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("s1: drained"), "{words}");
    });
    let text = shell.prints("describe streamer s1", 0);
    assert!(text.contains("drain"), "{text}");
    let log = server.log();
    for line in ["draining streamer", "streamer drained", "layouter moved"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    // Another one ends it meanwhile: that is an error.
    thread::scope(|scope| {
        let waits = scope.spawn(|| shell.run("drain s2 --pace 1 --wait"));
        let state = || server.get("/streamers/s2").expect(200).json()["state"].take();
        wait_until("it begins", state, |it| {
            it["maintenance"]["mode"] == "drain"
        });
        shell.prints("uncordon s2 s1", 0);
        let output = waits.join().expect("it ends");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    });
    fleet.until(|fleet| fleet.has("s1") == 2 && fleet.has("s2") == 2);
}

#[test]
fn status_ends_with_3_while_a_streamer_is_lost() {
    // Goal: a supervisor learns of a lost streamer from the exit code, in maintenance, too.
    let server = with_layouter(&["--streamer-dead-timeout", "4s"]);
    let mut fleet = fleet_of(&server, &["s1", "s2"]);
    let report = json!({"stats": {"cpu_usage": 85}});
    server.put("/streamers/s2/stats", report).expect(204);
    let shell = OperatorShell::new(&server);
    let text = shell.prints("status", 0);
    assert!(text.contains("1 degradated"), "{text}");
    shell.prints("cordon s1", 0);
    fleet.stop("s1");
    let run = || shell.run("status");
    let lost = wait_until("s1 is lost", run, |output| output.status.code() == Some(3));
    let text = String::from_utf8(lost.stdout).expect("text");
    assert!(text.contains("; down: s1"), "{text}");
    assert!(
        server.log().contains("streamer is down"),
        "a supervisor of logs learns of it"
    );
}

#[test]
fn status_shows_a_token_what_it_may_see() {
    // Goal: a token for one folder gets its own counts, and words for the rest.
    let server = TestServer::new();
    streams(&server, 12);
    server.put("/streams/other", json!({})).expect(200);
    server
        .put("/streams/tv%2F000", json!({"disabled": true}))
        .expect(200);
    let mut shell = OperatorShell::new(&server);
    let permission = |scope: &str| json!({"scopes": [scope], "list": true});
    let token = |scopes: &[&str]| {
        let permissions: Vec<Value> = scopes.iter().map(|scope| permission(scope)).collect();
        let saved = server.put("/api_tokens/t", json!({"permissions": permissions}));
        saved.expect(200).json()["key"]
            .as_str()
            .expect("a key")
            .to_owned()
    };
    shell.key = token(&["streams/tv%2F*"]);
    let text = shell.prints("status", 3);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "streams    12  0 operational, 11 outage, 1 disabled, 11 without a streamer",
            "streamers  not permitted",
            "traffic    not permitted",
            "room       not permitted",
            "layouter   not permitted",
            "attention  not permitted",
        ]
    );
    server.delete("/api_tokens/t").expect(204);
    shell.key = token(&["streamers/*"]);
    let text = shell.prints("status", 0);
    assert!(text.contains("streams    not permitted"), "{text}");
    assert!(text.contains("streamers  0  0 operational"), "{text}");
}

#[test]
fn events_are_lines_and_can_be_followed() {
    let server = TestServer::new();
    streams(&server, 2);
    server.put("/streams/a", json!({"title": "x"})).expect(200);
    let shell = OperatorShell::new(&server);
    let text = shell.prints("events --kind api_call", 0);
    let first = text.lines().next().expect("an event");
    assert!(first.contains("api_key: stream_save a /title"), "{first}");
    assert!(text.contains("streams_batch_update 2 streams"), "{text}");
    let text = shell.prints("events --stream tv/001 -o jsonl", 0);
    assert_eq!(text.lines().count(), 1, "{text}");
    let text = shell.fails("events --kind nothing", 1);
    assert!(text.contains("must be one of: server_starting"), "{text}");
}

#[test]
fn export_is_applied_to_another_server_once() {
    let (first, second) = (TestServer::new(), TestServer::new());
    streams(&first, 130);
    first
        .put(
            "/streams/secret",
            json!({"inputs": [{"url": "rtsp://u:CANARY@127.0.0.1/a"}]}),
        )
        .expect(200);
    let body = json!({"role": "streamer", "cluster_key": "CANARY", "labels": {"a": "b"}});
    first.put("/streamers/s1", body).expect(200);
    first
        .put("/auth_backends/b", json!({"allow_default": true}))
        .expect(200);
    let from = OperatorShell::new(&first);
    let exported = from.prints("export", 0);
    assert!(
        !exported.contains("CANARY") && !exported.contains("updated_at"),
        "{exported}"
    );
    assert_eq!(exported, from.prints("export", 0));
    assert_eq!(exported.lines().count(), 133);
    from.write("all.jsonl", &exported);
    from.prints("diff -f all.jsonl", 0);

    let to = OperatorShell::new(&second);
    to.write("all.jsonl", &exported);
    let text = to.fails("apply -f all.jsonl", 2);
    assert!(text.contains("a secret of it is masked"), "{text}");
    let with_secrets = exported.replace("***", "CANARY");
    to.write("all.jsonl", &with_secrets);
    assert!(
        to.prints("diff -f all.jsonl", 4)
            .contains("+ stream tv/129")
    );
    to.prints("apply -f all.jsonl --dry-run", 0);
    assert_eq!(to.prints("get streams -o name", 0), "");
    to.prints("apply -f all.jsonl", 0);
    assert_eq!(to.prints("export", 0), exported);
    assert_eq!(
        second.get("/streamers/s1").expect(200).json()["cluster_key"],
        "CANARY"
    );
    let events = || second.get("/events?limit=1").expect(200).json()["estimated_count"].clone();
    let before = events();
    let text = to.fails("apply -f all.jsonl", 0);
    assert!(
        text.contains("0 to create, 0 to change, 133 equal"),
        "{text}"
    );
    assert_eq!(events(), before, "a second time changes nothing");
    // The masked file is equal too.
    to.write("masked.jsonl", &exported);
    to.prints("diff -f masked.jsonl", 0);
}

#[test]
fn apply_deletes_with_prune_only_and_within_its_scope() {
    let server = TestServer::new();
    streams(&server, 24);
    let shell = OperatorShell::new(&server);
    shell.write(
        "some.toml",
        "[stream.\"tv/000\"]\ntitle = \"One\"\nlabels = { customer = \"acme\" }\n\
         [stream.\"tv/001\"]\nlabels = { customer = \"beta\" }\n",
    );
    let text = shell.prints("diff -f some.toml --scope customer=acme", 4);
    assert!(text.contains("~ stream tv/000") && text.contains("title: \"Channel 0\" -> \"One\""));
    assert!(text.contains("title: \"Channel 1\" -> -"), "{text}");
    let text = shell.fails("apply -f some.toml --prune --scope customer=acme", 2);
    assert!(text.contains("11 objects would be deleted"), "{text}");
    assert_eq!(title(&server, "tv/000"), "Channel 0", "nothing was changed");
    shell.prints(
        "apply -f some.toml --prune --scope customer=acme --max-deletes 11",
        0,
    );
    let left = shell.prints("get streams -o name", 0);
    assert_eq!(left.lines().count(), 13, "{left}");
    assert_eq!(title(&server, "tv/000"), "One");
    assert_eq!(title(&server, "tv/001"), Value::Null);
    shell.prints("apply -f some.toml", 0);
    assert_eq!(
        shell.prints("get streams -o name", 0),
        left,
        "nothing is deleted"
    );
    // Of some kinds the server shows the defaults that a file leaves out.
    shell.write(
        "kinds.toml",
        "[streamer.s1]\nrole = \"streamer\"\ncluster_key = \"k\"\n\
         [auth-backend.b]\nallow_ips = [\"10.0.0.0/8\"]\n\
         [balancer.l]\nservers = [{name = \"s1\"}]\n\
         [stream.d]\nstatic = true\n",
    );
    shell.prints("apply -f kinds.toml", 0);
    shell.prints("diff -f kinds.toml", 0);
    shell.write("kinds.toml", "[balancer.l]\nmode = \"usage\"\n");
    let text = shell.prints("diff -f kinds.toml", 4);
    assert!(text.contains("mode: \"bitrate\" -> \"usage\""), "{text}");
    shell.prints("apply -f kinds.toml", 0);
    shell.write("kinds.toml", "[balancer.l]\n");
    shell.prints("apply -f kinds.toml", 0);
    shell.prints("diff -f kinds.toml", 0);
    for (text, what) in [
        (
            "{\"stream\": {\"name\": \"a\"}}\n{\"stream\": {\"name\": \"a\"}}",
            "x.jsonl:1 too",
        ),
        ("{\"stream\": {}}", "`name` is missing"),
        ("{\"cat\": {\"name\": \"a\"}}", "must be one of"),
        ("{\"stream\": 1}", "an object is expected"),
        ("[]", "x.jsonl:1"),
    ] {
        shell.write("x.jsonl", text);
        let refusal = shell.fails("apply -f x.jsonl", 2);
        assert!(refusal.contains(what), "{text}: {refusal}");
    }
    shell.write("x.jsonl", "{\"stream\": {\"name\": \"n\", \"titel\": 1}}");
    let refusal = shell.fails("apply -f x.jsonl", 1);
    assert!(refusal.contains("titel"), "{refusal}");
    server.get("/streams/n").expect(404);
}

#[test]
fn apply_survives_a_full_disk_and_is_finished_after_a_kill() {
    let mut server = TestServer::new();
    let line = |at: usize| json!({"stream": {"name": format!("s{at:04}"), "title": "t"}});
    let text: Vec<String> = (0..1500).map(|at| line(at).to_string()).collect();
    for is_killed in [true, false] {
        streams(&server, 1);
        let shell = OperatorShell::new(&server);
        shell.write("all.jsonl", &text.join("\n"));
        let failures = || {
            let answer = server.get("/cluster/stats?format=openmetrics").expect(200);
            Metrics::read(&answer).value("weir_writer_failures_total", &[]) as u64
        };
        limit_files(server.id(), Some(0));
        let pid = server.id();
        let output = thread::scope(|scope| {
            let apply = scope.spawn(|| shell.run("apply -f all.jsonl"));
            wait_until("a refused batch", failures, |count| *count > 0);
            if is_killed {
                sys::signal(pid, Signal::KILL).expect("it runs");
            } else {
                limit_files(pid, None);
            }
            apply.join().expect("it ends")
        });
        let code = output.status.code();
        assert_eq!(code, Some(i32::from(is_killed)), "{output:?}");
        drop(shell);
        if is_killed {
            server.wait();
            server.start();
            assert_eq!(server.get("/streams/s0000").status, 404, "it was refused");
        }
    }
    let shell = OperatorShell::new(&server);
    shell.write("all.jsonl", &text.join("\n"));
    assert_eq!(
        shell.prints("get streams -o name --all", 0).lines().count(),
        1501
    );
    let text = shell.fails("apply -f all.jsonl", 0);
    assert!(
        text.contains("0 to create, 0 to change, 1500 equal"),
        "{text}"
    );
}

#[test]
fn edit_saves_what_was_read_or_nothing() {
    let server = TestServer::new();
    server
        .put(
            "/streams/a",
            json!({"title": "before", "position": 9_007_199_254_740_993_u64}),
        )
        .expect(200);
    let shell = OperatorShell::new(&server);
    let url = format!("http://{}", server.address());
    let edit = |editor: &str, line: &str| {
        let environment = [
            ("CENTRAL_API_URL", url.as_str()),
            ("CENTRAL_API_KEY", API_KEY),
            ("EDITOR", editor),
            ("TMPDIR", shell.home.path().to_str().expect("text")),
        ];
        shell.run_with(line, &environment)
    };
    let output = edit("sed -i s/before/after/", "edit stream a --yes");
    assert!(output.status.success(), "{output:?}");
    let stream = server.get("/streams/a").expect(200).json();
    assert_eq!(stream["title"], "after");
    assert_eq!(stream["position"].as_u64(), Some(9_007_199_254_740_993));
    assert!(edit("true", "edit stream a --yes").status.success());
    assert!(
        edit("true", "edit stream a").status.success(),
        "nothing to confirm"
    );
    // No terminal to confirm on.
    let output = edit("sed -i s/after/never/", "edit stream a");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(title(&server, "a"), "after");
    // Another operator saves while the editor is open.
    let other = format!(
        "#!/bin/sh\nsed -i s/after/mine/ \"$1\"\n{} set stream a title=theirs\n",
        weir_testkit::program("weir").display()
    );
    shell.write("editor", &other);
    let output = edit("sh ./editor", "edit stream a --yes");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(title(&server, "a"), "theirs");
    let error = String::from_utf8_lossy(&output.stderr);
    let kept = error
        .lines()
        .find_map(|line| line.strip_prefix("the edited text is kept in "));
    let kept = fs::read_to_string(Path::new(kept.expect("the text is kept"))).expect("a file");
    assert!(kept.contains("mine"), "{kept}");
}

#[test]
fn contexts_keep_servers_and_send_a_key_to_its_server_only() {
    let (first, second) = (TestServer::new(), TestServer::new());
    first.put("/streams/first", json!({})).expect(200);
    second.put("/streams/second", json!({})).expect(200);
    let shell = OperatorShell::new(&first);
    for (name, server) in [("one", &first), ("two", &second)] {
        let line = format!("login http://{} --name {name}", server.address());
        let output = shell.run_with(&line, &[("CENTRAL_API_KEY", API_KEY)]);
        assert!(output.status.success(), "{output:?}");
    }
    let bare = |line: &str| {
        let output = shell.run_with(line, &[]);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(
        bare("get streams -o name"),
        (Some(0), "second\n".to_owned())
    );
    assert_eq!(bare("context use one").0, Some(0));
    assert_eq!(bare("get streams -o name"), (Some(0), "first\n".to_owned()));
    assert_eq!(
        bare("get streams -o name --context two"),
        (Some(0), "second\n".to_owned())
    );
    assert!(bare("context list").1.contains("* one"));
    // The key of a context is not for another URL.
    let elsewhere = format!("get streams --url http://{}", second.address());
    assert_eq!(bare(&elsewhere).0, Some(2));
    assert_eq!(bare("get streams --context none").0, Some(2));
    assert_eq!(bare("logout").0, Some(0));
    assert!(!bare("context list").1.contains("one"));
    let file = shell.home.path().join(".config/weir/contexts.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(file).expect("the file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let wrong = format!("login http://{}", first.address());
    let output = shell.run_with(&wrong, &[("CENTRAL_API_KEY", "wrong-key-of-nobody")]);
    assert_eq!(output.status.code(), Some(1), "a wrong key is not kept");
}

#[test]
fn healthcheck_and_help_are_for_scripts() {
    let mut server = TestServer::new();
    let shell = OperatorShell::new(&server);
    shell.prints("healthcheck -q", 0);
    let help = shell.prints("-h", 0);
    assert!(
        help.lines().count() <= 60,
        "one screen: {}",
        help.lines().count()
    );
    assert!(
        shell
            .prints("serve --help", 0)
            .contains("--layouter-enabled")
    );
    assert!(shell.prints("print man", 0).contains(".TH weir 1"));
    assert!(shell.prints("print man apply", 0).contains("prune"));
    for line in [
        "print man nothing",
        "print man layouter nothing",
        "print unit --all x",
    ] {
        shell.fails(line, 2);
    }
    let page = shell.prints("print man layouter pause", 0);
    assert!(page.contains(".TH weir-layouter-pause 1"), "{page}");
    shell.prints("print man --all pages", 0);
    for page in [
        "weir",
        "weir-apply",
        "weir-what-if-lose",
        "weir-context-use",
    ] {
        let file = shell.home.path().join(format!("pages/{page}.1"));
        let text = fs::read_to_string(file).expect(page);
        assert!(text.contains(&format!(".TH {page} 1")), "{text}");
    }
    drop(shell);
    let address = server.address();
    server.kill();
    let url = format!("http://{address}");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let down = run(
        &["healthcheck", "--url", &url],
        &[("CENTRAL_API_KEY", API_KEY)],
        scratch.path(),
    );
    assert_eq!(down.status.code(), Some(3), "{down:?}");
}
