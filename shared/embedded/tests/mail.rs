//! The mail sink, spoken to by a real client and by hand.

use std::time::Duration;

use lettre::message::MultiPart;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use waybill_embedded::{Error, Fault, MailSink};

type Client = AsyncSmtpTransport<Tokio1Executor>;

fn client(sink: &MailSink) -> Client {
    Client::builder_dangerous(sink.smtp_addr().ip().to_string())
        .port(sink.smtp_addr().port())
        .build()
}

fn letter(subject: &str) -> anyhow::Result<Message> {
    Ok(Message::builder()
        .from("Shop <shop@example.com>".parse()?)
        .to("Zoë <zoe@example.com>".parse()?)
        .subject(subject)
        .message_id(Some(format!("<{}@example.com>", subject.len())))
        .multipart(MultiPart::alternative_plain_html(
            ".starts with a dot\nGrüße".to_owned(),
            "<p>Grüße</p>".to_owned(),
        ))?)
}

/// Speaks the protocol by hand: sends each line and returns the code of each answer.
async fn talk(sink: &MailSink, lines: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut stream = BufReader::new(TcpStream::connect(sink.smtp_addr()).await?);
    let mut codes = vec![answer(&mut stream).await?];
    for line in lines {
        stream.write_all(line.as_bytes()).await?;
        stream.write_all(b"\r\n").await?;
        codes.push(answer(&mut stream).await?);
    }
    Ok(codes)
}

/// The code of one answer, which may have several lines; empty when the connection ended.
async fn answer(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.get(3..4) != Some("-") {
            return Ok(line.get(..3).unwrap_or_default().to_owned());
        }
    }
}

#[tokio::test]
async fn a_mail_arrives_as_it_was_sent() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    client(&sink).send(letter("Ihre Bestellung: größer")?).await?;
    let mails = sink.messages();
    let [mail] = mails.as_slice() else {
        anyhow::bail!("{} mails", mails.len())
    };
    assert_eq!(mail.from, "shop@example.com");
    assert_eq!(mail.to, ["zoe@example.com"]);
    assert_eq!(mail.subject, "Ihre Bestellung: größer");
    assert_eq!(mail.message_id, "<25@example.com>");
    assert_eq!(
        mail.text.trim_end().replace("\r\n", "\n"),
        ".starts with a dot\nGrüße"
    );
    assert_eq!(mail.html.trim_end(), "<p>Grüße</p>");
    assert_eq!(mail.header("to"), Some("Zoë <zoe@example.com>"));
    sink.clear();
    assert!(sink.messages().is_empty());
    Ok(())
}

#[tokio::test]
async fn waiting_sees_what_comes_later_and_says_what_did_not_come() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let client = client(&sink);
    let find = |subject: &'static str| {
        move |mails: &[waybill_embedded::Mail]| mails.iter().find(|mail| mail.subject == subject).cloned()
    };
    let (found, sent) = tokio::join!(
        sink.wait("mail two", Duration::from_secs(10), find("two")),
        async {
            client.send(letter("one")?).await?;
            client.send(letter("two")?).await?;
            anyhow::Ok(())
        }
    );
    sent?;
    assert_eq!(found?.subject, "two");
    let missing = sink
        .wait("mail three", Duration::from_millis(50), find("three"))
        .await;
    assert!(
        matches!(&missing, Err(Error::NoMail { what, seen: 2, .. }) if what == "mail three"),
        "{missing:?}"
    );
    Ok(())
}

#[tokio::test]
async fn faults_happen_once_and_as_asked() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let client = client(&sink);
    sink.inject(Fault::RejectRecipient {
        address: "ZOE@example.com".to_owned(),
        code: 550,
    });
    let refused = client
        .send(letter("refused")?)
        .await
        .expect_err("the recipient was taken");
    assert!(refused.is_permanent(), "{refused}");

    sink.inject(Fault::RejectMessage { code: 451 });
    let deferred = client
        .send(letter("deferred")?)
        .await
        .expect_err("the message was taken");
    assert!(deferred.is_transient(), "{deferred}");

    sink.inject(Fault::DropAfterData { kept: false });
    client
        .send(letter("lost")?)
        .await
        .expect_err("a dropped connection looks like success");
    assert_eq!(sink.messages().len(), 0);

    sink.inject(Fault::DropAfterData { kept: true });
    client
        .send(letter("kept")?)
        .await
        .expect_err("a dropped connection looks like success");
    assert_eq!(sink.messages().len(), 1);

    assert!(sink.faults().is_empty());
    client.send(letter("at last")?).await?;
    let subjects: Vec<String> = sink.messages().into_iter().map(|mail| mail.subject).collect();
    assert_eq!(subjects, ["kept", "at last"]);
    Ok(())
}

