//! The progress of a change of many objects.

use indicatif::{ProgressBar, ProgressStyle};

use super::connection::Connection;

/// A bar on stderr; nothing if that is no terminal.
pub fn progress(server: &Connection, total: usize) -> ProgressBar {
    if server.output.quiet || total < 2 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left") {
        bar.set_style(style);
    }
    bar
}
