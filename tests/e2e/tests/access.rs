//! Who may call what, for every method of every contract: generated from the descriptors, asked of the running services.
//!
//! Nothing here names a method, so a method that is added is tested the day it is added.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use secrecy::SecretString;
use tonic::{Code, Status};
use waybill_cli::stack::SERVICES;
use waybill_e2e::orders::{EMAIL, NAME, STREET, line, money, order};
use waybill_e2e::raw::{Raw, error_infos};
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::order::v1::{
    CreateDraftOrderRequest, OrderStatus, PaymentKind, RecordPaymentRequest, VoidPaymentRequest,
};
use waybill_proto::waybill::refund::v1::RefundState;
use waybill_rpc::auth::{Claims, Issuer, SCOPES};
use waybill_rpc::fault;

/// The option that every method carries.
const ACCESS: &str = "waybill.type.v1.access";
/// `Tenancy` as numbers.
const MERCHANT: i32 = 1;
const STORE: i32 = 2;
const SYSTEM: i32 = 3;

/// A method at the service that serves it.
struct Method {
    endpoint: String,
    raw: Raw,
    path: String,
    scope: String,
    tenancy: i32,
    input: MessageDescriptor,
    server_streaming: bool,
}

impl Method {
    fn new(endpoint: &str, url: &str, method: &MethodDescriptor) -> anyhow::Result<Self> {
        let pool = method.parent_pool();
        let option = pool
            .get_extension_by_name(ACCESS)
            .context("the access option is not in the descriptors")?;
        let options = method.options();
        let access = options.get_extension(&option);
        let access = access.as_message().context("the access option is no message")?;
        let field = |name| access.get_field_by_name(name).map(std::borrow::Cow::into_owned);
        Ok(Self {
            endpoint: endpoint.to_owned(),
            raw: Raw::new(url)?,
            path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
            scope: field("scope")
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default(),
            tenancy: field("tenancy")
                .and_then(|value| value.as_enum_number())
                .unwrap_or_default(),
            input: method.input(),
            server_streaming: method.is_server_streaming(),
        })
    }

    /// A request that names this tenant and nothing else.
    fn request(&self, merchant: MerchantId, store: StoreId) -> DynamicMessage {
        let mut message = DynamicMessage::new(self.input.clone());
        if self.tenancy != SYSTEM {
            message.set_field_by_name("merchant_id", Value::String(merchant.to_string()));
        }
        if self.tenancy == STORE {
            message.set_field_by_name("store_id", Value::String(store.to_string()));
        }
        message
    }

    async fn ask(
        &self,
        token: Option<&SecretString>,
        message: &DynamicMessage,
    ) -> Result<Option<bytes::Bytes>, Status> {
        self.raw
            .call(&self.path, token, message.encode_to_vec(), self.server_streaming)
            .await
    }

    /// Nothing when the call was refused as it must be, else what happened instead.
    async fn not_refused(
        &self,
        who: &str,
        token: Option<&SecretString>,
        message: &DynamicMessage,
        (code, reason): (Code, &str),
    ) -> Option<String> {
        let found = match self.ask(token, message).await {
            Ok(_) => "was served".to_owned(),
            Err(status) => {
                let infos = error_infos(&status);
                let info = fault::error_info(&status).map(|info| (info.reason, info.domain));
                let expected = (reason.to_owned(), format!("{}.waybill", self.endpoint));
                if status.code() == code && infos == 1 && info == Some(expected) {
                    return None;
                }
                format!(
                    "{:?} {info:?} with {infos} ErrorInfo: {}",
                    status.code(),
                    status.message()
                )
            }
        };
        Some(format!(
            "{} at {}, {who}: {found}; expected {code:?} {reason}",
            self.path, self.endpoint
        ))
    }
}

