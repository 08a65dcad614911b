//! Countries of addresses, from a database in MaxMind's format that the operator provides.
//!
//! The whole file is read into memory once. Without a database, or for an address that is not in
//! it, the country is unknown, and no rule about countries matches.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{PathElement, Reader};

use super::rules::{Country, country};

/// The country database, possibly absent.
#[derive(Default)]
pub struct Countries {
    reader: Option<Reader<Vec<u8>>>,
}

impl fmt::Debug for Countries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.reader.is_some();
        f.debug_struct("Countries").field("known", &known).finish()
    }
}

impl Countries {
    /// Reads a database file. The error is a message for the operator.
    pub fn open(file: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        let reader = Reader::from_source(bytes).map_err(|error| error.to_string())?;
        Ok(Self {
            reader: Some(reader),
        })
    }

    /// The country of an address, if known.
    pub fn of(&self, address: IpAddr) -> Option<Country> {
        let found = self.reader.as_ref()?.lookup(address.to_canonical()).ok()?;
        let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
        found.decode_path::<&str>(&path).ok()?.and_then(country)
    }
}

#[cfg(test)]
#[path = "../../tests/it/mmdb.rs"]
mod mmdb;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn address_gets_the_country_of_its_subnet() {
        let bytes = mmdb::database(&[
            ("10.0.0.0/8", "RS"),
            ("10.1.0.0/16", "DE"),
            ("192.168.7.7/32", "FR"),
            ("2001:db8::/32", "JP"),
        ]);
        let countries = Countries::from_bytes(bytes).expect("a database");
        for (address, name) in [
            ("10.0.0.1", Some("RS")),
            ("10.255.255.255", Some("RS")),
            ("10.1.2.3", Some("DE")),
            ("::ffff:10.1.2.3", Some("DE")),
            ("192.168.7.7", Some("FR")),
            ("192.168.7.8", None),
            ("11.0.0.1", None),
            ("2001:db8::1", Some("JP")),
            ("2001:db9::1", None),
        ] {
            let expected = name.and_then(country);
            assert_eq!(countries.of(ip(address)), expected, "{address}");
        }
    }

    #[test]
    fn country_is_unknown_without_a_database() {
        assert_eq!(Countries::default().of(ip("10.0.0.1")), None);
    }

    #[test]
    fn invalid_database_is_refused() {
        assert!(Countries::from_bytes(Vec::new()).is_err());
        assert!(Countries::from_bytes(b"country,network\nRS,10.0.0.0/8".to_vec()).is_err());
        assert!(Countries::open(Path::new("/nonexistent/GeoLite2-Country.mmdb")).is_err());
        // Damage may go unnoticed, but must not cause a panic.
        let whole = mmdb::database(&[("10.0.0.0/8", "RS"), ("2001:db8::/32", "JP")]);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            if let Ok(countries) = Countries::from_bytes(damaged) {
                let _ = (
                    countries.of(ip("10.0.0.1")),
                    countries.of(ip("2001:db8::1")),
                );
            }
        }
    }
}
