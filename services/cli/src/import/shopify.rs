//! The order export of Shopify: one row a line item, the order's own columns filled in its first row only.
//!
//! Three things the file leaves open are settled here:
//!
//! - *Whether prices contain tax.* They do when `Subtotal + Shipping = Total`; they do not when `Taxes` has to be added.
//! - *Whose tax it is.* The file knows tax per order; it is split over the taxable lines and shipping in proportion to
//!   what they cost after discounts, by largest remainder, so that it sums to the file's figure.
//! - *Broken rows.* Rows belong to an order by `Name`; when one of them cannot be read, the whole order is rejected with
//!   the line of that row, for half an order is worse than none.

use std::collections::HashMap;
use std::io::Read;

use chrono::{DateTime, Utc};
use csv::ByteRecord;
use waybill_kernel::alloc::largest_remainder;
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::order::v1::{
    Customer, Discount, NewOrder, NewOrderLine, NewShippingLine, OrderSource, OrderTotals, TaxLine,
};
use waybill_proto::waybill::r#type::v1::{Address, Money as ProtoMoney};

use super::rows::{RawRow, Rows};
use super::{Import, ImportError, ImportedOrder, ImportedPayment, MAX_ORDERS, Rejected};

/// Columns without which nothing can be read.
const REQUIRED: [&str; 11] = [
    "Name",
    "Email",
    "Currency",
    "Shipping",
    "Taxes",
    "Total",
    "Created at",
    "Lineitem quantity",
    "Lineitem name",
    "Lineitem price",
    "Lineitem sku",
];

/// Reads a whole file.
pub fn read(mut input: impl Read) -> Result<Import, ImportError> {
    let mut data = Vec::new();
    input.read_to_end(&mut data)?;
    let mut rows = Rows::of(&data);
    let header = rows.next(None)?.ok_or(ImportError::Empty)?;
    let columns = Columns::of(&header.record)?;
    let mut import = Import::default();
    let mut group: Vec<RawRow> = Vec::new();
    let mut current: Option<Vec<u8>> = None;

    while let Some(row) = rows.next(Some(columns.count))? {
        import.rows += 1;
        let name = columns.raw(&row.record, "Name").to_vec();
        if current.as_ref() != Some(&name) || name.is_empty() {
            columns.finish(&mut group, &mut import)?;
            current = Some(name);
        }
        group.push(row);
    }
    columns.finish(&mut group, &mut import)?;
    Ok(import)
}

/// Where each column stands, and how many there are.
struct Columns {
    index: HashMap<String, usize>,
    count: usize,
}

impl Columns {
    fn of(header: &ByteRecord) -> Result<Self, ImportError> {
        if header.iter().all(<[u8]>::is_empty) {
            return Err(ImportError::Empty);
        }
        let index: HashMap<String, usize> = header
            .iter()
            .enumerate()
            .map(|(at, name)| (String::from_utf8_lossy(name).into_owned(), at))
            .collect();
        let missing: Vec<&str> = REQUIRED
            .into_iter()
            .filter(|name| !index.contains_key(*name))
            .collect();
        if missing.is_empty() {
            Ok(Self {
                index,
                count: header.len(),
            })
        } else {
            Err(ImportError::MissingColumns(missing.join(", ")))
        }
    }

