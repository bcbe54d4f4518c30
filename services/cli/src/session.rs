//! A connection to a running stack: where its services are, who is calling, for which store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use waybill_proto::waybill::analytics::v1::analytics_service_client::AnalyticsServiceClient;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_proto::waybill::events::v1::event_log_service_client::EventLogServiceClient;
use waybill_proto::waybill::events::v1::history_service_client::HistoryServiceClient;
use waybill_proto::waybill::fulfillment::v1::fulfillment_service_client::FulfillmentServiceClient;
use waybill_proto::waybill::jobs::v1::job_service_client::JobServiceClient;
use waybill_proto::waybill::notification::v1::notification_service_client::NotificationServiceClient;
use waybill_proto::waybill::order::v1::customer_service_client::CustomerServiceClient;
use waybill_proto::waybill::order::v1::draft_order_service_client::DraftOrderServiceClient;
use waybill_proto::waybill::order::v1::order_service_client::OrderServiceClient;
use waybill_proto::waybill::order::v1::{GetOrderRequest, Order, get_order_request};
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_rpc::client::{Channel, TokenSource};

/// What a caller has to know of a running stack. Holds a token: the file is readable by its owner only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StackContext {
    /// Address of each service, e.g. "order" -> "http://127.0.0.1:50051".
    pub endpoints: BTreeMap<String, String>,
    /// Address of the edge, which serves HTTP.
    pub edge: String,
    /// Bearer token of the operator.
    pub token: String,
    /// Bearer token for what concerns all merchants, as consumers of events do; files of older stacks have none.
    #[serde(default)]
    pub system_token: Option<String>,
    /// The merchant the commands work for.
    pub merchant_id: String,
    /// The store the commands work for.
    pub store_id: String,
    /// File the stack writes its spans to.
    pub spans: Option<PathBuf>,
}

impl StackContext {
    /// Where a person's own stacks leave what others need of them: `$XDG_STATE_HOME/waybill`.
    #[must_use]
    pub fn folder() -> PathBuf {
        std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local").join("state")))
            .unwrap_or_else(std::env::temp_dir)
            .join("waybill")
    }

    /// Where the context stands when nothing else was said: `context.json` in that folder.
    #[must_use]
    pub fn default_path() -> PathBuf {
        Self::folder().join("context.json")
    }

    /// Reads the context.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let path = path.map_or_else(Self::default_path, Path::to_path_buf);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "no running stack is known: {} cannot be read; start one with `waybill up`, or name its file with --context",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a context file", path.display()))
    }

    /// Writes the context, readable by its owner only.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        crate::files::write_private(path, &serde_json::to_vec_pretty(self)?)
    }
}

/// Clients of all services, for one store.
#[derive(Clone)]
pub struct Session {
    /// The merchant the calls name.
    pub merchant_id: String,
    /// The store the calls name.
    pub store_id: String,
    channels: BTreeMap<String, Channel>,
    /// With the token for what concerns all merchants.
    system: BTreeMap<String, Channel>,
}

impl Session {
    /// Connects lazily: the first call of each service opens its connection.
    pub fn connect(context: &StackContext) -> anyhow::Result<Self> {
        let channels = |token: &str| {
            let token = TokenSource::fixed(SecretString::from(token.to_owned()));
            let connect = |(service, url): (&String, &String)| {
                let channel = waybill_rpc::client::connect(url, token.clone(), "cli")
                    .with_context(|| format!("the address of {service} in the context file"))?;
                Ok((service.clone(), channel))
            };
            context
                .endpoints
                .iter()
                .map(connect)
                .collect::<anyhow::Result<_>>()
        };
        Ok(Self {
            merchant_id: context.merchant_id.clone(),
            store_id: context.store_id.clone(),
            channels: channels(&context.token)?,
            system: match &context.system_token {
                Some(token) => channels(token)?,
                None => BTreeMap::new(),
            },
        })
    }

    /// Clients that operate the consumers of the services, or of one of them, by name.
    pub fn operators(
        &self,
        service: Option<&str>,
    ) -> anyhow::Result<Vec<(String, ConsumerServiceClient<Channel>)>> {
        if self.system.is_empty() {
            bail!(
                "the context file has no system_token, which consumers are operated with; `waybill setup token --merchant '*' \
                 --store '*' --scope events:admin` mints one, or start the stack anew"
            );
        }
        if let Some(service) = service
            && !self.system.contains_key(service)
        {
            let known: Vec<&str> = self.system.keys().map(String::as_str).collect();
            bail!(
                "service {service:?} is not in the context file; it has {}",
                known.join(", ")
            );
        }
        let asked = self
            .system
            .iter()
            .filter(|(name, _)| service.is_none_or(|one| one == *name));
        Ok(asked
            .map(|(name, channel)| (name.clone(), ConsumerServiceClient::new(channel.clone())))
            .collect())
    }

