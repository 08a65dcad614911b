//! Settings: one table that gives the TOML file, the environment, the flags, `--help`, the shipped
//! file, the typed values and the document of `/config`.
//!
//! Each setting has one name. `poll_wait_max` is the key `poll_wait_max` of the TOML file, the
//! variable `CENTRAL_POLL_WAIT_MAX` and the flag `--poll-wait-max`. Precedence: flag, environment,
//! file, default. Values are parsed once into the types that the program works with; a component
//! gets its own part of [`Settings`] and no texts.
//!
//! Reading a configuration reads one file at most. Opening, binding and creating are left to the
//! components.

mod api_key;
mod example;
pub mod flags;
pub mod journal;
mod read;
pub mod running;
mod save;
mod scalar;
pub mod setting;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use api_key::{API_KEY_FILE, ApiKey, api_key, stored_api_key};
pub use example::example;
pub use read::{Config, EffectiveValue, Flags, Origin, read};
pub use save::{SaveError, SettingChanges, changed_keys, replace_file};
pub use setting::MemberShape;
pub use table::{ConfigMember, LayouterSettings, SETTINGS, Setting, Settings};
pub use value::{LayouterBalance, LogLevel, PinThreads, Secret};
