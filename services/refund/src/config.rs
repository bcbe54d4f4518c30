//! The settings of the refund service. Every default is documented at its field.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_payments::Providers;
use waybill_payments::config::{self as payments, ProviderConfig};
use waybill_runtime::config::{Validate, seconds};
use waybill_runtime::process::ServiceConfig;
use waybill_runtime::service::CommonConfig;
use waybill_service::StartError;
use waybill_store::jobs::Limits;

use crate::workers::{self, Patience};

/// The settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What all services share.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// Refunds handed to providers at once. Default 8.
    pub concurrent_calls: usize,
    /// How long a job is a worker's own; a call has less than half of it. Default 30 s.
    #[serde(with = "seconds")]
    pub call_lease: Duration,
    /// After a time-out, the wait before the provider is asked what came of it. Default 2 s.
    #[serde(with = "seconds")]
    pub look_after: Duration,
    /// While a provider works on a refund, the wait between two questions; webhooks are faster. Default 60 s.
    #[serde(with = "seconds")]
    pub poll_pending: Duration,
    /// How long a call can be on its way at most. After it, a refund that a provider without idempotency keys does not
    /// have is asked for again. Default 900 s.
    #[serde(with = "seconds")]
    pub quiet_period: Duration,
    /// How often is looked for jobs that nobody announced. Default 1 s.
    #[serde(with = "seconds")]
    pub poll_jobs: Duration,
    /// The payment providers by the name under which payments are recorded. Default none: all refunds are carried out by
    /// a person. So are those of `manual`, and of every name that is not configured.
    pub providers: BTreeMap<String, ProviderConfig<Limits>>,
    /// Batches of events that are applied at once in this process. Default 1.
    pub fold_lanes: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            concurrent_calls: 8,
            call_lease: Duration::from_secs(30),
            look_after: Duration::from_secs(2),
            poll_pending: Duration::from_secs(60),
            quiet_period: Duration::from_secs(900),
            poll_jobs: Duration::from_secs(1),
            providers: BTreeMap::new(),
            fold_lanes: 1,
        }
    }
}

impl Config {
    /// How patient the workers are.
    #[must_use]
    pub fn patience(&self) -> Patience {
        Patience {
            look_after: self.look_after,
            poll: self.poll_pending,
            quiet: self.quiet_period,
        }
    }

    /// The destinations of jobs, with their limits.
    #[must_use]
    pub fn destinations(&self) -> Vec<(String, Limits)> {
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
        payments::build(&self.providers, self.call_lease / 3)
            .map_err(|fault| StartError::own("a payment provider", fault))
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
        violations.require(
            (1..=256).contains(&self.concurrent_calls),
            "concurrent_calls",
            format!("{} is not between 1 and 256", self.concurrent_calls),
        );
        violations.require(
            (1..=64).contains(&self.fold_lanes),
            "fold_lanes",
            format!("{} is not between 1 and 64", self.fold_lanes),
        );
        for (field, value) in [
            ("call_lease", self.call_lease),
            ("look_after", self.look_after),
            ("poll_pending", self.poll_pending),
            ("poll_jobs", self.poll_jobs),
        ] {
            violations.require(!value.is_zero(), field, "is 0; give some seconds");
        }
        payments::validate(&self.providers, violations);
        for (name, provider) in &self.providers {
            provider
                .limits
                .validate(&format!("providers.{name}.limits"), violations);
        }
        violations.require(
            self.quiet_period > self.call_lease,
            "quiet_period",
            format!(
                "{} s is not longer than a call can take ({} s)",
                self.quiet_period.as_secs(),
                self.call_lease.as_secs()
            ),
        );
    }
}
