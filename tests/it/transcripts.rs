//! The command line as an operator sees it: each file of `tests/transcripts` has commands and what
//! they print, and runs in its order against a server of its own.
//!
//! ```text
//! $ weir get streams -o name          a command; words in single quotes are one argument
//! $~ weir status                      is repeated until it prints this
//! $ CENTRAL_API_KEY=KEY weir login    variables before a command
//! $ file some.csv <<END               the lines until END become a file
//! @ placed                            every enabled stream has a place from here on
//! @ bare                              no variable names the server or the key from here on
//! tv/1                                stdout
//! ! 1 stream saved                    stderr
//! ? 2                                 the exit code, unless it is 0
//! ```
//!
//! `ADDRESS`, `KEY`, `DATA` and `HOME` stand for those of the test, `TIME`, `AGE`, `VERSION` and
//! `N` for what differs from run to run. `WEIR_GOLDEN=write cargo test --test it transcripts`
//! writes the files again.

use std::fs;
use std::path::PathBuf;

use regex_automata::meta::Regex;
use serde_json::json;
use tempfile::TempDir;

use crate::fleet::{fleet_of, server as with_layouter};
use crate::readme::words;
use weir_testkit::{API_KEY, TestServer, run, wait_until};

/// What differs from run to run, and what stands for it.
const VARYING: [(&str, &str); 7] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\((\d+[a-z]+ ?)+ ago\)", "(AGE ago)"),
    (r"\b\d+ records at revision \d+", "N records at revision N"),
    (r"in \d+ bytes", "in N bytes"),
    (r"in \d+\.\d+ s\b", "in N s"),
    (r"(?m)^[A-Za-z0-9_-]{20,}$", "KEY"),
    (r#""updated_at":\d+"#, r#""updated_at":N"#),
];

/// A part of a transcript.
enum Part {
    /// Comments, files and conditions, as they are written.
    Kept(Vec<String>),
    Command {
        line: String,
        expected: String,
    },
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines().peekable();
    let begins = |line: &str| {
        ["$ ", "$~ ", "@ ", "# "]
            .iter()
            .any(|it| line.starts_with(it))
    };
    while let Some(line) = lines.next() {
        if line.starts_with("$ file ") {
            let mut kept = vec![line.to_owned()];
            for line in lines.by_ref() {
                kept.push(line.to_owned());
                if line == "END" {
                    break;
                }
            }
            parts.push(Part::Kept(kept));
        } else if line.starts_with('$') {
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| !begins(line)) {
                expected.push(line);
            }
            parts.push(Part::Command {
                line: line.to_owned(),
                expected: expected.join("\n").trim_end().to_owned(),
            });
        } else {
            parts.push(Part::Kept(vec![line.to_owned()]));
        }
    }
    parts
}

/// An operator at a server.
struct Terminal<'s> {
    server: &'s TestServer,
    home: TempDir,
    is_bare: bool,
    varying: Vec<(Regex, &'static str)>,
}

impl<'s> Terminal<'s> {
    fn new(server: &'s TestServer) -> Self {
        let varying = VARYING.map(|(pattern, name)| (Regex::new(pattern).expect(pattern), name));
        Self {
            server,
            home: tempfile::tempdir().expect("a directory"),
            is_bare: false,
            varying: varying.into(),
        }
    }

