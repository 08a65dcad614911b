//! Provisioning: the part of a streamer's configuration that belongs to the cluster is written to
//! the streamer, and again when the streamer lost or changed it.
//!
//! That part is the `config` of the streamer, the address where it loads its streams
//! (`config_external`), and the authorization backends; no other member of its configuration is
//! named in a write. What a streamer shows of these members after a write is the reference for
//! later comparisons, because it may fill in defaults and mask secrets: a later difference is
//! drift, whether of a restart or of a hand. Nothing is stored: after a start of this server each
//! streamer is written to once.
//!
//! Pure: time is passed in.

use xxhash_rust::xxh3::Xxh3Default;

use crate::json::{self, Object, Value, scan};
use crate::limits::PROVISIONED_BYTES_MAX;
use crate::schema;
use crate::state::entity::{Entities, Key};
use crate::state::record::{EntityRecord, StreamerRecord};

/// Longest pause after failures, and while a streamer changes its configuration each time.
const PAUSE_MS_MAX: u64 = 60_000;
/// The path of the API under the address of this server.
const API_PATH: &str = "/central/api/v3";
const CONFIG_EXTERNAL: &str = "config_external";
const AUTH_BACKENDS: &str = "auth_backends";

/// The members that belong to the cluster, of the configuration of one streamer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedConfig {
    /// The body of a write.
    pub body: String,
    names: Vec<Box<str>>,
}

impl WantedConfig {
    /// `auth_backends`: of [`auth_backends`]. `api_url`: where streamers reach this server. `None`
    /// if nothing belongs to the cluster.
    pub fn of(
        streamer: &StreamerRecord,
        auth_backends: Option<&str>,
        api_url: Option<&str>,
    ) -> Option<Self> {
        let mut wanted = Object::default();
        let mut text = Vec::new();
        schema::without_filled(&streamer.config, streamer.filled_spans(), &mut text);
        let own = str::from_utf8(&text).ok();
        let own = own.and_then(|text| scan::member(text, "config"));
        if let Some(Ok(Value::Object(own))) = own.map(|own| json::parse(own.as_bytes())) {
            for (name, value) in own.iter().filter(|(_, value)| !value.is_null()) {
                wanted.insert(name, value.clone());
            }
        }
        if let Some(api_url) = api_url {
            let base = api_url.trim_end_matches('/').trim_end_matches(API_PATH);
            let host = streamer.hostname.as_str();
            let url = format!("{base}{API_PATH}/streamers/{host}");
            wanted.insert(CONFIG_EXTERNAL, Value::from(&*url));
        }
        let mut names: Vec<Box<str>> = wanted.iter().map(|(name, _)| name.into()).collect();
        let mut body = Value::Object(wanted).to_text();
        if let Some(auth_backends) = auth_backends {
            // They may be long, and are the same for all streamers.
            let others = if names.is_empty() { "}" } else { &body[1..] };
            let comma = if names.is_empty() { "" } else { "," };
            body = format!("{{\"{AUTH_BACKENDS}\":{auth_backends}{comma}{others}");
            names.push(AUTH_BACKENDS.into());
        }
        (!names.is_empty()).then_some(Self { body, names })
    }

    /// Whether it is longer than a write may be.
    pub fn is_too_long(&self) -> bool {
        self.body.len() > PROVISIONED_BYTES_MAX
    }

    /// Identifies what a streamer shows of these members. `None` if that is no configuration.
    pub fn shown_hash(&self, config: &[u8]) -> Option<u64> {
        let Value::Object(config) = json::parse(config).ok()? else {
            return None;
        };
        let mut hash = Xxh3Default::new();
        for name in &self.names {
            let value = config.get(name).map(Value::to_text);
            hash.update(value.as_deref().unwrap_or("absent").as_bytes());
            hash.update(b"\n");
        }
        Some(hash.digest())
    }

    fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.body.as_bytes())
    }
}

/// All authorization backends as the member of a configuration; `None` if there are none, so that
/// those of a streamer stay as they are.
pub fn auth_backends(all: &Entities) -> Option<Box<str>> {
    let one = |(key, record): (&Key, &EntityRecord)| {
        let Ok(Value::Object(mut backend)) = json::parse(record.config.as_bytes()) else {
            return None;
        };
        backend.insert("name", Value::from(&*key.to_string()));
        Some(Value::Object(backend))
    };
    let all: Vec<Value> = all.by_key().iter().filter_map(one).collect();
    (!all.is_empty()).then(|| Value::Array(all).to_text().into())
}

/// What has to be written to a streamer after it showed its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvisionStep {
    Nothing,
    /// It was not written to since this server started, or the cluster's part changed.
    Write,
    /// It changed or lost what was written.
    WriteAgain,
}

/// The provisioning of one streamer so far.
#[derive(Debug, Clone, Default)]
pub struct ProvisionHistory {
    /// What was written, and what the streamer showed after that.
    written: Option<(u64, u64)>,
    due_ms: u64,
    /// Failures and drifts since the last comparison without.
    in_row: u32,
}

