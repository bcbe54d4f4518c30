//! Files of orders, read into the orders that `PlaceOrder` takes.
//!
//! A reader takes what it can and reports the rest with its line number: one broken row costs its own order and no
//! other. It does not check totals, amounts or lengths: that is the order service's work, and its answer names the
//! fields.

mod rows;
pub mod shopify;

use chrono::{DateTime, Utc};
use waybill_proto::waybill::order::v1::NewOrder;

/// The most orders one file may hold.
pub const MAX_ORDERS: usize = 100_000;

/// What a file held.
#[derive(Debug, Default)]
pub struct Import {
    /// Orders that could be read, in the order of the file.
    pub orders: Vec<ImportedOrder>,
    /// Orders that could not, in the order of the file.
    pub rejected: Vec<Rejected>,
    /// Rows below the header.
    pub rows: u64,
}

/// An order as it stood in a file.
#[derive(Debug, Clone)]
pub struct ImportedOrder {
    /// Line of its first row, the header being line 1.
    pub line: u64,
    /// The order.
    pub order: NewOrder,
    /// What the customer had paid when the file was written.
    pub payment: Option<ImportedPayment>,
}

/// A payment as it stood in a file.
#[derive(Debug, Clone)]
pub struct ImportedPayment {
    /// The provider, lower case.
    pub provider: String,
    /// The provider's id of the payment.
    pub provider_payment_id: String,
    /// When it was captured.
    pub paid_at: Option<DateTime<Utc>>,
}

/// An order, or a row, that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Line of the row at fault, the header being line 1.
    pub line: u64,
    /// The order's number where it could be read.
    pub number: String,
    /// What is wrong and which column it is.
    pub reason: String,
}

/// A file that holds nothing that could be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is not even a header.
    #[error("the file is empty: the first line must name the columns of a Shopify order export")]
    Empty,
    /// The header is not that of the format.
    #[error("line 1: not a Shopify order export, these columns are missing: {0}")]
    MissingColumns(String),
    /// More orders than one import takes.
    #[error("line {line}: more than {MAX_ORDERS} orders; split the file")]
    TooMany {
        /// Where the first order too many begins.
        line: u64,
    },
    /// The file could not be read.
    #[error("the file could not be read")]
    Read(#[from] std::io::Error),
    /// It is no table of text.
    #[error("the file could not be read as CSV")]
    Csv(#[from] csv::Error),
}
