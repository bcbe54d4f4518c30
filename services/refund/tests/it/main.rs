//! The refund service against a real Postgres and a payment sandbox, as production wires them.

mod api;
mod bench;
mod fold;
mod histories;
mod money;
mod returns;
mod workers;
