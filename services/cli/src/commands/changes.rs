//! `waybill orders update|hold|release|cancel`

use anyhow::Context as _;
use waybill_proto::waybill::order::v1::{
    CancelOrderLinesRequest, CancelOrderRequest, Customer, HoldOrderRequest, HoldReason, LineUnits, Order,
    OrderUpdate, ReleaseOrderRequest, UpdateOrderRequest,
};
use waybill_proto::waybill::r#type::v1::Address;

use super::orders::show;
use crate::args::{AddressArgs, CancelArgs, HoldArgs, HoldReasonArg, ReleaseArgs, UpdateArgs};
use crate::output::{self, line, money};
use crate::session::Session;

const NO_ORDER: &str = "the order service answered without an order";

/// Changes what may change about an order. It must not have changed since it was read for this.
pub async fn update(session: &Session, args: UpdateArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let (update, paths) = changes(args, &order)?;
    anyhow::ensure!(!paths.is_empty(), "name what is to change; --help lists what can");
    let request = UpdateOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id,
        update: Some(update),
        update_mask: Some(prost_types::FieldMask { paths }),
        etag: order.etag,
    };
    let answer = session.orders()?.update_order(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.order.context(NO_ORDER)?);
    Ok(())
}

/// The new values and the paths of those that were given.
fn changes(args: UpdateArgs, order: &Order) -> anyhow::Result<(OrderUpdate, Vec<String>)> {
    let mut paths = Vec::new();
    let mut given = |path: &str, is: bool| {
        if is {
            paths.push(path.to_owned());
        }
    };
    given("customer.email", args.email.is_some());
    given("customer.name", args.name.is_some());
    given("customer.phone", args.phone.is_some());
    given("note", args.note.is_some());
    given("tags", !args.tags.is_empty());
    given("attributes", !args.attributes.is_empty());
    let address = address(args.ship_to, order.shipping_address.clone().unwrap_or_default());
    given("shipping_address", address.is_some());
    let update = OrderUpdate {
        customer: Some(Customer {
            email: args.email.unwrap_or_default(),
            name: args.name.unwrap_or_default(),
            phone: args.phone.unwrap_or_default(),
            ..Customer::default()
        }),
        shipping_address: address,
        note: args.note.unwrap_or_default(),
        tags: args.tags,
        attributes: (args.attributes.iter().map(|pair| attribute(pair))).collect::<anyhow::Result<_>>()?,
        ..OrderUpdate::default()
    };
    Ok((update, paths))
}

