//! All of an order that a history tells, whichever way it was found out: from its events, or from the tables. Two pictures can
//! be compared field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use chrono::{DateTime, SecondsFormat, Utc};
use waybill_kernel::id::{LineId, ReturnId};
use waybill_kernel::money::Currency;

use super::cancellation::Cancellation;
use super::goods::FulfillmentStatus;
use super::hold::Hold;
use super::order::{Payment, TaxLine, Terms, Totals};
use super::payment::PaymentStatus;
use super::returns::ReturnStage;
use super::state::State;

/// Of a line, what was agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreedLine {
    /// The line.
    pub id: LineId,
    /// Stock keeping unit.
    pub sku: String,
    /// Units.
    pub quantity: i32,
    /// Price of one unit before discounts.
    pub unit_price: i64,
    /// What the line costs without tax.
    pub net: i64,
    /// The tax on that.
    pub tax: i64,
    /// Category.
    pub category: String,
    /// Sold without a right of return.
    pub final_sale: bool,
    /// Nothing is shipped.
    pub digital: bool,
}

/// What was agreed about an order, as far as its event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The number the customer knows.
    pub number: String,
    /// The system it came from.
    pub source_system: String,
    /// What all amounts are in.
    pub currency: Currency,
    /// Whether prices contain tax.
    pub prices_include_tax: bool,
    /// The sums.
    pub totals: Totals,
    /// The goods, in their order.
    pub lines: Vec<AgreedLine>,
    /// Shipping: the line, what it costs without tax, and the tax.
    pub shipping: Vec<(LineId, i64, i64)>,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// When it was promised to ship.
    pub promised_ship_at: DateTime<Utc>,
    /// When it was promised to arrive, if it was.
    pub promised_delivery_at: Option<DateTime<Utc>>,
}

impl Agreed {
    /// Of the terms, what an event tells.
    #[must_use]
    pub fn of(terms: &Terms) -> Agreed {
        let tax = |taxes: &[TaxLine]| taxes.iter().map(|tax| tax.amount).sum();
        Agreed {
            number: terms.number.clone(),
            source_system: terms.source.system.clone(),
            currency: terms.currency,
            prices_include_tax: terms.prices_include_tax,
            totals: terms.totals,
            lines: (terms.lines.iter())
                .map(|line| AgreedLine {
                    id: line.id,
                    sku: line.sku.clone(),
                    quantity: line.quantity,
                    unit_price: line.unit_price,
                    net: line.net,
                    tax: tax(&line.taxes),
                    category: line.category.clone(),
                    final_sale: line.final_sale,
                    digital: line.digital,
                })
                .collect(),
            shipping: (terms.shipping.iter())
                .map(|line| (line.id, line.net, tax(&line.taxes)))
                .collect(),
            placed_at: terms.placed_at,
            promised_ship_at: terms.promised_ship_at,
            promised_delivery_at: terms.promised_delivery_at,
        }
    }
}

/// An order, but for what no event tells: personal data, texts for people, tags and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// What was agreed.
    pub agreed: Agreed,
    /// Where it stands.
    pub state: State,
    /// Where its money stands. It follows from the state, and is kept beside it.
    pub payment_status: PaymentStatus,
    /// Where its goods stand, in the same way.
    pub fulfillment_status: FulfillmentStatus,
    /// Of each line, units that were cancelled, have shipped, have arrived.
    pub units: BTreeMap<LineId, (i32, i32, i32)>,
    /// Its returns.
    pub returns: BTreeMap<ReturnId, ReturnStage>,
    /// Payments in the order they were recorded.
    pub payments: Vec<Payment>,
    /// Holds, the ended ones included.
    pub holds: Vec<Hold>,
    /// Cancelled units.
    pub cancellations: Vec<Cancellation>,
}

/// Something about which two pictures differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What, as a path.
    pub field: String,
    /// What the events make of it; empty when they know no such thing.
    pub rebuilt: String,
    /// What the tables say; empty when they know no such thing.
    pub stored: String,
}

/// Where two pictures of an order differ.
#[must_use]
pub fn differences(rebuilt: &Picture, stored: &Picture) -> Vec<Difference> {
    let (mut rebuilt, mut stored) = (rebuilt.fields(), stored.fields());
    let names: BTreeSet<String> = rebuilt.keys().chain(stored.keys()).cloned().collect();
    (names.into_iter())
        .map(|field| Difference {
            rebuilt: rebuilt.remove(&field).unwrap_or_default(),
            stored: stored.remove(&field).unwrap_or_default(),
            field,
        })
        .filter(|difference| difference.rebuilt != difference.stored)
        .collect()
}

/// Fields by path, as texts.
#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn put(&mut self, name: impl Into<String>, value: impl Display) {
        self.0.insert(name.into(), value.to_string());
    }

    fn time(&mut self, name: impl Into<String>, time: DateTime<Utc>) {
        self.put(name, time.to_rfc3339_opts(SecondsFormat::Micros, true));
    }
}

