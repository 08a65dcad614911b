//! Kills in the middle of traffic: everything acknowledged is there, nothing is half there, and no
//! streamer ever receives a shortened answer.
//!
//! A kill is `SIGKILL`; the moment is chosen by the number of acknowledgements, not by a clock, and
//! every seventh comes while the program starts. It does not test the fsync (the page cache
//! outlives the process): power cuts are `storage`'s tests. `WEIR_KILLS=10000` kills that often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::calls::{lay_out, save_node};
use crate::restart::request;
use weir_testkit::{API_KEY, Client, ClientError, PREFIX, TestServer};

/// The acknowledged and the attempted value of one writer.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    sent: u64,
    acknowledged: u64,
}

const WRITERS: usize = 8;
const BATCH: usize = 20;

/// Writes numbered values until the server is gone: single streams, batches with one tag, and a
/// stream that is deleted and created in turns.
fn write(
    address: SocketAddr,
    writer: usize,
    known: &mut BTreeMap<String, Known>,
    n: &mut u64,
    acknowledged: &mpsc::Sender<u64>,
) -> Result<(), ClientError> {
    let mut client = Client::connect(address).map_err(ClientError::Io)?;
    loop {
        *n += 1;
        let (what, method, path, body) = match *n % 4 {
            0 => {
                let items: Vec<Value> = (0..BATCH)
                    .map(|i| {
                        json!({
                            "name": format!("w{writer}/batch/{i}"), "comment": n.to_string(),
                        })
                    })
                    .collect();
                (
                    "batch".to_owned(),
                    "PUT",
                    "/streams/batch".to_owned(),
                    json!(items),
                )
            }
            1 => {
                let what = "comes-and-goes".to_owned();
                let path = format!("/streams/w{writer}/{what}");
                // An odd round saves, an even one deletes; another deletion is answered with 404.
                if (*n / 4).is_multiple_of(2) {
                    (what, "PUT", path, json!({"comment": n.to_string()}))
                } else {
                    (what, "DELETE", path, Value::Null)
                }
            }
            _ => {
                let what = format!("single-{}", *n % 7);
                let path = format!("/streams/w{writer}/{what}");
                (what, "PUT", path, json!({"comment": n.to_string()}))
            }
        };
        let entry = known.entry(what).or_default();
        entry.sent = *n;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = request(&mut client, method, &path, &body)?;
        let status = answer.status;
        assert!(
            matches!(status, 200 | 204) || (method == "DELETE" && status == 404),
            "{method} {path}: {status} {}",
            answer.text()
        );
        entry.acknowledged = *n;
        let stamp = (status == 200).then(|| answer.json()["updated_at"].as_u64());
        let _ = acknowledged.send(stamp.flatten().unwrap_or(0));
    }
}

/// Streams of the streamer that polls.
const FIXED: usize = 30;

/// Reads all streams until the server is gone. Each batch is whole in every list.
fn read(address: SocketAddr, lists: &AtomicU64) -> Result<(), ClientError> {
    let mut client = Client::connect(address).map_err(ClientError::Io)?;
    loop {
        let path = "/streams?select=name,comment&limit=10000";
        let answer = request(&mut client, "GET", path, "")?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        whole_batches(&stored(&answer.json()));
        lists.fetch_add(1, Ordering::Relaxed);
    }
}

/// Saves a stream of the polling streamer until the server is gone.
fn edit(address: SocketAddr, name: &str) -> Result<(), ClientError> {
    let mut client = Client::connect(address).map_err(ClientError::Io)?;
    for n in 0.. {
        let body = json!({"title": n.to_string()}).to_string();
        request(&mut client, "PUT", &format!("/streams/{name}"), &body)?;
    }
    Ok(())
}

