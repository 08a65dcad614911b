//! `weir import FILE.m3u8`: the channels of a playlist become streams.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

/// Flags of `weir import`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The playlist; `-` reads stdin.
    pub file: PathBuf,
    /// Base URL of the server. Default: the setting api_url, else the first address of listen.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Tell what would be created and changed, save nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// All or nothing: any bad line or refused stream fails the import before anything is saved.
    #[arg(long)]
    pub strict: bool,
    /// Streams saved at a time; each batch is saved whole or not at all. With --strict there is one batch.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Put before every name, for instance iptv/.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub prefix: String,
    /// How to report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}