    /// Client for the history of the event log of a service: what to do when its database lost commits.
    pub fn history(&self, service: &str) -> anyhow::Result<HistoryServiceClient<Channel>> {
        let channel = self.way_to_log(service)?;
        Ok(HistoryServiceClient::new(channel).max_decoding_message_size(64 << 20))
    }

    /// Client of the event log of a service.
    pub fn event_log(&self, service: &str) -> anyhow::Result<EventLogServiceClient<Channel>> {
        let channel = self.way_to_log(service)?;
        Ok(EventLogServiceClient::new(channel).max_decoding_message_size(64 << 20))
    }

    fn way_to_log(&self, service: &str) -> anyhow::Result<Channel> {
        self.system.get(service).cloned().with_context(|| {
            let known: Vec<&str> = self.system.keys().map(String::as_str).collect();
            format!(
                "there is no way to the log of {service:?}: the context file has a system_token and an address for {}",
                if known.is_empty() { "no service".to_owned() } else { known.join(", ") }
            )
        })
    }

    fn channel(&self, service: &str) -> anyhow::Result<Channel> {
        self.channels
            .get(service)
            .cloned()
            .with_context(|| format!("the context file has no address for the service {service}"))
    }

    /// The services that are known, by name.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.system.keys().map(String::as_str)
    }

    /// Client of the jobs of a service.
    pub fn jobs(&self, service: &str) -> anyhow::Result<JobServiceClient<Channel>> {
        let channel = self.system.get(service).cloned().with_context(|| {
            let known: Vec<&str> = self.services().collect();
            format!(
                "the context file has no address for the service {service:?}; it knows {}",
                known.join(", ")
            )
        })?;
        Ok(JobServiceClient::new(channel))
    }

    /// Client of the order service.
    pub fn orders(&self) -> anyhow::Result<OrderServiceClient<Channel>> {
        Ok(OrderServiceClient::new(self.channel("order")?).max_decoding_message_size(64 << 20))
    }

    /// Client of the order service, for orders that are being made.
    pub fn drafts(&self) -> anyhow::Result<DraftOrderServiceClient<Channel>> {
        Ok(DraftOrderServiceClient::new(self.channel("order")?))
    }

    /// Client of the order service, for what concerns customers.
    pub fn customers(&self) -> anyhow::Result<CustomerServiceClient<Channel>> {
        Ok(CustomerServiceClient::new(self.channel("order")?).max_decoding_message_size(64 << 20))
    }

    /// Client of the fulfillment service.
    pub fn fulfillment(&self) -> anyhow::Result<FulfillmentServiceClient<Channel>> {
        Ok(FulfillmentServiceClient::new(self.channel("fulfillment")?))
    }

    /// Client of the refund service.
    pub fn refunds(&self) -> anyhow::Result<RefundServiceClient<Channel>> {
        Ok(RefundServiceClient::new(self.channel("refund")?))
    }

    /// Client of the notification service.
    pub fn notifications(&self) -> anyhow::Result<NotificationServiceClient<Channel>> {
        Ok(NotificationServiceClient::new(self.channel("notification")?))
    }

    /// Client of the analytics service.
    pub fn analytics(&self) -> anyhow::Result<AnalyticsServiceClient<Channel>> {
        Ok(AnalyticsServiceClient::new(self.channel("analytics")?))
    }

    /// Reads an order by id or by number.
    pub async fn order(&self, reference: &str) -> anyhow::Result<Order> {
        let key = if waybill_kernel::id::OrderId::from_str(reference).is_ok() {
            get_order_request::Key::OrderId(reference.to_owned())
        } else {
            get_order_request::Key::Number(reference.to_owned())
        };
        let request = GetOrderRequest {
            merchant_id: self.merchant_id.clone(),
            store_id: self.store_id.clone(),
            key: Some(key),
        };
        match self.orders()?.get_order(request).await?.into_inner().order {
            Some(order) => Ok(order),
            None => bail!("the order service answered without an order"),
        }
    }
}
