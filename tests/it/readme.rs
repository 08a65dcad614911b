//! README is correct: its commands exist, and its example of the API does what it shows when
//! it is pasted.

use std::fs;
use std::path::Path;
use std::thread;

use weir_testkit::{TestServer, run};

const README: &str = include_str!("../../README.md");

/// One `api ...` line of the example.
struct Line {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    /// Ends in `&`: the next lines go on while it waits.
    waits: bool,
}

/// The words of a shell line: blanks separate, quotes keep together, `#` ends it.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for char in line.chars() {
        match (quote, char) {
            (Some(open), char) if char == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (_, char) => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}

fn read(line: &str, etag: &str) -> Option<Line> {
    let mut words = words(line.strip_prefix("api ")?).into_iter();
    let mut read = Line {
        method: "GET".to_owned(),
        path: String::new(),
        headers: Vec::new(),
        body: String::new(),
        waits: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("an option of curl has a value");
        match word.as_str() {
            "-X" => read.method = value(),
            "-d" => read.body = value(),
            "-H" => {
                let header = value().replace("$ETAG", etag);
                let (name, value) = header.split_once(": ").expect("a header");
                read.headers.push((name.to_owned(), value.to_owned()));
            }
            "-D" | ">" => drop(value()),
            "&" => read.waits = true,
            url => read.path = url.strip_prefix("$URL").expect("a URL").to_owned(),
        }
    }
    Some(read)
}

#[test]
fn readme_example_works() {
    let server = TestServer::with(&["--layouter-enabled"]);
    let block = README
        .split("```sh\n")
        .find(|block| block.starts_with("KEY="))
        .and_then(|block| block.split("```").next())
        .expect("README has an example");
    let mut etag = String::new();
    let mut lines = 0;
    thread::scope(|scope| {
        let mut waiting = Vec::new();
        for text in block.lines() {
            if text == "wait" || text.starts_with("wait ") {
                for poll in waiting.drain(..) {
                    let answer: weir_testkit::Response =
                        thread::ScopedJoinHandle::join(poll).expect("answered");
                    assert_eq!(answer.status, 200, "the poll has news");
                    assert!(answer.text().contains("Sports HD 1"), "{}", answer.text());
                }
            }
            let Some(line) = read(text, &etag) else {
                continue;
            };
            lines += 1;
            let waits = line.waits;
            let server = &server;
            let send = move || {
                let headers: Vec<(&str, &str)> = line
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                server.call_with(&line.method, &line.path, &headers, line.body.as_bytes())
            };
            if waits {
                waiting.push(scope.spawn(send));
                continue;
            }
            let answer = send();
            assert!(
                answer.status < 300,
                "{text}: {} {}",
                answer.status,
                answer.text()
            );
            if let Some(found) = answer.header("etag") {
                etag = found.to_owned();
            }
        }
    });
    assert!(lines >= 10, "only {lines} lines of the example were found");
}

#[test]
fn every_command_in_readme_exists() {
    let verbs = [
        "print config",
        "check-config",
        "print unit",
        "backup",
        "restore",
        "check",
        "print openapi",
        "import",
        "bridge check",
        "join mediamtx",
        "print bridge-unit",
        "print bridge-compose",
        "print man",
        "print grafana",
        "print alerts",
        "status",
        "get",
        "describe",
        "set",
        "disable",
        "edit",
        "move",
        "cordon",
        "what-if",
        "events",
        "export",
        "diff",
        "apply",
        "top",
        "capacity",
        "label",
        "enable",
        "delete",
        "explain",
        "history",
        "whoami",
        "healthcheck",
        "context",
        "login",
        "logout",
    ];
    for verb in verbs {
        assert!(
            README.contains(&format!("weir {verb}")),
            "README does not name weir {verb}"
        );
        let directory = tempfile::tempdir().expect("a directory");
        let first = verb.split(' ').next().unwrap_or_default();
        let help = run(&[first, "--help"], &[], directory.path());
        assert!(help.status.success(), "weir {first} --help");
    }
    for command in [
        "cargo run --release",
        "cargo run --release -- demo",
        "cargo test --workspace",
    ] {
        assert!(README.contains(command), "README lacks {command}");
    }
}

#[test]
fn readme_table_lists_every_operation() {
    let server = TestServer::new();
    let document = server.get("/openapi.json").expect(200).json();
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() > 40);
    for path in paths.keys() {
        // The names of the reference are too long for a table.
        let shown = path
            .replace("{loadbalancer_name}", "{balancer}")
            .replace("{escaped_stream_name}", "{stream}")
            .replace("{multi_segment_suffix}", "{suffix}");
        assert!(README.contains(&format!("{shown}`")), "{shown}");
    }
}

#[test]
fn folders_in_readme_exist() {
    let block = README
        .split("```text\n")
        .find(|block| block.starts_with("src/"))
        .and_then(|block| block.split("```").next())
        .expect("README has the layout of the repository");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut parent = root.to_owned();
    let mut folders = 0;
    for line in block.lines() {
        let names = line
            .split_whitespace()
            .take_while(|word| word.ends_with('/'));
        let is_below = line.starts_with(' ');
        for name in names {
            let folder = if is_below { &parent } else { root }.join(name);
            assert!(folder.is_dir(), "{} does not exist", folder.display());
            if !is_below {
                parent = folder;
            }
            folders += 1;
        }
    }
    assert!(folders >= 20, "only {folders} folders were found");
}

#[test]
fn pictures_in_readme_exist_and_are_small() {
    let names = README
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let pictures: Vec<&str> = names.filter(|name| name.contains("/pictures/")).collect();
    assert_eq!(pictures.len(), 2, "{pictures:?}");
    for name in pictures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let bytes = fs::metadata(&path).expect(name).len();
        assert!(bytes <= 300_000, "{name}: {bytes} bytes");
    }
}