/// Polls as a streamer until the server is gone, over kills with the tag it had.
fn poll(address: SocketAddr, tag: &mut String, answers: &AtomicU64) -> Result<(), ClientError> {
    let mut client = Client::connect(address).map_err(ClientError::Io)?;
    loop {
        let path = format!("{PREFIX}/streamers/fixed/streams?poll_timeout=20");
        let bearer = format!("Bearer {API_KEY}");
        let fields = [
            ("Authorization", bearer.as_str()),
            ("If-None-Match", tag.as_str()),
        ];
        let answer = client.try_request("GET", &path, &fields, b"")?;
        if answer.status == 304 {
            continue;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        let count = answer.json()["streams"].as_array().map(Vec::len);
        assert_eq!(count, Some(FIXED), "a shortened answer: {}", answer.text());
        answers.fetch_add(1, Ordering::Relaxed);
        *tag = answer.header("etag").expect("a tag").to_owned();
    }
}

/// The number and the stamp of each stream of a list.
fn stored(list: &Value) -> BTreeMap<String, (u64, u64)> {
    let streams = list["streams"].as_array().expect("streams").iter();
    let with_number = streams.filter_map(|stream| {
        let n = stream["comment"].as_str()?.parse().expect("a number");
        let at = stream["updated_at"].as_u64().unwrap_or(0);
        Some((stream["name"].as_str().expect("a name").to_owned(), (n, at)))
    });
    with_number.collect()
}

/// The number that all streams of the batch of each writer have.
fn whole_batches(stored: &BTreeMap<String, (u64, u64)>) -> Vec<Option<u64>> {
    let batch_of = |writer: usize| {
        let number = |i| stored.get(&format!("w{writer}/batch/{i}")).map(|(n, _)| *n);
        let found: BTreeSet<Option<u64>> = (0..BATCH).map(number).collect();
        assert_eq!(
            found.len(),
            1,
            "a part of a batch of writer {writer}: {found:?}"
        );
        found.into_iter().next().flatten()
    };
    (0..WRITERS).map(batch_of).collect()
}

/// Compares what is stored with what a writer knows, which is certain from then on.
fn check(
    stored: &BTreeMap<String, (u64, u64)>,
    batch: Option<u64>,
    writer: usize,
    known: &mut BTreeMap<String, Known>,
) {
    for (what, Known { sent, acknowledged }) in known {
        let found = match what.as_str() {
            "batch" => batch,
            _ => stored.get(&format!("w{writer}/{what}")).map(|(n, _)| *n),
        };
        // Saved where (n / 4) is even, gone where it is odd.
        let is_saved = |n: u64| n > 0 && (what != "comes-and-goes" || (n / 4).is_multiple_of(2));
        let is_found = |n: &u64| is_saved(*n).then_some(*n) == found;
        let Some(certain) = [*acknowledged, *sent].into_iter().find(is_found) else {
            panic!("writer {writer}, {what}: {found:?} is none of {acknowledged} and {sent}");
        };
        (*acknowledged, *sent) = (certain, certain);
    }
}

#[test]
fn acknowledged_changes_survive_kills_in_full() {
    let kills =
        std::env::var("WEIR_KILLS").map_or(300_usize, |kills| kills.parse().expect("a number"));
    let mut server = TestServer::with(&["--io-threads", "2"]);
    save_node(&server, "fixed");
    let fixed: Vec<String> = (0..FIXED).map(|i| format!("fixed/{i}")).collect();
    for name in &fixed {
        server
            .put(&format!("/streams/{name}"), json!({"title": "0"}))
            .expect(200);
    }
    lay_out(
        &server,
        &fixed
            .iter()
            .map(|name| (name.as_str(), "fixed"))
            .collect::<Vec<_>>(),
    );
    let mut writers: Vec<(BTreeMap<String, Known>, u64)> = vec![Default::default(); WRITERS];
    let (mut stamp_max, mut tag) = (0, "\"none\"".to_owned());
    let (lists, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    for round in 0..kills {
        if round % 7 == 6 {
            // It has greeted, and may still be filling its tables.
            server.kill();
            server.start();
        }
        let address = server.address();
        thread::scope(|scope| {
            let (acknowledged, acknowledgements) = mpsc::channel();
            for (writer, (known, n)) in writers.iter_mut().enumerate() {
                let acknowledged = acknowledged.clone();
                // It ends when the connection does.
                scope.spawn(move || write(address, writer, known, n, &acknowledged));
            }
            drop(acknowledged);
            scope.spawn(|| read(address, &lists));
            scope.spawn(|| poll(address, &mut tag, &answers));
            scope.spawn(|| edit(address, &fixed[round % FIXED]));
            for (count, stamp) in acknowledgements.iter().enumerate() {
                stamp_max = stamp_max.max(stamp);
                if count == 10 + (37 * round) % 241 {
                    server.kill();
                }
            }
        });
        server.start();
        let list = server.get("/streams?limit=10000").expect(200).json();
        let stored = stored(&list);
        let batches = whole_batches(&stored);
        for (writer, (known, _)) in writers.iter_mut().enumerate() {
            check(&stored, batches[writer], writer, known);
        }
        // Stamps of acknowledgements, and of everything stored, are below those written next.
        let stamps = stored.values().map(|(_, at)| *at);
        stamp_max = stamps.max().unwrap_or(0).max(stamp_max);
        let probe = json!({"comment": round.to_string()});
        let next = server.put("/streams/probe", probe).expect(200).json();
        let next = next["updated_at"].as_u64().expect("a stamp");
        assert!(next > stamp_max, "{next} after {stamp_max}");
        stamp_max = next;
    }
    let (lists, answers) = (lists.into_inner(), answers.into_inner());
    assert!(
        lists >= kills as u64 && answers >= kills as u64,
        "{lists} {answers}"
    );
    assert!(server.terminate().success());
}
