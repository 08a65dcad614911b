//! Weir, three bridges and three real node-media-servers with cameras: the whole life of a small
//! cluster, with pictures looked at.
//!
//! `cargo test --test it real_media_servers -- --nocapture` prints when each step was reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::bridges::{Bridge, looking};
use crate::cameras::{Camera, PICTURE, fixed_port, picture};
use crate::node_media::{NodeMedia, Relay, USER};
use crate::restricted::token;
use weir_testkit::{Client, ClientError, PREFIX, Signal, TestServer, encode_segment};

/// Names of streams, some of which no media server takes as they are.
const NAMES: [&str; 12] = [
    "live/s00",
    "live/s01",
    "live/s02",
    "live/s03",
    "live/s04",
    "live/s05",
    "plain",
    "cam 1",
    "tür/eins",
    "a.b/c.d",
    "site/hall/9",
    "_x20_",
];
const HOSTNAMES: [&str; 3] = ["n1", "n2", "n3"];

/// By stream: the server where it has pictures, and its id there.
type Running = BTreeMap<String, Vec<(usize, String)>>;

struct Cluster {
    weir: TestServer,
    relay: Relay,
    servers: Vec<NodeMedia>,
    bridges: Vec<Bridge>,
    cameras: [Camera; 2],
    /// Path of each stream on the servers.
    paths: BTreeMap<&'static str, String>,
    _tokens: tempfile::TempDir,
    begin: Instant,
}

impl Cluster {
    fn new() -> Self {
        let begin = Instant::now();
        let cameras = ["testsrc", "testsrc2"].map(Camera::new);
        let settings = ["--layouter-enabled", "--streamer-dead-timeout", "5s"];
        let weir = TestServer::with(&settings);
        let relay = Relay::new(weir.address());
        let permission = json!({
            "scopes": ["streamers/n*"], "read": true, "write": true, "execute": true,
        });
        let bearer = token(&weir, "join", json!({"permissions": [permission]}));
        let tokens = tempfile::tempdir().expect("a scratch directory");
        let token_file = tokens.path().join("token");
        fs::write(&token_file, bearer.trim_start_matches("Bearer ")).expect("a file");
        let token_file = token_file.to_str().expect("UTF-8").to_owned();
        let (mut servers, mut bridges) = (Vec::new(), Vec::new());
        for hostname in HOSTNAMES {
            let listen = format!("127.0.0.1:{}", fixed_port());
            let server = NodeMedia::new(hostname, &format!("http://{listen}/hook"));
            let password = server.password_file();
            let more = [
                ["--join-token-file", &token_file],
                ["--user", USER],
                ["--password-file", password.to_str().expect("UTF-8")],
                ["--host", "127.0.0.1"],
                ["--play-base", &server.api()],
                ["--listen", &listen],
            ];
            let parts = (&*server.api(), &*server.media());
            let kind = "node-media-server";
            let mut bridge = Bridge::beside(kind, &relay.url(), parts, hostname, &more.concat());
            bridge.start();
            servers.push(server);
            bridges.push(bridge);
        }
        let servers_of_balancer: Vec<Value> =
            HOSTNAMES.iter().map(|name| json!({"name": name})).collect();
        let balancer = json!({"mode": "streams", "servers": servers_of_balancer});
        weir.put("/load-balancers/all", balancer).expect(200);
        Self {
            weir,
            relay,
            servers,
            bridges,
            cameras,
            paths: BTreeMap::new(),
            _tokens: tokens,
            begin,
        }
    }

    fn reached(&self, step: &str) {
        println!("{:6.1} s  {step}", self.begin.elapsed().as_secs_f64());
    }

    fn save(&self, name: &str, body: Value) {
        let path = format!("/streams/{}", encode_segment(name));
        self.weir.put(&path, body).expect(200);
    }

    /// Starts Weir where its clients find it.
    fn start_weir(&mut self) {
        self.weir.start();
        self.relay.lead_to(self.weir.address());
    }

