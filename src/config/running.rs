//! The settings in force while the server runs, and changing them.
//!
//! A change goes into the configuration file first, which is replaced as a whole or not at all and keeps its comments and order; then
//! everything is read again as at a start, so that the environment and the command line win over the file in the same way. What can change
//! while the server runs is put into force at once; of the rest it is told that it waits for a restart. Nothing here knows the API's
//! spelling; saving blocks on the disk and belongs on a thread of its own.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::read::{Config, ConfigError, read_again};
use super::save::{SaveError, Wanted, edited, replace_file};
use super::{Secret, Settings, stored_api_key};

/// Settings that are read while the server runs. All others are read once, when it starts.
const AT_ONCE: [&str; 21] = [
    "api_url",
    "api_key",
    "edit_auth",
    "streamer_dead_timeout",
    "config_external_reconciliation_interval",
    "cluster_node_config_provision_enabled",
    "cluster_streamer_connector_retries",
    "streamer_healthcheck_fails_threshold",
    "layouter_enabled",
    "layouter_sleeping_interval",
    "layouter_failback",
    "layouter_rebalance",
    "layouter_balance",
    "layouter_backups_count_as_channels",
    "layouter_failover_to_backup",
    "layouter_failure_domain_label",
    "episodes_buffer_delay",
    "episodes_buffer_limit",
    "log_level",
    "log_requests",
    "opentelemetry_url",
];

/// Whether a changed setting is in force without a restart.
pub fn changes_at_once(key: &str) -> bool {
    AT_ONCE.contains(&key)
}

/// What came of a change.
pub struct Saved {
    /// The key or the login of the administrator is another one now.
    pub rotated: bool,
}

type Listener = Box<dyn Fn(&Settings) + Send + Sync>;

/// The settings in force.
pub struct Running {
    config: ArcSwap<Config>,
    /// The key in force: the configured one, or the one in the data directory.
    api_key: ArcSwap<Secret>,
    /// Settings that the file has by now and that wait for a restart.
    waiting: ArcSwap<Vec<&'static str>>,
    log_requests: AtomicBool,
    changing: Mutex<()>,
    listeners: Mutex<Vec<Listener>>,
}

impl Running {
    pub fn new(config: Config, api_key: Secret) -> Self {
        Self {
            log_requests: AtomicBool::new(config.settings.log.requests),
            config: ArcSwap::from_pointee(config),
            api_key: ArcSwap::from_pointee(api_key),
            waiting: ArcSwap::default(),
            changing: Mutex::new(()),
            listeners: Mutex::default(),
        }
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub fn api_key(&self) -> Arc<Secret> {
        self.api_key.load_full()
    }

    /// Settings that are another in the file than in force.
    pub fn waiting_for_restart(&self) -> Arc<Vec<&'static str>> {
        self.waiting.load_full()
    }

    /// Asked with every request.
    pub fn logs_requests(&self) -> bool {
        self.log_requests.load(Ordering::Relaxed)
    }

    /// Calls `listener` with the settings now and after every change, on the thread that makes it.
    pub fn on_change(&self, listener: impl Fn(&Settings) + Send + Sync + 'static) {
        let _not_while_changing = self.changing.lock();
        listener(&self.config.load().settings);
        self.listeners.lock().push(Box::new(listener));
    }

