//! EditOrder: what is ordered changes, what was agreed does not.

use anyhow::Result;
use prost::Message as _;
use tonic::{Code, Status};
use waybill_kernel::id::ShipmentId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_rpc::fault;

use crate::fold::{delivered, shipped, until};
use crate::harness::start;
use crate::house::House;
use crate::shop::{Shop, bad_fields, eur, order, refusal, tea};

/// 2 pots for 40.00 EUR.
pub(crate) fn pots() -> proto::NewOrderLine {
    proto::NewOrderLine {
        sku: "POT-1".into(),
        title: "Pot".into(),
        quantity: 2,
        unit_price: eur(2000),
        taxes: vec![proto::TaxLine {
            jurisdiction: "DE".into(),
            title: "USt".into(),
            rate_ppm: 190_000,
            amount: eur(639),
        }],
        ..proto::NewOrderLine::default()
    }
}

/// An edit that adds these.
pub(crate) fn adds(lines: Vec<proto::NewOrderLine>) -> proto::OrderEdit {
    proto::OrderEdit {
        add: lines,
        ..proto::OrderEdit::default()
    }
}

/// An edit that gives a line of an order another quantity.
pub(crate) fn sets(order: &proto::Order, line: usize, quantity: i32) -> proto::OrderEdit {
    proto::OrderEdit {
        quantities: vec![proto::LineQuantity {
            line_id: order.lines[line].line_id.clone(),
            quantity,
            more: None,
        }],
        ..proto::OrderEdit::default()
    }
}

impl Shop {
    /// A request to edit an order that is still as it was seen.
    pub(crate) fn edit(
        &self,
        request_id: &str,
        order: &proto::Order,
        edit: proto::OrderEdit,
    ) -> proto::EditOrderRequest {
        proto::EditOrderRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            request_id: request_id.into(),
            order_id: order.order_id.clone(),
            edit: Some(edit),
            reason: "asked by phone".into(),
            restock: None,
            etag: order.etag.clone(),
            preview_token: String::new(),
        }
    }

    /// Edits an order.
    pub(crate) async fn try_edit(
        &self,
        request: proto::EditOrderRequest,
    ) -> Result<proto::EditOrderResponse, Status> {
        Ok(self.client.clone().edit_order(request).await?.into_inner())
    }

    /// What an edit would make of an order.
    pub(crate) async fn preview(
        &self,
        order: &proto::Order,
        edit: proto::OrderEdit,
    ) -> Result<proto::PreviewOrderEditResponse, Status> {
        let request = proto::PreviewOrderEditRequest {
            merchant_id: self.merchant.to_string(),
            store_id: self.store.to_string(),
            order_id: order.order_id.clone(),
            edit: Some(edit),
        };
        Ok(self
            .client
            .clone()
            .preview_order_edit(request)
            .await?
            .into_inner())
    }
}

