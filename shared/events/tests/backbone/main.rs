//! The backbone against a real Postgres and real nats-servers: what the README's invariants say, under faults.
//!
//! One test binary, so one Postgres. Each test has a database and a nats-server of its own.

mod archive;
mod consumers;
mod fold;
mod history;
mod letters;
mod log;
mod operate;
mod operator;
mod partitions;
mod read;
mod rebuild;
mod recorder;
mod recovery;
mod relay;
mod repair;
mod restart;
mod scale;
mod select;
mod shelf;
mod support;
mod trace;
