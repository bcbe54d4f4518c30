//! The connection to NATS and the streams: the one place that declares their configuration.
//!
//! A stream is created when it is missing, updated in place where the server allows it, else left alone and refused. It
//! is never deleted or made again because its configuration differs. Nothing that must be kept is kept here.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, RawMessageErrorKind, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{ConnectOptions, Event as NatsEvent};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use waybill_kernel::id::EventId;
use waybill_runtime::config::ConfigError;
use waybill_runtime::service::NatsConfig;

use crate::envelope::{all_subjects, identify, partition_subjects, stream_name};
use crate::position::Position;

/// How long a request to JetStream may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How far back the last event of a stream is looked for, behind messages that are none.
const LOOK_BACK: u64 = 64;

/// What is said while there is no connection.
pub(crate) const NO_LINK: &str = "NATS cannot be reached";

/// Why NATS cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The credentials cannot be read.
    #[error("the credentials of NATS cannot be read")]
    Config(#[from] ConfigError),
    /// The credentials are none.
    #[error("nats.credentials is no NATS credentials file: {0}")]
    Credentials(#[source] std::io::Error),
    /// The address does not parse.
    #[error("nats.url is no address of NATS; write nats://host:port, several separated by commas: {0}")]
    Url(#[source] std::io::Error),
    /// The client could not be made.
    #[error("cannot use NATS: {0}")]
    Connect(#[from] async_nats::ConnectError),
}

/// A request to NATS that failed: try again.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub(crate) struct NatsFault {
    doing: &'static str,
    source: async_nats::Error,
}

impl NatsFault {
    pub fn new(doing: &'static str) -> impl FnOnce(async_nats::Error) -> NatsFault {
        move |source| NatsFault { doing, source }
    }
}

fn fault<E: Into<async_nats::Error>>(doing: &'static str) -> impl FnOnce(E) -> NatsFault {
    move |error| NatsFault::new(doing)(error.into())
}

/// A connection that comes back by itself.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    context: Context,
    link: watch::Receiver<Link>,
}

/// How the connection is. It changes whenever the connection is lost or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Link {
    /// Whether there is one.
    pub up: bool,
    /// How often it was made. Whoever reads from a stream asks the log after a change.
    pub made: u64,
}

/// What a stream is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamSpec {
    pub service: String,
    pub max_bytes: i64,
    pub replicas: usize,
}

/// Why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnsureError {
    #[error("stream {stream} differs from what it is to be and the server refuses to change it: {reason}")]
    Refused { stream: String, reason: String },
    #[error(transparent)]
    Fault(#[from] NatsFault),
}

/// The end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// It holds no event. `last_sequence` is not 0 when it held some.
    Empty {
        /// The last number it gave away.
        last_sequence: u64,
    },
    /// The last event. Behind it there may be messages that are no events, up to `last_sequence`.
    Event {
        /// The last number it gave away.
        last_sequence: u64,
        /// Where the event stands in its log.
        position: Position,
        /// The event.
        event_id: EventId,
    },
    /// The last messages are no events.
    Unreadable {
        /// The last number it gave away.
        last_sequence: u64,
    },
}

