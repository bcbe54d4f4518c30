//! The command line: what can be asked, and the help that teaches it.

mod changes;
mod consumers;
mod customers;
mod drafts;
mod events;
mod history;
mod imports;
mod jobs;
mod log;
mod orders;
mod payments;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use changes::{AddressArgs, CancelArgs, EditArgs, HoldArgs, HoldReasonArg, ReleaseArgs, UpdateArgs};
pub use consumers::{ConsumerRef, ConsumersCommand, LetterRef, LettersCommand};
pub use customers::{CustomerArgs, CustomersCommand};
pub use drafts::{DraftStatusArg, DraftsCommand};
pub use events::{EventsCommand, WantedArgs};
pub use history::{RebuildArgs, TimelineArgs};
pub use log::{EffectsCommand, FollowerRef, LogCommand};

pub use self::imports::{FormatArg, ImportArgs};
pub use self::jobs::{JobStateArg, JobsCommand};
pub use self::orders::{FilterArgs, SortArg, StatusArg};
pub use self::payments::{CapturePaymentArgs, PaymentsCommand, VoidPaymentArgs};
use crate::bench::args::BenchCommand;

/// Carries orders from the moment they are placed until the money of the last refund has arrived.
///
/// `waybill demo` shows a whole day of orders in a minute; `waybill up` starts the same stack and leaves it running.
/// The other commands talk to a running stack over gRPC.
#[derive(Debug, Parser)]
#[command(name = "waybill", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// Print what was answered as JSON, for programs, instead of tables.
    #[arg(long, global = true)]
    pub json: bool,

    /// Where the stack's addresses and token stand; written by `waybill up` and `waybill demo --keep`.
    #[arg(long, global = true, env = "WAYBILL_CONTEXT", value_name = "FILE")]
    pub context: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a file of orders through the whole stack and show what happened.
    ///
    /// Starts a private Postgres, a private NATS, a mail sink, a sandbox payment provider and all services in this
    /// process, drives every order to its end over the public gRPC API, checks the result and stops. The exit code is 0
    /// only if every order reached its end and the books balance.
    Demo(DemoArgs),
    /// Start the whole stack in this process and keep it running.
    Up(UpArgs),
    /// Kill, cut and wipe everything under a load of orders, then prove that nothing was lost or done twice.
    ///
    /// Starts every service as processes of its own (most of them twice) over a private Postgres and NATS, with a proxy on
    /// every wire, sends orders and refunds through the public gRPC API, and injects faults by a schedule that the seed
    /// repeats. When the time is up the faults stop, everything has to settle, and every schema, the mail sink and the
    /// payment provider's ledger are compared. The exit code is 0 only if every check holds.
    Verify(VerifyArgs),
    /// Run one service in this process, exactly as its own binary does.
    Serve(ServeArgs),
    /// Import a file of orders: Shopify's order-export CSV, or JSON Lines.
    ///
    /// The file is sent as it is and read by the order service, whatever its size. A row that cannot be read costs its own
    /// order and no other. Orders that are there already are left alone, so the same file twice places nothing twice. An
    /// import that was stopped goes on where it was when it is started again with the same --import-id.
    Import(ImportArgs),
    /// Import, find, read, export, change, hold, cancel and watch orders.
    #[command(subcommand)]
    Orders(OrdersCommand),
    /// Make orders that are not complete yet: keep, price, change and place them.
    #[command(subcommand)]
    Drafts(DraftsCommand),
    /// Hand out what is held of a customer, or forget the customer.
    #[command(subcommand)]
    Customers(CustomersCommand),
    /// See an order's payments; capture and void what is authorised for it.
    #[command(subcommand)]
    Payments(PaymentsCommand),
    /// Ship orders, record what carriers say, look at stock.
    #[command(subcommand)]
    Shipments(ShipmentsCommand),
    /// Publish the policy; quote, request and decide returns.
    #[command(subcommand)]
    Returns(ReturnsCommand),
    /// Pay money back, approve, retry; read the books.
    #[command(subcommand)]
    Refunds(RefundsCommand),
    /// See what customers were told.
    #[command(subcommand)]
    Notifications(NotificationsCommand),
    /// Figures of orders and refunds.
    #[command(subcommand)]
    Analytics(AnalyticsCommand),
    /// See how far the services' consumers of events are; pause and resume them.
    ///
    /// Each service follows the event logs of others. What it cannot apply it keeps as a dead letter; see `waybill letters`.
    #[command(subcommand)]
    Consumers(ConsumersCommand),
    /// Look at events that could not take effect; try them again or give them up.
    ///
    /// A letter blocks its own key only, which is an order: later events of the order are parked behind it, from all logs. A
    /// letter is named SERVICE/NUMBER, as `waybill letters list` prints it.
    #[command(subcommand)]
    Letters(LettersCommand),
    /// Read the events of a service's log, or watch them as they happen.
    ///
    /// The log is the truth of what happened: every event stands in it once, in the order in which it became true. What has
    /// left the database is read from the archive. Events hold ids and amounts, no personal data.
    #[command(subcommand)]
    Events(EventsCommand),
    /// Measure speed, beside what this machine does bare.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// See what the services do outside, repeat or give up what failed, stop kinds of it.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Look after the event logs: who follows them, and what to do when a database lost commits.
    ///
    /// `log consumers` tells who follows a log and how far each is; a log is kept for all of them. The other commands are for
    /// a failover to a standby that lagged, or a restore. A service that notices stops writing and stops its work outside. In this order: `log status` tells what is known,
    /// `log recover` lets the log go on from what survived, `log orphans` and `log phantoms` list what was lost, `log effects`
    /// settles refunds and mails of the lost history and lets the work outside go on. deploy/runbooks/lost-commits.md is the
    /// long form.
    #[command(subcommand)]
    Log(LogCommand),
    /// Draw the trace with this id from a file of spans.
    Trace {
        /// Trace id, 32 hex digits.
        trace_id: String,
        /// The file of spans; the running stack's when not given.
        #[arg(long, value_name = "FILE")]
        spans: Option<PathBuf>,
    },
    /// Take every mail and print it as a line of JSON: a mail server for a machine on which nothing must get out.
    MailSink {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:1025", value_name = "HOST:PORT")]
        listen: std::net::SocketAddr,
    },
    /// Ask a service whether it serves; for health checks of containers.
    Health {
        /// Its address, e.g. http://127.0.0.1:7001; with a path it is asked over HTTP instead of gRPC, and has to answer
        /// 200, e.g. http://127.0.0.1:8080/healthz of the edge.
        url: String,
    },
    /// Prepare a machine or a cluster: secrets, tokens, database roles.
    #[command(subcommand)]
    Setup(SetupCommand),
    /// Print a completion script, e.g. `waybill completions bash > /etc/bash_completion.d/waybill`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How the demo runs.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// A Shopify order-export CSV; the sample of 32 orders when not given.
    #[arg(long, value_name = "FILE")]
    pub orders: Option<PathBuf>,
    /// Leave the stack running afterwards, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
}

