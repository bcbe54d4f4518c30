//! The RPCs: parse, run the use case, show the result. The only place that knows `Status`.
//!
//! Who may call is not checked here: the access layer in front of it compares scope, merchant and store with the
//! caller's token, and every query is bound to the merchant and store of the request.

mod parse;
mod view;

use prost::Message;
use tonic::{Request, Response, Status};
use waybill_events::Log;
use waybill_kernel::id::MerchantId;
use waybill_kernel::page::PageToken;
use waybill_kernel::time;
use waybill_proto::waybill::fulfillment::v1 as proto;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_server::FulfillmentService;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;
use waybill_store::{Db, RequestKey, StoreError};

use crate::app::{locations, order_fulfillment, shipments, stock_levels};
use crate::error::Error;

/// The service's RPCs over its database.
#[derive(Clone)]
pub struct Grpc {
    db: Db,
    log: Log,
    clock: time::Shared,
}

impl Grpc {
    /// The RPCs over a database and its log.
    #[must_use]
    pub fn new(db: Db, log: Log, clock: time::Shared) -> Self {
        Self { db, log, clock }
    }
}

fn fault(error: impl Into<Error>) -> Status {
    to_status(&error.into())
}

fn store_fault(error: StoreError) -> Status {
    fault(Error::from(error))
}

/// What makes a mutation idempotent. `message` is the request with its request id taken out.
fn key(
    caller: &Caller,
    merchant: MerchantId,
    rpc: &'static str,
    request_id: &str,
    message: &impl Message,
) -> RequestKey {
    let parts = convert::request_key(caller, merchant, rpc, request_id, message);
    RequestKey {
        merchant: parts.merchant,
        caller: parts.caller,
        rpc: parts.rpc,
        request_id: parts.request_id,
        hash: parts.hash,
    }
}

