//! A small server with canned behaviour, on a free port, and clients of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::analytics::v1::analytics_service_server::{
    AnalyticsService, AnalyticsServiceServer,
};
use waybill_proto::waybill::analytics::v1::*;
use waybill_proto::waybill::order::v1::order_service_server::{OrderService, OrderServiceServer};
use waybill_proto::waybill::order::v1::*;
use waybill_rpc::auth::{Claims, Issuer, Verifier};
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_rpc::convert;
use waybill_rpc::server::{Limits, ServeError, Server};

/// Longer than anything should take, short enough to see that it does.
pub const SOON: Duration = Duration::from_secs(20);

/// What the canned service shares with the test.
#[derive(Clone, Default)]
pub struct Canned {
    /// Set free by the test: calls with the behaviour `wait` wait for it.
    pub gate: Arc<Notify>,
    /// Calls that wait.
    pub waiting: Arc<AtomicUsize>,
    /// Messages that a client stream was read to hold.
    pub taken: Arc<AtomicUsize>,
    /// The deadlines that calls with the behaviour `hang` came with.
    pub deadlines: Arc<Mutex<Vec<String>>>,
    /// Where `forward` calls.
    pub next: Option<Channel>,
}

/// The behaviour is named by the time zone of the request.
#[tonic::async_trait]
impl AnalyticsService for Canned {
    async fn get_summary(
        &self,
        request: Request<GetSummaryRequest>,
    ) -> Result<Response<GetSummaryResponse>, Status> {
        let caller = convert::context(&request)?;
        let deadline = request
            .metadata()
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok());
        let deadline = deadline.unwrap_or_default().to_owned();
        let behaviour = request.into_inner().period.unwrap_or_default().time_zone;
        match behaviour.as_str() {
            "wait" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.gate.notified().await;
            }
            "hang" => {
                self.deadlines.lock().expect("not poisoned").push(deadline);
                std::future::pending::<()>().await;
            }
            "panic" => panic!("a bug"),
            "internal" => return Err(Status::internal("password of the database is hunter2")),
            "bare" => return Err(Status::not_found("no such thing")),
            "forward" => {
                let next = self.next.clone().expect("the test set it");
                let mut client = analytics_service_client::AnalyticsServiceClient::new(next);
                // On behalf of the same tenant; there the call hangs, so that only the deadline ends it.
                return client.get_summary(summary(ids().0, ids().1, "hang")).await;
            }
            _ => {}
        }
        Ok(Response::new(GetSummaryResponse {
            open_orders: i64::try_from(caller.scopes.len()).unwrap_or_default(),
            ..GetSummaryResponse::default()
        }))
    }

    async fn list_daily_figures(
        &self,
        _: Request<ListDailyFiguresRequest>,
    ) -> Result<Response<ListDailyFiguresResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn list_refund_reasons(
        &self,
        _: Request<ListRefundReasonsRequest>,
    ) -> Result<Response<ListRefundReasonsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn list_cycle_times(
        &self,
        _: Request<ListCycleTimesRequest>,
    ) -> Result<Response<ListCycleTimesResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

macro_rules! not_canned {
    ($($method:ident($request:ty) -> $response:ty;)+) => {
        #[tonic::async_trait]
        impl OrderService for Canned {
            type WatchOrdersStream = ReceiverStream<Result<WatchOrdersResponse, Status>>;
            type ExportOrdersStream = ReceiverStream<Result<ExportOrdersResponse, Status>>;
            type ImportOrdersStream = ReceiverStream<Result<ImportOrdersResponse, Status>>;

            /// Counts messages, and hides a broken stream from its caller, as no service should.
            async fn batch_place_orders(
                &self,
                request: Request<Streaming<BatchPlaceOrdersRequest>>,
            ) -> Result<Response<BatchPlaceOrdersResponse>, Status> {
                let mut stream = request.into_inner();
                while let Ok(Some(_)) = stream.message().await {
                    self.taken.fetch_add(1, Ordering::SeqCst);
                }
                Ok(Response::new(Default::default()))
            }

            /// One change, then silence, or the end when it is asked to start at cursor "end".
            async fn watch_orders(
                &self,
                request: Request<WatchOrdersRequest>,
            ) -> Result<Response<Self::WatchOrdersStream>, Status> {
                let (changes, stream) = tokio::sync::mpsc::channel(1);
                let change = WatchOrdersResponse { cursor: "1".to_owned(), ..WatchOrdersResponse::default() };
                changes.send(Ok(change)).await.expect("the stream is open");
                if request.into_inner().cursor != "end" {
                    tokio::spawn(async move { changes.closed().await });
                }
                Ok(Response::new(ReceiverStream::new(stream)))
            }

            async fn export_orders(
                &self,
                _: Request<ExportOrdersRequest>,
            ) -> Result<Response<Self::ExportOrdersStream>, Status> {
                Err(Status::unimplemented("not canned"))
            }

            async fn import_orders(
                &self,
                _: Request<Streaming<ImportOrdersRequest>>,
            ) -> Result<Response<Self::ImportOrdersStream>, Status> {
                Err(Status::unimplemented("not canned"))
            }

            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not canned"))
            })+
        }
    };
}

