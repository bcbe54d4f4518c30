//! Rebuild of a projection: its tables built again from the logs, beside the live ones, compared with them, and put in
//! their place.
//!
//! The live consumer works on meanwhile. What is built is always behind it: first up to where it was at the beginning,
//! then up to where it is now, and so on; in the end its leases are taken for a moment, so that it stands still. That
//! nothing was missed does not rest on the leases: the swap holds the live cursors' rows and finds them where its own are.
//!
//! All of it is one session's work. When that ends, for whatever reason, nothing has happened to the live tables; the
//! next rebuild drops what is left and begins again.

mod fault;
mod meeting;
mod work;

use std::sync::Arc;

use tokio::sync::mpsc;
use waybill_store::Db;

use crate::fold::Operated;
use crate::store::shadow::Compared;

pub(crate) use fault::RebuildError;

/// What is asked for.
pub(crate) struct Rebuild {
    pub db: Db,
    pub consumer: Arc<dyn Operated>,
    /// Nothing is swapped.
    pub compare_only: bool,
    pub caller: String,
    pub request_id: String,
    pub reason: String,
}

/// What a rebuild is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Folding,
    Comparing,
    Swapping,
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub phase: Phase,
    /// Events taken so far, and how many the live consumer has taken.
    pub events: i64,
    pub total: i64,
}

/// What a rebuild found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub events: i64,
    /// Events that the live consumer keeps and that therefore have no effect in the rebuilt tables.
    pub held: i64,
    /// As the tables were before the swap.
    pub tables: Vec<Compared>,
    /// Live cursors whose count or hash was not what the log says.
    pub cursors: usize,
    pub swapped: bool,
}

impl Rebuild {
    /// Rebuilds. Dropping the future ends it, and changes nothing.
    pub async fn run(self, progress: mpsc::Sender<Progress>) -> Result<Outcome, RebuildError> {
        let mut work = work::Work::begin(self, progress).await?;
        let outcome = work.run().await;
        work.tidy().await;
        outcome
    }
}
