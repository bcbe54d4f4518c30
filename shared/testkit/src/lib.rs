//! Test support, against the real things: a Postgres per test process with a database per test, a nats-server per
//! test, tokens, a proxy that breaks connections, and waiting for conditions.
//!
//! Used as a dev-dependency only. What it refuses to do: stand in for Postgres or NATS with something in memory, or
//! sleep for a result.

mod auth;
mod config;
mod database;
mod eventually;
mod nats;

pub use auth::Auth;
pub use config::common_config;
pub use database::{TestDb, database};
pub use eventually::{Poll, eventually};
pub use nats::{TestNats, nats};
pub use waybill_embedded::{Fault, Mail, MailSink, Wire};
