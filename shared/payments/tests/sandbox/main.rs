//! The adapters and the sandboxes of their providers, against each other over real HTTP.

mod adapter;
mod admin;
mod common;
mod conformance;
mod faults;
mod houses;
mod races;
mod shops;
mod webhooks;
