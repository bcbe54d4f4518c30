//! `waybill drafts …`: the help.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

/// Commands on orders that are being made.
#[derive(Debug, Subcommand)]
pub enum DraftsCommand {
    /// Say what an order would cost and what is missing; keep nothing.
    ///
    /// FILE holds one waybill.order.v1.NewOrder in protobuf JSON, such as {"currencyCode": "EUR", "lines": [{"sku": "MUG",
    /// "quantity": 1, "unitPrice": {"currencyCode": "EUR", "minorUnits": "995"}}]}. It need not be complete.
    Price {
        /// The order; "-" is standard input.
        file: PathBuf,
    },
    /// Keep an order that is being made.
    Create {
        /// What is known of it, as for `waybill drafts price`; "-" is standard input.
        file: PathBuf,
    },
    /// The drafts of the store, newest first.
    List {
        /// Only those that stand there.
        #[arg(long, value_enum)]
        status: Option<DraftStatusArg>,
        /// The most drafts to print.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// A draft, with what it costs and what is missing.
    Show {
        /// The draft's id.
        draft_id: String,
    },
    /// Replace what is known of a draft.
    Update {
        /// The draft's id.
        draft_id: String,
        /// All that is known of it from now on; "-" is standard input.
        file: PathBuf,
        /// Only if the draft still has this etag, which `waybill drafts show` prints.
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
    /// Make an order of a draft, at the price that was shown.
    Place {
        /// The draft's id.
        draft_id: String,
        /// The etag that was shown with the price.
        #[arg(long)]
        etag: String,
    },
    /// Forget a draft.
    Delete {
        /// The draft's id.
        draft_id: String,
        /// Only if the draft still has this etag.
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
}

/// Where a draft stands.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DraftStatusArg {
    /// It may be changed, placed and deleted.
    Open,
    /// It has become an order.
    Placed,
}
