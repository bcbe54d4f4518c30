//! The order export of Shopify: one row a line item, the order's own columns filled in its first row only.
//!
//! Three things the file leaves open are settled here:
//!
//! - *Whether prices contain tax.* They do when `Subtotal + Shipping = Total`; they do not when `Taxes` has to be added.
//! - *Whose tax it is.* The file knows tax per order; it is split over the taxable lines and shipping in proportion to
//!   what they cost after discounts, by largest remainder, so that it sums to the file's figure.
//! - *Broken rows.* Rows belong to an order by `Name`; when one of them cannot be read, the whole order is rejected with
//!   the line of that row, for half an order is worse than none.

mod order;

use std::collections::HashMap;

use csv::ByteRecord;

use self::order::{Row, build, payment};
use super::rows::{RawRow, Rows, Step, fields};
use super::{Fault, ImportedOrder, MAX_ORDER_BYTES, MAX_ROWS_OF_ORDER, Place, Unit, Unreadable};

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

/// Reads a file as it arrives.
#[derive(Debug)]
pub struct Reader {
    rows: Rows,
    /// What the columns mean, once the header has arrived, and the header as it stands in the file.
    columns: Option<Columns>,
    header: Vec<u8>,
    group: Group,
}

/// The rows of the order that is being read.
#[derive(Debug, Default)]
struct Group {
    name: Vec<u8>,
    rows: Vec<RawRow>,
    /// All rows, also those that were not kept because they are too many.
    count: u64,
    bytes: u64,
    end: Option<Place>,
}

impl Group {
    /// Whether a row that begins with this name belongs to it.
    fn takes(&self, name: &[u8]) -> bool {
        self.count > 0 && !name.is_empty() && self.name == name
    }

    fn push(&mut self, row: RawRow) {
        self.count += 1;
        self.bytes += row.end.byte - row.begin.byte;
        self.end = Some(row.end);
        if self.rows.is_empty() || !self.is_too_large() {
            self.rows.push(row);
        }
    }

    fn is_too_large(&self) -> bool {
        self.count > MAX_ROWS_OF_ORDER as u64 || self.bytes > MAX_ORDER_BYTES as u64
    }
}

impl Reader {
    pub(super) fn new() -> Reader {
        Reader {
            rows: Rows::at(Place::START),
            columns: None,
            header: Vec::new(),
            group: Group::default(),
        }
    }

    pub(super) fn resume(at: Place, header: &[u8]) -> Result<Reader, Unreadable> {
        Ok(Reader {
            rows: Rows::at(at),
            columns: Some(Columns::of(&fields(header)?)?),
            header: header.to_vec(),
            group: Group::default(),
        })
    }

    pub(super) fn feed(&mut self, piece: &[u8], is_last: bool) {
        self.rows.feed(piece, is_last);
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }

    pub(super) fn end(&self) -> Place {
        self.rows.place()
    }

    pub(super) fn read(&mut self) -> Result<Option<Unit>, Unreadable> {
        loop {
            let step = self
                .rows
                .next(self.columns.as_ref().map(|columns| columns.count))?;
            let row = match step {
                Step::More => return Ok(None),
                Step::Row(row) => row,
                Step::End => {
                    let columns = self.columns.as_ref().ok_or(Unreadable::Empty)?;
                    return Ok(columns.finish(std::mem::take(&mut self.group)));
                }
            };
            let Some(columns) = &self.columns else {
                self.columns = Some(Columns::of(&row.record)?);
                self.header = written(&row.record)?;
                continue;
            };
            let name = columns.raw(&row.record, "Name");
            if self.group.takes(name) {
                self.group.push(row);
                continue;
            }
            let next = Group {
                name: name.to_vec(),
                ..Group::default()
            };
            let done = std::mem::replace(&mut self.group, next);
            self.group.push(row);
            if let Some(unit) = columns.finish(done) {
                return Ok(Some(unit));
            }
        }
    }
}

/// A row as CSV.
fn written(record: &ByteRecord) -> Result<Vec<u8>, Unreadable> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_byte_record(record)?;
    writer
        .into_inner()
        .map_err(|error| Unreadable::Csv(error.to_string()))
}

/// What a whole file held.
#[derive(Debug, Default)]
pub struct Import {
    /// Orders that could be read, in the order of the file.
    pub orders: Vec<ImportedOrder>,
    /// Orders that could not, in the order of the file, each with its number.
    pub rejected: Vec<(String, Fault)>,
    /// Rows below the header.
    pub rows: u64,
}

/// Reads a whole file that is in memory.
///
/// # Errors
///
/// When it is none of this format.
pub fn read(file: &[u8]) -> Result<Import, Unreadable> {
    let mut reader = Reader::new();
    reader.feed(file, true);
    let mut import = Import::default();
    while let Some(unit) = reader.read()? {
        import.rows += unit.rows;
        match unit.read {
            Ok(order) => import.orders.push(*order),
            Err(fault) => import.rejected.push((unit.number, fault)),
        }
    }
    Ok(import)
}

/// Where each column stands, and how many there are.
#[derive(Debug)]
struct Columns {
    index: HashMap<String, usize>,
    count: usize,
}

impl Columns {
    fn of(header: &ByteRecord) -> Result<Self, Unreadable> {
        if header.iter().all(<[u8]>::is_empty) {
            return Err(Unreadable::Empty);
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
            Err(Unreadable::MissingColumns(missing.join(", ")))
        }
    }

    fn raw<'r>(&self, record: &'r ByteRecord, column: &str) -> &'r [u8] {
        self.index
            .get(column)
            .and_then(|at| record.get(*at))
            .unwrap_or_default()
    }

    /// Turns the rows of one order into the order, or into what is wrong with it; nothing where there are no rows.
    fn finish(&self, group: Group) -> Option<Unit> {
        let (head, end) = (group.rows.first()?, group.end?);
        let line = head.begin.line;
        let read = if group.is_too_large() {
            Err(Fault::new(
                line,
                "",
                format!(
                    "the order has {} rows and {} bytes, more than the {MAX_ROWS_OF_ORDER} rows or {MAX_ORDER_BYTES} bytes that \
                     one may have; split it",
                    group.count, group.bytes
                ),
            ))
        } else {
            self.order(&group.rows)
        };
        Some(Unit {
            line,
            rows: group.count,
            end,
            number: String::from_utf8_lossy(&group.name).into_owned(),
            read: read.map(Box::new),
        })
    }

    fn order(&self, rows: &[RawRow]) -> Result<ImportedOrder, Fault> {
        let parsed = rows
            .iter()
            .map(|row| Row::new(self, row))
            .collect::<Result<Vec<_>, _>>()?;
        let head = &parsed[0];
        let order = build(head, &parsed)?;
        let payment = payment(head)?;
        Ok(ImportedOrder {
            line: head.line,
            lines: parsed.iter().map(|row| row.line).collect(),
            order,
            payment,
        })
    }
}

#[cfg(test)]
#[path = "shopify_tests.rs"]
mod tests;
