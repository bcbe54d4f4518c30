//! Who may call what: tokens, scopes, tenants, for one message and for streams, and for every method there is.

use std::convert::Infallible;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer as _, ServiceExt as _};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::analytics::v1::GetSummaryRequest;
use waybill_proto::waybill::analytics::v1::analytics_service_client::AnalyticsServiceClient;
use waybill_proto::waybill::order::v1::BatchPlaceOrdersRequest;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::r#type::v1::Tenancy;
use waybill_rpc::access::{AccessLayer, Rule, Rules};
use waybill_rpc::auth::{Claims, Issuer, SCOPES, Verifier};
use waybill_rpc::client::{Channel, TokenSource};
use waybill_rpc::fault;
use waybill_rpc::server::Limits;

use crate::support::{Canned, Running, SOON, assert_refused, ids, start, summary};

async fn ask(channel: Channel, request: GetSummaryRequest) -> Result<i64, Status> {
    AnalyticsServiceClient::new(channel)
        .get_summary(request)
        .await
        .map(|answer| answer.into_inner().open_orders)
}

fn fine() -> GetSummaryRequest {
    summary(ids().0, ids().1, "")
}

#[tokio::test]
async fn tokens_are_checked() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let claims = Claims::merchant("ada", ids().0, &[ids().1], &["analytics:read"]);
    let with = |token: SecretString| server.channel(TokenSource::fixed(token));

    assert_eq!(
        ask(server.as_merchant(&["analytics:read"]), fine()).await?,
        1,
        "the handler sees the caller"
    );

    let missing = ask(server.channel(TokenSource::none()), fine())
        .await
        .expect_err("no token");
    assert_refused(&missing, Code::Unauthenticated, "TOKEN_MISSING");

    let stranger = Issuer::generate().mint(&claims, Duration::from_secs(60));
    let unknown = ask(with(stranger), fine()).await.expect_err("another key");
    assert_refused(&unknown, Code::Unauthenticated, "TOKEN_INVALID");

    // Another payload under a good signature.
    let good = server.issuer.mint(&claims, Duration::from_secs(60));
    let other = server
        .issuer
        .mint(&Claims::system("eve"), Duration::from_secs(60));
    let parts: Vec<&str> = good.expose_secret().split('.').collect();
    let payload = other.expose_secret().split('.').nth(1).expect("three parts");
    let forged = SecretString::from(format!("{}.{payload}.{}", parts[0], parts[2]));
    let forged = ask(with(forged), fine()).await.expect_err("a forged token");
    assert_refused(&forged, Code::Unauthenticated, "TOKEN_INVALID");
    assert!(forged.message().contains("signature"), "{forged:?}");

    let old = server.issuer.mint_between(&claims, 1_000_000_000, 1_000_000_600);
    let expired = ask(with(old), fine()).await.expect_err("an old token");
    assert_refused(&expired, Code::Unauthenticated, "TOKEN_INVALID");
    assert!(expired.message().contains("expired"), "{expired:?}");

    let elsewhere = server
        .issuer
        .clone()
        .named("waybill", "another-house")
        .mint(&claims, Duration::from_secs(60));
    let elsewhere = ask(with(elsewhere), fine()).await.expect_err("for others");
    assert_refused(&elsewhere, Code::Unauthenticated, "TOKEN_INVALID");
    assert!(elsewhere.message().contains("\"aud\""), "{elsewhere:?}");
    Ok(())
}

