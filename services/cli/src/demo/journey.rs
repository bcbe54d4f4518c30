//! What happens to one order of the demo, from shipment or cancellation to its end. Only public RPCs are used, as a
//! platform team would.

use anyhow::Context as _;
use waybill_proto::waybill::fulfillment::v1::{
    CreateShipmentRequest, GetOrderFulfillmentRequest, RecordTrackingRequest, Shipment, ShipmentStatus,
    TrackingResult, TrackingUpdate, tracking_update,
};
use waybill_proto::waybill::order::v1::{
    CancelOrderRequest, GetOrderRequest, NewOrder, Order, OrderStatus, get_order_request,
};
use waybill_proto::waybill::refund::v1::{
    ApproveReturnRequest, GetReturnRequest, ListRefundsRequest, NewReturnLine, ReceiveReturnRequest, Refund,
    RefundState, RequestReturnRequest, Return, ReturnReason, ReturnState,
};

use crate::intake::TakenOrder;
use crate::session::Session;
use crate::wait;

/// What the customer does, told by the order's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Keeps everything.
    Keep,
    /// Cancels before anything ships.
    Cancel,
    /// Sends units of the first line back: so many, or all of all lines.
    Return {
        /// Units of the first line; none means everything.
        units: Option<i32>,
        /// Why.
        reason: ReturnReason,
    },
}

impl Plan {
    /// Reads the plan from tags such as "demo-return-one".
    #[must_use]
    pub fn of(tags: &[String]) -> Self {
        let unwanted = |units| Self::Return {
            units,
            reason: ReturnReason::Unwanted,
        };
        tags.iter()
            .find_map(|tag| match tag.as_str() {
                "demo-cancel" => Some(Self::Cancel),
                "demo-return-one" => Some(unwanted(Some(1))),
                "demo-return-two" => Some(unwanted(Some(2))),
                "demo-return-all" => Some(unwanted(None)),
                "demo-damaged" => Some(Self::Return {
                    units: Some(1),
                    reason: ReturnReason::Damaged,
                }),
                _ => None,
            })
            .unwrap_or(Self::Keep)
    }
}

/// How an order ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The order as it stood in the file.
    pub file: NewOrder,
    /// What the customer did.
    pub plan: Plan,
    /// The order as the order service knows it now.
    pub order: Order,
    /// Its shipment; none when it was cancelled.
    pub shipment: Option<Shipment>,
    /// Its refund, paid.
    pub refund: Option<Refund>,
    /// Its return, completed.
    pub returned: Option<Return>,
}

/// One order on its way.
pub struct Journey<'a> {
    session: &'a Session,
    order: &'a TakenOrder,
}

impl<'a> Journey<'a> {
    /// A journey of an order that was taken.
    #[must_use]
    pub fn new(session: &'a Session, order: &'a TakenOrder) -> Self {
        Self { session, order }
    }

    /// Takes the order to its end.
    pub async fn run(&self) -> anyhow::Result<Ended> {
        let plan = Plan::of(&self.order.imported.order.tags);
        self.walk(plan)
            .await
            .with_context(|| format!("order {}", self.order.imported.order.number))
    }

    async fn walk(&self, plan: Plan) -> anyhow::Result<Ended> {
        let file = self.order.imported.order.clone();
        if plan == Plan::Cancel {
            self.reserved().await?;
            self.cancel().await?;
            let refund = self.paid_refund().await?;
            let order = self.reached(OrderStatus::Cancelled, true).await?;
            return Ok(Ended {
                file,
                plan,
                order,
                shipment: None,
                refund: Some(refund),
                returned: None,
            });
        }
        let shipment = self.ship().await?;
        for status in [
            ShipmentStatus::InTransit,
            ShipmentStatus::OutForDelivery,
            ShipmentStatus::Delivered,
        ] {
            self.track(&shipment, status).await?;
        }
        let Plan::Return { units, reason } = plan else {
            let order = self.reached(OrderStatus::Completed, false).await?;
            return Ok(Ended {
                file,
                plan,
                order,
                shipment: Some(shipment),
                refund: None,
                returned: None,
            });
        };
        let returned = self.send_back(units, reason).await?;
        let refund = self.paid_refund().await?;
        let order = self.reached(OrderStatus::Completed, true).await?;
        Ok(Ended {
            file,
            plan,
            order,
            shipment: Some(shipment),
            refund: Some(refund),
            returned: Some(returned),
        })
    }

    fn request_id(&self, step: &str) -> String {
        format!("demo-{step}-{}", self.order.order_id)
    }

