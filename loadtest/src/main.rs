//! The `weir-loadtest` program: arguments in, exit code out (0 passed, 1 failed, 2 wrong usage).

use clap::Parser as _;
use std::process::ExitCode;
use weir_loadtest::{cli::Cli, scenario};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let target = match cli.target() {
        Ok(target) => target,
        Err(what) => {
            eprintln!("weir-loadtest: {what}");
            return ExitCode::from(2);
        }
    };
    match scenario::run(&cli, target) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(what) => {
            eprintln!("weir-loadtest: {what}");
            ExitCode::from(1)
        }
    }
}
