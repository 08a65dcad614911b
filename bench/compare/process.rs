//! Peers as child processes: installed when missing, started on their core, ended by pid.
//!
//! Promises that nothing started here outlives the harness: every process is ended when its handle
//! is dropped.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::machine::{self, Cores, Meter};
use weir_testkit::{Signal, sys};

pub struct Process {
    pub name: &'static str,
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    log: PathBuf,
    ended: bool,
}

/// A program to start, its arguments and its user.
pub struct Launch<'a> {
    pub name: &'static str,
    pub program: &'a Path,
    pub arguments: Vec<String>,
    /// Run as this user (PostgreSQL refuses root).
    pub user: Option<&'a str>,
    pub log: PathBuf,
}

/// How long a server may take to end after TERM before it is killed.
const TERM_PATIENCE: Duration = Duration::from_secs(30);

impl Process {
    pub fn start(launch: Launch, cores: Cores) -> Result<Process, Failure> {
        // `taskset`, `nice` and `setpriv` all exec: the pid we hold is the server's own.
        let mut line: Vec<String> = Vec::new();
        if let Some(core) = cores.server() {
            line.extend(["taskset".into(), "-c".into(), core.to_string()]);
        }
        line.extend(["nice".into(), "-n".into(), "-19".into()]);
        if let Some(user) = launch.user {
            line.extend([
                "setpriv".into(),
                format!("--reuid={user}"),
                format!("--regid={user}"),
                "--init-groups".into(),
            ]);
        }
        line.push(launch.program.display().to_string());
        line.extend(launch.arguments);
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.stderr(
            File::options()
                .create(true)
                .append(true)
                .open(&launch.log)?,
        );
        for (name, _) in std::env::vars() {
            if name.starts_with("CENTRAL_") || name.starts_with("PG") || name.starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", line.join(" ")))?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Process {
            name: launch.name,
            child,
            stdout,
            log: launch.log,
            ended: false,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn pids(&self) -> Vec<u32> {
        machine::family(self.pid())
    }

    pub fn meter(&self, cores: Cores) -> Meter {
        Meter {
            cores,
            pids: self.pids(),
            disk: None,
        }
    }

    /// The next line of its standard output.
    pub fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().ok_or("standard output is not read")?;
        if stdout.read_line(&mut line)? == 0 {
            return Err(self.death());
        }
        Ok(line.trim_end().to_owned())
    }

    fn death(&mut self) -> Failure {
        let status = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        self.ended = true;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        format!(
            "{} ended ({status}): {}",
            self.name,
            tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
        )
        .into()
    }

    /// Waits until the port accepts.
    pub fn wait_for_port(&mut self, to: SocketAddrV4) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            if TcpStream::connect(to).is_ok() {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() {
                return Err(self.death());
            }
            if start.elapsed() > Duration::from_mins(1) {
                return Err(format!("{} does not accept on {to}", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends `signal`, then waits for the end; a server that ignores it is killed.
    pub fn end(&mut self, signal: Signal) {
        if self.ended {
            return;
        }
        // The process may have ended already.
        let _ = sys::signal(self.pid(), signal);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > TERM_PATIENCE {
                eprintln!(
                    "{} (pid {}) did not end in {TERM_PATIENCE:?}: killed",
                    self.name,
                    self.pid()
                );
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.ended = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Signal::TERM);
    }
}

/// A loopback port that is free now.
pub fn free_port() -> Result<SocketAddrV4, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(SocketAddrV4::new(
        Ipv4Addr::LOCALHOST,
        listener.local_addr()?.port(),
    ))
}

/// PostgreSQL refuses to run as root, and only root may become another user.
pub fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

pub fn as_user(user: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            format!("--reuid={user}"),
            format!("--regid={user}"),
            "--init-groups".into(),
        ])
        .arg(program);
    command
}

/// Runs a short command to its end; its output, or its error text as the failure.
pub fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
    .into())
}

/// A Debian package and a file that proves it is installed.
pub struct Package {
    pub name: &'static str,
    pub proof: fn() -> bool,
}

/// Installs what is missing, saying so. Nothing is touched when everything is there.
pub fn install(packages: &[Package]) -> Result<(), Failure> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !(package.proof)())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing Debian packages: {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        run(Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments)?;
    match packages.iter().find(|package| !(package.proof)()) {
        Some(package) => Err(format!(
            "package {} is installed but its files are not where Debian puts them",
            package.name
        )
        .into()),
        None => Ok(()),
    }
}
