//! `agents`: thousands of connected agents, operators that command and move them, and the proof
//! that each command reached the right one.
//!
//! Proven at the end: every acknowledged command was executed once, by the agent it was for; logs
//! came from the agent they were requested from; every agent is where the last layout sent it; no
//! connection was lost.

use crate::agents::{self, AgentOutcome, COMMANDS, Run, agent_id, agent_key};
use crate::cli::{self, Common};
use crate::control::{Control, Target};
use crate::report::{Report, Series};
use crate::schedule::{Arrivals, Nanos, SECOND, Window};
use crate::seed::{Random, mix};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use weir_testkit::sys;

/// All agents must be connected within this time.
const CONNECT_MAX: Nanos = 300 * SECOND;
const DESCRIPTORS_SPARE: u64 = 64;
/// Connections that make agents at the same time: saves are written in groups.
const PREPARING: u64 = 16;
const LAYOUTS_PER_REQUEST: u64 = 5000;

/// Acknowledged commands, by agent and command.
struct Acknowledged(Vec<[AtomicU32; 3]>);

pub fn run(common: &Common, options: &cli::Agents, target: &Target) -> Result<Report, String> {
    let descriptors = sys::descriptors_max();
    let wanted = options.agents + options.connections + DESCRIPTORS_SPARE;
    if wanted > descriptors {
        return Err(format!(
            "{} agents do not fit into {descriptors} descriptors: raise `ulimit -n`",
            options.agents
        ));
    }
    let hosts: Vec<String> = (0..options.streamers.max(2))
        .map(|n| format!("lt-streampoint-{n}"))
        .collect();
    let run = Run::new(
        target.clone(),
        common.source.clone(),
        common.seed,
        hosts,
        options.agents,
    );
    prepare(&run)?;
    let acknowledged = Acknowledged((0..options.agents).map(|_| Default::default()).collect());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..common.threads)
            .map(|n| {
                let run = &run;
                scope.spawn(move || {
                    let outcome = agents::run(run, n, common.threads);
                    if outcome.is_err() {
                        run.stop.store(true, Ordering::Release);
                    }
                    outcome
                })
            })
            .collect();
        let measured = measure(common, options, &run, &acknowledged);
        let connected = run.ready.load(Ordering::Acquire);
        run.stop.store(true, Ordering::Release);
        let mut outcome = AgentOutcome::default();
        for thread in threads {
            let brought = thread.join().expect("a thread of agents does not panic");
            let brought = brought.map_err(|error| format!("event loop of agents: {error}"))?;
            outcome.handshakes.merge(&brought.handshakes);
            outcome.moves.merge(&brought.moves);
            outcome.lines += brought.lines;
            outcome.pings += brought.pings;
        }
        let mut report = match measured {
            Ok(report) => report,
            Err(what) => {
                let errors: Vec<&String> = outcome.handshakes.errors.keys().take(5).collect();
                return Err(format!("{what}; agents saw {errors:?}"));
            }
        };
        report.series.insert("handshake".into(), outcome.handshakes);
        report
            .wakes
            .insert("layout change until the agent knows".into(), outcome.moves);
        for (name, count) in [
            ("agents connected", connected),
            ("lines to agents", outcome.lines),
            ("pings", outcome.pings),
        ] {
            report.counters.insert(name.into(), count);
        }
        Ok(report)
    })
}

/// Saves streamers that accept agents, the agents, and the first layout of each.
fn prepare(run: &Run) -> Result<(), String> {
    let mut control = Control::new(&run.target);
    for host in &run.hosts {
        let body = json!({
            "role":"streamer","cluster_key":"lt","api_url":format!("http://{host}.example:8080"),
            "config":{"rproxy":{"streampoint_key":"lt"}},
        });
        let path = run.target.path_of("streamers", host);
        control.expect("PUT", &path, Some(body.to_string().as_bytes()))?;
    }
    let count = run.seen.len() as u64;
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..PREPARING.min(count.max(1)))
            .map(|_| {
                scope.spawn(|| {
                    let mut control = Control::new(&run.target);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return Ok::<(), String>(());
                        }
                        let body = json!({"key":agent_key(run.seed, n)}).to_string();
                        let path = run.target.path_of("agents", &agent_id(n));
                        control.expect("PUT", &path, Some(body.as_bytes()))?;
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("preparing does not panic"))
    })?;
    let all: Vec<u64> = (0..count).collect();
    for part in all.chunks(LAYOUTS_PER_REQUEST as usize) {
        place(run, &mut control, part, |n| {
            (n % run.hosts.len() as u64) as u32
        })?;
    }
    Ok(())
}

