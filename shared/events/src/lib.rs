//! The backbone: event log, relay, envelope, fold.
