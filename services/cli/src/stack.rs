//! The whole stack in one process: private Postgres and NATS, a mail sink, a sandbox payment provider, all services.
//!
//! The services are wired as they are in separate processes: each has its own role and schema, its own connection to
//! NATS, its own listener, and calls the others over gRPC with a token. Only the addresses and the keys are made here.

mod services;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Connection as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_embedded::{DataDir, Embedded, MailSink};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time::{self, SystemClock};
use waybill_order::formats::shopify::Import;
use waybill_payments::Providers;
use waybill_payments::manual::ManualProvider;
use waybill_payments::sandbox::{Sandbox, SandboxOptions, WebhookEndpoint};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_rpc::auth::{Claims, Issuer};
use waybill_runtime::tasks::TaskGroup;
use waybill_runtime::telemetry::{self, LogFormat, TelemetryConfig};
use waybill_store::bootstrap::{Service, bootstrap};

use self::services::{Settings, Wiring, spawn_edge, spawn_services};
use crate::load::Field;
use crate::session::{Session, StackContext};
use crate::setup;

/// The services with a schema of their own, in the order of their ports.
pub const SERVICES: [&str; 5] = ["order", "fulfillment", "refund", "notification", "analytics"];

/// How long a service of the stack may take to serve its first call.
const START: Duration = Duration::from_secs(30);

/// The tokens of a stack on one machine live as long as a person may leave it running.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How the stack runs.
#[derive(Clone, Default)]
pub struct Options {
    /// Follow-ups are sent at once and not days after delivery.
    pub demo: bool,
    /// Keep data in this folder; without it they go with the stack.
    pub data: Option<PathBuf>,
    /// The first of the ports; free ones when not given.
    pub port: Option<u16>,
    /// The file that this process writes its spans to.
    pub spans: Option<PathBuf>,
    /// What the services call "now"; the system's clock when not given.
    pub clock: Option<time::Shared>,
}

/// A running stack.
pub struct Stack {
    context: StackContext,
    embedded: Embedded,
    mails: MailSink,
    payments: Sandbox,
    issuer: Issuer,
    secrets: WebhookSecrets,
    tasks: TaskGroup,
}

/// The secrets that deliveries to this stack's webhooks are signed with.
#[derive(Debug)]
pub struct WebhookSecrets {
    /// Of tracking updates from AfterShip.
    pub aftership: SecretString,
    /// Of refund updates from Stripe, here from the sandbox.
    pub stripe: SecretString,
}

impl Field for Stack {
    fn session(&self) -> anyhow::Result<Session> {
        Stack::session(self)
    }

    fn payments(&self) -> &Sandbox {
        &self.payments
    }
}

