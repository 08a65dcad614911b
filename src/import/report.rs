//! The report of an import: counts, changes, skipped lines and their reasons.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::ImportOptions;
use super::channel::HTTP_ENDINGS;
use super::compare::ChannelChange;
use super::playlist::Problem;
use crate::exit::Failure;

/// Skipped lines of one reason that are shown unless all are.
const EXAMPLES_MAX: usize = 5;

#[derive(Debug, Default)]
pub struct ImportReport {
    /// Channels of the file, with those that were skipped.
    pub channels: usize,
    /// Saved channels; with `--dry-run` those that would be saved.
    pub changes: Vec<ChannelChange>,
    pub unchanged: usize,
    pub skipped: Vec<Problem>,
    pub player_options: usize,
    pub elapsed: Duration,
}

impl ImportReport {
    pub fn created(&self) -> usize {
        self.changes
            .iter()
            .filter(|change| change.before.is_none())
            .count()
    }

    /// How many lines were skipped, by reason.
    pub fn reasons(&self) -> BTreeMap<&'static str, usize> {
        let mut reasons = BTreeMap::new();
        for problem in &self.skipped {
            *reasons.entry(problem.code).or_default() += 1;
        }
        reasons
    }

    /// The skipped lines by reason, the first five of each or all, and what helps against some.
    pub fn skipped_lines(&self, all: bool) -> String {
        let mut out = String::new();
        for (code, count) in self.reasons() {
            _ = writeln!(out, "{count} skipped: {code}");
            let shown = if all { count } else { EXAMPLES_MAX };
            let of_reason = self.skipped.iter().filter(|problem| problem.code == code);
            for problem in of_reason.take(shown) {
                _ = writeln!(out, "  line {}: {}", problem.line, problem.reason);
            }
            if count > shown {
                _ = writeln!(out, "  {} more; -v prints all", count - shown);
            }
        }
        let mut reasons = self.skipped.iter().map(|problem| &problem.reason);
        if reasons.any(|reason| reason.ends_with(HTTP_ENDINGS)) {
            out.push_str(
                "Write HLS or MPEG-TS addresses that end differently with hls://, hlss://, \
                 tshttp:// or tshttps://.\n",
            );
        }
        out
    }

    pub fn table(&self, options: &ImportOptions, complete: bool) -> String {
        let mut out = String::new();
        if options.dry_run {
            for change in &self.changes {
                let ChannelChange { before, after, .. } = change;
                let (name, line) = (&change.channel.name, change.channel.line);
                let sign = if before.is_some() { '~' } else { '+' };
                _ = writeln!(out, "{sign} {name} (line {line})");
                let before = before.clone().unwrap_or_default();
                for (field, value) in after {
                    _ = match before.get(field) {
                        Some(now) => writeln!(out, "    {field}: {now:?} -> {value:?}"),
                        None => writeln!(out, "    {field}: {value:?}"),
                    };
                }
                for (field, now) in before
                    .iter()
                    .filter(|(field, _)| !after.contains_key(*field))
                {
                    _ = writeln!(out, "    {field}: {now:?} -> absent");
                }
            }
        }
        if self.player_options > 0 {
            _ = writeln!(
                out,
                "{} options for players ignored: only user agent and headers are used",
                self.player_options
            );
        }
        let created = self.created();
        let would = if options.dry_run { "would be " } else { "" };
        let ending = if complete { "" } else { ", not finished" };
        _ = writeln!(
            out,
            "{} channels: {created} {would}created, {} {would}changed, {} unchanged, {} skipped \
             in {:.2} s{ending}",
            self.channels,
            self.changes.len() - created,
            self.unchanged,
            self.skipped.len(),
            self.elapsed.as_secs_f64(),
        );
        out
    }

    pub fn json(&self, options: &ImportOptions, failure: Option<&Failure>) -> String {
        let created = self.created();
        let changes: Vec<Value> = self
            .changes
            .iter()
            .map(|change| {
                let action = if change.before.is_some() {
                    "change"
                } else {
                    "create"
                };
                let mut item = json!({
                    "line": change.channel.line,
                    "name": change.channel.name,
                    "action": action,
                    "after": change.after,
                });
                if let Some(before) = &change.before {
                    item["before"] = json!(before);
                }
                item
            })
            .collect();
        let skipped: Vec<Value> = self
            .skipped
            .iter()
            .map(|problem| {
                json!({ "line": problem.line, "code": problem.code, "reason": problem.reason })
            })
            .collect();
        let report = json!({
            "file": options.file.to_string_lossy(),
            "dry_run": options.dry_run,
            "strict": options.strict,
            "channels": self.channels,
            "created": created,
            "changed": self.changes.len() - created,
            "unchanged": self.unchanged,
            "player_options_ignored": self.player_options,
            "seconds": self.elapsed.as_secs_f64(),
            "error": failure.map(|failure| failure.message.as_str()),
            "changes": changes,
            "skipped": skipped,
            "skipped_by_reason": self.reasons(),
        });
        format!("{report:#}\n")
    }
}
