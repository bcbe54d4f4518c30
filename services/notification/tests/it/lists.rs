//! Reading: pages, and who may see what.

use std::collections::BTreeSet;

use tonic::Code;
use waybill_kernel::id::{MerchantId, NotificationId, StoreId};
use waybill_proto::waybill::notification::v1 as proto;
use waybill_proto::waybill::notification::v1::Stage;
use waybill_proto::waybill::notification::v1::notification_service_client::NotificationServiceClient;
use waybill_rpc::client::{self, TokenSource};

use crate::support::{World, brand, fields, refusal};

fn page_of(world: &World, page_size: i32, page_token: &str) -> proto::ListNotificationsRequest {
    proto::ListNotificationsRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        page_size,
        page_token: page_token.to_owned(),
        order_id: String::new(),
    }
}

#[tokio::test]
async fn pages_hold_everything_once_newest_first() -> anyhow::Result<()> {
    let world = World::start().await?;
    let orders: Vec<_> = (0..23).map(|_| world.order()).collect();
    for order in &orders {
        world.feed(&[order.placed()]).await?;
    }
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = world
            .client
            .clone()
            .list_notifications(page_of(&world, 7, &token))
            .await?
            .into_inner();
        pages += 1;
        seen.extend(
            page.notifications
                .into_iter()
                .map(|one| (one.notification_id, one.order_id)),
        );
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        assert_eq!(seen.len(), pages * 7, "a page that leads on is full");
    }
    assert_eq!(pages, 4);
    assert!(seen.is_sorted_by(|a, b| a.0 > b.0), "newest first");
    let listed: BTreeSet<String> = seen.into_iter().map(|(_, order)| order).collect();
    let placed: BTreeSet<String> = orders.iter().map(|order| order.order.to_string()).collect();
    assert_eq!(listed, placed);

    // A page that ends exactly with the list does not lead on.
    let all = world
        .client
        .clone()
        .list_notifications(page_of(&world, 23, ""))
        .await?
        .into_inner();
    assert_eq!((all.notifications.len(), all.next_page_token.as_str()), (23, ""));
    world.end().await
}

#[tokio::test]
async fn a_token_leads_on_in_its_own_list_only() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world
        .feed(&[order.placed(), order.shipped(), order.return_requested()])
        .await?;
    let first = world
        .client
        .clone()
        .list_notifications(page_of(&world, 1, ""))
        .await?
        .into_inner();
    let mut elsewhere = page_of(&world, 1, &first.next_page_token);
    elsewhere.order_id = order.order.to_string();
    let forged = page_of(&world, 1, "not a token");
    for request in [elsewhere, forged] {
        let refused = world
            .client
            .clone()
            .list_notifications(request)
            .await
            .expect_err("a strange token");
        assert_eq!(
            (refused.code(), fields(&refused)),
            (Code::InvalidArgument, vec!["page_token".to_owned()])
        );
    }
    let faulty = proto::ListNotificationsRequest {
        order_id: "17".to_owned(),
        ..page_of(&world, -1, "")
    };
    let refused = world
        .client
        .clone()
        .list_notifications(faulty)
        .await
        .expect_err("two faults");
    assert_eq!(fields(&refused), ["order_id", "page_size"]);

    let mut of_order = page_of(&world, 2, "");
    of_order.order_id = order.order.to_string();
    let page = world
        .client
        .clone()
        .list_notifications(of_order.clone())
        .await?
        .into_inner();
    of_order.page_token = page.next_page_token;
    let rest = world
        .client
        .clone()
        .list_notifications(of_order)
        .await?
        .into_inner();
    assert_eq!((page.notifications.len(), rest.notifications.len()), (2, 1));
    world.end().await
}

#[tokio::test]
async fn a_store_sees_its_own_and_nothing_else() -> anyhow::Result<()> {
    let world = World::start().await?;
    let order = world.order();
    world.feed(&[order.placed()]).await?;
    let own = world
        .decision(order.order, Stage::OrderConfirmed)
        .await
        .map_err(anyhow::Error::msg)?;
    let get = |store: StoreId, id: &str| proto::GetNotificationRequest {
        merchant_id: world.merchant.to_string(),
        store_id: store.to_string(),
        notification_id: id.to_owned(),
    };
    let found = world
        .client
        .clone()
        .get_notification(get(world.store, &own.notification_id))
        .await?
        .into_inner();
    assert_eq!(found.notification.map(|one| one.order_id), Some(own.order_id));

    // The same merchant's other store, and an id that nobody has: the same answer.
    let other_store = StoreId::generate();
    let unknown = NotificationId::generate().to_string();
    for request in [get(other_store, &own.notification_id), get(world.store, &unknown)] {
        let refused = world
            .client
            .clone()
            .get_notification(request)
            .await
            .expect_err("not in this store");
        assert_eq!(
            refusal(&refused),
            (Code::NotFound, "NOTIFICATION_NOT_FOUND".to_owned())
        );
    }
    for order_id in [String::new(), order.order.to_string()] {
        let request = proto::ListNotificationsRequest {
            store_id: other_store.to_string(),
            order_id,
            ..page_of(&world, 0, "")
        };
        let listed = world
            .client
            .clone()
            .list_notifications(request)
            .await?
            .into_inner();
        assert!(listed.notifications.is_empty());
    }
    let brand = proto::GetBrandRequest {
        merchant_id: world.merchant.to_string(),
        store_id: other_store.to_string(),
    };
    let refused = world
        .client
        .clone()
        .get_brand(brand)
        .await
        .expect_err("the brand of another store");
    assert_eq!(refused.code(), Code::NotFound);
    world.end().await
}

#[tokio::test]
async fn a_token_opens_what_it_names_and_no_more() -> anyhow::Result<()> {
    let world = World::start().await?;
    let client = |token: TokenSource| -> anyhow::Result<_> {
        Ok(NotificationServiceClient::new(client::connect(
            &world.url, token, "test",
        )?))
    };
    let list = page_of(&world, 0, "");
    let put = proto::PutBrandRequest {
        merchant_id: world.merchant.to_string(),
        store_id: world.store.to_string(),
        brand: Some(brand()),
    };

    let stranger = world
        .auth
        .source(MerchantId::generate(), &[], &["notifications:read"]);
    let refused = client(stranger)?
        .list_notifications(list.clone())
        .await
        .expect_err("another merchant");
    assert_eq!(
        refusal(&refused),
        (Code::PermissionDenied, "TENANT_MISMATCH".to_owned())
    );

    let next_door = world
        .auth
        .source(world.merchant, &[StoreId::generate()], &["notifications:read"]);
    let refused = client(next_door)?
        .list_notifications(list.clone())
        .await
        .expect_err("another store");
    assert_eq!(
        refusal(&refused),
        (Code::PermissionDenied, "TENANT_MISMATCH".to_owned())
    );

    let reader = world
        .auth
        .source(world.merchant, &[world.store], &["notifications:read"]);
    client(reader.clone())?.list_notifications(list.clone()).await?;
    let refused = client(reader)?.put_brand(put).await.expect_err("a reader");
    assert_eq!(
        refusal(&refused),
        (Code::PermissionDenied, "SCOPE_MISSING".to_owned())
    );

    let refused = client(TokenSource::none())?
        .list_notifications(list)
        .await
        .expect_err("nobody");
    assert_eq!(refused.code(), Code::Unauthenticated);
    world.end().await
}
