//! Episodes: saving, filters, polling, and complete pages.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weir::testing::state::command::{Command, EntitySave};
use weir::testing::state::entity::{Key, Kind};
use weir::testing::state::event::NewEvent;
use weir::testing::state::node::RenderSettings;
use weir::testing::writer::StateMachine;
use weir::testing::writer::load;
use weir_storage::Store;

use crate::calls::{park, park_request, save_episodes_together, save_node};
use weir_testkit::{
    API_KEY, Client, PREFIX, Response, TestServer, WAIT_MAX, encode_segment, wait_until,
};

/// Saves do not wait for others.
const AT_ONCE: [&str; 2] = ["--episodes-buffer-delay", "0"];
/// A time in the requests of clients.
const MOMENT: u64 = 1_727_274_724_000;
const LONG: &str = "poll_timeout=50";

fn head(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {PREFIX}{path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn episode(media: &str, opened_at: u64) -> Value {
    json!({"media": media, "opened_at": opened_at})
}

fn save(server: &TestServer, id: u64, body: Value) -> u64 {
    let saved = server.put(&format!("/episodes/{id}"), body).expect(200);
    saved.json()["updated_at"].as_u64().expect("a stamp")
}

fn ids(answer: &Response) -> Vec<u64> {
    let body = answer.json();
    let list = body["episodes"].as_array().expect("a list of episodes");
    list.iter()
        .map(|episode| episode["episode_id"].as_u64().expect("a number"))
        .collect()
}

/// Ids of a whole walk, page by page.
fn walk(server: &TestServer, path: &str) -> Vec<u64> {
    let mut all = Vec::new();
    let mut page = server.get(path).expect(200);
    loop {
        all.append(&mut ids(&page));
        let next = page.json()["next"].as_str().map(encode_segment);
        let Some(next) = next else { return all };
        page = server.get(&format!("{path}&cursor={next}")).expect(200);
    }
}

// ---- saving -------------------------------------------------------------------------------------

#[test]
fn every_type_reads_back_as_it_was_saved() {
    let server = TestServer::with(&AT_ONCE);
    let all = json!({
        "media": "harbour/cam1",
        "opened_at": MOMENT,
        "started_at": MOMENT + 5,
        "closed_at": MOMENT + 10,
        "close_reason": "timeout",
        "preview": "/9j/4AAQSkY=",
        "preview_timestamp": MOMENT + 6,
        "frame_preview": "/9j/4AAQSkY=",
        "originator": {"source": "inference", "hostname": "v1"},
        "episode_appearance_timestamps": {
            "inference_timestamp": MOMENT, "central_timestamp": MOMENT + 1,
        },
    });
    let types = [
        ("generic", json!({})),
        ("face", json!({"detections": []})),
        ("vehicle", json!({"license_plate_text": "A1"})),
        ("human", json!({"detections": []})),
        ("context_search", json!({"match_score": 0.5})),
        ("qr_code", json!({"payload": "text"})),
        (
            "door_open",
            json!({"payload": {"door": ["east", null, 4.5]}}),
        ),
    ];
    for (id, (name, own)) in (1_u64..).zip(&types) {
        let mut body = all.clone();
        body["episode_type"] = json!(name);
        let members = own.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(members);
        let stamp = save(&server, id, body.clone());
        body["episode_id"] = json!(id);
        body["updated_at"] = json!(stamp);
        let read = server.get(&format!("/episodes/{id}")).expect(200).json();
        assert_eq!(read, body, "{name}");
        let found = server
            .get(&format!("/episodes?episode_type={name}"))
            .expect(200);
        assert_eq!(found.json()["episodes"], json!([body]), "{name}");
    }
    // Without a type it is a generic one, and the server notes when it came.
    let stamp = save(&server, 100, episode("a", MOMENT));
    let read = server.get("/episodes/100").expect(200).json();
    assert_eq!(read["episode_type"], "generic");
    assert_eq!(
        read["episode_appearance_timestamps"],
        json!({"central_timestamp": stamp})
    );
    server.delete("/episodes/100").expect(204);
    server.get("/episodes/100").expect(404);
    server.delete("/episodes/100").expect(404);
}

#[test]
fn ids_are_exact_over_their_whole_range() {
    let server = TestServer::with(&AT_ONCE);
    let all: [u64; 6] = [
        0,
        9_007_199_254_740_992,
        9_007_199_254_740_993,
        1_722_000_000_000_000_001,
        9_223_372_036_854_775_806,
        9_223_372_036_854_775_807,
    ];
    for id in all {
        let mut body = episode("a", MOMENT);
        body["episode_id"] = json!(id);
        save(&server, id, body);
    }
    for id in all {
        let one = server
            .get(&format!("/episodes?episode_id={id}"))
            .expect(200);
        assert_eq!(ids(&one), [id]);
        assert!(one.text().contains(&format!("\"episode_id\":{id},")));
        let above = server.get(&format!("/episodes?episode_id_gt={id}&sort=episode_id"));
        let expected: Vec<u64> = all.into_iter().filter(|other| *other > id).collect();
        assert_eq!(ids(&above.expect(200)), expected);
    }
    assert_eq!(walk(&server, "/episodes?sort=episode_id&limit=1"), all);
    let mut reversed = walk(&server, "/episodes?sort=-episode_id&limit=2");
    reversed.reverse();
    assert_eq!(reversed, all);
    for bad in ["9223372036854775808", "-1", "1.0", "01", "x", "1e3"] {
        let answer = server.put(&format!("/episodes/{bad}"), episode("a", MOMENT));
        assert_eq!(
            answer.expect(400).errors(),
            ["wrong_format episode_id"],
            "{bad}"
        );
    }
}

#[test]
fn each_save_extends_an_open_episode_with_a_server_stamp() {
    let server = TestServer::with(&AT_ONCE);
    let mut body = episode("a", MOMENT);
    body["updated_at"] = json!(MOMENT + 1000);
    let first = save(&server, 1, body.clone());
    assert!(first > MOMENT + 1000, "a client's clock decides nothing");
    let second = save(&server, 1, body.clone());
    assert!(second > first, "the same copy extends the episode");
    body["updated_at"] = json!(9_999_999_999_999_u64);
    let third = save(&server, 1, body.clone());
    assert!(third > second && third < 9_999_999_999_999);
    body["closed_at"] = json!(MOMENT + 2000);
    let closed = save(&server, 1, body.clone());
    assert_eq!(save(&server, 1, body.clone()), closed, "nothing new");
    body["preview"] = json!("aaaa");
    assert!(
        save(&server, 1, body.clone()) > closed,
        "stamps grow after the end"
    );
}

#[test]
fn episode_is_closed_once() {
    let server = TestServer::with(&AT_ONCE);
    let mut body = episode("a", MOMENT);
    save(&server, 1, body.clone());
    body["closed_at"] = json!(MOMENT + 10);
    save(&server, 1, body.clone());
    for other in [json!(MOMENT + 11), Value::Null] {
        let answer = server.put("/episodes/1", json!({"closed_at": other}));
        assert_eq!(answer.expect(400).errors(), ["immutable_field /closed_at"]);
    }
    // An older copy, sent late, takes nothing back.
    save(&server, 1, episode("a", MOMENT));
    let read = server.get("/episodes/1").expect(200).json();
    assert_eq!(read["closed_at"], MOMENT + 10);
}

#[test]
fn invalid_episodes_are_refused_with_the_reason() {
    let server = TestServer::with(&AT_ONCE);
    let table = [
        (json!({"opened_at": MOMENT}), "missing_required /media"),
        (json!({"media": "a"}), "missing_required /opened_at"),
        (
            json!({"media": "a", "opened_at": 5}),
            "input_out_of_range /opened_at",
        ),
        (
            json!({"media": "a,b", "opened_at": MOMENT}),
            "wrong_format /media",
        ),
        (
            json!({"media": "a", "opened_at": MOMENT, "episode_id": 2}),
            "key_mismatch /episode_id",
        ),
        (
            json!({"media": "a", "opened_at": MOMENT, "originator": {"source": "x"}}),
            "unknown_enum_option /originator/source",
        ),
        (
            json!({"media": "a", "opened_at": MOMENT, "episode_type": "face"}),
            "missing_required /preview",
        ),
    ];
    for (body, expected) in table {
        let answer = server.put("/episodes/1", body.clone()).expect(400);
        assert!(
            answer.errors().iter().any(|error| error == expected),
            "{body}: {:?}",
            answer.errors()
        );
    }
    server.get("/episodes/1").expect(404);
}

// ---- finding ------------------------------------------------------------------------------------

#[test]
fn episodes_are_found_by_stream_type_stamp_and_time() {
    let server = TestServer::with(&AT_ONCE);
    let mut stamps = Vec::new();
    for (id, media, kind) in [
        (5, "b", "human"),
        (4, "a", "face"),
        (3, "a", "human"),
        (2, "c/d", "generic"),
        (1, "a", "door"),
    ] {
        let mut body = episode(media, MOMENT + id);
        body["episode_type"] = json!(kind);
        body["preview"] = json!("aaaa");
        stamps.push(save(&server, id, body));
    }
    let found = |query: &str| ids(&server.get(&format!("/episodes?{query}")).expect(200));
    assert_eq!(found(""), [5, 4, 3, 2, 1], "in the order of their stamps");
    assert_eq!(found("media=a"), [4, 3, 1]);
    assert_eq!(found("media=a,c/d&sort=episode_id"), [1, 2, 3, 4]);
    assert_eq!(found("media=a%2Cb&episode_type=human"), [5, 3]);
    assert_eq!(found("media=nobody"), [0_u64; 0]);
    assert_eq!(found(&format!("updated_at_gt={}", stamps[2])), [2, 1]);
    assert_eq!(found(&format!("updated_at_gt={}&media=a", stamps[2])), [1]);
    assert_eq!(
        found(&format!("opened_at_gte={}&media=a", MOMENT + 3)),
        [4, 3]
    );
    assert_eq!(found("closed_at_is=null&sort=-opened_at&limit=2"), [5, 4]);
    let selected = server
        .get("/episodes?media=b&select=close_reason")
        .expect(200);
    assert_eq!(
        selected.json()["episodes"],
        json!([
            {
                "close_reason": null, "episode_id": 5, "media": "b", "opened_at": MOMENT + 5,
                "updated_at": stamps[0],
            },
        ])
    );
    assert_eq!(walk(&server, "/episodes?media=a,b&limit=1"), [5, 4, 3, 1]);
    // An episode that moves to another stream moves in all answers.
    save(&server, 4, json!({"media": "b"}));
    assert_eq!(found("media=a"), [3, 1]);
    assert_eq!(found("media=b"), [5, 4]);
    server.delete("/episodes/3").expect(204);
    assert_eq!(found("media=a"), [1]);
}

#[test]
fn poll_for_episodes_of_a_stream_ignores_other_streams() {
    let server = TestServer::with(&AT_ONCE);
    let since = save(&server, 1, episode("a", MOMENT));
    let mut poll = park(
        &server,
        &format!("/episodes?updated_at_gt={since}&media=a&{LONG}"),
        "",
    );
    save(&server, 2, episode("b", MOMENT));
    save(&server, 3, episode("a", MOMENT));
    assert_eq!(ids(&poll.response(false).expect(200)), [3]);
}

// ---- saves that wait for others -----------------------------------------------------------------

#[test]
fn buffered_saves_are_committed_together_and_in_order() {
    // Goal: one more than the limit sends all of them; a deletion comes after the save it follows.
    // Method: a delay that no test waits for.
    let server = TestServer::with(&["--episodes-buffer-delay", "100ms", "--io-threads", "1"]);
    save_episodes_together(&server);
    let mut settings = json!({"api_key": API_KEY, "episodes_buffer_delay": 10_000});
    settings["episodes_buffer_limit"] = json!(2);
    server.put("/config", settings).expect(200);
    let body = episode("a", MOMENT).to_string();
    let mut saves: Vec<Client> = (1..=3)
        .map(|id| park_request(&server, &head("PUT", &format!("/episodes/{id}"), &body)))
        .collect();
    let stamps: Vec<Value> = saves
        .iter_mut()
        .map(|save| save.response(false).expect(200).json()["updated_at"].clone())
        .collect();
    assert_eq!(
        stamps,
        [stamps[0].clone(), stamps[0].clone(), stamps[0].clone()]
    );
    let mut saved = park_request(&server, &head("PUT", "/episodes/4", &body));
    server.put("/streams/other", json!({})).expect(200);
    server.delete("/episodes/4").expect(204);
    saved.response(false).expect(200);
    server.get("/episodes/4").expect(404);
    assert_eq!(ids(&server.get("/episodes?sort=episode_id")), [1, 2, 3]);
}

#[test]
fn episodes_that_are_saved_one_after_another_do_not_wait() {
    // Goal: a lone save is committed at once. Method: what another client saves after it does not
    // overtake it, which it would if the episode waited.
    let server = TestServer::with(&["--episodes-buffer-delay", "10s"]);
    for id in 1..=8 {
        let body = episode("a", MOMENT).to_string();
        let request = head("PUT", &format!("/episodes/{id}"), &body);
        let mut saved = park_request(&server, &request);
        let other = server.put("/streams/other", json!({"title": id.to_string()}));
        let other = other.expect(200).json()["updated_at"].as_u64();
        let saved = saved.response(false).expect(200).json()["updated_at"].as_u64();
        assert!(saved.is_some() && saved <= other, "{saved:?} {other:?}");
    }
}

#[test]
fn stop_commits_and_answers_buffered_saves() {
    let mut server = TestServer::with(&["--episodes-buffer-delay", "100ms"]);
    save_episodes_together(&server);
    let settings = json!({"api_key": API_KEY, "episodes_buffer_delay": 10_000});
    server.put("/config", settings).expect(200);
    let body = episode("a", MOMENT).to_string();
    let mut saves: Vec<Client> = (1..=5)
        .map(|id| park_request(&server, &head("PUT", &format!("/episodes/{id}"), &body)))
        .collect();
    server.signal(weir_testkit::Signal::TERM);
    for save in &mut saves {
        save.response(false).expect(200);
    }
    assert!(server.wait().success());
    server.start();
    assert_eq!(
        ids(&server.get("/episodes?sort=episode_id")),
        [1, 2, 3, 4, 5]
    );
}

// ---- following ----------------------------------------------------------------------------------

/// The copies of a reader: the stamp of each episode and a number that its only writer counts up.
type Copies = BTreeMap<u64, (u64, u64)>;

/// A reader that polls for everything newer than it has seen.
struct EpisodeFollower {
    client: Client,
    since: u64,
    copy: Copies,
    limit: usize,
}

impl EpisodeFollower {
    fn query(&mut self, query: &str) -> Value {
        self.client
            .send(head("GET", &format!("/episodes?{query}"), "").as_bytes());
        self.client.response(false).expect(200).json()
    }

    /// Follows until it has seen the save numbered `last` of the episode 0.
    fn follow(&mut self, last: u64) {
        while self.copy.get(&0).is_none_or(|(_, n)| *n < last) {
            let gt = self.since;
            let limit = self.limit;
            let question =
                format!("updated_at_gt={gt}&limit={limit}&select=preview_timestamp&{LONG}");
            let mut page = self.query(&question);
            let mut end = None;
            loop {
                for episode in page["episodes"].as_array().expect("episodes") {
                    let at = episode["updated_at"].as_u64().expect("a stamp");
                    let n = episode["preview_timestamp"].as_u64().expect("a count");
                    let id = episode["episode_id"].as_u64().expect("an id");
                    assert!(at > gt, "forward: {at} is not above {gt}");
                    assert!(end <= Some(at), "in the order of stamps");
                    end = Some(at);
                    let seen = self.copy.entry(id).or_default();
                    assert!(*seen <= (at, n), "{id} went back from {seen:?} to {at} {n}");
                    *seen = (at, n);
                }
                let Some(next) = page["next"].as_str().map(encode_segment) else {
                    break;
                };
                page = self.query(&format!("{question}&cursor={next}"));
            }
            self.since = self.since.max(end.unwrap_or(0));
        }
    }
}

#[test]
fn followers_miss_no_episode_despite_clocks_and_restarts() {
    // Goal: complete, forward and resumable (a follower of stamps ends with the stored state).
    // Method: writers whose clocks are years apart send full copies with their own stamps, groups
    // share a stamp, followers read pages smaller than a group; between the rounds the server is
    // killed or stopped, and readers go on from the largest stamp they have seen.
    const WRITERS: u64 = 4;
    const SAVES: u64 = 60;
    let mut server = TestServer::with(&["--io-threads", "2", "--episodes-buffer-delay", "5ms"]);
    let mut readers: Vec<(usize, u64, Copies)> = [1, 3, 50, 1000]
        .map(|limit| (limit, 0, Copies::new()))
        .to_vec();
    for round in 0..3 {
        let now = &server;
        readers = thread::scope(|scope| {
            let followers: Vec<_> = readers
                .drain(..)
                .map(|(limit, since, copy)| {
                    let mut follower = EpisodeFollower {
                        client: now.connect(),
                        since,
                        copy,
                        limit,
                    };
                    scope.spawn(move || {
                        follower.follow(MOMENT + round);
                        (follower.limit, follower.since, follower.copy)
                    })
                })
                .collect();
            let writers: Vec<_> = (1..=WRITERS)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut client = now.connect();
                        for n in 0..SAVES {
                            let id = writer * 1000 + n % 7;
                            let count = MOMENT + round * SAVES + n;
                            // Each an hour to years away from the others, some backwards.
                            let clock = MOMENT / 1000 * (900 + writer * 50) - n * 10_000;
                            let body = json!({
                                "media": format!("cam{}", n % 3),
                                "opened_at": MOMENT,
                                "updated_at": clock,
                                "preview_timestamp": count,
                            });
                            let path = format!("/episodes/{id}");
                            client.send(head("PUT", &path, &body.to_string()).as_bytes());
                            client.response(false).expect(200);
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("the writer wrote");
            }
            let mut last = episode("last", MOMENT);
            last["preview_timestamp"] = json!(MOMENT + round);
            save(now, 0, last);
            followers
                .into_iter()
                .map(|follower| follower.join().expect("the follower is content"))
                .collect()
        });
        let list = server
            .get("/episodes?limit=1000&select=preview_timestamp")
            .expect(200)
            .json();
        let stored: Copies = list["episodes"]
            .as_array()
            .expect("episodes")
            .iter()
            .map(|episode| {
                let number = |name: &str| episode[name].as_u64().expect("a number");
                (
                    number("episode_id"),
                    (number("updated_at"), number("preview_timestamp")),
                )
            })
            .collect();
        assert_eq!(stored.len() as u64, WRITERS * 7 + 1);
        for (limit, _, copy) in &readers {
            assert_eq!(*copy, stored, "pages of {limit}");
        }
        if round == 0 {
            server.kill();
            server.start();
        } else {
            server.restart();
        }
    }
}

// ---- what streamers keep ------------------------------------------------------------------------

#[test]
fn streamer_gets_the_episodes_of_all_its_streams() {
    let server = TestServer::with(&AT_ONCE);
    save_node(&server, "s1");
    let mut stamps = BTreeMap::new();
    for (id, media, opened, closed) in [
        (1, "a", 10, Some(20)),
        (2, "b/c", 5, None),
        (3, "a", 30, None),
        (4, "b/c", 20, Some(40)),
        (5, "other", 1, Some(2)),
    ] {
        let mut body = episode(media, MOMENT + opened);
        body["preview"] = json!("aaaa");
        if let Some(closed) = closed {
            body["closed_at"] = json!(MOMENT + closed);
        }
        stamps.insert(id, save(&server, id, body));
    }
    let found = |query: &str| {
        let path = format!("/streamers/s1/episodes?{query}");
        ids(&server.get(&path).expect(200))
    };
    assert_eq!(found("media=a,b/c"), [2, 1, 4, 3], "by their begin");
    assert_eq!(found("media=b%2Fc&host=s1"), [2, 4]);
    assert_eq!(found("media=nobody"), [0_u64; 0]);
    let before = |at: u64| format!("media=a,b/c&opened_at_lt={}", MOMENT + at);
    assert_eq!(found(&before(20)), [2, 1]);
    let after = |at: u64| format!("media=a,b/c&closed_at_gt={}", MOMENT + at);
    assert_eq!(found(&after(20)), [2, 4, 3], "what goes on is kept");
    assert_eq!(found(&after(1_000_000)), [2, 3]);
    // Only the fields that streamers need.
    let body = server
        .get("/streamers/s1/episodes?media=a")
        .expect(200)
        .json();
    assert_eq!(
        body["episodes"],
        json!([
            {
                "closed_at": MOMENT + 20, "episode_id": 1, "media": "a", "opened_at": MOMENT + 10,
                "updated_at": stamps[&1],
            },
            {"episode_id": 3, "media": "a", "opened_at": MOMENT + 30, "updated_at": stamps[&3]},
        ])
    );
    assert_eq!(
        (&body["next"], &body["estimated_count"]),
        (&Value::Null, &json!(2))
    );
    let selected = server
        .get("/streamers/s1/episodes?media=a&select=opened_at&sort=-episode_id&limit=1")
        .expect(200);
    assert_eq!(
        selected.json()["episodes"],
        json!([{"episode_id": 3, "media": "a", "opened_at": MOMENT + 30, "updated_at": stamps[&3]}])
    );
}

#[test]
fn episodes_to_keep_are_sent_completely_or_not_at_all() {
    let server = TestServer::with(&AT_ONCE);
    save_node(&server, "s1");
    save(&server, 1, episode("a", MOMENT));
    let refused = |query: &str, status: u16, error: &str| {
        let answer = server.get(&format!("/streamers/s1/episodes{query}"));
        assert_eq!(answer.expect(status).errors(), [error], "{query}");
    };
    refused("", 400, "missing_required media");
    refused("?media=", 400, "missing_required media");
    refused("?media=a&media=b", 400, "duplicate_item media");
    refused(
        "?media=a&opened_at_lt=1645012045",
        400,
        "input_out_of_range opened_at_lt",
    );
    refused(
        "?media=a&closed_at_gt=soon",
        400,
        "not_integer closed_at_gt",
    );
    refused("?media=a&cursor=x", 400, "bad_cursor cursor");
    refused("?media=a,null", 501, "episodes_unknown");
    let unknown = server.get("/streamers/nobody/episodes?media=a").expect(404);
    assert_eq!(unknown.errors(), ["streamer_not_found"]);
}

#[test]
fn episode_pages_of_a_streamer_come_from_one_revision() {
    // Goal: no page is from another revision than the first. Method: between pages episodes are
    // added, moved and deleted on both sides.
    let server = TestServer::with(&AT_ONCE);
    save_node(&server, "s1");
    let all: Vec<u64> = (1..=20).collect();
    for id in &all {
        save(
            &server,
            *id,
            episode(["a", "b"][(*id % 2) as usize], MOMENT + id * 10),
        );
    }
    let path = "/streamers/s1/episodes?media=a,b&limit=6";
    let mut seen = Vec::new();
    let mut page = server.get(path).expect(200);
    loop {
        seen.append(&mut ids(&page));
        let n = seen.len() as u64;
        save(&server, 1000 + n, episode("a", MOMENT + n * 10 + 5));
        save(&server, 20, episode("a", MOMENT + 1));
        save(&server, 1, episode("b", MOMENT + 500));
        if n == 12 {
            server.delete("/episodes/15").expect(204);
        }
        let body = page.json();
        assert_eq!(body["estimated_count"], 20);
        let Some(next) = body["next"].as_str().map(encode_segment) else {
            break;
        };
        page = server.get(&format!("{path}&cursor={next}")).expect(200);
    }
    assert_eq!(seen, all);
}

#[test]
fn streamer_key_grants_access_to_its_own_episodes() {
    use sha1::{Digest as _, Sha1};
    let server = TestServer::with(&AT_ONCE);
    save_node(&server, "s1");
    save_node(&server, "s2");
    save(&server, 1, episode("a", MOMENT));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let hash: String = Sha1::digest(format!("{now}:key"))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let cluster = format!("Cluster {now}:{hash}");
    let call = |path: &str| server.call_as("GET", path, Some(&cluster));
    assert_eq!(
        ids(&call("/streamers/s1/episodes?media=a").expect(200)),
        [1]
    );
    let answer = server.call_as("GET", "/streamers/s1/episodes?media=a", None);
    answer.expect(401);
    assert_ne!(call("/episodes").status, 200);
}

// ---- SRT ports ----------------------------------------------------------------------------------

#[test]
fn srt_port_resolves_to_the_stream_of_the_node() {
    let server = TestServer::new();
    for host in ["s1", "s2", "s3"] {
        save_node(&server, host);
    }
    let stream = |name: &str, body: Value| {
        server.put(&format!("/streams/{name}"), body).expect(200);
    };
    stream(
        "sports/live",
        json!({
            "srt_publish": {"port": 9000}, "dvr": {"root": "/d"},
            "layout": {"ingest": "s1", "dvr_backups": ["s2"]},
        }),
    );
    stream(
        "b",
        json!({"srt2_publish": {"port": 9001}, "layout": {"ingest": "s1"}}),
    );
    stream(
        "off",
        json!({"srt_publish": {"port": 9002}, "disabled": true, "layout": {"ingest": "s1"}}),
    );
    let resolve = |path: &str| server.get(&format!("/streamers/{path}"));
    for (path, name) in [
        ("s1/srt_port_resolve/9000?mode=publish", "sports/live"),
        ("s1/srt_port_resolve/9000?mode=play", "sports/live"),
        ("s2/srt_port_resolve/9000?mode=play", "sports/live"),
        ("s1/srt_port_resolve/9001?mode=publish", "b"),
    ] {
        let answer = resolve(path).expect(200);
        assert_eq!(answer.text(), name, "{path}");
        let kind = answer.header("content-type").expect("a type");
        assert!(kind.starts_with("text/plain"), "{kind}");
    }
    for path in [
        "s2/srt_port_resolve/9000?mode=publish",
        "s3/srt_port_resolve/9000?mode=play",
        "s1/srt_port_resolve/9002?mode=publish",
        "s1/srt_port_resolve/9003?mode=publish",
    ] {
        assert_eq!(
            resolve(path).expect(404).errors(),
            ["stream_not_found"],
            "{path}"
        );
    }
    let unknown = resolve("nobody/srt_port_resolve/9000?mode=play").expect(404);
    assert_eq!(unknown.errors(), ["streamer_not_found"]);
    for (path, error) in [
        ("s1/srt_port_resolve/x?mode=play", "not_integer port"),
        (
            "s1/srt_port_resolve/65536?mode=play",
            "input_out_of_range port",
        ),
        (
            "s1/srt_port_resolve/9000?mode=both",
            "unknown_enum_option mode",
        ),
        ("s1/srt_port_resolve/9000", "missing_required mode"),
    ] {
        assert_eq!(resolve(path).expect(400).errors(), [error], "{path}");
    }
    resolve("s1/srt_port_resolve/9000/x?mode=play").expect(404);
    server
        .delete("/streamers/s1/srt_port_resolve/9000")
        .expect(405);
}

// ---- what is in the archive ---------------------------------------------------------------------

/// A streamer that answers every request with one body, for as long as the test runs. Its requests
/// are sent to the channel.
fn fake_streamer(body: String) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = String::new();
            let mut lines = BufReader::new(&stream);
            while !head.ends_with("\r\n\r\n") {
                if lines.read_line(&mut head).is_ok_and(|length| length == 0) {
                    break;
                }
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes());
            if sender.send(head).is_err() {
                return;
            }
        }
    });
    (address, received)
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The call belongs to the trace of the request for which it was made.
fn assert_is_of_trace(head: &str) {
    let head = head.to_lowercase();
    let trace_id = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
    for field in [
        format!("\r\ntraceparent: {TRACEPARENT}\r\n"),
        format!("\r\nx-trace-id: {trace_id}\r\n"),
    ] {
        assert!(head.contains(&field), "{field:?} is not in {head}");
    }
}

