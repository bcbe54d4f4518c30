//! Postgres plumbing of the services: pool, transactions with retry, idempotency, jobs, migrations.
//!
//! The tour:
//!
//! - [`Db`] is the handle to one service's schema. Reads use its [`pool`](Db::pool).
//! - A [`UseCase`] is what one transaction does. [`Db::run`] runs it, again when that helps; [`Db::run_once`] runs it once
//!   for a [`RequestKey`], however often it is asked.
//! - [`StoreError`] is what can go wrong, in the classes a service can act on.
//! - [`Origin`] says who and what a change comes from; [`Db::run_once`] makes it known to what it runs.
//! - [`jobs`] carries effects to the outside world: written with the decision, done after it, under a lease.
//! - [`maintain`] forgets old request keys and jobs; every service runs it.
//! - [`mod@durability`] refuses a server that may forget what it acknowledged.
//! - [`migrate`](mod@migrate) brings a schema up to date at start; [`mod@bootstrap`] makes roles and schemas once.
//!
//! It holds no business rule and no SQL of a service, and nothing here protects money or stock: constraints and row locks
//! of the services do. It does not know gRPC.

mod backoff;
mod bell;
pub mod bootstrap;
mod db;
pub mod durability;
pub mod error;
pub mod idempotency;
pub mod jobs;
mod maintenance;
pub mod migrate;
mod name;
mod origin;
mod scram;
mod tx;
pub mod usecase;

pub use self::backoff::Backoff;
pub use self::db::{ConnectCheck, ConnectError, Db, DbOptions};
pub use self::error::{RetryCause, RetryClass, StoreError};
pub use self::idempotency::RequestKey;
pub use self::maintenance::{MaintenanceOptions, maintain};
pub use self::name::NameError;
pub use self::origin::Origin;
pub use self::tx::Tx;
pub use self::usecase::UseCase;
