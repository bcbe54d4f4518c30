//! Stripe: what became of refunds.
//!
//! Deliveries come out of order and more than once; the refund service applies each state of a refund once, whichever way
//! it heard of it. Events about anything else, and refunds that Waybill did not make, are acknowledged.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use tonic::Code;
use waybill_payments::RefundState;
use waybill_payments::stripe::{parse_event, verify_webhook};
use waybill_proto::waybill::refund::v1::RecordProviderRefundRequest;

use crate::App;
use crate::error::Error;

/// Takes a delivery.
pub async fn receive(
    State(app): State<Arc<App>>,
    Path((merchant, store)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let (merchant_id, store_id, secrets) = super::store(&app, &merchant, &store)?;
    let secrets: Vec<_> = secrets
        .stripe
        .iter()
        .filter_map(|secret| secret.read("webhooks.stripe").ok())
        .collect();
    let header = headers
        .get("stripe-signature")
        .and_then(|value| value.to_str().ok())
        .ok_or(Error::NotVerified)?;
    verify_webhook(header, &body, &secrets, app.clock.now()).map_err(|_| Error::NotVerified)?;
    let event = parse_event(&body).map_err(|error| Error::Malformed(error.to_string()))?;
    let Some(refund) = event.refund else {
        return Ok(StatusCode::OK);
    };
    let (outcome, failure_reason) = match refund.state {
        RefundState::Pending => ("pending", String::new()),
        RefundState::Succeeded => ("succeeded", String::new()),
        RefundState::Failed { reason } => ("failed", reason),
    };
    let request = RecordProviderRefundRequest {
        merchant_id: merchant_id.to_string(),
        store_id: store_id.to_string(),
        provider: "stripe".to_owned(),
        provider_refund_id: refund.provider_refund_id,
        leg_id: refund.leg_id.map(|leg| leg.to_string()).unwrap_or_default(),
        outcome: outcome.to_owned(),
        failure_reason,
    };
    match app.refunds.clone().record_provider_refund(request).await {
        Ok(_) => Ok(StatusCode::OK),
        // Made elsewhere: nothing of ours.
        Err(status) if status.code() == Code::NotFound => Ok(StatusCode::OK),
        Err(status) => Err(status.into()),
    }
}
