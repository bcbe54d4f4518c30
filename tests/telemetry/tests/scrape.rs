//! What Prometheus finds in a running stack is what the alert rules ask for and what deploy/prometheus/README.md tells of,
//! name for name and label for label; and there is nothing that it does not tell of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waybill_e2e::orders::{line, money, order};
use waybill_e2e::shop::Shop;
use waybill_e2e::{patient, wait};
use waybill_proto::waybill::jobs::v1::HoldJobsRequest;
use waybill_proto::waybill::notification::v1::NotificationState;
use waybill_runtime::telemetry::{LogFormat, TelemetryConfig, init};
use waybill_telemetry_tests::scrape::{Asked, Documented, Page, asked, documented, instruments};

fn file(path: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
}

/// All source files of the shared crates, where the instruments are made.
fn sources() -> anyhow::Result<Vec<String>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
                walk(&path, found)?;
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    for folder in ["shared", "services"] {
        walk(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder),
            &mut files,
        )?;
    }
    Ok(files
        .iter()
        .map(std::fs::read_to_string)
        .collect::<Result<_, _>>()?)
}

async fn scrape(address: SocketAddr) -> anyhow::Result<Page> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(Page::of(&answer))
}

/// What a page lacks of what is documented and of what the alerts ask for.
fn missing(page: &Page, documented: &BTreeMap<String, Documented>, asked: &[Asked]) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    for (name, told) in documented.iter().filter(|(_, told)| !told.when_it_happens) {
        match page.kind(name) {
            Some(kind) if kind == told.kind => {}
            found => {
                missing.insert(format!("{name}, a {}: found {found:?}", told.kind));
                continue;
            }
        }
        let labels = told.labels.iter().filter(|label| !page.has(name, label, None));
        missing.extend(labels.map(|label| format!("{name} with the label {label}")));
    }
    for Asked {
        alert,
        metric,
        labels,
    } in asked
    {
        let labels = labels
            .iter()
            .filter(|(label, value)| !page.has(metric, label, value.as_deref()));
        missing.extend(labels.map(|(label, value)| format!("{metric} with {label} {value:?}, for {alert}")));
    }
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_holds_what_is_documented_and_what_alerts_ask_for() -> anyhow::Result<()> {
    let documented = documented(&file("deploy/prometheus/README.md")?);
    let asked = asked(&file("deploy/prometheus/alerts.yml")?);
    ensure!(
        documented.len() >= 14,
        "only {} metrics are documented",
        documented.len()
    );
    ensure!(asked.len() >= 7, "only {} alerts were understood", asked.len());

    // Before the stack: what makes a metric asks once where to.
    let config = TelemetryConfig {
        logs: LogFormat::Off,
        metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..TelemetryConfig::default()
    };
    let guard = init(&config, "waybill")?;
    let address = guard.metrics_addr().context("it listens")?;
    let shop = Shop::open().await?;
    shop.stock([("MUG", 20)]).await?;
    let mut first = None;
    for number in 1..=4 {
        let name = format!("X{number}");
        let placed = shop
            .place(order(&name, "GBP", vec![line("MUG", 2, money("GBP", 995))]))
            .await?;
        first.get_or_insert(placed);
    }

    // A kind of jobs is told of once there is one that is not done, and these are done at once: so one is kept waiting.
    // Not before one was done: a hold stops what is scheduled, too, and no attempt would be counted.
    let first = first.context("four orders")?.order_id;
    wait::until("a mail for the first order has gone", || async {
        let mails = shop.notifications(&first).await?;
        let gone = mails.iter().any(|mail| mail.state() == NotificationState::Sent);
        Ok(gone.then_some(()))
    })
    .await?;
    let hold = HoldJobsRequest {
        request_id: "hold-mails".to_owned(),
        kinds: vec!["notification.send".to_owned()],
        reason: "a job has to wait".to_owned(),
    };
    let jobs = shop.session.jobs("notification")?;
    patient!("the mails could not be held", jobs.hold_jobs(hold)).await?;
    shop.place(order("X5", "GBP", vec![line("MUG", 2, money("GBP", 995))]))
        .await?;

    // Gauges are taken every 15 seconds.
    let complete = wait::until("everything that is documented", || async {
        let page = scrape(address).await?;
        Ok(missing(&page, &documented, &asked).is_empty().then_some(page))
    });
    let Ok(page) = complete.await else {
        let page = scrape(address).await?;
        anyhow::bail!("not in the scrape: {:#?}", missing(&page, &documented, &asked));
    };
    for name in page.names() {
        ensure!(
            documented.contains_key(name),
            "{name} is not told of in deploy/prometheus/README.md"
        );
        ensure!(
            page.every_series_has(name, "waybill_service"),
            "a series of {name} does not say which service it is of"
        );
    }
    shop.close().await
}

/// Those that appear only when something goes wrong are told of under the names of their instruments, too.
#[test]
fn every_instrument_is_documented_and_nothing_else() -> anyhow::Result<()> {
    let documented: BTreeSet<String> = documented(&file("deploy/prometheus/README.md")?)
        .into_keys()
        .collect();
    let made: BTreeSet<String> = sources()?.iter().flat_map(|source| instruments(source)).collect();
    ensure!(made.len() >= 14, "only {made:?} were found");
    let untold: Vec<_> = made.difference(&documented).collect();
    let unmade: Vec<_> = documented.difference(&made).collect();
    ensure!(
        untold.is_empty() && unmade.is_empty(),
        "not told of: {untold:?}; told of, not there: {unmade:?}"
    );
    Ok(())
}
