//! Which orders a person looks at before anything ships: rules of the settings, evaluated when an order is placed.
//!
//! Every rule that fits makes a hold of its own, with the rule's key. No rule is on unless it is set.

use std::collections::BTreeMap;

use waybill_kernel::id::{MerchantId, StoreId};

use super::hold::HoldReason;
use super::order::{Contact, Tenant, Terms};

/// Rules of one store, or of all that have none of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Per currency code, the largest total, in minor units, that is not looked at.
    pub order_value: BTreeMap<String, i64>,
    /// Whether an invoice to another country than the goods go to is looked at.
    pub country_mismatch: bool,
    /// Whether an order of a customer who is new to the merchant is looked at, whatever it costs.
    pub new_customer: bool,
    /// Per currency code, the largest total, in minor units, of such an order that is not looked at.
    pub new_customer_value: BTreeMap<String, i64>,
}

/// What an order is stopped for when its customer is new.
pub const NEW_CUSTOMER: (HoldReason, &str) = (HoldReason::PaymentReview, "new_customer");

/// The rules of all stores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rulebook {
    /// For stores and merchants that have none of their own.
    pub usual: Rules,
    /// Of merchants, and of single stores of theirs.
    pub own: BTreeMap<(MerchantId, Option<StoreId>), Rules>,
}

impl Rulebook {
    /// The rules of a store: its own, else its merchant's, else the usual ones. They replace each other as a whole.
    #[must_use]
    pub fn of(&self, tenant: Tenant) -> &Rules {
        (self.own.get(&(tenant.merchant, Some(tenant.store))))
            .or_else(|| self.own.get(&(tenant.merchant, None)))
            .unwrap_or(&self.usual)
    }
}

impl Rules {
    /// Why an order is stopped at its placement: reason and rule, in a fixed order.
    #[must_use]
    pub fn review(&self, terms: &Terms, contact: &Contact) -> Vec<(HoldReason, &'static str)> {
        let mut found = Vec::new();
        let limit = self.order_value.get(terms.currency.code());
        if limit.is_some_and(|limit| terms.totals.total > *limit) {
            found.push((HoldReason::PaymentReview, "order_value"));
        }
        if self.country_mismatch
            && let (Some(goods), Some(invoice)) = (&contact.shipping, &contact.billing)
            && goods.country_code != invoice.country_code
        {
            found.push((HoldReason::Address, "country_mismatch"));
        }
        found
    }

    /// Whether an order is stopped if its customer is new to the merchant.
    #[must_use]
    pub fn stops_new_customer(&self, terms: &Terms) -> bool {
        let limit = self.new_customer_value.get(terms.currency.code());
        self.new_customer || limit.is_some_and(|limit| terms.totals.total > *limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_its_own_rules_before_its_merchants_and_the_usual_ones() {
        let rules = |limit| Rules {
            order_value: BTreeMap::from([("EUR".to_owned(), limit)]),
            ..Rules::default()
        };
        let tenant = Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        };
        let mut book = Rulebook {
            usual: rules(1),
            own: BTreeMap::new(),
        };
        assert_eq!(book.of(tenant), &rules(1));
        book.own.insert((tenant.merchant, None), rules(2));
        assert_eq!(book.of(tenant), &rules(2));
        book.own.insert((tenant.merchant, Some(tenant.store)), rules(3));
        assert_eq!(book.of(tenant), &rules(3));
        let elsewhere = Tenant {
            store: StoreId::generate(),
            ..tenant
        };
        assert_eq!(book.of(elsewhere), &rules(2));
    }
}
