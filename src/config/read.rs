//! Reads the settings from flags, the environment, the file and the defaults.
//!
//! Every value is checked, also one that a stronger source overrides, and all mistakes are reported
//! at once. No message shows a secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Setting;
use super::scalar::RawValue;
use super::setting::variable;
use super::table::{IGNORED, SETTINGS, Settings};
use super::value::without_password;
use crate::exit::{Exit, Failure};

/// The configuration of a run: the settings, and the source of each.
#[derive(Debug, Clone)]
pub struct Config {
    pub settings: Settings,
    /// In the order of the table.
    pub values: Vec<EffectiveValue>,
    /// One sentence each, for the log. A warning does not prevent the start.
    pub warnings: Vec<String>,
    pub sources: Sources,
}

/// The sources of a configuration, kept to read it again when the file has changed.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that was read, or that will be read once it exists.
    pub file: PathBuf,
    /// No file was named, so it is the one in the data directory.
    pub is_implied: bool,
    pub environment: Vec<(OsString, OsString)>,
    pub flags: Flags,
}

impl fmt::Debug for Sources {
    /// Without values, some of which are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// The file in the data directory, read when no other is named. Settings saved through the API are
/// written to it.
pub const FILE_IN_DATA_DIR: &str = "weir.toml";

/// The effective value of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    pub key: &'static str,
    /// Secrets masked; `None`: not set.
    pub value: Option<String>,
    pub origin: Origin,
}

/// The source of a value; a later variant overrides an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment { name: String },
    Flag { name: &'static str },
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment { .. } => 2,
            Self::Flag { .. } => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Environment { name } => write!(f, "environment {name}"),
            Self::Flag { name } => write!(f, "flag --{name}"),
        }
    }
}

/// All mistakes of a configuration, one per line. Never empty; shows no secret.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad configuration")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

/// The flags of a command line: the key of the setting and its values in the order given.
pub type Flags = Vec<(&'static str, Vec<String>)>;

/// Prefix of all environment variables.
const PREFIX: &str = "CENTRAL_";

/// Names the configuration file when `--config` does not.
pub const CONFIG_VARIABLE: &str = "CENTRAL_CONFIG";

/// Reads all sources and decides on one value per setting.
pub fn read(
    file: Option<&Path>,
    environment: &[(OsString, OsString)],
    flags: &Flags,
) -> Result<Config, ConfigError> {
    let named = environment
        .iter()
        .find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty())
        .map(|(_, value)| PathBuf::from(value));
    let mut sources = Sources {
        file: PathBuf::new(),
        is_implied: false,
        environment: environment.to_vec(),
        flags: flags.clone(),
    };
    if let Some(path) = file.map(Path::to_path_buf).or(named) {
        sources.file = path;
        let text = fs::read_to_string(&sources.file);
        return ConfigReader::default().all(sources, Some(text));
    }
    // The file in the data directory cannot set the data directory.
    let mut without = ConfigReader::default();
    without.weaker_than_file();
    without.stronger_than_file(&sources);
    sources.file = without.settings.store.data_dir.join(FILE_IN_DATA_DIR);
    sources.is_implied = true;
    let text = match fs::read_to_string(&sources.file) {
        // A data directory that is not a directory is an error of the store.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            None
        }
        read => Some(read),
    };
    ConfigReader::default().all(sources, text)
}

/// Reads the same sources with another text of the file.
pub fn read_again(sources: &Sources, text: &str) -> Result<Config, ConfigError> {
    ConfigReader::default().all(sources.clone(), Some(Ok(text.to_owned())))
}

#[derive(Default)]
struct ConfigReader {
    settings: Settings,
    /// The strongest value so far, by key.
    taken: BTreeMap<&'static str, (String, Origin)>,
    warnings: Vec<String>,
    problems: Vec<String>,
}

impl ConfigReader {
    fn all(
        mut self,
        sources: Sources,
        text: Option<io::Result<String>>,
    ) -> Result<Config, ConfigError> {
        self.weaker_than_file();
        match text {
            Some(Ok(text)) => self.file(&sources.file, &text),
            Some(Err(error)) => {
                let path = sources.file.display();
                self.problems
                    .push(format!("{path}: cannot be read: {error}"));
            }
            None => {}
        }
        self.stronger_than_file(&sources);
        let path_of_file = &sources.file;
        let own = self.taken.get("data_dir").is_some_and(
            |(_, origin)| matches!(origin, Origin::File { path, .. } if path == path_of_file),
        );
        if own && sources.is_implied {
            self.problems.push(format!(
                "data_dir cannot be set in {}, which is in the data directory itself",
                sources.file.display()
            ));
        }
        self.settle(sources)
    }

