//! Stripe: what became of refunds, and of payments.
//!
//! Deliveries come out of order and more than once; the refund service applies each state of a refund once, whichever way
//! it heard of it, and so does the order service with payments. Events about anything else, refunds that Waybill did not make
//! and payments that it does not know are acknowledged.
//!
//! A payment is that of an order when one of the same id was recorded for it, or when its metadata name the order
//! (`waybill_order_id`). It is known under the name of its provider: the store's account at Stripe.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use tonic::Code;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_payments::RefundState;
use waybill_payments::stripe::{PaymentNotice, PaymentStep, RefundNotice, parse_event, verify_webhook};
use waybill_proto::waybill::order::v1::{PaymentKind, RecordPaymentRequest};
use waybill_proto::waybill::refund::v1::RecordProviderRefundRequest;
use waybill_rpc::convert::{to_money, to_timestamp};
use waybill_rpc::fault;

use crate::App;
use crate::error::Error;

/// Takes a delivery.
pub async fn receive(
    State(app): State<Arc<App>>,
    Path((merchant, store)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Error> {
    let (merchant_id, store_id, of_store) = super::store(&app, &merchant, &store)?;
    let secrets: Vec<_> = of_store
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
    let tenant = (merchant_id, store_id);
    let provider = of_store.stripe_provider.as_str();
    match (event.refund, event.payment) {
        (Some(refund), _) => refunded(&app, outcome(tenant, provider, refund)).await,
        (None, Some(payment)) => {
            let request = RecordPaymentRequest {
                request_id: event.id,
                occurred_at: Some(to_timestamp(event.created)),
                ..recorded(tenant, provider, payment)
            };
            paid(&app, request).await
        }
        (None, None) => Ok(StatusCode::OK),
    }
}

/// What a notice is as the word of a provider on a refund of the refund service.
fn outcome(
    (merchant_id, store_id): (MerchantId, StoreId),
    provider: &str,
    refund: RefundNotice,
) -> RecordProviderRefundRequest {
    let (outcome, failure_reason) = match refund.state {
        RefundState::Pending => ("pending", String::new()),
        RefundState::Succeeded => ("succeeded", String::new()),
        RefundState::Failed { reason } => ("failed", reason),
    };
    RecordProviderRefundRequest {
        merchant_id: merchant_id.to_string(),
        store_id: store_id.to_string(),
        provider: provider.to_owned(),
        provider_refund_id: refund.provider_refund_id,
        leg_id: refund.leg_id.map(|leg| leg.to_string()).unwrap_or_default(),
        outcome: outcome.to_owned(),
        failure_reason,
    }
}

async fn refunded(app: &App, request: RecordProviderRefundRequest) -> Result<StatusCode, Error> {
    match app.refunds.clone().record_provider_refund(request).await {
        Ok(_) => Ok(StatusCode::OK),
        // Made elsewhere: nothing of ours.
        Err(status) if status.code() == Code::NotFound => Ok(StatusCode::OK),
        Err(status) => Err(status.into()),
    }
}

/// What a notice is as a payment of the order service.
fn recorded(
    (merchant_id, store_id): (MerchantId, StoreId),
    provider: &str,
    notice: PaymentNotice,
) -> RecordPaymentRequest {
    let (kind, reason, dispute_id) = match notice.step {
        PaymentStep::Authorized => (PaymentKind::Authorization, String::new(), String::new()),
        PaymentStep::Captured => (PaymentKind::Capture, String::new(), String::new()),
        PaymentStep::Released => (PaymentKind::Void, String::new(), String::new()),
        PaymentStep::Failed { reason } => (PaymentKind::Failure, reason, String::new()),
        PaymentStep::Disputed { dispute_id, reason } => (PaymentKind::Dispute, reason, dispute_id),
        PaymentStep::DisputeWon { dispute_id } => (PaymentKind::DisputeWon, String::new(), dispute_id),
        PaymentStep::DisputeLost { dispute_id } => (PaymentKind::DisputeLost, String::new(), dispute_id),
    };
    RecordPaymentRequest {
        merchant_id: merchant_id.to_string(),
        store_id: store_id.to_string(),
        order_id: notice.order_id.map(|order| order.to_string()).unwrap_or_default(),
        kind: kind.into(),
        provider: provider.to_owned(),
        provider_payment_id: notice.provider_payment_id,
        amount: Some(to_money(notice.amount)),
        reason,
        dispute_id,
        ..RecordPaymentRequest::default()
    }
}

/// What time can mend: an attempt in flight is settled, the beginning of a dispute is told after its end.
const LATER: [&str; 2] = ["PAYMENT_IN_FLIGHT", "DISPUTE_NOT_OPEN"];

async fn paid(app: &App, request: RecordPaymentRequest) -> Result<StatusCode, Error> {
    let Some(orders) = &app.orders else {
        return Ok(StatusCode::OK);
    };
    match orders.clone().record_payment(request).await {
        Ok(_) => Ok(StatusCode::OK),
        // Not a payment of ours, or of an order of ours.
        Err(status) if status.code() == Code::NotFound => Ok(StatusCode::OK),
        Err(status) if fault::reason(&status).is_some_and(|reason| LATER.contains(&reason.as_str())) => {
            Err(Error::Later(status))
        }
        Err(status) => Err(status.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(kind: &str, object: &Value) -> (Option<RefundNotice>, Option<PaymentNotice>) {
        let event =
            json!({"id": "evt_1", "type": kind, "created": 1_700_000_000, "data": {"object": object}});
        let event = parse_event(event.to_string().as_bytes()).expect("an event");
        (event.refund, event.payment)
    }

    #[test]
    fn refunds_payments_and_disputes_carry_the_name_of_the_account() {
        let tenant = (MerchantId::generate(), StoreId::generate());
        let refund = json!({
            "id": "re_1", "amount": 500, "currency": "eur", "status": "failed", "payment_intent": "pi_1",
        });
        let (Some(refund), _) = told("refund.failed", &refund) else {
            panic!("it tells of no refund");
        };
        let request = outcome(tenant, "stripe-eu", refund);
        assert_eq!(
            (request.provider.as_str(), request.provider_refund_id.as_str()),
            ("stripe-eu", "re_1")
        );

        let intent = json!({"id": "pi_1", "amount": 500, "currency": "eur", "amount_received": 500});
        let dispute = json!({
            "id": "dp_1", "amount": 500, "currency": "eur", "charge": "ch_1", "payment_intent": "pi_1",
        });
        for (kind, object) in [
            ("payment_intent.succeeded", intent),
            ("charge.dispute.created", dispute),
        ] {
            let (_, Some(payment)) = told(kind, &object) else {
                panic!("{kind} tells of no payment");
            };
            let request = recorded(tenant, "stripe-eu", payment);
            assert_eq!(
                (request.provider.as_str(), request.provider_payment_id.as_str()),
                ("stripe-eu", "pi_1"),
                "{kind}"
            );
        }
    }
}
