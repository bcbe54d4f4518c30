//! All SQL of the service: [`facts`] are written as events tell them, [`figures`] are read from them.

pub mod facts;
pub mod figures;