impl Nats {
    /// Makes a client; the connection itself may come later and come back any time.
    pub async fn connect(config: &NatsConfig, name: &str) -> Result<Nats, NatsError> {
        let (sender, link) = watch::channel(Link::default());
        let mut options = ConnectOptions::new()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .request_timeout(Some(REQUEST_TIMEOUT))
            // From 50 ms to 2 s: a broker that restarts is back soon.
            .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(6)).min(2000)))
            .event_callback(move |event| {
                match event {
                    NatsEvent::Connected => sender.send_modify(|link| {
                        link.up = true;
                        link.made += 1;
                    }),
                    NatsEvent::Disconnected => {
                        tracing::warn!("the connection to NATS is lost");
                        sender.send_modify(|link| link.up = false);
                    }
                    other => tracing::debug!(event = %other, "nats"),
                }
                std::future::ready(())
            });
        if config.credentials.is_set() {
            let credentials = config.credentials.read("nats.credentials")?;
            options = options
                .credentials(credentials.expose_secret())
                .map_err(NatsError::Credentials)?;
        }
        let url = config.address()?;
        let addresses = url
            .expose_secret()
            .split(',')
            .map(|address| address.trim().parse())
            .collect::<Result<Vec<async_nats::ServerAddr>, _>>()
            .map_err(NatsError::Url)?;
        // The client leaves user and password of an address aside; they are handed over apart.
        if let Some(user) = addresses.iter().find_map(async_nats::ServerAddr::username) {
            let password = addresses
                .iter()
                .find_map(async_nats::ServerAddr::password)
                .unwrap_or_default();
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let client = options.connect(addresses).await?;
        let mut context = jetstream::new(client);
        context.set_timeout(REQUEST_TIMEOUT);
        Ok(Nats { context, link })
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The connection, to be told of what happens to it from now on.
    pub fn link(&self) -> watch::Receiver<Link> {
        let mut link = self.link.clone();
        link.mark_unchanged();
        link
    }

    /// Makes sure that the stream is there and is what it is to be. True when it was created.
    pub async fn ensure(&self, spec: &StreamSpec) -> Result<bool, EnsureError> {
        let name = stream_name(&spec.service);
        let existing = match self.context.get_stream(&name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if is_missing(&error.kind()) => {
                let created = self.context.create_stream(spec.new_config()).await;
                return created
                    .map(|_| true)
                    .map_err(|error| verdict(name, "creating the stream", error));
            }
            Err(error) => return Err(fault("asking for the stream")(error).into()),
        };
        let wanted = spec.apply_to(existing.clone());
        if wanted != existing {
            let updated = self.context.update_stream(wanted).await;
            updated.map_err(|error| verdict(name.clone(), "updating the stream", error))?;
            tracing::info!(stream = name, "the configuration of the stream was updated");
        }
        Ok(false)
    }

    /// Reads the end of the stream from its leader. Both requests are answered by the leader alone; a direct get, which
    /// any replica may answer, could show an older end.
    pub async fn tail(&self, service: &str) -> Result<Tail, NatsFault> {
        let stream = self
            .context
            .get_stream(stream_name(service))
            .await
            .map_err(fault("asking for the stream"))?;
        let state = &stream.cached_info().state;
        let last_sequence = state.last_sequence;
        if state.messages == 0 {
            return Ok(Tail::Empty { last_sequence });
        }
        let oldest = last_sequence
            .saturating_sub(LOOK_BACK)
            .max(state.first_sequence.saturating_sub(1));
        for sequence in (oldest + 1..=last_sequence).rev() {
            match stream.get_raw_message(sequence).await {
                Ok(message) => match identify(&message.headers) {
                    Ok((position, event_id)) => {
                        return Ok(Tail::Event {
                            last_sequence,
                            position,
                            event_id,
                        });
                    }
                    Err(reason) => {
                        tracing::warn!(service, sequence, %reason, "a message in the stream is no event");
                    }
                },
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(fault("reading the end of the stream")(error)),
            }
        }
        Ok(Tail::Unreadable { last_sequence })
    }

    /// The last sequence of the stream, or `None` when there is no stream.
    pub async fn last_sequence(&self, service: &str) -> Result<Option<u64>, NatsFault> {
        match self.context.get_stream(stream_name(service)).await {
            Ok(stream) => Ok(Some(stream.cached_info().state.last_sequence)),
            Err(error) if is_missing(&error.kind()) => Ok(None),
            Err(error) => Err(fault("asking for the stream")(error)),
        }
    }

    /// Reads from the stream what is published from now on: an ephemeral consumer in memory, without acknowledgements.
    ///
    /// This is what the client library calls an ordered consumer, less its habit to begin anew silently at a sequence
    /// that a stream made again may not reach for a long time. Here whoever reads is told, and asks the log.
    pub async fn subscribe(
        &self,
        service: &str,
        partitions: Option<&[u16]>,
        max_bytes: usize,
    ) -> Result<pull::Stream, NatsFault> {
        let filter_subjects = match partitions {
            None => vec![all_subjects(service)],
            Some(some) => some
                .iter()
                .map(|partition| partition_subjects(service, *partition))
                .collect(),
        };
        let consumer = self
            .context
            .create_consumer_on_stream(
                pull::Config {
                    deliver_policy: DeliverPolicy::New,
                    ack_policy: AckPolicy::None,
                    filter_subjects,
                    memory_storage: true,
                    num_replicas: 1,
                    max_deliver: 1,
                    // Reading the log at length must not cost the consumer.
                    inactive_threshold: Duration::from_secs(300),
                    ..pull::Config::default()
                },
                stream_name(service),
            )
            .await
            .map_err(fault("subscribing to the stream"))?;
        consumer
            .stream()
            .max_messages_per_batch(500)
            .max_bytes_per_batch(max_bytes)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(fault("subscribing to the stream"))
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Whether the server will say no again. It counts a configuration that it does not like among its own faults.
fn verdict(stream: String, doing: &'static str, error: CreateStreamError) -> EnsureError {
    match error.kind() {
        CreateStreamErrorKind::JetStream(answer)
            if answer.code() < 500 || answer.error_code() == ErrorCode::STREAM_INVALID_CONFIG =>
        {
            EnsureError::Refused {
                stream,
                reason: answer.to_string(),
            }
        }
        _ => fault(doing)(error).into(),
    }
}

impl StreamSpec {
    fn new_config(&self) -> Config {
        self.apply_to(Config {
            name: stream_name(&self.service),
            description: Some(format!(
                "Events of {}; the log in Postgres is the truth.",
                self.service
            )),
            num_replicas: self.replicas,
            ..Config::default()
        })
    }

    /// The configuration with what matters set as it is to be, and everything else as it is.
    fn apply_to(&self, existing: Config) -> Config {
        Config {
            subjects: vec![all_subjects(&self.service)],
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_bytes: self.max_bytes,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_age: Duration::ZERO,
            deny_delete: true,
            deny_purge: true,
            no_ack: false,
            allow_rollup: false,
            ..existing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_set_and_the_rest_is_left() {
        let spec = StreamSpec {
            service: "order".to_owned(),
            max_bytes: 1 << 30,
            replicas: 1,
        };
        let made = spec.new_config();
        assert_eq!(made.name, "WAYBILL_ORDER");
        assert_eq!(made.subjects, ["waybill.events.order.v1.>"]);
        assert!(made.deny_delete && made.deny_purge);
        assert_eq!(spec.apply_to(made.clone()), made, "nothing to update");

        let scaled = Config {
            num_replicas: 3,
            ..made.clone()
        };
        assert_eq!(
            spec.apply_to(scaled.clone()),
            scaled,
            "an operator may add replicas"
        );
        let aged = Config {
            max_age: Duration::from_secs(60),
            ..made.clone()
        };
        assert_eq!(spec.apply_to(aged), made, "events are not aged out");
        let larger = StreamSpec {
            max_bytes: 2 << 30,
            ..spec
        };
        assert_eq!(
            larger.apply_to(made.clone()),
            Config {
                max_bytes: 2 << 30,
                ..made
            }
        );
    }
}
