//! `waybill orders edit`

use anyhow::Context as _;
use waybill_kernel::money::{Currency, Money as Amount};
use waybill_proto::waybill::order::v1::{
    EditDifference, EditOrderRequest, LineQuantity, MoreUnits, NewOrderLine, Order, OrderEdit,
    PreviewOrderEditRequest, TaxLine,
};
use waybill_proto::waybill::r#type::v1::Money;

use super::changes::line_id;
use super::orders::show;
use crate::args::EditArgs;
use crate::output::{self, line, money, table};
use crate::session::Session;

/// Shows what an edit would make of an order, and with `--commit` makes it so, exactly or not at all.
pub async fn edit(session: &Session, args: EditArgs, json: bool) -> anyhow::Result<()> {
    let order = session.order(&args.order.order).await?;
    let edit = wanted(&args, &order)?;
    let request = PreviewOrderEditRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        order_id: order.order_id.clone(),
        edit: Some(edit.clone()),
    };
    let preview = session.orders()?.preview_order_edit(request).await?.into_inner();
    if json && (!args.commit || !preview.violations.is_empty()) {
        output::json(&preview)?;
    }
    if !preview.violations.is_empty() {
        if !json {
            line(
                table(
                    &["what", "why not"],
                    (preview.violations.iter()).map(|fault| [fault.field.clone(), fault.description.clone()]),
                )
                .to_string(),
            );
        }
        anyhow::bail!("order {} cannot be edited so", order.number);
    }
    if !json {
        difference(&order, &preview.difference.unwrap_or_default());
    }
    if !args.commit {
        if !json {
            line("nothing was changed; --commit --reason WHY changes it");
        }
        return Ok(());
    }
    let request = EditOrderRequest {
        merchant_id: session.merchant_id.clone(),
        store_id: session.store_id.clone(),
        request_id: super::request_id(),
        order_id: order.order_id,
        edit: Some(edit),
        reason: args.reason,
        restock: Some(!args.lost),
        etag: String::new(),
        preview_token: preview.preview_token,
    };
    let answer = session.orders()?.edit_order(request).await?.into_inner();
    if json {
        return output::json(&answer);
    }
    show(
        &answer
            .order
            .context("the order service answered without an order")?,
    );
    Ok(())
}

/// Prints what is different: a row for each line, then the sums.
fn difference(order: &Order, of: &EditDifference) {
    let added = of.added.iter().map(|item| {
        [
            item.sku.clone(),
            item.title.clone(),
            format!("+{}", item.quantity),
            format!("+{}", money(item.total.as_ref())),
        ]
    });
    let removed = of.removed.iter().map(|units| {
        let item = order.lines.iter().find(|item| item.line_id == units.line_id);
        let cost = Money {
            minor_units: minor(units.net.as_ref()) + minor(units.tax.as_ref()),
            currency_code: order.currency_code.clone(),
        };
        [
            item.map(|item| item.sku.clone()).unwrap_or_default(),
            item.map(|item| item.title.clone()).unwrap_or_default(),
            format!("-{}", units.quantity),
            format!("-{}", money(Some(&cost))),
        ]
    });
    line(table(&["sku", "title", ">units", ">amount"], added.chain(removed)).to_string());
    line(
        table(
            &["sum", ">amount"],
            [
                ("to pay before", &of.due_before),
                ("added", &of.added_total),
                ("removed", &of.removed_total),
                ("to pay after", &of.due_after),
                ("still to be captured", &of.open),
                ("goes back", &of.overpaid),
            ]
            .map(|(name, amount)| [name.to_owned(), money(amount.as_ref())]),
        )
        .to_string(),
    );
}

fn minor(money: Option<&Money>) -> i64 {
    money.map_or(0, |money| money.minor_units)
}

fn wanted(args: &EditArgs, order: &Order) -> anyhow::Result<OrderEdit> {
    let edit = OrderEdit {
        add: (args.add.iter().map(|text| new_line(text, order))).collect::<anyhow::Result<_>>()?,
        remove_line_ids: (args.remove.iter())
            .map(|name| line_id("--remove", name, order))
            .collect::<anyhow::Result<_>>()?,
        quantities: (args.quantities.iter())
            .map(|text| quantity(text, order))
            .collect::<anyhow::Result<_>>()?,
    };
    anyhow::ensure!(
        edit != OrderEdit::default(),
        "name what is to change: --add, --remove or --quantity"
    );
    Ok(edit)
}

/// `NAME=UNITS[@PRICE][+TAX]`, read.
struct Told<'a> {
    name: &'a str,
    units: i32,
    price: Option<Money>,
    tax: Option<Money>,
}

