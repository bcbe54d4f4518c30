//! A page with the metrics of this process, for Prometheus: `GET /metrics` on a listener of its own.
//!
//! What it refuses to do: anything else. It tells figures and names of parts, nothing of orders or people; whoever lets it
//! listen beyond loopback lets the neighbours read them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::TelemetryError;

/// Scrapes at once; more wait.
const AT_ONCE: usize = 4;

/// How long a client may take to send its request, and how long a connection may last.
const PATIENCE: Duration = Duration::from_secs(10);

/// Binds the address. Called inside the runtime that will serve it.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, TelemetryError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|source| TelemetryError::Scrape { address, source })
}

/// Serves the registry until the runtime ends.
pub(super) async fn serve(listener: TcpListener, registry: Registry) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: it passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let registry = registry.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let registry = registry.clone();
                async move { Ok::<_, Infallible>(answer(&request, &registry)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answer);
            // A client that went away or dawdled has had its chance.
            drop(tokio::time::timeout(PATIENCE, connection).await);
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::from(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "ask for /metrics\n");
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
    }
    let encoder = TextEncoder::new();
    let mut page = Vec::new();
    if encoder.encode(&registry.gather(), &mut page).is_err() {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be written\n",
        );
    }
    let mut response = Response::new(Full::from(Bytes::from(page)));
    if let Ok(kind) = encoder.format_type().parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