#[test]
fn waiting_list_of_episodes_passes_its_trace_on() {
    let server = TestServer::with(&[&AT_ONCE[..], &["--outbound-loopback"]].concat());
    let ranges = json!({"ranges": [{"opened_at": MOMENT, "closed_at": MOMENT + 60_000}]});
    let (address, received) = fake_streamer(ranges.to_string());
    let api_url = format!("http://{address}");
    let node = json!({"role": "streamer", "cluster_key": "key", "api_url": api_url});
    server.put("/streamers/s1", node).expect(200);
    let stream = json!({"layout": {"ingest": "s1"}});
    server.put("/streams/a", stream).expect(200);
    let path = format!("/episodes?dvr_presence_check=true&{LONG}");
    let mut waiting = park(&server, &path, &format!("traceparent: {TRACEPARENT}\r\n"));
    save(&server, 1, episode("a", MOMENT));
    let answer = waiting.response(false).expect(200).json();
    assert_eq!(answer["episodes"][0]["has_dvr"], true, "{answer}");
    assert_is_of_trace(&received.recv_timeout(WAIT_MAX).expect("it was queried"));
}

#[test]
fn dvr_ranges_are_queried_from_the_streamers() {
    let server = TestServer::with(&[&AT_ONCE[..], &["--outbound-loopback"]].concat());
    let ranges = json!({"ranges": [
        {"opened_at": MOMENT, "closed_at": MOMENT + 60_000},
        {"from": MOMENT / 1000 + 3600, "duration": 60},
    ]});
    let (address, received) = fake_streamer(ranges.to_string());
    server
        .put(
            "/streamers/s1",
            json!({
                "role": "streamer", "cluster_key": "key", "api_url": format!("http://{address}"),
            }),
        )
        .expect(200);
    for (name, layout) in [("sports/a", json!({"ingest": "s1"})), ("b", Value::Null)] {
        let body = json!({"layout": layout});
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let hour = 3_600_000;
    for (id, media, opened, closed) in [
        (1, "sports/a", 1000, 59_000),
        (2, "sports/a", 50_000, 90_000),
        (3, "sports/a", 100_000, 120_000),
        (4, "sports/a", hour, hour + 30_000),
        (5, "b", 1000, 2000),
        (6, "unknown", 1000, 2000),
    ] {
        let mut body = episode(media, MOMENT + opened);
        body["closed_at"] = json!(MOMENT + closed);
        save(&server, id, body);
    }
    let sent = [("traceparent", TRACEPARENT)];
    let path = "/episodes?dvr_presence_check=true&sort=episode_id&select=media";
    let answer = server.call_with("GET", path, &sent, b"").expect(200).json();
    let shown: Vec<(&Value, &Value)> = answer["episodes"]
        .as_array()
        .expect("episodes")
        .iter()
        .map(|episode| (&episode["has_dvr"], &episode["recording_status"]))
        .collect();
    let is = |has: bool, status: &str| (json!(has), json!(status));
    let expected = [
        is(true, "fully_recorded"),
        is(true, "partially_recorded"),
        is(false, "not_recorded"),
        is(true, "fully_recorded"),
        (Value::Null, Value::Null),
        (Value::Null, Value::Null),
    ];
    assert_eq!(
        shown,
        expected
            .iter()
            .map(|(has, status)| (has, status))
            .collect::<Vec<_>>()
    );
    assert_eq!(answer["estimated_count"], 6);
    // One call for all episodes of a stream, with the cluster key.
    let head = received.recv_timeout(WAIT_MAX).expect("it was queried");
    assert!(
        head.starts_with("GET /streamer/api/v3/streams/sports%2Fa/dvr/ranges "),
        "{head}"
    );
    assert!(
        head.to_lowercase().contains("\r\nauthorization: cluster "),
        "{head}"
    );
    assert_is_of_trace(&head);
    assert!(received.try_recv().is_err(), "queried twice");
    let one = server
        .call_with("GET", "/episodes/2?dvr_presence_check=true", &sent, b"")
        .expect(200)
        .json();
    assert_is_of_trace(&received.recv_timeout(WAIT_MAX).expect("it was queried"));
    assert_eq!(one["recording_status"], "partially_recorded");
    let plain = server.get("/episodes/2").expect(200).json();
    assert_eq!(plain.get("has_dvr"), None);
    let waiting = format!(
        "/episodes?updated_at_gt={}&dvr_presence_check=true&{LONG}",
        one["updated_at"]
    );
    assert_eq!(ids(&server.get(&waiting).expect(200)), [3, 4, 5, 6]);
    for wrong in [
        "/episodes?dvr_presence_check=maybe",
        "/episodes/2?dvr_presence_check=1",
    ] {
        let answer = server.get(wrong).expect(400);
        assert_eq!(answer.errors(), ["not_boolean dvr_presence_check"]);
    }
}

#[test]
fn failed_dvr_query_leaves_the_response_unchanged() {
    let server = TestServer::with(&[&AT_ONCE[..], &["--outbound-loopback"]].concat());
    let (address, _heard) = fake_streamer("no list of times".to_owned());
    server
        .put(
            "/streamers/s1",
            json!({
                "role": "streamer", "cluster_key": "key", "api_url": format!("http://{address}"),
            }),
        )
        .expect(200);
    server
        .put("/streams/a", json!({"layout": {"ingest": "s1"}}))
        .expect(200);
    save(&server, 1, episode("a", MOMENT));
    let plain = server.get("/episodes/1").expect(200).json();
    let checked = server
        .get("/episodes/1?dvr_presence_check=true")
        .expect(200);
    assert_eq!(checked.json(), plain);
}

// ---- retention ----------------------------------------------------------------------------------

/// A store with an episode that was closed and last saved 100 days ago, whose newest stamp is of
/// `newest` ago.
fn store_with_old_episode(directory: &Path, newest: Duration) {
    let options = weir_storage::Options::default();
    let (store, opened) = Store::open(directory, &options).expect("an empty store");
    let state = load(&store, &opened, RenderSettings::default()).expect("loads");
    let mut machine = StateMachine::new(state, store);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is after 1970");
    let at = |age: Duration| now.saturating_sub(age).as_millis() as u64;
    let old = at(Duration::from_hours(100 * 24));
    let body = format!(r#"{{"media":"a","opened_at":{old},"closed_at":{old}}}"#);
    let body = weir::testing::json::parse(body.as_bytes()).expect("JSON");
    let save = EntitySave::from_body(Kind::Episode, Key::Number(1), body, "");
    let save = Command::SaveEntity(save.expect("an episode"));
    machine.batch(vec![save], old).expect("commits");
    let events = vec![NewEvent::new("server_started")];
    machine
        .batch(vec![Command::AppendEvents { events }], at(newest))
        .expect("commits");
}

#[test]
fn episodes_expire_unless_the_clock_jumped() {
    // Method: stores that were filled long ago. On one the clock goes on where the stamps end; on
    // the other it is 60 days further, as after a jump.
    let hour = Duration::from_hours(1);
    let jumped = TestServer::on(|dir| store_with_old_episode(dir, 60 * 24 * hour), &[]);
    let shown = jumped
        .get(&format!("/events?event=clock_doubted&{LONG}"))
        .expect(200)
        .json();
    let ahead = shown["events"][0]["ahead_ms"].as_u64().expect("a time");
    assert!((59..61).contains(&(ahead / 1000 / 3600 / 24)), "{shown}");
    let steady = TestServer::on(|dir| store_with_old_episode(dir, hour), &[]);
    let look = || steady.get("/episodes/1").status;
    wait_until("the old episode expires", look, |status| *status != 200);
    let doubts = steady.get("/events?event=clock_doubted").json();
    assert_eq!(doubts["estimated_count"], 0, "{doubts}");
    // It has looked as often by now.
    jumped.get("/episodes/1").expect(200);
    let mut jumped = jumped;
    jumped.kill();
    jumped.start();
    let again = format!(
        "/events?event=clock_doubted&event_id_gt={}&{LONG}",
        shown["events"][0]["event_id"]
    );
    assert_eq!(jumped.get(&again).expect(200).json()["estimated_count"], 1);
    jumped.get("/episodes/1").expect(200);
}

// ---- automatic episodes -------------------------------------------------------------------------

#[test]
fn publication_is_recorded_as_an_episode() {
    // Method: a streamer reports; what the server makes of it is waited for, not for a time.
    let server = TestServer::with(&AT_ONCE);
    save_node(&server, "s1");
    for (name, url) in [("a", "publish://"), ("pulled", "rtsp://h/s")] {
        let body = json!({
            "inputs": [{"url": url}],
            "autogenerated_episodes_close_timeout": 1,
            "layout": {"ingest": "s1"},
        });
        server.put(&format!("/streams/{name}"), body).expect(200);
    }
    let report = |opened_at: Value| {
        let stream = |name: &str| {
            json!({
                "name": name, "status": "running", "alive": true, "opened_at": opened_at,
            })
        };
        let body = json!({"streams": [stream("a"), stream("pulled")]});
        server.put("/streamers/s1/stats", body).expect(204);
    };
    report(json!(MOMENT));
    let begun = server.get(&format!("/episodes?{LONG}")).expect(200).json();
    assert_eq!(begun["estimated_count"], 1, "{begun}");
    let episode = &begun["episodes"][0];
    assert_eq!(
        (&episode["media"], &episode["opened_at"]),
        (&json!("a"), &json!(MOMENT))
    );
    assert_eq!(episode.get("closed_at"), None, "{episode}");
    report(Value::Null);
    let closed = server
        .get(&format!("/episodes?closed_at_is_not=null&{LONG}"))
        .expect(200)
        .json();
    let ended = &closed["episodes"][0];
    assert_eq!(ended["episode_id"], episode["episode_id"]);
    assert_eq!(ended["close_reason"], "timeout");
    assert!(ended["closed_at"].as_u64() > Some(MOMENT), "{ended}");
}

#[test]
fn detections_of_vehicles_are_checked_by_their_class() {
    let server = TestServer::with(&["--episodes-buffer-delay", "0"]);
    let save = |detection: Value| {
        let body = json!({
            "media": "a", "opened_at": MOMENT, "episode_type": "vehicle", "preview": "AAA=",
            "detections": [{"object_class": "vehicle", "detected_at": MOMENT}, detection],
        });
        server.put("/episodes/1", body)
    };
    for (detection, error) in [
        // Members that only one form has.
        (
            json!({"object_class": "license_plate", "detected_at": MOMENT, "plate_text": 5}),
            "not_string /detections/1/plate_text",
        ),
        (
            json!({"object_class": "vehicle", "detected_at": MOMENT, "purpose": 5}),
            "not_string /detections/1/purpose",
        ),
        // Members that both have.
        (
            json!({"object_class": "vehicle", "detected_at": 5}),
            "input_out_of_range /detections/1/detected_at",
        ),
        (
            json!({"object_class": "license_plate"}),
            "missing_required /detections/1/detected_at",
        ),
        (
            json!({"detected_at": MOMENT}),
            "discriminator_missing /detections/1/object_class",
        ),
        (
            json!({"object_class": "boat", "detected_at": MOMENT}),
            "unknown_enum_option /detections/1/object_class",
        ),
    ] {
        assert_eq!(
            save(detection.clone()).expect(400).errors(),
            [error],
            "{detection}"
        );
    }
    // A member of the other form is unknown.
    let plate = json!({"object_class": "license_plate", "detected_at": MOMENT, "purpose": 5});
    let saved = save(plate).expect(200).json();
    assert_eq!(saved["detections"][1].get("purpose"), None, "{saved}");
    let face = json!({"object_class": "face", "detected_at": MOMENT});
    save(face).expect(200);
}
