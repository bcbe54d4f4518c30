//! The rules of jobs, pure: when one may be taken, what an outcome makes of it, when a destination is left alone.
//!
//! The claim of many jobs is one statement, so the database carries out these rules in SQL (`take_jobs`, `queue.rs`); a
//! test plays both against each other.

pub mod breaker;
pub mod job;
pub mod rate;
pub mod turn;
