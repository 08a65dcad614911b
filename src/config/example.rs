//! The shipped configuration file: every setting with its meaning and its default, all commented
//! out.

use std::fmt::Write as _;

use super::setting::{SettingForm, Written};
use super::table::SETTINGS;

const HEAD: &str = "\
# Configuration of Weir. No setting is required: every line below shows the default or an example.
# A flag overrides the environment, the environment overrides this file. The setting `log_level` is
# the flag `--log-level` and the variable `CENTRAL_LOG_LEVEL`, and so on for all settings.
# Use it with `weir --config FILE` or CENTRAL_CONFIG=FILE; `weir check-config` prints the effective
# settings and their sources.
";

const WIDTH: usize = 98;

pub fn example() -> String {
    let mut out = String::from(HEAD);
    let mut heading = "";
    for setting in SETTINGS {
        if heading != setting.heading {
            heading = setting.heading;
            _ = writeln!(out, "\n## {heading}");
        }
        let (value, note) = match setting.written {
            Written::Default(text) => (text, ""),
            Written::Example(text) => (text, " (not set by default)"),
        };
        let allowed = format!("Allowed: {}{note}.", setting.form);
        out.push('\n');
        for line in wrap(setting.doc()).into_iter().chain(wrap(&allowed)) {
            _ = writeln!(out, "# {line}");
        }
        let value = match setting.form {
            SettingForm::Number { .. } | SettingForm::Switch => value.to_owned(),
            SettingForm::List { .. } => format!("[{value:?}]"),
            _ => format!("{value:?}"),
        };
        _ = writeln!(out, "#{} = {value}", setting.key);
    }
    out
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
