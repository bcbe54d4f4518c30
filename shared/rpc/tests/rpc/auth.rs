//! Keys and tokens, without a network.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_rpc::auth::{AuthError, Claims, Issuer, Keys, KeysError, MerchantScope, StoreScope, Verifier};

const HOUR: Duration = Duration::from_secs(3600);

fn verifier(issuer: &Issuer) -> Verifier {
    Verifier::new(&issuer.jwks_json(), "waybill", "waybill").expect("our keys")
}

fn claims() -> Claims {
    Claims::merchant(
        "ada",
        MerchantId::generate(),
        &[StoreId::generate()],
        &["orders:read", "orders:write"],
    )
}

#[test]
fn a_caller_is_what_its_token_says() -> anyhow::Result<()> {
    let issuer = Issuer::generate();
    let verifier = verifier(&issuer);
    let (merchant, store) = (MerchantId::generate(), StoreId::generate());
    let token = issuer.mint(
        &Claims::merchant("ada", merchant, &[store], &["orders:read"]),
        HOUR,
    );
    let caller = verifier.verify(token.expose_secret())?;
    assert_eq!(caller.subject, "ada");
    assert_eq!(caller.merchant, MerchantScope::One(merchant));
    assert_eq!(caller.stores, StoreScope::List([store].into()));
    assert!(caller.has_scope("orders:read") && !caller.has_scope("orders:write") && !caller.is_system());
    assert!(caller.may_name_merchant(merchant) && !caller.may_name_merchant(MerchantId::generate()));
    assert!(caller.may_name_store(store) && !caller.may_name_store(StoreId::generate()));
    // Again, now from memory.
    assert_eq!(verifier.verify(token.expose_secret())?, caller);

    let system = verifier.verify(issuer.mint(&Claims::system("refund"), HOUR).expose_secret())?;
    assert!(system.is_system() && system.may_name_merchant(MerchantId::generate()));
    assert!(system.may_name_store(StoreId::generate()) && system.has_scope("events:read"));
    Ok(())
}

#[test]
fn a_key_survives_its_pem_and_keeps_its_id() -> anyhow::Result<()> {
    let issuer = Issuer::generate();
    let again = Issuer::from_pem(&issuer.pem())?;
    assert_eq!(again.jwks_json(), issuer.jwks_json());
    verifier(&issuer).verify(again.mint(&claims(), HOUR).expose_secret())?;
    assert!(Issuer::from_pem(&SecretString::from("-----BEGIN NOTHING-----".to_owned())).is_err());
    assert!(!format!("{issuer:?}").contains("PRIVATE"));
    Ok(())
}

#[test]
fn times_are_kept() {
    let issuer = Issuer::generate();
    let verifier = verifier(&issuer);
    let now = jsonwebtoken::get_current_timestamp();
    let ask = |from: u64, to: u64| {
        verifier
            .verify(issuer.mint_between(&claims(), from, to).expose_secret())
            .map(drop)
    };
    assert_eq!(ask(now, now + 60), Ok(()));
    assert_eq!(ask(now - 100, now - 10), Ok(()), "clocks may differ a little");
    assert_eq!(ask(now - 100, now - 60), Err(AuthError::Expired));
}

/// A token with any header and payload, signed by `key` with `algorithm`.
fn signed(kid: Option<&str>, payload: &Value, key: &EncodingKey, algorithm: Algorithm) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, payload, key).expect("it signs")
}

fn ed_key(issuer: &Issuer) -> EncodingKey {
    EncodingKey::from_ed_pem(issuer.pem().expose_secret().as_bytes()).expect("our key")
}

fn kid(issuer: &Issuer) -> String {
    let set: Value = serde_json::from_str(&issuer.jwks_json()).expect("JSON");
    set["keys"][0]["kid"].as_str().expect("a key id").to_owned()
}

#[test]
fn every_claim_is_needed_and_must_fit() {
    let issuer = Issuer::generate();
    let verifier = verifier(&issuer);
    let good = json!({
        "sub": "ada", "merchant": MerchantId::generate(), "stores": [StoreId::generate()], "scopes": ["orders:read"],
        "iss": "waybill", "aud": ["others", "waybill"], "exp": 4_000_000_000_u64,
    });
    let ask = |payload: &Value| {
        let token = signed(Some(&kid(&issuer)), payload, &ed_key(&issuer), Algorithm::EdDSA);
        verifier.verify(&token).map(drop)
    };
    assert_eq!(ask(&good), Ok(()));
    for (claim, value, expected) in [
        ("iss", json!("evil"), AuthError::Claim("iss")),
        ("aud", json!("other"), AuthError::Claim("aud")),
        ("nbf", json!(3_999_999_999_u64), AuthError::Claim("nbf")),
        ("merchant", json!("shop"), AuthError::Claim("merchant")),
        ("merchant", json!(""), AuthError::Claim("merchant")),
        ("stores", json!(["shop"]), AuthError::Claim("stores")),
        ("sub", json!(""), AuthError::Claim("sub")),
        ("stores", json!("*"), AuthError::Malformed),
        ("scopes", json!(null), AuthError::Malformed),
        ("exp", json!("soon"), AuthError::Malformed),
    ] {
        let mut payload = good.clone();
        payload[claim] = value.clone();
        assert_eq!(ask(&payload), Err(expected), "{claim} = {value}");
    }
    for claim in ["sub", "merchant", "stores", "scopes", "iss", "aud", "exp"] {
        let mut payload = good.clone();
        payload.as_object_mut().expect("an object").remove(claim);
        assert!(ask(&payload).is_err(), "without {claim}");
    }
}

