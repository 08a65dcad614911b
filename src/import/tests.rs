//! The importer against a stub server that implements the operations the importer uses.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::channel::without_secrets;
use super::*;

/// Every nastiness of the playlists we met, with CRLF.
const NASTY: &[u8] = include_bytes!("nasty.m3u8");

/// Streams by name, and what to refuse.
#[derive(Default)]
struct Shelf {
    streams: BTreeMap<String, Value>,
    requests: Vec<String>,
    /// Names that get a 400 in a batch.
    refused: Vec<&'static str>,
    /// Responses sent before any other: status and header.
    first: Vec<(u16, &'static str)>,
}

/// What an import without flags does.
fn options() -> ImportOptions {
    ImportOptions {
        file: "list.m3u8".into(),
        format: None,
        dry_run: false,
        strict: false,
        batch: 500,
        prefix: String::new(),
        report: ReportFlags {
            output: Output::Table,
            verbose: false,
            quiet: true,
        },
    }
}

struct Stub {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
}

impl Stub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let shared = Arc::clone(&shelf);
        // Lives as long as the test process; each connection ends with its client.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(connection, &shared));
            }
        });
        Self { address, shelf }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn import(
        &self,
        file: &[u8],
        change: impl Fn(&mut ImportOptions),
    ) -> (Result<(), Failure>, ImportReport) {
        let mut options = options();
        change(&mut options);
        let server = ApiClient::new(&self.url(), "the-key").expect("a usable URL");
        let mut report = ImportReport::default();
        let outcome = import(file, &options, &server, &mut report);
        (outcome, report)
    }

    fn streams(&self) -> BTreeMap<String, Value> {
        self.shelf
            .lock()
            .expect("no panic in the stub")
            .streams
            .clone()
    }

    fn requests(&self, beginning: &str) -> usize {
        let shelf = self.shelf.lock().expect("no panic in the stub");
        shelf
            .requests
            .iter()
            .filter(|request| request.starts_with(beginning))
            .count()
    }

    fn set(&self, change: impl FnOnce(&mut Shelf)) {
        change(&mut self.shelf.lock().expect("no panic in the stub"));
    }
}

fn serve(connection: TcpStream, shelf: &Mutex<Shelf>) {
    let mut writer = connection.try_clone().expect("a second handle");
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").map_or(0, |length| length.parse().expect("a length"));
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("the body as announced");
        let authorized = header("authorization").as_deref() == Some("Bearer the-key");
        let request: Vec<&str> = head[0].split(' ').collect();
        let (status, extra, response) = if authorized {
            shelf
                .lock()
                .expect("no panic in the stub")
                .respond(request[0], request[1], &body)
        } else {
            (
                401,
                "",
                json!({ "errors": [{ "status": "401", "code": "unauthorized", "title": "no" }] }),
            )
        };
        let response = if status == 204 {
            String::new()
        } else {
            response.to_string()
        };
        let sent = write!(
            writer,
            "HTTP/1.1 {status} X\r\n{extra}content-length: {}\r\n\r\n{response}",
            response.len()
        );
        if sent.is_err() {
            return;
        }
    }
}