impl ProvisionHistory {
    pub fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms
    }

    /// The last comparison failed, or found drift.
    pub fn is_failing(&self) -> bool {
        self.in_row > 0
    }

    /// What was written may have changed: the next comparison is due.
    pub fn on_change(&mut self) {
        self.due_ms = 0;
    }

    /// Compares what a streamer shows with what it showed after the last write.
    pub fn step(&self, wanted: &WantedConfig, shown: u64) -> ProvisionStep {
        match self.written {
            Some((body, reference)) if body == wanted.hash() => {
                if reference == shown {
                    ProvisionStep::Nothing
                } else {
                    ProvisionStep::WriteAgain
                }
            }
            _ => ProvisionStep::Write,
        }
    }

    /// A comparison ended, and a write if it was needed; then the streamer shows `shown`.
    pub fn on_success(
        &mut self,
        step: ProvisionStep,
        wanted: &WantedConfig,
        shown: u64,
        now_ms: u64,
        interval_ms: u64,
    ) {
        self.written = Some((wanted.hash(), shown));
        self.in_row = if step == ProvisionStep::WriteAgain {
            self.in_row.saturating_add(1)
        } else {
            0
        };
        self.pause(now_ms, interval_ms);
    }

    pub fn on_failure(&mut self, now_ms: u64, interval_ms: u64) {
        self.in_row = self.in_row.saturating_add(1);
        self.pause(now_ms, interval_ms);
    }

    fn pause(&mut self, now_ms: u64, interval_ms: u64) {
        let doubled = interval_ms.saturating_mul(1 << self.in_row.min(16));
        self.due_ms = now_ms + doubled.min(PAUSE_MS_MAX.max(interval_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::Streamer;

    fn wanted(config: &str, backends: Option<&str>, api_url: Option<&str>) -> Option<WantedConfig> {
        let streamer = StreamerRecord::new(&Streamer {
            hostname: "s1".to_owned(),
            config: config.to_owned(),
            ..Streamer::default()
        });
        WantedConfig::of(&streamer, backends, api_url)
    }

    #[test]
    fn only_the_part_of_the_cluster_is_written() {
        let own = r#"{"cluster_key":"k","config":{"cluster_key":"c","event_sinks":null}}"#;
        let url = "http://h:1/central/api/v3/streamers/s1";
        for (config, backends, api_url, body) in [
            ("{}", None, None, None),
            (r#"{"config":{}}"#, None, None, None),
            (own, None, None, Some(r#"{"cluster_key":"c"}"#.to_owned())),
            (
                own,
                Some("[1]"),
                None,
                Some(r#"{"auth_backends":[1],"cluster_key":"c"}"#.to_owned()),
            ),
            (
                "{}",
                Some("[1]"),
                None,
                Some(r#"{"auth_backends":[1]}"#.to_owned()),
            ),
            (
                own,
                None,
                Some("http://h:1/central/api/v3/"),
                Some(format!(
                    r#"{{"cluster_key":"c","config_external":"{url}"}}"#
                )),
            ),
            (
                "{}",
                None,
                Some("http://h:1"),
                Some(format!(r#"{{"config_external":"{url}"}}"#)),
            ),
        ] {
            let wanted = wanted(config, backends, api_url).map(|wanted| wanted.body);
            assert_eq!(wanted, body, "{config}");
        }
        let long = format!("[\"{}\"]", "x".repeat(PROVISIONED_BYTES_MAX));
        assert!(
            wanted("{}", Some(&long), None)
                .expect("backends")
                .is_too_long()
        );
    }

    #[test]
    fn members_of_the_cluster_are_compared_and_no_others() {
        let wanted = wanted("{}", Some("[1]"), Some("http://h")).expect("two members");
        let hash = |config: &str| wanted.shown_hash(config.as_bytes());
        let first = hash(r#"{"auth_backends":[1],"config_external":"u","loglevel":"info"}"#);
        assert!(first.is_some());
        assert_eq!(
            first,
            hash(r#"{"config_external":"u","auth_backends":[1],"dvrs":[]}"#)
        );
        for other in [
            r#"{"auth_backends":[1],"config_external":"v"}"#,
            r#"{"auth_backends":[],"config_external":"u"}"#,
            r#"{"auth_backends":[1]}"#,
            "{}",
        ] {
            assert!(
                hash(other).is_some_and(|hash| Some(hash) != first),
                "{other}"
            );
        }
        for none in ["", "[]", "5", "{"] {
            assert_eq!(hash(none), None, "{none}");
        }
    }

    #[test]
    fn first_changed_and_drifted_configurations_are_written() {
        let first = wanted("{}", None, Some("http://a")).expect("one member");
        let second = wanted("{}", None, Some("http://b")).expect("one member");
        let mut history = ProvisionHistory::default();
        assert!(history.is_due(0));
        assert_eq!(history.step(&first, 1), ProvisionStep::Write);
        history.on_success(ProvisionStep::Write, &first, 2, 0, 100);
        assert!(!history.is_due(99) && history.is_due(100));
        assert_eq!(history.step(&first, 2), ProvisionStep::Nothing);
        assert_eq!(history.step(&first, 1), ProvisionStep::WriteAgain);
        assert_eq!(history.step(&second, 2), ProvisionStep::Write);
        // Drift each time, and failures.
        let mut now_ms = 100;
        let mut pauses = Vec::new();
        for _ in 0..5 {
            history.on_success(ProvisionStep::WriteAgain, &first, 3, now_ms, 10_000);
            pauses.push(history.due_ms - now_ms);
            now_ms = history.due_ms;
        }
        assert_eq!(pauses, [20_000, 40_000, 60_000, 60_000, 60_000]);
        history.on_failure(now_ms, 10_000);
        assert_eq!(history.due_ms - now_ms, 60_000);
        history.on_change();
        assert!(history.is_due(now_ms));
        history.on_success(ProvisionStep::Nothing, &first, 3, now_ms, 10_000);
        assert_eq!(history.due_ms - now_ms, 10_000);
        // An interval that is longer than the longest pause.
        history.on_failure(now_ms, 3_600_000);
        assert_eq!(history.due_ms - now_ms, 3_600_000);
    }
}
