//! Customers: what `waybill customers export|erase|erasure` can be asked.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Commands on customers.
#[derive(Debug, Subcommand)]
pub enum CustomersCommand {
    /// Hand out everything that all services have of a customer, a line of JSON each.
    ///
    /// First of each order the order itself with contact and pseudonym, then what the other services have of it: timeline,
    /// shipments with what carriers said, returns, refunds, notifications. Orders that are being made come
    /// before all that. An export that broke names the cursor to go on
    /// from.
    Export {
        /// Who.
        #[command(flatten)]
        customer: CustomerArgs,
        /// The file to write, readable by its owner only; standard output when not given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Go on behind this cursor, which an export that broke names; the file is written on.
        #[arg(long, default_value = "", hide_default_value = true)]
        cursor: String,
    },
    /// Forget a customer. Cannot be undone.
    ///
    /// What was sold, paid and paid back stays, without the person. Orders that still need the person are listed, and are
    /// erased by themselves as soon as they no longer do.
    Erase {
        /// Who.
        #[command(flatten)]
        customer: CustomerArgs,
        /// Say that you mean it.
        #[arg(long)]
        yes: bool,
        /// Makes the command safe to repeat; a new one when not given, which is printed if the command fails.
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// How far an erasure is.
    Erasure {
        /// The erasure's id.
        erasure_id: String,
    },
}

/// Who a customer is.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct CustomerArgs {
    /// The customer with this e-mail address.
    #[arg(long)]
    pub email: Option<String>,
    /// The customer with this id in the merchant's system.
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    /// The customer who placed this order: its id or its number.
    #[arg(long)]
    pub order: Option<String>,
}
