//! What other services tell, as far as returns and refunds need it.
//!
//! | event | effect |
//! | --- | --- |
//! | `order.OrderPlaced` | order and lines with their frozen cuts; entry `sale` |
//! | `order.PaymentRecorded` of a capture | payment with its balance; entry `capture`; after a cancellation a job that pays it back |
//! | `order.OrderEdited` | the lines that were added, with their frozen cuts; entry `sale` of them; a job as below for the units that were removed |
//! | `order.PaymentRecorded` of a lost dispute | what left behind our back, of the payment and the order (R-1c); entry `chargeback` |
//! | `order.OrderCancelled` | note of it; a job that pays everything back |
//! | `order.OrderLinesCancelled` | a job that pays back what was captured for exactly these units |
//! | `fulfillment.ShipmentShipped`, `ShipmentDelivered` | units shipped and delivered, for what may be returned until when |
//! | `order.OrderContactErased` | note of it; what was written to the customer about declined returns is emptied |
//! | any other of the order's | the version that was seen |
//!
//! Nothing is paid here: what follows is a job.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_events::{Event, Fold, FoldError, Projection, Reaction};
use waybill_kernel::id::{CancellationId, EditId, EntryId, LineId, OrderId, PaymentId, ShipmentId};
use waybill_kernel::money::Currency;
use waybill_kernel::slots::LineCut;
use waybill_kernel::time;
use waybill_proto::waybill::fulfillment::v1::{LineQuantity, ShipmentDelivered, ShipmentShipped};
use waybill_proto::waybill::order::v1::{
    CancelledLine, OrderCancelled, OrderContactErased, OrderEdited, OrderLinesCancelled, OrderPlaced,
    PaymentRecorded, PlacedLine as ToldLine, PlacedTax,
};
use waybill_store::jobs::NewJob;

use crate::domain::book::{LineKind, Tenant};
use crate::domain::journal::{self, Entry, Posting};
use crate::domain::units::Run;
use crate::store;
use crate::store::fold::{AddedLines, Captured, Lost, PlacedLine, PlacedOrder, Shipped, Touched};
use crate::workers;

/// The fold of this service.
#[derive(Clone)]
pub struct RefundFold {
    clock: time::Shared,
}

impl RefundFold {
    /// A fold that books by this clock.
    #[must_use]
    pub fn new(clock: time::Shared) -> Self {
        Self { clock }
    }
}

impl Fold for RefundFold {
    const NAME: &'static str = "refund";

