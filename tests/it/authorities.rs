//! Calls by https: which certificate authorities are trusted.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::thread;

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::connector;
use weir_testkit::certificate::{CERTIFICATE, PRIVATE_KEY};
use weir_testkit::{API_KEY, TestServer, run};

fn decoded(text: &str) -> Vec<u8> {
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text.replace(' ', "")).expect("base64")
}

/// Writes the certificate as the system's certificates are.
fn certificate_file(directory: &std::path::Path) -> PathBuf {
    let path = directory.join("authorities.pem");
    let base64 = CERTIFICATE.replace(' ', "");
    let text = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    fs::write(&path, text).expect("written");
    path
}

/// A server by https in front of one by http. Returns its base URL.
fn tls_front(behind: SocketAddr) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("safe versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(decoded(CERTIFICATE))],
            PrivatePkcs8KeyDer::from(decoded(PRIVATE_KEY)).into(),
        )
        .expect("a certificate with its key");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let tls = ServerConnection::new(config.clone()).expect("a good configuration");
            // A client that does not trust the certificate ends the connection.
            thread::spawn(move || drop(forward(StreamOwned::new(tls, socket), behind)));
        }
    });
    format!("https://{address}")
}

/// Forwards one request, which has no body, and its response.
fn forward(mut client: impl Read + Write, behind: SocketAddr) -> io::Result<()> {
    let head = read_head(&mut client)?;
    let mut server = TcpStream::connect(behind)?;
    server.write_all(&head)?;
    let mut response = read_head(&mut server)?;
    let head = String::from_utf8_lossy(&response).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    server.take(length).read_to_end(&mut response)?;
    client.write_all(&response)?;
    client.flush()
}

fn read_head(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn authority_of_the_system_is_trusted() {
    // Goal: streamers and load balancers whose certificates are from an authority of the operator
    // are reached once the system has it. Method: the same streamer, queried by servers that find
    // the authority and that do not; then the same for a subcommand that calls a server.
    let folder = tempfile::tempdir().expect("a directory");
    let file = certificate_file(folder.path());
    let file = file.to_str().expect("UTF-8");
    let streamer = connector::fake();
    let behind = streamer.url();
    let behind = behind.strip_prefix("http://").expect("a base URL");
    let url = tls_front(behind.parse().expect("an address"));
    let flags = ["--streamer-queries=true", "--outbound-loopback=true"];

    let trusting = TestServer::with_environment(&flags, &[("SSL_CERT_FILE", file)]);
    connector::save(&trusting, "s1", &url);
    let found = connector::until_stats(&trusting, "/streamers/s1", serde_json::Value::is_object);
    assert_eq!(found["server_version"], "24.11");
    let checked = json!({
        "role": "streamer", "cluster_key": connector::KEY, "api_url": url,
    });
    trusting
        .put("/streamers/s2?checks_enable=true", checked.clone())
        .expect(200);

    let other = TestServer::with(&flags);
    connector::save(&other, "s1", &url);
    connector::until_queries(&other, "unreachable", 1);
    let refused = other
        .put("/streamers/s2?checks_enable=true", checked)
        .expect(400)
        .errors();
    assert!(
        refused[0].starts_with("streamer_check_failed"),
        "{refused:?}"
    );

    let front = tls_front(trusting.address());
    let get = |environment: &[(&str, &str)]| {
        let arguments = ["get", "streamers", "--url", &front, "--api-key", API_KEY];
        let output = run(&arguments, environment, folder.path());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr(&output),
        )
    };
    let (code, out, errors) = get(&[("SSL_CERT_FILE", file)]);
    assert!(
        code == Some(0) && out.contains("s2"),
        "{code:?}: {out}{errors}"
    );
    let (code, _, errors) = get(&[]);
    assert!(
        code == Some(1) && errors.contains("certificate"),
        "{code:?}: {errors}"
    );
}

#[test]
fn named_file_without_authorities_is_refused() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("empty.pem");
    fs::write(&file, "nothing").expect("written");
    let file = file.to_str().expect("UTF-8");
    let data = folder.path().join("data");
    let data = data.to_str().expect("UTF-8");
    for (code, arguments) in [
        (
            78,
            &["serve", "--data-dir", data, "--listen", "127.0.0.1:0"] as &[&str],
        ),
        (
            2,
            &[
                "get",
                "streams",
                "--url",
                "https://127.0.0.1:1",
                "--api-key",
                "k",
            ],
        ),
    ] {
        let output = run(arguments, &[("SSL_CERT_FILE", file)], folder.path());
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        let text = "SSL_CERT_FILE names no certificate of an authority";
        assert!(errors.contains(text), "{errors}");
    }
}
