//! The certificate authorities that this program trusts when it connects to others by https.
//!
//! They are those of the system, found as OpenSSL finds them: in `SSL_CERT_FILE` and
//! `SSL_CERT_DIR`, else where the distribution has them. So an authority of the operator's own is
//! trusted once it is installed on the machine. On a system that has none the public ones count
//! that are compiled in; but never in place of a file that is named and has none.

use std::env;
use std::sync::LazyLock;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls_native_certs::load_native_certs;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The variables that name files with authorities.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// `None`: those that are compiled in.
type Found = Result<Option<Vec<CertificateDer<'static>>>, String>;

/// Read once, when the first one is needed.
static FOUND: LazyLock<Found> = LazyLock::new(|| {
    let loaded = load_native_certs();
    let named = VARIABLES
        .into_iter()
        .find(|name| env::var_os(name).is_some());
    let errors = loaded.errors.iter().map(ToString::to_string);
    settle(loaded.certs, named, &errors.collect::<Vec<_>>().join("; "))
});

/// Decides by what the system has.
fn settle(
    mut certificates: Vec<CertificateDer<'static>>,
    named: Option<&str>,
    errors: &str,
) -> Found {
    // One that the library cannot use is none.
    certificates.retain(|one| RootCertStore::empty().add(one.clone()).is_ok());
    match (certificates.is_empty(), named) {
        (false, _) => Ok(Some(certificates)),
        (true, None) => Ok(None),
        (true, Some(name)) => {
            let separator = if errors.is_empty() { "" } else { ": " };
            Err(format!(
                "{name} names no certificate of an authority{separator}{errors}"
            ))
        }
    }
}

/// Fails if the environment names authorities and none can be read.
pub fn check() -> Result<(), String> {
    FOUND.as_ref().map(drop).map_err(Clone::clone)
}

/// The authorities for a connection of our own. None at all if [`check`] fails.
pub fn root_store() -> RootCertStore {
    match &*FOUND {
        Ok(None) => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
        Ok(Some(certificates)) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            roots
        }
        Err(_) => RootCertStore::empty(),
    }
}

/// The authorities for the blocking client that calls `url`; read only if they are needed.
pub fn client_config(url: &str) -> TlsConfig {
    let is_tls = url
        .get(..6)
        .is_some_and(|it| it.eq_ignore_ascii_case("https:"));
    let certificates = match is_tls.then(|| &*FOUND) {
        None | Some(Ok(None)) => return TlsConfig::default(),
        Some(Ok(Some(certificates))) => certificates.as_slice(),
        Some(Err(_)) => &[],
    };
    let certificates = certificates
        .iter()
        .map(|one| Certificate::from_der(one).to_owned());
    let certificates: Vec<Certificate<'static>> = certificates.collect();
    let roots = RootCerts::new_with_certs(&certificates);
    TlsConfig::builder().root_certs(roots).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_authorities_are_never_replaced_by_the_public_ones() {
        let broken = || vec![CertificateDer::from(b"no certificate".to_vec())];
        assert_eq!(settle(Vec::new(), None, ""), Ok(None));
        assert_eq!(settle(broken(), None, ""), Ok(None));
        let refused = settle(broken(), Some("SSL_CERT_FILE"), "cannot read /x");
        let text = "SSL_CERT_FILE names no certificate of an authority: cannot read /x";
        assert_eq!(refused, Err(text.to_owned()));
        let refused = settle(Vec::new(), Some("SSL_CERT_DIR"), "");
        let text = "SSL_CERT_DIR names no certificate of an authority";
        assert_eq!(refused, Err(text.to_owned()));
    }
}
