//! The settings of a service under test.

use std::collections::BTreeMap;
use std::time::Duration;

use waybill_runtime::service::{CommonConfig, DatabaseConfig, NatsConfig};
use waybill_runtime::telemetry::{LogFormat, TelemetryConfig};

use crate::Auth;

/// Settings for a service on this database and NATS, calling these peers (`("order", "http://127.0.0.1:7000")`).
/// It listens on a free loopback port and ends quickly.
pub fn common_config(db_url: &str, nats_url: &str, auth: &Auth, peers: &[(&str, &str)]) -> CommonConfig {
    CommonConfig {
        database: DatabaseConfig {
            url: db_url.into(),
            // The server of the tests writes late and has no standby.
            accept_loss: true,
            ..DatabaseConfig::default()
        },
        nats: NatsConfig {
            url: nats_url.into(),
            ..NatsConfig::default()
        },
        auth: auth.config(),
        peers: peers
            .iter()
            .map(|(name, url)| ((*name).to_owned(), (*url).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        telemetry: TelemetryConfig {
            logs: LogFormat::Off,
            ..TelemetryConfig::default()
        },
        shutdown_grace: Duration::from_secs(5),
        ..CommonConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use waybill_kernel::check::Violations;
    use waybill_runtime::config::Validate as _;

    use super::*;

    #[test]
    fn a_service_accepts_them() {
        let peers = [("order", "http://127.0.0.1:1")];
        let config = common_config("postgres://h/d", "nats://h:1", &Auth::new(), &peers);
        let mut violations = Violations::default();
        config.validate(&mut violations);
        assert_eq!(violations.iter().count(), 0, "{violations:?}");
        assert!(config.listen.ip().is_loopback());
    }
}
