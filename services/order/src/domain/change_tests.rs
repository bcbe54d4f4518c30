//! What an update changes, over all paths, and what it refuses.

use chrono::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::goods::LineGoods;
use crate::domain::order::{Address, Customer};

fn line(n: u128) -> LineId {
    LineId::from(Uuid::from_u128(n))
}

fn address(city: &str) -> Address {
    Address {
        city: city.into(),
        country_code: "DE".into(),
        ..Address::default()
    }
}

fn contact(word: &str) -> Contact {
    Contact {
        customer: Customer {
            external_id: String::new(),
            email: format!("{word}@example.org"),
            name: word.into(),
            phone: word.into(),
        },
        shipping: Some(address(word)),
        billing: Some(address(word)),
        note: word.into(),
    }
}

fn details() -> Details {
    Details {
        contact: Some(contact("old")),
        tags: vec!["old".into()],
        attributes: BTreeMap::from([("word".into(), "old".into())]),
        lines: BTreeMap::from([(line(1), BTreeMap::new()), (line(2), BTreeMap::new())]),
    }
}

fn update(word: &str, paths: BTreeSet<Path>) -> Update {
    let attributes = BTreeMap::from([("word".to_owned(), word.to_owned())]);
    Update {
        contact: contact(word),
        tags: vec![word.into()],
        lines: BTreeMap::from([(line(2), attributes.clone())]),
        attributes,
        paths,
    }
}

fn open(to_ship: i64) -> State {
    State::placed(100, to_ship, DateTime::UNIX_EPOCH)
}

/// What stands at a path.
fn at(details: &Details, path: Path) -> String {
    let contact = details.contact.clone().unwrap_or_default();
    match path {
        Path::CustomerEmail => contact.customer.email,
        Path::CustomerName => contact.customer.name,
        Path::CustomerPhone => contact.customer.phone,
        Path::ShippingAddress => format!("{:?}", contact.shipping),
        Path::BillingAddress => format!("{:?}", contact.billing),
        Path::Note => contact.note,
        Path::Tags => format!("{:?}", details.tags),
        Path::Attributes => format!("{:?}", details.attributes),
        Path::LineAttributes => format!("{:?}", details.lines),
    }
}

#[test]
fn addresses_are_settled_once_everything_has_left() {
    let mut state = open(2);
    let mut goods = LineGoods {
        quantity: 2,
        shipped: 0,
        delivered: 0,
    };
    let paths = BTreeSet::from([Path::ShippingAddress, Path::Note]);
    state.goods.ship(&mut goods, 1);
    let mut some = details();
    assert_eq!(
        some.apply(&update("new", paths.clone()), &state),
        Ok(paths.clone())
    );

    state.goods.ship(&mut goods, 1);
    let mut all = details();
    let refused = all.apply(&update("new", paths), &state);
    assert_eq!(
        refused,
        Err(NotUpdatable::AddressSettled {
            path: Path::ShippingAddress,
            status: Status::Open,
            fulfillment: FulfillmentStatus::Fulfilled,
        })
    );
    assert_eq!(all, details(), "nothing has changed, not even the note");
}

#[test]
fn an_order_at_its_end_keeps_its_addresses_and_still_hears_of_a_new_mailbox() {
    let mut state = open(1);
    state.cancel("test").expect("nothing shipped");
    for path in Path::ALL {
        let mut now = details();
        let result = now.apply(&update("new", BTreeSet::from([*path])), &state);
        assert_eq!(result.is_err(), path.is_address(), "{path:?}");
    }
}

#[test]
fn goods_need_an_address_and_downloads_do_not() {
    let mut nowhere = update(
        "new",
        BTreeSet::from([Path::ShippingAddress, Path::BillingAddress]),
    );
    nowhere.contact.shipping = None;
    nowhere.contact.billing = None;
    assert_eq!(
        details().apply(&nowhere, &open(1)),
        Err(NotUpdatable::AddressNeeded)
    );
    assert!(details().apply(&nowhere, &open(0)).is_ok());
}

#[test]
fn who_was_forgotten_is_not_written_down_again() {
    for path in Path::ALL {
        let mut now = Details {
            contact: None,
            ..details()
        };
        let result = now.apply(&update("new", BTreeSet::from([*path])), &open(1));
        if path.is_personal() {
            assert_eq!(result, Err(NotUpdatable::ContactErased { path: *path }));
        } else {
            assert_eq!(result, Ok(BTreeSet::from([*path])));
        }
        assert_eq!(now.contact, None);
    }
}

#[test]
fn lines_of_other_orders_are_named() {
    let mut strange = update("new", BTreeSet::from([Path::LineAttributes]));
    strange.lines.insert(line(3), BTreeMap::new());
    assert_eq!(
        details().apply(&strange, &open(1)),
        Err(NotUpdatable::UnknownLine(line(3)))
    );
}

proptest! {
    /// Exactly the named paths change, are told when they did, and the same update once more changes nothing.
    #[test]
    fn what_is_named_changes_and_nothing_else(
        named in proptest::collection::btree_set(proptest::sample::select(Path::ALL.to_vec()), 1..9),
        same in any::<bool>(),
    ) {
        let before = details();
        let mut now = before.clone();
        let mut new = update(if same { "old" } else { "new" }, named.clone());
        if same {
            new.lines = BTreeMap::from([(line(2), BTreeMap::new())]);
        }
        let changed = now.apply(&new, &open(2)).expect("the order is open");
        prop_assert_eq!(&changed, &if same { BTreeSet::new() } else { named });
        for path in Path::ALL {
            prop_assert_eq!(at(&now, *path) != at(&before, *path), changed.contains(path));
        }
        prop_assert_eq!(&now.lines[&line(1)], &before.lines[&line(1)]);
        let once = now.clone();
        prop_assert_eq!(now.apply(&new, &open(2)), Ok(BTreeSet::new()));
        prop_assert_eq!(now, once);
    }
}
