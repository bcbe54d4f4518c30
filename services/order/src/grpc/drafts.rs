//! Orders that are being made. They are kept as the contract's own message, and read by the rules of placement whenever
//! somebody looks at them.

use chrono::TimeDelta;
use prost::Message as _;
use tonic::Request;
use waybill_kernel::check::Violations;
use waybill_kernel::id::DraftId;
use waybill_kernel::page::page_size;
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::order::v1::draft_order_service_server::DraftOrderService;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert::{self, to_money, to_timestamp};
use waybill_store::StoreError;

use super::{Answer, answer, in_order, parse, view};
use crate::app::{Handed, Orders, ThisDraft};
use crate::domain::draft::{DRAFT_SYSTEM, Draft, KeptDraft, Quote, Stage};
use crate::domain::limits;
use crate::domain::order::Tenant;
use crate::error::Error;

/// Drafts on a page when a caller says nothing, and at most.
const PAGE: (i64, i64) = (50, 200);

/// Bytes of a draft; the table says so, too.
const MAX_DRAFT_BYTES: usize = 512 * 1024;

/// Names of the methods, as request keys hold them.
mod rpc {
    pub(super) const CREATE: &str = "waybill.order.v1.DraftOrderService/CreateDraftOrder";
    pub(super) const UPDATE: &str = "waybill.order.v1.DraftOrderService/UpdateDraftOrder";
    pub(super) const DELETE: &str = "waybill.order.v1.DraftOrderService/DeleteDraftOrder";
    pub(super) const PLACE: &str = "waybill.order.v1.DraftOrderService/PlaceDraftOrder";
}

/// The service as tonic serves it.
pub(crate) struct DraftGrpc {
    pub(crate) orders: Orders,
}

#[tonic::async_trait]
impl DraftOrderService for DraftGrpc {
    async fn create_draft_order(
        &self,
        request: Request<proto::CreateDraftOrderRequest>,
    ) -> Answer<proto::CreateDraftOrderResponse> {
        let caller = convert::context(&request)?;
        let created = self.create(&caller, request.into_inner()).await;
        answer(created.map(|draft| proto::CreateDraftOrderResponse { draft: Some(draft) }))
    }

    async fn update_draft_order(
        &self,
        request: Request<proto::UpdateDraftOrderRequest>,
    ) -> Answer<proto::UpdateDraftOrderResponse> {
        let caller = convert::context(&request)?;
        let updated = self.update(&caller, request.into_inner()).await;
        answer(updated.map(|draft| proto::UpdateDraftOrderResponse { draft: Some(draft) }))
    }

    async fn get_draft_order(
        &self,
        request: Request<proto::GetDraftOrderRequest>,
    ) -> Answer<proto::GetDraftOrderResponse> {
        let found = self.get(&request.into_inner()).await;
        answer(found.map(|draft| proto::GetDraftOrderResponse { draft: Some(draft) }))
    }

    async fn list_draft_orders(
        &self,
        request: Request<proto::ListDraftOrdersRequest>,
    ) -> Answer<proto::ListDraftOrdersResponse> {
        answer(self.list(&request.into_inner()).await)
    }

    async fn delete_draft_order(
        &self,
        request: Request<proto::DeleteDraftOrderRequest>,
    ) -> Answer<proto::DeleteDraftOrderResponse> {
        let caller = convert::context(&request)?;
        let deleted = self.delete(&caller, request.into_inner()).await;
        answer(deleted.map(|()| proto::DeleteDraftOrderResponse {}))
    }

    async fn price_order(
        &self,
        request: Request<proto::PriceOrderRequest>,
    ) -> Answer<proto::PriceOrderResponse> {
        answer(self.price(request.into_inner()))
    }

    async fn place_draft_order(
        &self,
        request: Request<proto::PlaceDraftOrderRequest>,
    ) -> Answer<proto::PlaceDraftOrderResponse> {
        let caller = convert::context(&request)?;
        let placed = self.place(&caller, request.into_inner()).await;
        answer(placed.map(|order| proto::PlaceDraftOrderResponse { order: Some(order) }))
    }
}

