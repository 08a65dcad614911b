//! Writing settings into the file.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use toml_edit::{DocumentMut, Item, value};

use super::read::ConfigError;
use super::table::{Kind, Setting};

/// New values by key of the table, as they are written in the file; `None` takes a setting out of the file.
pub type Wanted = Vec<(&'static str, Option<String>)>;

/// Why nothing was changed.
#[derive(Debug)]
pub enum SaveError {
    /// The file is no configuration, with or without the change. The first sentence, which shows no secret.
    Invalid(ConfigError),
    /// The file cannot be read or replaced.
    File(io::Error),
}

/// The text of a file with other values. Everything else stays as somebody wrote it.
pub(super) fn edited(text: &str, wanted: &Wanted) -> Result<String, String> {
    // The message alone: the rendered form quotes a line, which may hold a secret.
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    for (key, wanted) in wanted {
        let setting = Setting::find(key).expect("settings are named as in the table");
        // Somebody may have written it with another spelling.
        let written = std::iter::once(setting.key)
            .chain(setting.aliases.iter().copied())
            .find(|key| document.contains_key(key))
            .unwrap_or(setting.key);
        let Some(wanted) = wanted else {
            document.remove(written);
            continue;
        };
        let mut item = item_of(setting, wanted);
        match document.get_mut(written) {
            Some(old) => {
                // What stands behind the value on its line is a comment about it.
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
    match setting.kind {
        Kind::Switch { .. } => value(text == "true"),
        Kind::Number { .. } => text.parse::<i64>().map_or_else(|_| value(text), value),
        _ => value(text),
    }
}

/// Puts a text in the place of a file, or of none: whoever opens the path at any moment, also after a crash, finds the old text or the new one.
pub fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = folder.join(name);
    let written = (|| {
        // A leftover of a process that was cut off; nobody was shown what is in it.
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
