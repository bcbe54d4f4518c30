//! Webhooks in: believed only when their signature holds, then handed to the service that they are about. Nothing is kept
//! here; the services recognise what they heard before.

pub mod aftership;
pub mod stripe;

use waybill_kernel::id::{MerchantId, StoreId};

use crate::App;
use crate::config::WebhookSecrets;
use crate::error::Error;

/// The store a webhook is for, and its secrets. A store that is not configured looks like one that does not exist.
fn store<'a>(
    app: &'a App,
    merchant: &str,
    store: &str,
) -> Result<(MerchantId, StoreId, &'a WebhookSecrets), Error> {
    let merchant_id: MerchantId = merchant.parse().map_err(|_| Error::NotFound)?;
    let store_id: StoreId = store.parse().map_err(|_| Error::NotFound)?;
    let secrets = app
        .config
        .webhooks
        .get(&format!("{merchant_id}/{store_id}"))
        .ok_or(Error::NotFound)?;
    Ok((merchant_id, store_id, secrets))
}
