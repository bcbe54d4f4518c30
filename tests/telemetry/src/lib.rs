//! Tests that follow one trace through all services.
