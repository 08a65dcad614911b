//! The handshake of agents: challenges that need no memory, and proofs in both directions.
//!
//! Promises: a nonce is good for one agent, for [`NONCE_LIVES_MS`], and for one success, on whichever core; it is signed instead of
//! remembered, so questions cost nothing that lasts; secrets are compared in constant time; a restart invalidates all nonces. What an agent
//! is and who may connect is left to the caller. The form of the proofs is described in [`super::protocol`].

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;

/// How long a challenge may be answered.
pub const NONCE_LIVES_MS: u64 = 60_000;

/// Longest nonce of an agent's own that is mixed into our proof, bytes.
pub const AGENT_NONCE_BYTES_MAX: usize = 256;

/// Signature bytes in a nonce, and bytes of a salt.
const MAC_BYTES: usize = 16;
/// Number, time of issue, signature.
const NONCE_BYTES: usize = 8 + 8 + MAC_BYTES;

/// Makes challenges and judges the answers. Shared by all cores.
pub struct Nonces {
    secret: [u8; 32],
    issued: AtomicU64,
    /// By agent: the number of the newest nonce it used. At most one entry per known agent; taken once per connection that succeeds.
    spent: Mutex<HashMap<Box<str>, u64>>,
}

/// What an agent is asked to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Hex.
    pub nonce: String,
    /// Hex.
    pub salt: String,
}

/// Why an answer to a challenge is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Not a nonce of ours for this agent, too old, or used: a new one may be asked for.
    Nonce,
    /// The agent does not know the key.
    Proof,
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

    /// A new challenge for one agent.
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

    /// Judges `proof`, the answer of `agent` to `nonce`. A success spends the nonce, and with it all that were issued to this agent before.
    pub fn accept(
        &self,
        agent: &str,
        key: &str,
        nonce: &[u8],
        proof: &[u8],
        now_ms: u64,
    ) -> Result<(), Rejected> {
        let bytes = unhex::<NONCE_BYTES>(nonce).ok_or(Rejected::Nonce)?;
        let (stamped, signature) = bytes.split_at(16);
        let genuine: bool = self
            .mac(b"nonce", stamped, agent.as_bytes())
            .ct_eq(signature)
            .into();
        let (number, issued_ms) = stamped.split_at(8);
        let number = u64::from_be_bytes(number.try_into().map_err(|_| Rejected::Nonce)?);
        let issued_ms = u64::from_be_bytes(issued_ms.try_into().map_err(|_| Rejected::Nonce)?);
        if !genuine || now_ms.abs_diff(issued_ms) > NONCE_LIVES_MS {
            return Err(Rejected::Nonce);
        }
        // The text as it was issued: upper case would be another text to the agent.
        let challenge = Challenge {
            salt: hex(&self.mac(b"salt", &bytes, &[])),
            nonce: hex(&bytes),
        };
        let expected = agent_proof(&challenge, key);
        let knows: bool = expected
            .as_bytes()
            .ct_eq(&proof.to_ascii_lowercase())
            .into();
        if !knows || key.is_empty() {
            return Err(Rejected::Proof);
        }
        let mut spent = self.spent.lock();
        match spent.get_mut(agent) {
            Some(newest) if *newest >= number => return Err(Rejected::Nonce),
            Some(newest) => *newest = number,
            None => drop(spent.insert(agent.into(), number)),
        }
        Ok(())
    }

    /// Forgets an agent that is gone.
    pub fn forget(&self, agent: &str) {
        self.spent.lock().remove(agent);
    }

    /// SHA-512 cut in half cannot be extended, so it signs with its secret in front. The part before `last` has a fixed length.
    fn mac(&self, purpose: &[u8], fixed: &[u8], last: &[u8]) -> [u8; MAC_BYTES] {
        let mut hash = Sha512::new();
        hash.update(self.secret);
        hash.update(purpose);
        hash.update(fixed);
        hash.update(last);
        let digest = hash.finalize();
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&digest[..MAC_BYTES]);
        mac
    }
}

