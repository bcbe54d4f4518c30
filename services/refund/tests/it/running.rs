//! The whole service in this process, with a client.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waybill_proto::waybill::refund::v1 as proto;
use waybill_proto::waybill::refund::v1::refund_service_client::RefundServiceClient;
use waybill_proto::waybill::r#type::v1::Money;
use waybill_refund::{App, Config, Deps};
use waybill_rpc::client::{Channel, connect};
use waybill_service::StartError;
use waybill_testkit::{Auth, TestNats, common_config, eventually, nats};

use crate::bench::{Bench, Placed};

pub const ALL: [&str; 4] = [
    "refunds:read",
    "refunds:write",
    "refunds:approve",
    "refunds:admin",
];

pub struct Running {
    pub bench: Bench,
    pub auth: Auth,
    pub url: String,
    pub client: RefundServiceClient<Channel>,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), StartError>>,
    _nats: TestNats,
}

pub async fn running() -> Result<Running> {
    let bench = Bench::start().await?;
    let (auth, nats) = (Auth::new(), nats().await);
    let peers = [
        ("order", "http://127.0.0.1:1"),
        ("fulfillment", "http://127.0.0.1:1"),
    ];
    let common = common_config(&bench.test_db.url("refund"), nats.url(), &auth, &peers);
    let config = Config {
        common,
        look_after: Duration::from_millis(50),
        poll_pending: Duration::from_millis(100),
        poll_jobs: Duration::from_millis(50),
        ..Config::default()
    };
    let deps = Deps {
        clock: bench.clock.clone(),
        providers: bench.providers.clone(),
    };
    let app = App::build(config, deps).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(app.run(listener, shutdown.clone()));
    let token = auth.source(bench.tenant.merchant, &[bench.tenant.store], &ALL);
    let client = RefundServiceClient::new(connect(&url, token, "test")?);
    Ok(Running {
        bench,
        auth,
        url,
        client,
        shutdown,
        served,
        _nats: nats,
    })
}

impl Running {
    pub fn tenant(&self) -> (String, String) {
        (
            self.bench.tenant.merchant.to_string(),
            self.bench.tenant.store.to_string(),
        )
    }

    pub fn client_with(&self, scopes: &[&str]) -> Result<RefundServiceClient<Channel>> {
        let token = self
            .auth
            .source(self.bench.tenant.merchant, &[self.bench.tenant.store], scopes);
        Ok(RefundServiceClient::new(connect(&self.url, token, "test")?))
    }

    pub async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.served.await??)
    }

    pub async fn publish(&mut self) -> Result<proto::PublishPolicyResponse> {
        let (merchant_id, store_id) = self.tenant();
        let request = proto::PublishPolicyRequest {
            merchant_id,
            store_id,
            request_id: "policy".to_owned(),
            policy: Some(proto::ReturnPolicy {
                valid_from: Some(prost_types::Timestamp::default()),
                window_days: 30,
                window_start: proto::WindowStart::Delivery.into(),
                restocking_fee_ppm: 100_000,
                refund_timing: proto::RefundTiming::OnReceipt.into(),
                auto_approve_up_to: vec![euros(100_000)],
                second_approval_above: vec![euros(5_000)],
                arrival_days: 5,
                ..proto::ReturnPolicy::default()
            }),
        };
        Ok(self.client.publish_policy(request).await?.into_inner())
    }

    pub fn create(&self, order: &Placed, request_id: &str, quantity: i32) -> proto::CreateRefundRequest {
        let (merchant_id, store_id) = self.tenant();
        proto::CreateRefundRequest {
            merchant_id,
            store_id,
            request_id: request_id.to_owned(),
            order_id: order.order_id.to_string(),
            lines: vec![proto::RefundUnits {
                line_id: order.lines[0].to_string(),
                quantity,
            }],
            reason: "a parcel was lost".to_owned(),
            ..proto::CreateRefundRequest::default()
        }
    }

    pub async fn refund(&self, refund_id: &str) -> Result<proto::Refund> {
        let (merchant_id, store_id) = self.tenant();
        let request = proto::GetRefundRequest {
            merchant_id,
            store_id,
            refund_id: refund_id.to_owned(),
        };
        self.client
            .clone()
            .get_refund(request)
            .await?
            .into_inner()
            .refund
            .context("a refund")
    }

    pub async fn until(&self, refund_id: &str, state: proto::RefundState) -> proto::Refund {
        eventually(
            &format!("refund {refund_id} is {state:?}"),
            Duration::from_secs(20),
            || async {
                let refund = self.refund(refund_id).await.map_err(|error| error.to_string())?;
                if refund.state() == state {
                    Ok(refund)
                } else {
                    Err(format!("it is {:?}", refund.state()))
                }
            },
        )
        .await
    }
}

pub fn euros(minor_units: i64) -> Money {
    Money {
        currency_code: "EUR".to_owned(),
        minor_units,
    }
}
