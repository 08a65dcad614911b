//! The written forms of values.

use std::net::{Ipv4Addr, SocketAddr};

use super::{Cors, Login, MASK, Secret};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

pub(super) fn listen_address(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::new(
            Ipv4Addr::UNSPECIFIED.into(),
            port_number(port)?,
        ));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some(SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            port_number(port)?,
        ));
    }
    text.parse().ok()
}

fn port_number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// `http://host[:port][/path]` without its trailing slashes.
pub(super) fn base_url(text: &str) -> Option<String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))?;
    let authority = rest.split('/').next()?;
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"?#@\"<>\\^`{|}".contains(&b));
    (clean && !authority.is_empty() && !authority.starts_with(':'))
        .then(|| text.trim_end_matches('/').to_owned())
}

/// A refused URL is shown in a message, its credentials are not.
pub(super) fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}{MASK}{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

pub(super) fn cors(texts: &[String]) -> Option<Cors> {
    if texts.is_empty() || texts.len() > 64 {
        return None;
    }
    if texts.len() == 1 && texts[0] == "*" {
        return Some(Cors::Any);
    }
    let origin = |text: &String| {
        let (scheme, host) = text.split_once("://")?;
        let fits = !scheme.is_empty()
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
            && !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        // Browsers send both parts in lower case.
        fits.then(|| text.to_ascii_lowercase())
    };
    texts
        .iter()
        .map(origin)
        .collect::<Option<Vec<_>>>()
        .map(Cors::Origins)
}

/// A login cannot contain a colon (RFC 7617) and ours no space, so the first of either divides.
pub(super) fn login(text: &str) -> Option<Login> {
    let (name, password) = text.split_once([' ', ':'])?;
    let fits = !name.is_empty() && !password.is_empty() && !text.chars().any(char::is_control);
    fits.then(|| Login {
        name: name.to_owned(),
        password: Secret::new(password),
    })
}

/// `64MiB`, `64M` (both powers of 1024), `64MB` (powers of 1000), `1048576`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

pub(super) fn bytes_text(bytes: u64) -> String {
    for (scale, unit) in [(GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")] {
        if bytes >= scale && bytes.is_multiple_of(scale) {
            return format!("{}{unit}", bytes / scale);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_space_or_colon_ends_the_login() {
        for (text, name, password) in [
            ("admin secret", "admin", "secret"),
            ("admin:secret", "admin", "secret"),
            ("admin se:cr et", "admin", "se:cr et"),
            ("admin:se cret", "admin", "se cret"),
        ] {
            let login = login(text).expect(text);
            assert_eq!(
                (login.name.as_str(), login.password.expose()),
                (name, password)
            );
        }
        for text in ["admin", "admin:", " secret", ":secret", "a b\n"] {
            assert_eq!(login(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn sizes_are_read_back(amount in 1_u64..1 << 44) {
            prop_assert_eq!(bytes(&bytes_text(amount)), Some(amount));
        }
    }
}
