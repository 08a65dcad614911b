//! Connections over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::sizes;
use crate::http::testing::{
    Setup, TestClient, TestOrder, TestServer, TestService, each, get, patient, put,
};
use crate::limits::Limits;

#[test]
fn connection_stays_open_after_an_answer() {
    each(&patient(), |server| {
        let mut client = server.client();
        for i in 0..3 {
            let reply = client.get(&format!("/hello?{i}"));
            assert_eq!(reply.status, 200);
            assert_eq!(reply.text(), format!("{{\"query\":\"{i}\"}}"));
            assert!(reply.head.contains("\r\nDate: "));
            assert!(
                reply
                    .head
                    .contains("\r\nX-Content-Type-Options: nosniff\r\n")
            );
            assert!(
                reply
                    .head
                    .contains("\r\nAccess-Control-Allow-Origin: *\r\n")
            );
            assert!(reply.head.contains("\r\nConnection: keep-alive\r\n"));
        }
        assert_eq!(client.get("/nowhere").status, 404);
        assert_eq!(client.send(put("/echo", b"[1,2]")).reply().text(), "[1,2]");
        let counters = server.counters();
        assert_eq!(
            (
                counters.connections.accepted,
                counters.connections.open,
                counters.requests
            ),
            (1, 1, 5)
        );
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    each(&patient(), |server| {
        let mut client = server.client();
        let requests: String = (0..100).map(|i| get(&format!("/hello?{i}"))).collect();
        client.send(requests);
        for i in 0..100 {
            assert_eq!(client.reply().text(), format!("{{\"query\":\"{i}\"}}"));
        }
    });
}

#[test]
fn slow_reader_gets_all_pipelined_answers_in_order() {
    each(&patient(), |server| {
        // More answers than all buffers between the two hold: the server has to stop reading for a
        // while.
        let count = 3000;
        let mut client = server.client();
        let mut writer = client.stream.try_clone().expect("a socket");
        let sender = std::thread::spawn(move || {
            for i in 0..count {
                let path = if i % 3 == 0 {
                    "/owned?20000"
                } else {
                    "/owned?900"
                };
                writer
                    .write_all(get(path).as_bytes())
                    .expect("the server reads on");
            }
        });
        for i in 0..count {
            let expected = if i % 3 == 0 { 20_000 } else { 900 };
            let reply = client.reply();
            assert_eq!(reply.body.len(), expected, "answer {i}");
            assert!(reply.body.starts_with(b"abcdefghijklmnopqrstuvwabc"));
        }
        sender.join().expect("all requests were taken");
    });
}

#[test]
fn large_bodies_reach_a_slow_reader_whole() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(get("/owned?3000001") + &get("/shared?5000002") + &get("/hello?end"));
        for expected in [3_000_001_usize, 5_000_002] {
            let body = client.reply().body;
            assert_eq!(body.len(), expected);
            let intact = body
                .iter()
                .enumerate()
                .all(|(i, byte)| *byte == b'a' + (i % 23) as u8);
            assert!(intact);
        }
        assert_eq!(client.reply().text(), "{\"query\":\"end\"}");
    });
}

#[test]
fn waiting_request_is_answered_later() {
    each(&patient(), |server| {
        let mut client = server.client();
        for round in 0..5 {
            client.send(get("/wait"));
            let counters = server.wait_for(|counters| counters.waiting == 1);
            assert_eq!(counters.waits, round);
            let body = format!("\"round {round}\"");
            let done = server.query(|reply| TestOrder::Complete(body.clone().into_bytes(), reply));
            assert_eq!(done, 1);
            assert_eq!(client.reply().text(), body);
        }
        assert_eq!(client.get("/hello?x").status, 200);
    });
}

