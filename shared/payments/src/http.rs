//! Building HTTP clients for calls that move money: no redirects, no hidden repetition, TLS or loopback.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;

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