    fn sources(&self) -> &'static [&'static str] {
        &["order", "fulfillment"]
    }

    fn opens(&self, event: &Event) -> bool {
        event.is::<OrderPlaced>()
    }

    fn needs_opening(&self, event: &Event) -> bool {
        self.handles(event)
    }

    fn handles(&self, event: &Event) -> bool {
        // Every event of an order tells its version; of shipments only two matter.
        &*event.source == "order" || event.is::<ShipmentShipped>() || event.is::<ShipmentDelivered>()
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        Ok(store::fold::known(conn, keys).await?.into_iter().collect())
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        let batch = Batch::read(events)?;
        let conn = projection.conn();
        store::fold::insert_orders(conn, &batch.placed).await?;
        store::fold::add_lines(conn, &batch.added).await?;
        let captured = batch.captured.iter().map(|(_, _, payment)| payment.order_id);
        let lost = batch.lost.iter().map(|(_, _, lost)| lost.order_id);
        let orders: Vec<Uuid> = captured.chain(lost).collect();
        let currencies: HashMap<Uuid, String> = store::fold::currencies(conn, &orders)
            .await?
            .into_iter()
            .collect();
        let mut entries = batch.sales;
        for (tenant, currency, payment) in &batch.captured {
            same_currency(&currencies, (payment.order_id, payment.payment_id), currency)?;
            let posting = journal::capture(&payment.provider, payment.amount);
            let (order, source) = (payment.order_id, payment.payment_id.to_string());
            entries.push(entry(*tenant, order, "capture", source, currency, posting));
        }
        for (tenant, currency, lost) in &batch.lost {
            same_currency(&currencies, (lost.order_id, lost.payment_id), currency)?;
            let posting = journal::chargeback(&lost.provider, lost.amount);
            let (order, source) = (lost.order_id, lost.payment_id.to_string());
            entries.push(entry(*tenant, order, "chargeback", source, currency, posting));
        }
        let captured: Vec<Captured> = batch
            .captured
            .into_iter()
            .map(|(_, _, payment)| payment)
            .collect();
        store::fold::apply(conn, &captured, &batch.touched).await?;
        // After the payments of the same batch: a dispute is about one of them.
        let lost: Vec<Lost> = batch.lost.into_iter().map(|(_, _, lost)| lost).collect();
        store::fold::lose(conn, &lost).await?;
        store::fold::erase(conn, &batch.erased).await?;
        store::fold::ship(conn, &batch.shipped).await?;
        store::journal::insert(conn, &entries, self.clock.now().trunc_subsecs(6)).await?;
        Ok(())
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        store::returns::forget(reaction.conn(), &erased(events)).await?;
        let mut late = Vec::new();
        for event in events {
            if event.is::<OrderCancelled>() {
                let job = workers::cancelled_job(tenant(event)?, event.key.into(), None);
                reaction.enqueue(job.traceparent(event.traceparent.clone()));
            } else if let Some(cancelled) = event.as_a::<OrderLinesCancelled>()? {
                reaction.enqueue(pay_units(
                    event,
                    &cancelled.cancellation_id,
                    &cancelled.lines,
                    cancelled.refund_minor,
                )?);
            } else if let Some(edited) = event.as_a::<OrderEdited>()? {
                if !edited.removed.is_empty() {
                    reaction.enqueue(pay_units(
                        event,
                        &edited.cancellation_id,
                        &edited.removed,
                        Some(edited.refund_minor),
                    )?);
                }
            } else if let Some(recorded) = event.as_a::<PaymentRecorded>()?.filter(is_capture) {
                late.push((event, recorded));
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        let orders: Vec<Uuid> = late.iter().map(|(event, _)| event.key).collect();
        let cancelled: HashSet<Uuid> = store::fold::cancelled(reaction.conn(), &orders)
            .await?
            .into_iter()
            .collect();
        for (event, recorded) in late
            .into_iter()
            .filter(|(event, _)| cancelled.contains(&event.key))
        {
            let payment: PaymentId = parse("payment_id", &recorded.payment_id)?;
            let job = workers::cancelled_job(
                tenant(event)?,
                event.key.into(),
                Some((payment, recorded.amount_minor)),
            );
            reaction.enqueue(job.traceparent(event.traceparent.clone()));
        }
        Ok(())
    }
}

/// A batch of events, read and checked.
#[derive(Default)]
struct Batch {
    placed: Vec<PlacedOrder>,
    added: Vec<AddedLines>,
    sales: Vec<Entry>,
    captured: Vec<(Tenant, String, Captured)>,
    lost: Vec<(Tenant, String, Lost)>,
    touched: Vec<Touched>,
    shipped: Vec<Shipped>,
    erased: Vec<Uuid>,
}

impl Batch {
    fn read(events: &[Event]) -> Result<Self, FoldError> {
        let mut batch = Self::default();
        let mut touched: BTreeMap<Uuid, Touched> = BTreeMap::new();
        let mut shipped: BTreeMap<(Uuid, Uuid), Shipped> = BTreeMap::new();
        for event in events {
            if let Some(message) = event.as_a::<OrderPlaced>()? {
                let order = read_order(event, &message)?;
                batch.sales.push(sale(&order)?);
                batch.placed.push(order);
            } else if let Some(message) = event.as_a::<OrderEdited>()? {
                let lines = read_lines(&message.added, message.prices_include_tax)?;
                batch.sales.extend(added_sale(event, &message, &lines)?);
                batch.added.push(AddedLines {
                    order_id: event.key,
                    lines,
                });
            } else if let Some(message) = event.as_a::<PaymentRecorded>()? {
                // Other kinds move no money of ours; those of a later version are passed over.
                match message.kind.as_str() {
                    CAPTURE => batch.captured.push(read_payment(event, message)?),
                    DISPUTE_LOST => batch.lost.push(read_lost(event, message)?),
                    _ => {}
                }
            } else if let Some(message) = event.as_a::<ShipmentShipped>()? {
                let at = time_of(event, message.shipped_at);
                collect(
                    &mut shipped,
                    event,
                    &message.shipment_id,
                    &message.lines,
                    at,
                    None,
                )?;
            } else if let Some(message) = event.as_a::<ShipmentDelivered>()? {
                let at = time_of(event, message.delivered_at);
                // What has arrived has left, also where nobody told.
                collect(
                    &mut shipped,
                    event,
                    &message.shipment_id,
                    &message.lines,
                    at,
                    Some(at),
                )?;
            }
            if &*event.source == "order" {
                let cancelled_at = event.is::<OrderCancelled>().then_some(event.occurred_at);
                touch(&mut touched, event, cancelled_at);
            }
        }
        batch.touched = touched.into_values().collect();
        batch.shipped = shipped.into_values().collect();
        batch.erased = erased(events);
        Ok(batch)
    }
}

/// The orders whose customers are forgotten.
fn erased(events: &[Event]) -> Vec<Uuid> {
    let erased = events.iter().filter(|event| event.is::<OrderContactErased>());
    erased.map(|event| event.key).collect()
}

/// The job that pays back what was captured for units that an event names.
fn pay_units(
    event: &Event,
    cancellation: &str,
    lines: &[CancelledLine],
    told: Option<i64>,
) -> Result<NewJob, FoldError> {
    let cancellation: CancellationId = parse("cancellation_id", cancellation)?;
    let units = units_of(lines)?;
    let job = workers::units_job(tenant(event)?, event.key.into(), cancellation, &units, told);
    Ok(job.traceparent(event.traceparent.clone()))
}

/// The units that an event names, per line.
fn units_of(lines: &[CancelledLine]) -> Result<Vec<(LineId, Run)>, FoldError> {
    let units = |line: &CancelledLine| {
        let last = line
            .first_unit
            .checked_add(line.quantity - 1)
            .filter(|_| line.first_unit >= 1 && line.quantity >= 1);
        let last = last.ok_or_else(|| {
            FoldError::Poison(format!(
                "{} units from unit {} on of a line",
                line.quantity, line.first_unit
            ))
        })?;
        let run = Run {
            first: line.first_unit,
            last,
        };
        Ok((parse("line_id", &line.line_id)?, run))
    };
    lines.iter().map(units).collect()
}

fn touch(touched: &mut BTreeMap<Uuid, Touched>, event: &Event, cancelled_at: Option<DateTime<Utc>>) {
    let known = touched.entry(event.key).or_insert(Touched {
        order_id: event.key,
        version: event.version,
        cancelled_at: None,
    });
    known.version = known.version.max(event.version);
    known.cancelled_at = known.cancelled_at.or(cancelled_at);
}

fn collect(
    shipped: &mut BTreeMap<(Uuid, Uuid), Shipped>,
    event: &Event,
    shipment_id: &str,
    lines: &[LineQuantity],
    shipped_at: DateTime<Utc>,
    delivered_at: Option<DateTime<Utc>>,
) -> Result<(), FoldError> {
    let shipment_id = parse::<ShipmentId>("shipment_id", shipment_id)?.uuid();
    let mut of_event: BTreeMap<Uuid, i32> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.quantity > 0) {
        let sum = of_event
            .entry(parse::<LineId>("line_id", &line.line_id)?.uuid())
            .or_default();
        *sum = sum.saturating_add(line.quantity);
    }
    for (line_id, quantity) in of_event {
        let units = shipped.entry((shipment_id, line_id)).or_insert(Shipped {
            shipment_id,
            line_id,
            order_id: event.key,
            quantity,
            shipped_at: None,
            delivered_at: None,
        });
        units.shipped_at = units.shipped_at.or(Some(shipped_at));
        units.delivered_at = units.delivered_at.or(delivered_at);
    }
    Ok(())
}

