//! Which of its inputs a stream is pulled from: the first one, the next one when that is silent for
//! too long, and the first again once it has accepted connections for a while.

use std::time::{Duration, Instant};

/// How long the first input must accept connections before the stream returns to it.
const RETURN_AFTER: Duration = Duration::from_mins(1);
/// Pause between probes of the first input, while another one is chosen.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// A chosen input is probed after this silence, and then in these pauses.
const SILENT_AFTER: Duration = Duration::from_secs(12);
const PROBE_SILENT_EVERY: Duration = Duration::from_secs(30);

/// An input that the server can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullInput {
    pub url: Box<str>,
    /// Silence after which the next one is tried.
    timeout: Option<Duration>,
    is_published: bool,
}

impl PullInput {
    pub fn new(url: String, timeout: Option<Duration>) -> Self {
        Self {
            url: url.into(),
            timeout,
            is_published: false,
        }
    }

    /// Publishers come and go; their silence is no failure.
    pub fn published(source: &str) -> Self {
        Self {
            url: source.into(),
            timeout: None,
            is_published: true,
        }
    }
}

#[derive(Debug, Clone)]
pub struct InputChoice {
    inputs: Box<[PullInput]>,
    chosen: usize,
    /// The last bytes, or when the source was given.
    flowed_at: Option<Instant>,
    probed_at: Option<Instant>,
    /// Since when the first input accepts connections, while another one is chosen.
    accepts_since: Option<Instant>,
    /// The chosen input is silent and accepted no connection.
    is_unreachable: bool,
}

impl InputChoice {
    /// `inputs` has at least one.
    pub fn new(inputs: Vec<PullInput>) -> Self {
        Self {
            inputs: inputs.into(),
            chosen: 0,
            flowed_at: None,
            probed_at: None,
            accepts_since: None,
            is_unreachable: false,
        }
    }

    pub fn is_unreachable(&self) -> bool {
        self.is_unreachable
    }

    pub fn has_inputs(&self, inputs: &[PullInput]) -> bool {
        *self.inputs == *inputs
    }

    pub fn source(&self) -> &str {
        &self.inputs[self.chosen].url
    }

    /// The server was given the source.
    pub fn given(&mut self, now: Instant) {
        self.flowed_at = Some(now);
    }

    pub fn observe(&mut self, now: Instant, is_growing: bool) {
        if is_growing {
            self.flowed_at = Some(now);
            self.is_unreachable = false;
            return;
        }
        let since = *self.flowed_at.get_or_insert(now);
        let input = &self.inputs[self.chosen];
        let is_over = |timeout| now.duration_since(since) >= timeout;
        if self.inputs.len() > 1 && input.timeout.is_some_and(is_over) {
            self.choose((self.chosen + 1) % self.inputs.len(), now);
        }
    }

    fn choose(&mut self, input: usize, now: Instant) {
        self.chosen = input;
        self.flowed_at = Some(now);
        self.probed_at = None;
        self.accepts_since = None;
        self.is_unreachable = false;
    }

    /// The URL that is to be probed now.
    pub fn probe(&self, now: Instant) -> Option<&str> {
        let is_due = |pause| {
            self.probed_at
                .is_none_or(|at| now.duration_since(at) >= pause)
        };
        let (input, is_due) = if self.chosen > 0 {
            (&self.inputs[0], is_due(PROBE_EVERY))
        } else {
            let flowed_at = self.flowed_at;
            let is_silent = flowed_at.is_some_and(|at| now.duration_since(at) >= SILENT_AFTER);
            (&self.inputs[0], is_silent && is_due(PROBE_SILENT_EVERY))
        };
        (is_due && !input.is_published).then_some(&*input.url)
    }

    pub fn probed(&mut self, now: Instant, url: &str, accepts: bool) {
        self.probed_at = Some(now);
        if *url == *self.source() {
            self.is_unreachable = !accepts;
        }
        if self.chosen == 0 || *self.inputs[0].url != *url {
            return;
        }
        if !accepts {
            self.accepts_since = None;
            return;
        }
        let since = *self.accepts_since.get_or_insert(now);
        if now.duration_since(since) >= RETURN_AFTER {
            self.choose(0, now);
        }
    }
}