    fn raw<'r>(&self, record: &'r ByteRecord, column: &str) -> &'r [u8] {
        self.index
            .get(column)
            .and_then(|at| record.get(*at))
            .unwrap_or_default()
    }

    /// Turns the rows of one order into the order, or into a rejection.
    fn finish(&self, group: &mut Vec<RawRow>, import: &mut Import) -> Result<(), ImportError> {
        let rows = std::mem::take(group);
        let Some(head) = rows.first() else {
            return Ok(());
        };
        if import.orders.len() + import.rejected.len() >= MAX_ORDERS {
            return Err(ImportError::TooMany { line: head.line });
        }
        match self.order(&rows) {
            Ok(order) => import.orders.push(order),
            Err((line, reason)) => import.rejected.push(Rejected {
                line,
                number: String::from_utf8_lossy(self.raw(&head.record, "Name")).into_owned(),
                reason,
            }),
        }
        Ok(())
    }

    fn order(&self, rows: &[RawRow]) -> Result<ImportedOrder, (u64, String)> {
        let mut parsed = Vec::with_capacity(rows.len());
        for row in rows {
            parsed.push(Row::new(self, row).map_err(|reason| (row.line, reason))?);
        }
        let head = &parsed[0];
        let order = build(head, &parsed)?;
        let payment = payment(head).map_err(|reason| (head.line, reason))?;
        Ok(ImportedOrder {
            line: head.line,
            order,
            payment,
        })
    }
}

/// One row whose text is known to be UTF-8 and whose number of columns is right.
struct Row<'a> {
    columns: &'a Columns,
    record: &'a ByteRecord,
    line: u64,
}

impl<'a> Row<'a> {
    fn new(columns: &'a Columns, row: &'a RawRow) -> Result<Self, String> {
        let record = &row.record;
        if row.open_quote {
            return Err("a quote is opened and not closed in this row".to_owned());
        }
        if record.len() != columns.count {
            return Err(format!(
                "the row has {} columns, the header has {}",
                record.len(),
                columns.count
            ));
        }
        if let Some(at) = record
            .iter()
            .position(|field| std::str::from_utf8(field).is_err())
        {
            let column = columns
                .index
                .iter()
                .find(|(_, index)| **index == at)
                .map_or("?", |(name, _)| name);
            return Err(format!("{column}: not valid UTF-8"));
        }
        Ok(Self {
            columns,
            record,
            line: row.line,
        })
    }

    fn text(&self, column: &str) -> &'a str {
        std::str::from_utf8(self.columns.raw(self.record, column)).unwrap_or_default()
    }

    /// An amount; zero when the column is empty.
    fn amount(&self, column: &str, currency: Currency) -> Result<i64, String> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(0);
        }
        Money::parse_decimal(text, currency)
            .map(|money| money.minor)
            .map_err(|error| format!("{column}: {error}"))
    }

    /// An amount that must be there.
    fn required_amount(&self, column: &str, currency: Currency) -> Result<i64, String> {
        if self.text(column).is_empty() {
            return Err(format!("{column}: is empty, an amount is required"));
        }
        self.amount(column, currency)
    }

    fn time(&self, column: &str) -> Result<Option<DateTime<Utc>>, String> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S %z")
            .map(|time| Some(time.with_timezone(&Utc)))
            .map_err(|_| format!("{column}: {text:?} is not a time like 2026-03-01 10:15:00 +0000"))
    }

    fn flag(&self, column: &str, default: bool) -> bool {
        match self.text(column) {
            "" => default,
            text => text.eq_ignore_ascii_case("true"),
        }
    }

    fn address(&self, prefix: &str) -> Option<Address> {
        let field = |name: &str| self.text(&format!("{prefix} {name}")).to_owned();
        let address = Address {
            name: field("Name"),
            company: field("Company"),
            lines: [field("Address1"), field("Address2")]
                .into_iter()
                .filter(|line| !line.is_empty())
                .collect(),
            city: field("City"),
            region: field("Province"),
            // Shopify shields leading zeros from spreadsheets with an apostrophe.
            postal_code: field("Zip").trim_start_matches('\'').to_owned(),
            country_code: field("Country"),
            phone: field("Phone").trim_start_matches('\'').to_owned(),
        };
        (address != Address::default()).then_some(address)
    }
}

/// What a line costs, before its taxes are known.
struct Priced {
    line: NewOrderLine,
    discounted: i64,
    taxable: bool,
}

type At<T> = Result<T, (u64, String)>;

