//! Commands on the events of a log.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use clap::{Args, Subcommand};
use waybill_events::Position;

/// Commands on the events of a log.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Read a log in its order, from its beginning or from a place, up to now.
    ///
    /// With --json each event is one object on one line, its payload as JSON. The last line says where to go on: pass it as
    /// --resume, with the same filters, and nothing is missed or repeated.
    Read {
        /// The service whose log it is: order, fulfillment, refund, notification, analytics.
        service: String,
        /// Which events.
        #[command(flatten)]
        wanted: WantedArgs,
        /// The most to print; 0 for all.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Print what happens from now on, until Ctrl-C.
    ///
    /// With --from or --resume what is in the log since then comes first.
    Tail {
        /// The service whose log it is: order, fulfillment, refund, notification, analytics.
        service: String,
        /// Which events.
        #[command(flatten)]
        wanted: WantedArgs,
        /// End after as many.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
    },
}

/// Which events are wanted, and from where on.
#[derive(Debug, Clone, Default, Args)]
pub struct WantedArgs {
    /// Only events of this type, e.g. OrderPlaced, or its full name; may be repeated.
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Only events about this order: its id or its number, e.g. "#1004"; may be repeated.
    #[arg(long = "order", value_name = "ORDER")]
    pub orders: Vec<String>,
    /// Only events of this merchant's id.
    #[arg(long, value_name = "ID")]
    pub merchant: Option<String>,
    /// Only what happened at this time or later, in UTC: 2026-11-23, 2026-11-23T03:29 or 2026-11-23T03:29:21Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<DateTime<Utc>>,
    /// Only what happened before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub before: Option<DateTime<Utc>>,
    /// Begin after this place, as an earlier call printed it, e.g. 1.7402.311.
    #[arg(long, value_name = "PLACE")]
    pub resume: Option<Position>,
}

/// A time as people write it, in UTC unless it says otherwise.
fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let formats = [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ];
    let with_time = formats
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let day = || {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        day.and_hms_opt(0, 0, 0)
    };
    with_time
        .or_else(day)
        .map(|time| time.and_utc())
        .ok_or_else(|| "give a time like 2026-11-23, 2026-11-23T03:29 or 2026-11-23T03:29:21Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let at = |text: &str| moment(text).map(|time| time.to_rfc3339());
        assert_eq!(at("2026-11-23").as_deref(), Ok("2026-11-23T00:00:00+00:00"));
        assert_eq!(at("2026-11-23T03:29").as_deref(), Ok("2026-11-23T03:29:00+00:00"));
        assert_eq!(
            at("2026-11-23 03:29:21").as_deref(),
            Ok("2026-11-23T03:29:21+00:00")
        );
        assert_eq!(
            at("2026-11-23T03:29:21+02:00").as_deref(),
            Ok("2026-11-23T01:29:21+00:00")
        );
        for text in ["", "yesterday", "23.11.2026", "2026-13-01", "2026-11-23T25:00"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
