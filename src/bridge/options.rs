//! The options of `weir bridge`: one table, from which come the flags, the variables and the keys
//! of the file.
//!
//! A flag wins over a variable, a variable over the file. In the file, `[[server]]` tables describe
//! several media servers; what stands before them holds for all. Secrets are read from files and
//! are no values of options.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, ArgMatches, Args, FromArgMatches, ValueEnum as _};

use super::central::JoinFields;
use super::kinds::mediamtx::is_plain_directory;
use super::kinds::srs_ingest::IngestOptions;
use super::kinds::{HiddenText, ServerKind, ServerOptions};
use super::plan::PlanSettings;
use crate::duration;
use crate::exit::{Exit, Failure};

/// Media servers of one process.
const SERVERS_MAX: usize = 64;
/// Largest file of options, and of a secret.
const FILE_BYTES_MAX: u64 = 1 << 20;
const SECRET_BYTES_MAX: u64 = 4096;
const VARIABLE_PREFIX: &str = "WEIR_BRIDGE_";

/// One option.
pub struct OptionRow {
    /// The flag; with `_` it is the key of the file.
    pub key: &'static str,
    /// Shown for the value; empty for a switch.
    pub placeholder: &'static str,
    pub about: &'static str,
}

const fn option(key: &'static str, placeholder: &'static str, about: &'static str) -> OptionRow {
    OptionRow {
        key,
        placeholder,
        about,
    }
}

#[rustfmt::skip]
pub const OPTIONS: &[OptionRow] = &[
    option("config", "FILE",
        "File with options (TOML); [[server]] tables describe several media servers"),
    option("kind", "KIND", "Kind of the media server: mediamtx, go2rtc, node-media-server or srs"),
    option("api", "URL", "Base URL of the media server's control API"),
    option("user", "USER", "Login of the control API"),
    option("password-file", "FILE", "File with the password of the control API"),
    option("media", "HOST:PORT",
        "Where the media server serves media [default: the host of --api and the usual port of the kind]"),
    option("central", "URL", "Base URL of Weir"),
    option("hostname", "NAME", "Name of this streamer in Weir"),
    option("cluster-key-file", "FILE",
        "File with the cluster key of the streamer, which is saved in Weir already"),
    option("join-token-file", "FILE",
        "File with an API token by which the bridge saves the streamer, with a key that it makes"),
    option("rejoin", "", "Save the streamer again although it joined before"),
    option("state-dir", "DIR", "Directory of what survives the bridge [default: weir-bridge]"),
    option("listen", "ADDR:PORT",
        "Where players are redirected and the media server's hook is answered; a port alone is on 127.0.0.1"),
    option("auth-default", "deny|allow",
        "Verdict about a new viewer while Weir does not answer [default: deny]"),
    option("host", "NAME", "Host name or address under which others reach the media server"),
    option("play-base", "URL", "Base URL at which players reach the media server"),
    option("channel-limit", "NUMBER", "Streams that Weir may place on the server"),
    option("labels", "K=V,..", "Labels of the streamer, set when it joins"),
    option("namespace", "NAME", "Namespace of the streamer, set when it joins"),
    option("exclusive", "", "Remove and take over streams that the bridge did not make"),
    option("keep", "GLOB", "Streams that --exclusive leaves alone, by their names on the server"),
    option("fence-after", "TIME",
        "Stop the streams after this time without Weir; 0 never [default: 0]"),
    option("adds-per-second", "NUMBER",
        "Streams that are started in a second, at most [default: 10]"),
    option("record-dir", "DIR",
        "Directory below which streams with dvr are recorded [MediaMTX only; default: none are]"),
    option("ingest-file", "FILE",
        "File of ingests that the configuration of SRS includes [SRS only]"),
    option("publish", "URL",
        "Where SRS takes publishers [SRS only; default: rtmp://127.0.0.1:1935]"),
    option("ffmpeg", "FILE", "The ffmpeg that SRS runs [SRS only; default: /usr/bin/ffmpeg]"),
    option("dry-run", "", "Print the calls that one round would make, and make none"),
    option("once", "", "Make the server follow the list, report once and end"),
];

