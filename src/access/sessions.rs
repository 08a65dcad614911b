//! What was decided about sessions, for as long as it holds, and how many sessions a user has.
//!
//! Shared by all cores, because a session's questions come over any of them and the sessions of a user are counted together; in sixteen
//! parts with a lock each, so that cores rarely meet. In memory only: after a restart everybody is asked about once more. Bounded in
//! bytes: when full, what was decided longest ago is forgotten first and asked again if need be.
//!
//! A user with more sessions than allowed loses the oldest one: it is refused when its streamer asks next, for as long as its
//! verdict would have held. A session counts until its verdict has run out and nobody renewed it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::answer::Verdict;

const PARTS: usize = 16;
/// What one session costs beside its verdict, roughly: entries in the map and in the order.
const ENTRY_BYTES: usize = 192;
/// How long a verdict that has run out is remembered: while all backends are silent it goes on.
const REMEMBERED: Duration = Duration::from_mins(10);
/// A streamer that asks for renewal is a little late.
const RENEWAL_GRACE: Duration = Duration::from_secs(30);
/// Users of a part above which those without sessions are looked for.
const USERS_SWEEP_MIN: usize = 1024;

/// A digest of everything that makes a session one: whoever differs in any of it is somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey([u8; 16]);

impl SessionKey {
    pub fn new(parts: &[&str]) -> Self {
        Self(digest(parts))
    }

    fn part(self) -> usize {
        usize::from(self.0[0]) % PARTS
    }
}

/// A digest of a user and of who knows this user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UserKey([u8; 16]);

impl UserKey {
    pub fn new(backend: &str, user: &str) -> Self {
        Self(digest(&[backend, user]))
    }
}

/// No two lists of texts have the same one that anybody could find.
fn digest(parts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let whole: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    half
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It holds for so many seconds more.
    Holds(Arc<Verdict>, u32),
    /// It has run out.
    Stale(Arc<Verdict>),
    /// Its user has opened newer ones.
    Interrupted,
    Nothing,
}

struct Entry {
    verdict: Arc<Verdict>,
    /// What was in force when it was decided.
    policy: u64,
    until: Instant,
    interrupted: bool,
    /// Of its place in the order; an older place means nothing.
    turn: u64,
}

#[derive(Default)]
struct Part {
    entries: HashMap<SessionKey, Entry>,
    order: VecDeque<(u64, SessionKey)>,
    next_turn: u64,
    bytes: usize,
}

#[derive(Default)]
struct Users {
    /// Oldest first.
    sessions: HashMap<UserKey, Vec<SessionKey>>,
    sweep_at: usize,
}

/// All sessions that are remembered.
pub struct Sessions {
    parts: [Mutex<Part>; PARTS],
    /// Locked before a part, never after one.
    users: [Mutex<Users>; PARTS],
    part_bytes_max: usize,
}

