//! How the database finds whole orders: by the index that their key has. What is asked by id is found so also while the
//! tables are too young to have statistics, when every index seems as good as another. By number or source it may walk more
//! than it needs until the server has first counted.

use waybill_kernel::id::{MerchantId, StoreId};

use super::*;
use crate::store::plans::{generic, many, tables};

const BY_IDENTITY: [Statement; 3] = [
    ("by id", BY_ID, "orders_pkey"),
    ("by ids", BY_IDS, "orders_pkey"),
    ("by owners", BY_OWNERS, "orders_pkey"),
];
const OTHERS: [Statement; 2] = [
    ("by number", BY_NUMBER, "orders_number_once"),
    ("by source", BY_SOURCE, "orders_source_once"),
];

/// Its name, its text, and the index that finds its orders.
type Statement = (&'static str, &'static str, &'static str);

#[tokio::test]
async fn an_order_is_found_by_its_key_alone() -> Result<(), Box<dyn std::error::Error>> {
    let (_place, mut tables) = tables().await;
    for age in ["young", "known"] {
        if age == "known" {
            let (merchant, store) = (MerchantId::generate().uuid(), StoreId::generate().uuid());
            many::fill(&mut tables, merchant, store, 2_000).await;
        }
        let others = OTHERS.iter().filter(|_| age == "known");
        for (name, statement, index) in BY_IDENTITY.iter().chain(others) {
            let plan = generic(&mut tables, statement).await?;
            let scans: Vec<&str> = plan.lines().filter(|line| line.contains(" on orders")).collect();
            assert!(
                !scans.is_empty() && scans.iter().all(|scan| scan.contains(&format!("using {index} "))),
                "{name}, {age}:\n{plan}"
            );
            for child in ["order_lines", "order_contacts"] {
                let scans = || plan.lines().filter(|line| line.contains(&format!(" on {child}")));
                assert!(
                    scans().next().is_some() && scans().all(|scan| scan.contains("Index Scan using")),
                    "{name}, {age}, {child}:\n{plan}"
                );
            }
        }
    }
    Ok(())
}
