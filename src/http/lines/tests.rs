//! Upgraded connections over real sockets.

use std::io::Write;
use std::net::Shutdown;

use crate::http::Ended;
use crate::http::testing::{Setup, TestClient, TestOrder, TestServer, each, patient};
use crate::limits::Limits;

const UPGRADE: &str =
    "GET /lines HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n\r\n";

impl TestClient {
    /// The next line, without its end.
    fn line(&mut self) -> String {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read) {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return String::from_utf8(line[..end].to_vec()).expect("lines are text");
            }
            assert!(self.fill(), "the connection ended inside of a line");
        }
    }

    fn upgrade(&mut self) -> &mut Self {
        let reply = self.send(UPGRADE).reply();
        assert_eq!(reply.status, 101);
        assert_eq!(self.line(), "hi");
        self
    }
}

fn ended(server: &TestServer) -> Vec<Ended> {
    server.query(TestOrder::Ended)
}

#[test]
fn only_clients_that_offer_the_protocol_are_upgraded() {
    each(&patient(), |server| {
        let asks = |version: &str, fields: &str| {
            format!("GET /lines HTTP/{version}\r\nHost: a\r\n{fields}\r\n")
        };
        for (version, fields, status) in [
            ("1.1", "Connection: upgrade\r\nUpgrade: TEST/1\r\n", 101),
            (
                "1.1",
                "Upgrade: h2c, test/1\r\nConnection: keep-alive, Upgrade\r\n",
                101,
            ),
            ("1.1", "", 200),
            ("1.1", "Upgrade: test/1\r\n", 200),
            ("1.1", "Connection: upgrade\r\n", 200),
            ("1.1", "Connection: upgrade\r\nUpgrade: test/2\r\n", 200),
            (
                "1.1",
                "Connection: upgrade, close\r\nUpgrade: test/1\r\n",
                200,
            ),
            ("1.0", "Connection: upgrade\r\nUpgrade: test/1\r\n", 200),
        ] {
            let mut client = server.client();
            let reply = client.send(asks(version, fields)).reply();
            assert_eq!(reply.status, status, "{version} {fields:?}");
            if status == 101 {
                let head = reply.head;
                assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
                for field in ["Connection: Upgrade", "Upgrade: test/1", "X-Greeting: hi"] {
                    assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
                }
                assert!(!head.contains("Content-Length"), "{head}");
                assert_eq!(client.line(), "hi");
            } else {
                assert_eq!(reply.text(), "\"requests\"");
            }
        }
    });
}

#[test]
fn lines_are_received_for_every_cut() {
    // Goal: lines pipelined behind the request, and every cut of the bytes, are received alike.
    // Method: all cuts of one conversation.
    each(&patient(), |server| {
        let text = format!("{UPGRADE}one\r\n\ntwo\nthree\n");
        for cut in 0..=text.len() {
            let mut client = server.client();
            client.send(&text[..cut]);
            let before = server.counters().lines_in;
            server
                .wait_for(|counters| counters.connections.open == 1 && counters.lines_in >= before);
            client.send(&text[cut..]);
            assert_eq!(client.reply().status, 101);
            for line in ["hi", "one", "", "two", "three"] {
                assert_eq!(client.line(), line, "cut at {cut}");
            }
            client.stream.shutdown(Shutdown::Write).expect("a socket");
            client.is_over();
            server.wait_for(|counters| counters.connections.open == 0);
        }
        let all = ended(server);
        assert_eq!(all, vec![Ended::ByPeer; text.len() + 1]);
        assert_eq!(server.counters().connections.upgraded, 0);
        assert_eq!(server.query(TestOrder::CompleteStale), 0);
    });
}

#[test]
fn server_may_send_lines_and_end_at_any_time() {
    each(&patient(), |server| {
        let mut clients: Vec<TestClient> = (0..3).map(|_| server.client()).collect();
        for client in &mut clients {
            client.upgrade();
        }
        assert_eq!(server.counters().connections.upgraded, 3);
        assert_eq!(
            server.query(|reply| TestOrder::SendLine(b"news\n".to_vec(), reply)),
            3
        );
        for client in &mut clients {
            assert_eq!(client.line(), "news");
            assert_eq!(client.send("ok\n").line(), "ok");
        }
        clients[0].send("last\nend\nnever\n");
        assert_eq!(clients[0].line(), "last");
        clients[0].is_over();
        server.wait_for(|counters| counters.connections.upgraded == 2);
        let reply = server.query(|reply| TestOrder::EndLines(b"bye\n".to_vec(), reply));
        assert_eq!(reply, 2);
        assert_eq!(
            server.query(|reply| TestOrder::SendLine(b"late\n".to_vec(), reply)),
            0
        );
        for client in &mut clients[1..] {
            assert_eq!(client.line(), "bye");
            client.is_over();
        }
        server.wait_for(|counters| counters.connections.open == 0);
        assert_eq!(ended(server), [Ended::ByService; 3]);
    });
}

