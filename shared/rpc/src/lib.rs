//! gRPC for the services of Waybill: what stands between the wire and a use case, in both directions.
//!
//! A call comes in through [`server`]: span, load limit, deadline, then the one layer that decides who may do what
//! ([`access`], with the tokens of [`auth`]), then the service. The service parses with [`convert`] and answers errors as
//! a [`fault`]. A call goes out through [`client`], which takes trace, deadline and token along.
//!
//! This crate knows no business rule and no database.

pub mod access;
pub mod auth;
pub mod client;
pub mod convert;
mod deadline;
pub mod fault;
pub mod server;
