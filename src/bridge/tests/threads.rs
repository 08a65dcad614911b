//! What the threads of a bridge do with each other's news.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::caller::CallFault;
use super::super::central::Central;
use super::super::desired::{Wanted, WantedInput, WantedStream};
use super::super::kept::KeptFile;
use super::super::kind::{ListedStream, MediaServer, ServerMeasure, ServerNeeds, StreamCall};
use super::super::liveness::{LifeSign, ServerLife};
use super::super::plan::{Owned, Planner};
use super::super::poll::{PAUSE_MAX, PAUSE_MIN, RetryPause};
use super::super::prober::MediaPort;
use super::super::shared::BridgeShared;
use super::super::watcher::LifeBook;
use super::super::worker::{Identity, ServerHandle, Worker};
use super::{TestRules, settings};

/// A server that does what it is called to do. With each call, Weir has other news.
struct NewsServer {
    shared: Arc<BridgeShared>,
    streams: BTreeMap<Box<str>, ListedStream>,
    calls: Arc<Mutex<Vec<String>>>,
    /// The lists that arrive during the next calls, last first.
    lists: Vec<Wanted>,
}

impl MediaServer for NewsServer {
    fn probe(&mut self) -> Result<Option<Box<str>>, CallFault> {
        Ok(None)
    }

    fn list(&mut self) -> Result<BTreeMap<Box<str>, ListedStream>, CallFault> {
        Ok(self.streams.clone())
    }

    fn apply(&mut self, call: &StreamCall) -> Result<(), CallFault> {
        self.calls.lock().push(call.to_string());
        match call {
            StreamCall::Put { native, .. } => {
                self.streams.insert(native.clone(), ListedStream::default());
            }
            StreamCall::Remove { native } => drop(self.streams.remove(native)),
        }
        if let Some(list) = self.lists.pop() {
            self.shared.put_answer(1, Some(list));
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<ServerMeasure, CallFault> {
        Ok(ServerMeasure::default())
    }

    fn missing(&mut self, _: ServerNeeds) -> Result<Vec<Box<str>>, CallFault> {
        Ok(Vec::new())
    }
}

fn wanted(names: &[&str]) -> Wanted {
    let streams = names.iter().map(|name| {
        let input = WantedInput {
            url: format!("rtsp://{name}/a").into(),
            source_timeout: None,
        };
        let stream = WantedStream {
            inputs: vec![input],
            dvr: None,
        };
        ((*name).into(), stream)
    });
    streams.collect()
}

fn book(shared: &Arc<BridgeShared>, weir: &str) -> Arc<LifeBook> {
    Arc::new(LifeBook {
        shared: shared.clone(),
        central: Arc::new(Central::new(weir, "h")),
        hostname: "h".into(),
    })
}

#[test]
fn news_interrupts_the_round() {
    // Ten streams are to be added; during the first call a list arrives without any.
    let directory = tempfile::tempdir().expect("a scratch directory");
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let shared = Arc::new(BridgeShared::new(None, false));
    let calls = Arc::new(Mutex::default());
    let server = NewsServer {
        shared: shared.clone(),
        streams: BTreeMap::new(),
        calls: Arc::clone(&calls),
        lists: vec![Wanted::new()],
    };
    let handle = ServerHandle {
        server: Box::new(server),
        rules: Arc::new(TestRules),
        media: MediaPort {
            address: "127.0.0.1:1".into(),
            scheme: "rtsp",
        },
        api_look: None,
    };
    let planner = Planner::new(
        settings(),
        Arc::new(TestRules),
        Owned::new(),
        Instant::now(),
    );
    let mut worker = Worker::new(
        handle,
        book(&shared, "http://127.0.0.1:1"),
        KeptFile::new(directory.path(), "h"),
        Identity::default(),
        planner,
    );
    // The first round brings it to life, and Weir answers.
    worker.round();
    shared.put_answer(1, Some(wanted(&names)));
    worker.round();
    assert_eq!(*calls.lock(), ["add a from rtsp://a/a"], "the rest is old");
    worker.round();
    assert_eq!(*calls.lock(), ["add a from rtsp://a/a", "remove a"]);
}

#[test]
fn death_cuts_the_poll() {
    // The other side reads the poll, and answers nothing.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let weir = format!("http://{}", listener.local_addr().expect("it is bound"));
    let shared = Arc::new(BridgeShared::new(None, false));
    let book = book(&shared, &weir);
    let begin = Instant::now();
    book.shared.see(begin, LifeSign::Api);
    thread::scope(|scope| {
        let poll = scope.spawn(|| book.central.poll("key", Some("\"tag\""), true, None));
        let (mut socket, _) = listener.accept().expect("the poll");
        let mut begun = [0; 4];
        socket.read_exact(&mut begun).expect("a request");
        assert_eq!(&begun, b"GET ");
        // An answer keeps it waiting, and so does a silence that is too short.
        book.see(LifeSign::Api);
        assert!(!poll.is_finished());
        while book.shared.life().0 != ServerLife::Down {
            assert!(!poll.is_finished(), "cut while the server may live");
            book.shared.wait_for_silence(Duration::from_millis(100));
            book.see(LifeSign::Silence);
        }
        let fault = poll.join().expect("no panic").expect_err("no answer");
        let CallFault::Unreachable(text) = fault else {
            panic!("{fault:?}");
        };
        assert!(!text.contains("timeout"), "by the cut, not by time: {text}");
        drop(socket);
    });
}

#[test]
fn pauses_grow_within_their_bounds() {
    let next = |pause: &mut RetryPause, random| (pause.next(random).as_millis() + 5) / 10 * 10;
    let middle = u32::MAX / 2;
    let mut pause = RetryPause::default();
    let pauses = [(); 8].map(|()| next(&mut pause, middle));
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    for random in [0, u32::MAX] {
        let mut pause = RetryPause::default();
        for _ in 0..12 {
            let pause = pause.next(random);
            assert!((PAUSE_MIN..=PAUSE_MAX).contains(&pause), "{pause:?}");
        }
    }
    // Bridges that lost Weir at the same moment do not return at the same one.
    let mut different = BTreeSet::new();
    for random in 0..64 {
        let mut pause = RetryPause::default();
        for _ in 0..4 {
            pause.next(middle);
        }
        different.insert(pause.next(random << 26));
    }
    assert!(different.len() > 32, "{different:?}");
}
