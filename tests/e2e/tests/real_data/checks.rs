//! What the services say at the end, compared with what must come out.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::ensure;
use chrono::{DateTime, Utc};
use waybill_e2e::orders::minor;
use waybill_e2e::retail::Invoice;
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_proto::waybill::analytics::v1::{DailyFigures, ListDailyFiguresRequest, Period};
use waybill_proto::waybill::order::v1::{ListOrdersRequest, OrderStatus};
use waybill_proto::waybill::refund::v1::{GetTrialBalanceRequest, ListReturnsRequest, Return, ReturnState};

use crate::Story;
use crate::expected::{Day, Expected};

/// No invoice and no unit is lost: each became something, or has a reason why not.
pub fn every_row_has_an_end(invoices: &[Invoice], story: &Story) -> anyhow::Result<()> {
    for invoice in invoices {
        let number = &invoice.number;
        if !invoice.is_cancellation() {
            let ends = (
                story.orders.contains_key(number),
                story.refused.get(number).is_some_and(|why| !why.is_empty()),
            );
            ensure!(
                ends.0 != ends.1,
                "invoice {number} is an order and refused, or neither"
            );
            continue;
        }
        for row in &invoice.rows {
            let back = story.back.get(&row.line).copied().unwrap_or_default();
            let (kept, why) = story.kept.get(&row.line).cloned().unwrap_or_default();
            ensure!(
                back + kept == -row.quantity,
                "line {}: {back} back and {kept} refused of {}",
                row.line,
                -row.quantity
            );
            ensure!(
                kept == 0 || !why.is_empty(),
                "line {}: {kept} units were refused without a reason",
                row.line
            );
        }
    }
    Ok(())
}

/// Every order is paid, delivered and completed.
pub async fn orders_ended(shop: &Shop, story: &Story) -> anyhow::Result<()> {
    wait::until("the end of all orders", || async {
        let request = ListOrdersRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            page_size: 1,
            status: OrderStatus::Open.into(),
            ..ListOrdersRequest::default()
        };
        let page = shop.session.orders()?.list_orders(request).await?.into_inner();
        Ok(page.orders.is_empty().then_some(()))
    })
    .await?;
    let (mut completed, mut page_token) = (0, String::new());
    loop {
        let request = ListOrdersRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            page_size: 20,
            page_token,
            status: OrderStatus::Completed.into(),
            ..ListOrdersRequest::default()
        };
        let page = shop.session.orders()?.list_orders(request).await?.into_inner();
        completed += page.orders.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ensure!(
        completed == story.orders.len(),
        "{completed} of {} orders are completed",
        story.orders.len()
    );
    Ok(())
}

/// What the provider paid back is what the file gives back; the books agree.
pub async fn money_went_back(shop: &Shop, expected: &Expected) -> anyhow::Result<()> {
    let ledger = shop.stack.payments().ledger();
    let paid: i64 = ledger
        .iter()
        .filter(|entry| entry.is_paid())
        .map(|entry| entry.amount)
        .sum();
    ensure!(
        paid == expected.refunded(),
        "the provider paid back {paid}, the file gives back {}",
        expected.refunded()
    );
    let (mut returns, mut page_token): (Vec<Return>, String) = (Vec::new(), String::new());
    loop {
        let request = ListReturnsRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            page_size: 200,
            page_token,
            ..ListReturnsRequest::default()
        };
        let page = shop.session.refunds()?.list_returns(request).await?.into_inner();
        returns.extend(page.returns);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ensure!(
        returns.len() == ledger.len(),
        "{} returns and {} refunds",
        returns.len(),
        ledger.len()
    );
    ensure!(
        returns.iter().all(|one| one.state() == ReturnState::Completed),
        "a return has not ended"
    );
    let units: i64 = returns
        .iter()
        .flat_map(|one| &one.lines)
        .map(|line| i64::from(line.quantity))
        .sum();
    let wanted: i64 = expected.back.values().sum();
    ensure!(units == wanted, "{units} units came back, the file has {wanted}");
    let request = GetTrialBalanceRequest {
        merchant_id: shop.session.merchant_id.clone(),
    };
    ensure!(
        shop.session
            .refunds()?
            .get_trial_balance(request)
            .await?
            .into_inner()
            .balanced,
        "the books are off"
    );
    Ok(())
}

/// Analytics say of every day what the file says.
pub async fn figures(shop: &Shop, expected: &Expected) -> anyhow::Result<()> {
    let at = |text: &str| -> anyhow::Result<Option<prost_types::Timestamp>> {
        Ok(Some(prost_types::Timestamp {
            seconds: text.parse::<DateTime<Utc>>()?.timestamp(),
            nanos: 0,
        }))
    };
    let period = Period {
        from: at("2010-12-01T00:00:00Z")?,
        before: at("2011-01-01T00:00:00Z")?,
        time_zone: "UTC".to_owned(),
    };
    let ask = || async {
        let request = ListDailyFiguresRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            period: Some(period.clone()),
        };
        let answer = shop
            .session
            .analytics()?
            .list_daily_figures(request)
            .await?
            .into_inner();
        let day = |day: DailyFigures| {
            let (orders, refunds) = (day.orders.unwrap_or_default(), day.refunds.unwrap_or_default());
            let figures = Day {
                orders: orders.orders,
                units: orders.units,
                gross: minor(orders.gross_sales.as_ref()),
                refunded: minor(refunds.refunded.as_ref()),
            };
            (day.day, figures)
        };
        anyhow::Ok(answer.days.into_iter().map(day).collect::<BTreeMap<_, _>>())
    };
    let settled = wait::until("the figures of the month", || async {
        let found = ask().await?;
        Ok((found == expected.days).then_some(()))
    });
    if let Err(error) = settled.await {
        let found = ask().await?;
        let day = expected
            .days
            .iter()
            .find(|(day, figures)| found.get(*day) != Some(figures));
        return Err(error.context(format!(
            "expected {day:?}, found {:?}",
            day.and_then(|(day, _)| found.get(day))
        )));
    }
    Ok(())
}

/// For whoever runs the test with `--nocapture`.
pub fn tell(story: &Story, expected: &Expected, started: Instant) {
    let mut reasons: BTreeMap<String, (usize, i64)> = BTreeMap::new();
    // Without line and numbers, so that what is the same is counted together.
    let kind = |why: &str| -> String {
        let why = why
            .strip_prefix("line ")
            .and_then(|why| why.split_once(": "))
            .map_or(why, |(_, why)| why);
        why.split(' ')
            .map(|word| {
                if word.contains(|c: char| c.is_ascii_digit()) {
                    "…"
                } else {
                    word
                }
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    for why in story.refused.values() {
        reasons.entry(kind(why)).or_default().0 += 1;
    }
    for (units, why) in story.kept.values() {
        let entry = reasons.entry(kind(why)).or_default();
        *entry = (entry.0 + 1, entry.1 + units);
    }
    let sum: Day = expected.days.values().fold(Day::default(), |sum, day| Day {
        orders: sum.orders + day.orders,
        units: sum.units + day.units,
        gross: sum.gross + day.gross,
        refunded: sum.refunded + day.refunded,
    });
    eprintln!("{sum:?} in {:.1} s", started.elapsed().as_secs_f64());
    eprintln!(
        "{} units came back; refused, by reason:",
        story.back.values().sum::<i64>()
    );
    for (why, (count, units)) in reasons {
        eprintln!("  {count:>4} ({units:>6} units): {why}");
    }
}
