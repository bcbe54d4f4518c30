//! Everything a run stands on: databases, broker, mail sink, payment provider, one process a replica, a proxy on each
//! wire.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use waybill_embedded::{DataDir, Embedded, MailSink, Wire, free_port};
use waybill_payments::sandbox::{Sandbox, SandboxOptions};
use waybill_rpc::auth::{Claims, Issuer};
use waybill_store::bootstrap::role_of;

use super::process::{Launch, Process};
use crate::files::write_private;
use crate::load::Field;
use crate::session::{Session, StackContext};
use crate::setup;
use crate::stack::{SERVICES, TOKEN_LIFE, prepare_database, tenant};

/// How many processes each service has. Two share the work wherever a lease decides who does it.
const REPLICAS: [(&str, usize); 5] = [
    ("order", 2),
    ("fulfillment", 2),
    ("refund", 2),
    ("notification", 2),
    ("analytics", 1),
];

/// How long the processes may take to serve: all start at once, and migrate.
const START: Duration = Duration::from_secs(90);

/// How often a process may end by itself before it serves.
const TRIES: u64 = 5;

/// What is at the far end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Far {
    /// The database.
    Postgres,
    /// The broker.
    Nats,
    /// The mail server.
    Mail,
    /// The payment provider.
    Provider,
    /// A service, seen by its callers.
    Service,
}

/// A wire with a proxy of ours in it.
#[derive(Debug)]
pub struct Line {
    /// From whom to whom.
    pub name: String,
    /// What is at its far end.
    pub far: Far,
    /// The proxy.
    pub wire: Wire,
}

/// A running world.
pub struct World {
    /// Data, settings and logs of the run.
    pub folder: PathBuf,
    /// Postgres and NATS.
    pub embedded: Embedded,
    /// One at a time may take Postgres down.
    pub postgres: Arc<Mutex<()>>,
    /// One at a time may take NATS down.
    pub nats: Arc<Mutex<()>>,
    /// What was mailed.
    pub mails: MailSink,
    /// The payment provider.
    pub payments: Sandbox,
    /// Service processes.
    pub processes: Vec<Process>,
    /// All wires.
    pub lines: Vec<Line>,
    /// Clients of all services, over the wires.
    pub session: Session,
}

impl Field for World {
    fn session(&self) -> anyhow::Result<Session> {
        Ok(self.session.clone())
    }

    fn payments(&self) -> &Sandbox {
        &self.payments
    }
}

impl World {
    /// Starts everything and waits until every process serves.
    /// `program` knows `serve`.
    pub async fn start(folder: &Path, program: &Path) -> anyhow::Result<Self> {
        for room in ["data", "settings", "logs"] {
            let path = folder.join(room);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let data = folder.join("data");
        let infrastructure = waybill_embedded::Options {
            data: DataDir::Kept(data.clone()),
            durable: true,
            ..waybill_embedded::Options::default()
        };
        let (embedded, mails, payments) = tokio::try_join!(
            async { Embedded::start(infrastructure).await.context("Postgres and NATS") },
            async { MailSink::start().await.context("the mail sink") },
            async {
                let sandbox = Sandbox::start(SandboxOptions::default()).await;
                sandbox.context("the payment provider")
            },
        )
        .context("could not be started")?;
        let passwords = prepare_database(&embedded, SERVICES).await?;
        let (merchant, store) = tenant(Some(&data))?;
        let issuer = Issuer::generate();
        let mut builder = Builder {
            folder,
            program,
            embedded: &embedded,
            mails: &mails,
            payments: &payments,
            passwords: &passwords,
            issuer: &issuer,
            peers: BTreeMap::new(),
            lines: Vec::new(),
        };
        let replicas = builder.services().await?;
        let mut processes = Vec::new();
        for (launch, port) in &replicas {
            builder.settings(launch, *port).await?;
            processes.push(Process::start(launch.clone())?);
        }
        let operator = Claims {
            sub: "verify".to_owned(),
            merchant: merchant.to_string(),
            stores: vec!["*".to_owned()],
            scopes: Claims::system("verify").scopes,
        };
        let context = StackContext {
            token: issuer.mint(&operator, TOKEN_LIFE).expose_secret().to_owned(),
            system_token: Some(
                issuer
                    .mint(&Claims::system("verify"), TOKEN_LIFE)
                    .expose_secret()
                    .to_owned(),
            ),
            endpoints: builder.peers,
            edge: String::new(),
            merchant_id: merchant.to_string(),
            store_id: store.to_string(),
            spans: None,
        };
        let lines = builder.lines;
        let world = Self {
            folder: folder.to_owned(),
            session: Session::connect(&context)?,
            embedded,
            postgres: Arc::default(),
            nats: Arc::default(),
            mails,
            payments,
            processes,
            lines,
        };
        for ((_, port), process) in replicas.iter().zip(&world.processes) {
            serving(process, *port).await?;
        }
        Ok(world)
    }

    /// Takes back every fault that lasts.
    pub async fn heal(&self) -> anyhow::Result<()> {
        for line in &self.lines {
            line.wire.restore();
        }
        for process in &self.processes {
            process.resume().await?;
            if super::process::faketime().is_some() {
                process.shift_clock(0)?;
            }
        }
        self.payments.heal();
        Ok(())
    }

    /// How often processes ended without having been told to, by name.
    #[must_use]
    pub fn ended_by_themselves(&self) -> BTreeMap<String, u64> {
        self.processes
            .iter()
            .filter(|process| process.ended_by_itself() > 0)
            .map(|process| (process.name().to_owned(), process.ended_by_itself()))
            .collect()
    }

    /// Ends all processes for good; what they stand on stays.
    pub async fn halt(&self) {
        futures_util::future::join_all(self.processes.iter().map(Process::stop)).await;
    }

    /// Ends all processes, then what they stand on.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.halt().await;
        drop(self.lines);
        self.payments.stop().await;
        self.embedded
            .stop()
            .await
            .context("Postgres and NATS could not be stopped")
    }
}

