//! The return policy of a store, and the same in words.
//!
//! A policy is plain data. What it means for an order is decided in [`super::decision`]; where it is kept and which
//! version holds for an order is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::money::{Currency, Money};

/// Why goods come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReturnReason {
    /// The customer changed their mind.
    Unwanted,
    /// It does not fit.
    WrongSize,
    /// It arrived damaged or does not work.
    Damaged,
    /// Another item was sent.
    WrongItem,
    /// It is not what was described.
    NotAsDescribed,
    /// It came too late.
    Late,
    /// Anything else.
    Other,
}

impl ReturnReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Unwanted,
        Self::WrongSize,
        Self::Damaged,
        Self::WrongItem,
        Self::NotAsDescribed,
        Self::Late,
        Self::Other,
    ];

    /// The key in events and tables.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Unwanted => "unwanted",
            Self::WrongSize => "wrong_size",
            Self::Damaged => "damaged",
            Self::WrongItem => "wrong_item",
            Self::NotAsDescribed => "not_as_described",
            Self::Late => "late",
            Self::Other => "other",
        }
    }

    /// The reason with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.key() == key)
    }

    /// The reason for people, to follow "because".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Unwanted => "it is no longer wanted",
            Self::WrongSize => "it does not fit",
            Self::Damaged => "it arrived damaged or does not work",
            Self::WrongItem => "another item was sent",
            Self::NotAsDescribed => "it is not what was described",
            Self::Late => "it came too late",
            Self::Other => "of another reason",
        }
    }
}

/// From when the window runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowStart {
    /// From delivery; from purchase while undelivered.
    Delivery,
    /// From purchase.
    Purchase,
}

/// When money goes back for a return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundTiming {
    /// When the return is approved.
    OnApproval,
    /// When the goods are back.
    OnReceipt,
}

/// Rules of returns and refunds of one store, in one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Counted per store from 1; 0 before it is published.
    pub version: i32,
    /// Holds for orders placed at or after this time, until a later version does.
    pub valid_from: DateTime<Utc>,
    /// Days in which a return may be requested.
    pub window_days: u32,
    /// From when they count.
    pub window_start: WindowStart,
    /// Categories that cannot be returned.
    pub excluded_categories: BTreeSet<String>,
    /// Skus that cannot be returned.
    pub excluded_skus: BTreeSet<String>,
    /// True when final-sale lines can be returned all the same.
    pub final_sale_returnable: bool,
    /// Part of the goods' value without tax that is kept, in parts per million.
    pub restocking_fee_ppm: u32,
    /// Reasons that are the merchant's fault: no fee is kept and shipping is paid back.
    pub fault_reasons: BTreeSet<ReturnReason>,
    /// True when shipping goes back once everything was returned.
    pub refund_shipping_on_full_return: bool,
    /// When money goes back.
    pub refund_timing: RefundTiming,
    /// Requests up to this many minor units are approved at once, per currency code.
    pub auto_approve_up_to: BTreeMap<String, i64>,
    /// Refunds above this many minor units want a second pair of eyes, per currency code.
    pub second_approval_above: BTreeMap<String, i64>,
    /// Business days until money is expected to arrive.
    pub arrival_days: u32,
}

impl Policy {
    /// True when a request over this amount is approved without a person.
    #[must_use]
    pub fn auto_approves(&self, currency: Currency, minor: i64) -> bool {
        self.auto_approve_up_to
            .get(currency.code())
            .is_some_and(|limit| minor <= *limit)
    }

    /// True when a refund of this amount wants a second pair of eyes.
    #[must_use]
    pub fn wants_second_approval(&self, currency: Currency, minor: i64) -> bool {
        self.second_approval_above
            .get(currency.code())
            .is_some_and(|limit| minor > *limit)
    }

