//! Addresses and certificates of other servers, for connections that an io core makes itself.
//!
//! ResolvedNames are resolved on a few threads, because the system's resolver blocks; an address is
//! connected to only after the egress policy has allowed it, so that a second, different DNS answer
//! gains nothing. Found addresses are kept for a while, unchecked: the policy is applied at each
//! use.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};

use super::client::OutboundError;
use super::policy::EgressPolicy;
use super::target::{TargetUrl, literal_address};
use crate::limits::{RESOLVED_ADDRESSES_MAX, RESOLVED_NAMES_MAX};

/// How long the addresses of a name are reused.
const NAME_CACHE_TTL: Duration = Duration::from_secs(30);
/// Threads that resolve names; a name server that does not answer occupies one for seconds.
const THREADS: usize = 8;
/// ResolvedNames that may wait for a thread.
const WAITING_MAX: usize = 16 * 1024;
/// The system's resolver needs about 100 KiB.
const STACK_BYTES: usize = 512 * 1024;

type Found = Result<Vec<SocketAddr>, OutboundError>;
type OnFound = Box<dyn FnOnce(Found) + Send>;

/// Finds the addresses of other servers. Shared by all cores.
pub struct Dialer {
    policy: Arc<EgressPolicy>,
    tls: Arc<ClientConfig>,
    names: Arc<Mutex<ResolvedNames>>,
    /// Started by the first name.
    threads: OnceLock<Option<Sender<Lookup>>>,
}

struct Lookup {
    host: Box<str>,
    port: u16,
    on_found: OnFound,
}

#[derive(Default)]
struct ResolvedNames(HashMap<(Box<str>, u16), (Instant, Vec<SocketAddr>)>);

impl ResolvedNames {
    fn find(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let (until, known) = self.0.get(&(host.into(), port))?;
        (*until > Instant::now()).then(|| known.clone())
    }

    fn keep(&mut self, host: Box<str>, port: u16, found: Vec<SocketAddr>) {
        let now = Instant::now();
        if self.0.len() >= RESOLVED_NAMES_MAX {
            self.0.retain(|_, (until, _)| *until > now);
        }
        if self.0.len() < RESOLVED_NAMES_MAX {
            self.0.insert((host, port), (now + NAME_CACHE_TTL, found));
        }
    }
}

impl Dialer {
    /// Trusts the certificates of public authorities.
    pub fn new(policy: Arc<EgressPolicy>) -> Result<Self, rustls::Error> {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        Self::trusting(policy, roots)
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

    /// The addresses of a target if they are known without waiting.
    pub(super) fn known(&self, target: &TargetUrl) -> Option<Vec<SocketAddr>> {
        let (host, port) = (target.host(), target.port());
        match literal_address(host) {
            Some(address) => Some(vec![SocketAddr::new(address, port)]),
            None => self.names.lock().find(host, port),
        }
    }

    /// Resolves the name of a target. `on_found` is called once, possibly before this returns.
    pub(super) fn look_up(&self, target: &TargetUrl, on_found: OnFound) {
        let lookup = Lookup {
            host: target.host().into(),
            port: target.port(),
            on_found,
        };
        let threads = self.threads.get_or_init(|| start(&self.names).ok());
        let lookup = match threads {
            Some(threads) => match threads.try_send(lookup) {
                Ok(()) => return,
                Err(full) => full.into_inner(),
            },
            None => lookup,
        };
        (lookup.on_found)(Err(OutboundError::Busy));
    }
}

fn start(names: &Arc<Mutex<ResolvedNames>>) -> io::Result<Sender<Lookup>> {
    let (sender, lookups) = bounded::<Lookup>(WAITING_MAX);
    for index in 0..THREADS {
        let (names, lookups) = (names.clone(), lookups.clone());
        thread::Builder::new()
            .name(format!("resolve-{index}"))
            .stack_size(STACK_BYTES)
            .spawn(move || run(&names, &lookups))?;
    }
    Ok(sender)
}

fn run(names: &Mutex<ResolvedNames>, lookups: &Receiver<Lookup>) {
    for Lookup {
        host,
        port,
        on_found,
    } in lookups
    {
        // It may have been found while this one waited.
        let known = names.lock().find(&host, port);
        let found = match known {
            Some(known) => Ok(known),
            None => (&*host, port).to_socket_addrs().map(Iterator::collect),
        };
        on_found(match found {
            Ok(found) => {
                let found: Vec<SocketAddr> = found;
                names.lock().keep(host, port, found.clone());
                Ok(found)
            }
            Err(_) => Err(OutboundError::Unreachable),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::Subnets;
    use std::sync::mpsc;

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
                let (sender, found) = mpsc::channel();
                let on_found = move |found| sender.send(found).expect("the test receives");
                dialer.look_up(&target, Box::new(on_found));
                found.recv().expect("it is sent once").unwrap_or_default()
            });
            let allowed = dialer.allowed(&found);
            let is_refused = matches!(
                allowed,
                Err(OutboundError::Forbidden | OutboundError::Unreachable)
            );
            assert!(is_refused, "{host}: {allowed:?}");
        }
    }
}
