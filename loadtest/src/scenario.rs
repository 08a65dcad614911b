//! Puts a run together: reads the cluster, starts the threads, watches the phases, proves, reports.

use crate::agent_scenario;
use crate::answer;
use crate::cli::{self, Cli, Command};
use crate::control::{Control, Target};
use crate::copy::{Copy, FaultKind};
use crate::failover;
use crate::judge;
use crate::net::{self, Clock, Driver, Net};
use crate::page;
use crate::plan::{Edit, Move, Plan, RunTimes};
use crate::prepare;
use crate::report::{Fault, Faults, Proof, Report};
use crate::requests::{self, EditField, Requests, Work};
use crate::roster::Roster;
use crate::schedule::{Nanos, SECOND};
use crate::seed::Key;
use crate::story_fleet;
use crate::streamers::{self, Habit, Log, Streamers, Validator};
use crate::truth;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_testkit::Response;
use weir_testkit::sys;

/// Streamers must all have their first list within this time.
const LOAD_MAX: Nanos = 120 * SECOND;
/// In scenarios with moves: one in this many streams on a single node is moved.
const MOVERS_SHARE: u64 = 8;
/// Descriptors for everything that is not a connection under load.
const DESCRIPTORS_SPARE: u64 = 64;

/// What a scenario consists of.
#[derive(Default)]
struct Parts {
    fleets: Vec<streamers::FleetOptions>,
    requests: Vec<(&'static str, requests::RequestOptions)>,
    moves: bool,
    storm: bool,
    closed_loop: bool,
}

/// Runs the scenario and returns whether it passed.
pub fn run(cli: &Cli, target: Target) -> Result<bool, String> {
    let mut control = Control::new(&target);
    match &cli.command {
        Command::Prepare(options) => prepare_cluster(cli, options, &mut control).map(|()| true),
        Command::Verify => verify(cli, &target, &mut control),
        Command::Agents(options) => {
            let report = agent_scenario::run(&cli.common, options, &target)?;
            finish(cli, &report)
        }
        Command::Failover(options) => {
            let report = failover::run(&cli.common, options, &target)?;
            finish(cli, &report)
        }
        Command::Fleet(options) if options.story.is_some() => {
            let story = options.story.as_deref().unwrap_or_default();
            let report = story_fleet::run(&cli.common, options, story, &target)?;
            finish(cli, &report)
        }
        _ => measure(cli, target, &mut control),
    }
}

fn bar(length: u64, unit: &str) -> ProgressBar {
    let template = format!("{{msg:<28}} [{{bar:40}}] {{pos}}/{{len}} {unit} {{eta}}");
    let bar = ProgressBar::new(length); // hidden by itself when standard error is not a terminal
    bar.set_style(
        ProgressStyle::with_template(&template)
            .expect("the template is right")
            .progress_chars("=> "),
    );
    bar
}

fn prepare_cluster(cli: &Cli, options: &cli::Prepare, control: &mut Control) -> Result<(), String> {
    let options = prepare::ClusterOptions {
        streamers: options.streamers,
        streams: options.streams,
        spread: options.spread,
        backups: options.backups,
        labels: options.labels,
        padding: options.padding,
        batch: options.batch,
        seed: cli.common.seed,
        query_port: None,
    };
    let layouts = if options.spread == prepare::Spread::None {
        0
    } else {
        options.streams
    };
    let bar = bar(options.streamers + options.streams + layouts, "objects");
    bar.set_message("preparing");
    let clock = Clock::start();
    prepare::run(control, &options, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let seconds = clock.now() as f64 / 1e9;
    println!(
        "prepared {} streamers, {} streams, {layouts} layouts in {seconds:.1} s",
        options.streamers, options.streams
    );
    Ok(())
}

fn parts(cli: &Cli, hosts: u64) -> Parts {
    let mut builder = PartsBuilder {
        common: &cli.common,
        hosts,
        parts: Parts::default(),
    };
    match &cli.command {
        Command::Fleet(options) => builder.fleet(options),
        Command::Longpoll(options) => builder.longpoll(options),
        Command::Storm(options) => builder.storm(options),
        Command::Mixed(options) => builder.mixed(options),
        Command::Get(options) => builder.rated("get", Work::Get, options),
        Command::Put(options) => builder.put(options),
        Command::List(options) => builder.list(options),
        Command::Prepare(_) | Command::Verify | Command::Agents(_) | Command::Failover(_) => (),
    }
    let mut parts = builder.parts;
    parts.fleets.retain(|fleet| fleet.count > 0);
    parts
}

/// Turns the options of a scenario into its parts.
struct PartsBuilder<'c> {
    common: &'c cli::Common,
    hosts: u64,
    parts: Parts,
}

impl PartsBuilder<'_> {
    fn fleet(&mut self, options: &cli::Fleet) {
        self.operators(&options.operators, options.edits, options.moves);
        let habit = Habit::Poll {
            interval: options.interval.max(1_000_000),
        };
        let fleet = self.simulated(&options.simulated, habit, &options.answers);
        self.parts.fleets.push(fleet);
    }

