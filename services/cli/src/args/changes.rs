//! `waybill orders update|hold|release|edit|cancel`: the help.

use clap::{Args, ValueEnum};

use super::OrderRef;

/// What is to change about an order. What is not given stays as it is.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// The customer's e-mail address.
    #[arg(long)]
    pub email: Option<String>,
    /// The customer's name.
    #[arg(long)]
    pub name: Option<String>,
    /// The customer's phone number.
    #[arg(long)]
    pub phone: Option<String>,
    /// A note on the order; it is forgotten with the customer.
    #[arg(long)]
    pub note: Option<String>,
    /// A tag; may be repeated. The tags given replace those of the order.
    #[arg(long = "tag")]
    pub tags: Vec<String>,
    /// Something else that is known of the order; may be repeated. The pairs given replace those of the order.
    #[arg(long = "attribute", value_name = "KEY=VALUE")]
    pub attributes: Vec<String>,
    /// Parts of the address that the goods go to.
    #[command(flatten)]
    pub ship_to: AddressArgs,
}

/// Parts of an address. What is not given stays as it is.
#[derive(Debug, Args)]
pub struct AddressArgs {
    /// Ship to this recipient.
    #[arg(long)]
    pub ship_to: Option<String>,
    /// Street and house; may be repeated, once per line.
    #[arg(long)]
    pub street: Vec<String>,
    /// City or town.
    #[arg(long)]
    pub city: Option<String>,
    /// Province, state or county.
    #[arg(long)]
    pub region: Option<String>,
    /// Postal code.
    #[arg(long)]
    pub postal_code: Option<String>,
    /// Two letters of ISO 3166-1, e.g. GB.
    #[arg(long)]
    pub country: Option<String>,
}

/// An order that is to be stopped.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// Why.
    #[arg(long, value_enum, default_value_t = HoldReasonArg::Manual)]
    pub reason: HoldReasonArg,
    /// More about that; required when it is stopped by hand.
    #[arg(long, default_value = "", required_if_eq("reason", "manual"))]
    pub note: String,
}

/// Why an order is stopped.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HoldReasonArg {
    /// The address is to be looked at.
    Address,
    /// The payment is to be looked at.
    PaymentReview,
    /// It may be fraud.
    Fraud,
    /// Goods are awaited before anything ships.
    AwaitingStock,
    /// A person's own reason, which the note says.
    Manual,
}

/// An order that is to go on.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// Only this hold: its id. All that are open when not given.
    #[arg(long, default_value = "")]
    pub hold: String,
    /// Why it may go on.
    #[arg(long, default_value = "")]
    pub note: String,
}

/// An order that is to be cancelled, or a part of it.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// Why.
    #[arg(long)]
    pub reason: String,
    /// Only so many units of this line, which is named by its id or, where one line alone has it, its sku; may be repeated.
    #[arg(long = "line", value_name = "LINE=UNITS")]
    pub lines: Vec<String>,
    /// What is reserved for these units is not there to be sold: it leaves the stock.
    #[arg(long, requires = "lines")]
    pub lost: bool,
}

/// What is to be different about what is ordered. A line is named by its id or, where one line alone has it, its sku.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Which.
    #[command(flatten)]
    pub order: OrderRef,
    /// Add a line of so many units at this price each, and with so much tax on all of them; may be repeated. It ships.
    #[arg(long = "add", value_name = "SKU=UNITS@PRICE[+TAX]")]
    pub add: Vec<String>,
    /// Remove a line; may be repeated.
    #[arg(long = "remove", value_name = "LINE")]
    pub remove: Vec<String>,
    /// Give a line another quantity; may be repeated. Units that come are a line of their own, at this price each (that of the
    /// line when not given) and with so much tax on all of them.
    #[arg(long = "quantity", value_name = "LINE=UNITS[@PRICE][+TAX]")]
    pub quantities: Vec<String>,
    /// Why; needed to change it.
    #[arg(long, default_value = "", required_if_eq("commit", "true"))]
    pub reason: String,
    /// What is reserved for units that go is not there to be sold: it leaves the stock.
    #[arg(long)]
    pub lost: bool,
    /// Change it, if it still comes out as shown.
    #[arg(long)]
    pub commit: bool,
}
