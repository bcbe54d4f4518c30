//! Whether the demo really did what it says: every order's timeline, every mail, every refund, the books, the figures.
//! Each check asks the public API and compares with something that the services did not compute: the file, the mail
//! sink, the payment provider's own ledger.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use waybill_embedded::MailSink;
use waybill_payments::sandbox::Sandbox;
use waybill_proto::waybill::analytics::v1::{ListDailyFiguresRequest, Period};
use waybill_proto::waybill::notification::v1::{ListNotificationsRequest, Notification, NotificationState};
use waybill_proto::waybill::order::v1::{
    GetTimelineRequest, RebuildOrderRequest, TimelineCondition, TimelineEntry, VerifyTimelineRequest,
};
use waybill_proto::waybill::refund::v1::{GetTrialBalanceRequest, ListJournalEntriesRequest};
use waybill_proto::waybill::r#type::v1::Money;

use super::expect;
use super::journey::Ended;
use crate::session::Session;
use crate::wait;

/// The outcome of one check.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Numbers, or the first thing that is wrong.
    pub detail: String,
}

impl Check {
    pub(crate) fn new(name: &'static str, outcome: anyhow::Result<String>) -> Self {
        match outcome {
            Ok(detail) => Self {
                name,
                holds: true,
                detail,
            },
            Err(error) => Self {
                name,
                holds: false,
                detail: format!("{error:#}"),
            },
        }
    }
}

/// Checks everything.
pub async fn all(session: &Session, ended: &[Ended], mails: &MailSink, sandbox: &Sandbox) -> Vec<Check> {
    // What is looked back at must have come.
    let timelines = timelines(session, ended).await;
    let (histories, mail, refunds, books, figures) = tokio::join!(
        histories(session, ended),
        mails_once(session, ended, mails),
        refunds_once(ended, sandbox),
        books(session, ended),
        figures(session, ended),
    );
    vec![
        Check::new("every order has a complete timeline", timelines),
        Check::new(
            "timelines are as they were written, orders what their events say",
            histories,
        ),
        Check::new("exactly one mail for each stage of each order", mail),
        Check::new("the provider paid every refund exactly once", refunds),
        Check::new("the books balance, order by order and in sum", books),
        Check::new("analytics equal the sums of the file", figures),
    ]
}

/// Waits until the timeline holds what it must, then checks that it holds nothing twice.
async fn timelines(session: &Session, ended: &[Ended]) -> anyhow::Result<String> {
    let counts: Vec<usize> = stream::iter(ended)
        .map(|ended| async move {
            let expected = expect::timeline(ended.plan);
            let entries = wait::until("its timeline", || async {
                let entries = timeline(session, &ended.order.order_id).await?;
                Ok((entries.len() >= expected.values().sum()).then_some(entries))
            })
            .await
            .with_context(|| format!("order {}", ended.order.number))?;
            let mut found: BTreeMap<&str, usize> = BTreeMap::new();
            for entry in &entries {
                *found.entry(&entry.r#type).or_default() += 1;
            }
            anyhow::ensure!(
                found == expected,
                "order {}: the timeline holds {found:?}, expected {expected:?}",
                ended.order.number
            );
            anyhow::Ok(entries.len())
        })
        .buffer_unordered(8)
        .try_collect()
        .await?;
    Ok(format!(
        "{} facts of {} orders",
        counts.iter().sum::<usize>(),
        counts.len()
    ))
}

/// Looks at the chain of each timeline, and makes each order again from its events.
async fn histories(session: &Session, ended: &[Ended]) -> anyhow::Result<String> {
    let applied: Vec<i32> = stream::iter(ended)
        .map(|ended| async move {
            let (order_id, number) = (&ended.order.order_id, &ended.order.number);
            let request = VerifyTimelineRequest {
                merchant_id: session.merchant_id.clone(),
                store_id: session.store_id.clone(),
                order_id: order_id.clone(),
                ..VerifyTimelineRequest::default()
            };
            let verdict = session.orders()?.verify_timeline(request).await?.into_inner();
            anyhow::ensure!(
                verdict.condition() == TimelineCondition::Whole,
                "order {number}: {:?}",
                verdict.faults
            );
            let request = RebuildOrderRequest {
                merchant_id: session.merchant_id.clone(),
                store_id: session.store_id.clone(),
                order_id: order_id.clone(),
                moment: None,
            };
            let rebuilt = session.orders()?.rebuild_order(request).await?.into_inner();
            anyhow::ensure!(
                rebuilt.differences.is_empty() && rebuilt.unapplied.is_empty(),
                "order {number}: {:?} {:?}",
                rebuilt.differences,
                rebuilt.unapplied
            );
            anyhow::Ok(rebuilt.applied)
        })
        .buffer_unordered(8)
        .try_collect()
        .await?;
    Ok(format!(
        "{} facts of {} orders without a difference",
        applied.iter().sum::<i32>(),
        applied.len()
    ))
}

/// The timeline of one order.
pub async fn timeline(session: &Session, order_id: &str) -> anyhow::Result<Vec<TimelineEntry>> {
    let request = GetTimelineRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        order_id: order_id.to_owned(),
    };
    Ok(session
        .orders()?
        .get_timeline(request)
        .await?
        .into_inner()
        .entries)
}

