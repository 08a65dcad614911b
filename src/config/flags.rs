//! The flags of settings, made from the table, for subcommands.

use std::path::PathBuf;

use clap::{ArgAction, ArgMatches, Args, FromArgMatches};

use super::read::Flags;
use super::setting::SettingForm;
use super::table::{SETTINGS, Setting};

/// The configuration file, and the flags of those settings that a subcommand uses.
#[derive(Debug, Args)]
pub struct Configured<const PART: u8> {
    #[command(flatten)]
    pub file: ConfigFile,
    #[command(flatten)]
    pub settings: SettingFlags<PART>,
}

#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Configuration file (TOML) [default: CENTRAL_CONFIG, else weir.toml in the data directory].
    #[arg(long = "config", value_name = "FILE")]
    pub path: Option<PathBuf>,
}

/// All settings.
pub const ALL: u8 = 0;
/// Settings that locate the data.
pub const STORE: u8 = 1;
/// Settings of a client of a server.
pub const CLIENT: u8 = 2;
/// All settings, before the subcommand, where the help does not list them.
pub const BEFORE: u8 = 3;

fn settings_of(part: u8) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| match part {
        STORE => setting.key == "data_dir",
        CLIENT => ["data_dir", "api_key"].contains(&setting.key),
        _ => true,
    })
}

/// Flags made from the table of settings.
#[derive(Debug)]
pub struct SettingFlags<const PART: u8>(pub Flags);

impl<const PART: u8> FromArgMatches for SettingFlags<PART> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = settings_of(PART).filter_map(|setting| {
            let values = matches.get_many::<String>(setting.key)?;
            Some((setting.key, values.cloned().collect()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const PART: u8> Args for SettingFlags<PART> {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        for setting in settings_of(PART) {
            let default = setting
                .default()
                .map_or_else(String::new, |text| format!(" [default: {text}]"));
            let mut flag = clap::Arg::new(setting.key)
                .long(setting.flag())
                .value_name(setting.placeholder())
                .help(first_sentence(setting.doc()) + &default)
                .long_help(format!(
                    "{}\n\nAllowed: {}.\n[env: {}]{default}",
                    setting.doc(),
                    setting.form,
                    setting.variable()
                ))
                .help_heading(setting.heading)
                .hide(PART == BEFORE);
            flag = match setting.form {
                SettingForm::List { .. } => flag.action(ArgAction::Append),
                SettingForm::Switch => flag
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
                _ => flag,
            };
            command = command.arg(flag);
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn first_sentence(doc: &str) -> String {
    let end = doc.find(". ").unwrap_or(doc.len());
    doc[..end].trim_end_matches('.').to_owned()
}
