//! Reading: one order, several, a page of them, a timeline.

use chrono::{DateTime, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::OrderId;
use waybill_kernel::page::PageToken;

use super::Orders;
use super::place::as_placed;
use crate::domain::fact::TimelineEntry;
use crate::domain::goods::FulfillmentStatus;
use crate::domain::order::{Order, Tenant};
use crate::domain::payment::PaymentStatus;
use crate::domain::state::Status;
use crate::error::Error;
use crate::store::list::{Filter, Listed, Place, page};
use crate::store::read::{Key, by_ids, find};
use crate::store::timeline::timeline;

/// Ids that may be asked for at once.
pub(crate) const MAX_BATCH_GET: usize = 200;

/// Lines that one answer may hold: twice the largest order. A page is cut short before it has more.
const MAX_LINES_OF_ANSWER: i64 = 20_000;

/// A page that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// Which orders.
    pub filter: Filter,
    /// How many, at most.
    pub size: i64,
    /// Where it begins; at the newest order when empty.
    pub token: String,
}

/// A page of orders.
#[derive(Debug)]
pub(crate) struct ListPage {
    /// Newest first.
    pub orders: Vec<Order>,
    /// Where the next page begins; empty on the last one.
    pub next: String,
}

impl Orders {
    /// One order.
    pub(crate) async fn get(&self, tenant: Tenant, key: &Key) -> Result<Order, Error> {
        let found = find(self.db.pool(), tenant, key).await?;
        Ok(found.ok_or(Error::OrderNotFound)?.order)
    }

    /// One order as it was when it was placed.
    pub(crate) async fn get_as_placed(&self, tenant: Tenant, order: OrderId) -> Result<Order, Error> {
        let found = find(self.db.pool(), tenant, &Key::Id(order)).await?;
        let placed = found.ok_or(Error::OrderNotFound)?;
        Ok(as_placed(placed.order, placed.created_at))
    }

    /// Orders in the order of the ids; those that are not there are left out.
    pub(crate) async fn get_all(&self, tenant: Tenant, ids: &[OrderId]) -> Result<Vec<Order>, Error> {
        let lines = crate::store::list::weight(self.db.pool(), tenant, ids).await?;
        if lines > MAX_LINES_OF_ANSWER {
            return Err(Error::AnswerTooLarge {
                lines,
                most: MAX_LINES_OF_ANSWER,
            });
        }
        self.load(tenant, ids).await
    }

    /// Orders as [`Orders::get_all`], however many lines they have: for callers that know.
    pub(crate) async fn load(&self, tenant: Tenant, ids: &[OrderId]) -> Result<Vec<Order>, Error> {
        let found = by_ids(self.db.pool(), tenant, ids).await?;
        Ok(found.into_iter().map(|placed| placed.order).collect())
    }

    /// A page of orders, newest first. Two statements: which orders, and the orders.
    pub(crate) async fn list(&self, tenant: Tenant, query: &Query) -> Result<ListPage, Error> {
        let fingerprint = fingerprint(tenant, &query.filter);
        let after = match query.token.as_str() {
            "" => None,
            token => Some(decode(token, &fingerprint)?),
        };
        let page = page(self.db.pool(), tenant, &query.filter, after, query.size).await?;
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
        Ok(ListPage {
            orders: self.load(tenant, &ids).await?,
            next: next.map_or_else(String::new, |place| encode(place, &fingerprint)),
        })
    }

    /// What happened to an order, oldest first.
    pub(crate) async fn timeline(&self, tenant: Tenant, order: OrderId) -> Result<Vec<TimelineEntry>, Error> {
        timeline(self.db.pool(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)
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

/// Names the list and its filter: a token of one is refused by another.
fn fingerprint(tenant: Tenant, filter: &Filter) -> String {
    let time = |time: Option<DateTime<Utc>>| time.map_or_else(String::new, |time| time.to_rfc3339());
    hash::fingerprint([
        "orders".to_owned(),
        tenant.merchant.to_string(),
        tenant.store.to_string(),
        filter.status.map(Status::as_str).unwrap_or_default().to_owned(),
        filter
            .payment_status
            .map(PaymentStatus::as_str)
            .unwrap_or_default()
            .to_owned(),
        filter
            .fulfillment_status
            .map(FulfillmentStatus::as_str)
            .unwrap_or_default()
            .to_owned(),
        time(filter.placed_from),
        time(filter.placed_before),
    ])
}

fn encode(place: Place, fingerprint: &str) -> String {
    let key = [
        place.placed_at.timestamp_micros().to_string(),
        place.order_id.to_string(),
    ];
    PageToken::encode(fingerprint, &key)
}

fn decode(token: &str, fingerprint: &str) -> Result<Place, Error> {
    let refused = |reason: String| {
        let mut v = Violations::new();
        v.push("page_token", reason);
        Error::Invalid(v)
    };
    let key = PageToken::decode(token, fingerprint).map_err(|error| refused(error.to_string()))?;
    let place = match key.as_slice() {
        [micros, id] => micros
            .parse()
            .ok()
            .and_then(DateTime::from_timestamp_micros)
            .zip(id.parse().ok())
            .map(|(placed_at, order_id)| Place { placed_at, order_id }),
        _ => None,
    };
    place.ok_or_else(|| refused("is not a token of this list".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(lines: i64) -> Listed {
        let place = Place {
            placed_at: DateTime::UNIX_EPOCH,
            order_id: OrderId::generate(),
        };
        Listed { place, lines }
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
        let place = Place {
            placed_at: DateTime::UNIX_EPOCH,
            order_id: OrderId::generate(),
        };
        let token = encode(place, "filter");
        assert_eq!(decode(&token, "filter").expect("our own token"), place);
        assert!(matches!(decode(&token, "other"), Err(Error::Invalid(_))));
        assert!(matches!(
            decode(&PageToken::encode("filter", &["x".into()]), "filter"),
            Err(Error::Invalid(_))
        ));
    }
}
