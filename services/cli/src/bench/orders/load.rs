//! Callers of the service: so many at once, each with its next call as soon as it has an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Mutex;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::order::v1::{
    Customer, GetOrderRequest, ListOrdersRequest, NewOrder, NewOrderLine, NewShippingLine, OrderSource,
    OrderTotals, PlaceOrderRequest, TaxLine, get_order_request,
};
use waybill_proto::waybill::r#type::v1::{Address, Money};
use waybill_rpc::client::Channel;

use super::shop::Shop;

/// Lines of an order.
pub(super) const LINES: usize = 3;
/// Skus that are sold.
const SKUS: u32 = 20_000;
/// Ids that reads choose from: of the latest orders, as most reads are.
const REMEMBERED: usize = 10_000;

/// What calls took.
#[derive(Debug, Clone)]
pub(super) struct Lap {
    time: Duration,
    /// Of each call, in seconds, the quickest first.
    calls: Vec<f64>,
}

impl Lap {
    pub(super) fn new(time: Duration, mut calls: Vec<f64>) -> Lap {
        calls.sort_by(f64::total_cmp);
        Lap { time, calls }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.calls.len() as f64 / self.time.as_secs_f64()
    }

    /// Orders where a call was about several.
    pub(super) fn times(mut self, each: usize) -> Lap {
        self.time = self.time.div_f64(each as f64);
        self
    }

    /// Milliseconds that this part of the calls was done in.
    pub(super) fn at(&self, quantile: f64) -> f64 {
        let last = self.calls.len().saturating_sub(1);
        let index = ((self.calls.len() as f64 * quantile) as usize).min(last);
        self.calls.get(index).copied().unwrap_or(f64::NAN) * 1000.0
    }
}

/// Calls the service.
pub(super) struct Load {
    client: OrderServiceClient<Channel>,
    caller: Arc<Caller>,
    message_bytes: usize,
}

struct Caller {
    merchant_id: String,
    store_id: String,
    seed: u64,
    /// The number of the next order.
    next: AtomicU64,
    placed: AtomicU64,
    ids: Mutex<Vec<String>>,
}

impl Load {
    pub(super) fn new(shop: &Shop, seed: u64) -> Load {
        let caller = Caller {
            merchant_id: shop.merchant.to_string(),
            store_id: shop.store.to_string(),
            seed,
            next: AtomicU64::new(0),
            placed: AtomicU64::new(0),
            ids: Mutex::default(),
        };
        let message_bytes = caller.request(0).encoded_len();
        Load {
            client: shop.client(),
            caller: Arc::new(caller),
            message_bytes,
        }
    }

    /// Bytes of a request to place an order; the answer has about as many.
    pub(super) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Placements that were answered so far.
    pub(super) fn placed(&self) -> u64 {
        self.caller.placed.load(Ordering::Relaxed)
    }

    /// Places orders.
    pub(super) async fn place(&self, in_flight: usize, calls: usize) -> anyhow::Result<Lap> {
        self.call(in_flight, calls, Call::Place).await
    }

    /// Reads orders, one a call.
    pub(super) async fn get(&self, in_flight: usize, calls: usize) -> anyhow::Result<Lap> {
        let ids: Arc<[String]> = self.caller.ids.lock().await.clone().into();
        anyhow::ensure!(!ids.is_empty(), "there is no order to read");
        self.call(in_flight, calls, Call::Get(ids)).await
    }

    /// Reads the first page of the list.
    pub(super) async fn list(&self, in_flight: usize, calls: usize, page_size: i32) -> anyhow::Result<Lap> {
        self.call(in_flight, calls, Call::List(page_size)).await
    }

    async fn call(&self, in_flight: usize, calls: usize, call: Call) -> anyhow::Result<Lap> {
        let begun = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let took = try_join_all((0..in_flight).map(|_| {
            let (client, caller) = (self.client.clone(), Arc::clone(&self.caller));
            let calling = caller_loop(client, caller, call.clone(), Arc::clone(&begun), calls);
            async { tokio::spawn(calling).await? }
        }))
        .await?;
        Ok(Lap::new(began.elapsed(), took.concat()))
    }
}

/// What is called.
#[derive(Clone)]
enum Call {
    Place,
    Get(Arc<[String]>),
    List(i32),
}

/// One caller: the next call as soon as there is an answer, until all were begun.
async fn caller_loop(
    mut client: OrderServiceClient<Channel>,
    caller: Arc<Caller>,
    call: Call,
    begun: Arc<AtomicUsize>,
    calls: usize,
) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    loop {
        let number = begun.fetch_add(1, Ordering::Relaxed);
        if number >= calls {
            return Ok(took);
        }
        let time = match &call {
            Call::Place => caller.place(&mut client).await?,
            Call::Get(ids) => {
                // A step that shares no divisor with the number of ids visits all of them.
                let id = ids[number * 7919 % ids.len()].clone();
                caller.get(&mut client, id).await?
            }
            Call::List(page_size) => caller.list(&mut client, *page_size).await?,
        };
        took.push(time.as_secs_f64());
    }
}