impl Picture {
    /// Everything in it, but for `updated_at`, which says nothing about the order.
    fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = Fields::default();
        self.agreed.put(&mut fields);
        self.put_state(&mut fields);
        for (line, (cancelled, shipped, delivered)) in &self.units {
            fields.put(format!("lines[{line}].cancelled"), cancelled);
            fields.put(format!("lines[{line}].shipped"), shipped);
            fields.put(format!("lines[{line}].delivered"), delivered);
        }
        for (id, stage) in &self.returns {
            fields.put(format!("returns[{id}].stage"), stage.as_str());
        }
        for payment in &self.payments {
            let name = |part: &str| format!("payments[{}].{part}", payment.id);
            fields.put(name("kind"), payment.kind.as_str());
            fields.put(name("provider"), &payment.provider);
            fields.put(name("provider_payment_id"), &payment.provider_payment_id);
            fields.put(name("amount"), payment.amount);
            fields.put(name("reason"), &payment.reason);
            fields.put(name("dispute_id"), &payment.dispute_id);
            fields.time(name("occurred_at"), payment.occurred_at);
        }
        for hold in &self.holds {
            let name = |part: &str| format!("holds[{}].{part}", hold.id);
            fields.put(name("reason"), hold.reason.as_str());
            fields.put(name("rule"), &hold.rule);
            fields.put(name("held_version"), hold.held_version);
            if let Some(release) = &hold.released {
                fields.put(name("released_version"), release.version);
            }
        }
        for cancellation in &self.cancellations {
            let name = |part: &str| format!("cancellations[{}].{part}", cancellation.id);
            fields.put(name("reason"), &cancellation.reason);
            fields.put(name("restock"), cancellation.restock);
            fields.put(name("version"), cancellation.version);
            for part in &cancellation.lines {
                let of =
                    |what: &str| format!("cancellations[{}].lines[{}].{what}", cancellation.id, part.line);
                fields.put(of("first_unit"), part.first);
                fields.put(of("quantity"), part.units);
                fields.put(of("net"), part.net);
                fields.put(of("tax"), part.tax);
            }
        }
        fields.0
    }

    fn put_state(&self, fields: &mut Fields) {
        let state = &self.state;
        fields.put("status", state.status.as_str());
        fields.put("payment_status", self.payment_status.as_str());
        fields.put("fulfillment_status", self.fulfillment_status.as_str());
        fields.put("return_status", state.returns.as_str());
        fields.put("cancel_reason", &state.cancel_reason);
        fields.put("version", state.version);
        fields.put("authorized", state.money.authorized);
        fields.put("voided", state.money.voided);
        fields.put("captured", state.money.captured);
        fields.put("refunded", state.money.refunded);
        fields.put("cancelled", state.money.cancelled);
        fields.put("added", state.money.added);
        fields.put("owed_back", state.money.owed_back);
        fields.put("disputed", state.money.disputed);
        fields.put("dispute_lost", state.money.dispute_lost);
        fields.put("payments", state.payments);
        fields.put("open_holds", state.holds);
        fields.put("units_to_ship", state.goods.to_ship);
        fields.put("units_shipped", state.goods.shipped);
        fields.put("units_delivered", state.goods.delivered);
        fields.put("units_cancelled", state.goods.cancelled);
    }
}

impl Agreed {
    fn put(&self, fields: &mut Fields) {
        fields.put("number", &self.number);
        fields.put("source.system", &self.source_system);
        fields.put("currency_code", self.currency.code());
        fields.put("prices_include_tax", self.prices_include_tax);
        fields.put("totals.subtotal", self.totals.subtotal);
        fields.put("totals.discounts", self.totals.discounts);
        fields.put("totals.shipping", self.totals.shipping);
        fields.put("totals.tax", self.totals.tax);
        fields.put("totals.total", self.totals.total);
        fields.time("placed_at", self.placed_at);
        fields.time("promised_ship_at", self.promised_ship_at);
        if let Some(time) = self.promised_delivery_at {
            fields.time("promised_delivery_at", time);
        }
        for line in &self.lines {
            let name = |part: &str| format!("lines[{}].{part}", line.id);
            fields.put(name("sku"), &line.sku);
            fields.put(name("quantity"), line.quantity);
            fields.put(name("unit_price"), line.unit_price);
            fields.put(name("net"), line.net);
            fields.put(name("tax"), line.tax);
            fields.put(name("category"), &line.category);
            fields.put(name("final_sale"), line.final_sale);
            fields.put(name("digital"), line.digital);
        }
        for (line, net, tax) in &self.shipping {
            fields.put(format!("shipping_lines[{line}].net"), net);
            fields.put(format!("shipping_lines[{line}].tax"), tax);
        }
    }
}
