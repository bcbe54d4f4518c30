//! Commands on consumers of events and on what they keep.

use clap::Subcommand;

/// Commands on consumers of events.
#[derive(Debug, Subcommand)]
pub enum ConsumersCommand {
    /// State, lag, what is kept, and who works, of every consumer.
    List {
        /// Only of this service: order, fulfillment, refund, notification, analytics.
        #[arg(long)]
        service: Option<String>,
    },
    /// Let a consumer take no events until it is resumed. What it has not taken stays in the logs.
    Pause {
        /// The consumer's name, as `waybill consumers list` prints it.
        consumer: String,
        /// Why; whoever finds it paused reads it.
        #[arg(long)]
        reason: String,
        /// The service, where several have a consumer of this name.
        #[arg(long)]
        service: Option<String>,
    },
    /// Let a paused or stopped consumer go on where it was.
    Resume {
        /// The consumer's name.
        consumer: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
        /// The service, where several have a consumer of this name.
        #[arg(long)]
        service: Option<String>,
    },
    /// Build the tables of a consumer again from the logs, compare them with the live ones, and put them in their place.
    ///
    /// The consumer works on meanwhile, and nothing is told or done again. Whenever it ends before its end, by Ctrl-C too,
    /// nothing has changed. With --compare the exit code is 0 only if the tables say what the logs say.
    Rebuild {
        /// SERVICE/CONSUMER, e.g. analytics/analytics.
        consumer: ConsumerRef,
        /// Only compare: say which rows differ and change nothing.
        #[arg(long)]
        compare: bool,
        /// Why, for the log.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// What was asked of the consumers and by whom, newest first: retries, discards, pauses, resumes, rebuilds.
    Log {
        /// Only of this service.
        #[arg(long)]
        service: Option<String>,
        /// Only about this order: its id or its number.
        #[arg(long)]
        order: Option<String>,
        /// The most to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500))]
        limit: i32,
    },
}

/// Commands on dead letters.
#[derive(Debug, Subcommand)]
pub enum LettersCommand {
    /// List dead letters, oldest first, and how long they have blocked their order.
    List {
        /// Only of this service: order, fulfillment, refund, notification, analytics.
        #[arg(long)]
        service: Option<String>,
        /// Only of this order: its id or its number.
        #[arg(long)]
        order: Option<String>,
        /// The events parked behind letters too.
        #[arg(long)]
        parked: bool,
        /// The most to list of each service.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500))]
        limit: i32,
    },
    /// Show a kept event whole, its payload as JSON.
    Show {
        /// SERVICE/NUMBER, e.g. refund/17.
        letter: LetterRef,
    },
    /// Try a letter again, then what is parked behind it. The exit code is 0 only if its order flows again.
    ///
    /// Do it when the cause is repaired. Nothing takes effect twice, however often it is tried.
    Retry {
        /// SERVICE/NUMBER, e.g. refund/17.
        #[arg(required_unless_present = "order")]
        letter: Option<LetterRef>,
        /// All letters of this order instead, of all services: its id or its number.
        #[arg(long, conflicts_with = "letter")]
        order: Option<String>,
        /// Why, for the log.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Give a letter up for ever and go on with what is parked behind it. The exit code is 0 only if its order flows again.
    ///
    /// What the event would have done is missing from then on. It is kept whole in `waybill consumers log --json`.
    Discard {
        /// SERVICE/NUMBER, e.g. refund/17.
        letter: LetterRef,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

/// Names a consumer of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRef {
    /// The service.
    pub service: String,
    /// Its consumer.
    pub consumer: String,
}

impl std::str::FromStr for ConsumerRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((service, consumer)) if !service.is_empty() && !consumer.is_empty() => Ok(ConsumerRef {
                service: service.to_owned(),
                consumer: consumer.to_owned(),
            }),
            _ => Err(
                "write it as SERVICE/CONSUMER, e.g. analytics/analytics; `waybill consumers list` prints them"
                    .to_owned(),
            ),
        }
    }
}

/// Names a letter: letters are numbered by each service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterRef {
    /// The service that keeps it.
    pub service: String,
    /// Its number there.
    pub id: String,
}

impl std::str::FromStr for LetterRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((service, id))
                if !service.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) && !id.is_empty() =>
            {
                Ok(LetterRef {
                    service: service.to_owned(),
                    id: id.to_owned(),
                })
            }
            _ => Err(
                "write it as SERVICE/NUMBER, e.g. refund/17; `waybill letters list` prints them".to_owned(),
            ),
        }
    }
}
