//! What must hold of an order when its story has ended, whoever is asked.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use waybill_e2e::orders::{EMAIL, minor};
use waybill_e2e::shop::{Shop, total_of};
use waybill_e2e::wait;
use waybill_proto::waybill::analytics::v1::GetSummaryRequest;
use waybill_proto::waybill::notification::v1::{NotificationState, Stage};
use waybill_proto::waybill::order::v1::{FulfillmentStatus, Order, OrderStatus, PaymentStatus, ReturnStatus};
use waybill_proto::waybill::refund::v1::{GetTrialBalanceRequest, ListJournalEntriesRequest};

/// The four facets of an order are these.
pub fn facets(
    order: &Order,
    (status, payment): (OrderStatus, PaymentStatus),
    goods: FulfillmentStatus,
    returns: ReturnStatus,
) {
    let found = (
        order.status(),
        order.payment_status(),
        order.fulfillment_status(),
        order.return_status(),
    );
    assert_eq!(found, (status, payment, goods, returns), "order {}", order.number);
}

/// What must have happened to an order, besides that it was placed, paid, and given stock.
#[derive(Clone, Copy)]
pub struct Journey {
    facts: &'static [(&'static str, usize)],
    stages: &'static [Stage],
}

/// It arrived, and something of it came back.
pub const RETURNED: Journey = Journey {
    facts: &[
        ("waybill.fulfillment.v1.ShipmentShipped", 1),
        ("waybill.fulfillment.v1.ShipmentDelivered", 1),
        ("waybill.order.v1.OrderCompleted", 1),
        ("waybill.refund.v1.ReturnRequested", 1),
        ("waybill.refund.v1.ReturnApproved", 1),
        ("waybill.refund.v1.ReturnReceived", 1),
        ("waybill.refund.v1.ReturnCompleted", 1),
    ],
    stages: &[
        Stage::OrderConfirmed,
        Stage::Shipped,
        Stage::InTransit,
        Stage::OutForDelivery,
        Stage::Delivered,
        Stage::Feedback,
        Stage::ReturnRequested,
        Stage::ReturnApproved,
        Stage::ReturnReceived,
        Stage::RefundStarted,
        Stage::RefundSucceeded,
    ],
};

/// It was cancelled before anything shipped.
pub const CANCELLED: Journey = Journey {
    facts: &[
        ("waybill.order.v1.OrderCancelled", 1),
        ("waybill.fulfillment.v1.ReservationReleased", 1),
    ],
    stages: &[
        Stage::OrderConfirmed,
        Stage::OrderCancelled,
        Stage::RefundStarted,
        Stage::RefundSucceeded,
    ],
};

/// Every stage was mailed once, and the timeline tells every fact once.
pub async fn told(shop: &Shop, order: &Order, journey: Journey) -> anyhow::Result<()> {
    let sent = wait::until("its mails", || async {
        let all = shop.notifications(&order.order_id).await?;
        let open = all.iter().any(|one| {
            matches!(
                one.state(),
                NotificationState::Scheduled | NotificationState::Sending
            )
        });
        Ok((!open && all.len() >= journey.stages.len()).then_some(all))
    })
    .await?;
    let mails = shop.stack.mails().messages();
    for stage in journey.stages {
        let of_stage: Vec<_> = sent.iter().filter(|one| one.stage() == *stage).collect();
        ensure!(of_stage.len() == 1, "{} messages of {stage:?}", of_stage.len());
        ensure!(
            of_stage[0].state() == NotificationState::Sent,
            "{stage:?} is {:?}: {}",
            of_stage[0].state(),
            of_stage[0].reason
        );
        let id = of_stage[0].message_id.trim_matches(['<', '>']);
        let copies: Vec<_> = mails
            .iter()
            .filter(|mail| mail.message_id.trim_matches(['<', '>']) == id)
            .collect();
        ensure!(copies.len() == 1, "{} mails of {stage:?}", copies.len());
        let mail = copies[0];
        ensure!(mail.to == [EMAIL], "{stage:?} went to {:?}", mail.to);
        ensure!(
            mail.subject.contains(&order.number),
            "{stage:?}: {:?} does not name the order",
            mail.subject
        );
        ensure!(
            !mail.text.is_empty() && mail.html.contains("<html"),
            "{stage:?} has only one form"
        );
        ensure!(
            mail.text.contains("help@harbour.example"),
            "{stage:?} does not say whom to ask"
        );
    }
    ensure!(
        sent.len() == journey.stages.len(),
        "{} messages, expected {}",
        sent.len(),
        journey.stages.len()
    );

    let mut expected: BTreeMap<String, usize> = journey
        .facts
        .iter()
        .chain(&[
            ("waybill.order.v1.OrderPlaced", 1),
            ("waybill.order.v1.PaymentRecorded", 1),
            ("waybill.fulfillment.v1.OrderAllocated", 1),
            ("waybill.refund.v1.RefundCreated", 1),
            ("waybill.refund.v1.RefundStarted", 1),
            ("waybill.refund.v1.RefundSucceeded", 1),
        ])
        .map(|(fact, count)| ((*fact).to_owned(), *count))
        .collect();
    expected.insert(
        "waybill.notification.v1.NotificationSent".to_owned(),
        journey.stages.len(),
    );
    let changed = "waybill.fulfillment.v1.ShipmentStatusChanged".to_owned();
    if journey.stages.contains(&Stage::InTransit) {
        // In transit and out for delivery; the first order was also announced to the carrier.
        expected.insert(changed, if order.number == "L1" { 3 } else { 2 });
    }
    let found = wait::until("its timeline", || async {
        let found = shop.facts(&order.order_id).await?;
        Ok((found.values().sum::<usize>() >= expected.values().sum()).then_some(found))
    });
    let found = found.await?;
    ensure!(
        found == expected,
        "the timeline holds {found:#?}, expected {expected:#?}"
    );
    Ok(())
}