impl Sessions {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            users: std::array::from_fn(|_| Mutex::default()),
            part_bytes_max: bytes_max / PARTS,
        }
    }

    /// What was decided under `policy`; what was decided under another one counts no more.
    pub fn known(&self, key: SessionKey, policy: u64, now: Instant) -> Known {
        let part = self.parts[key.part()].lock();
        let Some(entry) = part.entries.get(&key) else {
            return Known::Nothing;
        };
        let left = entry.until.saturating_duration_since(now);
        if entry.interrupted {
            return if left.is_zero() {
                Known::Nothing
            } else {
                Known::Interrupted
            };
        }
        if entry.policy != policy || now >= entry.until + REMEMBERED {
            return Known::Nothing;
        }
        if left.is_zero() {
            return Known::Stale(entry.verdict.clone());
        }
        // Rounded up: a verdict that holds is not told to hold no time at all.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Known::Holds(entry.verdict.clone(), seconds as u32)
    }

    /// Remembers what was decided just now, and interrupts the oldest sessions of a user who has too many. False: that was this one.
    pub fn decided(
        &self,
        key: SessionKey,
        policy: u64,
        verdict: &Arc<Verdict>,
        user: Option<UserKey>,
        now: Instant,
    ) -> bool {
        self.put(key, policy, verdict.clone(), now);
        let (Some(user), Some(max), true) = (user, verdict.max_sessions, verdict.is_allowed) else {
            return true;
        };
        let mut users = self.users[usize::from(user.0[0]) % PARTS].lock();
        if users.sessions.len() >= users.sweep_at.max(USERS_SWEEP_MIN) {
            users.sessions.retain(|_, sessions| {
                sessions.retain(|session| self.counts(*session, now));
                !sessions.is_empty()
            });
            users.sweep_at = users.sessions.len() * 2;
        }
        let sessions = users.sessions.entry(user).or_default();
        sessions.retain(|session| *session != key || self.counts(key, now));
        if !sessions.contains(&key) {
            sessions.retain(|session| self.counts(*session, now));
            sessions.push(key);
        }
        let above = sessions.len().saturating_sub(max as usize);
        let mut stays = true;
        for oldest in sessions.drain(..above) {
            stays &= oldest != key;
            self.interrupt(oldest, now);
        }
        if sessions.is_empty() {
            users.sessions.remove(&user);
        }
        stays
    }

    /// Sessions that are remembered, and the bytes they take.
    pub fn size(&self) -> (usize, usize) {
        let parts = self.parts.iter().map(|part| {
            let part = part.lock();
            (part.entries.len(), part.bytes)
        });
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    /// Whether a session is one of its user's: allowed, and not left alone by its streamer.
    fn counts(&self, key: SessionKey, now: Instant) -> bool {
        let part = self.parts[key.part()].lock();
        let entry = part.entries.get(&key);
        entry.is_some_and(|entry| !entry.interrupted && now < entry.until + RENEWAL_GRACE)
    }

    fn interrupt(&self, key: SessionKey, now: Instant) {
        let mut part = self.parts[key.part()].lock();
        if let Some(entry) = part.entries.get_mut(&key) {
            entry.interrupted = true;
            // From now on, and long enough that its streamer asks at least once meanwhile.
            let held = Duration::from_secs(u64::from(entry.verdict.duration_seconds.max(1)));
            entry.until = entry.until.max(now + held) + RENEWAL_GRACE;
        }
    }

    fn put(&self, key: SessionKey, policy: u64, verdict: Arc<Verdict>, now: Instant) {
        let mut part = self.parts[key.part()].lock();
        let part = &mut *part;
        part.next_turn += 1;
        let turn = part.next_turn;
        let entry = Entry {
            until: now + Duration::from_secs(u64::from(verdict.duration_seconds)),
            verdict,
            policy,
            interrupted: false,
            turn,
        };
        part.bytes += ENTRY_BYTES + entry.verdict.bytes();
        if let Some(old) = part.entries.insert(key, entry) {
            part.bytes -= ENTRY_BYTES + old.verdict.bytes();
        }
        part.order.push_back((turn, key));
        while let Some((turn, key)) = part.order.front().copied() {
            let entry = part.entries.get(&key).filter(|entry| entry.turn == turn);
            let goes = entry.is_none_or(|entry| {
                part.bytes > self.part_bytes_max || now >= entry.until + REMEMBERED
            });
            if !goes {
                break;
            }
            if let Some(entry) = entry {
                part.bytes -= ENTRY_BYTES + entry.verdict.bytes();
                part.entries.remove(&key);
            }
            part.order.pop_front();
        }
        // Renewed sessions leave their old places behind.
        if part.order.len() > 2 * part.entries.len() + 64 {
            let entries = &part.entries;
            part.order
                .retain(|(turn, key)| entries.get(key).is_some_and(|entry| entry.turn == *turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> SessionKey {
        SessionKey::new(&[name])
    }

    fn allowed(max_sessions: Option<u32>, seconds: u32) -> Arc<Verdict> {
        Arc::new(Verdict {
            max_sessions,
            duration_seconds: seconds,
            ..Verdict::plain(true)
        })
    }

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn a_verdict_holds_as_long_as_it_was_said_and_is_remembered_longer() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        assert_eq!(sessions.known(key("a"), 1, now), Known::Nothing);
        let denied = Arc::new(Verdict::plain(false));
        for verdict in [allowed(None, 180), denied] {
            assert!(sessions.decided(key("a"), 1, &verdict, None, now));
            for (seconds, known) in [
                (0, Known::Holds(verdict.clone(), 180)),
                (179, Known::Holds(verdict.clone(), 1)),
                (180, Known::Stale(verdict.clone())),
                (180 + 599, Known::Stale(verdict.clone())),
                (180 + 600, Known::Nothing),
            ] {
                let at = later(now, seconds);
                assert_eq!(sessions.known(key("a"), 1, at), known, "{seconds}");
            }
            assert_eq!(
                sessions.known(key("a"), 2, now),
                Known::Nothing,
                "other rules"
            );
        }
        sessions.decided(key("b"), 1, &allowed(None, 0), None, now);
        assert!(matches!(sessions.known(key("b"), 1, now), Known::Stale(_)));
    }

    #[test]
    fn keys_tell_where_one_part_ends_and_the_next_begins() {
        assert_ne!(SessionKey::new(&["ab", "c"]), SessionKey::new(&["a", "bc"]));
        assert_ne!(SessionKey::new(&["a", ""]), SessionKey::new(&["a"]));
        assert_ne!(UserKey::new("b", "u"), UserKey::new("bu", ""));
    }

    #[test]
    fn the_oldest_session_of_a_user_with_too_many_is_interrupted() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        let user = Some(UserKey::new("backend", "u1"));
        let open = |name, second| {
            sessions.decided(
                key(name),
                1,
                &allowed(Some(2), 100),
                user,
                later(now, second),
            )
        };
        assert!(
            open("a", 0) && open("b", 1) && open("a", 2),
            "two, one of them renewed"
        );
        assert!(open("c", 3));
        let known = |name, second| sessions.known(key(name), 1, later(now, second));
        assert_eq!(
            known("a", 4),
            Known::Interrupted,
            "renewing makes nobody younger"
        );
        assert!(matches!(known("b", 4), Known::Holds(..)));
        assert!(matches!(known("c", 4), Known::Holds(..)));
        // It stays out for its time, and does not count meanwhile.
        assert_eq!(known("a", 102), Known::Interrupted);
        assert_eq!(known("a", 133), Known::Nothing);
        assert!(open("d", 5));
        assert_eq!(known("b", 6), Known::Interrupted);
        assert!(matches!(known("c", 6), Known::Holds(..)));
        // Another user, and the same name with another backend, are other people.
        let other = Some(UserKey::new("other", "u1"));
        assert!(sessions.decided(key("e"), 1, &allowed(Some(1), 100), other, later(now, 6)));
        assert!(matches!(known("d", 7), Known::Holds(..)));
    }

    #[test]
    fn sessions_that_ended_do_not_count() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        let user = Some(UserKey::new("backend", "u1"));
        let open = |name, second| {
            sessions.decided(
                key(name),
                1,
                &allowed(Some(1), 60),
                user,
                later(now, second),
            )
        };
        assert!(open("a", 0));
        // Nobody renewed it, also not a little late.
        assert!(open("b", 91));
        assert!(matches!(
            sessions.known(key("a"), 1, later(now, 92)),
            Known::Stale(_)
        ));
        // A denied one does not count either.
        let denied = Arc::new(Verdict::plain(false));
        assert!(sessions.decided(key("c"), 1, &denied, user, later(now, 93)));
        assert!(matches!(
            sessions.known(key("b"), 1, later(now, 93)),
            Known::Holds(..)
        ));
    }

    #[test]
    fn a_user_who_may_have_no_session_has_none() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        let user = Some(UserKey::new("backend", "u1"));
        assert!(!sessions.decided(key("a"), 1, &allowed(Some(0), 60), user, now));
        assert_eq!(sessions.known(key("a"), 1, now), Known::Interrupted);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_verdicts_go_first() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        for i in 0..20_000 {
            let verdict = Arc::new(Verdict {
                max_sessions: Some(1),
                ..Verdict::plain(true)
            });
            let user = Some(UserKey::new("backend", &format!("user {i}")));
            sessions.decided(key(&i.to_string()), 1, &verdict, user, now);
        }
        let (count, bytes) = sessions.size();
        assert!(bytes <= MIB && bytes > MIB / 2, "{bytes}");
        assert!(count < 20_000, "{count}");
        assert_eq!(sessions.known(key("0"), 1, now), Known::Nothing);
        assert!(matches!(
            sessions.known(key("19999"), 1, now),
            Known::Holds(..)
        ));
        let users: usize = sessions
            .users
            .iter()
            .map(|part| part.lock().sessions.len())
            .sum();
        assert!(users < 20_000, "{users} users of {count} sessions");
        // Renewing one again and again leaves no trail.
        for _ in 0..10_000 {
            sessions.decided(key("19999"), 1, &allowed(None, 60), None, now);
        }
        let part = sessions.parts[key("19999").part()].lock();
        assert!(part.order.len() <= 2 * part.entries.len() + 65);
        drop(part);
        assert!(sessions.size().1 <= MIB);
    }
}
