//! Reading settings from flags, the environment, the file and the defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::table::{IGNORED, SETTINGS, Setting, variable};
use super::value::without_password;
use super::{MASK, Settings};
use crate::exit::{Exit, Failure};

/// The configuration of a run: the settings, and how each came to be.
#[derive(Debug, Clone)]
pub struct Config {
    pub settings: Settings,
    /// In the order of the table.
    pub values: Vec<Effective>,
    /// One sentence each, for the log. Nothing here stops a start.
    pub warnings: Vec<String>,
    pub sources: Sources,
}

/// Where everything was read from, so that it can be read again when the file has changed.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that was read, or that will be when it exists.
    pub file: PathBuf,
    /// Nobody named the file: it is the one in the data directory.
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

/// The file in the data directory that is read when no other is named. Settings that are saved through the API go there.
pub const FILE_IN_DATA_DIR: &str = "weir.toml";

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub key: &'static str,
    /// Secrets masked; `None`: not set.
    pub value: Option<String>,
    pub origin: Origin,
}

/// Where a value came from; a later one overrides an earlier one.
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

/// Everything that was wrong, one fact a line. Never empty, never shows a secret.
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

/// A value as somebody wrote it.
#[derive(Debug, Clone)]
pub(super) enum Raw {
    One(String),
    Many(Vec<String>),
}

impl Raw {
    /// For lists: elements as given, and those of one text divided by commas.
    pub(super) fn split(&self) -> Vec<String> {
        let texts: Vec<&str> = match self {
            Self::One(text) => text.split(',').collect(),
            Self::Many(texts) => texts.iter().flat_map(|text| text.split(',')).collect(),
        };
        texts
            .into_iter()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect()
    }

    fn text(&self) -> String {
        match self {
            Self::One(text) => text.clone(),
            Self::Many(texts) => texts.join(","),
        }
    }
}

/// Flags as the command line has them: key of the table, values in the order given.
pub type Flags = Vec<(&'static str, Vec<String>)>;

/// The file named by `--config`, else by `CENTRAL_CONFIG`; there is none by default.
pub const CONFIG_VARIABLE: &str = "CENTRAL_CONFIG";

/// Read everything and settle on one value for each setting.
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
        return Reading::default().all(sources, Some(text));
    }
    // Where the data directory is does not depend on what is in it.
    let mut without = Reading::default();
    without.weaker_than_file();
    without.stronger_than_file(&sources);
    sources.file = without.settings.store.data_dir.join(FILE_IN_DATA_DIR);
    sources.is_implied = true;
    let text = match fs::read_to_string(&sources.file) {
        // A data directory that is none is the store's to complain about.
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
    Reading::default().all(sources, text)
}

/// The same with another text of the file.
pub fn read_again(sources: &Sources, text: &str) -> Result<Config, ConfigError> {
    Reading::default().all(sources.clone(), Some(Ok(text.to_owned())))
}

#[derive(Default)]
struct Reading {
    settings: Settings,
    taken: BTreeMap<&'static str, (String, Origin)>,
    warnings: Vec<String>,
    problems: Vec<String>,
}