    /// Node of each stream, as Weir has it.
    fn places(&self) -> BTreeMap<String, String> {
        let list = self.weir.get("/streams?limit=100&select=name,layout");
        let list = list.expect(200).json();
        let streams = list["streams"].as_array().expect("a list").iter();
        let places = streams.map(|stream| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&stream["name"]), text(&stream["layout"]["ingest"]))
        });
        places.collect()
    }

    /// The streams that have pictures, on the servers that run.
    fn running(&mut self, hosts: &[usize]) -> Running {
        let mut running = Running::new();
        for host in hosts {
            for (path, id) in self.servers[*host].pictures() {
                running.entry(path).or_default().push((*host, id));
            }
        }
        running
    }

    /// Waits until every stream has pictures on exactly one of these servers, the one where Weir
    /// has it, as evenly spread as `spread` demands.
    #[track_caller]
    fn wait_for_all(&mut self, what: &str, hosts: &[usize]) -> Running {
        let paths: BTreeSet<String> = self.paths.values().cloned().collect();
        let names = self.paths.clone();
        let fewest = NAMES.len() / hosts.len() - 1;
        let running = looking(
            what,
            || (self.running(hosts), self.places()),
            |(running, places)| {
                let is_right = |(name, path): (&&str, &String)| {
                    let on = running.get(path).map_or(&[][..], Vec::as_slice);
                    on.len() == 1 && places[*name] == HOSTNAMES[on[0].0]
                };
                let count = |host: &usize| {
                    let places = running.values().flatten();
                    places.filter(|(on, _)| on == host).count()
                };
                paths.iter().all(|path| running.contains_key(path))
                    && running.len() == paths.len()
                    && names.iter().all(is_right)
                    && hosts.iter().all(|host| count(host) >= fewest)
            },
        );
        self.reached(what);
        running.0
    }

    /// Where a balancer sends a player of the stream.
    fn redirect(&self, name: &str, query: &str) -> String {
        let path = format!("{PREFIX}/lb/all/{}/index.flv{query}", encode_segment(name));
        let answer = self.weir.connect().request("GET", &path, &[], b"");
        let answer = answer.expect(302);
        answer.header("location").expect("an address").to_owned()
    }

    /// Looks at the pictures of every stream, where the balancer sends players.
    #[track_caller]
    fn look_at_pictures(&self) {
        for name in NAMES {
            looking(
                &format!("{name} has pictures"),
                || picture(&self.redirect(name, "")),
                |seen| seen == PICTURE,
            );
        }
        self.reached("every stream played through the balancer");
    }
}

const ALL: [usize; 3] = [0, 1, 2];

#[test]
fn real_media_servers_keep_their_pictures() {
    let mut cluster = Cluster::new();
    looking(
        "the bridges report",
        || {
            let list = cluster.weir.get("/streamers").expect(200).json();
            let streamers = list["streamers"].as_array().expect("a list").iter();
            streamers.filter(|it| it["stats"].is_object()).count()
        },
        |count| *count == 3,
    );
    cluster.reached("the bridges report");
    for (i, name) in NAMES.iter().enumerate() {
        let url = cluster.cameras[i % 2].url();
        cluster.save(name, json!({"inputs": [{"url": url}]}));
    }
    for name in NAMES {
        // The balancer knows the path of a stream, whether it runs or not, once it is placed.
        let url = looking(
            &format!("{name} is placed"),
            || cluster.places()[name].clone(),
            |host| !host.is_empty(),
        );
        assert!(HOSTNAMES.contains(&&*url));
        let url = cluster.redirect(name, "");
        let (_, path) = url["http://".len()..].split_once('/').expect("a path");
        let path = format!("/{}", path.strip_suffix(".flv").expect("an ending"));
        cluster.paths.insert(name, path);
    }
    let first = cluster.wait_for_all("twelve streams run", &ALL);
    cluster.look_at_pictures();

    edits_restart_one_stream(&mut cluster, &first);
    let before = cluster.wait_for_all("edits are done", &ALL);
    nothing_restarts_without_weir_or_bridges(&mut cluster, &before);
    viewers_are_admitted_by_weir(&mut cluster);
    lost_server_loses_no_stream(&mut cluster);
    all_parts_restart(&mut cluster);
}

fn edits_restart_one_stream(cluster: &mut Cluster, first: &Running) {
    cluster.save("live/s00", json!({"title": "only a title"}));
    let url = cluster.cameras[1].url();
    cluster.save("live/s02", json!({"inputs": [{"url": url}]}));
    let edited = cluster.paths["live/s02"].clone();
    let running = looking(
        "the edited stream runs again",
        || cluster.running(&ALL),
        |running| running.get(&edited).is_some_and(|on| *on != first[&edited]),
    );
    for (path, on) in first.iter().filter(|(path, _)| **path != edited) {
        assert_eq!(running.get(path), Some(on), "{path} was not edited");
    }
    cluster.reached("an edit restarted one stream");
}

