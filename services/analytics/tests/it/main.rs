//! The service against a real Postgres, and a real NATS where events travel, as production wires it: events in, figures out.
//!
//! One binary, so that all tests share one Postgres.

mod backbone;
mod days;
mod edges;
mod random;
mod support;
mod tenancy;
