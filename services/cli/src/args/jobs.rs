//! `waybill jobs …`: the help.

use clap::Subcommand;

/// Commands on jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first, of all services.
    List {
        /// Only of this service.
        #[arg(long)]
        service: Option<String>,
        /// Only of this kind, e.g. refund.submit.
        #[arg(long, default_value = "")]
        kind: String,
        /// Only in this state.
        #[arg(long, value_enum)]
        state: Option<JobStateArg>,
        /// Only towards this destination, e.g. payment:acme.
        #[arg(long, default_value = "")]
        destination: String,
        /// Only of this order: its id.
        #[arg(long, default_value = "")]
        order: String,
        /// The most to list of each service.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=500))]
        limit: i32,
    },
    /// How much there is of each kind, and what is held.
    Kinds,
    /// One job with its failed attempts.
    Show {
        /// Its id.
        job_id: String,
    },
    /// Try a dead job again.
    Retry {
        /// Its id.
        job_id: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Mark a dead job as dealt with.
    Discard {
        /// Its id.
        job_id: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Stop kinds of jobs in all replicas of a service.
    Hold {
        /// The service.
        #[arg(long)]
        service: String,
        /// The kinds, e.g. refund.submit.
        #[arg(required = true)]
        kinds: Vec<String>,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Let kinds of jobs go on that people stopped.
    Release {
        /// The service.
        #[arg(long)]
        service: String,
        /// The kinds.
        #[arg(required = true)]
        kinds: Vec<String>,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Whom jobs call, and whether they answer.
    Destinations,
    /// Use a destination again at once.
    Reset {
        /// The service.
        #[arg(long)]
        service: String,
        /// The destination, e.g. smtp.
        destination: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Where a job is.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum JobStateArg {
    /// To be taken once it is due.
    Waiting,
    /// In a worker's hands.
    Running,
    /// Over.
    Done,
    /// Given up.
    Dead,
}