fn minor(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

fn names(violations: &[proto::EditViolation]) -> Vec<(&str, &str)> {
    (violations.iter())
        .map(|violation| (violation.field.as_str(), violation.reason.as_str()))
        .collect()
}

/// O-23, O-25: lines come and units go beside what was agreed, and earlier answers do not know of it.
#[tokio::test]
async fn what_is_ordered_changes_and_what_was_agreed_does_not() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    shop.capture(&placed.order_id, "pay-1", 1000).await?;
    let paid = shop.get(&placed.order_id).await?;
    let mut edit = adds(vec![pots()]);
    edit.quantities = sets(&paid, 0, 1).quantities;
    let request = shop.edit("e-1", &paid, edit);
    let answer = shop.try_edit(request.clone()).await?;
    let edited = answer.order.clone().expect("an order");
    assert_eq!((edited.version, edited.lines.len()), (3, 2));
    assert_eq!(edited.lines[0].cancelled_quantity, 1);
    assert_eq!(edited.lines[1].added_by_edit_id, answer.edit_id);
    assert_eq!(edited.totals, placed.totals, "O-2");
    assert_eq!(
        (edited.added.clone(), edited.cancelled.clone(), edited.due.clone()),
        (eur(4000), eur(500), eur(4500))
    );
    assert_eq!(edited.payment_status(), proto::PaymentStatus::PartiallyPaid);
    assert_eq!((edited.edits.len(), edited.cancellations.len()), (1, 1));
    assert_eq!(
        edited.edits[0].cancellation_id,
        edited.cancellations[0].cancellation_id
    );
    let difference = answer.difference.clone().expect("a difference");
    assert_eq!(
        (difference.due_before, difference.due_after),
        (eur(1000), eur(4500))
    );
    assert_eq!((difference.open, difference.overpaid), (eur(3500), eur(0)));

    // It is there for whoever reads, and the next edit sees it.
    assert_eq!(shop.get(&placed.order_id).await?, edited);
    assert_eq!(
        shop.capture(&placed.order_id, "pay-2", 3500).await?.due,
        eur(4500)
    );
    let now = shop.get(&placed.order_id).await?;
    assert_eq!(now.payment_status(), proto::PaymentStatus::Paid);

    // O-13: an answer of before shows what there was.
    assert_eq!(shop.try_edit(request).await?, answer);
    assert_eq!(shop.place(order("1")).await, placed);
    assert_eq!(shop.capture(&placed.order_id, "pay-1", 1000).await?, paid);

    let told: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT type, payload FROM event_log ORDER BY position")
            .fetch_all(&mut service.tables().await)
            .await?;
    assert_eq!(told[2].0, "waybill.order.v1.OrderEdited");
    let event = proto::OrderEdited::decode(told[2].1.as_slice())?;
    assert_eq!(
        (event.added_minor, event.removed_minor, event.due_minor),
        (4000, 500, 4500)
    );
    assert_eq!(event.added[0].net_minor, 4000 - 639);
    assert_eq!((event.removed[0].first_unit, event.removed[0].quantity), (2, 1));
    assert_eq!(event.cancellation_id, edited.cancellations[0].cancellation_id);
    assert!(event.restock, "unless it was said otherwise");
    assert_eq!(
        shop.timeline(&placed.order_id).await[2].summary,
        "Edited: 2 units added for 40.00 EUR, 1 unit removed for 5.00 EUR: asked by phone"
    );
    let sums: (i64, i64) = sqlx::query_as(
        "SELECT o.added_minor, (SELECT sum(total_minor)::bigint FROM order_lines WHERE added_version > 1) FROM orders o",
    )
    .fetch_one(&mut service.tables().await)
    .await?;
    assert_eq!(sums.0, sums.1);
    Ok(())
}

/// O-24: a preview changes nothing, and its token does exactly what it showed, or nothing.
#[tokio::test]
async fn a_preview_is_what_comes_true() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let mut edit = adds(vec![pots()]);
    edit.remove_line_ids = vec![placed.lines[0].line_id.clone()];
    let preview = shop.preview(&placed, edit.clone()).await?;
    assert_eq!(shop.get(&placed.order_id).await?, placed);
    assert!(preview.violations.is_empty());
    let mut request = shop.edit("e-1", &placed, edit);
    request.preview_token.clone_from(&preview.preview_token);
    assert_eq!(
        bad_fields(shop.try_edit(request.clone()).await),
        ["preview_token"]
    );
    request.etag.clear();
    let mut other = request.clone();
    other.edit = Some(sets(&placed, 0, 1));
    assert_eq!(bad_fields(shop.try_edit(other).await), ["preview_token"]);
    let mut nothing = request.clone();
    nothing.preview_token.clear();
    assert_eq!(bad_fields(shop.try_edit(nothing).await), ["etag"]);

    let answer = shop.try_edit(request.clone()).await?;
    let (seen, made) = (preview.difference.expect("one"), answer.difference.expect("one"));
    assert_eq!(
        (&seen.due_after, &seen.open, &seen.removed, &seen.removed_total),
        (&made.due_after, &made.open, &made.removed, &made.removed_total)
    );
    assert!(seen.added[0].line_id.is_empty(), "there is no such line yet");
    let (would, is) = (preview.order.expect("one"), answer.order.expect("one"));
    assert_eq!((would.version, would.due), (is.version, is.due.clone()));
    assert_eq!(would.lines.len(), is.lines.len());
    request.request_id = "e-2".into();
    assert_eq!(
        refusal(shop.try_edit(request).await),
        (Code::Aborted, "ETAG_MISMATCH".into())
    );
    Ok(())
}