/// Sends agents to streamers and returns the status.
fn place(
    run: &Run,
    control: &mut Control,
    agents: &[u64],
    host_of: impl Fn(u64) -> u32,
) -> Result<u16, String> {
    let layouts: Vec<Value> = agents
        .iter()
        .map(|n| {
            let host = host_of(*n);
            run.seen[*n as usize].wanted.store(host, Ordering::Release);
            json!({"id":agent_id(*n),"ingest":run.hosts[host as usize]})
        })
        .collect();
    let body = json!({"layouts":layouts}).to_string();
    let response = control.expect("POST", "/agents/layouts", Some(body.as_bytes()))?;
    Ok(response.status)
}

/// Runs all operators to their end; fails with the first error of one.
fn run_operators(
    common: &Common,
    options: &cli::Agents,
    run: &Run,
    acknowledged: &Acknowledged,
    window: Window,
) -> Result<BTreeMap<String, Series>, String> {
    thread::scope(|scope| {
        let mut operators: Vec<_> = (0..options.connections)
            .map(|n| scope.spawn(move || command(common, options, run, acknowledged, window, n)))
            .collect();
        if options.moves > 0.0 {
            operators.push(scope.spawn(move || move_agents(common, options, run, window)));
        }
        let mut series = BTreeMap::<String, Series>::new();
        for operator in operators {
            for (name, one) in operator.join().expect("an operator does not panic")? {
                series.entry(name.into()).or_default().merge(&one);
            }
        }
        Ok(series)
    })
}

fn measure(
    common: &Common,
    options: &cli::Agents,
    run: &Run,
    acknowledged: &Acknowledged,
) -> Result<Report, String> {
    let agents = run.seen.len() as u64;
    let connecting = run.clock.now();
    wait(run, CONNECT_MAX, || {
        all_received(run) && run.ready.load(Ordering::Acquire) >= agents
    })
    .map_err(|()| {
        let ready = run.ready.load(Ordering::Acquire);
        format!("{ready} of {agents} agents have connected")
    })?;
    let connected = run.clock.now();
    let window = Window::new(connected, common.warm_up, common.duration);
    let cpu = sys::cpu_time();
    let series = run_operators(common, options, run, acknowledged, window)?;
    let busy = sys::cpu_time();
    // Agents may still be on their way to their last streamer.
    let settled = wait(run, common.settle, || all_received(run));
    let mut report = Report {
        scenario: format!("agents ({agents} connected)"),
        seconds: common.duration as f64 / 1e9,
        series,
        cpu_user: busy.0.saturating_sub(cpu.0).as_secs_f64(),
        cpu_system: busy.1.saturating_sub(cpu.1).as_secs_f64(),
        ..Report::default()
    };
    let ms = (connected - connecting) / 1_000_000;
    report
        .counters
        .insert("ms until all were connected and sent on".into(), ms);
    let mut proof = Series::default();
    let mut compared = 0;
    for (n, (seen, acknowledged)) in run.seen.iter().zip(&acknowledged.0).enumerate() {
        for (at, command) in COMMANDS.iter().enumerate() {
            let done = seen.done[at].load(Ordering::Acquire);
            let known = acknowledged[at].load(Ordering::Acquire);
            compared += u64::from(done);
            if done != known {
                let id = agent_id(n as u64);
                proof.error(format!(
                    "{id} did {command} {done} times, {known} were acknowledged"
                ));
            }
        }
        let (host, wanted) = (&seen.host, &seen.wanted);
        if host.load(Ordering::Acquire) != wanted.load(Ordering::Acquire) {
            proof.error(format!("{} is not where it was sent", agent_id(n as u64)));
        }
    }
    if settled.is_err() {
        proof.error("agents did not receive their last layout in time");
    }
    report
        .counters
        .insert("commands compared with what agents did".into(), compared);
    if !proof.errors.is_empty() {
        report.series.insert("proof".into(), proof);
    }
    Ok(report)
}

fn all_received(run: &Run) -> bool {
    run.seen.iter().all(|seen| {
        seen.host.load(Ordering::Acquire) == seen.wanted.load(Ordering::Acquire)
            && seen.asked_at.load(Ordering::Acquire) == 0
    })
}

