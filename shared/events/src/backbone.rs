//! The backbone of one service, put together: log, relay, consumers, and the reading side for others.
//!
//! ```no_run
//! # use waybill_events::{Backbone, Fold, Peers};
//! # async fn wire<F: Fold>(db: waybill_store::Db, config: waybill_runtime::service::CommonConfig, peers: Peers, fold: F,
//! #     tasks: &waybill_runtime::tasks::TaskGroup) -> Result<(), waybill_events::BackboneError> {
//! let backbone = Backbone::new(&db, &config.nats, peers).relay().fold(fold);
//! let log = backbone.log();          // for use cases: log.append(tx, &[event])
//! let reading = backbone.grpc();     // for the server: EventLogServiceServer
//! let status = backbone.status();    // for health
//! backbone.spawn(tasks).await?;
//! # Ok(()) }
//! ```
//!
//! It starts without NATS and without its peers; what needs them waits and says so in the [`Status`].

use std::collections::BTreeMap;
use std::sync::Arc;

use waybill_kernel::time::{Shared as Clock, SystemClock};
use waybill_proto::waybill::events::v1::consumer_service_server::ConsumerServiceServer;
use waybill_proto::waybill::events::v1::event_log_service_server::EventLogServiceServer;
use waybill_proto::waybill::events::v1::history_service_server::HistoryServiceServer;
use waybill_rpc::client::Channel;
use waybill_runtime::service::NatsConfig;
use waybill_runtime::tasks::TaskGroup;
use waybill_store::Db;
use waybill_store::error::StoreError;

use crate::fold::{
    Applier, Fold, FoldOptions, Gauges, Keeper, KeeperParts, Lane, LaneParts, LeaseMeters, Mender,
};
use crate::grpc::{ConsumerApi, EventLogApi};
use crate::history::effects::OutsideEffects;
use crate::history::grpc::HistoryApi;
use crate::log::Log;
use crate::nats::{Nats, NatsError};
use crate::operate::Consumers;
use crate::reader::{OwnLog, SourceLog};
use crate::relay::{Relay, RelayOptions, prove};
use crate::status::{Part, Status};
use crate::store;
use crate::upkeep::{Upkeep, UpkeepOptions};
use crate::witness::Witness;

/// Channels to the services whose logs are followed, by name.
pub type Peers = BTreeMap<String, Channel>;

/// Why the backbone could not start.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// NATS cannot be used as it is configured.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A consumer follows a log that nobody knows the way to.
    #[error("consumer {consumer} follows the log of {source_name}: give peers.{source_name}, its address")]
    NoPeer {
        /// The consumer.
        consumer: &'static str,
        /// The service whose address is missing.
        source_name: &'static str,
    },
    /// A setting makes no sense.
    #[error("consumer {consumer}: lanes is {lanes}; give 1 to 64")]
    Lanes {
        /// The consumer.
        consumer: &'static str,
        /// The setting.
        lanes: u16,
    },
}

type Start = Box<dyn FnOnce(&Wiring, &TaskGroup) -> Result<(), BackboneError> + Send>;

/// What the parts are made from.
struct Wiring {
    db: Db,
    log: Log,
    peers: Peers,
    status: Status,
    clock: Clock,
    nats: Nats,
    witness: Witness,
}

/// The backbone of one service.
#[must_use = "nothing runs before `spawn`"]
pub struct Backbone {
    db: Db,
    log: Log,
    nats: NatsConfig,
    peers: Peers,
    status: Status,
    clock: Clock,
    witness: Witness,
    has_relay: bool,
    consumers: Consumers,
    starts: Vec<Start>,
}