    fn longpoll(&mut self, options: &cli::Longpoll) {
        self.operators(&options.operators, options.edits, options.moves);
        let habit = Habit::Park {
            wait_seconds: options.wait,
        };
        let fleet = self.simulated(&options.simulated, habit, &options.answers);
        self.parts.fleets.push(fleet);
    }

    fn storm(&mut self, options: &cli::Storm) {
        self.parts.storm = true;
        let habit = Habit::Storm {
            rounds: options.rounds,
        };
        let fleet = self.simulated(&options.simulated, habit, &options.answers);
        self.parts.fleets.push(fleet);
    }

    fn mixed(&mut self, options: &cli::Mixed) {
        self.operators(&options.operators, options.edits, options.moves);
        let poll = Habit::Poll {
            interval: options.interval.max(1_000_000),
        };
        let park = Habit::Park {
            wait_seconds: options.wait,
        };
        let mut polling = self.simulated(&options.simulated, poll, &options.answers);
        let mut parked = self.simulated(&options.simulated, park, &options.answers);
        parked.count = polling.count.div_ceil(2);
        polling.count -= parked.count;
        polling.first_host = parked.count;
        self.parts.fleets.extend([polling, parked]);
        let few = options.operators.connections;
        if options.gets > 0.0 {
            self.requests("get", Work::Get, Some(options.gets), few, 1);
        }
        if options.lists > 0.0 {
            let work = Work::List { limit: 100 };
            self.requests("list", work, Some(options.lists), few.min(4), 1);
        }
    }

    fn put(&mut self, options: &cli::Put) {
        let work = Work::Edit {
            field: EditField::from(options.field),
            touch: options.touch as usize,
        };
        self.rated("put", work, &options.rate);
    }

    fn list(&mut self, options: &cli::List) {
        self.parts.closed_loop = options.rate.0.is_none();
        let work = Work::List {
            limit: options.limit as usize,
        };
        self.requests("list", work, options.rate.0, options.connections, 1);
    }

    fn rated(&mut self, name: &'static str, work: Work, rate: &cli::Rate) {
        self.parts.closed_loop = rate.rate.0.is_none();
        self.requests(name, work, rate.rate.0, rate.connections, rate.pipeline);
    }

    fn operators(&mut self, operators: &cli::Operators, edits: f64, moves: f64) {
        let work = Work::Edit {
            field: EditField::from(operators.field),
            touch: operators.touch as usize,
        };
        if edits > 0.0 {
            self.requests("edit", work, Some(edits), operators.connections, 1);
        }
        if moves > 0.0 {
            self.parts.moves = true;
            self.requests("move", Work::Move, Some(moves), operators.connections, 1);
        }
    }

    fn requests(
        &mut self,
        name: &'static str,
        work: Work,
        rate: Option<f64>,
        connections: u64,
        pipeline: u64,
    ) {
        let options = requests::RequestOptions {
            work,
            rate,
            connections: connections.div_ceil(self.common.threads) as usize,
            pipeline: pipeline as usize,
        };
        self.parts.requests.push((name, options));
    }

    fn simulated(
        &self,
        simulated: &cli::Simulated,
        habit: Habit,
        answers: &[cli::Answers],
    ) -> streamers::FleetOptions {
        let validator = |answers: &cli::Answers| match (habit, Validator::from(*answers)) {
            (Habit::Park { .. }, Validator::None) => Validator::Etag,
            (_, validator) => validator,
        };
        let codings = simulated.encoding.iter().map(|coding| coding.header());
        streamers::FleetOptions {
            count: simulated.streamers.unwrap_or(self.hosts),
            first_host: 0,
            habit,
            validators: answers.iter().map(validator).collect(),
            encodings: codings.collect(),
            cluster_key: simulated.cluster_auth.then_some(self.common.seed),
        }
    }
}

