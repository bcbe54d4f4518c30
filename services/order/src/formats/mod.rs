//! Files of orders, read into the orders that `PlaceOrder` takes, as their bytes arrive.
//!
//! A [`Reader`] is fed with pieces of a file, cut anywhere, and gives out [`Unit`]s: an order with all its rows, or what is
//! wrong with it. Each knows where it ends in the file, so that reading can be taken up behind any of them; that place is
//! never inside of an order. However a file is cut, the same units come out of it, and no more of it is kept in memory than
//! one unit and one piece.
//!
//! It takes what it can and reports the rest with its line: one broken row costs its own order and no other. It does not
//! check totals, amounts or lengths: that is the work of the rules in [`crate::domain`], whose answer names the fields.

mod json_lines;
mod pieces;
mod rows;
pub mod shopify;

use std::fmt;

use chrono::{DateTime, Utc};
use waybill_proto::waybill::order::v1::NewOrder;

/// Rows of one order: as many lines as an order may have.
pub const MAX_ROWS_OF_ORDER: usize = crate::domain::limits::MAX_LINES;
/// Bytes of one order.
pub const MAX_ORDER_BYTES: usize = 4 << 20;

/// A place in a file, between two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The bytes before it.
    pub byte: u64,
    /// The line that begins here or goes on here, the first one being line 1.
    pub line: u64,
}

impl Place {
    /// Where every file begins.
    pub const START: Place = Place { byte: 0, line: 1 };
}

/// How orders are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Shopify's order export.
    ShopifyCsv,
    /// A line of protobuf JSON for each order.
    JsonLines,
}

/// One order of a file.
#[derive(Debug)]
pub struct Unit {
    /// Line of its first row.
    pub line: u64,
    /// How many rows it has; at least one.
    pub rows: u64,
    /// Where it ends.
    pub end: Place,
    /// Its number, where that could be read.
    pub number: String,
    /// The order, or what is wrong with it.
    pub read: Result<Box<ImportedOrder>, Fault>,
}

/// An order as it stood in a file.
#[derive(Debug, Clone)]
pub struct ImportedOrder {
    /// Line of its first row.
    pub line: u64,
    /// The line of the file that each line of the order stands on; empty when all stand on the first.
    pub lines: Vec<u64>,
    /// The order.
    pub order: NewOrder,
    /// What the customer had paid when the file was written.
    pub payment: Option<ImportedPayment>,
}

/// A payment as it stood in a file: a capture of the order's total.
#[derive(Debug, Clone)]
pub struct ImportedPayment {
    /// The provider, lower case.
    pub provider: String,
    /// The provider's id of the payment.
    pub provider_payment_id: String,
    /// When it was captured.
    pub paid_at: Option<DateTime<Utc>>,
}

/// Why an order could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line at fault.
    pub line: u64,
    /// The column or field at fault; empty when it is the row as a whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

impl Fault {
    fn new(line: u64, field: &str, description: impl Into<String>) -> Fault {
        Fault {
            line,
            field: field.to_owned(),
            description: description.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.description)
    }
}

/// A file that is none of its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is not even a header.
    #[error("the file is empty: the first line must name the columns of a Shopify order export")]
    Empty,
    /// There is not even one line.
    #[error("the file is empty: expected a line of JSON for each order")]
    NoLines,
    /// The header is not that of the format.
    #[error("line 1: not a Shopify order export, these columns are missing: {0}")]
    MissingColumns(String),
    /// It is no table of text.
    #[error("the file cannot be read as CSV: {0}")]
    Csv(String),
}

impl From<csv::Error> for Unreadable {
    fn from(error: csv::Error) -> Unreadable {
        Unreadable::Csv(error.to_string())
    }
}

/// Reads a file as it arrives.
#[derive(Debug)]
pub enum Reader {
    /// Shopify's order export.
    Shopify(shopify::Reader),
    /// JSON Lines.
    JsonLines(json_lines::Reader),
}

impl Reader {
    /// A reader of a file from its beginning.
    #[must_use]
    pub fn new(format: Format) -> Reader {
        match format {
            Format::ShopifyCsv => Reader::Shopify(shopify::Reader::new()),
            Format::JsonLines => Reader::JsonLines(json_lines::Reader::at(Place::START)),
        }
    }

    /// A reader that goes on behind a unit. `header` is what [`Reader::header`] gave then.
    ///
    /// # Errors
    ///
    /// When the header is none.
    pub fn resume(format: Format, at: Place, header: &[u8]) -> Result<Reader, Unreadable> {
        if at == Place::START {
            return Ok(Reader::new(format));
        }
        Ok(match format {
            Format::ShopifyCsv => Reader::Shopify(shopify::Reader::resume(at, header)?),
            Format::JsonLines => Reader::JsonLines(json_lines::Reader::at(at)),
        })
    }

    /// The next piece of the file, and whether it is the last one.
    pub fn feed(&mut self, piece: &[u8], is_last: bool) {
        match self {
            Reader::Shopify(reader) => reader.feed(piece, is_last),
            Reader::JsonLines(reader) => reader.feed(piece, is_last),
        }
    }

    /// The next unit; none until more of the file arrives, and none at its end.
    ///
    /// # Errors
    ///
    /// When the file is none of its format.
    pub fn read(&mut self) -> Result<Option<Unit>, Unreadable> {
        match self {
            Reader::Shopify(reader) => reader.read(),
            Reader::JsonLines(reader) => Ok(reader.read()?),
        }
    }

    /// What stands before all orders and is needed to go on behind one of them.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        match self {
            Reader::Shopify(reader) => reader.header(),
            Reader::JsonLines(_) => &[],
        }
    }

    /// Where the file ends, once its last piece was fed and everything was read.
    #[must_use]
    pub fn end(&self) -> Place {
        match self {
            Reader::Shopify(reader) => reader.end(),
            Reader::JsonLines(reader) => reader.end(),
        }
    }
}