    /// Waits until the warehouse has dealt with the order: one that is cancelled before has nothing to be released, and so
    /// another timeline.
    async fn reserved(&self) -> anyhow::Result<()> {
        let client = self.session.fulfillment()?;
        let request = GetOrderFulfillmentRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            order_id: self.order.order_id.clone(),
            min_order_version: self.order.version,
        };
        wait::call("the warehouse does not know it", &[], || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.get_order_fulfillment(request).await }
        })
        .await?;
        Ok(())
    }

    async fn cancel(&self) -> anyhow::Result<()> {
        let request = CancelOrderRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: self.request_id("cancel"),
            order_id: self.order.order_id.clone(),
            reason: "ordered twice".to_owned(),
            etag: String::new(),
        };
        self.session
            .orders()?
            .cancel_order(request)
            .await
            .context("it could not be cancelled")?;
        Ok(())
    }

    async fn ship(&self) -> anyhow::Result<Shipment> {
        let client = self.session.fulfillment()?;
        let number = self.order.imported.order.number.trim_start_matches('#');
        let request = CreateShipmentRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: self.request_id("ship"),
            order_id: self.order.order_id.clone(),
            carrier: "royal-mail".to_owned(),
            service: "Tracked 48".to_owned(),
            tracking_number: format!("RM{number:0>9}GB"),
            tracking_url: format!("https://www.royalmail.com/track-your-item?n=RM{number:0>9}GB"),
            min_order_version: self.order.version,
            ..CreateShipmentRequest::default()
        };
        wait::call("it could not be shipped", &[], || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.create_shipment(request).await }
        })
        .await?
        .shipment
        .context("the fulfillment service answered without a shipment")
    }

    async fn track(&self, shipment: &Shipment, status: ShipmentStatus) -> anyhow::Result<()> {
        let request = RecordTrackingRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            updates: vec![TrackingUpdate {
                shipment: Some(tracking_update::Shipment::ShipmentId(
                    shipment.shipment_id.clone(),
                )),
                status: status.into(),
                location: "Whitby".to_owned(),
                source_event_id: format!("{}-{}", shipment.shipment_id, status.as_str_name()),
                ..TrackingUpdate::default()
            }],
        };
        let answer = self
            .session
            .fulfillment()?
            .record_tracking(request)
            .await
            .context("a scan was not taken")?;
        let result = answer
            .into_inner()
            .outcomes
            .first()
            .map(|outcome| outcome.result());
        anyhow::ensure!(
            result == Some(TrackingResult::Advanced),
            "the scan {status:?} ended as {result:?}"
        );
        Ok(())
    }

    async fn send_back(&self, units: Option<i32>, reason: ReturnReason) -> anyhow::Result<Return> {
        let lines: Vec<NewReturnLine> = self
            .order
            .lines
            .iter()
            .filter(|line| !line.digital)
            .take(if units.is_some() { 1 } else { usize::MAX })
            .map(|line| NewReturnLine {
                line_id: line.line_id.clone(),
                quantity: units.map_or(line.quantity, |units| units.min(line.quantity)),
                reason: reason.into(),
            })
            .collect();
        let client = self.session.refunds()?;
        let request = RequestReturnRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: self.request_id("return"),
            order_id: self.order.order_id.clone(),
            lines,
            min_order_version: self.order.version,
        };
        // The refund service hears of the delivery by event; until then the goods are not returnable.
        let returned = wait::call("its return was refused", &["NOT_RETURNABLE"], || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.request_return(request).await }
        })
        .await?
        .r#return
        .context("the refund service answered without a return")?;
        if returned.state() == ReturnState::Requested {
            self.approve(&returned).await?;
        }
        self.receive(&returned).await?;
        self.completed(&returned).await
    }

    async fn approve(&self, returned: &Return) -> anyhow::Result<()> {
        let request = ApproveReturnRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: self.request_id("approve"),
            return_id: returned.return_id.clone(),
            etag: String::new(),
        };
        self.session
            .refunds()?
            .approve_return(request)
            .await
            .context("its return could not be approved")?;
        Ok(())
    }

    async fn receive(&self, returned: &Return) -> anyhow::Result<()> {
        let request = ReceiveReturnRequest {
            merchant_id: self.session.merchant_id.clone(),
            store_id: self.session.store_id.clone(),
            request_id: self.request_id("receive"),
            return_id: returned.return_id.clone(),
            lines: Vec::new(),
            etag: String::new(),
        };
        self.session
            .refunds()?
            .receive_return(request)
            .await
            .context("its return could not be received")?;
        Ok(())
    }

    async fn completed(&self, returned: &Return) -> anyhow::Result<Return> {
        let client = self.session.refunds()?;
        wait::until("the end of the return", || {
            let mut client = client.clone();
            let request = GetReturnRequest {
                merchant_id: self.session.merchant_id.clone(),
                store_id: self.session.store_id.clone(),
                return_id: returned.return_id.clone(),
            };
            async move {
                let found = client.get_return(request).await?.into_inner().r#return;
                Ok(found.filter(|found| found.state() == ReturnState::Completed))
            }
        })
        .await
    }

    async fn paid_refund(&self) -> anyhow::Result<Refund> {
        let client = self.session.refunds()?;
        wait::until("the refund", || {
            let mut client = client.clone();
            let request = ListRefundsRequest {
                merchant_id: self.session.merchant_id.clone(),
                store_id: self.session.store_id.clone(),
                order_id: self.order.order_id.clone(),
                ..ListRefundsRequest::default()
            };
            async move {
                let refunds = client.list_refunds(request).await?.into_inner().refunds;
                Ok(refunds
                    .into_iter()
                    .find(|refund| refund.state() == RefundState::Succeeded))
            }
        })
        .await
    }

    /// Waits until the order is in this state and, where money went back, knows of it.
    async fn reached(&self, status: OrderStatus, refunded: bool) -> anyhow::Result<Order> {
        let client = self.session.orders()?;
        wait::until("the end of the order", || {
            let mut client = client.clone();
            let request = GetOrderRequest {
                merchant_id: self.session.merchant_id.clone(),
                store_id: self.session.store_id.clone(),
                key: Some(get_order_request::Key::OrderId(self.order.order_id.clone())),
            };
            async move {
                let order = client.get_order(request).await?.into_inner().order;
                Ok(order.filter(|order| {
                    let back = order.refunded.as_ref().map_or(0, |money| money.minor_units);
                    order.status() == status && (back > 0) == refunded
                }))
            }
        })
        .await
    }
}
