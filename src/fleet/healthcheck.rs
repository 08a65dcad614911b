//! The health check of a streamer: facts that its own report and the request with it show.

use crate::access::auth::CLUSTER_SKEW_SECONDS_MAX;
use crate::json::{Number, Object, Value, scan};

/// A query that a streamer did not answer.
#[derive(Debug, Clone, Copy)]
pub struct FailedQuery {
    /// It refused the cluster key.
    pub key_refused: bool,
    /// Too many queries failed within an hour.
    pub is_unhealthy: bool,
    pub utc_ms: u64,
}

/// The check that a query can fail without the result being an error.
const REACHABLE: &str = "reachable";

/// The result of the check of one report. A fact that the report does not show is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    checks: Vec<(&'static str, bool)>,
    /// The failed checks, with what was found.
    errors: Vec<(&'static str, Box<str>)>,
    /// Since when the result is the same, UTC ms.
    changed_ms: u64,
    /// Few enough queries have failed.
    tolerates_unanswered: bool,
}

impl Healthcheck {
    /// Checks reported stats, which are canonical JSON. `has_own_key`: the report was signed with
    /// the cluster key of the streamer.
    pub fn of(stats: &str, has_own_key: bool, utc_ms: u64) -> Self {
        let mut check = Self {
            checks: Vec::new(),
            errors: Vec::new(),
            changed_ms: utc_ms,
            tolerates_unanswered: false,
        };
        let text_of = |value: &str, member: &str| {
            let text = scan::string(scan::member(value, member)?)?;
            Some(Box::from(&*text))
        };
        let external = scan::member(stats, "config_external_status");
        if let Some(status) = external.and_then(|external| text_of(external, "status")) {
            check.add("config_external_ok", &*status != "error", || status);
        }
        let config_error = scan::member(stats, "config_error");
        check.add("config_ok", config_error.is_none(), || {
            let code = config_error.and_then(|error| text_of(error, "error"));
            code.unwrap_or_else(|| "config_error".into())
        });
        // A report that is kept is not older than the dead timeout.
        check.add(REACHABLE, true, Box::default);
        let fact = |name: &str| match scan::member(stats, name)? {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        if let (Some(is_available), Some(runs)) = (fact("rproxy"), fact("rproxy_running")) {
            let found = || "the service for agents is available and does not run".into();
            check.add("rproxy_ok", runs || !is_available, found);
        }
        if let Some(status) = text_of(stats, "streamer_status") {
            check.add("running", &*status == "running", || status);
        }
        let now = scan::member(stats, "now").and_then(scan::number);
        if let Some(Number::Unsigned(now_ms)) = now {
            let skew_seconds = now_ms.abs_diff(utc_ms) / 1000;
            let is_close = skew_seconds <= CLUSTER_SKEW_SECONDS_MAX;
            let found = || format!("the clocks differ by {skew_seconds} s").into();
            check.add("time_synchronized", is_close, found);
        }
        if has_own_key {
            check.add("valid_cluster_key", true, Box::default);
        }
        check
    }

    fn add(&mut self, rule: &'static str, holds: bool, found: impl FnOnce() -> Box<str>) {
        self.checks.push((rule, holds));
        if !holds {
            self.errors.push((rule, found()));
        }
    }

    fn is_ok(&self) -> bool {
        let mut errors = self.errors.iter();
        errors.all(|(rule, _)| self.tolerates_unanswered && *rule == REACHABLE)
    }

    /// The streamer is reachable now, and too often was not.
    pub fn add_failed_queries(&mut self, count: usize) {
        let found = format!("{count} queries failed within an hour");
        self.errors.push((REACHABLE, found.into()));
    }

    /// Replaces what a query shows. The cause is not shown: it would reveal the network around this
    /// server.
    pub fn add_unanswered(&mut self, query: FailedQuery) {
        let was_ok = self.is_ok();
        let refused = query.key_refused.then_some("valid_cluster_key");
        for rule in [Some(REACHABLE), refused].into_iter().flatten() {
            self.checks.retain(|(known, _)| *known != rule);
            self.errors.retain(|(known, _)| *known != rule);
            self.add(rule, false, || match rule {
                REACHABLE => "no valid answer".into(),
                _ => "refused".into(),
            });
        }
        self.tolerates_unanswered = !query.is_unhealthy;
        if was_ok != self.is_ok() {
            self.changed_ms = query.utc_ms;
        }
    }

    /// Takes over since when the result is the same, if that of the report before was.
    pub fn follow(&mut self, before: &Self) {
        if self.is_ok() == before.is_ok() {
            self.changed_ms = before.changed_ms;
        }
    }

    /// The stats with the result among them.
    pub fn added_to(&self, stats: &str) -> Box<str> {
        const MEMBER: &str = "healthcheck_status";
        let mut out = String::with_capacity(stats.len() + 320);
        let mut add = |name: &str, value: &str| {
            out.push(if out.is_empty() { '{' } else { ',' });
            out.push('"');
            out.push_str(name);
            out.push_str("\":");
            out.push_str(value);
        };
        let others = || scan::members(stats).filter(|(name, _)| *name != MEMBER);
        for (name, value) in others().take_while(|(name, _)| *name < MEMBER) {
            add(name, value);
        }
        add(MEMBER, &self.to_value().to_text());
        for (name, value) in others().skip_while(|(name, _)| *name < MEMBER) {
            add(name, value);
        }
        out.push('}');
        out.into()
    }

    fn to_value(&self) -> Value {
        let errors = self.errors.iter().map(|(rule, found)| {
            let mut item = Object::default();
            item.insert("error", Value::from(&**found));
            item.insert("rule", Value::from(*rule));
            Value::Object(item)
        });
        let mut checks = Object::default();
        checks.insert("errors_details", Value::Array(errors.collect()));
        for (rule, holds) in &self.checks {
            checks.insert(rule, Value::Bool(*holds));
        }
        let status = if self.is_ok() { "ok" } else { "error" };
        let mut result = Object::default();
        result.insert("checks", Value::Object(checks));
        result.insert("status", Value::from(status));
        let changed_ms = Value::Number(Number::Unsigned(self.changed_ms));
        result.insert("status_changed_at", changed_ms);
        Value::Object(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn added(check: &Healthcheck, stats: &str) -> String {
        check.added_to(stats).replace("healthcheck_status", "hs")
    }

    #[test]
    fn only_what_a_report_shows_is_checked() {
        let check = Healthcheck::of("{}", false, NOW);
        let expected = concat!(
            r#"{"hs":{"checks":{"config_ok":true,"errors_details":[],"reachable":true},"#,
            r#""status":"ok","status_changed_at":1800000000000}}"#,
        );
        assert_eq!(added(&check, "{}"), expected);
    }

    #[test]
    fn failed_checks_name_what_was_found() {
        let stats = concat!(
            r#"{"config_error":{"error":"bad_url"},"config_external_status":{"status":"error"},"#,
            r#""healthcheck_status":{"status":"ok"},"now":1799999000000,"#,
            r#""streamer_status":"starting"}"#,
        );
        let check = Healthcheck::of(stats, true, NOW);
        let rules: Vec<_> = check
            .errors
            .iter()
            .map(|(rule, found)| (*rule, &**found))
            .collect();
        let expected = [
            ("config_external_ok", "error"),
            ("config_ok", "bad_url"),
            ("running", "starting"),
            ("time_synchronized", "the clocks differ by 1000 s"),
        ];
        assert_eq!(rules, expected);
        let text = added(&check, stats);
        assert_eq!(text.matches("\"hs\"").count(), 1, "{text}");
        let place = |name: &str| text.find(name).expect(name);
        assert!(place("config_external_status") < place("\"hs\""), "{text}");
        assert!(place("\"hs\"") < place("\"now\""), "{text}");
        assert!(text.contains(r#""status":"error","status_changed_at":1800000000000"#));
    }

    #[test]
    fn service_for_agents_is_checked_where_it_is_available() {
        for (facts, holds) in [
            (r#""rproxy":true,"rproxy_running":true"#, Some(true)),
            (r#""rproxy":true,"rproxy_running":false"#, Some(false)),
            (r#""rproxy":false,"rproxy_running":false"#, Some(true)),
            (r#""rproxy":true"#, None),
            (r#""rproxy_running":false"#, None),
            (r#""rproxy":null,"rproxy_running":false"#, None),
        ] {
            let check = Healthcheck::of(&format!("{{{facts}}}"), false, NOW);
            let mut checks = check.checks.iter();
            let found = checks.find(|(rule, _)| *rule == "rproxy_ok");
            assert_eq!(found.map(|(_, holds)| *holds), holds, "{facts}");
            assert_eq!(check.is_ok(), holds != Some(false), "{facts}");
        }
    }

    #[test]
    fn time_of_the_change_is_kept_while_the_result_is_the_same() {
        let bad = r#"{"streamer_status":"starting"}"#;
        let first = Healthcheck::of(bad, false, NOW);
        let mut same = Healthcheck::of(r#"{"config_error":{}}"#, false, NOW + 5);
        same.follow(&first);
        assert_eq!(same.changed_ms, NOW);
        let mut good = Healthcheck::of("{}", false, NOW + 9);
        good.follow(&same);
        assert_eq!(good.changed_ms, NOW + 9);
    }
}
