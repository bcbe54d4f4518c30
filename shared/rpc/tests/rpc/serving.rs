//! The server around the services: health, reflection, limits, deadlines, errors, drain.

use std::time::Duration;

use prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use tokio::time::timeout;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use waybill_proto::waybill::analytics::v1::GetSummaryRequest;
use waybill_proto::waybill::analytics::v1::analytics_service_client::AnalyticsServiceClient;
use waybill_proto::waybill::order::v1::WatchOrdersRequest;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_rpc::auth::Issuer;
use waybill_rpc::client::{Channel, TokenSource};
use waybill_rpc::fault;
use waybill_rpc::server::{Limits, ServeError};

use crate::support::{Canned, Running, SOON, assert_refused, ids, start, start_as, summary, until_waiting};

fn fine(behaviour: &str) -> GetSummaryRequest {
    summary(ids().0, ids().1, behaviour)
}

fn analytics(channel: Channel) -> AnalyticsServiceClient<Channel> {
    AnalyticsServiceClient::new(channel)
}

fn watch(cursor: &str) -> WatchOrdersRequest {
    WatchOrdersRequest {
        merchant_id: ids().0.to_string(),
        store_id: ids().1.to_string(),
        cursor: cursor.to_owned(),
        ..WatchOrdersRequest::default()
    }
}

#[tokio::test]
async fn health_is_told_to_everybody_and_ends_with_the_server() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let mut client = HealthClient::new(server.channel(TokenSource::none()));
    for service in [
        "",
        "waybill.analytics.v1.AnalyticsService",
        "waybill.order.v1.OrderService",
    ] {
        let answer = client
            .check(HealthCheckRequest {
                service: service.to_owned(),
            })
            .await?
            .into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = client
        .check(HealthCheckRequest {
            service: "none".to_owned(),
        })
        .await
        .expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);

    let mut watched = client.watch(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(
        watched.message().await?.map(|answer| answer.status()),
        Some(ServingStatus::Serving)
    );
    server.shutdown.cancel();
    let next = timeout(SOON, watched.message()).await??;
    assert_eq!(
        next.map(|answer| answer.status()),
        Some(ServingStatus::NotServing)
    );
    timeout(SOON, server.ended).await???;
    Ok(())
}

#[tokio::test]
async fn reflection_v1_gives_the_contracts_with_their_options() -> anyhow::Result<()> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let server = Running::new().await?;
    let mut client = ServerReflectionClient::new(server.channel(TokenSource::none()));
    let questions = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("waybill.analytics.v1.AnalyticsService".to_owned()),
    ];
    let questions = questions.map(|question| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    });
    let mut answers = client
        .server_reflection_info(tokio_stream::iter(questions))
        .await?
        .into_inner();
    let mut next = async || {
        anyhow::Ok(
            answers
                .message()
                .await?
                .and_then(|answer| answer.message_response),
        )
    };

    let Some(MessageResponse::ListServicesResponse(list)) = next().await? else {
        panic!("no list")
    };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "waybill.analytics.v1.AnalyticsService",
            "waybill.order.v1.OrderService",
        ]
    );
    let Some(MessageResponse::FileDescriptorResponse(files)) = next().await? else {
        panic!("no file")
    };
    let file = FileDescriptorProto::decode(&files.file_descriptor_proto[0][..])?;
    assert_eq!(file.name(), "waybill/analytics/v1/analytics_service.proto");
    let scope = b"analytics:read";
    assert!(
        files.file_descriptor_proto[0]
            .windows(scope.len())
            .any(|window| window == scope),
        "the access option is part of what is told"
    );
    Ok(())
}

#[tokio::test]
async fn reflection_v1alpha_is_there_for_older_tools() -> anyhow::Result<()> {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;

    let server = Running::new().await?;
    let mut client = ServerReflectionClient::new(server.channel(TokenSource::none()));
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileByFilename(
            "waybill/order/v1/order.proto".to_owned(),
        )),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([question]))
        .await?
        .into_inner();
    let answer = answers
        .message()
        .await?
        .and_then(|answer| answer.message_response);
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer else {
        panic!("no file: {answer:?}")
    };
    assert_eq!(
        FileDescriptorProto::decode(&files.file_descriptor_proto[0][..])?.package(),
        "waybill.order.v1"
    );
    Ok(())
}

