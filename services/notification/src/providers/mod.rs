//! Outside systems that carry messages, each behind one trait.

pub mod smtp;

use futures_util::future::BoxFuture;

use crate::domain::message::Rendered;

/// A message on its way out. Holds personal data: it is neither stored nor logged.
pub struct Outgoing {
    /// Message-ID without angle brackets; the same in every try.
    pub message_id: String,
    /// Name of the sender.
    pub from_name: String,
    /// Address of the sender.
    pub from: String,
    /// Where answers go.
    pub reply_to: String,
    /// Address of the customer.
    pub to: String,
    /// What it says.
    pub content: Rendered,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It will never be taken: the address or the message is wrong.
    #[error("rejected: {0}")]
    Rejected(&'static str),
    /// It was surely not taken, and may be later.
    #[error("not taken for now: {0}")]
    Transient(String),
    /// It was surely not taken, and no other would have been: the server takes nothing for now.
    #[error("not taken for now: {0}")]
    Away(String),
    /// Nobody knows: the connection ended before the answer.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Carries messages to customers.
pub trait Carrier: Send + Sync + 'static {
    /// Hands one message over.
    fn send(&self, message: Outgoing) -> BoxFuture<'_, Result<(), SendError>>;
}
