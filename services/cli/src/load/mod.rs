//! The load: orders placed at a steady rate, each taken to its end by a task of its own, through the public gRPC API only.
//!
//! A caller here behaves as a good client does: it repeats a call whose outcome it does not know with the same request
//! id, and never gives up. What it was told it remembers: that is what the services are held to afterwards.

mod back;
mod calls;
mod goods;
mod journey;
mod shop;
mod waves;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use waybill_payments::sandbox::Sandbox;

pub use self::calls::{Answers, Caller};
pub use self::goods::Plan;
pub use self::journey::Ended;
use self::journey::Journey;
pub use self::journey::Stage;
use self::shop::Shop;
pub use self::waves::Waves;
use crate::session::Session;

/// What a load plays on: a running stack, in one process or in many.
pub trait Field: Send + Sync + 'static {
    /// Clients for a store of it.
    fn session(&self) -> anyhow::Result<Session>;

    /// Where its customers pay.
    fn payments(&self) -> &Sandbox;
}

/// How hard the services are worked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Decides what is ordered, and what customers do.
    pub seed: u64,
    /// The number of the first order; loads of one run must not meet.
    pub first: u32,
    /// Orders a second.
    pub rate: f64,
    /// Orders under way at once, at most.
    pub in_flight: usize,
    /// Whether one in ten callers makes every call twice at once.
    pub impatience: bool,
}

/// What callers were told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Book {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    started: AtomicU64,
    placed: AtomicU64,
    asked: AtomicU64,
    ended: Mutex<Vec<Ended>>,
    given: Mutex<BTreeMap<String, i64>>,
    wanted: Mutex<BTreeMap<String, i64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Orders that were begun.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.inner.started.load(Ordering::Relaxed)
    }

    /// Orders whose placement was acknowledged.
    #[must_use]
    pub fn placed(&self) -> u64 {
        self.inner.placed.load(Ordering::Relaxed)
    }

    /// Orders whose callers have asked for everything that their plans hold, and only wait.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.inner.asked.load(Ordering::Relaxed)
    }

    /// Orders that reached their end, as their callers saw it.
    #[must_use]
    pub fn ended(&self) -> Vec<Ended> {
        lock(&self.inner.ended).clone()
    }

    /// How many those are.
    #[must_use]
    pub fn ended_count(&self) -> usize {
        lock(&self.inner.ended).len()
    }

    /// Units put on the shelf, by sku, as acknowledged.
    #[must_use]
    pub fn given(&self) -> BTreeMap<String, i64> {
        lock(&self.inner.given).clone()
    }
}

/// A load that runs.
pub struct Load {
    /// What callers were told.
    pub book: Book,
    placing: CancellationToken,
    journeys: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Load {
    /// Opens the shop, then starts placing orders.
    pub async fn start(field: Arc<impl Field>, pace: Pace, answers: Answers) -> anyhow::Result<Self> {
        let book = Book::default();
        let caller = Caller::new(field.session()?, answers);
        let shop = Arc::new(Shop::open(caller, book.clone(), pace.first).await?);
        let placing = CancellationToken::new();
        let journeys = tokio::spawn(drive(field, shop, pace, book.clone(), placing.clone()));
        Ok(Self {
            book,
            placing,
            journeys,
        })
    }

    /// Whether it has ended: before it was asked to only when something is wrong.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.journeys.is_finished()
    }

    /// Places no more orders; those under way go on.
    pub fn stop_placing(&self) {
        self.placing.cancel();
    }

    /// Waits until every order has reached its end.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        (&mut self.journeys).await.context("the load broke")?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.journeys.abort();
    }
}

async fn drive(
    field: Arc<dyn Field>,
    shop: Arc<Shop>,
    pace: Pace,
    book: Book,
    placing: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = orders(field, Arc::clone(&shop), pace, book, placing) => ended,
        stocked = shop.keep_stocked() => stocked,
    }
}

async fn orders(
    field: Arc<dyn Field>,
    shop: Arc<Shop>,
    pace: Pace,
    book: Book,
    placing: CancellationToken,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut under_way: JoinSet<anyhow::Result<Ended>> = JoinSet::new();
    for number in 0_u32.. {
        let due = start + Duration::from_secs_f64(f64::from(number) / pace.rate);
        loop {
            let room = under_way.len() < pace.in_flight;
            tokio::select! {
                () = placing.cancelled() => break,
                () = sleep_until(due), if room => break,
                Some(ended) = under_way.join_next() => keep(&book, ended)?,
                // So that the loop looks at the room again, whatever else happens.
                () = sleep(Duration::from_millis(200)), if !room => {}
            }
        }
        if placing.is_cancelled() {
            break;
        }
        book.inner.started.fetch_add(1, Ordering::Relaxed);
        let mut draft = goods::draft(pace.seed, pace.first + number);
        draft.impatient &= pace.impatience;
        let journey = Journey::new(Arc::clone(&field), Arc::clone(&shop), draft);
        under_way.spawn(journey.run());
    }
    while let Some(ended) = under_way.join_next().await {
        keep(&book, ended)?;
    }
    Ok(())
}

fn keep(book: &Book, ended: Result<anyhow::Result<Ended>, tokio::task::JoinError>) -> anyhow::Result<()> {
    let ended = ended.context("an order's caller broke")??;
    lock(&book.inner.ended).push(ended);
    Ok(())
}
