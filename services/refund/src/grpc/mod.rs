//! The RPCs: parse, use case, view. The only place that knows gRPC.
//!
//! A request is checked whole: every faulty field is named at once. Mutations run under their `request_id`, so that a
//! repeated call is answered as the first one was and does nothing.

mod parse;
mod reads;
mod view;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};
use waybill_kernel::check::Violations;
use waybill_kernel::id::MerchantId;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_proto::waybill::refund::v1::refund_service_server::RefundService;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;
use waybill_store::idempotency::RequestKey;
use waybill_store::{Db, UseCase};

use crate::app::Core;
use crate::app::apply_word::{About, ApplyWord};
use crate::app::approve_refund::ApproveRefund;
use crate::app::create_refund::CreateRefund;
use crate::app::decide_return::{DecideReturn, Verdict};
use crate::app::publish_policy::PublishPolicy;
use crate::app::quote_return::QuoteReturn;
use crate::app::receive_return::ReceiveReturn;
use crate::app::request_return::RequestReturn;
use crate::app::retry_leg::RetryLeg;
use crate::error::Error;

/// The service's API.
#[derive(Debug, Clone)]
pub struct Api {
    db: Db,
    core: Core,
}

impl Api {
    /// The API over a database.
    #[must_use]
    pub fn new(db: Db, core: Core) -> Self {
        Self { db, core }
    }

    /// Runs a mutation, once per request key.
    async fn once<C>(&self, key: &RequestKey, case: &C) -> Result<C::Output, Status>
    where
        C: UseCase<Error = Error>,
        C::Output: Serialize + DeserializeOwned,
    {
        let done = self.db.run_once(key, case).await;
        done.map_err(|error| refuse(&error))
    }
}

/// What `parse` found, or every fault of the request.
fn checked<T>(parse: impl FnOnce(&mut Violations) -> Option<T>) -> Result<T, Status> {
    let mut violations = Violations::new();
    let parsed = parse(&mut violations);
    match parsed {
        Some(parsed) if violations.is_empty() => Ok(parsed),
        _ => Err(refuse(&Error::Invalid(violations))),
    }
}

fn refuse(error: &Error) -> Status {
    to_status(error)
}

/// The key of a mutation: who called, what, and the request without its id.
fn key(
    caller: &Caller,
    merchant: MerchantId,
    rpc: &'static str,
    request_id: &str,
    without_id: &impl prost::Message,
) -> RequestKey {
    let parts = convert::request_key(caller, merchant, rpc, request_id, without_id);
    RequestKey {
        merchant: parts.merchant,
        caller: parts.caller,
        rpc: parts.rpc,
        request_id: parts.request_id,
        hash: parts.hash,
    }
}

/// Takes a request apart: caller, request id, and the message without it.
macro_rules! take {
    ($request:ident) => {{
        let caller: Arc<Caller> = convert::context(&$request)?;
        let mut message = $request.into_inner();
        let request_id = std::mem::take(&mut message.request_id);
        (caller, request_id, message)
    }};
}

#[tonic::async_trait]
impl RefundService for Api {
    async fn publish_policy(
        &self,
        request: Request<proto::PublishPolicyRequest>,
    ) -> Result<Response<proto::PublishPolicyResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let policy = parse::policy(message.policy.as_ref(), v);
            id?;
            Some(PublishPolicy {
                core: &self.core,
                tenant: tenant?,
                policy: policy?,
                caller: caller.subject.clone(),
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "PublishPolicy",
            &request_id,
            &message,
        );
        let policy = self.once(&key, &case).await?;
        let text = policy.words();
        Ok(Response::new(proto::PublishPolicyResponse {
            policy: Some(view::policy(&policy)),
            text,
        }))
    }

    async fn get_policy(
        &self,
        request: Request<proto::GetPolicyRequest>,
    ) -> Result<Response<proto::GetPolicyResponse>, Status> {
        self.read_policy(request.into_inner()).await.map(Response::new)
    }