#[test]
fn endless_line_or_silence_ends_the_connection() {
    let limits = Limits {
        tick_ms: 5,
        ..patient()
    };
    each(&limits, |server| {
        let long = vec![b'a'; crate::limits::LINE_BYTES_MAX];
        let mut client = server.client();
        client.upgrade().send(&long).send("\n");
        assert_eq!(
            client.line().len(),
            long.len(),
            "a line may be as long as that"
        );
        client.send(&long).send("a");
        assert_eq!(client.line(), "bye LineLong");
        client.is_over();
        server.wait_for(|counters| counters.connections.open == 0);

        let mut client = server.client();
        client.send(UPGRADE.replace("/lines", "/lines?50"));
        assert_eq!((client.reply().status, client.line()), (101, "hi".into()));
        // Bytes of a line that never ends do not count as a line.
        let mut writer = client.stream.try_clone().expect("a socket");
        let drip = std::thread::spawn(move || {
            (1..crate::limits::LINE_BYTES_MAX).all(|_| writer.write_all(b"z").is_ok())
        });
        assert_eq!(client.line(), "bye Silent");
        drop(client);
        drip.join().expect("it ends");
        server.wait_for(|counters| counters.connections.open == 0);

        let mut client = server.client();
        client.send(UPGRADE.replace("/lines", "/lines?50"));
        assert_eq!((client.reply().status, client.line()), (101, "hi".into()));
        client.send("unfinished");
        assert_eq!(client.line(), "bye Silent");
        client.is_over();
        server.wait_for(|counters| counters.connections.open == 0);
        let all = ended(server);
        assert_eq!(all, [Ended::LineLong, Ended::Silent, Ended::Silent],);
    });
}

#[test]
fn unread_lines_are_bounded() {
    let limits = Limits {
        send_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        // It requests more than all buffers hold and reads nothing: the server stops reading, then
        // ends it.
        let mut client = server.client();
        client.upgrade();
        let mut writer = client.stream.try_clone().expect("a socket");
        let asker = std::thread::spawn(move || {
            while writer
                .write_all("fill 60000\n".repeat(1000).as_bytes())
                .is_ok()
            {}
        });
        server.wait_for(|counters| counters.connections.stalled == 1);
        asker.join().expect("the connection ended");
        server.wait_for(|counters| counters.connections.open == 0);

        // It is sent more than may be queued.
        let mut client = server.client();
        client.upgrade();
        let news = [vec![b'n'; 60_000], b"\n".to_vec()].concat();
        while server.query(|reply| TestOrder::SendLine(news.clone(), reply)) == 1 {}
        server.wait_for(|counters| counters.connections.open == 0);
        assert_eq!(ended(server), [Ended::Stalled, Ended::Stalled]);
    });
}

#[test]
fn slow_reader_gets_all_lines_in_order() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.upgrade();
        let mut writer = client.stream.try_clone().expect("a socket");
        let asker = std::thread::spawn(move || {
            for i in 0..400 {
                let lines = format!("fill 20000\n{i}\n");
                writer.write_all(lines.as_bytes()).expect("it reads on");
            }
        });
        for i in 0..400 {
            assert_eq!(client.line().len(), 20_000);
            assert_eq!(client.line(), i.to_string());
        }
        asker.join().expect("all was taken");
        assert_eq!(server.counters().lines_in, 800);
    });
}

#[test]
fn drain_sends_a_last_line_to_upgraded_connections() {
    for epoll in [false, true] {
        let server = TestServer::start(Setup {
            limits: patient(),
            epoll,
            half_closed_keeps: false,
        });
        let mut quiet = server.client();
        quiet.upgrade();
        let mut partial = server.client();
        partial.upgrade().send("half a");
        let before = server.counters();
        server.wait_for(|counters| counters.bytes_in >= before.bytes_in);
        server.orders.push(TestOrder::Drain);
        for client in [&mut quiet, &mut partial] {
            assert_eq!(client.line(), "bye Draining");
            client.is_over();
        }
        drop((quiet, partial));
        server.stop();
    }
}

#[test]
fn panic_over_a_line_ends_one_connection() {
    each(&patient(), |server| {
        let mut other = server.client();
        other.upgrade();
        let mut client = server.client();
        client.upgrade().send("panic\n");
        client.is_over();
        server.wait_for(|counters| counters.panics == 1 && counters.connections.upgraded == 1);
        assert_eq!(other.send("still\n").line(), "still");
        assert_eq!(ended(server), [Ended::ByPeer]);
    });
}
