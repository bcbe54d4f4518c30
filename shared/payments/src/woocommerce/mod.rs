//! The adapter for the orders of a WooCommerce shop (REST API, `wc/v3`).
//!
//! A payment is named by the number of its order. The shop hands a refund to the order's payment gateway and keeps it only
//! when the gateway said yes; until then, and when its process died in between, it shows the refund as not paid.
//!
//! No idempotency key is documented. So a refund's reason carries our marker and the attempt's key, and the order's refunds
//! are listed before every call. Whether a gateway was in doubt when the shop took its refund back, the shop does not
//! tell: such a leg fails, and only a person asks for it again.
//!
//! The core of WooCommerce has no call that captures or voids: gateways do that when staff change an order, each in its own
//! way. Both are refused here, and recorded when a person did them in the shop.

mod wire;

use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::json;
use waybill_kernel::money::{Currency, Money};

use self::wire::{WireOrder, WireRefund};
use crate::decimal;
use crate::http::{self, About, ClientError, traced};
use crate::payment::ProviderPayment;
use crate::provider::{
    PaymentProvider, ProviderError, ProviderRefund, RefundRequest, RefundState, require_key,
};

/// Most refunds of an order that are looked through: pages of 100.
const MAX_PAGES: usize = 10;
const PAGE: usize = 100;
/// Longest reason that is sent.
const MAX_REASON_LEN: usize = 500;

/// Where and how a shop is called.
#[derive(Debug, Clone)]
pub struct WooConfig {
    /// Name under which payments and refunds are stored. Default `"woocommerce"`.
    pub name: String,
    /// The shop, such as `"https://shop.example"`; plain http only to this machine.
    pub base_url: String,
    /// Consumer key of a REST API key with read and write access.
    pub consumer_key: SecretString,
    /// Its consumer secret.
    pub consumer_secret: SecretString,
    /// Decimals that the shop keeps of a price (its setting "Number of decimals"). Default 2.
    pub decimals: u32,
    /// Longest time one request may take, from connecting to the last byte. A call makes up to three. Default 6 s.
    pub request_timeout: Duration,
}

impl WooConfig {
    /// The defaults for a shop.
    #[must_use]
    pub fn new(base_url: String, consumer_key: SecretString, consumer_secret: SecretString) -> Self {
        Self {
            name: "woocommerce".to_owned(),
            base_url,
            consumer_key,
            consumer_secret,
            decimals: 2,
            request_timeout: Duration::from_secs(6),
        }
    }
}

/// A WooCommerce shop.
#[derive(Debug)]
pub struct WooProvider {
    config: WooConfig,
    orders_url: Url,
    client: reqwest::Client,
}

impl WooProvider {
    /// Prepares calls; nothing is called yet.
    ///
    /// # Errors
    /// When the base URL is not usable or would send the keys in the clear, or TLS cannot be set up.
    pub fn new(config: WooConfig) -> Result<Self, ClientError> {
        let base = http::base_url(&config.base_url)?;
        let client = http::client(&base, config.request_timeout)?;
        let mut orders_url = base;
        // Shops live in folders, too: what the URL has of a path stays.
        orders_url
            .path_segments_mut()
            .map_err(|()| ClientError::Url {
                url: config.base_url.clone(),
            })?
            .pop_if_empty()
            .extend(["wp-json", "wc", "v3", "orders"]);
        Ok(Self {
            config,
            orders_url,
            client,
        })
    }

    fn call(&self, method: Method, order: u64, rest: &[&str]) -> Result<RequestBuilder, ProviderError> {
        let mut url = self.orders_url.clone();
        url.path_segments_mut()
            .map_err(|()| ProviderError::refused("base_url", "cannot be a base of other URLs"))?
            .push(&order.to_string())
            .extend(rest);
        Ok(self.client.request(method, url).basic_auth(
            self.config.consumer_key.expose_secret(),
            Some(self.config.consumer_secret.expose_secret()),
        ))
    }

    async fn order(&self, order: u64) -> Result<WireOrder, ProviderError> {
        ask(self.call(Method::GET, order, &[])?).await
    }

    /// The refund of a request among those of its order.
    async fn listed(&self, order: u64, request: &RefundRequest) -> Result<Option<WireRefund>, ProviderError> {
        let ours = marks(request);
        for page in 1..=MAX_PAGES {
            let (page, size) = (page.to_string(), PAGE.to_string());
            let call = self
                .call(Method::GET, order, &["refunds"])?
                .query(&[("per_page", &size), ("page", &page)]);
            let refunds: Vec<WireRefund> = ask(call).await?;
            let is_last = refunds.len() < PAGE;
            let found = refunds
                .into_iter()
                .find(|refund| refund.reason.starts_with(&ours));
            if found.is_some() || is_last {
                return Ok(found);
            }
        }
        Err(ProviderError::unknown("too_many_refunds"))
    }

    async fn create(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
        request.require_positive()?;
        require_key(&request.idempotency_key)?;
        let id = order_number(&request.provider_payment_id)?;
        let reason = reason(request)?;
        self.require_step(request.amount)?;
        self.order(id).await?.require_payable(request.amount)?;
        if let Some(refund) = self.listed(id, request).await? {
            return accept(&refund, request);
        }
        let call = self.call(Method::POST, id, &["refunds"])?.json(&json!({
            "amount": request.amount.to_decimal(),
            "reason": reason,
            "api_refund": true,
            "api_restock": false,
        }));
        let refund: WireRefund = send(call, StatusCode::CREATED).await?;
        accept(&refund, request)
    }