    async fn quote_return(
        &self,
        request: Request<proto::QuoteReturnRequest>,
    ) -> Result<Response<proto::QuoteReturnResponse>, Status> {
        let message = request.into_inner();
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let order_id = convert::id("order_id", &message.order_id, v);
            let wishes = parse::wishes(&message.lines, v);
            let min_order_version = parse::version("min_order_version", message.min_order_version, v);
            Some(QuoteReturn {
                core: &self.core,
                tenant: tenant?,
                order_id: order_id?,
                wishes: wishes?,
                min_order_version: min_order_version?,
            })
        })?;
        let (quote, currency) = case.run(&self.db).await.map_err(|error| refuse(&error))?;
        Ok(Response::new(proto::QuoteReturnResponse {
            quote: Some(view::quote(&quote, &currency)),
        }))
    }

    async fn request_return(
        &self,
        request: Request<proto::RequestReturnRequest>,
    ) -> Result<Response<proto::RequestReturnResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let order_id = convert::id("order_id", &message.order_id, v);
            let wishes = parse::wishes(&message.lines, v);
            let min_order_version = parse::version("min_order_version", message.min_order_version, v);
            id?;
            Some(RequestReturn {
                core: &self.core,
                tenant: tenant?,
                order_id: order_id?,
                wishes: wishes?,
                min_order_version: min_order_version?,
                caller: caller.subject.clone(),
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "RequestReturn",
            &request_id,
            &message,
        );
        let requested = self.once(&key, &case).await?;
        Ok(Response::new(proto::RequestReturnResponse {
            r#return: Some(view::a_return(&requested)),
        }))
    }

    async fn approve_return(
        &self,
        request: Request<proto::ApproveReturnRequest>,
    ) -> Result<Response<proto::ApproveReturnResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let return_id = convert::id("return_id", &message.return_id, v);
            id?;
            Some(DecideReturn {
                core: &self.core,
                tenant: tenant?,
                return_id: return_id?,
                etag: message.etag.clone(),
                verdict: Verdict::Approve,
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "ApproveReturn",
            &request_id,
            &message,
        );
        let decided = self.once(&key, &case).await?;
        Ok(Response::new(proto::ApproveReturnResponse {
            r#return: Some(view::a_return(&decided)),
        }))
    }

    async fn decline_return(
        &self,
        request: Request<proto::DeclineReturnRequest>,
    ) -> Result<Response<proto::DeclineReturnResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let return_id = convert::id("return_id", &message.return_id, v);
            let reason = convert::text("reason", &message.reason, 1..=500, v);
            id?;
            Some(DecideReturn {
                core: &self.core,
                tenant: tenant?,
                return_id: return_id?,
                etag: message.etag.clone(),
                verdict: Verdict::Decline { reason: reason? },
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "DeclineReturn",
            &request_id,
            &message,
        );
        let decided = self.once(&key, &case).await?;
        Ok(Response::new(proto::DeclineReturnResponse {
            r#return: Some(view::a_return(&decided)),
        }))
    }

    async fn receive_return(
        &self,
        request: Request<proto::ReceiveReturnRequest>,
    ) -> Result<Response<proto::ReceiveReturnResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let return_id = convert::id("return_id", &message.return_id, v);
            let received = parse::received(&message.lines, v);
            id?;
            Some(ReceiveReturn {
                core: &self.core,
                tenant: tenant?,
                return_id: return_id?,
                etag: message.etag.clone(),
                received: received?,
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "ReceiveReturn",
            &request_id,
            &message,
        );
        let received = self.once(&key, &case).await?;
        Ok(Response::new(proto::ReceiveReturnResponse {
            r#return: Some(view::a_return(&received)),
        }))
    }

    async fn get_return(
        &self,
        request: Request<proto::GetReturnRequest>,
    ) -> Result<Response<proto::GetReturnResponse>, Status> {
        self.read_return(request.into_inner()).await.map(Response::new)
    }

    async fn list_returns(
        &self,
        request: Request<proto::ListReturnsRequest>,
    ) -> Result<Response<proto::ListReturnsResponse>, Status> {
        self.page_returns(request.into_inner()).await.map(Response::new)
    }

    async fn create_refund(
        &self,
        request: Request<proto::CreateRefundRequest>,
    ) -> Result<Response<proto::CreateRefundResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let order_id = convert::id("order_id", &message.order_id, v);
            let asked = parse::ask(&message, v);
            let reason = convert::text("reason", &message.reason, 1..=500, v);
            let min_order_version = parse::version("min_order_version", message.min_order_version, v);
            id?;
            let (ask, goodwill) = asked?;
            Some(CreateRefund {
                core: &self.core,
                tenant: tenant?,
                order_id: order_id?,
                ask,
                goodwill,
                reason: reason?,
                min_order_version: min_order_version?,
                caller: caller.subject.clone(),
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "CreateRefund",
            &request_id,
            &message,
        );
        let refund = self.once(&key, &case).await?;
        Ok(Response::new(proto::CreateRefundResponse {
            refund: Some(view::refund(&refund)),
        }))
    }

    async fn approve_refund(
        &self,
        request: Request<proto::ApproveRefundRequest>,
    ) -> Result<Response<proto::ApproveRefundResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let refund_id = convert::id("refund_id", &message.refund_id, v);
            id?;
            Some(ApproveRefund {
                core: &self.core,
                tenant: tenant?,
                refund_id: refund_id?,
                caller: caller.subject.clone(),
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "ApproveRefund",
            &request_id,
            &message,
        );
        let refund = self.once(&key, &case).await?;
        Ok(Response::new(proto::ApproveRefundResponse {
            refund: Some(view::refund(&refund)),
        }))
    }

    async fn retry_refund_leg(
        &self,
        request: Request<proto::RetryRefundLegRequest>,
    ) -> Result<Response<proto::RetryRefundLegResponse>, Status> {
        let (caller, request_id, message) = take!(request);
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let id = convert::request_id(&request_id, v);
            let refund_id = convert::id("refund_id", &message.refund_id, v);
            let leg_id = convert::id("leg_id", &message.leg_id, v);
            id?;
            Some(RetryLeg {
                core: &self.core,
                tenant: tenant?,
                refund_id: refund_id?,
                leg_id: leg_id?,
            })
        })?;
        let key = key(
            &caller,
            case.tenant.merchant,
            "RetryRefundLeg",
            &request_id,
            &message,
        );
        let refund = self.once(&key, &case).await?;
        Ok(Response::new(proto::RetryRefundLegResponse {
            refund: Some(view::refund(&refund)),
        }))
    }

    async fn record_provider_refund(
        &self,
        request: Request<proto::RecordProviderRefundRequest>,
    ) -> Result<Response<proto::RecordProviderRefundResponse>, Status> {
        let message = request.into_inner();
        let case = checked(|v| {
            let tenant = parse::tenant(&message.merchant_id, &message.store_id, v);
            let provider = convert::text("provider", &message.provider, 1..=40, v);
            let provider_refund_id =
                convert::text("provider_refund_id", &message.provider_refund_id, 1..=200, v);
            let leg_id = convert::optional_id("leg_id", &message.leg_id, v);
            let outcome = parse::outcome(&message.outcome, &message.failure_reason, v);
            let about = About::Told {
                tenant: tenant?,
                provider: provider?,
                leg_id: leg_id?,
            };
            Some(ApplyWord {
                core: &self.core,
                about,
                provider_refund_id: provider_refund_id?,
                outcome: outcome?,
            })
        })?;
        let refund = self.db.run(&case).await.map_err(|error| refuse(&error))?;
        Ok(Response::new(proto::RecordProviderRefundResponse {
            refund: Some(view::refund(&refund)),
        }))
    }

    async fn get_refund(
        &self,
        request: Request<proto::GetRefundRequest>,
    ) -> Result<Response<proto::GetRefundResponse>, Status> {
        self.read_refund(request.into_inner()).await.map(Response::new)
    }

    async fn batch_get_refunds(
        &self,
        request: Request<proto::BatchGetRefundsRequest>,
    ) -> Result<Response<proto::BatchGetRefundsResponse>, Status> {
        self.read_refunds(request.into_inner()).await.map(Response::new)
    }

    async fn list_refunds(
        &self,
        request: Request<proto::ListRefundsRequest>,
    ) -> Result<Response<proto::ListRefundsResponse>, Status> {
        self.page_refunds(request.into_inner()).await.map(Response::new)
    }

    async fn list_journal_entries(
        &self,
        request: Request<proto::ListJournalEntriesRequest>,
    ) -> Result<Response<proto::ListJournalEntriesResponse>, Status> {
        self.page_journal(request.into_inner()).await.map(Response::new)
    }

    async fn get_trial_balance(
        &self,
        request: Request<proto::GetTrialBalanceRequest>,
    ) -> Result<Response<proto::GetTrialBalanceResponse>, Status> {
        self.balance(request.into_inner()).await.map(Response::new)
    }
}
