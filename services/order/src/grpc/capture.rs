//! What payment providers are asked for: requests as domain values, and their answers.

use waybill_kernel::check::Violations;
use waybill_kernel::id::PaymentId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;

use super::{OrderGrpc, parse, rpc, view};
use crate::app::{NewAttempt, Wish};
use crate::domain::order::Tenant;
use crate::error::Error;
use crate::store::read::Key;

impl OrderGrpc {
    pub(super) async fn capture(
        &self,
        caller: &Caller,
        mut request: proto::CapturePaymentRequest,
    ) -> Result<proto::CapturePaymentResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let wish = wanted(&request, &mut v);
        let new = new_attempt(tenant, &request.order_id, &request.payment_id, wish, &mut v);
        let (request_id, new) = parse::checked(request_id.zip(new), v)?;
        let merchant = new.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::CAPTURE_PAYMENT, &request_id, &request);
        let (order, attempt) = self.orders.attempt(&key, &new).await?;
        Ok(proto::CapturePaymentResponse {
            attempt: Some(view::attempt(order.terms.currency, attempt)),
            order: Some(view::order(order)),
        })
    }

    pub(super) async fn void(
        &self,
        caller: &Caller,
        mut request: proto::VoidPaymentRequest,
    ) -> Result<proto::VoidPaymentResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let wish = Some(Wish::Void);
        let new = new_attempt(tenant, &request.order_id, &request.payment_id, wish, &mut v);
        let (request_id, new) = parse::checked(request_id.zip(new), v)?;
        let merchant = new.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::VOID_PAYMENT, &request_id, &request);
        let (order, attempt) = self.orders.attempt(&key, &new).await?;
        Ok(proto::VoidPaymentResponse {
            attempt: Some(view::attempt(order.terms.currency, attempt)),
            order: Some(view::order(order)),
        })
    }

    pub(super) async fn attempt(
        &self,
        request: &proto::GetPaymentAttemptRequest,
    ) -> Result<proto::GetPaymentAttemptResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let order = convert::id("order_id", &request.order_id, &mut v);
        let attempt = convert::id::<PaymentId>("attempt_id", &request.attempt_id, &mut v);
        let ((tenant, order), attempt) = parse::checked(tenant.zip(order).zip(attempt), v)?;
        let order = self.orders.get(tenant, &Key::Id(order)).await?;
        let found = order.attempts.into_iter().find(|known| known.id == attempt);
        let found = found.ok_or(Error::AttemptNotFound)?;
        Ok(proto::GetPaymentAttemptResponse {
            attempt: Some(view::attempt(order.terms.currency, found)),
        })
    }
}

fn wanted(request: &proto::CapturePaymentRequest, v: &mut Violations) -> Option<Wish> {
    let amount = match request.amount.as_ref() {
        None => None,
        Some(amount) => Some(convert::money("amount", Some(amount), v)?),
    };
    if let Some(amount) = amount
        && amount.minor <= 0
    {
        v.push("amount", format!("is {amount}; expected more than 0"));
    }
    Some(Wish::Capture {
        amount,
        is_final: request.is_final,
    })
}

fn new_attempt(
    tenant: Option<Tenant>,
    order_id: &str,
    payment_id: &str,
    wish: Option<Wish>,
    v: &mut Violations,
) -> Option<NewAttempt> {
    let order = convert::id("order_id", order_id, v);
    let payment = convert::id("payment_id", payment_id, v);
    Some(NewAttempt {
        tenant: tenant?,
        order: order?,
        payment: payment?,
        wish: wish?,
    })
}
