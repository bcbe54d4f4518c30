//! An order as a caller hands it in: well formed, but not yet believed; and one that is kept until it is complete (O-35).
//!
//! Every amount carries the currency it was given in; that they agree is checked in [`super::pricing`]. Texts are as
//! long as the caller made them; that is checked in [`super::limits`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{DraftId, OrderId};
use waybill_kernel::money::{Currency, Money};

use super::order::{Contact, Discount, Order, Source, TaxLine, Tenant, Totals};

/// The system that orders come from which were drafts and say nothing else.
pub const DRAFT_SYSTEM: &str = "draft";

/// An order as a caller hands it in.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// Where it came from.
    pub source: Source,
    /// The number the customer knows; assigned when empty.
    pub number: String,
    /// When it was placed; now when not set.
    pub placed_at: Option<DateTime<Utc>>,
    /// What all amounts are in.
    pub currency: Currency,
    /// Whether prices and discounts contain tax.
    pub prices_include_tax: bool,
    /// The goods.
    pub lines: Vec<DraftLine>,
    /// Shipping.
    pub shipping: Vec<DraftShipping>,
    /// Discounts on the order as a whole.
    pub discounts: Vec<Discount<Money>>,
    /// The sums as the caller knows them.
    pub totals: ClaimedTotals,
    /// Who ordered, and where goods and invoice go.
    pub contact: Contact,
    /// BCP 47 language of the customer; may be empty.
    pub locale: String,
    /// When it was promised to ship; computed when not set.
    pub promised_ship_at: Option<DateTime<Utc>>,
    /// When it was promised to arrive.
    pub promised_delivery_at: Option<DateTime<Utc>>,
    /// What the customer saw as the total, in the currency the customer saw.
    pub presentment: Option<Money>,
    /// All sums as the customer saw them, in the same currency.
    pub presentment_totals: Option<ClaimedTotals>,
    /// Free tags.
    pub tags: Vec<String>,
    /// What else is known of the order as a whole.
    pub attributes: BTreeMap<String, String>,
}

/// A line as a caller hands it in.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftLine {
    /// Stock keeping unit.
    pub sku: String,
    /// Title for people.
    pub title: String,
    /// Units.
    pub quantity: i32,
    /// Price of one unit before discounts.
    pub unit_price: Money,
    /// Category for policies and figures.
    pub category: String,
    /// Sold without a right of return.
    pub final_sale: bool,
    /// Nothing is shipped.
    pub digital: bool,
    /// What else is known.
    pub attributes: BTreeMap<String, String>,
    /// The line's own discounts.
    pub discounts: Vec<Discount<Money>>,
    /// Taxes on the line after all discounts.
    pub taxes: Vec<TaxLine<Money>>,
}

/// Shipping as a caller hands it in.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftShipping {
    /// Title for people.
    pub title: String,
    /// Price before discounts.
    pub price: Money,
    /// Discounts on it.
    pub discounts: Vec<Discount<Money>>,
    /// Taxes on it after discounts.
    pub taxes: Vec<TaxLine<Money>>,
}

/// The sums as a caller knows them; what is not set is not checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClaimedTotals {
    /// Quantity times unit price of all lines.
    pub subtotal: Option<Money>,
    /// All discounts.
    pub discounts: Option<Money>,
    /// All shipping prices.
    pub shipping: Option<Money>,
    /// All taxes.
    pub tax: Option<Money>,
    /// What the customer pays. Required.
    pub total: Option<Money>,
}

impl Draft {
    /// Takes the sums for the total where none is claimed: who asks what an order costs cannot know it yet.
    pub fn ask_total(&mut self, sums: &Totals) {
        let total = Money::new(self.currency, sums.total);
        self.totals.total.get_or_insert(total);
    }
}

/// What an order would be if it were placed now.
#[derive(Debug, Clone)]
pub struct Quote {
    /// What the customer would pay; none while an amount is wrong.
    pub total: Option<Money>,
    /// The order; none while there are faults.
    pub order: Option<Order>,
    /// What keeps it from being placed.
    pub faults: Violations,
}

/// An order that is being made, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDraft {
    /// Its id.
    pub id: DraftId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Counts its changes, from 1.
    pub version: i64,
    /// Where it stands.
    pub stage: Stage,
    /// What the customer would pay, as it was when it was changed last.
    pub total: Option<Money>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was changed last, or placed.
    pub updated_at: DateTime<Utc>,
}

impl KeptDraft {
    /// Names the version.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }
}

/// Where a draft stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It may be changed, placed and deleted. What was handed in stands here as it came; lists leave it out.
    Open(Vec<u8>),
    /// It has become this order.
    Placed(OrderId),
}
