//! Settings of payments: which providers there are, when payments are captured, how patiently providers are called.
//!
//! `providers` is written as in the refund service, so that one text serves both.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_payments::manual::ManualProvider;
use waybill_payments::shopify::{ShopifyConfig, ShopifyProvider};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_payments::woocommerce::{WooConfig, WooProvider};
use waybill_payments::{ClientError, Providers, check_base_url};
use waybill_runtime::config::{Secret, seconds};
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

/// What a payment provider is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// An account at Stripe, or something that speaks its API.
    #[default]
    Stripe,
    /// A shop at Shopify.
    Shopify,
    /// A WooCommerce shop.
    WooCommerce,
    /// The sandbox that behaves like Stripe, on this machine. Never a place for real money.
    Sandbox,
}

/// A payment provider: an account, or a shop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderConfig {
    /// `stripe`, `shopify`, `woocommerce` or `sandbox`. Default `stripe`. What a person does needs no settings: payments of
    /// `manual`, and of every name that is not configured, are captured and voided by hand. So are those of `woocommerce`, whose
    /// shops have no such call.
    pub kind: ProviderKind,
    /// Where its API is; plain http only to this machine. Default for Stripe `https://api.stripe.com`; required for the
    /// others: a shop's own address, such as `https://example.myshopify.com`.
    pub base_url: String,
    /// Its secret; required: Stripe's secret key, Shopify's access token, WooCommerce's consumer secret.
    pub secret_key: Secret,
    /// WooCommerce's consumer key; required there, and unknown to the others.
    pub consumer_key: Secret,
    /// Version of Shopify's API. Default `2026-04`, the first that demands idempotency keys of refunds.
    pub api_version: String,
    /// Decimals that a WooCommerce shop keeps of a price: its setting "Number of decimals". Default 2.
    pub decimals: u32,
    /// How much it bears, over all replicas: calls at once, calls per second, failures in a row. Default: no limit but
    /// that of the workers; after 5 failures in a row it is left alone for 5 s, doubled up to 300 s.
    pub limits: Limits,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            kind: ProviderKind::default(),
            base_url: String::new(),
            secret_key: Secret::default(),
            consumer_key: Secret::default(),
            api_version: "2026-04".to_owned(),
            decimals: 2,
            limits: Limits::default(),
        }
    }
}

const STRIPE_URL: &str = "https://api.stripe.com";

impl ProviderConfig {
    fn base_url(&self) -> &str {
        match self.kind {
            ProviderKind::Stripe if self.base_url.is_empty() => STRIPE_URL,
            _ => &self.base_url,
        }
    }

    fn validate(&self, field: &str, violations: &mut Violations) {
        let is_woo = self.kind == ProviderKind::WooCommerce;
        violations.require(
            self.secret_key.is_set(),
            format!("{field}.secret_key"),
            "is required: give it, or its file",
        );
        violations.require(
            self.consumer_key.is_set() == is_woo,
            format!("{field}.consumer_key"),
            if is_woo {
                "is required for WooCommerce: give it, or its file"
            } else {
                "is only for kind woocommerce: leave it out"
            },
        );
        violations.value(format!("{field}.base_url"), check_base_url(self.base_url()));
        violations.require(
            // Plain http is this machine: anything else was refused just now.
            self.kind != ProviderKind::Sandbox || !self.base_url.starts_with("https:"),
            format!("{field}.base_url"),
            "a sandbox is on this machine, such as http://127.0.0.1:12111",
        );
        violations.require(
            self.decimals <= 4,
            format!("{field}.decimals"),
            format!("{} is not between 0 and 4", self.decimals),
        );
        violations.require(
            is_api_version(&self.api_version),
            format!("{field}.api_version"),
            format!(
                "{:?} is no version such as \"2026-04\", or one before it",
                self.api_version
            ),
        );
        self.limits.validate(&format!("{field}.limits"), violations);
    }

    /// Adds the provider to others. A whole call has less time than the worker waits: the adapter tells more about a
    /// time-out than a dropped call.
    fn add_to(
        &self,
        providers: Providers,
        name: &str,
        call_timeout: Duration,
    ) -> Result<Providers, StartError> {
        let secret = self.secret_key.read(&format!("providers.{name}.secret_key"))?;
        let base_url = self.base_url().to_owned();
        // A call to a shop is up to three requests.
        let request_timeout = call_timeout / 3;
        let unusable = |source: ClientError| StartError::own("a payment provider", source);
        Ok(match self.kind {
            ProviderKind::Stripe | ProviderKind::Sandbox => {
                let config = StripeConfig {
                    name: name.to_owned(),
                    base_url,
                    call_timeout,
                    ..StripeConfig::new(secret)
                };
                providers.with(StripeProvider::new(config).map_err(unusable)?)
            }
            ProviderKind::Shopify => {
                let config = ShopifyConfig {
                    name: name.to_owned(),
                    api_version: self.api_version.clone(),
                    request_timeout,
                    ..ShopifyConfig::new(base_url, secret)
                };
                providers.with(ShopifyProvider::new(config).map_err(unusable)?)
            }
            ProviderKind::WooCommerce => {
                let key = self
                    .consumer_key
                    .read(&format!("providers.{name}.consumer_key"))?;
                let config = WooConfig {
                    name: name.to_owned(),
                    decimals: self.decimals,
                    request_timeout,
                    ..WooConfig::new(base_url, key, secret)
                };
                providers.with(WooProvider::new(config).map_err(unusable)?)
            }
        })
    }
}

/// Shopify's versions are a year and a month, so they order as text.
fn is_api_version(text: &str) -> bool {
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-')
        .is_some_and(|(year, month)| digits(year, 4) && digits(month, 2))
        && text >= "2026-04"
}

/// Finds what is wrong with providers.
pub(super) fn validate(providers: &BTreeMap<String, ProviderConfig>, violations: &mut Violations) {
    for (name, provider) in providers {
        let field = format!("providers.{name}");
        violations.require(
            name != ManualProvider::NAME,
            field.clone(),
            "is the name of what a person does; choose another",
        );
        provider.validate(&field, violations);
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
        let mut providers = Providers::new();
        for (name, of) in &self.providers {
            providers = of.add_to(providers, name, self.calls.lease / 3)?;
        }
        Ok(providers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(kind: ProviderKind) -> ProviderConfig {
        ProviderConfig {
            kind,
            base_url: "https://shop.example".to_owned(),
            secret_key: Secret::from_value("s"),
            ..ProviderConfig::default()
        }
    }

    #[test]
    fn what_a_provider_lacks_is_named() {
        let providers = BTreeMap::from([
            ("manual".to_owned(), provider(ProviderKind::Stripe)),
            ("stripe".to_owned(), ProviderConfig::default()),
            ("woo".to_owned(), provider(ProviderKind::WooCommerce)),
        ]);
        let mut violations = Violations::new();
        validate(&providers, &mut violations);
        let named: Vec<String> = violations.iter().map(|fault| fault.field.clone()).collect();
        assert_eq!(
            named,
            [
                "providers.manual",
                "providers.stripe.secret_key",
                "providers.woo.consumer_key"
            ]
        );
    }

    #[test]
    fn only_those_that_capture_by_call_are_called() {
        let woo = ProviderConfig {
            consumer_key: Secret::from_value("k"),
            ..provider(ProviderKind::WooCommerce)
        };
        let config = Config {
            providers: BTreeMap::from([
                ("stripe".to_owned(), provider(ProviderKind::Stripe)),
                ("shop".to_owned(), provider(ProviderKind::Shopify)),
                ("woo".to_owned(), woo),
            ]),
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