    /// Texts of this test, and the names that stand for them.
    fn names(&self) -> [(String, &'static str); 4] {
        let path = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        [
            (self.server.address().to_string(), "ADDRESS"),
            (API_KEY.to_owned(), "KEY"),
            (path(self.server.data_dir()), "DATA"),
            (path(self.home.path().to_owned()), "HOME"),
        ]
    }

    /// Runs a command, and returns what the transcript has of it.
    fn run(&self, line: &str) -> String {
        let mut line = line.trim_start_matches(['$', '~', ' ']).to_owned();
        for (text, name) in self.names() {
            // `CENTRAL_API_KEY` is not `KEY`.
            let pattern = Regex::new(&format!(r"\b{name}\b")).expect("a word");
            line = replaced(&line, &pattern, &text);
        }
        let words = words(&line);
        let begin = words.iter().position(|word| word == "weir");
        let (variables, arguments) = words.split_at(begin.expect("a command is of weir"));
        let url = format!("http://{}", self.server.address());
        let home = self.home.path().to_str().expect("UTF-8");
        let mut environment = vec![("HOME", home)];
        if !self.is_bare {
            environment.extend([
                ("CENTRAL_API_URL", url.as_str()),
                ("CENTRAL_API_KEY", API_KEY),
            ]);
        }
        environment.extend(variables.iter().filter_map(|it| it.split_once('=')));
        let arguments: Vec<&str> = arguments[1..].iter().map(String::as_str).collect();
        let output = run(&arguments, &environment, self.home.path());
        let text = |bytes: &[u8]| self.plain(&String::from_utf8_lossy(bytes));
        let mut shown = text(&output.stdout);
        for line in text(&output.stderr).lines() {
            shown.push_str(format!("! {line}").trim_end());
            shown.push('\n');
        }
        match output.status.code() {
            Some(0) => {}
            code => shown.push_str(&format!("? {}", code.expect("it ends by itself"))),
        }
        shown.trim_end().to_owned()
    }

    /// A text without what differs from run to run.
    fn plain(&self, text: &str) -> String {
        let mut text = text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        for (own, name) in self.names() {
            text = text.replace(&own, name);
        }
        for (pattern, name) in &self.varying {
            text = replaced(&text, pattern, name);
        }
        text.lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }

    /// Writes a file or waits.
    fn keep(&mut self, lines: &[String]) {
        let first = lines[0].as_str();
        if let Some(rest) = first.strip_prefix("$ file ") {
            let name = rest.strip_suffix(" <<END").expect("`$ file NAME <<END`");
            let text: String = lines[1..lines.len() - 1]
                .iter()
                .map(|line| format!("{line}\n"))
                .collect();
            fs::write(self.home.path().join(name), text).expect("a file");
            return;
        }
        match first.strip_prefix("@ ") {
            None => {}
            Some("bare") => self.is_bare = true,
            Some("placed") => {
                let path = "/streams?placed=false&disabled_ne=true&limit=1";
                let look = || self.server.get(path).expect(200).json()["estimated_count"].clone();
                wait_until("every stream has a place", look, |count| *count == 0);
            }
            Some(other) => panic!("{other:?} is no condition"),
        }
    }
}

fn replaced(text: &str, pattern: &Regex, with: &str) -> String {
    let mut out = String::new();
    let mut end = 0;
    for found in pattern.find_iter(text) {
        out.push_str(&text[end..found.start()]);
        out.push_str(with);
        end = found.end();
    }
    out.push_str(&text[end..]);
    out
}

/// Runs a transcript.
#[track_caller]
fn replay(server: &TestServer, name: &str) {
    let file = format!(
        "{}/tests/transcripts/{name}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = fs::read_to_string(&file).expect("a transcript");
    let writes = std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write");
    let mut terminal = Terminal::new(server);
    let (mut written, mut wrong) = (String::new(), Vec::new());
    for part in parts(&text) {
        let (line, expected) = match part {
            Part::Kept(lines) => {
                terminal.keep(&lines);
                written.extend(lines.iter().map(|line| format!("{line}\n")));
                continue;
            }
            Part::Command { line, expected } => (line, expected),
        };
        let shown = if line.starts_with("$~") && !writes {
            wait_until(&line, || terminal.run(&line), |shown| *shown == expected)
        } else {
            terminal.run(&line)
        };
        if shown != expected {
            wrong.push(format!(
                "{line}\n--- expected\n{expected}\n--- printed\n{shown}\n"
            ));
        }
        let end = if shown.is_empty() { "\n" } else { "\n\n" };
        written.push_str(&format!("{line}\n{shown}{end}"));
    }
    if writes {
        fs::write(&file, written.trim_end().to_owned() + "\n").expect("written");
        return;
    }
    assert!(wrong.is_empty(), "{file}\n{}", wrong.join("\n"));
}

#[test]
fn transcript_of_objects_is_as_written() {
    replay(&TestServer::new(), "objects");
}

#[test]
fn transcript_of_files_is_as_written() {
    replay(&TestServer::new(), "files");
}

#[test]
fn transcript_of_the_layouter_is_as_written() {
    let server = with_layouter(&[]);
    let _fleet = fleet_of(&server, &["s1", "s2"]);
    // Every stream is on the other one.
    let cordon = json!({"mode": "cordon"});
    let path = "/streamers/s2/maintenance";
    server.put(path, cordon).expect(200);
    replay(&server, "layouter");
}

#[test]
fn transcript_of_contexts_is_as_written() {
    replay(&TestServer::new(), "contexts");
}
