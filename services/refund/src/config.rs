//! The settings of the refund service. Every default is documented at its field.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_payments::manual::ManualProvider;
use waybill_payments::shopify::{ShopifyConfig, ShopifyProvider};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_payments::woocommerce::{WooConfig, WooProvider};
use waybill_payments::{ClientError, Providers, check_base_url};
use waybill_runtime::config::{Secret, Validate, seconds};
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
    /// a person.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Batches of events that are applied at once in this process. Default 1.
    pub fold_lanes: u16,
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
    /// `stripe`, `shopify`, `woocommerce` or `sandbox`. Default `stripe`. What a person pays needs no settings: payments of
    /// `manual`, and of every name that is not configured, are refunded by hand.
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

/// Shopify's versions are a year and a month, so they order as text. Those before 2026-04 do not demand a key of a refund.
fn is_api_version(text: &str) -> bool {
    let digits = |part: &str, len| part.len() == len && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-')
        .is_some_and(|(year, month)| digits(year, 4) && digits(month, 2))
        && text >= "2026-04"
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
        let mut providers = Providers::new();
        for (name, of) in &self.providers {
            providers = of.add_to(providers, name, self.call_lease / 3)?;
        }
        Ok(providers)
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
        for (name, provider) in &self.providers {
            let field = format!("providers.{name}");
            violations.require(
                name != ManualProvider::NAME,
                field.clone(),
                "is the name of what a person pays; choose another",
            );
            provider.validate(&field, violations);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(provider: ProviderConfig) -> Vec<String> {
        let mut violations = Violations::new();
        provider.validate("providers.p", &mut violations);
        violations
            .iter()
            .map(|violation| violation.field.clone())
            .collect()
    }

    fn shop(kind: ProviderKind) -> ProviderConfig {
        ProviderConfig {
            kind,
            base_url: "https://shop.example".to_owned(),
            secret_key: Secret::from_value("s"),
            ..ProviderConfig::default()
        }
    }

    #[test]
    fn each_kind_says_what_it_needs() {
        assert_eq!(faults(ProviderConfig::default()), ["providers.p.secret_key"]);
        assert_eq!(faults(shop(ProviderKind::Shopify)), [""; 0]);
        assert_eq!(
            faults(shop(ProviderKind::WooCommerce)),
            ["providers.p.consumer_key"]
        );
        let nowhere = ProviderConfig {
            base_url: String::new(),
            api_version: "2025-10".to_owned(),
            consumer_key: Secret::from_value("k"),
            decimals: 5,
            ..shop(ProviderKind::Shopify)
        };
        assert_eq!(
            faults(nowhere),
            [
                "providers.p.consumer_key",
                "providers.p.base_url",
                "providers.p.decimals",
                "providers.p.api_version"
            ]
        );
        let plain = ProviderConfig {
            base_url: "http://shop.example".to_owned(),
            ..shop(ProviderKind::Shopify)
        };
        assert_eq!(faults(plain), ["providers.p.base_url"]);
        assert_eq!(faults(shop(ProviderKind::Sandbox)), ["providers.p.base_url"]);
    }

    #[test]
    fn providers_of_every_kind_are_built_under_their_names() {
        let woo = ProviderConfig {
            consumer_key: Secret::from_value("k"),
            ..shop(ProviderKind::WooCommerce)
        };
        let sandbox = ProviderConfig {
            base_url: "http://127.0.0.1:12111".to_owned(),
            ..shop(ProviderKind::Sandbox)
        };
        let providers = [
            ("stripe", shop(ProviderKind::Stripe)),
            ("shopify-eu", shop(ProviderKind::Shopify)),
            ("woo", woo),
            ("sandbox", sandbox),
        ];
        let config = Config {
            providers: providers.map(|(name, of)| (name.to_owned(), of)).into(),
            ..Config::default()
        };
        let built = config.build_providers().expect("all can be built");
        let names: Vec<&str> = built.names().collect();
        assert_eq!(names, ["sandbox", "shopify-eu", "stripe", "woo"]);
    }
}
