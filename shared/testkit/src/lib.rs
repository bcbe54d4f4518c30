//! Test support: a database per test, a wire-cutting proxy, builders.
