//! The real binary over HTTP against the model: random operations, lists of every kind, streamers
//! with copies, and a kill now and then.
//!
//! `WEIR_SIM_SEED` repeats a run, `WEIR_SIM_OPS` makes it longer; a failure prints the seed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weir_testkit::{
    API_KEY, Client, PREFIX, Response, STREAMER_PREFIX, TestServer, encode_segment,
};

use super::model::Model;
use super::op::{HOSTS, NAMES, Op};
use super::random::Random;

const PREFIXES: [&str; 2] = [PREFIX, STREAMER_PREFIX];

/// The configuration that a streamer last read.
struct ServedCopy {
    etag: String,
    revision: u64,
    streams: BTreeMap<String, Value>,
}

struct ServedWorld {
    random: Random<'static>,
    server: TestServer,
    client: Client,
    model: Model,
    /// The server's stamps by the model's, which are a plain count.
    stamps: BTreeMap<u64, u64>,
    copies: BTreeMap<String, ServedCopy>,
    deltas: u64,
}

fn texts<'v>(list: &'v Value, field: &str) -> Vec<&'v str> {
    let items = list.as_array().expect("a list");
    items
        .iter()
        .map(|item| item[field].as_str().expect("a text"))
        .collect()
}

impl ServedWorld {
    fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        if_none_match: Option<&str>,
    ) -> Response {
        let path = format!("{}{path}", self.random.pick(&PREFIXES));
        let bearer = format!("Bearer {API_KEY}");
        let mut fields = vec![("Authorization", bearer.as_str())];
        fields.extend(if_none_match.map(|tag| ("If-None-Match", tag)));
        let text = body.map(Value::to_string).unwrap_or_default();
        self.client.request(method, &path, &fields, text.as_bytes())
    }

    fn get(&mut self, path: &str) -> Response {
        self.call("GET", path, None, None)
    }

    /// A name in a path: its slashes as they are, or escaped.
    fn path_of(&mut self, name: &str) -> String {
        let escaped = encode_segment(name);
        if self.random.below(2) == 0 {
            escaped.replace("%2F", "/")
        } else {
            escaped
        }
    }

    fn send(&mut self, op: &Op) {
        let (method, path, body) = match op {
            Op::SaveStream(name, patch) => (
                "PUT",
                format!("/streams/{}", self.path_of(name)),
                Some(patch.clone()),
            ),
            Op::SaveStreams(items) => ("PUT", "/streams/batch".into(), Some(json!(items))),
            Op::DeleteStream(name) => ("DELETE", format!("/streams/{}", self.path_of(name)), None),
            Op::SetLayouts(items) => (
                "POST",
                "/streams/layouts".into(),
                Some(json!({ "layouts": items })),
            ),
            Op::MoveStreams(_) | Op::EndHandovers(_) => unreachable!("no client sends {op:?}"),
            Op::SaveStreamer(host, patch) => (
                "PUT",
                format!("/streamers/{}", encode_segment(host)),
                Some(patch.clone()),
            ),
            Op::SaveStreamers(items) => ("PUT", "/streamers/batch".into(), Some(json!(items))),
            Op::DeleteStreamer(host) => (
                "DELETE",
                format!("/streamers/{}", encode_segment(host)),
                None,
            ),
            Op::SaveEpisode(id, patch) => ("PUT", format!("/episodes/{id}"), Some(patch.clone())),
            Op::DeleteEpisode(id) => ("DELETE", format!("/episodes/{id}"), None),
        };
        let expected = self.model.batch(std::slice::from_ref(op), 0).remove(0);
        let answer = self.call(method, &path, body.as_ref(), None);
        match expected {
            Ok(()) => assert!(
                (200..300).contains(&answer.status),
                "{op:?}: {} {}",
                answer.status,
                answer.text()
            ),
            Err(status) => {
                assert_eq!(answer.status, status, "{op:?}: {}", answer.text());
                let error = answer.json();
                assert_eq!(
                    error["errors"][0]["status"],
                    json!(status.to_string()),
                    "{error}"
                );
            }
        }
        if let (Ok(()), Op::SaveStream(name, _)) = (expected, op) {
            let document = answer.json();
            self.check_stream(name, &document);
        }
    }

    fn check_stream(&mut self, name: &str, document: &Value) {
        let expected = &self.model.streams[name];
        let mut on_disk = document["config_on_disk"].clone();
        assert_eq!(on_disk["name"], name);
        on_disk.as_object_mut().expect("an object").remove("name");
        assert_eq!(on_disk, Value::Object(expected.config.clone()), "{name}");
        for (field, value) in &expected.config {
            assert_eq!(&document[field], value, "{field} of {name}");
        }
        let layout = expected.layouts.first();
        let host = |of: Option<&String>| of.map_or(Value::Null, |host| json!(host));
        assert_eq!(
            document["layout"]["ingest"],
            host(layout.and_then(|layout| layout.ingest.as_ref()))
        );
        assert_eq!(
            document["layout"]["inference"],
            host(layout.and_then(|layout| layout.inference.as_ref()))
        );
        let backups = document["layout"]
            .get("dvr_backups")
            .cloned()
            .unwrap_or(json!([]));
        assert_eq!(
            backups,
            json!(
                layout
                    .map(|layout| layout.backups.clone())
                    .unwrap_or_default()
            )
        );
        let stamp = document["updated_at"].as_u64().expect("a stamp");
        let at = expected.updated_at;
        assert_eq!(
            *self.stamps.entry(at).or_insert(stamp),
            stamp,
            "{name} changed without a change"
        );
        let before = self.stamps.range(..at).next_back();
        let after = self.stamps.range(at + 1..).next();
        assert!(
            before.is_none_or(|(_, before)| *before < stamp)
                && after.is_none_or(|(_, after)| *after > stamp),
            "stamps are not in the order of changes"
        );
    }

    /// Every stream with its effective configuration.
    fn everything(&mut self) -> BTreeMap<String, Value> {
        let list = self.get("/streams?limit=1000").expect(200).json();
        assert_eq!(list["estimated_count"], json!(self.model.streams.len()));
        let names = self.model.streams.keys().cloned().collect::<Vec<_>>();
        assert_eq!(texts(&list["streams"], "name"), names);
        let documents: Vec<Value> = list["streams"].as_array().expect("a list").clone();
        let streams: BTreeMap<String, Value> = names.into_iter().zip(documents).collect();
        for (name, document) in &streams {
            self.check_stream(name, document);
        }
        let list = self
            .get("/episodes?limit=1000&sort=episode_id")
            .expect(200)
            .json();
        let episodes = list["episodes"].as_array().expect("a list");
        let ids: Vec<u64> = episodes
            .iter()
            .map(|episode| episode["episode_id"].as_u64().expect("a number"))
            .collect();
        assert_eq!(ids, self.model.episodes.keys().copied().collect::<Vec<_>>());
        for (episode, expected) in episodes.iter().zip(self.model.episodes.values()) {
            for (field, value) in &expected.config {
                assert_eq!(&episode[field], value, "{field} of {episode}");
            }
        }
        let list = self.get("/streamers?limit=1000").expect(200).json();
        let hosts: Vec<String> = self.model.streamers.keys().cloned().collect();
        assert_eq!(texts(&list["streamers"], "hostname"), hosts);
        streams
    }

    fn check_one(&mut self) {
        let name = *self.random.pick(&NAMES);
        let path = format!("/streams/{}", self.path_of(name));
        let answer = self.get(&path);
        if self.model.streams.contains_key(name) {
            let document = answer.expect(200).json();
            self.check_stream(name, &document);
        } else {
            assert_eq!(answer.status, 404, "{}", answer.text());
        }
    }

    /// A question with filters, an order and small pages: walked to the end it gives what a filter
    /// over the documents gives.
    fn check_list(&mut self, streams: &BTreeMap<String, Value>) {
        let newest = streams
            .values()
            .map(|stream| stream["updated_at"].as_u64().expect("a stamp"))
            .max()
            .unwrap_or(0);
        let since = newest.saturating_sub(self.random.below(40));
        type Filter = Box<dyn Fn(&Value) -> bool>;
        let filters: Vec<(String, Filter)> = vec![
            (String::new(), Box::new(|_| true)),
            (
                "disabled=true".into(),
                Box::new(|stream| stream["disabled"] == json!(true)),
            ),
            (
                "disabled_ne=true".into(),
                Box::new(|stream| stream["disabled"] != json!(true)),
            ),
            (
                "static=false".into(),
                Box::new(|stream| stream["static"] == json!(false)),
            ),
            (
                "title=News".into(),
                Box::new(|stream| stream["title"] == "News"),
            ),
            (
                "title_is=null".into(),
                Box::new(|stream| stream["title"].is_null()),
            ),
            (
                "layout.ingest=s1".into(),
                Box::new(|stream| stream["layout"]["ingest"] == "s1"),
            ),
            (
                "labels.k=1".into(),
                Box::new(|stream| stream["labels"]["k"] == "1"),
            ),
            (
                "segment_count_gte=5".into(),
                Box::new(|stream| {
                    stream["segment_count"]
                        .as_u64()
                        .is_some_and(|count| count >= 5)
                }),
            ),
            (
                "inputs.url_like=0.0.1".into(),
                Box::new(|stream| {
                    stream["inputs"][0]["url"]
                        .as_str()
                        .is_some_and(|url| url.contains("0.0.1"))
                }),
            ),
            (
                "name=one,two,absent".into(),
                Box::new(|stream| {
                    ["one", "two"].contains(&stream["name"].as_str().expect("a name"))
                }),
            ),
            (
                format!("updated_at_gt={since}"),
                Box::new(move |stream| stream["updated_at"].as_u64().is_some_and(|at| at > since)),
            ),
        ];
        let (filter, predicate) = self.random.pick(&filters);
        let mut expected: Vec<&Value> = streams
            .values()
            .filter(|stream| predicate(stream))
            .collect();
        let sort = *self
            .random
            .pick(&["name", "-name", "updated_at", "-updated_at", "title"]);
        match sort {
            "-name" => expected.reverse(),
            "updated_at" => expected.sort_by_key(|stream| stream["updated_at"].as_u64()),
            "-updated_at" => {
                expected.sort_by_key(|stream| std::cmp::Reverse(stream["updated_at"].as_u64()));
            }
            "title" => expected.sort_by(|a, b| a["title"].as_str().cmp(&b["title"].as_str())),
            _ => {}
        }
        let expected: Vec<&str> = expected
            .into_iter()
            .map(|stream| stream["name"].as_str().expect("a name"))
            .collect();
        let question = format!(
            "/streams?{filter}&sort={sort}&limit={}",
            1 + self.random.below(6)
        );
        let (mut found, mut page_before) = (Vec::new(), Vec::<String>::new());
        let mut cursor: Option<String> = None;
        loop {
            let path = match &cursor {
                None => question.clone(),
                Some(cursor) => format!("{question}&cursor={}", encode_segment(cursor)),
            };
            let page = self.get(&path).expect(200).json();
            let names: Vec<String> = texts(&page["streams"], "name")
                .into_iter()
                .map(str::to_owned)
                .collect();
            if !found.is_empty() && !names.is_empty() {
                let back = page["prev"].as_str().expect("there was a page before");
                let back = self
                    .get(&format!("{question}&cursor={}", encode_segment(back)))
                    .expect(200)
                    .json();
                assert_eq!(
                    texts(&back["streams"], "name").last(),
                    page_before.last().map(String::as_str).as_ref(),
                    "{question}"
                );
            }
            found.extend(names.iter().cloned());
            page_before = names;
            assert!(found.len() <= streams.len(), "{question} does not end");
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert!(
            found == expected,
            "{question}\nfound    {found:?}\nexpected {expected:?}"
        );
    }

    /// Every streamer polls: plainly, with its ETag, and for changes.
    fn streamers_poll(&mut self, streams: &BTreeMap<String, Value>) {
        for host in HOSTS {
            let path = format!("/streamers/{}/streams", encode_segment(host));
            let answer = self.get(&path);
            if !self.model.streamers.contains_key(host) {
                assert_eq!(answer.status, 404, "{host}: {}", answer.text());
                continue;
            }
            let etag = answer.etag().expect("an answer to a streamer has a tag");
            let etag = etag.to_owned();
            let answer = answer.expect(200).json();
            let received: BTreeMap<String, Value> = texts(&answer["streams"], "name")
                .into_iter()
                .map(str::to_owned)
                .zip(
                    answer["streams"]
                        .as_array()
                        .expect("a list")
                        .iter()
                        .cloned(),
                )
                .collect();
            assert_eq!(answer["estimated_count"], json!(received.len()));
            let expected = self.model.configuration(host, |name| {
                let mut config = streams[name].clone();
                config
                    .as_object_mut()
                    .expect("an object")
                    .remove("updated_at");
                config
            });
            assert_eq!(received, expected, "{host}");
            let revision = answer["revision"].as_u64().expect("a revision");
            if let Some(copy) = self.copies.remove(host) {
                assert!(
                    copy.etag != etag || copy.streams == received,
                    "{host} misses a change"
                );
                let with_tag = self.call("GET", &path, None, Some(&copy.etag));
                assert_eq!(with_tag.status == 304, copy.etag == etag, "{host}");
                self.catch_up(host, copy, &received, revision);
            }
            self.copies.insert(
                host.into(),
                ServedCopy {
                    etag,
                    revision,
                    streams: received,
                },
            );
        }
    }

    fn catch_up(
        &mut self,
        host: &str,
        copy: ServedCopy,
        received: &BTreeMap<String, Value>,
        revision: u64,
    ) {
        let answer = self.get(&format!(
            "/streamers/{}/streams?changes_since={}",
            encode_segment(host),
            copy.revision
        ));
        if answer.status == 410 {
            return;
        }
        let delta = answer.expect(200).json();
        assert_eq!(delta["revision"], json!(revision));
        let mut streams = copy.streams;
        for name in delta["removed"].as_array().expect("a list") {
            streams.remove(name.as_str().expect("a name"));
        }
        for stream in delta["streams"].as_array().expect("a list") {
            streams.insert(
                stream["name"].as_str().expect("a name").into(),
                stream.clone(),
            );
        }
        assert_eq!(
            &streams, received,
            "a delta for {host} from {}",
            copy.revision
        );
        self.deltas += 1;
    }

    fn kill_and_start(&mut self) {
        self.server.kill();
        self.server.start();
        self.client = self.server.connect();
    }
}

