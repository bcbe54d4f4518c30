//! A world in memory for the pure rules of the backbone and the jobs.
//!
//! Two producers with a log, a stream and two relays each; three processes of one consumer that share virtual partitions
//! by leases with epochs; workers that call a provider. One seed decides everything: who takes the next step, what the
//! wire loses, repeats and reorders, who crashes or sleeps for too long, when a stream loses its tail or everything. The
//! clock is virtual. After every step the [`check`] looks whether what must hold holds; when the faults end, everything
//! must come to its end.
//!
//! The decisions are those of the product (`waybill_events::{cursor, gate, resume}`, `waybill_store::jobs::rule`), handed
//! in as [`Rules`], so that a test can put a wrong one in and see that the simulator sees it. What the databases do
//! (conditional updates, leases) is modelled here; that the real ones do it is the matter of the tests of those crates.
//!
//! What it refuses to do: I/O, threads, real time, any randomness but the seed's.

pub mod check;
pub mod consumer;
pub mod producer;
pub mod rng;
pub mod rules;
pub mod work;
pub mod world;

pub use check::Fault;
pub use rules::Rules;
pub use world::{Report, run};