#[tokio::test]
async fn scope_and_tenant_are_checked() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let (merchant, store) = ids();

    let scope = ask(server.as_merchant(&["orders:read", "orders:write"]), fine())
        .await
        .expect_err("wrong scope");
    assert_refused(&scope, Code::PermissionDenied, "SCOPE_MISSING");
    assert!(scope.message().contains("analytics:read"), "{scope:?}");

    let reader = || server.as_merchant(&["analytics:read"]);
    let foreign = ask(reader(), summary(MerchantId::generate(), store, ""))
        .await
        .expect_err("another merchant");
    assert_refused(&foreign, Code::PermissionDenied, "TENANT_MISMATCH");
    assert!(foreign.message().contains("merchant_id"), "{foreign:?}");
    let foreign = ask(reader(), summary(merchant, StoreId::generate(), ""))
        .await
        .expect_err("another store");
    assert_refused(&foreign, Code::PermissionDenied, "TENANT_MISMATCH");
    assert!(foreign.message().contains("store_id"), "{foreign:?}");

    // A token for all stores, and one of a service.
    let owner = server.issuer.mint(
        &Claims::merchant("ada", merchant, &[], &["analytics:read"]),
        Duration::from_secs(60),
    );
    ask(
        server.channel(TokenSource::fixed(owner)),
        summary(merchant, StoreId::generate(), ""),
    )
    .await?;
    ask(
        server.as_system(),
        summary(MerchantId::generate(), StoreId::generate(), ""),
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn missing_and_malformed_tenants_are_named_together() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let reader = || server.as_merchant(&["analytics:read"]);
    let none = ask(reader(), GetSummaryRequest::default())
        .await
        .expect_err("no tenant");
    assert_refused(&none, Code::InvalidArgument, "TENANT_INVALID");
    let fields: Vec<String> = fault::bad_fields(&none)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(fields, ["merchant_id", "store_id"]);

    let request = GetSummaryRequest {
        store_id: "shop".to_owned(),
        ..fine()
    };
    let malformed = ask(reader(), request).await.expect_err("not an id");
    assert_refused(&malformed, Code::InvalidArgument, "TENANT_INVALID");
    let bad = fault::bad_fields(&malformed);
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].0, "store_id");
    assert!(bad[0].1.contains("\"shop\""), "{bad:?}");
    Ok(())
}

#[tokio::test]
async fn every_message_of_a_stream_is_checked() -> anyhow::Result<()> {
    let canned = Canned::default();
    let server = start(canned.clone(), Limits::default(), SOON).await?;
    let message = |store: StoreId| BatchPlaceOrdersRequest {
        merchant_id: ids().0.to_string(),
        store_id: store.to_string(),
        request_id: "r".to_owned(),
        ..BatchPlaceOrdersRequest::default()
    };
    let mut client = OrderServiceClient::new(server.as_merchant(&["orders:write"]));

    let good = vec![message(ids().1); 3];
    client.batch_place_orders(tokio_stream::iter(good)).await?;
    assert_eq!(canned.taken.load(Ordering::SeqCst), 3);

    // The canned service hides the broken stream; the caller is told all the same.
    let bad = vec![message(ids().1), message(StoreId::generate()), message(ids().1)];
    let refused = client
        .batch_place_orders(tokio_stream::iter(bad))
        .await
        .expect_err("a foreign store");
    assert_refused(&refused, Code::PermissionDenied, "TENANT_MISMATCH");
    assert_eq!(
        canned.taken.load(Ordering::SeqCst),
        4,
        "nothing from the foreign message on was seen"
    );

    client.batch_place_orders(tokio_stream::empty()).await?;
    Ok(())
}

// Below: the layer alone, with messages of bytes.

fn rules() -> &'static Rules {
    static RULES: LazyLock<Rules> =
        LazyLock::new(|| Rules::from_descriptors(waybill_proto::FILE_DESCRIPTOR_SET).expect("our contracts"));
    &RULES
}

/// What the layer answers to a body, before a service that reads everything and is content.
async fn through(verifier: &Verifier, path: &str, token: Option<&SecretString>, body: Bytes) -> Status {
    let reader = tower::service_fn(|request: http::Request<Body>| async move {
        let response = match request.into_body().collect().await {
            Ok(_) => Status::ok("").into_http(),
            Err(status) => status.into_http(),
        };
        Ok::<http::Response<Body>, Infallible>(response)
    });
    let service = AccessLayer::new("analytics", rules().clone(), verifier.clone(), 1024).layer(reader);
    let mut request = http::Request::builder().uri(format!("http://test{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {}", token.expose_secret()));
    }
    let request = request.body(Body::new(Full::new(body))).expect("a request");
    let response = service
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {});
    Status::from_header_map(response.headers()).expect("a status")
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("short"));
    frame.put_slice(message);
    frame.freeze()
}

/// A message with texts in some fields.
fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, value) in fields {
        prost::encoding::encode_key(*tag, prost::encoding::WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(value.len() as u64, &mut message);
        message.extend_from_slice(value);
    }
    message
}

struct House {
    issuer: Issuer,
    verifier: Verifier,
}

fn house() -> House {
    let issuer = Issuer::generate();
    let verifier = Verifier::new(&issuer.jwks_json(), "waybill", "waybill").expect("our keys");
    House { issuer, verifier }
}

