//! One round without threads: `--once`, `--dry-run` and `weir bridge check`.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::caller::CallFault;
use super::central::{Central, Polled};
use super::desired::{Wanted, has_recordings};
use super::kept::{KeptFile, KeptRef};
use super::kind::ServerNeeds;
use super::kinds::connect;
use super::options::BridgeOptions;
use super::plan::{Owned, Planner, ServerList};
use super::report::{ConfigStatus, Meter, ReportInput, report};
use super::usage::UsageMeter;
use super::worker::{ServerHandle, call_end};
use super::{Prepared, prepare};
use crate::exit::{Exit, Failure};
use crate::stdout;

/// Longest time for `--once`: the pace bounds what is started in a second.
const ONCE_MAX: Duration = Duration::from_mins(30);
/// Pause between its rounds.
const ROUND_EVERY: Duration = Duration::from_millis(200);
/// Rounds in a row that may fail.
const FAILURES_MAX: u32 = 3;

/// Does the same for each server; fails if it failed for one.
pub fn each(
    servers: Vec<BridgeOptions>,
    work: impl Fn(BridgeOptions) -> Result<bool, Failure>,
) -> Result<Exit, Failure> {
    let mut is_good = true;
    for server in servers {
        is_good &= work(server)?;
    }
    Ok(if is_good { Exit::Done } else { Exit::Runtime })
}

fn print(text: &str) -> Result<(), Failure> {
    stdout::print(text).map_err(|error| Failure::new(Exit::Runtime, error.to_string()))
}

fn failed(what: &str) -> impl FnOnce(CallFault) -> Failure + use<'_> {
    move |fault| Failure::new(Exit::Runtime, format!("{what}: {fault}"))
}

/// The list of Weir, and the one that the server is to follow.
fn poll(central: &Central, key: &str, known: Option<&Wanted>) -> Result<Wanted, CallFault> {
    match central.poll(key, None, false, known)? {
        Polled::Unchanged => Err(CallFault::Unexpected("304 without a tag")),
        Polled::List {
            unclear: Some(fault),
            ..
        } => Err(fault),
        Polled::List { wanted, .. } => Ok(wanted),
    }
}

/// Makes the server follow the list once, and reports.
pub fn follow_once(options: BridgeOptions) -> Result<bool, Failure> {
    let Prepared {
        kept,
        key,
        file,
        lock: _lock,
    } = prepare(&options)?;
    let central = Central::new(&options.central, &options.hostname);
    let mut has_joined = kept.has_joined;
    if let Some(token) = &options.keys.join_token
        && (!has_joined || options.keys.rejoin)
    {
        let joined = central.join(token.expose(), &key, &options.fields);
        joined.map_err(failed("cannot join Weir"))?;
        has_joined = true;
    }
    let mut once = Once {
        handle: connect(&options.server),
        file,
        made_key: options.keys.join_token.as_ref().map(|_| key.clone()),
        has_joined,
        wanted: poll(&central, &key, kept.wanted.as_ref())
            .map_err(failed("no configuration from Weir"))?,
    };
    let rules = once.handle.rules.clone();
    let mut planner = Planner::new(options.plan.clone(), rules, kept.owned, Instant::now());
    planner.set_wanted(&once.wanted);
    let result = once.follow(&mut planner);
    once.save(planner.owned())?;
    result.map_err(failed("cannot configure the media server"))?;
    let mut text = String::new();
    for (name, error) in planner.errors() {
        _ = writeln!(text, "{name}: {}: {}", error.code, error.text);
    }
    print(&text)?;
    let body = once
        .report(&options, &planner)
        .map_err(failed("cannot measure the media server"))?;
    let sent = central.report(&key, &body);
    sent.map_err(failed("cannot report to Weir"))?;
    Ok(planner.errors().is_empty())
}

struct Once {
    handle: ServerHandle,
    file: KeptFile,
    made_key: Option<String>,
    has_joined: bool,
    wanted: Wanted,
}

impl Once {
    /// Rounds until no call is due.
    fn follow(&mut self, planner: &mut Planner) -> Result<(), CallFault> {
        let end = Instant::now() + ONCE_MAX;
        let mut failures = 0;
        for serial in 1.. {
            match self.round(planner, serial) {
                Ok(true) if serial > 1 => return Ok(()),
                Ok(_) => failures = 0,
                Err(fault) => {
                    failures += 1;
                    if failures == FAILURES_MAX {
                        return Err(fault);
                    }
                }
            }
            if Instant::now() >= end {
                break;
            }
            std::thread::sleep(ROUND_EVERY);
        }
        Err(CallFault::Unexpected("the streams are not started in time"))
    }

    /// One round; whether nothing is left to do.
    fn round(&mut self, planner: &mut Planner, serial: u64) -> Result<bool, CallFault> {
        let server = &mut self.handle.server;
        let list = ServerList {
            serial,
            run: server.probe()?,
            streams: server.list()?,
        };
        let plan = planner.plan(Instant::now(), &list);
        if planner.record(&plan)
            && let Err(failure) = self.save(planner.owned())
        {
            return Err(CallFault::Unreachable(failure.message));
        }
        for call in &plan.calls {
            planner.begin(Instant::now(), call);
            let result = self.handle.server.apply(call);
            let end = call_end(&result);
            planner.end(Instant::now(), call, end);
            if let Err(fault @ CallFault::Unreachable(_)) = result {
                return Err(fault);
            }
        }
        self.handle.server.flush()?;
        Ok(plan.calls.is_empty() && plan.next.is_empty())
    }

