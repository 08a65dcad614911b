//! `weir top`: streamers or streams by load.

use std::thread;
use std::time::Duration;

use clap::Args;

use super::connection::Connection;
use super::kinds::{self, Column, ObjectKind};
use super::output::{ListPrinter, OutputForm, is_terminal};
use crate::client::escape;
use crate::exit::{Exit, Failure};

/// Pause between two prints.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct TopFlags {
    /// streamers or streams.
    #[arg(value_parser = kinds::parse, default_value = "streamers")]
    kind: &'static ObjectKind,
    /// Fields of the API [default: -stats.cpu_usage for streamers, -stats.bitrate for streams].
    #[arg(long, value_name = "FIELDS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Most lines.
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print once; always so if stdout is not a terminal.
    #[arg(long)]
    once: bool,
}

pub fn run(server: &Connection, flags: &TopFlags) -> Result<Exit, Failure> {
    let kind = flags.kind;
    let sort = match (&flags.sort, kind.name) {
        (Some(sort), _) => sort.as_str(),
        (None, "streamer") => "-stats.cpu_usage",
        (None, "stream") => "-stats.bitrate",
        (None, _) => kind.key,
    };
    let columns = kind.columns(server.output.output == OutputForm::Wide);
    let fields: Vec<&str> = columns.iter().flat_map(Column::fields).collect();
    let query = format!("sort={}&select={}", escape(sort), fields.join(","));
    let once = flags.once || !is_terminal();
    loop {
        let mut list = ListPrinter::new(&server.output, columns.clone(), kind.key);
        if !once {
            // Clears the screen.
            list.printer.line("\x1b[H\x1b[2J")?;
        }
        server.pages(kind, &query, flags.limit as usize, |rows| {
            list.page(rows)?;
            Ok(true)
        })?;
        list.end()?;
        if once {
            return Ok(Exit::Done);
        }
        thread::sleep(PAUSE);
    }
}
