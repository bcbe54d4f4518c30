//! CancelOrderLines: units that have not shipped, to the penny.

use anyhow::Result;
use prost::Message as _;
use tonic::{Code, Status};
use waybill_kernel::id::ShipmentId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::fault;

use crate::fold::{delivered, shipped, until};
use crate::harness::start;
use crate::house::House;
use crate::shop::{Shop, bad_fields, eur, order, refusal, tea};

impl Shop {
    /// A request to cancel so many units of each of these lines.
    pub(crate) fn units(
        &self,
        request_id: &str,
        order: &proto::Order,
        units: &[(usize, i32)],
    ) -> proto::CancelOrderLinesRequest {
        let line = |&(index, quantity): &(usize, i32)| proto::LineUnits {
            line_id: order.lines[index].line_id.clone(),
            quantity,
        };
        proto::CancelOrderLinesRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order.order_id.clone(),
            lines: units.iter().map(line).collect(),
            reason: "out of stock".into(),
            restock: None,
            etag: String::new(),
        }
    }

    /// Cancels units.
    pub(crate) async fn cancel_units(
        &self,
        request: proto::CancelOrderLinesRequest,
    ) -> Result<proto::CancelOrderLinesResponse, Status> {
        Ok(self
            .client
            .clone()
            .cancel_order_lines(request)
            .await?
            .into_inner())
    }
}

/// 3 units of tea for 10.00 EUR, which do not divide, and 1 pot for 20.00 EUR.
fn uneven(external_id: &str) -> proto::NewOrder {
    proto::NewOrder {
        lines: vec![
            proto::NewOrderLine {
                quantity: 3,
                unit_price: eur(334),
                discounts: vec![proto::Discount {
                    amount: eur(2),
                    ..proto::Discount::default()
                }],
                ..tea()
            },
            proto::NewOrderLine {
                sku: "POT-1".into(),
                quantity: 1,
                unit_price: eur(2000),
                ..proto::NewOrderLine::default()
            },
        ],
        totals: Some(proto::OrderTotals {
            total: eur(3000),
            ..proto::OrderTotals::default()
        }),
        ..order(external_id)
    }
}

/// O-16.
#[tokio::test]
async fn units_cost_what_their_line_was_cut_into_and_the_last_ones_end_the_order() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(uneven("1")).await;
    let first = shop.cancel_units(shop.units("u-1", &placed, &[(0, 1)])).await?;
    let second = shop.cancel_units(shop.units("u-2", &placed, &[(0, 2)])).await?;
    let (one, two) = (
        first.cancellation.clone().expect("units"),
        second.cancellation.clone().expect("units"),
    );
    assert_eq!((one.lines[0].first_unit, one.lines[0].quantity), (3, 1));
    assert_eq!((two.lines[0].first_unit, two.lines[0].quantity), (1, 2));
    let minor = |money: &Option<waybill_proto::waybill::r#type::v1::Money>| {
        money.as_ref().map_or(0, |m| m.minor_units)
    };
    assert_eq!(minor(&one.amount) + minor(&two.amount), 1000);
    assert_eq!(minor(&one.lines[0].tax) + minor(&two.lines[0].tax), 65);

    let left = second.order.clone().expect("an order");
    assert_eq!((left.status(), left.version), (proto::OrderStatus::Open, 3));
    assert_eq!(
        (left.cancelled.clone(), left.lines[0].cancelled_quantity),
        (eur(1000), 3)
    );
    assert_eq!(
        left.totals, placed.totals,
        "O-2: the terms stay as they were agreed"
    );
    // O-13.
    assert_eq!(
        shop.cancel_units(shop.units("u-1", &placed, &[(0, 1)])).await?,
        first
    );

    // What is cancelled is not to be paid.
    assert_eq!(
        refusal(shop.capture(&placed.order_id, "pay-1", 2001).await).1,
        "CAPTURE_EXCEEDS_TOTAL"
    );
    shop.capture(&placed.order_id, "pay-1", 2000).await?;

    let end = shop.cancel_units(shop.units("u-3", &placed, &[(1, 1)])).await?;
    assert_eq!(end.cancellation, None);
    let cancelled = end.order.expect("an order");
    assert_eq!(cancelled.status(), proto::OrderStatus::Cancelled);
    assert_eq!(cancelled.cancel_reason, "out of stock");

    let types: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT type, payload FROM event_log ORDER BY position")
            .fetch_all(&mut service.tables().await)
            .await?;
    let names: Vec<&str> = types
        .iter()
        .filter_map(|(name, _)| name.rsplit('.').next())
        .collect();
    assert_eq!(
        names,
        [
            "OrderPlaced",
            "OrderLinesCancelled",
            "OrderLinesCancelled",
            "PaymentRecorded",
            "OrderCancelled"
        ]
    );
    let told = proto::OrderLinesCancelled::decode(types[1].1.as_slice())?;
    assert!(told.restock, "unless it was said otherwise");
    assert_eq!(told.amount_minor, minor(&one.amount));
    assert_eq!(
        (told.lines[0].sku.as_str(), told.lines[0].first_unit),
        ("TEA-1", 3)
    );
    assert_eq!(
        shop.timeline(&placed.order_id).await[1].summary,
        format!(
            "Cancelled: 1 unit for 3.3{} EUR: out of stock",
            minor(&one.amount) % 10
        )
    );
    Ok(())
}

