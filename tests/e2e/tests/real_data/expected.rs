//! What must come out, computed from the text of the file with nothing that reads it elsewhere.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, ensure};

use crate::Story;

/// A day of the file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Day {
    pub orders: i64,
    pub units: i64,
    pub gross: i64,
    pub refunded: i64,
}

/// What must come out, computed from the rows of the file and nothing else.
pub struct Expected {
    pub days: BTreeMap<String, Day>,
    orders: Vec<String>,
    pub back: BTreeMap<u64, i64>,
}

/// A row of the file: invoice, code, quantity, time, price in pence, customer.
type Fields<'a> = (&'a str, &'a str, i64, &'a str, i64, &'a str);

/// Reads the rows without the help of a library. Descriptions may hold commas, so columns are counted from both ends.
fn fields(text: &str) -> anyhow::Result<Vec<Fields<'_>>> {
    let read = |line| -> Option<Fields<'_>> {
        let front: Vec<&str> = str::splitn(line, 3, ',').collect();
        let [_, customer, price, at, quantity, _] = line.rsplitn(6, ',').collect::<Vec<_>>()[..] else {
            return None;
        };
        let pence = price.strip_suffix('0')?.replace('.', "").parse().ok()?;
        Some((
            front[0],
            front.get(1)?,
            quantity.parse().ok()?,
            at,
            pence,
            customer,
        ))
    };
    text.lines()
        .skip(1)
        .map(|line| read(line).with_context(|| format!("a row of another form: {line}")))
        .collect()
}

/// Whether rows of an invoice are a sale: not so for units below zero, for entries of the books, and for stock that was
/// found, which nobody buys and nobody pays.
fn is_sale(rows: &[Fields<'_>]) -> bool {
    let books = |code| matches!(code, "AMAZONFEE" | "BANK CHARGES" | "S" | "D");
    let counted = rows
        .iter()
        .all(|(_, code, quantity, ..)| *quantity > 0 && !books(*code));
    counted
        && rows
            .iter()
            .any(|(.., price, customer)| *price > 0 || !customer.is_empty())
}

fn is_carriage(code: &str) -> bool {
    matches!(code, "POST" | "DOT" | "C2")
}

impl Expected {
    pub fn from_file(text: &str) -> anyhow::Result<Self> {
        let rows = fields(text)?;
        let mut expected = Self {
            days: BTreeMap::new(),
            orders: Vec::new(),
            back: BTreeMap::new(),
        };
        // What each customer holds of each article at each price.
        let mut held: HashMap<(&str, &str, i64), i64> = HashMap::new();
        let mut line = 1;
        for invoice in rows.chunk_by(|one, next| one.0 == next.0) {
            let (number, _, _, at, ..) = invoice[0];
            let day = expected.days.entry(at[..10].to_owned()).or_default();
            let sale = is_sale(invoice);
            let alone = invoice.iter().all(|(_, code, ..)| is_carriage(code));
            for (_, code, quantity, _, price, customer) in invoice.iter().copied() {
                line += 1;
                let held = held.entry((customer, code, price)).or_default();
                if number.starts_with('C') {
                    let goods = !is_carriage(code) && !customer.is_empty();
                    let back = if goods { (*held).min(-quantity) } else { 0 };
                    *held -= back;
                    day.refunded += back * price;
                    expected.back.insert(line, back);
                } else if sale {
                    *held += quantity;
                    day.gross += quantity * price;
                    day.units += if is_carriage(code) && !alone { 0 } else { quantity };
                }
            }
            if sale && !number.starts_with('C') {
                day.orders += 1;
                expected.orders.push(number.to_owned());
            }
        }
        Ok(expected)
    }

    /// All that goes back.
    pub fn refunded(&self) -> i64 {
        self.days.values().map(|day| day.refunded).sum()
    }

    /// What was taken and what was refused is what the file says.
    pub fn compare(&self, story: &Story) -> anyhow::Result<()> {
        let missing: Vec<&String> = self
            .orders
            .iter()
            .filter(|number| !story.orders.contains_key(*number))
            .collect();
        let why: Vec<_> = missing
            .iter()
            .take(3)
            .map(|number| story.refused.get(*number))
            .collect();
        ensure!(
            missing.is_empty(),
            "{} invoices are no orders, such as {why:?}",
            missing.len()
        );
        ensure!(
            self.orders.len() == story.orders.len(),
            "{} orders, expected {}",
            story.orders.len(),
            self.orders.len()
        );
        let other = self
            .back
            .iter()
            .find(|(line, units)| story.back.get(line) != Some(units));
        let found = other.and_then(|(line, _)| story.back.get(line));
        ensure!(
            self.back == story.back,
            "units that come back, by line: {found:?} instead of {other:?}"
        );
        // The month as it is known: this cannot pass on a file that was cut short.
        ensure!(
            self.orders.len() >= 1500 && self.refunded() >= 500_000,
            "{} orders",
            self.orders.len()
        );
        Ok(())
    }
}
