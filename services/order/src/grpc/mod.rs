//! gRPC: parse, call the use case, show what came of it. The only place that knows `Status`.

mod batch;
mod capture;
mod change;
mod customers;
mod drafts;
mod edit;
mod find;
mod import;
mod parse;
mod trail;
mod view;

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};
use waybill_events::Position;
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::page::PageToken;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::order_service_server::OrderService;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;

pub(crate) use self::customers::CustomerGrpc;
pub(crate) use self::drafts::DraftGrpc;
use crate::app::{Candidate, Follower, MAX_BATCH_GET, Orders, Outcome, Start};
use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::store::watch::Change;

/// The service as tonic serves it.
pub(crate) struct OrderGrpc {
    pub(crate) orders: Orders,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

#[tonic::async_trait]
impl OrderService for OrderGrpc {
    async fn place_order(
        &self,
        request: Request<proto::PlaceOrderRequest>,
    ) -> Answer<proto::PlaceOrderResponse> {
        let caller = convert::context(&request)?;
        let placed = self.place(&caller, request.into_inner()).await;
        answer(placed.map(|order| proto::PlaceOrderResponse {
            order: Some(view::order(order)),
        }))
    }

    async fn batch_place_orders(
        &self,
        request: Request<Streaming<proto::BatchPlaceOrdersRequest>>,
    ) -> Answer<proto::BatchPlaceOrdersResponse> {
        let caller = convert::context(&request)?;
        let outcomes = batch::place(&self.orders, &caller, request.into_inner()).await?;
        Ok(Response::new(proto::BatchPlaceOrdersResponse { outcomes }))
    }

    async fn get_order(&self, request: Request<proto::GetOrderRequest>) -> Answer<proto::GetOrderResponse> {
        let found = self.get(request.into_inner()).await;
        answer(found.map(|order| proto::GetOrderResponse {
            order: Some(view::order(order)),
        }))
    }

    async fn batch_get_orders(
        &self,
        request: Request<proto::BatchGetOrdersRequest>,
    ) -> Answer<proto::BatchGetOrdersResponse> {
        let found = self.batch_get(&request.into_inner()).await;
        answer(found.map(|orders| proto::BatchGetOrdersResponse {
            orders: orders.into_iter().map(view::order).collect(),
        }))
    }

    async fn list_orders(
        &self,
        request: Request<proto::ListOrdersRequest>,
    ) -> Answer<proto::ListOrdersResponse> {
        answer(self.list(request.into_inner()).await)
    }

    async fn search_orders(
        &self,
        request: Request<proto::SearchOrdersRequest>,
    ) -> Answer<proto::SearchOrdersResponse> {
        answer(self.search(&request.into_inner()).await)
    }

    async fn count_orders(
        &self,
        request: Request<proto::CountOrdersRequest>,
    ) -> Answer<proto::CountOrdersResponse> {
        answer(self.count(request.into_inner()).await)
    }

    type ExportOrdersStream = find::Exporting;

    async fn export_orders(
        &self,
        request: Request<proto::ExportOrdersRequest>,
    ) -> Answer<Self::ExportOrdersStream> {
        answer(self.export(request.into_inner()))
    }

    async fn update_order(
        &self,
        request: Request<proto::UpdateOrderRequest>,
    ) -> Answer<proto::UpdateOrderResponse> {
        let caller = convert::context(&request)?;
        let updated = self.update(&caller, request.into_inner()).await;
        answer(updated.map(|order| proto::UpdateOrderResponse {
            order: Some(view::order(order)),
        }))
    }

    async fn hold_order(
        &self,
        request: Request<proto::HoldOrderRequest>,
    ) -> Answer<proto::HoldOrderResponse> {
        let caller = convert::context(&request)?;
        let held = self.hold(&caller, request.into_inner()).await;
        answer(held.map(|(order, hold)| proto::HoldOrderResponse {
            order: Some(view::order(order)),
            hold: Some(view::hold(hold)),
        }))
    }

