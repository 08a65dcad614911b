//! Writes settings into the configuration file, which is replaced as a whole and keeps its
//! comments.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use toml_edit::{DocumentMut, Item, value};

use super::Setting;
use super::read::ConfigError;
use super::setting::SettingForm;

/// New values by key, as they are written in the file; `None` removes a setting from the file.
pub type SettingChanges = Vec<(&'static str, Option<String>)>;

/// Why no setting was changed.
#[derive(Debug)]
pub enum SaveError {
    /// The file with the change would not be a valid configuration. Shows no secret.
    Invalid(ConfigError),
    /// The file cannot be read or replaced.
    File(io::Error),
}

/// The keys of the changes that change the text of the file.
pub fn changed_keys<'c>(
    text: &'c str,
    changes: &'c SettingChanges,
) -> impl Iterator<Item = &'static str> + 'c {
    let changes = changes.iter();
    let changing = changes.filter(move |change| {
        let alone = edited(text, &vec![(*change).clone()]);
        alone.is_ok_and(|edited| edited != text)
    });
    changing.map(|(key, _)| *key)
}

/// The text of the file with the changes; comments, order and all other values stay.
pub(super) fn edited(text: &str, changes: &SettingChanges) -> Result<String, String> {
    // The message alone: the rendered form would quote a line, which may hold a secret.
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    for (key, change) in changes {
        let setting = Setting::find(key).expect("settings are named as in the table");
        // The file may have it under another spelling.
        let written = setting
            .keys()
            .find(|key| document.contains_key(key))
            .unwrap_or(setting.key);
        let Some(text) = change else {
            document.remove(written);
            continue;
        };
        let mut item = item_of(setting, text);
        match document.get_mut(written) {
            Some(old) => {
                // The comment behind the value on its line stays.
                if let (Some(old), Some(new)) = (old.as_value(), item.as_value_mut()) {
                    *new.decor_mut() = old.decor().clone();
                }
                *old = item;
            }
            None => {
                document.insert(written, item);
            }
        }
    }
    Ok(document.to_string())
}

fn item_of(setting: &Setting, text: &str) -> Item {
    match setting.form {
        SettingForm::Switch => value(text == "true"),
        SettingForm::Number { .. } => text.parse::<i64>().map_or_else(|_| value(text), value),
        _ => value(text),
    }
}

/// Replaces or creates a file atomically and durably: at any moment, also after a crash, the path
/// has either the old text or the new one.
pub fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = folder.join(name);
    let written = (|| {
        // A leftover of a process that was killed while it wrote; it was never read.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    })();
    written.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: cannot be written: {error}", path.display()),
        )
    })
}
