//! Importing orders: what `waybill import` can be asked.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// Which file is imported, and how.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// The file.
    pub file: PathBuf,
    /// What is in it; by its name when not given: .jsonl and .ndjson are JSON Lines, anything else is Shopify's CSV.
    #[arg(long, value_enum)]
    pub format: Option<FormatArg>,
    /// The key of the import. With that of an import that was stopped, it goes on where it was; a fresh one when not given.
    #[arg(long, value_name = "ID")]
    pub import_id: Option<String>,
    /// Take the orders, but do not record the payments the file tells of.
    #[arg(long)]
    pub without_payments: bool,
}

/// How the orders of a file are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Shopify's order export.
    Csv,
    /// A line of protobuf JSON for each order.
    Jsonl,
}

impl FormatArg {
    /// What a file's name says.
    #[must_use]
    pub fn of(file: &Path) -> FormatArg {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson") => FormatArg::Jsonl,
            _ => FormatArg::Csv,
        }
    }
}
