//! Calls to other services: a channel that connects when it is first used and takes token, trace and deadline along.
//!
//! ```no_run
//! # use waybill_rpc::client::{self, TokenSource};
//! # fn example(token: secrecy::SecretString) -> Result<(), client::ConnectError> {
//! use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
//! let channel = client::connect("http://127.0.0.1:7000", TokenSource::fixed(token), "edge")?;
//! let orders = OrderServiceClient::new(channel);
//! # Ok(()) }
//! ```
//!
//! What it refuses to do: repeat a call by itself. Only the caller knows whether that is safe; see [`with_retry`].

mod outgoing;
mod retry;
mod token;

pub use outgoing::{Channel, ConnectError, connect};
pub use retry::{RetryPolicy, is_retryable, with_retry};
pub use token::{TokenError, TokenSource};
