//! How the consumers of a service are: state, lag, what they keep, who works. Reads only; the same answer in every replica.

use std::sync::Arc;
use std::time::Duration;

use waybill_kernel::partition::PARTITIONS;
use waybill_store::Db;
use waybill_store::error::StoreError;

use crate::fold::Operated;
use crate::position::Position;
use crate::reader::SourceLog;
use crate::relay::in_words;
use crate::store::fold;
use crate::store::operate::{self as sql, Backlog, LeaseRow, Stop};

/// Counting a lag ends at so many events a partition: what lies far behind need not be counted to the last.
pub(crate) const MOST_COUNTED: i64 = 10_000;

/// How long a producer may take to tell how much lies behind a place.
const PRODUCER_TIMEOUT: Duration = Duration::from_secs(3);

/// A consumer as it is.
#[derive(Debug)]
pub(crate) struct Overview {
    pub consumer: &'static str,
    pub stop: Option<Stop>,
    pub sources: Vec<SourceOverview>,
    pub backlog: Backlog,
    pub leases: Vec<LeaseRow>,
    pub members: Vec<(String, chrono::DateTime<chrono::Utc>)>,
}

/// How far a consumer is in one log.
#[derive(Debug)]
pub(crate) struct SourceOverview {
    pub source: Arc<str>,
    pub taken: i64,
    /// What lies before it, or why that is not known; nothing when it was not asked for.
    pub lag: Option<Result<Vec<PartitionLag>, String>>,
}

/// What lies before a consumer in one log.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct LagSum {
    pub events: i64,
    pub more: bool,
    /// Age of the oldest.
    pub seconds: f64,
}

impl LagSum {
    /// The sum over partitions.
    pub fn of(lags: &[PartitionLag]) -> LagSum {
        LagSum {
            events: lags.iter().map(|lag| lag.events).sum(),
            more: lags.iter().any(|lag| lag.more),
            seconds: lags.iter().map(|lag| lag.seconds).fold(0.0, f64::max),
        }
    }
}

/// What lies before a consumer in one virtual partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PartitionLag {
    pub partition: u16,
    pub events: i64,
    pub more: bool,
    pub seconds: f64,
}

/// How a consumer is.
pub(crate) async fn overview_of(
    db: &Db,
    consumer: &dyn Operated,
    with_lag: bool,
) -> Result<Overview, StoreError> {
    let name = consumer.name();
    let names = [name];
    let (stops, backlog, leases, members, sources) = tokio::try_join!(
        sql::stops(db.pool(), &names),
        sql::backlog(db.pool(), name),
        sql::leases(db.pool(), name),
        sql::members(db.pool(), name),
        sources(db, consumer, with_lag),
    )?;
    Ok(Overview {
        consumer: name,
        stop: stops.into_iter().next(),
        sources,
        backlog,
        leases,
        members,
    })
}

async fn sources(
    db: &Db,
    consumer: &dyn Operated,
    with_lag: bool,
) -> Result<Vec<SourceOverview>, StoreError> {
    let names: Vec<&str> = consumer.logs().iter().map(|(source, _)| &**source).collect();
    let everything: Vec<u16> = (0..PARTITIONS).collect();
    let rows = fold::cursors(db.pool(), consumer.name(), &names, &everything).await?;
    let of_each = consumer.logs().iter().map(|(source, log)| {
        let mut places: Vec<(u16, Position)> = (0..PARTITIONS).map(|p| (p, Position::ZERO)).collect();
        let mut taken = 0;
        for row in rows.iter().filter(|row| *row.source == **source) {
            places[usize::from(row.vpartition)].1 = row.cursor.position;
            taken += row.cursor.count;
        }
        async move {
            let lag = match with_lag {
                true => Some(lag(log.as_ref(), places).await),
                false => None,
            };
            SourceOverview {
                source: Arc::clone(source),
                taken,
                lag,
            }
        }
    });
    Ok(futures_util::future::join_all(of_each).await)
}

/// What lies behind some places in a log, or why that is not known.
async fn lag(log: Option<&SourceLog>, places: Vec<(u16, Position)>) -> Result<Vec<PartitionLag>, String> {
    let Some(log) = log else {
        return Err("the producer's address is not configured".to_owned());
    };
    match tokio::time::timeout(PRODUCER_TIMEOUT, log.lag(places, MOST_COUNTED)).await {
        Ok(Ok(lags)) => Ok(lags),
        Ok(Err(error)) => Err(in_words(&error)),
        Err(_) => Err(format!("no answer within {} s", PRODUCER_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_as_old_as_its_oldest_and_as_open_as_its_most_open() {
        let lag = |events, more, seconds| PartitionLag {
            partition: 0,
            events,
            more,
            seconds,
        };
        assert_eq!(LagSum::of(&[]), LagSum::default());
        let sum = LagSum::of(&[lag(3, false, 1.5), lag(10, true, 0.5)]);
        assert_eq!((sum.events, sum.more, sum.seconds), (13, true, 1.5));
    }
}
