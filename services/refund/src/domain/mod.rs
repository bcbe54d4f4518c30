//! The rules of returns and refunds: pure, without clock, database, network or wire format.
//!
//! Time, what is stored and what providers say come in as arguments; what is to be stored goes out as values. So every
//! rule can be tried with made-up values, in any order, thousands of times.

pub mod book;
pub mod calendar;
pub mod compose;
pub mod decision;
pub mod facts;
pub mod journal;
pub mod policy;
pub mod refund;
pub mod returns;
pub mod settle;
pub mod tender;
pub mod units;

#[cfg(test)]
mod tests;
