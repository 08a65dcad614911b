//! The effective settings of a running server, and how they change.
//!
//! A change is written to the configuration file, which is replaced as a whole and keeps its
//! comments and order. Then all sources are read again as at a start, so that the environment and
//! the command line override the file in the same way. Settings that take effect at once change
//! immediately; the others are listed as waiting for a restart. Saving blocks on the disk and
//! belongs on a thread that may wait.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::read::{Config, ConfigError, read_again};
use super::save::{SaveError, SettingChanges, edited, replace_file};
use super::setting::Effect;
use super::table::SETTINGS;
use super::{Secret, Settings, stored_api_key};

/// The result of a change.
pub struct Saved {
    /// The key or the login of the administrator changed.
    pub rotated: bool,
}

type SettingsListener = Box<dyn Fn(&Settings) + Send + Sync>;

/// The effective settings.
pub struct Running {
    config: ArcSwap<Config>,
    /// The effective key: the configured one, or the one in the data directory.
    api_key: ArcSwap<Secret>,
    /// Settings whose new value in the file takes effect at the next start.
    waiting: ArcSwap<Vec<&'static str>>,
    log_requests: AtomicBool,
    changing: Mutex<()>,
    listeners: Mutex<Vec<SettingsListener>>,
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

    /// Settings whose new value in the file takes effect at the next start.
    pub fn waiting_for_restart(&self) -> Arc<Vec<&'static str>> {
        self.waiting.load_full()
    }

    /// Read for every request.
    pub fn logs_requests(&self) -> bool {
        self.log_requests.load(Ordering::Relaxed)
    }

    /// Calls `listener` with the settings, now and after every change on the thread that makes it.
    pub fn on_change(&self, listener: impl Fn(&Settings) + Send + Sync + 'static) {
        let _not_while_changing = self.changing.lock();
        listener(&self.config.load().settings);
        self.listeners.lock().push(Box::new(listener));
    }

    /// Changes the file, then the effective settings. An error changes nothing. `begin` is called
    /// with the old and the new text of the file just before it is replaced; if `begin` fails it is
    /// not.
    pub fn save(
        &self,
        changes: &SettingChanges,
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
        let text = edited(&before, changes).map_err(|problem| {
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

    /// Reads the file again, which an operator has edited. An error changes nothing.
    pub fn reload(&self) -> Result<Saved, SaveError> {
        let _one_at_a_time = self.changing.lock();
        let old = self.config.load_full();
        let text = match fs::read_to_string(&old.sources.file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(SaveError::File(error)),
        };
        let new = read_again(&old.sources, &text).map_err(SaveError::Invalid)?;
        let generated = match &new.settings.auth.api_key {
            Some(_) => None,
            None => stored_api_key(&new.settings.store.data_dir).map_err(SaveError::File)?,
        };
        Ok(self.put_into_force(&old, new, generated))
    }

    fn put_into_force(&self, old: &Config, new: Config, generated: Option<Secret>) -> Saved {
        let mut settings = old.settings.clone();
        let mut waiting = Vec::new();
        let mut values = old.values.clone();
        for ((setting, value), new_value) in SETTINGS.iter().zip(&mut values).zip(&new.values) {
            match setting.effect {
                Effect::AtOnce => {
                    (setting.copy)(&new.settings, &mut settings);
                    value.clone_from(new_value);
                }
                // The masks of two different secrets are equal, so a change of one is not listed.
                Effect::AtStart if value.value != new_value.value => waiting.push(setting.key),
                Effect::AtStart => {}
            }
        }
        // Without a configured key the one in the data directory is used. If that is gone as well,
        // the previous key stays valid until the restart.
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
    use crate::config::{self, Flags, LogLevel};

    fn running(path: &Path, environment: &[(&str, &str)], flags: &Flags) -> Running {
        let environment: Vec<(OsString, OsString)> = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let config = config::read(Some(path), &environment, flags).expect("a good configuration");
        let key = config.settings.auth.api_key.clone();
        Running::new(config, key.unwrap_or_else(|| Secret::new("generated")))
    }

    #[allow(clippy::unnecessary_wraps)] // the type that `save` takes
    fn ignore(_: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn changes(pairs: &[(&'static str, &str)]) -> SettingChanges {
        pairs
            .iter()
            .map(|(key, value)| (*key, Some((*value).to_owned())))
            .collect()
    }

    #[test]
    fn the_file_keeps_its_comments_and_other_values() {
        let text = "# ours\nloglevel = \"info\" # reference\n\nlisten = [\"127.0.0.1:1\"]\n# end\n";
        let edits = vec![
            ("log_level", Some("debug".to_owned())),
            ("layouter_enabled", Some("true".to_owned())),
            ("episodes_buffer_limit", Some("5".to_owned())),
        ];
        let text = edited(text, &edits).expect("TOML");
        assert_eq!(
            text,
            "# ours\nloglevel = \"debug\" # reference\n\nlisten = [\"127.0.0.1:1\"]\n\
             layouter_enabled = true\nepisodes_buffer_limit = 5\n# end\n"
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
    fn a_stronger_source_overrides_a_saved_setting() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, "api_key = \"0123456789abcdef0\"\n").expect("written");
        let running = running(&path, &[("CENTRAL_LOG_LEVEL", "error")], &Vec::new());
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        running.on_change(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let saved = running
            .save(
                &changes(&[
                    ("log_level", "debug"),
                    ("layouter_sleeping_interval", "2s"),
                    ("log_requests", "true"),
                ]),
                ignore,
            )
            .expect("saved");
        assert!(!saved.rotated);
        let config = running.config();
        assert_eq!(
            config.settings.log.level,
            LogLevel::Error,
            "the environment wins"
        );
        assert_eq!(config.settings.layouter.interval, Duration::from_secs(2));
        assert!(running.logs_requests());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        let text = fs::read_to_string(&path).expect("there");
        assert!(text.contains("log_level = \"debug\""), "{text}");
        let saved = running
            .save(&changes(&[("api_key", "fedcba9876543210")]), ignore)
            .expect("saved");
        assert!(saved.rotated);
        assert_eq!(running.api_key().expose(), "fedcba9876543210");
    }

    #[test]
    fn a_failed_save_changes_nothing() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, "layouter_enabled = true\n").expect("written");
        let running = running(&path, &[], &Vec::new());
        let before = fs::read_to_string(&path).expect("there");
        let bad = changes(&[("layouter_sleeping_interval", "soon")]);
        assert!(matches!(
            running.save(&bad, ignore),
            Err(SaveError::Invalid(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
        let refusing = |_: &str, _: &str| Err(io::Error::other("not now"));
        let good = changes(&[("layouter_enabled", "false")]);
        assert!(matches!(
            running.save(&good, refusing),
            Err(SaveError::File(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
        // The temporary file cannot be created.
        fs::create_dir(folder.path().join("weir.toml.tmp")).expect("made");
        fs::write(folder.path().join("weir.toml.tmp/x"), "").expect("written");
        let good = changes(&[("layouter_enabled", "false")]);
        assert!(matches!(
            running.save(&good, ignore),
            Err(SaveError::File(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("there"), before);
        assert!(running.config().settings.layouter.enabled);
    }

    #[test]
    fn a_setting_that_needs_a_restart_is_listed_as_waiting() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("weir.toml");
        fs::write(&path, "poll_wait_max = \"9s\"\n").expect("written");
        let running = running(&path, &[], &Vec::new());
        fs::write(&path, "poll_wait_max = \"8s\"\n").expect("edited by hand");
        running
            .save(&changes(&[("log_level", "debug")]), ignore)
            .expect("saved");
        assert_eq!(*running.waiting_for_restart(), ["poll_wait_max"]);
        let config = running.config();
        assert_eq!(config.settings.http.poll_wait_max, Duration::from_secs(9));
        assert_eq!(
            config.effective("poll_wait_max").value.as_deref(),
            Some("9s")
        );
    }
}