#[test]
fn requests_behind_a_waiting_one_are_answered_after_it() {
    each(&patient(), |server| {
        let ahead = get("/hello?1") + &get("/wait") + &get("/hello?2");
        // Cut at every place between "arrives with the first request" and "arrives while it waits".
        for cut in (0..=ahead.len()).step_by(3) {
            let mut client = server.client();
            client.send(get("/wait") + &ahead[..cut]);
            server.wait_for(|counters| counters.waiting == 1);
            let before = server.counters().bytes_in;
            client.send(&ahead[cut..]);
            server.wait_for(|counters| counters.bytes_in == before + (ahead.len() - cut) as u64);
            for body in ["\"first\"", "\"second\""] {
                let done =
                    server.query(|reply| TestOrder::Complete(body.as_bytes().to_vec(), reply));
                assert_eq!(done, 1);
                assert_eq!(client.reply().text(), body);
                if body == "\"first\"" {
                    assert_eq!(client.reply().text(), "{\"query\":\"1\"}");
                    server.wait_for(|counters| counters.waiting == 1);
                }
            }
            assert_eq!(client.reply().text(), "{\"query\":\"2\"}");
        }
    });
}

#[test]
fn bytes_read_ahead_of_a_waiting_request_are_bounded() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(get("/wait"));
        server.wait_for(|counters| counters.waiting == 1);
        let requests = 20_000;
        let mut writer = client.stream.try_clone().expect("a socket");
        let sender = std::thread::spawn(move || {
            for _ in 0..requests {
                writer
                    .write_all(get("/hello?").as_bytes())
                    .expect("the server reads again later");
            }
        });
        let kept = crate::limits::AHEAD_BYTES_MAX as u64;
        let full = server.wait_for(|counters| counters.bytes_in >= kept);
        assert!(full.bytes_in <= kept + 1000, "{}", full.bytes_in);
        assert_eq!(
            server.query(|reply| TestOrder::Complete(b"1".to_vec(), reply)),
            1
        );
        assert_eq!(client.reply().text(), "1");
        for _ in 0..requests {
            assert_eq!(client.reply().status, 200);
        }
        sender.join().expect("all requests were taken");
    });
}

#[test]
fn wait_ends_at_its_deadline() {
    each(&patient(), |server| {
        let mut client = server.client();
        assert_eq!(client.get("/wait?20").text(), "\"expired\"");
        assert_eq!(
            server.query(TestOrder::CompleteStale),
            0,
            "the ticket is done for"
        );
        assert_eq!(client.get("/hello?").status, 200);
    });
}

#[test]
fn no_wait_is_longer_than_the_limit() {
    let limits = Limits {
        wait_ms_max: 30,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        assert_eq!(client.get("/wait").text(), "\"expired\"");
        assert_eq!(client.get("/wait?999999999999").text(), "\"expired\"");
    });
}

#[test]
fn leaving_client_of_a_waiting_request_is_noticed() {
    each(&patient(), |server| {
        for reset in [false, true] {
            let before = server.counters().abandoned;
            let mut client = server.client();
            client.send(get("/wait"));
            server.wait_for(|counters| counters.waiting == 1);
            if reset {
                reset_on_close(&client.stream);
            }
            drop(client);
            server.wait_for(|counters| {
                counters.waiting == 0
                    && counters.connections.open == 0
                    && counters.abandoned == before + 1
            });
        }
        let mut next = server.client();
        next.send(get("/wait"));
        server.wait_for(|counters| counters.waiting == 1);
        assert_eq!(
            server.query(TestOrder::CompleteStale),
            0,
            "a late answer does not reach the next client of the slot"
        );
        server.query(|reply| TestOrder::Complete(b"1".to_vec(), reply));
        assert_eq!(next.reply().text(), "1");
    });
}

#[test]
fn service_may_answer_a_half_closed_client() {
    for epoll in [false, true] {
        let server = TestServer::start(Setup {
            limits: patient(),
            epoll,
            half_closed_keeps: true,
        });
        let mut client = server.client();
        client.send(get("/wait") + &get("/hello?after"));
        server.wait_for(|counters| counters.waiting == 1);
        client.stream.shutdown(Shutdown::Write).expect("it is open");
        // Without a second request the answer is the last one.
        let mut other = server.client();
        other.send(get("/wait"));
        server.wait_for(|counters| counters.waiting == 2);
        other.stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(
            server.query(|reply| TestOrder::Complete(b"1".to_vec(), reply)),
            2
        );
        assert_eq!(client.reply().text(), "1");
        assert_eq!(client.reply().text(), "{\"query\":\"after\"}");
        client.is_over();
        assert_eq!(other.reply().text(), "1");
        other.is_over();
        server.stop();
    }
}

