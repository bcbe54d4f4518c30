//! Turns a password into the form that Postgres stores (SCRAM-SHA-256, RFC 5802), so that the password itself never
//! appears in a statement, where a log or `pg_stat_statements` would keep it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What Postgres itself uses.
const ITERATIONS: u32 = 4096;

/// A password that means the same bytes everywhere. Others would first have to be normalised (SASLprep).
pub(crate) fn is_plain(password: &str) -> bool {
    (8..=256).contains(&password.len()) && password.bytes().all(|b| b.is_ascii_graphic())
}

/// The verifier of `password` with a fresh salt.
pub(crate) fn verifier(password: &str) -> String {
    verifier_with(password, &rand::random::<[u8; 16]>(), ITERATIONS)
}

fn verifier_with(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = salted(password, salt, iterations);
    let stored = Sha256::digest(hmac(&salted, &[b"Client Key"]));
    let server = hmac(&salted, &[b"Server Key"]);
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    )
}

/// PBKDF2 with one block: the key is as long as the hash.
fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut round = hmac(password.as_bytes(), &[salt, &1u32.to_be_bytes()]);
    let mut key = round;
    for _ in 1..iterations {
        round = hmac(password.as_bytes(), &[&round]);
        for (k, r) in key.iter_mut().zip(round) {
            *k ^= r;
        }
    }
    key
}

fn hmac(key: &[u8], pieces: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3: its server signature follows from our server key.
    #[test]
    fn agrees_with_the_standard() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let server_key = hmac(&salted("pencil", &salt, 4096), &[b"Server Key"]);
        let exchange = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                        c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac(&server_key, &[exchange.as_bytes()]);
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn each_verifier_has_its_own_salt() {
        let (a, b) = (verifier("same password"), verifier("same password"));
        assert_ne!(a, b);
        assert!(a.starts_with("SCRAM-SHA-256$4096:") && !a.contains("same"), "{a}");
    }

    #[test]
    fn only_plain_passwords_are_taken() {
        assert!(is_plain("correct-horse") && is_plain("a'b\"c$d\\e"));
        assert!(!is_plain("short") && !is_plain("pässword") && !is_plain("with space"));
    }
}