/// How a verification runs.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// How long load and faults last.
    #[arg(long, default_value_t = 2.0, value_parser = minutes)]
    pub minutes: f64,
    /// Repeats the schedule of faults and the orders, not their interleaving; a random one, which is printed, when not
    /// given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Orders placed a second, while no more than --in-flight are under way.
    #[arg(long, default_value_t = 2.0, value_parser = rate)]
    pub rate: f64,
    /// Orders under way at once, at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub in_flight: u32,
    /// Seconds between two faults, on average.
    #[arg(long, default_value_t = 4.5, value_parser = seconds, value_name = "SECONDS")]
    pub every: f64,
    /// Only these kinds of faults, separated by commas; all when not given.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    pub faults: Vec<crate::verify::faults::Kind>,
    /// Seconds that everything may take to settle after the last fault.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub settle: u64,
    /// At the end, put the whole Postgres back to an older copy and recover by the runbook, with an account of what is
    /// lost.
    #[arg(long)]
    pub lose_commits: bool,
    /// Where data, settings and logs of the run go; a temporary folder, removed when all checks hold, when not given.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<f64, String> {
    within(text, 0.05, 24.0 * 60.0)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.1, 1000.0)
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.2, 3600.0)
}

fn within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("give a number from {least} to {most}")),
    }
}

/// Which service runs, and how.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The service.
    pub service: Service,
    /// Its settings, a TOML file; without it they come from the environment alone.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End as soon as standard input does: so that a service never outlives the program that started it.
    #[arg(long)]
    pub with_parent: bool,
}

/// A service that can run in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Takes orders in.
    Order,
    /// Ships them.
    Fulfillment,
    /// Pays money back.
    Refund,
    /// Tells customers.
    Notification,
    /// Counts.
    Analytics,
    /// Webhooks and pages, over HTTP.
    Edge,
}

/// How the stack runs.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Keep the data of Postgres and NATS in this folder; without it they go when the stack stops.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// First of six loopback ports, one a service and one for HTTP, in the order order, fulfillment, refund,
    /// notification, analytics, edge; free ports when not given.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
}

