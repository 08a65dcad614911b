//! What the subcommands of operators have in common, and what several objects of a cluster do to
//! their output: servers by name, pages of long lists, previews of several streamers.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fleet::{Fleet, fleet_of, save_streamer, save_streams, server as with_layouter};
use crate::operator::OperatorShell;
use weir_testkit::{API_KEY, TestServer, program, sys, wait_until};

/// A table with one stream.
const TABLE: &str = "name,title,url\nt/1,One,udp://239.0.0.1:5000\n";

fn names(server: &TestServer) -> Vec<String> {
    let list = server.get("/streams?select=name").expect(200).json();
    let rows = list["streams"].as_array().expect("a list");
    let name = |row: &Value| row["name"].as_str().expect("a name").to_owned();
    rows.iter().map(name).collect()
}

#[test]
fn import_and_backup_use_the_server_of_the_context() {
    let (first, second) = (TestServer::new(), TestServer::new());
    first.put("/streams/first", json!({})).expect(200);
    let shell = OperatorShell::new(&first);
    for (name, server) in [("one", &first), ("two", &second)] {
        let line = format!("login http://{} --name {name}", server.address());
        let output = shell.run_with(&line, &[("CENTRAL_API_KEY", API_KEY)]);
        assert!(output.status.success(), "{output:?}");
    }
    shell.write("table.csv", TABLE);
    let bare = |line: &str, exit: i32| {
        let output = shell.run_with(line, &[]);
        assert_eq!(output.status.code(), Some(exit), "{line}: {output:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    // The last login is the chosen one.
    bare("import table.csv", 0);
    assert_eq!(names(&second), ["t/1"]);
    assert_eq!(names(&first), ["first"]);
    let from = |server: &TestServer| format!("bytes from http://{}", server.address());
    let text = bare("backup of-two", 0);
    assert!(text.contains(&from(&second)), "{text}");
    assert_eq!(bare("backup of-one --context one -q", 0), "");
    assert!(bare("check of-one", 0).contains("checksums are right"));
    bare("import table.csv --context one", 0);
    assert_eq!(names(&first), ["first", "t/1"]);
    // A data directory that is named comes before the chosen context.
    let data = first.data_dir();
    let text = bare(&format!("backup of-data --data-dir {}", data.display()), 75);
    assert!(text.contains("is in use"), "{text}");
    let nowhere = format!(
        "import table.csv --data-dir {}",
        shell.home.path().display()
    );
    assert!(bare(&nowhere, 2).contains("no API key"));
    // A variable comes before the context, too, and its key is not that of the context.
    let url = format!("http://{}", first.address());
    let environment = [("CENTRAL_API_URL", &*url), ("CENTRAL_API_KEY", API_KEY)];
    let output = shell.run_with("backup of-variable", &environment);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&from(&first)), "{output:?}");
    for line in ["import table.csv --context none", "backup x --context none"] {
        assert!(bare(line, 2).contains("no context"), "{line}");
    }
    assert!(!shell.home.path().join("x").exists());
}

#[test]
fn events_since_a_time_are_all_printed() {
    let server = TestServer::new();
    let shell = OperatorShell::new(&server);
    for at in 0..60 {
        server
            .put(&format!("/streams/s{at}"), json!({}))
            .expect(200);
    }
    let since = shell.run("events --kind api_call --since 1h -o name");
    let ids = String::from_utf8(since.stdout).expect("text");
    assert_eq!(ids.lines().count(), 60, "{ids}");
    assert_eq!(since.stderr, b"", "nothing is left");
    let newest = shell.run("events --kind api_call -o name");
    assert_eq!(String::from_utf8_lossy(&newest.stdout).lines().count(), 50);
    let rest = String::from_utf8_lossy(&newest.stderr).into_owned();
    assert!(
        rest.contains("50 of 60 events; --limit and --since print more"),
        "{rest}"
    );
    assert_eq!(shell.fails("events --kind api_call -q", 0), "");
    let all = shell.json("events --kind api_call --since 1h -o json");
    assert_eq!(all.as_array().map(Vec::len), Some(60));
    assert_eq!(all[0]["entity_id"], "s59", "newest first");
    let some = shell.prints("events --kind api_call --since 1h --limit 55 -o jsonl", 0);
    assert_eq!(some.lines().count(), 55);
    assert_eq!(shell.json("events --stream none -o json"), json!([]));
    shell.fails("events --limit 0", 2);
}

