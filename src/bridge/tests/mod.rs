//! The pure parts of the bridge: the planner in random histories and rule by rule, names, URLs, the
//! file, lists, life signs, inputs and reports.

mod histories;
mod lists;
mod names;
mod parts;
mod rules;
mod threads;

use std::time::{Duration, Instant};

use super::desired::WantedDvr;
use super::kind::{BadHook, HookQuestion, Recording, ServerRules};
use super::plan::PlanSettings;
use crate::native_name::escape;

/// Rules of a server for tests: names in lower case, so that two can be the same there.
pub struct TestRules;

impl ServerRules for TestRules {
    fn schemes(&self) -> &'static [&'static str] {
        &["rtsp", "rtmp"]
    }

    fn native(&self, name: &str) -> Box<str> {
        escape(&name.to_lowercase(), crate::native_name::is_plain).into()
    }

    fn recording(&self, dvr: &WantedDvr) -> Result<Recording, &'static str> {
        let root = dvr.root.clone().ok_or("no root")?;
        Ok(Recording {
            root,
            delete_after: dvr.expiration.unwrap_or(0),
        })
    }

    fn play(&self, native: &str, _: &str, _: &str) -> Option<String> {
        Some(format!("http://play/{native}"))
    }

    fn hook(&self, _: &[u8]) -> Result<Option<HookQuestion>, BadHook> {
        Ok(None)
    }
}

pub fn settings() -> PlanSettings {
    PlanSettings {
        starts_per_second: 10,
        exclusive: false,
        keep: None,
        fence_after: None,
    }
}

/// The clock of a test.
#[derive(Clone, Copy)]
pub struct Clock(pub Instant);

impl Clock {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    pub fn pass(&mut self, ms: u64) -> Instant {
        self.0 += Duration::from_millis(ms);
        self.0
    }
}
