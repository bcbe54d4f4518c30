//! Setting a store's brand, and sending what waited for it.

use chrono::{DateTime, Utc};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_store::jobs::{self, NewJob};
use waybill_store::{Db, Tx, UseCase};

use super::job_of_waiting;
use crate::domain::brand::Brand;
use crate::error::Error;
use crate::store;

/// Messages that one transaction takes up again: it must end within a second.
const CHUNK: i64 = 1000;

/// Sets a brand.
pub struct PutBrand {
    /// The merchant.
    pub merchant: MerchantId,
    /// The store.
    pub store: StoreId,
    /// The brand, checked.
    pub brand: Brand,
    /// Now.
    pub now: DateTime<Utc>,
}

impl PutBrand {
    /// Sets the brand and takes up, chunk by chunk, what waited for one. When it has answered, everything is under way;
    /// when it has not, it is safe to call again.
    pub async fn run(&self, db: &Db) -> Result<(), Error> {
        db.run(self).await?;
        let resume = Resume {
            merchant: self.merchant,
            store: self.store,
            round: self.now.timestamp_micros(),
        };
        while db.run(&resume).await? == CHUNK {}
        Ok(())
    }
}

impl UseCase for PutBrand {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        // A sender that is about to leave a message waiting is let finish, or finds the brand.
        store::claim_brand(tx.conn(), self.merchant, self.store).await?;
        Ok(store::put_brand(tx.conn(), self.merchant, self.store, &self.brand, self.now).await?)
    }
}

struct Resume {
    merchant: MerchantId,
    store: StoreId,
    round: i64,
}

impl UseCase for Resume {
    type Output = i64;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<i64, Error> {
        let waiting = store::resume_without_brand(tx.conn(), self.merchant, self.store, CHUNK).await?;
        let again: Vec<NewJob> = waiting
            .iter()
            .map(|waiting| job_of_waiting(waiting, self.round))
            .collect();
        jobs::enqueue(tx, &again).await?;
        Ok(i64::try_from(again.len()).unwrap_or(CHUNK))
    }
}
