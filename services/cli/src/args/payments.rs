//! `waybill payments list|capture|void`: the help.

use clap::{Args, Subcommand};

use super::OrderRef;

/// Commands on payments.
#[derive(Debug, Subcommand)]
pub enum PaymentsCommand {
    /// What was paid for an order, and what providers are asked for.
    List(OrderRef),
    /// Take what is authorised for an order, or a part of it.
    ///
    /// The provider is called after the answer; `waybill payments list` shows what came of it. How often it fails to answer
    /// does not matter: it is taken once.
    Capture(CapturePaymentArgs),
    /// Release what is authorised for an order and not captured.
    Void(VoidPaymentArgs),
}

/// What is to be captured.
#[derive(Debug, Args)]
pub struct CapturePaymentArgs {
    /// Which order.
    #[command(flatten)]
    pub order: OrderRef,
    /// The authorisation, by its payment id; the only one of the order when not given.
    #[arg(long, value_name = "ID")]
    pub payment: Option<String>,
    /// How much, in the order's currency, e.g. 12.50; all that is open and still to be paid when not given.
    #[arg(long)]
    pub amount: Option<String>,
    /// Release what this leaves of the authorisation: needed with a part where the provider allows one capture alone.
    #[arg(long = "final")]
    pub is_final: bool,
}

/// What is to be released.
#[derive(Debug, Args)]
pub struct VoidPaymentArgs {
    /// Which order.
    #[command(flatten)]
    pub order: OrderRef,
    /// The authorisation, by its payment id; the only one of the order when not given.
    #[arg(long, value_name = "ID")]
    pub payment: Option<String>,
}
