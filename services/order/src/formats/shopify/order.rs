//! The rows of one order, whose columns are known, as the order that they mean.

use chrono::{DateTime, Utc};
use csv::ByteRecord;
use waybill_kernel::alloc::largest_remainder;
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::order::v1::{
    Customer, Discount, NewOrder, NewOrderLine, NewShippingLine, OrderSource, OrderTotals, TaxLine,
};
use waybill_proto::waybill::r#type::v1::{Address, Money as ProtoMoney};

use super::Columns;
use crate::formats::rows::{Broken, MAX_ROW, RawRow};
use crate::formats::{Fault, ImportedPayment};

/// One row whose text is known to be UTF-8 and whose number of columns is right.
pub(super) struct Row<'a> {
    columns: &'a Columns,
    record: &'a ByteRecord,
    pub(super) line: u64,
}

impl<'a> Row<'a> {
    pub(super) fn new(columns: &'a Columns, row: &'a RawRow) -> Result<Self, Fault> {
        let (record, line) = (&row.record, row.begin.line);
        let broken = |description: String| Err(Fault::new(line, "", description));
        match row.broken {
            Some(Broken::OpenQuote) => {
                return broken("a quote is opened and not closed in this row".to_owned());
            }
            Some(Broken::TooLong) => {
                return broken(format!("the line has more than {MAX_ROW} bytes; shorten it"));
            }
            None => {}
        }
        if record.len() != columns.count {
            return broken(format!(
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
            return Err(Fault::new(line, column, "not valid UTF-8"));
        }
        Ok(Self {
            columns,
            record,
            line,
        })
    }

    fn text(&self, column: &str) -> &'a str {
        std::str::from_utf8(self.columns.raw(self.record, column)).unwrap_or_default()
    }

    fn fault(&self, column: &str, description: impl Into<String>) -> Fault {
        Fault::new(self.line, column, description)
    }

    /// An amount; zero when the column is empty.
    fn amount(&self, column: &str, currency: Currency) -> Result<i64, Fault> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(0);
        }
        Money::parse_decimal(text, currency)
            .map(|money| money.minor)
            .map_err(|error| self.fault(column, error.to_string()))
    }

    /// An amount that must be there.
    fn required_amount(&self, column: &str, currency: Currency) -> Result<i64, Fault> {
        if self.text(column).is_empty() {
            return Err(self.fault(column, "is empty, an amount is required"));
        }
        self.amount(column, currency)
    }

    fn time(&self, column: &str) -> Result<Option<DateTime<Utc>>, Fault> {
        let text = self.text(column);
        if text.is_empty() {
            return Ok(None);
        }
        DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S %z")
            .map(|time| Some(time.with_timezone(&Utc)))
            .map_err(|_| {
                self.fault(
                    column,
                    format!("{text:?} is not a time like 2026-03-01 10:15:00 +0000"),
                )
            })
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

/// Builds an order of its rows; its own columns are filled in the first.
pub(super) fn build(head: &Row<'_>, rows: &[Row<'_>]) -> Result<NewOrder, Fault> {
    if head.text("Name").is_empty() {
        return Err(head.fault("Name", "is empty, the order's number is required"));
    }
    let currency =
        Currency::parse(head.text("Currency")).map_err(|error| head.fault("Currency", error.to_string()))?;
    let created_at = head
        .time("Created at")?
        .ok_or_else(|| head.fault("Created at", "is empty"))?;
    let shipping = head.required_amount("Shipping", currency)?;
    let taxes = head.required_amount("Taxes", currency)?;
    let total = head.required_amount("Total", currency)?;
    let discount = head.amount("Discount Amount", currency)?;

    let mut priced = rows
        .iter()
        .map(|row| price(row, currency))
        .collect::<Result<Vec<Priced>, _>>()?;
    let goods: i64 = priced
        .iter()
        .try_fold(0_i64, |sum, line| sum.checked_add(line.discounted))
        .ok_or_else(|| head.fault("", "the line items sum to more than an order can hold"))?;
    if discount > 0 {
        let weights: Vec<i64> = priced.iter().map(|line| line.discounted).collect();
        for (line, share) in priced.iter_mut().zip(largest_remainder(discount, &weights)) {
            line.discounted = line.discounted.saturating_sub(share);
        }
    }
    let without_tax = goods.saturating_sub(discount).saturating_add(shipping);
    let prices_include_tax = taxes > 0 && without_tax == total;

    let shipping_taxes = spread_taxes(head, currency, &mut priced, shipping)?;
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
fn price(row: &Row<'_>, currency: Currency) -> Result<Priced, Fault> {
    let quantity_text = row.text("Lineitem quantity");
    let quantity: i32 = quantity_text.parse().map_err(|_| {
        row.fault(
            "Lineitem quantity",
            format!("{quantity_text:?} is not a whole number"),
        )
    })?;
    let unit_price = row.required_amount("Lineitem price", currency)?;
    let discount = row.amount("Lineitem discount", currency)?;
    let discounted = unit_price
        .checked_mul(i64::from(quantity))
        .and_then(|gross| gross.checked_sub(discount))
        .ok_or_else(|| {
            row.fault(
                "Lineitem price",
                format!("{quantity} times {unit_price} is more than an order can hold"),
            )
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
) -> Result<Vec<TaxLine>, Fault> {
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
pub(super) fn payment(head: &Row<'_>) -> Result<Option<ImportedPayment>, Fault> {
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
