//! The process `waybill-edge`.

use std::process::ExitCode;

use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service("edge", waybill_edge::serve)
}