/// What a thread brings back.
struct Brought {
    fleets: Vec<streamers::FleetOutcome>,
    requests: Vec<requests::RequestOutcome>,
    ended: Nanos,
}

fn thread_main(
    plan: &Arc<Plan>,
    parts: &Parts,
    thread: u64,
    clock: Clock,
    sources: &[std::net::IpAddr],
) -> std::io::Result<Brought> {
    let mut net = Net::new(clock, plan.target.address, sources)?;
    let mut index = 0;
    let mut next_index = || {
        index += 1;
        index - 1
    };
    let mut fleets: Vec<Streamers> = parts
        .fleets
        .iter()
        .map(|options| Streamers::new(plan, next_index(), thread, options.clone(), clock.now()))
        .collect();
    let mut requests: Vec<Requests> = parts
        .requests
        .iter()
        .map(|(_, options)| Requests::new(plan, next_index(), thread, *options))
        .collect();
    plan.thread_ready();
    let mut drivers: Vec<&mut dyn Driver> = Vec::new();
    drivers.extend(fleets.iter_mut().map(|driver| driver as &mut dyn Driver));
    drivers.extend(requests.iter_mut().map(|driver| driver as &mut dyn Driver));
    net::run(&mut net, &mut drivers, &mut |_| plan.is_stopped())?;
    Ok(Brought {
        fleets: fleets.into_iter().map(Streamers::into_outcome).collect(),
        requests: requests.into_iter().map(Requests::into_outcome).collect(),
        ended: clock.now(),
    })
}

fn measure(cli: &Cli, target: Target, control: &mut Control) -> Result<bool, String> {
    let common = &cli.common;
    let descriptors = sys::descriptors_max();
    let mut roster = Roster::load(control)?;
    let hosts = roster.hosts.len() as u64;
    let parts = parts(cli, hosts);
    if roster.streams.is_empty() || (hosts == 0 && !parts.fleets.is_empty()) {
        return Err("the cluster is empty: run `weir-loadtest prepare` first".into());
    }
    roster.choose_movers(if parts.moves { MOVERS_SHARE } else { 0 });
    let threads = if parts.storm { 1 } else { common.threads };
    let streamers: u64 = parts.fleets.iter().map(|fleet| fleet.count).sum();
    let pools: u64 = parts
        .requests
        .iter()
        .map(|(_, options)| options.connections as u64 * threads)
        .sum();
    if streamers + pools + DESCRIPTORS_SPARE > descriptors {
        return Err(format!(
            "{streamers} streamers and {pools} other connections do not fit into {descriptors} descriptors: \
             raise `ulimit -n` or use several processes"
        ));
    }
    let times = RunTimes {
        warm_up: if parts.storm { 0 } else { common.warm_up },
        duration: common.duration.max(1_000_000),
        timeout: common.timeout,
        settle: common.settle,
        grace: common.grace,
    };
    // Edits of this run are numbered above those of every earlier one: by the clock, a million per
    // second.
    let seq = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_micros() as u64);
    let plan = Arc::new(Plan::new(
        target,
        roster,
        times,
        threads,
        common.seed,
        common.requests,
        seq,
    ));
    let (watched, brought) = run_threads(&plan, &parts, threads, streamers, &common.source)
        .map_err(|error| format!("event loop: {error}"))?;
    let report = conclude(cli, &plan, &parts, &watched, brought, control)?;
    finish(cli, &report)
}

/// Runs the load threads to their end while this one watches.
fn run_threads(
    plan: &Arc<Plan>,
    parts: &Parts,
    threads: u64,
    streamers: u64,
    sources: &[std::net::IpAddr],
) -> std::io::Result<(Watched, Vec<Brought>)> {
    let clock = Clock::start();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let brought = thread_main(plan, parts, thread, clock, sources);
                    if brought.is_err() {
                        plan.stop();
                    }
                    brought
                })
            })
            .collect();
        let watched = watch(plan, clock, threads, streamers, parts.storm, &|| {
            handles.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        let brought = handles
            .into_iter()
            .map(|handle| handle.join().expect("a load thread panicked"));
        Ok((watched, brought.collect::<std::io::Result<_>>()?))
    })
}

