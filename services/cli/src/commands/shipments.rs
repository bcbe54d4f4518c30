//! `waybill shipments …`

use anyhow::Context as _;
use waybill_proto::waybill::fulfillment::v1::{
    AdjustStockRequest, CreateShipmentRequest, CreateShipmentResponse, ListLocationsRequest,
    ListShipmentsRequest, ListStockLevelsRequest, RecordTrackingRequest, Shipment, ShipmentStatus,
    StockAdjustment, TrackingResult, TrackingUpdate, stock_adjustment, tracking_update,
};

use crate::args::ShipmentsCommand;
use crate::output::{self, line, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: ShipmentsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        ShipmentsCommand::List { order } => list(session, order.as_deref(), json).await,
        ShipmentsCommand::Create {
            order,
            carrier,
            tracking_number,
            tracking_url,
        } => {
            let order = session.order(&order.order).await?;
            let request = CreateShipmentRequest {
                merchant_id: session.merchant_id.clone(),
                store_id: session.store_id.clone(),
                request_id: super::request_id(),
                order_id: order.order_id,
                carrier,
                tracking_number,
                tracking_url,
                ..CreateShipmentRequest::default()
            };
            let answer: CreateShipmentResponse = session
                .fulfillment()?
                .create_shipment(request)
                .await?
                .into_inner();
            if json {
                return output::json(&answer);
            }
            show(answer.shipment.as_slice());
            Ok(())
        }
        ShipmentsCommand::Track { shipment_id, status } => track(session, shipment_id, &status, json).await,
        ShipmentsCommand::Stock { skus } => stock(session, skus, json).await,
        ShipmentsCommand::Restock { sku, units, location } => {
            restock(session, sku, units, location, json).await
        }
    }
}

async fn list(session: &Session, order: Option<&str>, json: bool) -> anyhow::Result<()> {
    let order_id = match order {
        Some(reference) => session.order(reference).await?.order_id,
        None => String::new(),
    };
    let request = ListShipmentsRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 200,
        order_id,
        ..ListShipmentsRequest::default()
    };
    let answer = session.fulfillment()?.list_shipments(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.shipments);
    Ok(())
}

fn show(shipments: &[Shipment]) {
    line(
        table(
            &[
                "shipment",
                "order",
                "status",
                "carrier",
                "tracking number",
                "shipped (UTC)",
                "delivered (UTC)",
            ],
            shipments.iter().map(|shipment| {
                [
                    shipment.shipment_id.clone(),
                    shipment.order_id.clone(),
                    word(shipment.status().as_str_name(), "SHIPMENT_STATUS"),
                    shipment.carrier.clone(),
                    shipment.tracking_number.clone(),
                    time(shipment.shipped_at.as_ref()),
                    time(shipment.delivered_at.as_ref()),
                ]
            }),
        )
        .to_string(),
    );
}

async fn track(session: &Session, shipment_id: String, status: &str, json: bool) -> anyhow::Result<()> {
    let name = format!("SHIPMENT_STATUS_{}", status.to_uppercase().replace('-', "_"));
    let status = ShipmentStatus::from_str_name(&name)
        .filter(|status| *status != ShipmentStatus::Unspecified)
        .with_context(|| {
            format!(
                "status {status:?}: use pending, info-received, in-transit, out-for-delivery, attempt-failed, \
                 available-for-pickup, delivered, exception, expired or returned-to-sender"
            )
        })?;
    let request = RecordTrackingRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        updates: vec![TrackingUpdate {
            shipment: Some(tracking_update::Shipment::ShipmentId(shipment_id)),
            status: status.into(),
            ..TrackingUpdate::default()
        }],
    };
    let answer = session
        .fulfillment()?
        .record_tracking(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    for outcome in &answer.outcomes {
        match outcome.result() {
            TrackingResult::UnknownShipment => anyhow::bail!("there is no such shipment"),
            result => line(format!(
                "{}; the shipment is {}",
                word(result.as_str_name(), "TRACKING_RESULT"),
                word(outcome.status().as_str_name(), "SHIPMENT_STATUS")
            )),
        }
    }
    Ok(())
}

async fn stock(session: &Session, skus: Vec<String>, json: bool) -> anyhow::Result<()> {
    let request = ListStockLevelsRequest {
        merchant_id: session.merchant_id.clone(),
        page_size: 1000,
        skus,
        ..ListStockLevelsRequest::default()
    };
    let answer = session
        .fulfillment()?
        .list_stock_levels(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    line(
        table(
            &[
                "sku",
                ">on hand",
                ">reserved",
                ">safety stock",
                ">available",
                "location",
            ],
            answer.levels.iter().map(|level| {
                [
                    level.sku.clone(),
                    level.on_hand.to_string(),
                    level.reserved.to_string(),
                    level.safety_stock.to_string(),
                    level.available.to_string(),
                    level.location_id.clone(),
                ]
            }),
        )
        .to_string(),
    );
    Ok(())
}

async fn restock(
    session: &Session,
    sku: String,
    units: i64,
    location: Option<String>,
    json: bool,
) -> anyhow::Result<()> {
    let mut client = session.fulfillment()?;
    let location_id = match location {
        Some(location) => location,
        None => {
            client
                .list_locations(ListLocationsRequest {
                    merchant_id: session.merchant_id.clone(),
                })
                .await?
                .into_inner()
                .locations
                .into_iter()
                .next()
                .context("the merchant has no location yet")?
                .location_id
        }
    };
    let request = AdjustStockRequest {
        merchant_id: session.merchant_id.clone(),
        request_id: super::request_id(),
        adjustments: vec![StockAdjustment {
            sku,
            location_id,
            change: Some(stock_adjustment::Change::Delta(units)),
            safety_stock: None,
        }],
    };
    let answer = client.adjust_stock(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    for level in &answer.levels {
        line(format!(
            "{}: {} on hand, {} available",
            level.sku, level.on_hand, level.available
        ));
    }
    Ok(())
}
