//! Asking the owners for what a message says: the order, the shipment, the return, the refund.
//!
//! Names and addresses are read at the moment of sending and dropped afterwards; events carry none, and nothing of it is
//! stored here.

use chrono::DateTime;
use chrono_tz::Tz;
use tonic::{Code, Status};
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::fulfillment::v1::GetShipmentRequest;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::order::v1::{GetOrderRequest, Order, OrderLine, get_order_request};
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_proto::waybill::refund::v1::{GetRefundRequest, GetReturnRequest};
use waybill_proto::waybill::r#type::v1::Money as ProtoMoney;
use waybill_rpc::client::Channel;

use crate::domain::brand::Brand;
use crate::domain::message::{Facts, LineFacts, OrderFacts, RefundFacts, ReturnFacts, ShipmentFacts};
use crate::domain::notification::Notification;
use crate::domain::stage::Subject;

/// What a message says, and to whom.
pub struct Addressed {
    /// The customer's e-mail address; empty when none is known.
    pub email: String,
    /// The customer's language; empty when none is known.
    pub locale: String,
    /// What it says.
    pub facts: Facts,
    /// Whether the customer was erased: nothing more is sent.
    pub erased: bool,
}

/// Why an owner did not say what was asked. The status of a peer may name what it was asked for: only its code is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// There is no such order, shipment, return or refund.
    #[error("an owner does not know what the message is about")]
    NotFound,
    /// The owner could not, or would not, answer.
    #[error("an owner could not be asked: {0:?}")]
    Unanswered(Code),
    /// The answer lacks what was asked for.
    #[error("an owner answered without the {0}")]
    Incomplete(&'static str),
}

impl From<Status> for OwnerError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => OwnerError::NotFound,
            code => OwnerError::Unanswered(code),
        }
    }
}

/// Clients of the services that own what messages say.
#[derive(Clone)]
pub struct Owners {
    /// Owner of orders.
    pub orders: OrderServiceClient<Channel>,
    /// Owner of shipments.
    pub fulfillment: FulfillmentServiceClient<Channel>,
    /// Owner of returns and refunds.
    pub refunds: RefundServiceClient<Channel>,
}

impl Owners {
    /// Asks for everything a notification says. The order and its subject are asked for at once.
    pub async fn facts(&self, notification: &Notification, brand: &Brand) -> Result<Addressed, OwnerError> {
        let zone: Tz = brand.time_zone.parse().unwrap_or(Tz::UTC);
        let subject = notification.stage.subject();
        let (order, shipment, returned, refund) = tokio::try_join!(
            self.order(notification),
            self.shipment(notification, subject, zone),
            self.returned(notification, subject),
            self.refund(notification, subject, zone),
        )?;
        let mut facts = Facts {
            brand: brand.into(),
            shipment,
            returned,
            refund,
            order: order_facts(&order, zone),
        };
        name_lines(&mut facts, &order);
        let customer = order.customer.unwrap_or_default();
        Ok(Addressed {
            email: customer.email,
            locale: order.locale,
            facts,
            erased: order.contact_erased,
        })
    }

    async fn order(&self, notification: &Notification) -> Result<Order, OwnerError> {
        let request = GetOrderRequest {
            merchant_id: notification.merchant.to_string(),
            store_id: notification.store.to_string(),
            key: Some(get_order_request::Key::OrderId(notification.order.to_string())),
        };
        let answer = self.orders.clone().get_order(request).await?.into_inner();
        answer.order.ok_or_else(|| missing("order"))
    }

    async fn shipment(
        &self,
        notification: &Notification,
        subject: Subject,
        zone: Tz,
    ) -> Result<Option<ShipmentFacts>, OwnerError> {
        if subject != Subject::Shipment {
            return Ok(None);
        }
        let request = GetShipmentRequest {
            merchant_id: notification.merchant.to_string(),
            store_id: notification.store.to_string(),
            shipment_id: notification.subject.to_string(),
        };
        let answer = self.fulfillment.clone().get_shipment(request).await?.into_inner();
        let shipment = answer.shipment.ok_or_else(|| missing("shipment"))?;
        Ok(Some(ShipmentFacts {
            carrier: title_case(&shipment.carrier),
            tracking_number: shipment.tracking_number,
            tracking_url: shipment.tracking_url,
            lines: shipment
                .lines
                .into_iter()
                .map(|line| LineFacts {
                    title: line.line_id,
                    quantity: line.quantity,
                    total: String::new(),
                })
                .collect(),
            delivered_date: date(shipment.delivered_at, zone),
            last_word: shipment
                .tracking_events
                .into_iter()
                .last()
                .map(|scan| scan.description)
                .unwrap_or_default(),
        }))
    }

    async fn returned(
        &self,
        notification: &Notification,
        subject: Subject,
    ) -> Result<Option<ReturnFacts>, OwnerError> {
        if subject != Subject::Return {
            return Ok(None);
        }
        let request = GetReturnRequest {
            merchant_id: notification.merchant.to_string(),
            store_id: notification.store.to_string(),
            return_id: notification.subject.to_string(),
        };
        let answer = self.refunds.clone().get_return(request).await?.into_inner();
        let returned = answer.r#return.ok_or_else(|| missing("return"))?;
        Ok(Some(ReturnFacts {
            lines: returned
                .lines
                .into_iter()
                .map(|line| LineFacts {
                    title: line.line_id,
                    quantity: line.quantity,
                    total: String::new(),
                })
                .collect(),
            total: money(returned.quote.and_then(|quote| quote.total).as_ref()),
            decline_reason: returned.decline_reason,
        }))
    }