impl Caller {
    async fn place(&self, client: &mut OrderServiceClient<Channel>) -> anyhow::Result<Duration> {
        let request = self.request(self.next.fetch_add(1, Ordering::Relaxed));
        let began = Instant::now();
        let answer = client.place_order(request).await?.into_inner();
        let took = began.elapsed();
        let placed = self.placed.fetch_add(1, Ordering::Relaxed) as usize;
        let order = answer
            .order
            .context("the order service answered without an order")?;
        let mut ids = self.ids.lock().await;
        if ids.len() < REMEMBERED {
            ids.push(order.order_id);
        } else {
            ids[placed % REMEMBERED] = order.order_id;
        }
        Ok(took)
    }

    async fn get(&self, client: &mut OrderServiceClient<Channel>, id: String) -> anyhow::Result<Duration> {
        let request = GetOrderRequest {
            merchant_id: self.merchant_id.clone(),
            store_id: self.store_id.clone(),
            key: Some(get_order_request::Key::OrderId(id)),
        };
        let began = Instant::now();
        client.get_order(request).await?;
        Ok(began.elapsed())
    }

    async fn list(
        &self,
        client: &mut OrderServiceClient<Channel>,
        page_size: i32,
    ) -> anyhow::Result<Duration> {
        let request = ListOrdersRequest {
            merchant_id: self.merchant_id.clone(),
            store_id: self.store_id.clone(),
            page_size,
            ..ListOrdersRequest::default()
        };
        let began = Instant::now();
        client.list_orders(request).await?;
        Ok(began.elapsed())
    }

    /// Order number `n`: the same for the same seed.
    fn request(&self, n: u64) -> PlaceOrderRequest {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(n));
        let lines: Vec<NewOrderLine> = (0..LINES).map(|_| line(&mut random)).collect();
        let goods: i64 = lines
            .iter()
            .filter_map(|line| line.unit_price.as_ref())
            .map(|p| p.minor_units)
            .sum();
        let buyer = random.random_range(0..1_000_000_u32);
        PlaceOrderRequest {
            merchant_id: self.merchant_id.clone(),
            store_id: self.store_id.clone(),
            request_id: format!("bench-{}-{n}", self.seed),
            order: Some(NewOrder {
                source: Some(OrderSource {
                    system: "bench".to_owned(),
                    external_id: format!("{}-{n}", self.seed),
                }),
                currency_code: CURRENCY.to_owned(),
                prices_include_tax: true,
                lines,
                shipping_lines: vec![NewShippingLine {
                    title: "Parcel".to_owned(),
                    price: euro(SHIPPING),
                    ..NewShippingLine::default()
                }],
                totals: Some(OrderTotals {
                    total: euro(goods + SHIPPING),
                    ..OrderTotals::default()
                }),
                customer: Some(Customer {
                    external_id: format!("customer-{buyer}"),
                    email: format!("buyer{buyer}@example.org"),
                    name: format!("Kim{} Doe{buyer}", buyer % 1000),
                    phone: "+49 40 1234567".to_owned(),
                }),
                shipping_address: Some(Address {
                    name: format!("Kim{} Doe{buyer}", buyer % 1000),
                    lines: vec!["Long Street 1".to_owned()],
                    city: "Hamburg".to_owned(),
                    postal_code: "20095".to_owned(),
                    country_code: "DE".to_owned(),
                    ..Address::default()
                }),
                locale: "de-DE".to_owned(),
                ..NewOrder::default()
            }),
        }
    }
}

const CURRENCY: &str = "EUR";
/// What shipping costs.
const SHIPPING: i64 = 490;

fn line(random: &mut StdRng) -> NewOrderLine {
    let price = random.random_range(500..20_000_i64);
    NewOrderLine {
        sku: format!("SKU-{:05}", random.random_range(0..SKUS)),
        title: "A thing that is sold here".to_owned(),
        quantity: 1,
        unit_price: euro(price),
        category: "things".to_owned(),
        taxes: vec![TaxLine {
            jurisdiction: "DE".to_owned(),
            title: "USt".to_owned(),
            rate_ppm: 190_000,
            amount: euro(price * 19 / 119),
        }],
        ..NewOrderLine::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a field of a message is optional")]
fn euro(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: CURRENCY.to_owned(),
        minor_units,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_calls() {
        let lap = Lap::new(Duration::from_secs(2), vec![0.004, 0.001, 0.003, 0.002]);
        assert_eq!((lap.at(0.5), lap.at(0.99)), (3.0, 4.0));
        assert_eq!(lap.per_second(), 2.0);
        assert_eq!(lap.times(20).per_second(), 40.0);
    }
}