fn read_order(event: &Event, message: &OrderPlaced) -> Result<PlacedOrder, FoldError> {
    let currency = Currency::parse(&message.currency_code).map_err(poison)?;
    let inclusive = message.prices_include_tax;
    let mut lines = read_lines(&message.lines, inclusive)?;
    for line in &message.shipping_lines {
        lines.push(PlacedLine {
            line_id: parse::<LineId>("line_id", &line.line_id)?.uuid(),
            kind: LineKind::Shipping,
            sku: String::new(),
            category: String::new(),
            final_sale: false,
            digital: false,
            quantity: 1,
            net: line.net_minor,
            taxes: amounts(&line.taxes),
            inclusive,
        });
    }
    lines.iter().try_for_each(cuttable)?;
    Ok(PlacedOrder {
        tenant: tenant(event)?,
        order_id: event.key,
        currency: currency.code().to_owned(),
        ship_country: message.ship_country.clone(),
        placed_at: time_of(event, message.placed_at),
        version: event.version,
        lines,
    })
}

/// Goods of an order, as an event tells them.
fn read_lines(lines: &[ToldLine], inclusive: bool) -> Result<Vec<PlacedLine>, FoldError> {
    let read = |line: &ToldLine| {
        let line = PlacedLine {
            line_id: parse::<LineId>("line_id", &line.line_id)?.uuid(),
            kind: LineKind::Goods,
            sku: line.sku.clone(),
            category: line.category.clone(),
            final_sale: line.final_sale,
            digital: line.digital,
            quantity: line.quantity,
            net: line.net_minor,
            taxes: amounts(&line.taxes),
            inclusive,
        };
        cuttable(&line)?;
        Ok(line)
    };
    lines.iter().map(read).collect()
}

