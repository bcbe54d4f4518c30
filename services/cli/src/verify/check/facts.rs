//! The facts of analytics, against a replay of all logs from their first event, written for this purpose alone.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, SubsecRound as _, Utc};
use prost::Message;
use uuid::Uuid;
use waybill_proto::waybill::fulfillment::v1::{ShipmentDelivered, ShipmentShipped};
use waybill_proto::waybill::notification::v1::{
    NotificationFailed, NotificationSent, NotificationSuppressed,
};
use waybill_proto::waybill::order::v1::OrderPlaced;
use waybill_proto::waybill::refund::v1::{
    RefundCreated, RefundFailed, RefundSucceeded, ReturnCompleted, ReturnRequested,
};

use super::Evidence;
use super::log::Entry;

type Time = Option<DateTime<Utc>>;

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct OrderFact {
    order_id: Uuid,
    currency_code: String,
    placed_at: DateTime<Utc>,
    units: i64,
    gross_minor: i64,
    net_minor: i64,
    discounts_minor: i64,
    tax_minor: i64,
    shipping_minor: i64,
    cancelled_at: Time,
    completed_at: Time,
    shipped_at: Time,
    delivered_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct RefundFact {
    refund_id: Uuid,
    order_id: Uuid,
    amount_minor: i64,
    reason: String,
    succeeded_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct ReturnFact {
    return_id: Uuid,
    order_id: Uuid,
    completed_at: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct NotificationFact {
    notification_id: Uuid,
    order_id: Uuid,
    stage: String,
    outcome: String,
}

#[derive(Default)]
struct Replay {
    orders: BTreeMap<Uuid, OrderFact>,
    refunds: BTreeMap<Uuid, RefundFact>,
    returns: BTreeMap<Uuid, ReturnFact>,
    notifications: BTreeMap<Uuid, NotificationFact>,
}

/// Compares the tables with the replay, row by row.
pub async fn equal_replay(of: &Evidence) -> anyhow::Result<String> {
    let mut replay = Replay::default();
    // Each log in its order; orders come first because everything else is about one.
    for service in ["order", "fulfillment", "refund", "notification"] {
        for entry in of.logs.of(service) {
            replay
                .take(entry)
                .with_context(|| format!("{} {} of {service}", entry.type_name, entry.event_id))?;
        }
    }
    let orders: Vec<OrderFact> = sqlx::query_as(
        "SELECT order_id, currency_code, placed_at, units, gross_minor, net_minor, discounts_minor, tax_minor,
                shipping_minor, cancelled_at, completed_at, shipped_at, delivered_at
         FROM analytics.order_facts",
    )
    .fetch_all(&of.db)
    .await?;
    same(
        "order",
        orders.into_iter().map(|fact| (fact.order_id, fact)),
        &replay.orders,
    )?;
    let refunds: Vec<RefundFact> = sqlx::query_as(
        "SELECT refund_id, order_id, amount_minor, reason, succeeded_at FROM analytics.refund_facts",
    )
    .fetch_all(&of.db)
    .await?;
    same(
        "refund",
        refunds.into_iter().map(|fact| (fact.refund_id, fact)),
        &replay.refunds,
    )?;
    let returns: Vec<ReturnFact> =
        sqlx::query_as("SELECT return_id, order_id, completed_at FROM analytics.return_facts")
            .fetch_all(&of.db)
            .await?;
    same(
        "return",
        returns.into_iter().map(|fact| (fact.return_id, fact)),
        &replay.returns,
    )?;
    let notifications: Vec<NotificationFact> =
        sqlx::query_as("SELECT notification_id, order_id, stage, outcome FROM analytics.notification_facts")
            .fetch_all(&of.db)
            .await?;
    same(
        "notification",
        notifications.into_iter().map(|fact| (fact.notification_id, fact)),
        &replay.notifications,
    )?;
    let sold: i64 = replay.orders.values().map(|fact| fact.gross_minor).sum();
    let back: i64 = replay.refunds.values().map(|fact| fact.amount_minor).sum();
    Ok(format!(
        "{} orders, {sold} minor units sold, {back} paid back, {} messages",
        replay.orders.len(),
        replay.notifications.len()
    ))
}

fn same<T: std::fmt::Debug + PartialEq>(
    kind: &str,
    found: impl Iterator<Item = (Uuid, T)>,
    expected: &BTreeMap<Uuid, T>,
) -> anyhow::Result<()> {
    let found: BTreeMap<Uuid, T> = found.collect();
    for (id, fact) in expected {
        ensure!(
            found.get(id) == Some(fact),
            "the fact of {kind} {id} is {:?}, the logs say {fact:?}",
            found.get(id)
        );
    }
    ensure!(
        found.len() == expected.len(),
        "{} facts of {kind}s, the logs tell of {}",
        found.len(),
        expected.len()
    );
    Ok(())
}

fn decode<M: Message + Default>(entry: &Entry) -> anyhow::Result<M> {
    Ok(M::decode(entry.payload.as_slice())?)
}

/// As Postgres keeps it: to the microsecond.
fn time(given: Option<prost_types::Timestamp>, otherwise: DateTime<Utc>) -> DateTime<Utc> {
    given
        .and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?))
        .unwrap_or(otherwise)
        .round_subsecs(6)
}

impl Replay {
    fn take(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let at = entry.occurred_at;
        match entry.type_name.as_str() {
            "waybill.order.v1.OrderPlaced" => {
                let placed: OrderPlaced = decode(entry)?;
                let fact = OrderFact {
                    order_id: entry.key,
                    placed_at: time(placed.placed_at, at),
                    units: placed.lines.iter().map(|line| i64::from(line.quantity)).sum(),
                    net_minor: placed.lines.iter().map(|line| line.net_minor).sum(),
                    currency_code: placed.currency_code,
                    gross_minor: placed.total_minor,
                    discounts_minor: placed.discounts_minor,
                    tax_minor: placed.tax_minor,
                    shipping_minor: placed.shipping_minor,
                    cancelled_at: None,
                    completed_at: None,
                    shipped_at: None,
                    delivered_at: None,
                };
                self.orders.insert(entry.key, fact);
            }
            "waybill.order.v1.OrderCancelled" => self.order(entry)?.cancelled_at = Some(at),
            "waybill.order.v1.OrderCompleted" => self.order(entry)?.completed_at = Some(at),
            "waybill.fulfillment.v1.ShipmentShipped" => {
                let shipped = time(decode::<ShipmentShipped>(entry)?.shipped_at, at);
                let order = self.order(entry)?;
                order.shipped_at = Some(order.shipped_at.map_or(shipped, |before| before.min(shipped)));
            }
            "waybill.fulfillment.v1.ShipmentDelivered" => {
                let told: ShipmentDelivered = decode(entry)?;
                if told.order_fully_delivered {
                    let arrived = time(told.delivered_at, at);
                    let order = self.order(entry)?;
                    order.delivered_at =
                        Some(order.delivered_at.map_or(arrived, |before| before.max(arrived)));
                }
            }
            "waybill.refund.v1.RefundCreated" => {
                let told: RefundCreated = decode(entry)?;
                let fact = RefundFact {
                    refund_id: told.refund_id.parse()?,
                    order_id: entry.key,
                    amount_minor: told.amount_minor,
                    reason: told.reason,
                    succeeded_at: None,
                };
                self.refunds.insert(fact.refund_id, fact);
            }
            "waybill.refund.v1.RefundSucceeded" => {
                let told: RefundSucceeded = decode(entry)?;
                self.refund(&told.refund_id)?.succeeded_at = Some(time(told.succeeded_at, at));
            }
            "waybill.refund.v1.RefundFailed" => {
                let told: RefundFailed = decode(entry)?;
                self.refund(&told.refund_id)?.succeeded_at = None;
            }
            "waybill.refund.v1.ReturnRequested" => {
                let return_id = decode::<ReturnRequested>(entry)?.return_id.parse()?;
                let fact = ReturnFact {
                    return_id,
                    order_id: entry.key,
                    completed_at: None,
                };
                self.returns.insert(return_id, fact);
            }
            "waybill.refund.v1.ReturnCompleted" => {
                let return_id = decode::<ReturnCompleted>(entry)?.return_id.parse()?;
                let fact = self
                    .returns
                    .get_mut(&return_id)
                    .context("a return nobody requested")?;
                fact.completed_at = Some(at);
            }
            "waybill.notification.v1.NotificationSent" => {
                let told: NotificationSent = decode(entry)?;
                self.notify(entry, &told.notification_id, told.stage, "sent")?;
            }
            "waybill.notification.v1.NotificationSuppressed" => {
                let told: NotificationSuppressed = decode(entry)?;
                self.notify(entry, &told.notification_id, told.stage, "suppressed")?;
            }
            "waybill.notification.v1.NotificationFailed" => {
                let told: NotificationFailed = decode(entry)?;
                self.notify(entry, &told.notification_id, told.stage, "failed")?;
            }
            _ => {}
        }
        Ok(())
    }

    fn order(&mut self, entry: &Entry) -> anyhow::Result<&mut OrderFact> {
        self.orders.get_mut(&entry.key).context("an order nobody placed")
    }

    fn refund(&mut self, id: &str) -> anyhow::Result<&mut RefundFact> {
        self.refunds
            .get_mut(&id.parse()?)
            .context("a refund nobody asked for")
    }

    fn notify(&mut self, entry: &Entry, id: &str, stage: String, outcome: &str) -> anyhow::Result<()> {
        let notification_id = id.parse()?;
        let fact = NotificationFact {
            notification_id,
            order_id: entry.key,
            stage,
            outcome: outcome.to_owned(),
        };
        self.notifications.insert(notification_id, fact);
        Ok(())
    }
}
