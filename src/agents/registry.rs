//! The registry of agents: which are connected to which core, and what they reported.
//!
//! The registry is a value that is replaced as a whole ([`Registry::snapshot`]), so readers on any
//! core take no lock. It changes when an agent connects or is deleted; its traffic is counted in
//! place. A disconnected agent stays in the registry until it is deleted. Nothing here is durable.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use imbl::OrdMap;

use super::protocol::{AgentCounters, AgentDescription};
use crate::http::Ticket;
use crate::json::write_string;

/// The agents that have connected since the process started.
#[derive(Default)]
pub struct Registry {
    agents: ArcSwap<OrdMap<Arc<str>, Arc<Presence>>>,
    sessions: AtomicU64,
    connected: AtomicUsize,
}

/// One agent: its newest connection, and what it reported.
pub struct Presence {
    pub id: Arc<str>,
    /// Serial number of the connection, over all agents.
    pub session: u64,
    /// The core that holds the connection, and the ticket of the connection there.
    pub core: usize,
    pub ticket: Ticket,
    peer: IpAddr,
    opened_at_ms: u64,
    alive: AtomicBool,
    status_changed_at_s: AtomicU64,
    bytes_from_server: AtomicU64,
    bytes_to_server: AtomicU64,
    description: ArcSwap<AgentDescription>,
    counters: ArcSwapOption<AgentCounters>,
    streampoint: ArcSwapOption<Streampoint>,
}

/// The connection of an agent to the streamer that takes its video, as the agent reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streampoint {
    pub hostname: Box<str>,
    pub alive: bool,
    pub opened_at_ms: Option<u64>,
    pub status_changed_at_s: u64,
}

impl Registry {
    /// The registry at this moment.
    pub fn snapshot(&self) -> Arc<OrdMap<Arc<str>, Arc<Presence>>> {
        self.agents.load_full()
    }

    pub fn get(&self, id: &str) -> Option<Arc<Presence>> {
        self.agents.load().get(id).cloned()
    }

    /// The agent if it is connected.
    pub fn online(&self, id: &str) -> Option<Arc<Presence>> {
        self.get(id).filter(|presence| presence.is_alive())
    }

    /// The number of connected agents.
    #[cfg(test)]
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Adds a connection of an agent; what the agent reported earlier is kept until it reports
    /// again. Also returns the connection that this one replaces, if that is still open.
    pub fn connect(
        &self,
        id: &str,
        core: usize,
        ticket: Ticket,
        peer: IpAddr,
        now_ms: u64,
    ) -> (Arc<Presence>, Option<Arc<Presence>>) {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let id: Arc<str> = Arc::from(id);
        let mut made = None;
        let before = self.agents.rcu(|agents| {
            let known = agents.get(&id);
            let presence = Arc::new(Presence {
                id: id.clone(),
                session,
                core,
                ticket,
                peer,
                opened_at_ms: now_ms,
                alive: AtomicBool::new(true),
                status_changed_at_s: AtomicU64::new(now_ms / 1000),
                bytes_from_server: AtomicU64::new(0),
                bytes_to_server: AtomicU64::new(0),
                description: ArcSwap::new(
                    known.map_or_else(Arc::default, |known| known.description.load_full()),
                ),
                counters: ArcSwapOption::new(known.and_then(|known| known.counters.load_full())),
                streampoint: ArcSwapOption::new(
                    known.and_then(|known| known.streampoint.load_full()),
                ),
            });
            made = Some(presence.clone());
            agents.update(id.clone(), presence)
        });
        self.connected.fetch_add(1, Ordering::Relaxed);
        let replaced = before.get(&id).filter(|old| old.is_alive()).cloned();
        (made.expect("the update ran at least once"), replaced)
    }