impl Shelf {
    fn respond(&mut self, method: &str, target: &str, body: &[u8]) -> (u16, &'static str, Value) {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .expect("UTF-8")
                .into_owned()
        };
        self.requests.push(format!("{method} {target}"));
        if !self.first.is_empty() {
            let (status, extra) = self.first.remove(0);
            return (
                status,
                extra,
                json!({ "errors": [{ "status": "503", "code": "busy", "title": "busy" }] }),
            );
        }
        let target = target
            .strip_prefix("/central/api/v3")
            .expect("the prefix is added");
        if method == "PUT" {
            assert_eq!(target, "/streams/batch");
            let items: Vec<Value> = serde_json::from_slice(body).expect("an array");
            let errors: Vec<Value> = items
                .iter()
                .enumerate()
                .filter(|(_, item)| self.refused.iter().any(|name| item["name"] == *name))
                .map(|(index, _)| {
                    json!({ "status": "400", "code": "wrong_format", "title": "wrong format",
                            "source": { "pointer": format!("/{index}/inputs/0/url") } })
                })
                .collect();
            if !errors.is_empty() {
                return (400, "", json!({ "errors": errors }));
            }
            for item in items {
                let name = item["name"].as_str().expect("a name").to_owned();
                merge(self.streams.entry(name).or_insert_with(|| json!({})), &item);
            }
            return (204, "", Value::Null);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let Some(name) = path.strip_prefix("/streams/") {
            return (200, "", self.streams[&decode(name)].clone());
        }
        let names = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("name="))
            .expect("the query has names");
        let list: Vec<Value> = names
            .split(',')
            .filter_map(|name| self.streams.get(&decode(name)))
            .map(|stream| {
                let mut stream = stream.clone();
                if let Some(url) = stream.pointer_mut("/inputs/0/url") {
                    *url = json!(without_secrets(url.as_str().expect("text")));
                }
                stream
            })
            .collect();
        (
            200,
            "",
            json!({ "estimated_count": list.len(), "streams": list }),
        )
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        merge(&mut target[key], value);
    }
}

fn counts(report: &ImportReport) -> (usize, usize, usize, usize) {
    let created = report.created();
    (
        created,
        report.changes.len() - created,
        report.unchanged,
        report.skipped.len(),
    )
}

fn lines(report: &ImportReport) -> Vec<usize> {
    report.skipped.iter().map(|problem| problem.line).collect()
}

#[test]
fn malformed_lines_of_a_playlist_are_reported() {
    let stub = Stub::start();
    let (outcome, report) = stub.import(NASTY, |_| {});
    assert_eq!(outcome, Ok(()));
    assert_eq!(counts(&report), (6, 0, 0, 3));
    assert_eq!(lines(&report), [11, 16, 19]);
    assert_eq!((report.channels, report.player_options), (9, 0));
    let streams = stub.streams();
    let names: Vec<&str> = streams.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "One.it",
            "One.it-2",
            "One.it-3",
            "Udp-one",
            "Δέλτα-το-κανάλι",
            "日本テレビ-Nippon-TV"
        ]
    );
    assert_eq!(
        streams["One.it"],
        json!({
            "name": "One.it",
            "title": "One Ⓢ",
            "inputs": [{ "url": "http://one.example.com/live/index.m3u8" }],
            "labels": { "country": "IT", "group": "Italy" },
            "meta": { "weir_import": "- http://one.example.com/live/index.m3u8" },
        })
    );
    assert_eq!(
        streams["日本テレビ-Nippon-TV"]["labels"],
        json!({ "country": "JP", "group": "Japan" })
    );
    assert_eq!(streams["Udp-one"]["labels"], json!({ "group": "Sport" }));
    assert_eq!(
        streams["Δέλτα-το-κανάλι"]["inputs"][0]["url"],
        "rtsp://viewer:hidden@gr.example.com:554/delta"
    );
}

#[test]
fn importing_twice_saves_nothing_the_second_time() {
    let stub = Stub::start();
    stub.import(NASTY, |_| {}).0.expect("saved");
    let before = stub.streams();
    let saves = stub.requests("PUT");
    let (outcome, report) = stub.import(NASTY, |_| {});
    assert_eq!(outcome, Ok(()));
    assert_eq!(counts(&report), (0, 0, 6, 3));
    assert_eq!(stub.requests("PUT"), saves, "no empty batch either");
    assert_eq!(stub.streams(), before);
}

