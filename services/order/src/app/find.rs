//! Finding: pages of a list or a search, counts, and exports of everything that passes a filter.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::OrderId;
use waybill_kernel::page::PageToken;

use super::Orders;
use super::query::MAX_LINES_OF_ANSWER;
use crate::domain::find::{By, Filter, Place, Sort};
use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::store::find::{Count, Listed, Part, count, page};

/// Orders that an export reads at once.
const EXPORTED_AT_ONCE: i64 = 100;

/// A page that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// Which orders.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// How many, at most.
    pub size: i64,
    /// Where it begins; at the first order when empty.
    pub token: String,
}

/// A page of orders.
#[derive(Debug)]
pub(crate) struct ListPage {
    /// In the order that was asked for.
    pub orders: Vec<Order>,
    /// Where the next page begins; empty on the last one.
    pub next: String,
}

impl Orders {
    /// A page of orders. Which orders are one statement, or two where a narrow index gave up; the orders are another.
    pub(crate) async fn list(&self, tenant: Tenant, query: &Query) -> Result<ListPage, Error> {
        let list = fingerprint("orders", tenant, &query.filter, query.sort);
        let part = Part {
            tenant,
            filter: &query.filter,
            sort: query.sort,
            after: decode("page_token", &query.token, &list)?,
            size: query.size,
        };
        let (orders, next) = self.part(part).await?;
        Ok(ListPage {
            orders,
            next: next.map_or_else(String::new, |place| encode(place, &list)),
        })
    }

    /// How many orders pass a filter, as far as is counted.
    pub(crate) async fn count(&self, tenant: Tenant, filter: &Filter) -> Result<Count, Error> {
        Ok(count(self.db.pool(), tenant, filter).await?)
    }

    /// Begins an export, or goes on with one behind a cursor.
    ///
    /// # Errors
    ///
    /// When as many are running as this process serves, or the cursor is of another export.
    pub(crate) fn export(&self, tenant: Tenant, filter: Filter, cursor: &str) -> Result<Export, Error> {
        let list = fingerprint("export", tenant, &filter, OLDEST_FIRST);
        let after = decode("cursor", cursor, &list)?;
        let seat = self.exports.take()?;
        Ok(Export {
            orders: self.clone(),
            tenant,
            filter,
            list,
            after,
            ready: VecDeque::new(),
            ended: false,
            _seat: seat,
        })
    }

    /// Orders of a list, no more than fit into one answer, and where to go on, unless that was all.
    async fn part(&self, part: Part<'_>) -> Result<(Vec<Order>, Option<Place>), Error> {
        let page = page(self.db.pool(), part).await?;
        let fitting = fitting(&page.listed);
        let next = if fitting < page.listed.len() {
            page.listed[..fitting].last().map(|listed| listed.place)
        } else {
            page.goes_on_after
        };
        let ids: Vec<OrderId> = page.listed[..fitting]
            .iter()
            .map(|listed| listed.place.order_id)
            .collect();
        Ok((self.load(part.tenant, &ids).await?, next))
    }
}

/// What exports are sorted by: neither the time of placement nor the id ever changes, so that nothing moves out of sight
/// (O-17).
const OLDEST_FIRST: Sort = Sort {
    by: By::Placed,
    ascending: true,
};

/// The exports that this process serves at once.
#[derive(Clone)]
pub(crate) struct Exports {
    seats: Arc<Semaphore>,
    most: usize,
}

impl Exports {
    pub(crate) fn new(most: usize) -> Exports {
        Exports {
            seats: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| Error::TooManyExports { most: self.most })
    }
}

/// A running export. It reads a page when the last one was taken, so that a slow reader costs one page of memory and holds
/// no connection to the database while it thinks.
pub(crate) struct Export {
    orders: Orders,
    tenant: Tenant,
    filter: Filter,
    list: String,
    after: Option<Place>,
    ready: VecDeque<Exported>,
    ended: bool,
    _seat: OwnedSemaphorePermit,
}

/// A step of an export.
#[derive(Debug)]
pub(crate) struct Exported {
    /// Where the export goes on behind it.
    pub cursor: String,
    /// The order; none where many did not pass the filter.
    pub order: Option<Order>,
}

