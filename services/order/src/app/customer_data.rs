//! Handing out what is held of a customer: every order, whole, in an order that never changes.

use std::collections::VecDeque;

use tokio::sync::OwnedSemaphorePermit;
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_kernel::page::PageToken;

use super::Orders;
use super::privacy::Whose;
use crate::domain::order::{Order, Tenant};
use crate::domain::privacy::Person;
use crate::error::Error;
use crate::store::customers::{Member, Spot, members};

/// Orders that are read at once.
const READ_AT_ONCE: i64 = 100;

/// An order of the customer.
#[derive(Debug)]
pub(crate) struct Held {
    /// Where the export goes on behind it.
    pub cursor: String,
    /// The order.
    pub order: Order,
    /// The customer's pseudonym in its events.
    pub customer_key: String,
}

/// A running export of one customer. It reads a page when the last one was taken.
pub(crate) struct CustomerExport {
    orders: Orders,
    merchant: MerchantId,
    stores: Vec<StoreId>,
    person: Person,
    list: String,
    after: Option<Spot>,
    ready: VecDeque<Held>,
    ended: bool,
    _seat: OwnedSemaphorePermit,
}

impl Orders {
    /// Begins an export of what is held of a customer, or goes on with one behind a cursor.
    ///
    /// # Errors
    ///
    /// When the order that names the customer is not there, the cursor is of another export, or as many exports run as this
    /// process serves.
    pub(crate) async fn export_customer(&self, whose: Whose, cursor: &str) -> Result<CustomerExport, Error> {
        // The cursor belongs to what was asked, whatever it stands for now.
        let [kind, name] = whose.person.parts();
        let list = hash::fingerprint(["customer".to_owned(), whose.merchant.to_string(), kind, name]);
        let after = decode(cursor, &list)?;
        let seat = self.exports.take()?;
        let (stores, person) = self.known(&whose).await?;
        Ok(CustomerExport {
            orders: self.clone(),
            merchant: whose.merchant,
            stores,
            person,
            list,
            after,
            ready: VecDeque::new(),
            ended: false,
            _seat: seat,
        })
    }
}

impl CustomerExport {
    /// The next order, or none at the end.
    ///
    /// # Errors
    ///
    /// When the database cannot be read. The caller goes on later from its last cursor.
    pub(crate) async fn next(&mut self) -> Result<Option<Held>, Error> {
        while self.ready.is_empty() && !self.ended {
            self.read().await?;
        }
        Ok(self.ready.pop_front())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let mut conn = self.orders.db.pool().acquire().await?;
        let found = members(
            &mut conn,
            self.merchant,
            &self.stores,
            &self.person,
            self.after,
            READ_AT_ONCE,
        )
        .await?;
        drop(conn);
        let Some(first) = found.first().map(|member| member.spot) else {
            self.ended = true;
            return Ok(());
        };
        // Orders are read by tenant: those of the first store now.
        let here: Vec<&Member> = (found.iter())
            .take_while(|member| member.spot.store == first.store)
            .collect();
        let ids: Vec<OrderId> = here.iter().map(|member| member.spot.order).collect();
        let tenant = Tenant {
            merchant: self.merchant,
            store: first.store,
        };
        for order in self.orders.load(tenant, &ids).await? {
            let member = here.iter().find(|member| member.spot.order == order.id);
            let spot = Spot {
                store: first.store,
                order: order.id,
            };
            self.ready.push_back(Held {
                cursor: encode(spot, &self.list),
                order,
                customer_key: member.map_or_else(String::new, |member| member.customer_key.clone()),
            });
        }
        self.after = here.last().map(|member| member.spot);
        Ok(())
    }
}

fn encode(spot: Spot, list: &str) -> String {
    PageToken::encode(list, &[spot.store.to_string(), spot.order.to_string()])
}

/// The place in a cursor; none in an empty one.
fn decode(cursor: &str, list: &str) -> Result<Option<Spot>, Error> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let place = PageToken::decode(cursor, list).ok();
    let spot = place.and_then(|parts| match parts.as_slice() {
        [store, order] => Some(Spot {
            store: store.parse().ok()?,
            order: order.parse().ok()?,
        }),
        _ => None,
    });
    match spot {
        Some(spot) => Ok(Some(spot)),
        None => {
            let mut v = Violations::new();
            v.push(
                "cursor",
                "is no cursor of this customer; give the last one received, or none",
            );
            Err(Error::Invalid(v))
        }
    }
}
