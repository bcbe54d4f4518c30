//! Finding: which orders are wanted, what they are sorted by, and where a reader is in the list.

use chrono::{DateTime, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::id::OrderId;
use waybill_kernel::money::Currency;

use super::goods::FulfillmentStatus;
use super::limits;
use super::payment::PaymentStatus;
use super::returns::ReturnStatus;
use super::state::Status;

/// Characters of a text that is searched for: the longest e-mail address.
pub const MAX_SEARCH: usize = 254;

/// Which orders are wanted: those that pass everything that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this status.
    pub status: Option<Status>,
    /// With this payment status.
    pub payment_status: Option<PaymentStatus>,
    /// With this fulfillment status.
    pub fulfillment_status: Option<FulfillmentStatus>,
    /// With this return status.
    pub return_status: Option<ReturnStatus>,
    /// Placed at or after.
    pub placed_from: Option<DateTime<Utc>>,
    /// Placed before.
    pub placed_before: Option<DateTime<Utc>>,
    /// Last changed at or after.
    pub updated_from: Option<DateTime<Utc>>,
    /// Last changed before.
    pub updated_before: Option<DateTime<Utc>>,
    /// Of the customer with this id in the merchant's system.
    pub customer_external_id: Option<String>,
    /// Of the customer with this e-mail address, in upper or lower case.
    pub customer_email: Option<String>,
    /// With a line of this sku.
    pub sku: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// With amounts in this currency.
    pub currency: Option<Currency>,
    /// Whose total is at least this, in minor units of `currency`.
    pub total_from: Option<i64>,
    /// Whose total is at most this, in minor units of `currency`.
    pub total_to: Option<i64>,
    /// Whose number, e-mail address, name, last word of the name, or a sku begins with this.
    pub text: Option<String>,
}

/// What orders are compared by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum By {
    /// When they were placed.
    #[default]
    Placed,
    /// What they cost, in one currency.
    Total,
}

/// The order of a list. Orders that are equal in it stand by id, the same way round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sort {
    /// What is compared.
    pub by: By,
    /// Whether the smallest stands first.
    pub ascending: bool,
}

impl Sort {
    /// As the contract names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match (self.by, self.ascending) {
            (By::Placed, false) => "PLACED_DESC",
            (By::Placed, true) => "PLACED_ASC",
            (By::Total, false) => "TOTAL_DESC",
            (By::Total, true) => "TOTAL_ASC",
        }
    }
}

/// The place of an order in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it is sorted by: microseconds since 1970, or minor units.
    pub key: i64,
    /// The order.
    pub order_id: OrderId,
}

impl Filter {
    /// Notes what is wrong with it.
    pub fn check(&self, v: &mut Violations) {
        let texts = [
            (
                "customer_external_id",
                &self.customer_external_id,
                limits::MAX_EXTERNAL_ID,
            ),
            ("customer_email", &self.customer_email, limits::MAX_EMAIL),
            ("sku", &self.sku, limits::MAX_SKU),
            ("tag", &self.tag, limits::MAX_TAG),
        ];
        for (field, text, most) in texts {
            if let Some(text) = text {
                limits::text(v, field, text, most);
            }
        }
        let spans = [
            ("placed_before", self.placed_from, self.placed_before),
            ("updated_before", self.updated_from, self.updated_before),
        ];
        for (field, from, before) in spans {
            if let (Some(from), Some(before)) = (from, before) {
                v.require(
                    from < before,
                    field,
                    format!("is not after {from}; nothing can pass both"),
                );
            }
        }
        if let (Some(from), Some(to)) = (self.total_from, self.total_to) {
            v.require(
                from <= to,
                "total_to",
                format!("is below total_from, {from}; nothing can pass both"),
            );
        }
    }

    /// Notes what is missing for a list to be sorted so.
    pub fn check_sort(&self, sort: Sort, v: &mut Violations) {
        v.require(
            sort.by != By::Total || self.currency.is_some(),
            "sort",
            "is by total, which compares amounts of one currency only; name it with filter.currency_code",
        );
    }

