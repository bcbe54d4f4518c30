//! Customers: what is held of them, and forgetting it.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Status as Refusal};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::customer_ref::Key;
use waybill_proto::waybill::order::v1::customer_service_server::CustomerService;
use waybill_rpc::auth::{Caller, StoreScope};
use waybill_rpc::convert::{self, to_timestamp};
use waybill_rpc::fault::to_status;

use super::{Answer, answer, drafts, parse, view};
use crate::app::{CustomerExport, Held, Orders, Thing, Whose};
use crate::domain::limits;
use crate::domain::privacy::{Erasure, Person, Progress, Wait};
use crate::error::Error;

/// The method's name, as request keys hold it.
const ERASE_CUSTOMER: &str = "waybill.order.v1.CustomerService/EraseCustomer";

/// The service as tonic serves it.
pub(crate) struct CustomerGrpc {
    pub(crate) orders: Orders,
}

/// The stream of what is held of a customer.
type Exporting = Pin<Box<dyn Stream<Item = Result<proto::ExportCustomerDataResponse, Refusal>> + Send>>;

#[tonic::async_trait]
impl CustomerService for CustomerGrpc {
    type ExportCustomerDataStream = Exporting;

    async fn export_customer_data(
        &self,
        request: Request<proto::ExportCustomerDataRequest>,
    ) -> Answer<Self::ExportCustomerDataStream> {
        let caller = convert::context(&request)?;
        answer(self.export(&caller, request.into_inner()).await)
    }

    async fn erase_customer(
        &self,
        request: Request<proto::EraseCustomerRequest>,
    ) -> Answer<proto::EraseCustomerResponse> {
        let caller = convert::context(&request)?;
        let erased = self.erase(&caller, request.into_inner()).await;
        answer(erased.map(|erasure| proto::EraseCustomerResponse {
            erasure: Some(shown(erasure)),
        }))
    }

    async fn get_erasure(
        &self,
        request: Request<proto::GetErasureRequest>,
    ) -> Answer<proto::GetErasureResponse> {
        let caller = convert::context(&request)?;
        let found = self.get(&caller, &request.into_inner()).await;
        answer(found.map(|erasure| proto::GetErasureResponse {
            erasure: Some(shown(erasure)),
        }))
    }
}

impl CustomerGrpc {
    async fn export(
        &self,
        caller: &Caller,
        request: proto::ExportCustomerDataRequest,
    ) -> Result<Exporting, Error> {
        let mut v = Violations::new();
        let whose = whose(caller, &request.merchant_id, request.customer, &mut v);
        let whose = parse::checked(whose, v)?;
        let export = self.orders.export_customer(whose, &request.cursor).await?;
        // An error ends the stream: the caller goes on from its last cursor.
        let steps = stream::unfold(Some(export), |export| async {
            let mut export: CustomerExport = export?;
            match export.next().await {
                Ok(Some(held)) => match handed_out(held) {
                    Ok(step) => Some((Ok(step), Some(export))),
                    Err(error) => Some((Err(to_status(&error)), None)),
                },
                Ok(None) => None,
                Err(error) => Some((Err(to_status(&error)), None)),
            }
        });
        Ok(Box::pin(steps))
    }

    async fn erase(
        &self,
        caller: &Caller,
        mut request: proto::EraseCustomerRequest,
    ) -> Result<Erasure, Error> {
        let mut v = Violations::new();
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let whose = whose(caller, &request.merchant_id, request.customer.take(), &mut v);
        let (request_id, whose) = parse::checked(request_id.zip(whose), v)?;
        // The hash of a request outlives the erasure. That of an address can be guessed, that of its keyed hash cannot.
        let keyed = self.orders.customers.keyed(whose.merchant, &whose.person);
        request.customer = Some(proto::CustomerRef {
            key: Some(Key::ExternalId(keyed)),
        });
        let key = parse::request_key(caller, whose.merchant, ERASE_CUSTOMER, &request_id, &request);
        self.orders.erase(&key, whose).await
    }

    async fn get(&self, caller: &Caller, request: &proto::GetErasureRequest) -> Result<Erasure, Error> {
        let mut v = Violations::new();
        let merchant: Option<MerchantId> = convert::id("merchant_id", &request.merchant_id, &mut v);
        let erasure = convert::id("erasure_id", &request.erasure_id, &mut v);
        let (merchant, erasure) = parse::checked(merchant.zip(erasure), v)?;
        self.orders
            .erasure(merchant, stores(caller).as_deref(), erasure)
            .await
    }
}

/// The stores that a caller may name; none for all of the merchant.
fn stores(caller: &Caller) -> Option<Vec<StoreId>> {
    match &caller.stores {
        StoreScope::List(stores) => Some(stores.iter().copied().collect()),
        StoreScope::All => None,
    }
}

/// The customer that a request names.
fn whose(
    caller: &Caller,
    merchant_id: &str,
    customer: Option<proto::CustomerRef>,
    v: &mut Violations,
) -> Option<Whose> {
    let merchant = convert::id("merchant_id", merchant_id, v);
    let person = v.nested("customer", |v| match customer.and_then(|customer| customer.key) {
        Some(Key::Email(email)) => {
            limits::required(v, "email", &email, limits::MAX_EMAIL);
            Some(Person::Email(email))
        }
        Some(Key::ExternalId(id)) => {
            limits::required(v, "external_id", &id, limits::MAX_EXTERNAL_ID);
            Some(Person::ExternalId(id))
        }
        Some(Key::OrderId(id)) => convert::id("order_id", &id, v).map(Person::Order),
        None => {
            v.push("", "is missing; give one of email, external_id and order_id");
            None
        }
    });
    Some(Whose {
        merchant: merchant?,
        stores: stores(caller),
        person: person?,
    })
}

fn handed_out(held: Held) -> Result<proto::ExportCustomerDataResponse, Error> {
    let cursor = held.cursor;
    Ok(match held.thing {
        Thing::Order(order, customer_key) => proto::ExportCustomerDataResponse {
            cursor,
            order: Some(view::order(*order)),
            customer_key,
            draft: None,
        },
        Thing::Draft(draft) => proto::ExportCustomerDataResponse {
            cursor,
            draft: Some(drafts::as_handed_in(draft)?),
            ..proto::ExportCustomerDataResponse::default()
        },
    })
}

fn shown(erasure: Erasure) -> proto::Erasure {
    let state = match erasure.progress {
        Progress::Collecting => proto::ErasureState::Collecting,
        Progress::Running => proto::ErasureState::Running,
        Progress::Waiting => proto::ErasureState::Waiting,
        Progress::Done => proto::ErasureState::Done,
    };
    let waiting = erasure.waiting.into_iter().map(|order| proto::WaitingOrder {
        order_id: order.order.to_string(),
        store_id: order.store.to_string(),
        number: order.number,
        waits_for: match order.wait {
            Wait::Open => proto::ErasureWait::Open,
            Wait::OnHold => proto::ErasureWait::OnHold,
            Wait::Return => proto::ErasureWait::Return,
            Wait::Refund => proto::ErasureWait::Refund,
        }
        .into(),
    });
    proto::Erasure {
        erasure_id: erasure.id.to_string(),
        store_ids: erasure.stores.iter().map(StoreId::to_string).collect(),
        state: state.into(),
        orders: erasure.orders,
        erased: erasure.erased,
        waiting: waiting.collect(),
        requested_at: Some(to_timestamp(erasure.requested_at)),
        finished_at: erasure.finished_at.map(to_timestamp),
    }
}
