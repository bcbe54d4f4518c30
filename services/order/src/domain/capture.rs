//! When payments are captured, and with whom: settings of a store.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waybill_kernel::id::{MerchantId, StoreId};

use super::order::Tenant;

/// When what is authorised for an order is captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapturePolicy {
    /// When a caller says so.
    #[default]
    Manual,
    /// As soon as an authorisation is recorded.
    AtOnce,
    /// All that is open, when the first parcel leaves. Not in parts: most payments can be captured once, and what a capture
    /// leaves is lost (a payment intent of Stripe, without the option of several captures).
    OnShipment,
}

/// The policies of all stores, and the providers that can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureRules {
    /// Where nothing else is set.
    pub usual: CapturePolicy,
    /// Those of merchants as a whole, and of stores, which go before.
    pub own: BTreeMap<(MerchantId, Option<StoreId>), CapturePolicy>,
    /// Names of the providers that capture and void by call.
    pub callable: BTreeSet<String>,
}

impl CaptureRules {
    /// The policy of a store.
    #[must_use]
    pub fn of(&self, tenant: Tenant) -> CapturePolicy {
        let own = |store| self.own.get(&(tenant.merchant, store));
        *own(Some(tenant.store))
            .or_else(|| own(None))
            .unwrap_or(&self.usual)
    }

    /// Whether a provider captures and voids by call.
    #[must_use]
    pub fn can_call(&self, provider: &str) -> bool {
        self.callable.contains(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_goes_before_its_merchant_and_that_before_all() {
        let tenant = Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        };
        let mut rules = CaptureRules::default();
        assert_eq!(rules.of(tenant), CapturePolicy::Manual);
        rules
            .own
            .insert((tenant.merchant, None), CapturePolicy::OnShipment);
        assert_eq!(rules.of(tenant), CapturePolicy::OnShipment);
        rules
            .own
            .insert((tenant.merchant, Some(tenant.store)), CapturePolicy::AtOnce);
        assert_eq!(rules.of(tenant), CapturePolicy::AtOnce);
        let neighbour = Tenant {
            store: StoreId::generate(),
            ..tenant
        };
        assert_eq!(rules.of(neighbour), CapturePolicy::OnShipment);
    }
}