#[tonic::async_trait]
impl FulfillmentService for Grpc {
    async fn create_location(
        &self,
        request: Request<proto::CreateLocationRequest>,
    ) -> Result<Response<proto::CreateLocationResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut message = request.into_inner();
        let (request_id, command) = parse::create_location(&message).map_err(fault)?;
        message.request_id.clear();
        let key = key(
            &caller,
            command.merchant,
            "fulfillment.v1.CreateLocation",
            &request_id,
            &message,
        );
        let location = self.db.run_once(&key, &command).await.map_err(fault)?;
        Ok(Response::new(proto::CreateLocationResponse {
            location: Some(view::location(location)),
        }))
    }

    async fn list_locations(
        &self,
        request: Request<proto::ListLocationsRequest>,
    ) -> Result<Response<proto::ListLocationsResponse>, Status> {
        let merchant = parse::merchant(&request.get_ref().merchant_id).map_err(fault)?;
        let locations = locations::list(&self.db, merchant).await.map_err(store_fault)?;
        let locations = locations.into_iter().map(view::location).collect();
        Ok(Response::new(proto::ListLocationsResponse { locations }))
    }

    async fn adjust_stock(
        &self,
        request: Request<proto::AdjustStockRequest>,
    ) -> Result<Response<proto::AdjustStockResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut message = request.into_inner();
        let (request_id, command) =
            parse::adjust_stock(&message, &self.log, self.clock.now()).map_err(fault)?;
        message.request_id.clear();
        let key = key(
            &caller,
            command.merchant,
            "fulfillment.v1.AdjustStock",
            &request_id,
            &message,
        );
        let levels = self.db.run_once(&key, &command).await.map_err(fault)?;
        let levels = levels.into_iter().map(view::stock_level).collect();
        Ok(Response::new(proto::AdjustStockResponse { levels }))
    }

    async fn list_stock_levels(
        &self,
        request: Request<proto::ListStockLevelsRequest>,
    ) -> Result<Response<proto::ListStockLevelsResponse>, Status> {
        let (wanted, filter) = parse::list_stock_levels(request.get_ref()).map_err(fault)?;
        let page = stock_levels::list(&self.db, &wanted).await.map_err(store_fault)?;
        let last = page.items.last().filter(|_| page.more);
        let next_page_token = last
            .map(|level| PageToken::encode(&filter, &[level.sku.to_string(), level.location.to_string()]))
            .unwrap_or_default();
        let levels = page.items.into_iter().map(view::stock_level).collect();
        Ok(Response::new(proto::ListStockLevelsResponse {
            levels,
            next_page_token,
        }))
    }

    async fn get_order_fulfillment(
        &self,
        request: Request<proto::GetOrderFulfillmentRequest>,
    ) -> Result<Response<proto::GetOrderFulfillmentResponse>, Status> {
        let wanted = parse::get_order_fulfillment(request.get_ref()).map_err(fault)?;
        let fulfillment = order_fulfillment::get(&self.db, &wanted).await.map_err(fault)?;
        let fulfillment = Some(view::order_fulfillment(fulfillment));
        Ok(Response::new(proto::GetOrderFulfillmentResponse { fulfillment }))
    }

    async fn create_shipment(
        &self,
        request: Request<proto::CreateShipmentRequest>,
    ) -> Result<Response<proto::CreateShipmentResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut message = request.into_inner();
        let (request_id, command) =
            parse::create_shipment(&message, &self.log, self.clock.now()).map_err(fault)?;
        message.request_id.clear();
        let merchant = command.tenant.merchant_id;
        let key = key(
            &caller,
            merchant,
            "fulfillment.v1.CreateShipment",
            &request_id,
            &message,
        );
        let shipment = self.db.run_once(&key, &command).await.map_err(fault)?;
        Ok(Response::new(proto::CreateShipmentResponse {
            shipment: Some(view::shipment(shipment)),
        }))
    }

    async fn get_shipment(
        &self,
        request: Request<proto::GetShipmentRequest>,
    ) -> Result<Response<proto::GetShipmentResponse>, Status> {
        let (tenant, id) = parse::get_shipment(request.get_ref()).map_err(fault)?;
        let (shipment, events) = shipments::get(&self.db, tenant, id).await.map_err(fault)?;
        let mut shipment = view::shipment(shipment);
        shipment.tracking_events = events.into_iter().map(view::tracking_event).collect();
        Ok(Response::new(proto::GetShipmentResponse {
            shipment: Some(shipment),
        }))
    }

    async fn batch_get_shipments(
        &self,
        request: Request<proto::BatchGetShipmentsRequest>,
    ) -> Result<Response<proto::BatchGetShipmentsResponse>, Status> {
        let (tenant, ids) = parse::batch_get_shipments(request.get_ref()).map_err(fault)?;
        let shipments = shipments::batch_get(&self.db, tenant, &ids)
            .await
            .map_err(store_fault)?;
        let shipments = shipments.into_iter().map(view::shipment).collect();
        Ok(Response::new(proto::BatchGetShipmentsResponse { shipments }))
    }

    async fn list_shipments(
        &self,
        request: Request<proto::ListShipmentsRequest>,
    ) -> Result<Response<proto::ListShipmentsResponse>, Status> {
        let (wanted, filter) = parse::list_shipments(request.get_ref()).map_err(fault)?;
        let page = shipments::list(&self.db, &wanted).await.map_err(store_fault)?;
        let last = page.items.last().filter(|_| page.more);
        let next_page_token = last
            .map(|shipment| PageToken::encode(&filter, &[shipment.id.to_string()]))
            .unwrap_or_default();
        let shipments = page.items.into_iter().map(view::shipment).collect();
        Ok(Response::new(proto::ListShipmentsResponse {
            shipments,
            next_page_token,
        }))
    }

    async fn record_tracking(
        &self,
        request: Request<proto::RecordTrackingRequest>,
    ) -> Result<Response<proto::RecordTrackingResponse>, Status> {
        let command =
            parse::record_tracking(request.into_inner(), &self.log, self.clock.now()).map_err(fault)?;
        let outcomes = self.db.run(&command).await.map_err(fault)?;
        let outcomes = outcomes.into_iter().map(view::tracking_outcome).collect();
        Ok(Response::new(proto::RecordTrackingResponse { outcomes }))
    }
}