/// Each entry of the order's books balances, and the clearing account holds what was captured less what went back.
pub async fn booked(shop: &Shop, order: &Order) -> anyhow::Result<()> {
    let request = ListJournalEntriesRequest {
        merchant_id: shop.session.merchant_id.clone(),
        store_id: shop.session.store_id.clone(),
        page_size: 500,
        order_id: order.order_id.clone(),
        ..ListJournalEntriesRequest::default()
    };
    let entries = shop
        .session
        .refunds()?
        .list_journal_entries(request)
        .await?
        .into_inner()
        .entries;
    let mut accounts: BTreeMap<&str, i64> = BTreeMap::new();
    for entry in &entries {
        let sum: i64 = entry.lines.iter().map(|line| minor(line.amount.as_ref())).sum();
        ensure!(sum == 0, "the entry {} is off by {sum}", entry.kind);
        for line in &entry.lines {
            *accounts.entry(&line.account).or_default() += minor(line.amount.as_ref());
        }
    }
    ensure!(
        entries.len() >= 4,
        "sale, capture, accrual and payment make 4 entries, there are {}",
        entries.len()
    );
    let clearing = accounts.get("clearing:stripe").copied().unwrap_or_default();
    let kept = minor(order.captured.as_ref()) - minor(order.refunded.as_ref());
    ensure!(
        clearing == kept,
        "clearing holds {clearing}, captured less refunded is {kept}: {accounts:?}"
    );
    for settled in ["receivable", "refunds_payable"] {
        let left = accounts.get(settled).copied().unwrap_or_default();
        ensure!(left == 0, "{settled} still holds {left}: {accounts:?}");
    }
    Ok(())
}

/// The books of the merchant balance.
pub async fn balanced(shop: &Shop) -> anyhow::Result<()> {
    let request = GetTrialBalanceRequest {
        merchant_id: shop.session.merchant_id.clone(),
    };
    let balance = shop
        .session
        .refunds()?
        .get_trial_balance(request)
        .await?
        .into_inner();
    ensure!(
        balance.balanced && !balance.accounts.is_empty(),
        "{:?}",
        balance.accounts
    );
    Ok(())
}

/// Analytics say what the orders say: per currency orders, units, sales and refunds.
pub async fn counted(shop: &Shop, orders: &[(&Order, i64, i64)]) -> anyhow::Result<()> {
    for (order, units, refunded) in orders {
        wait::until("the figures", || async {
            let request = GetSummaryRequest {
                merchant_id: shop.session.merchant_id.clone(),
                store_id: shop.session.store_id.clone(),
                period: None,
            };
            let answer = shop.session.analytics()?.get_summary(request).await?.into_inner();
            let of = answer
                .currencies
                .into_iter()
                .find(|of| of.currency_code == order.currency_code);
            let (sales, refunds) = of
                .map(|of| (of.orders.unwrap_or_default(), of.refunds.unwrap_or_default()))
                .unzip();
            let (sales, refunds) = (sales.unwrap_or_default(), refunds.unwrap_or_default());
            let cancelled = i64::from(order.status() == OrderStatus::Cancelled);
            let found = (
                sales.orders,
                sales.units,
                sales.cancelled_orders,
                minor(sales.gross_sales.as_ref()),
            );
            let back = (refunds.refunds, minor(refunds.refunded.as_ref()));
            Ok((found == (1, *units, cancelled, total_of(order)) && back == (1, *refunded)).then_some(()))
        })
        .await
        .with_context(|| format!("of order {}", order.number))?;
    }
    Ok(())
}
