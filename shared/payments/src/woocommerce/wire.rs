//! What WooCommerce answers.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use waybill_kernel::money::{Currency, Money};

use crate::decimal;
use crate::http::retry_after;
use crate::payment::ProviderPayment;
use crate::provider::ProviderError;

/// An order; fields we do not use are skipped.
#[derive(Debug, Deserialize)]
pub(super) struct WireOrder {
    currency: String,
    total: String,
    /// Set once the order is paid.
    #[serde(default)]
    date_paid_gmt: Option<String>,
    #[serde(default)]
    refunds: Vec<WireOrderRefund>,
}

/// A refund inside an order: its total is negative.
#[derive(Debug, Deserialize)]
struct WireOrderRefund {
    total: String,
}

/// A refund.
#[derive(Debug, Deserialize)]
pub(super) struct WireRefund {
    pub id: u64,
    pub amount: String,
    #[serde(default)]
    pub reason: String,
    /// Whether the gateway said that it paid.
    #[serde(default)]
    pub refunded_payment: bool,
}

impl WireOrder {
    fn currency(&self) -> Result<Currency, ProviderError> {
        Currency::parse(&self.currency).map_err(|_| malformed())
    }

    fn money(&self, text: &str) -> Result<Money, ProviderError> {
        decimal::parse(text, self.currency()?).map_err(|_| malformed())
    }

    /// Refuses what cannot be paid back.
    pub fn require_payable(&self, amount: Money) -> Result<(), ProviderError> {
        let refused = |reason, detail: String| Err(ProviderError::refused(reason, detail));
        if amount.currency != self.currency()? {
            return refused(
                "currency_differs",
                format!("the order is in {}, not in {}", self.currency, amount.currency),
            );
        }
        if self.date_paid_gmt.is_none() {
            return refused(
                "order_not_paid",
                "the shop says that the order is not paid".to_owned(),
            );
        }
        Ok(())
    }

    /// The sums of the order. The core says nothing of authorizations: gateways keep them to themselves.
    pub fn as_payment(&self, id: &str) -> Result<ProviderPayment, ProviderError> {
        let nothing = Money::zero(self.currency()?);
        let captured = match &self.date_paid_gmt {
            Some(_) => self.money(&self.total)?,
            None => nothing,
        };
        let refunded = self.refunds.iter().try_fold(nothing, |sum, refund| {
            let back = self.money(&refund.total)?;
            sum.checked_sub(back).map_err(|_| malformed())
        })?;
        Ok(ProviderPayment {
            provider_payment_id: id.to_owned(),
            authorized: None,
            captured,
            capturable: nothing,
            voided: nothing,
            refunded,
        })
    }
}

fn malformed() -> ProviderError {
    ProviderError::unknown("amount_malformed")
}

#[derive(Debug, Default, Deserialize)]
struct WireError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What an answer other than success says about the effect of the call.
pub(super) fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ProviderError {
    let error = serde_json::from_slice::<WireError>(body).unwrap_or_default();
    let reason = if is_key(&error.code) {
        error.code.clone()
    } else {
        format!("http_{}", status.as_u16())
    };
    let detail: String = error.message.chars().take(300).collect();
    match status.as_u16() {
        // Keys, rights or the address are wrong: an operator mends it and the same call works.
        401 | 403 => ProviderError::transient(reason, retry_after(headers)),
        // No such order is final; no such route is an address that is wrong, or a shop being updated.
        404 if error.code.contains("invalid") || error.code.contains("order") => {
            ProviderError::refused(reason, detail)
        }
        404 => ProviderError::transient(reason, None),
        429 => ProviderError::transient("rate_limit", retry_after(headers)),
        400..=499 => ProviderError::refused(reason, detail),
        // The shop's word for whatever went wrong with a refund, the gateway's no included; it has taken its refund back.
        500 if error.code == "woocommerce_rest_cannot_create_order_refund" => {
            ProviderError::refused("refund_not_created", detail)
        }
        _ => ProviderError::unknown(format!("http_{}", status.as_u16())),
    }
}

fn is_key(code: &str) -> bool {
    !code.is_empty() && code.len() <= 80 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(status: u16, body: &str) -> ProviderError {
        let status = StatusCode::from_u16(status).expect("a status");
        classify(status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn only_the_shops_own_word_is_a_refusal() {
        let no = r#"{"code":"woocommerce_rest_cannot_create_order_refund","message":"Invalid refund amount.","data":500}"#;
        assert_eq!(
            classified(500, no),
            ProviderError::refused("refund_not_created", "Invalid refund amount.")
        );
        for (status, body) in [
            (500, "<p>There has been a critical error on this website.</p>"),
            (
                500,
                r#"{"code":"internal_server_error","message":"<p>critical error</p>"}"#,
            ),
            (502, ""),
            (503, "{}"),
            (504, "{}"),
            (200, "[]"),
        ] {
            assert!(!classified(status, body).surely_did_nothing(), "{status} {body}");
        }
        let gone = r#"{"code":"woocommerce_rest_shop_order_invalid_id","message":"Invalid ID."}"#;
        assert_eq!(
            classified(404, gone),
            ProviderError::refused("woocommerce_rest_shop_order_invalid_id", "Invalid ID.")
        );
        for (status, body) in [
            (401, r#"{"code":"woocommerce_rest_cannot_view"}"#),
            (403, "{}"),
            (404, "<html>"),
            (404, r#"{"code":"rest_no_route"}"#),
            (429, "{}"),
        ] {
            assert!(
                matches!(classified(status, body), ProviderError::Transient { .. }),
                "{status} {body}"
            );
        }
    }
}
