//! Settings of the order service: those that all services share, and its own.

mod payments;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::money::Currency;
use waybill_payments::config::{self as providers, ProviderConfig};
use waybill_runtime::config::{Secret, Validate, seconds};
use waybill_runtime::process::ServiceConfig;
use waybill_runtime::service::CommonConfig;
use waybill_store::jobs::Limits;

pub use self::payments::{Calls, Capture, StoreCapture};
use crate::domain::review::{Rulebook, Rules};

/// The longest time for which a draft can be kept.
const MAX_DRAFT_KEEP: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Settings of the order service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What all services share.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// Days from placement to the promised handover to the carrier, where the caller promises nothing else. Default 2.
    pub handling_days: u16,
    /// The key of the pseudonyms that stand for customers in events, at least 16 random characters. With another key the
    /// same customers look like new ones. Default: one that is made at the first start and kept in the schema.
    pub customer_key: Secret,
    /// Placements are collected while earlier ones are being committed.
    pub placing: Placing,
    /// Calls of WatchOrders that this process serves at once. Default 256.
    pub max_watches: usize,
    /// Calls of ExportOrders that this process serves at once. Default 16.
    pub max_exports: usize,
    /// Calls of ImportOrders that this process serves at once. Default 16.
    pub max_imports: usize,
    /// Orders that are held when they are placed, until a person releases them. Default: none.
    pub holds: Holds,
    /// Seconds after which an erasure of a customer looks again at the orders that it waits for. Default 1 hour.
    #[serde(with = "seconds")]
    pub erasure_pause: Duration,
    /// Seconds after its last change at which a draft is forgotten. Default 90 days.
    #[serde(with = "seconds")]
    pub draft_keep: Duration,
    /// The payment providers by the name under which payments are recorded. Default none: all payments are captured and
    /// voided by a person, or by whoever records them. So are those of `manual`, of every name that is not configured, and of
    /// `woocommerce`, whose shops have no such call.
    pub providers: BTreeMap<String, ProviderConfig<Limits>>,
    /// When payments are captured. Default: when a caller says so.
    pub capture: Capture,
    /// How providers are called.
    pub calls: Calls,
}

/// Which orders are held when they are placed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Holds {
    /// Per currency code, the largest total, in minor units, that is not held: `order_value = { EUR = 100000 }`.
    pub order_value: BTreeMap<String, i64>,
    /// Whether an order is held whose invoice goes to another country than its goods.
    pub country_mismatch: bool,
    /// Whether an order of a customer is held who has no order yet, in any store of the merchant, that is neither cancelled
    /// nor held. A customer is known by e-mail address, else by id; one without both is always new.
    pub new_customer: bool,
    /// The same above an amount: per currency code, the largest total, in minor units, that is not held.
    pub new_customer_value: BTreeMap<String, i64>,
    /// Merchants and stores with rules of their own, which replace those above as a whole.
    pub stores: Vec<StoreHolds>,
}

/// Which orders of a merchant, or of one store, are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreHolds {
    /// The merchant.
    pub merchant_id: MerchantId,
    /// The store; all of the merchant when not set.
    #[serde(default)]
    pub store_id: Option<StoreId>,
    /// As [`Holds::order_value`].
    #[serde(default)]
    pub order_value: BTreeMap<String, i64>,
    /// As [`Holds::country_mismatch`].
    #[serde(default)]
    pub country_mismatch: bool,
    /// As [`Holds::new_customer`].
    #[serde(default)]
    pub new_customer: bool,
    /// As [`Holds::new_customer_value`].
    #[serde(default)]
    pub new_customer_value: BTreeMap<String, i64>,
}

impl Holds {
    /// As the rules that placement asks.
    #[must_use]
    pub fn rulebook(&self) -> Rulebook {
        let own = self.stores.iter().map(|of| {
            let rules = Rules {
                order_value: of.order_value.clone(),
                country_mismatch: of.country_mismatch,
                new_customer: of.new_customer,
                new_customer_value: of.new_customer_value.clone(),
            };
            ((of.merchant_id, of.store_id), rules)
        });
        Rulebook {
            usual: Rules {
                order_value: self.order_value.clone(),
                country_mismatch: self.country_mismatch,
                new_customer: self.new_customer,
                new_customer_value: self.new_customer_value.clone(),
            },
            own: own.collect(),
        }
    }