fn build(head: &Row<'_>, rows: &[Row<'_>]) -> At<NewOrder> {
    let at_head = |reason: String| (head.line, reason);
    if head.text("Name").is_empty() {
        return Err(at_head(
            "Name: is empty, the order's number is required".to_owned(),
        ));
    }
    let currency =
        Currency::parse(head.text("Currency")).map_err(|error| at_head(format!("Currency: {error}")))?;
    let created_at = head
        .time("Created at")
        .and_then(|time| time.ok_or_else(|| "Created at: is empty".to_owned()))
        .map_err(at_head)?;
    let shipping = head.required_amount("Shipping", currency).map_err(at_head)?;
    let taxes = head.required_amount("Taxes", currency).map_err(at_head)?;
    let total = head.required_amount("Total", currency).map_err(at_head)?;
    let discount = head.amount("Discount Amount", currency).map_err(at_head)?;

    let mut priced = rows
        .iter()
        .map(|row| price(row, currency).map_err(|reason| (row.line, reason)))
        .collect::<At<Vec<Priced>>>()?;
    let goods: i64 = priced
        .iter()
        .try_fold(0_i64, |sum, line| sum.checked_add(line.discounted))
        .ok_or_else(|| at_head("the line items sum to more than an order can hold".to_owned()))?;
    if discount > 0 {
        let weights: Vec<i64> = priced.iter().map(|line| line.discounted).collect();
        for (line, share) in priced.iter_mut().zip(largest_remainder(discount, &weights)) {
            line.discounted -= share;
        }
    }
    let without_tax = goods.saturating_sub(discount).saturating_add(shipping);
    let prices_include_tax = taxes > 0 && without_tax == total;

    let shipping_taxes = spread_taxes(head, currency, &mut priced, shipping).map_err(at_head)?;
    let money = |minor: i64| Some(proto(currency, minor));
    Ok(NewOrder {
        source: Some(OrderSource {
            system: "shopify".to_owned(),
            external_id: match head.text("Id") {
                "" => head.text("Name").to_owned(),
                id => id.to_owned(),
            },
        }),
        number: head.text("Name").to_owned(),
        placed_at: Some(timestamp(created_at)),
        currency_code: currency.code().to_owned(),
        prices_include_tax,
        discounts: (discount != 0)
            .then(|| Discount {
                code: head.text("Discount Code").to_owned(),
                title: head.text("Discount Code").to_owned(),
                amount: money(discount),
            })
            .into_iter()
            .collect(),
        shipping_lines: (shipping != 0 || !head.text("Shipping Method").is_empty())
            .then(|| NewShippingLine {
                title: head.text("Shipping Method").to_owned(),
                price: money(shipping),
                discounts: Vec::new(),
                taxes: shipping_taxes,
            })
            .into_iter()
            .collect(),
        totals: Some(OrderTotals {
            shipping: money(shipping),
            tax: money(taxes),
            total: money(total),
            ..OrderTotals::default()
        }),
        lines: priced.into_iter().map(|line| line.line).collect(),
        customer: Some(Customer {
            external_id: String::new(),
            email: head.text("Email").to_owned(),
            name: head
                .address("Billing")
                .map(|address| address.name)
                .unwrap_or_default(),
            phone: head.text("Phone").trim_start_matches('\'').to_owned(),
        }),
        shipping_address: head.address("Shipping"),
        billing_address: head.address("Billing"),
        tags: head
            .text("Tags")
            .split(',')
            .map(|tag| tag.trim().to_owned())
            .filter(|tag| !tag.is_empty())
            .collect(),
        ..NewOrder::default()
    })
}

