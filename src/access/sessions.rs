//! The cache of decisions about sessions, and the count of sessions per user.
//!
//! Shared by all cores, because the requests of a session arrive on any of them and the sessions of
//! a user are counted together. It has sixteen parts with a lock each, so that cores rarely
//! contend. In memory only: after a restart each session is decided again. Bounded in bytes: when
//! full, the oldest decisions are evicted.
//!
//! A user with more sessions than allowed loses the oldest one: it is denied at its next request,
//! for as long as its decision would have been valid. A session counts until its decision has
//! expired without renewal.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::answer::SessionDecision;

const PARTS: usize = 16;
/// Roughly the bytes of a session beside its decision: entries in the map and in the order.
const ENTRY_BYTES: usize = 192;
/// How long an expired decision is kept, to be used while no backend responds.
const STALE_TTL: Duration = Duration::from_mins(10);
/// How late the renewal of a session may be.
const RENEWAL_GRACE: Duration = Duration::from_secs(30);
/// Users of a part above which users without sessions are swept.
const USERS_SWEEP_MIN: usize = 1024;

/// A digest of everything that identifies a session.
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

/// A digest of a user and the backend that named this user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UserKey([u8; 16]);

impl UserKey {
    pub fn new(backend: &str, user: &str) -> Self {
        Self(digest(&[backend, user]))
    }
}

/// A digest of a list of texts; the lengths are part of it, so that `ab, c` differs from `a, bc`.
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

/// What the cache has about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedSession {
    /// Valid for this many more seconds.
    Valid(Arc<SessionDecision>, u32),
    /// Expired.
    Stale(Arc<SessionDecision>),
    /// The user has opened newer sessions.
    Interrupted,
    Nothing,
}

struct SessionEntry {
    decision: Arc<SessionDecision>,
    /// The policy in force when it was decided.
    policy: u64,
    until: Instant,
    interrupted: bool,
    /// Serial number of its valid place in the order.
    turn: u64,
}

#[derive(Default)]
struct Part {
    entries: HashMap<SessionKey, SessionEntry>,
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

/// The cache of all sessions.
pub struct Sessions {
    parts: [Mutex<Part>; PARTS],
    /// Locked before a part, never while one is locked.
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

    /// Looks up a decision. One that was made under another policy is void.
    pub fn lookup(&self, key: SessionKey, policy: u64, now: Instant) -> CachedSession {
        let part = self.parts[key.part()].lock();
        let Some(entry) = part.entries.get(&key) else {
            return CachedSession::Nothing;
        };
        let left = entry.until.saturating_duration_since(now);
        if entry.interrupted {
            return if left.is_zero() {
                CachedSession::Nothing
            } else {
                CachedSession::Interrupted
            };
        }
        if entry.policy != policy || now >= entry.until + STALE_TTL {
            return CachedSession::Nothing;
        }
        if left.is_zero() {
            return CachedSession::Stale(entry.decision.clone());
        }
        // Rounded up, so that a valid decision never has 0 seconds left.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        CachedSession::Valid(entry.decision.clone(), seconds as u32)
    }

    /// Stores a decision and interrupts the oldest sessions of a user with too many. Returns false
    /// if this session is the interrupted one.
    pub fn store(
        &self,
        key: SessionKey,
        policy: u64,
        decision: &Arc<SessionDecision>,
        user: Option<UserKey>,
        now: Instant,
    ) -> bool {
        self.put(key, policy, decision.clone(), now);
        let (Some(user), Some(max), true) = (user, decision.max_sessions, decision.is_allowed)
        else {
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

    /// The number of cached sessions, and their bytes.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        let parts = self.parts.iter().map(|part| {
            let part = part.lock();
            (part.entries.len(), part.bytes)
        });
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    /// Whether a session counts for its user: not interrupted, and renewed in time.
    fn counts(&self, key: SessionKey, now: Instant) -> bool {
        let part = self.parts[key.part()].lock();
        let entry = part.entries.get(&key);
        entry.is_some_and(|entry| !entry.interrupted && now < entry.until + RENEWAL_GRACE)
    }

    fn interrupt(&self, key: SessionKey, now: Instant) {
        let mut part = self.parts[key.part()].lock();
        if let Some(entry) = part.entries.get_mut(&key) {
            entry.interrupted = true;
            // Long enough that its streamer renews it at least once meanwhile.
            let valid = Duration::from_secs(u64::from(entry.decision.duration_seconds.max(1)));
            entry.until = entry.until.max(now + valid) + RENEWAL_GRACE;
        }
    }