/// Every method of every Waybill contract, at every endpoint that serves it.
fn methods(shop: &Shop) -> anyhow::Result<Vec<Method>> {
    let pool = DescriptorPool::decode(waybill_proto::FILE_DESCRIPTOR_SET)?;
    let mut found = Vec::new();
    for (endpoint, url) in &shop.stack.context().endpoints {
        for service in pool.services() {
            let package = service.parent_file().package_name().to_owned();
            // Each service serves the contract of its own name, and those of its log, consumers and jobs.
            let own = package == format!("waybill.{endpoint}.v1");
            let backbone = ["waybill.events.v1", "waybill.jobs.v1"].contains(&package.as_str());
            if own || backbone {
                for method in service.methods() {
                    found.push(Method::new(endpoint, url, &method)?);
                }
            }
        }
    }
    let contracts: BTreeSet<String> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .filter(|path| path.starts_with("/waybill."))
        .collect();
    let reached: BTreeSet<String> = found.iter().map(|method| method.path.clone()).collect();
    ensure!(
        contracts == reached,
        "methods that no endpoint was asked for: {:?}",
        contracts.difference(&reached)
    );
    for service in SERVICES {
        ensure!(
            found.iter().any(|method| method.endpoint == service),
            "no method of {service}"
        );
    }
    ensure!(
        reached.len() >= 45,
        "only {} methods: the descriptors are not what they were",
        reached.len()
    );
    Ok(found)
}

/// The tokens that callers come with.
struct Tokens {
    right: SecretString,
    without_scope: SecretString,
    of_another_merchant: SecretString,
    for_another_store: SecretString,
    of_a_stranger: SecretString,
    expired: SecretString,
}

