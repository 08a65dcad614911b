//! The rules of load balancers: which server is eligible for a client, and which of them is chosen.

use crate::access::rules::{Country, country};
use crate::json::{Object, Value};

/// The measure by which the load of servers is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BalancerMode {
    Usage,
    Clients,
    Bitrate,
    Streams,
}

/// The parsed configuration of a balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    pub mode: BalancerMode,
    pub servers: Vec<Server>,
}

/// One server of a balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub hostname: Box<str>,
    countries: Vec<Country>,
    countries_default: bool,
    /// Kbit/s.
    max_bitrate: Option<u64>,
}

/// The current load of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    pub clients: u64,
    /// Traffic to clients, kbit/s.
    pub bitrate_kbit: u64,
    pub streams: u64,
}

impl Balancer {
    /// Reads a configuration that the schema has accepted.
    pub fn of(config: &Object) -> Self {
        let mode = match config.get("mode").and_then(Value::as_str) {
            Some("usage") => BalancerMode::Usage,
            Some("clients") => BalancerMode::Clients,
            Some("streams") => BalancerMode::Streams,
            _ => BalancerMode::Bitrate,
        };
        let servers = config.get("servers").and_then(Value::as_array);
        let servers = servers.unwrap_or_default().iter().filter_map(Server::of);
        Self {
            mode,
            servers: servers.collect(),
        }
    }

    /// Whether the choice depends on the country of the client.
    pub fn has_countries(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| !server.countries.is_empty() || server.countries_default)
    }

    /// The least loaded eligible server, if there is one.
    ///
    /// `load` returns the load of a server that is alive; `random` decides between equals.
    pub fn choose(
        &self,
        load: impl Fn(&str) -> Option<Load>,
        from: Option<Country>,
        random: u64,
    ) -> Option<&Server> {
        let mut best: Vec<(&Server, Load)> = Vec::new();
        for (server, accepts) in self.accepting(from) {
            if !accepts {
                continue;
            }
            let Some(load) = load(&server.hostname) else {
                continue;
            };
            if server
                .max_bitrate
                .is_some_and(|max| load.bitrate_kbit >= max)
                || (self.mode == BalancerMode::Usage && server.max_bitrate.is_none())
            {
                continue;
            }
            let order = best
                .first()
                .map_or(std::cmp::Ordering::Less, |(other, least)| {
                    self.compare((server, load), (other, *least))
                });
            if order.is_lt() {
                best.clear();
            }
            if order.is_le() {
                best.push((server, load));
            }
        }
        let count = best.len() as u64;
        let chosen = best.get(random.checked_rem(count)? as usize)?;
        Some(chosen.0)
    }

    /// The servers, and whether they accept clients of a country.
    pub fn accepting(&self, from: Option<Country>) -> impl Iterator<Item = (&Server, bool)> {
        let is_listed = from.is_some_and(|from| {
            let mut servers = self.servers.iter();
            servers.any(|server| server.countries.contains(&from))
        });
        let servers = self.servers.iter();
        servers.map(move |server| (server, server.accepts(from, is_listed)))
    }

    fn compare(&self, a: (&Server, Load), b: (&Server, Load)) -> std::cmp::Ordering {
        let by = |load: Load| match self.mode {
            BalancerMode::Clients => load.clients,
            BalancerMode::Streams => load.streams,
            BalancerMode::Bitrate | BalancerMode::Usage => load.bitrate_kbit,
        };
        // Shares are compared without division: a/m < b/n is a*n < b*m.
        let whole = |server: &Server| match self.mode {
            BalancerMode::Usage => server.max_bitrate.unwrap_or(1),
            BalancerMode::Clients | BalancerMode::Bitrate | BalancerMode::Streams => 1,
        };
        let share = |load: Load, other: &Server| u128::from(by(load)) * u128::from(whole(other));
        share(a.1, b.0).cmp(&share(b.1, a.0))
    }
}

impl Server {
    fn of(config: &Value) -> Option<Self> {
        let countries = config.get("countries").and_then(Value::as_array);
        let countries = countries.unwrap_or_default().iter();
        Some(Self {
            hostname: config.get("name").and_then(Value::as_str)?.into(),
            countries: countries
                .filter_map(|text| text.as_str().and_then(country))
                .collect(),
            countries_default: config
                .get("countries_default")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            max_bitrate: config.get("max_bitrate").and_then(Value::as_u64),
        })
    }