/// What the watching thread found out.
struct Watched {
    cpu: (f64, f64),
    loaded: bool,
}

/// Opens the window when all streamers have their first list, takes the CPU time at its borders,
/// moves the bar.
fn watch(
    plan: &Plan,
    clock: Clock,
    threads: u64,
    streamers: u64,
    storm: bool,
    is_finished: &dyn Fn() -> bool,
) -> Watched {
    let bar = bar(streamers, "streamers");
    bar.set_message("first lists");
    let mut watched = Watched {
        cpu: (0.0, 0.0),
        loaded: true,
    };
    let mut cpu_at_start = None;
    let mut cpu_at_end = None;
    while !is_finished() {
        thread::sleep(Duration::from_millis(10));
        let now = clock.now();
        let Some((begin, window)) = plan.begin() else {
            bar.set_position(plan.streamers_ready());
            let all_here = plan.threads_ready() == threads;
            if all_here && (storm || plan.streamers_ready() >= streamers) {
                bar.set_length((plan.times.warm_up + plan.times.duration) / 1_000_000);
                bar.set_style(
                    ProgressStyle::with_template("{msg:<28} [{bar:40}] {eta}")
                        .expect("the template is right")
                        .progress_chars("=> "),
                );
                plan.open_window(now);
            } else if now > LOAD_MAX {
                watched.loaded = false;
                plan.stop();
            }
            continue;
        };
        if now >= window.warm_end && cpu_at_start.is_none() {
            cpu_at_start = Some(sys::cpu_time());
        }
        if now >= window.end && cpu_at_end.is_none() {
            cpu_at_end = Some(sys::cpu_time());
        }
        let phase = match now {
            _ if now < window.warm_end => "warm-up",
            _ if now < window.end => "measuring",
            _ => "settling",
        };
        bar.set_message(format!(
            "{phase}, {} answers",
            plan.answers.load(Ordering::Relaxed)
        ));
        bar.set_position(((now - begin) / 1_000_000).min(bar.length().unwrap_or(0)));
    }
    bar.finish_and_clear();
    if let Some(start) = cpu_at_start {
        let end = cpu_at_end.unwrap_or_else(sys::cpu_time);
        watched.cpu = (
            end.0.saturating_sub(start.0).as_secs_f64(),
            end.1.saturating_sub(start.1).as_secs_f64(),
        );
    }
    watched
}

/// Merges and judges the results of the threads, then reads the truth from the server.
fn conclude(
    cli: &Cli,
    plan: &Plan,
    parts: &Parts,
    watched: &Watched,
    brought: Vec<Brought>,
    control: &mut Control,
) -> Result<Report, String> {
    let mut report = Report {
        scenario: scenario_name(&cli.command).to_owned(),
        closed_loop: parts.closed_loop,
        cpu_user: watched.cpu.0,
        cpu_system: watched.cpu.1,
        ..Report::default()
    };
    if !watched.loaded {
        report
            .series
            .entry("first lists".into())
            .or_default()
            .error("not all streamers got their first list in time");
    }
    let ended = brought
        .iter()
        .map(|brought| brought.ended)
        .max()
        .unwrap_or(0);
    if let Some((begin, window)) = plan.begin() {
        let from = if parts.storm { begin } else { window.warm_end };
        let to = if parts.storm {
            ended
        } else {
            window.end.min(ended)
        };
        report.seconds = to.saturating_sub(from) as f64 / 1e9;
    }
    let observed = merge_threads(brought, parts, &mut report);
    let Observed {
        agents,
        edits,
        moves,
    } = &observed;
    let logs: Vec<&Log> = agents.iter().map(|(log, _)| log).collect();
    let counts = |intended| plan.counts(intended);
    let verdict = judge::judge(&plan.roster, edits, moves, &logs, &counts);
    report.faults.merge(verdict.faults);
    let wakes = verdict.wakes.into_iter();
    report
        .wakes
        .extend(wakes.map(|(name, wake)| (name.to_owned(), wake)));
    if verdict.superseded > 0 {
        report.counters.insert(
            "edits replaced by later ones before they were read".into(),
            verdict.superseded,
        );
    }
    if !agents.is_empty() || !edits.is_empty() || !moves.is_empty() {
        report.proof = Some(prove(plan, &observed, control, &mut report.faults)?);
    }
    Ok(report)
}