#[tokio::test]
async fn what_has_shipped_is_not_cancelled_and_the_rest_completes_the_order() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    shop.capture(&placed.order_id, "pay-1", 1000).await?;
    let parcel = ShipmentId::generate();
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[shipped(&placed, parcel, 1)])
        .await?;
    until(&shop, &placed.order_id, "one has left", |order| {
        order.fulfillment_status() == proto::FulfillmentStatus::PartiallyFulfilled
    })
    .await;
    let status = shop
        .cancel_units(shop.units("u-1", &placed, &[(0, 2)]))
        .await
        .expect_err("one has left");
    assert_eq!(
        (status.code(), fault::reason(&status).as_deref()),
        (Code::FailedPrecondition, Some("UNITS_NOT_CANCELLABLE"))
    );
    assert!(
        status
            .message()
            .contains("1 are free: of 2 ordered, 1 have shipped and 0 were cancelled"),
        "{}",
        status.message()
    );
    let left = shop
        .cancel_units(shop.units("u-2", &placed, &[(0, 1)]))
        .await?
        .order
        .expect("an order");
    assert_eq!(left.fulfillment_status(), proto::FulfillmentStatus::Fulfilled);
    assert_eq!(left.status(), proto::OrderStatus::Open);
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[delivered(&placed, parcel, 1)])
        .await?;
    until(&shop, &placed.order_id, "all that is left has arrived", |order| {
        order.status() == proto::OrderStatus::Completed
    })
    .await;
    assert_eq!(
        refusal(shop.cancel_units(shop.units("u-3", &placed, &[(0, 1)])).await).1,
        "ORDER_NOT_CANCELLABLE"
    );
    house.stop().await;
    Ok(())
}

#[tokio::test]
async fn all_that_is_wrong_with_a_request_is_named() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let mut request = shop.units("u-1", &placed, &[(0, 1), (0, 0)]);
    request.reason = String::new();
    assert_eq!(
        bad_fields(shop.cancel_units(request).await),
        ["reason", "lines[1].quantity", "lines[1].line_id"]
    );
    let mut strange = shop.units("u-1", &placed, &[(0, 1)]);
    strange.lines[0].line_id.clone_from(&placed.order_id);
    assert_eq!(bad_fields(shop.cancel_units(strange).await), ["lines[0].line_id"]);
    let nothing = shop.units("u-1", &placed, &[]);
    assert_eq!(bad_fields(shop.cancel_units(nothing).await), ["lines"]);
    Ok(())
}
