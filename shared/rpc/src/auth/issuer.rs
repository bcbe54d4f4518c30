//! Makes keys and tokens: for the process that runs everything, for tests, for `waybill keys`.
//!
//! What it refuses to do: keep keys. Whoever wants the same key tomorrow stores its PEM.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use waybill_kernel::hash;

use super::Claims;

/// A private key and the names that go with it.
#[derive(Clone)]
pub struct Issuer {
    key: SigningKey,
    kid: String,
    issuer: String,
    audience: String,
}

/// The text is no private key.
#[derive(Debug, thiserror::Error)]
#[error("the text is no Ed25519 private key in PKCS#8 PEM: {0}")]
pub struct PemError(ed25519_dalek::pkcs8::Error);

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(flatten)]
    claims: &'a Claims,
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

impl Issuer {
    /// A new key. Issuer and audience are `waybill`, the defaults of `AuthConfig`.
    pub fn generate() -> Issuer {
        let mut seed = [0_u8; 32];
        rand::fill(&mut seed);
        Issuer::new(SigningKey::from_bytes(&seed))
    }

    /// The key of a PEM text that [`Issuer::pem`] gave.
    ///
    /// # Errors
    ///
    /// When the text is no Ed25519 private key.
    pub fn from_pem(pem: &SecretString) -> Result<Issuer, PemError> {
        SigningKey::from_pkcs8_pem(pem.expose_secret())
            .map(Issuer::new)
            .map_err(PemError)
    }

    fn new(key: SigningKey) -> Issuer {
        // RFC 7638: the same key has the same id, whoever computes it.
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, public(&key));
        let kid = URL_SAFE_NO_PAD.encode(hash::sha256(canonical.as_bytes()));
        Issuer {
            key,
            kid,
            issuer: "waybill".to_owned(),
            audience: "waybill".to_owned(),
        }
    }

    /// The same key with other names for `iss` and `aud`.
    #[must_use]
    pub fn named(mut self, issuer: &str, audience: &str) -> Issuer {
        self.issuer = issuer.to_owned();
        self.audience = audience.to_owned();
        self
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks_json(&self) -> String {
        json!({ "keys": [{
            "kty": "OKP",
            "crv": "Ed25519",
            "alg": "EdDSA",
            "use": "sig",
            "kid": self.kid,
            "x": public(&self.key),
        }]})
        .to_string()
    }

    /// The private key as PKCS#8 PEM.
    pub fn pem(&self) -> SecretString {
        let pem = self
            .pkcs8()
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a key of fixed size encodes");
        SecretString::from(pem.as_str().to_owned())
    }

    /// A token with these claims that is good for `ttl` from now on.
    pub fn mint(&self, claims: &Claims, ttl: Duration) -> SecretString {
        let now = get_current_timestamp();
        self.mint_between(claims, now, now.saturating_add(ttl.as_secs()))
    }

    /// A token that was made and ends at given times, in seconds since 1970.
    pub fn mint_between(&self, claims: &Claims, issued_at: u64, expires_at: u64) -> SecretString {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        let payload = Payload {
            claims,
            iss: &self.issuer,
            aud: &self.audience,
            iat: issued_at,
            exp: expires_at,
        };
        let der = self.pkcs8().to_pkcs8_der().expect("a key of fixed size encodes");
        let token = jsonwebtoken::encode(&header, &payload, &EncodingKey::from_ed_der(der.as_bytes()))
            .expect("texts and numbers serialize, and the key fits the algorithm");
        SecretString::from(token)
    }

    /// Version 1 of PKCS#8, without the public key: what every tool reads.
    fn pkcs8(&self) -> KeypairBytes {
        KeypairBytes {
            secret_key: self.key.to_bytes(),
            public_key: None,
        }
    }
}

fn public(key: &SigningKey) -> String {
    URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes())
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("kid", &self.kid)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}
