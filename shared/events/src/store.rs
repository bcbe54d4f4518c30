//! All SQL of the backbone: the log, its identity and who follows it, and what a consumer remembers.
//!
//! Text and types only. What the answers mean is decided elsewhere.

pub(crate) mod archive;
pub(crate) mod consumers;
pub(crate) mod fold;
pub(crate) mod history;
pub(crate) mod identity;
pub(crate) mod lease;
pub(crate) mod log;
pub(crate) mod operate;
pub(crate) mod partitions;
pub(crate) mod phantom;
#[cfg(test)]
mod plans;
pub(crate) mod rebuild;
pub(crate) mod repair;
pub(crate) mod select;
pub(crate) mod shadow;
pub(crate) mod written;
