//! The sandbox as a program outside this process uses it: over HTTP alone.

use crate::common::sandbox;
use serde_json::{Value, json};
use waybill_payments::sandbox::SandboxOptions;

struct Outside {
    http: reqwest::Client,
    url: String,
}

impl Outside {
    async fn post(&self, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        let response = self
            .http
            .post(format!("{}{path}", self.url))
            .json(&body)
            .send()
            .await?;
        let (status, text) = (response.status().as_u16(), response.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth("sk_sandbox")
            .send()
            .await?
            .json()
            .await?)
    }

    async fn refund(&self, key: &str, form: &[(&str, &str)]) -> anyhow::Result<(u16, bool, Value)> {
        let call = self
            .http
            .post(format!("{}/v1/refunds", self.url))
            .bearer_auth("sk_sandbox");
        let response = call.header("Idempotency-Key", key).form(form).send().await?;
        let replayed = response.headers().contains_key("Idempotent-Replayed");
        Ok((response.status().as_u16(), replayed, response.json().await?))
    }
}

#[tokio::test]
async fn a_whole_story_over_http() -> anyhow::Result<()> {
    let (sandbox, _provider) = sandbox(SandboxOptions::default()).await?;
    let outside = Outside {
        http: reqwest::Client::new(),
        url: sandbox.url(),
    };

    let payment = json!({"id": "pi_2", "amount": 500, "currency": "usd"});
    assert_eq!(outside.post("/sandbox/payments", payment.clone()).await?.0, 204);
    assert_eq!(
        outside.post("/sandbox/payments", payment).await?.0,
        204,
        "the same again"
    );
    let other = json!({"id": "pi_2", "amount": 501, "currency": "usd"});
    assert_eq!(outside.post("/sandbox/payments", other).await?.0, 409);

    let fault = json!({"fault": {"kind": "pending"}, "payment": "pi_2"});
    assert_eq!(outside.post("/sandbox/faults", fault).await?.0, 204);
    assert_eq!(
        outside
            .post("/sandbox/faults", json!({"fault": {"kind": "meteor"}}))
            .await?
            .0,
        422
    );

    let form = [
        ("payment_intent", "pi_2"),
        ("amount", "200"),
        ("metadata[order]", "7"),
    ];
    let (status, replayed, refund) = outside.refund("k1", &form).await?;
    assert_eq!(
        (status, replayed, refund["status"].as_str()),
        (200, false, Some("pending"))
    );
    let (status, replayed, again) = outside.refund("k1", &form).await?;
    assert_eq!((status, replayed, &again), (200, true, &refund));

    let id = refund["id"].as_str().unwrap_or_default();
    let (status, settled) = outside
        .post(&format!("/sandbox/refunds/{id}/settle"), json!({}))
        .await?;
    assert_eq!((status, settled["status"].as_str()), (200, Some("succeeded")));
    assert_eq!(
        outside
            .post(&format!("/sandbox/refunds/{id}/settle"), json!({}))
            .await?
            .0,
        409
    );
    assert_eq!(
        outside.get(&format!("/v1/refunds/{id}")).await?["status"],
        "succeeded"
    );

    let ledger = outside.get("/sandbox/refunds").await?;
    assert_eq!(ledger["refunds"][0]["metadata"]["order"], "7");
    let payments = outside.get("/sandbox/payments").await?;
    assert_eq!(payments["payments"][1]["refunded"], 200);
    let events = outside.get("/sandbox/events").await?;
    let kinds: Vec<&str> = events["events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e["kind"].as_str())
        .collect();
    assert_eq!(kinds, ["refund.created", "charge.refunded", "refund.updated"]);
    Ok(())
}

#[tokio::test]
async fn what_fails_before_execution_is_not_stored_under_the_key() -> anyhow::Result<()> {
    let (sandbox, _provider) = sandbox(SandboxOptions::default()).await?;
    let outside = Outside {
        http: reqwest::Client::new(),
        url: sandbox.url(),
    };
    let (status, _, body) = outside
        .refund("k1", &[("payment_intent", "pi_1"), ("amount", "much")])
        .await?;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("parameter_invalid_integer"))
    );
    let (status, replayed, _) = outside
        .refund("k1", &[("payment_intent", "pi_1"), ("amount", "5")])
        .await?;
    assert_eq!((status, replayed), (200, false));

    // What fails in execution is stored.
    let too_much = [("payment_intent", "pi_1"), ("amount", "10001")];
    assert!(!outside.refund("k2", &too_much).await?.1);
    let (status, replayed, _) = outside.refund("k2", &too_much).await?;
    assert_eq!((status, replayed), (400, true));

    let (status, _, body) = outside
        .refund("k2", &[("payment_intent", "pi_1"), ("amount", "5")])
        .await?;
    assert_eq!(
        (status, &body["error"]["type"]),
        (400, &json!("idempotency_error"))
    );
    Ok(())
}

#[tokio::test]
async fn callers_without_the_key_see_nothing() -> anyhow::Result<()> {
    let (sandbox, _provider) = sandbox(SandboxOptions::default()).await?;
    let http = reqwest::Client::new();
    for call in [
        http.get(format!("{}/v1/refunds", sandbox.url())),
        http.post(format!("{}/v1/refunds", sandbox.url())),
    ] {
        assert_eq!(call.bearer_auth("sk_other").send().await?.status(), 401);
    }
    Ok(())
}
