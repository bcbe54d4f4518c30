//! Bad input: a clear error that names what is wrong, nothing lost, nothing stored of what was refused.

mod cases;
mod files;
mod orders;

use tonic::Status;
use waybill_e2e::patient;
use waybill_e2e::shop::Shop;
use waybill_proto::waybill::order::v1::{ListOrdersRequest, Order};
use waybill_rpc::fault;

/// The fields that are named, those of an order as the order has them.
fn bad_fields(status: &Status) -> Vec<(String, String)> {
    let of_order = |field: String| field.strip_prefix("order.").map(str::to_owned).unwrap_or(field);
    fault::bad_fields(status)
        .into_iter()
        .map(|(field, text)| (of_order(field), text))
        .collect()
}

/// Every order of the store.
async fn stored(shop: &Shop) -> anyhow::Result<Vec<Order>> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListOrdersRequest {
            merchant_id: shop.session.merchant_id.clone(),
            store_id: shop.session.store_id.clone(),
            page_size: 2,
            page_token,
            ..ListOrdersRequest::default()
        };
        let client = shop.session.orders()?;
        let page = patient!("the orders could not be listed", client.list_orders(request)).await?;
        found.extend(page.orders);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// A message with a text replaced by bytes of the same length, for lengths stand in the message.
fn replaced(message: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "of the same length");
    let at = message
        .windows(from.len())
        .position(|at| at == from)
        .expect("the text is in the message");
    let mut message = message.to_vec();
    message[at..at + to.len()].copy_from_slice(to);
    message
}