#[tokio::test]
async fn errors_keep_one_shape() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let mut client = analytics(server.as_merchant(&["analytics:read", "orders:read"]));

    let bare = client.get_summary(fine("bare")).await.expect_err("not found");
    assert_refused(&bare, Code::NotFound, "NOT_FOUND");
    assert_eq!(bare.message(), "no such thing");

    for behaviour in ["internal", "panic"] {
        let hidden = client.get_summary(fine(behaviour)).await.expect_err("broken");
        assert_refused(&hidden, Code::Internal, "INTERNAL");
        assert!(!format!("{hidden:?}").contains("hunter2"), "{hidden:?}");
        assert!(!format!("{hidden:?}").contains("a bug"), "{hidden:?}");
    }
    // The server lives on.
    client.get_summary(fine("")).await?;

    let mut orders = OrderServiceClient::new(server.as_merchant(&["orders:read"]));
    let request = waybill_proto::waybill::order::v1::GetOrderRequest {
        merchant_id: ids().0.to_string(),
        store_id: ids().1.to_string(),
        key: None,
    };
    let unimplemented = orders.get_order(request).await.expect_err("not canned");
    assert_refused(&unimplemented, Code::Unimplemented, "UNIMPLEMENTED");
    Ok(())
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_the_callers_fault() -> anyhow::Result<()> {
    let server = Running::new().await?;
    // The top level is fine, what is inside of the period is not: a timestamp of one byte that begins nothing.
    let mut message = GetSummaryRequest {
        period: None,
        ..fine("")
    }
    .encode_to_vec();
    message.extend_from_slice(&[0x1a, 0x03, 0x0a, 0x01, 0xff]);
    let mut grpc = tonic::client::Grpc::new(server.as_merchant(&["analytics:read"]));
    grpc.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/waybill.analytics.v1.AnalyticsService/GetSummary");
    let refused = grpc
        .unary(Request::new(message), path, raw::Codec)
        .await
        .expect_err("malformed");
    assert_refused(&refused, Code::InvalidArgument, "MESSAGE_MALFORMED");
    Ok(())
}

#[tokio::test]
async fn an_oversize_message_is_refused_with_its_size() -> anyhow::Result<()> {
    let limits = Limits {
        max_message_bytes: 1000,
        ..Limits::default()
    };
    let server = start(Canned::default(), limits, SOON).await?;
    let mut client = analytics(server.as_merchant(&["analytics:read"]));
    let refused = client
        .get_summary(fine(&"x".repeat(1000)))
        .await
        .expect_err("too large");
    assert_refused(&refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert!(refused.message().contains("limit of 1000 bytes"), "{refused:?}");
    client.get_summary(fine(&"x".repeat(800))).await?;
    Ok(())
}

#[tokio::test]
async fn beyond_the_limit_calls_are_told_to_come_back() -> anyhow::Result<()> {
    let canned = Canned::default();
    let server = start(
        canned.clone(),
        Limits {
            max_concurrent_calls: 2,
            ..Limits::default()
        },
        SOON,
    )
    .await?;
    let channel = server.as_merchant(&["analytics:read"]);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = analytics(channel.clone());
            tokio::spawn(async move { client.get_summary(fine("wait")).await })
        })
        .collect();
    until_waiting(&canned, 2).await;
    let busy = analytics(channel.clone())
        .get_summary(fine(""))
        .await
        .expect_err("busy");
    assert_refused(&busy, Code::ResourceExhausted, "SERVER_BUSY");
    assert!(fault::retry_after(&busy).is_some_and(|delay| delay > Duration::ZERO));
    // Probes are answered all the same.
    HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await?;

    canned.gate.notify_waiters();
    for call in waiting {
        call.await??;
    }
    analytics(channel).get_summary(fine("")).await?;
    Ok(())
}

