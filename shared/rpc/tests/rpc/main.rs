//! The crate from outside: a real server on a free port, and clients of it.

mod access;
mod auth;
mod client;
mod convert;
mod fault;
mod rules;
mod serving;
mod support;
mod trace;