/// Compares what the notification service says it sent with what the mail server got.
async fn mails_once(session: &Session, ended: &[Ended], sink: &MailSink) -> anyhow::Result<String> {
    let mut announced: HashMap<String, String> = HashMap::new();
    for ended in ended {
        let expected = expect::stages(ended.plan);
        let sent = wait::until("its mails", || async {
            let sent: Vec<Notification> = notifications(session, &ended.order.order_id)
                .await?
                .into_iter()
                .filter(|notification| notification.state() == NotificationState::Sent)
                .collect();
            Ok((sent.len() >= expected.len()).then_some(sent))
        })
        .await
        .with_context(|| format!("order {}", ended.order.number))?;
        for stage in &expected {
            let count = sent
                .iter()
                .filter(|notification| notification.stage() == *stage)
                .count();
            anyhow::ensure!(
                count == 1,
                "order {}: {count} notifications of {stage:?}",
                ended.order.number
            );
        }
        anyhow::ensure!(
            sent.len() == expected.len(),
            "order {}: {} notifications, expected {}",
            ended.order.number,
            sent.len(),
            expected.len()
        );
        announced.extend(
            sent.into_iter()
                .map(|found| (bare(&found.message_id), ended.order.number.clone())),
        );
    }
    let mut received: HashMap<String, usize> = HashMap::new();
    for mail in sink.messages() {
        *received.entry(bare(&mail.message_id)).or_default() += 1;
    }
    for (message_id, number) in &announced {
        let count = received.remove(message_id).unwrap_or_default();
        anyhow::ensure!(
            count == 1,
            "order {number}: the mail server got {count} mails {message_id}, expected 1"
        );
    }
    anyhow::ensure!(
        received.is_empty(),
        "{} mails that nobody announced: {received:?}",
        received.len()
    );
    Ok(format!("{} mails", announced.len()))
}

/// A Message-ID without its angle brackets.
fn bare(message_id: &str) -> String {
    message_id.trim_matches(['<', '>']).to_owned()
}

async fn notifications(session: &Session, order_id: &str) -> anyhow::Result<Vec<Notification>> {
    let request = ListNotificationsRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        page_size: 500,
        order_id: order_id.to_owned(),
        ..ListNotificationsRequest::default()
    };
    Ok(session
        .notifications()?
        .list_notifications(request)
        .await?
        .into_inner()
        .notifications)
}

/// Compares the refunds with the ledger of the payment provider.
async fn refunds_once(ended: &[Ended], sandbox: &Sandbox) -> anyhow::Result<String> {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for leg in ended
        .iter()
        .filter_map(|ended| ended.refund.as_ref())
        .flat_map(|refund| &refund.legs)
    {
        let amount = leg.amount.as_ref().map_or(0, |amount| amount.minor_units);
        let before = expected.insert(leg.provider_refund_id.clone(), amount);
        anyhow::ensure!(
            before.is_none(),
            "two legs name the provider's refund {}",
            leg.provider_refund_id
        );
    }
    let paid: BTreeMap<String, i64> = sandbox
        .ledger()
        .into_iter()
        .filter(|entry| entry.is_paid())
        .map(|entry| (entry.id, entry.amount))
        .collect();
    anyhow::ensure!(
        paid == expected,
        "the provider paid {paid:?}, the refunds say {expected:?}"
    );
    Ok(format!("{} refunds", paid.len()))
}

