//! The command line: every subcommand and every flag.
//!
//! `weir` alone is `weir serve`. Flags of settings come from the table of `config`, so a setting
//! added there has its flag and its help; flags may stand before or after the subcommand. [`read`]
//! parses the arguments and reads the configuration that the subcommand needs; `main` and the
//! modules it calls execute it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};

use crate::bridge::join::JoinFlags;
use crate::bridge::options::{self as bridge, BridgeFlags, BridgeTask};
use crate::config::flags::{ALL, BEFORE, ConfigFile, Configured, STORE, SettingFlags};
use crate::config::{self, Config, Flags};
use crate::demo::DemoFlags;
use crate::exit::{Exit, Failure, cannot};
use crate::import;
use crate::operator::OperatorVerb;
use crate::operator::connection::ServerFlags;
use crate::stdout::print;
use crate::ui;

/// A subcommand with all that it needs.
#[derive(Debug)]
pub enum Task {
    Serve(Config),
    CheckConfig(Config),
    Backup {
        config: Config,
        flags: BackupFlags,
    },
    Restore {
        config: Config,
        file: PathBuf,
        overwrite: bool,
    },
    Check {
        config: Config,
        file: Option<PathBuf>,
    },
    Print(Printable),
    /// A man page: of the program, or of this subcommand, by its words.
    Man(Vec<String>),
    /// All man pages, as files in this directory.
    ManPages(PathBuf),
    Completions(Shell),
    Import {
        config: Config,
        server: ServerFlags,
        options: import::ImportOptions,
    },
    Bridge(BridgeTask),
    Join(JoinFlags),
    Demo(DemoFlags),
    Operator {
        verb: Box<OperatorVerb>,
        config: Config,
    },
    /// `--help` and `--version`, which are already printed.
    Nothing,
}

/// Flags of `weir backup`.
#[derive(Debug, Args)]
pub struct BackupFlags {
    pub file: PathBuf,
    #[command(flatten)]
    pub server: ServerFlags,
    /// Print nothing but errors.
    #[arg(short, long)]
    pub quiet: bool,
}

/// The texts of `weir print`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Printable {
    /// The OpenAPI document of this server.
    Openapi,
    /// A commented configuration file with every setting.
    Config,
    /// A systemd unit.
    Unit,
    /// A systemd unit of bridges.
    BridgeUnit,
    /// A compose file with three media servers and their bridges.
    BridgeCompose,
    /// A man page: of the program, or of a subcommand.
    Man,
    /// A Grafana dashboard of the metrics.
    Grafana,
    /// Alert rules of Prometheus.
    Alerts,
}

#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version = version(),
    about = "Control plane for clusters of video streaming servers",
    after_help = "`weir serve --help` lists the settings. Each is a flag, a variable (CENTRAL_ and \
                  its name in capitals) and a key of the configuration file.\n\
                  Exit codes: 0 success, 1 runtime error, 2 wrong command line, 3 bad news, 4 \
                  differences, 5 conflict, 74 storage error, 75 data directory in use, 78 bad \
                  configuration."
)]
struct CommandLine {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    settings: SettingFlags<BEFORE>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server (the default).
    Serve(Configured<ALL>),
    /// Check the configuration and print the effective settings and their sources; exits with 0 or
    /// 78.
    CheckConfig(Configured<ALL>),
    /// Write a consistent copy of the store into FILE; `-` writes it to stdout.
    ///
    /// With --url, --context, CENTRAL_API_URL or a chosen context from the running server there.
    /// With --data-dir, or without all these, from the data directory, or, if a server uses that,
    /// from this server. FILE appears when it is complete and verified; one that is there is not
    /// replaced.
    Backup(BackupFlags),
    /// Restore the data directory from FILE, which `weir backup` wrote.
    ///
    /// The file is verified before anything is written, and the new store is complete before it
    /// replaces the old one.
    Restore {
        file: PathBuf,
        /// Replace the store of the data directory.
        #[arg(long, visible_alias = "force")]
        overwrite: bool,
        #[command(flatten)]
        configured: Configured<STORE>,
    },
    /// Read all of the store, or of the backup FILE, and check every checksum; exits with 0 or 74.
    Check {
        file: Option<PathBuf>,
        #[command(flatten)]
        configured: Configured<STORE>,
    },
    /// Print the OpenAPI document, the example configuration, man pages, units, a dashboard or
    /// alert rules of this version.
    Print {
        what: Printable,
        /// With `man`: the page of this subcommand, for instance `status` or `layouter pause`.
        verb: Vec<String>,
        /// With `man`: write the pages of all subcommands into this directory.
        #[arg(long, value_name = "DIR", conflicts_with = "verb")]
        all: Option<PathBuf>,
    },
    /// Print a completion script for a shell.
    Completions { shell: Shell },
    /// Create streams from an extended M3U playlist or a CSV file through the API of a server.
    ///
    /// A second import of the same file changes nothing. Members and inputs that were added to a
    /// stream since stay; a new address of a channel replaces only the one imported before.
    Import {
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        options: import::ImportOptions,
    },
    /// Show a living cluster: a server with the layouter on, simulated streamers, one that fails.
    ///
    /// Everything is in a temporary directory and goes with it; ctrl-C ends it.
    Demo(DemoFlags),
    /// Make a media server of another make a streamer of the cluster.
    ///
    /// Runs beside the media server: polls the streams of its streamer from Weir, makes the media
    /// server follow them, and reports how they run. `check` queries both sides and prints what is
    /// missing; exits with 0 or 1.
    Bridge {
        action: Option<BridgeVerb>,
        #[command(flatten)]
        flags: BridgeFlags,
    },
    /// Write the files with which a bridge runs beside a media server: a unit, options, the token.
    ///
    /// Takes the options of `weir bridge`, and checks them. Prints the paths of the files.
    Join(JoinFlags),
    #[command(flatten)]
    Operator(OperatorVerb),
}

