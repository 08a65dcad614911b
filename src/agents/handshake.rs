//! The authentication of agents: stateless challenges, and proofs in both directions.
//!
//! A nonce is valid for one agent, for [`NONCE_TTL_MS`] and for one successful connection, on any
//! core. Nonces are signed instead of stored, so a challenge costs no memory. Secrets are compared
//! in constant time. A restart invalidates all nonces. Which agents exist and may connect is
//! decided by the caller. [`super::protocol`] describes the form of the proofs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;

/// How long a challenge can be answered.
const NONCE_TTL_MS: u64 = 60_000;

/// Longest nonce of an agent that the server's proof includes, bytes.
pub const AGENT_NONCE_BYTES_MAX: usize = 256;

/// Bytes of the signature in a nonce, and of a salt.
const MAC_BYTES: usize = 16;
/// Serial number, time of issue, signature.
const NONCE_BYTES: usize = 8 + 8 + MAC_BYTES;

/// Issues challenges and verifies proofs. Shared by all cores.
pub struct Nonces {
    secret: [u8; 32],
    issued: AtomicU64,
    /// The serial number of the newest nonce that each agent used. At most one entry per known
    /// agent; locked once per successful connection.
    spent: Mutex<HashMap<Box<str>, u64>>,
}

/// A nonce and a salt, from which an agent computes its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// In hex.
    pub nonce: String,
    /// In hex.
    pub salt: String,
}

/// Why a proof is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectedProof {
    /// The nonce is unknown, expired or used; the agent may request another one.
    Nonce,
    /// The proof does not match the key of the agent.
    Key,
}

impl Nonces {
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self {
            secret,
            issued: AtomicU64::new(0),
            spent: Mutex::default(),
        })
    }

    /// Issues a challenge for one agent.
    pub fn challenge(&self, agent: &str, now_ms: u64) -> Challenge {
        let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        let mut nonce = Vec::with_capacity(NONCE_BYTES);
        nonce.extend_from_slice(&number.to_be_bytes());
        nonce.extend_from_slice(&now_ms.to_be_bytes());
        let signature = self.mac(b"nonce", &nonce, agent.as_bytes());
        nonce.extend_from_slice(&signature);
        Challenge {
            salt: hex(&self.mac(b"salt", &nonce, &[])),
            nonce: hex(&nonce),
        }
    }

    /// Verifies `proof`, the answer of `agent` to `nonce`. Success spends this nonce and all that
    /// were issued to the agent before it.
    pub fn verify(
        &self,
        agent: &str,
        key: &str,
        nonce: &[u8],
        proof: &[u8],
        now_ms: u64,
    ) -> Result<(), RejectedProof> {
        let bytes = unhex::<NONCE_BYTES>(nonce).ok_or(RejectedProof::Nonce)?;
        let (stamped, signature) = bytes.split_at(16);
        let genuine: bool = self
            .mac(b"nonce", stamped, agent.as_bytes())
            .ct_eq(signature)
            .into();
        let (number, issued_ms) = stamped.split_at(8);
        let number = u64::from_be_bytes(number.try_into().map_err(|_| RejectedProof::Nonce)?);
        let issued_ms = u64::from_be_bytes(issued_ms.try_into().map_err(|_| RejectedProof::Nonce)?);
        if !genuine || now_ms.abs_diff(issued_ms) > NONCE_TTL_MS {
            return Err(RejectedProof::Nonce);
        }
        // Encoded again, because the proof covers the text as issued: lower case.
        let challenge = Challenge {
            salt: hex(&self.mac(b"salt", &bytes, &[])),
            nonce: hex(&bytes),
        };
        let expected = agent_proof(&challenge, key);
        let matches: bool = expected
            .as_bytes()
            .ct_eq(&proof.to_ascii_lowercase())
            .into();
        if !matches || key.is_empty() {
            return Err(RejectedProof::Key);
        }
        let mut spent = self.spent.lock();
        match spent.get_mut(agent) {
            Some(newest) if *newest >= number => return Err(RejectedProof::Nonce),
            Some(newest) => *newest = number,
            None => drop(spent.insert(agent.into(), number)),
        }
        Ok(())
    }

    /// Removes what is stored about a deleted agent.
    pub fn forget(&self, agent: &str) {
        self.spent.lock().remove(agent);
    }

    /// A truncated HMAC. `purpose` and `fixed` have the same length in all calls of one purpose, so
    /// the parts need no separators.
    fn mac(&self, purpose: &[u8], fixed: &[u8], last: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac =
            Hmac::<Sha512>::new_from_slice(&self.secret).expect("an HMAC key has any length");
        for part in [purpose, fixed, last] {
            mac.update(part);
        }
        let digest = mac.finalize().into_bytes();
        let mut truncated = [0; MAC_BYTES];
        truncated.copy_from_slice(&digest[..MAC_BYTES]);
        truncated
    }
}

/// The proof of an agent that it knows its key.
fn agent_proof(challenge: &Challenge, key: &str) -> String {
    digest(&[&challenge.nonce, ":", &salted(&challenge.salt, key)])
}

