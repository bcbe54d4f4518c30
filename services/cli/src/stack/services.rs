//! The services of a stack, each with the configuration it would have in a process of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use waybill_embedded::Embedded;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::time;
use waybill_payments::Providers;
use waybill_rpc::auth::{Claims, Issuer};
use waybill_runtime::config::Secret;
use waybill_runtime::service::{AuthConfig, CommonConfig, DatabaseConfig, NatsConfig};
use waybill_runtime::tasks::TaskGroup;
use waybill_store::bootstrap::role_of;

use super::{TOKEN_LIFE, WebhookSecrets};
use crate::setup;

/// What the configurations of all services are made from.
pub(super) struct Wiring<'a> {
    pub(super) embedded: &'a Embedded,
    pub(super) passwords: &'a BTreeMap<String, SecretString>,
    pub(super) peers: &'a BTreeMap<String, String>,
    pub(super) issuer: &'a Issuer,
}

impl Wiring<'_> {
    fn common(&self, service: &str) -> CommonConfig {
        // The edge has no schema, and so no role.
        let database = self.passwords.get(service).map(|password| {
            self.embedded
                .postgres()
                .url(&role_of(service), password.expose_secret(), setup::DATABASE)
        });
        CommonConfig {
            database: DatabaseConfig {
                url: database.map(Secret::from_value).unwrap_or_default(),
                // One private Postgres on this machine: there is no standby to wait for.
                accept_loss: true,
                ..DatabaseConfig::default()
            },
            nats: NatsConfig {
                url: Secret::from_value(self.embedded.nats().url()),
                ..NatsConfig::default()
            },
            auth: AuthConfig {
                jwks: Some(self.issuer.jwks_json()),
                service_token: Secret::from_value(
                    self.issuer
                        .mint(&Claims::system(service), TOKEN_LIFE)
                        .expose_secret(),
                ),
                ..AuthConfig::default()
            },
            peers: self.peers.clone(),
            ..CommonConfig::default()
        }
    }
}

pub(super) struct Settings<'a> {
    pub(super) wiring: &'a Wiring<'a>,
    pub(super) clock: time::Shared,
    pub(super) providers: Providers,
    pub(super) smtp: SocketAddr,
    pub(super) demo: bool,
}

pub(super) async fn spawn_services(
    settings: &Settings<'_>,
    mut listeners: BTreeMap<String, TcpListener>,
    tasks: &TaskGroup,
) -> anyhow::Result<()> {
    let mut listener = |service: &str| {
        listeners
            .remove(service)
            .with_context(|| format!("{service} has no listener"))
    };
    let common = |service: &str| settings.wiring.common(service);
    let clock = || settings.clock.clone();

    let order = waybill_order::Config {
        common: common("order"),
        ..Default::default()
    };
    let fulfillment = waybill_fulfillment::Config {
        common: common("fulfillment"),
        ..Default::default()
    };
    let refund = waybill_refund::Config {
        common: common("refund"),
        ..Default::default()
    };
    let mut notification = waybill_notification::Config {
        common: common("notification"),
        ..Default::default()
    };
    notification.smtp.host = settings.smtp.ip().to_string();
    notification.smtp.port = settings.smtp.port();
    notification.smtp.security = waybill_notification::config::Security::None;
    if settings.demo {
        notification.feedback_delay = Duration::ZERO;
        notification.follow_up_pause = Duration::from_millis(500);
    }
    let analytics = waybill_analytics::Config {
        common: common("analytics"),
    };

    // All at once: each connects, migrates its schema and wires itself.
    let (order, fulfillment, refund, notification, analytics) = tokio::try_join!(
        built(
            "order",
            waybill_order::App::build(
                order,
                waybill_order::Deps {
                    clock: clock(),
                    providers: settings.providers.clone()
                }
            )
        ),
        built(
            "fulfillment",
            waybill_fulfillment::App::build(fulfillment, waybill_fulfillment::Deps { clock: clock() })
        ),
        built(
            "refund",
            waybill_refund::App::build(
                refund,
                waybill_refund::Deps {
                    clock: clock(),
                    providers: settings.providers.clone()
                }
            )
        ),
        built(
            "notification",
            waybill_notification::App::build(notification, waybill_notification::Deps { clock: clock() })
        ),
        built(
            "analytics",
            waybill_analytics::App::build(analytics, waybill_analytics::Deps { clock: clock() })
        ),
    )?;
    let shutdown = tasks.token();
    tasks.spawn("order", order.run(listener("order")?, shutdown.clone()));
    tasks.spawn(
        "fulfillment",
        fulfillment.run(listener("fulfillment")?, shutdown.clone()),
    );
    tasks.spawn("refund", refund.run(listener("refund")?, shutdown.clone()));
    tasks.spawn(
        "notification",
        notification.run(listener("notification")?, shutdown.clone()),
    );
    tasks.spawn("analytics", analytics.run(listener("analytics")?, shutdown));
    Ok(())
}

pub(super) fn spawn_edge(
    settings: &Settings<'_>,
    listener: TcpListener,
    (merchant, store): (MerchantId, StoreId),
    secrets: &WebhookSecrets,
    tasks: &TaskGroup,
) -> anyhow::Result<()> {
    let secret = |secret: &SecretString| Secret::from_value(secret.expose_secret());
    let of_store = waybill_edge::config::WebhookSecrets {
        aftership: secret(&secrets.aftership),
        stripe: vec![secret(&secrets.stripe)],
        ..Default::default()
    };
    let config = waybill_edge::Config {
        common: settings.wiring.common("edge"),
        http: listener.local_addr()?,
        webhooks: BTreeMap::from([(format!("{merchant}/{store}"), of_store)]),
        ..Default::default()
    };
    let edge = waybill_edge::App::build(
        config,
        waybill_edge::Deps {
            clock: settings.clock.clone(),
        },
    )?;
    tasks.spawn("edge", edge.run(listener, tasks.token()));
    Ok(())
}

async fn built<T, E>(service: &'static str, app: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    app.await
        .with_context(|| format!("{service} could not be started"))
}
