//! Saves of episodes that wait to be committed together.
//!
//! Video analytics saves many small episodes, and each commit costs an fsync whatever its size. A
//! save waits until the oldest waiting save has reached the delay, or until more than the limit
//! wait; then all of them are committed. A save that is alone, after one that was alone, does not
//! wait: a client that saves one episode after another would pay the delay for each. No reply is
//! sent before the commit, so that a 2xx still means durable. Pure: times are arguments, in any
//! unit of a running clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use crate::limits::{EPISODES_DELAY_MS_MAX, EPISODES_LIMIT_MAX};
use crate::state::entity::Key;

/// The settings that can change while the server runs.
#[derive(Debug)]
pub struct BufferSettings {
    delay_ms: AtomicU32,
    limit: AtomicUsize,
    ended: AtomicBool,
}

impl BufferSettings {
    /// 0 in either argument: no save waits.
    pub fn new(delay: Duration, limit: usize) -> Self {
        let settings = Self {
            delay_ms: AtomicU32::new(0),
            limit: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        };
        settings.set(delay, limit);
        settings
    }

    pub fn set(&self, delay: Duration, limit: usize) {
        let delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        self.delay_ms
            .store(delay_ms.min(EPISODES_DELAY_MS_MAX), Ordering::Relaxed);
        self.limit
            .store(limit.min(EPISODES_LIMIT_MAX), Ordering::Relaxed);
    }

    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.load(Ordering::Relaxed).into())
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The server is stopping: no save waits any more.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn are_off(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.delay().is_zero() || self.limit() == 0
    }
}

/// The waiting saves, in order of arrival.
#[derive(Debug)]
pub struct InsertBuffer<T> {
    waiting: Vec<T>,
    /// The number of waiting saves of each episode.
    keys: HashMap<Key, usize>,
    /// When the oldest arrived.
    since: Duration,
    /// How many saves were committed together last.
    last_group: usize,
}

impl<T> Default for InsertBuffer<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            keys: HashMap::new(),
            since: Duration::ZERO,
            last_group: 0,
        }
    }
}

impl<T> InsertBuffer<T> {
    pub fn push(&mut self, key: Key, save: T, now: Duration) {
        if self.waiting.is_empty() {
            self.since = now;
        }
        *self.keys.entry(key).or_default() += 1;
        self.waiting.push(save);
    }

