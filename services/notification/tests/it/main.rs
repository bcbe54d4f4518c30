//! The service against a real Postgres, a real mail server, and a real NATS where events travel, as production wires it.
//! The services that own what messages say are stand-ins for their contracts.
//!
//! One binary, so that all tests share one Postgres; each has a database of its own.

mod backbone;
mod brand;
mod erased;
mod follow_up;
mod lists;
mod mails;
mod planning;
mod rebuild;
mod sending;
mod support;
