//! Real invoices of an online retailer, read into orders and cancellations.
//!
//! The file is the *Online Retail* data set of the UCI Machine Learning Repository (Daqing Chen, 2015,
//! doi:10.24432/C5BW33, CC BY 4.0), December 2010. It is not part of the repository. What is done with each kind of dirt is
//! told in the README of this crate; here it is done. Nothing is rounded, nothing is dropped without a reason.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use waybill_proto::waybill::order::v1::{Customer, NewOrder, NewOrderLine, NewShippingLine, OrderSource};
use waybill_proto::waybill::r#type::v1::Address;

use crate::orders::{money, summed};

/// The file's name in the folder of shared data.
const FILE: &str = "online-retail-2010-12.csv.gz";

/// All amounts are in this currency.
pub const CURRENCY: &str = "GBP";

/// Postage and carriage.
const CARRIAGE: [&str; 3] = ["POST", "DOT", "C2"];
/// Entries of the shop's own books: fees it pays itself, samples it gave away.
const BOOKKEEPING: [&str; 3] = ["AMAZONFEE", "BANK CHARGES", "S"];
/// A discount that is given after the fact.
const DISCOUNT: &str = "D";

/// One row of the file.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its line in the file, the header being line 1.
    pub line: u64,
    /// The invoice; begins with a C when it takes back.
    pub invoice: String,
    /// What was sold.
    pub code: String,
    /// The same for people.
    pub description: String,
    /// Units; negative when they came back.
    pub quantity: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Price of a unit in thousandths, as published.
    pub price_thousandths: i64,
    /// The customer; may be empty.
    pub customer: String,
    /// The customer's country, in words.
    pub country: String,
}

/// The rows of one invoice, in the order of the file.
#[derive(Debug, Clone)]
pub struct Invoice {
    /// Its number.
    pub number: String,
    /// Its rows; never empty.
    pub rows: Vec<Row>,
}

impl Invoice {
    /// True when it takes goods back.
    #[must_use]
    pub fn is_cancellation(&self) -> bool {
        self.number.starts_with('C')
    }

    /// When it was written.
    #[must_use]
    pub fn at(&self) -> DateTime<Utc> {
        self.rows[0].at
    }
}

/// Where the file is: in `WAYBILL_SHARED_DATA`, else in `shared/data` beside the checkout; nothing when it is not there.
pub fn file() -> anyhow::Result<Option<PathBuf>> {
    if let Some(folder) = std::env::var_os("WAYBILL_SHARED_DATA") {
        let file = PathBuf::from(folder).join(FILE);
        ensure!(file.exists(), "WAYBILL_SHARED_DATA has no {FILE}");
        return Ok(Some(file));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data")
        .join(FILE);
    Ok(file.exists().then_some(file))
}

/// The text of the file.
pub fn text(file: &Path) -> anyhow::Result<String> {
    let unpacked = Command::new("gzip")
        .arg("-dc")
        .arg(file)
        .stderr(Stdio::inherit())
        .output();
    let unpacked = unpacked.context("gzip cannot be run")?;
    ensure!(
        unpacked.status.success(),
        "gzip could not unpack {}",
        file.display()
    );
    Ok(String::from_utf8(unpacked.stdout)?)
}

/// Reads the invoices, in the order of the file.
pub fn invoices(text: &str) -> anyhow::Result<Vec<Invoice>> {
    let mut invoices: Vec<Invoice> = Vec::new();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = row(&record, line).with_context(|| format!("line {line}"))?;
        match invoices.last_mut() {
            Some(last) if last.number == row.invoice => last.rows.push(row),
            _ => invoices.push(Invoice {
                number: row.invoice.clone(),
                rows: vec![row],
            }),
        }
    }
    Ok(invoices)
}

fn row(record: &csv::StringRecord, line: u64) -> anyhow::Result<Row> {
    let field = |at: usize| record.get(at).context("too few columns");
    Ok(Row {
        line,
        invoice: field(0)?.to_owned(),
        code: field(1)?.to_owned(),
        description: field(2)?.trim().to_owned(),
        quantity: field(3)?.parse().context("quantity")?,
        at: field(4)?.parse().context("invoice_date")?,
        price_thousandths: thousandths(field(5)?).context("unit_price")?,
        customer: field(6)?.to_owned(),
        country: field(7)?.to_owned(),
    })
}

