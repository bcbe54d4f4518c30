//! Settings of the service: those that all services share, and none of its own yet.

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_runtime::config::Validate;
use waybill_runtime::process::ServiceConfig;
use waybill_runtime::service::CommonConfig;

use crate::consumers::SOURCES;

/// What the service is told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What every service is told. `peers` must name the four services whose events are counted.
    #[serde(flatten)]
    pub common: CommonConfig,
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
        for peer in SOURCES {
            violations.require(
                self.common.peers.contains_key(peer),
                format!("peers.{peer}"),
                "is not set; without it missed events cannot be fetched",
            );
        }
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}
