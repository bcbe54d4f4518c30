//! One day of the shop: its invoices become orders that arrive, its cancellations returns that are paid back.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use waybill_e2e::orders::{minor, money};
use waybill_e2e::retail::{self, Back, Invoice, Purchases};
use waybill_e2e::shop::Shop;
use waybill_e2e::{patient, wait};
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::fulfillment::v1::{
    CreateShipmentRequest, RecordTrackingRequest, ShipmentStatus, TrackingResult, TrackingUpdate,
    tracking_update,
};
use waybill_proto::waybill::order::v1::{
    BatchPlaceOrdersRequest, NewOrder, OrderLine, PaymentKind, PlaceOrderOutcome, PlaceOrderResult,
    RecordPaymentRequest,
};
use waybill_proto::waybill::refund::v1::{
    GetReturnRequest, NewReturnLine, ReceiveReturnRequest, RequestReturnRequest, ReturnReason, ReturnState,
};

use crate::Story;

/// Calls on their way at once.
const AT_ONCE: usize = 16;

/// An order that was placed today.
struct Placed {
    order_id: String,
    version: i64,
    number: String,
    total: i64,
    ships: bool,
}

/// Runs the day.
pub async fn run(
    shop: &Shop,
    today: &[Invoice],
    story: &mut Story,
    purchases: &mut Purchases,
) -> anyhow::Result<()> {
    let placed = place(shop, today, story, purchases).await?;
    let paid: Vec<Placed> = stream::iter(placed)
        .map(|order| pay(shop, order))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    deliver(shop, paid.into_iter().filter(|order| order.ships).collect()).await?;
    take_back(shop, today, story, purchases).await
}

/// Hands the day's invoices to the order service, in one call.
async fn place(
    shop: &Shop,
    today: &[Invoice],
    story: &mut Story,
    purchases: &mut Purchases,
) -> anyhow::Result<Vec<Placed>> {
    let mut sent: Vec<(&Invoice, NewOrder)> = Vec::new();
    for invoice in today.iter().filter(|invoice| !invoice.is_cancellation()) {
        match retail::order(invoice) {
            Ok(order) => sent.push((invoice, order)),
            Err(why) => {
                story.refused.insert(invoice.number.clone(), why);
            }
        }
    }
    let requests: Vec<BatchPlaceOrdersRequest> = sent
        .iter()
        .map(|(invoice, order)| BatchPlaceOrdersRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            request_id: format!("invoice-{}", invoice.number),
            order: Some(order.clone()),
        })
        .collect();
    let answer = shop
        .session
        .orders()?
        .batch_place_orders(tokio_stream::iter(requests))
        .await?
        .into_inner();
    ensure!(
        answer.outcomes.len() == sent.len(),
        "{} outcomes of {} orders",
        answer.outcomes.len(),
        sent.len()
    );
    let mut placed = Vec::new();
    for (outcome, (invoice, order)) in answer.outcomes.into_iter().zip(sent) {
        if outcome.result() == PlaceOrderResult::Refused {
            story.refused.insert(
                invoice.number.clone(),
                format!("{}: {}", outcome.reason, outcome.message),
            );
            continue;
        }
        ensure!(
            outcome.result() == PlaceOrderResult::Placed,
            "{}: {:?}",
            invoice.number,
            outcome.result()
        );
        purchases.note(invoice, &outcome.order_id, &bought(&outcome));
        story
            .orders
            .insert(invoice.number.clone(), outcome.order_id.clone());
        placed.push(Placed {
            order_id: outcome.order_id,
            version: outcome.version,
            number: invoice.number.clone(),
            total: order
                .totals
                .as_ref()
                .map_or(0, |totals| minor(totals.total.as_ref())),
            ships: order.lines.iter().any(|line| !line.digital),
        });
    }
    Ok(placed)
}

fn bought(outcome: &PlaceOrderOutcome) -> Vec<(String, String, i32, i64)> {
    let line = |line: &OrderLine| {
        (
            line.line_id.clone(),
            line.sku.clone(),
            line.quantity,
            minor(line.unit_price.as_ref()),
        )
    };
    outcome.lines.iter().map(line).collect()
}

async fn pay(shop: &Shop, order: Placed) -> anyhow::Result<Placed> {
    // What costs nothing is paid.
    if order.total == 0 {
        return Ok(order);
    }
    let captured = Money::new(Currency::GBP, order.total);
    let payment = format!("pi_{}", order.number);
    shop.stack.payments().register_payment(&payment, captured)?;
    let request = RecordPaymentRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: format!("capture-{}", order.number),
        order_id: order.order_id.clone(),
        kind: PaymentKind::Capture.into(),
        provider: "stripe".to_owned(),
        provider_payment_id: payment,
        amount: Some(money(retail::CURRENCY, order.total)),
        occurred_at: None,
        ..RecordPaymentRequest::default()
    };
    let client = shop.session.orders()?;
    let answer = patient!("a payment could not be recorded", client.record_payment(request));
    let recorded = answer
        .await
        .with_context(|| format!("invoice {}", order.number))?;
    let version = recorded.order.context("an answer without an order")?.version;
    Ok(Placed { version, ..order })
}