/// The proof of the server that it knows the key of the agent. Its parts are in another order, so
/// neither proof can be replayed as the other; the agent's own nonce, if any, makes it fresh.
pub fn server_proof(challenge: &Challenge, key: &str, agent_nonce: Option<&str>) -> String {
    let salted = salted(&challenge.salt, key);
    match agent_nonce {
        None => digest(&[&salted, ":", &challenge.nonce]),
        Some(own) => digest(&[&salted, ":", &challenge.nonce, ":", own]),
    }
}

fn salted(salt: &str, key: &str) -> String {
    digest(&[salt, ":", key])
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn nonces() -> Nonces {
        Nonces::new().expect("randomness")
    }

    #[test]
    fn proof_has_the_documented_form() {
        // sha512hex("n:" + sha512hex("s:k"))
        let challenge = Challenge {
            nonce: "n".into(),
            salt: "s".into(),
        };
        let inner = hex(&Sha512::digest(b"s:k"));
        let outer = hex(&Sha512::digest(format!("n:{inner}").as_bytes()));
        assert_eq!(agent_proof(&challenge, "k"), outer);
        assert_eq!(outer.len(), 128);
        assert_eq!(
            hex(&Sha512::digest(b"abc"))[..16],
            *"ddaf35a193617aba",
            "a test vector of FIPS 180"
        );
        assert_ne!(server_proof(&challenge, "k", None), outer);
        assert_ne!(
            server_proof(&challenge, "k", Some("x")),
            server_proof(&challenge, "k", None)
        );
    }

    #[test]
    fn nonce_is_valid_once_for_its_agent_and_expires() {
        let nonces = nonces();
        let verify = |challenge: &Challenge, agent: &str, key: &str, now| {
            let proof = agent_proof(challenge, "k1");
            nonces.verify(
                agent,
                key,
                challenge.nonce.as_bytes(),
                proof.as_bytes(),
                now,
            )
        };
        let first = nonces.challenge("a", NOW);
        assert_eq!(
            verify(&first, "b", "k1", NOW),
            Err(RejectedProof::Nonce),
            "another agent"
        );
        assert_eq!(
            verify(&first, "a", "k2", NOW),
            Err(RejectedProof::Key),
            "another key"
        );
        assert_eq!(
            verify(&first, "a", "k1", NOW + NONCE_TTL_MS + 1),
            Err(RejectedProof::Nonce),
            "too late"
        );
        assert_eq!(
            verify(&first, "a", "k1", NOW + NONCE_TTL_MS),
            Ok(()),
            "not spent by the failures"
        );
        assert_eq!(
            verify(&first, "a", "k1", NOW),
            Err(RejectedProof::Nonce),
            "spent"
        );
        let (second, third) = (nonces.challenge("a", NOW), nonces.challenge("a", NOW));
        assert_eq!(verify(&third, "a", "k1", NOW), Ok(()));
        assert_eq!(
            verify(&second, "a", "k1", NOW),
            Err(RejectedProof::Nonce),
            "older than the spent one"
        );
        let of_another_process = super::tests::nonces();
        let proof = agent_proof(&second, "k1");
        assert_eq!(
            of_another_process.verify("a", "k1", second.nonce.as_bytes(), proof.as_bytes(), NOW),
            Err(RejectedProof::Nonce)
        );
    }

    #[test]
    fn altered_nonces_and_proofs_are_rejected() {
        let nonces = nonces();
        let challenge = nonces.challenge("a", NOW);
        let proof = agent_proof(&challenge, "k1");
        for at in 0..challenge.nonce.len() {
            let mut nonce = challenge.nonce.clone().into_bytes();
            nonce[at] = if nonce[at] == b'0' { b'1' } else { b'0' };
            let result = nonces.verify("a", "k1", &nonce, proof.as_bytes(), NOW);
            assert!(result.is_err(), "nonce changed at {at}");
        }
        for at in 0..proof.len() {
            let mut wrong = proof.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            let result = nonces.verify("a", "k1", challenge.nonce.as_bytes(), &wrong, NOW);
            assert_eq!(result, Err(RejectedProof::Key), "proof changed at {at}");
        }
        for junk in ["", "0", "zz", &"0".repeat(64), &"0".repeat(10_000)] {
            let result = nonces.verify("a", "k1", junk.as_bytes(), proof.as_bytes(), NOW);
            assert_eq!(result, Err(RejectedProof::Nonce), "{junk}");
            let result = nonces.verify("a", "k1", challenge.nonce.as_bytes(), junk.as_bytes(), NOW);
            assert_eq!(result, Err(RejectedProof::Key), "{junk}");
        }
        let empty = agent_proof(&challenge, "");
        let result = nonces.verify("a", "", challenge.nonce.as_bytes(), empty.as_bytes(), NOW);
        assert_eq!(
            result,
            Err(RejectedProof::Key),
            "an agent without a key cannot connect"
        );
    }
}
