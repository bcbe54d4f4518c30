//! Settings of the edge.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_runtime::config::{Secret, Validate, seconds};
use waybill_runtime::process::ServiceConfig;
use waybill_runtime::service::CommonConfig;

/// What the edge is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What every service is told; of it the edge uses `peers` (`fulfillment`, `refund`, and `order`, without which what
    /// webhooks say about payments is passed over), `auth.service_token`, `telemetry` and `shutdown_grace`. It has no
    /// database.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// Where HTTP is served. Default 127.0.0.1:8080.
    pub http: SocketAddr,
    /// The largest body that is read. Default 1 MiB.
    pub max_body_bytes: usize,
    /// Seconds a request may take: webhooks of some senders count as failed after 5. Default 4.
    #[serde(with = "seconds")]
    pub request_timeout: Duration,
    /// What webhooks are verified with and whose they are, by "merchant_id/store_id". A store that is not here gets none.
    pub webhooks: BTreeMap<String, WebhookSecrets>,
}

/// What the webhooks of one store are verified with, and which provider they tell of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookSecrets {
    /// AfterShip's webhook secret.
    pub aftership: Secret,
    /// Stripe's endpoint secrets; two while one is being replaced.
    pub stripe: Vec<Secret>,
    /// The name of the store's account at Stripe: that under which `providers` of order and refund have it, and under
    /// which its payments are recorded. Default `stripe`.
    pub stripe_provider: String,
}

impl Default for WebhookSecrets {
    fn default() -> Self {
        Self {
            aftership: Secret::default(),
            stripe: Vec::new(),
            stripe_provider: "stripe".to_owned(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            max_body_bytes: 1 << 20,
            request_timeout: Duration::from_secs(4),
            webhooks: BTreeMap::new(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.telemetry.validate(violations);
        violations.require(
            self.common.auth.service_token.is_set(),
            "auth.service_token",
            "is required: the edge calls the services with it",
        );
        for peer in ["fulfillment", "refund"] {
            violations.require(
                self.common.peers.contains_key(peer),
                format!("peers.{peer}"),
                "is not set",
            );
        }
        violations.require(
            (1024..=16 << 20).contains(&self.max_body_bytes),
            "max_body_bytes",
            format!("is {}; 1 KiB to 16 MiB are allowed", self.max_body_bytes),
        );
        for (key, of_store) in &self.webhooks {
            violations.require(
                tenant(key).is_some(),
                format!("webhooks.{key}"),
                "is not \"merchant_id/store_id\" with two ids",
            );
            let name = &of_store.stripe_provider;
            violations.require(
                is_provider(name),
                format!("webhooks.{key}.stripe_provider"),
                format!("{name:?} is no name of a provider, such as \"stripe\""),
            );
        }
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}

/// Whether payments can be recorded under this name.
fn is_provider(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=40).contains(&name.len()) && name.bytes().all(plain)
}

/// Reads "merchant_id/store_id".
#[must_use]
pub fn tenant(text: &str) -> Option<(MerchantId, StoreId)> {
    let (merchant, store) = text.split_once('/')?;
    Some((merchant.parse().ok()?, store.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: serde_json::Value) -> WebhookSecrets {
        serde_json::from_value(text).expect("settings of a store")
    }

    #[test]
    fn an_account_at_stripe_has_the_usual_name_unless_it_is_given_another() {
        let usual = secrets(serde_json::json!({"stripe": ["whsec_a"]}));
        assert_eq!(usual.stripe_provider, "stripe");
        let other = secrets(serde_json::json!({"stripe": ["whsec_a"], "stripe_provider": "stripe-eu"}));
        assert_eq!(other.stripe_provider, "stripe-eu");
    }

    #[test]
    fn a_name_under_which_nothing_can_be_recorded_is_refused() {
        let key = format!("{}/{}", MerchantId::generate(), StoreId::generate());
        let field = format!("webhooks.{key}.stripe_provider");
        let long = "s".repeat(41);
        for (name, good) in [
            ("stripe-eu", true),
            ("", false),
            ("Stripe EU", false),
            (long.as_str(), false),
        ] {
            let of_store = WebhookSecrets {
                stripe_provider: name.to_owned(),
                ..WebhookSecrets::default()
            };
            let config = Config {
                webhooks: BTreeMap::from([(key.clone(), of_store)]),
                ..Config::default()
            };
            let mut violations = Violations::new();
            config.validate(&mut violations);
            let refused = violations.iter().any(|violation| violation.field == field);
            assert_eq!(refused, !good, "{name:?}");
        }
    }
}
