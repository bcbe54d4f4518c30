//! Digests and keyed digests (SHA-256, HMAC-SHA-256), as bytes or lower-case hexadecimal.
//!
//! A plain digest of personal data is no protection (e-mail addresses can be guessed): use the keyed [`hmac_sha256`]
//! with a secret for pseudonyms. Nothing here is meant for passwords.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// The SHA-256 digest of bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The SHA-256 digest of bytes, in hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(sha256(bytes))
}

/// The SHA-256 digest of bytes that come in pieces, such as a file that is not kept in memory.
#[derive(Debug, Clone, Default)]
pub struct Pieces(Sha256);

impl Pieces {
    /// The next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces, in hexadecimal.
    #[must_use]
    pub fn hex(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// A fingerprint of several parts, in hexadecimal. Each part's length goes in too, so that `["ab", "c"]` and
/// `["a", "bc"]` differ.
#[must_use]
pub fn fingerprint<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> String {
    hex::encode(digest(parts))
}

/// The same fingerprint as bytes.
#[must_use]
pub fn digest<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A keyed pseudonym of a text: the same for the same key and text, and not to be guessed without the key.
#[must_use]
pub fn hmac_sha256(key: &[u8], text: &str) -> String {
    hex::encode(hmac_sha256_bytes(key, &[text.as_bytes()]))
}

/// The HMAC-SHA-256 of data given in pieces, as signatures of webhooks use it.
#[must_use]
pub fn hmac_sha256_bytes(key: &[u8], pieces: &[&[u8]]) -> [u8; 32] {
    mac_of(key, pieces).finalize().into_bytes().into()
}

/// Whether a signature is the HMAC-SHA-256 of data given in pieces. Takes the same time for every wrong signature.
#[must_use]
pub fn verify_hmac_sha256(key: &[u8], pieces: &[&[u8]], signature: &[u8]) -> bool {
    mac_of(key, pieces).verify_slice(signature).is_ok()
}

fn mac_of(key: &[u8], pieces: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    for piece in pieces {
        mac.update(piece);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut pieces = Pieces::default();
        pieces.update(b"a");
        pieces.update(b"bc");
        assert_eq!(pieces.hex(), sha256_hex(b"abc"));
        // RFC 4231, test case 2.
        assert_eq!(
            hmac_sha256(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn parts_keep_their_borders() {
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
        assert_ne!(fingerprint(["a", ""]), fingerprint(["a"]));
        assert_eq!(
            fingerprint(["a", "b"]),
            fingerprint(vec!["a".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn signatures_are_checked_in_full() {
        let good = hmac_sha256_bytes(b"key", &[b"1.", b"body"]);
        assert_eq!(good, hmac_sha256_bytes(b"key", &[b"1.body"]));
        assert!(verify_hmac_sha256(b"key", &[b"1.body"], &good));
        assert!(!verify_hmac_sha256(b"other", &[b"1.body"], &good));
        assert!(!verify_hmac_sha256(b"key", &[b"1.body"], &good[..31]));
        let mut bad = good;
        bad[31] ^= 1;
        assert!(!verify_hmac_sha256(b"key", &[b"1.body"], &bad));
    }
}