impl Tokens {
    fn new(shop: &Shop, method: &Method, merchant: MerchantId, store: StoreId) -> Self {
        let others: Vec<&str> = SCOPES
            .into_iter()
            .filter(|scope| *scope != method.scope)
            .collect();
        let right = match method.tenancy {
            SYSTEM => Claims::system("test"),
            _ => Claims::merchant("ada", merchant, &[store], &[&method.scope]),
        };
        let narrow = Claims {
            scopes: others.iter().map(|scope| (*scope).to_owned()).collect(),
            ..right.clone()
        };
        Self {
            without_scope: shop.token(&narrow),
            of_another_merchant: shop.token(&Claims::merchant("eve", MerchantId::generate(), &[], &SCOPES)),
            for_another_store: shop.token(&Claims::merchant(
                "bob",
                merchant,
                &[StoreId::generate()],
                &SCOPES,
            )),
            of_a_stranger: Issuer::generate().mint(&right, std::time::Duration::from_secs(60)),
            expired: shop
                .stack
                .issuer()
                .mint_between(&right, 1_000_000_000, 1_000_000_600),
            right: shop.token(&right),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_refuses_whom_it_must() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let merchant: MerchantId = shop.session.merchant_id.parse()?;
    let store: StoreId = shop.session.store_id.parse()?;
    let mut faults = Vec::new();
    let mut tenancies = BTreeSet::new();
    for method in methods(&shop)? {
        tenancies.insert(method.tenancy);
        let message = method.request(merchant, store);
        let tokens = Tokens::new(&shop, &method, merchant, store);
        let mismatch = (Code::PermissionDenied, "TENANT_MISMATCH");
        let mut cases = vec![
            ("without a token", None, (Code::Unauthenticated, "TOKEN_MISSING")),
            (
                "with a stranger's token",
                Some(&tokens.of_a_stranger),
                (Code::Unauthenticated, "TOKEN_INVALID"),
            ),
            (
                "with an old token",
                Some(&tokens.expired),
                (Code::Unauthenticated, "TOKEN_INVALID"),
            ),
            (
                "without the scope",
                Some(&tokens.without_scope),
                (Code::PermissionDenied, "SCOPE_MISSING"),
            ),
            (
                "for another merchant",
                Some(&tokens.of_another_merchant),
                mismatch,
            ),
        ];
        // For a system method this is a merchant's token with every scope.
        if matches!(method.tenancy, STORE | SYSTEM) {
            cases.push(("for another store", Some(&tokens.for_another_store), mismatch));
        }
        for (who, token, refusal) in cases {
            faults.extend(method.not_refused(who, token, &message, refusal).await);
        }
        // The control: with the right token the same request comes through to the service, which may find it wrong.
        if let Err(status) = method.ask(Some(&tokens.right), &message).await {
            let refused = [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented];
            let broken = [Code::Internal, Code::Unknown];
            if refused.contains(&status.code()) || broken.contains(&status.code()) {
                faults.push(format!(
                    "{} at {}, with the right token: {status:?}",
                    method.path, method.endpoint
                ));
            }
        }
    }
    assert_eq!(
        tenancies,
        BTreeSet::from([MERCHANT, STORE, SYSTEM]),
        "a kind of tenancy was not met"
    );
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    shop.close().await
}

/// Ids of things of our store, to be asked for by others.
struct Ours {
    order: String,
    shipment: String,
    returned: String,
    refund: String,
    leg: String,
    notification: String,
    line: String,
    location: String,
    attempt: String,
    draft: String,
}

/// A value that makes a request a sound one, for fields that are required and name nothing of anybody.
fn sound(field: &FieldDescriptor) -> Option<Value> {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    match (field.name(), field.kind()) {
        ("request_id" | "reason", Kind::String) => text("because"),
        ("carrier", Kind::String) => text("royal-mail"),
        ("tracking_number", Kind::String) => text("T-1"),
        ("provider", Kind::String) => text("stripe"),
        ("provider_refund_id" | "provider_payment_id", Kind::String) => text("re_1"),
        ("outcome", Kind::String) => text("failed"),
        ("sku", Kind::String) => text("MUG"),
        ("quantity", Kind::Int32) => Some(Value::I32(1)),
        ("delta", Kind::Int64) => Some(Value::I64(-1)),
        ("reason" | "kind" | "status", Kind::Enum(_)) => Some(Value::EnumNumber(1)),
        _ => None,
    }
}

impl Ours {
    async fn make(shop: &Shop) -> anyhow::Result<Self> {
        shop.stock([("MUG", 10)]).await?;
        let placed = shop
            .place(order("A1", "GBP", vec![line("MUG", 2, money("GBP", 995))]))
            .await?;
        let attempt = Self::void(shop, &placed.order_id).await?;
        let paid = shop.capture(&placed).await?;
        let shipment = shop.ship(&paid).await?;
        shop.deliver(&shipment).await?;
        let returned = shop.give_back(&paid, &[("MUG", 1)]).await?;
        shop.receive(&returned).await?;
        let refund = shop.refund_in(&paid.order_id, RefundState::Succeeded).await?;
        let notification = wait::until("a notification", || async {
            Ok(shop.notifications(&paid.order_id).await?.into_iter().next())
        });
        Ok(Self {
            notification: notification.await?.notification_id,
            leg: refund
                .legs
                .first()
                .context("a refund without a leg")?
                .leg_id
                .clone(),
            line: paid
                .lines
                .first()
                .context("an order without a line")?
                .line_id
                .clone(),
            order: paid.order_id,
            shipment: shipment.shipment_id,
            returned: returned.return_id,
            refund: refund.refund_id,
            location: shop.location_id.clone(),
            attempt,
            draft: Self::draft(shop).await?,
        })
    }

    async fn draft(shop: &Shop) -> anyhow::Result<String> {
        let session = &shop.session;
        let request = CreateDraftOrderRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: "draft".to_owned(),
            order: Some(order("A2", "GBP", vec![line("MUG", 1, money("GBP", 995))])),
        };
        let created = session.drafts()?.create_draft_order(request).await?.into_inner();
        Ok(created.draft.context("a draft")?.draft_id)
    }

    /// Asks for the release of an authorisation of the order; whatever the provider says of it, there is an attempt then.
    async fn void(shop: &Shop, order_id: &str) -> anyhow::Result<String> {
        let (session, mut client) = (&shop.session, shop.session.orders()?);
        let authorized = RecordPaymentRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: "authorized".to_owned(),
            order_id: order_id.to_owned(),
            kind: PaymentKind::Authorization.into(),
            provider: "stripe".to_owned(),
            provider_payment_id: "pi_authorized".to_owned(),
            amount: Some(money("GBP", 1)),
            ..RecordPaymentRequest::default()
        };
        let authorized = client.record_payment(authorized).await?.into_inner();
        let void = VoidPaymentRequest {
            merchant_id: session.merchant_id.clone(),
            store_id: session.store_id.clone(),
            request_id: "void".to_owned(),
            order_id: order_id.to_owned(),
            payment_id: authorized.payment.context("a payment")?.payment_id,
        };
        let answer = client.void_payment(void).await?.into_inner();
        Ok(answer.attempt.context("an attempt")?.attempt_id)
    }

