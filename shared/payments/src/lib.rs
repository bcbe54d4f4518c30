//! One trait for payment providers and its adapters.