#[test]
fn half_closed_connection_gets_all_its_answers() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(get("/hello?1") + &get("/owned?300000") + &get("/hello?2"));
        client.stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(client.reply().text(), "{\"query\":\"1\"}");
        assert_eq!(client.reply().body.len(), 300_000);
        assert_eq!(client.reply().text(), "{\"query\":\"2\"}");
        client.is_over();
    });
}

fn reset_on_close(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket");
}

#[test]
fn shared_answer_takes_the_form_of_each_request() {
    each(&patient(), |server| {
        let mut plain: Vec<TestClient> = (0..50).map(|_| server.client()).collect();
        for client in &mut plain {
            client.send(get("/wait"));
        }
        let mut old = server.client();
        old.send("GET /wait HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let mut older = server.client();
        older.send("GET /wait HTTP/1.0\r\n\r\n");
        let mut last = server.client();
        last.send("GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut head = server.client();
        head.send("HEAD /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        server.wait_for(|counters| counters.waiting == 54);
        let body = b"[1,2,3]".repeat(5000);
        let done = server.query(|reply| TestOrder::CompleteShared(body.clone(), reply));
        assert_eq!(done, 54);
        for client in &mut plain {
            let reply = client.reply();
            assert!(reply.head.contains("Connection: keep-alive\r\n"));
            assert!(reply.body == body);
            assert_eq!(client.get("/hello?").status, 200);
        }
        let reply = old.reply();
        assert!(reply.head.contains("Connection: keep-alive\r\n") && reply.body == body);
        assert_eq!(old.get("/hello?").status, 200);
        for client in [&mut older, &mut last] {
            let reply = client.reply();
            assert!(reply.head.contains("Connection: close\r\n") && reply.body == body);
            client.is_over();
        }
        let reply = head.reply_to(false);
        assert!(reply.head.contains("Content-Length: 35000\r\n"));
        assert_eq!(head.get("/hello?").status, 200);
    });
}

#[test]
fn slow_head_gets_408() {
    let limits = Limits {
        head_ms: 60,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        assert_eq!(client.get("/hello?").status, 200);
        client.send("GET /hello HTTP/1.1\r\nHo");
        let reply = client.reply();
        assert_eq!(reply.status, 408);
        assert!(reply.head.contains("Connection: close\r\n"));
        client.is_over();
        assert_eq!(server.counters().too_slow, 1);
        // Single bytes do not move the deadline: it is for the whole head.
        let mut dripping = server.client();
        let mut writer = dripping.stream.try_clone().expect("a socket");
        let drip = std::thread::spawn(move || {
            while writer.write_all(b"G").is_ok() {
                std::thread::yield_now();
                if writer.write_all(b"\n").is_err() {
                    break;
                }
            }
        });
        drop(dripping.stream.read(&mut [0; 64]));
        reset_on_close(&dripping.stream);
        dripping.stream.shutdown(Shutdown::Both).ok();
        drop(dripping);
        drip.join().expect("it ends with an error");
    });
}

#[test]
fn idle_connections_are_closed_without_an_answer() {
    let limits = Limits {
        first_byte_ms: 30,
        idle_ms: 40,
        head_ms: 40,
        ..patient()
    };
    each(&limits, |server| {
        server.client().is_over();
        let mut client = server.client();
        assert_eq!(client.get("/hello?").status, 200);
        client.is_over();
        server.wait_for(|counters| counters.connections.open == 0);
    });
}

#[test]
fn body_below_the_minimum_rate_gets_408() {
    let limits = Limits {
        body_window_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        for request in [
            "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
            "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc",
        ] {
            let mut client = server.client();
            client.send(request);
            assert_eq!(client.reply().status, 408);
            client.is_over();
        }
        assert_eq!(server.counters().too_slow, 2);
    });
}

#[test]
fn body_that_stops_after_a_fast_start_gets_408() {
    let limits = Limits {
        body_window_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        client.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        client.send(vec![b'x'; 999_999]);
        assert_eq!(client.reply().status, 408);
        server.wait_for(|counters| counters.buffers.arriving_bytes == 0);
    });
}

