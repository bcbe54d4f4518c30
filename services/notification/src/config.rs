//! Settings of the service, beside those that all services share.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;
use waybill_runtime::config::{Secret, Validate, seconds};
use waybill_runtime::process::ServiceConfig;
use waybill_runtime::service::CommonConfig;
use waybill_store::jobs::Limits;

use crate::consumers::SOURCES;

/// What the service is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// What every service is told. `peers` must name `order`, `fulfillment` and `refund`.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// The mail server.
    pub smtp: SmtpConfig,
    /// Seconds between the last delivery and the question how it was. Default 5 days.
    #[serde(with = "seconds")]
    pub feedback_delay: Duration,
    /// Seconds after which a follow-up looks again whether what is open about its order has closed. Default 1 hour.
    #[serde(with = "seconds")]
    pub follow_up_pause: Duration,
    /// Seconds after its time from which on a follow-up that still waits is not sent any more. Default 30 days.
    #[serde(with = "seconds")]
    pub follow_up_patience: Duration,
    /// Messages handed over at once. Default 8.
    pub concurrency: usize,
    /// Tries before a message is given up. Default 20, spread over about two hours.
    pub max_attempts: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            smtp: SmtpConfig::default(),
            feedback_delay: Duration::from_secs(5 * 24 * 3600),
            follow_up_pause: Duration::from_secs(3600),
            follow_up_patience: Duration::from_secs(30 * 24 * 3600),
            concurrency: 8,
            max_attempts: 20,
        }
    }
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
        for peer in SOURCES {
            violations.require(
                self.common.peers.contains_key(peer),
                format!("peers.{peer}"),
                "is not set; messages are filled with what this service knows",
            );
        }
        violations.require(
            !self.smtp.host.is_empty(),
            "smtp.host",
            "is empty; name the mail server",
        );
        self.smtp.limits.validate("smtp.limits", violations);
        violations.require(self.smtp.port != 0, "smtp.port", "is 0; the usual one is 587");
        violations.require(
            !self.follow_up_pause.is_zero(),
            "follow_up_pause",
            "is 0; give at least 1 second between two looks",
        );
        violations.require(
            self.concurrency > 0,
            "concurrency",
            "is 0; at least 1 message at once is needed",
        );
        violations.require(
            self.max_attempts > 0,
            "max_attempts",
            "is 0; at least 1 try is needed",
        );
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}

/// The mail server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct SmtpConfig {
    /// Its name or address.
    pub host: String,
    /// Its port. Default 587.
    pub port: u16,
    /// How the connection is protected: `starttls` (default), `tls`, or `none` for a server on this machine.
    pub security: Security,
    /// User name; empty for a server that asks for none.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Seconds until a server that does not answer counts as not reachable. Default 10.
    #[serde(with = "seconds")]
    pub timeout: Duration,
    /// How much it bears, over all replicas: messages at once, messages per second, failures in a row. Default: no limit
    /// but that of the workers; after 5 failures in a row it is left alone for 5 s, doubled up to 300 s.
    pub limits: Limits,
}

impl Default for SmtpConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 587,
            security: Security::default(),
            user: String::new(),
            password: Secret::default(),
            timeout: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// In the clear at first, then TLS or not at all.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// In the clear.
    None,
}