    /// Marks a connection as closed.
    pub fn disconnect(&self, presence: &Presence, now_ms: u64) {
        if presence.alive.swap(false, Ordering::AcqRel) {
            presence
                .status_changed_at_s
                .store(now_ms / 1000, Ordering::Relaxed);
            self.connected.fetch_sub(1, Ordering::Relaxed);
        }
        let streampoint = presence.streampoint.load_full();
        if let Some(streampoint) = streampoint.filter(|streampoint| streampoint.alive) {
            // Its end cannot be reported any more.
            presence.streampoint.store(Some(Arc::new(Streampoint {
                alive: false,
                status_changed_at_s: now_ms / 1000,
                ..(*streampoint).clone()
            })));
        }
    }

    /// Removes a deleted agent.
    pub fn forget(&self, id: &str) {
        self.agents.rcu(|agents| {
            let mut agents = (**agents).clone();
            agents.remove(id);
            agents
        });
    }
}

impl Presence {
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    pub fn received(&self, bytes: usize) {
        self.bytes_to_server
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        self.bytes_from_server
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Updates the description; absent members keep their values.
    pub fn describe(&self, description: AgentDescription) {
        let known = self.description.load();
        self.description.store(Arc::new(description.or(&known)));
    }

    pub fn count(&self, counters: AgentCounters) {
        self.counters.store(Some(Arc::new(counters)));
    }

    pub fn streampoint(&self) -> Option<Arc<Streampoint>> {
        self.streampoint.load_full()
    }

    /// Records that the agent was sent to a streamer, or what it reported about that connection.
    pub fn set_streampoint(&self, hostname: &str, alive: bool, now_ms: u64) {
        let known = self.streampoint.load_full();
        let same = known.filter(|known| *known.hostname == *hostname);
        if same.as_ref().is_some_and(|known| known.alive == alive) {
            return;
        }
        self.streampoint.store(Some(Arc::new(Streampoint {
            hostname: hostname.into(),
            alive,
            opened_at_ms: if alive {
                Some(now_ms)
            } else {
                same.and_then(|known| known.opened_at_ms)
            },
            status_changed_at_s: now_ms / 1000,
        })));
    }

    /// Writes the `stats` of the agent, members sorted. `server` is the name of this server.
    pub fn write_stats(&self, server: &str, out: &mut Vec<u8>) {
        let description = self.description.load();
        let counters = self.counters.load();
        let counters = counters.as_deref();
        out.extend_from_slice(b"{\"agent_type\":");
        write_string(out, description.agent_type.unwrap_or("single"));
        number(
            out,
            "connections_established",
            counters.map_or(0, |counters| counters.connections_established),
        );
        number(
            out,
            "connections_requested",
            counters.map_or(0, |counters| counters.connections_requested),
        );
        out.extend_from_slice(b",\"endpoint_connection\":{\"alive\":");
        boolean(out, self.is_alive());
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        number(out, "bytes_from_server", read(&self.bytes_from_server));
        number(out, "bytes_to_server", read(&self.bytes_to_server));
        text(out, "hostname", Some(server));
        number(out, "opened_at", self.opened_at_ms);
        number(out, "status_changed_at", read(&self.status_changed_at_s));
        out.push(b'}');
        let local_ip = description.local_ip.map(|ip| ip.to_string());
        text(out, "local_ip", local_ip.as_deref());
        text(out, "mac_address", description.mac_address.as_deref());
        let peer_ip = match self.peer {
            // The schema allows only IPv4 addresses.
            IpAddr::V4(ip) => Some(ip.to_string()),
            IpAddr::V6(ip) if ip.is_loopback() => Some(Ipv4Addr::LOCALHOST.to_string()),
            IpAddr::V6(_) => None,
        };
        text(out, "peer_ip", peer_ip.as_deref());
        out.extend_from_slice(b",\"streampoint_connection\":");
        self.write_streampoint(counters, out);
        text(out, "version", description.version.as_deref());
        out.push(b'}');
    }

    fn write_streampoint(&self, counters: Option<&AgentCounters>, out: &mut Vec<u8>) {
        let Some(streampoint) = self.streampoint.load_full() else {
            return out.extend_from_slice(b"null");
        };
        out.extend_from_slice(b"{\"alive\":");
        boolean(out, streampoint.alive);
        if let Some(counters) = counters {
            number(out, "bytes_from_server", counters.bytes_from_server);
            number(out, "bytes_to_server", counters.bytes_to_server);
            number(out, "connections_attempted", counters.connections_attempted);
            number(out, "connections_current", counters.connections_current);
            number(out, "connections_opened", counters.connections_opened);
        }
        text(out, "hostname", Some(&streampoint.hostname));
        if let Some(opened_at_ms) = streampoint.opened_at_ms {
            number(out, "opened_at", opened_at_ms);
        }
        number(out, "status_changed_at", streampoint.status_changed_at_s);
        out.push(b'}');
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    member(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    member(out, name);
    match value {
        Some(value) => write_string(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn connect(registry: &Registry, id: &str, slot: u32) -> (Arc<Presence>, Option<u64>) {
        let ticket = Ticket { slot, epoch: 1 };
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (presence, replaced) = registry.connect(id, 0, ticket, peer, NOW);
        (presence, replaced.map(|replaced| replaced.session))
    }

    fn stats(presence: &Presence) -> serde_json::Value {
        let mut out = Vec::new();
        presence.write_stats("here", &mut out);
        serde_json::from_slice(&out).expect("stats are JSON")
    }

    #[test]
    fn end_of_a_replaced_connection_changes_nothing() {
        let registry = Registry::default();
        let (first, replaced) = connect(&registry, "a", 1);
        assert_eq!(replaced, None);
        first.describe(AgentDescription {
            version: Some("1".into()),
            ..AgentDescription::default()
        });
        let (second, replaced) = connect(&registry, "a", 2);
        assert_eq!(replaced, Some(first.session));
        assert_eq!(registry.connected(), 2, "until the first one ends");
        registry.disconnect(&first, NOW + 5000);
        registry.disconnect(&first, NOW + 6000);
        assert_eq!(registry.connected(), 1);
        let online = registry.online("a").expect("the second connection");
        assert_eq!(online.session, second.session);
        assert_eq!(stats(&online)["version"], "1", "reported by the first");
        registry.disconnect(&second, NOW + 7000);
        assert!(registry.online("a").is_none());
        let left = stats(&registry.get("a").expect("a disconnected agent"));
        assert_eq!(left["endpoint_connection"]["alive"], false);
        assert_eq!(
            left["endpoint_connection"]["status_changed_at"],
            NOW / 1000 + 7
        );
        let (_, replaced) = connect(&registry, "a", 3);
        assert_eq!(replaced, None, "a closed connection is not replaced");
        registry.forget("a");
        assert!(registry.get("a").is_none());
    }

    #[test]
    fn streampoint_ends_with_the_control_connection() {
        let registry = Registry::default();
        let (presence, _) = connect(&registry, "a", 1);
        assert_eq!(
            stats(&presence)["streampoint_connection"],
            serde_json::Value::Null
        );
        presence.set_streampoint("s1", false, NOW);
        presence.set_streampoint("s1", true, NOW + 1000);
        presence.set_streampoint("s1", true, NOW + 2000);
        let written = stats(&presence);
        let streampoint = &written["streampoint_connection"];
        assert_eq!(streampoint["opened_at"], NOW + 1000);
        assert_eq!(streampoint["status_changed_at"], NOW / 1000 + 1);
        presence.set_streampoint("s2", false, NOW + 3000);
        assert_eq!(
            stats(&presence)["streampoint_connection"]["opened_at"],
            serde_json::Value::Null,
            "another streamer"
        );
        presence.set_streampoint("s2", true, NOW + 4000);
        registry.disconnect(&presence, NOW + 5000);
        let written = stats(&presence);
        assert_eq!(written["streampoint_connection"]["alive"], false);
        assert_eq!(written["streampoint_connection"]["hostname"], "s2");
    }
}
