//! A strict parser of OpenMetrics 1.0, for tests of every operation with metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Stdio;

use crate::python::{python, script};
use weir_testkit::Response;

/// Lets the parser of a client library judge a text that [`Metrics::read`] accepts.
pub fn check_with_client_library(answer: &Response) {
    let mut child = python()
        .arg(script("metrics.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the interpreter starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // A parser that failed has closed the pipe; its message is shown below.
    let _ = stdin.write_all(answer.text().as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("the process is ours");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{}", answer.text());
    let count = String::from_utf8_lossy(&output.stdout);
    let samples = Metrics::read(answer).0.len();
    assert_eq!(count.trim(), samples.to_string());
}

/// Values by sample: its name and its labels as written.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Fails on anything that is not OpenMetrics.
    pub fn read(answer: &Response) -> Self {
        assert_eq!(
            answer.header("content-type"),
            Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        let text = answer.text();
        let body = text.strip_suffix("# EOF\n").expect("the end mark is there");
        let mut samples = BTreeMap::new();
        let mut families: BTreeSet<String> = BTreeSet::new();
        let (mut name, mut kind) = (String::new(), String::new());
        for line in body.lines() {
            assert!(!line.is_empty(), "an empty line");
            if let Some(facts) = line.strip_prefix("# ") {
                let (what, rest) = facts.split_once(' ').expect(line);
                let (family, text) = rest.split_once(' ').expect(line);
                match what {
                    "TYPE" => {
                        assert!(
                            families.insert(family.to_owned()),
                            "{family} is there twice"
                        );
                        let kinds = ["gauge", "counter", "info", "histogram"];
                        assert!(kinds.contains(&text), "{line}");
                        (name, kind) = (family.to_owned(), text.to_owned());
                    }
                    "UNIT" => assert!(family.ends_with(&format!("_{text}")), "{line}"),
                    "HELP" => assert!(!text.is_empty(), "{line}"),
                    _ => panic!("{line}"),
                }
                assert_eq!(family, name, "facts of another family");
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').expect(line);
            let full = sample.split('{').next().expect("a name");
            let suffix = full.strip_prefix(&*name).expect(line);
            let allowed: &[&str] = match &*kind {
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_count", "_sum"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line}");
            if let Some(labels) = sample
                .strip_prefix(full)
                .filter(|labels| !labels.is_empty())
            {
                let inner = labels.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
                check_labels(inner.expect(line));
            }
            let value: f64 = value.parse().expect(line);
            assert!(
                samples.insert(sample.to_owned(), value).is_none(),
                "{line} twice"
            );
        }
        Self(samples)
    }

    /// The value of the only sample of this name whose labels contain all of the given ones.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &str| {
            sample.split('{').next() == Some(name)
                && labels
                    .iter()
                    .all(|(label, value)| sample.contains(&format!("{label}=\"{value}\"")))
        };
        let found: Vec<f64> = self
            .0
            .iter()
            .filter(|(sample, _)| fits(sample))
            .map(|(_, value)| *value)
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0]
    }

    /// How many samples have this name.
    pub fn count(&self, name: &str) -> usize {
        let names = self.0.keys().map(|sample| sample.split('{').next());
        names.filter(|found| *found == Some(name)).count()
    }
}

/// `name="text"` divided by commas; a text has no quote, no line end and no lone backslash.
fn check_labels(labels: &str) {
    let mut rest = labels;
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label has a value");
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        assert!(!name.is_empty() && name.bytes().all(fits), "{labels}");
        let mut end = None;
        let mut escaped = false;
        for (at, c) in after.char_indices() {
            match c {
                _ if escaped => {
                    assert!(matches!(c, '\\' | '"' | 'n'), "{labels}");
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &after[end.expect("a text ends") + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    assert!(rest.is_empty(), "{labels}");
}
