//! `waybill orders timeline|rebuild`: the help.

use chrono::{DateTime, Utc};
use clap::Args;

use super::OrderRef;
use super::orders::time;

/// What of a timeline is shown.
#[derive(Debug, Args)]
pub struct TimelineArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// Check that every entry is as it was written, and none is missing or was put in. The exit code is 0 only then.
    ///
    /// Shows the entries in the order in which they were learned, with who caused them and why, and the end of the chain: note
    /// it elsewhere, and give it back later with --noted.
    #[arg(long)]
    pub verify: bool,
    /// The end of the chain as it was noted once: the chain must still pass through it.
    #[arg(long, requires = "verify", value_name = "SEQUENCE:HASH", value_parser = noted)]
    pub noted: Option<(i64, String)>,
}

/// As of when an order is made again.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// As it was known at this time: a day, which begins at midnight in UTC, or a time like 2026-01-31T12:00:00Z.
    #[arg(long, value_parser = time, value_name = "TIME", conflicts_with = "version")]
    pub at: Option<DateTime<Utc>>,
    /// As it was when this version had just been made.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..), value_name = "N")]
    pub version: Option<i64>,
}

fn noted(text: &str) -> Result<(i64, String), String> {
    let parts = text
        .split_once(':')
        .and_then(|(sequence, hash)| Some((sequence.parse().ok()?, hash.to_owned())));
    parts.ok_or_else(|| "give the number and the hash that --verify printed, like 12:5f3c…".to_owned())
}

#[cfg(test)]
mod tests {
    use super::noted;

    #[test]
    fn an_end_is_a_number_and_a_hash() {
        assert_eq!(noted("12:5f"), Ok((12, "5f".to_owned())));
        assert!(noted("12").is_err() && noted("x:5f").is_err());
    }
}