/// Names one order.
#[derive(Debug, Args)]
pub struct OrderRef {
    /// The order: its id or its number, e.g. "#1004".
    pub order: String,
}

/// Commands on orders.
#[derive(Debug, Subcommand)]
pub enum OrdersCommand {
    /// Import a Shopify order-export CSV or JSON Lines, as `waybill import` does.
    Import(ImportArgs),
    /// List orders, newest first unless asked otherwise.
    List {
        /// The most orders to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        limit: i32,
        /// What they are sorted by.
        #[arg(long, value_enum, default_value_t)]
        sort: SortArg,
        /// Which.
        #[command(flatten)]
        filter: Box<FilterArgs>,
    },
    /// Find orders by the beginning of a number, an e-mail address, a name or its last word, or a sku.
    Search {
        /// What they begin with.
        text: String,
        /// The most orders to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        limit: i32,
    },
    /// Count orders.
    Count {
        /// Which.
        #[command(flatten)]
        filter: Box<FilterArgs>,
    },
    /// Print whole orders, oldest first, a line of JSON each, however many there are.
    Export {
        /// Go on behind this cursor, which an export that broke names.
        #[arg(long, default_value = "", hide_default_value = true)]
        cursor: String,
        /// Which.
        #[command(flatten)]
        filter: Box<FilterArgs>,
    },
    /// Read one order.
    Get(OrderRef),
    /// What happened to an order, from all services; with --verify, whether that is what was written.
    Timeline(TimelineArgs),
    /// Make an order again from its events, as it was at any moment; as it is now, tell where the tables say something else.
    ///
    /// Changes nothing. The exit code is 0 only if nothing differs.
    #[command(disable_version_flag = true)]
    Rebuild(RebuildArgs),
    /// Change contact, address, note, tags or attributes of an order.
    Update(Box<UpdateArgs>),
    /// Stop an order: nothing of it ships until it is released.
    Hold(HoldArgs),
    /// Let a held order go on.
    Release(ReleaseArgs),
    /// Change what is ordered and has not shipped; shows what would change, and changes it with --commit.
    Edit(EditArgs),
    /// Cancel an order of which nothing has shipped, or units that have not.
    Cancel(CancelArgs),
    /// Print every change as it happens, until Ctrl-C.
    Watch {
        /// Begin with the first change there is.
        #[arg(long)]
        from_start: bool,
    },
}

/// Commands on shipments and stock.
#[derive(Debug, Subcommand)]
pub enum ShipmentsCommand {
    /// List shipments, newest first.
    List {
        /// Only shipments of this order.
        #[arg(long)]
        order: Option<String>,
    },
    /// Hand everything that is reserved for an order to a carrier.
    Create {
        /// Which order.
        #[command(flatten)]
        order: OrderRef,
        /// The carrier's key, e.g. royal-mail.
        #[arg(long)]
        carrier: String,
        /// The carrier's number.
        #[arg(long)]
        tracking_number: String,
        /// Where a person can follow it.
        #[arg(long, default_value = "")]
        tracking_url: String,
    },
    /// Record what the carrier says.
    Track {
        /// The shipment's id.
        shipment_id: String,
        /// in-transit, out-for-delivery, delivered, exception …
        status: String,
    },
    /// List stock levels.
    Stock {
        /// Only these skus.
        skus: Vec<String>,
    },
    /// Add units of a sku at a location.
    Restock {
        /// Stock keeping unit.
        sku: String,
        /// Units to add; negative takes.
        #[arg(allow_negative_numbers = true)]
        units: i64,
        /// The location's id; the first location when not given.
        #[arg(long)]
        location: Option<String>,
    },
}

/// Commands on the policy and on returns.
#[derive(Debug, Subcommand)]
pub enum ReturnsCommand {
    /// Read the policy in force, in words.
    Policy,
    /// List returns, newest first.
    List {
        /// Only returns of this order.
        #[arg(long)]
        order: Option<String>,
    },
    /// What a return would bring, without asking for it.
    Quote(ReturnArgs),
    /// Ask for a return.
    Request(ReturnArgs),
    /// Approve a requested return.
    Approve {
        /// The return's id.
        return_id: String,
    },
    /// Decline a requested return.
    Decline {
        /// The return's id.
        return_id: String,
        /// Why; the customer is told.
        #[arg(long)]
        reason: String,
    },
    /// The goods are back and can be sold again.
    Receive {
        /// The return's id.
        return_id: String,
    },
}