    /// Changes the file, then what is in force. After an error nothing is changed. `begin` is told the file's text before and after once nothing but
    /// replacing it is left to do; after an error of it the file is not replaced.
    pub fn save(
        &self,
        wanted: &Wanted,
        begin: impl FnOnce(&str, &str) -> io::Result<()>,
    ) -> Result<Saved, SaveError> {
        let _one_at_a_time = self.changing.lock();
        let old = self.config.load_full();
        let path = &old.sources.file;
        let (text, mode) = match fs::read_to_string(path) {
            Ok(text) => {
                let metadata = fs::metadata(path).map_err(SaveError::File)?;
                (text, metadata.permissions().mode() & 0o777)
            }
            // Secrets may be written to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), 0o600),
            Err(error) => return Err(SaveError::File(error)),
        };
        let before = text;
        let text = edited(&before, wanted).map_err(|problem| {
            SaveError::Invalid(ConfigError {
                problems: vec![problem],
            })
        })?;
        let new = read_again(&old.sources, &text).map_err(SaveError::Invalid)?;
        let generated = match &new.settings.auth.api_key {
            Some(_) => None,
            None => stored_api_key(&new.settings.store.data_dir).map_err(SaveError::File)?,
        };
        begin(&before, &text).map_err(SaveError::File)?;
        replace_file(path, &text, mode).map_err(SaveError::File)?;
        Ok(self.put_into_force(&old, new, generated))
    }

