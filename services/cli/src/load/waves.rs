//! Many orders, stage by stage: all of them pass one before any begins the next, so that what a stage costs can be told.

use std::sync::Arc;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::journey::{Ended, Journey, Stage};
use super::shop::Shop;
use super::{Answers, Book, Caller, Field, Pace, goods};

/// Orders that pass their stages together.
pub struct Waves {
    shop: Arc<Shop>,
    journeys: Vec<Journey>,
    in_flight: usize,
}

impl Waves {
    /// Opens the shop; nothing is placed yet. Of the pace its rate does not count.
    pub async fn open(field: Arc<impl Field>, pace: Pace, orders: u32) -> anyhow::Result<Self> {
        let caller = Caller::new(field.session()?, Answers::default());
        let shop = Arc::new(Shop::open(caller, Book::default(), pace.first).await?);
        let journeys = (0..orders)
            .map(|number| {
                let mut draft = goods::draft(pace.seed, pace.first + number);
                draft.impatient &= pace.impatience;
                let field: Arc<dyn Field> = field.clone();
                Journey::new(field, Arc::clone(&shop), draft)
            })
            .collect();
        Ok(Self {
            shop,
            journeys,
            in_flight: pace.in_flight,
        })
    }

    /// Takes all orders through this stage.
    pub async fn pass(&mut self, stage: Stage) -> anyhow::Result<()> {
        let steps = stream::iter(&mut self.journeys)
            .map(|journey| journey.step(stage))
            .buffer_unordered(self.in_flight)
            .try_collect::<Vec<()>>();
        tokio::select! {
            passed = steps => passed.map(drop),
            stocked = self.shop.keep_stocked() => stocked.context("the shelf is no longer filled"),
        }
    }

    /// Waits until every order has reached its end.
    pub async fn end(&self) -> anyhow::Result<Vec<Ended>> {
        stream::iter(&self.journeys)
            .map(Journey::end)
            .buffer_unordered(self.in_flight)
            .try_collect()
            .await
    }
}
