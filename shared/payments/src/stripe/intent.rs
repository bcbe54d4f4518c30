//! Captures and cancellations of payment intents, and what Stripe has of one.
//!
//! Each capture leaves an entry in the intent's metadata, named after its idempotency key, with its amount. So a capture is
//! found again also when there were several (Stripe's *multicapture*, an option of some accounts) and past the life of
//! its key. What was captured without an entry was captured by somebody else.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use waybill_kernel::hash;
use waybill_kernel::money::Money;

use super::{StripeProvider, amount, send, stripe_amount};
use crate::payment::{
    CaptureRequest, ProviderCapture, ProviderPayment, ProviderVoid, StepState, VoidRequest,
};
use crate::provider::{ProviderError, require_key, require_positive};

/// Beginning of the metadata keys that our captures leave.
const CAPTURE_PREFIX: &str = "waybill_capture_";
/// Characters of the key's digest in them: Stripe allows 40 for the whole.
const DIGEST_LEN: usize = 24;

/// A payment intent; fields we do not use are skipped.
#[derive(Debug, Deserialize)]
struct WireIntent {
    id: String,
    amount: i64,
    currency: String,
    status: String,
    #[serde(default)]
    amount_capturable: i64,
    #[serde(default)]
    amount_received: i64,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    latest_charge: Option<WireLatestCharge>,
}

/// The charge of an intent: its id, or all of it where that was asked for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum WireLatestCharge {
    Whole { amount_refunded: i64 },
    Id(#[expect(dead_code, reason = "an answer may carry no more than the id")] String),
}

impl WireIntent {
    fn money(&self, amount: i64) -> Result<Money, ProviderError> {
        amount::from_stripe(amount, &self.currency).map_err(|_| ProviderError::unknown("amount_malformed"))
    }

    /// What was authorised, not captured, and is released.
    fn released(&self) -> i64 {
        match self.status.as_str() {
            "canceled" | "succeeded" => self.amount - self.amount_received - self.amount_capturable,
            _ => 0,
        }
    }

    /// The capture of a request, where this intent carries its entry.
    fn capture_of(&self, request: &CaptureRequest) -> Result<Option<ProviderCapture>, ProviderError> {
        let Some(entry) = self.metadata.get(&capture_key(request)) else {
            return Ok(None);
        };
        if self.money(entry.parse().unwrap_or(-1))? != request.amount
            || self.money(self.amount_received)?.minor < request.amount.minor && self.status != "processing"
        {
            tracing::error!(
                provider_payment_id = self.id,
                "capture at the provider differs from what was asked"
            );
            return Err(ProviderError::unknown("amount_differs"));
        }
        Ok(Some(ProviderCapture {
            provider_capture_id: format!("{}:{}", self.id, digest(&request.idempotency_key)),
            state: if self.status == "processing" {
                StepState::Pending
            } else {
                StepState::Succeeded
            },
        }))
    }

    fn void(&self) -> Option<ProviderVoid> {
        (self.released() > 0).then(|| ProviderVoid {
            provider_void_id: self.id.clone(),
            state: StepState::Succeeded,
        })
    }
}

fn digest(key: &str) -> String {
    let mut digest = hash::sha256_hex(key.as_bytes());
    digest.truncate(DIGEST_LEN);
    digest
}

fn capture_key(request: &CaptureRequest) -> String {
    format!("{CAPTURE_PREFIX}{}", digest(&request.idempotency_key))
}

impl StripeProvider {
    fn intent_url(&self, id: &str, action: &[&str]) -> Result<reqwest::Url, ProviderError> {
        if !id.starts_with("pi_")
            || !id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            let detail = "payments are captured, voided and looked up by their intent (\"pi_…\")";
            return Err(ProviderError::refused("payment_id_not_supported", detail));
        }
        let mut url = self.intents_url.clone();
        url.path_segments_mut()
            .map_err(|()| ProviderError::refused("base_url", "cannot be a base of other URLs"))?
            .push(id)
            .extend(action);
        Ok(url)
    }

    async fn retrieve_intent(&self, id: &str) -> Result<WireIntent, ProviderError> {
        let url = self.intent_url(id, &[])?;
        let call = self
            .call(Method::GET, url)
            .query(&[("expand[]", "latest_charge")]);
        send(call).await.map_err(ProviderError::of_question)
    }

    pub(super) async fn capture_intent(
        &self,
        request: &CaptureRequest,
    ) -> Result<ProviderCapture, ProviderError> {
        require_positive("capture", request.amount)?;
        require_key(&request.idempotency_key)?;
        let amount = stripe_amount(request.amount)?.to_string();
        let entry = format!("metadata[{}]", capture_key(request));
        let mut form = vec![("amount_to_capture", amount.as_str()), (entry.as_str(), &amount)];
        if !request.is_final {
            // Only accounts with multicapture may say so; others are refused, before anything is captured.
            form.push(("final_capture", "false"));
        }
        let url = self.intent_url(&request.provider_payment_id, &["capture"])?;
        let call = self
            .call(Method::POST, url)
            .header("Idempotency-Key", &request.idempotency_key)
            .form(&form);
        let intent: WireIntent = send(call).await?;
        intent
            .capture_of(request)?
            .ok_or_else(|| ProviderError::unknown("capture_not_noted"))
    }

    pub(super) async fn find_intent_capture(
        &self,
        request: &CaptureRequest,
    ) -> Result<Option<ProviderCapture>, ProviderError> {
        let intent = self.retrieve_intent(&request.provider_payment_id).await?;
        let found = intent.capture_of(request)?;
        if found.is_none() && intent.money(intent.amount_received)? != request.captured_before {
            tracing::error!(
                provider_payment_id = intent.id,
                "somebody else captured the payment"
            );
            return Err(ProviderError::unknown("captured_elsewhere"));
        }
        Ok(found)
    }

    pub(super) async fn cancel_intent(&self, request: &VoidRequest) -> Result<ProviderVoid, ProviderError> {
        require_key(&request.idempotency_key)?;
        let url = self.intent_url(&request.provider_payment_id, &["cancel"])?;
        let call = self
            .call(Method::POST, url)
            .header("Idempotency-Key", &request.idempotency_key)
            .form(&[("cancellation_reason", "requested_by_customer")]);
        let intent: WireIntent = send(call).await?;
        intent
            .void()
            .ok_or_else(|| ProviderError::unknown("not_released"))
    }

    pub(super) async fn find_intent_void(
        &self,
        request: &VoidRequest,
    ) -> Result<Option<ProviderVoid>, ProviderError> {
        let intent = self.retrieve_intent(&request.provider_payment_id).await?;
        Ok(intent.void())
    }

    pub(super) async fn find_intent(&self, id: &str) -> Result<ProviderPayment, ProviderError> {
        let intent = self.retrieve_intent(id).await?;
        let authorized = match intent.status.as_str() {
            "requires_capture" | "processing" | "succeeded" | "canceled" => intent.amount,
            // Not confirmed yet: nothing is held.
            _ => 0,
        };
        let refunded = match &intent.latest_charge {
            Some(WireLatestCharge::Whole { amount_refunded }) => *amount_refunded,
            _ => 0,
        };
        Ok(ProviderPayment {
            authorized: Some(intent.money(authorized)?),
            captured: intent.money(intent.amount_received)?,
            capturable: intent.money(intent.amount_capturable)?,
            voided: intent.money(intent.released())?,
            refunded: intent.money(refunded)?,
            provider_payment_id: intent.id,
        })
    }
}