/// Reads a price with up to three decimals.
fn thousandths(text: &str) -> anyhow::Result<i64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    ensure!(
        decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit()),
        "{text:?} is no price"
    );
    let thousandths: i64 = format!("{decimals:0<3}").parse()?;
    let whole: i64 = whole.parse()?;
    ensure!(whole >= 0, "{text:?} is negative");
    whole
        .checked_mul(1000)
        .and_then(|whole| whole.checked_add(thousandths))
        .context("too large")
}

/// The price of a unit in pence; nothing when it carries a fraction of a penny.
fn pence(row: &Row) -> Option<i64> {
    (row.price_thousandths % 10 == 0).then_some(row.price_thousandths / 10)
}

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sold {
    Goods,
    /// Postage.
    Carriage,
    /// Sold, and nothing is shipped: a voucher, an entry by hand.
    Service(&'static str),
    Bookkeeping,
    Discount,
}

fn sold(code: &str) -> Sold {
    match code {
        code if CARRIAGE.contains(&code) => Sold::Carriage,
        code if BOOKKEEPING.contains(&code) => Sold::Bookkeeping,
        DISCOUNT => Sold::Discount,
        "M" | "m" => Sold::Service("manual"),
        code if code.starts_with("gift_") => Sold::Service("voucher"),
        _ => Sold::Goods,
    }
}

/// Reads an invoice as the order that it was, or says why it is none. An order that no order can be (units below zero) is
/// read all the same: refusing it is the order service's work.
pub fn order(invoice: &Invoice) -> Result<NewOrder, String> {
    let first = &invoice.rows[0];
    for row in &invoice.rows {
        if matches!(sold(&row.code), Sold::Bookkeeping | Sold::Discount) {
            return Err(format!(
                "line {}: {} is an entry of the shop's own books and no sale",
                row.line, row.code
            ));
        }
        if pence(row).is_none() {
            let line = row.line;
            return Err(format!(
                "line {line}: the price carries a fraction of a penny, which nobody can pay"
            ));
        }
    }
    let free = invoice
        .rows
        .iter()
        .all(|row| row.price_thousandths == 0 && row.quantity > 0);
    if free && first.customer.is_empty() {
        return Err(format!(
            "line {}: no customer and nothing to pay: a correction of stock, no sale",
            first.line
        ));
    }
    let country = country(&first.country).ok_or_else(|| {
        format!(
            "line {}: {:?} is no country that is known here",
            first.line, first.country
        )
    })?;
    // Carriage is shipping of what is shipped; on an invoice of its own it is what was sold.
    let carriage_alone = invoice.rows.iter().all(|row| sold(&row.code) == Sold::Carriage);
    let (mut lines, mut shipping_lines) = (Vec::new(), Vec::new());
    for row in &invoice.rows {
        let price = pence(row).unwrap_or_default();
        match sold(&row.code) {
            Sold::Carriage if !carriage_alone => shipping_lines.push(NewShippingLine {
                title: row.description.clone(),
                price: Some(money(CURRENCY, price * row.quantity)),
                ..NewShippingLine::default()
            }),
            kind => lines.push(order_line(row, kind, price)?),
        }
    }
    Ok(summed(NewOrder {
        source: Some(OrderSource {
            system: "online-retail".to_owned(),
            external_id: invoice.number.clone(),
        }),
        number: invoice.number.clone(),
        placed_at: Some(prost_types::Timestamp {
            seconds: invoice.at().timestamp(),
            nanos: 0,
        }),
        currency_code: CURRENCY.to_owned(),
        shipping_address: lines
            .iter()
            .any(|line: &NewOrderLine| !line.digital)
            .then(|| Address {
                country_code: country.to_owned(),
                ..Address::default()
            }),
        customer: Some(Customer {
            external_id: first.customer.clone(),
            ..Customer::default()
        }),
        lines,
        shipping_lines,
        ..NewOrder::default()
    }))
}

fn order_line(row: &Row, kind: Sold, price: i64) -> Result<NewOrderLine, String> {
    let quantity =
        i32::try_from(row.quantity).map_err(|_| format!("line {}: {} units", row.line, row.quantity))?;
    Ok(NewOrderLine {
        sku: row.code.clone(),
        title: row.description.clone(),
        quantity,
        unit_price: Some(money(CURRENCY, price)),
        category: match kind {
            Sold::Service(category) => category.to_owned(),
            Sold::Carriage => "carriage".to_owned(),
            _ => "goods".to_owned(),
        },
        digital: kind != Sold::Goods,
        ..NewOrderLine::default()
    })
}

/// The country's code in ISO 3166-1.
fn country(name: &str) -> Option<&'static str> {
    Some(match name {
        "United Kingdom" => "GB",
        "Australia" => "AU",
        "Austria" => "AT",
        "Bahrain" => "BH",
        "Belgium" => "BE",
        // Of the two bailiwicks the larger one; the file does not tell them apart.
        "Channel Islands" => "JE",
        "Cyprus" => "CY",
        "Denmark" => "DK",
        "EIRE" => "IE",
        "Finland" => "FI",
        "France" => "FR",
        "Germany" => "DE",
        "Iceland" => "IS",
        "Israel" => "IL",
        "Italy" => "IT",
        "Japan" => "JP",
        "Lithuania" => "LT",
        "Netherlands" => "NL",
        "Norway" => "NO",
        "Poland" => "PL",
        "Portugal" => "PT",
        "Spain" => "ES",
        "Sweden" => "SE",
        "Switzerland" => "CH",
        _ => return None,
    })
}

