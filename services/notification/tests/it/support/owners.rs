//! Stand-ins for the order, fulfillment and refund services: their contracts with fixed answers. Each answers for what it
//! was told to know and refuses everything else, as the owners do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::Empty;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::fulfillment::v1 as fulfillment;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_server::{
    FulfillmentService, FulfillmentServiceServer,
};
use waybill_proto::waybill::order::v1 as order;
use waybill_proto::waybill::order::v1::get_order_request::Key;
use waybill_proto::waybill::order::v1::order_service_server::{OrderService, OrderServiceServer};
use waybill_proto::waybill::refund::v1 as refund;
use waybill_proto::waybill::refund::v1::refund_service_server::{RefundService, RefundServiceServer};
use waybill_rpc::server::{ServeError, Server};
use waybill_runtime::service::Limits;
use waybill_testkit::Auth;

/// The three owners in one. Clones know the same.
#[derive(Clone, Default)]
pub struct StandIn {
    known: Arc<Mutex<Known>>,
}

/// What the owners know, by (merchant, store, id).
#[derive(Default)]
pub struct Known {
    pub orders: HashMap<Key3, order::Order>,
    pub shipments: HashMap<Key3, fulfillment::Shipment>,
    pub returns: HashMap<Key3, refund::Return>,
    pub refunds: HashMap<Key3, refund::Refund>,
    /// While set, nobody answers.
    pub away: bool,
    /// How often an order was asked for.
    pub asked: usize,
}

type Key3 = (String, String, String);

impl StandIn {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves all three contracts, with access control, until `shutdown`.
    pub async fn serve(
        &self,
        auth: &Auth,
        shutdown: CancellationToken,
    ) -> anyhow::Result<(SocketAddr, JoinHandle<Result<(), ServeError>>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = self.on(Server::new("owners", auth.verifier().clone(), Limits::default()));
        Ok((address, tokio::spawn(server.serve(listener, shutdown))))
    }

    /// Adds all three contracts to a server.
    pub fn on(&self, server: Server) -> Server {
        server
            .add(OrderServiceServer::new(self.clone()), FILE_DESCRIPTOR_SET)
            .add(FulfillmentServiceServer::new(self.clone()), FILE_DESCRIPTOR_SET)
            .add(RefundServiceServer::new(self.clone()), FILE_DESCRIPTOR_SET)
    }

    fn find<T: Clone>(&self, of: impl Fn(&Known) -> &HashMap<Key3, T>, key: Key3) -> Result<T, Status> {
        let known = self.known();
        if known.away {
            // As a real one does, the text names what was asked for: it must not end up anywhere.
            return Err(Status::unavailable(
                "the database is away, asked for ada@example.com",
            ));
        }
        of(&known)
            .get(&key)
            .cloned()
            .ok_or_else(|| Status::not_found("unknown"))
    }
}

macro_rules! stand_in {
    (impl $service:path { $($answered:tt)* }
     unanswered { $($method:ident($request:ty) -> $response:ty;)* }) => {
        #[tonic::async_trait]
        impl $service for StandIn {
            $($answered)*
            $(
                async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented(stringify!($method)))
                }
            )*
        }
    };
}

stand_in! {
    impl OrderService {
        type WatchOrdersStream = Empty<Result<order::WatchOrdersResponse, Status>>;
        type ExportOrdersStream = Empty<Result<order::ExportOrdersResponse, Status>>;
        type ImportOrdersStream = Empty<Result<order::ImportOrdersResponse, Status>>;

        async fn get_order(
            &self,
            request: Request<order::GetOrderRequest>,
        ) -> Result<Response<order::GetOrderResponse>, Status> {
            let request = request.into_inner();
            let Some(Key::OrderId(id)) = request.key else {
                return Err(Status::unimplemented("only by id"));
            };
            self.known().asked += 1;
            let order = self.find(|known| &known.orders, (request.merchant_id, request.store_id, id))?;
            Ok(Response::new(order::GetOrderResponse { order: Some(order) }))
        }

        async fn batch_place_orders(
            &self,
            _: Request<tonic::Streaming<order::BatchPlaceOrdersRequest>>,
        ) -> Result<Response<order::BatchPlaceOrdersResponse>, Status> {
            Err(Status::unimplemented("batch_place_orders"))
        }

        async fn watch_orders(
            &self,
            _: Request<order::WatchOrdersRequest>,
        ) -> Result<Response<Self::WatchOrdersStream>, Status> {
            Err(Status::unimplemented("watch_orders"))
        }

        async fn export_orders(
            &self,
            _: Request<order::ExportOrdersRequest>,
        ) -> Result<Response<Self::ExportOrdersStream>, Status> {
            Err(Status::unimplemented("export_orders"))
        }

        async fn import_orders(
            &self,
            _: Request<tonic::Streaming<order::ImportOrdersRequest>>,
        ) -> Result<Response<Self::ImportOrdersStream>, Status> {
            Err(Status::unimplemented("import_orders"))
        }
    }
    unanswered {
        place_order(order::PlaceOrderRequest) -> order::PlaceOrderResponse;
        batch_get_orders(order::BatchGetOrdersRequest) -> order::BatchGetOrdersResponse;
        list_orders(order::ListOrdersRequest) -> order::ListOrdersResponse;
        search_orders(order::SearchOrdersRequest) -> order::SearchOrdersResponse;
        count_orders(order::CountOrdersRequest) -> order::CountOrdersResponse;
        cancel_order(order::CancelOrderRequest) -> order::CancelOrderResponse;
        record_payment(order::RecordPaymentRequest) -> order::RecordPaymentResponse;
        get_timeline(order::GetTimelineRequest) -> order::GetTimelineResponse;
        update_order(order::UpdateOrderRequest) -> order::UpdateOrderResponse;
        hold_order(order::HoldOrderRequest) -> order::HoldOrderResponse;
        release_order(order::ReleaseOrderRequest) -> order::ReleaseOrderResponse;
        cancel_order_lines(order::CancelOrderLinesRequest) -> order::CancelOrderLinesResponse;
        verify_timeline(order::VerifyTimelineRequest) -> order::VerifyTimelineResponse;
        rebuild_order(order::RebuildOrderRequest) -> order::RebuildOrderResponse;
        preview_order_edit(order::PreviewOrderEditRequest) -> order::PreviewOrderEditResponse;
        edit_order(order::EditOrderRequest) -> order::EditOrderResponse;
        get_import(order::GetImportRequest) -> order::GetImportResponse;
        capture_payment(order::CapturePaymentRequest) -> order::CapturePaymentResponse;
        void_payment(order::VoidPaymentRequest) -> order::VoidPaymentResponse;
        get_payment_attempt(order::GetPaymentAttemptRequest) -> order::GetPaymentAttemptResponse;
    }
}

