//! How the database goes about each statement of lists, searches, counts and exports, at a size at which a wrong plan costs.
//!
//! Plans are made twice: for the values at hand, and for whatever values, since the server may keep a statement's plan.

use sqlx::{PgConnection, Row as _};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::money::Currency;

use super::*;
use crate::domain::payment::PaymentStatus;
use crate::domain::returns::ReturnStatus;
use crate::store::plans::{generic, many, tables};

/// Orders of the store that is asked, and of another one.
const ORDERS: i64 = 200_000;
const OTHERS: i64 = 20_000;

/// How far a count goes: to the table here what the real bounds are to five million orders. A count of half of a table does
/// well to read it from end to end.
const COUNTING_HERE: Counting = Counting {
    counted: COUNTING.counted * ORDERS / 5_000_000,
    looked_at: COUNTING.looked_at * ORDERS / 5_000_000,
};

/// The tables that a plan must not read from end to end.
const LARGE: [&str; 4] = ["orders", "order_lines", "order_contacts", "order_tags"];

/// The filters, each by the name that a failure shows.
fn filters() -> Vec<(&'static str, Filter)> {
    let of = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    let euro = |f: &mut Filter| f.currency = Currency::parse("EUR").ok();
    let mut range = of(|f| (f.total_from, f.total_to) = (Some(150_000), Some(151_000)));
    euro(&mut range);
    let mut from = of(|f| f.total_from = Some(1));
    euro(&mut from);
    vec![
        ("everything", Filter::default()),
        ("open", of(|f| f.status = Some(Status::Open))),
        ("cancelled", of(|f| f.status = Some(Status::Cancelled))),
        (
            "paid, which none is",
            of(|f| f.payment_status = Some(PaymentStatus::Paid)),
        ),
        (
            "returned, which none is",
            of(|f| f.return_status = Some(ReturnStatus::Returned)),
        ),
        (
            "placed in a day",
            of(|f| {
                f.placed_from = DateTime::from_timestamp(1_740_000_000, 0);
                f.placed_before = DateTime::from_timestamp(1_740_086_400, 0);
            }),
        ),
        (
            "updated",
            of(|f| f.updated_from = DateTime::from_timestamp(1_740_830_500, 0)),
        ),
        ("a common sku", of(|f| f.sku = Some("COMMON".into()))),
        ("a rare sku", of(|f| f.sku = Some("SKU-17".into()))),
        ("no sku", of(|f| f.sku = Some("SKU-X".into()))),
        (
            "an address",
            of(|f| f.customer_email = Some("buyer17@example.org".into())),
        ),
        ("an id", of(|f| f.customer_external_id = Some("cust-17".into()))),
        ("a frequent tag", of(|f| f.tag = Some("often".into()))),
        ("a rare tag", of(|f| f.tag = Some("seldom".into()))),
        ("a range of totals", range),
        ("nearly all totals", from),
        ("a text few have", of(|f| f.text = Some("nr17".into()))),
        ("a text all have", of(|f| f.text = Some("b".into()))),
        ("a text none has", of(|f| f.text = Some("qq".into()))),
        (
            "several at once",
            of(|f| {
                f.sku = Some("COMMON".into());
                f.tag = Some("often".into());
                f.status = Some(Status::Open);
                f.customer_email = Some("buyer17@example.org".into());
            }),
        ),
    ]
}

/// Writes a statement.
type Write<'a> = Box<dyn Fn(&mut Sql) + 'a>;

/// Every statement there can be for a filter, by name.
fn statements(tenant: Tenant, filter: &Filter) -> Vec<(String, Write<'_>)> {
    let mut all: Vec<(String, Write<'_>)> = Vec::new();
    for by in [By::Placed, By::Total] {
        if by == By::Total && filter.currency.is_none() {
            continue;
        }
        for ascending in [false, true] {
            let key = if by == By::Total {
                100_000
            } else {
                1_735_000_000_000_000
            };
            let place = Place {
                key,
                order_id: OrderId::generate(),
            };
            for after in [None, Some(place)] {
                let part = Part {
                    tenant,
                    filter,
                    sort: Sort { by, ascending },
                    after,
                    size: 50,
                };
                let name = format!("{by:?}, ascending {ascending}, on {}", after.is_some());
                all.push((format!("walk {name}"), Box::new(move |sql| walk(sql, part))));
                for narrow in Narrow::of(filter, by) {
                    all.push((
                        format!("gather {narrow:?} {name}"),
                        Box::new(move |sql| gathered(sql, part, narrow)),
                    ));
                }
            }
        }
    }
    all.push((
        "count by walking".into(),
        Box::new(move |sql| count_walked(sql, tenant, filter, COUNTING_HERE)),
    ));
    for narrow in Narrow::of(filter, By::Placed) {
        all.push((
            format!("count {narrow:?}"),
            Box::new(move |sql| count_gathered(sql, tenant, filter, narrow, COUNTING_HERE)),
        ));
    }
    all
}

/// The plan of a statement: with its values, or for any.
async fn plan(
    tables: &mut PgConnection,
    build: &dyn Fn(&mut Sql),
    values: bool,
) -> Result<String, sqlx::Error> {
    let mut sql = Sql::new(if values { "EXPLAIN " } else { "" });
    build(&mut sql);
    if !values {
        return generic(tables, sql.sql().as_str()).await;
    }
    let rows = sql.build().fetch_all(tables).await?;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}

fn reads_all_of(plan: &str) -> Option<&'static str> {
    LARGE.into_iter().find(|table| {
        plan.lines().any(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != "Seq");
            words.next().is_some()
                && words.next() == Some("Scan")
                && words.next() == Some("on")
                && words.next() == Some(table)
        })
    })
}

#[tokio::test]
async fn no_statement_reads_a_large_table_from_end_to_end() -> Result<(), Box<dyn std::error::Error>> {
    let (_place, mut tables) = tables().await;
    let tenant = Tenant {
        merchant: MerchantId::generate(),
        store: StoreId::generate(),
    };
    many::fill(
        &mut tables,
        tenant.merchant.uuid(),
        StoreId::generate().uuid(),
        OTHERS,
    )
    .await;
    many::fill(&mut tables, tenant.merchant.uuid(), tenant.store.uuid(), ORDERS).await;

    let mut looked_at = 0;
    for (name, filter) in filters() {
        for (statement, build) in statements(tenant, &filter) {
            for values in [true, false] {
                let plan = plan(&mut tables, &build, values).await?;
                assert_eq!(
                    reads_all_of(&plan),
                    None,
                    "{name}: {statement}, its values {values}\n{plan}"
                );
                looked_at += 1;
            }
        }
    }
    // Were a way of finding left out above, nobody would see it.
    assert!(looked_at > 300, "only {looked_at} plans were looked at");
    Ok(())
}

#[test]
fn a_plan_that_reads_everything_is_recognised() {
    assert_eq!(
        reads_all_of("Limit\n  ->  Parallel Seq Scan on orders o  (cost=1)"),
        Some("orders")
    );
    assert_eq!(
        reads_all_of("Limit\n  ->  Seq Scan on order_tags  (cost=1)"),
        Some("order_tags")
    );
    assert_eq!(reads_all_of("Index Scan using orders_newest on orders o"), None);
}
