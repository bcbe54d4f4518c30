//! The Stripe adapter and the sandbox, against each other over real HTTP.

mod adapter;
mod admin;
mod common;
mod faults;
mod races;
mod webhooks;