/// Units of an order line that can come back.
#[derive(Debug, Clone)]
struct Bought {
    /// The line of the file that the purchase began on.
    line: u64,
    order_id: String,
    line_id: String,
    price: i64,
    left: i64,
}

/// Units of an order line that come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// The order.
    pub order_id: String,
    /// The line.
    pub line_id: String,
    /// Units.
    pub units: i64,
}

/// What becomes of a row that takes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Units that come back, by order line.
    pub back: Vec<Back>,
    /// Units that do not, and why.
    pub refused: Option<(i64, String)>,
}

/// What customers bought and did not send back yet.
#[derive(Debug, Default)]
pub struct Purchases {
    by_customer_and_code: HashMap<(String, String), Vec<Bought>>,
}

impl Purchases {
    /// Notes what an invoice sold. `lines` are the ids of the order's lines, in the order of the invoice's rows that became
    /// lines.
    pub fn note(&mut self, invoice: &Invoice, order_id: &str, lines: &[(String, String, i32, i64)]) {
        let customer = &invoice.rows[0].customer;
        if customer.is_empty() {
            return;
        }
        for (line_id, sku, quantity, price) in lines {
            let bought = Bought {
                line: invoice.rows[0].line,
                order_id: order_id.to_owned(),
                line_id: line_id.clone(),
                price: *price,
                left: i64::from(*quantity),
            };
            self.by_customer_and_code
                .entry((customer.clone(), sku.clone()))
                .or_default()
                .push(bought);
        }
    }