/// What an agent sends to prove that it knows its key.
pub fn agent_proof(challenge: &Challenge, key: &str) -> String {
    digest(&[&challenge.nonce, ":", &salted(&challenge.salt, key)])
}

/// What the server sends to prove the same. Its parts are in another order, so that neither proof can be used as the other; a nonce of the
/// agent's own makes it fresh.
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
        Nonces::new().expect("there is randomness")
    }

    #[test]
    fn the_proof_has_the_documented_form() {
        // Worked out with another implementation of SHA-512: sha512hex("n:" + sha512hex("s:k")).
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
            "the test vector of FIPS 180"
        );
        assert_ne!(server_proof(&challenge, "k", None), outer);
        assert_ne!(
            server_proof(&challenge, "k", Some("x")),
            server_proof(&challenge, "k", None)
        );
    }

    #[test]
    fn a_nonce_is_good_once_for_its_agent_for_a_while() {
        let nonces = nonces();
        let ask = |challenge: &Challenge, agent: &str, key: &str, now| {
            let proof = agent_proof(challenge, "k1");
            nonces.accept(
                agent,
                key,
                challenge.nonce.as_bytes(),
                proof.as_bytes(),
                now,
            )
        };
        let first = nonces.challenge("a", NOW);
        assert_eq!(
            ask(&first, "b", "k1", NOW),
            Err(Rejected::Nonce),
            "another agent"
        );
        assert_eq!(
            ask(&first, "a", "k2", NOW),
            Err(Rejected::Proof),
            "another key"
        );
        assert_eq!(
            ask(&first, "a", "k1", NOW + NONCE_LIVES_MS + 1),
            Err(Rejected::Nonce),
            "too late"
        );
        assert_eq!(
            ask(&first, "a", "k1", NOW + NONCE_LIVES_MS),
            Ok(()),
            "none of these spent it"
        );
        assert_eq!(ask(&first, "a", "k1", NOW), Err(Rejected::Nonce), "used");
        let (second, third) = (nonces.challenge("a", NOW), nonces.challenge("a", NOW));
        assert_eq!(ask(&third, "a", "k1", NOW), Ok(()));
        assert_eq!(
            ask(&second, "a", "k1", NOW),
            Err(Rejected::Nonce),
            "older than the used one"
        );
        let of_another_process = super::tests::nonces();
        let proof = agent_proof(&second, "k1");
        assert_eq!(
            of_another_process.accept("a", "k1", second.nonce.as_bytes(), proof.as_bytes(), NOW),
            Err(Rejected::Nonce)
        );
    }

    #[test]
    fn no_altered_nonce_or_proof_passes() {
        let nonces = nonces();
        let challenge = nonces.challenge("a", NOW);
        let proof = agent_proof(&challenge, "k1");
        for at in 0..challenge.nonce.len() {
            let mut nonce = challenge.nonce.clone().into_bytes();
            nonce[at] = if nonce[at] == b'0' { b'1' } else { b'0' };
            let judged = nonces.accept("a", "k1", &nonce, proof.as_bytes(), NOW);
            assert!(judged.is_err(), "nonce changed at {at}");
        }
        for at in 0..proof.len() {
            let mut wrong = proof.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            let judged = nonces.accept("a", "k1", challenge.nonce.as_bytes(), &wrong, NOW);
            assert_eq!(judged, Err(Rejected::Proof), "proof changed at {at}");
        }
        for junk in ["", "0", "zz", &"0".repeat(64), &"0".repeat(10_000)] {
            let judged = nonces.accept("a", "k1", junk.as_bytes(), proof.as_bytes(), NOW);
            assert_eq!(judged, Err(Rejected::Nonce), "{junk}");
            let judged = nonces.accept("a", "k1", challenge.nonce.as_bytes(), junk.as_bytes(), NOW);
            assert_eq!(judged, Err(Rejected::Proof), "{junk}");
        }
        let empty = agent_proof(&challenge, "");
        let judged = nonces.accept("a", "", challenge.nonce.as_bytes(), empty.as_bytes(), NOW);
        assert_eq!(
            judged,
            Err(Rejected::Proof),
            "an agent without a key never connects"
        );
    }
}