impl Export {
    /// The next step, or none at the end.
    ///
    /// # Errors
    ///
    /// When the database cannot be read. The caller goes on later from its last cursor.
    pub(crate) async fn next(&mut self) -> Result<Option<Exported>, Error> {
        if self.ready.is_empty() && !self.ended {
            self.read().await?;
        }
        Ok(self.ready.pop_front())
    }

    async fn read(&mut self) -> Result<(), Error> {
        let part = Part {
            tenant: self.tenant,
            filter: &self.filter,
            sort: OLDEST_FIRST,
            after: self.after,
            size: EXPORTED_AT_ONCE,
        };
        let (orders, next) = self.orders.part(part).await?;
        let mut last = None;
        for order in orders {
            let place = Place {
                key: order.terms.placed_at.timestamp_micros(),
                order_id: order.id,
            };
            last = Some(place);
            self.ready.push_back(Exported {
                cursor: encode(place, &self.list),
                order: Some(order),
            });
        }
        // Where the stretch ended behind its last order, nothing else tells the reader how far it has come.
        if let Some(place) = next.filter(|place| last != Some(*place)) {
            self.ready.push_back(Exported {
                cursor: encode(place, &self.list),
                order: None,
            });
        }
        self.ended = next.is_none();
        self.after = next;
        Ok(())
    }
}

/// How many orders from the front have few enough lines for one answer; at least one.
fn fitting(listed: &[Listed]) -> usize {
    let mut lines = 0;
    let beyond = listed.iter().position(|listed| {
        lines += listed.lines;
        lines > MAX_LINES_OF_ANSWER
    });
    beyond.map_or(listed.len(), |at| at.max(1))
}

/// Names the list, its filter and its order: a token of one is refused by another.
fn fingerprint(list: &str, tenant: Tenant, filter: &Filter, sort: Sort) -> String {
    let mut parts = vec![
        list.to_owned(),
        tenant.merchant.to_string(),
        tenant.store.to_string(),
        sort.as_str().to_owned(),
    ];
    parts.extend(filter.parts());
    hash::fingerprint(parts)
}

fn encode(place: Place, list: &str) -> String {
    PageToken::encode(list, &[place.key.to_string(), place.order_id.to_string()])
}

/// The place in a token of a list; none in an empty one.
fn decode(field: &str, token: &str, list: &str) -> Result<Option<Place>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let refused = |reason: String| {
        let mut v = Violations::new();
        v.push(field, reason);
        Error::Invalid(v)
    };
    let parts = PageToken::decode(token, list).map_err(|error| refused(error.to_string()))?;
    let place = match parts.as_slice() {
        [key, id] => (key.parse().ok())
            .zip(id.parse().ok())
            .map(|(key, order_id)| Place { key, order_id }),
        _ => None,
    };
    match place {
        Some(place) => Ok(Some(place)),
        None => Err(refused("is not a token of this list".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            key: 1_700_000_000_000_001,
            order_id: OrderId::generate(),
        }
    }

    fn listed(lines: i64) -> Listed {
        Listed {
            place: place(),
            lines,
        }
    }

    #[test]
    fn a_page_is_cut_by_weight_but_never_empty() {
        assert_eq!(fitting(&[]), 0);
        assert_eq!(fitting(&[listed(1); 200]), 200);
        assert_eq!(fitting(&[listed(10_000), listed(10_000), listed(1)]), 2);
        assert_eq!(fitting(&[listed(30_000), listed(1)]), 1);
    }

    #[test]
    fn a_token_comes_back_as_it_was() {
        let place = place();
        let token = encode(place, "filter");
        assert_eq!(
            decode("page_token", &token, "filter").expect("our own token"),
            Some(place)
        );
        assert_eq!(decode("page_token", "", "filter").expect("none"), None);
        assert!(matches!(
            decode("page_token", &token, "other"),
            Err(Error::Invalid(_))
        ));
        assert!(matches!(
            decode(
                "page_token",
                &PageToken::encode("filter", &["x".into()]),
                "filter"
            ),
            Err(Error::Invalid(_))
        ));
    }
}