    async fn refund(
        &self,
        notification: &Notification,
        subject: Subject,
        zone: Tz,
    ) -> Result<Option<RefundFacts>, OwnerError> {
        if subject != Subject::Refund {
            return Ok(None);
        }
        let request = GetRefundRequest {
            merchant_id: notification.merchant.to_string(),
            store_id: notification.store.to_string(),
            refund_id: notification.subject.to_string(),
        };
        let answer = self.refunds.clone().get_refund(request).await?.into_inner();
        let refund = answer.refund.ok_or_else(|| missing("refund"))?;
        let mut methods: Vec<String> = refund.legs.iter().map(|leg| title_case(&leg.provider)).collect();
        methods.dedup();
        Ok(Some(RefundFacts {
            amount: money(refund.amount.as_ref()),
            expected_date: date(refund.expected_at, zone),
            method: methods.join(", "),
        }))
    }
}

/// An answer without what was asked for.
fn missing(what: &'static str) -> OwnerError {
    OwnerError::Incomplete(what)
}

/// Shipments and returns name their lines by id; the order knows what customers call them.
fn name_lines(facts: &mut Facts, order: &Order) {
    let shipped = facts.shipment.iter_mut().flat_map(|shipment| &mut shipment.lines);
    let returned = facts.returned.iter_mut().flat_map(|returned| &mut returned.lines);
    for item in shipped.chain(returned) {
        if let Some(line) = order.lines.iter().find(|line| line.line_id == item.title) {
            item.title.clone_from(&line.title);
        }
    }
}

fn order_facts(order: &Order, zone: Tz) -> OrderFacts {
    let totals = order.totals.clone().unwrap_or_default();
    let unless_zero = |amount: Option<&ProtoMoney>| match amount {
        Some(amount) if amount.minor_units != 0 => money(Some(amount)),
        _ => String::new(),
    };
    OrderFacts {
        number: order.number.clone(),
        customer_name: order
            .customer
            .as_ref()
            .map(|customer| customer.name.clone())
            .unwrap_or_default(),
        lines: order
            .lines
            .iter()
            .filter(|line| line.added_by_edit_id.is_empty())
            .map(|line| LineFacts {
                title: line.title.clone(),
                quantity: line.quantity,
                total: gross(line.unit_price.as_ref(), line.quantity),
            })
            .collect(),
        lines_now: order.lines.iter().filter_map(left_of).collect(),
        due: money(order.due.as_ref()),
        subtotal: money(totals.subtotal.as_ref()),
        discounts: unless_zero(totals.discounts.as_ref()),
        shipping: unless_zero(totals.shipping.as_ref()),
        tax: money(totals.tax.as_ref()),
        tax_included: order.prices_include_tax,
        total: money(totals.total.as_ref()),
        estimated_ship_date: date(order.promised_ship_at, zone),
        estimated_delivery_date: date(order.promised_delivery_at, zone),
        cancel_reason: order.cancel_reason.clone(),
    }
}

/// A line without its cancelled units; nothing when none are left.
fn left_of(line: &OrderLine) -> Option<LineFacts> {
    let quantity = line.quantity - line.cancelled_quantity;
    (quantity > 0).then(|| LineFacts {
        title: line.title.clone(),
        quantity,
        total: String::new(),
    })
}

/// What a line costs before discounts, so that lines add up to the subtotal below them.
fn gross(unit_price: Option<&ProtoMoney>, quantity: i32) -> String {
    unit_price
        .map(|price| ProtoMoney {
            minor_units: price.minor_units.saturating_mul(i64::from(quantity)),
            currency_code: price.currency_code.clone(),
        })
        .as_ref()
        .map(|amount| money(Some(amount)))
        .unwrap_or_default()
}

fn money(amount: Option<&ProtoMoney>) -> String {
    let Some(amount) = amount else {
        return String::new();
    };
    Currency::parse(&amount.currency_code)
        .map(|currency| Money::new(currency, amount.minor_units).to_string())
        .unwrap_or_default()
}

/// A day for people, e.g. "Friday, 6 November 2026"; empty when there is none.
fn date(time: Option<prost_types::Timestamp>, zone: Tz) -> String {
    time.and_then(|time| DateTime::from_timestamp(time.seconds, 0))
        .map(|time| time.with_timezone(&zone).format("%A, %-d %B %Y").to_string())
        .unwrap_or_default()
}

/// "royal-mail" as people write it: "Royal Mail".
fn title_case(key: &str) -> String {
    key.split(['-', '_'])
        .filter_map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_uppercase().chain(letters).collect::<String>())
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_days_are_written_for_people() {
        assert_eq!(title_case("royal-mail"), "Royal Mail");
        let noon = prost_types::Timestamp {
            seconds: 1_793_966_400,
            nanos: 0,
        };
        assert_eq!(date(Some(noon), Tz::UTC), "Friday, 6 November 2026");
        assert_eq!(date(None, Tz::UTC), "");
    }
}
