//! Connections by TLS, and their deadlines, against servers on this machine.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weir_testkit::certificate::{CERTIFICATE, PRIVATE_KEY};

use super::*;
use crate::outbound::EgressPolicy;
use crate::rt::{Options, uptime_ms};
use crate::subnet::Subnets;

fn decoded(text: &str) -> Vec<u8> {
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text.replace(' ', "")).expect("base64")
}

/// Serves each connection on a thread of its own.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(socket));
        }
    });
    port
}

/// A server by TLS that answers each request with the length of its head, in two records.
fn tls_server(version: &'static rustls::SupportedProtocolVersion) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("safe versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(decoded(CERTIFICATE))],
            PrivatePkcs8KeyDer::from(decoded(PRIVATE_KEY)).into(),
        )
        .expect("a certificate with its key");
    let config = Arc::new(config);
    server(move |socket| {
        let tls = ServerConnection::new(config.clone()).expect("a good configuration");
        let mut stream = StreamOwned::new(tls, socket);
        let (mut head, mut byte) = (Vec::new(), [0]);
        while stream.read(&mut byte).is_ok_and(|got| got == 1) {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                let body = "x".repeat(100_000);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let sent = stream.write_all(answer.as_bytes());
                let sent = sent.and_then(|()| stream.flush());
                if sent
                    .and_then(|()| stream.write_all(body.as_bytes()))
                    .is_err()
                {
                    return;
                }
                let _ = stream.flush();
                head.clear();
            }
        }
    })
}

/// Makes a number of requests on one connection, which ends after a time.
fn call(url: &str, requests: usize, ms: u64) -> Result<usize, ExchangeError> {
    let policy = Arc::new(EgressPolicy::new(true, Subnets::default()));
    let dialer = Dialer::with_certificate(policy, &decoded(CERTIFICATE));
    let target = TargetUrl::parse(url).expect("a URL");
    let called = rt::run(&Options::default(), async move {
        let context = Rc::new(CallContext::new(Arc::new(dialer)));
        let deadline = context.deadlines.begin(uptime_ms() + ms);
        let ticking = context.clone();
        rt::spawn(async move {
            loop {
                rt::sleep(std::time::Duration::from_millis(5)).await;
                ticking.deadlines.end_overdue(uptime_ms());
            }
        });
        let request = get_request(&target, &[]);
        let mut connection = PeerConnection::open(&context, &target, &deadline).await?;
        let mut bytes = 0;
        for _ in 0..requests {
            let exchanged = connection.exchange(&context, &request, 1 << 20, &deadline);
            let reply = exchanged.await?;
            assert_eq!((reply.status, reply.keeps_open), (200, true));
            bytes += reply.body.len();
        }
        assert_eq!(context.held_bytes.get(), 0);
        Ok(bytes)
    });
    called.expect("a runtime")
}

const LONG_MS: u64 = 60_000;

#[test]
fn requests_go_by_tls_on_one_connection() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let port = tls_server(version);
        let bytes = call(&format!("https://127.0.0.1:{port}/"), 3, LONG_MS);
        assert_eq!(bytes, Ok(300_000));
    }
}

#[test]
fn certificate_of_another_name_is_refused() {
    let port = tls_server(&rustls::version::TLS13);
    let called = call(&format!("https://localhost:{port}/"), 1, LONG_MS);
    assert_eq!(called, Err(OutboundError::Unreachable.into()));
}

#[test]
fn servers_without_tls_are_refused() {
    let port = server(|mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = socket.read(&mut [0; 4096]);
    });
    let called = call(&format!("https://127.0.0.1:{port}/"), 1, LONG_MS);
    assert_eq!(called, Err(OutboundError::Unreachable.into()));
}

#[test]
fn silence_ends_at_the_deadline_with_and_without_tls() {
    let port = server(|mut socket| {
        let mut byte = [0];
        while socket.read(&mut byte).is_ok_and(|got| got > 0) {}
    });
    for scheme in ["http", "https"] {
        let called = call(&format!("{scheme}://127.0.0.1:{port}/"), 1, 50);
        assert_eq!(called, Err(OutboundError::TimedOut.into()), "{scheme}");
    }
}