impl Stack {
    /// Starts everything and waits until every service serves.
    pub fn start(options: Options) -> BoxFuture<'static, anyhow::Result<Self>> {
        // Five services are wired in it: boxed, it swells no caller's future and is compiled once.
        Box::pin(Self::start_all(options))
    }

    async fn start_all(options: Options) -> anyhow::Result<Self> {
        let data = options.data.clone().map_or(DataDir::Temp, DataDir::Kept);
        let infrastructure = waybill_embedded::Options {
            data,
            durable: true,
            ..waybill_embedded::Options::from_environment()
        };
        let (embedded, mails, payments) = tokio::try_join!(
            async {
                Embedded::start(infrastructure)
                    .await
                    .context("Postgres and NATS could not be started")
            },
            async {
                MailSink::start()
                    .await
                    .context("the mail sink could not be started")
            },
            async {
                let sandbox = Sandbox::start(SandboxOptions::default()).await;
                sandbox.context("the sandbox payment provider could not be started")
            },
        )?;
        let passwords = prepare_database(&embedded, SERVICES).await?;
        let (listeners, edge) = bind(options.port).await?;
        let issuer = Issuer::generate();
        let (merchant, store) = tenant(options.data.as_deref())?;
        let peers: BTreeMap<String, String> = listeners
            .iter()
            .map(|(name, listener)| Ok((name.clone(), url(listener)?)))
            .collect::<anyhow::Result<_>>()?;
        let wiring = Wiring {
            embedded: &embedded,
            passwords: &passwords,
            peers: &peers,
            issuer: &issuer,
        };

        let tasks = TaskGroup::new(&CancellationToken::new());
        let clock = options.clock.clone().unwrap_or_else(SystemClock::shared);
        // The adapter for Stripe under its own name, pointed at the sandbox: what runs here is what runs in production.
        let stripe = StripeConfig {
            name: "stripe".to_owned(),
            ..payments.config()
        };
        let providers = Providers::new()
            .with(StripeProvider::new(stripe)?)
            .with(ManualProvider);
        let settings = Settings {
            wiring: &wiring,
            clock,
            providers,
            smtp: mails.smtp_addr(),
            demo: options.demo,
        };
        Box::pin(spawn_services(&settings, listeners, &tasks)).await?;
        let edge_url = url(&edge)?;
        let secrets = WebhookSecrets {
            aftership: setup::password(),
            stripe: setup::password(),
        };
        spawn_edge(&settings, edge, (merchant, store), &secrets, &tasks)?;
        let deliveries = format!("{edge_url}/webhooks/stripe/{merchant}/{store}");
        payments.set_webhook(WebhookEndpoint::new(&deliveries, secrets.stripe.clone())?);

        let operator = Claims {
            sub: "operator".to_owned(),
            merchant: merchant.to_string(),
            stores: vec!["*".to_owned()],
            scopes: Claims::system("operator").scopes,
        };
        let system = Claims {
            sub: operator.sub.clone(),
            scopes: ["events:read", "events:admin", "jobs:read", "jobs:admin"]
                .map(str::to_owned)
                .to_vec(),
            ..Claims::system("operator")
        };
        let context = StackContext {
            token: issuer.mint(&operator, TOKEN_LIFE).expose_secret().to_owned(),
            system_token: Some(issuer.mint(&system, TOKEN_LIFE).expose_secret().to_owned()),
            endpoints: peers,
            edge: edge_url,
            merchant_id: merchant.to_string(),
            store_id: store.to_string(),
            spans: options.spans.clone(),
        };
        let stack = Self {
            context,
            embedded,
            mails,
            payments,
            issuer,
            secrets,
            tasks,
        };
        stack.ready().await?;
        Ok(stack)
    }

    /// Waits until every service says that it serves.
    async fn ready(&self) -> anyhow::Result<()> {
        use tonic_health::pb::HealthCheckRequest;
        use tonic_health::pb::health_check_response::ServingStatus;
        use tonic_health::pb::health_client::HealthClient;
        for (name, url) in &self.context.endpoints {
            let channel = tonic::transport::Endpoint::from_shared(url.clone())?.connect_lazy();
            let serving = async {
                let mut client = HealthClient::new(channel);
                loop {
                    let answer = client.check(HealthCheckRequest::default()).await;
                    if answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                () = serving => {}
                () = self.tasks.stopping() => bail!("a service ended while the stack was starting; the log says why"),
                () = tokio::time::sleep(START) => bail!("{name} did not serve within {} s", START.as_secs()),
            }
        }
        Ok(())
    }

    /// Clients for the operator of this stack.
    pub fn session(&self) -> anyhow::Result<Session> {
        Session::connect(&self.context)
    }

    /// What a caller has to know of this stack.
    #[must_use]
    pub fn context(&self) -> &StackContext {
        &self.context
    }

    /// What was mailed.
    #[must_use]
    pub fn mails(&self) -> &MailSink {
        &self.mails
    }

    /// The payment provider.
    #[must_use]
    pub fn payments(&self) -> &Sandbox {
        &self.payments
    }

    /// Postgres and NATS.
    #[must_use]
    pub fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    /// Mints tokens that this stack accepts.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The secrets of this stack's webhooks.
    #[must_use]
    pub fn webhook_secrets(&self) -> &WebhookSecrets {
        &self.secrets
    }

    /// The file that spans are written to, where there is one.
    #[must_use]
    pub fn spans(&self) -> Option<&Path> {
        self.context.spans.as_deref()
    }

    /// Tells the payment provider of the payments that customers made there before the orders were imported.
    pub fn register_payments(&self, import: &Import) -> anyhow::Result<()> {
        for imported in &import.orders {
            let Some(payment) = imported
                .payment
                .as_ref()
                .filter(|payment| payment.provider == "stripe")
            else {
                continue;
            };
            let Some(total) = imported
                .order
                .totals
                .as_ref()
                .and_then(|totals| totals.total.as_ref())
            else {
                continue;
            };
            let captured = Money::new(Currency::parse(&total.currency_code)?, total.minor_units);
            self.payments
                .register_payment(&payment.provider_payment_id, captured)?;
        }
        Ok(())
    }

    /// Where everything listens, for people.
    #[must_use]
    pub fn addresses(&self) -> String {
        let mut lines: Vec<String> = self
            .context
            .endpoints
            .iter()
            .map(|(name, url)| format!("  {name:<13} {url}"))
            .collect();
        lines.push(format!("  {:<13} {}", "edge (HTTP)", self.context.edge));
        lines.push(format!("  {:<13} {}", "mail sink", self.mails.smtp_addr()));
        lines.push(format!("  {:<13} {}", "payments", self.payments.url()));
        if let Some(spans) = self.spans() {
            lines.push(format!("  {:<13} {}", "spans", spans.display()));
        }
        lines.join("\n")
    }

    /// Waits until the process is asked to stop, or a service ends.
    pub async fn wait(&self) {
        tokio::select! {
            () = waybill_runtime::process::shutdown_signal() => {}
            () = self.tasks.stopping() => {}
        }
    }

    /// Stops the services, then what they stand on.
    pub async fn stop(self) -> anyhow::Result<()> {
        let ended = self.tasks.shutdown(Duration::from_secs(10)).await;
        self.payments.stop().await;
        self.embedded
            .stop()
            .await
            .context("Postgres and NATS could not be stopped")?;
        ended.context("a service did not end well")
    }
}