    async fn release_order(
        &self,
        request: Request<proto::ReleaseOrderRequest>,
    ) -> Answer<proto::ReleaseOrderResponse> {
        let caller = convert::context(&request)?;
        let released = self.release(&caller, request.into_inner()).await;
        answer(released.map(|order| proto::ReleaseOrderResponse {
            order: Some(view::order(order)),
        }))
    }

    async fn cancel_order(
        &self,
        request: Request<proto::CancelOrderRequest>,
    ) -> Answer<proto::CancelOrderResponse> {
        let caller = convert::context(&request)?;
        let cancelled = self.cancel(&caller, request.into_inner()).await;
        answer(cancelled.map(|order| proto::CancelOrderResponse {
            order: Some(view::order(order)),
        }))
    }

    async fn cancel_order_lines(
        &self,
        request: Request<proto::CancelOrderLinesRequest>,
    ) -> Answer<proto::CancelOrderLinesResponse> {
        let caller = convert::context(&request)?;
        answer(self.cancel_lines(&caller, request.into_inner()).await)
    }

    async fn record_payment(
        &self,
        request: Request<proto::RecordPaymentRequest>,
    ) -> Answer<proto::RecordPaymentResponse> {
        let caller = convert::context(&request)?;
        answer(self.record(&caller, request.into_inner()).await)
    }

    async fn get_timeline(
        &self,
        request: Request<proto::GetTimelineRequest>,
    ) -> Answer<proto::GetTimelineResponse> {
        answer(self.timeline(&request.into_inner()).await)
    }

    type WatchOrdersStream = Pin<Box<dyn Stream<Item = Result<proto::WatchOrdersResponse, Status>> + Send>>;

    async fn watch_orders(
        &self,
        request: Request<proto::WatchOrdersRequest>,
    ) -> Answer<Self::WatchOrdersStream> {
        answer(self.watch(&request.into_inner()).await)
    }

    async fn verify_timeline(
        &self,
        request: Request<proto::VerifyTimelineRequest>,
    ) -> Answer<proto::VerifyTimelineResponse> {
        answer(self.verify(&request.into_inner()).await)
    }

    async fn rebuild_order(
        &self,
        request: Request<proto::RebuildOrderRequest>,
    ) -> Answer<proto::RebuildOrderResponse> {
        answer(self.rebuild(&request.into_inner()).await)
    }

    async fn preview_order_edit(
        &self,
        request: Request<proto::PreviewOrderEditRequest>,
    ) -> Answer<proto::PreviewOrderEditResponse> {
        answer(self.preview_edit(request.into_inner()).await)
    }

    async fn edit_order(
        &self,
        request: Request<proto::EditOrderRequest>,
    ) -> Answer<proto::EditOrderResponse> {
        let caller = convert::context(&request)?;
        answer(self.edit(&caller, request.into_inner()).await)
    }

    type ImportOrdersStream = import::Answers;

    async fn import_orders(
        &self,
        request: Request<Streaming<proto::ImportOrdersRequest>>,
    ) -> Answer<Self::ImportOrdersStream> {
        self.import(request.into_inner()).await.map(Response::new)
    }

    async fn get_import(
        &self,
        request: Request<proto::GetImportRequest>,
    ) -> Answer<proto::GetImportResponse> {
        answer(OrderGrpc::get_import(self, &request.into_inner()).await)
    }

    async fn capture_payment(
        &self,
        request: Request<proto::CapturePaymentRequest>,
    ) -> Answer<proto::CapturePaymentResponse> {
        let caller = convert::context(&request)?;
        answer(self.capture(&caller, request.into_inner()).await)
    }

    async fn void_payment(
        &self,
        request: Request<proto::VoidPaymentRequest>,
    ) -> Answer<proto::VoidPaymentResponse> {
        let caller = convert::context(&request)?;
        answer(self.void(&caller, request.into_inner()).await)
    }

