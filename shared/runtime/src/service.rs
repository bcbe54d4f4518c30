//! The settings that all services share.
//!
//! They describe where the outside is (database, broker, peers) and how to be a good process. What a service decides in
//! its own trade stands in its own `config.rs`, beside a flattened [`CommonConfig`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use waybill_kernel::check::Violations;

use crate::config::{ConfigError, Secret, Validate, seconds};
use crate::telemetry::TelemetryConfig;

/// What every service is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct CommonConfig {
    /// Where gRPC is served. Default `127.0.0.1:0`: loopback, a free port.
    pub listen: SocketAddr,
    /// The service's database.
    pub database: DatabaseConfig,
    /// The broker.
    pub nats: NatsConfig,
    /// The event log.
    pub log: LogConfig,
    /// Who may call, and how this service calls others.
    pub auth: AuthConfig,
    /// The other services by name, e.g. `order = "http://order:7000"`.
    pub peers: BTreeMap<String, String>,
    /// Limits of the gRPC server.
    pub limits: Limits,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    /// Seconds that running calls and batches get to end when the process is asked to stop. Default 20.
    #[serde(with = "seconds")]
    pub shutdown_grace: Duration,
}

impl Default for CommonConfig {
    fn default() -> Self {
        CommonConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            database: DatabaseConfig::default(),
            nats: NatsConfig::default(),
            log: LogConfig::default(),
            auth: AuthConfig::default(),
            peers: BTreeMap::new(),
            limits: Limits::default(),
            telemetry: TelemetryConfig::default(),
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

impl Validate for CommonConfig {
    fn validate(&self, violations: &mut Violations) {
        self.database.validate(violations);
        self.log.validate(violations);
        self.auth.validate(violations);
        self.limits.validate(violations);
        self.telemetry.validate(violations);
        for (service, address) in &self.peers {
            if !is_http_url(address) {
                violations.push(
                    format!("peers.{service}"),
                    format!("\"{address}\" is no address; write http://host:port"),
                );
            }
        }
    }
}

pub(crate) fn is_http_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        text.strip_prefix(scheme)
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    })
}

/// The service's database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseConfig {
    /// Connection address, `postgres://user:password@host:port/database`. Required.
    pub url: Secret,
    /// The most connections this process opens. Default 10.
    pub max_connections: u32,
    /// Start although this database may lose commits that were acknowledged: it has no synchronous standby, or does not
    /// write through. Others act on what they were told, so a loss takes a person to put right. For a machine of one's
    /// own, tests and demonstrations. Default false.
    pub accept_loss: bool,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        DatabaseConfig {
            url: Secret::default(),
            max_connections: 10,
            accept_loss: false,
        }
    }
}

impl Validate for DatabaseConfig {
    fn validate(&self, violations: &mut Violations) {
        if !self.url.is_set() {
            violations.push(
                "database.url",
                "is required: give database.url, or database.url.file",
            );
        }
        // A fold holds one connection while a call needs another.
        if self.max_connections < 2 {
            violations.push(
                "database.max_connections",
                format!("{} is too few; give 2 or more", self.max_connections),
            );
        }
    }
}

/// The broker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NatsConfig {
    /// Address, `nats://user:password@host:port`, several separated by commas.
    /// `nats://127.0.0.1:4222` when not set: read it with [`NatsConfig::address`].
    pub url: Secret,
    /// The text of a NATS credentials file; none when not set.
    pub credentials: Secret,
}

impl NatsConfig {
    /// The address, or that of a broker on this machine. It is no default of the setting: a value and a file would
    /// contradict each other.
    ///
    /// # Errors
    ///
    /// When its file cannot be read.
    pub fn address(&self) -> Result<SecretString, ConfigError> {
        if self.url.is_set() {
            self.url.read("nats.url")
        } else {
            Ok(SecretString::from("nats://127.0.0.1:4222"))
        }
    }
}

/// The event log of the service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// How many events a partition of the log holds: the piece in which the log is archived. Default 1 000 000.
    pub partition_events: u32,
    /// Where partitions go that every consumer has passed, before they leave the database: a folder, or
    /// `s3://bucket/prefix` with keys, region and endpoint in the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`). None, the default: all of the log stays in the database.
    /// Never take it away again from a log that has used it.
    pub archive: Option<String>,
    /// Seconds that a partition stays in the database after it was full, at least. Default 30 days.
    #[serde(with = "seconds")]
    pub keep: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            partition_events: 1_000_000,
            archive: None,
            keep: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl Validate for LogConfig {
    fn validate(&self, violations: &mut Violations) {
        // Smaller ones would be full before the next look, larger ones take long to write to an archive.
        if !(10_000..=100_000_000).contains(&self.partition_events) {
            violations.push(
                "log.partition_events",
                format!(
                    "{} is out of range; give 10000 to 100000000",
                    self.partition_events
                ),
            );
        }
    }
}

