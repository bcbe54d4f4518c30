//! Stock of one sku at one location, and what an adjustment may make of it.
//!
//! It refuses to let the units in the building fall below the units promised to orders (F-1). Who is promised what is
//! the business of [`super::allocation`].

use std::fmt;

use serde::{Deserialize, Serialize};
use waybill_kernel::id::LocationId;

/// The most units that one location holds of one sku. Far above any warehouse, far below where sums overflow.
pub const MAX_ON_HAND: i64 = 1_000_000_000_000;

/// The most units that one adjustment names.
pub const MAX_ADJUSTMENT: i64 = 1_000_000_000;

/// A stock keeping unit, as the merchant writes it. Skus that differ in case are different skus.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sku(String);

impl Sku {
    /// The longest sku, in characters.
    pub const MAX_LEN: usize = 100;

    /// A sku that stock can be kept of.
    ///
    /// # Errors
    /// When it is empty, too long, or holds a control character.
    pub fn parse(text: &str) -> Result<Self, SkuError> {
        match text.chars().count() {
            0 => return Err(SkuError::Empty),
            length if length > Self::MAX_LEN => return Err(SkuError::TooLong { length }),
            _ => {}
        }
        if text.chars().any(char::is_control) {
            return Err(SkuError::Control);
        }
        Ok(Self(text.to_owned()))
    }

    /// A sku that was checked before: by [`Sku::parse`], or by the service that took the order.
    #[must_use]
    pub fn known(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sku({:?})", self.0)
    }
}

/// The text is no sku.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SkuError {
    /// Nothing there.
    #[error("is empty; give the stock keeping unit")]
    Empty,
    /// Too long.
    #[error("has {length} characters; at most {max} are allowed", max = Sku::MAX_LEN)]
    TooLong {
        /// How long it is.
        length: usize,
    },
    /// A line break, tab or the like.
    #[error("holds a control character; give printable text")]
    Control,
}

/// Units of one sku at one location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Level {
    /// Units in the building.
    pub on_hand: i64,
    /// Units promised to orders; never more than `on_hand` (F-1).
    pub reserved: i64,
    /// Units that are never promised.
    pub safety_stock: i64,
}

impl Level {
    /// What can still be promised. Safety stock that is larger than what is free makes it 0, not negative.
    #[must_use]
    pub fn available(&self) -> i64 {
        (self.on_hand - self.reserved - self.safety_stock).max(0)
    }

    /// The level after an adjustment.
    ///
    /// # Errors
    /// When fewer units would be in the building than are promised to orders, or more than [`MAX_ON_HAND`].
    pub fn adjusted(self, adjustment: Adjustment) -> Result<Self, AdjustError> {
        let on_hand = match adjustment.change {
            None => self.on_hand,
            Some(Change::Delta(units)) => self.on_hand.saturating_add(units),
            Some(Change::Counted(units)) => units,
        };
        if on_hand < self.reserved {
            return Err(AdjustError::BelowReserved {
                on_hand: self.on_hand,
                reserved: self.reserved,
                wanted: on_hand,
            });
        }
        if on_hand > MAX_ON_HAND {
            return Err(AdjustError::TooMuch { wanted: on_hand });
        }
        Ok(Self {
            on_hand,
            reserved: self.reserved,
            safety_stock: adjustment.safety_stock.unwrap_or(self.safety_stock),
        })
    }
}

/// How on-hand stock changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// By so many units, to less when negative.
    Delta(i64),
    /// To what was counted.
    Counted(i64),
}

/// A change of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adjustment {
    /// How on-hand stock changes; not at all when `None`.
    pub change: Option<Change>,
    /// The new safety stock; unchanged when `None`.
    pub safety_stock: Option<i64>,
}

/// Why a level cannot be adjusted so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdjustError {
    /// Orders were promised more than would be there.
    #[error(
        "would leave {wanted} on hand of {on_hand} while {reserved} are reserved for orders; \
         ship or cancel those orders first, or take fewer"
    )]
    BelowReserved {
        /// Units in the building now.
        on_hand: i64,
        /// Units promised to orders.
        reserved: i64,
        /// Units that would be in the building.
        wanted: i64,
    },
    /// More than is kept track of.
    #[error("would make {wanted} on hand; at most {MAX_ON_HAND} are kept track of")]
    TooMuch {
        /// Units that would be in the building.
        wanted: i64,
    },
}

/// A stock level with what it is the level of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLevel {
    /// The sku.
    pub sku: Sku,
    /// The location.
    pub location: LocationId,
    /// The units.
    pub level: Level,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn skus_are_checked() {
        assert_eq!(
            Sku::parse("TEE-M").map(|sku| sku.to_string()),
            Ok("TEE-M".to_owned())
        );
        assert_eq!(
            Sku::parse(&"ß".repeat(100)).map(|_| ()),
            Ok(()),
            "characters, not bytes"
        );
        assert_eq!(Sku::parse(""), Err(SkuError::Empty));
        assert_eq!(
            Sku::parse(&"x".repeat(101)),
            Err(SkuError::TooLong { length: 101 })
        );
        assert_eq!(Sku::parse("a\0b"), Err(SkuError::Control));
    }

    #[test]
    fn below_reserved_names_the_numbers() {
        let level = Level {
            on_hand: 10,
            reserved: 7,
            safety_stock: 0,
        };
        let error = level
            .adjusted(Adjustment {
                change: Some(Change::Delta(-4)),
                safety_stock: None,
            })
            .expect_err("7 are promised");
        assert_eq!(
            error,
            AdjustError::BelowReserved {
                on_hand: 10,
                reserved: 7,
                wanted: 6
            }
        );
        assert!(
            error.to_string().contains("6 on hand of 10 while 7 are reserved"),
            "{error}"
        );
    }

    #[test]
    fn safety_stock_above_what_is_free_leaves_nothing_and_is_allowed() {
        let level = Level {
            on_hand: 10,
            reserved: 7,
            safety_stock: 0,
        };
        let adjusted = level
            .adjusted(Adjustment {
                change: None,
                safety_stock: Some(8),
            })
            .expect("safety stock is a wish, not a promise");
        assert_eq!(adjusted.available(), 0);
    }

    proptest! {
        /// F-1 for every adjustment of every level that keeps it.
        #[test]
        fn an_adjustment_never_breaks_the_promise(
            on_hand in 0..2 * MAX_ON_HAND,
            reserved in 0..1_000_i64,
            safety_stock in 0..1_000_i64,
            units in -MAX_ADJUSTMENT..=MAX_ADJUSTMENT,
            count in any::<bool>(),
        ) {
            let before = Level { on_hand: on_hand.max(reserved).min(MAX_ON_HAND), reserved, safety_stock };
            let change = if count { Change::Counted(units.abs()) } else { Change::Delta(units) };
            match before.adjusted(Adjustment { change: Some(change), safety_stock: None }) {
                Ok(after) => {
                    prop_assert!(after.on_hand >= 0 && after.on_hand <= MAX_ON_HAND);
                    prop_assert!(after.reserved <= after.on_hand);
                    prop_assert_eq!((after.reserved, after.safety_stock), (reserved, safety_stock));
                    prop_assert!(after.available() >= 0);
                }
                Err(AdjustError::BelowReserved { wanted, .. }) => prop_assert!(wanted < reserved),
                Err(AdjustError::TooMuch { wanted }) => prop_assert!(wanted > MAX_ON_HAND),
            }
        }
    }
}
