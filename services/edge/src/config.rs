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
    /// The secrets of webhooks, by "merchant_id/store_id". A store that is not here gets none.
    pub webhooks: BTreeMap<String, WebhookSecrets>,
}

/// What the webhooks of one store are verified with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookSecrets {
    /// AfterShip's webhook secret.
    pub aftership: Secret,
    /// Stripe's endpoint secrets; two while one is being replaced.
    pub stripe: Vec<Secret>,
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
        for key in self.webhooks.keys() {
            violations.require(
                tenant(key).is_some(),
                format!("webhooks.{key}"),
                "is not \"merchant_id/store_id\" with two ids",
            );
        }
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}

/// Reads "merchant_id/store_id".
#[must_use]
pub fn tenant(text: &str) -> Option<(MerchantId, StoreId)> {
    let (merchant, store) = text.split_once('/')?;
    Some((merchant.parse().ok()?, store.parse().ok()?))
}