    /// Whether a save of this episode waits, which later commands must not overtake.
    pub fn holds(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// How much longer the saves may wait; `None` if none wait, zero if they are due.
    pub fn rest(&self, settings: &BufferSettings, now: Duration) -> Option<Duration> {
        if self.waiting.is_empty() {
            return None;
        }
        let is_alone = self.waiting.len() == 1 && self.last_group <= 1;
        if settings.are_off() || is_alone || self.waiting.len() > settings.limit() {
            return Some(Duration::ZERO);
        }
        Some((self.since + settings.delay()).saturating_sub(now))
    }

    pub fn is_due(&self, settings: &BufferSettings, now: Duration) -> bool {
        self.rest(settings, now) == Some(Duration::ZERO)
    }

    /// Takes all of them, in their order.
    pub fn take(&mut self) -> Vec<T> {
        self.keys.clear();
        if !self.waiting.is_empty() {
            self.last_group = self.waiting.len();
        }
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A buffer that has just committed several saves together.
    fn after_a_group<T: Default>() -> InsertBuffer<T> {
        let mut buffer = InsertBuffer::default();
        buffer.push(Key::Number(1), T::default(), ms(0));
        buffer.push(Key::Number(2), T::default(), ms(0));
        buffer.take();
        buffer
    }

    #[test]
    fn save_waits_only_while_others_save() {
        let settings = BufferSettings::new(ms(1000), 250);
        let mut buffer = InsertBuffer::default();
        for n in 0..3 {
            buffer.push(Key::Number(n), n, ms(n));
            assert!(buffer.is_due(&settings, ms(n)), "{n}: no other save waits");
            assert_eq!(buffer.take(), [n]);
            assert!(buffer.take().is_empty());
        }
        buffer.push(Key::Number(1), 1, ms(10));
        buffer.push(Key::Number(2), 2, ms(10));
        assert!(!buffer.is_due(&settings, ms(10)));
        assert_eq!(buffer.take(), [1, 2]);
        // Of several clients that save in turn, one is always the first of its group.
        buffer.push(Key::Number(1), 1, ms(1010));
        assert_eq!(buffer.rest(&settings, ms(1010)), Some(ms(1000)));
        assert_eq!(buffer.take(), [1]);
        // It waited in vain: the next one does not wait.
        buffer.push(Key::Number(1), 1, ms(2010));
        assert!(buffer.is_due(&settings, ms(2010)));
    }

    #[test]
    fn saves_are_due_when_the_oldest_reaches_the_delay() {
        let settings = BufferSettings::new(ms(1000), 250);
        let mut buffer = after_a_group();
        assert_eq!(buffer.rest(&settings, ms(0)), None);
        buffer.push(Key::Number(1), "a", ms(5000));
        buffer.push(Key::Number(2), "b", ms(5900));
        assert_eq!(buffer.rest(&settings, ms(5900)), Some(ms(100)));
        assert!(!buffer.is_due(&settings, ms(5999)));
        assert!(buffer.is_due(&settings, ms(6000)));
        assert_eq!(buffer.take(), ["a", "b"]);
        assert_eq!(buffer.rest(&settings, ms(9000)), None);
        // The next save starts a new delay.
        buffer.push(Key::Number(1), "c", ms(9000));
        assert_eq!(buffer.rest(&settings, ms(9000)), Some(ms(1000)));
    }

    #[test]
    fn saves_above_the_limit_are_due_at_once() {
        let settings = BufferSettings::new(ms(1000), 2);
        let mut buffer = InsertBuffer::default();
        buffer.push(Key::Number(1), 1, ms(0));
        buffer.push(Key::Number(2), 2, ms(0));
        assert!(!buffer.is_due(&settings, ms(1)));
        buffer.push(Key::Number(3), 3, ms(1));
        assert!(buffer.is_due(&settings, ms(1)));
    }

    #[test]
    fn no_save_waits_when_it_is_off_or_the_server_stops() {
        let mut buffer = after_a_group();
        buffer.push(Key::Number(1), 1, ms(0));
        for (delay, limit) in [(0, 250), (1000, 0)] {
            let settings = BufferSettings::new(ms(delay), limit);
            assert!(buffer.is_due(&settings, ms(0)), "{delay} {limit}");
        }
        // Both can change while saves wait.
        let settings = BufferSettings::new(ms(1000), 250);
        assert!(!buffer.is_due(&settings, ms(0)));
        settings.set(ms(0), 250);
        assert!(buffer.is_due(&settings, ms(0)));
        settings.set(ms(1000), 250);
        settings.end();
        assert!(buffer.is_due(&settings, ms(0)));
    }

    #[test]
    fn buffer_knows_which_episodes_wait() {
        let mut buffer = InsertBuffer::default();
        buffer.push(Key::Number(1), 1, ms(0));
        buffer.push(Key::Number(1), 2, ms(0));
        assert!(buffer.holds(&Key::Number(1)) && !buffer.holds(&Key::Number(2)));
        assert_eq!(buffer.take(), [1, 2]);
        assert!(!buffer.holds(&Key::Number(1)));
    }

    #[test]
    fn settings_are_bounded() {
        let settings = BufferSettings::new(Duration::MAX, usize::MAX);
        assert_eq!(settings.delay(), ms(EPISODES_DELAY_MS_MAX.into()));
        assert_eq!(settings.limit(), EPISODES_LIMIT_MAX);
    }
}
