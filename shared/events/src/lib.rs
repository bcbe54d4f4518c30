//! The backbone of Waybill: event log, relay, envelope, fold.
//!
//! The log is in Postgres and is the truth; NATS JetStream is the fast way. Losing all of NATS loses nothing: a consumer
//! catches up from the log and lives from the stream, and nothing here depends on what NATS remembers.
//!
//! The tour, in the order an event travels:
//!
//! - A use case makes a [`NewEvent`] and appends it with [`Log::append`] in the transaction of its state.
//! - [`Position`] says where it stands; readers see only what is settled, so nothing can appear behind them.
//! - The relay ([`RelayOptions`]) publishes it in the [`envelope`]; the stream lets only one relay publish.
//! - A [`Fold`] takes it: the pure rule of [`cursor`] decides whether it is next, the one of [`gate`] whether it waits,
//!   and cursor row and effects are one transaction. Gaps are read from the producer's log, through the `EventLogService`
//!   that [`Backbone::grpc`] serves.
//! - A [`Witness`] notices on every new connection that a database is no longer the one whose events others have read;
//!   [`Status`] shows whatever needs a person.
//!
//! [`Backbone`] puts it together for a service. It holds no business rule and knows no service. `README.md` numbers the
//! invariants.

mod archive;
mod backbone;
pub mod cursor;
pub mod envelope;
mod error;
mod event;
mod filter;
mod fold;
pub mod gate;
mod grpc;
mod history;
mod identity;
mod log;
mod metrics;
mod nats;
mod operate;
mod overview;
mod position;
mod reader;
mod rebuild;
mod relay;
mod retention;
mod status;
mod store;
mod upkeep;
mod witness;

/// Where a relay goes on: the pure rule, for those who simulate it.
pub mod resume {
    pub use crate::nats::Tail;
    pub use crate::relay::resume::{Differs, Place, Resume, decide};
}

pub use archive::{Archive, ArchiveError};
pub use backbone::{Backbone, BackboneError, Peers, register_effects, resume_consumer, stop_consumer};
pub use error::FoldError;
pub use event::{Event, MAX_PAYLOAD_BYTES, MalformedEvent, NewEvent};
pub use fold::{Fold, FoldOptions, Phantom, Projection, Reaction};
pub use grpc::{ConsumerApi, EventLogApi};
pub use history::effects::{Doubt, EffectError, OutsideEffects};
pub use history::grpc::HistoryApi;
pub use identity::identity_check;
pub use log::Log;
pub use nats::NatsError;
pub use position::{Position, PositionError};
pub use relay::RelayOptions;
pub use status::{Condition, HEALTH_NAME, Status};
pub use upkeep::UpkeepOptions;
pub use witness::Witness;

/// The tables of the backbone, versions 1001 to 2000. To be handed to `waybill_store::migrate` by every service that has
/// a log or follows one.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
