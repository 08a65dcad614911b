//! Contexts: servers and keys that an operator uses, by name.
//!
//! They are kept in `contexts.toml` of `$XDG_CONFIG_HOME/weir`, else `~/.config/weir`, readable by
//! its owner alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::output::pairs;
use crate::client::ApiClient;
use crate::config::{Config, replace_file};
use crate::exit::{Exit, Failure, cannot};
use crate::stdout;

const FILE: &str = "contexts.toml";

/// Where one server is, and its key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerContext {
    pub url: String,
    pub api_key: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContextFile {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, ServerContext>,
}

pub struct Contexts {
    path: Option<PathBuf>,
    file: ContextFile,
}

#[derive(Debug, Args)]
pub struct LoginFlags {
    /// Base URL of the server. The key is read from CENTRAL_API_KEY, else from stdin.
    url: String,
    /// Name of the context [default: the host of the URL].
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct LogoutFlags {
    /// The context [default: the chosen one].
    name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ContextVerb {
    /// Print the contexts; `*` marks the chosen one.
    List,
    /// Choose a context for the subcommands that follow.
    Use { name: String },
}

impl Contexts {
    pub fn read(config: &Config) -> Result<Self, Failure> {
        let variable = |name: &str| {
            let mut all = config.sources.environment.iter();
            let found = all.find(|(key, value)| key == name && !value.is_empty())?;
            Some(PathBuf::from(&found.1))
        };
        let directory =
            variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let path = directory.map(|directory| directory.join("weir").join(FILE));
        let text = match path.as_ref().map(fs::read_to_string) {
            Some(Ok(text)) => text,
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                let shown = path.unwrap_or_default();
                return Err(cannot(format!("read {}", shown.display()))(error));
            }
            _ => String::new(),
        };
        let file = toml::from_str(&text).map_err(|error| {
            let shown = path.clone().unwrap_or_default();
            // Without the text of the line, which may be a key.
            let message = format!("{}: {}", shown.display(), error.message());
            Failure::new(Exit::Config, message)
        })?;
        Ok(Self { path, file })
    }

    /// The named context, else the chosen one, if there is one.
    pub fn find(&self, name: Option<&str>) -> Result<Option<ServerContext>, Failure> {
        let Some(name) = name.or(self.file.current.as_deref()) else {
            return Ok(None);
        };
        let found = self.file.contexts.get(name).cloned();
        found.map(Some).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Failure {
        let known: Vec<&str> = self.file.contexts.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "none; `weir login URL` makes one".to_owned()
        } else {
            known.join(", ")
        };
        Failure::new(Exit::Usage, format!("no context {name:?}; known: {known}"))
    }

    fn save(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else {
            return Err(Failure::new(
                Exit::Usage,
                "neither HOME nor XDG_CONFIG_HOME is set",
            ));
        };
        let text = toml::to_string(&self.file).map_err(cannot("write the contexts"))?;
        if let Some(directory) = path.parent() {
            let made = fs::create_dir_all(directory);
            made.map_err(cannot(format!("create {}", directory.display())))?;
        }
        replace_file(path, &text, 0o600).map_err(cannot(format!("write {}", path.display())))
    }
}

/// `weir login`: the key is tried before it is kept.
pub fn login(flags: &LoginFlags, config: &Config) -> Result<Exit, Failure> {
    let key = match &config.settings.auth.api_key {
        Some(key) => key.expose().to_owned(),
        None => read_key()?,
    };
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let server = ApiClient::new(&flags.url, &key).map_err(usage)?;
    let session = server
        .get("/session")
        .map_err(|error| super::connection::failure(&error))?;
    let host = flags.url.split("://").nth(1).unwrap_or_default();
    let host = host.split('/').next().unwrap_or_default();
    let name = flags.name.as_deref().unwrap_or(host).to_owned();
    let mut contexts = Contexts::read(config)?;
    let context = ServerContext {
        url: flags.url.clone(),
        api_key: key,
    };
    contexts.file.contexts.insert(name.clone(), context);
    contexts.file.current = Some(name.clone());
    contexts.save()?;
    let user = super::words::text(&session, "user").to_owned();
    eprintln!("context {name}: {} as {user}", flags.url);
    Ok(Exit::Done)
}

fn read_key() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        eprint!("API key: ");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(cannot("read the key from stdin"))?;
    let key = line.trim();
    if key.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no key: set CENTRAL_API_KEY, or write it to stdin",
        ));
    }
    Ok(key.to_owned())
}

/// `weir logout`.
pub fn logout(flags: &LogoutFlags, config: &Config) -> Result<Exit, Failure> {
    let mut contexts = Contexts::read(config)?;
    let name = flags.name.clone().or(contexts.file.current.clone());
    let Some(name) = name else {
        return Err(Failure::new(Exit::Usage, "no context is chosen"));
    };
    if contexts.file.contexts.remove(&name).is_none() {
        return Err(contexts.unknown(&name));
    }
    if contexts.file.current.as_ref() == Some(&name) {
        contexts.file.current = None;
    }
    contexts.save()?;
    Ok(Exit::Done)
}

/// `weir context`.
pub fn run(verb: &ContextVerb, config: &Config) -> Result<Exit, Failure> {
    let mut contexts = Contexts::read(config)?;
    match verb {
        ContextVerb::List => {
            let current = contexts.file.current.as_deref();
            let marked = |name: &str| {
                let mark = if current == Some(name) { '*' } else { ' ' };
                format!("{mark} {name}")
            };
            let names: Vec<String> = contexts.file.contexts.keys().map(|it| marked(it)).collect();
            let urls = contexts.file.contexts.values().map(|it| it.url.clone());
            let lines: Vec<(&str, String)> = names.iter().map(String::as_str).zip(urls).collect();
            stdout::print(&pairs(&lines)).map_err(cannot("write to stdout"))?;
        }
        ContextVerb::Use { name } => {
            if !contexts.file.contexts.contains_key(name) {
                return Err(contexts.unknown(name));
            }
            contexts.file.current = Some(name.clone());
            contexts.save()?;
        }
    }
    Ok(Exit::Done)
}
