//! E-mail over SMTP.
//!
//! SMTP knows no idempotency key and cannot be asked what it took. What can be done is done: the Message-ID is fixed
//! before the first try and is the same in every later one, so a receiver recognises a repetition. A server that says no
//! for good (5xx) ends the message; one that says no for now (4xx) or cannot be reached is asked again; a connection that
//! ends without an answer is told apart, because the message may have been taken.

use std::time::Duration;

use futures_util::future::BoxFuture;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::ExposeSecret as _;
use tracing::Instrument as _;
use waybill_runtime::config::ConfigError;

use super::{Carrier, Outgoing, SendError};
use crate::config::{Security, SmtpConfig};

/// A pool of connections to one mail server.
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

/// The mail server cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum SmtpError {
    /// The password cannot be read.
    #[error(transparent)]
    Password(#[from] ConfigError),
    /// TLS cannot be set up.
    #[error("TLS to the mail server cannot be set up")]
    Tls(#[from] lettre::transport::smtp::Error),
}

impl Smtp {
    /// Sets up the pool; connects with the first message.
    pub fn new(config: &SmtpConfig) -> Result<Self, SmtpError> {
        let tls = match config.security {
            Security::None => Tls::None,
            Security::Starttls => Tls::Required(TlsParameters::new(config.host.clone())?),
            Security::Tls => Tls::Wrapper(TlsParameters::new(config.host.clone())?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .port(config.port)
            .tls(tls)
            .timeout(Some(config.timeout.max(Duration::from_millis(100))))
            .hello_name(ClientId::default());
        if !config.user.is_empty() {
            let password = config.password.read("smtp.password")?;
            builder = builder.credentials(Credentials::new(
                config.user.clone(),
                password.expose_secret().to_owned(),
            ));
        }
        Ok(Self {
            transport: builder.build(),
        })
    }

    async fn deliver(&self, message: Outgoing) -> Result<(), SendError> {
        let mail = compose(message)?;
        match self.transport.send(mail).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() && !is_about_us(&error) => {
                Err(SendError::Rejected("the mail server refused it for good"))
            }
            // The text of an answer may repeat the address: only its code is kept.
            Err(error) => match error.status() {
                Some(code) if code.to_string() == "421" => {
                    Err(SendError::Away("the mail server answered 421".to_owned()))
                }
                Some(code) => Err(SendError::Transient(format!("the mail server answered {code}"))),
                None if error.is_timeout() => Err(SendError::Unknown(
                    "the mail server did not answer in time".to_owned(),
                )),
                None if error.is_client() => Err(SendError::Rejected("the message cannot be sent as it is")),
                None => Err(SendError::Unknown(
                    "the connection to the mail server broke".to_owned(),
                )),
            },
        }
    }
}

impl Carrier for Smtp {
    fn send(&self, message: Outgoing) -> BoxFuture<'_, Result<(), SendError>> {
        let span = tracing::info_span!(
            "send",
            otel.name = "send e-mail",
            otel.kind = "client",
            waybill.service = crate::NAME,
        );
        Box::pin(self.deliver(message).instrument(span))
    }
}

/// 530 to 538: the server wants another authentication. That is a fault of the settings and not of the message.
fn is_about_us(error: &lettre::transport::smtp::Error) -> bool {
    error
        .status()
        .and_then(|code| code.to_string().parse::<u16>().ok())
        .is_some_and(|code| (530..=538).contains(&code))
}

/// Tells holiday messages and other robots that there is nobody to answer (RFC 3834).
#[derive(Debug, Clone, Copy)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn compose(message: Outgoing) -> Result<Message, SendError> {
    let address = |text: &str, whose| text.parse::<Address>().map_err(|_| SendError::Rejected(whose));
    let from = Mailbox::new(
        Some(message.from_name),
        address(&message.from, "the sender's address is not valid")?,
    );
    let reply_to = Mailbox::new(
        None,
        address(&message.reply_to, "the support address is not valid")?,
    );
    let to = Mailbox::new(None, address(&message.to, "the customer's address is not valid")?);
    Message::builder()
        .message_id(Some(format!("<{}>", message.message_id)))
        .from(from)
        .reply_to(reply_to)
        .to(to)
        .subject(message.content.subject)
        .header(AutoSubmitted)
        .multipart(MultiPart::alternative_plain_html(
            message.content.text,
            message.content.html,
        ))
        .map_err(|_| SendError::Rejected("the message cannot be composed"))
}