not_canned! {
    place_order(PlaceOrderRequest) -> PlaceOrderResponse;
    get_order(GetOrderRequest) -> GetOrderResponse;
    batch_get_orders(BatchGetOrdersRequest) -> BatchGetOrdersResponse;
    list_orders(ListOrdersRequest) -> ListOrdersResponse;
    search_orders(SearchOrdersRequest) -> SearchOrdersResponse;
    count_orders(CountOrdersRequest) -> CountOrdersResponse;
    cancel_order(CancelOrderRequest) -> CancelOrderResponse;
    record_payment(RecordPaymentRequest) -> RecordPaymentResponse;
    get_timeline(GetTimelineRequest) -> GetTimelineResponse;
    update_order(UpdateOrderRequest) -> UpdateOrderResponse;
    hold_order(HoldOrderRequest) -> HoldOrderResponse;
    release_order(ReleaseOrderRequest) -> ReleaseOrderResponse;
    cancel_order_lines(CancelOrderLinesRequest) -> CancelOrderLinesResponse;
    verify_timeline(VerifyTimelineRequest) -> VerifyTimelineResponse;
    rebuild_order(RebuildOrderRequest) -> RebuildOrderResponse;
    preview_order_edit(PreviewOrderEditRequest) -> PreviewOrderEditResponse;
    edit_order(EditOrderRequest) -> EditOrderResponse;
    get_import(GetImportRequest) -> GetImportResponse;
    capture_payment(CapturePaymentRequest) -> CapturePaymentResponse;
    void_payment(VoidPaymentRequest) -> VoidPaymentResponse;
    get_payment_attempt(GetPaymentAttemptRequest) -> GetPaymentAttemptResponse;
}

/// The tenant of a test process.
pub fn ids() -> (MerchantId, StoreId) {
    static IDS: std::sync::LazyLock<(MerchantId, StoreId)> =
        std::sync::LazyLock::new(|| (MerchantId::generate(), StoreId::generate()));
    *IDS
}

/// A request for a tenant with a behaviour.
pub fn summary(merchant: MerchantId, store: StoreId, behaviour: &str) -> GetSummaryRequest {
    GetSummaryRequest {
        merchant_id: merchant.to_string(),
        store_id: store.to_string(),
        period: Some(Period {
            time_zone: behaviour.to_owned(),
            ..Period::default()
        }),
    }
}

/// A running server.
pub struct Running {
    pub url: String,
    pub issuer: Issuer,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<Result<(), ServeError>>,
}

/// Starts the canned service.
pub async fn start(canned: Canned, limits: Limits, grace: Duration) -> anyhow::Result<Running> {
    start_as(Issuer::generate(), canned, limits, grace).await
}

/// Starts the canned service with a key that others have as well.
pub async fn start_as(
    issuer: Issuer,
    canned: Canned,
    limits: Limits,
    grace: Duration,
) -> anyhow::Result<Running> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let verifier = Verifier::new(&issuer.jwks_json(), "waybill", "waybill")?;
    let shutdown = CancellationToken::new();
    let server = Server::new("analytics", verifier, limits)
        .grace(grace)
        .add(AnalyticsServiceServer::new(canned.clone()), FILE_DESCRIPTOR_SET)
        .add(OrderServiceServer::new(canned), FILE_DESCRIPTOR_SET);
    let ended = tokio::spawn(server.serve(listener, shutdown.clone()));
    Ok(Running {
        url,
        issuer,
        shutdown,
        ended,
    })
}

impl Running {
    /// A server with defaults.
    pub async fn new() -> anyhow::Result<Running> {
        start(Canned::default(), Limits::default(), SOON).await
    }

    /// A token for the tenant of this process.
    pub fn token(&self, scopes: &[&str]) -> SecretString {
        let (merchant, store) = ids();
        self.issuer.mint(
            &Claims::merchant("ada", merchant, &[store], scopes),
            Duration::from_secs(600),
        )
    }

    /// A channel with a token.
    pub fn channel(&self, token: TokenSource) -> Channel {
        client::connect(&self.url, token, "test").expect("an address")
    }

    /// A channel for the tenant of this process.
    pub fn as_merchant(&self, scopes: &[&str]) -> Channel {
        self.channel(TokenSource::fixed(self.token(scopes)))
    }

    /// A channel for one of Waybill's own services.
    pub fn as_system(&self) -> Channel {
        self.channel(TokenSource::minted(
            self.issuer.clone(),
            Claims::system("test"),
            Duration::from_secs(600),
        ))
    }
}

/// Waits until `count` calls of the canned service wait.
pub async fn until_waiting(canned: &Canned, count: usize) {
    let reached = async {
        while canned.waiting.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("calls arrive");
}

/// Checks that a status keeps the contract of errors.
#[track_caller]
pub fn assert_refused(status: &Status, code: tonic::Code, reason: &str) {
    let info = waybill_rpc::fault::error_info(status);
    assert_eq!(
        (status.code(), info.as_ref().map(|info| info.reason.as_str())),
        (code, Some(reason)),
        "{status:?}"
    );
    let domain = info.map(|info| info.domain);
    assert_eq!(domain.as_deref(), Some("analytics.waybill"), "{status:?}");
}