    /// Until when a return may be requested.
    #[must_use]
    pub fn deadline(&self, placed_at: DateTime<Utc>, delivered_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let start = match self.window_start {
            WindowStart::Delivery => delivered_at.unwrap_or(placed_at),
            WindowStart::Purchase => placed_at,
        };
        start
            .checked_add_signed(TimeDelta::days(i64::from(self.window_days)))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The policy for the store's page, a sentence per rule.
    #[must_use]
    pub fn words(&self) -> String {
        let mut text = String::new();
        let start = match self.window_start {
            WindowStart::Delivery => "after delivery",
            WindowStart::Purchase => "after the day of purchase",
        };
        match self.window_days {
            0 => text.push_str("Goods cannot be returned once they were delivered."),
            1 => _ = write!(text, "You may ask for a return within 1 day {start}."),
            days => _ = write!(text, "You may ask for a return within {days} days {start}."),
        }
        if !self.excluded_categories.is_empty() {
            let list = self
                .excluded_categories
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            _ = write!(text, " Goods of these categories cannot be returned: {list}.");
        }
        match self.excluded_skus.len() {
            0 => {}
            1 => text.push_str(" One further article cannot be returned."),
            count => _ = write!(text, " {count} further articles cannot be returned."),
        }
        text.push_str(if self.final_sale_returnable {
            " Final-sale goods can be returned like all others."
        } else {
            " Final-sale goods cannot be returned."
        });
        self.write_fee(&mut text);
        text.push_str(if self.refund_shipping_on_full_return {
            " The price of shipping is paid back once the whole order was returned."
        } else {
            " The price of shipping is not paid back."
        });
        text.push_str(match self.refund_timing {
            RefundTiming::OnApproval => " We send your money as soon as the return is approved,",
            RefundTiming::OnReceipt => " We send your money as soon as the goods are back,",
        });
        text.push_str(" the way you paid.");
        match self.arrival_days {
            0 => {}
            1 => text.push_str(" It usually arrives within 1 business day."),
            days => _ = write!(text, " It usually arrives within {days} business days."),
        }
        self.write_limits(&mut text);
        text
    }

    fn write_fee(&self, text: &mut String) {
        if self.restocking_fee_ppm > 0 {
            let percent = percent(self.restocking_fee_ppm);
            _ = write!(text, " We keep {percent} % of the goods' price without tax.");
        }
        if !self.fault_reasons.is_empty() {
            let list = self
                .fault_reasons
                .iter()
                .map(|reason| reason.words())
                .collect::<Vec<_>>()
                .join(", or because ");
            _ = write!(
                text,
                " No fee is kept, and shipping is paid back, when goods come back because {list}."
            );
        }
    }

    fn write_limits(&self, text: &mut String) {
        let limits: Vec<String> = self
            .auto_approve_up_to
            .iter()
            .filter_map(|(code, minor)| Some(Money::new(Currency::parse(code).ok()?, *minor).to_string()))
            .collect();
        if limits.is_empty() {
            text.push_str(" Every request is decided by a person.");
        } else {
            _ = write!(
                text,
                " Requests up to {} are approved at once; a person decides all others.",
                limits.join(" or ")
            );
        }
    }
}

/// Parts per million as a percentage without needless digits: 100000 is "10", 125000 is "12.5".
fn percent(ppm: u32) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn policy() -> Policy {
        Policy {
            version: 1,
            valid_from: DateTime::<Utc>::UNIX_EPOCH,
            window_days: 30,
            window_start: WindowStart::Delivery,
            excluded_categories: BTreeSet::from(["underwear".to_owned()]),
            excluded_skus: BTreeSet::from(["GIFT".to_owned()]),
            final_sale_returnable: false,
            restocking_fee_ppm: 125_000,
            fault_reasons: BTreeSet::from([ReturnReason::Damaged, ReturnReason::WrongItem]),
            refund_shipping_on_full_return: true,
            refund_timing: RefundTiming::OnReceipt,
            auto_approve_up_to: BTreeMap::from([("EUR".to_owned(), 10_000)]),
            second_approval_above: BTreeMap::from([("EUR".to_owned(), 50_000)]),
            arrival_days: 5,
        }
    }

    #[test]
    fn words_name_every_rule() {
        assert_eq!(
            policy().words(),
            "You may ask for a return within 30 days after delivery. Goods of these categories cannot be returned: \
             underwear. One further article cannot be returned. Final-sale goods cannot be returned. We keep 12.5 % of \
             the goods' price without tax. No fee is kept, and shipping is paid back, when goods come back because it \
             arrived damaged or does not work, or because another item was sent. The price of shipping is paid back \
             once the whole order was returned. We send your money as soon as the goods are back, the way you paid. It \
             usually arrives within 5 business days. Requests up to 100.00 EUR are approved at once; a person decides \
             all others."
        );
    }

    #[test]
    fn percentages_have_no_needless_digits() {
        for (ppm, text) in [
            (100_000, "10"),
            (125_000, "12.5"),
            (1, "0.0001"),
            (1_000_000, "100"),
            (0, "0"),
        ] {
            assert_eq!(percent(ppm), text);
        }
    }

    #[test]
    fn limits_hold_per_currency() {
        let euro = Currency::parse("EUR").expect("a currency");
        let pound = Currency::parse("GBP").expect("a currency");
        assert!(policy().auto_approves(euro, 10_000));
        assert!(!policy().auto_approves(euro, 10_001));
        assert!(
            !policy().auto_approves(pound, 1),
            "a currency that is not listed is decided by a person"
        );
        assert!(!policy().wants_second_approval(euro, 50_000));
        assert!(policy().wants_second_approval(euro, 50_001));
        assert!(!policy().wants_second_approval(pound, i64::MAX));
    }
}