#[test]
fn arriving_bodies_are_refused_beyond_the_budget() {
    let limits = Limits {
        buffers_bytes_max: 1_000_000,
        ..patient()
    };
    each(&limits, |server| {
        let head = "PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 200001\r\n\r\n";
        let mut silent = Vec::new();
        for at in 1..=2 {
            let mut client = server.client();
            client.send(head);
            client.send(vec![b'x'; 200_000]);
            let held = at * 200_000;
            server.wait_for(|counters| counters.buffers.arriving_bytes >= held);
            silent.push(client);
        }
        for request in [
            head.to_owned(),
            "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n30d41\r\n"
                .to_owned(),
        ] {
            let mut refused = server.client();
            refused.send(request);
            refused.send(vec![b'x'; 120_000]);
            let reply = refused.reply();
            assert_eq!(reply.status, 503);
            assert!(
                reply.head.contains("\r\nRetry-After: 1\r\n"),
                "{}",
                reply.head
            );
            refused.is_over();
        }
        // Others are served, and those that hold the memory may finish.
        assert_eq!(server.client().get("/hello?").status, 200);
        for mut client in silent {
            client.send("x");
            assert_eq!(client.reply().body.len(), 200_001);
        }
        let counters = server.wait_for(|counters| counters.buffers.arriving_bytes == 0);
        assert_eq!(counters.buffers.refused, 2);
        assert_eq!(counters.refused, 0);
    });
}

#[test]
fn requests_are_refused_while_too_much_is_unsent() {
    let limits = Limits {
        buffers_bytes_max: 10_000_000,
        ..patient()
    };
    each(&limits, |server| {
        let mut slow = server.client();
        slow.send(get("/owned?16000000"));
        server.wait_for(|counters| counters.buffers.unsent_bytes > 5_000_000);
        let mut client = server.client();
        for _ in 0..2 {
            let reply = client.get("/hello?");
            assert_eq!(reply.status, 503);
            assert!(
                reply.head.contains("\r\nRetry-After: 1\r\n"),
                "{}",
                reply.head
            );
        }
        assert_eq!(slow.reply().body.len(), 16_000_000);
        server.wait_for(|counters| counters.buffers.unsent_bytes == 0);
        assert_eq!(client.get("/hello?").status, 200);
        assert_eq!(server.counters().buffers.refused, 2);
    });
}

#[test]
fn client_that_does_not_read_its_answer_is_dropped() {
    let limits = Limits {
        send_ms: 50,
        ..patient()
    };
    each(&limits, |server| {
        let mut client = server.client();
        client.send(get("/owned?16000000"));
        server.wait_for(|counters| {
            counters.connections.stalled == 1 && counters.connections.open == 0
        });
    });
}

#[test]
fn chunked_bodies_are_decoded_for_every_cut() {
    each(&patient(), |server| {
        let request = "PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5;ext=\"1\"\r\nhello\r\n1\r\n,\r\n00A\r\n0123456789\r\n0\r\n\
                         X-Trailer: 1\r\n\r\n";
        let mut client = server.client();
        for size in [1, 2, 3, 7, 1000] {
            for piece in request.as_bytes().chunks(size) {
                client.send(piece);
            }
            client.send(get("/hello?next"));
            assert_eq!(client.reply().text(), "hello,0123456789");
            assert_eq!(client.reply().text(), "{\"query\":\"next\"}");
        }
    });
}

#[test]
fn head_is_get_without_the_body() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send("HEAD /method HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.reply_to(false);
        assert!(
            head.head.contains("Content-Length: 3\r\n"),
            "the service saw GET"
        );
        client.send("HEAD /owned?100000 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            client
                .reply_to(false)
                .head
                .contains("Content-Length: 100000\r\n")
        );
        assert_eq!(client.get("/method").text(), "GET");
    });
}

