//! The settings of the server over HTTP. A save changes the configuration file.

use super::call::{Call, Outcome};
use super::config_document::{changes, render};
use super::settings_save::SettingsSave;
use super::shared::Shared;
use super::stats_format::{StatsFormat, json_response, stats_format, text_response};
use crate::error::ApiError;
use crate::metrics::{Exposition, MetricKind as Metric};

pub fn get(call: &Call<'_>) -> Result<Outcome, ApiError> {
    let shared = call.shared;
    if stats_format(call)? == StatsFormat::OpenMetrics {
        let text = metrics(shared);
        return Ok(Outcome::Reply(text_response(text)));
    }
    let body = render(shared, call.masks()).to_text();
    Ok(Outcome::Reply(json_response(body.into_bytes())))
}

/// The settings that are numbers.
fn metrics(shared: &Shared) -> String {
    let mut out = Exposition::default();
    let version = env!("CARGO_PKG_VERSION");
    let labels = [
        ("version", version),
        ("server_id", &*shared.identity.server_id),
    ];
    out.one(
        "server_started_at",
        Metric::Gauge,
        "",
        "When this server was started, seconds since 1970.",
        &labels,
        shared.identity.started_at_seconds,
    );
    let config = shared.settings.running.config();
    let settings = &config.settings;
    for (name, help, time) in [
        (
            "weir_setting_layouter_sleeping_interval_seconds",
            "Pause between two rounds of the layouter.",
            settings.layouter.interval,
        ),
        (
            "weir_setting_streamer_dead_timeout_seconds",
            "Silence after which a streamer is considered lost.",
            settings.layouter.dead_timeout,
        ),
        (
            "weir_setting_episodes_buffer_delay_seconds",
            "Longest time that a save of an episode waits for others.",
            settings.episodes.buffer_delay,
        ),
    ] {
        out.one(name, Metric::Gauge, "seconds", help, &labels, time);
    }
    out.one(
        "weir_setting_episodes_buffer_limit",
        Metric::Gauge,
        "",
        "Waiting saves of episodes above which they are written at once.",
        &labels,
        settings.episodes.buffer_limit,
    );
    out.one(
        "weir_setting_layouter_enabled",
        Metric::Gauge,
        "",
        "1 if the layouter is on.",
        &labels,
        u64::from(settings.layouter.enabled),
    );
    out.finish()
}

pub fn save(call: &Call<'_>) -> Result<Outcome, ApiError> {
    // The file is in the data directory, which safe mode leaves as it is.
    if let Some(safe_mode) = call.shared.published.safe_mode() {
        return Err(safe_mode.error());
    }
    let running = &call.shared.settings.running;
    let (changes, warnings) = changes(call.json()?, &running.config(), &running.api_key())?;
    let audit = call.audit(None);
    Ok(Outcome::Pending(Box::new(SettingsSave::new(
        changes, warnings, audit,
    ))))
}