/// What all threads saw and did.
#[derive(Default)]
struct Observed {
    agents: Vec<(Log, Copy)>,
    edits: Vec<Edit>,
    moves: Vec<Move>,
}

/// Adds the figures and faults of every thread to the report.
fn merge_threads(brought: Vec<Brought>, parts: &Parts, report: &mut Report) -> Observed {
    let mut observed = Observed::default();
    for thread in brought {
        for fleet in thread.fleets {
            for (name, series) in &fleet.series {
                let merged = report.series.entry((*name).to_owned()).or_default();
                merged.merge(series);
            }
            for (name, wake) in &fleet.wakes {
                let merged = report.wakes.entry((*name).to_owned()).or_default();
                merged.merge(wake);
            }
            for (name, count) in &fleet.counters {
                *report.counters.entry((*name).to_owned()).or_default() += count;
            }
            report.faults.merge(fleet.faults);
            observed.agents.extend(fleet.agents);
        }
        for ((name, _), requests) in parts.requests.iter().zip(thread.requests) {
            let merged = report.series.entry((*name).to_owned()).or_default();
            merged.merge(&requests.series);
            observed.edits.extend(requests.edits);
            observed.moves.extend(requests.moves);
        }
    }
    observed
}

/// Compares the acknowledged changes and every copy with what the server has now.
fn prove(
    plan: &Plan,
    observed: &Observed,
    control: &mut Control,
    faults: &mut Faults,
) -> Result<Proof, String> {
    let Observed {
        agents,
        edits,
        moves,
    } = observed;
    let now = Roster::load(control)?;
    truth::compare_promises(edits, moves, &plan.roster, &now, faults);
    let now_hosts: HashMap<&str, u32> = now
        .hosts
        .iter()
        .enumerate()
        .map(|(at, host)| (host.name.as_str(), at as u32))
        .collect();
    let mut by_host = HashMap::<u32, Vec<usize>>::new();
    for (at, (log, _)) in agents.iter().enumerate() {
        by_host.entry(log.host).or_default().push(at);
    }
    let bar = bar(by_host.len() as u64, "streamers");
    bar.set_message("proving");
    for (host, mine) in &by_host {
        let name = &plan.roster.hosts[*host as usize].name;
        bar.inc(1);
        let Some(fresh) = truth::fresh_list(control, &plan.target.prefix, name, faults)? else {
            continue;
        };
        for at in mine {
            truth::compare_copy(name, &agents[*at].1, &fresh, &now, faults);
        }
        match now_hosts.get(name.as_str()) {
            Some(host) => truth::compare_roster(*host, &fresh, &now, faults),
            None => faults.add(Fault {
                kind: FaultKind::Lost,
                streamer: name.clone(),
                stream: None,
                what: "the streamer is gone from the list of streamers".into(),
            }),
        }
    }
    bar.finish_and_clear();
    Ok(Proof {
        streamers: agents.len() as u64,
        streams: agents
            .iter()
            .map(|(_, copy)| copy.entries().len() as u64)
            .sum(),
        answers: agents.iter().map(|(log, _)| log.answers.len() as u64).sum(),
        edits_acknowledged: edits.iter().filter(|edit| edit.acked.is_some()).count() as u64,
        moves_acknowledged: moves.iter().filter(|moved| moved.acked.is_some()).count() as u64,
    })
}

fn scenario_name(command: &Command) -> &'static str {
    match command {
        Command::Prepare(_) => "prepare",
        Command::Verify => "verify",
        Command::Fleet(_) => "fleet",
        Command::Longpoll(_) => "longpoll",
        Command::Get(_) => "get",
        Command::Put(_) => "put",
        Command::List(_) => "list",
        Command::Storm(_) => "storm",
        Command::Mixed(_) => "mixed",
        Command::Agents(_) => "agents",
        Command::Failover(_) => "failover",
    }
}