/// Ships every order as one parcel, and brings all of them to their doors.
async fn deliver(shop: &Shop, orders: Vec<Placed>) -> anyhow::Result<()> {
    let client = shop.session.fulfillment()?;
    let shipments: Vec<String> = stream::iter(orders)
        .map(|order| {
            let request = CreateShipmentRequest {
                merchant_id: shop.session.merchant_id.clone(),
                store_id: shop.session.store_id.clone(),
                request_id: format!("ship-{}", order.number),
                order_id: order.order_id.clone(),
                carrier: "royal-mail".to_owned(),
                tracking_number: format!("RM{}", order.number),
                min_order_version: order.version,
                ..CreateShipmentRequest::default()
            };
            let client = client.clone();
            async move {
                let answer = patient!("an order could not be shipped", client.create_shipment(request));
                let shipment = answer
                    .await
                    .with_context(|| format!("invoice {}", order.number))?
                    .shipment;
                anyhow::Ok(shipment.context("an answer without a shipment")?.shipment_id)
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    for chunk in shipments.chunks(500) {
        let request = RecordTrackingRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            updates: chunk
                .iter()
                .map(|shipment_id| TrackingUpdate {
                    shipment: Some(tracking_update::Shipment::ShipmentId(shipment_id.clone())),
                    status: ShipmentStatus::Delivered.into(),
                    source_event_id: format!("delivered-{shipment_id}"),
                    ..TrackingUpdate::default()
                })
                .collect(),
        };
        let answer = shop
            .session
            .fulfillment()?
            .record_tracking(request)
            .await?
            .into_inner();
        let advanced = answer
            .outcomes
            .iter()
            .filter(|outcome| outcome.result() == TrackingResult::Advanced)
            .count();
        ensure!(
            advanced == chunk.len(),
            "{advanced} of {} parcels arrived",
            chunk.len()
        );
    }
    Ok(())
}

/// Takes back what the day's cancellations take back: one return for each order that is concerned.
async fn take_back(
    shop: &Shop,
    today: &[Invoice],
    story: &mut Story,
    purchases: &mut Purchases,
) -> anyhow::Result<()> {
    let mut wishes: BTreeMap<(String, String), Vec<Back>> = BTreeMap::new();
    for invoice in today.iter().filter(|invoice| invoice.is_cancellation()) {
        for row in &invoice.rows {
            let taken = purchases.take_back(row);
            story
                .back
                .insert(row.line, taken.back.iter().map(|back| back.units).sum());
            story
                .kept
                .extend(taken.refused.map(|refused| (row.line, refused)));
            for back in taken.back {
                wishes
                    .entry((invoice.number.clone(), back.order_id.clone()))
                    .or_default()
                    .push(back);
            }
        }
    }
    stream::iter(wishes)
        .map(|((invoice, order_id), backs)| async move {
            give_back(shop, &invoice, &order_id, backs)
                .await
                .with_context(|| format!("cancellation {invoice}"))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn give_back(shop: &Shop, invoice: &str, order_id: &str, backs: Vec<Back>) -> anyhow::Result<()> {
    // Two rows of a cancellation can take back units of one line; a return names each line once.
    let mut units: BTreeMap<String, i64> = BTreeMap::new();
    for back in backs {
        *units.entry(back.line_id).or_default() += back.units;
    }
    let request = RequestReturnRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: format!("return-{invoice}-{order_id}"),
        order_id: order_id.to_owned(),
        lines: units
            .into_iter()
            .map(|(line_id, units)| {
                let quantity = i32::try_from(units)?;
                Ok(NewReturnLine {
                    line_id,
                    quantity,
                    reason: ReturnReason::Unwanted.into(),
                })
            })
            .collect::<anyhow::Result<_>>()?,
        min_order_version: 0,
    };
    let client = shop.session.refunds()?;
    let returned = patient!(
        "a return was refused",
        &["NOT_RETURNABLE", "ORDER_NOT_FOUND"],
        client.request_return(request)
    );
    let returned = returned.await?.r#return.context("an answer without a return")?;
    let receive = ReceiveReturnRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        request_id: format!("receive-{}", returned.return_id),
        return_id: returned.return_id.clone(),
        ..ReceiveReturnRequest::default()
    };
    patient!("a return could not be received", client.receive_return(receive)).await?;
    wait::until("the end of a return", || {
        let mut client = client.clone();
        let request = GetReturnRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            return_id: returned.return_id.clone(),
        };
        async move {
            let found = client.get_return(request).await?.into_inner().r#return;
            Ok(found
                .filter(|found| found.state() == ReturnState::Completed)
                .map(|_| ()))
        }
    })
    .await
}