#[test]
fn only_what_differs_is_saved_and_what_others_added_stays() {
    let stub = Stub::start();
    stub.import(NASTY, |_| {}).0.expect("saved");
    stub.set(|shelf| {
        let one = shelf.streams.get_mut("One.it").expect("imported");
        one["inputs"] = json!([
            { "url": "http://one.example.com/live/index.m3u8", "timeout": 5 },
            { "url": "fake://spare" },
        ]);
        one["labels"]["rack"] = json!("r1");
        one["dvr"] = json!({ "reference": "main" });
        let delta = shelf.streams.get_mut("Δέλτα-το-κανάλι").expect("imported");
        delta["inputs"][0]["url"] = json!("rtsp://viewer:other@gr.example.com:554/delta");
        let udp = shelf.streams.get_mut("Udp-one").expect("imported");
        udp["labels"]["group"] = json!("News");
    });
    let kept = stub.streams()["One.it"].clone();
    let (outcome, report) = stub.import(NASTY, |_| {});
    assert_eq!(outcome, Ok(()));
    assert_eq!(
        counts(&report),
        (0, 2, 4, 3),
        "a changed password is a change, though lists hide it"
    );
    let patches: Vec<&Value> = report.changes.iter().map(|change| &change.patch).collect();
    assert_eq!(
        patches,
        [
            &json!({
                "name": "Δέλτα-το-κανάλι",
                "inputs": [{
                    "url": "rtsp://viewer:hidden@gr.example.com:554/delta",
                    "user_agent": "Player",
                }],
            }),
            &json!({ "name": "Udp-one", "labels": { "group": "Sport" } }),
        ]
    );
    assert_eq!(stub.streams()["One.it"], kept);
}

#[test]
fn a_dry_run_tells_field_by_field_and_saves_nothing() {
    let stub = Stub::start();
    stub.set(|shelf| {
        shelf.streams.insert(
            "One.it".to_owned(),
            json!({ "name": "One.it", "title": "Uno" }),
        );
    });
    let (outcome, report) = stub.import(NASTY, |options| options.dry_run = true);
    assert_eq!(outcome, Ok(()));
    assert_eq!(counts(&report), (5, 1, 0, 3));
    assert_eq!(stub.requests("PUT"), 0);
    let options = ImportOptions {
        dry_run: true,
        ..options()
    };
    let table = report.table(&options, true);
    assert!(table.contains("~ One.it (line 3)\n"), "{table}");
    assert!(
        table.contains("    title: \"Uno\" -> \"One Ⓢ\"\n"),
        "{table}"
    );
    assert!(table.contains("+ One.it-2 (line 5)\n"), "{table}");
    assert!(
        table
            .contains("9 channels: 5 would be created, 1 would be changed, 0 unchanged, 3 skipped"),
        "{table}"
    );
    let report: Value = serde_json::from_str(&report.json(&options, None)).expect("JSON");
    assert_eq!(
        (&report["created"], &report["skipped"][0]["line"]),
        (&json!(5), &json!(11))
    );
    for text in [table, report.to_string()] {
        assert!(
            !text.contains("hidden"),
            "passwords stay out of reports: {text}"
        );
    }
}

#[test]
fn refused_channels_are_reported_and_the_others_saved() {
    let stub = Stub::start();
    stub.set(|shelf| shelf.refused = vec!["One.it-2", "Udp-one"]);
    let (outcome, report) = stub.import(NASTY, |options| options.batch = 2);
    assert_eq!(outcome, Ok(()));
    assert_eq!(counts(&report), (4, 0, 0, 5));
    assert_eq!(
        lines(&report),
        [6, 11, 16, 19, 22],
        "the lines of their URLs, which is what was refused"
    );
    assert!(
        report.skipped[0]
            .reason
            .contains("\"One.it-2\": wrong format (at inputs/0/url)"),
        "{:?}",
        report.skipped[0]
    );
    assert_eq!(stub.streams().len(), 4);
}

