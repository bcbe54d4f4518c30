//! Settings of payments: when payments are captured, how patiently providers are called. Which providers there are is said
//! as in the refund service ([`waybill_payments::config`]), so that one text serves both.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_payments::Providers;
use waybill_payments::config as payments;
use waybill_runtime::config::seconds;
use waybill_service::StartError;
use waybill_store::jobs::{JobOptions, Limits};

use super::Config;
use crate::domain::capture::{CapturePolicy, CaptureRules};
use crate::workers::{self, Patience};

/// When payments are captured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capture {
    /// `manual`: when a caller says so; `at_once`: when an authorisation is recorded; `on_shipment`: all that is open, when
    /// the first parcel leaves. Default `manual`. The latter two are for providers that are configured and capture by call.
    pub policy: CapturePolicy,
    /// Merchants and stores with a policy of their own.
    pub stores: Vec<StoreCapture>,
}

/// When payments of a merchant, or of one store, are captured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreCapture {
    /// The merchant.
    pub merchant_id: MerchantId,
    /// The store; all of the merchant when not set.
    #[serde(default)]
    pub store_id: Option<StoreId>,
    /// As [`Capture::policy`].
    pub policy: CapturePolicy,
}

impl Capture {
    /// As the rules that use cases ask.
    #[must_use]
    pub fn rules(&self, providers: &Providers) -> CaptureRules {
        let own = self.stores.iter();
        let callable = providers.names().filter(|name| {
            providers
                .get(name)
                .is_some_and(|provider| provider.captures_by_call())
        });
        CaptureRules {
            usual: self.policy,
            own: own.map(|of| ((of.merchant_id, of.store_id), of.policy)).collect(),
            callable: callable.map(str::to_owned).collect(),
        }
    }
}

/// How providers are called.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
pub struct Calls {
    /// Captures and voids handed to providers at once. Default 8.
    pub concurrent: usize,
    /// How long a job is a worker's own; a call has less than half of it. Default 30 s.
    #[serde(with = "seconds")]
    pub lease: Duration,
    /// After a time-out, the wait before the provider is asked what came of it. Default 2 s.
    #[serde(with = "seconds")]
    pub look_after: Duration,
    /// While a provider works on a capture, the wait between two questions; webhooks are faster. Default 60 s.
    #[serde(with = "seconds")]
    pub poll_pending: Duration,
    /// How long a call can be on its way at most. After it, a capture that a provider without idempotency keys does not have
    /// is asked for again. Default 900 s.
    #[serde(with = "seconds")]
    pub quiet_period: Duration,
    /// How often is looked for jobs that nobody announced. Default 1 s.
    #[serde(with = "seconds")]
    pub poll_jobs: Duration,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            concurrent: 8,
            lease: Duration::from_secs(30),
            look_after: Duration::from_secs(2),
            poll_pending: Duration::from_secs(60),
            quiet_period: Duration::from_secs(900),
            poll_jobs: Duration::from_secs(1),
        }
    }
}

impl Calls {
    /// How patient the workers are.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            look_after: self.look_after,
            poll: self.poll_pending,
            quiet: self.quiet_period,
        }
    }

    /// How jobs are run.
    pub(crate) fn jobs(&self) -> JobOptions {
        JobOptions {
            concurrency: self.concurrent,
            lease: self.lease,
            // What is decided stays decided: a provider may be down for a day.
            max_attempts: 500,
            poll: self.poll_jobs,
            ..JobOptions::default()
        }
    }

    pub(super) fn validate(&self, violations: &mut Violations) {
        violations.require(
            (1..=256).contains(&self.concurrent),
            "calls.concurrent",
            format!("{} is not between 1 and 256", self.concurrent),
        );
        for (field, value) in [
            ("calls.lease", self.lease),
            ("calls.look_after", self.look_after),
            ("calls.poll_pending", self.poll_pending),
            ("calls.poll_jobs", self.poll_jobs),
        ] {
            violations.require(!value.is_zero(), field, "is 0; give some seconds");
        }
        violations.require(
            self.quiet_period > self.lease,
            "calls.quiet_period",
            format!(
                "{} s is not longer than a call can take ({} s)",
                self.quiet_period.as_secs(),
                self.lease.as_secs()
            ),
        );
    }
}

impl Config {
    /// The destinations of jobs, with their limits.
    pub(crate) fn destinations(&self) -> Vec<(String, Limits)> {
        self.providers
            .iter()
            .map(|(name, of)| (workers::destination(name), of.limits.clone()))
            .collect()
    }

    /// The providers that are configured.
    ///
    /// # Errors
    ///
    /// When a key cannot be read or an address cannot be used.
    pub fn build_providers(&self) -> Result<Providers, StartError> {
        payments::build(&self.providers, self.calls.lease / 3)
            .map_err(|fault| StartError::own("a payment provider", fault))
    }
}

#[cfg(test)]
mod tests {
    use waybill_payments::config::{ProviderConfig, ProviderKind};
    use waybill_runtime::config::Secret;

    use super::*;

    fn provider(kind: ProviderKind) -> ProviderConfig<Limits> {
        ProviderConfig {
            kind,
            base_url: "https://shop.example".to_owned(),
            secret_key: Secret::from_value("s"),
            ..ProviderConfig::default()
        }
    }

    #[test]
    fn only_those_that_capture_by_call_are_called() {
        let woo = ProviderConfig {
            consumer_key: Secret::from_value("k"),
            ..provider(ProviderKind::WooCommerce)
        };
        let config = Config {
            providers: [
                ("stripe".to_owned(), provider(ProviderKind::Stripe)),
                ("shop".to_owned(), provider(ProviderKind::Shopify)),
                ("woo".to_owned(), woo),
            ]
            .into(),
            ..Config::default()
        };
        let built = config.build_providers().expect("all can be built");
        assert_eq!(built.names().count(), 3);
        let rules = config.capture.rules(&built);
        let callable: Vec<&str> = rules.callable.iter().map(String::as_str).collect();
        assert_eq!(callable, ["shop", "stripe"]);
    }

    #[test]
    fn calls_that_cannot_be_are_named() {
        let calls = Calls {
            concurrent: 0,
            poll_jobs: Duration::ZERO,
            quiet_period: Duration::from_secs(30),
            ..Calls::default()
        };
        let mut violations = Violations::new();
        calls.validate(&mut violations);
        let named: Vec<String> = violations.iter().map(|fault| fault.field.clone()).collect();
        assert_eq!(
            named,
            ["calls.concurrent", "calls.poll_jobs", "calls.quiet_period"]
        );
    }
}