impl House {
    fn token(&self, claims: &Claims) -> SecretString {
        self.issuer.mint(claims, Duration::from_secs(60))
    }
}

#[tokio::test]
async fn every_method_of_every_contract_is_guarded() {
    let house = house();
    let (merchant, store) = ids();
    let methods: Vec<(&str, &Rule)> = rules().iter().collect();
    assert!(methods.len() > 30, "only {} methods", methods.len());
    let all: Vec<&str> = SCOPES.to_vec();
    let full = house.token(&Claims::merchant("ada", merchant, &[store], &all));
    let system = house.token(&Claims::system("order"));
    let good = message(&[
        (1, merchant.to_string().as_bytes()),
        (2, store.to_string().as_bytes()),
    ]);
    let other_store = StoreId::generate().to_string();
    let other_merchant = MerchantId::generate().to_string();

    for (path, rule) in methods {
        assert!(
            SCOPES.contains(&rule.scope.as_str()),
            "{path} wants the unknown scope {}",
            rule.scope
        );
        let ask = |token: Option<SecretString>, body: Vec<u8>| {
            let (verifier, path) = (house.verifier.clone(), path.to_owned());
            async move { through(&verifier, &path, token.as_ref(), frame(&body)).await }
        };
        let refused = |status: &Status, code: Code, reason: &str| {
            assert_eq!(
                (status.code(), fault::reason(status).as_deref()),
                (code, Some(reason)),
                "{path}: {status:?}"
            );
        };
        refused(
            &ask(None, good.clone()).await,
            Code::Unauthenticated,
            "TOKEN_MISSING",
        );
        let rest: Vec<&str> = all.iter().copied().filter(|scope| *scope != rule.scope).collect();
        let others = house.token(&Claims::merchant("ada", merchant, &[store], &rest));
        refused(
            &ask(Some(others), good.clone()).await,
            Code::PermissionDenied,
            "SCOPE_MISSING",
        );
        assert_eq!(
            ask(Some(system.clone()), good.clone()).await.code(),
            Code::Ok,
            "{path}"
        );

        if rule.tenancy == Tenancy::System {
            refused(
                &ask(Some(full.clone()), good.clone()).await,
                Code::PermissionDenied,
                "TENANT_MISMATCH",
            );
            continue;
        }
        assert_eq!(
            ask(Some(full.clone()), good.clone()).await.code(),
            Code::Ok,
            "{path}"
        );
        let foreign = message(&[(1, other_merchant.as_bytes()), (2, store.to_string().as_bytes())]);
        refused(
            &ask(Some(full.clone()), foreign).await,
            Code::PermissionDenied,
            "TENANT_MISMATCH",
        );
        refused(
            &ask(Some(full.clone()), Vec::new()).await,
            Code::InvalidArgument,
            "TENANT_INVALID",
        );
        if rule.tenancy == Tenancy::Store {
            let foreign = message(&[(1, merchant.to_string().as_bytes()), (2, other_store.as_bytes())]);
            refused(
                &ask(Some(full.clone()), foreign).await,
                Code::PermissionDenied,
                "TENANT_MISMATCH",
            );
            let half = message(&[(1, merchant.to_string().as_bytes())]);
            refused(
                &ask(Some(full.clone()), half).await,
                Code::InvalidArgument,
                "TENANT_INVALID",
            );
        }
    }
}

