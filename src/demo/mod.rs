//! `weir demo`: a cluster to look at, without owning one.
//!
//! A server with the layouter on runs in a temporary directory, beside simulated streamers that
//! poll their streams and report them, and one of them fails and returns again and again. The
//! server is this program as a process of its own; it ends with the demo, and nothing stays behind.

mod cluster;
mod streamer;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::process;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::client::ApiClient;
use crate::duration;
use crate::exit::{Exit, Failure, cannot};
use crate::stdout;

/// A streamer that is silent for this long is lost.
const DEAD_TIMEOUT: &str = "10s";

/// The variable of the server with the process id of the demo.
const PARENT: &str = "WEIR_DEMO_PARENT";

/// Makes the server of a demo end with the demo, also if that is killed. Other servers go on.
pub fn end_with_parent(environment: &[(OsString, OsString)]) -> Result<(), Failure> {
    let parent = environment.iter().find(|(name, _)| name == PARENT);
    let Some(parent) = parent.and_then(|(_, pid)| pid.to_str()?.parse::<i32>().ok()) else {
        return Ok(());
    };
    process::set_parent_process_death_signal(Some(process::Signal::TERM))
        .map_err(cannot("end with the demo"))?;
    // It may have ended before the signal was set.
    if process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent) {
        return Ok(());
    }
    Err(Failure::new(Exit::Runtime, "the demo has ended"))
}

/// How the demo listens and what it simulates.
#[derive(Debug, Args)]
pub struct DemoFlags {
    /// Where the server listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9019")]
    listen: SocketAddr,
    /// Simulated streamers.
    #[arg(long, value_name = "N", default_value_t = 12)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=100))]
    streamers: u16,
    /// Streams.
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=20_000))]
    streams: u32,
    /// How often one streamer fails; it returns after half of that time.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = outage)]
    outage: Duration,
}

fn outage(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|time| *time >= Duration::from_secs(1))
        .ok_or_else(|| format!("must be {}, at least 1s", duration::ALLOWED))
}

/// The server, which ends with this value.
struct DemoServer(Child);

impl DemoServer {
    /// Starts this program as a server. Its log goes to a file of `directory`.
    fn start(directory: &Path, listen: SocketAddr, key: &str) -> Result<Self, Failure> {
        let log = fs::File::create(directory.join("server.log"));
        let log = log.map_err(cannot("create the log of the server"))?;
        let program = std::env::current_exe().map_err(cannot("find this program"))?;
        let child = Command::new(program)
            .arg("serve")
            .args(["--listen", &listen.to_string(), "--layouter-enabled"])
            .args(["--streamer-dead-timeout", DEAD_TIMEOUT])
            .arg("--data-dir")
            .arg(directory.join("data"))
            // No setting of this process counts. All users of the machine see arguments.
            .env_clear()
            .env("CENTRAL_API_KEY", key)
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn();
        child.map(Self).map_err(cannot("start the server"))
    }

    /// The address that the server printed, once it listens.
    fn base(&mut self, directory: &Path) -> Result<String, Failure> {
        let failed = || {
            let mut log = String::new();
            let file = fs::File::open(directory.join("server.log"));
            let read = file.and_then(|mut file| file.read_to_string(&mut log));
            let last = read.ok().and_then(|_| log.trim_end().lines().last());
            let reason = last.unwrap_or("it printed nothing");
            Failure::new(
                Exit::Runtime,
                format!("the server does not start: {reason}"),
            )
        };
        let out = self.0.stdout.take().ok_or_else(failed)?;
        let mut lines = BufReader::new(out).lines();
        let mut printed = lines.by_ref().map_while(Result::ok);
        let base = printed
            .find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()))
            .ok_or_else(failed)?;
        drop(printed);
        // What follows is read, so that the server never waits for a reader.
        thread::spawn(move || lines.for_each(drop));
        Ok(base)
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        if let Some(pid) = process::Pid::from_raw(self.0.id().cast_signed()) {
            // It may have ended already, by the same signal from the terminal.
            let _ = process::kill_process(pid, process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Runs until it is interrupted.
pub fn run(flags: &DemoFlags) -> Result<Exit, Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD]).map_err(cannot("handle signals"))?;
    let directory = tempfile::Builder::new().prefix("weir-demo-").tempdir();
    let directory = directory.map_err(cannot("create a temporary directory"))?;
    let mut random = [0; 12];
    getrandom::fill(&mut random).map_err(cannot("choose a key"))?;
    let key = random.map(|byte| format!("{byte:02x}")).concat();
    let mut server = DemoServer::start(directory.path(), flags.listen, &key)?;
    let base = server.base(directory.path())?;
    let client = || ApiClient::new(&base, &key).map_err(|what| Failure::new(Exit::Runtime, what));
    let cluster = cluster::DemoCluster {
        streamers: flags.streamers,
        streams: flags.streams,
    };
    cluster.create(&client()?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for number in 1..=flags.streamers {
        let mut simulated = streamer::DemoStreamer::new(number, client()?);
        if number == flags.streamers {
            simulated = simulated.failing(flags.outage);
        }
        let stop = stop.clone();
        threads.push(thread::spawn(move || simulated.run(&stop)));
    }
    stdout::print(&greeting(&base, &key, &cluster)).map_err(cannot("write to stdout"))?;
    let mut ended = None;
    for signal in signals.forever() {
        ended = match signal {
            SIGCHLD => server.0.try_wait().map_err(cannot("wait for the server"))?,
            _ => break,
        };
        if ended.is_some() {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    drop(server);
    for thread in threads {
        if thread.join().is_err() {
            return Err(Failure::new(Exit::Runtime, "a simulated streamer failed"));
        }
    }
    let removed = directory.close();
    removed.map_err(cannot("remove the temporary directory"))?;
    match ended {
        // A terminal interrupts the server too.
        Some(status) if !status.success() => Err(Failure::new(
            Exit::Runtime,
            format!("the server ended: {status}"),
        )),
        _ => Ok(Exit::Done),
    }
}

fn greeting(base: &str, key: &str, cluster: &cluster::DemoCluster) -> String {
    let failing = streamer::hostname(cluster.streamers);
    format!(
        "web interface: {base}/ui/\n\
         API key: {key}\n\
         {} streamers and {} streams; {failing} fails and returns again and again\n\
         try:\n  \
         export CENTRAL_API_URL={base} CENTRAL_API_KEY={key}\n  \
         weir status --watch\n  \
         weir what-if lose {} {}\n  \
         weir cordon {} && weir events -f\n\
         ctrl-C ends it and removes everything\n",
        cluster.streamers,
        cluster.streams,
        streamer::hostname(1),
        streamer::hostname(2),
        streamer::hostname(1),
    )
}