/// What comes back.
#[derive(Debug, Args)]
pub struct ReturnArgs {
    /// Which order.
    #[command(flatten)]
    pub order: OrderRef,
    /// Units as SKU=QUANTITY; everything when not given.
    #[arg(long = "line", value_name = "SKU=QUANTITY")]
    pub lines: Vec<String>,
    /// unwanted, wrong-size, damaged, wrong-item, not-as-described, late, other.
    #[arg(long, default_value = "unwanted")]
    pub reason: String,
}

/// Commands on refunds and the books.
#[derive(Debug, Subcommand)]
pub enum RefundsCommand {
    /// List refunds, newest first.
    List {
        /// Only refunds of this order.
        #[arg(long)]
        order: Option<String>,
    },
    /// Read one refund.
    Get {
        /// The refund's id.
        refund_id: String,
    },
    /// Pay back units without a return.
    Create {
        /// Which order.
        #[command(flatten)]
        order: OrderRef,
        /// Units as SKU=QUANTITY.
        #[arg(long = "line", value_name = "SKU=QUANTITY")]
        lines: Vec<String>,
        /// Pay back shipping too.
        #[arg(long)]
        shipping: bool,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Give a refund the second pair of eyes it waits for.
    Approve {
        /// The refund's id.
        refund_id: String,
    },
    /// Send a failed leg to its provider again.
    Retry {
        /// The refund's id.
        refund_id: String,
        /// The leg's id.
        leg_id: String,
    },
    /// Entries of the books of an order, or the newest of the store.
    Journal {
        /// Only entries of this order.
        #[arg(long)]
        order: Option<String>,
    },
    /// Sums per account; the exit code is 0 only if they balance.
    Balance,
}

/// Commands on notifications.
#[derive(Debug, Subcommand)]
pub enum NotificationsCommand {
    /// List notifications, newest first.
    List {
        /// Only notifications of this order.
        #[arg(long)]
        order: Option<String>,
    },
    /// Render a stage with sample data: order-confirmed, shipped, refund-succeeded …
    Preview {
        /// The stage.
        stage: String,
        /// Print the HTML instead of the text.
        #[arg(long)]
        html: bool,
    },
}

/// Commands on figures.
#[derive(Debug, Subcommand)]
pub enum AnalyticsCommand {
    /// Orders, sales, refunds and rates of a period.
    Summary(PeriodArgs),
    /// The same, day by day.
    Daily(PeriodArgs),
    /// Refunds by reason.
    Reasons(PeriodArgs),
    /// How long the steps of an order take.
    Times(PeriodArgs),
}

/// A period.
#[derive(Debug, Args)]
pub struct PeriodArgs {
    /// First day, YYYY-MM-DD; the last 90 days when not given.
    #[arg(long)]
    pub from: Option<chrono::NaiveDate>,
    /// First day that no longer counts, YYYY-MM-DD; now when not given.
    #[arg(long)]
    pub before: Option<chrono::NaiveDate>,
    /// IANA time zone that days are cut in.
    #[arg(long, default_value = "UTC")]
    pub time_zone: String,
}

/// Commands that prepare a machine or a cluster.
#[derive(Debug, Subcommand)]
pub enum SetupCommand {
    /// Write what the services keep secret: a signing key with its JWKS, the token of each service, database passwords,
    /// the users of NATS.
    Secrets {
        /// The folder; files that are there already are kept.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Where the services find NATS.
        #[arg(long, default_value = "nats:4222", value_name = "HOST:PORT")]
        nats: String,
        /// Where the services find Postgres, and which database they use.
        #[arg(
            long,
            default_value = "postgres:5432/waybill",
            value_name = "HOST:PORT/DATABASE"
        )]
        postgres: String,
    },
    /// Mint a token for a caller with the signing key of `setup secrets`.
    Token {
        /// The folder of `setup secrets`.
        #[arg(long, value_name = "FOLDER")]
        secrets: PathBuf,
        /// Who calls.
        #[arg(long)]
        subject: String,
        /// The merchant's id; * for what concerns all merchants, as operating consumers does.
        #[arg(long)]
        merchant: String,
        /// A store's id, or * for all; may be repeated.
        #[arg(long = "store", required = true)]
        stores: Vec<String>,
        /// A scope, e.g. orders:write; may be repeated.
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// How long it is valid.
        #[arg(long, default_value_t = 24)]
        hours: u32,
    },
    /// Create the role and the schemas of every service in a Postgres database. May be repeated.
    Database {
        /// Address of the database, with an administrator's user.
        #[arg(long, env = "WAYBILL_ADMIN_DATABASE_URL", hide_env_values = true)]
        url: String,
        /// The folder of `setup secrets`.
        #[arg(long, value_name = "FOLDER")]
        secrets: PathBuf,
    },
}
