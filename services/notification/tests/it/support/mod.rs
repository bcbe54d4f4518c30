//! A running service with a database of its own, and what tests need to talk to it.

mod facts;
mod owners;
mod producer;
mod world;

pub use facts::{CUSTOMER, Facts};
pub use owners::StandIn;
pub use producer::Producer;
pub use world::{SOON, World, brand, one_row};

use tonic::{Code, Status};
use waybill_rpc::fault;

/// Code and reason of a refusal.
pub fn refusal(status: &Status) -> (Code, String) {
    (status.code(), fault::reason(status).unwrap_or_default())
}

/// The fields a refusal complains about.
pub fn fields(status: &Status) -> Vec<String> {
    fault::bad_fields(status)
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}