/// O-25.
#[tokio::test]
async fn what_is_as_asked_makes_no_version() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let preview = shop.preview(&placed, sets(&placed, 0, 2)).await?;
    assert_eq!(preview.order, Some(placed.clone()));
    let answer = shop
        .try_edit(shop.edit("e-1", &placed, sets(&placed, 0, 2)))
        .await?;
    assert_eq!(
        (answer.edit_id.as_str(), answer.order),
        ("", Some(placed.clone()))
    );
    let difference = answer.difference.expect("one");
    assert_eq!(difference.due_before, difference.due_after);
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM event_log")
        .fetch_one(&mut service.tables().await)
        .await?;
    assert_eq!(events, 1);
    Ok(())
}

#[tokio::test]
async fn all_that_stands_in_the_way_is_named() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    let line = placed.lines[0].line_id.clone();
    let mut strange = adds(vec![proto::NewOrderLine::default()]);
    strange.remove_line_ids = vec![line.clone(), "x".into()];
    strange.quantities = vec![
        proto::LineQuantity {
            line_id: line.clone(),
            quantity: -1,
            more: None,
        },
        proto::LineQuantity {
            line_id: placed.order_id.clone(),
            quantity: 1,
            more: None,
        },
    ];
    let preview = shop.preview(&placed, strange.clone()).await?;
    assert_eq!((preview.order, preview.preview_token.as_str()), (None, ""));
    let wrong = "INVALID_REQUEST";
    let expected = [
        ("edit.add[0].unit_price", wrong),
        ("edit.remove_line_ids[1]", wrong),
        ("edit.quantities[0].quantity", wrong),
        ("edit.quantities[0].line_id", wrong),
        ("edit.add[0].sku", wrong),
        ("edit.add[0].quantity", wrong),
        ("edit.quantities[1].line_id", wrong),
    ];
    assert_eq!(names(&preview.violations), expected);
    let mut request = shop.edit("e-1", &placed, strange);
    request.reason.clear();
    let named = bad_fields(shop.try_edit(request).await);
    assert_eq!(named[0], "reason");
    assert_eq!(
        named[1..],
        expected[..4].iter().map(|(field, _)| *field).collect::<Vec<_>>()
    );

    let nothing = proto::OrderEdit::default();
    assert_eq!(
        names(&shop.preview(&placed, nothing).await?.violations),
        [("edit", wrong)]
    );
    let all = proto::OrderEdit {
        remove_line_ids: vec![line.clone()],
        ..proto::OrderEdit::default()
    };
    let blocked = [("edit", "EDIT_REFUSED")];
    assert_eq!(
        names(&shop.preview(&placed, all.clone()).await?.violations),
        blocked
    );
    let status = shop
        .try_edit(shop.edit("e-1", &placed, all))
        .await
        .expect_err("nothing is left");
    assert_eq!(
        (status.code(), fault::reason(&status).as_deref()),
        (Code::FailedPrecondition, Some("EDIT_REFUSED"))
    );
    assert!(
        status.message().contains("cancel it by CancelOrder"),
        "{}",
        status.message()
    );
    assert_eq!(fault::bad_fields(&status)[0].0, "edit");

    let cancelled = shop.cancel("c-1", &placed.order_id, "").await?;
    let ended = shop.preview(&placed, adds(vec![tea()])).await?;
    assert_eq!(names(&ended.violations), [("", "ORDER_NOT_EDITABLE")]);
    assert_eq!(
        refusal(
            shop.try_edit(shop.edit("e-2", &cancelled, adds(vec![tea()])))
                .await
        )
        .1,
        "ORDER_NOT_EDITABLE"
    );
    let mut unknown = placed.clone();
    unknown.order_id = line;
    assert_eq!(
        refusal(shop.preview(&unknown, adds(vec![tea()])).await),
        (Code::NotFound, "ORDER_NOT_FOUND".into())
    );
    Ok(())
}

