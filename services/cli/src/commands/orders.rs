//! `waybill orders …`

use futures_util::StreamExt as _;
use waybill_proto::waybill::order::v1::{
    FulfillmentStatus, GetOrderResponse, HoldReason, Order, OrderStatus, PaymentStatus, ReturnStatus,
    WatchOrdersRequest,
};

use super::{changes, edit, find, history, import};
use crate::args::OrdersCommand;
use crate::output::{self, line, money, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: OrdersCommand, json: bool) -> anyhow::Result<()> {
    match command {
        OrdersCommand::Import(args) => import::run(session, &args, json).await,
        OrdersCommand::List { limit, sort, filter } => find::list(session, limit, &filter, sort, json).await,
        OrdersCommand::Search { text, limit } => find::search(session, &text, limit, json).await,
        OrdersCommand::Count { filter } => find::count(session, &filter, json).await,
        OrdersCommand::Export { cursor, filter } => find::export(session, &filter, cursor).await,
        OrdersCommand::Get(reference) => {
            let order = session.order(&reference.order).await?;
            if json {
                return output::json(&GetOrderResponse { order: Some(order) });
            }
            show(&order);
            Ok(())
        }
        OrdersCommand::Timeline(args) => history::timeline(session, args, json).await,
        OrdersCommand::Rebuild(args) => history::rebuild(session, args, json).await,
        OrdersCommand::Update(args) => changes::update(session, *args, json).await,
        OrdersCommand::Hold(args) => changes::hold(session, args, json).await,
        OrdersCommand::Release(args) => changes::release(session, args, json).await,
        OrdersCommand::Edit(args) => edit::edit(session, args, json).await,
        OrdersCommand::Cancel(args) => changes::cancel(session, args, json).await,
        OrdersCommand::Watch { from_start } => watch(session, from_start, json).await,
    }
}

/// Prints an order.
pub(super) fn show(order: &Order) {
    let totals = order.totals.clone().unwrap_or_default();
    line(format!("order {}  {}", order.number, order.order_id));
    line(format!(
        "{}, {}, {}, returns {}",
        word(
            OrderStatus::try_from(order.status)
                .unwrap_or_default()
                .as_str_name(),
            "ORDER_STATUS"
        ),
        word(
            PaymentStatus::try_from(order.payment_status)
                .unwrap_or_default()
                .as_str_name(),
            "PAYMENT_STATUS"
        ),
        word(
            FulfillmentStatus::try_from(order.fulfillment_status)
                .unwrap_or_default()
                .as_str_name(),
            "FULFILLMENT_STATUS"
        ),
        word(
            ReturnStatus::try_from(order.return_status)
                .unwrap_or_default()
                .as_str_name(),
            "RETURN_STATUS"
        ),
    ));
    for hold in order.holds.iter().filter(|hold| hold.released_at.is_none()) {
        let reason = HoldReason::try_from(hold.reason).unwrap_or_default();
        line(format!(
            "held since {} for {} {} {}",
            time(hold.held_at.as_ref()),
            word(reason.as_str_name(), "HOLD_REASON"),
            hold.hold_id,
            hold.note
        ));
    }
    line(
        table(
            &[
                "sku",
                "title",
                ">quantity",
                ">cancelled",
                ">unit price",
                ">net",
                ">total",
            ],
            order.lines.iter().map(|item| {
                [
                    item.sku.clone(),
                    item.title.clone(),
                    item.quantity.to_string(),
                    item.cancelled_quantity.to_string(),
                    money(item.unit_price.as_ref()),
                    money(item.net.as_ref()),
                    money(item.total.as_ref()),
                ]
            }),
        )
        .to_string(),
    );
    line(
        table(
            &["sum", ">amount"],
            [
                ("subtotal", totals.subtotal),
                ("discounts", totals.discounts),
                ("shipping", totals.shipping),
                ("tax", totals.tax),
                ("total", totals.total),
                ("added", order.added.clone()),
                ("cancelled", order.cancelled.clone()),
                ("to pay", order.due.clone()),
                ("captured", order.captured.clone()),
                ("refunded", order.refunded.clone()),
            ]
            .map(|(name, amount)| [name.to_owned(), money(amount.as_ref())]),
        )
        .to_string(),
    );
}

async fn watch(session: &Session, from_start: bool, json: bool) -> anyhow::Result<()> {
    let mut client = session.orders()?;
    let mut request = tonic::Request::new(WatchOrdersRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        cursor: String::new(),
        from_start,
    });
    // Watching ends when a person ends it, so the usual deadline does not apply.
    request.set_timeout(std::time::Duration::from_secs(24 * 3600));
    let mut changes = client.watch_orders(request).await?.into_inner();
    while let Some(change) = changes.next().await {
        let change = change?;
        if json {
            line(serde_json::to_string(&output::to_json(&change)?)?);
        } else {
            let name = change.r#type.rsplit('.').next().unwrap_or_default();
            line(format!(
                "{}  {}  {name}",
                time(change.occurred_at.as_ref()),
                change.order_id
            ));
        }
    }
    Ok(())
}
