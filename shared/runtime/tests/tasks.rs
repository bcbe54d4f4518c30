//! Task groups: failure ends all, panics are caught, what hangs is named.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waybill_runtime::tasks::{Failure, TaskGroup};

const SOON: Duration = Duration::from_secs(10);

/// Spawns a task that ends when it is asked to.
fn well_behaved(group: &TaskGroup, name: &'static str) {
    let token = group.token();
    group.spawn(name, async move {
        token.cancelled().await;
        Ok::<(), Infallible>(())
    });
}

#[tokio::test]
async fn a_group_that_is_asked_to_stop_ends_well() {
    let parent = CancellationToken::new();
    let group = TaskGroup::new(&parent);
    well_behaved(&group, "relay");
    well_behaved(&group, "fold");
    group.spawn("once", async { Ok::<(), Infallible>(()) });
    parent.cancel();
    timeout(SOON, group.stopping())
        .await
        .expect("the parent's end reaches the group");
    assert_eq!(group.shutdown(SOON).await, Ok(()));
}

#[tokio::test]
async fn a_failure_stops_the_group_but_not_its_parent() {
    let parent = CancellationToken::new();
    let group = TaskGroup::new(&parent);
    well_behaved(&group, "relay");
    group.spawn("fold", async { Err::<(), _>("the cursor is fenced") });
    timeout(SOON, group.stopping())
        .await
        .expect("a failure stops the group");
    assert!(!parent.is_cancelled());
    let error = group.shutdown(SOON).await.expect_err("a task failed");
    let expected = Failure {
        task: "fold".to_owned(),
        reason: "the cursor is fenced".to_owned(),
        panicked: false,
    };
    assert_eq!(error.failed, [expected]);
    assert!(error.hung.is_empty());
    assert_eq!(error.to_string(), "task fold failed: the cursor is fenced");
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let group = TaskGroup::new(&CancellationToken::new());
    let none: Option<u8> = std::hint::black_box(None);
    group.spawn("worker", async move {
        assert!(none.is_some(), "no row");
        Ok::<(), Infallible>(())
    });
    timeout(SOON, group.stopping())
        .await
        .expect("a panic stops the group");
    let error = group.shutdown(SOON).await.expect_err("a task panicked");
    assert_eq!(error.failed.len(), 1);
    assert!(error.failed[0].panicked);
    assert!(error.failed[0].reason.contains("no row"), "{error}");
}

#[tokio::test]
async fn what_hangs_is_named_and_aborted() {
    let group = TaskGroup::new(&CancellationToken::new());
    let (held, dropped) = tokio::sync::oneshot::channel::<()>();
    group.spawn("deaf", async move {
        let _held = held;
        std::future::pending::<Result<(), Infallible>>().await
    });
    well_behaved(&group, "relay");
    let error = group
        .shutdown(Duration::from_secs(1))
        .await
        .expect_err("a task hung");
    assert_eq!(error.hung, ["deaf"]);
    assert!(error.failed.is_empty());
    // The sender is dropped only when the task is gone.
    assert!(
        timeout(SOON, dropped)
            .await
            .expect("the task was aborted")
            .is_err()
    );
}
