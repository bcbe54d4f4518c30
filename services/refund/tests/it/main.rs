//! The refund service against a real Postgres and a payment sandbox, as production wires them.

mod api;
mod audit;
mod bench;
mod cancelled_units;
mod fold;
mod histories;
mod legs;
mod money;
mod plans;
mod returns;
mod running;
mod shops;
mod workers;