impl OptionRow {
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.file_key().to_uppercase())
    }

    pub fn file_key(&self) -> String {
        self.key.replace('-', "_")
    }

    fn is_switch(&self) -> bool {
        self.placeholder.is_empty()
    }
}

fn row(key: &str) -> Option<&'static OptionRow> {
    OPTIONS.iter().find(|row| row.file_key() == key)
}

/// Values by key.
type OptionValues = BTreeMap<&'static str, String>;

/// The flags of the command line.
#[derive(Debug)]
pub struct BridgeFlags(OptionValues);

impl FromArgMatches for BridgeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = OPTIONS.iter().filter_map(|row| {
            let value = matches.get_one::<String>(row.key)?;
            Some((row.key, value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for BridgeFlags {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        for row in OPTIONS {
            let mut flag = clap::Arg::new(row.key)
                .long(row.key)
                .help(format!("{} [env: {}]", row.about, row.variable()))
                .action(ArgAction::Set);
            flag = if row.is_switch() {
                flag.num_args(0..=1)
                    .require_equals(true)
                    .value_name("true|false")
                    .default_missing_value("true")
            } else {
                flag.value_name(row.placeholder)
            };
            command = command.arg(flag);
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What `weir bridge` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeAction {
    Run,
    Once,
    DryRun,
    Check,
}

/// The whole task.
#[derive(Debug)]
pub struct BridgeTask {
    pub action: BridgeAction,
    pub servers: Vec<BridgeOptions>,
}

/// The options of one media server.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    pub hostname: Box<str>,
    pub server: ServerOptions,
    pub central: String,
    pub keys: KeyOptions,
    pub fields: JoinFields,
    pub state_dir: PathBuf,
    pub plan: PlanSettings,
    pub front: FrontOptions,
}

#[derive(Debug, Clone, Copy)]
pub struct FrontOptions {
    pub listen: Option<SocketAddr>,
    pub allows_by_default: bool,
}

/// Where the cluster key comes from.
#[derive(Debug, Clone)]
pub struct KeyOptions {
    pub cluster_key: Option<HiddenText>,
    pub join_token: Option<HiddenText>,
    pub rejoin: bool,
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Config, message)
}

impl BridgeFlags {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The options of a bridge that is to run as a service.
#[derive(Debug)]
pub struct ServiceOptions {
    pub hostname: Box<str>,
    /// Names and values, without those that the unit has.
    pub variables: Vec<(String, String)>,
    pub token: HiddenText,
}

/// Checks the options of a bridge that is to run as a service, as the bridge will.
pub fn service_options(
    flags: BridgeFlags,
    kind: &str,
    api: &str,
) -> Result<ServiceOptions, Failure> {
    let mut values = flags.0;
    let of_a_run = [
        "config",
        "kind",
        "state-dir",
        "cluster-key-file",
        "dry-run",
        "once",
    ];
    if let Some(key) = of_a_run.into_iter().find(|key| values.contains_key(key)) {
        let text = format!("--{key} is no option of a bridge that joins as a service");
        return Err(Failure::new(Exit::Usage, text));
    }
    values.insert("kind", kind.to_owned());
    values.entry("api").or_insert_with(|| api.to_owned());
    let reader = OptionReader(values);
    reader.required("join-token-file")?;
    let options = reader.options()?;
    let OptionReader(mut values) = reader;
    values.remove("join-token-file");
    values.remove("hostname");
    let is_broken = |value: &String| value.contains(char::is_control);
    if let Some((key, _)) = values.iter().find(|(_, value)| is_broken(value)) {
        return Err(wrong(format!("--{key} must be one line")));
    }
    let variables = values.into_iter().map(|(key, value)| {
        let row = OPTIONS.iter().find(|row| row.key == key);
        (row.map_or_else(String::new, OptionRow::variable), value)
    });
    Ok(ServiceOptions {
        hostname: options.hostname,
        variables: variables.collect(),
        token: options.keys.join_token.expect("it is required"),
    })
}

/// Reads all options: flags, variables, and the file.
pub fn read(
    flags: BridgeFlags,
    checks: bool,
    environment: &[(OsString, OsString)],
) -> Result<BridgeTask, Failure> {
    let mut given = variables(environment)?;
    given.extend(flags.0);
    let tables = match given.get("config") {
        Some(path) => file_tables(Path::new(path))?,
        None => vec![OptionValues::new()],
    };
    let is_several = tables.len() > 1;
    let mut servers: Vec<BridgeOptions> = Vec::new();
    let mut action = BridgeAction::Run;
    for mut table in tables {
        for (key, value) in &given {
            if is_several && ["hostname", "api"].contains(key) {
                return Err(wrong(format!(
                    "the option {key} belongs into the [[server]] tables of the file, which has \
                     several"
                )));
            }
            table.insert(key, value.clone());
        }
        let reader = OptionReader(table);
        action = reader.action(checks)?;
        let options = reader.options()?;
        if servers
            .iter()
            .any(|known| known.hostname == options.hostname)
        {
            return Err(wrong(format!(
                "the hostname {:?} is that of two servers",
                options.hostname
            )));
        }
        servers.push(options);
    }
    Ok(BridgeTask { action, servers })
}

fn variables(environment: &[(OsString, OsString)]) -> Result<OptionValues, Failure> {
    let mut values = OptionValues::new();
    for (name, value) in environment {
        let Some(name) = name
            .to_str()
            .filter(|name| name.starts_with(VARIABLE_PREFIX))
        else {
            continue;
        };
        let row = OPTIONS.iter().find(|row| row.variable() == name);
        let row = row.ok_or_else(|| wrong(format!("the variable {name} is no option")))?;
        let value = value.to_str();
        let value = value.ok_or_else(|| wrong(format!("the variable {name} is not UTF-8")))?;
        values.insert(row.key, value.to_owned());
    }
    Ok(values)
}

/// The values of each `[[server]]`, or of the file without such tables.
fn file_tables(path: &Path) -> Result<Vec<OptionValues>, Failure> {
    let name = path.display();
    let text = read_bounded(path, FILE_BYTES_MAX)?;
    let mut root: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        wrong(format!("{name} line {line}: {}", error.message()))
    })?;
    let servers = root.remove("server");
    let shared = values_of(&root, path)?;
    let Some(servers) = servers else {
        return Ok(vec![shared]);
    };
    let servers = servers.as_array().filter(|servers| !servers.is_empty());
    let servers = servers.ok_or_else(|| wrong(format!("{name}: server must be [[server]]")))?;
    if servers.len() > SERVERS_MAX {
        return Err(wrong(format!(
            "{name}: more than {SERVERS_MAX} servers in one process"
        )));
    }
    let tables = servers.iter().map(|server| {
        let table = server.as_table();
        let table = table.ok_or_else(|| wrong(format!("{name}: server must be [[server]]")))?;
        let mut values = shared.clone();
        values.extend(values_of(table, path)?);
        Ok(values)
    });
    tables.collect()
}

fn values_of(table: &toml::Table, path: &Path) -> Result<OptionValues, Failure> {
    let values = table.iter().map(|(key, value)| {
        let name = path.display();
        let row = row(key).filter(|row| row.key != "config");
        let row = row.ok_or_else(|| wrong(format!("{name}: {key:?} is no option")))?;
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(switch) => switch.to_string(),
            _ => {
                return Err(wrong(format!(
                    "{name}: {key} must be a text, a number or a switch"
                )));
            }
        };
        Ok((row.key, text))
    });
    values.collect()
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, Failure> {
    let name = path.display();
    let metadata = fs::metadata(path).map_err(|error| wrong(format!("{name}: {error}")))?;
    if metadata.len() > bytes_max {
        return Err(wrong(format!("{name}: larger than {bytes_max} bytes")));
    }
    fs::read_to_string(path).map_err(|error| wrong(format!("{name}: {error}")))
}

/// Takes typed values out of texts.
struct OptionReader(OptionValues);

impl OptionReader {
    fn text(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key).map(|value| value.trim());
        value.filter(|value| !value.is_empty())
    }

    fn required(&self, key: &str) -> Result<&str, Failure> {
        self.text(key).ok_or_else(|| {
            let variable = key.replace('-', "_").to_uppercase();
            Failure::new(
                Exit::Usage,
                format!("--{key} is required (or {VARIABLE_PREFIX}{variable})"),
            )
        })
    }

    fn switch(&self, key: &str) -> Result<bool, Failure> {
        match self.text(key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(wrong(format!("--{key} must be true or false"))),
        }
    }

    fn number(&self, key: &str, most: u64) -> Result<Option<u64>, Failure> {
        let Some(text) = self.text(key) else {
            return Ok(None);
        };
        let number = text
            .parse()
            .ok()
            .filter(|number| (1..=most).contains(number));
        let number = number.ok_or_else(|| wrong(format!("--{key} must be from 1 to {most}")))?;
        Ok(Some(number))
    }

    /// A base URL without a slash at the end.
    fn url(&self, key: &str) -> Result<String, Failure> {
        let url = self.required(key)?.trim_end_matches('/');
        let rest = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("https://"));
        let authority = rest.and_then(|rest| rest.split('/').next());
        let is_base = !url.contains(['?', '#', ' ']);
        if authority.is_none_or(|it| it.is_empty() || it.contains('@')) || !is_base {
            return Err(wrong(format!(
                "--{key} must be an http or https URL without credentials and query"
            )));
        }
        Ok(url.to_owned())
    }

    fn secret(&self, key: &str) -> Result<Option<HiddenText>, Failure> {
        let Some(path) = self.text(key) else {
            return Ok(None);
        };
        let text = read_bounded(Path::new(path), SECRET_BYTES_MAX)?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.contains(char::is_control) {
            return Err(wrong(format!("{path}: must be one line that is not empty")));
        }
        Ok(Some(HiddenText::new(text)))
    }

    fn action(&self, checks: bool) -> Result<BridgeAction, Failure> {
        Ok(
            match (checks, self.switch("dry-run")?, self.switch("once")?) {
                (true, ..) => BridgeAction::Check,
                (_, true, _) => BridgeAction::DryRun,
                (.., true) => BridgeAction::Once,
                _ => BridgeAction::Run,
            },
        )
    }

    fn options(&self) -> Result<BridgeOptions, Failure> {
        let server = self.server()?;
        let hostname = self.required("hostname")?;
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
        if !hostname.chars().all(is_name) || hostname.len() > 255 {
            return Err(wrong("--hostname must be a host name"));
        }
        let keys = KeyOptions {
            cluster_key: self.secret("cluster-key-file")?,
            join_token: self.secret("join-token-file")?,
            rejoin: self.switch("rejoin")?,
        };
        if keys.cluster_key.is_some() == keys.join_token.is_some() {
            let text = "one of --cluster-key-file and --join-token-file is required";
            return Err(Failure::new(Exit::Usage, text));
        }
        let fence_after = match self.text("fence-after") {
            None => Duration::ZERO,
            Some(text) => duration::parse(text)
                .ok_or_else(|| wrong(format!("--fence-after must be {}", duration::ALLOWED)))?,
        };
        let starts = self.number("adds-per-second", 1000)?.unwrap_or(10);
        Ok(BridgeOptions {
            hostname: hostname.into(),
            central: self.url("central")?,
            keys,
            fields: self.fields(&server)?,
            front: self.front()?,
            state_dir: self.text("state-dir").unwrap_or("weir-bridge").into(),
            plan: PlanSettings {
                starts_per_second: usize::try_from(starts).unwrap_or(usize::MAX),
                exclusive: self.switch("exclusive")?,
                keep: self.text("keep").map(Into::into),
                fence_after: Some(fence_after).filter(|after| !after.is_zero()),
            },
            server,
        })
    }

    fn front(&self) -> Result<FrontOptions, Failure> {
        let listen = self.text("listen").map(|text| {
            let text = text.trim_start_matches(':');
            let port = text
                .parse()
                .map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            port.or_else(|_| text.parse())
                .map_err(|_| wrong("--listen must be an address with a port, or a port"))
        });
        Ok(FrontOptions {
            listen: listen.transpose()?,
            allows_by_default: match self.text("auth-default") {
                None | Some("deny") => false,
                Some("allow") => true,
                Some(_) => return Err(wrong("--auth-default must be deny or allow")),
            },
        })
    }

    fn server(&self) -> Result<ServerOptions, Failure> {
        let kind = self.required("kind")?;
        let kind = ServerKind::from_str(kind, false).map_err(|_| {
            let names = ServerKind::value_variants().iter();
            let names =
                names.filter_map(|kind| Some(kind.to_possible_value()?.get_name().to_owned()));
            let names: Vec<String> = names.collect();
            wrong(format!("--kind must be one of {}", names.join(", ")))
        })?;
        let api = self.url("api")?;
        let host = super::kind::host_of(&api).to_owned();
        let login = match (self.text("user"), self.secret("password-file")?) {
            (None, None) => None,
            (user, password) => {
                let password = password.as_ref().map_or("", HiddenText::expose);
                let user = user.unwrap_or("admin");
                Some(HiddenText::new(&format!("{user}:{password}")))
            }
        };
        let media = self.text("media").map(str::to_owned);
        let play_base = if self.text("play-base").is_some() {
            self.url("play-base")?
        } else {
            let host = self.text("host").unwrap_or(&host);
            format!("http://{host}:{}", kind.play_port())
        };
        Ok(ServerOptions {
            kind,
            api,
            login,
            media: media
                .unwrap_or_else(|| format!("{host}:{}", kind.media_port()))
                .into(),
            play_base,
            record_dir: self.record_dir()?,
            ingest: self.ingest(kind)?,
        })
    }

    fn record_dir(&self) -> Result<Option<Box<str>>, Failure> {
        let path = self
            .text("record-dir")
            .map(|path| path.trim_end_matches('/'));
        if path.is_some_and(|path| !is_plain_directory(path)) {
            return Err(wrong(
                "--record-dir must be an absolute path of letters, digits and _-.",
            ));
        }
        Ok(path.map(Into::into))
    }

    fn ingest(&self, kind: ServerKind) -> Result<IngestOptions, Failure> {
        let text = |key, default: &str| {
            let text = self.text(key).unwrap_or(default);
            let is_plain =
                |letter: char| letter.is_ascii_alphanumeric() || "._:/-".contains(letter);
            let is_good = text.chars().all(is_plain);
            let wrong = || wrong(format!("--{key} must have letters, digits and ._:/- only"));
            is_good.then(|| text.to_owned()).ok_or_else(wrong)
        };
        let file = match kind {
            ServerKind::Srs => self.required("ingest-file")?,
            _ => "",
        };
        Ok(IngestOptions {
            file: file.into(),
            publish: text("publish", "rtmp://127.0.0.1:1935")?
                .trim_end_matches('/')
                .into(),
            ffmpeg: text("ffmpeg", "/usr/bin/ffmpeg")?.into(),
        })
    }

    fn fields(&self, server: &ServerOptions) -> Result<JoinFields, Failure> {
        let kind = server.kind;
        let mut labels = BTreeMap::new();
        for pair in self.text("labels").iter().flat_map(|text| text.split(',')) {
            let pair = pair.split_once('=');
            let (name, value) =
                pair.ok_or_else(|| wrong("--labels must be k=v, joined by commas"))?;
            labels.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        let host = self.text("host");
        let port = server.media.rsplit(':').next().unwrap_or_default();
        let payload = |host| format!("{}://{host}:{port}", kind.media_scheme());
        let is_public = host.is_some() || self.text("play-base").is_some();
        Ok(JoinFields {
            kind: kind.known().as_str(),
            private_payload_url: host.map(payload),
            play_urls: if is_public {
                kind.play_urls(&server.play_base)
            } else {
                BTreeMap::new()
            },
            channel_limit: self.number("channel-limit", 1_000_000)?,
            labels,
            namespace: self.text("namespace").map(str::to_owned),
        })
    }
}
