//! Addresses and certificates of other servers, for connections that an io core makes itself.
//!
//! Names are resolved on a few threads, because the system's resolver blocks: each name by one of
//! them at a time, for all calls that wait for it, and not at all when none does any more. An
//! address is connected to only after the egress policy has allowed it, so that a second, different
//! DNS answer gains nothing. Found addresses are kept for a while, failures for a moment, both
//! unchecked: the policy is applied at each use. Addresses that refuse connections are found again
//! at once, so that a server which moved is reached where it is now.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};

use super::client::OutboundError;
use super::policy::EgressPolicy;
use super::target::{TargetUrl, literal_address};
use crate::authorities;
use crate::limits::{RESOLVED_ADDRESSES_MAX, RESOLVED_NAMES_MAX};
use crate::rt::Inbox;

/// How long the addresses of a name are reused.
const NAME_CACHE_TTL: Duration = Duration::from_secs(30);
/// How long a name that could not be resolved, or whose addresses could not be connected to, is not
/// tried again.
const FAILURE_CACHE_TTL: Duration = Duration::from_secs(1);
/// Threads that resolve names; a name server that does not answer occupies one for seconds.
const THREADS: usize = 8;
/// Names that may wait for a thread.
const WAITING_MAX: usize = 16 * 1024;
/// The system's resolver needs about 100 KiB.
const STACK_BYTES: usize = 512 * 1024;

type Found = Result<Vec<SocketAddr>, OutboundError>;
/// Receives the addresses of a name, once.
type LookupInbox = Inbox<Option<Found>>;
/// A host and a port.
type Name = (Box<str>, u16);
type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Finds the addresses of other servers. Shared by all cores.
pub struct Dialer {
    policy: Arc<EgressPolicy>,
    tls: Arc<ClientConfig>,
    names: Arc<Mutex<NameLookups>>,
    resolve: Resolve,
    /// Started by the first name.
    threads: OnceLock<Option<Sender<Name>>>,
}

#[derive(Default)]
struct NameLookups {
    /// When it was found, and the result.
    resolved: HashMap<Name, (Instant, Found)>,
    /// The calls that wait for a name, as long as they do.
    waiting: HashMap<Name, Vec<Weak<LookupInbox>>>,
}

impl NameLookups {
    fn find(&self, name: &Name) -> Option<Found> {
        let (at, found) = self.resolved.get(name)?;
        (at.elapsed() < lifetime(found)).then(|| found.clone())
    }

    /// Forgets the addresses of a name, unless they were found a moment ago.
    fn forget(&mut self, name: &Name) {
        let found = self.resolved.get(name);
        if found.is_some_and(|(at, _)| at.elapsed() >= FAILURE_CACHE_TTL) {
            self.resolved.remove(name);
        }
    }

    /// Adds a call that waits. Returns whether it is the first one of its name.
    fn wait(&mut self, name: &Name, inbox: &Arc<LookupInbox>) -> bool {
        let waiting = self.waiting.get_mut(name);
        let is_first = waiting.is_none();
        let mut first = Vec::new();
        let waiting = waiting.unwrap_or(&mut first);
        if waiting.len() == waiting.capacity() {
            waiting.retain(|inbox| inbox.strong_count() > 0);
        }
        waiting.push(Arc::downgrade(inbox));
        if is_first {
            self.waiting.insert(name.clone(), first);
        }
        is_first
    }

    /// Whether a call still waits for a name. If not, the next one is the first again.
    fn is_awaited(&mut self, name: &Name) -> bool {
        let waiting = self.waiting.get(name);
        let is_awaited = waiting.is_some_and(|all| all.iter().any(|it| it.strong_count() > 0));
        if !is_awaited {
            self.waiting.remove(name);
        }
        is_awaited
    }

    /// Keeps the result of a name and sends it to the calls that wait for it.
    fn finish(&mut self, name: Name, found: &Found) {
        let waiting = self.waiting.remove(&name).unwrap_or_default();
        for inbox in waiting.iter().filter_map(Weak::upgrade) {
            inbox.push(Some(found.clone()));
        }
        // The lack is of this server.
        if matches!(found, Err(OutboundError::Busy)) {
            return;
        }
        let now = Instant::now();
        if self.resolved.len() >= RESOLVED_NAMES_MAX {
            let is_valid = |at: &Instant, found: &Found| now - *at < lifetime(found);
            self.resolved.retain(|_, (at, found)| is_valid(at, found));
        }
        if self.resolved.len() < RESOLVED_NAMES_MAX {
            self.resolved.insert(name, (now, found.clone()));
        }
    }
}

