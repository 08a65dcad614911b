//! The command line: every verb, every flag, every exit code.
//!
//! `weir` alone is `weir serve`. Flags of settings come from the table of `config`, so that a setting added there has its flag and its help
//! at once; they may stand before or after the verb. [`read`] decides what is to be done and reads the configuration the verb needs; doing it is
//! left to `main` and the modules it calls.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Termination};
use std::sync::OnceLock;

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
};
use clap_complete::Shell;

use crate::config::{self, Config, Flags, Kind, SETTINGS, Setting};
use crate::import;

/// How the program ends. Supervisors act on these, so a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// Something failed while running.
    Runtime = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The store cannot be read or written (`EX_IOERR`).
    Storage = 74,
    /// Another process has the data directory (`EX_TEMPFAIL`).
    Locked = 75,
    /// A setting is wrong (`EX_CONFIG`).
    Config = 78,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why the program ends early: a message for people, a code for supervisors.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weir: {}", self.message)
    }
}

impl std::error::Error for Failure {}

impl From<config::ConfigError> for Failure {
    fn from(error: config::ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

/// What is to be done, with everything needed to do it.
#[derive(Debug)]
pub enum Task {
    Serve(Config),
    CheckConfig(Config),
    Backup {
        config: Config,
        file: PathBuf,
    },
    Restore {
        config: Config,
        file: PathBuf,
        overwrite: bool,
    },
    Print(Printable),
    Completions(Shell),
    Import {
        config: Config,
        options: import::Options,
    },
    /// `--help` and `--version`: already answered on stdout.
    Nothing,
}

/// What `weir print` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Printable {
    /// The OpenAPI document of this server.
    Openapi,
    /// A commented configuration file with every setting.
    Config,
    /// A systemd unit.
    Unit,
}

#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version = version(),
    about = "Control plane for clusters of video streaming servers",
    after_help = "Every setting is also a variable, CENTRAL_ and its name in capitals, and a key of the file.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong command line, 74 storage, 75 data directory in use, 78 bad configuration."
)]
struct CommandLine {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    settings: SettingFlags<ALL>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server (also when no verb is given).
    Serve(Configured<ALL>),
    /// Read the configuration, tell what is in force and where it came from, and end: 0 or 78.
    CheckConfig(Configured<ALL>),
    /// Write a consistent copy of everything in the data directory into FILE.
    Backup {
        file: PathBuf,
        #[command(flatten)]
        configured: Configured<STORE>,
    },
    /// Fill the data directory from FILE, made by `weir backup`.
    Restore {
        file: PathBuf,
        /// Replace what the data directory holds.
        #[arg(long)]
        overwrite: bool,
        #[command(flatten)]
        configured: Configured<STORE>,
    },
    /// Print a text that belongs to this version.
    Print { what: Printable },
    /// Print a completion script for a shell.
    Completions { shell: Shell },
    /// Make streams from an extended M3U playlist and save them through the API.
    Import {
        #[command(flatten)]
        options: import::Options,
        #[command(flatten)]
        configured: Configured<CLIENT>,
    },
}

/// Where the configuration file is, and the flags of those settings a verb uses.
#[derive(Debug, Args)]
struct Configured<const PART: u8> {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    settings: SettingFlags<PART>,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file (TOML). None is read unless named here or in CENTRAL_CONFIG.
    #[arg(long = "config", value_name = "FILE")]
    path: Option<PathBuf>,
}

/// All settings.
const ALL: u8 = 0;
/// Those needed to find the data.
const STORE: u8 = 1;
/// Those needed to talk to a server.
const CLIENT: u8 = 2;

fn settings_of(part: u8) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| match part {
        STORE => setting.key == "data_dir",
        CLIENT => ["data_dir", "api_key"].contains(&setting.key),
        _ => true,
    })
}

/// Flags made from the table of settings.
#[derive(Debug)]
struct SettingFlags<const PART: u8>(Flags);