/// What has shipped stays; lines that were added ship like others, and the order completes with the last of them.
#[tokio::test]
async fn an_added_line_ships_and_completes_the_order() -> Result<()> {
    let house = House::start().await?;
    let shop = house.service.shop();
    let placed = shop.place(order("1")).await;
    shop.capture(&placed.order_id, "pay-1", 1000).await?;
    let first = ShipmentId::generate();
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[shipped(&placed, first, 1)])
        .await?;
    let partly = until(&shop, &placed.order_id, "one has left", |order| {
        order.fulfillment_status() == proto::FulfillmentStatus::PartiallyFulfilled
    })
    .await;
    assert_eq!(
        names(&shop.preview(&partly, sets(&partly, 0, 0)).await?.violations),
        [("edit.quantities[0].quantity", "EDIT_REFUSED")]
    );
    let mut swap = sets(&partly, 0, 1);
    swap.add = vec![pots()];
    let edited = shop
        .try_edit(shop.edit("e-1", &partly, swap))
        .await?
        .order
        .expect("one");
    assert_eq!(
        edited.fulfillment_status(),
        proto::FulfillmentStatus::PartiallyFulfilled
    );
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[delivered(&placed, first, 1)])
        .await?;
    let mut rest = edited.clone();
    rest.lines.remove(0);
    let second = ShipmentId::generate();
    house
        .fulfillment
        .tell(&shop, &placed.order_id, &[delivered(&rest, second, 2)])
        .await?;
    until(&shop, &placed.order_id, "all has arrived", |order| {
        order.fulfillment_status() == proto::FulfillmentStatus::Delivered
    })
    .await;
    assert_eq!(minor(edited.due.as_ref()), 4500);
    let paid = shop.capture(&placed.order_id, "pay-2", 3500).await?;
    assert_eq!(paid.status(), proto::OrderStatus::Completed);
    house.stop().await;
    Ok(())
}

/// Removing what nobody paid for and nobody has yet completes an order, as CancelOrderLines does.
#[tokio::test]
async fn an_edit_can_complete_an_order() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let mut new = order("1");
    new.lines.push(proto::NewOrderLine {
        digital: true,
        ..pots()
    });
    new.totals = Some(proto::OrderTotals {
        total: eur(5000),
        ..proto::OrderTotals::default()
    });
    let placed = shop.place(new).await;
    let paid = shop.capture(&placed.order_id, "pay-1", 4500).await?;
    let preview = shop.preview(&paid, sets(&paid, 0, 0)).await?;
    let difference = preview.difference.expect("one");
    assert_eq!((difference.open, difference.overpaid), (eur(0), eur(500)));
    let done = shop.try_edit(shop.edit("e-1", &paid, sets(&paid, 0, 0))).await?;
    let done = done.order.expect("an order");
    assert_eq!(done.status(), proto::OrderStatus::Completed);
    let types: Vec<String> =
        sqlx::query_scalar("SELECT type FROM event_log WHERE aggregate_version = 3 ORDER BY position")
            .fetch_all(&mut service.tables().await)
            .await?;
    assert_eq!(
        types,
        ["waybill.order.v1.OrderEdited", "waybill.order.v1.OrderCompleted"]
    );
    Ok(())
}
