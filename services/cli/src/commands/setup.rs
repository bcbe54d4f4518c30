//! `waybill setup …`: secrets, tokens and database roles for a machine or a cluster. Nothing here talks to a running
//! stack.
//!
//! The secrets are files, one each, readable by their owner only. Running a command again keeps what is there, so it can
//! stand at the start of every deployment.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Connection as _;
use waybill_rpc::auth::{Claims, Issuer};
use waybill_store::bootstrap::{Service, bootstrap, role_of};

use crate::args::SetupCommand;
use crate::files::write_private;
use crate::output::line;
use crate::setup;
use crate::stack::SERVICES;

/// The tokens with which services call each other. To renew one, remove its file and run `setup secrets` again.
const SERVICE_TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs the command.
pub async fn run(command: SetupCommand) -> anyhow::Result<()> {
    match command {
        SetupCommand::Secrets { out, nats, postgres } => secrets(&out, &nats, &postgres),
        SetupCommand::Token {
            secrets,
            subject,
            merchant,
            stores,
            scopes,
            hours,
        } => {
            let claims = Claims {
                sub: subject,
                merchant,
                stores,
                scopes,
            };
            check(&claims)?;
            let life = Duration::from_secs(u64::from(hours) * 3600);
            line(issuer(&secrets)?.mint(&claims, life).expose_secret());
            Ok(())
        }
        SetupCommand::Database { url, secrets } => database(&url, &secrets).await,
    }
}

fn secrets(out: &Path, nats: &str, postgres: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let pem = kept(out, "signing-key.pem", || Issuer::generate().pem())?;
    let issuer = Issuer::from_pem(&pem).context("signing-key.pem is not a signing key")?;
    write_private(&out.join("jwks.json"), issuer.jwks_json().as_bytes())?;
    for service in SERVICES.into_iter().chain(["edge"]) {
        kept(out, &format!("{service}.token"), || {
            issuer.mint(&Claims::system(service), SERVICE_TOKEN_LIFE)
        })?;
    }
    let mut users = String::new();
    for service in SERVICES {
        let password = kept(out, &format!("{service}.password"), setup::password)?;
        let address = format!(
            "postgres://{}:{}@{postgres}",
            role_of(service),
            password.expose_secret()
        );
        write_private(&out.join(format!("{service}.database-url")), address.as_bytes())?;
        let password = kept(out, &format!("{service}.nats-password"), setup::password)?;
        let address = format!("nats://{service}:{}@{nats}", password.expose_secret());
        write_private(&out.join(format!("{service}.nats-url")), address.as_bytes())?;
        users.push_str(&nats_user(service, &password));
    }
    let nats_config = include_str!("../../nats.conf").replace("USERS", users.trim_end());
    write_private(&out.join("nats.conf"), nats_config.as_bytes())?;
    line(format!(
        "the secrets of {} services are in {}",
        SERVICES.len() + 1,
        out.display()
    ));
    Ok(())
}

/// A service may write its own stream and read all of them, and nothing else.
fn nats_user(service: &str, password: &SecretString) -> String {
    let stream = format!("WAYBILL_{}", service.to_uppercase());
    let mut publish = vec![
        format!("waybill.events.{service}.v1.>"),
        "$JS.API.INFO".to_owned(),
        format!("$JS.API.STREAM.CREATE.{stream}"),
        format!("$JS.API.STREAM.UPDATE.{stream}"),
        "$JS.ACK.>".to_owned(),
        "$JS.FC.>".to_owned(),
    ];
    for source in SERVICES {
        let stream = format!("WAYBILL_{}", source.to_uppercase());
        publish.extend(
            [
                "STREAM.INFO",
                "STREAM.MSG.GET",
                "DIRECT.GET",
                "CONSUMER.CREATE",
                "CONSUMER.INFO",
                "CONSUMER.MSG.NEXT",
                "CONSUMER.DELETE",
            ]
            .into_iter()
            .flat_map(|call| {
                [
                    format!("$JS.API.{call}.{stream}"),
                    format!("$JS.API.{call}.{stream}.>"),
                ]
            }),
        );
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "    {{ user: {service}, password: \"{}\", permissions: {{ publish: {publish:?}, subscribe: [\"_INBOX.>\", \"$JS.FC.>\"] }} }}",
        password.expose_secret()
    );
    text
}

/// The secret in a file; made and written when the file is not there.
fn kept(folder: &Path, name: &str, make: impl FnOnce() -> SecretString) -> anyhow::Result<SecretString> {
    let file = folder.join(name);
    if file.exists() {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(SecretString::from(text.trim().to_owned()));
    }
    let secret = make();
    write_private(&file, secret.expose_secret().as_bytes())?;
    Ok(secret)
}

fn issuer(folder: &Path) -> anyhow::Result<Issuer> {
    let file = folder.join("signing-key.pem");
    let pem = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "cannot read {}; make it with `waybill setup secrets`",
            file.display()
        )
    })?;
    Issuer::from_pem(&SecretString::from(pem))
        .with_context(|| format!("{} is not a signing key", file.display()))
}

/// A token with a scope or an id that does not exist would only fail later, far from its maker.
fn check(claims: &Claims) -> anyhow::Result<()> {
    let known = Claims::system("").scopes;
    if let Some(scope) = claims.scopes.iter().find(|scope| !known.contains(scope)) {
        bail!("--scope {scope:?} does not exist; there are {}", known.join(", "));
    }
    let every = claims.merchant == "*";
    if !every && claims.merchant.parse::<waybill_kernel::id::MerchantId>().is_err() {
        bail!("--merchant {:?} is neither an id (a UUID) nor *", claims.merchant);
    }
    if every && claims.stores != ["*"] {
        bail!("--merchant * goes with --store * alone: a store belongs to one merchant");
    }
    let store = |text: &str| text == "*" || text.parse::<waybill_kernel::id::StoreId>().is_ok();
    if let Some(text) = claims.stores.iter().find(|text| !store(text)) {
        bail!("--store {text:?} is neither an id (a UUID) nor *");
    }
    Ok(())
}

async fn database(url: &str, folder: &Path) -> anyhow::Result<()> {
    let services = SERVICES
        .into_iter()
        .map(|name| {
            let file = folder.join(format!("{name}.password"));
            let password = std::fs::read_to_string(&file).with_context(|| {
                format!(
                    "cannot read {}; make it with `waybill setup secrets`",
                    file.display()
                )
            })?;
            Ok(Service {
                name: name.to_owned(),
                password: SecretString::from(password.trim().to_owned()),
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let options: sqlx::postgres::PgConnectOptions =
        url.parse().context("--url is not the address of a database")?;
    let mut admin = sqlx::PgConnection::connect_with(&options)
        .await
        .context("cannot connect to Postgres")?;
    bootstrap(&mut admin, &services).await?;
    admin.close().await?;
    line(format!(
        "roles and schemas of {} services are ready",
        services.len()
    ));
    Ok(())
}
