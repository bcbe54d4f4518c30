//! `/v1/refunds` and `/v1/payment_intents`: what a caller of Stripe sees.

use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, ApiError, struck_after, struck_before};
use super::books::{Admission, LedgerEntry, Status};
use super::fault::Fault;
use super::intents::CaptureParams;
use super::params::RefundParams;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/refunds", get(list).post(create))
        .route("/v1/refunds/{id}", get(retrieve))
        .route("/v1/payment_intents/{id}", get(retrieve_intent))
        .route("/v1/payment_intents/{id}/capture", post(capture))
        .route("/v1/payment_intents/{id}/cancel", post(cancel))
}

/// A call that moves money, its parameters checked.
#[derive(Debug)]
enum Operation {
    Refund(RefundParams),
    Capture(CaptureParams),
    Cancel { payment: String },
}

impl Operation {
    fn payment(&self) -> &str {
        match self {
            Self::Refund(params) => &params.payment,
            Self::Capture(params) => &params.payment,
            Self::Cancel { payment } => payment,
        }
    }
}

type FormResult = Result<Form<Vec<(String, String)>>, FormRejection>;

fn fields(form: FormResult) -> Result<Vec<(String, String)>, ApiError> {
    let Form(form) = form.map_err(|fault| ApiError::invalid("body_invalid", "", &fault.body_text()))?;
    Ok(form)
}

async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    form: FormResult,
) -> Result<Response, ApiError> {
    // Before the idempotency layer, as at Stripe: whatever fails here leaves nothing behind.
    authorize(&shared, &headers)?;
    let params = RefundParams::parse(&fields(form)?)?;
    operate(shared, &headers, Operation::Refund(params)).await
}

async fn capture(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    form: FormResult,
) -> Result<Response, ApiError> {
    authorize(&shared, &headers)?;
    let params = CaptureParams::parse(id, &fields(form)?)?;
    operate(shared, &headers, Operation::Capture(params)).await
}

async fn cancel(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(payment): Path<String>,
    form: FormResult,
) -> Result<Response, ApiError> {
    authorize(&shared, &headers)?;
    for (name, _) in fields(form)? {
        if name != "cancellation_reason" {
            return Err(ApiError::invalid(
                "parameter_unknown",
                &name,
                "Received unknown parameter.",
            ));
        }
    }
    operate(shared, &headers, Operation::Cancel { payment }).await
}

async fn operate(
    shared: Arc<Shared>,
    headers: &HeaderMap,
    operation: Operation,
) -> Result<Response, ApiError> {
    let key = idempotency_key(headers)?;
    let fault = shared.plan().next(operation.payment(), key.as_deref());
    if let Some(Fault::RateLimited { retry_after_seconds }) = &fault {
        return Err(ApiError::rate_limited(*retry_after_seconds));
    }
    if let Some(response) = struck_before(fault.as_ref(), &shared.stop).await {
        return Ok(response);
    }
    // In a task of its own: a caller that goes away does not stop what has begun.
    let execution = tokio::spawn(execute(Arc::clone(&shared), operation, key, fault.clone()));
    let answer = execution.await.unwrap_or_else(|_| Answer::internal_error());
    Ok(struck_after(fault.as_ref(), answer, &shared.stop).await)
}

async fn execute(
    shared: Arc<Shared>,
    operation: Operation,
    key: Option<String>,
    fault: Option<Fault>,
) -> Answer {
    if let Some(key) = &key {
        let fingerprint = format!("{operation:?}");
        let admission = shared
            .books()
            .admit(key, &fingerprint, shared.clock.now(), shared.key_lifetime);
        match admission {
            Admission::Fresh => {}
            Admission::Replay(answer) => {
                return Answer {
                    replayed: true,
                    ..answer
                };
            }
            Admission::InUse => return ApiError::key_in_use().answer(),
            Admission::OtherParameters => return ApiError::key_reused().answer(),
        }
    }
    tokio::time::sleep(shared.latency).await;
    let released = shared.held.read().await;
    let answer = match fault {
        Some(Fault::ErrorBefore) => Answer::internal_error(),
        fault => match perform(&shared, &operation, key.as_deref(), fault.as_ref()) {
            Ok(_) if fault == Some(Fault::ErrorAfter) => Answer::internal_error(),
            Ok(object) => Answer::ok(&object),
            Err(error) => error.answer(),
        },
    };
    if let Some(key) = &key {
        shared.books().finish(key, &answer);
    }
    drop(released);
    answer
}

