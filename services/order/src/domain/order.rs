//! An order: terms frozen at placement, personal data apart, payments, and the state that changes.
//!
//! Amounts are minor units of the order's one currency. The types with serde are stored as JSON inside a row: fields may
//! be added with a default, never renamed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::{LineId, MerchantId, OrderId, PaymentId, StoreId};
use waybill_kernel::money::{Currency, Money};

use super::attempt::Attempt;
use super::cancellation::Cancellation;
use super::edit::Edited;
use super::hold::Hold;
use super::payment::PaymentKind;
use super::state::State;

/// Whose an order is. In every key and in every query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant {
    /// The retailer.
    pub merchant: MerchantId,
    /// The brand or sales channel.
    pub store: StoreId,
}

/// Where an order came from; recognises it when it is handed in again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The system: "api", "shopify", "csv" …
    pub system: String,
    /// The order's id there.
    pub external_id: String,
}

/// A reduction of price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discount<Amount = i64> {
    /// The code the customer entered or the promotion's key.
    pub code: String,
    /// What the customer is told.
    pub title: String,
    /// How much is taken off.
    pub amount: Amount,
}

/// Tax of one jurisdiction on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaxLine<Amount = i64> {
    /// Who levies it.
    pub jurisdiction: String,
    /// Name on the invoice.
    pub title: String,
    /// Rate in parts per million.
    pub rate_ppm: i32,
    /// The tax on the whole line.
    pub amount: Amount,
}

/// Goods as they were frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Id of the line.
    pub id: LineId,
    /// Stock keeping unit.
    pub sku: String,
    /// Title for people.
    pub title: String,
    /// Units.
    pub quantity: i32,
    /// Price of one unit before discounts.
    pub unit_price: i64,
    /// Category.
    pub category: String,
    /// Sold without a right of return.
    pub final_sale: bool,
    /// Nothing is shipped.
    pub digital: bool,
    /// What else is known.
    pub attributes: BTreeMap<String, String>,
    /// The line's own discounts.
    pub discounts: Vec<Discount>,
    /// The line's share of the order's discounts.
    pub order_discount_share: i64,
    /// Taxes.
    pub taxes: Vec<TaxLine>,
    /// What the line costs without tax after all discounts.
    pub net: i64,
    /// What the customer pays for the line.
    pub total: i64,
    /// The order's version that it came with: [`PLACED`], or that of the edit that added it.
    pub added_version: i64,
    /// Units of it that have shipped. No term: it is as it is now.
    pub shipped: i32,
}

/// The version of an order that was just placed.
pub const PLACED: i64 = 1;

/// Shipping as it was frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippingLine {
    /// Id of the line.
    pub id: LineId,
    /// Title for people.
    pub title: String,
    /// Price before discounts.
    pub price: i64,
    /// Discounts on it.
    pub discounts: Vec<Discount>,
    /// Taxes on it.
    pub taxes: Vec<TaxLine>,
    /// What it costs without tax after discounts.
    pub net: i64,
    /// What the customer pays for it.
    pub total: i64,
}

/// The sums of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Quantity times unit price of all lines.
    pub subtotal: i64,
    /// All discounts, of lines, shipping and order.
    pub discounts: i64,
    /// Shipping prices before discounts.
    pub shipping: i64,
    /// All taxes, of lines and shipping.
    pub tax: i64,
    /// What the customer pays.
    pub total: i64,
}

/// The terms of an order. They never change after placement; edits add lines beside those that were agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The number the customer knows. Empty until the store has assigned one.
    pub number: String,
    /// Where it came from.
    pub source: Source,
    /// What all amounts are in.
    pub currency: Currency,
    /// Whether prices and discounts contain tax.
    pub prices_include_tax: bool,
    /// The goods: those of the placement, then those that edits added.
    pub lines: Vec<Line>,
    /// Shipping.
    pub shipping: Vec<ShippingLine>,
    /// Discounts on the order as a whole.
    pub discounts: Vec<Discount>,
    /// The sums, as they were at placement.
    pub totals: Totals,
    /// BCP 47 language of the customer; may be empty.
    pub locale: String,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// When it was promised to ship.
    pub promised_ship_at: DateTime<Utc>,
    /// When it was promised to arrive, if it was.
    pub promised_delivery_at: Option<DateTime<Utc>>,
    /// The total in the currency the customer saw, where that was another one.
    pub presentment: Option<Money>,
    /// All sums in the currency the customer saw, where they were given.
    pub presentment_totals: Option<Totals>,
    /// Free tags. They and the lines' attributes are no terms: they may change.
    pub tags: Vec<String>,
}