#[test]
fn no_other_algorithm_gets_in() {
    let issuer = Issuer::generate();
    let verifier = verifier(&issuer);
    let payload = json!({
        "sub": "eve", "merchant": "*", "stores": ["*"], "scopes": [], "iss": "waybill", "aud": "waybill", "exp": 4_000_000_000_u64,
    });
    // The public key as the secret of a symmetric signature: the oldest trick.
    let set: Value = serde_json::from_str(&issuer.jwks_json()).expect("JSON");
    let public = URL_SAFE_NO_PAD
        .decode(set["keys"][0]["x"].as_str().expect("a key"))
        .expect("base64url");
    let symmetric = signed(
        Some(&kid(&issuer)),
        &payload,
        &EncodingKey::from_secret(&public),
        Algorithm::HS256,
    );
    assert_eq!(verifier.verify(&symmetric).map(drop), Err(AuthError::UnknownKey));

    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = format!(
        "{}.{}.",
        encode(&json!({"alg": "none", "kid": kid(&issuer)})),
        encode(&payload)
    );
    assert!(verifier.verify(&none).is_err());
    let unsigned = format!(
        "{}.{}.",
        encode(&json!({"alg": "EdDSA", "kid": kid(&issuer)})),
        encode(&payload)
    );
    assert!(verifier.verify(&unsigned).is_err());
    let unknown = signed(Some("elsewhere"), &payload, &ed_key(&issuer), Algorithm::EdDSA);
    assert_eq!(verifier.verify(&unknown).map(drop), Err(AuthError::UnknownKey));
    assert_eq!(
        verifier.verify(&"a".repeat(9000)).map(drop),
        Err(AuthError::Malformed)
    );
}

#[test]
fn key_sets_are_read_with_care() {
    let ours: Value = serde_json::from_str(&Issuer::generate().jwks_json()).expect("JSON");
    let good = &ours["keys"][0];
    let read = |keys: &[&Value]| Keys::from_jwks(&json!({ "keys": keys }).to_string());

    let encryption = json!({"kty": "RSA", "use": "enc", "kid": "e", "n": "AQAB", "e": "AQAB"});
    let curve = json!({"kty": "EC", "crv": "P-256", "kid": "c", "x": "AA", "y": "AA"});
    let keys = read(&[&encryption, &curve, good]).expect("others are passed over");
    assert!(format!("{keys:?}").contains(good["kid"].as_str().expect("a key id")));

    assert!(matches!(read(&[]), Err(KeysError::Empty)));
    assert!(matches!(read(&[&encryption, &curve]), Err(KeysError::Empty)));
    assert!(matches!(Keys::from_jwks("not JSON"), Err(KeysError::Json(_))));

    let short = json!({"kty": "OKP", "crv": "Ed25519", "kid": "s", "x": "AAAA"});
    let error = read(&[&short, good]).expect_err("a short key").to_string();
    assert!(error.contains("\"s\"") && error.contains("3 bytes"), "{error}");
    let weak = json!({"kty": "RSA", "kid": "w", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"});
    let error = read(&[&weak, good]).expect_err("a weak key").to_string();
    assert!(error.contains("\"w\"") && error.contains("1024 bits"), "{error}");
}

/// A key and a token that OpenSSL made (`openssl genrsa 2048`, `openssl dgst -sha256 -sign`); the token ends in 2096.
#[test]
fn rsa_tokens_of_other_tools_are_read() -> anyhow::Result<()> {
    let fixture: Value = serde_json::from_str(include_str!("rs256.json"))?;
    let verifier = Verifier::new(&fixture["jwks"].to_string(), "https://id.example.com", "waybill")?;
    let token = fixture["token"].as_str().expect("a token");
    let caller = verifier.verify(token)?;
    assert_eq!(caller.subject, "openssl");
    assert!(caller.has_scope("orders:read"));

    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let mut bytes = URL_SAFE_NO_PAD.decode(signature)?;
    bytes[7] ^= 1;
    let forged = format!("{head}.{}", URL_SAFE_NO_PAD.encode(bytes));
    assert_eq!(verifier.verify(&forged).map(drop), Err(AuthError::Signature));
    Ok(())
}

/// Making a key is slow without optimization; the properties share one.
static SHARED: LazyLock<(Issuer, Verifier)> = LazyLock::new(|| {
    let issuer = Issuer::generate();
    let verifier = verifier(&issuer);
    (issuer, verifier)
});

proptest! {
    #[test]
    fn nothing_that_is_no_token_is_accepted(text in "\\PC{0,200}") {
        prop_assert!(SHARED.1.verify(&text).is_err());
    }

    #[test]
    fn a_token_with_any_character_changed_is_refused(position in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
        let (issuer, verifier) = &*SHARED;
        let token = issuer.mint(&claims(), HOUR);
        let mut changed = token.expose_secret().to_owned();
        let at = position.index(changed.len());
        changed.replace_range(at..=at, &with);
        // The last character of base64 holds bits that count for nothing; a strict reader refuses those as well.
        prop_assume!(changed != token.expose_secret());
        prop_assert!(verifier.verify(&changed).is_err());
    }
}
