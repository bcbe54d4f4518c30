//! Tests that run the whole stack through its public APIs.
