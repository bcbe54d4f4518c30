//! Tokens for tests, made and checked with a key of this process, by the code that production uses.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_rpc::auth::{Claims, Issuer, Verifier};
use waybill_rpc::client::TokenSource;
use waybill_runtime::service::AuthConfig;

/// Longer than any test.
const TTL: Duration = Duration::from_secs(3600);

/// An issuer and the verifier that believes it.
#[derive(Clone, Debug)]
pub struct Auth {
    issuer: Issuer,
    verifier: Verifier,
}

impl Auth {
    /// A new key. Two of them do not believe each other.
    pub fn new() -> Self {
        let issuer = Issuer::generate();
        let AuthConfig {
            issuer: name,
            audience,
            ..
        } = AuthConfig::default();
        let verifier =
            Verifier::new(&issuer.jwks_json(), &name, &audience).expect("our own key set can be used");
        Self { issuer, verifier }
    }

    /// A merchant's token for these stores (none means all of them) and scopes.
    pub fn token(&self, merchant: MerchantId, stores: &[StoreId], scopes: &[&str]) -> SecretString {
        self.issuer
            .mint(&Claims::merchant("test", merchant, stores, scopes), TTL)
    }

    /// The token one of Waybill's own services presents: everything everywhere.
    pub fn system_token(&self) -> SecretString {
        self.issuer.mint(&Claims::system("test"), TTL)
    }

    /// What `waybill_rpc::client::connect` takes, for a merchant's token.
    pub fn source(&self, merchant: MerchantId, stores: &[StoreId], scopes: &[&str]) -> TokenSource {
        TokenSource::fixed(self.token(merchant, stores, scopes))
    }

    /// What `waybill_rpc::client::connect` takes, for a service's token.
    pub fn system_source(&self) -> TokenSource {
        TokenSource::fixed(self.system_token())
    }

    /// The public keys, as a service is configured with them.
    pub fn jwks(&self) -> String {
        self.issuer.jwks_json()
    }

    /// The settings of a service that believes this issuer and presents a system token to its peers.
    pub fn config(&self) -> AuthConfig {
        AuthConfig {
            jwks: Some(self.jwks()),
            service_token: self.system_token().expose_secret().into(),
            ..AuthConfig::default()
        }
    }

    /// Makes tokens with other claims, or other times.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Checks tokens as a server does.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use waybill_rpc::auth::{MerchantScope, StoreScope};

    use super::*;

    #[test]
    fn tokens_say_what_was_asked_for_and_only_to_those_who_know_the_key() -> anyhow::Result<()> {
        let (auth, merchant, store) = (Auth::new(), MerchantId::generate(), StoreId::generate());
        let token = auth.token(merchant, &[store], &["orders:read"]);
        let caller = auth.verifier().verify(token.expose_secret())?;
        assert_eq!(caller.merchant, MerchantScope::One(merchant));
        assert_eq!(caller.stores, StoreScope::List([store].into()));
        assert!(caller.has_scope("orders:read") && !caller.has_scope("orders:write"));

        let system = auth.system_token();
        assert!(auth.verifier().verify(system.expose_secret())?.is_system());

        assert!(
            Auth::new().verifier().verify(token.expose_secret()).is_err(),
            "a stranger believed it"
        );
        Ok(())
    }
}