#[test]
fn a_line_may_have_its_kind_as_a_member() {
    let server = TestServer::new();
    let shell = OperatorShell::new(&server);
    shell.write(
        "x.jsonl",
        "{\"kind\":\"stream\",\"name\":\"a\",\"title\":\"A\"}\n\
         {\"stream\":{\"name\":\"b\"}}\n\
         {\"name\":\"b\",\"kind\":\"auth-backend\",\"allow_default\":true}\n",
    );
    shell.prints("apply -f x.jsonl --strict", 0);
    assert_eq!(names(&server), ["a", "b"]);
    assert!(shell.fails("diff -f x.jsonl", 0).contains("3 equal"));
    let exported = shell.prints("export", 0);
    shell.write("x.jsonl", &exported);
    assert!(shell.fails("diff -f x.jsonl", 0).contains("3 equal"));
    for (line, what) in [
        ("{\"kind\":\"cat\",\"name\":\"a\"}", "must be one of"),
        ("{\"kind\":\"stream\"}", "`name` is missing"),
        ("{\"name\":\"a\",\"title\":\"x\"}", "\"kind\" is expected"),
        (
            "{\"kind\":\"streamer\",\"hostname\":\"s\"}",
            "write {\"streamer\": {...}}",
        ),
        ("{\"kind\":1,\"name\":\"a\"}", "\"kind\" is expected"),
    ] {
        shell.write("x.jsonl", line);
        let refusal = shell.fails("apply -f x.jsonl --prune --max-deletes 99", 2);
        assert!(refusal.contains(what), "{line}: {refusal}");
    }
    assert_eq!(names(&server), ["a", "b"]);
}

#[test]
fn tables_show_states_health_and_places() {
    let server = with_layouter(&[]);
    let _fleet = fleet_of(&server, &["s1"]);
    server
        .put("/streamers/s1", json!({"channel_limit": 600}))
        .expect(200);
    let report = json!({"stats": {"cpu_usage": 50, "output_kbit": 3_000_000,
                        "server_version": "26.9.1"}});
    server.put("/streamers/s1/stats", report).expect(204);
    save_streams(&server, 0..2);
    let shell = OperatorShell::new(&server);
    let table = |line: &str| {
        let text = shell.prints(line, 0);
        let lines: Vec<Vec<String>> = text
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        lines
    };
    let header = [
        "STREAMER", "STATE", "HEALTH", "STREAMS", "OUTAGE", "CPU", "OUT", "VERSION",
    ];
    for line in ["get streamers", "top --once"] {
        let seen = wait_until(line, || table(line), |seen| seen[1][3] == "2/600");
        assert_eq!(seen[0], header, "{line}");
        assert_eq!(
            seen[1],
            [
                "s1",
                "up",
                "operational",
                "2/600",
                "2",
                "50%",
                "3Gbit/s",
                "26.9.1"
            ]
        );
    }
    let streams = table("get streams");
    assert_eq!(
        streams[0],
        [
            "STREAM", "TITLE", "STREAMER", "HEALTH", "PLACED", "IN", "CLIENTS", "LABELS"
        ]
    );
    assert_eq!(streams[1], ["c00", "s1", "outage", "true"]);
    server
        .put("/streamers/s1", json!({"channel_limit": 1}))
        .expect(200);
    let unplaced = || table("get streams placed=false --columns name");
    wait_until("one has no place", unplaced, |seen| seen.len() == 2);
    // The summary is counted every 2 s.
    let run = || shell.run("status");
    let status = wait_until("status shows it", run, |it| it.status.code() == Some(3));
    let text = String::from_utf8(status.stdout).expect("text");
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        names,
        [
            "streams",
            "streamers",
            "traffic",
            "room",
            "layouter",
            "attention"
        ]
    );
    assert!(text.contains("layouter   on; "), "{text}");
    assert!(text.contains("unplaced"), "{text}");
}

#[test]
fn several_streamers_are_previewed_as_one_drain() {
    let server = with_layouter(&[]);
    let hosts = ["s1", "s2", "s3"];
    for host in hosts {
        save_streamer(&server, host, json!({}));
    }
    let mut fleet = Fleet::new();
    fleet.join(&server, &hosts);
    save_streams(&server, 0..6);
    fleet.until(|fleet| fleet.lists.values().all(|list| list.len() == 2));
    let shell = OperatorShell::new(&server);
    let text = shell.prints("drain s1 s2 --dry-run", 0);
    assert!(text.contains("4 streams would move"), "{text}");
    assert!(text.contains("s3 (ingest): 2 -> 6"), "{text}");
    let moves = |text: &str| text.lines().filter(|line| line.ends_with(" -> s3")).count();
    assert_eq!(moves(&text), 4, "none to the other that is drained: {text}");
    let preview = shell.json("drain s1 s2 --dry-run -o json");
    let sample = preview["moves_sample"].as_array().expect("moves");
    assert!(
        sample
            .iter()
            .all(|it| it["to"] == "s3" && it["from"] != "s3"),
        "{preview}"
    );
    server
        .put("/streamers/s3", json!({"channel_limit": 3}))
        .expect(200);
    let text = shell.prints("drain s1 s2 --dry-run", 3);
    assert!(text.contains("3 streams would stay there"), "{text}");
    shell.prints("drain s1 s2 s3 --dry-run", 3);
    let text = shell.fails("drain s1 s9 --dry-run", 1);
    assert!(text.contains("streamer_not_found"), "{text}");
    let maintenance = |host: &str| {
        let streamer = server.get(&format!("/streamers/{host}")).expect(200).json();
        streamer["state"]["maintenance"].clone()
    };
    assert!(maintenance("s1").is_null() && maintenance("s2").is_null());
}