#[tokio::test]
async fn odd_messages_are_read_as_protobuf_reads_them_or_refused() {
    const PATH: &str = "/waybill.analytics.v1.AnalyticsService/GetSummary";
    let house = house();
    let (merchant, store) = ids();
    let (own, shop) = (merchant.to_string(), store.to_string());
    let foreign = MerchantId::generate().to_string();
    let token = house.token(&Claims::merchant("ada", merchant, &[store], &["analytics:read"]));
    let ask = |body: Bytes| through(&house.verifier, PATH, Some(&token), body);
    let refusal = |status: Status| (status.code(), fault::reason(&status).unwrap_or_default());

    // The last one counts, in both directions.
    let smuggled = message(&[(1, own.as_bytes()), (2, shop.as_bytes()), (1, foreign.as_bytes())]);
    assert_eq!(
        refusal(ask(frame(&smuggled)).await),
        (Code::PermissionDenied, "TENANT_MISMATCH".to_owned())
    );
    let corrected = message(&[
        (1, foreign.as_bytes()),
        (9, b"unknown"),
        (1, own.as_bytes()),
        (2, shop.as_bytes()),
    ]);
    assert_eq!(ask(frame(&corrected)).await.code(), Code::Ok);
    // The tenant may come last.
    let late = message(&[(3, b""), (2, shop.as_bytes()), (1, own.as_bytes())]);
    assert_eq!(ask(frame(&late)).await.code(), Code::Ok);
    // Nested fields with the same numbers are not the tenant.
    let nested = message(&[(3, &message(&[(1, own.as_bytes()), (2, shop.as_bytes())]))]);
    assert_eq!(
        refusal(ask(frame(&nested)).await),
        (Code::InvalidArgument, "TENANT_INVALID".to_owned())
    );

    let utf8 = message(&[(1, b"\xff\xfe"), (2, shop.as_bytes())]);
    let status = ask(frame(&utf8)).await;
    assert_eq!(
        fault::bad_fields(&status),
        [("merchant_id".to_owned(), "is not valid UTF-8".to_owned())]
    );
    assert_eq!(
        refusal(status),
        (Code::InvalidArgument, "TENANT_INVALID".to_owned())
    );

    let malformed = (Code::InvalidArgument, "MESSAGE_MALFORMED".to_owned());
    assert_eq!(refusal(ask(frame(b"\x0a\x7fshort")).await), malformed);
    assert_eq!(
        refusal(ask(frame(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")).await),
        malformed
    );
    assert_eq!(refusal(ask(frame(b"\x00")).await), malformed, "field number 0");

    let good = message(&[(1, own.as_bytes()), (2, shop.as_bytes())]);
    let mut compressed = BytesMut::from(&frame(&good)[..]);
    compressed[0] = 1;
    assert_eq!(
        refusal(ask(compressed.freeze()).await),
        (Code::Unimplemented, "COMPRESSION_NOT_SUPPORTED".to_owned())
    );
    let long = message(&[(1, own.as_bytes()), (2, shop.as_bytes()), (9, &[b'x'; 1024])]);
    assert_eq!(
        refusal(ask(frame(&long)).await),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned())
    );
    let cut = frame(&good).slice(..20);
    assert_eq!(
        refusal(ask(cut).await),
        (Code::InvalidArgument, "MESSAGE_TRUNCATED".to_owned())
    );
    assert_eq!(
        refusal(ask(Bytes::new()).await),
        (Code::InvalidArgument, "MESSAGE_MISSING".to_owned())
    );

    // A second message behind a good one is checked as well, though the method takes only one.
    let two = [frame(&good), frame(&smuggled)].concat();
    assert_eq!(
        refusal(ask(two.into()).await),
        (Code::PermissionDenied, "TENANT_MISMATCH".to_owned())
    );
}

#[tokio::test]
async fn methods_outside_of_the_contracts_are_refused() {
    let house = house();
    let token = house.token(&Claims::system("order"));
    for path in [
        "/waybill.order.v1.OrderService/DropTables",
        "/waybill.order.v1.OrderService/",
        "/x/y",
        "/",
    ] {
        let status = through(&house.verifier, path, Some(&token), frame(b"")).await;
        assert_eq!(
            fault::reason(&status).as_deref(),
            Some("METHOD_UNKNOWN"),
            "{path}"
        );
        assert_eq!(status.code(), Code::Unimplemented);
    }
    // The open ones are open by their whole name only.
    let status = through(&house.verifier, "/grpc.health.v1.Health/Check", None, frame(b"")).await;
    assert_eq!(status.code(), Code::Ok);
    let status = through(&house.verifier, "/grpc.health.v1.HealthX/Check", None, frame(b"")).await;
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn other_kinds_of_authorization_are_no_token() {
    let house = house();
    let verifier = house.verifier.clone();
    for header in ["", "Bearer", "Basic YTpi", "bearer\u{a0}x"] {
        let inner = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<http::Response<Body>, Infallible>(Status::ok("").into_http())
        });
        let service = AccessLayer::new("order", rules().clone(), verifier.clone(), 1024).layer(inner);
        let request = http::Request::builder()
            .uri("/waybill.order.v1.OrderService/GetOrder")
            .header("authorization", header.as_bytes())
            .body(Body::empty())
            .expect("a request");
        let response = service
            .oneshot(request)
            .await
            .unwrap_or_else(|never| match never {});
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(
            fault::reason(&status).as_deref(),
            Some("TOKEN_MISSING"),
            "{header:?}"
        );
    }
}
