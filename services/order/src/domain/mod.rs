//! The rules of orders: pure functions over plain values.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`draft`] | what a caller hands in, and what is kept until it is complete |
//! | [`limits`] | how long, how many, which letters |
//! | [`pricing`] | what every line costs, and whether the caller's totals are right |
//! | [`presentment`] | whether what the customer saw in another currency is sound |
//! | [`freeze`] | a draft becomes an order whose terms never change again |
//! | [`hold`] | why an order is stopped |
//! | [`order`] | an order: frozen terms, contact, payments, state |
//! | [`payment`], [`goods`], [`returns`] | three facets, each a state machine of its own |
//! | [`attempt`] | what providers are asked to capture and to void, and what they say |
//! | [`capture`] | when payments are captured, and by which providers |
//! | [`review`] | which orders are held at their placement |
//! | [`state`] | the four facets together: what may be cancelled, what is complete |
//! | [`cancellation`] | which units of lines a cancellation takes, and what they cost |
//! | [`edit`] | which lines come and which units go when what is ordered changes, and what that costs |
//! | [`change`] | what may change after placement, and until when |
//! | [`privacy`] | who a customer is, and which orders still need the person |
//! | [`fact`] | what any service can tell about an order, and how it reads on the timeline |
//! | [`tracking`] | what facts of other services do to the facets |
//! | [`trail`] | the chain over a timeline that shows what was changed afterwards |
//! | [`replay`], [`picture`] | an order from its events, and where that differs from the tables |
//! | [`find`] | which orders are wanted, and in which order |
//! | [`import`] | how far the import of a file has come |
//!
//! Nothing here is async, knows a database, a wire format or a clock: the time and new ids are handed in.

/// Gives an enum without data the one text that each value is stored and told as.
macro_rules! keys {
    ($name:ident { $($value:ident = $key:literal),+ $(,)? }) => {
        impl $name {
            /// All values.
            pub const ALL: &'static [$name] = &[$($name::$value),+];

            /// The text that the value is stored as.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$value => $key),+
                }
            }

            /// The value that is stored as this text.
            #[must_use]
            pub fn parse(text: &str) -> Option<$name> {
                match text {
                    $($key => Some($name::$value),)+
                    _ => None,
                }
            }
        }
    };
}

pub mod attempt;
pub mod cancellation;
pub mod capture;
pub mod change;
pub mod draft;
pub mod edit;
pub mod fact;
pub mod find;
pub mod freeze;
pub mod goods;
pub mod hold;
pub mod import;
pub mod limits;
pub mod order;
pub mod payment;
pub mod picture;
pub mod presentment;
pub mod pricing;
pub mod privacy;
pub mod replay;
pub mod returns;
pub mod review;
pub mod state;
pub mod tracking;
pub mod trail;

#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod history_tests;