    async fn get_payment_attempt(
        &self,
        request: Request<proto::GetPaymentAttemptRequest>,
    ) -> Answer<proto::GetPaymentAttemptResponse> {
        answer(self.attempt(&request.into_inner()).await)
    }
}

impl OrderGrpc {
    async fn place(&self, caller: &Caller, request: proto::PlaceOrderRequest) -> Result<Order, Error> {
        let candidate = candidate(&self.orders, caller, rpc::PLACE_ORDER, request)?;
        let (candidate, outcome) = self.orders.intake.place(candidate).await?;
        let tenant = candidate.tenant();
        match outcome {
            Outcome::Placed(assigned) => Ok(candidate.placed(assigned)),
            Outcome::Before(order) => self.orders.get_as_placed(tenant, order).await,
            Outcome::Exists(order_id, number) => Err(Error::OrderExists { order_id, number }),
            Outcome::Refused(error) => Err(error),
            Outcome::Later => Err(Error::Stopping),
        }
    }

    async fn get(&self, request: proto::GetOrderRequest) -> Result<Order, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let key = parse::key(request.key, &mut v);
        let (tenant, key) = parse::checked(tenant.zip(key), v)?;
        self.orders.get(tenant, &key).await
    }

    async fn batch_get(&self, request: &proto::BatchGetOrdersRequest) -> Result<Vec<Order>, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let ids = convert::ids("order_ids", &request.order_ids, MAX_BATCH_GET, &mut v);
        let (tenant, ids) = parse::checked(tenant.zip(ids), v)?;
        self.orders.get_all(tenant, &ids).await
    }

    async fn cancel(&self, caller: &Caller, mut request: proto::CancelOrderRequest) -> Result<Order, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let cancel = parse::cancel(tenant, &request, &mut v);
        let (request_id, cancel) = parse::checked(request_id.zip(cancel), v)?;
        let key = parse::request_key(
            caller,
            cancel.tenant.merchant,
            rpc::CANCEL_ORDER,
            &request_id,
            &request,
        );
        self.orders.cancel(&key, &cancel).await
    }

    async fn record(
        &self,
        caller: &Caller,
        mut request: proto::RecordPaymentRequest,
    ) -> Result<proto::RecordPaymentResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let payment = parse::payment(tenant, &request, &mut v);
        let (request_id, payment) = parse::checked(request_id.zip(payment), v)?;
        let merchant = payment.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::RECORD_PAYMENT, &request_id, &request);
        let (order, payment) = self.orders.record(&key, &payment).await?;
        Ok(proto::RecordPaymentResponse {
            payment: Some(view::payment(order.terms.currency, payment)),
            order: Some(view::order(order)),
        })
    }

    async fn timeline(
        &self,
        request: &proto::GetTimelineRequest,
    ) -> Result<proto::GetTimelineResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let order = convert::id("order_id", &request.order_id, &mut v);
        let (tenant, order) = parse::checked(tenant.zip(order), v)?;
        let entries = self.orders.timeline(tenant, order).await?;
        Ok(proto::GetTimelineResponse {
            entries: entries.into_iter().map(view::entry).collect(),
        })
    }

    async fn watch(
        &self,
        request: &proto::WatchOrdersRequest,
    ) -> Result<<Self as OrderService>::WatchOrdersStream, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let start = tenant.and_then(|tenant| start(tenant, request, &mut v));
        let (tenant, start) = parse::checked(tenant.zip(start), v)?;
        let follower = self.orders.watch(tenant, start).await?;
        // An error ends the stream: the caller goes on from its last cursor.
        let changes = stream::unfold(Some(follower), |follower| async {
            let mut follower: Follower = follower?;
            Some(match follower.next().await {
                Ok(change) => (Ok(changed(change)), Some(follower)),
                Err(error) => (Err(to_status(&error)), None),
            })
        });
        Ok(Box::pin(changes))
    }
}

