//! A running service, histories to tell it, and the figures computed once more by hand.

mod history;
mod model;
mod world;

pub use history::{Edit, Moment, Order, Outcome, Part, Refund, Story, at, placed};
pub use model::Model;
pub use world::{SOON, Shop, World, currency_of, period};

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
