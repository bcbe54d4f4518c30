//! The figures once more, computed from the stories by plain loops: nothing here is shared with the service, neither SQL
//! nor its rules.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use chrono_tz::Tz;
use waybill_proto::waybill::analytics::v1 as proto;
use waybill_proto::waybill::r#type::v1::Money;

use super::history::{Moment, Outcome, Refund, Story};

/// What happened, and the stretch of time that is asked about.
pub struct Model<'a> {
    pub stories: &'a [Story],
    pub from: Moment,
    pub before: Moment,
    pub zone: Tz,
}

#[derive(Default)]
struct Sums {
    orders: i64,
    cancelled: i64,
    units: i64,
    gross: i64,
    net: i64,
    discounts: i64,
    tax: i64,
    shipping: i64,
    refunds: i64,
    refunded: i64,
    refunded_orders: i64,
    refunded_of_orders: i64,
}

impl Model<'_> {
    pub fn summary(&self) -> proto::GetSummaryResponse {
        let currencies = self.sums(|_, currency| currency);
        let sent = self
            .stories
            .iter()
            .flat_map(|story| &story.notifications)
            .filter(|(outcome, at)| *outcome == "sent" && self.holds(*at))
            .count();
        let open = self
            .stories
            .iter()
            .filter(|story| {
                self.holds(story.order.placed) && story.cancelled.is_none() && story.completed.is_none()
            })
            .count();
        proto::GetSummaryResponse {
            currencies: currencies
                .into_iter()
                .map(|(currency, sums)| proto::CurrencySummary {
                    currency_code: currency.to_owned(),
                    orders: Some(sums.orders(currency)),
                    refunds: Some(sums.refunds(currency)),
                })
                .collect(),
            notifications_sent: i64::try_from(sent).unwrap_or(-1),
            open_orders: i64::try_from(open).unwrap_or(-1),
        }
    }

    pub fn days(&self) -> Vec<proto::DailyFigures> {
        let day = |at: Moment| -> NaiveDate { at.with_timezone(&self.zone).date_naive() };
        self.sums(|at, currency| (day(at), currency))
            .into_iter()
            .map(|((day, currency), sums)| proto::DailyFigures {
                day: day.format("%Y-%m-%d").to_string(),
                currency_code: currency.to_owned(),
                orders: Some(sums.orders(currency)),
                refunds: Some(sums.refunds(currency)),
            })
            .collect()
    }

    pub fn reasons(&self) -> Vec<proto::ReasonFigures> {
        let mut reasons: BTreeMap<(&str, &str), (i64, i64)> = BTreeMap::new();
        for story in self.stories {
            for refund in &story.refunds {
                if stands(refund).is_some_and(|at| self.holds(at)) {
                    let (count, sum) = reasons.entry((refund.reason, story.order.currency)).or_default();
                    *count += 1;
                    *sum += refund.amount;
                }
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        // Stable: what is worth the same stays in the order of its names.
        reasons.sort_by_key(|(_, (_, sum))| -sum);
        reasons
            .into_iter()
            .map(|((reason, currency), (refunds, sum))| proto::ReasonFigures {
                reason: reason.to_owned(),
                currency_code: currency.to_owned(),
                refunds,
                refunded: money(currency, sum),
            })
            .collect()
    }

    pub fn cycle_times(&self) -> Vec<proto::CycleTime> {
        let mut took: [Vec<i64>; 4] = Default::default();
        let mut note = |step: usize, from: Moment, until: Moment| {
            if self.holds(until) {
                took[step].push((until - from).num_seconds().max(0));
            }
        };
        for story in self.stories {
            let first_shipped = story.shipped.iter().min();
            let arrived = story
                .delivered
                .iter()
                .filter(|(_, everything)| *everything)
                .map(|(at, _)| at)
                .max();
            if let Some(shipped) = first_shipped {
                note(0, story.order.placed, *shipped);
                if let Some(arrived) = arrived {
                    note(1, *shipped, *arrived);
                }
            }
            for (requested, completed) in &story.returns {
                if let Some(completed) = completed {
                    note(2, *requested, *completed);
                }
            }
            for refund in &story.refunds {
                if let Some(succeeded) = stands(refund) {
                    note(3, refund.created, succeeded);
                }
            }
        }
        let steps = [
            "placed_to_shipped",
            "shipped_to_delivered",
            "return_requested_to_refunded",
            "refund_created_to_succeeded",
        ];
        steps
            .into_iter()
            .zip(took)
            .map(|(step, mut took)| {
                took.sort_unstable();
                proto::CycleTime {
                    step: step.to_owned(),
                    count: i64::try_from(took.len()).unwrap_or(-1),
                    p50_seconds: nearest_rank(&took, 50),
                    p90_seconds: nearest_rank(&took, 90),
                    p99_seconds: nearest_rank(&took, 99),
                }
            })
            .collect()
    }

    fn holds(&self, at: Moment) -> bool {
        self.from <= at && at < self.before
    }

    /// Sums by whatever a moment and a currency belong to.
    fn sums<'s, K: Ord>(&'s self, of: impl Fn(Moment, &'s str) -> K) -> BTreeMap<K, Sums> {
        let mut all: BTreeMap<K, Sums> = BTreeMap::new();
        for story in self.stories {
            let order = &story.order;
            let standing: Vec<(&Refund, Moment)> = story
                .refunds
                .iter()
                .filter_map(|refund| Some((refund, stands(refund)?)))
                .collect();
            if self.holds(order.placed) {
                let sums = all.entry(of(order.placed, order.currency)).or_default();
                sums.orders += 1;
                sums.cancelled += i64::from(story.cancelled.is_some());
                for (quantity, net) in &order.lines {
                    sums.units += i64::from(*quantity);
                    sums.net += net;
                }
                for edit in &story.edits {
                    for (parts, sign) in [(&edit.added, 1), (&edit.removed, -1)] {
                        for part in parts {
                            sums.units += sign * i64::from(part.units);
                            sums.net += sign * part.net;
                            sums.tax += sign * part.tax;
                            sums.gross += sign * (part.net + part.tax);
                        }
                    }
                    sums.discounts += edit.discounts;
                }
                sums.gross += order.gross;
                sums.discounts += order.discounts;
                sums.tax += order.tax;
                sums.shipping += order.shipping;
                sums.refunded_orders += i64::from(!standing.is_empty());
                sums.refunded_of_orders += standing.iter().map(|(refund, _)| refund.amount).sum::<i64>();
            }
            for (refund, at) in standing {
                if self.holds(at) {
                    let sums = all.entry(of(at, order.currency)).or_default();
                    sums.refunds += 1;
                    sums.refunded += refund.amount;
                }
            }
        }
        all
    }
}

impl Sums {
    fn orders(&self, currency: &str) -> proto::OrderFigures {
        proto::OrderFigures {
            orders: self.orders,
            cancelled_orders: self.cancelled,
            units: self.units,
            gross_sales: money(currency, self.gross),
            net_sales: money(currency, self.net),
            discounts: money(currency, self.discounts),
            tax: money(currency, self.tax),
            shipping: money(currency, self.shipping),
            average_order_value: money(currency, half_up(self.gross, self.orders)),
        }
    }

    fn refunds(&self, currency: &str) -> proto::RefundFigures {
        let ppm = |part: i64, whole: i64| i32::try_from(half_up(part * 1_000_000, whole)).unwrap_or(i32::MAX);
        proto::RefundFigures {
            refunds: self.refunds,
            refunded: money(currency, self.refunded),
            refunded_orders: self.refunded_orders,
            refund_rate_orders_ppm: ppm(self.refunded_orders, self.orders),
            refund_rate_value_ppm: ppm(self.refunded_of_orders, self.gross),
        }
    }
}

/// When a refund succeeded, if its provider has not refused it since.
fn stands(refund: &Refund) -> Option<Moment> {
    match refund.outcomes.last() {
        Some(Outcome::Succeeded(at)) => Some(*at),
        Some(Outcome::Failed(_)) | None => None,
    }
}

/// Of what is not negative: a half is rounded up.
fn half_up(part: i64, whole: i64) -> i64 {
    if whole == 0 {
        return 0;
    }
    let rest = part % whole;
    part / whole + i64::from(rest >= whole - rest)
}

/// The smallest value that at least so many percent do not exceed.
fn nearest_rank(sorted: &[i64], percent: usize) -> i64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(0, |index| sorted[index])
}

fn money(currency: &str, minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: currency.to_owned(),
        minor_units,
    })
}
