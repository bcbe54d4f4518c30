//! E-mail over SMTP.
//!
//! SMTP knows no idempotency key and cannot be asked what it took. What can be done is done: the Message-ID is fixed
//! before the first try and is the same in every later one, so a receiver recognises a repetition. A server that says no
//! for good (5xx) ends the message; one that says no for now (4xx) or cannot be reached is asked again; a connection that
//! ends without an answer is told apart, because the message may have been taken. A server that does not offer what the
//! settings ask for, TLS or a way to log in, counts as away: that ends no message.

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
        let ascii = [&message.from, &message.reply_to, &message.to]
            .iter()
            .all(|address| address.is_ascii());
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
                None if error.is_client() => Err(self.not_handed_over(ascii).await),
                None => Err(SendError::Unknown(
                    "the connection to the mail server broke".to_owned(),
                )),
            },
        }
    }

    /// Why a message was held back before it was handed over. Of the message only the letters of its addresses can be the
    /// cause, and only over a connection that stands.
    async fn not_handed_over(&self, ascii: bool) -> SendError {
        if !ascii && matches!(self.transport.test_connection().await, Ok(true)) {
            return SendError::Rejected("the mail server takes no such address");
        }
        SendError::Away("the mail server does not offer what the settings ask for".to_owned())
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use waybill_runtime::config::Secret;

    use super::*;
    use crate::domain::message::Rendered;

    /// A server that offers neither TLS nor a way to log in, and takes no address but those of ASCII.
    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(session(stream));
            }
        });
        port
    }

    async fn session(stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 localhost\r\n").await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let answer: &[u8] = if line.starts_with("EHLO") {
                b"250-localhost\r\n250 8BITMIME\r\n"
            } else {
                b"250 2.0.0 done\r\n"
            };
            stream.write_all(answer).await?;
            line.clear();
        }
        Ok(())
    }

    async fn refused(config: &SmtpConfig, to: &str) -> SendError {
        let message = Outgoing {
            message_id: "m1@shop.example".to_owned(),
            from_name: "Harbour & Hearth".to_owned(),
            from: "orders@shop.example".to_owned(),
            reply_to: "help@shop.example".to_owned(),
            to: to.to_owned(),
            content: Rendered {
                subject: "Shipped".to_owned(),
                text: "Grüße".to_owned(),
                html: "<p>Grüße</p>".to_owned(),
            },
        };
        let smtp = Smtp::new(config).expect("settings that can be used");
        smtp.deliver(message).await.expect_err("it is not taken")
    }

    #[tokio::test]
    async fn what_the_server_does_not_offer_is_no_fault_of_the_message() {
        let plain = SmtpConfig {
            host: "127.0.0.1".to_owned(),
            port: server().await,
            security: Security::None,
            ..SmtpConfig::default()
        };
        let starttls = SmtpConfig {
            security: Security::Starttls,
            ..plain.clone()
        };
        let password = SmtpConfig {
            user: "shop".to_owned(),
            password: Secret::from_value("secret"),
            ..plain.clone()
        };
        let other_letters = "jörg@example.com";
        for config in [&starttls, &password] {
            for to in ["ada@example.com", other_letters] {
                let error = refused(config, to).await;
                assert!(matches!(error, SendError::Away(_)), "{error}");
            }
        }
        let error = refused(&plain, other_letters).await;
        assert!(matches!(error, SendError::Rejected(_)), "{error}");
    }
}