impl<const PART: u8> FromArgMatches for SettingFlags<PART> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = settings_of(PART).filter_map(|setting| {
            let values = matches.get_many::<String>(setting.key)?;
            Some((setting.key, values.cloned().collect()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const PART: u8> Args for SettingFlags<PART> {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        for setting in settings_of(PART) {
            let default = if setting.default.is_empty() {
                String::new()
            } else {
                format!(" [default: {}]", setting.default)
            };
            let mut flag = clap::Arg::new(setting.key)
                .long(setting.flag())
                .value_name(setting.placeholder())
                .help(first_sentence(setting.doc) + &default)
                .long_help(format!(
                    "{}\n\nAllowed: {}.\n[env: {}]{default}",
                    setting.doc,
                    setting.allowed(),
                    setting.variable()
                ))
                .help_heading(setting.group.heading());
            flag = match setting.kind {
                Kind::List { .. } => flag.action(ArgAction::Append),
                Kind::Switch { .. } => flag
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
                _ => flag,
            };
            command = command.arg(flag);
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn first_sentence(doc: &str) -> String {
    let end = doc.find(". ").unwrap_or(doc.len());
    doc[..end].trim_end_matches('.').to_owned()
}

/// `0.1.0 (x86_64-linux-gnu)`, with the commit when the build was told it (`WEIR_COMMIT`).
pub fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let libc = if cfg!(target_env = "musl") {
            "musl"
        } else {
            "gnu"
        };
        let commit = option_env!("WEIR_COMMIT")
            .map_or_else(String::new, |commit| format!(" commit {commit}"));
        let (version, arch, os) = (
            env!("CARGO_PKG_VERSION"),
            env::consts::ARCH,
            env::consts::OS,
        );
        format!("{version} ({arch}-{os}-{libc}){commit}")
    })
}

/// What to do, from the arguments (program name first) and the environment. Wrong arguments are explained by clap, with its colours.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &[(OsString, OsString)],
) -> Result<Task, Failure> {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) if !error.use_stderr() => {
            print(&error.render().to_string())
                .map_err(|error| Failure::new(Exit::Runtime, error.to_string()))?;
            return Ok(Task::Nothing);
        }
        Err(error) => return Err(Failure::new(Exit::Usage, error.render().to_string())),
    };
    let (before_file, before) = (line.file.path, line.settings.0);
    let config = |file: Option<PathBuf>, after: Flags| {
        let mut flags = before.clone();
        // The flag after the verb is the later one.
        flags.retain(|(key, _)| after.iter().all(|(later, _)| later != key));
        flags.extend(after);
        config::read(file.or(before_file.clone()).as_deref(), environment, &flags)
    };
    Ok(match line.verb {
        None => Task::Serve(config(None, Vec::new())?),
        Some(Verb::Serve(own)) => Task::Serve(config(own.file.path, own.settings.0)?),
        Some(Verb::CheckConfig(own)) => Task::CheckConfig(config(own.file.path, own.settings.0)?),
        Some(Verb::Backup {
            file,
            configured: own,
        }) => Task::Backup {
            config: config(own.file.path, own.settings.0)?,
            file,
        },
        Some(Verb::Restore {
            file,
            overwrite,
            configured: own,
        }) => Task::Restore {
            config: config(own.file.path, own.settings.0)?,
            file,
            overwrite,
        },
        Some(Verb::Print { what }) => Task::Print(what),
        Some(Verb::Completions { shell }) => Task::Completions(shell),
        Some(Verb::Import {
            options,
            configured: own,
        }) => Task::Import {
            config: config(own.file.path, own.settings.0)?,
            options,
        },
    })
}

/// `weir check-config`.
pub fn check_config(config: &Config) -> io::Result<()> {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    print(&config.table())
}

/// `weir completions SHELL`.
pub fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "weir", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// To stdout; a reader that went away (`| head`) had enough and is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
