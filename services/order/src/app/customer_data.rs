//! Handing out what is held of a customer: every draft, then every order, whole, in an order that never
//! changes. Drafts come first: one that is placed meanwhile is met again as an order, the other way round it would be missed.

use std::collections::VecDeque;

use tokio::sync::OwnedSemaphorePermit;
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{DraftId, MerchantId, OrderId, StoreId};
use waybill_kernel::page::PageToken;

use super::Orders;
use super::privacy::Whose;
use crate::domain::draft::KeptDraft;
use crate::domain::order::{Order, Tenant};
use crate::domain::privacy::Person;
use crate::error::Error;
use crate::store::customers::{Member, Spot, members};
use crate::store::drafts;

/// Orders that are read at once.
const READ_AT_ONCE: i64 = 100;

/// Drafts that are read at once: each may be half a megabyte.
const DRAFTS_AT_ONCE: i64 = 10;

/// Something that is held of the customer.
#[derive(Debug)]
pub(crate) struct Held {
    /// Where the export goes on behind it.
    pub cursor: String,
    /// What it is.
    pub thing: Thing,
}

/// What can be held of a customer.
#[derive(Debug)]
pub(crate) enum Thing {
    /// An order, with the customer's pseudonym in its events.
    Order(Box<Order>, String),
    /// An order that is being made.
    Draft(KeptDraft),
}

/// Where an export goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// With the orders behind this one.
    Orders(Option<Spot>),
    /// With the drafts behind this one.
    Drafts(Option<DraftId>),
}

/// A running export of one customer. It reads a page when the last one was taken.
pub(crate) struct CustomerExport {
    orders: Orders,
    merchant: MerchantId,
    stores: Vec<StoreId>,
    /// The stores of the token; all of the merchant when none.
    named: Option<Vec<StoreId>>,
    person: Person,
    list: String,
    place: Place,
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
        let place = decode(cursor, &list)?;
        let seat = self.exports.take()?;
        let (stores, person) = self.known(&whose).await?;
        Ok(CustomerExport {
            orders: self.clone(),
            merchant: whose.merchant,
            stores,
            named: whose.stores,
            person,
            list,
            place,
            ready: VecDeque::new(),
            ended: false,
            _seat: seat,
        })
    }
}

impl CustomerExport {
    /// The next thing, or none at the end.
    ///
    /// # Errors
    ///
    /// When the database cannot be read. The caller goes on later from its last cursor.
    pub(crate) async fn next(&mut self) -> Result<Option<Held>, Error> {
        while self.ready.is_empty() && !self.ended {
            match self.place {
                Place::Orders(after) => self.read_orders(after).await?,
                Place::Drafts(after) => self.read_drafts(after).await?,
            }
        }
        Ok(self.ready.pop_front())
    }

    async fn read_orders(&mut self, after: Option<Spot>) -> Result<(), Error> {
        let mut conn = self.orders.db.pool().acquire().await?;
        let found = members(
            &mut conn,
            self.merchant,
            &self.stores,
            &self.person,
            after,
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
            let customer_key = member.map_or_else(String::new, |member| member.customer_key.clone());
            self.ready.push_back(Held {
                cursor: encode([spot.store.to_string(), spot.order.to_string()], &self.list),
                thing: Thing::Order(Box::new(order), customer_key),
            });
        }
        self.place = Place::Orders(here.last().map(|member| member.spot));
        Ok(())
    }

    async fn read_drafts(&mut self, after: Option<DraftId>) -> Result<(), Error> {
        let mut conn = self.orders.db.pool().acquire().await?;
        let stores = self.named.as_deref();
        let found = drafts::of_person(
            &mut conn,
            self.merchant,
            stores,
            &self.person,
            after,
            DRAFTS_AT_ONCE,
        )
        .await?;
        self.place = match found.last() {
            Some(last) => Place::Drafts(Some(last.id)),
            None => Place::Orders(None),
        };
        self.ready.extend(found.into_iter().map(|draft| Held {
            cursor: encode([DRAFT.to_owned(), draft.id.to_string()], &self.list),
            thing: Thing::Draft(draft),
        }));
        Ok(())
    }
}

/// Stands before the id of a draft, where the store of an order would.
const DRAFT: &str = "draft";

fn encode(place: [String; 2], list: &str) -> String {
    PageToken::encode(list, &place)
}

/// The place in a cursor; the beginning in an empty one.
fn decode(cursor: &str, list: &str) -> Result<Place, Error> {
    if cursor.is_empty() {
        return Ok(Place::Drafts(None));
    }
    let place = PageToken::decode(cursor, list).ok();
    let place = place.and_then(|parts| match parts.as_slice() {
        [kind, draft] if kind == DRAFT => Some(Place::Drafts(Some(draft.parse().ok()?))),
        [store, order] => Some(Place::Orders(Some(Spot {
            store: store.parse().ok()?,
            order: order.parse().ok()?,
        }))),
        _ => None,
    });
    match place {
        Some(place) => Ok(place),
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
