//! The program `weir`: what is asked for, and who does it.

use std::{env, io};

use weir::cli::{self, Exit, Failure, Printable, Task};
use weir::{api, config, dist, import, server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Exit {
    let environment: Vec<_> = env::vars_os().collect();
    let exit = match cli::read(env::args_os(), &environment).and_then(run) {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit
        }
    };
    // Not by returning: io threads may still be with the kernel, and what they use must not be torn down under them.
    std::process::exit(exit as i32)
}

fn run(task: Task) -> Result<Exit, Failure> {
    let done = |written: io::Result<()>| {
        written
            .map(|()| Exit::Done)
            .map_err(|error| Failure::new(Exit::Runtime, error.to_string()))
    };
    match task {
        Task::Nothing => Ok(Exit::Done),
        Task::Serve(config) => {
            log_to_stderr(&config);
            server::run(&config)
        }
        Task::CheckConfig(config) => done(cli::check_config(&config)),
        Task::Backup { config, file } => server::backup(&config, &file),
        Task::Restore {
            config,
            file,
            overwrite,
        } => server::restore(&config, &file, overwrite),
        Task::Print(Printable::Openapi) => done(cli::print(api::openapi_document())),
        Task::Print(Printable::Config) => done(cli::print(&config::example())),
        Task::Print(Printable::Unit) => done(cli::print(dist::UNIT)),
        Task::Completions(shell) => done(cli::completions(shell)),
        Task::Import { config, options } => import::run(&options, &config),
    }
}

/// Readable where a person looks, JSON lines where a program does.
fn log_to_stderr(config: &config::Config) {
    let logger = tracing_subscriber::fmt()
        .with_max_level(config.settings.log.level.filter())
        // A log that cannot be written, on a full disk for instance, must not end the thread that has something to tell.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    if io::IsTerminal::is_terminal(&io::stderr()) {
        logger.with_target(false).init();
    } else {
        logger.json().flatten_event(true).init();
    }
}