#[test]
fn strict_saves_all_or_nothing() {
    let good =
        b"#EXTINF:-1,A\nhttp://h/a.ts\n#EXTINF:-1,B\nhttp://h/b.ts\n#EXTINF:-1,C\nhttp://h/c.ts\n";
    let stub = Stub::start();
    let strict = |options: &mut ImportOptions| {
        options.strict = true;
        options.batch = 1;
    };
    let (outcome, report) = stub.import(NASTY, strict);
    assert_eq!(outcome.expect_err("bad lines").exit, Exit::Runtime);
    assert_eq!(lines(&report), [11, 16, 19]);
    assert_eq!(
        stub.shelf.lock().expect("no panic").requests.len(),
        0,
        "no request was sent"
    );

    stub.set(|shelf| shelf.refused = vec!["C"]);
    let (outcome, report) = stub.import(good, strict);
    assert_eq!(outcome.expect_err("refused").exit, Exit::Runtime);
    assert_eq!(lines(&report), [6]);
    assert_eq!(stub.streams().len(), 0);

    stub.set(|shelf| shelf.refused.clear());
    let saves = stub.requests("PUT");
    assert_eq!(stub.import(good, strict).0, Ok(()));
    assert_eq!(
        (stub.streams().len(), stub.requests("PUT") - saves),
        (3, 1),
        "--strict ignores --batch"
    );
}

#[test]
fn strict_refuses_more_than_one_batch_takes() {
    let stub = Stub::start();
    let mut file = String::new();
    for n in 0..=BATCH_MAX {
        _ = writeln!(file, "#EXTINF:-1,c{n}\nhttp://h/{n}.ts");
    }
    let (outcome, _) = stub.import(file.as_bytes(), |options| options.strict = true);
    assert!(
        outcome
            .expect_err("too many")
            .message
            .contains("nothing was saved")
    );
    assert_eq!(stub.requests("PUT"), 0);
}

#[test]
fn batches_keep_their_size() {
    let stub = Stub::start();
    let (outcome, report) = stub.import(NASTY, |options| options.batch = 4);
    assert_eq!(outcome, Ok(()));
    assert_eq!((report.created(), stub.requests("PUT")), (6, 2));
}

#[test]
fn requests_to_a_busy_server_are_repeated() {
    let stub = Stub::start();
    stub.set(|shelf| shelf.first = vec![(503, "retry-after: 0\r\n"), (429, "retry-after: 0\r\n")]);
    assert_eq!(stub.import(NASTY, |_| {}).0, Ok(()));
    assert_eq!(stub.streams().len(), 6);
    stub.set(|shelf| shelf.first = vec![(503, "retry-after: 0\r\n"); 20]);
    let failure = stub.import(NASTY, |_| {}).0.expect_err("busy for ever");
    assert!(failure.message.contains("503"), "{failure}");
}

#[test]
fn what_goes_wrong_is_said_in_words() {
    let stub = Stub::start();
    let fails = |server: &ApiClient| {
        let mut report = ImportReport::default();
        import(NASTY, &options(), server, &mut report).expect_err("cannot work")
    };
    let wrong_key = fails(&ApiClient::new(&stub.url(), "other").expect("a URL"));
    assert_eq!(wrong_key.exit, Exit::Runtime);
    assert!(wrong_key.message.contains("refuses the key"), "{wrong_key}");
    assert!(!wrong_key.message.contains("other"), "{wrong_key}");

    let unused = TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("bound");
    let no_server = fails(&ApiClient::new(&format!("http://{unused}"), "the-key").expect("a URL"));
    assert!(
        no_server.message.contains(&unused.to_string()),
        "{no_server}"
    );

    stub.set(|shelf| shelf.first = vec![(302, "location: http://127.0.0.1:1/\r\n")]);
    let moved = fails(&ApiClient::new(&stub.url(), "the-key").expect("a URL"));
    assert!(
        moved.message.contains("302"),
        "redirects are not followed: {moved}"
    );

    for url in [
        "ftp://h",
        "h:9019",
        "http://",
        "http://user:secret@h",
        "http://h/?x",
    ] {
        let refused = ApiClient::new(url, "k").err().expect(url);
        assert!(!refused.contains("secret"), "{refused}");
    }
    let hls = import(
        b"#EXT-X-STREAM-INF:x\n",
        &options(),
        &ApiClient::new(&stub.url(), "k").expect("a URL"),
        &mut ImportReport::default(),
    );
    assert!(
        hls.expect_err("no list")
            .message
            .contains("list.m3u8 line 1: this is the HLS playlist")
    );
}