/// What `weir bridge` does instead of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BridgeVerb {
    /// Query both sides and print what is missing.
    Check,
}

/// `0.1.0 (x86_64-linux-gnu)`, with the commit if `WEIR_COMMIT` was set when it was built, and
/// whether the web interface was left out.
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
        let ui = ui::missing().map_or("", |_| " without web interface");
        format!("{version} ({arch}-{os}-{libc}){commit}{ui}")
    })
}

/// Parses the arguments (program name first) and reads the configuration of the subcommand. Errors
/// in the arguments are worded and coloured by clap.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &[(OsString, OsString)],
) -> Result<Task, Failure> {
    let Some(line) = parse(arguments)? else {
        return Ok(Task::Nothing);
    };
    let (before_file, before) = (line.file.path, line.settings.0);
    let config = |file: Option<PathBuf>, after: Flags| {
        let mut flags = before.clone();
        // A flag after the subcommand overrides the same flag before it.
        flags.retain(|(key, _)| after.iter().all(|(later, _)| later != key));
        flags.extend(after);
        config::read(file.or(before_file.clone()).as_deref(), environment, &flags)
    };
    let client_config = |server: &ServerFlags| {
        let own = &server.configured;
        config(own.file.path.clone(), own.settings.0.clone())
    };
    Ok(match line.verb {
        None => Task::Serve(config(None, Vec::new())?),
        Some(Verb::Serve(own)) => Task::Serve(config(own.file.path, own.settings.0)?),
        Some(Verb::CheckConfig(own)) => Task::CheckConfig(config(own.file.path, own.settings.0)?),
        Some(Verb::Backup(flags)) => Task::Backup {
            config: client_config(&flags.server)?,
            flags,
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
        Some(Verb::Check {
            file,
            configured: own,
        }) => Task::Check {
            config: config(own.file.path, own.settings.0)?,
            file,
        },
        Some(Verb::Print { what, verb, all }) => printed(what, &verb, all)?,
        Some(Verb::Completions { shell }) => Task::Completions(shell),
        Some(Verb::Demo(flags)) => Task::Demo(flags),
        Some(Verb::Bridge { action, flags }) => {
            let checks = action == Some(BridgeVerb::Check);
            Task::Bridge(bridge::read(flags, checks, environment)?)
        }
        Some(Verb::Join(flags)) => Task::Join(flags),
        Some(Verb::Operator(verb)) => {
            let (file, flags) = verb.configured();
            Task::Operator {
                config: config(file, flags)?,
                verb: Box::new(verb),
            }
        }
        Some(Verb::Import { server, options }) => Task::Import {
            config: client_config(&server)?,
            server,
            options,
        },
    })
}

/// `None` if the help or the version was printed instead.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<CommandLine>, Failure> {
    match CommandLine::try_parse_from(arguments) {
        Ok(line) => Ok(Some(line)),
        Err(error) if !error.use_stderr() => {
            print(&error.render().to_string()).map_err(cannot("write to stdout"))?;
            Ok(None)
        }
        Err(error) => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            Err(Failure::new(Exit::Usage, text))
        }
    }
}