    /// The filter as texts, in one order: what a page token is bound to.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        let time = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_micros().to_string());
        let amount = |amount: Option<i64>| amount.map(|minor| minor.to_string());
        let word = |word: Option<&'static str>| word.map(str::to_owned);
        [
            word(self.status.map(Status::as_str)),
            word(self.payment_status.map(PaymentStatus::as_str)),
            word(self.fulfillment_status.map(FulfillmentStatus::as_str)),
            word(self.return_status.map(ReturnStatus::as_str)),
            time(self.placed_from),
            time(self.placed_before),
            time(self.updated_from),
            time(self.updated_before),
            self.customer_external_id.clone(),
            self.customer_email.clone(),
            self.sku.clone(),
            self.tag.clone(),
            self.currency.map(|currency| currency.code().to_owned()),
            amount(self.total_from),
            amount(self.total_to),
            self.text.clone(),
        ]
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect()
    }
}

/// A text to search for: without blanks around it.
#[must_use]
pub fn search_text(text: &str, v: &mut Violations) -> Option<String> {
    let text = text.trim();
    let before = v.len();
    limits::required(v, "query", text, MAX_SEARCH);
    (v.len() == before).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(filter: &Filter) -> Vec<String> {
        let mut v = Violations::new();
        filter.check(&mut v);
        v.iter().map(|fault| fault.field.clone()).collect()
    }

    #[test]
    fn a_filter_that_nothing_can_pass_is_a_fault() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let filter = Filter {
            placed_from: at(10),
            placed_before: at(10),
            updated_from: at(11),
            updated_before: at(10),
            total_from: Some(2),
            total_to: Some(1),
            ..Filter::default()
        };
        assert_eq!(faults(&filter), ["placed_before", "updated_before", "total_to"]);
        assert!(faults(&Filter::default()).is_empty());
    }

    #[test]
    fn what_no_order_can_have_is_named_with_its_limit() {
        let long = Some("x".repeat(10_000));
        let filter = Filter {
            customer_external_id: long.clone(),
            customer_email: long.clone(),
            sku: long.clone(),
            tag: long,
            ..Filter::default()
        };
        assert_eq!(
            faults(&filter),
            ["customer_external_id", "customer_email", "sku", "tag"]
        );
    }

    #[test]
    fn each_part_of_a_filter_binds_a_token() {
        let one = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.parts()
        };
        let all = [
            one(|_| {}),
            one(|f| f.sku = Some("a".into())),
            one(|f| f.tag = Some("a".into())),
            one(|f| f.text = Some("a".into())),
            one(|f| f.customer_email = Some("a".into())),
            one(|f| f.customer_external_id = Some("a".into())),
            one(|f| f.total_from = Some(1)),
            one(|f| f.total_to = Some(1)),
            one(|f| f.placed_from = Some(DateTime::UNIX_EPOCH)),
            one(|f| f.placed_before = Some(DateTime::UNIX_EPOCH)),
            one(|f| f.updated_from = Some(DateTime::UNIX_EPOCH)),
            one(|f| f.updated_before = Some(DateTime::UNIX_EPOCH)),
            one(|f| f.status = Some(Status::Open)),
            one(|f| f.return_status = Some(ReturnStatus::None)),
        ];
        for (at, parts) in all.iter().enumerate() {
            assert!(!all[..at].contains(parts), "number {at} is like another");
        }
    }

    #[test]
    fn a_text_is_trimmed_and_measured() {
        let searched = |text: &str| {
            let mut v = Violations::new();
            let text = search_text(text, &mut v);
            (text, v.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(searched(" Jo D "), (Some("Jo D".into()), vec![]));
        assert_eq!(searched("100%_*"), (Some("100%_*".into()), vec![]));
        assert_eq!(
            searched(" ").1,
            ["query: is missing; expected 1 to 254 characters"]
        );
        assert_eq!(
            searched(&"x".repeat(10_240)).1,
            ["query: has 10240 characters; expected at most 254"]
        );
        assert!(searched("a\0b").0.is_none());
    }
}
