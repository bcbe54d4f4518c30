//! Settings of providers: what each kind needs, and the providers that are made of it. Every service that calls providers
//! takes the same text.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_runtime::config::{ConfigError, Secret};

use crate::http::{ClientError, check_base_url};
use crate::manual::ManualProvider;
use crate::provider::Providers;
use crate::shopify::{ShopifyConfig, ShopifyProvider};
use crate::stripe::{StripeConfig, StripeProvider};
use crate::woocommerce::{WooConfig, WooProvider};

/// Why no provider can be made of its settings.
#[derive(Debug, thiserror::Error)]
pub enum ProviderFault {
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] ConfigError),
    /// Its address or keys cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
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
#[serde(default, bound(deserialize = "L: Default + Deserialize<'de>"))]
pub struct ProviderConfig<L> {
    /// `stripe`, `shopify`, `woocommerce` or `sandbox`. Default `stripe`.
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
    /// that of the workers; after 5 failures in a row it is left alone for 5 s, doubled up to 300 s. Held by whoever calls.
    pub limits: L,
}

impl<L: Default> Default for ProviderConfig<L> {
    fn default() -> Self {
        Self {
            kind: ProviderKind::default(),
            base_url: String::new(),
            secret_key: Secret::default(),
            consumer_key: Secret::default(),
            api_version: "2026-04".to_owned(),
            decimals: 2,
            limits: L::default(),
        }
    }
}

const STRIPE_URL: &str = "https://api.stripe.com";

impl<L> ProviderConfig<L> {
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
    }

    /// Adds the provider to others. A whole call has less time than the worker waits: the adapter tells more about a
    /// time-out than a dropped call.
    fn add_to(
        &self,
        providers: Providers,
        name: &str,
        call_timeout: Duration,
    ) -> Result<Providers, ProviderFault> {
        let secret = self.secret_key.read(&format!("providers.{name}.secret_key"))?;
        let base_url = self.base_url().to_owned();
        // A call to a shop is up to three requests.
        let request_timeout = call_timeout / 3;
        Ok(match self.kind {
            ProviderKind::Stripe | ProviderKind::Sandbox => {
                let config = StripeConfig {
                    name: name.to_owned(),
                    base_url,
                    call_timeout,
                    ..StripeConfig::new(secret)
                };
                providers.with(StripeProvider::new(config)?)
            }
            ProviderKind::Shopify => {
                let config = ShopifyConfig {
                    name: name.to_owned(),
                    api_version: self.api_version.clone(),
                    request_timeout,
                    ..ShopifyConfig::new(base_url, secret)
                };
                providers.with(ShopifyProvider::new(config)?)
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
                providers.with(WooProvider::new(config)?)
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

/// Finds what is wrong with providers by name, but for their limits.
pub fn validate<L>(providers: &BTreeMap<String, ProviderConfig<L>>, violations: &mut Violations) {
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

/// The providers that are configured. A whole call has `call_timeout`.
///
/// # Errors
///
/// When a key cannot be read or an address cannot be used.
pub fn build<L>(
    providers: &BTreeMap<String, ProviderConfig<L>>,
    call_timeout: Duration,
) -> Result<Providers, ProviderFault> {
    let mut built = Providers::new();
    for (name, of) in providers {
        built = of.add_to(built, name, call_timeout)?;
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Config = ProviderConfig<()>;

    fn faults(provider: Config) -> Vec<String> {
        let mut violations = Violations::new();
        provider.validate("providers.p", &mut violations);
        violations
            .iter()
            .map(|violation| violation.field.clone())
            .collect()
    }

    fn shop(kind: ProviderKind) -> Config {
        Config {
            kind,
            base_url: "https://shop.example".to_owned(),
            secret_key: Secret::from_value("s"),
            ..Config::default()
        }
    }

    #[test]
    fn each_kind_says_what_it_needs() {
        assert_eq!(faults(Config::default()), ["providers.p.secret_key"]);
        assert_eq!(faults(shop(ProviderKind::Shopify)), [""; 0]);
        assert_eq!(
            faults(shop(ProviderKind::WooCommerce)),
            ["providers.p.consumer_key"]
        );
        let nowhere = Config {
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
        let plain = Config {
            base_url: "http://shop.example".to_owned(),
            ..shop(ProviderKind::Shopify)
        };
        assert_eq!(faults(plain), ["providers.p.base_url"]);
        assert_eq!(faults(shop(ProviderKind::Sandbox)), ["providers.p.base_url"]);
    }

    #[test]
    fn providers_of_every_kind_are_built_under_their_names() {
        let woo = Config {
            consumer_key: Secret::from_value("k"),
            ..shop(ProviderKind::WooCommerce)
        };
        let sandbox = Config {
            base_url: "http://127.0.0.1:12111".to_owned(),
            ..shop(ProviderKind::Sandbox)
        };
        let providers = [
            ("stripe", shop(ProviderKind::Stripe)),
            ("shopify-eu", shop(ProviderKind::Shopify)),
            ("woo", woo),
            ("sandbox", sandbox),
        ];
        let providers = providers.map(|(name, of)| (name.to_owned(), of)).into();
        let built = build(&providers, Duration::from_secs(10)).expect("all can be built");
        let names: Vec<&str> = built.names().collect();
        assert_eq!(names, ["sandbox", "shopify-eu", "stripe", "woo"]);
    }

    #[test]
    fn nobody_takes_the_name_of_what_a_person_does() {
        let providers = BTreeMap::from([
            ("manual".to_owned(), shop(ProviderKind::Stripe)),
            ("stripe".to_owned(), Config::default()),
        ]);
        let mut violations = Violations::new();
        validate(&providers, &mut violations);
        let named: Vec<&str> = violations.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, ["providers.manual", "providers.stripe.secret_key"]);
    }
}
