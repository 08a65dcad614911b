//! The administrator's key: configured, stored in the data directory or generated.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::save::replace_file;
use super::table::Settings;
use super::value::{Secret, is_api_key};

/// The effective key, and whether this start generated it (then it is printed once).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub key: Secret,
    pub newly_generated: bool,
}

/// File of the data directory that holds a generated key.
pub const API_KEY_FILE: &str = "api_key";

/// Characters of a generated key: 43 of 62 carry 256 bits.
const API_KEY_LENGTH: usize = 43;

/// The configured key, else the one in the data directory, else a new one, which is on disk and
/// readable by its owner only before this returns. The data directory must exist and be locked:
/// otherwise two first starts at the same time would each print a key.
pub fn api_key(settings: &Settings) -> io::Result<ApiKey> {
    if let Some(key) = &settings.auth.api_key {
        return Ok(ApiKey {
            key: key.clone(),
            newly_generated: false,
        });
    }
    let data_dir = &settings.store.data_dir;
    if let Some(key) = stored_api_key(data_dir)? {
        return Ok(ApiKey {
            key,
            newly_generated: false,
        });
    }
    let key = generate_key()?;
    let path = data_dir.join(API_KEY_FILE);
    replace_file(&path, &format!("{key}\n"), 0o600)?;
    Ok(ApiKey {
        key: Secret::new(key),
        newly_generated: true,
    })
}

/// The key in this data directory, if it has one. A file without a valid key is an error: to go on
/// would mean to accept an empty key or to lock out all clients that have the old one.
pub fn stored_api_key(data_dir: &Path) -> io::Result<Option<Secret>> {
    let path = data_dir.join(API_KEY_FILE);
    let complain = |kind, what: &str| io::Error::new(kind, format!("{}: {what}", path.display()));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(complain(error.kind(), &format!("cannot be read: {error}"))),
    };
    // The group may read it: orchestrators that mount a volume give its files to a group.
    if fs::metadata(&path)?.permissions().mode() & 0o007 != 0 {
        return Err(complain(
            io::ErrorKind::PermissionDenied,
            "is readable by all users; set its mode to 600, or delete it to get a new key",
        ));
    }
    let key = text.trim();
    if !is_api_key(key) {
        return Err(complain(
            io::ErrorKind::InvalidData,
            "contains no valid key; delete it to get a new one",
        ));
    }
    Ok(Some(Secret::new(key)))
}

/// Letters and digits, evenly distributed: bytes above the last multiple of 62 are drawn again.
fn generate_key() -> io::Result<String> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut key = String::with_capacity(API_KEY_LENGTH);
    while key.len() < API_KEY_LENGTH {
        let mut random = [0_u8; 64];
        getrandom::fill(&mut random)
            .map_err(|error| io::Error::other(format!("cannot read random numbers: {error}")))?;
        let drawn = random
            .iter()
            .filter(|byte| **byte < 248)
            .map(|byte| ALPHABET[usize::from(*byte % 62)] as char);
        key.extend(drawn.take(API_KEY_LENGTH - key.len()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_directory(folder: &Path) -> Settings {
        let mut settings = Settings::default();
        settings.store.data_dir = folder.to_path_buf();
        settings
    }

    #[test]
    fn a_key_is_generated_once_and_readable_by_its_owner() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let settings = in_directory(folder.path());
        fs::write(folder.path().join("api_key.tmp"), "cut off").expect("written");
        let first = api_key(&settings).expect("made");
        assert!(first.newly_generated);
        assert_eq!(first.key.expose().len(), API_KEY_LENGTH);
        let path = folder.path().join(API_KEY_FILE);
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        let second = api_key(&settings).expect("read");
        assert_eq!(
            (second.key, second.newly_generated),
            (first.key.clone(), false)
        );
        let other = tempfile::tempdir().expect("a scratch directory");
        assert_ne!(
            api_key(&in_directory(other.path())).expect("made").key,
            first.key
        );
    }

    #[test]
    fn a_configured_key_is_used_and_not_stored() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let mut settings = in_directory(folder.path());
        settings.auth.api_key = Some(Secret::new("configured"));
        let key = api_key(&settings).expect("given");
        assert_eq!(
            (key.key.expose(), key.newly_generated),
            ("configured", false)
        );
        assert!(!folder.path().join(API_KEY_FILE).exists());
    }

    #[test]
    fn an_invalid_or_readable_key_file_is_an_error() {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join(API_KEY_FILE);
        for text in ["", "\n", "two words", "caf\u{e9}"] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
            let error = api_key(&in_directory(folder.path())).expect_err(text);
            assert!(error.to_string().contains("no valid key"), "{error}");
        }
        fs::write(&path, "good-key").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(
            api_key(&in_directory(folder.path()))
                .expect_err("open to all")
                .to_string()
                .contains("readable by all users")
        );
        let nowhere = in_directory(&folder.path().join("absent"));
        assert!(
            api_key(&nowhere)
                .expect_err("no directory")
                .to_string()
                .contains("cannot be written")
        );
    }
}