    fn put(&self, key: SessionKey, policy: u64, decision: Arc<SessionDecision>, now: Instant) {
        let mut part = self.parts[key.part()].lock();
        let part = &mut *part;
        part.next_turn += 1;
        let turn = part.next_turn;
        let entry = SessionEntry {
            until: now + Duration::from_secs(u64::from(decision.duration_seconds)),
            decision,
            policy,
            interrupted: false,
            turn,
        };
        part.bytes += ENTRY_BYTES + entry.decision.bytes();
        if let Some(old) = part.entries.insert(key, entry) {
            part.bytes -= ENTRY_BYTES + old.decision.bytes();
        }
        part.order.push_back((turn, key));
        while let Some((turn, key)) = part.order.front().copied() {
            let entry = part.entries.get(&key).filter(|entry| entry.turn == turn);
            let goes = entry.is_none_or(|entry| {
                part.bytes > self.part_bytes_max || now >= entry.until + STALE_TTL
            });
            if !goes {
                break;
            }
            if let Some(entry) = entry {
                part.bytes -= ENTRY_BYTES + entry.decision.bytes();
                part.entries.remove(&key);
            }
            part.order.pop_front();
        }
        // Renewed sessions leave void places behind.
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

    fn allowed(max_sessions: Option<u32>, seconds: u32) -> Arc<SessionDecision> {
        Arc::new(SessionDecision {
            max_sessions,
            duration_seconds: seconds,
            ..SessionDecision::plain(true)
        })
    }

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn decision_expires_and_stays_available_as_stale() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        assert_eq!(sessions.lookup(key("a"), 1, now), CachedSession::Nothing);
        let denied = Arc::new(SessionDecision::plain(false));
        for decision in [allowed(None, 180), denied] {
            assert!(sessions.store(key("a"), 1, &decision, None, now));
            for (seconds, expected) in [
                (0, CachedSession::Valid(decision.clone(), 180)),
                (179, CachedSession::Valid(decision.clone(), 1)),
                (180, CachedSession::Stale(decision.clone())),
                (180 + 599, CachedSession::Stale(decision.clone())),
                (180 + 600, CachedSession::Nothing),
            ] {
                let at = later(now, seconds);
                assert_eq!(sessions.lookup(key("a"), 1, at), expected, "{seconds}");
            }
            assert_eq!(
                sessions.lookup(key("a"), 2, now),
                CachedSession::Nothing,
                "other rules"
            );
        }
        sessions.store(key("b"), 1, &allowed(None, 0), None, now);
        assert!(matches!(
            sessions.lookup(key("b"), 1, now),
            CachedSession::Stale(_)
        ));
    }

    #[test]
    fn session_keys_separate_their_parts() {
        assert_ne!(SessionKey::new(&["ab", "c"]), SessionKey::new(&["a", "bc"]));
        assert_ne!(SessionKey::new(&["a", ""]), SessionKey::new(&["a"]));
        assert_ne!(UserKey::new("b", "u"), UserKey::new("bu", ""));
    }

    #[test]
    fn oldest_session_above_the_limit_is_interrupted() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        let user = Some(UserKey::new("backend", "u1"));
        let open = |name, second| {
            sessions.store(
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
        let lookup = |name, second| sessions.lookup(key(name), 1, later(now, second));
        assert_eq!(
            lookup("a", 4),
            CachedSession::Interrupted,
            "renewal does not make it newer"
        );
        assert!(matches!(lookup("b", 4), CachedSession::Valid(..)));
        assert!(matches!(lookup("c", 4), CachedSession::Valid(..)));
        // It stays interrupted for its time, and does not count meanwhile.
        assert_eq!(lookup("a", 102), CachedSession::Interrupted);
        assert_eq!(lookup("a", 133), CachedSession::Nothing);
        assert!(open("d", 5));
        assert_eq!(lookup("b", 6), CachedSession::Interrupted);
        assert!(matches!(lookup("c", 6), CachedSession::Valid(..)));
        // The same name with another backend is another user.
        let other = Some(UserKey::new("other", "u1"));
        assert!(sessions.store(key("e"), 1, &allowed(Some(1), 100), other, later(now, 6)));
        assert!(matches!(lookup("d", 7), CachedSession::Valid(..)));
    }

    #[test]
    fn ended_sessions_do_not_count() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        let user = Some(UserKey::new("backend", "u1"));
        let open = |name, second| {
            sessions.store(
                key(name),
                1,
                &allowed(Some(1), 60),
                user,
                later(now, second),
            )
        };
        assert!(open("a", 0));
        // Not renewed within the grace period.
        assert!(open("b", 91));
        assert!(matches!(
            sessions.lookup(key("a"), 1, later(now, 92)),
            CachedSession::Stale(_)
        ));
        // A denied one does not count either.
        let denied = Arc::new(SessionDecision::plain(false));
        assert!(sessions.store(key("c"), 1, &denied, user, later(now, 93)));
        assert!(matches!(
            sessions.lookup(key("b"), 1, later(now, 93)),
            CachedSession::Valid(..)
        ));
    }

    #[test]
    fn limit_of_zero_sessions_allows_none() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        let user = Some(UserKey::new("backend", "u1"));
        assert!(!sessions.store(key("a"), 1, &allowed(Some(0), 60), user, now));
        assert_eq!(
            sessions.lookup(key("a"), 1, now),
            CachedSession::Interrupted
        );
    }

    #[test]
    fn memory_is_bounded_and_oldest_decisions_evicted() {
        let (sessions, now) = (Sessions::new(MIB), Instant::now());
        for i in 0..20_000 {
            let decision = Arc::new(SessionDecision {
                max_sessions: Some(1),
                ..SessionDecision::plain(true)
            });
            let user = Some(UserKey::new("backend", &format!("user {i}")));
            sessions.store(key(&i.to_string()), 1, &decision, user, now);
        }
        let (count, bytes) = sessions.size();
        assert!(bytes <= MIB && bytes > MIB / 2, "{bytes}");
        assert!(count < 20_000, "{count}");
        assert_eq!(sessions.lookup(key("0"), 1, now), CachedSession::Nothing);
        assert!(matches!(
            sessions.lookup(key("19999"), 1, now),
            CachedSession::Valid(..)
        ));
        let users: usize = sessions
            .users
            .iter()
            .map(|part| part.lock().sessions.len())
            .sum();
        assert!(users < 20_000, "{users} users of {count} sessions");
        // Repeated renewal uses no more memory.
        for _ in 0..10_000 {
            sessions.store(key("19999"), 1, &allowed(None, 60), None, now);
        }
        let part = sessions.parts[key("19999").part()].lock();
        assert!(part.order.len() <= 2 * part.entries.len() + 65);
        drop(part);
        assert!(sessions.size().1 <= MIB);
    }
}
