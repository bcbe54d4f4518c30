//! The service against a real Postgres, and a real NATS where events travel, as production wires it.
//!
//! One binary, so that all tests share one Postgres; each has a database of its own. Every test ends with
//! [`support::World::books`], which recounts all stock from its parts.

mod allocation;
mod backbone;
mod cancelled_units;
mod edited;
mod holds;
mod plans;
mod rebuild;
mod requests;
mod shipping;
mod stock;
mod storm;
mod support;
mod tenancy;
mod tracking;
mod waiting;
