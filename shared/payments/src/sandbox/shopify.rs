//! A shop that behaves like Shopify's GraphQL Admin API, as far as payments go.
//!
//! It demands a key of `refundCreate`, answers a known key from its present state, refuses a key with other parameters
//! or whose first call is still known to have failed, never pays back more than was captured nor captures more than was
//! authorised, and puts what is wrong with an input into `userErrors` under status 200.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time;

use super::SandboxError;
use super::answer::Answer;
use super::fault::Fault;
use super::shop::{KEY_LIFETIME, Shop};
use crate::decimal;
use crate::http::ClientError;
use crate::shopify::{ShopifyConfig, ShopifyProvider};

const TOKEN: &str = "shpat_sandbox";

/// A running shop. It stops when this is dropped.
#[derive(Debug)]
pub struct ShopifySandbox {
    shop: Arc<Shop<Books>>,
    address: SocketAddr,
}

impl ShopifySandbox {
    /// Opens a shop whose keys age by a clock.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(clock: time::Shared) -> Result<Self, SandboxError> {
        let shop = Arc::new(Shop::new(Books::default(), clock));
        let router = Router::new()
            .route("/admin/api/{version}/graphql.json", post(graphql))
            .with_state(Arc::clone(&shop));
        let address = shop.serve(router).await?;
        Ok(Self { shop, address })
    }

    /// How an adapter reaches it.
    #[must_use]
    pub fn config(&self, request_timeout: Duration) -> ShopifyConfig {
        ShopifyConfig {
            request_timeout,
            ..ShopifyConfig::new(format!("http://{}", self.address), TOKEN.to_owned().into())
        }
    }

    /// An adapter that uses it.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn provider(&self, request_timeout: Duration) -> Result<ShopifyProvider, ClientError> {
        ShopifyProvider::new(self.config(request_timeout))
    }

    /// An order that was paid at once. Returns the payment's id.
    #[must_use]
    pub fn paid(&self, amount: Money) -> String {
        self.shop.state().open("SALE", amount)
    }

    /// An order whose payment is authorised. Returns the payment's id.
    #[must_use]
    pub fn authorized(&self, amount: Money) -> String {
        self.shop.state().open("AUTHORIZATION", amount)
    }

    /// Plans a fault for the next call that moves money.
    pub fn inject(&self, fault: Fault) {
        self.shop.plan().push(fault, None, 1);
    }

    /// Throttles the next call of any kind.
    pub fn throttle(&self) {
        self.shop.state().throttled = true;
    }

    /// Turns the next refund down, whatever it is.
    pub fn refuse_next(&self) {
        self.shop.state().refuses = true;
    }

    /// Settles the transactions that are pending.
    pub fn settle(&self, succeeded: bool) {
        let status = if succeeded { "SUCCESS" } else { "FAILURE" };
        for order in self.shop.state().orders.values_mut() {
            for one in order
                .transactions
                .iter_mut()
                .filter(|one| one.status == "PENDING")
            {
                one.status = status;
            }
        }
    }

    /// Sum of the transactions of a payment's order that are of a kind and have not failed, in minor units.
    #[must_use]
    pub fn moved(&self, payment: &str, kind: &str) -> i64 {
        let books = self.shop.state();
        let order = payment.split('/').next().and_then(|id| id.parse().ok());
        let order = order.and_then(|id: u64| books.orders.get(&id));
        order.map_or(0, |order| order.sum(kind, None))
    }

    /// A capture that staff of the shop make.
    pub fn capture_by_hand(&self, payment: &str, amount: Money) {
        let mut books = self.shop.state();
        if let Some((order, transaction)) = payment.split_once('/') {
            let parent = gid("OrderTransaction", transaction.parse().unwrap_or_default());
            let id = order.parse().unwrap_or_default();
            let number = books.number();
            if let Some(order) = books.orders.get_mut(&id) {
                order.add(number, "CAPTURE", amount, "SUCCESS", &parent);
            }
        }
    }
}

impl Drop for ShopifySandbox {
    fn drop(&mut self) {
        self.shop.stop();
    }
}

