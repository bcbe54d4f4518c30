//! Finding orders: which stand on a page, how many there are, and what they weigh.
//!
//! Two ways, one answer. What few orders have (a sku, a customer, a tag, the beginning of a text) is *gathered* by a narrow
//! index, checked and sorted. What many have is found by *walking* the index of the list's order. Either way a page looks at
//! no more than [`LOOKED_AT`] orders: a gathering that would need more is given up for the walk, and a walk that has seen
//! so many ends the page, short or even empty, and says where the next one goes on. So no filter can make a query slow.
//!
//! Statements are put together from the conditions that are set, so that the planner sees only those. Their number is
//! small. A caller's values are always bound; our own bounds are written out, for a plan is only right with them.

use chrono::DateTime;
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_store::StoreError;

use super::conditions::{Narrow, push_conditions, push_range, push_tenant};
use crate::domain::find::{By, Filter, Place, Sort};
use crate::domain::order::Tenant;
use crate::domain::state::Status;

/// Orders that a page looks at, at most.
const LOOKED_AT: i64 = 5_000;
/// How far a count goes.
const COUNTING: Counting = Counting {
    counted: 100_000,
    looked_at: 250_000,
};

/// How far a count goes.
#[derive(Debug, Clone, Copy)]
struct Counting {
    /// Orders that are counted, at most.
    counted: i64,
    /// Orders that are looked at, at most.
    looked_at: i64,
}

/// A statement being put together.
pub(super) type Sql = QueryBuilder<Postgres>;

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
    /// The orders that pass the filter, in the order of the list.
    pub listed: Vec<Listed>,
    /// Where the next page begins, when there may be one.
    pub goes_on_after: Option<Place>,
}

/// How many orders pass a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Those that were counted.
    pub found: i64,
    /// Whether there may be more.
    pub is_more: bool,
}

/// A part of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Whose orders.
    pub tenant: Tenant,
    /// Which of them.
    pub filter: &'a Filter,
    /// In which order.
    pub sort: Sort,
    /// Behind this place; from the beginning without one.
    pub after: Option<Place>,
    /// How many, at most.
    pub size: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    key: i64,
    order_id: Uuid,
    line_count: i32,
    passes: bool,
    seen: i64,
}

/// The next orders of a list.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn page(pool: &PgPool, part: Part<'_>) -> Result<Page, StoreError> {
    // At most a handful, and nearly always the first one answers.
    for narrow in Narrow::of(part.filter, part.sort.by) {
        if let Some(rows) = gather(pool, part, narrow).await? {
            return Ok(cut(rows, part.size));
        }
    }
    let mut sql = Sql::new("");
    walk(&mut sql, part);
    Ok(cut(sql.build_query_as().fetch_all(pool).await?, part.size))
}

/// How many orders pass a filter, as far as is counted.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn count(pool: &PgPool, tenant: Tenant, filter: &Filter) -> Result<Count, StoreError> {
    for narrow in Narrow::of(filter, By::Placed) {
        let mut sql = Sql::new("");
        count_gathered(&mut sql, tenant, filter, narrow, COUNTING);
        let found: Option<i64> = sql.build_query_scalar().fetch_one(pool).await?;
        if let Some(found) = found {
            return Ok(Count {
                found,
                is_more: false,
            });
        }
    }
    let mut sql = Sql::new("");
    count_walked(&mut sql, tenant, filter, COUNTING);
    let (found, seen): (i64, i64) = sql.build_query_as().fetch_one(pool).await?;
    Ok(Count {
        found: found.min(COUNTING.counted),
        is_more: found > COUNTING.counted || seen == COUNTING.looked_at,
    })
}

/// Lines and shipping lines of a tenant's orders, all together.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn weight(pool: &PgPool, tenant: Tenant, ids: &[OrderId]) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(sum(line_count), 0)::bigint FROM orders
         WHERE merchant_id = $1 AND store_id = $2 AND order_id = ANY($3)",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .fetch_one(pool)
    .await?)
}

