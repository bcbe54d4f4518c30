//! `/sandbox`: what a test or a demo does behind the provider's back. Loopback only, hence without a token.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::ApiError;
use super::books::{LedgerEntry, Payment};
use super::fault::Fault;
use super::{Shared, WebhookEndpoint};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/sandbox/payments", get(payments).post(register))
        .route("/sandbox/faults", post(plan).delete(clear))
        .route("/sandbox/webhook", post(webhook))
        .route("/sandbox/refunds", get(ledger))
        .route("/sandbox/refunds/{id}/settle", post(settle))
        .route("/sandbox/events", get(events))
}

async fn register(
    State(shared): State<Arc<Shared>>,
    Json(payment): Json<Payment>,
) -> Result<StatusCode, ApiError> {
    shared.books().register(payment)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn payments(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let books = shared.books();
    let payments: Vec<Value> = books
        .payments()
        .map(|payment| {
            json!({"id": payment.id, "amount": payment.amount, "currency": payment.currency,
                   "refunded": books.paid_out(&payment.id)})
        })
        .collect();
    Json(json!({ "payments": payments }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanRequest {
    fault: Fault,
    /// Only for refunds of this payment.
    #[serde(default)]
    payment: Option<String>,
    #[serde(default = "once")]
    times: u32,
}

fn once() -> u32 {
    1
}

async fn plan(State(shared): State<Arc<Shared>>, Json(request): Json<PlanRequest>) -> StatusCode {
    shared.plan().push(request.fault, request.payment, request.times);
    StatusCode::NO_CONTENT
}

async fn clear(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.plan().clear();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookRequest {
    url: String,
    secret: SecretString,
}

async fn webhook(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<WebhookRequest>,
) -> Result<StatusCode, ApiError> {
    let endpoint = WebhookEndpoint::new(&request.url, request.secret)
        .map_err(|error| ApiError::invalid("url_invalid", "url", &error.to_string()))?;
    shared.set_webhook(endpoint);
    Ok(StatusCode::NO_CONTENT)
}

async fn ledger(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"refunds": shared.books().refunds()}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleRequest {
    /// Fails for this reason; succeeds without one.
    #[serde(default)]
    failure_reason: Option<String>,
}

async fn settle(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Json(request): Json<SettleRequest>,
) -> Result<Json<LedgerEntry>, ApiError> {
    let settled = shared.settle(&id, request.failure_reason);
    settled.map(Json).ok_or_else(|| ApiError {
        status: 409,
        ..ApiError::invalid(
            "not_settleable",
            "id",
            "There is no such refund, or it is already there.",
        )
    })
}

async fn events(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"events": shared.events()}))
}