/// `weir print`, which takes a subcommand or a directory for man pages only.
fn printed(what: Printable, verb: &[String], all: Option<PathBuf>) -> Result<Task, Failure> {
    let words = verb.iter().flat_map(|words| words.split_whitespace());
    match (what, all) {
        (Printable::Man, Some(directory)) => Ok(Task::ManPages(directory)),
        (Printable::Man, None) => Ok(Task::Man(words.map(str::to_owned).collect())),
        (what, None) if verb.is_empty() => Ok(Task::Print(what)),
        _ => {
            let what = "only `weir print man` takes a subcommand or --all";
            Err(Failure::new(Exit::Usage, what))
        }
    }
}

/// `weir check-config`.
pub fn check_config(config: &Config) -> io::Result<()> {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    print(&config.table())
}

/// Present when the script of a shell calls the program to complete a line.
const COMPLETE: &str = "WEIR_COMPLETE";

/// Completes the line of a shell and ends the process, if the script of the shell called it.
pub fn complete() {
    let line = CompleteEnv::with_factory(CommandLine::command);
    line.var(COMPLETE).bin("weir").complete();
}

/// `weir completions SHELL`. The script calls the program for every completion.
pub fn completions(shell: Shell) -> io::Result<()> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name);
    let shell = shell.ok_or_else(|| io::Error::other(format!("no completion for {name}")))?;
    let mut script = Vec::new();
    shell.write_registration(COMPLETE, "weir", "weir", "weir", &mut script)?;
    print(&String::from_utf8_lossy(&script))
}

/// `weir print man [SUBCOMMAND]`, of which nested ones have several words.
pub fn man(words: &[String]) -> Result<(), Failure> {
    let mut command = CommandLine::command();
    command.build();
    for (at, word) in words.iter().enumerate() {
        let found = command.find_subcommand(word).cloned();
        command = found.ok_or_else(|| {
            let what = format!("no subcommand {:?}", words[..=at].join(" "));
            Failure::new(Exit::Usage, what)
        })?;
    }
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command);
    page.render(&mut text).map_err(cannot("make the page"))?;
    print(&String::from_utf8_lossy(&text)).map_err(cannot("write to stdout"))
}