impl std::fmt::Debug for Backbone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backbone")
            .field("service", self.log.source())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Backbone {
    /// A backbone over the schema of `db`, whose name is the service's. `peers` are the services whose logs its
    /// consumers follow.
    pub fn new(db: &Db, nats: &NatsConfig, peers: Peers) -> Backbone {
        let log = Log::open(db);
        Backbone {
            status: Status::new(Arc::clone(log.source())),
            db: db.clone(),
            log,
            nats: nats.clone(),
            peers,
            clock: SystemClock::shared(),
            witness: Witness::new(),
            has_relay: false,
            consumers: Consumers::new(),
            starts: Vec::new(),
        }
    }

    /// Runs a relay: publishes the log to the stream. Every service that appends needs one.
    pub fn relay(self) -> Self {
        self.relay_with(RelayOptions::default())
    }

    /// Runs a relay with other settings than the defaults.
    pub fn relay_with(mut self, options: RelayOptions) -> Self {
        self.has_relay = true;
        self.starts.push(Box::new(move |wiring, tasks| {
            let part = wiring.status.part("relay");
            let relay = Relay::new(
                wiring.log.clone(),
                wiring.nats.clone(),
                options,
                part,
                Arc::clone(&wiring.clock),
                wiring.witness.clone(),
            );
            tasks.spawn("relay", relay.run(tasks.token()));
            Ok(())
        }));
        self
    }

    /// Runs a consumer.
    pub fn fold<F: Fold>(self, fold: F) -> Self {
        self.fold_with(fold, FoldOptions::default())
    }

    /// Runs a consumer with other settings than the defaults.
    pub fn fold_with<F: Fold>(mut self, fold: F, options: FoldOptions) -> Self {
        let fold = Arc::new(fold);
        let mender = self.mender(&fold, &options);
        self.consumers.insert(F::NAME, Arc::new(mender));
        self.starts.push(Box::new(move |wiring, tasks| {
            if options.lanes == 0 || options.lanes > waybill_kernel::partition::PARTITIONS {
                return Err(BackboneError::Lanes {
                    consumer: F::NAME,
                    lanes: options.lanes,
                });
            }
            let logs = wiring.logs::<F>(fold.sources())?;
            let parts: Vec<Part> = (0..options.lanes)
                .map(|index| wiring.status.part(format!("fold {}/{index}", F::NAME)))
                .collect();
            let keeper = Keeper::new(KeeperParts {
                db: wiring.db.clone(),
                consumer: F::NAME,
                sources: fold.sources(),
                ttl: options.lease,
                parts: parts.clone(),
                meters: LeaseMeters::new(wiring.log.source(), F::NAME),
            });
            for (index, part) in (0..).zip(parts) {
                let seat = keeper.seat(index);
                let lane = Lane::new(LaneParts {
                    db: wiring.db.clone(),
                    log: wiring.log.clone(),
                    fold: Arc::clone(&fold),
                    logs: logs.clone(),
                    nats: wiring.nats.clone(),
                    options: options.clone(),
                    status: wiring.status.clone(),
                    clock: Arc::clone(&wiring.clock),
                    index,
                    part,
                });
                let run = lane.run(seat, tasks.token());
                tasks.spawn(format!("fold {}/{index}", F::NAME), run);
            }
            tasks.spawn(format!("fold {} leases", F::NAME), keeper.run(tasks.token()));
            Ok(())
        }));
        self
    }

    /// The consumer as commands see it. A log that nobody knows the way to is none here; `spawn` refuses it.
    fn mender<F: Fold>(&self, fold: &Arc<F>, options: &FoldOptions) -> Mender<F> {
        let sources: Vec<Arc<str>> = fold.sources().iter().map(|&name| Arc::from(name)).collect();
        let logs = sources
            .iter()
            .map(|source| {
                let log = source_log(&self.log, &self.peers, source);
                (Arc::clone(source), log)
            })
            .collect();
        Mender {
            applier: Applier {
                db: self.db.clone(),
                log: self.log.clone(),
                fold: Arc::clone(fold),
                sources,
                letters_per_minute: options.letters_per_minute,
            },
            logs,
        }
    }

    /// Keeps the log in partitions; with an archive also takes the oldest ones out of the database, and reads them there.
    pub fn upkeep(mut self, options: UpkeepOptions) -> Self {
        if let Some(archive) = &options.archive {
            self.log.set_archive(archive.clone());
        }
        self.starts.push(Box::new(move |wiring, tasks| {
            let upkeep = Upkeep {
                db: wiring.db.clone(),
                options,
                part: wiring.status.part("log"),
            };
            tasks.spawn("log upkeep", upkeep.run(tasks.token()));
            Ok(())
        }));
        self
    }

    /// Uses another clock than the machine's, for the figures.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Tells the witness whose check the connections of the database pass what the relay sees of the log.
    pub fn witness(mut self, witness: &Witness) -> Self {
        self.witness = witness.clone();
        self
    }

    /// The log, to append to.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// The reading side of the log, to be added to the service's gRPC server.
    #[must_use]
    pub fn grpc(&self) -> EventLogServiceServer<EventLogApi> {
        EventLogServiceServer::new(EventLogApi::new(OwnLog::new(&self.log)))
    }

    /// What operates the consumers registered so far, to be added to the service's gRPC server.
    #[must_use]
    pub fn consumer_grpc(&self) -> ConsumerServiceServer<ConsumerApi> {
        ConsumerServiceServer::new(ConsumerApi::new(
            self.db.clone(),
            Arc::new(self.consumers.clone()),
        ))
    }

    /// What is to be done when the log lost commits, to be added to the service's gRPC server. `effects` is what the
    /// service's jobs do outside, if they do anything. It knows of the consumers registered so far.
    #[must_use]
    pub fn history(&self, effects: Option<Arc<dyn OutsideEffects>>) -> HistoryServiceServer<HistoryApi> {
        HistoryServiceServer::new(HistoryApi::new(
            self.log.clone(),
            self.nats.clone(),
            Arc::clone(&self.clock),
            effects,
            Arc::new(self.consumers.clone()),
        ))
    }

    /// How the parts are, from now on.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Starts everything in `tasks`; it stops with the group. Neither NATS nor a peer need be there yet.
    ///
    /// First it compares the end of the stream with the log, when there is any doubt, for a few seconds at most: a log that
    /// was put back to an older copy is fenced before the first call is taken.
    ///
    /// # Errors
    ///
    /// When a setting is wrong.
    pub async fn spawn(self, tasks: &TaskGroup) -> Result<(), BackboneError> {
        if self.starts.is_empty() {
            return Ok(());
        }
        let nats = Nats::connect(&self.nats, &format!("waybill-{}", self.log.source())).await?;
        if self.has_relay {
            prove(&self.log, &nats).await;
        }
        if !self.consumers.is_empty() {
            let source = Arc::clone(self.log.source());
            let gauges = Gauges::new(self.db.clone(), source, Arc::new(self.consumers));
            tasks.spawn("fold figures", gauges.run(tasks.token()));
        }
        let wiring = Wiring {
            witness: self.witness,
            db: self.db,
            log: self.log,
            peers: self.peers,
            status: self.status,
            clock: self.clock,
            nats,
        };
        self.starts
            .into_iter()
            .try_for_each(|start| start(&wiring, tasks))
    }
}