/// A line that cannot be cut could never be paid back to the penny.
fn cuttable(line: &PlacedLine) -> Result<(), FoldError> {
    let quantity = u32::try_from(line.quantity).map_err(poison)?;
    LineCut::new(line.net, line.taxes.clone(), quantity, line.inclusive).map_err(poison)?;
    Ok(())
}

/// The sale of lines that an edit added; none when it added none that cost something.
fn added_sale(event: &Event, edited: &OrderEdited, lines: &[PlacedLine]) -> Result<Option<Entry>, FoldError> {
    let currency = Currency::parse(&edited.currency_code).map_err(poison)?;
    let edit: EditId = parse("edit_id", &edited.edit_id)?;
    let net = sum(event.key, lines.iter().map(|line| line.net))?;
    let tax = sum(
        event.key,
        lines.iter().flat_map(|line| line.taxes.iter().copied()),
    )?;
    if sum(event.key, [net, tax].into_iter())? == 0 {
        return Ok(None);
    }
    let posting = journal::sale(net, 0, tax);
    let source = edit.to_string();
    Ok(Some(entry(
        tenant(event)?,
        event.key,
        "sale",
        source,
        currency.code(),
        posting,
    )))
}

fn sale(order: &PlacedOrder) -> Result<Entry, FoldError> {
    let lines = |kind| order.lines.iter().filter(move |line| line.kind == kind);
    let net = |kind| sum(order.order_id, lines(kind).map(|line| line.net));
    let (goods, shipping) = (net(LineKind::Goods)?, net(LineKind::Shipping)?);
    let tax = sum(
        order.order_id,
        order.lines.iter().flat_map(|line| line.taxes.iter().copied()),
    )?;
    // The receivable is their sum: it has to fit as well.
    sum(order.order_id, [goods, shipping, tax].into_iter())?;
    let posting = journal::sale(goods, shipping, tax);
    Ok(entry(
        order.tenant,
        order.order_id,
        "sale",
        order.order_id.to_string(),
        &order.currency,
        posting,
    ))
}

