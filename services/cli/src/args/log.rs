//! Commands on the event logs: who follows them, and the night when a database lost commits.

use clap::Subcommand;

/// Commands on event logs and their histories.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Which generation each log is in, whether it is fenced and why, what the stream and consumers have of it.
    Status {
        /// Only this service, with all that is known: order, fulfillment, refund, notification, analytics.
        service: Option<String>,
    },
    /// Let a log go on from what survived, in a new generation. Consumers are told; outside effects stay held.
    Recover {
        /// The service whose database lost commits.
        service: String,
        /// Why, for those who read it later.
        #[arg(long)]
        reason: String,
        /// Names the recovery; give the same again to ask for its answer. A new one when not given.
        #[arg(long)]
        request_id: Option<String>,
        /// Go on although the stream cannot be read because it is gone for good: what was lost is not listed by name then.
        #[arg(long)]
        without_stream: bool,
        /// Recover a log that is not fenced, for a loss that a consumer alone noticed.
        #[arg(long)]
        force: bool,
    },
    /// List events that others were told of and that a log has no longer.
    Orphans {
        /// The service whose log lost them.
        service: String,
        /// The most to list.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=500))]
        limit: i32,
    },
    /// List what the consumers of a service had applied of histories that were lost.
    Phantoms {
        /// The service whose consumers had applied them; all when not given.
        service: Option<String>,
        /// Only what this producer lost.
        #[arg(long)]
        source: Option<String>,
        /// The most to list per service.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i32).range(1..=500))]
        limit: i32,
    },
    /// Who follows each log, how far they are, and what still lies before them.
    Consumers {
        /// Only the log of this service: order, fulfillment, refund, notification, analytics.
        service: Option<String>,
    },
    /// Forget a consumer that will not come back, so that the log need not be kept for it.
    ///
    /// One that comes back all the same is registered again, and may find that the log begins later than it ended.
    Forget {
        /// The service whose log it followed.
        service: String,
        /// SERVICE/NAME of the consumer, as `waybill log consumers` prints it.
        consumer: FollowerRef,
        /// Forget it although it has reported within the last ten minutes.
        #[arg(long)]
        force: bool,
    },
    /// Settle what the lost history did outside: refunds that a provider paid, mails that may have gone out.
    #[command(subcommand)]
    Effects(EffectsCommand),
}

/// Commands on outside effects.
#[derive(Debug, Subcommand)]
pub enum EffectsCommand {
    /// List what a person has to decide before the work outside may go on.
    List {
        /// The service: refund or notification.
        service: String,
    },
    /// Take effects as having happened: a refund is booked as paid, a mail counts as sent.
    Adopt {
        /// The service.
        service: String,
        /// The effects, as `waybill log effects list` prints them.
        #[arg(required_unless_present = "all")]
        effects: Vec<String>,
        /// All that are listed.
        #[arg(long, conflicts_with = "effects")]
        all: bool,
    },
    /// Take effects off the list: a payment is settled elsewhere, a mail is to go out (again).
    WriteOff {
        /// The service.
        service: String,
        /// The effects, as `waybill log effects list` prints them.
        #[arg(required = true)]
        effects: Vec<String>,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Let the work outside go on, when everything is decided.
    Release {
        /// The service.
        service: String,
    },
}

/// Names a consumer of a log: each service names its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerRef {
    /// The service whose consumer it is.
    pub service: String,
    /// Its name there.
    pub consumer: String,
}

impl std::str::FromStr for FollowerRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((service, consumer)) if !service.is_empty() && !consumer.is_empty() => Ok(FollowerRef {
                service: service.to_owned(),
                consumer: consumer.to_owned(),
            }),
            _ => Err(
                "write it as SERVICE/NAME, e.g. analytics/analytics; `waybill log consumers` prints them"
                    .to_owned(),
            ),
        }
    }
}