    /// Whether the server accepts clients of a country. `is_listed`: a server has it in its list.
    fn accepts(&self, from: Option<Country>, is_listed: bool) -> bool {
        let is_mine = from.is_some_and(|from| self.countries.contains(&from));
        let has_no_rule = self.countries.is_empty() && !self.countries_default;
        is_mine || has_no_rule || (self.countries_default && !is_listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use std::collections::BTreeSet;

    fn object(text: &str) -> Object {
        match json::parse(text.as_bytes()) {
            Ok(Value::Object(object)) => object,
            other => panic!("{other:?}"),
        }
    }

    fn balancer(text: &str) -> Balancer {
        Balancer::of(&object(text))
    }

    fn load(clients: u64, bitrate_kbit: u64, streams: u64) -> Load {
        Load {
            clients,
            bitrate_kbit,
            streams,
        }
    }

    /// All servers that are chosen, over many random numbers.
    fn chosen(balancer: &Balancer, loads: &[(&str, Load)], from: Option<&str>) -> String {
        let find = |hostname: &str| {
            let found = loads.iter().find(|(known, _)| *known == hostname);
            found.map(|(_, load)| *load)
        };
        let from = from.and_then(country);
        let all: BTreeSet<&str> = (0..64)
            .filter_map(|random| balancer.choose(find, from, random))
            .map(|server| &*server.hostname)
            .collect();
        all.into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_mode_compares_its_own_measure() {
        let loads = [
            ("a", load(1, 900, 5)),
            ("b", load(2, 500, 4)),
            ("c", load(3, 600, 3)),
        ];
        let servers = r#""servers":[{"name":"a","max_bitrate":10000},
            {"name":"b","max_bitrate":1000},
            {"name":"c","max_bitrate":1000}]"#;
        for (mode, best) in [
            (r#""mode":"usage","#, "a"),
            (r#""mode":"clients","#, "a"),
            (r#""mode":"bitrate","#, "b"),
            (r#""mode":"streams","#, "c"),
            ("", "b"),
            (r#""mode":null,"#, "b"),
        ] {
            let balancer = balancer(&format!("{{{mode}{servers}}}"));
            assert_eq!(chosen(&balancer, &loads, None), best, "{mode}");
        }
    }

    #[test]
    fn equal_servers_are_chosen_at_random() {
        let loads = [
            ("a", load(1, 1, 1)),
            ("b", load(1, 1, 1)),
            ("c", load(1, 1, 2)),
        ];
        let servers = r#""servers":[{"name":"c"},{"name":"a"},{"name":"b"}]"#;
        for (mode, best) in [
            ("clients", "a b c"),
            ("bitrate", "a b c"),
            ("streams", "a b"),
        ] {
            let balancer = balancer(&format!(r#"{{"mode":"{mode}",{servers}}}"#));
            assert_eq!(chosen(&balancer, &loads, None), best, "{mode}");
        }
        let shares = balancer(
            r#"{"mode":"usage","servers":[{"name":"a","max_bitrate":100},
                {"name":"b","max_bitrate":300},{"name":"c","max_bitrate":3}]}"#,
        );
        let loads = [
            ("a", load(9, 33, 0)),
            ("b", load(0, 99, 0)),
            ("c", load(5, 1, 0)),
        ];
        assert_eq!(
            chosen(&shares, &loads, None),
            "a b",
            "exactly a third is more"
        );
    }

    #[test]
    fn only_live_servers_below_their_limit_are_eligible() {
        let servers = r#""servers":[{"name":"a","max_bitrate":100},{"name":"b","max_bitrate":100},
            {"name":"c"}]"#;
        let by_bitrate = balancer(&format!("{{{servers}}}"));
        let full = ("a", load(0, 100, 0));
        let room = ("b", load(0, 99, 0));
        assert_eq!(chosen(&by_bitrate, &[full, room], None), "b");
        assert_eq!(chosen(&by_bitrate, &[full], None), "");
        assert_eq!(chosen(&by_bitrate, &[("c", load(0, 5000, 0))], None), "c");
        assert_eq!(chosen(&by_bitrate, &[], None), "");
        let by_usage = balancer(&format!(r#"{{"mode":"usage",{servers}}}"#));
        assert_eq!(
            chosen(&by_usage, &[("c", load(0, 0, 0))], None),
            "",
            "no measure"
        );
        assert_eq!(chosen(&by_usage, &[("c", load(0, 0, 0)), room], None), "b");
        assert_eq!(chosen(&balancer("{}"), &[room], None), "");
        assert_eq!(
            chosen(
                &balancer(r#"{"servers":[{"name":"a","max_bitrate":0}]}"#),
                &[("a", load(0, 0, 0))],
                None
            ),
            ""
        );
    }

    #[test]
    fn countries_are_matched_before_load_is_compared() {
        let balancer = balancer(
            r#"{"servers":[{"name":"rs","countries":["RS","me"]},
                {"name":"de","countries":["DE"],"countries_default":true},
                {"name":"rest","countries_default":true}]}"#,
        );
        let loads = [
            ("rs", load(0, 1, 0)),
            ("de", load(0, 5, 0)),
            ("rest", load(0, 9, 0)),
        ];
        for (from, best) in [
            (Some("RS"), "rs"),
            (Some("ME"), "rs"),
            (Some("DE"), "de"),
            (Some("FR"), "de"),
            (None, "de"),
        ] {
            assert_eq!(chosen(&balancer, &loads, from), best, "{from:?}");
        }
        // A client whose servers are not alive is not redirected to those of other countries.
        assert_eq!(chosen(&balancer, &loads[1..], Some("RS")), "");
        assert_eq!(chosen(&balancer, &loads[2..], Some("FR")), "rest");
        assert_eq!(chosen(&balancer, &loads[2..], Some("DE")), "");
    }

    #[test]
    fn server_without_countries_accepts_all_clients() {
        let balancer = balancer(r#"{"servers":[{"name":"rs","countries":["RS"]},{"name":"any"}]}"#);
        let loads = [("rs", load(0, 1, 0)), ("any", load(0, 2, 0))];
        assert_eq!(chosen(&balancer, &loads, Some("RS")), "rs");
        assert_eq!(chosen(&balancer, &loads[1..], Some("RS")), "any");
        assert_eq!(chosen(&balancer, &loads, Some("DE")), "any");
        assert_eq!(chosen(&balancer, &loads, None), "any");
    }
}
