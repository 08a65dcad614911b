//! Progress of what takes long, on stderr: nothing if that is no terminal, or with `--quiet`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Pause between two frames of a spinner, so that it moves while nothing is counted.
const FRAME: Duration = Duration::from_millis(200);

/// A bar of so many objects; nothing for one, which takes no time.
pub fn bar(is_quiet: bool, total: usize) -> ProgressBar {
    let form = "{bar:40} {pos}/{len}, {eta} left";
    shown(is_quiet || total < 2, Some(total as u64), form, "")
}

/// A bar of items whose number is set later.
pub fn of_list(is_quiet: bool, what: &'static str) -> ProgressBar {
    shown(
        is_quiet,
        None,
        "{msg} {bar:40} {pos}/{len}, {eta} left",
        what,
    )
}

/// A spinner with what is done, and the bytes that were counted.
pub fn bytes(is_quiet: bool, what: &'static str) -> ProgressBar {
    shown(
        is_quiet,
        None,
        "{spinner} {msg} {bytes}, {bytes_per_sec}",
        what,
    )
}

/// A spinner with what is done, and how long by now.
pub fn spinner(is_quiet: bool, what: &'static str) -> ProgressBar {
    let bar = shown(is_quiet, None, "{spinner} {msg} {elapsed}", what);
    bar.enable_steady_tick(FRAME);
    bar
}

/// Draws a bar for the first time.
fn shown(is_quiet: bool, total: Option<u64>, form: &str, what: &'static str) -> ProgressBar {
    if is_quiet {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.tick();
    bar
}
