//! What a figure means: rates, averages, periods. Pure.

pub mod figures;
pub mod period;
