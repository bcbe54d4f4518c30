//! One SMTP session (RFC 5321): strict about order and limits, open to every address. It offers neither TLS nor
//! passwords, since it only ever listens on loopback.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{Fault, Mail, Shared};

/// RFC 5321 asks for 512; extensions may add to it.
const MAX_LINE: usize = 2048;
const MAX_MESSAGE: usize = 10 * 1024 * 1024;
const MAX_RECIPIENTS: usize = 100;
const MAX_ERRORS: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

const BAD_ORDER: (u16, &str) = (503, "5.5.1 bad sequence of commands");

/// What the sender has said so far of one message.
#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

enum Next {
    Reply(u16, String),
    Data,
    Quit,
}

pub(super) async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut envelope = Envelope::default();
    let (mut greeted, mut errors) = (false, 0);
    say(&mut stream, 220, "localhost waybill mail sink").await?;
    loop {
        let Some(line) = read_line(&mut stream).await? else {
            return Ok(());
        };
        let Ok(line) = line else {
            return say(&mut stream, 500, "5.5.2 line too long or not text").await;
        };
        match command(&line, &mut greeted, &mut envelope, shared) {
            Next::Quit => return say(&mut stream, 221, "2.0.0 bye").await,
            Next::Data => {
                say(&mut stream, 354, "end with a line of one dot").await?;
                let Some(raw) = read_message(&mut stream).await? else {
                    return Ok(());
                };
                let Some((code, text)) = take(raw, std::mem::take(&mut envelope), shared) else {
                    return Ok(());
                };
                say(&mut stream, code, &text).await?;
            }
            Next::Reply(code, text) => {
                errors += u32::from(code >= 500);
                if errors > MAX_ERRORS {
                    return say(&mut stream, 421, "4.7.0 too many errors").await;
                }
                say(&mut stream, code, &text).await?;
            }
        }
    }
}

fn command(line: &str, greeted: &mut bool, envelope: &mut Envelope, shared: &Shared) -> Next {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let reply = |(code, text): (u16, &str)| Next::Reply(code, text.to_owned());
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => {
            (*greeted, *envelope) = (true, Envelope::default());
            Next::Reply(
                250,
                format!("localhost\nPIPELINING\n8BITMIME\nSMTPUTF8\nENHANCEDSTATUSCODES\nSIZE {MAX_MESSAGE}"),
            )
        }
        "HELO" => {
            (*greeted, *envelope) = (true, Envelope::default());
            reply((250, "localhost"))
        }
        "MAIL" if *greeted && envelope.from.is_none() => match path(rest, "FROM:") {
            Some(from) => {
                envelope.from = Some(from);
                reply((250, "2.1.0 sender taken"))
            }
            None => reply((501, "5.5.4 expected MAIL FROM:<address>")),
        },
        "RCPT" if envelope.from.is_some() => match path(rest, "TO:") {
            Some(to) if !to.is_empty() => recipient(to, envelope, shared),
            _ => reply((501, "5.5.4 expected RCPT TO:<address>")),
        },
        "DATA" if !envelope.to.is_empty() => Next::Data,
        "MAIL" | "RCPT" | "DATA" => reply(BAD_ORDER),
        "RSET" => {
            *envelope = Envelope::default();
            reply((250, "2.0.0 forgotten"))
        }
        "NOOP" => reply((250, "2.0.0 nothing done")),
        "VRFY" => reply((252, "2.1.5 send and see")),
        "QUIT" => Next::Quit,
        _ => reply((502, "5.5.1 command not known here")),
    }
}

fn recipient(to: String, envelope: &mut Envelope, shared: &Shared) -> Next {
    let fault = shared.take_fault(
        |fault| matches!(fault, Fault::RejectRecipient { address, .. } if address.eq_ignore_ascii_case(&to)),
    );
    if let Some(Fault::RejectRecipient { code, .. }) = fault {
        return Next::Reply(code, format!("{}.1.1 recipient refused on purpose", code / 100));
    }
    if envelope.to.len() >= MAX_RECIPIENTS {
        return Next::Reply(452, "4.5.3 too many recipients".to_owned());
    }
    envelope.to.push(to);
    Next::Reply(250, "2.1.5 recipient taken".to_owned())
}

