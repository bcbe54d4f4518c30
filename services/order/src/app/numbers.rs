//! Drawing numbers, outside of the transactions that place the orders.
//!
//! A number comes from its store's counter, which is one row. Were it drawn in the transaction of its orders, all placements of
//! a store would wait for each other's commits. So it is drawn by a statement of its own, on connections of its own: whoever
//! places holds one already, and a pool whose every connection waits for another one is stuck. A draw takes no lock but the
//! counter's, keeps it for one statement and waits for nothing that a placement holds, so the placements behind it get on.
//! It is made inside of their transactions all the same: only there is it known which of them are new, and a request that
//! comes again or is refused for its key shall not cost a number.
//!
//! That statement is committed without waiting for the disk. It comes before the orders in the write-ahead log, so an order
//! that is kept keeps its number drawn; a number that is lost with a crash was lost with its order.

use std::sync::Arc;

use futures_util::FutureExt as _;
use sqlx::PgConnection;
use waybill_store::{ConnectCheck, Db, StoreError};

use crate::domain::order::Tenant;
use crate::store::place::{assign_numbers, commit_without_waiting};

/// Where numbers come from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Numbers {
    db: Db,
}

impl Numbers {
    /// For so many draws at once.
    pub(crate) fn new(db: &Db, draws: u32) -> Numbers {
        let check: ConnectCheck = Arc::new(|conn: &mut PgConnection| commit_without_waiting(conn).boxed());
        Numbers {
            db: db.apart(draws, Some(check)),
        }
    }

    /// Fills in the numbers that are to be assigned; see [`assign_numbers`].
    ///
    /// # Errors
    ///
    /// As the database answers. Numbers may have been drawn then, and are not given again.
    pub(crate) async fn draw(&self, orders: &[(Tenant, &str)]) -> Result<Vec<String>, StoreError> {
        let mut conn = self.db.pool().acquire().await?;
        assign_numbers(&mut conn, orders).await
    }
}
