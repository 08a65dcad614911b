//! PostgreSQL in a scratch cluster, and just enough of its wire protocol to load it from our own
//! generator.
//!
//! The same JSON text that is PUT to Weir is bound to a prepared `INSERT .. ON CONFLICT DO UPDATE`:
//! same client thread, same bytes, same latency clock. `fsync` and `synchronous_commit` stay on.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use crate::load::Work;
use crate::process::{self, Launch, Package, Process};
use crate::{Bench, Failure};
use weir_testkit::Signal;

const POSTGRESQL: Package = Package {
    name: "postgresql",
    proof: || programs().is_some(),
};

/// The newest installed server's programs (Debian keeps them beside each other by version).
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    versions.retain(|path| path.join("postgres").exists());
    versions.sort();
    versions.pop()
}

pub fn version() -> String {
    let program = programs().map(|path| path.join("postgres"));
    program
        .and_then(|program| process::run(Command::new(program).arg("--version")).ok())
        .map_or_else(
            || "PostgreSQL ?".into(),
            |text| text.trim().replace("postgres (PostgreSQL)", "PostgreSQL"),
        )
}

pub struct Postgres {
    pub process: Process,
    pub to: SocketAddrV4,
}

impl Postgres {
    pub fn start(bench: &Bench) -> Result<Postgres, Failure> {
        process::install(&[POSTGRESQL])?;
        let programs = programs().ok_or("no PostgreSQL server programs")?;
        let home = bench.directory("postgresql")?;
        let user = process::root().then_some("postgres");
        if user.is_some() {
            process::run(Command::new("chown").args(["postgres:postgres"]).arg(&home))?;
        }
        let data = home.join("data");
        if !data.exists() {
            // C collation: names sort by bytes, as Weir sorts them.
            let mut initdb = match user {
                Some(user) => process::as_user(user, &programs.join("initdb")),
                None => Command::new(programs.join("initdb")),
            };
            process::run(
                initdb
                    .args([
                        "-A",
                        "trust",
                        "-U",
                        "postgres",
                        "--locale=C",
                        "--encoding=UTF8",
                        "-D",
                    ])
                    .arg(&data)
                    .current_dir("/"),
            )?;
            // The generators connect from many loopback addresses.
            let mut rules = fs::read_to_string(data.join("pg_hba.conf"))?;
            rules.push_str("host all all 127.0.0.0/8 trust\n");
            fs::write(data.join("pg_hba.conf"), rules)?;
        }
        let to = process::free_port()?;
        let parallel = if bench.cores.pinned { "0" } else { "2" };
        let settings = [
            format!("port={}", to.port()),
            "listen_addresses=127.0.0.1".into(),
            format!("unix_socket_directories={}", home.display()),
            "max_connections=600".into(),
            "fsync=on".into(),
            "synchronous_commit=on".into(),
            "full_page_writes=on".into(),
            // Generous for a peer: the table fits, and no checkpoint falls into a measurement for
            // lack of log.
            "shared_buffers=2GB".into(),
            "work_mem=256MB".into(),
            "max_wal_size=8GB".into(),
            "checkpoint_timeout=30min".into(),
            // One core: parallel workers would only cost.
            format!("max_parallel_workers_per_gather={parallel}"),
            "logging_collector=off".into(),
        ];
        let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
        for setting in settings {
            arguments.extend(["-c".to_owned(), setting]);
        }
        let log = bench.directory("logs")?.join("postgresql.log");
        let mut process = Process::start(
            Launch {
                name: "postgres",
                program: &programs.join("postgres"),
                arguments,
                user,
                log,
            },
            bench.cores,
        )?;
        process.wait_for_port(to)?;
        let mut postgres = Postgres { process, to };
        // The port opens a little before queries are answered.
        let start = std::time::Instant::now();
        while let Err(error) = postgres
            .session()
            .and_then(|mut session| session.query("select 1"))
        {
            if start.elapsed().as_secs() > 60 {
                return Err(error);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(postgres)
    }

    pub fn session(&mut self) -> Result<Session, Failure> {
        let mut stream = TcpStream::connect(self.to)?;
        greet(&mut stream, &[])?;
        Ok(Session { stream })
    }

    /// Ends it the fast, clean way (SIGINT).
    pub fn stop(&mut self) {
        self.process.end(Signal::INT);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

/// Start-up without a password, then the given statements are prepared as `s0`, `s1`, ..
fn greet(stream: &mut TcpStream, statements: &[&str]) -> Result<(), Failure> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    body.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    let mut out = (body.len() as u32 + 4).to_be_bytes().to_vec();
    out.extend_from_slice(&body);
    stream.write_all(&out)?;
    until_ready(stream)?;
    for (number, statement) in statements.iter().enumerate() {
        let mut out = Vec::new();
        let mut parse = format!("s{number}\0{statement}\0").into_bytes();
        parse.extend_from_slice(&0_u16.to_be_bytes());
        message(b'P', &parse, &mut out);
        message(b'S', b"", &mut out);
        stream.write_all(&out)?;
        until_ready(stream)?;
    }
    Ok(())
}

/// Bind, execute and sync of a prepared statement with text parameters.
pub fn execute(statement: usize, parameters: &[&[u8]], out: &mut Vec<u8>) {
    let mut bind = format!("\0s{statement}\0").into_bytes();
    bind.extend_from_slice(&0_u16.to_be_bytes());
    bind.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
    for parameter in parameters {
        bind.extend_from_slice(&(parameter.len() as u32).to_be_bytes());
        bind.extend_from_slice(parameter);
    }
    bind.extend_from_slice(&0_u16.to_be_bytes());
    message(b'B', &bind, out);
    message(b'E', b"\0\0\0\0\0", out);
    message(b'S', b"", out);
}

/// Length of everything up to and including `ReadyForQuery`; an error answer is a failure.
pub fn answer_length(input: &[u8]) -> Result<Option<usize>, Failure> {
    let mut at = 0;
    while let Some(header) = input.get(at..at + 5) {
        let length = u32::from_be_bytes(header[1..5].try_into().expect("four bytes")) as usize;
        let end = at + 1 + length;
        if input.len() < end {
            return Ok(None);
        }
        match header[0] {
            b'E' => {
                return Err(format!(
                    "PostgreSQL: {}",
                    String::from_utf8_lossy(&input[at + 5..end]).replace('\0', " ")
                )
                .into());
            }
            b'Z' => return Ok(Some(end)),
            _ => at = end,
        }
    }
    Ok(None)
}

fn until_ready(stream: &mut TcpStream) -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err("PostgreSQL closed the connection".into());
        }
        input.extend_from_slice(&buffer[..count]);
        // Only the tail can complete the answer, but answers here are small enough to be looked at
        // again.
        if answer_length(&input)?.is_some() {
            return Ok(input);
        }
    }
}