    fn save(&self, owned: &Owned) -> Result<(), Failure> {
        let kept = KeptRef {
            key: self.made_key.as_deref(),
            has_joined: self.has_joined,
            wanted: Some(&self.wanted),
            owned,
        };
        let written = self.file.write(&kept);
        written.map_err(|error| Failure::new(Exit::Storage, error.to_string()))
    }

    fn report(&mut self, options: &BridgeOptions, planner: &Planner) -> Result<Vec<u8>, CallFault> {
        let mut meter = Meter::default();
        meter.add(Instant::now(), self.handle.server.measure()?);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(report(
            &meter,
            &ReportInput {
                hostname: &options.hostname,
                rules: &*self.handle.rules,
                wanted: Some(&self.wanted),
                errors: planner.errors(),
                config: &ConfigStatus::Loaded,
                usage: UsageMeter::default().read(),
                now: Instant::now(),
                wall_ms: wall.map_or(0, |since| since.as_millis() as u64),
                is_measured: true,
            },
        ))
    }
}

/// Prints the calls of one round.
pub fn dry_run(options: BridgeOptions) -> Result<bool, Failure> {
    let view = look(&options);
    let wanted = view.wanted.map_err(failed("no configuration from Weir"))?;
    let list = view.list.map_err(failed("cannot list the media server"))?;
    print(&planned(&options, view.owned, &wanted, &list))?;
    Ok(true)
}

/// Queries both sides, and prints what works, what is missing and what the bridge would do.
pub fn check(options: BridgeOptions) -> Result<bool, Failure> {
    let mut view = look(&options);
    let media = &view.handle.media;
    let media_answers = media.answers(Duration::from_secs(1));
    let mut out = format!("{}\n", options.hostname);
    let mut line = |is_good: bool, text: &str| {
        let sign = if is_good { "ok     " } else { "MISSING" };
        _ = writeln!(out, "  {sign} {text}");
        is_good
    };
    let mut is_good = match &view.wanted {
        Ok(wanted) => line(true, &format!("Weir has {} streams for it", wanted.len())),
        Err(fault) => line(false, &format!("no configuration from Weir: {fault}")),
    };
    is_good &= match &view.list {
        Ok(list) => {
            let count = list.streams.len();
            line(true, &format!("the media server lists {count} streams"))
        }
        Err(fault) => line(
            false,
            &format!("the control API of the media server: {fault}"),
        ),
    };
    let text = format!("the media port {}", media.address);
    is_good &= line(media_answers, &text);
    if view.list.is_ok() {
        let needs = needs(&options, view.wanted.as_ref().ok());
        match view.handle.server.missing(needs) {
            Ok(missing) => {
                for text in missing {
                    is_good &= line(false, &text);
                }
            }
            Err(fault) => {
                let text = format!("the configuration of the media server: {fault}");
                is_good &= line(false, &text);
            }
        }
    }
    if let (Ok(wanted), Ok(list)) = (&view.wanted, &view.list) {
        out.push_str(&planned(&options, view.owned, wanted, list));
    }
    print(&out)?;
    Ok(is_good)
}

/// What the configuration of the server must have.
fn needs(options: &BridgeOptions, wanted: Option<&Wanted>) -> ServerNeeds {
    ServerNeeds {
        hook_port: options.front.listen.map(|address| address.port()),
        recordings: wanted.is_some_and(has_recordings),
    }
}

/// What both sides show, without a change on either.
struct Look {
    handle: ServerHandle,
    owned: Owned,
    wanted: Result<Wanted, CallFault>,
    list: Result<ServerList, CallFault>,
}

fn look(options: &BridgeOptions) -> Look {
    let file = KeptFile::new(&options.state_dir, &options.hostname);
    let kept = match file.read() {
        super::FoundFile::Kept(kept) => kept,
        _ => super::Kept::default(),
    };
    let given = options.keys.cluster_key.as_ref();
    let key = given.map(|key| key.expose().to_owned()).or(kept.key);
    let central = Central::new(&options.central, &options.hostname);
    let wanted = match &key {
        Some(key) if given.is_some() || kept.has_joined => {
            poll(&central, key, kept.wanted.as_ref())
        }
        _ => Err(CallFault::Unexpected(
            "the bridge has not joined yet; it does so at its first start",
        )),
    };
    let mut handle = connect(&options.server);
    let run = handle.server.probe();
    let list = run.and_then(|run| {
        Ok(ServerList {
            serial: 1,
            run,
            streams: handle.server.list()?,
        })
    });
    Look {
        handle,
        owned: kept.owned,
        wanted,
        list,
    }
}

/// The calls of one round without a pace, and the streams that cannot run.
fn planned(options: &BridgeOptions, owned: Owned, wanted: &Wanted, list: &ServerList) -> String {
    let mut settings = options.plan.clone();
    settings.starts_per_second = usize::MAX;
    settings.fence_after = None;
    let now = Instant::now();
    let rules = connect(&options.server).rules;
    let mut planner = Planner::new(settings, rules, owned, now);
    planner.set_wanted(wanted);
    let plan = planner.plan(now, list);
    let mut out = String::new();
    for call in plan.calls.iter().chain(&plan.next) {
        _ = writeln!(out, "  {call}");
    }
    for (name, error) in planner.errors() {
        _ = writeln!(out, "  cannot run {name}: {}: {}", error.code, error.text);
    }
    out
}