fn sum(order_id: Uuid, mut amounts: impl Iterator<Item = i64>) -> Result<i64, FoldError> {
    amounts.try_fold(0_i64, i64::checked_add).ok_or_else(|| {
        FoldError::Poison(format!(
            "the amounts of order {order_id} overflow 64 bits of minor units"
        ))
    })
}

fn read_payment(event: &Event, message: PaymentRecorded) -> Result<(Tenant, String, Captured), FoldError> {
    if message.amount_minor < 0 {
        return Err(FoldError::Poison(format!(
            "payment {} captured a negative amount",
            message.payment_id
        )));
    }
    let captured = Captured {
        payment_id: parse::<PaymentId>("payment_id", &message.payment_id)?.uuid(),
        order_id: event.key,
        provider: message.provider,
        provider_payment_id: message.provider_payment_id,
        amount: message.amount_minor,
        captured_at: time_of(event, message.occurred_at),
    };
    Ok((tenant(event)?, message.currency_code, captured))
}

/// A dispute that took money of a payment.
fn read_lost(event: &Event, message: PaymentRecorded) -> Result<(Tenant, String, Lost), FoldError> {
    if message.amount_minor <= 0 {
        return Err(FoldError::Poison(format!(
            "dispute {} took {}",
            message.payment_id, message.amount_minor
        )));
    }
    let lost = Lost {
        payment_id: parse::<PaymentId>("payment_id", &message.payment_id)?.uuid(),
        order_id: event.key,
        provider: message.provider,
        provider_payment_id: message.provider_payment_id,
        amount: message.amount_minor,
    };
    Ok((tenant(event)?, message.currency_code, lost))
}

const CAPTURE: &str = "capture";
const DISPUTE_LOST: &str = "dispute_lost";

fn is_capture(message: &PaymentRecorded) -> bool {
    message.kind == CAPTURE
}

fn same_currency(
    currencies: &HashMap<Uuid, String>,
    (order, payment): (Uuid, Uuid),
    currency: &String,
) -> Result<(), FoldError> {
    let of_order = currencies.get(&order);
    if of_order == Some(currency) {
        return Ok(());
    }
    Err(FoldError::Poison(format!(
        "payment {payment} is in {currency}, its order {order} in {of_order:?}"
    )))
}

fn entry(
    tenant: Tenant,
    order_id: Uuid,
    kind: &'static str,
    source: String,
    currency: &str,
    posting: Posting,
) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        tenant,
        order_id: OrderId::from(order_id),
        refund_id: None,
        kind,
        source,
        reverses: None,
        currency: currency.to_owned(),
        posting,
    }
}

fn amounts(taxes: &[PlacedTax]) -> Vec<i64> {
    taxes.iter().map(|tax| tax.amount_minor).collect()
}

fn tenant(event: &Event) -> Result<Tenant, FoldError> {
    let store = event
        .store
        .ok_or_else(|| FoldError::Poison(format!("event {} names no store", event.event_id)))?;
    Ok(Tenant {
        merchant: event.merchant,
        store,
    })
}

/// The time a message names, or that of its event.
fn time_of(event: &Event, named: Option<prost_types::Timestamp>) -> DateTime<Utc> {
    named
        .and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?))
        .unwrap_or(event.occurred_at)
        .trunc_subsecs(6)
}

fn parse<T: waybill_kernel::id::Id>(field: &str, text: &str) -> Result<T, FoldError> {
    text.parse()
        .map_err(|error| FoldError::Poison(format!("{field}: {error}")))
}

fn poison(error: impl std::fmt::Display) -> FoldError {
    FoldError::Poison(error.to_string())
}
