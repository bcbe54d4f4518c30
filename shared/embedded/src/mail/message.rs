//! One mail as it was taken: its envelope, and its text parsed.

use mailparse::{MailHeaderMap as _, ParsedMail};

/// A mail that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The envelope's sender; empty for a bounce.
    pub from: String,
    /// The envelope's recipients: those that really get it.
    pub to: Vec<String>,
    /// The subject, decoded.
    pub subject: String,
    /// The Message-ID, with its angle brackets.
    pub message_id: String,
    /// The plain text part, decoded; empty when there is none.
    pub text: String,
    /// The HTML part, decoded; empty when there is none.
    pub html: String,
    /// All headers, decoded, in order.
    pub headers: Vec<(String, String)>,
    /// The message as it came over the wire, without the dots of the protocol.
    pub raw: Vec<u8>,
}

impl Mail {
    /// The first header of this name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The error is one line for the sender.
    pub(super) fn parse(from: String, to: Vec<String>, raw: Vec<u8>) -> Result<Self, String> {
        let parsed = mailparse::parse_mail(&raw).map_err(|e| e.to_string())?;
        let header = |name| parsed.headers.get_first_value(name).unwrap_or_default();
        let (subject, message_id) = (header("Subject"), header("Message-ID"));
        let headers = parsed
            .headers
            .iter()
            .map(|h| (h.get_key(), h.get_value()))
            .collect();
        let text = body(&parsed, "text/plain")?;
        let html = body(&parsed, "text/html")?;
        Ok(Self {
            from,
            to,
            subject,
            message_id,
            text,
            html,
            headers,
            raw,
        })
    }
}

/// The first part of this type that is not an attachment.
fn body(mail: &ParsedMail<'_>, mime: &str) -> Result<String, String> {
    let part = mail.parts().find(|part| {
        part.ctype.mimetype == mime
            && part.get_content_disposition().disposition != mailparse::DispositionType::Attachment
    });
    part.map_or_else(
        || Ok(String::new()),
        |part| part.get_body().map_err(|e| e.to_string()),
    )
}