/// The reply to a whole message; none means to close the connection without one.
fn take(raw: Result<Vec<u8>, ()>, envelope: Envelope, shared: &Shared) -> Option<(u16, String)> {
    let Ok(raw) = raw else {
        return Some((552, format!("5.3.4 message longer than {MAX_MESSAGE} bytes")));
    };
    let fault =
        shared.take_fault(|fault| matches!(fault, Fault::RejectMessage { .. } | Fault::DropAfterData { .. }));
    match fault {
        Some(Fault::RejectMessage { code }) => {
            return Some((code, format!("{}.6.0 message refused on purpose", code / 100)));
        }
        Some(Fault::DropAfterData { kept: false }) => return None,
        _ => {}
    }
    let reply = match Mail::parse(envelope.from.unwrap_or_default(), envelope.to, raw) {
        Err(why) => (
            554,
            format!("5.6.0 cannot be parsed: {}", why.replace(['\r', '\n'], " ")),
        ),
        Ok(mail) => {
            if shared.keep(mail) {
                (250, "2.0.0 kept".to_owned())
            } else {
                (452, "4.3.1 the sink is full".to_owned())
            }
        }
    };
    (!matches!(fault, Some(Fault::DropAfterData { .. }))).then_some(reply)
}

/// Reads `FROM:<address> PARAMETER…`.
fn path(rest: &str, keyword: &str) -> Option<String> {
    let (head, rest) = rest.trim_start().split_at_checked(keyword.len())?;
    let (address, parameters) = rest.trim_start().strip_prefix('<')?.split_once('>')?;
    let well_formed = head.eq_ignore_ascii_case(keyword)
        && (parameters.is_empty() || parameters.starts_with(' '))
        && !address.contains(|c: char| c.is_control() || c.is_whitespace() || c == '<');
    well_formed.then(|| address.to_owned())
}

/// One line without its end. None: the sender is gone. Err: the line is too long or not UTF-8.
async fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Result<String, ()>>> {
    let Some(bytes) = raw_line(stream, MAX_LINE).await? else {
        return Ok(None);
    };
    let Ok(mut bytes) = bytes else {
        return Ok(Some(Err(())));
    };
    while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        bytes.pop();
    }
    Ok(Some(String::from_utf8(bytes).map_err(drop)))
}

/// One line with its end, at most `limit` bytes. None: the sender is gone. Err: longer.
async fn raw_line(
    stream: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Option<Result<Vec<u8>, ()>>> {
    let mut line = Vec::new();
    let mut limited = stream.take(limit as u64);
    let reading = limited.read_until(b'\n', &mut line);
    tokio::time::timeout(PATIENCE, reading)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(match line.last() {
        Some(b'\n') => Some(Ok(line)),
        Some(_) if line.len() >= limit => Some(Err(())),
        _ => None,
    })
}

/// The text up to the line of one dot. None: the sender is gone. Err: it was too long; it is read to its end all the
/// same, since only then can it be refused.
async fn read_message(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Result<Vec<u8>, ()>>> {
    let mut text = Vec::new();
    let mut fits = true;
    loop {
        let Some(line) = raw_line(stream, MAX_MESSAGE).await? else {
            return Ok(None);
        };
        let Ok(line) = line else {
            fits = false;
            continue;
        };
        if line == b".\r\n" || line == b".\n" {
            return Ok(Some(if fits { Ok(text) } else { Err(()) }));
        }
        let line = line.strip_prefix(b".").unwrap_or(&line);
        if text.len() + line.len() > MAX_MESSAGE {
            (fits, text) = (false, Vec::new());
        }
        if fits {
            text.extend_from_slice(line);
        }
    }
}

/// A reply; each line break in `text` makes it one line longer.
async fn say(stream: &mut BufReader<TcpStream>, code: u16, text: &str) -> io::Result<()> {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let mark = if number + 1 < lines.len() { '-' } else { ' ' };
        out.push_str(&format!("{code}{mark}{line}\r\n"));
    }
    tokio::time::timeout(PATIENCE, stream.write_all(out.as_bytes()))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn paths_are_read_strictly() {
        assert_eq!(
            path("FROM:<a@b.example>", "FROM:").as_deref(),
            Some("a@b.example")
        );
        assert_eq!(
            path("from: <a@b.example> SIZE=10", "FROM:").as_deref(),
            Some("a@b.example")
        );
        assert_eq!(path("FROM:<>", "FROM:").as_deref(), Some(""));
        for bad in [
            "FROM:a@b.example",
            "TO:<a@b.example>",
            "FROM:<a@b",
            "FROM:<a b@c>",
            "FROM:<a@b>x",
            "",
            "ö",
        ] {
            assert_eq!(path(bad, "FROM:"), None, "{bad}");
        }
    }
}