/// Prints the report; whether the run passed.
fn finish(cli: &Cli, report: &Report) -> Result<bool, String> {
    let did_something = report.proof.is_some()
        || report
            .series
            .values()
            .any(|series| !series.statuses.is_empty());
    let passed =
        did_something && report.faults.total() == 0 && report.errors() <= cli.common.errors_allowed;
    match cli.common.json.as_deref() {
        Some("-") => {
            println!("{}", report.json(passed));
            eprint!("{}", report.text(passed));
        }
        Some(file) => {
            std::fs::write(file, report.json(passed) + "\n")
                .map_err(|error| format!("{file}: {error}"))?;
            print!("{}", report.text(passed));
        }
        None => print!("{}", report.text(passed)),
    }
    if let Some(file) = &cli.common.html {
        std::fs::write(file, page::page(report, passed))
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(passed)
}

/// Reads every streamer's list in every form; all forms must agree.
fn verify(cli: &Cli, target: &Target, control: &mut Control) -> Result<bool, String> {
    let clock = Clock::start();
    let roster = Roster::load(control)?;
    let mut report = Report {
        scenario: "verify".into(),
        ..Report::default()
    };
    let bar = bar(roster.hosts.len() as u64, "streamers");
    bar.set_message("verifying");
    let (mut streams, mut answers) = (0, 0);
    for (at, host) in roster.hosts.iter().enumerate() {
        let path = format!("{}/streamers/{}/streams", target.prefix, host.name);
        let plain = control.expect("GET", &path, None)?;
        bar.inc(1);
        let Some(fresh) =
            truth::fresh_list(control, &target.prefix, &host.name, &mut report.faults)?
        else {
            continue;
        };
        truth::compare_roster(at as u32, &fresh, &roster, &mut report.faults);
        streams += fresh.len() as u64;
        let mut ask = |path: &str, fields: &str| {
            answers += 1;
            control.request("GET", path, fields, None)
        };
        verify_ways(&host.name, &path, &plain, &mut ask, &mut report.faults)?;
    }
    bar.finish_and_clear();
    report.seconds = clock.now() as f64 / 1e9;
    report.proof = Some(Proof {
        streamers: roster.hosts.len() as u64,
        streams,
        answers,
        ..Proof::default()
    });
    finish(cli, &report)
}

/// The streams of a list: names and hashes of their content.
type Hashed = Vec<(Key, u64)>;

fn content(body: &[u8]) -> Result<(answer::Envelope, Hashed), &'static str> {
    let mut items = Vec::new();
    let envelope = answer::read(body, &mut |item| items.push((item.key(), item.hash)))?;
    Ok((envelope, items))
}

/// The response to `changes_since` of the newest revision.
fn has_no_changes(response: &Response) -> bool {
    match response.status {
        304 => true,
        200 => content(&response.body).is_ok_and(|(envelope, items)| {
            items.is_empty() && envelope.removed.is_some_and(|removed| removed.is_empty())
        }),
        _ => false,
    }
}

/// One streamer: its validator, its encodings and its changes must agree with its plain list.
fn verify_ways(
    hostname: &str,
    path: &str,
    plain: &Response,
    ask: &mut dyn FnMut(&str, &str) -> Result<Response, String>,
    faults: &mut Faults,
) -> Result<(), String> {
    let mut torn = |what: String| {
        faults.add(Fault {
            kind: FaultKind::Torn,
            streamer: hostname.to_owned(),
            stream: None,
            what,
        });
    };
    let (envelope, items) = match content(&plain.body) {
        Ok(read) => read,
        Err(what) => {
            torn(format!("the plain list: {what}"));
            return Ok(());
        }
    };
    for encoding in ["gzip", "zstd"] {
        let response = ask(path, &format!("Accept-Encoding: {encoding}\r\n"))?;
        let same = response.status == 200
            && response
                .decoded()
                .ok()
                .and_then(|body| content(&body).ok())
                .is_some_and(|(_, found)| found == items);
        if !same {
            torn(format!(
                "the list as {encoding} differs from the plain one (status {})",
                response.status
            ));
        }
    }
    match plain.etag() {
        None => torn("the list has no ETag".into()),
        Some(etag) => {
            let response = ask(path, &format!("If-None-Match: {etag}\r\n"))?;
            if response.status != 304 {
                torn(format!(
                    "nothing changed, yet If-None-Match is answered {}",
                    response.status
                ));
            }
        }
    }
    match envelope.revision {
        None => torn("the list has no revision for changes_since".into()),
        Some(revision) => {
            let response = ask(&format!("{path}?changes_since={revision}"), "")?;
            if !has_no_changes(&response) {
                torn(format!(
                    "nothing changed, yet changes_since is not empty (status {})",
                    response.status
                ));
            }
        }
    }
    Ok(())
}
