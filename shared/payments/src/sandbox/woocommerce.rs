//! A shop that behaves like WooCommerce's REST API, as far as payments go.
//!
//! It knows no idempotency keys: a refund that is posted twice is paid twice, as far as the order has money left. It keeps a
//! refund before it asks the gateway, takes it back when the gateway says no, and answers every such no with status 500.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use waybill_kernel::money::Money;
use waybill_kernel::time;

use super::SandboxError;
use super::answer::Answer;
use super::fault::Fault;
use super::shop::Shop;
use crate::decimal;
use crate::http::ClientError;
use crate::woocommerce::{WooConfig, WooProvider};

const KEY: &str = "ck_sandbox";
const SECRET: &str = "cs_sandbox";
/// `KEY:SECRET`, as Basic authorization sends it.
const BASIC: &str = "Basic Y2tfc2FuZGJveDpjc19zYW5kYm94";

/// A running shop. It stops when this is dropped.
#[derive(Debug)]
pub struct WooSandbox {
    shop: Arc<Shop<Books>>,
    address: SocketAddr,
}

impl WooSandbox {
    /// Opens a shop.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(clock: time::Shared) -> Result<Self, SandboxError> {
        let shop = Arc::new(Shop::new(Books::default(), clock));
        let router = Router::new()
            .route("/shop/wp-json/wc/v3/orders/{id}", get(order))
            .route("/shop/wp-json/wc/v3/orders/{id}/refunds", get(list).post(create))
            .with_state(Arc::clone(&shop));
        let address = shop.serve(router).await?;
        Ok(Self { shop, address })
    }

    /// How an adapter reaches it.
    #[must_use]
    pub fn config(&self, request_timeout: Duration) -> WooConfig {
        let base = format!("http://{}/shop/", self.address);
        WooConfig {
            request_timeout,
            ..WooConfig::new(base, KEY.to_owned().into(), SECRET.to_owned().into())
        }
    }

    /// An adapter that uses it.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn provider(&self, request_timeout: Duration) -> Result<WooProvider, ClientError> {
        WooProvider::new(self.config(request_timeout))
    }

    /// An order that is paid. Returns the payment's id.
    #[must_use]
    pub fn paid(&self, total: Money) -> String {
        self.shop.state().open(total, true)
    }

    /// An order that is not paid. Returns the payment's id.
    #[must_use]
    pub fn unpaid(&self, total: Money) -> String {
        self.shop.state().open(total, false)
    }

    /// Plans a fault for the next refund that is asked for.
    pub fn inject(&self, fault: Fault) {
        self.shop.plan().push(fault, None, 1);
    }

    /// Lets the shop die while it asks the gateway for the next refund, whose outcome it never writes down.
    pub fn die_at_the_gateway(&self) {
        self.shop.state().dies = true;
    }

    /// How much the gateway paid back for an order, in minor units.
    #[must_use]
    pub fn refunded(&self, payment: &str) -> i64 {
        let books = self.shop.state();
        let order = payment.parse().ok().and_then(|id: u64| books.orders.get(&id));
        order.map_or(0, Order::refunded)
    }
}

impl Drop for WooSandbox {
    fn drop(&mut self) {
        self.shop.stop();
    }
}

#[derive(Debug, Default)]
struct Books {
    last: u64,
    orders: BTreeMap<u64, Order>,
    dies: bool,
}

#[derive(Debug)]
struct Order {
    total: Money,
    is_paid: bool,
    refunds: Vec<Refund>,
}

#[derive(Debug)]
struct Refund {
    id: u64,
    amount: Money,
    reason: String,
    is_heard: bool,
}

impl Order {
    fn refunded(&self) -> i64 {
        self.refunds.iter().map(|refund| refund.amount.minor).sum()
    }

    fn object(&self, id: u64) -> Value {
        let refunds: Vec<Value> = self
            .refunds
            .iter()
            .map(|one| json!({"id": one.id, "reason": one.reason, "total": format!("-{}", one.amount.to_decimal())}))
            .collect();
        json!({
            "id": id, "currency": self.total.currency.code(), "total": self.total.to_decimal(),
            "status": if self.is_paid { "processing" } else { "on-hold" },
            "date_paid_gmt": self.is_paid.then_some("2026-01-05T10:00:00"), "refunds": refunds,
        })
    }
}