    /// Finds what a row takes back among what the same customer bought earlier at the same price, the latest first.
    pub fn take_back(&mut self, row: &Row) -> TakenBack {
        let wanted = -row.quantity;
        let refused = |units: i64, why: String| Some((units, format!("line {}: {why}", row.line)));
        let all = |why: String| TakenBack {
            back: Vec::new(),
            refused: refused(wanted, why),
        };
        if row.customer.is_empty() {
            return all("no customer, so nobody knows which purchase it takes back".to_owned());
        }
        match sold(&row.code) {
            Sold::Discount => return all("a discount after the fact: no goods come back".to_owned()),
            Sold::Bookkeeping => return all(format!("{} is an entry of the shop's own books", row.code)),
            Sold::Carriage => {
                return all("carriage goes back with the goods of an order, not by itself".to_owned());
            }
            Sold::Goods | Sold::Service(_) => {}
        }
        let Some(price) = pence(row) else {
            return all("the price carries a fraction of a penny".to_owned());
        };
        let key = (row.customer.clone(), row.code.clone());
        let bought = self.by_customer_and_code.entry(key).or_default();
        let (mut back, mut left) = (Vec::new(), wanted);
        let earlier = |one: &&mut Bought| one.line < row.line && one.price == price && one.left > 0;
        for one in bought.iter_mut().rev().filter(earlier) {
            let units = one.left.min(left);
            one.left -= units;
            left -= units;
            back.push(Back {
                order_id: one.order_id.clone(),
                line_id: one.line_id.clone(),
                units,
            });
            if left == 0 {
                break;
            }
        }
        let mut earlier = bought.iter().filter(|one| one.line < row.line).peekable();
        let why = if earlier.peek().is_none() {
            "the customer has not bought it since the file begins"
        } else if earlier.any(|one| one.left > 0) {
            "it was bought at another price"
        } else {
            "all that was bought has come back"
        };
        TakenBack {
            back,
            refused: (left > 0).then(|| refused(left, why.to_owned())).flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "invoice_no,stock_code,description,quantity,invoice_date,unit_price,customer_id,country\n";

    fn read(rows: &str) -> Vec<Invoice> {
        invoices(&format!("{HEADER}{rows}")).expect("a readable file")
    }

    #[test]
    fn a_fraction_of_a_penny_is_refused_and_not_rounded() {
        let invoices = read("1,85123A,CARDS,100,2010-12-01T08:00:00Z,0.085,7,United Kingdom\n");
        let refusal = order(&invoices[0]).expect_err("nobody can pay it");
        assert!(
            refusal.contains("fraction of a penny") && refusal.starts_with("line 2"),
            "{refusal}"
        );
    }

    #[test]
    fn carriage_is_shipping_unless_it_stands_alone() {
        let invoices = read(
            "1,85123A,MUG,2,2010-12-01T08:00:00Z,1.500,7,France\n1,POST,POSTAGE,3,2010-12-01T08:00:00Z,18.000,7,France\n\
             2,POST,POSTAGE,1,2010-12-01T08:00:00Z,18.000,7,France\n",
        );
        let with_goods = order(&invoices[0]).expect("an order");
        assert_eq!((with_goods.lines.len(), with_goods.shipping_lines.len()), (1, 1));
        assert_eq!(with_goods.shipping_lines[0].price, Some(money("GBP", 5400)));
        assert_eq!(
            with_goods.totals.and_then(|totals| totals.total),
            Some(money("GBP", 5700))
        );
        let alone = order(&invoices[1]).expect("an order");
        assert_eq!((alone.lines.len(), alone.shipping_lines.len()), (1, 0));
        assert!(alone.lines[0].digital && alone.shipping_address.is_none());
    }

    #[test]
    fn the_latest_purchase_at_the_same_price_comes_back_first() {
        let invoices = read(
            "1,A,MUG,5,2010-12-01T08:00:00Z,1.000,7,France\n2,A,MUG,3,2010-12-02T08:00:00Z,1.000,7,France\n\
             3,A,MUG,9,2010-12-03T08:00:00Z,2.000,7,France\nC4,A,MUG,-4,2010-12-04T08:00:00Z,1.000,7,France\n\
             C5,A,MUG,-6,2010-12-05T08:00:00Z,1.000,7,France\nC6,B,JUG,-1,2010-12-05T08:00:00Z,1.000,7,France\n\
             7,A,MUG,7,2010-12-05T09:00:00Z,1.000,7,France\n",
        );
        let mut purchases = Purchases::default();
        // The last one is bought after all that comes back, though it is known before.
        for (invoice, quantity, price) in [(0, 5, 100), (1, 3, 100), (2, 9, 200), (6, 7, 100)] {
            let number = invoices[invoice].number.clone();
            purchases.note(
                &invoices[invoice],
                &number,
                &[(format!("line of {number}"), "A".to_owned(), quantity, price)],
            );
        }
        let back = |order: &str, units| Back {
            order_id: order.to_owned(),
            line_id: format!("line of {order}"),
            units,
        };
        let first = purchases.take_back(&invoices[3].rows[0]);
        assert_eq!(
            first,
            TakenBack {
                back: vec![back("2", 3), back("1", 1)],
                refused: None
            }
        );
        let second = purchases.take_back(&invoices[4].rows[0]);
        assert_eq!(second.back, [back("1", 4)]);
        assert_eq!(
            second.refused,
            Some((2, "line 6: it was bought at another price".to_owned()))
        );
        let third = purchases.take_back(&invoices[5].rows[0]);
        assert_eq!(third.refused.map(|(units, _)| units), Some(1));
    }
}