struct Builder<'a> {
    folder: &'a Path,
    program: &'a Path,
    embedded: &'a Embedded,
    mails: &'a MailSink,
    payments: &'a Sandbox,
    passwords: &'a BTreeMap<String, SecretString>,
    issuer: &'a Issuer,
    peers: BTreeMap<String, String>,
    lines: Vec<Line>,
}

impl Builder<'_> {
    /// Gives each replica a port, and each service an address that shares callers out over its replicas.
    async fn services(&mut self) -> anyhow::Result<Vec<(Launch, u16)>> {
        let mut replicas = Vec::new();
        for (service, count) in REPLICAS {
            let ports: Vec<u16> = std::iter::repeat_with(free_port).take(count).collect();
            let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}"));
            let wire = Wire::start_before_all(addresses).await?;
            self.peers
                .insert(service.to_owned(), format!("http://{}", wire.addr()));
            self.lines.push(Line {
                name: format!("callers of {service}"),
                far: Far::Service,
                wire,
            });
            for (number, port) in (1..).zip(ports) {
                let name = format!("{service}-{number}");
                let launch = Launch {
                    program: self.program.to_owned(),
                    service,
                    config: self.folder.join("settings").join(format!("{name}.toml")),
                    log: self.folder.join("logs").join(format!("{name}.log")),
                    clock: self.folder.join("settings").join(format!("{name}.clock")),
                    name,
                };
                replicas.push((launch, port));
            }
        }
        Ok(replicas)
    }

    async fn line(&mut self, name: &str, far: Far, url: &str) -> anyhow::Result<String> {
        let (wire, through) = Wire::before(url).await?;
        let to = match far {
            Far::Postgres => "Postgres",
            Far::Nats => "NATS",
            Far::Mail => "the mail server",
            Far::Provider => "the payment provider",
            Far::Service => "a service",
        };
        self.lines.push(Line {
            name: format!("{name} to {to}"),
            far,
            wire,
        });
        Ok(through)
    }

    /// Writes the settings of a replica, in which every address is that of a wire of its own.
    async fn settings(&mut self, launch: &Launch, port: u16) -> anyhow::Result<()> {
        let (name, service) = (launch.name.as_str(), launch.service);
        let password = self.passwords.get(service).context("a service has no password")?;
        let postgres =
            self.embedded
                .postgres()
                .url(&role_of(service), password.expose_secret(), setup::DATABASE);
        let postgres = self.line(name, Far::Postgres, &postgres).await?;
        let nats = self.line(name, Far::Nats, self.embedded.nats().url()).await?;
        let token = self.issuer.mint(&Claims::system(service), TOKEN_LIFE);

        let mut text = format!("listen = \"127.0.0.1:{port}\"\nshutdown_grace = 5\n");
        match service {
            // Webhooks are not part of this world: the provider is asked instead.
            "refund" => {
                text.push_str("call_lease = 10\nlook_after = 1\npoll_pending = 1\nquiet_period = 60\n")
            }
            // Follow-ups are due at once, and look again soon.
            "notification" => text.push_str("feedback_delay = 0\nfollow_up_pause = 1\n"),
            _ => {}
        }
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[database]\nurl = {}\naccept_loss = true\n\n[nats]\nurl = {}\n\n[auth]\njwks = {}\nservice_token = {}\n\n[telemetry]\nlogs = \"json\"\nlog_filter = \"info\"\n\n[peers]\n",
            quoted(&postgres),
            quoted(&nats),
            quoted(&self.issuer.jwks_json()),
            quoted(token.expose_secret()),
        );
        for (peer, address) in &self.peers {
            let _ = writeln!(text, "{peer} = {}", quoted(address));
        }
        if service == "refund" {
            let config = self.payments.config();
            let url = self.line(name, Far::Provider, &config.base_url).await?;
            let _ = write!(
                text,
                "\n[providers.stripe]\nbase_url = {}\nsecret_key = {}\n",
                quoted(&url),
                quoted(config.secret_key.expose_secret()),
            );
        }
        if service == "notification" {
            let server = format!("smtp://{}", self.mails.smtp_addr());
            let through = self.line(name, Far::Mail, &server).await?;
            let port = through.rsplit(':').next().unwrap_or_default();
            let _ = write!(
                text,
                "\n[smtp]\nhost = \"127.0.0.1\"\nport = {port}\nsecurity = \"none\"\ntimeout = 5\n"
            );
        }
        write_private(&launch.config, text.as_bytes())
    }
}

/// As a string of TOML. What JSON escapes, TOML's basic strings escape alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

async fn serving(process: &Process, port: u16) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{port}");
    let asked = tokio::time::timeout(START, async {
        while crate::commands::health(&url).await.is_err() {
            if process.ended_by_itself() >= TRIES {
                bail!("{} ends by itself: {}", process.name(), process.last_words());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
    asked.await.unwrap_or_else(|_| {
        bail!(
            "{} did not serve within {} s: {}",
            process.name(),
            START.as_secs(),
            process.last_words()
        )
    })
}