#[test]
fn continue_is_sent_only_after_admission() {
    each(&patient(), |server| {
        let expecting = |path: &str| {
            format!(
                "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\
                  Expect: 100-Continue\r\n\r\n"
            )
        };
        let mut client = server.client();
        assert_eq!(client.send(expecting("/echo")).reply().status, 100);
        assert_eq!(client.send("hello world").reply().text(), "hello world");
        // Not sent when the body is under way.
        client.send(expecting("/echo") + "hello world");
        assert_eq!(client.reply().text(), "hello world");
        for (path, status) in [("/denied", 401), ("/small", 413)] {
            let mut client = server.client();
            let reply = client.send(expecting(path)).reply();
            assert_eq!(reply.status, status);
            assert!(reply.head.contains("Connection: close\r\n"));
            client.is_over();
        }
        let mut client = server.client();
        client.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n");
        assert_eq!(client.reply().status, 417);
    });
}

#[test]
fn rejected_request_with_its_body_keeps_the_connection() {
    each(&patient(), |server| {
        let mut client = server.client();
        let reply = client.send(put("/denied", b"{\"a\":1}")).reply();
        assert_eq!(reply.status, 401);
        assert!(reply.head.contains("WWW-Authenticate: "));
        client.send(get("/denied") + &get("/hello?"));
        assert_eq!(client.reply().status, 401);
        assert_eq!(client.reply().status, 200);
    });
}

#[test]
fn rejected_upload_reads_its_answer_and_no_reset() {
    each(&patient(), |server| {
        for path in ["/denied", "/small"] {
            let mut client = server.client();
            client.send(format!(
                "PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
            ));
            // The rest is still on its way when the answer is sent.
            client.send(vec![b'x'; 30_000]);
            let status = client.reply().status;
            assert!(status == 401 || status == 413, "{status}");
            client.is_over();
        }
    });
}

#[test]
fn malformed_requests_get_json_errors() {
    each(&patient(), |server| {
        let cases: [(&[u8], u16); 15] = [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\nHost: a\n\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"QUERY / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
            (
                b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            (
                b"PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\n\
              hello\r\n0\r\n\r\n",
                400,
            ),
            (
                b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
                400,
            ),
            (
                b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\
              Content-Encoding: gzip\r\n\r\nxx",
                415,
            ),
            (
                b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
                413,
            ),
        ];
        for (request, status) in cases {
            let mut client = server.client();
            // The requests before it are answered.
            client.send(get("/hello?")).send(request);
            assert_eq!(client.reply().status, 200);
            let reply = client.reply();
            assert_eq!(reply.status, status, "{}", request.escape_ascii());
            assert!(reply.head.contains("Connection: close\r\n"));
            assert_eq!(reply.head.contains("Allow: GET, "), status == 405);
            let json: serde_json::Value =
                serde_json::from_slice(&reply.body).expect("errors are JSON");
            assert_eq!(json["errors"][0]["status"], status.to_string());
            client.is_over();
        }
        assert_eq!(server.counters().refused, cases.len() as u64);
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000));
        assert_eq!(server.client().send(long).reply().status, 414);
        let large = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "a".repeat(70_000)
        );
        assert_eq!(server.client().send(large).reply().status, 431);
    });
}

#[test]
fn head_may_arrive_byte_by_byte() {
    each(&patient(), |server| {
        let mut client = server.client();
        for byte in get("/hello?slow").bytes() {
            client.send([byte]);
        }
        assert_eq!(client.reply().text(), "{\"query\":\"slow\"}");
        // Refused, and the answer is not overtaken by a reset while bytes still come.
        for byte in b"GET / HTTP/1.1\r\nHost : a\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.reply().status, 400);
    });
}