    async fn search(&self, request: &RefundRequest) -> Result<Option<ProviderRefund>, ProviderError> {
        let order = order_number(&request.provider_payment_id)?;
        let found = self.listed(order, request).await?;
        found.map(|refund| accept(&refund, request)).transpose()
    }

    fn require_step(&self, amount: Money) -> Result<(), ProviderError> {
        let step = decimal::step(amount.currency, self.config.decimals);
        if amount.minor % step == 0 {
            return Ok(());
        }
        let detail = format!(
            "{amount}: the shop keeps {} decimals, so amounts move in steps of {step} minor units",
            self.config.decimals
        );
        Err(ProviderError::refused("amount_not_supported", detail))
    }

    async fn payment(&self, id: &str) -> Result<ProviderPayment, ProviderError> {
        self.order(order_number(id)?).await?.as_payment(id)
    }

    fn span(&self, operation: &'static str, about: About<'_>) -> tracing::Span {
        http::span(&self.config.name, operation, about)
    }
}

fn order_number(id: &str) -> Result<u64, ProviderError> {
    let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    id.parse().ok().filter(|_| digits).ok_or_else(|| {
        let detail = "a payment of a WooCommerce order is named by the order's number";
        ProviderError::refused("payment_id_invalid", detail)
    })
}

/// How our reasons begin. Staff of the shop read them.
fn marks(request: &RefundRequest) -> String {
    format!("{} {} ", request.marker(), request.idempotency_key)
}

fn reason(request: &RefundRequest) -> Result<String, ProviderError> {
    let reason = format!("{}{}", marks(request), request.reason);
    if reason.chars().count() > MAX_REASON_LEN {
        let detail =
            format!("reason and idempotency_key have more than {MAX_REASON_LEN} characters together");
        return Err(ProviderError::refused("reason_too_long", detail));
    }
    Ok(reason)
}

/// Takes a refund that the shop shows as the one that was asked for.
fn accept(refund: &WireRefund, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
    let amount = decimal::parse(&refund.amount, request.amount.currency);
    if amount != Ok(request.amount) {
        tracing::error!(
            provider_refund_id = refund.id,
            "refund at the provider differs from what was asked"
        );
        return Err(ProviderError::unknown("amount_differs"));
    }
    if !refund.refunded_payment {
        // The gateway is being asked, or the shop died while it was.
        return Err(ProviderError::unknown("gateway_not_heard"));
    }
    Ok(ProviderRefund {
        provider_refund_id: refund.id.to_string(),
        state: RefundState::Succeeded,
    })
}

async fn ask<T: DeserializeOwned>(call: RequestBuilder) -> Result<T, ProviderError> {
    send(call, StatusCode::OK)
        .await
        .map_err(ProviderError::of_question)
}

async fn send<T: DeserializeOwned>(call: RequestBuilder, wanted: StatusCode) -> Result<T, ProviderError> {
    let answer = http::exchange(call).await?;
    if answer.status == wanted {
        return answer.json();
    }
    Err(wire::classify(answer.status, &answer.headers, answer.body()))
}

impl PaymentProvider for WooProvider {
    fn name(&self) -> &str {
        &self.config.name
    }

    /// It knows no keys.
    fn key_lifetime(&self) -> Duration {
        Duration::ZERO
    }

    fn smallest_step(&self, currency: Currency) -> Option<i64> {
        Some(decimal::step(currency, self.config.decimals))
    }

    fn refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<ProviderRefund, ProviderError>> {
        let span = self.span("refund", About::Leg(request.leg_id));
        traced(span, self.create(request))
    }

    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>> {
        let span = self.span("find refund", About::Leg(request.leg_id));
        traced(span, self.search(request))
    }

    fn find_payment<'a>(
        &'a self,
        provider_payment_id: &'a str,
    ) -> BoxFuture<'a, Result<ProviderPayment, ProviderError>> {
        let span = self.span("find payment", About::Payment(provider_payment_id));
        traced(span, self.payment(provider_payment_id))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use waybill_kernel::id::LegId;

    use super::*;

    #[test]
    fn orders_are_numbers() {
        assert_eq!(order_number("727"), Ok(727));
        for wrong in ["", "+1", "-1", "1/refunds", "../1", "99999999999999999999"] {
            assert_eq!(
                order_number(wrong).expect_err(wrong).reason(),
                "payment_id_invalid"
            );
        }
    }

    #[test]
    fn a_shop_in_a_folder_is_called_there() {
        for (base, expected) in [
            (
                "https://shop.example",
                "https://shop.example/wp-json/wc/v3/orders",
            ),
            (
                "https://shop.example/eu/",
                "https://shop.example/eu/wp-json/wc/v3/orders",
            ),
        ] {
            let config = WooConfig::new(base.to_owned(), "ck".to_owned().into(), "cs".to_owned().into());
            let provider = WooProvider::new(config).expect("a provider");
            assert_eq!(provider.orders_url.as_str(), expected);
            assert!(!format!("{provider:?}").contains("\"cs\""));
        }
    }

    #[test]
    fn attempts_of_a_leg_are_told_apart() {
        let request = |key: &str| RefundRequest {
            leg_id: LegId::generate(),
            provider_payment_id: "1".to_owned(),
            amount: Money::new(Currency::EUR, 1),
            idempotency_key: key.to_owned(),
            reason: "damaged".to_owned(),
            metadata: BTreeMap::new(),
        };
        let (first, tenth) = (request("leg-1"), request("leg-10"));
        let tenth = RefundRequest {
            leg_id: first.leg_id,
            ..tenth
        };
        let written = reason(&tenth).expect("short enough");
        assert!(written.starts_with(&marks(&tenth)));
        assert!(!written.starts_with(&marks(&first)));
    }
}