impl Wiring {
    fn logs<F: Fold>(
        &self,
        sources: &'static [&'static str],
    ) -> Result<Vec<(Arc<str>, SourceLog)>, BackboneError> {
        sources
            .iter()
            .map(|&name| {
                let source: Arc<str> = Arc::from(name);
                let log = source_log(&self.log, &self.peers, &source);
                let log = log.ok_or(BackboneError::NoPeer {
                    consumer: F::NAME,
                    source_name: name,
                })?;
                Ok((source, log))
            })
            .collect()
    }
}

/// The way to a log: in the own database, or through a peer. None when it is neither.
fn source_log(own: &Log, peers: &Peers, source: &Arc<str>) -> Option<SourceLog> {
    if source == own.source() {
        return Some(SourceLog::Own(OwnLog::new(own)));
    }
    let channel = peers.get(&**source)?;
    Some(SourceLog::Peer {
        source: Arc::clone(source),
        channel: channel.clone(),
    })
}

/// Takes note of the kinds of jobs that reach outside: they are held from the moment the log is fenced until a person
/// releases them. To be called before any of them runs; also with none.
///
/// # Errors
///
/// As the database answers.
pub async fn register_effects(db: &Db, kinds: &[&str]) -> Result<(), StoreError> {
    store::history::register_effects(db.pool(), kinds).await
}

/// Stops a consumer in all processes, until it is resumed.
///
/// # Errors
///
/// As the database answers.
pub async fn stop_consumer(db: &Db, consumer: &str, reason: &str) -> Result<(), StoreError> {
    store::fold::stop(db.pool(), consumer, reason).await
}

/// Lets a stopped consumer run again; its owners notice within a third of their lease. False when it was not stopped.
///
/// # Errors
///
/// As the database answers.
pub async fn resume_consumer(db: &Db, consumer: &str) -> Result<bool, StoreError> {
    store::fold::resume(db.pool(), consumer).await
}