/// Waits until a condition holds. Fails after `longest`, or when the run is stopped.
fn wait(run: &Run, longest: Nanos, is_so: impl Fn() -> bool) -> Result<(), ()> {
    let until = run.clock.now() + longest;
    while !is_so() {
        if run.clock.now() > until || run.stop.load(Ordering::Acquire) {
            return Err(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

type Done = Vec<(&'static str, Series)>;

/// Sleeps until the next arrival and returns its intended time; `None` after the last.
fn next(run: &Run, arrivals: &mut Arrivals) -> Option<Nanos> {
    let due = arrivals.next_due()?;
    let now = run.clock.now();
    if due > now {
        thread::sleep(Duration::from_nanos(due - now));
    }
    arrivals.take(run.clock.now().max(due))
}

/// One operator: commands to agents chosen at random.
fn command(
    common: &Common,
    options: &cli::Agents,
    run: &Run,
    acknowledged: &Acknowledged,
    window: Window,
    operator: u64,
) -> Result<Done, String> {
    let mut random = Random::new(common.seed ^ mix(operator + 1));
    let mut control = Control::new(&run.target);
    let mut series: [Series; 3] = Default::default();
    let begin = window.warm_end - common.warm_up;
    let mut arrivals = Arrivals::new(
        begin,
        window.end,
        options.commands / options.connections as f64,
        operator as f64 / options.connections as f64,
        common.requests,
    );
    while let Some(intended) = next(run, &mut arrivals) {
        let n = random.below(run.seen.len() as u64);
        // Logs more often than the others.
        let at = [0, 0, 1, 2][random.below(4) as usize];
        let (command, id) = (COMMANDS[at], agent_id(n));
        let path = format!("{}/{command}", run.target.path_of("agents", &id));
        let method = if command == "logs" { "GET" } else { "POST" };
        let sent = run.clock.now();
        let response = control.request(method, &path, "", None)?;
        let now = run.clock.now();
        let one = &mut series[at];
        let expected = if command == "logs" { 200 } else { 204 };
        if response.status == expected {
            acknowledged.0[n as usize][at].fetch_add(1, Ordering::AcqRel);
        } else {
            one.error(format!("status {}", response.status));
        }
        if response.status == 200 {
            let body = response.decoded().map_err(str::to_owned)?;
            let logs: Value = serde_json::from_slice(&body).unwrap_or_default();
            let text = logs["a"].as_str().unwrap_or_default();
            if logs["agent_id"] != id.as_str() || !text.starts_with(&format!("{id}#")) {
                one.error("the logs of another agent");
            }
        }
        if window.counts(intended) {
            *one.statuses.entry(response.status).or_default() += 1;
            one.bytes += response.body.len() as u64;
            one.latency.record(now - intended);
            one.late.record(sent.saturating_sub(intended));
        }
    }
    Ok(COMMANDS.into_iter().zip(series).collect())
}

/// The operator that moves agents from streamer to streamer, many in one request.
fn move_agents(
    common: &Common,
    options: &cli::Agents,
    run: &Run,
    window: Window,
) -> Result<Done, String> {
    let mut random = Random::new(common.seed ^ mix(0xaa));
    let mut control = Control::new(&run.target);
    let mut series = Series::default();
    let begin = window.warm_end - common.warm_up;
    let mut arrivals = Arrivals::new(begin, window.end, options.moves, 0.0, common.requests);
    while let Some(intended) = next(run, &mut arrivals) {
        let mut chosen: Vec<u64> = (0..options.touch)
            .map(|_| random.below(run.seen.len() as u64))
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        // An agent that has not received its last move would be measured twice.
        chosen.retain(|n| run.seen[*n as usize].asked_at.load(Ordering::Acquire) == 0);
        let turn = random.next_u64();
        let sent = run.clock.now();
        for n in &chosen {
            run.seen[*n as usize]
                .asked_at
                .store(sent, Ordering::Release);
        }
        let hosts = run.hosts.len() as u64;
        let status = place(run, &mut control, &chosen, |n| {
            // Never the current one.
            let here = u64::from(run.seen[n as usize].host.load(Ordering::Acquire));
            ((here + 1 + turn % (hosts - 1)) % hosts) as u32
        })?;
        let now = run.clock.now();
        if window.counts(intended) {
            *series.statuses.entry(status).or_default() += 1;
            series.latency.record(now - intended);
            series.late.record(sent.saturating_sub(intended));
        }
    }
    Ok(vec![("layouts", series)])
}
