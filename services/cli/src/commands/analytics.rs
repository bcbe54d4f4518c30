//! `waybill analytics …`

use chrono::{Duration, NaiveDate, NaiveTime, Utc};
use waybill_proto::waybill::analytics::v1::{
    GetSummaryRequest, ListCycleTimesRequest, ListDailyFiguresRequest, ListRefundReasonsRequest,
    OrderFigures, Period, RefundFigures,
};

use crate::args::{AnalyticsCommand, PeriodArgs};
use crate::output::{self, line, money, table};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: AnalyticsCommand, json: bool) -> anyhow::Result<()> {
    let mut client = session.analytics()?;
    let (merchant_id, store_id) = (session.merchant_id.clone(), session.store_id.clone());
    match command {
        AnalyticsCommand::Summary(args) => {
            let request = GetSummaryRequest {
                merchant_id,
                store_id,
                period: Some(period(&args)),
            };
            let answer = client.get_summary(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            let rows = answer
                .currencies
                .iter()
                .map(|of| figures(&of.currency_code, &of.orders, &of.refunds));
            line(table(&header("currency"), rows).to_string());
            line(format!(
                "{} open orders, {} notifications sent",
                answer.open_orders, answer.notifications_sent
            ));
        }
        AnalyticsCommand::Daily(args) => {
            let request = ListDailyFiguresRequest {
                merchant_id,
                store_id,
                period: Some(period(&args)),
            };
            let answer = client.list_daily_figures(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            let rows = answer
                .days
                .iter()
                .map(|day| figures(&day.day, &day.orders, &day.refunds));
            line(table(&header("day"), rows).to_string());
        }
        AnalyticsCommand::Reasons(args) => {
            let request = ListRefundReasonsRequest {
                merchant_id,
                store_id,
                period: Some(period(&args)),
            };
            let answer = client.list_refund_reasons(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            let rows = answer.reasons.iter().map(|of| {
                [
                    of.reason.replace('_', " "),
                    of.refunds.to_string(),
                    money(of.refunded.as_ref()),
                ]
            });
            line(table(&["reason", ">refunds", ">paid back"], rows).to_string());
        }
        AnalyticsCommand::Times(args) => {
            let request = ListCycleTimesRequest {
                merchant_id,
                store_id,
                period: Some(period(&args)),
            };
            let answer = client.list_cycle_times(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            let rows = answer.steps.iter().map(|step| {
                [
                    step.step.replace('_', " "),
                    step.count.to_string(),
                    seconds(step.p50_seconds),
                    seconds(step.p90_seconds),
                    seconds(step.p99_seconds),
                ]
            });
            line(
                table(
                    &["step", ">count", ">half within", ">90 % within", ">99 % within"],
                    rows,
                )
                .to_string(),
            );
        }
    }
    Ok(())
}

fn period(args: &PeriodArgs) -> Period {
    let at = |day: NaiveDate| prost_types::Timestamp {
        seconds: day.and_time(NaiveTime::MIN).and_utc().timestamp(),
        nanos: 0,
    };
    let today = waybill_kernel::time::Clock::now(&waybill_kernel::time::SystemClock)
        .with_timezone(&Utc)
        .date_naive();
    Period {
        from: Some(at(args.from.unwrap_or(today - Duration::days(90)))),
        before: Some(at(args.before.unwrap_or(today + Duration::days(1)))),
        time_zone: args.time_zone.clone(),
    }
}

fn header(first: &'static str) -> [&'static str; 9] {
    [
        first,
        ">orders",
        ">cancelled",
        ">units",
        ">gross sales",
        ">average order",
        ">refunds",
        ">paid back",
        ">refund rate",
    ]
}

fn figures(first: &str, orders: &Option<OrderFigures>, refunds: &Option<RefundFigures>) -> [String; 9] {
    let orders = orders.clone().unwrap_or_default();
    let refunds = refunds.clone().unwrap_or_default();
    [
        first.to_owned(),
        orders.orders.to_string(),
        orders.cancelled_orders.to_string(),
        orders.units.to_string(),
        money(orders.gross_sales.as_ref()),
        money(orders.average_order_value.as_ref()),
        refunds.refunds.to_string(),
        money(refunds.refunded.as_ref()),
        percent(refunds.refund_rate_orders_ppm),
    ]
}

fn percent(ppm: i32) -> String {
    format!("{}.{} %", ppm / 10_000, ppm % 10_000 / 1000)
}

fn seconds(total: i64) -> String {
    match total {
        0..=119 => format!("{total} s"),
        120..=7199 => format!("{} min", total / 60),
        7200..=172_799 => format!("{} h", total / 3600),
        _ => format!("{} d", total / 86_400),
    }
}