    fn validate(&self, violations: &mut Violations) {
        let limits = |limits: &BTreeMap<String, i64>, field: &str, violations: &mut Violations| {
            for (code, limit) in limits {
                violations.require(
                    Currency::parse(code).is_ok() && *limit >= 0,
                    field,
                    format!("{code} = {limit}; give a currency of ISO 4217 and 0 or more of its minor units"),
                );
            }
        };
        limits(&self.order_value, "holds.order_value", violations);
        limits(&self.new_customer_value, "holds.new_customer_value", violations);
        for (index, of) in self.stores.iter().enumerate() {
            limits(
                &of.order_value,
                &format!("holds.stores[{index}].order_value"),
                violations,
            );
            limits(
                &of.new_customer_value,
                &format!("holds.stores[{index}].new_customer_value"),
                violations,
            );
        }
    }
}

/// A server has a few hundred connections for all services.
const MAX_LANES: u32 = 100;

/// How placements share transactions.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
pub struct Placing {
    /// Transactions at once, each on a connection of its own beside those of `database.max_connections`. At most 100; default
    /// 2: while one waits for the disk the other works.
    pub lanes: u32,
    /// Orders in a transaction, at most. Default 64: more save little, and everybody waits for the last one's.
    pub orders: usize,
    /// Lines in a transaction, at most, unless one order has more. Default 2000: bulk work commits well within a second,
    /// because every reader of every log waits for the oldest transaction.
    pub lines: usize,
}

impl Default for Placing {
    fn default() -> Self {
        Placing {
            lanes: 2,
            orders: 64,
            lines: 2000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            common: CommonConfig::default(),
            handling_days: 2,
            customer_key: Secret::default(),
            placing: Placing::default(),
            max_watches: 256,
            max_exports: 16,
            max_imports: 16,
            holds: Holds::default(),
            erasure_pause: Duration::from_secs(3600),
            draft_keep: Duration::from_secs(90 * 24 * 3600),
            providers: BTreeMap::new(),
            capture: Capture::default(),
            calls: Calls::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
        self.holds.validate(violations);
        self.calls.validate(violations);
        providers::validate(&self.providers, violations);
        for (name, provider) in &self.providers {
            provider
                .limits
                .validate(&format!("providers.{name}.limits"), violations);
        }
        if self.handling_days > 365 {
            violations.push(
                "handling_days",
                format!("is {}; give 0 to 365", self.handling_days),
            );
        }
        let counts = [
            ("placing.orders", self.placing.orders),
            ("placing.lines", self.placing.lines),
            ("max_watches", self.max_watches),
            ("max_exports", self.max_exports),
            ("max_imports", self.max_imports),
        ];
        for (field, count) in counts {
            if count == 0 {
                violations.push(field, "is 0; give 1 or more");
            }
        }
        violations.require(
            (1..=MAX_LANES).contains(&self.placing.lanes),
            "placing.lanes",
            format!("is {}; give 1 to {MAX_LANES}", self.placing.lanes),
        );
        violations.require(
            (Duration::from_secs(1)..=MAX_DRAFT_KEEP).contains(&self.draft_keep),
            "draft_keep",
            format!(
                "is {} s; give 1 s to {} s (ten years)",
                self.draft_keep.as_secs(),
                MAX_DRAFT_KEEP.as_secs()
            ),
        );
        violations.require(
            !self.erasure_pause.is_zero(),
            "erasure_pause",
            "is 0; give at least 1 second between two looks",
        );
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use waybill_runtime::config::{ConfigError, load};

    use super::*;

    fn faults(toml: &str) -> Vec<String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(toml.as_bytes()).expect("it can be written");
        match load::<Config>(Some(file.path()), "WAYBILL_ORDER_NOBODY_SETS_THIS_") {
            Err(ConfigError::Faults { faults }) => faults,
            other => panic!("expected faults, got {other:?}"),
        }
    }

    #[test]
    fn only_what_cannot_be_known_is_required() {
        let named = faults("");
        let fields: Vec<&str> = named.iter().filter_map(|fault| fault.split(':').next()).collect();
        assert_eq!(fields, ["database.url", "auth.jwks"]);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let named = faults(
            "handling_days = 366\nmax_watches = 0\nmax_exports = 0\nmax_imports = 0\nhandling_day = 1\nerasure_pause = 0\ndraft_keep = 0\n[placing]\nlanes = 101\norders = 0\n[holds]\norder_value = { EURO = 1 }\nnew_customer_value = { EUR = -1 }\n",
        );
        for field in [
            "handling_days",
            "handling_day",
            "placing.orders",
            "placing.lanes",
            "max_watches",
            "max_exports",
            "max_imports",
            "erasure_pause",
            "draft_keep",
            "holds.order_value",
            "holds.new_customer_value",
        ] {
            assert!(
                named.iter().any(|fault| fault.starts_with(&format!("{field}:"))),
                "{field} in {named:?}"
            );
        }
    }
}