fn told<'a>(option: &str, text: &'a str, order: &Order) -> anyhow::Result<Told<'a>> {
    let form = || format!("{option} {text:?}: use NAME=UNITS@PRICE+TAX, such as TEA-1=2@4.50+0.72");
    let currency = Currency::parse(&order.currency_code)?;
    let amount = |text: &str| -> anyhow::Result<Money> {
        let amount = Amount::parse_decimal(text, currency).with_context(form)?;
        Ok(Money {
            currency_code: order.currency_code.clone(),
            minor_units: amount.minor,
        })
    };
    let (name, rest) = text.rsplit_once('=').with_context(form)?;
    let (rest, tax) = rest
        .split_once('+')
        .map_or((rest, None), |(rest, tax)| (rest, Some(tax)));
    let (units, price) = rest
        .split_once('@')
        .map_or((rest, None), |(units, price)| (units, Some(price)));
    Ok(Told {
        name,
        units: units.parse().with_context(form)?,
        price: price.map(amount).transpose()?,
        tax: tax.map(amount).transpose()?,
    })
}

/// The tax that was named, of the country that the goods go to.
fn taxes(tax: Option<Money>, order: &Order) -> Vec<TaxLine> {
    let country = order
        .shipping_address
        .as_ref()
        .map(|address| address.country_code.clone());
    let tax = tax.map(|amount| TaxLine {
        jurisdiction: country.unwrap_or_default(),
        title: "tax".to_owned(),
        rate_ppm: 0,
        amount: Some(amount),
    });
    tax.into_iter().collect()
}

fn new_line(text: &str, order: &Order) -> anyhow::Result<NewOrderLine> {
    let told = told("--add", text, order)?;
    let like = order.lines.iter().find(|item| item.sku == told.name);
    anyhow::ensure!(
        told.price.is_some(),
        "--add {text:?}: give the price of a unit, SKU=UNITS@PRICE"
    );
    Ok(NewOrderLine {
        sku: told.name.to_owned(),
        title: like.map_or_else(|| told.name.to_owned(), |item| item.title.clone()),
        quantity: told.units,
        unit_price: told.price,
        taxes: taxes(told.tax, order),
        ..NewOrderLine::default()
    })
}

fn quantity(text: &str, order: &Order) -> anyhow::Result<LineQuantity> {
    let told = told("--quantity", text, order)?;
    let line_id = line_id("--quantity", told.name, order)?;
    let left = (order.lines.iter())
        .find(|item| item.line_id == line_id)
        .map_or(0, |item| item.quantity - item.cancelled_quantity);
    let priced = told.price.is_some() || told.tax.is_some();
    let more = (told.units > left || priced).then(|| MoreUnits {
        unit_price: told.price,
        discounts: Vec::new(),
        taxes: taxes(told.tax, order),
    });
    Ok(LineQuantity {
        line_id,
        quantity: told.units,
        more,
    })
}

#[cfg(test)]
mod tests {
    use waybill_proto::waybill::order::v1::OrderLine;

    use super::*;

    fn order() -> Order {
        Order {
            currency_code: "EUR".to_owned(),
            lines: vec![OrderLine {
                line_id: "1".to_owned(),
                sku: "TEA".to_owned(),
                title: "Tea".to_owned(),
                quantity: 3,
                cancelled_quantity: 1,
                ..OrderLine::default()
            }],
            ..Order::default()
        }
    }

    #[test]
    fn lines_are_added_with_price_and_tax() {
        let added = new_line("TEA=2@4.50+0.72", &order()).expect("all of it");
        assert_eq!((added.title.as_str(), added.quantity), ("Tea", 2));
        assert_eq!(
            (
                minor(added.unit_price.as_ref()),
                minor(added.taxes[0].amount.as_ref())
            ),
            (450, 72)
        );
        assert!(new_line("POT=1@20", &order()).expect("a price").taxes.is_empty());
        for wrong in ["POT", "POT=1", "POT=x@1", "POT=1@1.005", "POT=1@"] {
            assert!(new_line(wrong, &order()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn units_that_come_are_priced_and_those_that_go_are_not() {
        let more = quantity("TEA=5", &order()).expect("a quantity");
        assert_eq!((more.line_id.as_str(), more.quantity), ("1", 5));
        assert_eq!(more.more, Some(MoreUnits::default()));
        assert_eq!(quantity("1=2", &order()).expect("as it is").more, None);
        let priced = quantity("TEA=5@4.00+1", &order())
            .expect("a price")
            .more
            .expect("units come");
        assert_eq!((minor(priced.unit_price.as_ref()), priced.taxes.len()), (400, 1));
    }
}