/// `weir print man --all DIR`: `weir.1`, `weir-status.1`, `weir-layouter-pause.1` and so on.
pub fn man_pages(directory: &Path) -> Result<(), Failure> {
    let made = fs::create_dir_all(directory);
    made.and_then(|()| clap_mangen::generate_to(CommandLine::command(), directory))
        .map_err(cannot(format!("write to {}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;
    use std::time::Duration;

    fn run(line: &str) -> Result<Task, Failure> {
        run_in(line, &[])
    }

    fn run_in(line: &str, environment: &[(&str, &str)]) -> Result<Task, Failure> {
        let environment: Vec<(OsString, OsString)> = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        read(
            std::iter::once("weir")
                .chain(line.split_whitespace())
                .map(OsString::from),
            &environment,
        )
    }

    fn served(line: &str) -> config::Settings {
        match run(line).expect(line) {
            Task::Serve(config) => config.settings,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_valid() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_and_flags_stand_on_either_side() {
        for line in [
            "--listen 127.0.0.1:7",
            "serve --listen 127.0.0.1:7",
            "--listen 127.0.0.1:7 serve",
            "--listen :1 serve --listen 127.0.0.1:7",
        ] {
            assert_eq!(
                served(line).http.listen,
                ["127.0.0.1:7"
                    .parse::<std::net::SocketAddr>()
                    .expect("an address")],
                "{line}"
            );
        }
        let settings = served(
            "--listen :1 --listen [::1]:2 --log-requests serve --poll-wait-max 20s --data-dir /d",
        );
        assert_eq!(settings.http.listen.len(), 2);
        assert!(settings.log.requests);
        assert_eq!(settings.http.poll_wait_max, Duration::from_secs(20));
        assert_eq!(settings.store.data_dir, PathBuf::from("/d"));
        assert!(!served("--log-requests=false").log.requests);
    }

    #[test]
    fn every_setting_has_its_flag_and_its_help() {
        let mut command = CommandLine::command();
        let serve = command.find_subcommand_mut("serve").expect("a subcommand");
        let help = serve.render_long_help().to_string();
        for setting in SETTINGS {
            assert!(
                help.contains(&format!("--{} ", setting.flag()))
                    || help.contains(&format!("--{}[=", setting.flag())),
                "{}",
                setting.key
            );
            assert!(help.contains(&setting.variable()), "{}", setting.key);
        }
    }

    #[test]
    fn subcommands_parse_their_arguments() {
        let line = "backup /b --data-dir /d --url http://h --api-key k";
        let Ok(Task::Backup { config, flags }) = run(line) else {
            panic!("a backup");
        };
        assert_eq!(
            (flags.file.to_str(), flags.server.url.as_deref()),
            (Some("/b"), Some("http://h"))
        );
        assert_eq!(config.settings.store.data_dir, Path::new("/d"));
        assert!(matches!(
            run("restore /b --overwrite"),
            Ok(Task::Restore {
                overwrite: true,
                ..
            })
        ));
        assert!(matches!(
            run("restore /b"),
            Ok(Task::Restore {
                overwrite: false,
                ..
            })
        ));
        assert!(matches!(
            run("check --data-dir /d"),
            Ok(Task::Check { file: None, .. })
        ));
        assert!(matches!(
            run("check /b"),
            Ok(Task::Check { file: Some(_), .. })
        ));
        assert!(matches!(
            run("print unit"),
            Ok(Task::Print(Printable::Unit))
        ));
        assert!(matches!(
            run("print bridge-unit"),
            Ok(Task::Print(Printable::BridgeUnit))
        ));
        assert!(matches!(
            run("completions bash"),
            Ok(Task::Completions(Shell::Bash))
        ));
        assert!(matches!(
            run("check-config --http-port 80"),
            Ok(Task::CheckConfig(_))
        ));
        match run(
            "import list.m3u8 --dry-run --api-key k --url http://h --prefix tv/ --output json",
        ) {
            Ok(Task::Import {
                config,
                server,
                options,
            }) => {
                assert_eq!(config.settings.auth.api_key.expect("given").expose(), "k");
                assert!(
                    options.dry_run
                        && !options.strict
                        && options.batch == 500
                        && options.prefix == "tv/"
                );
                assert_eq!(
                    (server.url.as_deref(), options.report.output),
                    (Some("http://h"), import::Output::Json)
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistakes_exit_with_the_documented_codes() {
        for (line, exit) in [
            ("--no-such-flag", Exit::Usage),
            ("no-such-verb", Exit::Usage),
            ("backup", Exit::Usage),
            ("import", Exit::Usage),
            ("import x --batch 0", Exit::Usage),
            ("import x --batch 10001", Exit::Usage),
            ("import x --prefix /a", Exit::Usage),
            ("import x --listen :1", Exit::Usage),
            ("print nothing", Exit::Usage),
            ("--http-port 99999", Exit::Config),
            ("--config /no/such/file", Exit::Config),
            ("check-config --log-level loud", Exit::Config),
        ] {
            assert_eq!(run(line).expect_err(line).exit, exit, "{line}");
        }
        let failure =
            run_in("", &[("CENTRAL_API_KEY", "CANARY two words")]).expect_err("a bad key");
        assert_eq!(failure.exit, Exit::Config);
        assert!(
            failure
                .message
                .contains("api_key = \"***\" (environment CENTRAL_API_KEY)"),
            "{failure}"
        );
        let codes = [
            Exit::Done,
            Exit::Runtime,
            Exit::Usage,
            Exit::Unhealthy,
            Exit::Different,
            Exit::Conflict,
            Exit::Storage,
            Exit::Locked,
            Exit::Config,
        ]
        .map(|exit| exit as u8);
        assert_eq!(
            codes,
            [0, 1, 2, 3, 4, 5, 74, 75, 78],
            "supervisors rely on these"
        );
    }

    #[test]
    fn variables_of_the_reference_configure_the_server() {
        let task = run_in(
            "",
            &[
                ("CENTRAL_HTTP_PORT", "9019"),
                ("CENTRAL_API_KEY", "0123456789abcdef"),
                ("CENTRAL_EDIT_AUTH", "root secret"),
                ("CENTRAL_LOG_LEVEL", "debug"),
                ("CENTRAL_LOG_REQUESTS", "true"),
                ("CENTRAL_DATABASE_URL", "postgresql://h/central"),
                ("CENTRAL_REDIS_URL", "redis://h"),
                ("CENTRAL_LICENSE_KEY", "x"),
            ],
        );
        let Ok(Task::Serve(config)) = task else {
            panic!("{task:?}")
        };
        assert_eq!(
            config.settings.http.listen,
            ["0.0.0.0:9019"
                .parse::<std::net::SocketAddr>()
                .expect("an address")]
        );
        assert_eq!(config.settings.auth.edit_auth.expect("given").name, "root");
        assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);
    }
}
