//! A log that lost commits: what survived, what others were told of the rest, and how it goes on.
//!
//! - [`chain`]: the pure rules, what survived and what a consumer that may have seen more does about it.
//! - [`told`]: what the stream has and the log has not.
//! - [`recover`]: a person's command that keeps what was lost as orphans and begins a new generation.
//! - [`effects`]: what was done outside by the history that is gone, settled by a person.
//! - [`grpc`] answers `HistoryService`.
//!
//! Noticing is done elsewhere: on each new connection ([`crate::Witness`]) and by the relay. Nothing here is decided
//! without a person, and nothing is deleted: not in the log, not in the stream.

pub(crate) mod chain;
pub(crate) mod effects;
mod fault;
pub(crate) mod grpc;
pub(crate) mod recover;
pub(crate) mod told;
mod view;