    fn weaker_than_file(&mut self) {
        for setting in SETTINGS {
            if let Some(text) = setting.default() {
                self.take(setting, &RawValue::One(text.to_owned()), Origin::Default);
            }
        }
    }

    fn stronger_than_file(&mut self, sources: &Sources) {
        self.environment(&sources.environment);
        for (key, values) in &sources.flags {
            let setting = Setting::find(key).expect("flags are made from the table");
            let raw = RawValue::Many(values.clone());
            self.take(
                setting,
                &raw,
                Origin::Flag {
                    name: setting.flag(),
                },
            );
        }
    }

    fn take(&mut self, setting: &'static Setting, raw: &RawValue, origin: Origin) {
        let text = raw.text();
        if (setting.set)(&mut self.settings, raw) {
            self.taken.insert(setting.key, (text, origin));
        } else {
            let (key, form) = (setting.key, &setting.form);
            let shown = without_password(setting.masked(&text));
            self.problems
                .push(format!("{key} = {shown:?} ({origin}): must be {form}"));
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let line_of = |offset: usize| text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(span.start));
                // The message alone: the rendered form would quote the line, which may hold a
                // secret.
                let (path, message) = (path.display(), error.message());
                self.problems.push(format!("{path} line {line}: {message}"));
                return;
            }
        };
        // In the order of the file, so that the first problem is that of the first line.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, value) in entries {
            let line = line_of(key.span().start);
            let origin = Origin::File {
                path: path.to_path_buf(),
                line,
            };
            let Some(setting) = self.setting_of_file(key.get_ref(), &origin) else {
                continue;
            };
            let key = setting.key;
            if let Some(first) = seen.insert(key, line) {
                let path = path.display();
                self.problems.push(format!(
                    "{key} is set twice, in lines {first} and {line} of {path}"
                ));
                continue;
            }
            if let Some(raw) = file_value(value.get_ref()) {
                self.take(setting, &raw, origin);
            } else {
                let (found, form) = (with_article(value.get_ref().type_str()), &setting.form);
                self.problems.push(format!(
                    "{key} ({origin}): is {found} in the file, but must be {form}"
                ));
            }
        }
    }

    /// The setting of a key in the file; reports a key that is not a setting.
    fn setting_of_file(&mut self, key: &str, origin: &Origin) -> Option<&'static Setting> {
        let setting = Setting::find(key);
        if setting.is_none() {
            if let Some(why) = ignored(key) {
                self.warnings
                    .push(format!("{key} ({origin}) is ignored: {why}"));
            } else {
                let hint = suggestion(key).map_or_else(
                    || "`weir print config` lists all settings".to_owned(),
                    |near| format!("did you mean {near:?}?"),
                );
                self.problems
                    .push(format!("unknown setting {key:?} ({origin}): {hint}"));
            }
        }
        setting
    }

    fn environment(&mut self, environment: &[(OsString, OsString)]) {
        let mut variables: Vec<(&str, &OsString)> = environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .filter(|(name, value)| {
                name.starts_with(PREFIX) && *name != CONFIG_VARIABLE && !value.is_empty()
            })
            .collect();
        let named = |name: &str| SETTINGS.iter().find(|setting| setting.variable() == name);
        // Sorted, so that the same environment gives the same messages. Aliases first: of two
        // spellings the setting's own key is taken last and overrides the alias.
        variables.sort_by_key(|(name, _)| (named(name).is_some(), *name));
        for (name, value) in variables {
            let key = name[PREFIX.len()..].to_ascii_lowercase();
            let Some(setting) = named(name).or_else(|| Setting::find(&key)) else {
                self.warnings.push(if let Some(why) = ignored(&key) {
                    format!("{name} is ignored: {why}")
                } else {
                    let hint = suggestion(&key).map_or_else(String::new, |near| {
                        format!(", did you mean {}?", variable(near))
                    });
                    format!("{name} is set, but this version has no such setting{hint}")
                });
                continue;
            };
            let origin = Origin::Environment {
                name: name.to_owned(),
            };
            match value.to_str() {
                Some(text) => self.take(setting, &RawValue::One(text.to_owned()), origin),
                None => self
                    .problems
                    .push(format!("{} ({origin}): is not UTF-8", setting.key)),
            }
        }
    }

    /// Checks the relations between settings and builds the configuration.
    fn settle(mut self, sources: Sources) -> Result<Config, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError {
                problems: self.problems,
            });
        }
        self.settle_listeners();
        if let Some(key) = &self.settings.auth.api_key
            && key.expose().len() < 16
        {
            self.warnings
                .push("api_key is shorter than 16 characters and can be guessed".to_owned());
        }
        let effective = |setting: &Setting| match self.taken.get(setting.key) {
            Some((text, origin)) => EffectiveValue {
                key: setting.key,
                value: Some(setting.masked(text).to_owned()),
                origin: origin.clone(),
            },
            None => EffectiveValue {
                key: setting.key,
                value: None,
                origin: Origin::Default,
            },
        };
        let values = SETTINGS.iter().map(effective).collect();
        Ok(Config {
            settings: self.settings,
            values,
            warnings: self.warnings,
            sources,
        })
    }

    /// Of `listen` and `http_port` the one from the stronger source is used.
    fn settle_listeners(&mut self) {
        let Some(port) = self.settings.http.port else {
            return;
        };
        let rank = |key: &str| self.taken.get(key).map_or(0, |(_, origin)| origin.rank());
        if rank("http_port") > rank("listen") {
            self.settings.http.listen = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
            let listen = self.taken.remove("listen");
            if let Some((_, listen)) = listen.filter(|(_, origin)| *origin != Origin::Default) {
                let port = &self.taken["http_port"].1;
                self.warnings.push(format!(
                    "listen ({listen}) is ignored: http_port ({port}) is stronger"
                ));
            }
        } else {
            self.settings.http.port = None;
            if let Some((_, port)) = self.taken.remove("http_port") {
                let listen = &self.taken["listen"].1;
                self.warnings.push(format!(
                    "http_port ({port}) is ignored: listen ({listen}) is at least as strong"
                ));
            }
        }
    }
}