/// A blocking session for set-up and for single queries.
pub struct Session {
    stream: TcpStream,
}

impl Session {
    pub fn query(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Failure> {
        let mut out = Vec::new();
        message(b'Q', format!("{sql}\0").as_bytes(), &mut out);
        self.stream.write_all(&out)?;
        rows(&until_ready(&mut self.stream)?)
    }

    pub fn prepare(&mut self, number: usize, sql: &str) -> Result<(), Failure> {
        let mut out = Vec::new();
        let mut parse = format!("s{number}\0{sql}\0").into_bytes();
        parse.extend_from_slice(&0_u16.to_be_bytes());
        message(b'P', &parse, &mut out);
        message(b'S', b"", &mut out);
        self.stream.write_all(&out)?;
        until_ready(&mut self.stream)?;
        Ok(())
    }

    pub fn execute(&mut self, number: usize) -> Result<Vec<Vec<String>>, Failure> {
        let mut out = Vec::new();
        execute(number, &[], &mut out);
        self.stream.write_all(&out)?;
        rows(&until_ready(&mut self.stream)?)
    }

    /// `COPY table FROM STDIN` of prepared lines.
    pub fn copy(&mut self, sql: &str, lines: impl Iterator<Item = String>) -> Result<(), Failure> {
        let mut out = Vec::new();
        message(b'Q', format!("{sql}\0").as_bytes(), &mut out);
        self.stream.write_all(&out)?;
        let mut chunk = String::new();
        let mut send = |chunk: &mut String| -> Result<(), Failure> {
            let mut out = Vec::with_capacity(chunk.len() + 5);
            message(b'd', chunk.as_bytes(), &mut out);
            self.stream.write_all(&out)?;
            chunk.clear();
            Ok(())
        };
        for line in lines {
            chunk.push_str(&line);
            chunk.push('\n');
            if chunk.len() > 512 * 1024 {
                send(&mut chunk)?;
            }
        }
        send(&mut chunk)?;
        let mut out = Vec::new();
        message(b'c', b"", &mut out);
        self.stream.write_all(&out)?;
        until_ready(&mut self.stream)?;
        Ok(())
    }
}

fn rows(input: &[u8]) -> Result<Vec<Vec<String>>, Failure> {
    let mut rows = Vec::new();
    let mut at = 0;
    while at + 5 <= input.len() {
        let end = at
            + 1
            + u32::from_be_bytes(input[at + 1..at + 5].try_into().expect("four bytes")) as usize;
        if input[at] == b'D' {
            let body = input.get(at + 5..end).ok_or("a short row")?;
            let count = u16::from_be_bytes([body[0], body[1]]);
            let mut position = 2;
            let mut row = Vec::new();
            for _ in 0..count {
                let length = i32::from_be_bytes(
                    body[position..position + 4].try_into().expect("four bytes"),
                );
                position += 4;
                let bytes = body
                    .get(position..position + length.max(0) as usize)
                    .ok_or("a short field")?;
                row.push(String::from_utf8_lossy(bytes).into_owned());
                position += length.max(0) as usize;
            }
            rows.push(row);
        }
        at = end;
    }
    Ok(rows)
}

/// Durable upserts of generated rows, one in flight per connection.
pub struct Upsert<'a> {
    pub next: &'a mut dyn FnMut() -> (String, Vec<u8>),
}