/// Reads the line item of a row.
fn price(row: &Row<'_>, currency: Currency) -> Result<Priced, String> {
    let quantity_text = row.text("Lineitem quantity");
    let quantity: i32 = quantity_text
        .parse()
        .map_err(|_| format!("Lineitem quantity: {quantity_text:?} is not a whole number"))?;
    let unit_price = row.required_amount("Lineitem price", currency)?;
    let discount = row.amount("Lineitem discount", currency)?;
    let discounted = unit_price
        .checked_mul(i64::from(quantity))
        .and_then(|gross| gross.checked_sub(discount))
        .ok_or_else(|| {
            format!("Lineitem price: {quantity} times {unit_price} is more than an order can hold")
        })?;
    let line = NewOrderLine {
        sku: row.text("Lineitem sku").to_owned(),
        title: row.text("Lineitem name").to_owned(),
        quantity,
        unit_price: Some(proto(currency, unit_price)),
        digital: !row.flag("Lineitem requires shipping", true),
        discounts: (discount != 0)
            .then(|| Discount {
                amount: Some(proto(currency, discount)),
                ..Discount::default()
            })
            .into_iter()
            .collect(),
        ..NewOrderLine::default()
    };
    Ok(Priced {
        line,
        discounted,
        taxable: row.flag("Lineitem taxable", true),
    })
}

/// Splits the order's taxes over its lines; returns those of shipping.
fn spread_taxes(
    head: &Row<'_>,
    currency: Currency,
    lines: &mut [Priced],
    shipping: i64,
) -> Result<Vec<TaxLine>, String> {
    let mut named = Vec::new();
    for number in 1..=5 {
        let amount = head.amount(&format!("Tax {number} Value"), currency)?;
        if amount != 0 {
            named.push((head.text(&format!("Tax {number} Name")).to_owned(), amount));
        }
    }
    // Older exports carry the sum alone.
    let taxes = head.amount("Taxes", currency)?;
    if named.is_empty() && taxes != 0 {
        named.push(("Tax".to_owned(), taxes));
    }
    let weights: Vec<i64> = lines
        .iter()
        .map(|line| if line.taxable { line.discounted.max(0) } else { 0 })
        .chain([shipping.max(0)])
        .collect();
    let mut of_shipping = Vec::new();
    for (title, amount) in named {
        let shares = largest_remainder(amount, &weights);
        let tax = |share: i64| TaxLine {
            jurisdiction: head.text("Shipping Country").to_owned(),
            title: title.clone(),
            rate_ppm: rate_in(&title),
            amount: Some(proto(currency, share)),
        };
        for (line, share) in lines.iter_mut().zip(&shares) {
            if *share != 0 {
                line.line.taxes.push(tax(*share));
            }
        }
        if let Some(share) = shares.last().filter(|share| **share != 0) {
            of_shipping.push(tax(*share));
        }
    }
    Ok(of_shipping)
}

/// The rate in a tax's name, e.g. 200000 for "GB VAT 20%"; 0 when there is none.
fn rate_in(title: &str) -> i32 {
    title
        .split_whitespace()
        .find_map(|word| word.strip_suffix('%'))
        .and_then(|percent| {
            let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
            let digits: String = fraction.chars().chain("0000".chars()).take(4).collect();
            whole
                .parse::<i32>()
                .ok()?
                .checked_mul(10_000)?
                .checked_add(digits.parse().ok()?)
        })
        .unwrap_or(0)
}

/// The capture that a paid order came with.
fn payment(head: &Row<'_>) -> Result<Option<ImportedPayment>, String> {
    if !head.text("Financial Status").eq_ignore_ascii_case("paid") {
        return Ok(None);
    }
    let id = ["Payment ID", "Payment Reference", "Name"]
        .into_iter()
        .map(|column| head.text(column))
        .find(|text| !text.is_empty())
        .unwrap_or_default();
    let provider = match head.text("Payment Method").to_ascii_lowercase() {
        method if method.contains("stripe") => "stripe",
        method if method.contains("shopify") => "shopify",
        _ => "manual",
    };
    Ok(Some(ImportedPayment {
        provider: provider.to_owned(),
        provider_payment_id: id.to_owned(),
        paid_at: head.time("Paid at")?,
    }))
}

fn proto(currency: Currency, minor_units: i64) -> ProtoMoney {
    ProtoMoney {
        currency_code: currency.code().to_owned(),
        minor_units,
    }
}

fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        // Below 2^31 by definition.
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
#[path = "shopify_tests.rs"]
mod tests;
