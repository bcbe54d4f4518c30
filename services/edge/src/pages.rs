//! Pages for customers. They show what is published and nothing about a person.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Html;
use minijinja::{Environment, context};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::refund::v1::GetPolicyRequest;

use crate::App;
use crate::error::Error;

const POLICY: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Returns and refunds</title>
<style>
body { font: 16px/1.6 Helvetica, Arial, sans-serif; color: #1c1c1c; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; }
footer { color: #555; font-size: .875rem; margin-top: 2rem; }
</style>
</head>
<body>
<main>
<h1>Returns and refunds</h1>
{% for line in text %}<p>{{ line }}</p>
{% endfor %}</main>
<footer>Version {{ version }}</footer>
</body>
</html>
"##;

/// The published return policy of a store, for people.
pub async fn policy(
    State(app): State<Arc<App>>,
    Path((merchant, store)): Path<(String, String)>,
) -> Result<Html<String>, Error> {
    let merchant: MerchantId = merchant.parse().map_err(|_| Error::NotFound)?;
    let store: StoreId = store.parse().map_err(|_| Error::NotFound)?;
    let request = GetPolicyRequest {
        merchant_id: merchant.to_string(),
        store_id: store.to_string(),
        at: None,
    };
    let answer = app.refunds.clone().get_policy(request).await?.into_inner();
    let mut environment = Environment::new();
    environment.add_template("policy.html", POLICY)?;
    let text: Vec<String> = answer
        .text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    let version = answer.policy.map_or(0, |policy| policy.version);
    let page = environment
        .get_template("policy.html")?
        .render(context! { text, version })?;
    Ok(Html(page))
}