impl Terms {
    /// Units that need shipping, of the lines that the order had at a version.
    #[must_use]
    pub fn units_to_ship(&self, version: i64) -> i64 {
        (self.lines.iter())
            .filter(|line| !line.digital && line.added_version <= version)
            .map(|line| i64::from(line.quantity))
            .sum()
    }
}

/// Who ordered. Personal data: never in an event, a log line or a trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Customer {
    /// Id in the merchant's system; empty for guests.
    pub external_id: String,
    /// E-mail address; may be empty.
    pub email: String,
    /// Name as the customer writes it.
    pub name: String,
    /// Phone number.
    pub phone: String,
}

/// A postal address. Personal data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Recipient.
    pub name: String,
    /// Company.
    pub company: String,
    /// Street lines.
    pub lines: Vec<String>,
    /// City or town.
    pub city: String,
    /// Province, state or county.
    pub region: String,
    /// Postal code.
    pub postal_code: String,
    /// ISO 3166-1 alpha-2.
    pub country_code: String,
    /// Phone number for the carrier.
    pub phone: String,
}

/// All personal data of an order, kept apart from its terms: forgetting a person is deleting this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contact {
    /// Who ordered.
    pub customer: Customer,
    /// Where the goods go.
    pub shipping: Option<Address>,
    /// Where the invoice goes; to the shipping address when not set.
    pub billing: Option<Address>,
    /// What the merchant noted; it may name people.
    pub note: String,
}

impl Contact {
    /// What tells this customer from the merchant's others: the e-mail address in lower case, or the id in the
    /// merchant's system; nothing for a guest without both.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        let Customer {
            email, external_id, ..
        } = &self.customer;
        match (email.as_str(), external_id.as_str()) {
            ("", "") => None,
            ("", id) => Some(format!("id:{id}")),
            (email, _) => Some(format!("email:{}", email.to_lowercase())),
        }
    }
}

/// Something a payment provider did for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Id of the payment.
    pub id: PaymentId,
    /// What happened.
    pub kind: PaymentKind,
    /// The provider.
    pub provider: String,
    /// The provider's id of the payment.
    pub provider_payment_id: String,
    /// How much.
    pub amount: i64,
    /// When it happened at the provider.
    pub occurred_at: DateTime<Utc>,
    /// Why it failed, or is disputed: the provider's reason as a key; may be empty.
    pub reason: String,
    /// The provider's id of the dispute; empty for all else.
    pub dispute_id: String,
    /// The attempt that it came of; none when it was told from outside.
    pub attempt: Option<PaymentId>,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What was agreed.
    pub terms: Terms,
    /// Personal data; nothing once it was erased.
    pub contact: Option<Contact>,
    /// What else is known of the order as a whole.
    pub attributes: BTreeMap<String, String>,
    /// Payments in the order they were recorded.
    pub payments: Vec<Payment>,
    /// Holds, oldest first, the ended ones included.
    pub holds: Vec<Hold>,
    /// Cancelled units, oldest first.
    pub cancellations: Vec<Cancellation>,
    /// Edits, oldest first.
    pub edits: Vec<Edited>,
    /// What providers are asked for, oldest first.
    pub attempts: Vec<Attempt>,
    /// Where it stands.
    pub state: State,
}

impl Order {
    /// The order as it was in an earlier state: the terms are the same for ever, payments, holds, cancelled units, edits and
    /// their lines are those that the state had seen. An answer that was given once can so be given again, without keeping
    /// personal data in it. What is no term and no state (contact, note, tags, attributes, how far attempts are) is as it is now.
    #[must_use]
    pub fn at(mut self, state: State) -> Order {
        self.payments.truncate(state.payments as usize);
        self.holds = (self.holds.into_iter())
            .filter_map(|hold| hold.at(state.version))
            .collect();
        self.cancellations
            .retain(|cancellation| cancellation.version <= state.version);
        self.edits.retain(|edit| edit.version <= state.version);
        (self.terms.lines).retain(|line| line.added_version <= state.version);
        self.attempts
            .retain(|attempt| attempt.order_version <= state.version);
        self.state = state;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(email: &str, external_id: &str) -> Contact {
        Contact {
            customer: Customer {
                email: email.into(),
                external_id: external_id.into(),
                ..Customer::default()
            },
            ..Contact::default()
        }
    }

    #[test]
    fn a_customer_is_known_by_address_before_id_and_never_by_both() {
        assert_eq!(contact("", "").identity(), None);
        assert_eq!(contact("", "c-1").identity(), Some("id:c-1".into()));
        assert_eq!(
            contact("Jo@Example.org", "c-1").identity(),
            contact("jo@example.ORG", "").identity()
        );
        // An id that looks like an address is still an id.
        assert_ne!(
            contact("", "jo@example.org").identity(),
            contact("jo@example.org", "").identity()
        );
    }
}