/// A listener whose queue is full: attempts to connect get no answer. With the connections in it.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    rustix::net::listen(&listener, 0).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    let within = std::time::Duration::from_millis(200);
    let mut queued = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, within) {
        queued.push(socket);
        assert!(queued.len() < 100, "the queue does not fill");
    }
    (listener, queued)
}

#[test]
fn address_that_does_not_answer_hides_no_other() {
    let (silent, _queued) = full_listener();
    let silent = silent.local_addr().expect("it is bound");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let live = listener.local_addr().expect("it is bound");
    let connected = rt::run(&Options::default(), async move {
        let deadlines: Rc<Deadlines> = Rc::default();
        let ticking = deadlines.clone();
        rt::spawn(async move {
            loop {
                rt::sleep(std::time::Duration::from_millis(5)).await;
                ticking.end_overdue(uptime_ms());
            }
        });
        let deadline = deadlines.begin(uptime_ms() + 6_000);
        let peer = connect(&[silent, silent, live], &deadline).await;
        let peer = peer.map(|(socket, _)| sys::connect_result(socket.as_raw_fd()).is_ok());
        let deadline = deadlines.begin(uptime_ms() + 100);
        let none = connect(&[silent, silent], &deadline).await;
        (peer, none.map(drop))
    });
    let (peer, none) = connected.expect("a runtime");
    assert_eq!(peer, Ok(true));
    assert_eq!(none, Err(OutboundError::TimedOut));
}

#[test]
fn header_values_with_line_ends_are_left_out() {
    let target = TargetUrl::parse("http://u:p@h:81/a?b=c").expect("a URL");
    let headers = [
        ("authorization", "x\r\nEvil: 1".to_owned()),
        ("x-good", "1".to_owned()),
    ];
    let request = String::from_utf8(get_request(&target, &headers)).expect("text");
    let expected = concat!(
        "GET /a?b=c HTTP/1.1\r\nHost: h:81\r\nUser-Agent: weir/",
        env!("CARGO_PKG_VERSION"),
        "\r\nAccept: application/json\r\nauthorization: Basic dTpw\r\nx-good: 1\r\n\r\n",
    );
    assert_eq!(request, expected);
}

/// The last byte of the address that the name of [`moved_server_is_found_at_its_new_address`] leads
/// to.
static ADDRESS: AtomicU8 = AtomicU8::new(1);

#[test]
fn moved_server_is_found_at_its_new_address() {
    // Goal: a name that leads to another address is followed: at once if the old one refuses
    // connections, and when it is resolved again if the old one goes on. Method: a resolver of this
    // test, and servers at the same port of two addresses.
    let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = first.local_addr().expect("it is bound").port();
    let second = TcpListener::bind(("127.0.0.2", port)).expect("a free port");
    let policy = Arc::new(EgressPolicy::new(true, Subnets::default()));
    let dialer = Dialer::resolving(policy, |_, port| {
        let last = ADDRESS.load(Ordering::Acquire);
        Ok(vec![SocketAddr::from(([127, 0, 0, last], port))])
    });
    let target = TargetUrl::parse(&format!("http://streamer.example:{port}/")).expect("a URL");
    let moved = rt::run(&Options::default(), async move {
        let context = CallContext::new(Arc::new(dialer));
        let deadline = context.deadlines.begin(uptime_ms() + LONG_MS);
        let open = || PeerConnection::open(&context, &target, &deadline);
        let kept = open().await.expect("the first server accepts");
        assert_eq!(kept.address.ip().to_string(), "127.0.0.1");
        assert!(kept.is_to(&context, &target));
        drop(first);
        ADDRESS.store(2, Ordering::Release);
        // What was found a moment ago is not found again at once.
        let mut refused = 0;
        let found = loop {
            match open().await {
                Ok(found) => break found,
                Err(error) => assert_eq!(error, OutboundError::Unreachable),
            }
            refused += 1;
            assert!(!deadline.is_over() && uptime_ms() > 0, "{refused} refused");
            rt::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!(found.address.ip().to_string(), "127.0.0.2");
        assert!(refused > 0, "the old address was known");
        // The kept one would still lead to the old address, if that had gone on.
        context.follow_name(&target, &deadline).await;
        assert!(!kept.is_to(&context, &target));
        assert!(found.is_to(&context, &target));
        drop(second);
    });
    moved.expect("a runtime");
}
