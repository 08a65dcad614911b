//! `weir cordon`, `weir drain` and `weir uncordon`.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::connection::Connection;
use super::names;
use super::progress;
use super::what_if;
use super::words::{at, counted, number, text};
use crate::client::escape;
use crate::duration;
use crate::exit::{Exit, Failure};

/// Pause between two looks at a drain.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct CordonFlags {
    #[arg(required = true, value_name = "HOST", add = names::streamers())]
    hosts: Vec<String>,
    /// Why, for those who see it in the interface.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct DrainFlags {
    #[arg(required = true, value_name = "HOST", add = names::streamers())]
    hosts: Vec<String>,
    /// Why, for those who see it in the interface.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Streams that leave each streamer per minute; 0 for all at once.
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pace: u32,
    /// The longest time that it may take, for instance 30m.
    #[arg(long, value_name = "TIME", value_parser = limit)]
    deadline: Option<String>,
    /// Leave the streams where they are then, also after `uncordon`.
    #[arg(long)]
    no_return: bool,
    /// Print what would move and what finds no place, and change nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until the streamers themselves report no stream. Interrupted, the drain goes on.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub struct UncordonFlags {
    #[arg(required = true, value_name = "HOST", add = names::streamers())]
    hosts: Vec<String>,
}

fn limit(text: &str) -> Result<String, String> {
    match duration::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("must be {}", duration::ALLOWED)),
    }
}

pub fn cordon(server: &Connection, flags: &CordonFlags) -> Result<Exit, Failure> {
    let mut wanted = json!({"mode": "cordon"});
    if let Some(reason) = &flags.reason {
        wanted["reason"] = Value::from(reason.as_str());
    }
    save(server, &flags.hosts, &wanted)
}

pub fn uncordon(server: &Connection, flags: &UncordonFlags) -> Result<Exit, Failure> {
    save(server, &flags.hosts, &json!({"mode": "none"}))
}

/// Exits with 3 if something finds no place: in a dry run, or at the deadline of `--wait`.
pub fn drain(server: &Connection, flags: &DrainFlags) -> Result<Exit, Failure> {
    let mut wanted = json!({"mode": "drain", "pace": flags.pace, "return": !flags.no_return});
    let given = [("reason", &flags.reason), ("deadline", &flags.deadline)];
    for (member, value) in given {
        if let Some(value) = value {
            wanted[member] = Value::from(value.as_str());
        }
    }
    if flags.dry_run {
        return what_if::print(server, &preview(server, &flags.hosts, &wanted)?);
    }
    let exit = save(server, &flags.hosts, &wanted)?;
    if flags.wait {
        return wait(server, &flags.hosts);
    }
    Ok(exit)
}

/// What would move: of several streamers together, so that none takes the streams of another.
fn preview(server: &Connection, hosts: &[String], wanted: &Value) -> Result<Value, Failure> {
    if let [host] = hosts {
        return put(server, host, "?dry_run=true", wanted);
    }
    let event = |host: &String| json!({"event": "streamer_drained", "hostname": host});
    let events: Vec<Value> = hosts.iter().map(event).collect();
    let body = json!({"events": events});
    let answer = server.send(Method::POST, "/cluster/preview", &[], Some(&body))?;
    Ok(answer.body)
}

/// What is left of a drain.
struct DrainLeft {
    slots: u64,
    no_place: u64,
    is_late: bool,
}

/// Reads what is left on a streamer; `None` once it is drained.
fn left_on(server: &Connection, host: &str) -> Result<Option<DrainLeft>, Failure> {
    let path = format!("/streamers/{}", escape(host));
    let streamer = server.get(&path)?;
    let maintenance = at(&streamer, "state.maintenance");
    if text(maintenance, "mode") != "drain" {
        let what = format!("{host}: the drain was ended");
        return Err(Failure::new(Exit::Runtime, what));
    }
    if number(maintenance, "drained_at") > 0 {
        return Ok(None);
    }
    let slots = ["ingests", "backups", "inferences"].map(|it| number(maintenance, it));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.unwrap_or_default().as_millis() as u64;
    Ok(Some(DrainLeft {
        slots: slots.iter().sum(),
        no_place: number(maintenance, "no_place"),
        is_late: (1..now_ms).contains(&number(maintenance, "deadline")),
    }))
}

fn wait(server: &Connection, hosts: &[String]) -> Result<Exit, Failure> {
    let mut waiting: Vec<&String> = hosts.iter().collect();
    let mut bar = None;
    loop {
        let (mut slots, mut late) = (0, Vec::new());
        let mut still = Vec::new();
        for host in waiting {
            match left_on(server, host)? {
                None => server.note(&format!("{host}: drained")),
                Some(left) => {
                    slots += left.slots;
                    if left.is_late && left.no_place > 0 {
                        late.push((host, left.no_place));
                    }
                    still.push(host);
                }
            }
        }
        if still.is_empty() {
            return Ok(Exit::Done);
        }
        if late.len() == still.len() {
            for (host, no_place) in late {
                let streams = counted(no_place, "stream");
                server.note(&format!("{host}: no other streamer has room for {streams}"));
            }
            return Ok(Exit::Unhealthy);
        }
        let total = slots.max(2) as usize;
        let bar = bar.get_or_insert_with(|| progress::bar(server.output.quiet, total));
        let total = bar.length().unwrap_or(0);
        bar.set_position(total.saturating_sub(slots));
        waiting = still;
        thread::sleep(LOOK_EVERY);
    }
}

fn put(server: &Connection, host: &str, query: &str, wanted: &Value) -> Result<Value, Failure> {
    let path = format!("/streamers/{}/maintenance{query}", escape(host));
    let saved = server.send(Method::PUT, &path, &[], Some(wanted));
    let saved = saved
        .map_err(|failure| Failure::new(failure.exit, format!("{host}: {}", failure.message)))?;
    Ok(saved.body)
}

fn save(server: &Connection, hosts: &[String], wanted: &Value) -> Result<Exit, Failure> {
    for host in hosts {
        put(server, host, "", wanted)?;
        let mode = wanted["mode"].as_str().unwrap_or_default();
        server.note(&format!("{host}: maintenance {mode}"));
    }
    Ok(Exit::Done)
}