#[test]
fn both_prefixes_of_the_api_are_taken_as_they_are() {
    let stub = Stub::start();
    let server =
        ApiClient::new(&format!("{}/central/api/v3/", stub.url()), "the-key").expect("a URL");
    assert!(server.get("/streams?name=x").is_ok());
}

#[test]
fn a_prefix_stands_before_every_name() {
    let stub = Stub::start();
    stub.import(NASTY, |options| options.prefix = "tv/".to_owned())
        .0
        .expect("saved");
    assert!(stub.streams().keys().all(|name| name.starts_with("tv/")));
    let (_, report) = stub.import(NASTY, |options| options.prefix = "tv/".to_owned());
    assert_eq!(counts(&report), (0, 0, 6, 3));
}

/// A real list, when it is at hand: nothing of it is lost, and a second import finds nothing to do.
#[test]
fn a_real_playlist_is_imported_whole() {
    let place = std::env::var_os("WEIR_TEST_PLAYLIST").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/free-tv.m3u8"),
        PathBuf::from,
    );
    let Ok(file) = fs::read(&place) else {
        eprintln!(
            "{} is not here; set WEIR_TEST_PLAYLIST to test with a real list",
            place.display()
        );
        return;
    };
    let channels = file
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"#EXTINF"))
        .count();
    let stub = Stub::start();
    let (outcome, report) = stub.import(&file, |_| {});
    assert_eq!(outcome, Ok(()));
    assert_eq!(report.channels, channels);
    assert_eq!(report.created() + report.skipped.len(), channels);
    assert_eq!(
        stub.streams().len(),
        report.created(),
        "no two channels share a name"
    );
    let (_, again) = stub.import(&file, |_| {});
    assert_eq!(
        counts(&again),
        (0, 0, report.created(), report.skipped.len())
    );
}

#[test]
fn a_channel_is_found_by_its_url_before_its_number() {
    let stub = Stub::start();
    let list = |urls: &[&str]| {
        urls.iter().fold(String::new(), |mut text, url| {
            _ = writeln!(text, "#EXTINF:-1,A\nudp://{url}");
            text
        })
    };
    let url = |name: &str| stub.streams()[name]["inputs"][0]["url"].clone();
    let import = |urls: &[&str]| {
        let (outcome, report) = stub.import(list(urls).as_bytes(), |_| {});
        assert_eq!(outcome, Ok(()));
        counts(&report)
    };
    assert_eq!(import(&["1:1", "2:2", "3:3", "4:4"]), (4, 0, 0, 0));
    assert_eq!(
        import(&["4:4", "2:2"]),
        (0, 0, 2, 0),
        "also above the numbers of the file"
    );
    assert_eq!(import(&["3:3", "1:1", "2:2"]), (0, 0, 3, 0));
    assert_eq!(
        import(&["2:2", "9:9"]),
        (0, 1, 1, 0),
        "a new URL has the first free place"
    );
    assert_eq!(
        (url("A"), url("A-2")),
        (json!("udp://9:9"), json!("udp://2:2"))
    );
    assert_eq!(stub.streams().len(), 4);
}

#[test]
fn many_channels_of_one_name_are_found_by_their_urls() {
    const COUNT: usize = 2_000;
    let stub = Stub::start();
    let list = |first: usize| {
        (first..COUNT).fold(String::new(), |mut text, n| {
            _ = writeln!(text, "#EXTINF:-1,Live\nudp://239.0.0.1:{n}");
            text
        })
    };
    let (_, report) = stub.import(list(0).as_bytes(), |_| {});
    assert_eq!(counts(&report), (COUNT, 0, 0, 0));
    let (_, report) = stub.import(list(1).as_bytes(), |_| {});
    assert_eq!(counts(&report), (0, 0, COUNT - 1, 0));
}
