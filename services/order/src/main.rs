//! The order service as a process of its own.

use std::process::ExitCode;

use waybill_order::{Config, Deps, run};
use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service("order", |config: Config, shutdown| {
        run(config, Deps::default(), shutdown)
    })
}