/// Checks that each entry and the sum of all balance, and that what left the clearing account is what was refunded.
async fn books(session: &Session, ended: &[Ended]) -> anyhow::Result<String> {
    let mut entries = 0;
    for ended in ended {
        let request = ListJournalEntriesRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            page_size: 500,
            order_id: ended.order.order_id.clone(),
            ..ListJournalEntriesRequest::default()
        };
        let journal = session
            .refunds()?
            .list_journal_entries(request)
            .await?
            .into_inner()
            .entries;
        let mut cash: i64 = 0;
        for entry in &journal {
            let sum: i64 = entry
                .lines
                .iter()
                .filter_map(|line| line.amount.as_ref())
                .map(|money| money.minor_units)
                .sum();
            anyhow::ensure!(
                sum == 0,
                "order {}: entry {} is off by {sum}",
                ended.order.number,
                entry.entry_id
            );
            cash += entry
                .lines
                .iter()
                .filter(|line| line.account.starts_with("clearing:"))
                .filter_map(|line| line.amount.as_ref())
                .map(|money| money.minor_units)
                .sum::<i64>();
        }
        let kept = minor(ended.order.captured.as_ref()) - minor(ended.order.refunded.as_ref());
        anyhow::ensure!(
            cash == kept,
            "order {}: the clearing account holds {cash}, captured less refunded is {kept}",
            ended.order.number
        );
        entries += journal.len();
    }
    let request = GetTrialBalanceRequest {
        merchant_id: session.merchant_id.clone(),
    };
    let balance = session.refunds()?.get_trial_balance(request).await?.into_inner();
    anyhow::ensure!(balance.balanced, "debits and credits of the merchant differ");
    Ok(format!(
        "{entries} entries in {} accounts",
        balance.accounts.len()
    ))
}

fn minor(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

/// What a day brought in one currency.
#[derive(Debug, Default, PartialEq, Eq)]
struct Day {
    orders: i64,
    units: i64,
    gross: i64,
    tax: i64,
    refunded: i64,
}

/// Compares the daily figures with sums of the file's own columns and of the provider's refunds.
async fn figures(session: &Session, ended: &[Ended]) -> anyhow::Result<String> {
    let mut expected: BTreeMap<(String, String), Day> = BTreeMap::new();
    for ended in ended {
        let file = &ended.file;
        let totals = file.totals.clone().unwrap_or_default();
        let of_day = |time: Option<&prost_types::Timestamp>| {
            let day = crate::output::time(time).chars().take(10).collect::<String>();
            (day, file.currency_code.clone())
        };
        let day = expected.entry(of_day(file.placed_at.as_ref())).or_default();
        day.orders += 1;
        day.units += file
            .lines
            .iter()
            .map(|line| i64::from(line.quantity))
            .sum::<i64>();
        day.gross += minor(totals.total.as_ref());
        day.tax += minor(totals.tax.as_ref());
        if let Some(refund) = &ended.refund {
            let day = expected.entry(of_day(refund.succeeded_at.as_ref())).or_default();
            day.refunded += minor(refund.amount.as_ref());
        }
    }
    let first = ended
        .iter()
        .filter_map(|ended| ended.order.placed_at)
        .map(|time| time.seconds)
        .min()
        .unwrap_or(0);
    let last = ended
        .iter()
        .filter_map(|ended| ended.order.updated_at)
        .map(|time| time.seconds)
        .max()
        .unwrap_or(0);
    wait::until("the figures", || async {
        let request = ListDailyFiguresRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            period: Some(Period {
                from: Some(prost_types::Timestamp {
                    seconds: first,
                    nanos: 0,
                }),
                before: Some(prost_types::Timestamp {
                    seconds: last + 86_400,
                    nanos: 0,
                }),
                time_zone: "UTC".to_owned(),
            }),
        };
        let answer = session
            .analytics()?
            .list_daily_figures(request)
            .await?
            .into_inner();
        let found: BTreeMap<(String, String), Day> = answer
            .days
            .into_iter()
            .map(|day| {
                let (orders, refunds) = (day.orders.unwrap_or_default(), day.refunds.unwrap_or_default());
                let figures = Day {
                    orders: orders.orders,
                    units: orders.units,
                    gross: minor(orders.gross_sales.as_ref()),
                    tax: minor(orders.tax.as_ref()),
                    refunded: minor(refunds.refunded.as_ref()),
                };
                ((day.day, day.currency_code), figures)
            })
            .collect();
        Ok((found == expected).then_some(()))
    })
    .await?;
    Ok(format!(
        "{} days and currencies, to the minor unit",
        expected.len()
    ))
}
