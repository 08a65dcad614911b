//! The program `weir`: dispatches the subcommand to the module that executes it.

use std::{env, io};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, reload};

use crate::cli::{self, Printable, Task};
use crate::exit::{Exit, Failure};
use crate::rt::sys::use_small_pages;
use crate::{bridge, config, demo, dist, import, openapi, operator, server, stdout};

/// Runs the program with the arguments and the environment of this process, and ends the process
/// with the exit code that `weir --help` documents.
pub fn run() -> ! {
    // Before the command line is read, for which an allocator with huge pages keeps megabytes.
    if env::args_os().nth(1).is_some_and(|verb| verb == "bridge") {
        use_small_pages();
    }
    cli::complete();
    let environment: Vec<_> = env::vars_os().collect();
    let exit = match cli::read(env::args_os(), &environment).and_then(execute) {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit
        }
    };
    // Not by returning: io threads may still wait in the kernel, and their memory must not be
    // freed.
    std::process::exit(exit as i32)
}

fn execute(task: Task) -> Result<Exit, Failure> {
    let done = |written: io::Result<()>| {
        written
            .map(|()| Exit::Done)
            .map_err(|error| Failure::new(Exit::Runtime, error.to_string()))
    };
    match task {
        Task::Nothing => Ok(Exit::Done),
        Task::Serve(config) => {
            demo::end_with_parent(&config.sources.environment)?;
            let set_level = log_to_stderr(config.settings.log.level);
            server::run(&config, set_level)
        }
        Task::CheckConfig(config) => done(cli::check_config(&config)),
        Task::Backup { config, flags } => server::backup(&config, &flags),
        Task::Restore {
            config,
            file,
            overwrite,
        } => server::restore(&config, &file, overwrite),
        Task::Check { config, file } => server::check(&config, file.as_deref()),
        Task::Print(Printable::Openapi) => done(stdout::print(openapi::served())),
        Task::Print(Printable::Config) => done(stdout::print(&config::example())),
        Task::Print(Printable::Unit) => done(stdout::print(dist::UNIT)),
        Task::Print(Printable::BridgeUnit) => done(stdout::print(dist::BRIDGE_UNIT)),
        Task::Print(Printable::BridgeCompose) => done(stdout::print(dist::BRIDGE_COMPOSE)),
        Task::Print(Printable::Grafana) => done(stdout::print(&dist::dashboard())),
        Task::Print(Printable::Alerts) => done(stdout::print(&dist::alerts())),
        Task::Print(Printable::Man) => cli::man(&[]).map(|()| Exit::Done),
        Task::Man(words) => cli::man(&words).map(|()| Exit::Done),
        Task::ManPages(directory) => cli::man_pages(&directory).map(|()| Exit::Done),
        Task::Completions(shell) => done(cli::completions(shell)),
        Task::Import {
            config,
            server,
            options,
        } => import::run(&options, &server, &config),
        Task::Demo(flags) => demo::run(&flags),
        Task::Operator { verb, config } => operator::run(*verb, &config),
        Task::Join(flags) => bridge::join::run(flags),
        Task::Bridge(task) => {
            let _level_stays = log_to_stderr(config::LogLevel::default());
            bridge::run(task)
        }
    }
}

/// Logs to stderr: text on a terminal, else JSON lines. Returns a function that changes the level.
fn log_to_stderr(level: config::LogLevel) -> impl Fn(config::LogLevel) + Send + Sync + use<> {
    let (level, handle) = reload::Layer::new(level.filter());
    let logger = fmt::layer()
        // A log that cannot be written, for instance on a full disk, must not end the thread that
        // logs.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    let log = tracing_subscriber::registry().with(level);
    if io::IsTerminal::is_terminal(&io::stderr()) {
        log.with(logger.with_target(false)).init();
    } else {
        log.with(logger.json().flatten_event(true)).init();
    }
    move |level| {
        if handle.reload(level.filter()).is_err() {
            tracing::error!("cannot change the log level");
        }
    }
}
