//! Pages of orders, newest first: which orders stand on a page, and what they weigh.
//!
//! A page looks at a bounded number of orders. With a filter that few of them pass it may come out short, or empty, and
//! yet not be the last: then it says where the next one goes on. So no filter can make a query slow, and no index has to
//! be kept up for each.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_store::StoreError;

use crate::domain::goods::FulfillmentStatus;
use crate::domain::order::Tenant;
use crate::domain::payment::PaymentStatus;
use crate::domain::state::Status;

/// Orders that a page looks at, at most.
const LOOKED_AT: i64 = 5_000;

/// Which orders are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Of this status.
    pub status: Option<Status>,
    /// With this payment status.
    pub payment_status: Option<PaymentStatus>,
    /// With this fulfillment status.
    pub fulfillment_status: Option<FulfillmentStatus>,
    /// Placed at or after.
    pub placed_from: Option<DateTime<Utc>>,
    /// Placed before.
    pub placed_before: Option<DateTime<Utc>>,
}

/// The place of an order in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// The order.
    pub order_id: OrderId,
}

/// An order on a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// Where it stands.
    pub place: Place,
    /// Lines and shipping lines it has.
    pub lines: i64,
}

/// A page of keys.
#[derive(Debug)]
pub(crate) struct Page {
    /// The orders that pass the filter, newest first.
    pub listed: Vec<Listed>,
    /// Where the next page begins, when there may be one.
    pub goes_on_after: Option<Place>,
}

#[derive(sqlx::FromRow)]
struct Row {
    placed_at: DateTime<Utc>,
    order_id: Uuid,
    line_count: i32,
    passes: bool,
    seen: i64,
}

macro_rules! page {
    ($only:literal) => {
        concat!(
            "SELECT placed_at, order_id, line_count, passes, seen
             FROM (
                 SELECT placed_at, order_id, line_count,
                        ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR payment_status = $4)
                        AND ($5::text IS NULL OR fulfillment_status = $5) AS passes,
                        row_number() OVER (ORDER BY placed_at DESC, order_id DESC) AS seen
                 FROM orders
                 WHERE merchant_id = $1 AND store_id = $2 AND (placed_at, order_id) < ($6, $7) AND placed_at >= $8 ",
            $only,
            "    ORDER BY placed_at DESC, order_id DESC
                 LIMIT $9
             ) looked_at
             -- The last one looked at comes along to tell where to go on.
             WHERE passes OR seen = $9
             ORDER BY placed_at DESC, order_id DESC
             LIMIT $10"
        )
    };
}

/// The orders after a place in the list, at most `size`.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn page(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    filter: &Filter,
    after: Option<Place>,
    size: i64,
) -> Result<Page, StoreError> {
    // A literal condition, so that the planner sees that the small index will do.
    let unfinished = matches!(filter.status, Some(Status::Open | Status::OnHold));
    let query = if unfinished {
        page!("AND status IN ('OPEN', 'ON_HOLD')")
    } else {
        page!("")
    };
    // Behind a place, or before a time: no id is below the smallest.
    let (placed_at, order_id) = match after {
        Some(place) => (place.placed_at, place.order_id.uuid()),
        None => (filter.placed_before.unwrap_or(END_OF_TIME), Uuid::nil()),
    };
    let rows: Vec<Row> = sqlx::query_as(query)
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(filter.status.map(Status::as_str))
        .bind(filter.payment_status.map(PaymentStatus::as_str))
        .bind(filter.fulfillment_status.map(FulfillmentStatus::as_str))
        .bind(placed_at)
        .bind(order_id)
        .bind(filter.placed_from.unwrap_or(DateTime::UNIX_EPOCH))
        .bind(LOOKED_AT)
        // One more than fits tells that there is a next page.
        .bind(size + 1)
        .fetch_all(executor)
        .await?;
    Ok(cut(rows, size))
}

/// Lines and shipping lines of a tenant's orders, all together.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn weight(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    ids: &[OrderId],
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(sum(line_count), 0)::bigint FROM orders
         WHERE merchant_id = $1 AND store_id = $2 AND order_id = ANY($3)",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .fetch_one(executor)
    .await?)
}

/// Later than every order: the contract's timestamps end before.
const END_OF_TIME: DateTime<Utc> = DateTime::from_timestamp(253_402_300_800, 0).expect("a valid time");

fn cut(rows: Vec<Row>, size: i64) -> Page {
    let size = usize::try_from(size).unwrap_or(0);
    let mut page = Page {
        listed: Vec::with_capacity(rows.len().min(size)),
        goes_on_after: None,
    };
    for row in rows {
        let place = Place {
            placed_at: row.placed_at,
            order_id: row.order_id.into(),
        };
        if row.passes {
            if page.listed.len() == size {
                page.goes_on_after = page.listed.last().map(|listed| listed.place);
                break;
            }
            page.listed.push(Listed {
                place,
                lines: i64::from(row.line_count),
            });
        }
        if row.seen == LOOKED_AT {
            page.goes_on_after = Some(place);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u128, passes: bool, seen: i64) -> Row {
        Row {
            placed_at: DateTime::UNIX_EPOCH,
            order_id: Uuid::from_u128(n),
            line_count: 1,
            passes,
            seen,
        }
    }

    fn place(n: u128) -> Option<Place> {
        Some(Place {
            placed_at: DateTime::UNIX_EPOCH,
            order_id: Uuid::from_u128(n).into(),
        })
    }

    #[test]
    fn a_page_knows_whether_it_is_the_last() {
        let last = cut(vec![row(9, true, 1), row(8, true, 2)], 2);
        assert_eq!((last.listed.len(), last.goes_on_after), (2, None));
        let full = cut(vec![row(9, true, 1), row(8, true, 2), row(7, true, 40)], 2);
        assert_eq!((full.listed.len(), full.goes_on_after), (2, place(8)));
    }

    #[test]
    fn a_page_that_looked_at_enough_goes_on_where_it_stopped() {
        let short = cut(vec![row(9, true, 17), row(3, false, LOOKED_AT)], 2);
        assert_eq!((short.listed.len(), short.goes_on_after), (1, place(3)));
        let both = cut(vec![row(9, true, 17), row(3, true, LOOKED_AT)], 2);
        assert_eq!((both.listed.len(), both.goes_on_after), (2, place(3)));
        let full = cut(
            vec![row(9, true, 17), row(8, true, 18), row(3, true, LOOKED_AT)],
            2,
        );
        assert_eq!((full.listed.len(), full.goes_on_after), (2, place(8)));
    }
}