#[tokio::test]
async fn a_deadline_ends_a_call_on_the_server_and_on_the_way() -> anyhow::Result<()> {
    let issuer = Issuer::generate();
    let limits = Limits {
        default_deadline: Duration::from_millis(300),
        ..Limits::default()
    };
    let other = Canned::default();
    let last = start_as(issuer.clone(), other.clone(), Limits::default(), SOON).await?;
    let canned = Canned {
        next: Some(last.as_system()),
        ..Canned::default()
    };
    let server = start_as(issuer, canned, limits, SOON).await?;

    // The caller sets none: the server's default ends the call. A plain channel, so that no client adds one.
    let plain = tonic::transport::Endpoint::from_shared(server.url.clone())?.connect_lazy();
    let token = server.token(&["analytics:read"]);
    let mut client = AnalyticsServiceClient::with_interceptor(plain, move |mut request: Request<()>| {
        let header = format!("Bearer {}", secrecy::ExposeSecret::expose_secret(&token));
        request
            .metadata_mut()
            .insert("authorization", header.parse().expect("a header"));
        Ok(request)
    });
    let late = timeout(SOON, client.get_summary(fine("hang")))
        .await?
        .expect_err("late");
    assert_refused(&late, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");

    // The second service is asked with what is left of the first call's time, not with the client's 10 seconds.
    let late = timeout(SOON, client.get_summary(fine("forward")))
        .await?
        .expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    let given = other.deadlines.lock().expect("not poisoned").clone();
    assert_eq!(given.len(), 1, "{given:?}");
    let micros: u64 = given[0].strip_suffix('u').expect("microseconds").parse()?;
    assert!(micros <= 300_000, "{given:?}");
    Ok(())
}

#[tokio::test]
async fn running_calls_end_before_the_server_does() -> anyhow::Result<()> {
    let canned = Canned::default();
    let server = start(canned.clone(), Limits::default(), SOON).await?;
    let channel = server.as_merchant(&["analytics:read", "orders:read"]);
    let mut client = analytics(channel.clone());
    let running = tokio::spawn(async move { client.get_summary(fine("wait")).await });
    let mut changes = OrderServiceClient::new(channel.clone())
        .watch_orders(watch(""))
        .await?
        .into_inner();
    assert_eq!(
        changes.message().await?.map(|change| change.cursor).as_deref(),
        Some("1")
    );
    until_waiting(&canned, 1).await;

    server.shutdown.cancel();
    // The endless stream is ended with a status that tells its caller to resume.
    let ended = timeout(SOON, changes.message())
        .await?
        .expect_err("the stream ends");
    assert_refused(&ended, Code::Unavailable, "SHUTTING_DOWN");
    assert!(fault::retry_after(&ended).is_some());
    assert!(!server.ended.is_finished(), "a call is still running");

    canned.gate.notify_waiters();
    timeout(SOON, running).await???;
    timeout(SOON, server.ended).await???;
    let refused = analytics(channel)
        .get_summary(fine(""))
        .await
        .expect_err("nobody listens");
    assert_eq!(refused.code(), Code::Unavailable);
    Ok(())
}

#[tokio::test]
async fn a_call_that_does_not_end_in_time_is_cut() -> anyhow::Result<()> {
    let canned = Canned::default();
    let server = start(canned.clone(), Limits::default(), Duration::from_millis(100)).await?;
    let mut client = analytics(server.as_merchant(&["analytics:read"]));
    let running = tokio::spawn(async move { client.get_summary(fine("wait")).await });
    until_waiting(&canned, 1).await;
    server.shutdown.cancel();
    let cut = timeout(SOON, running).await??.expect_err("the call is cut");
    assert_refused(&cut, Code::Unavailable, "SHUTTING_DOWN");
    match timeout(SOON, server.ended).await?? {
        Err(ServeError::Cut { calls: 1, .. }) => Ok(()),
        other => panic!("one call was cut: {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_ends_by_itself_is_left_alone() -> anyhow::Result<()> {
    let server = Running::new().await?;
    let mut client = OrderServiceClient::new(server.as_merchant(&["orders:read"]));
    let mut changes = client.watch_orders(watch("end")).await?.into_inner();
    assert!(changes.message().await?.is_some());
    assert!(changes.message().await?.is_none());
    // A stream's deadline is its caller's.
    let mut request = Request::new(watch(""));
    request.set_timeout(Duration::from_millis(200));
    let mut changes = client.watch_orders(request).await?.into_inner();
    assert!(changes.message().await?.is_some());
    let late = timeout(SOON, changes.message())
        .await?
        .expect_err("the deadline ends the stream");
    assert_refused(&late, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    Ok(())
}

/// A codec that sends bytes as they are.
mod raw {
    use bytes::{Buf as _, BufMut as _};
    use tonic::Status;
    use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

    #[derive(Default)]
    pub struct Codec;

    impl tonic::codec::Codec for Codec {
        type Encode = Vec<u8>;
        type Decode = Vec<u8>;
        type Encoder = Codec;
        type Decoder = Codec;

        fn encoder(&mut self) -> Codec {
            Codec
        }

        fn decoder(&mut self) -> Codec {
            Codec
        }
    }

    impl Encoder for Codec {
        type Item = Vec<u8>;
        type Error = Status;

        fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put_slice(&item);
            Ok(())
        }
    }

    impl Decoder for Codec {
        type Item = Vec<u8>;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
            let mut bytes = vec![0; buffer.remaining()];
            buffer.copy_to_slice(&mut bytes);
            Ok(Some(bytes))
        }
    }
}
