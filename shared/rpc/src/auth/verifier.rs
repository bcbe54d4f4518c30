//! Checks tokens against a set of public keys.
//!
//! What it refuses to do: fetch keys. The set is given as text; a deployment writes it where the service reads it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, get_current_timestamp};
use serde::Deserialize;
use waybill_kernel::id::IdError;

use super::{ANY, Caller, Claims, MerchantScope, StoreScope};

/// Why a key set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It is not a JSON Web Key Set.
    #[error("the key set is no JSON of the form {{\"keys\": […]}}: {0}")]
    Json(serde_json::Error),
    /// A key is broken.
    #[error("key \"{kid}\" of the key set {fault}")]
    Key {
        /// Its id.
        kid: String,
        /// What is wrong with it.
        fault: String,
    },
    /// There is nothing to check tokens with.
    #[error("the key set has no Ed25519 (EdDSA) or RSA (RS256) key for signatures")]
    Empty,
}

/// Public keys by id.
#[derive(Clone, Default)]
pub struct Keys {
    by_id: HashMap<String, Key>,
}

#[derive(Clone)]
struct Key {
    algorithm: Algorithm,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

impl Keys {
    /// Reads a JSON Web Key Set. Keys of other kinds or for other uses are passed over, as issuers publish them together.
    ///
    /// # Errors
    ///
    /// When the text is no key set, a key of a supported kind is broken, or none is left.
    pub fn from_jwks(json: &str) -> Result<Keys, KeysError> {
        let set: KeySet = serde_json::from_str(json).map_err(KeysError::Json)?;
        let mut by_id = HashMap::new();
        for jwk in &set.keys {
            if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
                continue;
            }
            let kid = jwk.common.key_id.clone().unwrap_or_default();
            if let Some(key) = Key::from_jwk(jwk).map_err(|fault| KeysError::Key {
                kid: kid.clone(),
                fault,
            })? {
                by_id.insert(kid, key);
            }
        }
        if by_id.is_empty() {
            Err(KeysError::Empty)
        } else {
            Ok(Keys { by_id })
        }
    }

    fn get(&self, kid: Option<&str>) -> Option<&Key> {
        match kid {
            Some(kid) => self.by_id.get(kid),
            // Without an id there must be no choice.
            None if self.by_id.len() == 1 => self.by_id.values().next(),
            None => None,
        }
    }
}

impl Key {
    /// The key, or nothing when it is of a kind that is not supported. Sizes are checked here: the library takes them
    /// for granted.
    fn from_jwk(jwk: &Jwk) -> Result<Option<Key>, String> {
        let bytes = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .map_err(|error| format!("is not base64url: {error}"))
        };
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                let length = bytes(&pair.x)?.len();
                if length != 32 {
                    return Err(format!("has {length} bytes in \"x\"; an Ed25519 key has 32"));
                }
                Algorithm::EdDSA
            }
            AlgorithmParameters::RSA(rsa) => {
                let bits = bytes(&rsa.n)?.len() * 8;
                if bits < 2048 {
                    return Err(format!("has {bits} bits; an RSA key needs 2048 or more"));
                }
                Algorithm::RS256
            }
            _ => return Ok(None),
        };
        let decoding = DecodingKey::from_jwk(jwk).map_err(|error| format!("cannot be used: {error}"))?;
        Ok(Some(Key { algorithm, decoding }))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_id.keys()).finish()
    }
}

/// Why a token is not accepted. The texts go to the caller: they help an honest one and tell others nothing new.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is not a token.
    #[error("the token is malformed")]
    Malformed,
    /// It is signed by a key that is not in the set, or by a method that is not allowed.
    #[error("the token is signed by an unknown key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the token's signature does not fit")]
    Signature,
    /// It has ended.
    #[error("the token has expired; get a new one")]
    Expired,
    /// It is for somebody else, or lacks what a token needs.
    #[error("the token's claim \"{0}\" is missing or not accepted here")]
    Claim(&'static str),
}

/// Checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    keys: Keys,
    issuer: String,
    audience: String,
    /// Tokens that were checked and have not ended. Checking a signature costs more than many a query, and callers
    /// present the same token again and again.
    seen: RwLock<HashMap<String, Seen>>,
}

#[derive(Clone)]
struct Seen {
    caller: Arc<Caller>,
    expires_at: u64,
}

/// Tokens that are remembered; beyond, all are forgotten and checked again.
const REMEMBERED: usize = 4096;
/// Tokens longer than this are refused: ours have some hundred bytes.
const LONGEST: usize = 8 * 1024;
/// Seconds that clocks may differ.
const LEEWAY: u64 = 30;

#[derive(Deserialize)]
struct Payload {
    #[serde(flatten)]
    claims: Claims,
    exp: u64,
}