/// Goal: over HTTP too the server equals the model, through kills. Method: a seeded run of
/// operations; after each one something is read back, now and then everything.
#[test]
fn binary_matches_the_model_through_kills() {
    let seed = super::number("WEIR_SIM_SEED").unwrap_or(1);
    let ops = super::number("WEIR_SIM_OPS").unwrap_or(1500);
    let failing = super::Failing(seed);
    // The model has no time, so a moved stream leaves its old streamer at once.
    let at_once = ["--episodes-buffer-delay", "0", "--layouter-handover", "0"];
    let server = TestServer::with(&at_once);
    let mut world = ServedWorld {
        client: server.connect(),
        server,
        random: Random::seeded(seed),
        model: Model::default(),
        stamps: BTreeMap::new(),
        copies: BTreeMap::new(),
        deltas: 0,
    };
    for n in 1..=ops {
        let op = match Op::random(&mut world.random) {
            Op::MoveStreams(items) => Op::SetLayouts(items),
            Op::EndHandovers(_) => continue,
            op => op,
        };
        world.send(&op);
        world.check_one();
        if n % 8 == 0 {
            let streams = world.everything();
            world.check_list(&streams);
            world.streamers_poll(&streams);
        }
        if n % 150 == 0 {
            world.kill_and_start();
        }
    }
    assert!(world.deltas > ops / 8, "only {} deltas", world.deltas);
    failing.passed();
}