impl DraftGrpc {
    async fn create(
        &self,
        caller: &Caller,
        mut request: proto::CreateDraftOrderRequest,
    ) -> Result<proto::DraftOrder, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let key = tenant.zip(request_id).map(|(tenant, request_id)| {
            parse::request_key(caller, tenant.merchant, rpc::CREATE, &request_id, &request)
        });
        let handed = handed_in(request.order, &mut v)?;
        let ((tenant, key), handed) = parse::checked(tenant.zip(key).zip(handed), v)?;
        let kept = self.orders.create_draft(&key, tenant, &handed).await?;
        self.shown(kept)
    }

    async fn update(
        &self,
        caller: &Caller,
        mut request: proto::UpdateDraftOrderRequest,
    ) -> Result<proto::DraftOrder, Error> {
        let mut v = Violations::new();
        let this = this(
            &request.merchant_id,
            &request.store_id,
            &request.draft_id,
            &request.etag,
            &mut v,
        );
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let key = this.as_ref().zip(request_id).map(|(this, request_id)| {
            parse::request_key(caller, this.tenant.merchant, rpc::UPDATE, &request_id, &request)
        });
        let handed = handed_in(request.order, &mut v)?;
        let ((this, key), handed) = parse::checked(this.zip(key).zip(handed), v)?;
        let kept = self.orders.update_draft(&key, &this, &handed).await?;
        self.shown(kept)
    }

    async fn get(&self, request: &proto::GetDraftOrderRequest) -> Result<proto::DraftOrder, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let draft = convert::id("draft_id", &request.draft_id, &mut v);
        let (tenant, draft) = parse::checked(tenant.zip(draft), v)?;
        self.shown(self.orders.draft(tenant, draft).await?)
    }

    async fn list(
        &self,
        request: &proto::ListDraftOrdersRequest,
    ) -> Result<proto::ListDraftOrdersResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let placed = match proto::DraftStatus::try_from(request.status) {
            Ok(proto::DraftStatus::Unspecified) => Some(None),
            Ok(proto::DraftStatus::Open) => Some(Some(false)),
            Ok(proto::DraftStatus::Placed) => Some(Some(true)),
            Err(_) => {
                v.push("status", format!("{} is no status of a draft", request.status));
                None
            }
        };
        let size = page_size(request.page_size, PAGE.0, PAGE.1).map_err(|fault| v.extend([fault]));
        let ((tenant, placed), size) = parse::checked(tenant.zip(placed).zip(size.ok()), v)?;
        let page = self
            .orders
            .drafts(tenant, placed, size, &request.page_token)
            .await?;
        Ok(proto::ListDraftOrdersResponse {
            drafts: page.drafts.iter().map(|kept| self.headline(kept)).collect(),
            next_page_token: page.next,
        })
    }

    async fn delete(
        &self,
        caller: &Caller,
        mut request: proto::DeleteDraftOrderRequest,
    ) -> Result<(), Error> {
        let mut v = Violations::new();
        let this = this(
            &request.merchant_id,
            &request.store_id,
            &request.draft_id,
            &request.etag,
            &mut v,
        );
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let (this, request_id) = parse::checked(this.zip(request_id), v)?;
        let merchant = this.tenant.merchant;
        let key = parse::request_key(caller, merchant, rpc::DELETE, &request_id, &request);
        self.orders.delete_draft(&key, &this).await
    }

    fn price(&self, request: proto::PriceOrderRequest) -> Result<proto::PriceOrderResponse, Error> {
        let mut v = Violations::new();
        let tenant = parse::tenant(&request.merchant_id, &request.store_id, &mut v);
        let tenant = parse::checked(tenant, v)?;
        let order = request.order.unwrap_or_default();
        let (priced, quote) = self.quote(tenant, order, "price");
        Ok(proto::PriceOrderResponse {
            total: quote.total.map(to_money),
            priced,
            problems: problems(quote.faults),
        })
    }

    async fn place(
        &self,
        caller: &Caller,
        mut request: proto::PlaceDraftOrderRequest,
    ) -> Result<proto::Order, Error> {
        let mut v = Violations::new();
        let this = this(
            &request.merchant_id,
            &request.store_id,
            &request.draft_id,
            &request.etag,
            &mut v,
        );
        v.require(
            !request.etag.is_empty(),
            "etag",
            "is missing; give that of the draft as it was agreed to",
        );
        let request_id = convert::request_id(&std::mem::take(&mut request.request_id), &mut v);
        let (this, request_id) = parse::checked(this.zip(request_id), v)?;
        let (tenant, draft) = (this.tenant, this.draft);
        let key = parse::request_key(caller, tenant.merchant, rpc::PLACE, &request_id, &request);
        let candidate = match self.orders.draft_to_place(&this).await? {
            None => None,
            Some(content) => {
                let order = proto::NewOrder::decode(content.as_slice()).map_err(StoreError::decode)?;
                let mut v = Violations::new();
                let mut order = read(order, &draft.to_string(), &mut v);
                if let Some(order) = &mut order {
                    Orders::ask_total(order);
                }
                let order = parse::checked(order, v)?;
                let candidate = self.orders.candidate(key.clone(), tenant, order);
                Some(candidate.map_err(in_order)?)
            }
        };
        let order = self.orders.place_draft(&key, &this, candidate).await?;
        Ok(view::order(order))
    }

    /// A draft as it is answered with, priced now.
    fn shown(&self, kept: KeptDraft) -> Result<proto::DraftOrder, Error> {
        let headline = self.headline(&kept);
        let Stage::Open(content) = kept.stage else {
            return Ok(headline);
        };
        let order = proto::NewOrder::decode(content.as_slice()).map_err(StoreError::decode)?;
        let (priced, quote) = self.quote(kept.tenant, order.clone(), &kept.id.to_string());
        Ok(proto::DraftOrder {
            total: quote.total.map(to_money),
            order: Some(order),
            priced,
            problems: problems(quote.faults),
            ..headline
        })
    }

    /// What an order would be if it were placed now, and as it is shown.
    fn quote(&self, tenant: Tenant, order: proto::NewOrder, draft: &str) -> (Option<proto::Order>, Quote) {
        let mut v = Violations::new();
        let quote = match read(order, draft, &mut v) {
            Some(order) => self.orders.quote(tenant, order, v),
            None => Quote {
                total: None,
                order: None,
                faults: v,
            },
        };
        (quote.order.clone().map(without_ids), quote)
    }

    /// A draft without what was handed in.
    fn headline(&self, kept: &KeptDraft) -> proto::DraftOrder {
        let keep = self.orders.kept_for(&kept.stage);
        let keep = TimeDelta::from_std(keep).unwrap_or(TimeDelta::MAX);
        proto::DraftOrder {
            expires_at: kept.updated_at.checked_add_signed(keep).map(to_timestamp),
            ..headline(kept)
        }
    }
}