impl Verifier {
    /// Checks with the keys of a JSON Web Key Set; tokens must be from `issuer` and for `audience`.
    ///
    /// # Errors
    ///
    /// When the key set cannot be used.
    pub fn new(jwks: &str, issuer: &str, audience: &str) -> Result<Verifier, KeysError> {
        Ok(Verifier {
            inner: Arc::new(Inner {
                keys: Keys::from_jwks(jwks)?,
                issuer: issuer.to_owned(),
                audience: audience.to_owned(),
                seen: RwLock::default(),
            }),
        })
    }

    /// The holder of a token.
    ///
    /// # Errors
    ///
    /// When the token is not accepted; the error says why.
    pub fn verify(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        self.verify_at(token, get_current_timestamp())
    }

    /// `now` counts for tokens that are remembered; those that are not are checked by the library's own clock.
    fn verify_at(&self, token: &str, now: u64) -> Result<Arc<Caller>, AuthError> {
        if token.len() > LONGEST {
            return Err(AuthError::Malformed);
        }
        let remembered = self
            .inner
            .seen
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(token)
            .cloned();
        if let Some(seen) = remembered {
            return if now > seen.expires_at {
                Err(AuthError::Expired)
            } else {
                Ok(seen.caller)
            };
        }
        let seen = self.check(token)?;
        let caller = Arc::clone(&seen.caller);
        let mut remembered = self.inner.seen.write().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(token.to_owned(), seen);
        Ok(caller)
    }

    fn check(&self, token: &str) -> Result<Seen, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Malformed)?;
        let key = self
            .inner
            .keys
            .get(header.kid.as_deref())
            .ok_or(AuthError::UnknownKey)?;
        // The algorithm is the key's, never the one that the token asks for.
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.inner.issuer]);
        validation.set_audience(&[&self.inner.audience]);
        let payload: Payload = jsonwebtoken::decode(token, &key.decoding, &validation)
            .map_err(|error| refused(error.kind()))?
            .claims;
        Ok(Seen {
            caller: Arc::new(caller(payload.claims)?),
            expires_at: payload.exp.saturating_add(LEEWAY),
        })
    }
}

fn refused(kind: &ErrorKind) -> AuthError {
    match kind {
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => AuthError::UnknownKey,
        ErrorKind::InvalidIssuer => AuthError::Claim("iss"),
        ErrorKind::InvalidAudience => AuthError::Claim("aud"),
        ErrorKind::ImmatureSignature => AuthError::Claim("nbf"),
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "iss" => AuthError::Claim("iss"),
            "aud" => AuthError::Claim("aud"),
            "sub" => AuthError::Claim("sub"),
            _ => AuthError::Claim("exp"),
        },
        _ => AuthError::Malformed,
    }
}

fn caller(claims: Claims) -> Result<Caller, AuthError> {
    let merchant = match claims.merchant.as_str() {
        ANY => MerchantScope::All,
        id => MerchantScope::One(id.parse().map_err(|_: IdError| AuthError::Claim("merchant"))?),
    };
    let stores = if claims.stores.iter().any(|store| store == ANY) {
        StoreScope::All
    } else {
        let stores: Result<BTreeSet<_>, IdError> = claims.stores.iter().map(|store| store.parse()).collect();
        StoreScope::List(stores.map_err(|_| AuthError::Claim("stores"))?)
    };
    if claims.sub.is_empty() {
        return Err(AuthError::Claim("sub"));
    }
    Ok(Caller {
        subject: claims.sub,
        merchant,
        stores,
        scopes: claims.scopes.into_iter().collect(),
    })
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("keys", &self.inner.keys)
            .field("issuer", &self.inner.issuer)
            .field("audience", &self.inner.audience)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::super::Issuer;
    use super::*;

    #[test]
    fn a_remembered_token_still_ends() {
        let issuer = Issuer::generate();
        let verifier = Verifier::new(&issuer.jwks_json(), "waybill", "waybill").expect("our keys");
        let end = get_current_timestamp() + 60;
        let token = issuer.mint_between(&Claims::system("order"), end - 60, end);
        let ask = |now: u64| verifier.verify_at(token.expose_secret(), now).map(drop);
        assert_eq!(ask(end - 60), Ok(()));
        assert_eq!(ask(end + LEEWAY), Ok(()));
        assert_eq!(ask(end + LEEWAY + 1), Err(AuthError::Expired));
    }

    #[test]
    fn memory_is_bounded() {
        let issuer = Issuer::generate();
        let verifier = Verifier::new(&issuer.jwks_json(), "waybill", "waybill").expect("our keys");
        let filler = Seen {
            caller: Arc::new(caller(Claims::system("order")).expect("our claims")),
            expires_at: u64::MAX,
        };
        for number in 0..REMEMBERED {
            let mut seen = verifier.inner.seen.write().expect("not poisoned");
            seen.insert(number.to_string(), filler.clone());
        }
        let token = issuer.mint(&Claims::system("order"), std::time::Duration::from_secs(60));
        assert!(verifier.verify(token.expose_secret()).is_ok());
        assert_eq!(verifier.inner.seen.read().expect("not poisoned").len(), 1);
    }
}