impl Reading {
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
                "data_dir cannot be set in {}, which is found through it",
                sources.file.display()
            ));
        }
        self.settle(sources)
    }

    fn weaker_than_file(&mut self) {
        for setting in SETTINGS
            .iter()
            .filter(|setting| !setting.default.is_empty())
        {
            self.take(
                setting,
                &Raw::One(setting.default.to_owned()),
                Origin::Default,
            );
        }
    }

    fn stronger_than_file(&mut self, sources: &Sources) {
        self.environment(&sources.environment);
        for (key, values) in &sources.flags {
            let setting = Setting::find(key).expect("flags are made from the table");
            let raw = Raw::Many(values.clone());
            self.take(
                setting,
                &raw,
                Origin::Flag {
                    name: setting.flag(),
                },
            );
        }
    }

    fn take(&mut self, setting: &'static Setting, raw: &Raw, origin: Origin) {
        let text = raw.text();
        if setting.set(&mut self.settings, raw) {
            self.taken.insert(setting.key, (text, origin));
        } else {
            let shown = if setting.secret {
                MASK.to_owned()
            } else {
                without_password(&text)
            };
            self.problems.push(format!(
                "{} = {shown:?} ({origin}): must be {}",
                setting.key,
                setting.allowed()
            ));
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let line_of = |offset: usize| text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(span.start));
                // The message alone: the rendered form would quote the line, and the line may hold a secret.
                self.problems.push(format!(
                    "{} line {line}: {}",
                    path.display(),
                    error.message()
                ));
                return;
            }
        };
        // In the order of the file, so that the first complaint is about the first line.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, value) in entries {
            let line = line_of(key.span().start);
            let origin = Origin::File {
                path: path.to_path_buf(),
                line,
            };
            let key: &str = key.get_ref();
            let Some(setting) = Setting::find(key) else {
                let hint = suggestion(key).map_or_else(
                    || "`weir print config` shows all there are".to_owned(),
                    |near| format!("did you mean {near:?}?"),
                );
                self.problems
                    .push(format!("unknown setting {key:?} ({origin}): {hint}"));
                continue;
            };
            if let Some(first) = seen.insert(setting.key, line) {
                self.problems.push(format!(
                    "{} is set twice, in lines {first} and {line} of {}",
                    setting.key,
                    path.display()
                ));
                continue;
            }
            match file_value(value.get_ref()) {
                Some(raw) => self.take(setting, &raw, origin),
                None => self.problems.push(format!(
                    "{} ({origin}): is {} in the file, but must be {}",
                    setting.key,
                    with_article(value.get_ref().type_str()),
                    setting.allowed()
                )),
            }
        }
    }

    fn environment(&mut self, environment: &[(OsString, OsString)]) {
        // Sorted, so that the same environment gives the same messages.
        let mut ours: Vec<(String, &OsString)> = environment
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value)))
            .filter(|(name, value)| {
                name.starts_with("CENTRAL_") && name != CONFIG_VARIABLE && !value.is_empty()
            })
            .collect();
        ours.sort();
        // Aliases first: when both spellings are there, the proper one is taken last and stands.
        let known = |name: &str| SETTINGS.iter().find(|setting| setting.variable() == name);
        ours.sort_by_key(|(name, _)| known(name).is_some());
        for (name, value) in ours {
            let setting = known(&name)
                .or_else(|| Setting::find(&name["CENTRAL_".len()..].to_ascii_lowercase()));
            let Some(setting) = setting else {
                let ignored = IGNORED.iter().find(|(ignored, _)| *ignored == name);
                self.warnings.push(if let Some((_, why)) = ignored {
                    format!("{name} is ignored: {why}")
                } else {
                    let near = suggestion(&name["CENTRAL_".len()..].to_ascii_lowercase());
                    let hint = near.map_or_else(String::new, |near| {
                        format!(", did you mean {}?", variable(near))
                    });
                    format!("{name} is set, but this version has no such setting{hint}")
                });
                continue;
            };
            let origin = Origin::Environment { name };
            match value.to_str() {
                Some(text) => self.take(setting, &Raw::One(text.to_owned()), origin),
                None => self
                    .problems
                    .push(format!("{} ({origin}): is not UTF-8", setting.key)),
            }
        }
    }

    /// Relations between settings, then the answer.
    fn settle(mut self, sources: Sources) -> Result<Config, ConfigError> {
        if !self.problems.is_empty() {
            return Err(ConfigError {
                problems: self.problems,
            });
        }
        let rank = |key: &str| self.taken.get(key).map_or(0, |(_, origin)| origin.rank());
        if let Some(port) = self.settings.http.port {
            if rank("http_port") > rank("listen") {
                self.settings.http.listen =
                    vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)];
                if let Some(listen) = self
                    .taken
                    .remove("listen")
                    .filter(|(_, origin)| *origin != Origin::Default)
                {
                    self.warnings.push(format!(
                        "listen ({}) is ignored: http_port ({}) is stronger",
                        listen.1, self.taken["http_port"].1
                    ));
                }
            } else {
                self.settings.http.port = None;
                if let Some((_, origin)) = self.taken.remove("http_port") {
                    self.warnings.push(format!(
                        "http_port ({origin}) is ignored: listen ({}) is at least as strong",
                        self.taken["listen"].1
                    ));
                }
            }
        }
        if let Some(key) = &self.settings.auth.api_key
            && key.expose().len() < 16
        {
            self.warnings
                .push("api_key is shorter than 16 characters and may be guessed".to_owned());
        }
        let values = SETTINGS
            .iter()
            .map(|setting| match self.taken.get(setting.key) {
                Some((text, origin)) => Effective {
                    key: setting.key,
                    value: Some(if setting.secret {
                        MASK.to_owned()
                    } else {
                        text.clone()
                    }),
                    origin: origin.clone(),
                },
                None => Effective {
                    key: setting.key,
                    value: None,
                    origin: Origin::Default,
                },
            })
            .collect();
        Ok(Config {
            settings: self.settings,
            values,
            warnings: self.warnings,
            sources,
        })
    }
}

impl Config {
    /// How a setting came to be.
    pub fn effective(&self, key: &str) -> &Effective {
        let found = self.values.iter().find(|effective| effective.key == key);
        found.expect("every setting of the table has a value or none")
    }

    /// The settings in force, one a line: name, value, where it came from.
    pub fn table(&self) -> String {
        let shown = |effective: &Effective| {
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

/// A TOML value as the text it stands for; tables and dates are no values of ours.
fn file_value(value: &DeValue<'_>) -> Option<Raw> {
    Some(match value {
        DeValue::String(text) => Raw::One(text.to_string()),
        DeValue::Integer(number) => Raw::One(
            i64::from_str_radix(number.as_str(), number.radix())
                .ok()?
                .to_string(),
        ),
        DeValue::Float(number) => Raw::One(number.as_str().to_owned()),
        DeValue::Boolean(on) => Raw::One(on.to_string()),
        DeValue::Array(items) => Raw::Many(
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

/// The nearest key, when it is near enough to be meant.
fn suggestion(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SETTINGS
        .iter()
        .map(|setting| (edits(&key, setting.key), setting.key))
        .filter(|(distance, near)| *distance <= 1 + near.len() / 4)
        .min()
        .map(|(_, near)| near)
}

/// Levenshtein distance; keys are short.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let cost = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