#[test]
fn version_and_client_decide_whether_a_connection_stays() {
    each(&patient(), |server| {
        let lives = [
            ("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (
                "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
                true,
            ),
            (
                "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: te, Close\r\n\r\n",
                false,
            ),
            ("GET /hello HTTP/1.0\r\n\r\n", false),
            (
                "GET /hello HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
                true,
            ),
            ("GET /last HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ];
        for (request, stays) in lives {
            let mut client = server.client();
            let reply = client.send(request).reply();
            assert_eq!(
                reply.head.contains("Connection: close\r\n"),
                !stays,
                "{request}"
            );
            let is_kept = reply.head.contains("Connection: keep-alive\r\n");
            assert_eq!(is_kept, stays, "{request}");
            if stays {
                assert_eq!(client.get("/hello?").status, 200);
            } else {
                client.is_over();
            }
        }
    });
}

#[test]
fn panic_of_the_service_ends_one_connection() {
    each(&patient(), |server| {
        let mut bystander = server.client();
        bystander.send(get("/wait"));
        for path in ["/panic", "/panic-admit"] {
            let mut client = server.client();
            let reply = client.send(get(path) + &get("/hello?")).reply();
            assert_eq!(reply.status, 500);
            assert!(reply.text().contains("\"id\":\"") && !reply.text().contains("wrong"));
            client.is_over();
        }
        assert_eq!(server.counters().panics, 2);
        server.wait_for(|counters| counters.waiting == 1);
        server.query(|reply| TestOrder::Complete(b"1".to_vec(), reply));
        assert_eq!(bystander.reply().text(), "1");
    });
}

#[test]
fn connection_beyond_the_maximum_gets_503() {
    let limits = Limits {
        connections_max: 2,
        ..patient()
    };
    each(&limits, |server| {
        let mut first = server.client();
        assert_eq!(first.get("/hello?").status, 200);
        let mut second = server.client();
        assert_eq!(second.get("/hello?").status, 200);
        let mut third = server.client();
        let reply = third.reply();
        assert_eq!(reply.status, 503);
        assert!(reply.head.contains("Retry-After: 1\r\n"));
        third.is_over();
        assert_eq!(first.get("/hello?").status, 200);
        drop(second);
        server.wait_for(|counters| counters.connections.open == 1);
        assert_eq!(server.client().get("/hello?").status, 200);
    });
}

#[test]
fn options_answers_cors_preflights() {
    each(&patient(), |server| {
        let mut client = server.client();
        client.send(
            "OPTIONS /denied HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\
             Access-Control-Request-Method: PUT\r\n\r\n",
        );
        let reply = client.reply();
        assert_eq!(reply.status, 204);
        assert!(reply.head.contains("Access-Control-Allow-Origin: *\r\n"));
        assert!(reply.head.contains("Access-Control-Allow-Methods: GET, "));
        assert!(
            reply
                .head
                .contains("Access-Control-Allow-Headers: Authorization")
        );
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = client.reply();
        assert!(reply.status == 204 && reply.head.contains("Allow: GET, "));
        assert!(!reply.head.contains("Access-Control-Allow-Methods"));
    });
}

#[test]
fn bodies_are_compressed_for_clients_that_accept_it() {
    each(&patient(), |server| {
        let body = b"{\"a\":1},".repeat(1000);
        let mut client = server.client();
        let mut request = format!(
            "PUT /echo HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=1.0, br\r\n\
              Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        let reply = client.send(request).reply();
        assert!(reply.head.contains("Content-Encoding: gzip\r\n"));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&reply.body[..])
            .read_to_end(&mut plain)
            .expect("gzip");
        assert!(plain == body);
        // A waiting request keeps the codings of its client.
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n");
        server.wait_for(|counters| counters.waiting == 1);
        server.query(|reply| TestOrder::Complete(body.clone(), reply));
        let reply = client.reply();
        assert!(reply.head.contains("Content-Encoding: zstd\r\n"));
        assert!(zstd::decode_all(&reply.body[..]).expect("zstd") == body);
    });
}

#[test]
fn drain_ends_idle_connections_and_finishes_requests() {
    for epoll in [false, true] {
        let server = TestServer::start(Setup {
            limits: patient(),
            epoll,
            half_closed_keeps: false,
        });
        let mut fresh = server.client();
        let mut idle = server.client();
        assert_eq!(idle.get("/hello?").status, 200);
        let mut waiting = server.client();
        waiting.send(get("/wait"));
        let mut uploading = server.client();
        uploading.send("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
        server.wait_for(|counters| counters.waiting == 1 && counters.connections.open == 4);
        server.orders.push(TestOrder::Drain);
        fresh.is_over();
        idle.is_over();
        uploading.send("cd");
        let reply = uploading.reply();
        assert_eq!(reply.text(), "abcd");
        assert!(reply.head.contains("Connection: close\r\n"));
        uploading.is_over();
        server.query(|reply| TestOrder::Complete(b"1".to_vec(), reply));
        let reply = waiting.reply();
        assert!(reply.text() == "1" && reply.head.contains("Connection: close\r\n"));
        waiting.is_over();
        assert!(
            TcpStream::connect(server.address).is_err(),
            "the server does not listen any more"
        );
        server.stop();
    }
}

#[test]
fn request_on_its_way_to_an_idle_connection_is_answered() {
    // Goal: a drain closes no connection to which a request is on its way. Method: a delay that the
    // test outlasts only if no request is answered.
    for epoll in [false, true] {
        let server = TestServer::start(Setup {
            limits: Limits {
                drain_delay_ms: 30_000,
                ..patient()
            },
            epoll,
            half_closed_keeps: false,
        });
        let mut idle = server.client();
        assert_eq!(idle.get("/hello?").status, 200);
        let mut fresh = server.client();
        server.wait_for(|counters| counters.connections.open == 2);
        server.orders.push(TestOrder::Drain);
        // The drain has happened when the port is closed.
        while TcpStream::connect(server.address).is_ok() {
            std::thread::yield_now();
        }
        for client in [&mut idle, &mut fresh] {
            let reply = client.get("/hello?");
            assert_eq!(reply.status, 200);
            assert!(reply.head.contains("Connection: close\r\n"));
            client.is_over();
        }
        server.stop();
    }
}

#[test]
fn request_during_a_drain_is_answered_or_never_taken() {
    for epoll in [false, true] {
        for _ in 0..20 {
            let server = TestServer::start(Setup {
                limits: patient(),
                epoll,
                half_closed_keeps: false,
            });
            let mut clients: Vec<TestClient> = (0..20).map(|_| server.client()).collect();
            for client in &mut clients {
                client.send(get("/hello?"));
            }
            // Connected and sent before the drain, accepted or not: all of them are answered.
            server.orders.push(TestOrder::Drain);
            for client in &mut clients {
                assert_eq!(client.reply().status, 200);
            }
            server.stop();
        }
    }
}

#[test]
fn closed_connections_leave_nothing_behind() {
    each(&patient(), |server| {
        let before = descriptors();
        for _ in 0..50 {
            let mut clients: Vec<TestClient> = (0..100).map(|_| server.client()).collect();
            for (i, client) in clients.iter_mut().enumerate() {
                match i % 4 {
                    0 => drop(client.send(get("/hello?"))),
                    1 => drop(client.send("GET /hello HT")),
                    2 => drop(client.send(get("/wait"))),
                    _ => {}
                }
                if i % 2 == 0 {
                    reset_on_close(&client.stream);
                }
            }
        }
        server.wait_for(|counters| {
            counters.connections.open == 0 && counters.connections.accepted == 5000
        });
        let counters = server.counters();
        assert_eq!(counters.waiting, 0);
        // Other tests of this process have some open; a leak would have thousands.
        assert!(
            descriptors() < before + 1500,
            "{before} -> {}",
            descriptors()
        );
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

#[test]
fn late_bodies_are_marked_for_the_service() {
    each(&patient(), |server| {
        let mut client = server.client();
        let request = put("/late", b"12345678");
        assert_eq!(client.send(&request).reply().text(), "false");
        client.send(&request[..request.len() - 3]);
        let received = server.counters().bytes_in + 1;
        server.wait_for(|counters| counters.bytes_in >= received || counters.requests == 2);
        assert_eq!(
            client.send(&request[request.len() - 3..]).reply().text(),
            "true"
        );
        assert_eq!(
            server.counters().requests,
            2,
            "each request is counted once"
        );
    });
}

#[test]
fn idle_connection_is_small() {
    let (conn, task) = sizes::<TestService>();
    assert!(conn <= 112, "the entry has {conn} bytes");
    assert!(task <= 280, "the task has {task} bytes");
}
