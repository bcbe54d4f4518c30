//! Building HTTP clients for calls that move money: no redirects, no hidden repetition, TLS or loopback.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use tracing::Instrument as _;
use waybill_kernel::id::LegId;

use crate::provider::ProviderError;

/// Largest answer that is read.
const MAX_ANSWER_LEN: usize = 4 << 20;

/// Why a client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a URL that can be called.
    #[error("base_url {url:?} is not usable: expected an absolute URL such as \"https://api.stripe.com\"")]
    Url {
        /// What was given.
        url: String,
    },
    /// A secret would travel in the clear.
    #[error("base_url {url:?} is not encrypted: plain http is only allowed to this machine itself")]
    Plain {
        /// What was given.
        url: String,
    },
    /// The TLS library could not be set up.
    #[error("http client could not be built")]
    Client(#[source] reqwest::Error),
}

/// Checks that secrets may be sent to a base URL: it is `https`, or this machine itself.
///
/// # Errors
/// When it is not.
pub fn check_base_url(text: &str) -> Result<(), ClientError> {
    base_url(text).map(|_| ())
}

/// An answer whose head came; its body may be lost.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Result<Vec<u8>, ProviderError>,
}

impl Answer {
    /// What there is of the body.
    pub fn body(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }

    /// The whole body, read as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, ProviderError> {
        serde_json::from_slice(&self.body?).map_err(|_| ProviderError::unknown("answer_malformed"))
    }
}

/// Sends one request and reads its answer. Fails when there is no head of an answer.
pub(crate) async fn exchange(call: RequestBuilder) -> Result<Answer, ProviderError> {
    let mut response = call.send().await.map_err(|error| {
        if error.is_connect() || error.is_builder() {
            // There was never a connection to send anything over.
            ProviderError::transient("connect", None)
        } else {
            ProviderError::unknown(if error.is_timeout() {
                "timeout"
            } else {
                "connection_lost"
            })
        }
    })?;
    let status = response.status();
    tracing::Span::current().record("http.response.status_code", status.as_u16());
    let headers = std::mem::take(response.headers_mut());
    let body = read(&mut response).await;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER_LEN => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(ProviderError::unknown("answer_too_large")),
            Ok(None) => return Ok(body),
            Err(error) if error.is_timeout() => return Err(ProviderError::unknown("timeout")),
            Err(_) => return Err(ProviderError::unknown("connection_lost")),
        }
    }
}

/// How long an answer asks to wait: never more than a day, whatever the header says.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(u64::min(seconds, 86_400)))
}

/// What a call is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum About<'a> {
    /// An attempt to pay a leg of a refund.
    Leg(LegId),
    /// A payment, by the provider's id.
    Payment(&'a str),
}

/// The span of one call. It names what is asked for, never a secret or an amount.
pub(crate) fn span(provider: &str, operation: &'static str, about: About<'_>) -> tracing::Span {
    let span = tracing::info_span!(
        "provider call",
        otel.name = format!("{provider} {operation}"),
        otel.kind = "client",
        waybill.provider = provider,
        waybill.leg = tracing::field::Empty,
        waybill.payment = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
    );
    match about {
        About::Leg(leg_id) => span.record("waybill.leg", tracing::field::display(leg_id)),
        About::Payment(id) => span.record("waybill.payment", id),
    };
    span
}

/// A call inside its span, which notes why the call brought nothing.
pub(crate) fn traced<'a, T>(
    span: tracing::Span,
    call: impl Future<Output = Result<T, ProviderError>> + Send + 'a,
) -> BoxFuture<'a, Result<T, ProviderError>> {
    async move { note_error(call.await) }.instrument(span).boxed()
}

/// Notes on the span why a call brought nothing.
fn note_error<T>(result: Result<T, ProviderError>) -> Result<T, ProviderError> {
    if let Err(error) = &result {
        tracing::Span::current().record("error.type", error.reason());
    }
    result
}

/// A base URL that secrets may be sent to.
pub(crate) fn base_url(text: &str) -> Result<Url, ClientError> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| url.has_host() && !url.cannot_be_a_base());
    let url = url.ok_or_else(|| ClientError::Url { url: text.to_owned() })?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(ClientError::Plain { url: text.to_owned() }),
        _ => Err(ClientError::Url { url: text.to_owned() }),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A client for a base URL.
pub(crate) fn client(url: &Url, call_timeout: Duration) -> Result<reqwest::Client, ClientError> {
    // One provider per process; whoever comes first installs it, and all of Waybill installs the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("waybill/", env!("CARGO_PKG_VERSION")))
        // A redirected refund would be a second request that nobody decided on.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(call_timeout.min(Duration::from_secs(5)))
        .timeout(call_timeout);
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(ClientError::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_travel_encrypted_or_not_at_all() {
        for good in [
            "https://api.stripe.com",
            "http://127.0.0.1:12111/",
            "http://localhost:1",
            "http://[::1]:1",
        ] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for plain in [
            "http://api.stripe.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1",
        ] {
            assert!(
                matches!(base_url(plain), Err(ClientError::Plain { .. })),
                "{plain}"
            );
        }
        for bad in ["", "api.stripe.com", "ftp://127.0.0.1", "mailto:a@b", "https://"] {
            assert!(matches!(base_url(bad), Err(ClientError::Url { .. })), "{bad}");
        }
    }
}
