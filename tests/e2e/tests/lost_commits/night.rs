//! What a person does at night: take a copy, put it back, and follow the runbook.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use waybill_e2e::shop::Shop;
use waybill_e2e::wait;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_proto::waybill::events::v1::history_service_client::HistoryServiceClient;
use waybill_proto::waybill::events::v1::{
    AdoptEffectsRequest, GetHistoryRequest, ListConsumersRequest, ListHeldEffectsRequest,
    ListPhantomsRequest, Phantom, RecoverLogRequest, Recovery, ReleaseEffectsRequest,
};
use waybill_rpc::auth::Claims;
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_rpc::fault;

/// One schema of a running stack.
pub struct Night<'a> {
    shop: &'a Shop,
    schema: &'static str,
    /// Address of the database, with a superuser.
    url: String,
    token: TokenSource,
}

impl<'a> Night<'a> {
    pub fn of(shop: &'a Shop, schema: &'static str) -> anyhow::Result<Self> {
        let admin = shop.stack.embedded().postgres().admin_url();
        let (server, _) = admin.rsplit_once('/').context("an address without a database")?;
        let life = Duration::from_secs(3600);
        Ok(Self {
            shop,
            schema,
            url: format!("{server}/waybill"),
            token: TokenSource::fixed(shop.stack.issuer().mint(&Claims::system("night"), life)),
        })
    }

    async fn tool(&self, name: &str, args: Vec<String>) -> anyhow::Result<()> {
        let program = self.shop.stack.embedded().postgres().tool(name)?;
        let done = tokio::task::spawn_blocking(move || Command::new(program).args(args).output()).await??;
        ensure!(
            done.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    /// Takes a copy of the schema.
    pub async fn dump(&self) -> anyhow::Result<PathBuf> {
        let file = std::env::temp_dir().join(format!(
            "waybill-{}-{}-{}.sql",
            self.schema,
            std::process::id(),
            self.shop.session.store_id
        ));
        let args = ["-d", &self.url, "-n", self.schema, "-f"].map(str::to_owned);
        let mut args = args.to_vec();
        args.push(file.display().to_string());
        self.tool("pg_dump", args).await?;
        Ok(file)
    }

    /// Puts a copy in the place of the schema, under the connections that use it. Postgres may see a deadlock with one of
    /// them and end this side: then it is done again.
    pub async fn put_back(&self, copy: &std::path::Path) -> anyhow::Result<()> {
        let mut last = None;
        for _ in 0..20 {
            let args = vec![
                "-q".to_owned(),
                "-X".to_owned(),
                "-1".to_owned(),
                "-v".to_owned(),
                "ON_ERROR_STOP=1".to_owned(),
                "-d".to_owned(),
                self.url.clone(),
                "-c".to_owned(),
                format!("DROP SCHEMA \"{}\" CASCADE", self.schema),
                "-f".to_owned(),
                copy.display().to_string(),
            ];
            match self.tool("psql", args).await {
                Ok(()) => return Ok(std::fs::remove_file(copy)?),
                Err(error) if format!("{error:#}").contains("deadlock") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("it was never tried")?)
    }

    fn channel(&self, service: &str) -> anyhow::Result<Channel> {
        let context = self.shop.stack.context();
        let url = context.endpoints.get(service).context("no such service")?;
        Ok(client::connect(url, self.token.clone(), "test")?)
    }

    fn history(&self, service: &str) -> anyhow::Result<HistoryServiceClient<Channel>> {
        Ok(HistoryServiceClient::new(self.channel(service)?))
    }

    /// Waits until the service has noticed by itself.
    pub async fn fenced(&self) -> anyhow::Result<()> {
        wait::until("a fenced log", || async {
            let seen = self
                .history(self.schema)?
                .get_history(GetHistoryRequest {})
                .await?;
            Ok((!seen.into_inner().fenced_reason.is_empty()).then_some(()))
        })
        .await
    }

    pub async fn recover(&self) -> anyhow::Result<Recovery> {
        let request = RecoverLogRequest {
            request_id: format!("night-{}", self.schema),
            reason: "put back to the copy of the test".to_owned(),
            ..RecoverLogRequest::default()
        };
        let client = self.history(self.schema)?;
        let answer =
            waybill_e2e::patient!("the log could not be recovered", client.recover_log(request)).await?;
        answer.recovery.context("an answer without a recovery")
    }

    /// Adopts everything that was done outside, as soon as it can be, then lets the work outside go on.
    pub async fn settle(&self) -> anyhow::Result<()> {
        wait::until("settled effects", || async {
            let mut client = self.history(self.schema)?;
            let listed = client
                .list_held_effects(ListHeldEffectsRequest {})
                .await?
                .into_inner();
            if !listed.effects.is_empty() {
                let all = AdoptEffectsRequest {
                    all: true,
                    ..AdoptEffectsRequest::default()
                };
                match client.adopt_effects(all).await {
                    Ok(_) => {}
                    Err(status) if fault::reason(&status).as_deref() == Some("EFFECT_NOT_ADOPTABLE") => {
                        return Ok(None);
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            match client.release_effects(ReleaseEffectsRequest {}).await {
                Ok(_) => Ok(Some(())),
                Err(status) => match fault::reason(&status).as_deref() {
                    Some("CONSUMERS_BEHIND" | "EFFECTS_UNDECIDED") => Ok(None),
                    _ => Err(status.into()),
                },
            }
        })
        .await
    }

    /// Waits until all consumers of all services have taken all there is.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        for service in self.shop.stack.context().endpoints.keys() {
            wait::until(&format!("the consumers of {service}"), || async {
                let mut client = ConsumerServiceClient::new(self.channel(service)?);
                let request = ListConsumersRequest::default();
                let consumers = client.list_consumers(request).await?.into_inner().consumers;
                let mut sources = consumers.iter().flat_map(|consumer| &consumer.sources);
                let behind = sources.any(|source| source.lag_events.is_none_or(|events| events > 0));
                Ok((!behind).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    pub async fn phantoms(&self, service: &str) -> anyhow::Result<Vec<Phantom>> {
        let request = ListPhantomsRequest {
            source: self.schema.to_owned(),
            page_size: 500,
            ..ListPhantomsRequest::default()
        };
        Ok(self
            .history(service)?
            .list_phantoms(request)
            .await?
            .into_inner()
            .phantoms)
    }
}