fn perform(
    shared: &Arc<Shared>,
    operation: &Operation,
    key: Option<&str>,
    fault: Option<&Fault>,
) -> Result<Value, ApiError> {
    match (operation, fault) {
        (Operation::Refund(params), _) => pay(shared, params, key, fault).map(|refund| refund.object()),
        (_, Some(Fault::Failed { failure_reason })) => Err(ApiError::declined(failure_reason)),
        (Operation::Capture(params), _) => shared.books().capture(params),
        (Operation::Cancel { payment }, _) => shared.books().cancel(payment),
    }
}

fn pay(
    shared: &Arc<Shared>,
    params: &RefundParams,
    key: Option<&str>,
    fault: Option<&Fault>,
) -> Result<LedgerEntry, ApiError> {
    let outcome = match fault {
        Some(Fault::Pending { .. }) => (Status::Pending, None),
        Some(Fault::Failed { failure_reason }) => (Status::Failed, Some(failure_reason.clone())),
        _ => (Status::Succeeded, None),
    };
    let refund = shared
        .books()
        .make_refund(params, key, outcome, shared.clock.now())?;
    shared.announce_new(&refund);
    match fault {
        Some(Fault::Pending {
            settle_after_ms: Some(after_ms),
            failure_reason,
        }) => {
            shared.settle_later(&refund.id, *after_ms, failure_reason.clone());
        }
        Some(Fault::Bounced {
            after_ms,
            failure_reason,
        }) => {
            shared.settle_later(&refund.id, *after_ms, Some(failure_reason.clone()));
        }
        _ => {}
    }
    Ok(refund)
}

#[derive(Deserialize)]
struct ListQuery {
    payment_intent: Option<String>,
    charge: Option<String>,
    starting_after: Option<String>,
    limit: Option<usize>,
    #[serde(rename = "created[gte]")]
    created_from: Option<i64>,
}

async fn list(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, ApiError> {
    authorize(&shared, &headers)?;
    let limit = query.limit.unwrap_or(10);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid(
            "parameter_invalid_integer",
            "limit",
            "limit is 1 to 100",
        ));
    }
    let payment = query.payment_intent.as_deref().or(query.charge.as_deref());
    let books = shared.books();
    let (page, has_more) = books.list(
        payment,
        query.created_from,
        query.starting_after.as_deref(),
        limit,
    )?;
    let data: Vec<Value> = page.into_iter().map(LedgerEntry::object).collect();
    Ok(Json(
        json!({"object": "list", "url": "/v1/refunds", "has_more": has_more, "data": data}),
    ))
}

async fn retrieve(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    authorize(&shared, &headers)?;
    let books = shared.books();
    let refund = books
        .refund(&id)
        .ok_or_else(|| ApiError::missing("refund", &id))?;
    Ok(Json(refund.object()))
}

async fn retrieve_intent(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    authorize(&shared, &headers)?;
    let books = shared.books();
    let intent = books.intent_object(&id);
    intent
        .map(Json)
        .ok_or_else(|| ApiError::missing("payment_intent", &id))
}

fn authorize(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.strip_prefix("Bearer "));
    if token == Some(shared.secret_key.expose_secret()) {
        Ok(())
    } else {
        Err(ApiError::unauthorized())
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("Idempotency-Key") else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| !key.is_empty() && key.len() <= 255);
    let fault = || {
        ApiError::invalid(
            "idempotency_key_invalid",
            "",
            "Idempotency keys have 1 to 255 characters.",
        )
    };
    Ok(Some(key.ok_or_else(fault)?.to_owned()))
}