/// Makes the database with a role and a schema for each service, with fresh passwords.
pub(crate) async fn prepare_database(
    embedded: &Embedded,
    services: impl IntoIterator<Item = &str>,
) -> anyhow::Result<BTreeMap<String, SecretString>> {
    let passwords: BTreeMap<String, SecretString> = services
        .into_iter()
        .map(|name| (name.to_owned(), setup::password()))
        .collect();
    let services: Vec<Service> = passwords
        .iter()
        .map(|(name, password)| Service {
            name: name.clone(),
            password: password.clone(),
        })
        .collect();
    let admin_url = embedded.postgres().admin_url();
    let mut admin = setup::connect_admin(admin_url, "postgres").await?;
    setup::ensure_database(&mut admin, setup::DATABASE).await?;
    admin.close().await?;
    let mut admin = setup::connect_admin(admin_url, setup::DATABASE).await?;
    bootstrap(&mut admin, &services)
        .await
        .context("the database could not be prepared")?;
    admin.close().await?;
    Ok(passwords)
}

/// Binds a loopback port for each service, and one for the edge, before any of them starts, so that each can be told where the others are.
async fn bind(first: Option<u16>) -> anyhow::Result<(BTreeMap<String, TcpListener>, TcpListener)> {
    let mut listeners = BTreeMap::new();
    for (place, name) in (0..).zip(SERVICES.into_iter().chain(["edge"])) {
        let port = match first {
            Some(first) => first
                .checked_add(place)
                .with_context(|| format!("port {first} leaves no room"))?,
            None => 0,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("port {port} for {name} is taken; choose another with --port"))?;
        listeners.insert(name.to_owned(), listener);
    }
    let edge = listeners.remove("edge").context("the edge has no listener")?;
    Ok((listeners, edge))
}

fn url(listener: &TcpListener) -> anyhow::Result<String> {
    Ok(format!("http://{}", listener.local_addr()?))
}

/// The merchant and the store of this machine: new ones, or those that its data folder remembers.
pub(crate) fn tenant(data: Option<&Path>) -> anyhow::Result<(MerchantId, StoreId)> {
    let Some(data) = data else {
        return Ok((MerchantId::generate(), StoreId::generate()));
    };
    let file = data.join("tenant.json");
    if let Ok(text) = std::fs::read_to_string(&file) {
        return serde_json::from_str(&text).with_context(|| format!("{} cannot be read", file.display()));
    }
    let tenant = (MerchantId::generate(), StoreId::generate());
    crate::files::write_private(&file, &serde_json::to_vec(&tenant)?)?;
    Ok(tenant)
}

/// Sets up telemetry for a process that runs the whole stack: spans into a file named after the command, replaced by each
/// run, so that a trace can be looked at afterwards; logs only when something is wrong.
pub fn telemetry(command: &str) -> anyhow::Result<Telemetry> {
    let folder = StackContext::folder();
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let spans = folder.join(format!("{command}-spans.jsonl"));
    match std::fs::remove_file(&spans) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", spans.display()));
        }
        _ => {}
    }
    let config = TelemetryConfig {
        logs: LogFormat::Pretty,
        log_filter: std::env::var("WAYBILL_LOG").unwrap_or_else(|_| "error".to_owned()),
        span_file: Some(spans.clone()),
        otlp_endpoint: std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok(),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config, "waybill").context("telemetry could not be set up")?;
    Ok(Telemetry { spans, _guard: guard })
}

/// Telemetry of this process; sends what is left when dropped.
pub struct Telemetry {
    /// The file that spans are written to.
    pub spans: PathBuf,
    _guard: telemetry::Guard,
}
