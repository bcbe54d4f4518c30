//! a store sees its own figures and nobody else's.

use tonic::Code;
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_proto::waybill::analytics::v1 as proto;
use waybill_rpc::client::TokenSource;

use crate::support::{Order, Outcome, Refund, Shop, Story, World, at, currency_of, refusal};

fn story() -> Story {
    let placed = at("2026-11-02T12:00:00Z");
    Story {
        shipped: vec![placed],
        refunds: vec![Refund {
            created: placed,
            amount: 10,
            reason: "damaged",
            outcomes: vec![Outcome::Succeeded(placed)],
        }],
        notifications: vec![("sent", placed)],
        ..Order::of(100, "GBP", placed).into()
    }
}

#[tokio::test]
async fn figures_stay_in_their_store() -> anyhow::Result<()> {
    let world = World::start().await?;
    let first = world.shop()?;
    // The same merchant's other store, and the same store id of another merchant.
    let token = world.auth.source(first.merchant, &[], &["analytics:read"]);
    let second = Shop {
        merchant: first.merchant,
        store: StoreId::generate(),
        client: world.client(token)?,
    };
    let merchant = MerchantId::generate();
    let token = world.auth.source(merchant, &[], &["analytics:read"]);
    let third = Shop {
        merchant,
        store: first.store,
        client: world.client(token)?,
    };
    let empty = Shop {
        merchant,
        store: StoreId::generate(),
        client: third.client.clone(),
    };
    for (shop, orders) in [(&first, 1), (&second, 2), (&third, 3)] {
        for _ in 0..orders {
            world.tell(shop, &[story()], 0, 100).await?;
        }
    }
    for (shop, orders) in [(&first, 1), (&second, 2), (&third, 3)] {
        let summary = shop.summary(None).await?;
        let (of_orders, of_refunds) = currency_of(&summary, "GBP");
        assert_eq!(
            (of_orders.orders, of_refunds.refunds, of_refunds.refunded_orders),
            (orders, orders, orders)
        );
        assert_eq!(
            (summary.notifications_sent, summary.open_orders),
            (orders, orders)
        );
        assert_eq!(shop.reasons(None).await?[0].refunds, orders);
        assert_eq!(shop.cycle_times(None).await?[0].count, orders);
        let november = crate::support::period(at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"), "");
        assert_eq!(
            shop.days(Some(november)).await?[0]
                .orders
                .clone()
                .unwrap_or_default()
                .orders,
            orders
        );
    }
    assert_eq!(empty.summary(None).await?, proto::GetSummaryResponse::default());
    world.end().await
}

#[tokio::test]
async fn a_token_opens_what_it_names_and_no_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let own = world.shop()?;
    let ask = async |token: TokenSource| -> anyhow::Result<_> {
        let shop = Shop {
            merchant: own.merchant,
            store: own.store,
            client: world.client(token)?,
        };
        Ok(shop.summary(None).await.err().map(|status| refusal(&status)))
    };
    let scopes: &[&str] = &["analytics:read"];
    let denied = |reason: &str| Some((Code::PermissionDenied, reason.to_owned()));
    assert_eq!(
        ask(world.auth.source(own.merchant, &[own.store], scopes)).await?,
        None
    );
    let stranger = world.auth.source(MerchantId::generate(), &[], scopes);
    assert_eq!(ask(stranger).await?, denied("TENANT_MISMATCH"));
    let next_door = world.auth.source(own.merchant, &[StoreId::generate()], scopes);
    assert_eq!(ask(next_door).await?, denied("TENANT_MISMATCH"));
    let other_work = world.auth.source(own.merchant, &[own.store], &["orders:read"]);
    assert_eq!(ask(other_work).await?, denied("SCOPE_MISSING"));
    let nobody = ask(TokenSource::none()).await?;
    assert_eq!(nobody.map(|(code, _)| code), Some(Code::Unauthenticated));
    world.end().await
}