stand_in! {
    impl FulfillmentService {
        async fn get_shipment(
            &self,
            request: Request<fulfillment::GetShipmentRequest>,
        ) -> Result<Response<fulfillment::GetShipmentResponse>, Status> {
            let request = request.into_inner();
            let key = (request.merchant_id, request.store_id, request.shipment_id);
            let shipment = self.find(|known| &known.shipments, key)?;
            Ok(Response::new(fulfillment::GetShipmentResponse { shipment: Some(shipment) }))
        }
    }
    unanswered {
        create_location(fulfillment::CreateLocationRequest) -> fulfillment::CreateLocationResponse;
        list_locations(fulfillment::ListLocationsRequest) -> fulfillment::ListLocationsResponse;
        adjust_stock(fulfillment::AdjustStockRequest) -> fulfillment::AdjustStockResponse;
        list_stock_levels(fulfillment::ListStockLevelsRequest) -> fulfillment::ListStockLevelsResponse;
        get_order_fulfillment(fulfillment::GetOrderFulfillmentRequest) -> fulfillment::GetOrderFulfillmentResponse;
        create_shipment(fulfillment::CreateShipmentRequest) -> fulfillment::CreateShipmentResponse;
        batch_get_shipments(fulfillment::BatchGetShipmentsRequest) -> fulfillment::BatchGetShipmentsResponse;
        list_shipments(fulfillment::ListShipmentsRequest) -> fulfillment::ListShipmentsResponse;
        record_tracking(fulfillment::RecordTrackingRequest) -> fulfillment::RecordTrackingResponse;
    }
}

stand_in! {
    impl RefundService {
        async fn get_return(
            &self,
            request: Request<refund::GetReturnRequest>,
        ) -> Result<Response<refund::GetReturnResponse>, Status> {
            let request = request.into_inner();
            let key = (request.merchant_id, request.store_id, request.return_id);
            let found = self.find(|known| &known.returns, key)?;
            Ok(Response::new(refund::GetReturnResponse { r#return: Some(found) }))
        }

        async fn get_refund(
            &self,
            request: Request<refund::GetRefundRequest>,
        ) -> Result<Response<refund::GetRefundResponse>, Status> {
            let request = request.into_inner();
            let key = (request.merchant_id, request.store_id, request.refund_id);
            let found = self.find(|known| &known.refunds, key)?;
            Ok(Response::new(refund::GetRefundResponse { refund: Some(found) }))
        }
    }
    unanswered {
        publish_policy(refund::PublishPolicyRequest) -> refund::PublishPolicyResponse;
        get_policy(refund::GetPolicyRequest) -> refund::GetPolicyResponse;
        quote_return(refund::QuoteReturnRequest) -> refund::QuoteReturnResponse;
        request_return(refund::RequestReturnRequest) -> refund::RequestReturnResponse;
        approve_return(refund::ApproveReturnRequest) -> refund::ApproveReturnResponse;
        decline_return(refund::DeclineReturnRequest) -> refund::DeclineReturnResponse;
        receive_return(refund::ReceiveReturnRequest) -> refund::ReceiveReturnResponse;
        list_returns(refund::ListReturnsRequest) -> refund::ListReturnsResponse;
        create_refund(refund::CreateRefundRequest) -> refund::CreateRefundResponse;
        approve_refund(refund::ApproveRefundRequest) -> refund::ApproveRefundResponse;
        retry_refund_leg(refund::RetryRefundLegRequest) -> refund::RetryRefundLegResponse;
        record_provider_refund(refund::RecordProviderRefundRequest) -> refund::RecordProviderRefundResponse;
        batch_get_refunds(refund::BatchGetRefundsRequest) -> refund::BatchGetRefundsResponse;
        list_refunds(refund::ListRefundsRequest) -> refund::ListRefundsResponse;
        list_journal_entries(refund::ListJournalEntriesRequest) -> refund::ListJournalEntriesResponse;
        get_trial_balance(refund::GetTrialBalanceRequest) -> refund::GetTrialBalanceResponse;
    }
}
