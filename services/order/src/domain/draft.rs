//! An order as a caller hands it in: well formed, but not yet believed.
//!
//! Every amount carries the currency it was given in; that they agree is checked in [`super::pricing`]. Texts are as
//! long as the caller made them; that is checked in [`super::limits`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use waybill_kernel::money::{Currency, Money};

use super::order::{Contact, Discount, Source, TaxLine};

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