    /// Fills every field of a request that can name something of ours, and what else makes the request a sound one;
    /// answers whether something of ours is named.
    fn name_in(&self, message: &mut DynamicMessage) -> bool {
        let mut named = false;
        for field in message.descriptor().fields().collect::<Vec<_>>() {
            let ours = match field.name().trim_end_matches('s') {
                "order_id" => &self.order,
                "shipment_id" => &self.shipment,
                "return_id" => &self.returned,
                "refund_id" => &self.refund,
                "leg_id" => &self.leg,
                "notification_id" => &self.notification,
                "line_id" => &self.line,
                "location_id" => &self.location,
                "attempt_id" => &self.attempt,
                "draft_id" => &self.draft,
                _ => {
                    match sound(&field) {
                        Some(value) => message.set_field(&field, value),
                        None => named |= self.name_inside(message, &field),
                    }
                    continue;
                }
            };
            let value = Value::String(ours.clone());
            message.set_field(
                &field,
                if field.is_list() {
                    Value::List(vec![value])
                } else {
                    value
                },
            );
            named = true;
        }
        named
    }

    fn name_inside(&self, message: &mut DynamicMessage, field: &FieldDescriptor) -> bool {
        let Kind::Message(inner) = field.kind() else {
            return false;
        };
        let ours = inner.full_name().starts_with("waybill.")
            && !field.is_map()
            && field.containing_oneof().is_none();
        let mut inner = DynamicMessage::new(inner);
        if !ours || !self.name_in(&mut inner) {
            return false;
        }
        let value = Value::Message(inner);
        message.set_field(
            field,
            if field.is_list() {
                Value::List(vec![value])
            } else {
                value
            },
        );
        true
    }

    /// What of ours shows in an answer.
    fn leaked_in(&self, answer: &[u8]) -> Vec<String> {
        let things = [
            &self.order,
            &self.shipment,
            &self.returned,
            &self.refund,
            &self.leg,
            &self.notification,
            &self.attempt,
            &self.draft,
        ];
        let ids = things.into_iter().chain([&self.line, &self.location]);
        let texts = ids.map(String::as_str).chain([EMAIL, NAME, STREET]);
        texts
            .filter(|text| answer.windows(text.len()).any(|at| at == text.as_bytes()))
            .map(str::to_owned)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_what_belongs_to_others() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let ours = Ours::make(&shop).await?;
    let merchant: MerchantId = shop.session.merchant_id.parse()?;
    let store: StoreId = shop.session.store_id.parse()?;
    let (stranger, elsewhere) = (MerchantId::generate(), StoreId::generate());
    // Each may call for the tenant that the request names; what it asks for is not there.
    let strangers = shop.token(&Claims::merchant("eve", stranger, &[], &SCOPES));
    let neighbours = shop.token(&Claims::merchant("bob", merchant, &[elsewhere], &SCOPES));
    let owners = shop.token(&Claims::merchant("ada", merchant, &[store], &SCOPES));
    let (mut faults, mut asked, mut seen) = (Vec::new(), 0, 0);
    for method in methods(&shop)? {
        let mut cases = Vec::new();
        if method.tenancy == STORE {
            cases.push(("a neighbour", &neighbours, method.request(merchant, elsewhere)));
        }
        if method.tenancy != SYSTEM {
            cases.push(("a stranger", &strangers, method.request(stranger, store)));
        }
        for (who, token, mut message) in cases {
            if !ours.name_in(&mut message) {
                continue;
            }
            asked += 1;
            let refused = [Code::NotFound, Code::InvalidArgument, Code::Unavailable];
            match method.ask(Some(token), &message).await {
                Ok(answer) => {
                    let leaked = ours.leaked_in(&answer.unwrap_or_default());
                    if !leaked.is_empty() {
                        faults.push(format!("{}: {who} was told {leaked:?}", method.path));
                    }
                }
                Err(status) if refused.contains(&status.code()) => {}
                Err(status) => faults.push(format!("{}: {who} was answered {status:?}", method.path)),
            }
        }
        // The control: the owner is told.
        let mut message = method.request(merchant, store);
        if method.tenancy == STORE && method.path.contains("/Get") && ours.name_in(&mut message) {
            let answer = wait::until("the owner's answer", || async {
                let answer = method.ask(Some(&owners), &message).await;
                Ok(Some(
                    answer.with_context(|| method.path.clone())?.unwrap_or_default(),
                ))
            });
            seen += usize::from(!ours.leaked_in(&answer.await?).is_empty());
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(
        asked >= 40 && seen >= 5,
        "{asked} requests named something of ours, {seen} answers to the owner showed it"
    );
    // And nothing was changed by whoever asked.
    let order = shop.session.order(&ours.order).await?;
    assert_eq!(order.status(), OrderStatus::Completed);
    assert_eq!(shop.refunds(&ours.order).await?.len(), 1);
    shop.close().await
}
