//! The order service against real Postgres and NATS, through its public API, wired as production wires it.

mod batch;
mod cancel;
mod cancel_lines;
mod export;
mod faults;
mod find;
mod fold;
mod found;
mod harness;
mod hold;
mod house;
mod list;
mod many;
mod orders;
mod payment;
mod place;
mod races;
mod refusals;
mod replay;
mod search;
mod shop;
mod tables;
mod trail;
mod update;
mod watch;