impl Config {
    /// The effective value of a setting and its source.
    pub fn effective(&self, key: &str) -> &EffectiveValue {
        let found = self.values.iter().find(|effective| effective.key == key);
        found.expect("every setting of the table has an entry")
    }

    /// The effective settings, one per line: key, value, source.
    pub fn table(&self) -> String {
        let shown = |effective: &EffectiveValue| {
            effective
                .value
                .clone()
                .unwrap_or_else(|| "(not set)".to_owned())
        };
        let key_width = self.values.iter().map(|e| e.key.len()).max().unwrap_or(0);
        let value_width = self
            .values
            .iter()
            .map(|e| shown(e).chars().count())
            .max()
            .unwrap_or(0)
            .min(48);
        let mut out = String::new();
        for effective in &self.values {
            let (key, value, origin) = (effective.key, shown(effective), &effective.origin);
            _ = writeln!(out, "{key:key_width$}  {value:value_width$}  {origin}");
        }
        out
    }
}

/// A TOML value as text. No setting is a table or a date.
fn file_value(value: &DeValue<'_>) -> Option<RawValue> {
    Some(match value {
        DeValue::String(text) => RawValue::One(text.to_string()),
        DeValue::Integer(number) => RawValue::One(
            i64::from_str_radix(number.as_str(), number.radix())
                .ok()?
                .to_string(),
        ),
        DeValue::Float(number) => RawValue::One(number.as_str().to_owned()),
        DeValue::Boolean(on) => RawValue::One(on.to_string()),
        DeValue::Array(items) => RawValue::Many(
            items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect::<Option<_>>()?,
        ),
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

/// Why a setting of the reference or of an earlier version has no effect.
fn ignored(key: &str) -> Option<&'static str> {
    let (_, why) = IGNORED.iter().find(|(ignored, _)| *ignored == key)?;
    Some(why)
}

/// The nearest key, if it is a likely misspelling of it.
fn suggestion(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SETTINGS
        .iter()
        .map(|setting| (strsim::levenshtein(&key, setting.key), setting.key))
        .filter(|(distance, near)| *distance <= 1 + near.len() / 4)
        .min()
        .map(|(_, near)| near)
}