fn attribute(pair: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = pair
        .split_once('=')
        .with_context(|| format!("--attribute {pair:?}: use KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The present address with the parts that were given; none when no part was.
fn address(args: AddressArgs, present: Address) -> Option<Address> {
    let mut address = present.clone();
    let parts = [
        (args.ship_to, &mut address.name),
        (args.city, &mut address.city),
        (args.region, &mut address.region),
        (args.postal_code, &mut address.postal_code),
        (args.country, &mut address.country_code),
    ];
    let mut given = !args.street.is_empty();
    for (part, field) in parts {
        if let Some(part) = part {
            *field = part;
            given = true;
        }
    }
    if !args.street.is_empty() {
        address.lines = args.street;
    }
    given.then_some(address)
}

/// Stops an order.
pub async fn hold(session: &Session, args: HoldArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let reason = match args.reason {
        HoldReasonArg::Address => HoldReason::Address,
        HoldReasonArg::PaymentReview => HoldReason::PaymentReview,
        HoldReasonArg::Fraud => HoldReason::Fraud,
        HoldReasonArg::AwaitingStock => HoldReason::AwaitingStock,
        HoldReasonArg::Manual => HoldReason::Manual,
    };
    let request = HoldOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id,
        reason: reason.into(),
        note: args.note,
        etag: order.etag,
    };
    let answer = session.orders()?.hold_order(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.order.context(NO_ORDER)?);
    Ok(())
}

/// Ends holds of an order.
pub async fn release(session: &Session, args: ReleaseArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let request = ReleaseOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id,
        hold_id: args.hold,
        note: args.note,
        etag: order.etag,
    };
    let answer = session.orders()?.release_order(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.order.context(NO_ORDER)?);
    Ok(())
}

/// Cancels an order, or units of it.
pub async fn cancel(session: &Session, args: CancelArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    if !args.lines.is_empty() {
        return cancel_lines(session, args, &order, json).await;
    }
    let request = CancelOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id,
        reason: args.reason,
        etag: order.etag,
    };
    let answer = session.orders()?.cancel_order(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(&answer.order.context(NO_ORDER)?);
    Ok(())
}

async fn cancel_lines(session: &Session, args: CancelArgs, order: &Order, json: bool) -> anyhow::Result<()> {
    let request = CancelOrderLinesRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id.clone(),
        lines: (args.lines.iter().map(|named| units(named, order))).collect::<anyhow::Result<_>>()?,
        reason: args.reason,
        restock: Some(!args.lost),
        etag: order.etag.clone(),
    };
    let answer = session.orders()?.cancel_order_lines(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    if let Some(cancellation) = &answer.cancellation {
        line(format!(
            "the order costs {} less",
            money(cancellation.amount.as_ref())
        ));
    }
    show(&answer.order.context(NO_ORDER)?);
    Ok(())
}

/// `LINE=UNITS`, where the line is an id or a sku that one line alone has.
fn units(named: &str, order: &Order) -> anyhow::Result<LineUnits> {
    let (name, units) = named
        .rsplit_once('=')
        .with_context(|| format!("--line {named:?}: use LINE=UNITS"))?;
    let quantity = units
        .parse()
        .with_context(|| format!("--line {named:?}: {units:?} is no number of units"))?;
    Ok(LineUnits {
        line_id: line_id("--line", name, order)?,
        quantity,
    })
}

/// The line that is named by its id, or by a sku that one line alone has.
pub(super) fn line_id(option: &str, name: &str, order: &Order) -> anyhow::Result<String> {
    let by_sku = order.lines.iter().filter(|item| item.sku == name);
    let lines: Vec<&str> = by_sku.map(|item| item.line_id.as_str()).collect();
    match lines.as_slice() {
        [] => Ok(name.to_owned()),
        [only] => Ok((*only).to_owned()),
        several => anyhow::bail!(
            "{option} {name:?}: {} lines have this sku; name one of {}",
            several.len(),
            several.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use waybill_proto::waybill::order::v1::OrderLine;

    use super::*;

    fn order() -> Order {
        let item = |line_id: &str, sku: &str| OrderLine {
            line_id: line_id.to_owned(),
            sku: sku.to_owned(),
            ..OrderLine::default()
        };
        Order {
            lines: vec![item("1", "TEA"), item("2", "MUG"), item("3", "MUG")],
            ..Order::default()
        }
    }

    #[test]
    fn lines_are_named_by_id_or_by_a_sku_of_their_own() {
        let tea = units("TEA=2", &order()).expect("one line has it");
        assert_eq!((tea.line_id.as_str(), tea.quantity), ("1", 2));
        let by_id = units("3=1", &order()).expect("an id");
        assert_eq!(by_id.line_id, "3");
        let both = units("MUG=1", &order())
            .expect_err("two lines have it")
            .to_string();
        assert!(both.contains("name one of 2, 3"), "{both}");
        assert!(units("TEA", &order()).is_err());
        assert!(units("TEA=many", &order()).is_err());
    }

    #[test]
    fn an_address_is_changed_in_parts() {
        let present = Address {
            name: "Jo".to_owned(),
            city: "Hamburg".to_owned(),
            ..Address::default()
        };
        let none = AddressArgs {
            ship_to: None,
            street: Vec::new(),
            city: None,
            region: None,
            postal_code: None,
            country: None,
        };
        assert_eq!(address(none, present.clone()), None);
        let moved = AddressArgs {
            ship_to: None,
            street: vec!["Long Street 1".to_owned()],
            city: Some("Kiel".to_owned()),
            region: None,
            postal_code: None,
            country: None,
        };
        let changed = address(moved, present).expect("two parts were given");
        assert_eq!((changed.name.as_str(), changed.city.as_str()), ("Jo", "Kiel"));
        assert_eq!(changed.lines, ["Long Street 1"]);
    }
}
