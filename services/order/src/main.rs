//! The process `waybill-order`.

use std::process::ExitCode;

use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(waybill_order::NAME, waybill_order::serve)
}
