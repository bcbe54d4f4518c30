//! Finding orders: what `waybill orders list|search|count|export` can be asked.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::{Args, ValueEnum};

/// Which orders: those that pass everything that is set.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Only orders of this status.
    #[arg(long, value_enum)]
    pub status: Option<StatusArg>,
    /// Only with this payment status, e.g. paid or partially-refunded.
    #[arg(long, value_name = "STATUS")]
    pub payment: Option<String>,
    /// Only with this fulfillment status, e.g. unfulfilled or delivered.
    #[arg(long, value_name = "STATUS")]
    pub fulfillment: Option<String>,
    /// Only with this return status, e.g. requested.
    #[arg(long, value_name = "STATUS")]
    pub returns: Option<String>,
    /// Only placed at or after: a day, or a time like 2026-01-31T12:00:00Z.
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub placed_from: Option<DateTime<Utc>>,
    /// Only placed before.
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub placed_before: Option<DateTime<Utc>>,
    /// Only changed at or after.
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub updated_from: Option<DateTime<Utc>>,
    /// Only changed before.
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub updated_before: Option<DateTime<Utc>>,
    /// Only of the customer with this id in the merchant's system.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    pub customer: String,
    /// Only of the customer with this e-mail address.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub email: String,
    /// Only with a line of this sku.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub sku: String,
    /// Only with this tag.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub tag: String,
    /// Only in this currency, e.g. EUR.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "CODE")]
    pub currency: String,
    /// Only with a total of at least this, e.g. 12.50; with --currency.
    #[arg(long, requires = "currency", value_name = "AMOUNT")]
    pub total_from: Option<String>,
    /// Only with a total of at most this; with --currency.
    #[arg(long, requires = "currency", value_name = "AMOUNT")]
    pub total_to: Option<String>,
}

/// Where an order as a whole stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusArg {
    /// Being worked on.
    Open,
    /// Stopped.
    OnHold,
    /// Cancelled.
    Cancelled,
    /// Paid and delivered.
    Completed,
}

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum SortArg {
    /// Newest first.
    #[default]
    PlacedDesc,
    /// Oldest first.
    PlacedAsc,
    /// Highest total first; with --currency.
    TotalDesc,
    /// Lowest total first; with --currency.
    TotalAsc,
}

/// A day, which begins at midnight in UTC, or a time.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = text
        .parse::<NaiveDate>()
        .map(|day| day.and_time(NaiveTime::MIN).and_utc());
    day.or_else(|_| text.parse::<DateTime<Utc>>())
        .map_err(|_| "give a day like 2026-01-31, or a time like 2026-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn a_day_is_its_midnight() {
        assert_eq!(time("2026-01-31"), time("2026-01-31T00:00:00Z"));
        assert_eq!(time("2026-01-31T01:00:00+01:00"), time("2026-01-31"));
        assert!(time("yesterday").is_err());
    }
}