/// Names of the methods, as request keys hold them.
mod rpc {
    pub(super) const PLACE_ORDER: &str = "waybill.order.v1.OrderService/PlaceOrder";
    pub(super) const BATCH_PLACE_ORDERS: &str = "waybill.order.v1.OrderService/BatchPlaceOrders";
    pub(super) const IMPORT_ORDERS: &str = "waybill.order.v1.OrderService/ImportOrders";
    pub(super) const UPDATE_ORDER: &str = "waybill.order.v1.OrderService/UpdateOrder";
    pub(super) const HOLD_ORDER: &str = "waybill.order.v1.OrderService/HoldOrder";
    pub(super) const RELEASE_ORDER: &str = "waybill.order.v1.OrderService/ReleaseOrder";
    pub(super) const CANCEL_ORDER: &str = "waybill.order.v1.OrderService/CancelOrder";
    pub(super) const CANCEL_ORDER_LINES: &str = "waybill.order.v1.OrderService/CancelOrderLines";
    pub(super) const EDIT_ORDER: &str = "waybill.order.v1.OrderService/EditOrder";
    pub(super) const RECORD_PAYMENT: &str = "waybill.order.v1.OrderService/RecordPayment";
    pub(super) const CAPTURE_PAYMENT: &str = "waybill.order.v1.OrderService/CapturePayment";
    pub(super) const VOID_PAYMENT: &str = "waybill.order.v1.OrderService/VoidPayment";
}

/// A request to place an order, made ready.
fn candidate(
    orders: &Orders,
    caller: &Caller,
    rpc: &'static str,
    mut request: proto::PlaceOrderRequest,
) -> Result<Candidate, Error> {
    let mut v = Violations::new();
    let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
    let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
    let named = tenant.zip(request_id);
    let key = named.map(|(tenant, request_id)| {
        (
            tenant,
            parse::request_key(caller, tenant.merchant, rpc, &request_id, &request),
        )
    });
    let draft = parse::draft(request.order, &mut v);
    // A caller learns all at once: what is wrong beside what could not be read is told with it.
    if let Some(draft) = draft.as_ref().filter(|_| !v.is_empty()) {
        v.nested("order", |v| orders.review(draft, v));
    }
    let ((tenant, key), draft) = parse::checked(key.zip(draft), v)?;
    orders.candidate(key, tenant, draft).map_err(in_order)
}

/// Faults of a draft are faults of the request's field `order`.
fn in_order(error: Error) -> Error {
    let inside = |faults: Violations| {
        let mut v = Violations::new();
        v.absorb("order", faults);
        v
    };
    match error {
        Error::Invalid(faults) => Error::Invalid(inside(faults)),
        Error::TotalsMismatch(faults) => Error::TotalsMismatch(inside(faults)),
        other => other,
    }
}

/// What a cursor is bound to.
fn watched(tenant: Tenant) -> String {
    hash::fingerprint([
        "watch orders".to_owned(),
        tenant.merchant.to_string(),
        tenant.store.to_string(),
    ])
}

fn start(tenant: Tenant, request: &proto::WatchOrdersRequest, v: &mut Violations) -> Option<Start> {
    match (request.cursor.as_str(), request.from_start) {
        ("", true) => Some(Start::First),
        ("", false) => Some(Start::Now),
        (_, true) => {
            v.push("from_start", "is set together with a cursor; give one of them");
            None
        }
        (cursor, false) => {
            let place = PageToken::decode(cursor, &watched(tenant)).ok();
            let place = place.and_then(|parts| match parts.as_slice() {
                [position] => position.parse::<Position>().ok(),
                _ => None,
            });
            if place.is_none() {
                v.push(
                    "cursor",
                    "is no cursor of this store; give the last one received, or none",
                );
            }
            place.map(Start::After)
        }
    }
}

fn changed(change: Change) -> proto::WatchOrdersResponse {
    proto::WatchOrdersResponse {
        cursor: PageToken::encode(&watched(change.tenant), &[change.position.to_string()]),
        order_id: change.order.to_string(),
        r#type: change.type_name,
        version: change.version,
        occurred_at: Some(convert::to_timestamp(change.occurred_at)),
    }
}