/// Who may call, and how this service calls others.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// The public keys that tokens are checked with: a JSON Web Key Set as JSON text. Either this or `jwks_file`.
    pub jwks: Option<String>,
    /// The file that holds the key set.
    pub jwks_file: Option<PathBuf>,
    /// The `iss` that a token must have. Default `waybill`.
    pub issuer: String,
    /// The `aud` that a token must list. Default `waybill`.
    pub audience: String,
    /// The token this service presents to its peers.
    pub service_token: Secret,
}

impl Default for AuthConfig {
    fn default() -> Self {
        AuthConfig {
            jwks: None,
            jwks_file: None,
            issuer: "waybill".to_owned(),
            audience: "waybill".to_owned(),
            service_token: Secret::default(),
        }
    }
}

impl AuthConfig {
    /// The key set as JSON text, from the setting or its file.
    ///
    /// # Errors
    ///
    /// When neither is set or the file cannot be read.
    pub fn jwks_json(&self) -> Result<String, ConfigError> {
        match (&self.jwks, &self.jwks_file) {
            (Some(json), _) => Ok(json.clone()),
            (None, Some(path)) => std::fs::read_to_string(path).map_err(|source| ConfigError::File {
                path: path.clone(),
                source,
            }),
            (None, None) => Err(ConfigError::SecretMissing {
                key: "auth.jwks".to_owned(),
            }),
        }
    }
}

impl Validate for AuthConfig {
    fn validate(&self, violations: &mut Violations) {
        match (&self.jwks, &self.jwks_file) {
            (None, None) => violations.push(
                "auth.jwks",
                "is required: nothing is served without a key set; give auth.jwks or auth.jwks_file",
            ),
            (Some(_), Some(_)) => violations.push("auth.jwks", "and auth.jwks_file are both set; keep one"),
            _ => {}
        }
        if self.issuer.is_empty() {
            violations.push("auth.issuer", "is empty");
        }
        if self.audience.is_empty() {
            violations.push("auth.audience", "is empty");
        }
    }
}

/// Limits of the gRPC server. Whatever is beyond them is refused, never queued without end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// The largest message, in bytes, in either direction. Default 4 MiB.
    pub max_message_bytes: usize,
    /// Calls that run at once in this process; one more is refused with RESOURCE_EXHAUSTED. Default 1024.
    pub max_concurrent_calls: usize,
    /// Calls that run at once on one connection. Default 512.
    pub max_streams_per_connection: u32,
    /// Seconds that a unary call without a deadline may take. Default 10.
    #[serde(with = "seconds")]
    pub default_deadline: Duration,
    /// Seconds that a client stream without a deadline may take until it is answered. Default 600.
    #[serde(with = "seconds")]
    pub stream_deadline: Duration,
    /// Seconds between keepalive pings. Default 30.
    #[serde(with = "seconds")]
    pub keepalive_interval: Duration,
    /// Seconds after which an unanswered ping closes the connection. Default 10.
    #[serde(with = "seconds")]
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_message_bytes: 4 * 1024 * 1024,
            max_concurrent_calls: 1024,
            max_streams_per_connection: 512,
            default_deadline: Duration::from_secs(10),
            stream_deadline: Duration::from_secs(600),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl Validate for Limits {
    fn validate(&self, violations: &mut Violations) {
        let counts = [
            ("limits.max_message_bytes", self.max_message_bytes),
            ("limits.max_concurrent_calls", self.max_concurrent_calls),
            (
                "limits.max_streams_per_connection",
                self.max_streams_per_connection as usize,
            ),
        ];
        for (field, count) in counts {
            if count == 0 {
                violations.push(field, "is 0; give 1 or more");
            }
        }
        let times = [
            ("limits.default_deadline", self.default_deadline),
            ("limits.stream_deadline", self.stream_deadline),
            ("limits.keepalive_interval", self.keepalive_interval),
            ("limits.keepalive_timeout", self.keepalive_timeout),
        ];
        for (field, time) in times {
            if time.is_zero() {
                violations.push(field, "is 0 seconds; give more");
            }
        }
    }
}