fn nothing_restarts_without_weir_or_bridges(cluster: &mut Cluster, before: &Running) {
    // Weir ends in order; a bridge is killed and starts without it. A bridge logs it once.
    let away = "no configuration from Weir";
    let count = |cluster: &Cluster, i: usize| cluster.bridges[i].log().matches(away).count();
    let mut logged = ALL.map(|i| count(cluster, i));
    cluster.weir.terminate();
    cluster.bridges[0].kill();
    logged[0] = count(cluster, 0);
    cluster.bridges[0].start();
    for i in ALL {
        cluster.bridges[i].wait_for_log(away, logged[i] + 1);
    }
    assert_eq!(cluster.running(&ALL), *before, "Weir is away");
    cluster.start_weir();
    cluster.weir.kill();
    cluster.start_weir();
    let reports = |cluster: &Cluster| {
        let list = cluster.weir.get("/streamers").expect(200).json();
        let streamers = list["streamers"].as_array().expect("a list").iter();
        let running = streamers.filter_map(|it| it["stats"]["online_streams"].as_u64());
        running.sum::<u64>()
    };
    looking(
        "all streams are reported again",
        || reports(cluster),
        |sum| *sum == 12,
    );
    let after = cluster.wait_for_all("Weir is back", &ALL);
    assert_eq!(after, *before, "nothing moved or started again");
}

/// The media server starts to play and then puts the viewer to its hook.
fn viewers_are_admitted_by_weir(cluster: &mut Cluster) {
    let backend = json!({"deny_tokens": ["stolen"], "allow_default": true});
    cluster
        .weir
        .put("/auth_backends/viewers", backend)
        .expect(200);
    cluster.save("plain", json!({"on_play": {"url": "auth://viewers"}}));
    looking(
        "a viewer with a token is admitted",
        || picture(&cluster.redirect("plain", "?token=bought")),
        |seen| seen == PICTURE,
    );
    let url = cluster.redirect("plain", "?token=stolen");
    let (address, path) = url["http://".len()..].split_once('/').expect("a path");
    let mut viewer = Client::new(address.parse().expect("an address"));
    // Refused: the connection ends in the middle of the film, which has no end itself.
    if let Err(ClientError::Timeout(_)) = viewer.try_request("GET", &format!("/{path}"), &[], b"") {
        panic!("a viewer with a stolen token plays on");
    }
    cluster.reached("a stolen token was refused");
    cluster.wait_for_all("on_play restarted nothing", &ALL);
}

fn lost_server_loses_no_stream(cluster: &mut Cluster) {
    let at = Instant::now();
    cluster.servers[0].kill();
    cluster.wait_for_all("a killed server's streams run elsewhere", &[1, 2]);
    println!(
        "          {:.1} s after the kill",
        at.elapsed().as_secs_f64()
    );
    // It comes back with its old streams, which run twice until the next list.
    cluster.servers[0].start();
    cluster.wait_for_all("the killed server is back and has streams", &ALL);
    let at = Instant::now();
    cluster.servers[1].signal(Signal::STOP);
    cluster.wait_for_all("a hung server's streams run elsewhere", &[0, 2]);
    println!(
        "          {:.1} s after it hung",
        at.elapsed().as_secs_f64()
    );
    cluster.servers[1].signal(Signal::CONT);
    cluster.wait_for_all("the hung server is back and has streams", &ALL);
    cluster.look_at_pictures();
}

fn all_parts_restart(cluster: &mut Cluster) {
    let places = cluster.places();
    cluster.weir.kill();
    for i in ALL {
        cluster.bridges[i].kill();
        cluster.servers[i].kill();
    }
    for i in ALL {
        cluster.servers[i].start();
        cluster.bridges[i].start();
    }
    let paths = cluster.paths.clone();
    let expected: BTreeMap<String, usize> = NAMES
        .iter()
        .map(|name| {
            let host = HOSTNAMES.iter().position(|host| *host == places[*name]);
            (paths[name].clone(), host.expect("a place"))
        })
        .collect();
    looking(
        "all servers run what was wanted last, without Weir",
        || cluster.running(&ALL),
        |running| {
            let found = running.iter().map(|(path, on)| match &on[..] {
                [(host, _)] => (path.clone(), *host),
                several => (path.clone(), 100 + several.len()),
            });
            found.collect::<BTreeMap<_, _>>() == expected
        },
    );
    cluster.reached("all servers run what was wanted last, without Weir");
    cluster.start_weir();
    cluster.wait_for_all("Weir is back again", &ALL);
    assert_eq!(cluster.places(), places, "nothing moved");
}