#[derive(Debug, Default)]
struct Books {
    last: u64,
    orders: BTreeMap<u64, Order>,
    keys: HashMap<String, Key>,
    throttled: bool,
    refuses: bool,
}

#[derive(Debug)]
struct Key {
    parameters: Value,
    /// The order and the refund; none when the call failed.
    made: Option<(u64, String)>,
    used_at: DateTime<Utc>,
}

#[derive(Debug)]
struct Order {
    transactions: Vec<Transaction>,
    refunds: Vec<Refund>,
}

#[derive(Debug)]
struct Transaction {
    gid: String,
    kind: &'static str,
    status: &'static str,
    amount: Money,
    parent: Option<String>,
}

#[derive(Debug)]
struct Refund {
    gid: String,
    note: String,
    transactions: Vec<String>,
}

fn gid(kind: &str, number: u64) -> String {
    format!("gid://shopify/{kind}/{number}")
}

fn gid_number(gid: &Value) -> u64 {
    let text = gid.as_str().unwrap_or_default();
    text.rsplit('/')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

impl Transaction {
    fn object(&self) -> Value {
        json!({
            "id": self.gid, "kind": self.kind, "status": self.status, "gateway": "shopify_payments",
            "parentTransaction": self.parent.as_ref().map(|id| json!({ "id": id })),
            "amountSet": {"presentmentMoney": {
                "amount": self.amount.to_decimal(), "currencyCode": self.amount.currency.code(),
            }},
        })
    }
}

impl Order {
    fn add(&mut self, number: u64, kind: &'static str, amount: Money, status: &'static str, parent: &str) {
        self.transactions.push(Transaction {
            gid: gid("OrderTransaction", number),
            kind,
            status,
            amount,
            parent: Some(parent.to_owned()),
        });
    }

    fn sum(&self, kind: &str, parent: Option<&str>) -> i64 {
        self.transactions
            .iter()
            .filter(|one| one.kind == kind && one.status != "FAILURE")
            .filter(|one| parent.is_none_or(|parent| one.parent.as_deref() == Some(parent)))
            .map(|one| one.amount.minor)
            .sum()
    }

    fn of(&self, gid: &str) -> Option<&Transaction> {
        self.transactions.iter().find(|one| one.gid == gid)
    }

    fn refund_object(&self, refund: &Refund) -> Value {
        let transactions = refund.transactions.iter().filter_map(|id| self.of(id));
        let nodes: Vec<Value> = transactions.map(Transaction::object).collect();
        json!({"id": refund.gid, "note": refund.note, "transactions": {"nodes": nodes}})
    }
}

impl Books {
    fn number(&mut self) -> u64 {
        self.last += 1;
        1000 + self.last
    }

    fn open(&mut self, kind: &'static str, amount: Money) -> String {
        let (order, transaction) = (self.number(), self.number());
        let first = Transaction {
            gid: gid("OrderTransaction", transaction),
            kind,
            status: "SUCCESS",
            amount,
            parent: None,
        };
        let new = Order {
            transactions: vec![first],
            refunds: Vec::new(),
        };
        self.orders.insert(order, new);
        format!("{order}/{transaction}")
    }

    fn order_object(&self, id: u64) -> Value {
        let Some(order) = self.orders.get(&id) else {
            return Value::Null;
        };
        let transactions: Vec<Value> = order.transactions.iter().map(Transaction::object).collect();
        let refunds: Vec<Value> = order
            .refunds
            .iter()
            .map(|refund| order.refund_object(refund))
            .collect();
        json!({"transactions": transactions, "refunds": refunds})
    }

    fn found_refund(&self, gid: &str) -> Value {
        let of = |order: &Order| {
            let refund = order.refunds.iter().find(|refund| refund.gid == gid)?;
            Some(order.refund_object(refund))
        };
        self.orders.values().find_map(of).unwrap_or_default()
    }

    fn refund_create(&mut self, variables: &Value, now: DateTime<Utc>, fault: Option<&Fault>) -> Value {
        let key = variables["key"].as_str().unwrap_or_default().to_owned();
        let input = &variables["input"];
        if self
            .keys
            .get(&key)
            .is_some_and(|known| now - known.used_at >= KEY_LIFETIME)
        {
            self.keys.remove(&key);
        }
        if let Some(known) = self.keys.get(&key) {
            if known.parameters != *input {
                return failed(
                    "The same idempotency key cannot be used with different operation parameters.",
                );
            }
            return match &known.made {
                Some((_, refund)) => json!({"refund": self.found_refund(refund), "userErrors": []}),
                None => failed("The previous attempt with this idempotency key failed."),
            };
        }
        let made = self.make_refund(input, fault);
        let order = gid_number(&input["orderId"]);
        let known = Key {
            parameters: input.clone(),
            made: made.as_ref().ok().map(|refund| (order, refund.clone())),
            used_at: now,
        };
        self.keys.insert(key, known);
        match made {
            Ok(refund) => json!({"refund": self.found_refund(&refund), "userErrors": []}),
            Err(message) => failed(message),
        }
    }

    fn make_refund(&mut self, input: &Value, fault: Option<&Fault>) -> Result<String, &'static str> {
        let status = match fault {
            Some(Fault::Pending { .. }) => "PENDING",
            Some(Fault::Failed { .. }) => "FAILURE",
            _ => "SUCCESS",
        };
        if std::mem::take(&mut self.refuses) {
            return Err("The order cannot be refunded now");
        }
        let (refund, numbers) = (self.number(), [self.number(), self.number(), self.number()]);
        let order = self
            .orders
            .get_mut(&gid_number(&input["orderId"]))
            .ok_or("Order does not exist")?;
        let asked = input["transactions"].as_array().cloned().unwrap_or_default();
        if asked.is_empty() || asked.len() > numbers.len() {
            return Err("Transactions are invalid");
        }
        let mut planned = Vec::new();
        for (one, number) in asked.iter().zip(numbers) {
            let parent = one["parentId"].as_str().unwrap_or_default();
            let from = order.of(parent).ok_or("Parent transaction does not exist")?;
            if !matches!(from.kind, "SALE" | "CAPTURE") || one["kind"] != "REFUND" {
                return Err("Transactions are invalid");
            }
            let amount = amount_of(one, from.amount.currency)?;
            if amount.minor > from.amount.minor - order.sum("REFUND", Some(parent)) {
                return Err("Refund amount is greater than the amount that can be refunded");
            }
            planned.push((number, amount, parent.to_owned()));
        }
        for (number, amount, parent) in &planned {
            order.add(*number, "REFUND", *amount, status, parent);
        }
        let made = Refund {
            gid: gid("Refund", refund),
            note: input["note"].as_str().unwrap_or_default().to_owned(),
            transactions: planned
                .iter()
                .map(|(number, ..)| gid("OrderTransaction", *number))
                .collect(),
        };
        order.refunds.push(made);
        Ok(gid("Refund", refund))
    }

    fn order_capture(&mut self, input: &Value, fault: Option<&Fault>) -> Value {
        match self.make_capture(input, fault) {
            Ok(transaction) => json!({"transaction": transaction, "userErrors": []}),
            Err(message) => json!({"transaction": null, "userErrors": [{"field": null, "message": message}]}),
        }
    }

    fn make_capture(&mut self, input: &Value, fault: Option<&Fault>) -> Result<Value, &'static str> {
        let number = self.number();
        let order = self
            .orders
            .get_mut(&gid_number(&input["id"]))
            .ok_or("Order does not exist")?;
        let parent = input["parentTransactionId"].as_str().unwrap_or_default();
        let from = order
            .of(parent)
            .filter(|one| one.kind == "AUTHORIZATION")
            .ok_or("Transaction is not an authorization")?;
        let amount = amount_of(input, from.amount.currency)?;
        let left = from.amount.minor - order.sum("CAPTURE", Some(parent)) - order.sum("VOID", Some(parent));
        if amount.minor > left {
            return Err("Amount is greater than the authorized amount");
        }
        let status = match fault {
            Some(Fault::Pending { .. }) => "PENDING",
            Some(Fault::Failed { .. }) => "FAILURE",
            _ => "SUCCESS",
        };
        order.add(number, "CAPTURE", amount, status, parent);
        Ok(order
            .of(&gid("OrderTransaction", number))
            .map(Transaction::object)
            .unwrap_or_default())
    }

    fn transaction_void(&mut self, parent: &Value) -> Value {
        let parent = parent.as_str().unwrap_or_default();
        let number = self.number();
        let error = |code: &str| json!({"transaction": null, "userErrors": [{"field": null, "message": "no", "code": code}]});
        let Some(order) = self.orders.values_mut().find(|order| order.of(parent).is_some()) else {
            return error("TRANSACTION_NOT_FOUND");
        };
        let amount = order
            .of(parent)
            .filter(|one| one.kind == "AUTHORIZATION")
            .map(|one| one.amount);
        match amount {
            Some(amount) if order.sum("CAPTURE", Some(parent)) + order.sum("VOID", Some(parent)) == 0 => {
                order.add(number, "VOID", amount, "SUCCESS", parent);
                let made = order
                    .of(&gid("OrderTransaction", number))
                    .map(Transaction::object);
                json!({"transaction": made, "userErrors": []})
            }
            _ => error("AUTH_NOT_VOIDABLE"),
        }
    }
}

