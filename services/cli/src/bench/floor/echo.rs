//! Bare tonic: a unary call that gets its bytes back, one server and one connection, no layer of ours.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse, uri::PathAndQuery};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response};
use tonic_prost::ProstCodec;

use super::Speed;

const PATH: &str = "/bare.Echo/Echo";

/// The service; `google.protobuf.BytesValue` in, the same out.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bare.Echo";
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, tonic::Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

/// What tonic's generated servers do, for one method.
#[derive(Clone)]
struct EchoServer;

impl NamedService for EchoServer {
    const NAME: &'static str = Echo::NAME;
}

impl Service<HttpRequest<Body>> for EchoServer {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Bytes, Bytes>::default());
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

/// `calls` calls with messages of `bytes` bytes, `callers` at once over one connection.
pub async fn unary(bytes: usize, calls: usize, callers: usize) -> anyhow::Result<Speed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(
        Server::builder()
            .add_service(EchoServer)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
                // Stopped, or nobody is there any more to stop it.
                drop(stopped.await);
            }),
    );
    let channel = Endpoint::from_shared(url)?.connect().await?;
    let payload = Bytes::from(vec![b'x'; bytes]);
    let begun = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    try_join_all((0..callers).map(|_| {
        let calling = call_repeatedly(channel.clone(), payload.clone(), Arc::clone(&begun), calls);
        async { tokio::spawn(calling).await? }
    }))
    .await?;
    let time = began.elapsed();
    drop((channel, stop));
    server.await?.context("the echo server failed")?;
    Ok(Speed {
        count: calls as u64,
        time,
    })
}

async fn call_repeatedly(
    channel: Channel,
    payload: Bytes,
    begun: Arc<AtomicUsize>,
    calls: usize,
) -> anyhow::Result<()> {
    let mut client = tonic::client::Grpc::new(channel);
    while begun.fetch_add(1, Ordering::Relaxed) < calls {
        client.ready().await?;
        let codec = ProstCodec::<Bytes, Bytes>::default();
        let answer = client
            .unary(
                Request::new(payload.clone()),
                PathAndQuery::from_static(PATH),
                codec,
            )
            .await?;
        anyhow::ensure!(answer.into_inner() == payload, "the echo differs");
    }
    Ok(())
}