/// How long a result is used.
fn lifetime(found: &Found) -> Duration {
    match found {
        Ok(_) => NAME_CACHE_TTL,
        Err(_) => FAILURE_CACHE_TTL,
    }
}

fn name_of(target: &TargetUrl) -> Name {
    (target.host().into(), target.port())
}

impl Dialer {
    /// Trusts the certificate authorities of the system.
    pub fn new(policy: Arc<EgressPolicy>) -> Result<Self, rustls::Error> {
        Self::trusting(policy, authorities::root_store())
    }

    fn trusting(policy: Arc<EgressPolicy>, roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            policy,
            tls: Arc::new(tls),
            names: Arc::default(),
            resolve: |host, port| (host, port).to_socket_addrs().map(Iterator::collect),
            threads: OnceLock::new(),
        })
    }

    /// A dialer that trusts one certificate, in DER.
    #[cfg(test)]
    pub(super) fn with_certificate(policy: Arc<EgressPolicy>, certificate: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = rustls::pki_types::CertificateDer::from(certificate.to_vec());
        roots.add(certificate).expect("a certificate");
        Self::trusting(policy, roots).expect("the provider has safe versions")
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// Of some addresses those that may be connected to, the first ones.
    pub(super) fn allowed(&self, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, OutboundError> {
        let allowed = found.iter().filter(|address| self.policy.allows(**address));
        let allowed: Vec<SocketAddr> = allowed.take(RESOLVED_ADDRESSES_MAX).copied().collect();
        match (allowed.is_empty(), found.is_empty()) {
            (true, true) => Err(OutboundError::Unreachable),
            (true, false) => Err(OutboundError::Forbidden),
            (false, _) => Ok(allowed),
        }
    }

    /// The addresses of a target if they, or that it has none, are known without waiting.
    pub(super) fn known(&self, target: &TargetUrl) -> Option<Found> {
        match literal_address(target.host()) {
            Some(address) => Some(Ok(vec![SocketAddr::new(address, target.port())])),
            None => self.names.lock().find(&name_of(target)),
        }
    }

    /// None of the addresses of a target could be connected to: its name is resolved again when it
    /// is needed, once a second at most.
    pub(super) fn forget(&self, target: &TargetUrl) {
        self.names.lock().forget(&name_of(target));
    }

    /// Whether the name of a target leads to other addresses than this one, as far as is known.
    pub(super) fn has_moved(&self, target: &TargetUrl, address: SocketAddr) -> bool {
        match self.known(target) {
            Some(Ok(found)) => !found.is_empty() && !found.contains(&address),
            Some(Err(_)) | None => false,
        }
    }

    /// A dialer with another resolver.
    #[cfg(test)]
    pub(super) fn resolving(policy: Arc<EgressPolicy>, resolve: Resolve) -> Self {
        Self {
            resolve,
            ..Self::new(policy).expect("a provider")
        }
    }

    /// Resolves the name of a target. The result is pushed once, possibly before this returns;
    /// dropping the inbox ends the wait.
    pub(super) fn look_up(&self, target: &TargetUrl, inbox: &Arc<LookupInbox>) {
        let name = name_of(target);
        let mut names = self.names.lock();
        // It may have been found meanwhile.
        if let Some(found) = names.find(&name) {
            inbox.push(Some(found));
            return;
        }
        if !names.wait(&name, inbox) {
            return;
        }
        let threads = self.threads.get_or_init(|| self.start().ok());
        let taken = threads
            .as_ref()
            .map(|threads| threads.try_send(name.clone()));
        if !matches!(taken, Some(Ok(()))) {
            names.finish(name, &Err(OutboundError::Busy));
        }
    }

    fn start(&self) -> io::Result<Sender<Name>> {
        let (sender, queue) = bounded::<Name>(WAITING_MAX);
        for index in 0..THREADS {
            let (names, queue, resolve) = (self.names.clone(), queue.clone(), self.resolve);
            thread::Builder::new()
                .name(format!("resolve-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || run(&names, &queue, resolve))?;
        }
        Ok(sender)
    }
}

fn run(names: &Mutex<NameLookups>, queue: &Receiver<Name>, resolve: Resolve) {
    for name in queue {
        if !names.lock().is_awaited(&name) {
            continue;
        }
        let found = resolve(&name.0, name.1).map_err(|_| OutboundError::Unreachable);
        names.lock().finish(name, &found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::Subnets;

    /// What is pushed, within a minute.
    fn received(inbox: &LookupInbox) -> Found {
        let until = Instant::now() + Duration::from_mins(1);
        while Instant::now() < until {
            if let Some(found) = inbox.try_recv() {
                return found.expect("only addresses are pushed");
            }
            thread::yield_now();
        }
        panic!("nothing is pushed within a minute");
    }

    /// A resolver that counts and waits: names that begin with `held-` until [`HELD`] is released.
    static RESOLVED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static HELD: Mutex<()> = Mutex::new(());

    fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        RESOLVED.lock().push(host.to_owned());
        if host.starts_with("held-") {
            drop(HELD.lock());
        }
        if host.ends_with("-unknown") {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
    }

    #[test]
    fn name_is_resolved_once_for_all_calls_that_still_wait() {
        // Goal: calls that wait for one name share its resolution, abandoned ones cost none, and a
        // failure is not repeated at once. Method: all threads are held by other names meanwhile.
        let policy = Arc::new(EgressPolicy::new(true, Subnets::default()));
        let dialer = Dialer::resolving(policy, resolve);
        let target = |host: &str| TargetUrl::parse(&format!("http://{host}:81/")).expect("a URL");
        let look_up = |host: &str| {
            let inbox: Arc<LookupInbox> = Arc::default();
            dialer.look_up(&target(host), &inbox);
            inbox
        };
        let resolved = |host: &str| RESOLVED.lock().iter().filter(|it| *it == host).count();
        let held = HELD.lock();
        let holding = (0..THREADS).map(|i| look_up(&format!("held-{i}")));
        let holding: Vec<_> = holding.collect();
        let shared: Vec<_> = (0..3).map(|_| look_up("shared")).collect();
        let failing: Vec<_> = (0..3).map(|_| look_up("name-unknown")).collect();
        for _ in 0..100 {
            drop(look_up("abandoned"));
        }
        // It is the last of the queue.
        let last = look_up("last");
        assert!(dialer.names.lock().waiting[&("abandoned".into(), 81)].len() < 10);
        drop(held);
        for inbox in holding.iter().chain(&shared).chain([&last]) {
            assert_eq!(
                received(inbox),
                Ok(vec![SocketAddr::from(([127, 0, 0, 1], 81))])
            );
        }
        for inbox in &failing {
            assert_eq!(received(inbox), Err(OutboundError::Unreachable));
        }
        let counts = ["shared", "name-unknown", "abandoned", "last"].map(resolved);
        assert_eq!(counts, [1, 1, 0, 1]);
        let names = dialer.names.lock();
        let kept = &names.resolved[&("name-unknown".into(), 81)].1;
        assert_eq!(kept, &Err(OutboundError::Unreachable));
    }

    #[test]
    fn policy_is_applied_to_every_notation_of_an_address() {
        let policy = Arc::new(EgressPolicy::new(false, Subnets::default()));
        let dialer = Dialer::new(policy).expect("a provider");
        for host in [
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "[::1]",
        ] {
            let target = TargetUrl::parse(&format!("http://{host}:81/")).expect(host);
            let found = dialer.known(&target).unwrap_or_else(|| {
                let inbox = Arc::default();
                dialer.look_up(&target, &inbox);
                received(&inbox)
            });
            let found = found.unwrap_or_default();
            let allowed = dialer.allowed(&found);
            let is_refused = matches!(
                allowed,
                Err(OutboundError::Forbidden | OutboundError::Unreachable)
            );
            assert!(is_refused, "{host}: {allowed:?}");
        }
    }
}