fn failed(message: &str) -> Value {
    json!({"refund": null, "userErrors": [{"field": null, "message": message}]})
}

fn amount_of(input: &Value, currency: Currency) -> Result<Money, &'static str> {
    let text = input["amount"].as_str().unwrap_or_default();
    decimal::parse(text, currency)
        .ok()
        .filter(|amount| amount.minor > 0)
        .ok_or("Amount is invalid")
}

#[derive(Debug, Deserialize)]
struct Request {
    query: String,
    #[serde(default)]
    variables: Value,
}

async fn graphql(
    State(shop): State<Arc<Shop<Books>>>,
    Path(version): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Request>,
) -> Response {
    let given = headers
        .get("X-Shopify-Access-Token")
        .and_then(|value| value.to_str().ok());
    if given != Some(TOKEN) {
        let body = json!({"errors": "[API] Invalid API key or access token"}).to_string();
        return answer(401, body).into_response();
    }
    if std::mem::take(&mut shop.state().throttled) {
        return throttled().into_response();
    }
    let Request { query, variables } = request;
    let named = |name: &str| query.contains(&format!("{name}("));
    let now = shop.now();
    if named("refundCreate") {
        if version.as_str() >= "2026-04" && !query.contains("@idempotent(key: $key)") {
            return answer(200, json!({"errors": [{"message": "The @idempotent directive is required for this mutation but was not provided.", "extensions": {"code": "BAD_REQUEST"}}]}).to_string()).into_response();
        }
        let payment = variables["input"]["orderId"].to_string();
        return shop
            .under_faults(&payment, |books, fault| {
                data("refundCreate", books.refund_create(&variables, now, fault))
            })
            .await;
    }
    if named("orderCapture") {
        let payment = variables["input"]["id"].to_string();
        return shop
            .under_faults(&payment, |books, fault| {
                data("orderCapture", books.order_capture(&variables["input"], fault))
            })
            .await;
    }
    if named("transactionVoid") {
        return shop
            .under_faults("", |books, _| {
                data("transactionVoid", books.transaction_void(&variables["id"]))
            })
            .await;
    }
    let books = shop.state();
    let answer = if named("refund") {
        data(
            "refund",
            books.found_refund(variables["id"].as_str().unwrap_or_default()),
        )
    } else {
        data("order", books.order_object(gid_number(&variables["id"])))
    };
    drop(books);
    answer.into_response()
}

fn answer(status: u16, body: String) -> Answer {
    Answer {
        status,
        body,
        replayed: false,
    }
}

fn data(name: &str, value: Value) -> Answer {
    answer(200, json!({"data": {name: value}}).to_string())
}

fn throttled() -> Answer {
    let body = json!({
        "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
        "extensions": {"cost": {"requestedQueryCost": 112, "actualQueryCost": null, "throttleStatus": {
            "maximumAvailable": 1000.0, "currentlyAvailable": 12.0, "restoreRate": 50.0,
        }}},
    });
    answer(200, body.to_string())
}
