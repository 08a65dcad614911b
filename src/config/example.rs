//! The shipped configuration file.

use std::fmt::Write as _;

use super::table::{Kind, SETTINGS};

/// The commented example: every setting with its meaning and default, nothing switched on.
pub fn example() -> String {
    let mut out = String::from(
        "# Configuration of Weir. Nothing in it is needed: every line below shows the default or an example.\n\
         # A flag overrides the environment, the environment overrides this file. The setting `log_level` is the\n\
         # flag `--log-level` and the variable `CENTRAL_LOG_LEVEL`; so it is with all of them.\n\
         # Use it with `weir --config FILE` or CENTRAL_CONFIG=FILE; `weir check-config` tells what is in force and why.\n",
    );
    let mut group = None;
    for setting in SETTINGS {
        if group != Some(setting.group) {
            group = Some(setting.group);
            _ = writeln!(out, "\n## {}", setting.group.heading());
        }
        out.push('\n');
        for line in wrap(setting.doc, 110) {
            _ = writeln!(out, "# {line}");
        }
        let (value, note) = if setting.default.is_empty() {
            (setting.example, " (not set by default)")
        } else {
            (setting.default, "")
        };
        for line in wrap(&format!("Allowed: {}{note}.", setting.allowed()), 110) {
            _ = writeln!(out, "# {line}");
        }
        let value = match setting.kind {
            Kind::Number { .. } | Kind::Switch { .. } => value.to_owned(),
            Kind::List { .. } => format!("[{value:?}]"),
            _ => format!("{value:?}"),
        };
        _ = writeln!(out, "#{} = {value}", setting.key);
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
