//! etcd over its JSON gateway (option `--etcd`): durable puts of the same JSON.

use std::net::SocketAddrV4;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::load::Work;
use crate::process::{self, Launch, Package, Process};
use crate::{Bench, Failure, http};

const PROGRAM: &str = "/usr/bin/etcd";

const ETCD: Package = Package {
    name: "etcd-server",
    proof: || Path::new(PROGRAM).exists(),
};

pub struct Etcd {
    pub process: Process,
    pub to: SocketAddrV4,
}

impl Etcd {
    pub fn start(bench: &Bench) -> Result<Etcd, Failure> {
        process::install(&[ETCD])?;
        let home = bench.directory("etcd")?;
        let (to, peers) = (process::free_port()?, process::free_port()?);
        let arguments = [
            ("--data-dir", home.join("data").display().to_string()),
            ("--listen-client-urls", format!("http://{to}")),
            ("--advertise-client-urls", format!("http://{to}")),
            ("--listen-peer-urls", format!("http://{peers}")),
            ("--initial-advertise-peer-urls", format!("http://{peers}")),
            ("--initial-cluster", format!("default=http://{peers}")),
            ("--log-level", "error".into()),
        ];
        let arguments = arguments
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect();
        let log = home.join("stderr.log");
        let mut process = Process::start(
            Launch {
                name: "etcd",
                program: Path::new(PROGRAM),
                arguments,
                user: None,
                log,
            },
            bench.cores,
        )?;
        process.wait_for_port(to)?;
        // The port opens before there is a leader.
        let mut client = http::Client::new(to, "");
        let start = std::time::Instant::now();
        while client
            .call(
                "POST",
                "/v3/kv/put",
                "",
                b"{\"key\":\"YQ==\",\"value\":\"YQ==\"}",
            )?
            .status
            != 200
        {
            if start.elapsed().as_secs() > 30 {
                return Err("etcd has no leader".into());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(Etcd { process, to })
    }
}

pub struct EtcdPut<'a> {
    pub next: &'a mut dyn FnMut() -> (String, Vec<u8>),
}

impl Work for EtcdPut<'_> {
    fn request(&mut self, _connection: usize, _last: bool, out: &mut Vec<u8>) {
        let (name, config) = (self.next)();
        let body = format!(
            "{{\"key\":\"{}\",\"value\":\"{}\"}}",
            STANDARD.encode(name),
            STANDARD.encode(config)
        );
        out.extend_from_slice(&http::request(
            "POST",
            "/v3/kv/put",
            "",
            "",
            body.as_bytes(),
        ));
    }

    fn answer(&mut self, _connection: usize, input: &[u8]) -> Result<Option<usize>, Failure> {
        match http::frame(input)? {
            Some(frame) if frame.status != 200 => {
                Err(format!("etcd answered {}", frame.status).into())
            }
            frame => Ok(frame.map(|frame| frame.total)),
        }
    }
}