#[test]
fn diff_counts_the_moves_of_what_is_created() {
    let server = with_layouter(&[]);
    let mut fleet = fleet_of(&server, &["s1"]);
    server
        .put("/streamers/s1", json!({"channel_limit": 2}))
        .expect(200);
    save_streams(&server, 0..2);
    fleet.until(|fleet| fleet.has("s1") == 2);
    let shell = OperatorShell::new(&server);
    shell.write("new.toml", "[stream.new]\nstatic = true\n");
    let text = shell.fails("diff -f new.toml", 4);
    assert!(text.contains("1 stream would have no place"), "{text}");
    shell.write(
        "limit.toml",
        "[streamer.s1]\nrole = \"streamer\"\ncluster_key = \"key\"\nchannel_limit = 1\n",
    );
    let text = shell.fails("diff -f limit.toml", 4);
    assert!(text.contains("would move because of streamers"), "{text}");
    let many: String = (0..10_001).map(|at| format!("[stream.n{at}]\n")).collect();
    shell.write("many.toml", &many);
    let text = shell.fails("diff -f many.toml -q", 4);
    assert_eq!(text, "");
    let text = shell.fails("diff -f many.toml", 4);
    assert!(
        text.contains("moves are not counted: more than 10,000 streams differ"),
        "{text}"
    );
    // A key that may save and not preview saves.
    let line = "token create saver --may read,write --scope streams/* --scope streamers/*";
    let mut saver = OperatorShell::new(&server);
    saver.key = shell.prints(line, 0).trim().to_owned();
    saver.write("new.toml", "[stream.new]\nstatic = true\n");
    let text = saver.fails("diff -f new.toml", 4);
    assert!(!text.contains("place"), "{text}");
    saver.prints("apply -f new.toml", 0);
    assert_eq!(names(&server), ["c00", "c01", "new"]);
    assert!(saver.prints("get streamers", 0).contains("2/2"));
}

/// What a subcommand shows on a terminal at its stderr.
fn shown_by(shell: &OperatorShell<'_>, line: &str) -> String {
    let (mut terminal, end) = sys::terminal().expect("a terminal");
    let mut command = Command::new(program("weir"));
    command
        .env_clear()
        .env("TERM", "xterm")
        .env(
            "CENTRAL_API_URL",
            format!("http://{}", shell.server.address()),
        )
        .env("CENTRAL_API_KEY", API_KEY)
        .args(line.split(' '))
        .current_dir(shell.home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(end);
    let mut child = command.spawn().expect("the program can be started");
    // Then the program alone has the other end.
    drop(command);
    let mut shown = Vec::new();
    // With no program at its other end, a terminal ends with an error.
    let _ = terminal.read_to_end(&mut shown);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{line}: {status:?}");
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let server = TestServer::new();
    let items = (0..1200).map(|at| json!({"name": format!("m{at}")}));
    server.put("/streams/batch", items.collect()).expect(204);
    let shell = OperatorShell::new(&server);
    let exported = shell.prints("export streams", 0);
    shell.write("all.jsonl", &exported);
    let backup = format!("--url http://{}", server.address());
    for (line, progress) in [
        ("export streams".to_owned(), "streams"),
        ("diff -f all.jsonl".to_owned(), "streams"),
        (format!("backup saved {backup}"), "downloading the backup"),
        ("check saved".to_owned(), "checking"),
        ("restore saved --data-dir copy".to_owned(), "restoring"),
    ] {
        let shown = shown_by(&shell, &line);
        assert!(shown.contains(progress), "{line}: {shown:?}");
    }
    let quiet = shown_by(&shell, "diff -f all.jsonl -q");
    assert_eq!(quiet, "");
    for line in ["export streams", "diff -f all.jsonl -q", "check saved"] {
        assert_eq!(shell.fails(line, 0), "", "{line}");
    }
}