#[derive(sqlx::FromRow)]
struct Gathered {
    candidates: i64,
    key: Option<i64>,
    order_id: Option<Uuid>,
    line_count: Option<i32>,
}

/// The orders that a narrow index names, checked and sorted; `None` when it names more than may be looked at.
async fn gather(pool: &PgPool, part: Part<'_>, narrow: Narrow) -> Result<Option<Vec<Row>>, StoreError> {
    let mut sql = Sql::new("");
    gathered(&mut sql, part, narrow);
    let rows: Vec<Gathered> = sql.build_query_as().fetch_all(pool).await?;
    if rows.iter().any(|row| row.candidates > LOOKED_AT) {
        return Ok(None);
    }
    let found = rows.into_iter().filter_map(|row| {
        Some(Row {
            key: row.key?,
            order_id: row.order_id?,
            line_count: row.line_count?,
            passes: true,
            // Nothing is left unseen behind them.
            seen: 0,
        })
    });
    Ok(Some(found.collect()))
}

/// The statement that gathers. It answers with one row at least, which says how many orders the index named; those are
/// looked up only when they are not too many. LATERAL with a LIMIT keeps the planner from reading all orders instead.
fn gathered(sql: &mut Sql, part: Part<'_>, narrow: Narrow) {
    sql.push("WITH candidates AS MATERIALIZED (");
    narrow.push_candidates(sql, part.tenant, part.filter, LOOKED_AT + 1);
    sql.push(
        ") SELECT n.candidates, f.key, f.order_id, f.line_count
          FROM (SELECT count(*) AS candidates FROM candidates) n
          LEFT JOIN LATERAL (SELECT ",
    );
    sql.push(key_of(part.sort.by, sorted(part.sort.by)));
    sql.push(
        " AS key, o.order_id, o.line_count
          FROM (SELECT DISTINCT order_id FROM candidates) c
          CROSS JOIN LATERAL (SELECT * FROM orders o WHERE o.order_id = c.order_id",
    );
    push_tenant(sql, "o", part.tenant);
    sql.push(format!(" LIMIT 1) o WHERE n.candidates <= {LOOKED_AT}"));
    push_conditions(sql, part.filter);
    push_beyond(sql, part.sort, part.after);
    push_order(sql, part.sort, sorted(part.sort.by), "o.order_id");
    push_limit(sql, part.size + 1);
    sql.push(") f ON true");
}

/// The statement that walks the index of the list's order. The last order looked at comes along to tell where to go on.
fn walk(sql: &mut Sql, part: Part<'_>) {
    let column = sorted(part.sort.by);
    sql.push("SELECT ");
    sql.push(key_of(part.sort.by, "sorted"));
    sql.push(" AS key, order_id, line_count, passes, seen FROM (SELECT ");
    sql.push(column);
    sql.push(" AS sorted, o.order_id, o.line_count, (true");
    push_conditions(sql, part.filter);
    sql.push(") AS passes, row_number() OVER (");
    push_order(sql, part.sort, column, "o.order_id");
    sql.push(") AS seen FROM orders o WHERE true");
    push_walked(sql, part.tenant, part.filter, part.sort.by);
    push_beyond(sql, part.sort, part.after);
    push_order(sql, part.sort, column, "o.order_id");
    sql.push(format!(
        " LIMIT {LOOKED_AT}) looked_at WHERE passes OR seen = {LOOKED_AT}"
    ));
    push_order(sql, part.sort, "sorted", "order_id");
    // One more than fits tells that there is a next page.
    push_limit(sql, part.size + 1);
}

/// The statement that counts what a narrow index names; NULL when it names more than is counted.
fn count_gathered(sql: &mut Sql, tenant: Tenant, filter: &Filter, narrow: Narrow, most: Counting) {
    sql.push("WITH candidates AS MATERIALIZED (");
    narrow.push_candidates(sql, tenant, filter, most.counted + 1);
    sql.push(
        ") SELECT f.found
          FROM (SELECT count(*) AS candidates FROM candidates) n
          LEFT JOIN LATERAL (
              SELECT count(*) AS found
              FROM (SELECT DISTINCT order_id FROM candidates) c
              CROSS JOIN LATERAL (SELECT * FROM orders o WHERE o.order_id = c.order_id",
    );
    push_tenant(sql, "o", tenant);
    sql.push(format!(" LIMIT 1) o WHERE n.candidates <= {}", most.counted));
    push_conditions(sql, filter);
    sql.push(format!(") f ON n.candidates <= {}", most.counted));
}

/// The statement that counts by walking, newest first: until enough were counted, or enough looked at.
fn count_walked(sql: &mut Sql, tenant: Tenant, filter: &Filter, most: Counting) {
    let Counting { counted, looked_at } = most;
    let sort = Sort::default();
    sql.push(
        "SELECT count(*) FILTER (WHERE passes), coalesce(max(seen), 0)
         FROM (SELECT passes, seen FROM (SELECT (true",
    );
    push_conditions(sql, filter);
    sql.push(") AS passes, row_number() OVER (");
    push_order(sql, sort, sorted(sort.by), "o.order_id");
    sql.push(") AS seen FROM orders o WHERE true");
    push_walked(sql, tenant, filter, sort.by);
    push_order(sql, sort, sorted(sort.by), "o.order_id");
    sql.push(format!(
        " LIMIT {looked_at}) looked_at WHERE passes OR seen = {looked_at} LIMIT {}) passed",
        counted + 1
    ));
}

/// What decides how far a walk goes: only what its index knows. Everything else is checked order by order.
fn push_walked(sql: &mut Sql, tenant: Tenant, filter: &Filter, by: By) {
    push_tenant(sql, "o", tenant);
    push_range(sql, filter, by);
    // A literal, so that the planner sees that the small index will do.
    if by == By::Placed && matches!(filter.status, Some(Status::Open | Status::OnHold)) {
        sql.push(" AND o.status IN ('OPEN', 'ON_HOLD')");
    }
}

const fn sorted(by: By) -> &'static str {
    match by {
        By::Placed => "o.placed_at",
        By::Total => "o.total_minor",
    }
}

/// What a column is as a key of a place.
fn key_of(by: By, column: &str) -> String {
    match by {
        By::Placed => format!("(extract(epoch FROM {column}) * 1000000)::bigint"),
        By::Total => column.to_owned(),
    }
}

fn push_order(sql: &mut Sql, sort: Sort, column: &str, id: &str) {
    let way = if sort.ascending { "ASC" } else { "DESC" };
    sql.push(format!(" ORDER BY {column} {way}, {id} {way}"));
}

fn push_limit(sql: &mut Sql, limit: i64) {
    sql.push(" LIMIT ");
    sql.push_bind(limit);
}

/// Only what stands behind a place.
fn push_beyond(sql: &mut Sql, sort: Sort, after: Option<Place>) {
    let Some(place) = after else { return };
    let sign = if sort.ascending { ">" } else { "<" };
    sql.push(format!(" AND ({}, o.order_id) {sign} (", sorted(sort.by)));
    match sort.by {
        // A token that was made up may hold any number; what is no time is taken for 1970.
        By::Placed => sql.push_bind(DateTime::from_timestamp_micros(place.key).unwrap_or_default()),
        By::Total => sql.push_bind(place.key),
    };
    sql.push(", ");
    sql.push_bind(place.order_id.uuid());
    sql.push(")");
}

fn cut(rows: Vec<Row>, size: i64) -> Page {
    let size = usize::try_from(size).unwrap_or(0);
    let mut page = Page {
        listed: Vec::with_capacity(rows.len().min(size)),
        goes_on_after: None,
    };
    for row in rows {
        let place = Place {
            key: row.key,
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
            key: 0,
            order_id: Uuid::from_u128(n),
            line_count: 1,
            passes,
            seen,
        }
    }

    fn place(n: u128) -> Option<Place> {
        Some(Place {
            key: 0,
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

#[cfg(test)]
#[path = "find_plans.rs"]
mod plans;