pub const TABLE: &str =
    "create table if not exists stream (name text primary key, config jsonb not null)";
const UPSERT: &str = "insert into stream (name, config) values ($1, $2::jsonb) on conflict (name) \
 do update set config = excluded.config";

impl Work for Upsert<'_> {
    fn request(&mut self, _connection: usize, _last: bool, out: &mut Vec<u8>) {
        let (name, config) = (self.next)();
        execute(0, &[name.as_bytes(), &config], out);
    }

    fn answer(&mut self, _connection: usize, input: &[u8]) -> Result<Option<usize>, Failure> {
        answer_length(input)
    }

    fn greet(&mut self, stream: &mut TcpStream) -> Result<(), Failure> {
        greet(stream, &[UPSERT])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_answer_ends_with_ready_for_query() {
        let mut bytes = Vec::new();
        message(b'2', b"", &mut bytes);
        message(b'C', b"INSERT 0 1\0", &mut bytes);
        message(b'Z', b"I", &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(
                answer_length(&bytes[..cut]).expect("a prefix is no error"),
                None
            );
        }
        let whole = bytes.len();
        message(b'2', b"", &mut bytes);
        assert_eq!(answer_length(&bytes).expect("valid"), Some(whole));
        let mut bytes = Vec::new();
        message(b'E', b"SERROR\0", &mut bytes);
        assert!(answer_length(&bytes).is_err());
    }

    #[test]
    fn rows_are_read_field_by_field() {
        let mut body = 2_u16.to_be_bytes().to_vec();
        body.extend_from_slice(&3_u32.to_be_bytes());
        body.extend_from_slice(b"abc");
        body.extend_from_slice(&(-1_i32).to_be_bytes());
        let mut bytes = Vec::new();
        message(b'D', &body, &mut bytes);
        message(b'Z', b"I", &mut bytes);
        assert_eq!(
            rows(&bytes).expect("valid"),
            [["abc".to_owned(), String::new()]]
        );
    }
}
