//! A month of a real retailer, day by day, through the same path as every order: placed, paid, shipped, delivered, and what
//! the customers sent back taken back and paid back. Runs where the shared data are; else says that it does not.
//!
//! What the services say is compared with sums that are computed here, straight from the rows of the file.

mod checks;
mod day;
mod expected;
mod imported;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::Context as _;
use chrono::{DateTime, Days, NaiveDate, Utc};
use waybill_cli::stack::Options;
use waybill_e2e::orders::minor;
use waybill_e2e::retail::{self, Invoice, Purchases};
use waybill_e2e::shop::{Shop, policy};
use waybill_kernel::time::FakeClock;
use waybill_proto::waybill::order::v1::NewOrderLine;
use waybill_proto::waybill::refund::v1::{ReturnPolicy, WindowStart};

use crate::checks::{every_row_has_an_end, figures, money_went_back, orders_ended, tell};
use crate::expected::Expected;

/// What became of the file.
#[derive(Default)]
struct Story {
    /// Ids of the orders, by invoice.
    orders: HashMap<String, String>,
    /// Why an invoice is no order, by invoice.
    refused: BTreeMap<String, String>,
    /// Units that came back, by row of the file.
    back: BTreeMap<u64, i64>,
    /// Units that did not, and why, by row of the file.
    kept: BTreeMap<u64, (i64, String)>,
}

/// What the reader makes of the file and what is computed from it here agree, before any service is asked.
#[test]
fn the_file_is_read_as_it_stands() -> anyhow::Result<()> {
    let Some(file) = retail::file()? else {
        return Ok(());
    };
    let text = retail::text(&file)?;
    let (mut story, mut purchases) = (Story::default(), Purchases::default());
    let invoices = retail::invoices(&text)?;
    for invoice in &invoices {
        if invoice.is_cancellation() {
            for row in &invoice.rows {
                let taken = purchases.take_back(row);
                story
                    .back
                    .insert(row.line, taken.back.iter().map(|back| back.units).sum());
                story
                    .kept
                    .extend(taken.refused.map(|refused| (row.line, refused)));
            }
            continue;
        }
        match retail::order(invoice) {
            Ok(order) if order.lines.iter().all(|line| line.quantity > 0) => {
                let line = |(at, line): (usize, &NewOrderLine)| {
                    (
                        at.to_string(),
                        line.sku.clone(),
                        line.quantity,
                        minor(line.unit_price.as_ref()),
                    )
                };
                let lines: Vec<_> = order.lines.iter().enumerate().map(line).collect();
                purchases.note(invoice, &invoice.number, &lines);
                story
                    .orders
                    .insert(invoice.number.clone(), invoice.number.clone());
            }
            Ok(_) => {
                _ = story
                    .refused
                    .insert(invoice.number.clone(), "units below zero".to_owned())
            }
            Err(why) => _ = story.refused.insert(invoice.number.clone(), why),
        }
    }
    every_row_has_an_end(&invoices, &story)?;
    Expected::from_file(&text)?.compare(&story)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_of_a_real_retailer() -> anyhow::Result<()> {
    let Some(file) = retail::file()? else {
        eprintln!("skipped: there is no ../shared/data, and WAYBILL_SHARED_DATA is not set");
        return Ok(());
    };
    let started = Instant::now();
    let text = retail::text(&file)?;
    let invoices = retail::invoices(&text)?;
    let first = invoices.first().context("an empty file")?.at();
    let clock = FakeClock::new(first);
    let options = Options {
        demo: true,
        clock: Some(clock.shared()),
        ..Options::default()
    };
    let policy = ReturnPolicy {
        window_days: 36_500,
        window_start: WindowStart::Purchase.into(),
        ..policy()
    };
    let shop = Shop::open_with(options, policy).await?;
    shop.stock(shelves(&invoices)).await?;

    let mut story = Story::default();
    let mut purchases = Purchases::default();
    let mut rest = &invoices[..];
    while let Some(day) = rest.first().map(|invoice| invoice.at().date_naive()) {
        let count = rest
            .iter()
            .take_while(|invoice| invoice.at().date_naive() == day)
            .count();
        let (today, later) = rest.split_at(count);
        rest = later;
        clock.set(end_of(day)?);
        day::run(&shop, today, &mut story, &mut purchases)
            .await
            .with_context(|| format!("on {day}"))?;
        eprintln!(
            "{day}: {} orders after {:.1} s",
            story.orders.len(),
            started.elapsed().as_secs_f64()
        );
    }

    every_row_has_an_end(&invoices, &story)?;
    let expected = Expected::from_file(&text)?;
    expected.compare(&story)?;
    orders_ended(&shop, &story).await?;
    money_went_back(&shop, &expected).await?;
    figures(&shop, &expected).await?;
    tell(&story, &expected, started);
    shop.close().await
}

/// As much of every article as all customers together buy.
fn shelves(invoices: &[Invoice]) -> BTreeMap<String, i64> {
    let mut shelves = BTreeMap::new();
    let orders = invoices
        .iter()
        .filter(|invoice| !invoice.is_cancellation())
        .filter_map(|one| retail::order(one).ok());
    for line in orders
        .flat_map(|order| order.lines)
        .filter(|line| !line.digital && line.quantity > 0)
    {
        *shelves.entry(line.sku).or_default() += i64::from(line.quantity);
    }
    shelves
}

fn end_of(day: NaiveDate) -> anyhow::Result<DateTime<Utc>> {
    let next = day.checked_add_days(Days::new(1)).context("the end of time")?;
    Ok(next.and_time(chrono::NaiveTime::MIN).and_utc() - chrono::TimeDelta::seconds(60))
}