#[tokio::test]
async fn the_protocol_is_kept_in_order() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let out_of_order = [
        "MAIL FROM:<a@b>",
        "EHLO me",
        "RCPT TO:<c@d>",
        "DATA",
        "MAIL FROM:<a@b>",
        "MAIL FROM:<a@b>",
    ];
    assert_eq!(
        talk(&sink, &out_of_order).await?,
        ["220", "503", "250", "503", "503", "250", "503"]
    );
    let mistakes = [
        "EHLO me",
        "MAIL FROM:a@b",
        "MAIL FROM:<a@b>",
        "RCPT TO:<>",
        "DATA",
        "NONSENSE",
        "QUIT",
    ];
    assert_eq!(
        talk(&sink, &mistakes).await?,
        ["220", "250", "501", "250", "501", "503", "502", "221"]
    );
    let reset = [
        "HELO me",
        "MAIL FROM:<>",
        "RCPT TO:<c@d>",
        "RSET",
        "DATA",
        "NOOP",
        "VRFY c@d",
    ];
    assert_eq!(
        talk(&sink, &reset).await?,
        ["220", "250", "250", "250", "250", "503", "250", "252"]
    );
    assert!(sink.messages().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_message_with_bare_dots_and_several_recipients_is_taken_whole() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let text = "Subject: plain\r\n\r\none\r\n..two\r\n\r\n.";
    let codes = talk(
        &sink,
        &[
            "EHLO me",
            "MAIL FROM:<>",
            "RCPT TO:<a@x>",
            "RCPT TO:<b@x>",
            "DATA",
            text,
            "QUIT",
        ],
    )
    .await?;
    assert_eq!(codes, ["220", "250", "250", "250", "250", "354", "250", "221"]);
    let mails = sink.messages();
    assert_eq!(mails[0].to, ["a@x", "b@x"]);
    assert_eq!(mails[0].from, "");
    assert_eq!(mails[0].text, "one\r\n.two\r\n\r\n");
    Ok(())
}

#[tokio::test]
async fn limits_hold() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let endless = "x".repeat(5000);
    assert_eq!(talk(&sink, &[&endless]).await?, ["220", "500"]);

    let many: Vec<String> = (0..101).map(|n| format!("RCPT TO:<{n}@x>")).collect();
    let mut lines = vec!["EHLO me", "MAIL FROM:<>"];
    lines.extend(many.iter().map(String::as_str));
    assert_eq!(talk(&sink, &lines).await?.last().map(String::as_str), Some("452"));

    let huge = format!(
        "Subject: huge\r\n\r\n{}.",
        "a line of text that fills the message\r\n".repeat(300_000)
    );
    let codes = talk(
        &sink,
        &["EHLO me", "MAIL FROM:<>", "RCPT TO:<a@x>", "DATA", &huge, "NOOP"],
    )
    .await?;
    assert_eq!(codes[5..], ["552", "250"]);

    let nonsense: Vec<&str> = std::iter::repeat_n("WHAT", 21).collect();
    let codes = talk(&sink, &nonsense).await?;
    assert_eq!(codes.last().map(String::as_str), Some("421"));
    assert!(sink.messages().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_sender_that_breaks_off_leaves_nothing() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let codes = talk(&sink, &["EHLO me", "MAIL FROM:<>", "RCPT TO:<a@x>", "DATA"]).await?;
    assert_eq!(codes.last().map(String::as_str), Some("354"));
    client(&sink).send(letter("after it")?).await?;
    assert_eq!(sink.messages().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_dropped_sink_is_gone() -> anyhow::Result<()> {
    let sink = MailSink::start().await?;
    let address = sink.smtp_addr();
    let mut session = BufReader::new(TcpStream::connect(address).await?);
    assert_eq!(answer(&mut session).await?, "220");
    drop(sink);
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), session.read_to_end(&mut rest)).await??;
    TcpStream::connect(address)
        .await
        .expect_err("somebody still listens");
    Ok(())
}