/// A draft without what was handed in, and without the time until which it is kept.
fn headline(kept: &KeptDraft) -> proto::DraftOrder {
    let (status, order_id) = match &kept.stage {
        Stage::Open(_) => (proto::DraftStatus::Open, String::new()),
        Stage::Placed(order) => (proto::DraftStatus::Placed, order.to_string()),
    };
    proto::DraftOrder {
        draft_id: kept.id.to_string(),
        merchant_id: kept.tenant.merchant.to_string(),
        store_id: kept.tenant.store.to_string(),
        etag: kept.etag(),
        status: status.into(),
        order_id,
        created_at: Some(to_timestamp(kept.created_at)),
        updated_at: Some(to_timestamp(kept.updated_at)),
        total: kept.total.map(to_money),
        ..proto::DraftOrder::default()
    }
}

/// A draft with what was handed in, and nothing that is worked out.
pub(super) fn as_handed_in(kept: KeptDraft) -> Result<proto::DraftOrder, Error> {
    let headline = headline(&kept);
    let Stage::Open(content) = kept.stage else {
        return Ok(headline);
    };
    let order = proto::NewOrder::decode(content.as_slice()).map_err(StoreError::decode)?;
    Ok(proto::DraftOrder {
        order: Some(order),
        ..headline
    })
}

/// The draft that a request names.
fn this(
    merchant_id: &str,
    store_id: &str,
    draft_id: &str,
    etag: &str,
    v: &mut Violations,
) -> Option<ThisDraft> {
    let tenant = parse::tenant(merchant_id, store_id, v);
    let draft: Option<DraftId> = convert::id("draft_id", draft_id, v);
    limits::text(v, "etag", etag, 100);
    Some(ThisDraft {
        tenant: tenant?,
        draft: draft?,
        etag: etag.to_owned(),
    })
}

/// An order as it was handed in. What cannot be read is refused; what is missing is not.
fn handed_in(order: Option<proto::NewOrder>, v: &mut Violations) -> Result<Option<Handed>, Error> {
    let Some(order) = order else {
        v.push("order", "is required");
        return Ok(None);
    };
    let bytes = order.encoded_len();
    if bytes > MAX_DRAFT_BYTES {
        return Err(Error::DraftTooLarge {
            bytes,
            most: MAX_DRAFT_BYTES,
        });
    }
    let content = order.encode_to_vec();
    let draft = read(order, "new", v);
    if let Some(draft) = &draft {
        // A draft is found by these.
        let customer = &draft.contact.customer;
        v.nested("order.customer", |v| {
            limits::text(v, "email", &customer.email, limits::MAX_EMAIL);
            limits::text(v, "external_id", &customer.external_id, limits::MAX_EXTERNAL_ID);
        });
    }
    Ok(draft.map(|draft| Handed { content, draft }))
}

/// Reads an order; without a source it comes from this draft.
fn read(mut order: proto::NewOrder, draft: &str, v: &mut Violations) -> Option<Draft> {
    order.source.get_or_insert_with(|| proto::OrderSource {
        system: DRAFT_SYSTEM.to_owned(),
        external_id: draft.to_owned(),
    });
    parse::draft(Some(order), v)
}

/// An order that is none yet.
fn without_ids(order: crate::domain::order::Order) -> proto::Order {
    let mut order = view::order(order);
    order.order_id.clear();
    order.etag.clear();
    for line in &mut order.lines {
        line.line_id.clear();
    }
    for line in &mut order.shipping_lines {
        line.line_id.clear();
    }
    for hold in &mut order.holds {
        hold.hold_id.clear();
    }
    order
}

/// Faults by the fields of the order.
fn problems(faults: Violations) -> Vec<proto::DraftProblem> {
    let faults = limits::listed(faults);
    let named = faults.iter().map(|fault| proto::DraftProblem {
        field: fault
            .field
            .strip_prefix("order.")
            .unwrap_or(&fault.field)
            .to_owned(),
        description: fault.description.clone(),
    });
    named.collect()
}