impl Refund {
    fn object(&self) -> Value {
        json!({
            "id": self.id, "amount": self.amount.to_decimal(), "reason": self.reason,
            "refunded_payment": self.is_heard, "refunded_by": 1, "meta_data": [], "line_items": [],
        })
    }
}

impl Books {
    fn open(&mut self, total: Money, is_paid: bool) -> String {
        self.last += 1;
        let order = Order {
            total,
            is_paid,
            refunds: Vec::new(),
        };
        self.orders.insert(self.last, order);
        self.last.to_string()
    }

    fn refund(&mut self, order: u64, asked: &NewRefund, fault: Option<&Fault>) -> Answer {
        self.last += 1;
        let (number, dies) = (self.last, std::mem::take(&mut self.dies));
        let Some(order) = self.orders.get_mut(&order) else {
            return error(404, "woocommerce_rest_invalid_order_id", "Invalid order ID.");
        };
        let amount = decimal::parse(&asked.amount, order.total.currency);
        let left = order.total.minor - order.refunded();
        let refused = |words: &str| error(500, "woocommerce_rest_cannot_create_order_refund", words);
        let Some(amount) = amount.ok().filter(|amount| (1..=left).contains(&amount.minor)) else {
            return refused("Invalid refund amount.");
        };
        if let Some(Fault::Failed { failure_reason }) = fault {
            return refused(&format!("The gateway declined: {failure_reason}"));
        }
        if !asked.api_refund {
            return refused("The sandbox only pays through its gateway.");
        }
        let made = Refund {
            id: number,
            amount,
            reason: asked.reason.clone(),
            is_heard: !dies,
        };
        let object = made.object();
        order.refunds.push(made);
        if dies {
            return error(500, "internal_server_error", "There has been a critical error.");
        }
        answer(201, &object)
    }
}

#[derive(Debug, Deserialize)]
struct NewRefund {
    amount: String,
    #[serde(default)]
    reason: String,
    api_refund: bool,
}

#[derive(Debug, Deserialize)]
struct Page {
    page: Option<usize>,
    per_page: Option<usize>,
}

type SharedShop = State<Arc<Shop<Books>>>;

async fn order(State(shop): SharedShop, headers: HeaderMap, Path(id): Path<u64>) -> Response {
    if let Some(stranger) = stranger(&headers) {
        return stranger.into_response();
    }
    let books = shop.state();
    let found = books.orders.get(&id).map(|order| answer(200, &order.object(id)));
    drop(books);
    let missing = || error(404, "woocommerce_rest_shop_order_invalid_id", "Invalid ID.");
    found.unwrap_or_else(missing).into_response()
}

async fn list(
    State(shop): SharedShop,
    headers: HeaderMap,
    Path(id): Path<u64>,
    Query(page): Query<Page>,
) -> Response {
    if let Some(stranger) = stranger(&headers) {
        return stranger.into_response();
    }
    let (size, number) = (
        page.per_page.unwrap_or(10).min(100),
        page.page.unwrap_or(1).max(1),
    );
    let books = shop.state();
    let refunds = books.orders.get(&id).map(|order| {
        // Newest first, as the shop's own default is.
        let newest_first = order.refunds.iter().rev();
        let page: Vec<Value> = newest_first
            .skip((number - 1) * size)
            .take(size)
            .map(Refund::object)
            .collect();
        json!(page)
    });
    drop(books);
    let missing = || error(404, "woocommerce_rest_invalid_order_id", "Invalid order ID.");
    refunds
        .map_or_else(missing, |refunds| answer(200, &refunds))
        .into_response()
}

async fn create(
    State(shop): SharedShop,
    headers: HeaderMap,
    Path(id): Path<u64>,
    Json(asked): Json<NewRefund>,
) -> Response {
    if let Some(stranger) = stranger(&headers) {
        return stranger.into_response();
    }
    shop.under_faults(&id.to_string(), |books, fault| books.refund(id, &asked, fault))
        .await
}

fn stranger(headers: &HeaderMap) -> Option<Answer> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let words = "Sorry, you cannot view this resource.";
    (given != Some(BASIC)).then(|| error(401, "woocommerce_rest_cannot_view", words))
}

fn answer(status: u16, body: &Value) -> Answer {
    Answer {
        status,
        body: body.to_string(),
        replayed: false,
    }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    answer(
        status,
        &json!({"code": code, "message": message, "data": {"status": status}}),
    )
}
