//! Operator commands: one file a service (orders have four), each a thin walk from arguments over gRPC to a table or JSON.

pub mod analytics;
mod changes;
pub mod consumers;
pub mod customers;
pub mod drafts;
mod edit;
pub mod events;
pub mod find;
mod followers;
mod history;
pub mod import;
pub mod jobs;
pub mod letters;
pub mod log;
pub mod notifications;
pub mod orders;
pub mod payments;
mod rebuild;
pub mod refunds;
pub mod returns;
pub mod setup;
pub mod shipments;
pub mod trace;

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tonic::transport::Uri;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use waybill_kernel::id::EventId;

/// Takes mails and prints them until the process is asked to stop.
pub async fn mail_sink(listen: std::net::SocketAddr) -> anyhow::Result<()> {
    let sink = waybill_embedded::MailSink::start_on(listen).await?;
    crate::output::line(format!("taking mails on {}", sink.smtp_addr()));
    let mut printed = 0;
    let print = async {
        loop {
            // A day is as good as for ever: the wait only ends early when there is a mail.
            let day = Duration::from_secs(86_400);
            let fresh = sink.wait("a mail", day, |mails| {
                mails
                    .get(printed..)
                    .filter(|fresh| !fresh.is_empty())
                    .map(<[_]>::to_vec)
            });
            for mail in fresh.await.unwrap_or_default() {
                printed += 1;
                crate::output::line(
                    serde_json::json!({ "from": mail.from, "to": mail.to, "subject": mail.subject, "text": mail.text })
                        .to_string(),
                );
            }
        }
    };
    tokio::select! {
        () = print => Ok(()),
        () = waybill_runtime::process::shutdown_signal() => Ok(()),
    }
}

/// How long a service may take to tell its health.
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);

/// Asks a service for its health; an error unless it serves. An address with a path is that of a page: it is asked over HTTP.
pub async fn health(url: &str) -> anyhow::Result<()> {
    let page = url.parse::<Uri>().ok().filter(|uri| uri.path().len() > 1);
    if let Some(page) = page {
        return tokio::time::timeout(HEALTH_PATIENCE, page_is_there(&page))
            .await
            .with_context(|| format!("{url} did not answer within {} s", HEALTH_PATIENCE.as_secs()))?;
    }
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .map_err(|_| anyhow::anyhow!("{url:?} is not an address like http://127.0.0.1:7001"))?
        .timeout(HEALTH_PATIENCE)
        .connect()
        .await?;
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await?
        .into_inner();
    match answer.status() {
        ServingStatus::Serving => Ok(()),
        status => anyhow::bail!("{url} is {}", status.as_str_name()),
    }
}

/// Asks for a page over HTTP and reads the status alone; an error unless it is 200.
async fn page_is_there(page: &Uri) -> anyhow::Result<()> {
    let (Some("http"), Some(server)) = (page.scheme_str(), page.authority()) else {
        anyhow::bail!("{page} is not an address like http://127.0.0.1:8080/healthz");
    };
    let host = server.host().trim_matches(['[', ']']);
    let mut stream = TcpStream::connect((host, server.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("{server} cannot be reached"))?;
    let path = page.path();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = String::new();
    BufReader::new(stream.take(1024)).read_line(&mut status).await?;
    let status = status.trim_end();
    anyhow::ensure!(
        status.split(' ').nth(1) == Some("200"),
        "{page} answered {status:?}"
    );
    Ok(())
}

/// A fresh request id: operator commands are not repeated by themselves, so each call is a call of its own.
fn request_id() -> String {
    format!("cli-{}", EventId::generate())
}

/// Reads units written as SKU=QUANTITY.
fn sku_quantity(text: &str) -> anyhow::Result<(String, i32)> {
    let (sku, quantity) = text
        .rsplit_once('=')
        .ok_or_else(|| anyhow::anyhow!("--line {text:?}: write it as SKU=QUANTITY, e.g. MUG-STONE-BL=2"))?;
    let quantity = quantity
        .parse()
        .map_err(|_| anyhow::anyhow!("--line {text:?}: {quantity:?} is not a whole number of units"))?;
    Ok((sku.to_owned(), quantity))
}

/// Splits units of skus over the lines of an order, in the order of its lines.
fn lines_of(
    order: &waybill_proto::waybill::order::v1::Order,
    wanted: &[String],
) -> anyhow::Result<Vec<(String, i32)>> {
    if wanted.is_empty() {
        return Ok(order
            .lines
            .iter()
            .map(|line| (line.line_id.clone(), line.quantity))
            .collect());
    }
    let mut lines = Vec::new();
    for text in wanted {
        let (sku, mut left) = sku_quantity(text)?;
        for line in order.lines.iter().filter(|line| line.sku == sku) {
            let take = left.min(line.quantity);
            if take > 0 {
                lines.push((line.line_id.clone(), take));
                left -= take;
            }
        }
        if left > 0 {
            anyhow::bail!(
                "order {} has {left} units of {sku} less than --line {text} asks for",
                order.number
            );
        }
    }
    Ok(lines)
}

/// The key that a reference to an order stands for; empty when there is none. An id is taken as it is: a key need not be
/// an order of this store.
async fn key_of(session: &crate::session::Session, order: Option<&str>) -> anyhow::Result<String> {
    match order {
        None => Ok(String::new()),
        Some(id) if id.parse::<waybill_kernel::id::OrderId>().is_ok() => Ok(id.to_owned()),
        Some(number) => Ok(session.order(number).await?.order_id),
    }
}
