//! Who is calling: bearer tokens (JWT) and what they allow.
//!
//! A token says for which merchant (`merchant`, a UUID or `*`), for which stores (`stores`, UUIDs or `*`) and with which
//! `scopes` its holder may call. [`Verifier`] checks tokens against a set of public keys; [`Issuer`] makes them for the
//! process that runs everything, for tests and for `waybill keys`.
//!
//! What it refuses to do: decide about a call. That is the work of [`crate::access`]. No symmetric algorithm is accepted,
//! so nobody who can check a token can make one.

mod issuer;
mod verifier;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use waybill_kernel::id::{MerchantId, StoreId};

pub use issuer::Issuer;
pub use verifier::{AuthError, Keys, KeysError, Verifier};

/// The scopes that methods name.
pub const SCOPES: [&str; 17] = [
    "orders:read",
    "orders:write",
    "customers:read",
    "customers:erase",
    "fulfillment:read",
    "fulfillment:write",
    "refunds:read",
    "refunds:write",
    "refunds:approve",
    "refunds:admin",
    "notifications:read",
    "notifications:admin",
    "analytics:read",
    "events:read",
    "events:admin",
    "jobs:read",
    "jobs:admin",
];

/// Stands for all merchants, or all stores.
pub const ANY: &str = "*";

/// What a token says about its holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who holds it: a person's or a program's name in the issuer's books.
    pub sub: String,
    /// The merchant's id, or `*` for Waybill's own services.
    pub merchant: String,
    /// The stores' ids, or `*`.
    pub stores: Vec<String>,
    /// What the holder may do, e.g. `orders:write`.
    pub scopes: Vec<String>,
}

impl Claims {
    /// Claims of one of Waybill's own services: every merchant, every store, every scope.
    pub fn system(service: &str) -> Claims {
        Claims {
            sub: format!("service:{service}"),
            merchant: ANY.to_owned(),
            stores: vec![ANY.to_owned()],
            scopes: SCOPES.iter().map(|scope| (*scope).to_owned()).collect(),
        }
    }

    /// Claims for a merchant and some of its stores; no stores means all of them.
    pub fn merchant(sub: &str, merchant: MerchantId, stores: &[StoreId], scopes: &[&str]) -> Claims {
        let stores = if stores.is_empty() {
            vec![ANY.to_owned()]
        } else {
            stores.iter().map(StoreId::to_string).collect()
        };
        Claims {
            sub: sub.to_owned(),
            merchant: merchant.to_string(),
            stores,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        }
    }
}

/// The merchants a caller may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MerchantScope {
    /// This one.
    One(MerchantId),
    /// Every one: a service of Waybill.
    All,
}

/// The stores a caller may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreScope {
    /// These.
    List(BTreeSet<StoreId>),
    /// Every store of the merchant.
    All,
}

/// The holder of a token that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is. Part of the key of idempotent requests; never put it into logs, it may be a person's name.
    pub subject: String,
    /// For which merchant.
    pub merchant: MerchantScope,
    /// For which stores.
    pub stores: StoreScope,
    /// What it may do.
    pub scopes: BTreeSet<String>,
}

impl Caller {
    /// Whether it is one of Waybill's own services.
    pub fn is_system(&self) -> bool {
        self.merchant == MerchantScope::All
    }

    /// Whether it holds a scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.contains(scope)
    }

    /// Whether it may name this merchant.
    pub fn may_name_merchant(&self, merchant: MerchantId) -> bool {
        match self.merchant {
            MerchantScope::One(own) => own == merchant,
            MerchantScope::All => true,
        }
    }

    /// Whether it may name this store. Ask for the merchant as well: a store's id alone says nothing about whose it is.
    pub fn may_name_store(&self, store: StoreId) -> bool {
        match &self.stores {
            StoreScope::List(own) => own.contains(&store),
            StoreScope::All => true,
        }
    }
}