    fn put_into_force(&self, old: &Config, new: Config, generated: Option<Secret>) -> Saved {
        let mut waiting = Vec::new();
        let values = old
            .values
            .iter()
            .zip(&new.values)
            .map(|(old, new)| {
                if changes_at_once(new.key) {
                    return new.clone();
                }
                // A masked value may hide a change, and it is not told whether it does.
                if old.value != new.value {
                    waiting.push(new.key);
                }
                old.clone()
            })
            .collect();
        let mut settings = old.settings.clone();
        settings.http.api_url = new.settings.http.api_url;
        settings.auth = new.settings.auth;
        settings.layouter = new.settings.layouter;
        settings.fleet = new.settings.fleet;
        settings.episodes.buffer_delay = new.settings.episodes.buffer_delay;
        settings.episodes.buffer_limit = new.settings.episodes.buffer_limit;
        settings.log = new.settings.log;
        // Without a configured key the one in the data directory counts. If that is gone, too, nobody is locked out before the restart.
        let api_key = settings.auth.api_key.clone().or(generated);
        let rotated_key = api_key.filter(|key| *key != **self.api_key.load());
        let rotated =
            rotated_key.is_some() || old.settings.auth.edit_auth != settings.auth.edit_auth;
        if let Some(key) = rotated_key {
            self.api_key.store(Arc::new(key));
        }
        self.log_requests
            .store(settings.log.requests, Ordering::Relaxed);
        self.waiting.store(Arc::new(waiting));
        self.config.store(Arc::new(Config {
            settings,
            values,
            warnings: new.warnings,
            sources: new.sources,
        }));
        let settings = &self.config.load().settings;
        for listener in self.listeners.lock().iter() {
            listener(settings);
        }
        Saved { rotated }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::config::{self, Flags, LogLevel, Setting};

    fn running(path: &Path, environment: &[(&str, &str)], flags: &Flags) -> Running {
        let environment: Vec<(OsString, OsString)> = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let config = config::read(Some(path), &environment, flags).expect("a good configuration");
        let key = config.settings.auth.api_key.clone();
        Running::new(config, key.unwrap_or_else(|| Secret::new("generated")))
    }

    /// Nobody wants to hear of a change before it is made.
    #[allow(clippy::unnecessary_wraps)] // as `save` wants it
    fn unheard(_: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn wanted(pairs: &[(&'static str, &str)]) -> Wanted {
        pairs
            .iter()
            .map(|(key, value)| (*key, Some((*value).to_owned())))
            .collect()
    }

    #[test]
    fn the_file_keeps_what_was_not_changed() {
        let text = "# ours\nloglevel = \"info\" # as the reference spells it\n\nlisten = [\"127.0.0.1:1\"]\n# end\n";
        let edits = vec![
            ("log_level", Some("debug".to_owned())),
            ("layouter_enabled", Some("true".to_owned())),
            ("episodes_buffer_limit", Some("5".to_owned())),
        ];
        let text = edited(text, &edits).expect("TOML");
        assert_eq!(
            text,
            "# ours\nloglevel = \"debug\" # as the reference spells it\n\nlisten = [\"127.0.0.1:1\"]\nlayouter_enabled = true\nepisodes_buffer_limit = 5\n# end\n"
        );
        let back = edited(
            &text,
            &vec![("log_level", None), ("layouter_enabled", None)],
        );
        let back = back.expect("TOML");
        assert!(
            !back.contains("loglevel") && !back.contains("layouter_enabled"),
            "{back}"
        );
        assert!(back.contains("listen") && back.contains("# end"), "{back}");
    }

    #[test]
    fn a_saved_setting_is_in_the_file_and_in_force_unless_something_stronger_is() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, "api_key = \"0123456789abcdef0\"\n").expect("written");
        let running = running(&path, &[("CENTRAL_LOG_LEVEL", "error")], &Vec::new());
        let heard = Arc::new(AtomicUsize::new(0));
        let count = heard.clone();
        running.on_change(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let saved = running
            .save(
                &wanted(&[
                    ("log_level", "debug"),
                    ("layouter_sleeping_interval", "2s"),
                    ("log_requests", "true"),
                ]),
                unheard,
            )
            .expect("saved");
        assert!(!saved.rotated);
        let config = running.config();
        assert_eq!(
            config.settings.log.level,
            LogLevel::Error,
            "the environment wins"
        );
        assert_eq!(config.settings.layouter.interval_ms, 2000);
        assert!(running.logs_requests());
        assert_eq!(heard.load(Ordering::Relaxed), 2);
        let text = fs::read_to_string(&path).expect("there");
        assert!(text.contains("log_level = \"debug\""), "{text}");
        let saved = running
            .save(&wanted(&[("api_key", "fedcba9876543210")]), unheard)
            .expect("saved");
        assert!(saved.rotated);
        assert_eq!(running.api_key().expose(), "fedcba9876543210");
    }

    #[test]
    fn nothing_changes_when_something_is_wrong() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, "layouter_enabled = true\n").expect("written");
        let running = running(&path, &[], &Vec::new());
        let before = fs::read_to_string(&path).expect("there");
        let bad = wanted(&[("layouter_sleeping_interval", "soon")]);
        assert!(matches!(
            running.save(&bad, unheard),
            Err(SaveError::Invalid(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
        let refusing = |_: &str, _: &str| Err(io::Error::other("not now"));
        let good = wanted(&[("layouter_enabled", "false")]);
        assert!(matches!(
            running.save(&good, refusing),
            Err(SaveError::File(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
        // Where the next text would be put stands something that cannot be replaced.
        fs::create_dir(folder.path().join("weir.toml.tmp")).expect("made");
        fs::write(folder.path().join("weir.toml.tmp/x"), "").expect("written");
        let good = wanted(&[("layouter_enabled", "false")]);
        assert!(matches!(
            running.save(&good, unheard),
            Err(SaveError::File(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
        assert!(running.config().settings.layouter.enabled);
    }

    #[test]
    fn what_needs_a_restart_is_named_and_not_in_force() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, "poll_wait_max = \"9s\"\n").expect("written");
        let running = running(&path, &[], &Vec::new());
        fs::write(&path, "poll_wait_max = \"8s\"\n").expect("edited by hand");
        running
            .save(&wanted(&[("log_level", "debug")]), unheard)
            .expect("saved");
        assert_eq!(*running.waiting_for_restart(), ["poll_wait_max"]);
        let config = running.config();
        assert_eq!(config.settings.http.poll_wait_max, Duration::from_secs(9));
        assert_eq!(
            config.effective("poll_wait_max").value.as_deref(),
            Some("9s")
        );
    }

    #[test]
    fn every_setting_that_changes_at_once_is_in_the_table() {
        for key in AT_ONCE {
            assert_eq!(Setting::find(key).map(|it| it.key), Some(key));
        }
    }
}
