//! The settings of the service: those that all services share, and how it works through events and jobs.

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_runtime::config::Validate;
use waybill_runtime::process::ServiceConfig;
use waybill_runtime::service::CommonConfig;

/// The settings of the fulfillment service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What every service is told.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// Batches of events that are worked on at once in this process. Default 2. Orders for the same skus wait for each
    /// other, so more than the processor has cores helps little.
    pub lanes: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            lanes: 2,
        }
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
        violations.require(
            (1..=64).contains(&self.lanes),
            "lanes",
            format!("{} is not possible; give 1 to 64", self.lanes),
        );
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}
